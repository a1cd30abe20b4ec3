//! Nothing stays behind: after a shutdown, a drop, a failed start, or the death of the host.

use crate::pid_namespace;
use crate::random::Random;
use crate::support::{
    Dir, Gate, MARK, alone, belongings, code, is_alive, kill, marked, new_mark, parent_of, pool, promised, start,
    until, within,
};
use rustix::process::{Pid, Signal};
use snakebridge::{Affinity, Bytes, Ran, SnakeBridge, StartMethod};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const GRACE: Duration = Duration::from_millis(100);

#[test]
fn twenty_starts_and_stops_leave_no_thread_descriptor_or_process() {
    if !alone("endings::twenty_starts_and_stops_leave_no_thread_descriptor_or_process") {
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let apart = pid_namespace::is_allowed();
    let before = belongings();
    for round in 0..20 {
        let pids = runtime.block_on(async {
            let apart = pool("three", 1).pid_namespace(apart);
            let two = pool("two", 1).start_method(StartMethod::Exec);
            let py = start([pool("one", 2).cancel_grace(GRACE), two, apart]).await;
            py.call("math", "sqrt", (4,)).discard().await.unwrap();
            let pids: Vec<u32> = py.workers().await.iter().map(|worker| worker.pid).collect();
            assert_eq!(pids.len(), 4);
            if round % 2 == 0 {
                py.shutdown().await.unwrap();
            } else {
                // Dropped with a call under way, which goes with it.
                let call = tokio::spawn(py.call("bridge_helpers", "stuck_in_c", ()).discard());
                until("it to run", || async { py.stats().await.pools[0].busy == 1 }).await;
                call.abort();
                assert!(call.await.unwrap_err().is_cancelled());
                drop(py);
            }
            pids
        });
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let now = belongings();
            let alive = pids.iter().any(|pid| is_alive(*pid));
            if !alive && before == now {
                break;
            }
            assert!(Instant::now() < deadline, "round {round}: {before:?} before, {now:?} now, workers: {alive}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Threads, descriptors, mappings of shared memory, and files in the directory for temporary ones.
fn all_belongings(temporary: &Dir) -> (usize, usize, usize, usize) {
    let (threads, descriptors) = belongings();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let shared = maps.lines().filter(|line| line.contains("memfd:") || line.contains("/dev/shm")).count();
    (threads, descriptors, shared, std::fs::read_dir(&temporary.0).unwrap().count())
}

#[test]
fn two_hundred_starts_and_stops_in_one_process_leave_nothing_however_each_ends() {
    if !alone("endings::two_hundred_starts_and_stops_in_one_process_leave_nothing_however_each_ends") {
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let temporary = Dir::new();
    let config = || pool("p", 1).cancel_grace(GRACE).env("TMPDIR", temporary.0.to_str().unwrap());
    let before = all_belongings(&temporary);
    for round in 0..200 {
        let pids = runtime.block_on(async {
            if round % 5 == 4 {
                // One pool has its worker when the other finds that it will have none.
                let bad = pool("bad", 1).preload(["there_is_no_such_module"]);
                let start = SnakeBridge::builder().pool(config()).pool(bad).start();
                assert_eq!(code(within("a failed start", start).await), "spawn");
                return Vec::new();
            }
            let py = start([config()]).await;
            py.register("panics", |(): ()| async { panic!("on purpose") as snakebridge::Result<()> }).unwrap();
            let pids: Vec<u32> = py.workers().await.iter().map(|worker| worker.pid).collect();
            py.call("copy", "copy", (Bytes::from(vec![0; 1 << 17]),)).discard().await.unwrap();
            match round % 5 {
                0 => py.shutdown().await.unwrap(),
                1 => drop(py),
                2 => {
                    let call = tokio::spawn(py.call("bridge_helpers", "stuck_in_c", ()).discard());
                    until("it to run", || async { py.stats().await.pools[0].busy == 1 }).await;
                    call.abort();
                    assert!(call.await.unwrap_err().is_cancelled());
                    drop(py);
                }
                _ => {
                    let panicked = py.eval("__import__('snakebridge').host.call('panics')").discard();
                    within("a callback that panics", panicked).await.unwrap_err();
                    py.shutdown().await.unwrap();
                }
            }
            pids
        });
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let now = all_belongings(&temporary);
            let alive = pids.iter().any(|pid| is_alive(*pid));
            if !alive && before == now {
                break;
            }
            assert!(Instant::now() < deadline, "round {round}: {before:?} before, {now:?} now, workers: {alive}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// A thread that has just ended may still be counted.
fn is_as_before(before: (usize, usize)) -> Result<(), String> {
    let deadline = Instant::now() + Duration::from_millis(200);
    loop {
        match belongings() {
            now if now == before => return Ok(()),
            now if Instant::now() > deadline => return Err(format!("{before:?} before, {now:?} now")),
            _ => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}

/// A Python that runs until a gate is opened, and then does not answer.
fn python_that_hangs_behind(gate: &Gate, dir: &Dir) -> std::path::PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let path = dir.0.join("python");
    let text = format!("#!/bin/sh\n[ -e '{}' ] && exec sleep 61.75\nexec python3 \"$@\"\n", gate.path());
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[test]
fn a_shutdown_is_over_when_the_interpreter_that_a_reload_was_starting_is_gone() {
    if !alone("endings::a_shutdown_is_over_when_the_interpreter_that_a_reload_was_starting_is_gone") {
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (gate, dir) = (Gate::new(), Dir::new());
    let python = python_that_hangs_behind(&gate, &dir);
    let before = belongings();
    // While Python is looked for, and while it loads what it preloads.
    for (hangs, preload) in [(true, None), (false, Some("bridge_slow_module"))] {
        runtime.block_on(async {
            let py = start([pool("p", 1).python(&python).preload(preload)]).await;
            let threads = belongings().0;
            if hangs {
                gate.open();
            }
            let reload = tokio::spawn(py.reload("p"));
            until("it to begin", || async { belongings().0 > threads }).await;
            within("the shutdown", py.shutdown()).await.unwrap();
            is_as_before(before).unwrap();
            assert_eq!(within("the reload", reload).await.unwrap().unwrap_err().code(), "shutting_down");
        });
        let _closed = std::fs::remove_file(gate.path());
    }
}

#[test]
fn a_start_has_failed_when_the_interpreters_of_all_its_pools_are_gone() {
    if !alone("endings::a_start_has_failed_when_the_interpreters_of_all_its_pools_are_gone") {
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (gate, dir) = (Gate::new(), Dir::new());
    let python = python_that_hangs_behind(&gate, &dir);
    gate.open();
    let before = belongings();
    for per_pool in [false, true] {
        runtime.block_on(async {
            let bad = pool("bad", 1).preload(["there_is_no_such_module"]);
            let builder = SnakeBridge::builder().pool(pool("p", 1).python(&python)).pool(bad);
            let builder = if per_pool { builder.thread_per_pool() } else { builder };
            assert_eq!(code(within("a failed start", builder.start()).await), "spawn");
            is_as_before(before).unwrap();
        });
    }
}

#[test]
fn a_shutdown_is_over_though_a_function_that_python_called_is_stuck_on_a_blocking_thread() {
    if !alone("endings::a_shutdown_is_over_though_a_function_that_python_called_is_stuck_on_a_blocking_thread") {
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for per_pool in [false, true] {
        runtime.block_on(async {
            let builder = SnakeBridge::builder().pool(pool("p", 1).shutdown_grace(Duration::from_millis(200)));
            let builder = if per_pool { builder.thread_per_pool() } else { builder };
            let py = within("the start", builder.start()).await.unwrap();
            let (begins, begun) = std::sync::mpsc::channel();
            let stuck = move |(): ()| {
                let begins = begins.clone();
                async move {
                    let sleep = move || {
                        begins.send(()).unwrap();
                        std::thread::sleep(Duration::from_secs(30));
                    };
                    tokio::task::spawn_blocking(sleep).await.unwrap();
                    Ok(())
                }
            };
            py.register("stuck", stuck).unwrap();
            let call = tokio::spawn(py.eval("__import__('snakebridge').host.call('stuck')").discard());
            until("it to be stuck", || async { begun.try_recv().is_ok() }).await;
            let begun = Instant::now();
            within("the shutdown", py.shutdown()).await.unwrap();
            assert!(begun.elapsed() < Duration::from_millis(2_200), "{:?}", begun.elapsed());
            assert_eq!(within("the call", call).await.unwrap().unwrap_err().ran(), Ran::Maybe);
        });
    }
    // What is stuck ends with this process.
}

#[test]
fn workers_whose_init_fails_leave_no_descriptor() {
    if !alone("endings::workers_whose_init_fails_leave_no_descriptor") {
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let gate = Gate::new();
        let config = pool("p", 1)
            .env("FAIL_IF", gate.path())
            .init("bridge_helpers:fail_if_told")
            .restart_budget(1, Duration::from_millis(20));
        let py = start([config]).await;
        let (_, before) = belongings();
        gate.open();
        kill(py.workers().await[0].pid);
        until("ten failed starts", || async { py.stats().await.pools[0].deaths > 10 }).await;
        until("their descriptors to go", || async { belongings().1 <= before }).await;
        py.shutdown().await.unwrap();
    });
}

#[tokio::test]
async fn the_bridge_stops_when_its_last_handle_ref_and_call_are_gone() {
    let py = start([pool("p", 1)]).await;
    let pid = py.workers().await[0].pid;
    let weak = py.downgrade();
    let counter = py.call("bridge_helpers", "Counter", ()).into_ref().await.unwrap();
    drop(py);
    assert_eq!(counter.call_method("add", ()).extract::<i64>().await.unwrap(), 1, "a ref keeps it");
    assert!(weak.upgrade().is_some());
    drop(counter);
    until("the worker to go", || async { !is_alive(pid) }).await;
    assert!(weak.upgrade().is_none());
}

#[tokio::test]
async fn a_shutdown_refuses_what_waits_and_gives_what_runs_its_grace() {
    let py = start([pool("p", 1).affinity(Affinity::StrictQueue).shutdown_grace(Duration::from_secs(20))]).await;
    let session = py.session("s");
    let gate = Gate::new();
    let running = tokio::spawn(session.call("bridge_helpers", "hold", (gate.path(), 7)).extract::<i64>());
    gate.held().await;
    let waiting = tokio::spawn(session.call("math", "sqrt", (4,)).discard());
    until("one to wait", || async { py.stats().await.pools[0].waiting == 1 }).await;
    let stopping = tokio::spawn(py.shutdown());
    let error = within("the waiting call", waiting).await.unwrap().unwrap_err();
    assert_eq!((error.code(), error.ran()), ("shutting_down", Ran::No));
    assert_eq!(code(py.call("math", "sqrt", (4,)).await), "shutting_down");
    gate.open();
    assert_eq!(within("the running call", running).await.unwrap().unwrap(), 7);
    within("the shutdown", stopping).await.unwrap().unwrap();
    py.shutdown().await.expect("a second shutdown finds it done");
}

#[tokio::test]
async fn a_shutdown_is_over_within_its_grace_whatever_python_does() {
    let py = start([pool("p", 1).shutdown_grace(Duration::from_millis(200))]).await;
    let pid = py.workers().await[0].pid;
    let stuck = tokio::spawn(py.call("bridge_helpers", "stuck_in_c", ()).discard());
    until("it to run", || async { py.stats().await.pools[0].busy == 1 }).await;
    let began = Instant::now();
    within("the shutdown", py.shutdown()).await.unwrap();
    assert!(began.elapsed() < promised(Duration::from_millis(1_200)), "{:?}", began.elapsed());
    assert!(!is_alive(pid));
    let error = within("the stuck call", stuck).await.unwrap().unwrap_err();
    assert_eq!((error.code(), error.ran()), ("shutting_down", Ran::Maybe));
}

#[test]
fn a_bridge_lives_on_the_arbiter_that_starts_it_and_is_called_from_anywhere() {
    actix_rt::System::new().block_on(async {
        let py = start([pool("p", 2)]).await;
        assert_eq!(py.call("math", "sqrt", (16,)).extract::<f64>().await.unwrap(), 4.0);
        let elsewhere = {
            let py = py.clone();
            std::thread::spawn(move || {
                futures::executor::block_on(py.call("math", "sqrt", (9,)).extract::<f64>()).unwrap()
            })
        };
        let joined = tokio::task::spawn_blocking(move || elsewhere.join().unwrap());
        assert_eq!(within("a call from another thread", joined).await.unwrap(), 3.0);
        py.shutdown().await.unwrap();
    });
}

#[test]
fn a_bridge_whose_system_was_told_to_stop_answers_and_leaves_nothing() {
    actix_rt::System::new().block_on(async {
        let py = start([pool("p", 1)]).await;
        let pid = py.workers().await[0].pid;
        actix_rt::System::current().stop();
        until("the end of the arbiter", || async { !actix_rt::Arbiter::current().spawn(async {}) }).await;
        let _answered = within("a call", py.call("math", "sqrt", (4,))).await;
        within("the shutdown", py.shutdown()).await.unwrap();
        assert!(!is_alive(pid), "the shutdown is over and the worker is not");
    });
}

#[test]
fn a_shutdown_whose_system_ends_in_the_middle_of_it_ends_too() {
    let (send, receive) = std::sync::mpsc::channel();
    let (go, went) = tokio::sync::oneshot::channel::<()>();
    let system = std::thread::spawn(move || {
        actix_rt::System::new().block_on(async move {
            let py = start([pool("p", 1)]).await;
            drop(tokio::task::spawn_local(py.call("bridge_helpers", "stuck_in_c", ()).discard()));
            until("it to run", || async { py.stats().await.pools[0].busy == 1 }).await;
            send.send(py.clone()).unwrap();
            went.await.unwrap();
            std::mem::forget(py);
        });
    });
    let py = receive.recv().unwrap();
    futures::executor::block_on(async move {
        let mut shutdown = Box::pin(py.shutdown());
        assert!(futures::poll!(&mut shutdown).is_pending());
        go.send(()).unwrap();
        system.join().unwrap();
        let (tell, told) = std::sync::mpsc::channel();
        std::thread::spawn(move || tell.send(futures::executor::block_on(shutdown)));
        told.recv_timeout(Duration::from_secs(10)).expect("the shutdown ends").unwrap();
    });
}

#[test]
fn the_threads_of_pools_are_gone_when_the_shutdown_is_over() {
    if !alone("endings::the_threads_of_pools_are_gone_when_the_shutdown_is_over") {
        return;
    }
    let names = || -> Vec<String> {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap();
        let names = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
        names.filter(|name| name.contains("arbiter") || name.contains("actix") || name.contains("system:")).collect()
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let builder = SnakeBridge::builder().pool(pool("one", 1)).pool(pool("two", 1)).thread_per_pool();
        let py = within("the start", builder.start()).await.unwrap();
        assert_eq!(names().len(), 2, "{:?}", names());
        within("the shutdown", py.shutdown()).await.unwrap();
        assert_eq!(names(), Vec::<String>::new());
    });
}

#[tokio::test]
async fn pools_may_have_a_thread_each() {
    let builder = SnakeBridge::builder().pool(pool("one", 1)).pool(pool("two", 1)).thread_per_pool();
    let py = within("the start", builder.start()).await.unwrap();
    for name in ["one", "two"] {
        assert_eq!(py.call("math", "sqrt", (16,)).pool(name).extract::<f64>().await.unwrap(), 4.0);
    }
    within("the shutdown", py.shutdown()).await.unwrap();
}

// ---- the host dies

const SCENE: &str = "SNAKEBRIDGE_TEST_SCENE";

/// Runs in a process of its own, which is killed; does nothing in a usual run.
#[test]
#[expect(clippy::print_stdout, reason = "the test reads what it prints")]
fn host_of_a_scene() {
    let Ok(scene) = std::env::var(SCENE) else { return };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        println!("starting");
        let mut config = pool("p", 2);
        if scene == "slow" {
            config = config.preload(["bridge_slow_module"]);
        }
        if scene == "exec" {
            config = config.start_method(StartMethod::Exec);
        }
        if scene == "fallback" {
            config = config.without_lifeline_for_tests();
        }
        if scene.starts_with("apart") {
            config = config.pid_namespace(true);
        }
        if scene == "apart slow" {
            config = config.preload(["bridge_slow_module"]);
        }
        if scene == "apart exec" {
            config = config.start_method(StartMethod::Exec);
        }
        if scene == "apart fallback" {
            config = config.without_lifeline_for_tests();
        }
        let py = start([config]).await;
        if scene == "load" {
            load(&py).await;
        } else if !scene.ends_with("idle") {
            let child: u32 = py.call("bridge_helpers", "start_child", (true,)).session("a").extract().await.unwrap();
            println!("daemon {child}");
            if scene.ends_with("orphan") {
                // The lifeline, descriptor 5, kills nobody any more.
                py.eval("__import__('fcntl').fcntl(5, __import__('fcntl').F_SETFL, 0)").session("b").await.unwrap();
            }
            drop(tokio::spawn(py.call("bridge_helpers", "stuck_in_c", ()).session("b").discard()));
            until("it to run", || async { py.stats().await.pools[0].busy == 1 }).await;
        }
        if scene.ends_with("orphan") {
            kill(parent_of(py.workers().await[0].pid).expect("its zygote"));
        }
        println!("ready");
        std::future::pending::<()>().await;
    });
}

/// Sessions that call with bodies of all sizes, and now and then start a process, or get stuck.
async fn load(py: &SnakeBridge) {
    let callers = (0..8).map(async |n| {
        let session = py.session(format!("s{n}"));
        for round in 0_u32.. {
            let body = Bytes::from(vec![0; 1 << (round % 22)]);
            let _answered = session.call("builtins", "len", (body,)).discard().await;
            if round % 64 == n {
                let _started = session.call("bridge_helpers", "start_child", (n % 2 == 0,)).discard().await;
            }
            if round % 64 == n + 32 {
                let stuck = session.call("bridge_helpers", "stuck_in_c", ());
                let _stuck = stuck.timeout(Duration::from_millis(10)).discard().await;
            }
        }
    });
    futures::future::join_all(callers).await;
}

struct Host {
    /// Its temporary files go here.
    dir: Dir,
    process: Child,
    mark: String,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Host {
    fn new(scene: &str) -> Self {
        let (mark, dir) = (new_mark(scene), Dir::new());
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["endings::host_of_a_scene", "--exact", "--nocapture"])
            .env(SCENE, scene)
            .env(MARK, &mark)
            .env("TMPDIR", &dir.0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        Self { dir, process, mark, lines }
    }

    fn until(&mut self, word: &str) {
        let found = self.lines.by_ref().any(|line| line.unwrap().contains(word));
        assert!(found, "the host ended before it said {word:?}");
    }

    /// Kills the host; everything that it started must be gone a second later.
    fn die(&mut self) {
        self.die_of(Signal::KILL);
    }

    fn die_of(&mut self, signal: Signal) {
        // The first SIGSEGV that is sent only takes away the handler that Rust has for stack overflows.
        while self.process.try_wait().unwrap().is_none() {
            rustix::process::kill_process(Pid::from_child(&self.process), signal).unwrap();
            std::thread::sleep(Duration::from_millis(1));
        }
        let deadline = Instant::now() + promised(Duration::from_secs(1));
        loop {
            let left = marked(&self.mark);
            if left.is_empty() {
                break;
            }
            assert!(Instant::now() < deadline, "left behind: {left:?}");
            std::thread::sleep(Duration::from_millis(2));
        }
        let files: Vec<_> = std::fs::read_dir(&self.dir.0).unwrap().collect();
        assert!(files.is_empty(), "left behind: {files:?}");
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        for pid in marked(&self.mark) {
            kill(pid);
        }
        let _reaped = self.process.wait();
    }
}

fn host_dies_when_ready(scene: &str) {
    let mut host = Host::new(scene);
    host.until("ready");
    let marked = marked(&host.mark);
    assert!(marked.len() >= 4, "the host, a zygote, two workers: {marked:?}");
    host.die();
}

#[test]
fn the_death_of_an_idle_host_leaves_nothing() {
    host_dies_when_ready("idle");
}

#[test]
fn the_death_of_a_host_whose_worker_is_stuck_in_c_leaves_nothing_not_even_a_daemon() {
    host_dies_when_ready("stuck");
}

#[test]
fn the_death_of_a_host_with_executed_workers_leaves_nothing() {
    host_dies_when_ready("exec");
}

#[test]
fn the_death_of_a_host_leaves_nothing_where_lifelines_are_not_honoured() {
    host_dies_when_ready("fallback");
}

#[test]
fn the_death_of_a_host_leaves_nothing_of_a_pid_namespace() {
    for scene in ["apart", "apart exec", "apart fallback"] {
        if pid_namespace::is_allowed() {
            host_dies_when_ready(scene);
        }
    }
}

#[test]
fn the_death_of_a_host_leaves_nothing_in_a_pid_namespace_that_has_lost_its_zygote_and_a_lifeline() {
    if pid_namespace::is_allowed() {
        host_dies_when_ready("apart orphan");
    }
}

#[test]
fn the_death_of_a_host_in_mid_start_leaves_nothing() {
    dies_in_mid_start(40, ["idle", "idle", "idle", "slow"]);
}

#[test]
fn the_death_of_a_host_in_mid_start_leaves_nothing_of_a_pid_namespace() {
    if pid_namespace::is_allowed() {
        dies_in_mid_start(20, ["apart idle", "apart idle", "apart idle", "apart slow"]);
    }
}

fn dies_in_mid_start(rounds: usize, scenes: [&str; 4]) {
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    for round in 0..rounds {
        let mut host = Host::new(scenes[round % scenes.len()]);
        host.until("starting");
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        std::thread::sleep(Duration::from_micros((seed >> 40) % 200_000));
        host.die();
    }
}

/// `SNAKEBRIDGE_HOST_DEATHS=500 cargo test --test it host_under_load` for more of them, and with
/// `SNAKEBRIDGE_HOST_SEED` for others.
#[test]
#[expect(clippy::print_stderr, reason = "it tells how to repeat it")]
fn the_death_of_a_host_under_load_leaves_nothing_at_whatever_moment() {
    let deaths = std::env::var("SNAKEBRIDGE_HOST_DEATHS").map_or(20, |text| text.parse().expect("a whole number"));
    let seed = std::env::var("SNAKEBRIDGE_HOST_SEED").map_or(1, |text| text.parse().expect("a whole number"));
    eprintln!(
        "repeat with: SNAKEBRIDGE_HOST_SEED={seed} SNAKEBRIDGE_HOST_DEATHS={deaths} cargo test --test it host_under_load"
    );
    let mut random = Random::new(seed, 0);
    for death in 0..deaths {
        let signal = [Signal::KILL, Signal::SEGV, Signal::ABORT][death % 3];
        let after = Duration::from_micros(random.below(1_000_000));
        let mut host = Host::new("load");
        host.until("starting");
        std::thread::sleep(after);
        host.die_of(signal);
    }
}
