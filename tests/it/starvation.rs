//! A host that lacks what every program takes for granted: descriptors, memory, a disk, a processor.
//!
//! For as long as it lasts calls end with clear errors or are answered, nobody else suffers, and when it is over all
//! is as before. What a worker lacks stands in the zoo (`zoo/resources.toml`). Each host is a process of its own.

use crate::support::{alone, belongings, kill, parent_of, pid, pool, start, until, within};
use futures::StreamExt;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use snakebridge::{Bytes, Fact, PoolConfig, Ran, Session, SnakeBridge};
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;

const LARGE: usize = 10 << 20;
const MIB: usize = 1 << 20;
/// Set in a host that has mounts of its own.
const APART: &str = "SNAKEBRIDGE_TEST_APART";

fn config() -> PoolConfig {
    pool("p", 1)
        .restart_budget(1_000, Duration::from_secs(60))
        .restart_backoff(Duration::from_millis(1), Duration::from_millis(50))
}

fn large(session: &Session) -> snakebridge::Call {
    session.call("builtins", "bytes", (LARGE,))
}

/// Whatever it lacked, it lacks no more: its worker is the one that it was, and answers.
async fn is_well(session: &Session, worker: u32) {
    let bytes: Bytes = within("a large result", large(session).extract()).await.unwrap();
    assert_eq!(bytes.len(), LARGE);
    let argument = session.call("builtins", "len", (Bytes::from(vec![0; LARGE]),)).extract::<usize>();
    assert_eq!(within("a large argument", argument).await.unwrap(), LARGE);
    assert_eq!(pid(session).await.unwrap(), worker);
}

/// All descriptors that this process may still have.
struct Taken {
    _files: Vec<File>,
    before: Rlimit,
}

impl Taken {
    fn all() -> Self {
        let before = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: Some(256), ..before }).unwrap();
        let files: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
        assert!(!files.is_empty());
        Self { _files: files, before }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        setrlimit(Resource::Nofile, self.before).unwrap();
    }
}

#[test]
fn a_host_without_descriptors_for_the_threads_of_its_pools_is_told_and_nothing_is_started() {
    if !alone("starvation::a_host_without_descriptors_for_the_threads_of_its_pools_is_told_and_nothing_is_started") {
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let before = belongings();
        let pools = (0..30).map(|n| pool(&format!("p{n}"), 1));
        let builder = pools.fold(SnakeBridge::builder(), snakebridge::Builder::pool).thread_per_pool();
        let limit = getrlimit(Resource::Nofile);
        // For the bridge, and for the threads of some.
        let few = u64::try_from(before.1).unwrap() + 40;
        setrlimit(Resource::Nofile, Rlimit { current: Some(few), ..limit }).unwrap();
        let outcome = within("the start", builder.start()).await;
        setrlimit(Resource::Nofile, limit).unwrap();
        let error = outcome.unwrap_err();
        assert_eq!((error.code(), error.ran()), ("spawn", Ran::No), "{error}");
        assert!(error.to_string().contains("no thread for each pool"), "{error}");
        until("the threads to be gone", || async { belongings() == before }).await;
        // And there is room again.
        let py = SnakeBridge::builder().pool(pool("p", 1)).pool(pool("q", 1)).thread_per_pool().start();
        let py = within("another start", py).await.unwrap();
        within("the shutdown", py.shutdown()).await.unwrap();
    });
}

#[test]
fn a_host_without_descriptors_says_so_of_what_it_cannot_take_and_trusts_its_workers() {
    if !alone("starvation::a_host_without_descriptors_says_so_of_what_it_cannot_take_and_trusts_its_workers") {
        return;
    }
    run(async {
        let py = start([config()]).await;
        let session = py.session("s");
        let worker = pid(&session).await.unwrap();
        let taken = Taken::all();
        // More often than there are blocks: each is given back.
        for _ in 0..70 {
            let error = within("a large result", large(&session).extract::<Bytes>()).await.unwrap_err();
            assert_eq!((error.code(), error.ran()), ("internal", Ran::Yes), "{error}");
            assert!(error.to_string().contains("no descriptor"), "{error}");
        }
        assert_eq!(pid(&session).await.unwrap(), worker);
        drop(taken);
        is_well(&session, worker).await;
        py.shutdown().await.unwrap();
    });
}

