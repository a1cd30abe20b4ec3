//! Workers in which no call runs answer, or are replaced.

use crate::support::{Gate, SOON, is_alive, kill, pid, pool, promised, start, until, within};
use futures::StreamExt;
use snakebridge::{Affinity, Bytes, Event, Fact, Ran, WorkerInfo};
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

const SHORT: Duration = Duration::from_millis(200);

fn signal(pid: u32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(pid as i32).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

fn stop(worker: &WorkerInfo) {
    signal(worker.pid, rustix::process::Signal::STOP);
}

async fn exit_of(events: &mut (impl futures::Stream<Item = Event> + Unpin)) -> (String, bool) {
    loop {
        if let Fact::WorkerExited { cause, expected, .. } = within("an exit", events.next()).await.unwrap().fact() {
            return (cause.clone(), *expected);
        }
    }
}

#[tokio::test]
async fn an_idle_worker_that_stops_is_counted_and_replaced_within_seven_seconds() {
    let py = start([pool("p", 2)]).await;
    let mut events = py.events();
    let stopped = py.workers().await.remove(0);
    let began = Instant::now();
    stop(&stopped);
    until("it to be counted", || async { py.stats().await.pools[0].unresponsive == 1 }).await;
    assert_eq!(py.stats().await.pools[0].ready, 1);
    assert_eq!(exit_of(&mut events).await, ("no heartbeat for 6s".to_owned(), false));
    py.await_ready(SOON).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(7), "{:?}", began.elapsed());
    assert!(!is_alive(stopped.pid));
    let stats = py.stats().await.pools.remove(0);
    assert_eq!((stats.ready, stats.unresponsive, stats.deaths), (2, 0, 1));
    py.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_call_that_was_sent_to_it_and_not_begun_goes_elsewhere() {
    // The last as by default.
    for (concurrency, heartbeat) in [(1, SHORT), (2, SHORT), (1, Duration::from_secs(2))] {
        let py = start([pool("p", 1).concurrency(concurrency).heartbeat(heartbeat)]).await;
        let mut events = py.events();
        let stopped = py.workers().await.remove(0);
        stop(&stopped);
        let began = Instant::now();
        let session = py.session("s");
        let call = || session.call("bridge_helpers", "pid", ()).extract::<u32>();
        let calls: Vec<_> = (0..5).map(|_| tokio::spawn(call())).collect();
        for call in calls {
            assert_ne!(within("a call", call).await.unwrap().unwrap(), stopped.pid);
        }
        assert!(began.elapsed() < Duration::from_secs(7), "{:?}", began.elapsed());
        assert_eq!(exit_of(&mut events).await.0, format!("no heartbeat for {:?}", heartbeat * 3));
        let stats = py.stats().await.pools.remove(0);
        assert_eq!((stats.ready, stats.unresponsive, stats.deaths), (1, 0, 1));
        py.shutdown().await.unwrap();
    }
}

#[tokio::test]
async fn a_strict_call_that_was_sent_to_it_and_not_begun_is_refused() {
    let py = start([pool("p", 1).affinity(Affinity::StrictQueue).heartbeat(SHORT)]).await;
    let session = py.session("s");
    pid(&session).await.unwrap();
    stop(&py.workers().await[0]);
    let error = within("a strict call", pid(&session)).await.unwrap_err();
    assert_eq!((error.code(), error.ran()), ("session_worker_unavailable", Ran::No));
    assert!(error.to_string().contains("no heartbeat for 600ms"), "{error}");
    py.shutdown().await.unwrap();
}

#[tokio::test]
async fn one_that_goes_on_in_time_is_left_alone() {
    let py = start([pool("p", 1).heartbeat(Duration::from_secs(1))]).await;
    let worker = py.workers().await.remove(0);
    stop(&worker);
    until("it to be counted", || async { py.stats().await.pools[0].unresponsive == 1 }).await;
    signal(worker.pid, rustix::process::Signal::CONT);
    until("it to be heard", || async { py.stats().await.pools[0].unresponsive == 0 }).await;
    assert_eq!(within("a call", pid(&py.session("s"))).await.unwrap(), worker.pid);
    assert_eq!(py.stats().await.pools[0].ready, 1);
    py.shutdown().await.unwrap();
}

#[tokio::test]
async fn what_an_idle_worker_has_sent_is_let_go_of() {
    let py = start([pool("p", 1).heartbeat(SHORT)]).await;
    let shared = |pid: u32| -> u64 {
        let files = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().filter_map(Result::ok);
        let blocks = files.filter(|file| {
            std::fs::read_link(file.path()).is_ok_and(|target| target.to_string_lossy().contains("memfd:"))
        });
        blocks.filter_map(|file| std::fs::metadata(file.path()).ok()).map(|file| file.blocks() * 512).sum()
    };
    let worker = py.workers().await.remove(0);
    let large = py.call("builtins", "bytes", (200_000_000,)).extract::<Bytes>().await.unwrap();
    assert_eq!(large.len(), 200_000_000);
    until("the block to be given back", || async { shared(worker.pid) <= 64 << 20 }).await;
    py.shutdown().await.unwrap();
}

#[tokio::test]
async fn while_a_call_runs_nothing_is_judged_and_afterwards_it_is() {
    let py = start([pool("p", 1).heartbeat(SHORT)]).await;
    let mut events = py.events();
    let worker = py.workers().await.remove(0);
    let gate = Gate::new();
    let call = tokio::spawn(py.call("bridge_helpers", "hold", (gate.path(), 7)).extract::<i64>());
    gate.held().await;
    stop(&worker);
    // Many times as long as an idle one has.
    let other = start([pool("q", 1).heartbeat(SHORT * 3)]).await;
    stop(&other.workers().await[0]);
    exit_of(&mut other.events()).await;
    other.shutdown().await.unwrap();
    assert!(is_alive(worker.pid));
    signal(worker.pid, rustix::process::Signal::CONT);
    gate.open();
    assert_eq!(within("the call", call).await.unwrap().unwrap(), 7);
    stop(&worker);
    assert_eq!(exit_of(&mut events).await.0, "no heartbeat for 600ms");
    py.shutdown().await.unwrap();
}

#[tokio::test]
#[expect(clippy::print_stderr, reason = "it tells what it measured")]
async fn one_that_stops_in_a_call_with_a_deadline_is_replaced_soon_after_that_and_busy_until_then() {
    let (timeout, grace) = (Duration::from_millis(500), Duration::from_millis(200));
    let py = start([pool("p", 1).cancel_grace(grace).restart_backoff(Duration::ZERO, Duration::ZERO)]).await;
    let mut events = py.events();
    let worker = py.workers().await.remove(0);
    let gate = Gate::new();
    let began = Instant::now();
    let hold = py.call("bridge_helpers", "hold", (gate.path(), 7)).timeout(timeout);
    let call = tokio::spawn(hold.discard());
    gate.held().await;
    stop(&worker);
    let stats = async || py.stats().await.pools.remove(0);
    let before = stats().await;
    assert_eq!((before.ready, before.busy, before.deaths), (1, 1, 0));
    let error = within("the call", call).await.unwrap().unwrap_err();
    assert_eq!((error.code(), error.ran()), ("timeout", Ran::Maybe));
    let answered = stats().await;
    assert!((answered.busy, answered.deaths) == (1, 0) || answered.deaths == 1, "free, and stopped: {answered:?}");
    let (cause, expected) = exit_of(&mut events).await;
    let late = began.elapsed() - timeout;
    eprintln!("dead {late:?} after its deadline of {timeout:?}, with a grace of {grace:?}");
    assert!(late < promised(grace + Duration::from_millis(500)), "{late:?}");
    assert!(cause.contains("did not end when it was cancelled") && !expected, "{cause}");
    py.await_ready(SOON).await.unwrap();
    assert!(!is_alive(worker.pid));
    let after = stats().await;
    assert_eq!((after.ready, after.busy, after.deaths, after.unresponsive), (1, 0, 1, 0));
    py.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_worker_that_waits_for_a_function_of_the_host_is_left_alone_and_answers() {
    for concurrency in [1, 2] {
        let py = start([pool("p", 1).concurrency(concurrency).heartbeat(SHORT)]).await;
        let worker = py.workers().await.remove(0);
        py.register("wait", |()| async {
            tokio::time::sleep(SHORT * 4).await;
            Ok(5)
        })
        .unwrap();
        let code = "__import__('snakebridge').host.call('wait')";
        assert_eq!(within("the call", py.eval(code).extract::<i64>()).await.unwrap(), 5);
        assert_eq!(py.workers().await[0].id, worker.id);
        py.shutdown().await.unwrap();
    }
}

#[tokio::test]
async fn a_finalizer_that_does_not_end_while_no_call_runs_ends_its_worker() {
    let py = start([pool("p", 1).heartbeat(SHORT)]).await;
    let mut events = py.events();
    let code = "class Stuck:\n    def __del__(self):\n        __import__('time').sleep(600)\n";
    let session = py.session("s");
    session.exec(code).await.unwrap();
    let stuck: snakebridge::PyRef = session.eval("Stuck()").into_ref().await.unwrap();
    drop(stuck);
    assert_eq!(exit_of(&mut events).await, ("no heartbeat for 600ms".to_owned(), false));
    py.await_ready(SOON).await.unwrap();
    py.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_worker_that_lets_go_of_many_objects_one_by_one_is_left_alone() {
    for concurrency in [1, 2] {
        let py = start([pool("p", 1).concurrency(concurrency).heartbeat(SHORT)]).await;
        let session = py.session("s");
        let code = "import time\ngone = []\nclass Slow:\n    def __del__(self):\n        time.sleep(0.05)\n        gone.append(1)";
        session.exec(code).await.unwrap();
        // Many times as long as an idle one has, in one message.
        let slow: Vec<snakebridge::PyRef> = session.eval("[Slow() for _ in range(40)]").extract().await.unwrap();
        drop(slow);
        until("all of them to go", || async { session.eval("len(gone)").extract::<u32>().await.unwrap() == 40 }).await;
        assert_eq!(py.stats().await.pools[0].deaths, 0);
        py.shutdown().await.unwrap();
    }
}

#[tokio::test]
async fn one_that_answers_what_nobody_asked_is_killed() {
    let py = start([pool("p", 1)]).await;
    let code = "__import__('os').write(3, b'\\x05\\0\\0\\0') and __import__('time').sleep(60)";
    let error = within("the call", py.eval(code)).await.unwrap_err();
    assert_eq!(error.code(), "protocol", "{error}");
    py.shutdown().await.unwrap();
}

/// What a bridge with 8 idle workers costs in a minute; run it by hand, in release.
#[tokio::test]
#[ignore = "a measurement"]
#[expect(clippy::print_stderr, reason = "it tells what it measured")]
async fn the_cost_of_idle_workers() {
    let py = start([pool("p", 8)]).await;
    let mut processes: Vec<u32> = py.workers().await.iter().map(|worker| worker.pid).collect();
    processes.push(std::process::id());
    let cost = || -> u64 {
        let tasks = processes.iter().flat_map(|pid| std::fs::read_dir(format!("/proc/{pid}/task")).unwrap());
        tasks
            .map(|task| {
                let text = std::fs::read_to_string(task.unwrap().path().join("schedstat")).unwrap_or_default();
                text.split(' ').next().and_then(|nanos| nanos.parse::<u64>().ok()).unwrap_or(0)
            })
            .sum()
    };
    tokio::time::sleep(Duration::from_secs(3)).await;
    let (began, before) = (Instant::now(), cost());
    tokio::time::sleep(Duration::from_secs(60)).await;
    let (nanos, took) = (cost() - before, began.elapsed());
    let share = 100.0 * nanos as f64 / took.as_nanos() as f64;
    eprintln!("8 idle workers and their host: {:.2} ms in {took:.0?}, {share:.4} % of a core", nanos as f64 / 1e6);
    assert!(share < 0.1);
    kill(processes[0]);
    py.shutdown().await.unwrap();
}
