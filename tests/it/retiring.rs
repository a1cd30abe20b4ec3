//! Workers that are replaced for what they have done: calls, age, memory.

use crate::support::{Busy, Dir, Gate, SOON, code, is_alive, kill, pid, pool, start, until, within};
use futures::StreamExt;
use snakebridge::{Affinity, Event, Fact, PyRef, Ran, SnakeBridge, WorkerInfo, WorkerState};
use std::collections::BTreeSet;
use std::time::Duration;

const MIB: usize = 1 << 20;

async fn fact(events: &mut (impl futures::Stream<Item = Event> + Unpin), wanted: impl Fn(&Fact) -> bool) -> Fact {
    loop {
        let event = within("an event", events.next()).await.unwrap();
        if wanted(event.fact()) {
            return event.fact().clone();
        }
    }
}

fn reason(fact: Fact) -> String {
    match fact {
        Fact::WorkerRetiring { reason, .. } => reason,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_worker_is_replaced_after_so_many_calls_and_no_call_is_lost() {
    let py = start([pool("p", 2).max_requests(5)]).await;
    let mut events = py.events();
    let (mut pids, mut calls) = (BTreeSet::new(), 0);
    let work = async {
        // However slow a replacement is to start, the other worker serves meanwhile.
        while pids.len() < 5 {
            pids.extend(futures::future::join_all((0..6).map(|n| pid_of(&py, n))).await);
            calls += 6;
        }
    };
    within("five workers", work).await;
    let retiring = fact(&mut events, |fact| matches!(fact, Fact::WorkerRetiring { .. })).await;
    assert_eq!(reason(retiring), "max_requests of 5");
    let stats = py.stats().await.pools.remove(0);
    assert_eq!((stats.deaths, stats.finished), (0, calls));
    py.shutdown().await.unwrap();
}

async fn pid_of(py: &SnakeBridge, n: usize) -> u32 {
    within("a call", pid(&py.session(format!("s{n}")))).await.unwrap()
}

#[tokio::test]
async fn a_session_with_refs_keeps_the_worker_that_has_run_its_calls_and_nobody_else_waits_for_it() {
    let py = start([pool("p", 1).affinity(Affinity::StrictQueue).max_requests(1)]).await;
    let session = py.session("s");
    let counter: PyRef = session.call("bridge_helpers", "Counter", ()).into_ref().await.unwrap();
    let old = counter.worker().clone();
    assert_eq!(counter.call_method("add", ()).extract::<i64>().await.unwrap(), 1);
    assert_eq!(counter.call_method("add", ()).extract::<i64>().await.unwrap(), 2);
    assert_eq!(counter.worker(), &old);
    within("a call of another", pid(&py.session("other"))).await.unwrap();
    drop(counter);
    until("the old one to go", || async { py.workers().await.iter().all(|worker| worker.id != old) }).await;
    py.shutdown().await.unwrap();
}

#[tokio::test]
async fn workers_that_are_old_are_replaced_one_after_the_other() {
    let py = start([pool("p", 3).max_age(Duration::from_millis(300))]).await;
    let mut events = py.events();
    for _ in 0..4 {
        // One starts, is ready, and then the one that it replaces retires; only then the next starts.
        let change = |fact: &Fact| {
            matches!(fact, Fact::WorkerStarting { .. } | Fact::WorkerReady { .. } | Fact::WorkerRetiring { .. })
        };
        let started = fact(&mut events, change).await;
        let Fact::WorkerStarting { worker: new } = started else { panic!("{started:?}") };
        assert_eq!(fact(&mut events, change).await, Fact::WorkerReady { worker: new });
        assert_eq!(reason(fact(&mut events, change).await), "max_age of 300ms");
    }
    py.shutdown().await.unwrap();
}

#[tokio::test]
async fn past_its_soft_limit_of_memory_a_worker_is_replaced_and_what_runs_finishes() {
    let py = start([pool("p", 1).memory_soft_limit(200 * MIB)]).await;
    let mut events = py.events();
    let old = py.workers().await.remove(0);
    let session = py.session("s");
    session.exec("kept = []").await.unwrap();
    session.exec("kept.append(b'x' * (300 << 20))").await.unwrap();
    let busy = Busy::new(&py, "busy", "p");
    let retiring = fact(&mut events, |fact| matches!(fact, Fact::WorkerRetiring { .. })).await;
    let reason = reason(retiring);
    assert!(
        reason.starts_with("resident memory of ") && reason.contains("past its soft limit of 209715200"),
        "{reason}"
    );
    busy.await.finish().await;
    session.release().await.unwrap();
    until("the old one to go", || async { py.workers().await.iter().all(|worker| worker.id != old.id) }).await;
    py.call("math", "sqrt", (4,)).discard().await.unwrap();
    py.shutdown().await.unwrap();
}

#[tokio::test]
async fn past_its_hard_limit_of_memory_a_worker_is_killed_and_its_call_told_why() {
    let py = start([pool("p", 1).memory_hard_limit(200 * MIB)]).await;
    let mut events = py.events();
    let old = py.workers().await.remove(0);
    // No heartbeat falls into the call: it is looked at while it runs.
    let code = "[bytes(b'x' * (300 << 20)), __import__('time').sleep(600)]";
    let error = within("the call", py.eval(code)).await.unwrap_err();
    assert_eq!((error.code(), error.ran()), ("worker_crashed", Ran::Maybe));
    let text = error.to_string();
    assert!(text.contains("resident memory of ") && text.contains("past its hard limit of 209715200"), "{text}");
    let exited = fact(&mut events, |fact| matches!(fact, Fact::WorkerExited { .. })).await;
    assert!(matches!(exited, Fact::WorkerExited { expected: false, cause, .. } if cause.contains("hard limit")));
    assert!(!is_alive(old.pid));
    py.await_ready(SOON).await.unwrap();
    assert_eq!(py.workers().await[0].id.to_string(), "p/0#2", "in its slot");
    py.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_soft_limit_that_every_worker_is_past_makes_no_loop() {
    let py = start([pool("p", 1).memory_soft_limit(MIB).heartbeat(Duration::from_millis(50))]).await;
    let mut events = py.events();
    // So many looks, and it has run nothing.
    py.call("time", "sleep", (0.5,)).discard().await.unwrap();
    let first = fact(&mut events, |_| true).await;
    assert!(matches!(first, Fact::SessionCreated { .. }), "{first:?}");
    until("its replacement", || async { py.workers().await.iter().all(|worker| worker.id.slot() == 1) }).await;
    py.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_reload_loads_code_anew_and_sessions_with_refs_keep_theirs() {
    let dir = Dir::new();
    let write = |text: &str| std::fs::write(dir.0.join("reloaded.py"), text).unwrap();
    write("def version():\n    return 1\n");
    let py = start([pool("p", 2).python_path(&dir.0).preload(["reloaded"]).env("PYTHONDONTWRITEBYTECODE", "1")]).await;
    let version = || py.call("reloaded", "version", ()).session("fresh").extract::<i64>();
    let session = py.session("s");
    let old: PyRef = session.get("reloaded", "version").into_ref().await.unwrap();
    assert_eq!(version().await.unwrap(), 1);
    let before: BTreeSet<_> = py.workers().await.into_iter().map(|worker| worker.id).collect();
    // As long as the other, so that only what is loaded anew sees it.
    write("def version():\n    return 2\n");
    within("the reload", py.reload("p")).await.unwrap();
    let ready: Vec<_> = py.workers().await.into_iter().filter(|worker| worker.state == WorkerState::Free).collect();
    assert_eq!(ready.len(), 2);
    assert!(ready.iter().all(|worker| !before.contains(&worker.id)));
    assert_eq!(version().await.unwrap(), 2);
    assert_eq!(old.call(()).extract::<i64>().await.unwrap(), 1);
    drop(old);
    until("the old ones to go", || async { py.workers().await.len() == 2 }).await;
    assert_eq!(py.stats().await.pools[0].deaths, 0);

    // Nothing changes where the new code cannot be loaded.
    write("raise RuntimeError('on purpose')\n");
    let before: BTreeSet<_> = py.workers().await.into_iter().map(|worker| worker.id).collect();
    let error = within("the reload", py.reload("p")).await.unwrap_err();
    assert_eq!(error.code(), "spawn");
    assert!(error.to_string().contains("on purpose"), "{error}");
    assert_eq!(py.workers().await.into_iter().map(|worker| worker.id).collect::<BTreeSet<_>>(), before);
    assert_eq!(version().await.unwrap(), 2);
    assert_eq!(code(py.reload("q").await), "unknown_pool");
    py.shutdown().await.unwrap();
    assert_eq!(code(py.reload("p").await), "shutting_down");
}

#[tokio::test]
async fn two_reloads_at_once_are_done_one_after_the_other_and_leave_no_process() {
    let py = start([pool("p", 1)]).await;
    let (one, other) = (tokio::spawn(py.reload("p")), tokio::spawn(py.reload("p")));
    within("one", one).await.unwrap().unwrap();
    within("the other", other).await.unwrap().unwrap();
    until("the old ones to go", || async { py.workers().await.len() == 1 }).await;
    let zygote_of = |pid: u32| -> u32 {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        stat.rsplit_once(')').unwrap().1.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    let zygote = zygote_of(py.workers().await[0].pid);
    // One that is under way when the bridge stops.
    let late = tokio::spawn(py.reload("p"));
    within("the shutdown", py.shutdown()).await.unwrap();
    assert!(matches!(code(within("the late one", late).await.unwrap()), "shutting_down"));
    assert!(!is_alive(zygote));
}

#[tokio::test]
async fn a_restart_and_a_resize_answer_when_every_slot_is_ready_or_say_why_it_will_not_be() {
    let fails = Gate::new();
    let options = pool("p", 1).init("bridge_helpers:fail_if_told").env("FAIL_IF", fails.path());
    let py = start([options]).await;
    let ready = || async { py.stats().await.pools[0].ready };
    within("the resize", py.resize("p", 3)).await.unwrap();
    assert_eq!(ready().await, 3);
    let worker = py.workers().await.remove(0).id;
    within("the restart", py.restart_worker(&worker)).await.unwrap();
    assert_eq!(ready().await, 3);
    fails.open();
    let serves = |worker: &WorkerInfo| worker.state == WorkerState::Free;
    let worker = py.workers().await.into_iter().find(serves).expect("three serve").id;
    let error = within("the restart", py.restart_worker(&worker)).await.unwrap_err();
    assert_eq!(error.code(), "spawn");
    assert!(error.to_string().contains("told to fail"), "{error}");
    py.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_worker_serves_until_its_replacement_is_ready() {
    let (told, gate) = (Gate::new(), Gate::new());
    let options = pool("p", 1).init("bridge_helpers:hold_if_told").env("HOLD_IF", told.path()).env("GATE", gate.path());
    let py = start([options]).await;
    let worker = py.workers().await.remove(0);
    told.open();
    let restart = tokio::spawn(py.restart_worker(&worker.id));
    within("the replacement to start", gate.held()).await;
    // One that would not wait.
    let call = py.call("os", "getpid", ()).session("new").affinity(Affinity::StrictFailFast).extract::<u32>();
    assert_eq!(within("a call", call).await.unwrap(), worker.pid);
    gate.open();
    within("the restart", restart).await.unwrap().unwrap();
    assert_ne!(py.call("os", "getpid", ()).extract::<u32>().await.unwrap(), worker.pid);
    until("the old one to go", || async { py.workers().await.len() == 1 }).await;
    assert_eq!(py.stats().await.pools[0].deaths, 0);
    py.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_reload_whose_workers_cannot_start_fails_and_the_old_ones_serve_on() {
    let fails = Gate::new();
    let py = start([pool("p", 2).init("bridge_helpers:fail_if_told").env("FAIL_IF", fails.path())]).await;
    let pids = || async { py.workers().await.into_iter().map(|worker| worker.pid).collect::<BTreeSet<_>>() };
    let before = pids().await;
    let session = py.session("s");
    let home: u32 = session.call("os", "getpid", ()).extract().await.unwrap();
    fails.open();
    let error = within("the reload", py.reload("p")).await.unwrap_err();
    assert_eq!(error.code(), "spawn");
    assert!(error.to_string().contains("told to fail"), "{error}");
    assert_eq!(pids().await, before);
    assert_eq!(session.call("os", "getpid", ()).extract::<u32>().await.unwrap(), home);
    // It is not said again of a try that has not failed.
    std::fs::remove_file(fails.path()).unwrap();
    within("the reload", py.reload("p")).await.unwrap();
    until("the old ones to go", || async { pids().await.is_disjoint(&before) }).await;
    assert_eq!(py.stats().await.pools[0].ready, 2);
    py.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_reload_revives_a_degraded_pool_or_says_the_new_cause() {
    let fails = Gate::new();
    let options = pool("p", 1).init("bridge_helpers:fail_if_told").env("FAIL_IF", fails.path());
    let py = start([options.restart_budget(0, Duration::from_secs(600))]).await;
    kill(py.workers().await[0].pid);
    until("the pool to be degraded", || async { py.stats().await.pools[0].degraded.is_some() }).await;
    fails.open();
    let error = within("the reload", py.reload("p")).await.unwrap_err();
    assert!(error.to_string().contains("told to fail"), "{error}");
    std::fs::remove_file(fails.path()).unwrap();
    within("the reload", py.reload("p")).await.unwrap();
    assert_eq!(py.stats().await.pools[0].degraded, None);
    assert!(is_alive(py.workers().await[0].pid));
    py.shutdown().await.unwrap();
}