#[test]
fn a_host_without_memory_says_so_of_what_it_cannot_take_and_trusts_its_workers() {
    if !alone("starvation::a_host_without_memory_says_so_of_what_it_cannot_take_and_trusts_its_workers") {
        return;
    }
    run(async {
        let py = start([config()]).await;
        let session = py.session("s");
        let worker = pid(&session).await.unwrap();
        let before = getrlimit(Resource::As);
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        let pages: usize = statm.split(' ').next().unwrap().parse().unwrap();
        let limit = pages * rustix::param::page_size() + 64 * MIB;
        setrlimit(Resource::As, Rlimit { current: Some(limit as u64), ..before }).unwrap();
        for _ in 0..70 {
            let result = session.call("builtins", "bytes", (100 * MIB,)).extract::<Bytes>();
            let error = within("a large result", result).await.unwrap_err();
            assert_eq!((error.code(), error.ran()), ("internal", Ran::Yes), "{error}");
            assert!(error.to_string().contains("no memory"), "{error}");
        }
        assert_eq!(pid(&session).await.unwrap(), worker);
        setrlimit(Resource::As, before).unwrap();
        is_well(&session, worker).await;
        py.shutdown().await.unwrap();
    });
}

#[test]
fn a_worker_that_a_host_without_descriptors_cannot_watch_is_killed_and_its_zygote_stays() {
    if !alone("starvation::a_worker_that_a_host_without_descriptors_cannot_watch_is_killed_and_its_zygote_stays") {
        return;
    }
    run(async {
        let py = start([config()]).await;
        let zygote = parent_of(py.workers().await[0].pid);
        let mut unwatched = 0;
        while unwatched < 3 {
            let mut events = py.events();
            kill(py.workers().await[0].pid);
            let mut told = async |wanted: fn(&Fact) -> bool| loop {
                let event = within("an event", events.next()).await.unwrap();
                if wanted(event.fact()) {
                    return event;
                }
            };
            told(|fact| matches!(fact, Fact::WorkerStarting { .. })).await;
            // It is asked for, and its zygote has yet to say that it is there.
            let taken = Taken::all();
            let told = told(|fact| !matches!(fact, Fact::WorkerStarting { .. })).await;
            match told.fact() {
                Fact::WorkerExited { cause, .. } | Fact::WorkerStartFailed { cause, .. } => {
                    assert!(cause.contains("cannot watch it"), "{cause}");
                    unwatched += 1;
                }
                // The machine was busy, and its zygote faster.
                Fact::WorkerReady { .. } => {}
                other => panic!("{other:?}"),
            }
            drop(taken);
            until("a worker", || async { py.stats().await.pools[0].ready == 1 }).await;
            assert_eq!(parent_of(py.workers().await[0].pid), zygote);
        }
        py.shutdown().await.unwrap();
    });
}

#[test]
fn a_limit_of_memory_holds_though_the_worker_could_not_be_looked_at_at_first() {
    const NAME: &str = "starvation::a_limit_of_memory_holds_though_the_worker_could_not_be_looked_at_at_first";
    if !with_mounts_of_its_own(NAME, ":") {
        return;
    }
    run(async {
        let py = start([config().memory_hard_limit(200 * MIB)]).await;
        let session = py.session("s");
        let first = pid(&session).await.unwrap();
        hide_proc();
        kill(first);
        until("another worker", || async {
            let workers = py.workers().await;
            workers.len() == 1 && workers[0].pid != first && py.stats().await.pools[0].ready == 1
        })
        .await;
        mount(&["umount", "/proc"]);
        session.reset().await.unwrap();
        let grows = session.eval("(bytearray(b'x' * (300 << 20)), __import__('time').sleep(600))");
        let error = within("a call past the limit", grows.discard()).await.unwrap_err();
        assert!(error.to_string().contains("past its hard limit"), "{error}");
        py.shutdown().await.unwrap();
    });
}

#[test]
fn a_bridge_needs_no_disk_and_no_folder_of_shared_memory() {
    const NAME: &str = "starvation::a_bridge_needs_no_disk_and_no_folder_of_shared_memory";
    let nowhere = "for folder in /dev/shm /tmp /var/tmp; do mount -t tmpfs -o size=4k none $folder && \
                   { head -c 100000 /dev/zero >$folder/full 2>/dev/null; true; } || exit 1; done; cd /dev/shm";
    if !with_mounts_of_its_own(NAME, nowhere) {
        return;
    }
    std::fs::write("/tmp/another", [1; 4096]).expect_err("it is full");
    run(async {
        let py = start([config()]).await;
        let session = py.session("s");
        let worker = pid(&session).await.unwrap();
        is_well(&session, worker).await;
        let died = within("a death", session.call("os", "_exit", (3,)).discard()).await.unwrap_err();
        assert_eq!(died.code(), "worker_crashed");
        let next = pid(&session).await.unwrap();
        is_well(&session, next).await;
        py.shutdown().await.unwrap();
    });
}

