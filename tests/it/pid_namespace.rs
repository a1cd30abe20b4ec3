//! The PID namespace that a pool may have: who is in it, and that nothing outlives it.
//!
//! Deaths of the host are in `endings.rs`. Where the system allows no such namespace these tests say that they were
//! left out.

use crate::support::{
    Busy, Dir, MARK, alone, helpers, is_alive, kill, marked, new_mark, parent_of, pool, start, until, within,
};
use snakebridge::{PoolConfig, Session, SnakeBridge, StartMethod};
use std::collections::BTreeSet;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

/// Set in a process that `as_another` has started.
const ANOTHER: &str = "SNAKEBRIDGE_TEST_ANOTHER";

/// Everything that the pools of a test start; killed, should it be left.
struct Marked(String);

impl Marked {
    fn new() -> Self {
        Self(new_mark("pid_namespace"))
    }

    fn pool(&self, size: usize) -> PoolConfig {
        pool("p", size).pid_namespace(true).env(MARK, &self.0)
    }

    fn all(&self) -> BTreeSet<u32> {
        marked(&self.0)
    }

    async fn are_gone(&self) {
        until("the end of all processes", || async { self.all().is_empty() }).await;
    }
}

impl Drop for Marked {
    fn drop(&mut self) {
        for pid in self.all() {
            let pid = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
            let _gone = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
}

/// Whether the kernel makes such a namespace here; that it does not is told.
pub(crate) fn is_allowed() -> bool {
    let tried = |args: &[&str]| Command::new("unshare").args(args).output().is_ok_and(|tried| tried.status.success());
    let allowed = tried(&["-pf", "true"]) || tried(&["-Upf", "true"]);
    if !allowed {
        let _unheard = std::io::Write::write_all(&mut std::io::stderr(), b"skipped: no PID namespaces here\n");
    }
    allowed
}

/// The numbers of a process, from this namespace to its own.
fn numbers(pid: u32) -> Vec<u32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap_or_default();
    line.split_whitespace().map(|number| number.parse().unwrap()).collect()
}

fn processes() -> impl Iterator<Item = u32> {
    std::fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// The zygote that forked a worker, and the first process of its namespace.
fn zygote_and_init(worker: u32) -> (u32, u32) {
    let zygote = parent_of(worker).unwrap();
    let of_zygote = |pid: &u32| parent_of(*pid) == Some(zygote) && numbers(*pid).last() == Some(&1);
    (zygote, processes().find(of_zygote).expect("a first process"))
}

async fn python<T: serde::de::DeserializeOwned + Send + 'static>(session: &Session, expression: &str) -> T {
    within(expression, session.eval(expression).extract()).await.unwrap()
}

/// Starts a process that the worker does not know any more; answers its number outside.
async fn daemon(session: &Session, worker: u32) -> u32 {
    let call = session.call("bridge_helpers", "start_child", (true,)).extract::<u32>();
    let inside = within("a daemon", call).await.unwrap();
    let zygote = parent_of(worker).unwrap();
    let is_it = |pid: &u32| {
        let numbers = numbers(*pid);
        numbers.len() > 1 && numbers.last() == Some(&inside) && parent_of(*pid) == Some(worker)
    };
    assert_ne!(zygote, worker);
    processes().find(is_it).expect("its worker has adopted it")
}

async fn home(py: &SnakeBridge, session: &Session) -> u32 {
    let home = session.home("p").await.expect("it has called");
    py.workers().await.into_iter().find(|worker| worker.id == home).expect("it lives").pid
}

/// What has to hold in any worker of a pool that has one.
async fn is_apart(py: &SnakeBridge, session: &Session) {
    assert_eq!(py.guarantees().await.pid_namespaces, [("p".into(), true)]);
    let (pid, parent): (u32, u32) = python(session, "(__import__('os').getpid(), __import__('os').getppid())").await;
    let worker = home(py, session).await;
    assert_eq!((numbers(worker).last(), parent), (Some(&pid), 0));
    assert_ne!(pid, worker);
    let own: u32 = python(session, "int(__import__('os').readlink('/proc/self'))").await;
    assert_eq!(own, pid, "/proc is its own");
    let seen: Vec<u32> = python(session, "[int(n) for n in __import__('os').listdir('/proc') if n.isdigit()]").await;
    assert!(seen.contains(&pid) && seen.contains(&1) && seen.len() <= 4, "{seen:?}");
}

#[tokio::test]
async fn a_worker_sees_itself_in_proc_and_nobody_outside() {
    if !is_allowed() {
        return;
    }
    for method in [StartMethod::Zygote, StartMethod::Exec] {
        let all = Marked::new();
        let py = start([all.pool(1).start_method(method).preload(["decimal"])]).await;
        is_apart(&py, &py.session("s")).await;
        py.shutdown().await.unwrap();
        all.are_gone().await;
    }
}

#[tokio::test]
async fn a_pool_that_asks_for_none_has_none() {
    let py = start([pool("p", 1)]).await;
    assert_eq!(py.guarantees().await.pid_namespaces, [("p".into(), false)]);
    let worker = py.workers().await[0].pid;
    assert_eq!(python::<u32>(&py.session("s"), "__import__('os').getpid()").await, worker);
    py.shutdown().await.unwrap();
}

#[tokio::test]
async fn nothing_that_is_sent_from_inside_ends_the_first_process() {
    if !is_allowed() {
        return;
    }
    let all = Marked::new();
    let py = start([all.pool(1)]).await;
    let session = py.session("s");
    let worker = py.workers().await[0].pid;
    let (_, init) = zygote_and_init(worker);
    python::<Vec<()>>(&session, "[__import__('os').kill(1, s) for s in __import__('signal').valid_signals()]").await;
    // It answers no call; a worker's death makes it look around, and a stray is gone when it has.
    let stray = daemon(&session, worker).await;
    kill(worker);
    until("its stray to go", || async { !is_alive(stray) }).await;
    assert!(is_alive(init));
    py.shutdown().await.unwrap();
    all.are_gone().await;
}

#[tokio::test]
async fn what_a_worker_daemonised_ends_with_it_and_other_workers_do_not() {
    if !is_allowed() {
        return;
    }
    for method in [StartMethod::Zygote, StartMethod::Exec] {
        let all = Marked::new();
        let py = start([all.pool(2).start_method(method)]).await;
        let busy = Busy::new(&py, "other", "p").await;
        let session = py.session("s");
        python::<u32>(&session, "1").await;
        let worker = home(&py, &session).await;
        let other = home(&py, &busy.session).await;
        let strays = [daemon(&session, worker).await, daemon(&session, worker).await];
        assert_eq!(within("a death", session.call("os", "_exit", (3,))).await.unwrap_err().code(), "worker_crashed");
        until("its daemons to go", || async { strays.iter().all(|pid| !is_alive(*pid)) }).await;
        assert!(is_alive(other));
        busy.finish().await;
        py.shutdown().await.unwrap();
        all.are_gone().await;
    }
}

#[tokio::test]
async fn a_preload_has_its_threads_and_what_it_started_stays_for_all_workers() {
    if !is_allowed() {
        return;
    }
    let dir = Dir::new();
    let text = "import bridge_helpers, threading\nthread = threading.Thread(target=int)\nthread.start()\nthread.join()\n\
                daemon = bridge_helpers.start_child(True)\n";
    std::fs::write(dir.0.join("starts_a_daemon.py"), text).unwrap();
    let all = Marked::new();
    let py = start([all.pool(1).python_path(&dir.0).preload(["starts_a_daemon"])]).await;
    let session = py.session("s");
    // The zygote is outside, and so is what it starts.
    let kept: u32 = python(&session, "__import__('starts_a_daemon').daemon").await;
    let worker = home(&py, &session).await;
    assert_eq!(parent_of(kept), parent_of(worker));
    let stray = daemon(&session, worker).await;
    kill(worker);
    until("the worker's to go", || async { !is_alive(stray) }).await;
    assert!(is_alive(kept));
    py.shutdown().await.unwrap();
    all.are_gone().await;
}

#[tokio::test]
async fn workers_outlive_their_zygote_in_it_are_replaced_and_then_it_is_gone() {
    if !is_allowed() {
        return;
    }
    let all = Marked::new();
    let py = start([all.pool(2).retire_grace(Duration::from_millis(100))]).await;
    let busy = Busy::new(&py, "busy", "p").await;
    let session = py.session("s");
    python::<u32>(&session, "1").await;
    let (worker, other) = (home(&py, &session).await, home(&py, &busy.session).await);
    let (zygote, init) = zygote_and_init(worker);
    let stray = daemon(&session, worker).await;
    kill(zygote);
    until("a worker to be replaced, and its daemon to end with it", || async { !is_alive(worker) && !is_alive(stray) })
        .await;
    assert!(is_alive(other) && is_alive(init), "one of its workers is busy");
    busy.finish().await;
    until("the last worker and the first process to go", || async { !is_alive(other) && !is_alive(init) }).await;
    py.await_ready(crate::support::SOON).await.unwrap();
    is_apart(&py, &py.session("new")).await;
    py.shutdown().await.unwrap();
    all.are_gone().await;
}

#[tokio::test]
async fn a_shutdown_is_over_when_nothing_is_left_in_it_though_the_first_process_does_not_listen() {
    if !is_allowed() {
        return;
    }
    let all = Marked::new();
    let py = start([all.pool(1)]).await;
    let busy = Busy::new(&py, "busy", "p").await;
    let (zygote, init) = zygote_and_init(home(&py, &busy.session).await);
    kill(zygote);
    until("the zygote to go", || async { !is_alive(zygote) }).await;
    // Not before: a process group that is stopped goes on when it is orphaned.
    let stop = rustix::process::Pid::from_raw(init.cast_signed()).unwrap();
    rustix::process::kill_process(stop, rustix::process::Signal::STOP).unwrap();
    let stopping = tokio::spawn(py.shutdown());
    busy.finish().await;
    within("the shutdown", stopping).await.unwrap().unwrap();
    assert_eq!(all.all(), BTreeSet::new());
}

#[tokio::test]
async fn a_reload_makes_another_and_the_one_before_goes_with_its_workers() {
    if !is_allowed() {
        return;
    }
    let all = Marked::new();
    let py = start([all.pool(1)]).await;
    let (_, before) = zygote_and_init(py.workers().await[0].pid);
    within("the reload", py.reload("p")).await.unwrap();
    until("the one before to go", || async { !is_alive(before) }).await;
    is_apart(&py, &py.session("s")).await;
    py.shutdown().await.unwrap();
    all.are_gone().await;
}

#[tokio::test]
async fn a_pool_whose_first_process_ends_gets_another() {
    if !is_allowed() {
        return;
    }
    let all = Marked::new();
    let py = start([all.pool(1)]).await;
    let worker = py.workers().await[0].pid;
    let (_, init) = zygote_and_init(worker);
    kill(init);
    until("another worker", || async {
        let workers = py.workers().await;
        workers.len() == 1 && workers[0].pid != worker && py.stats().await.pools[0].ready == 1
    })
    .await;
    is_apart(&py, &py.session("s")).await;
    py.shutdown().await.unwrap();
    all.are_gone().await;
}

#[tokio::test]
async fn workers_in_it_die_with_their_zygote_where_lifelines_are_not_honoured() {
    if !is_allowed() {
        return;
    }
    let all = Marked::new();
    let py = start([all.pool(1).without_lifeline_for_tests()]).await;
    let session = py.session("s");
    python::<u32>(&session, "1").await;
    let worker = home(&py, &session).await;
    let (zygote, init) = zygote_and_init(worker);
    let busy = Busy::new(&py, "busy", "p").await;
    kill(zygote);
    until("the worker and the first process to go", || async { !is_alive(worker) && !is_alive(init) }).await;
    drop(busy);
    py.shutdown().await.unwrap();
    all.are_gone().await;
}

#[tokio::test]
async fn a_failed_start_leaves_nothing_of_it() {
    if !is_allowed() {
        return;
    }
    let dir = Dir::new();
    std::fs::write(
        dir.0.join("daemonises_and_fails.py"),
        "import bridge_helpers\nbridge_helpers.start_child(True)\n1/0",
    )
    .unwrap();
    for method in [StartMethod::Zygote, StartMethod::Exec] {
        let all = Marked::new();
        let bad = all.pool(1).start_method(method).python_path(&dir.0).preload(["daemonises_and_fails"]);
        let start = SnakeBridge::builder().pool(bad).start();
        let error = within("a failed start", start).await.unwrap_err();
        assert!(error.to_string().contains("ZeroDivisionError"), "{error}");
        all.are_gone().await;
    }
}

#[tokio::test]
async fn a_preload_that_cannot_be_forked_has_executed_workers_in_it() {
    if !is_allowed() {
        return;
    }
    threads_in_a_preload().await;
}

async fn threads_in_a_preload() {
    let dir = Dir::new();
    let text = "import threading, bridge_helpers\nbridge_helpers.start_child(True)\n\
                threading.Thread(target=threading.Event().wait, daemon=True).start()\n";
    std::fs::write(dir.0.join("leaves_a_thread.py"), text).unwrap();
    let all = Marked::new();
    let py = start([all.pool(1).python_path(&dir.0).preload(["leaves_a_thread"])]).await;
    let session = py.session("s");
    assert!(python::<bool>(&session, "'leaves_a_thread' in __import__('sys').modules").await);
    let worker = home(&py, &session).await;
    let (_, init) = zygote_and_init(worker);
    let adopted = || processes().find(|pid| parent_of(*pid) == Some(init));
    until("the end of what was started by trial", || async { adopted().is_none() }).await;
    let own: Vec<u32> = python(
        &session,
        "[__import__('os').getpid(), int(__import__('os').readlink('/proc/self')), __import__('os').getppid()]",
    )
    .await;
    assert_eq!(own, [numbers(worker)[1], numbers(worker)[1], 0]);
    py.shutdown().await.unwrap();
    all.are_gone().await;
}

// ---- without CAP_SYS_ADMIN

/// What a user namespace gives must not be left with a worker, nor come back with what it executes.
async fn has_no_capabilities(session: &Session) {
    const SETS: &str = "[line.split()[1] for line in open('/proc/self/status') if line.startswith('Cap')]";
    let own: Vec<String> = python(session, SETS).await;
    assert!(own.len() == 5 && own.iter().all(|set| set.trim_matches('0').is_empty()), "{own:?}");
    let executed: String =
        python(session, "__import__('subprocess').check_output(['grep', '^Cap', '/proc/self/status'], text=True)")
            .await;
    assert!(executed.lines().all(|line| line.ends_with("\t0000000000000000")), "{executed}");
}

async fn holds_for_one_without_capabilities() {
    let all = Marked::new();
    let py = start([all.pool(2)]).await;
    let session = py.session("s");
    python::<u32>(&session, "1").await;
    let worker = home(&py, &session).await;
    is_apart(&py, &session).await;
    has_no_capabilities(&session).await;
    let users: (u32, u32) = python(&session, "(__import__('os').getuid(), __import__('os').getgid())").await;
    assert_eq!(users, (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw()));
    let traced: i32 = python(&session, "__import__('ctypes').CDLL(None).ptrace(16, 1, None, None)").await;
    assert_eq!(traced, -1, "the first process can be traced");
    let (_, init) = zygote_and_init(worker);
    let stray = daemon(&session, worker).await;
    kill(worker);
    until("its stray to go", || async { !is_alive(stray) }).await;
    assert!(is_alive(init));
    py.shutdown().await.unwrap();
    until("the first process to go", || async { !is_alive(init) }).await;
    all.are_gone().await;
    threads_in_a_preload().await;
}

#[test]
fn it_takes_no_capabilities_of_a_user_and_gives_none() {
    const NAME: &str = "pid_namespace::it_takes_no_capabilities_of_a_user_and_gives_none";
    if as_another(NAME, "exec setpriv --reuid 65534 --regid 65534 --clear-groups \"$0\" \"$@\"") {
        run(holds_for_one_without_capabilities());
    }
}

#[test]
fn it_takes_no_capabilities_of_root_and_gives_none() {
    const NAME: &str = "pid_namespace::it_takes_no_capabilities_of_root_and_gives_none";
    if as_another(NAME, "exec setpriv --bounding-set=-all,+setfcap --inh-caps=-all \"$0\" \"$@\"") {
        run(holds_for_one_without_capabilities());
    }
}

#[test]
fn a_bridge_that_cannot_have_it_does_not_start_and_says_why() {
    const NAME: &str = "pid_namespace::a_bridge_that_cannot_have_it_does_not_start_and_says_why";
    let forbid = "exec unshare -r sh -c 'echo 0 >/proc/sys/user/max_user_namespaces && \
                  exec setpriv --bounding-set=-all --inh-caps=-all \"$0\" \"$@\"' \"$0\" \"$@\"";
    if as_another(NAME, forbid) {
        run(async {
            let all = Marked::new();
            let start = SnakeBridge::builder().pool(all.pool(1)).start();
            let error = within("a start that is refused", start).await.unwrap_err();
            assert_eq!(error.code(), "spawn");
            let text = error.to_string();
            for says in
                ["no pid_namespace", "unshare(CLONE_NEWUSER | CLONE_NEWPID): No space", "user.max_user_namespaces is 0"]
            {
                assert!(text.contains(says), "{text}");
            }
            all.are_gone().await;
        });
    }
}

fn run(body: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap().block_on(body);
}

/// Runs a test in a process of its own, which a line of shell makes; `false` in the process that only waits for it,
/// and where another user could run nothing of this, which is told.
fn as_another(test: &str, line: &str) -> bool {
    if std::env::var_os(ANOTHER).is_some() {
        return true;
    }
    if !is_allowed() {
        return false;
    }
    // The interpreter of this one may be in a folder that is closed to others.
    let python = "/usr/bin/python3";
    let able = "import sys; sys.exit(sys.version_info < (3, 10))";
    let tried = Command::new("sh").args(["-c", line, python, "-c", able]).current_dir(helpers()).output();
    if !tried.is_ok_and(|tried| tried.status.success()) {
        let _unheard = std::io::Write::write_all(&mut std::io::stderr(), b"skipped: nobody else can run Python here\n");
        return false;
    }
    if alone(test) {
        let mut command = Command::new("sh");
        command.args(["-c", line]).arg(std::env::current_exe().unwrap()).args([test, "--exact", "--nocapture"]);
        command.env(ANOTHER, "1").env("SNAKEBRIDGE_PYTHON", python).env("HOME", "/nonexistent");
        // That of this one may be closed to others, too.
        command.env_remove("TMPDIR");
        panic!("no other process: {}", command.exec());
    }
    false
}
