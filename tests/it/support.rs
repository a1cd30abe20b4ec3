//! Bridges, gates and deadlines for the tests. Nothing here sleeps to wait: it asks until a deadline.

use snakebridge::{Builder, Error, PoolConfig, Result, Session, SnakeBridge, WorkerId};
use std::collections::BTreeSet;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Tells a hang from an answer.
pub(crate) const SOON: Duration = Duration::from_secs(20);

pub(crate) fn helpers() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/py")
}

/// A pool whose workers can import `bridge_helpers`.
pub(crate) fn pool(name: &str, size: usize) -> PoolConfig {
    PoolConfig::new(name).size(size).python_path(helpers())
}

pub(crate) async fn start(pools: impl IntoIterator<Item = PoolConfig>) -> SnakeBridge {
    let mut builder: Builder = SnakeBridge::builder();
    for pool in pools {
        builder = builder.pool(pool);
    }
    within("the start of the bridge", builder.start()).await.expect("the bridge starts")
}

/// What a promise of time comes to where two cores run a debug build of everything at once.
pub(crate) fn promised(bound: Duration) -> Duration {
    if cfg!(debug_assertions) { bound * 3 } else { bound }
}

/// Fails the test if the future does not end soon.
pub(crate) async fn within<F: Future>(what: &str, future: F) -> F::Output {
    match tokio::time::timeout(SOON, future).await {
        Ok(output) => output,
        Err(_) => panic!("{what} did not end within {SOON:?}"),
    }
}

/// Asks again until the answer is yes.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, mut ask: impl FnMut() -> F) {
    let deadline = Instant::now() + SOON;
    while !ask().await {
        assert!(Instant::now() < deadline, "{what} did not come about within {SOON:?}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// The code of the error that a call must end in.
pub(crate) fn code<T: std::fmt::Debug>(outcome: Result<T>) -> &'static str {
    match outcome {
        Ok(value) => panic!("expected an error, got {value:?}"),
        Err(error) => error.code(),
    }
}

/// A call in Python that goes on until its gate is opened.
pub(crate) struct Gate {
    path: PathBuf,
    _dir: Dir,
}

impl Gate {
    pub(crate) fn new() -> Self {
        let dir = Dir::new();
        Self { path: dir.0.join("gate"), _dir: dir }
    }

    pub(crate) fn path(&self) -> String {
        self.path.to_str().expect("a temporary directory of plain characters").to_owned()
    }

    /// Waits until a call is held at the gate.
    pub(crate) async fn held(&self) {
        let begun = PathBuf::from(format!("{}.begun", self.path()));
        until("a held call", || async { begun.exists() }).await;
    }

    pub(crate) fn open(&self) {
        std::fs::write(&self.path, b"").expect("a gate can be opened");
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.open();
    }
}

/// A directory that goes with the test.
pub(crate) struct Dir(pub(crate) PathBuf);

impl Dir {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("snakebridge-test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).expect("a temporary directory");
        Self(path)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _left_behind = std::fs::remove_dir_all(&self.0);
    }
}

/// A session with a home in the default pool, which a call keeps busy until the gate opens.
pub(crate) struct Busy {
    pub(crate) session: Session,
    pub(crate) home: WorkerId,
    pub(crate) gate: Gate,
    call: tokio::task::JoinHandle<Result<i64>>,
}

impl Busy {
    pub(crate) async fn new(py: &SnakeBridge, id: &str, pool: &str) -> Self {
        let session = py.session(id);
        let gate = Gate::new();
        let call = session.call("bridge_helpers", "hold", (gate.path(), 7)).pool(pool).extract::<i64>();
        let call = tokio::spawn(call);
        gate.held().await;
        let home = session.home(pool).await.expect("the held call has set a home");
        Self { session, home, gate, call }
    }

    /// Opens the gate; the held call ends as it should.
    pub(crate) async fn finish(self) {
        self.gate.open();
        let value = within("the held call", self.call).await.expect("the task of the held call");
        assert_eq!(value.expect("the held call succeeds"), 7);
    }
}

/// The process that answers in that session.
pub(crate) async fn pid(session: &Session) -> Result<u32, Error> {
    session.call("bridge_helpers", "pid", ()).extract().await
}

/// Whether a process is there and no zombie.
pub(crate) fn is_alive(pid: u32) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    let state = stat.rsplit_once(')').and_then(|(_, rest)| rest.trim_start().chars().next());
    !matches!(state, Some('Z' | 'X') | None)
}