#[test]
fn beside_programs_that_use_up_every_processor_all_is_answered() {
    let hogs: Vec<Hog> = (0..2 * std::thread::available_parallelism().unwrap().get()).map(|_| Hog::new()).collect();
    run(async {
        let py = start([config()]).await;
        for round in 0..5 {
            let session = py.session(format!("s{round}"));
            let worker = pid(&session).await.unwrap();
            is_well(&session, worker).await;
            let stuck = session.call("time", "sleep", (600,)).timeout(Duration::from_millis(50));
            assert_eq!(within("a late call", stuck.discard()).await.unwrap_err().code(), "timeout");
            let died = within("a death", session.call("os", "_exit", (3,)).discard()).await.unwrap_err();
            assert_eq!(died.code(), "worker_crashed");
            assert!(died.to_string().contains("exit status 3"), "{died}");
        }
        py.shutdown().await.unwrap();
    });
    drop(hogs);
}

/// A process that never rests.
struct Hog(Child);

impl Hog {
    fn new() -> Self {
        // It ends by itself, should nobody be left to end it.
        Self(Command::new("timeout").args(["60", "sh", "-c", "while :; do :; done"]).spawn().unwrap())
    }
}

impl Drop for Hog {
    fn drop(&mut self) {
        // `timeout` passes it on.
        let pid = rustix::process::Pid::from_child(&self.0);
        let _gone = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _reaped = self.0.wait();
    }
}

/// The bridge lives on this thread.
fn run(body: impl Future<Output = ()>) {
    actix_rt::System::new().block_on(body);
}

/// Runs a test in a process of its own, where a line of shell has run as the owner of mounts that nobody else sees;
/// `false` in the process that only waits for it, and where the system does not allow it, which is told.
fn with_mounts_of_its_own(test: &str, line: &str) -> bool {
    if std::env::var_os(APART).is_some() {
        return true;
    }
    if !Command::new("unshare").args(["-rm", "true"]).output().is_ok_and(|tried| tried.status.success()) {
        let _unheard = std::io::Write::write_all(&mut std::io::stderr(), b"skipped: no mounts of one's own here\n");
        return false;
    }
    if alone(test) {
        let this = std::env::current_exe().unwrap();
        let mut command = Command::new("unshare");
        command.args(["-rm", "sh", "-c", &format!("{line}\nexec \"$0\" \"$@\"")]).arg(this);
        command.args([test, "--exact", "--nocapture"]).env(APART, "1");
        panic!("no unshare: {}", command.exec());
    }
    false
}

/// This thread, and what it starts from now on, sees no processes.
fn hide_proc() {
    #[expect(deprecated, reason = "mounts alone are another's, which nothing in this process relies on")]
    rustix::thread::unshare(rustix::thread::UnshareFlags::NEWNS).unwrap();
    mount(&["mount", "-t", "tmpfs", "none", "/proc"]);
    assert!(!Path::new("/proc/self").exists());
}

fn mount(command: &[&str]) {
    assert!(Command::new(command[0]).args(&command[1..]).status().unwrap().success(), "{command:?}");
}

#[test]
fn a_host_without_descriptors_answers_and_has_its_workers_again_when_it_has_some() {
    if !alone("starvation::a_host_without_descriptors_answers_and_has_its_workers_again_when_it_has_some") {
        return;
    }
    run(async {
        let budget = config().restart_budget(50, Duration::from_secs(600));
        let py = start([budget.restart_backoff(Duration::ZERO, Duration::ZERO)]).await;
        let worker = py.workers().await[0].pid;
        let taken = Taken::all();
        kill(worker);
        until("the loss to be seen", || async { py.stats().await.pools[0].ready == 0 }).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let stats = within("its figures", py.stats()).await;
        assert_eq!(stats.pools[0].degraded, None, "it tries again and again, and has not used up its budget");
        drop(taken);
        until("a worker", || async { py.stats().await.pools[0].ready == 1 }).await;
        py.shutdown().await.unwrap();
    });
}
