//! Tests of real processes: a stand-in loop that runs what it is told, and a marker in the
//! environment by which everything that is left over is found, and killed at the end of each test.

mod blocks;
mod hosts;
mod lives;
mod starts;

use super::channel::First;
use super::{Link, Zygote, ZygoteEvent, ZygoteEvents, ZygoteSpec};
use crate::config::PoolConfig;
use crate::id::WorkerId;
use crate::python::{self, Interpreter, Modules};
use futures::StreamExt;
use std::io::IoSlice;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// What a test waits for at most; the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(20);
const MARKER: &str = "SNAKEBRIDGE_TEST_MARKER";

const STAND_IN: &str = r#"
import socket, sys, os, time, traceback
from snakebridge_worker import blocks

def main(channel_fd, side_fd, page, worker, ref_base, concurrency, init):
    channel = socket.socket(fileno=channel_fd)
    side = socket.socket(fileno=side_fd)
    names = {"os": os, "sys": sys, "time": time, "page": page, "worker": worker, "ref_base": ref_base, "concurrency": concurrency, "init": init,
             "incoming": blocks.Incoming(side), "outgoing": blocks.Outgoing(side), "blocks": blocks}
    while True:
        request = channel.recv(1 << 18)
        if not request:
            return
        names["answer"] = ""
        try:
            exec(request.decode(), names)
        except Exception:
            names["answer"] = traceback.format_exc()
        channel.send(b"=" + str(names["answer"]).encode())
"#;

/// A marker of its own for each test; dropped, it kills whatever still carries it.
struct Marked(String);

impl Marked {
    fn new() -> Self {
        use std::sync::atomic::{AtomicU32, Ordering};
        static COUNT: AtomicU32 = AtomicU32::new(0);
        Self(format!("{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)))
    }

    /// The processes that carry the marker, except this program's own.
    fn processes(&self) -> Vec<(i32, String)> {
        let wanted = format!("{MARKER}={}", self.0);
        let own = std::fs::read_link("/proc/self/exe").expect("this program has a file");
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc").expect("proc is mounted") {
            let path = entry.expect("it can be listed").path();
            let Some(pid) = path.file_name().and_then(|name| name.to_str()?.parse().ok()) else { continue };
            let environment = std::fs::read(path.join("environ")).unwrap_or_default();
            let marked = environment.split(|&byte| byte == 0).any(|variable| variable == wanted.as_bytes());
            if marked && std::fs::read_link(path.join("exe")).is_ok_and(|exe| exe != own) {
                let words = std::fs::read(path.join("cmdline")).unwrap_or_default();
                let words = String::from_utf8_lossy(&words[..words.len().min(60)]).replace('\0', " ");
                found.push((pid, words));
            }
        }
        found
    }

    /// Waits until no marked process is left, for at most a second more than asked.
    fn assert_gone_within(&self, limit: Duration) {
        let start = Instant::now();
        loop {
            let left = self.processes();
            if left.is_empty() {
                return;
            }
            assert!(start.elapsed() < limit, "after {limit:?} these live on: {left:?}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Marked {
    fn drop(&mut self) {
        for (pid, _) in self.processes() {
            let pid = rustix::process::Pid::from_raw(pid).expect("no process is 0");
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
}

/// The interpreters of this machine that will do: those of version managers, else the default one.
fn interpreters() -> Vec<Interpreter> {
    let home = std::env::var("HOME").unwrap_or_default();
    let mut paths: Vec<PathBuf> = std::fs::read_dir(PathBuf::from(home).join(".pyenv/versions"))
        .map(|entries| entries.flatten().map(|entry| entry.path().join("bin/python3")).collect())
        .unwrap_or_default();
    paths.sort();
    let mut found: Vec<_> =
        paths.into_iter().filter_map(|path| python::find(&PoolConfig::new("test").python(path)).ok()).collect();
    if found.is_empty() {
        found.push(python::find(&PoolConfig::new("test")).expect("a Python"));
    }
    found
}

fn interpreter() -> Interpreter {
    python::find(&PoolConfig::new("test")).expect("a Python")
}

fn spec(marked: &Marked) -> ZygoteSpec {
    let config = PoolConfig::new("test").env(MARKER, &marked.0);
    let mut spec = ZygoteSpec::new(&config, interpreter()).expect("there is no patch");
    spec.modules = Modules::embedded().with("snakebridge_worker.loop", STAND_IN);
    spec
}

/// A directory with Python files, removed when dropped.
struct Files(PathBuf);

impl Files {
    fn new(files: &[(&str, &str)]) -> Self {
        let root = std::env::temp_dir().join(format!("snakebridge-test-{}", uuid::Uuid::from_u128(unique())));
        std::fs::create_dir_all(&root).expect("a temporary directory");
        for (name, text) in files {
            std::fs::write(root.join(name), text).expect("a file");
        }
        Self(root)
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn unique() -> u128 {
    let nanos = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_nanos();
    nanos << 32 | u128::from(std::process::id())
}

fn worker(slot: u32) -> WorkerId {
    WorkerId::new("test".into(), slot, 1)
}

/// Something must happen before patience ends.
async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("it happens in time")
}

async fn start(spec: ZygoteSpec) -> (Zygote, ZygoteEvents) {
    soon(Zygote::start(spec)).await.unwrap_or_else(|error| panic!("{error}"))
}

async fn next(events: &mut ZygoteEvents) -> ZygoteEvent {
    soon(events.next()).await.expect("an event")
}

async fn forked(events: &mut ZygoteEvents) -> (WorkerId, u32, std::os::fd::OwnedFd) {
    match next(events).await {
        ZygoteEvent::Forked { worker, pid, pidfd } => (worker, pid, pidfd.expect("there is room for it")),
        other => panic!("not forked but {other:?}"),
    }
}

/// How the next worker ends, as a person reads it.
async fn exited(events: &mut ZygoteEvents) -> (WorkerId, String) {
    match next(events).await {
        ZygoteEvent::Exited { worker, exit } => (worker, exit.to_string()),
        other => panic!("not exited but {other:?}"),
    }
}

fn tell(link: &Link, code: &str) {
    assert!(link.channel.try_send(&[IoSlice::new(code.as_bytes())]).expect("the worker lives"), "the socket has room");
}

/// Runs code in the worker and answers what it assigned to `answer`.
async fn ask(link: &mut Link, code: &str) -> String {
    tell(link, code);
    heard(link).await.unwrap_or_else(|| panic!("the worker ended: {}", link.output.stderr_tail()))
}

/// The next message; `None` at the end.
async fn heard(link: &mut Link) -> Option<String> {
    let mut buffer = vec![0; super::MESSAGE_LIMIT];
    let length = soon(std::future::poll_fn(|cx| link.channel.poll_recv(cx, &mut buffer, First::WhenReady, false)))
        .await
        .expect("a message");
    let text = String::from_utf8_lossy(&buffer[..length]);
    text.strip_prefix('=').map(str::to_owned)
}
