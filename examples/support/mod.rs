//! What the examples share: a pool with their Python module, and a gate that keeps a worker busy.

use rustix::fs::{CWD, FileType, Mode, mknodat};
use snakebridge::{PoolConfig, Result, SnakeBridge};
use std::io::{Error, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

/// Only a bug takes longer.
const SOON: Duration = Duration::from_secs(60);

/// A pool whose workers can import `examples/py/workshop.py`.
pub(crate) fn pool(name: &str, size: usize) -> PoolConfig {
    PoolConfig::new(name)
        .size(size)
        .python_path(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/py"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .timeout(SOON)
}

/// Prints the title of a part.
pub(crate) fn part(title: &str) {
    println!("\n== {title}");
}

/// The code of the error that a call must end in.
pub(crate) fn code<T: std::fmt::Debug>(outcome: Result<T>) -> &'static str {
    outcome.expect_err("this call must be refused").code()
}

/// Asks until so many calls wait in a pool.
pub(crate) async fn until_waiting(py: &SnakeBridge, pool: &str, calls: usize) {
    let deadline = Instant::now() + SOON;
    loop {
        let stats = py.stats().await;
        let waiting = stats.pools.iter().find(|found| found.name == *pool).map_or(0, |found| found.waiting);
        if waiting == calls {
            return;
        }
        assert!(Instant::now() < deadline, "{waiting} calls wait in {pool}, not {calls}");
        tokio::task::yield_now().await;
    }
}

/// Holds a call in Python, without a clock: two named pipes in a directory that goes with the gate.
pub(crate) struct Gate {
    dir: TempDir,
    begun: pipe::Receiver,
    go: pipe::Sender,
}

impl Gate {
    /// A gate for one call of `workshop.hold`, or of what calls it.
    pub(crate) fn new() -> std::io::Result<Self> {
        let dir = TempDir::new()?;
        for name in ["begun", "go"] {
            mknodat(CWD, dir.0.join(name), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?;
        }
        let begun = pipe::OpenOptions::new().read_write(true).open_receiver(dir.0.join("begun"))?;
        let go = pipe::OpenOptions::new().read_write(true).open_sender(dir.0.join("go"))?;
        Ok(Self { dir, begun, go })
    }

    /// What `workshop.hold` takes as its argument.
    pub(crate) fn path(&self) -> &str {
        self.dir.0.to_str().expect("a temporary directory of plain characters")
    }

    /// Resolves when a call is held.
    pub(crate) async fn held(&mut self) {
        let read = tokio::time::timeout(SOON, self.begun.read_u8()).await;
        read.expect("the call begins soon").expect("the pipe can be read");
    }

    /// Lets the call go on.
    pub(crate) fn open(self) {
        self.go.try_write(b"go\n").expect("the pipe is empty");
        drop(self);
    }
}

/// A directory that goes with its owner.
pub(crate) struct TempDir(PathBuf);

impl TempDir {
    pub(crate) fn new() -> std::io::Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        loop {
            let number = COUNT.fetch_add(1, Ordering::Relaxed);
            let path = std::env::temp_dir().join(format!("snakebridge-example-{}-{number}", std::process::id()));
            match std::fs::create_dir(&path) {
                Ok(()) => return Ok(Self(path)),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(Error::other(format!("{}: {error}", path.display()))),
            }
        }
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _left_behind = std::fs::remove_dir_all(&self.0);
    }
}