/// The parent of a process, while it is there.
pub(crate) fn parent_of(pid: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// A variable of the environment that processes inherit from those that started them.
pub(crate) const MARK: &str = "SNAKEBRIDGE_TEST_MARK";

/// A mark that nobody else has.
pub(crate) fn new_mark(of: &str) -> String {
    format!("{of}-{}-{:?}", std::process::id(), Instant::now())
}

pub(crate) fn is_marked(pid: u32, mark: &str) -> bool {
    let environ = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    environ.split(|byte| *byte == 0).any(|entry| entry == format!("{MARK}={mark}").as_bytes())
}

/// Every process that carries the mark.
pub(crate) fn marked(mark: &str) -> BTreeSet<u32> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| is_marked(*pid, mark) && is_alive(*pid)).collect()
}

/// How many threads and descriptors this process has.
pub(crate) fn belongings() -> (usize, usize) {
    let count = |dir: &str| std::fs::read_dir(dir).unwrap().count();
    (count("/proc/self/task"), count("/proc/self/fd"))
}

/// Kills a worker as the outside world does.
pub(crate) fn kill(pid: u32) {
    let killed = std::process::Command::new("kill").args(["-KILL", &pid.to_string()]).status();
    assert!(killed.expect("kill can be run").success());
}

/// The log lines of one target, as a subscriber of one thread sees them.
pub(crate) struct Log {
    target: &'static str,
    lines: std::sync::Arc<std::sync::Mutex<Vec<String>>>,
}

impl Log {
    pub(crate) fn capture(target: &'static str) -> Self {
        Self { target, lines: Default::default() }
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }

    /// Runs a bridge on an actix arbiter of a thread of its own, whose log lines are captured.
    pub(crate) fn on_actix<F>(&self, future: F) -> F::Output
    where
        F: Future + Send,
        F::Output: Send,
    {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let writer = Writer(self.lines.clone());
                let filter = tracing_subscriber::filter::Targets::new()
                    .with_target(self.target, tracing_subscriber::filter::LevelFilter::TRACE);
                use tracing_subscriber::layer::SubscriberExt;
                let layer = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(move || writer.clone());
                let subscriber = tracing_subscriber::registry().with(filter).with(layer);
                tracing::subscriber::with_default(subscriber, || actix_rt::System::new().block_on(future))
            });
            thread.join().expect("the thread of the test")
        })
    }
}

#[derive(Clone)]
struct Writer(std::sync::Arc<std::sync::Mutex<Vec<String>>>);

impl std::io::Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().push(String::from_utf8_lossy(bytes).into_owned());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Runs a test in a process of its own, for what counts descriptors or threads: `false` in the process
/// that only waits for it.
pub(crate) fn alone(test: &str) -> bool {
    output_of_alone(test).is_none()
}

/// The same: what that process wrote, in the one that only waited for it. Nothing that it started is left.
pub(crate) fn output_of_alone(test: &str) -> Option<String> {
    const ALONE: &str = "SNAKEBRIDGE_TEST_ALONE";
    if std::env::var_os(ALONE).is_some() {
        return None;
    }
    let this = std::env::current_exe().expect("the path of this program");
    let mark = new_mark(test);
    let mut command = std::process::Command::new(this);
    command.args([test, "--exact", "--include-ignored", "--nocapture"]).env(ALONE, "1").env(MARK, &mark);
    let output = command.output().expect("this program runs");
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success() && text.contains("1 passed"), "{test} failed alone:\n{text}");
    let deadline = Instant::now() + Duration::from_secs(3);
    loop {
        let left = marked(&mark);
        if left.is_empty() {
            return Some(text);
        }
        assert!(Instant::now() < deadline, "{test} left behind: {left:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
