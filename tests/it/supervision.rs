//! Workers that die, are replaced, tainted, retired, resized; pools that degrade and recover.

use crate::support::{Busy, Dir, Gate, code, is_alive, kill, parent_of, pid, pool, start, until, within};
use futures::StreamExt;
use rustix::process::{Pid, Signal, kill_process};
use snakebridge::{Affinity, Error, Event, Fact, PoolStatus, PyRef, Ran, SnakeBridge, StartMethod, WorkerState};
use std::sync::{Arc, Mutex};
use std::time::Duration;

#[tokio::test]
async fn the_call_that_ran_gets_worker_crashed_with_cause_and_last_words() {
    let py = start([pool("p", 1).restart_backoff(Duration::ZERO, Duration::ZERO)]).await;
    for (how, cause) in [("kill", "signal 9 (SIGKILL)"), ("exit", "exit status 3"), ("segv", "signal 11 (SIGSEGV)")] {
        let error = within("a call that dies", py.call("bridge_helpers", "die", (how,)).discard()).await.unwrap_err();
        assert_eq!((error.code(), error.ran()), ("worker_crashed", Ran::Maybe));
        assert!(error.to_string().contains(cause), "{how}: {error}");
        let Error::WorkerCrashed(crash) = &error else { panic!("{error:?}") };
        assert_eq!((crash.worker.pool().as_str(), &*crash.cause), ("p", cause));
        assert!(crash.call.is_some() && crash.running_for < Duration::from_secs(20), "{crash:?}");
        // The kernel may have had nothing to count.
        assert!(crash.peak_memory.is_none_or(|bytes| bytes > 1 << 20), "{crash:?}");
        py.await_ready(Duration::from_secs(20)).await.unwrap();
    }
    let error = py.call("bridge_helpers", "die", ("stderr",)).discard().await.unwrap_err();
    assert!(error.to_string().contains("the last words"), "{error}");
    py.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_worker_that_its_host_has_killed_says_why_and_not_by_which_signal() {
    let py = start([pool("p", 1).cancel_grace(Duration::from_millis(100))]).await;
    let mut events = py.events();
    let ignores = "import time\nwhile True:\n try: time.sleep(60)\n except BaseException: pass";
    let overrun = py.session("s").exec(ignores).timeout(Duration::from_millis(500)).await;
    assert_eq!(overrun.unwrap_err().code(), "timeout");
    let cause = loop {
        if let Fact::WorkerExited { cause, .. } = within("its end", events.next()).await.unwrap().fact() {
            break cause.clone();
        }
    };
    assert!(cause.starts_with("killed, its call") && cause.ends_with("did not end when it was cancelled"), "{cause}");
    let deaf = py.session("t").exec("import os, time\nos.close(3)\ntime.sleep(60)");
    let error = within("a call that closes its channel", deaf).await.unwrap_err();
    let Error::WorkerCrashed(crash) = &error else { panic!("{error:?}") };
    assert_eq!(crash.cause, "killed, it had closed its channel");
    py.shutdown().await.unwrap();
    let dir = Dir::new();
    std::fs::write(dir.0.join("slow_init.py"), "import time\ndef init():\n    time.sleep(600)\n").unwrap();
    let slow = pool("p", 1).python_path(&dir.0).init("slow_init:init").start_timeout(Duration::from_secs(3));
    let slow = slow.restart_budget(0, Duration::from_secs(60));
    let error = within("the start", SnakeBridge::builder().pool(slow).start()).await.unwrap_err();
    assert!(error.to_string().contains("killed, it did not start within 3s"), "{error}");
}

#[tokio::test]
async fn how_a_worker_ended_is_told_though_its_zygote_is_slow_to_say_so() {
    let py = start([pool("p", 1)]).await;
    let (worker, gate) = (py.workers().await[0].pid, Gate::new());
    let held = tokio::spawn(py.call("bridge_helpers", "hold", (gate.path(), 1)).discard());
    gate.held().await;
    let zygote = Pid::from_raw(parent_of(worker).unwrap().cast_signed()).unwrap();
    kill_process(zygote, Signal::STOP).unwrap();
    kill(worker);
    until("the death", || async { !is_alive(worker) }).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!held.is_finished(), "it was not waited for");
    kill_process(zygote, Signal::CONT).unwrap();
    let error = within("the call", held).await.unwrap().unwrap_err();
    assert!(error.to_string().contains("signal 9 (SIGKILL)"), "{error}");
    py.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_death_touches_only_what_had_begun_there() {
    let py = start([pool("p", 2).affinity(Affinity::StrictQueue)]).await;
    let busy = Busy::new(&py, "dies", "p").await;
    let other = py.session("lives");
    let kept: PyRef = other.call("bridge_helpers", "Counter", ()).into_ref().await.unwrap();
    assert_ne!(other.home("p").await.unwrap(), busy.home);
    // They wait for the worker that dies, some of them sent ahead: none has begun.
    let waiting: Vec<_> = (0..10).map(|_| tokio::spawn(busy.session.call("math", "sqrt", (4,)).discard())).collect();
    until("ten to wait", || async { py.stats().await.pools[0].waiting == 10 }).await;
    let victim = py.workers().await.into_iter().find(|worker| worker.id == busy.home).unwrap();
    kill(victim.pid);
    for call in waiting {
        let error = within("a call that had not begun", call).await.unwrap().unwrap_err();
        assert_eq!((error.code(), error.ran()), ("session_worker_unavailable", Ran::No));
    }
    assert_eq!(kept.call_method("add", ()).extract::<i64>().await.unwrap(), 1);
    py.shutdown().await.unwrap();
}

#[tokio::test]
async fn hint_calls_that_had_not_begun_go_elsewhere() {
    let py = start([pool("p", 1)]).await;
    let busy = Busy::new(&py, "s", "p").await;
    let waiting: Vec<_> = (0..10).map(|_| tokio::spawn(busy.session.call("math", "sqrt", (4,)).discard())).collect();
    until("ten to wait", || async { py.stats().await.pools[0].waiting == 10 }).await;
    kill(py.workers().await[0].pid);
    for call in waiting {
        within("a hint call", call).await.unwrap().unwrap();
    }
    py.shutdown().await.unwrap();
}

#[tokio::test]
async fn beyond_its_restart_budget_a_pool_is_degraded_says_so_and_recovers() {
    let budget = pool("p", 1).restart_budget(2, Duration::from_secs(4)).restart_backoff(Duration::ZERO, Duration::ZERO);
    let py = start([budget]).await;
    let mut events = py.events();
    for _ in 0..3 {
        let ready = py.workers().await;
        kill(ready[0].pid);
        let gone = ready[0].id.clone();
        until("the exit to be seen", || async { py.workers().await.iter().all(|worker| worker.id != gone) }).await;
        until("the next worker or none", || async {
            let stats = py.stats().await;
            stats.pools[0].ready == 1 || stats.pools[0].degraded.is_some()
        })
        .await;
    }
    let error = within("a call to a degraded pool", py.call("math", "sqrt", (4,)).discard()).await.unwrap_err();
    assert_eq!((error.code(), error.ran()), ("pool_degraded", Ran::No));
    assert!(error.to_string().contains("SIGKILL"), "{error}");
    within("the event", wait_for(&mut events, |fact| matches!(fact, Fact::PoolDegraded { .. }))).await;
    within("the recovery", wait_for(&mut events, |fact| matches!(fact, Fact::PoolRecovered { .. }))).await;
    py.call("math", "sqrt", (4,)).discard().await.unwrap();
    py.shutdown().await.unwrap();
}

async fn wait_for(events: &mut (impl futures::Stream<Item = Event> + Unpin), wanted: impl Fn(&Fact) -> bool) {
    while !wanted(events.next().await.unwrap().fact()) {}
}

#[tokio::test]
async fn a_taint_ends_by_itself_or_is_cleared() {
    let py = start([pool("p", 1)]).await;
    let worker = py.workers().await[0].id.clone();
    py.taint(&worker, Duration::from_millis(300), "a test").await.unwrap();
    let tainted = py.workers().await.remove(0);
    assert_eq!(tainted.state, WorkerState::Tainted);
    assert_eq!(tainted.tainted.unwrap().reason, "a test");
    within("a call that waits for the taint to end", py.call("math", "sqrt", (4,)).discard()).await.unwrap();
    py.taint(&worker, Duration::from_secs(600), "a test").await.unwrap();
    py.clear_taint(&worker).await.unwrap();
    py.call("math", "sqrt", (4,)).discard().await.unwrap();
    let unknown = "p/7#1".parse().unwrap();
    assert_eq!(code(py.taint(&unknown, Duration::ZERO, "").await), "unknown_worker");
    assert_eq!(code(py.restart_worker(&"nowhere/0#1".parse().unwrap()).await), "unknown_worker");
    py.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_restarted_worker_is_replaced_first_and_stays_while_sessions_hold_refs_in_it() {
    let py = start([pool("p", 1).affinity(Affinity::StrictQueue)]).await;
    let session = py.session("s");
    let counter: PyRef = session.call("bridge_helpers", "Counter", ()).into_ref().await.unwrap();
    let old = py.workers().await.remove(0);
    py.restart_worker(&old.id).await.unwrap();
    until("the replacement", || async {
        py.workers().await.iter().any(|worker| worker.id != old.id && worker.state == WorkerState::Free)
    })
    .await;
    let retiring = py.workers().await.into_iter().find(|worker| worker.id == old.id).unwrap();
    assert_eq!(retiring.state, WorkerState::Retiring);
    assert_eq!(counter.call_method("add", ()).extract::<i64>().await.unwrap(), 1);
    assert_ne!(pid(&py.session("new")).await.unwrap(), old.pid);
    drop(counter);
    until("the old one to go", || async { py.workers().await.iter().all(|worker| worker.id != old.id) }).await;
    assert_ne!(within("a call of the old session", pid(&session)).await.unwrap(), old.pid, "its home went silently");
    py.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_pool_is_resized_up_and_down() {
    let py = start([pool("p", 1)]).await;
    py.resize("p", 3).await.unwrap();
    py.await_ready(Duration::from_secs(20)).await.unwrap();
    assert_eq!(py.workers().await.len(), 3);
    py.resize("p", 1).await.unwrap();
    until("two to go", || async { py.workers().await.len() == 1 }).await;
    assert_eq!(py.stats().await.pools[0].size, 1);
    assert_eq!(code(py.resize("p", 0).await), "config");
    assert_eq!(code(py.resize("q", 1).await), "unknown_pool");
    py.call("math", "sqrt", (4,)).discard().await.unwrap();
    py.shutdown().await.unwrap();
}

#[tokio::test]
async fn the_supervisor_of_a_pool_answers_how_it_is_doing() {
    let py = start([pool("p", 2)]).await;
    let busy = Busy::new(&py, "s", "p").await;
    let report = py.pool_addr("p").unwrap().send(PoolStatus).await.unwrap();
    assert_eq!((report.stats.size, report.stats.ready, report.stats.busy), (2, 2, 1));
    assert!(py.pool_addr("q").is_none());
    busy.finish().await;
    py.shutdown().await.unwrap();
}

#[tokio::test]
async fn both_start_methods_run_calls_and_replace_the_dead() {
    for method in [StartMethod::Zygote, StartMethod::Exec] {
        let py = start([pool("p", 2).start_method(method).preload(["json"])]).await;
        let first = pid(&py.session("s")).await.unwrap();
        kill(first);
        until("the exit to be seen", || async { py.workers().await.iter().all(|worker| worker.pid != first) }).await;
        py.await_ready(Duration::from_secs(20)).await.unwrap();
        assert_eq!(py.workers().await.len(), 2);
        py.shutdown().await.unwrap();
    }
}

#[tokio::test]
async fn a_dead_zygote_is_replaced_and_its_workers_retire_without_losing_a_call() {
    let py = start([pool("p", 1)]).await;
    let worker = py.workers().await.remove(0);
    let zygote = parent_of(worker.pid).unwrap();
    let gate = Gate::new();
    let running = tokio::spawn(py.call("bridge_helpers", "hold", (gate.path(), 5)).session("s").extract::<i64>());
    gate.held().await;
    kill(zygote);
    until("the replacement", || async {
        py.workers().await.iter().any(|other| other.id != worker.id && other.state == WorkerState::Free)
    })
    .await;
    gate.open();
    assert_eq!(within("the running call", running).await.unwrap().unwrap(), 5);
    until("the old worker to go", || async { py.workers().await.iter().all(|other| other.id != worker.id) }).await;
    assert!(!is_alive(worker.pid));
    py.shutdown().await.unwrap();
}

#[tokio::test]
async fn what_a_worker_started_goes_with_it() {
    let py = start([pool("p", 1)]).await;
    for daemonise in [false, true] {
        let child: u32 = py.call("bridge_helpers", "start_child", (daemonise,)).extract().await.unwrap();
        assert!(is_alive(child));
        kill(py.workers().await[0].pid);
        until("the child to go", || async { !is_alive(child) }).await;
        py.await_ready(Duration::from_secs(20)).await.unwrap();
        until("the replacement", || async { py.stats().await.pools[0].ready == 1 }).await;
    }
    py.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_fork_that_comes_back_into_the_loop_ends_there() {
    let py = start([pool("p", 1)]).await;
    for _ in 0..10 {
        assert!(py.call("bridge_helpers", "fork_and_return", ()).extract::<bool>().await.unwrap());
    }
    assert!(py.call("math", "sqrt", (4,)).await.is_ok());
    py.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_fork_that_a_finalizer_has_made_takes_no_message_of_its_workers() {
    for concurrency in [1, 2] {
        let held: Arc<Mutex<Option<PyRef>>> = Arc::default();
        let py = start([pool("p", 1).concurrency(concurrency)]).await;
        let drops = Arc::clone(&held);
        let let_go = move |n: i64| {
            drops.lock().unwrap().take();
            async move {
                tokio::time::sleep(Duration::from_millis(30)).await;
                Ok(n + 1)
            }
        };
        py.register("let_go", let_go).unwrap();
        let session = py.session("s");
        let object = || session.call("bridge_helpers", "ForksWhenItGoes", ());
        let worker = pid(&session).await.unwrap();
        for round in 0..10_i64 {
            // When Rust lets go of it, between two calls.
            drop(object().into_ref().await.unwrap());
            until("it to be freed", || async { py.stats().await.refs == 0 }).await;
            // With the values of a call, behind its reply.
            object().discard().await.unwrap();
            // While a call waits for the host.
            *held.lock().unwrap() = Some(object().into_ref().await.unwrap());
            let asks = session.call("bridge_helpers", "call_host_with", (round, "let_go")).extract::<i64>();
            assert_eq!(within("a call that asks", asks).await.unwrap(), round + 1);
            for n in 0..10_i64 {
                let neg = session.call("operator", "neg", (n,)).extract::<i64>();
                assert_eq!(within("a call", neg).await.unwrap(), -n);
            }
        }
        assert_eq!(pid(&session).await.unwrap(), worker);
        assert_eq!(py.stats().await.pools[0].deaths, 0);
        within("the shutdown", py.shutdown()).await.unwrap();
    }
}

#[tokio::test]
async fn a_fork_that_init_has_made_never_answers_in_the_workers_name() {
    let dir = Dir::new();
    let forks = dir.0.join("forks").display().to_string();
    let py = start([pool("p", 1).init("bridge_helpers:fork_if_told").env("FORK_IF", forks)]).await;
    for n in 0..20_u32 {
        assert_eq!(py.call("operator", "neg", (n,)).extract::<i64>().await.unwrap(), -i64::from(n));
    }
    assert_eq!(py.stats().await.pools[0].deaths, 0);
    py.shutdown().await.unwrap();
}

#[tokio::test]
async fn with_concurrency_calls_of_several_sessions_run_at_once_and_those_of_one_do_not() {
    let py = start([pool("p", 1).concurrency(3).affinity(Affinity::StrictQueue)]).await;
    let mut held = Vec::new();
    for n in 0..3 {
        held.push(Busy::new(&py, &format!("s{n}"), "p").await);
    }
    assert_eq!(py.workers().await[0].running.len(), 3);
    let next = tokio::spawn(held[0].session.call("bridge_helpers", "append", (1,)).discard());
    until("it to wait", || async { py.stats().await.pools[0].waiting == 1 }).await;
    for busy in held {
        busy.finish().await;
    }
    within("the next call", next).await.unwrap().unwrap();

    let session = py.session("line");
    let calls = (0..100).map(|n| session.call("bridge_helpers", "append", (n,)).discard());
    for outcome in futures::future::join_all(calls).await {
        outcome.unwrap();
    }
    let log: Vec<i64> = session.call("bridge_helpers", "log", ()).extract().await.unwrap();
    assert_eq!(log[1..], (0..100).collect::<Vec<_>>());
    py.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_coroutine_is_run_to_its_end() {
    let py = start([pool("p", 1)]).await;
    assert_eq!(py.call("bridge_helpers", "coroutine", (5,)).extract::<i64>().await.unwrap(), 5);
    py.shutdown().await.unwrap();
}

#[tokio::test]
async fn large_bodies_go_there_and_back_and_their_memory_is_used_again() {
    let py = start([pool("p", 1)]).await;
    let worker = py.workers().await.remove(0);
    let open = |pid: u32| std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    let session = py.session("s");
    let mut after_first = 0;
    for round in 0..50 {
        let bytes = snakebridge::Bytes::from(vec![round as u8; 3_000_000 + round]);
        let back: snakebridge::Bytes = session.call("builtins", "bytes", (&bytes,)).extract().await.unwrap();
        assert_eq!(back, bytes);
        if round == 1 {
            after_first = open(worker.pid);
        }
    }
    assert_eq!(open(worker.pid), after_first, "no block more than the first rounds needed");
    py.shutdown().await.unwrap();
}

#[tokio::test]
async fn init_runs_in_each_worker_before_its_first_call() {
    let dir = Dir::new();
    std::fs::write(dir.0.join("set_up.py"), "ready = False\ndef init():\n    global ready\n    ready = True\n")
        .unwrap();
    let py = start([pool("p", 2).python_path(&dir.0).init("set_up:init")]).await;
    for n in 0..4 {
        let ready = py.get("set_up", "ready").session(format!("{n}")).extract::<bool>();
        assert!(ready.await.unwrap());
    }
    py.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_bridge_runs_on_every_python_that_is_there() {
    let mut pythons: Vec<std::path::PathBuf> = vec!["python3".into()];
    let home = std::env::var("HOME").unwrap_or_default();
    for minor in 10..=14 {
        let versions = std::path::Path::new(&home).join(".pyenv/versions");
        let found = std::fs::read_dir(versions).into_iter().flatten().flatten().map(|entry| entry.path());
        pythons.extend(
            found
                .filter(|path| path.to_string_lossy().contains(&format!("/3.{minor}.")))
                .map(|path| path.join("bin/python3")),
        );
    }
    for python in pythons {
        let py: SnakeBridge = start([pool("p", 1).python(&python).affinity(Affinity::StrictQueue)]).await;
        let counter: PyRef = py.call("bridge_helpers", "Counter", ()).into_ref().await.unwrap();
        assert_eq!(counter.call_method("add", (2,)).extract::<i64>().await.unwrap(), 2, "{}", python.display());
        let error = py.call("bridge_helpers", "fail", ()).await.unwrap_err();
        assert_eq!(error.python().unwrap().type_name(), "RuntimeError");
        assert_eq!(code(py.call("bridge_helpers", "die", ("segv",)).await), "worker_crashed");
        py.shutdown().await.unwrap();
    }
}

#[tokio::test]
async fn a_crash_says_how_long_its_call_had_run_and_how_large_the_worker_was() {
    let py = start([pool("p", 1).affinity(Affinity::StrictQueue)]).await;
    let session = py.session("s");
    let began = std::time::Instant::now();
    // Both are sent at once, and the second runs when the first is over.
    let first = session.call("time", "sleep", (0.5,)).discard();
    let second = session.eval("[bytes(b'x' * (64 << 20)), __import__('time').sleep(0.2), __import__('os')._exit(3)]");
    let (first, second) = within("both", futures::future::join(first, second)).await;
    let took = began.elapsed();
    first.unwrap();
    let Error::WorkerCrashed(crash) = second.unwrap_err() else { panic!("no crash") };
    let running_for = crash.running_for;
    assert!(running_for >= Duration::from_millis(200), "{running_for:?}");
    assert!(running_for <= took - Duration::from_millis(500), "{running_for:?} of {took:?}");
    assert!(crash.peak_memory.is_none_or(|bytes| bytes > 64 << 20), "{crash:?}");
    py.shutdown().await.unwrap();
}
