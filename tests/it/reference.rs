//! The behaviour that was asked for, sentence by sentence; `docs/semantics.md` has the table.

use crate::support::{Busy, Gate, code, kill, pid, pool, start, until, within};
use futures::StreamExt;
use snakebridge::{Affinity, Config, Event, Fact, PyRef, SnakeBridge};
use std::time::Duration;

const MODES: [Affinity; 3] = [Affinity::Hint, Affinity::StrictQueue, Affinity::StrictFailFast];

/// Affinity modes: hint.
#[tokio::test]
async fn hint_goes_to_another_worker_when_the_home_is_busy() {
    let py = start([pool("p", 2)]).await;
    let busy = Busy::new(&py, "a", "p").await;
    let home = worker_pid(&py, &busy.home).await;
    let elsewhere = within("a hint call beside a busy home", pid(&busy.session)).await.unwrap();
    assert_ne!(elsewhere, home);
    assert_eq!(busy.session.home("p").await, Some(busy.home.clone()), "a fall-back never moves a home");
    busy.finish().await;
    py.shutdown().await.unwrap();
}

/// Affinity modes: strict_queue.
#[tokio::test]
async fn strict_queue_waits_until_the_home_is_free() {
    let py = start([pool("p", 2).affinity(Affinity::StrictQueue)]).await;
    let busy = Busy::new(&py, "a", "p").await;
    let home = worker_pid(&py, &busy.home).await;
    let session = busy.session.clone();
    let waiting = tokio::spawn(async move { pid(&session).await });
    until("the call to wait", || async { py.stats().await.pools[0].waiting == 1 }).await;
    assert!(!waiting.is_finished());
    busy.finish().await;
    assert_eq!(within("the waiting call", waiting).await.unwrap().unwrap(), home);
    py.shutdown().await.unwrap();
}

/// Affinity modes: strict_fail_fast.
#[tokio::test]
async fn strict_fail_fast_is_refused_at_once_when_the_home_is_busy() {
    let py = start([pool("p", 2).affinity(Affinity::StrictFailFast)]).await;
    let busy = Busy::new(&py, "a", "p").await;
    assert_eq!(code(within("a fail-fast call", pid(&busy.session)).await), "worker_busy");
    busy.finish().await;
    py.shutdown().await.unwrap();
}

/// "When the preferred worker is missing or tainted, strict modes return session_worker_unavailable."
#[tokio::test]
async fn strict_modes_are_refused_when_the_home_is_tainted() {
    let py = start([pool("p", 2)]).await;
    for mode in MODES {
        let session = py.session(format!("{mode}"));
        let first = pid(&session).await.unwrap();
        let home = session.home("p").await.unwrap();
        py.taint(&home, Duration::from_secs(60), "a test").await.unwrap();
        let outcome = session.call("bridge_helpers", "pid", ()).affinity(mode).extract::<u32>().await;
        match mode {
            Affinity::Hint => assert_ne!(outcome.unwrap(), first, "a hint goes to the other worker"),
            _ => assert_eq!(code(outcome), "session_worker_unavailable"),
        }
        py.clear_taint(&home).await.unwrap();
        let again = session.call("bridge_helpers", "pid", ()).affinity(mode).extract::<u32>().await;
        assert_eq!(again.unwrap(), first, "the taint has ended, the home is as it was");
    }
    py.shutdown().await.unwrap();
}

/// The same for a home that is gone.
#[tokio::test]
async fn strict_modes_are_refused_when_the_home_is_gone_and_say_what_to_do() {
    let py = start([pool("p", 2)]).await;
    for mode in MODES {
        let session = py.session(format!("{mode}"));
        let first = pid(&session).await.unwrap();
        let home = session.home("p").await.unwrap();
        kill(first);
        until_exited(&py, &home).await;
        let outcome = session.call("bridge_helpers", "pid", ()).affinity(mode).extract::<u32>().await;
        if mode == Affinity::Hint {
            assert_ne!(outcome.unwrap(), first);
        } else {
            let error = outcome.unwrap_err();
            assert_eq!(error.code(), "session_worker_unavailable");
            assert!(error.to_string().contains("reset the session"), "{error}");
            session.reset().await.unwrap();
            session.call("bridge_helpers", "pid", ()).affinity(mode).extract::<u32>().await.unwrap();
        }
        py.await_ready(Duration::from_secs(20)).await.unwrap();
    }
    py.shutdown().await.unwrap();
}

/// Configuration: single pool.
#[tokio::test]
async fn a_single_pool_is_configured_with_its_size_and_affinity() {
    let py = SnakeBridge::from_config(Config::single(2, Affinity::StrictQueue)).await.unwrap();
    let stats = py.stats().await;
    assert_eq!((stats.pools[0].name.as_str(), stats.pools[0].size), ("default", 2));
    let session = py.session("a");
    session.call("math", "sqrt", (4,)).discard().await.unwrap();
    let home = session.home("default").await.unwrap();
    py.taint(&home, Duration::from_secs(60), "a test").await.unwrap();
    assert_eq!(code(session.call("math", "sqrt", (4,)).await), "session_worker_unavailable", "strict by default");
    py.shutdown().await.unwrap();
}

/// Configuration: multi-pool with per-pool affinity; select a pool per call.
#[tokio::test]
async fn each_pool_has_its_own_affinity_and_a_call_selects_its_pool() {
    let strict = pool("strict_pool", 2).affinity(Affinity::StrictFailFast);
    let py = start([pool("hint_pool", 2), strict]).await;
    let in_hint = Busy::new(&py, "a", "hint_pool").await;
    let in_strict = Busy::new(&py, "b", "strict_pool").await;
    within("a hint call", pid(&in_hint.session)).await.unwrap();
    let refused = in_strict.session.call("bridge_helpers", "pid", ()).pool("strict_pool");
    assert_eq!(code(refused.await), "worker_busy");
    let root: f64 = py.call("math", "sqrt", (16,)).pool("strict_pool").extract().await.unwrap();
    assert_eq!(root, 4.0);
    in_hint.finish().await;
    in_strict.finish().await;
    py.shutdown().await.unwrap();
}

/// "Refs retain the originating pool_name."
#[tokio::test]
async fn a_ref_is_called_in_the_pool_and_worker_that_hold_it_though_no_pool_is_named() {
    let py = start([pool("one", 1), pool("two", 1)]).await;
    let path: PyRef = py.call("pathlib", "Path", (".",)).pool("two").into_ref().await.unwrap();
    assert_eq!(path.pool().as_str(), "two");
    assert!(path.call_method("exists", ()).extract::<bool>().await.unwrap());
    let wrong = path.call_method("exists", ()).pool("one");
    assert_eq!(code(wrong.await), "refs_on_different_workers");
    py.shutdown().await.unwrap();
}

/// Per-call overrides, also on a ref in multi-pool mode.
#[tokio::test]
async fn any_call_may_override_the_affinity_of_its_pool() {
    let py = start([pool("one", 1), pool("strict_pool", 2).affinity(Affinity::StrictQueue)]).await;
    let busy = Busy::new(&py, "a", "strict_pool").await;
    let fail_fast = || busy.session.call("bridge_helpers", "pid", ()).pool("strict_pool");
    assert_eq!(code(fail_fast().affinity(Affinity::StrictFailFast).await), "worker_busy");
    let elsewhere: u32 = within("a hint call", fail_fast().affinity(Affinity::Hint).extract()).await.unwrap();
    assert_ne!(elsewhere, worker_pid(&py, &busy.home).await);
    busy.finish().await;

    let path: PyRef = py.call("pathlib", "Path", (".",)).pool("strict_pool").into_ref().await.unwrap();
    let exists = path.call_method("exists", ()).pool("strict_pool").affinity(Affinity::Hint);
    assert!(exists.extract::<bool>().await.unwrap());
    py.shutdown().await.unwrap();
}

/// Auto-sessions: a clone of the handle is another owner.
#[tokio::test]
async fn a_call_without_a_session_runs_in_the_automatic_session_of_its_handle() {
    let py = start([pool("p", 1)]).await;
    let other = py.clone();
    assert_ne!(py.current_session(), other.current_session());
    let counter: PyRef = py.call("bridge_helpers", "Counter", ()).into_ref().await.unwrap();
    assert_eq!(*counter.session(), py.current_session());
    let theirs: PyRef = other.call("bridge_helpers", "Counter", ()).into_ref().await.unwrap();
    assert_eq!(*theirs.session(), other.current_session());
    assert_eq!(code(py.call("operator", "eq", (&counter, &theirs)).await), "session_mismatch");
    py.shutdown().await.unwrap();
}

/// "Affinity applies once the session is established (after the first call assigns a preferred worker)."
#[tokio::test]
async fn the_first_call_of_an_automatic_session_sets_its_home_and_the_next_go_there() {
    let py = start([pool("p", 2).affinity(Affinity::StrictQueue)]).await;
    assert_eq!(py.session(py.current_session()).home("p").await, None);
    let first: u32 = py.call("bridge_helpers", "pid", ()).extract().await.unwrap();
    let session = py.session(py.current_session());
    let home = session.home("p").await.unwrap();
    for _ in 0..20 {
        assert_eq!(py.call("bridge_helpers", "pid", ()).extract::<u32>().await.unwrap(), first);
    }
    assert_eq!(session.home("p").await, Some(home));
    py.shutdown().await.unwrap();
}

/// "Use strict affinity defaults when refs must never move across workers."
#[tokio::test]
async fn refs_never_move_under_any_mode() {
    let py = start([pool("p", 2)]).await;
    let session = py.session("a");
    let counter: PyRef = session.call("bridge_helpers", "Counter", ()).into_ref().await.unwrap();
    let gate = Gate::new();
    let held = tokio::spawn(counter.call_method("hold", (gate.path(),)).discard());
    gate.held().await;
    let fast = counter.call_method("add", ()).affinity(Affinity::StrictFailFast);
    assert_eq!(code(fast.await), "worker_busy");
    let waiting: Vec<_> = [Affinity::Hint, Affinity::StrictQueue]
        .map(|mode| tokio::spawn(counter.call_method("add", ()).affinity(mode).extract::<i64>()))
        .into();
    until("both to wait", || async { py.stats().await.pools[0].waiting == 2 }).await;
    gate.open();
    held.await.unwrap().unwrap();
    let mut counts = Vec::new();
    for call in waiting {
        counts.push(within("a ref call", call).await.unwrap().unwrap());
    }
    assert_eq!(counts, [1, 2], "both came to the one object");
    py.shutdown().await.unwrap();
}

/// "Cleanup also emits session cleanup telemetry events."
#[tokio::test]
async fn the_end_of_a_session_emits_one_cleanup_event_with_reason_and_counts() {
    let py = start([pool("p", 1)]).await;
    let mut events = py.events();
    let session = py.session("gone");
    let kept: Vec<PyRef> = vec![
        session.call("bridge_helpers", "Counter", ()).into_ref().await.unwrap(),
        session.call("bridge_helpers", "Counter", ()).into_ref().await.unwrap(),
    ];
    session.release().await.unwrap();
    let event = within("the event", next_cleanup(&mut events)).await;
    let json = serde_json::to_value(&event).unwrap();
    assert_eq!(json["name"], "snakebridge.session.cleanup");
    assert_eq!((&json["session"], &json["reason"], &json["refs"]), (&"gone".into(), &"released".into(), &2.into()));
    assert_eq!(code(kept[0].call_method("add", ()).await), "ref_not_found");
    drop(kept);

    let other = py.clone();
    other.call("math", "sqrt", (4,)).discard().await.unwrap();
    drop(other);
    let event = within("the event", next_cleanup(&mut events)).await;
    assert_eq!(serde_json::to_value(&event).unwrap()["reason"], "owner_dropped");
    py.shutdown().await.unwrap();
}

/// "Session cleanup logs are opt-in via session_cleanup_log_level."
#[tokio::test]
async fn the_end_of_a_session_is_logged_only_if_a_level_is_set() {
    use snakebridge::LogLevel;
    // A log line that a thread without a subscriber meets first may be off for the whole process.
    if !crate::support::alone("reference::the_end_of_a_session_is_logged_only_if_a_level_is_set") {
        return;
    }
    for (level, lines) in [(LogLevel::Off, 0), (LogLevel::Debug, 1)] {
        let log = crate::support::Log::capture("snakebridge::session");
        let config = Config::single(1, Affinity::Hint).session_cleanup_log_level(level);
        log.on_actix(async move {
            let py = SnakeBridge::from_config(config).await.unwrap();
            let session = py.session("logged");
            session.call("math", "sqrt", (4,)).discard().await.unwrap();
            session.release().await.unwrap();
            py.shutdown().await.unwrap();
        });
        let found = log.lines().iter().filter(|line| line.contains("logged")).count();
        assert_eq!(found, lines, "at level {level:?}: {:?}", log.lines());
    }
}

async fn next_cleanup(events: &mut (impl futures::Stream<Item = Event> + Unpin)) -> Event {
    loop {
        let event = events.next().await.unwrap();
        if matches!(event.fact(), Fact::SessionCleanup { .. }) {
            return event;
        }
    }
}

async fn worker_pid(py: &SnakeBridge, worker: &snakebridge::WorkerId) -> u32 {
    py.workers().await.into_iter().find(|found| found.id == *worker).unwrap().pid
}

async fn until_exited(py: &SnakeBridge, worker: &snakebridge::WorkerId) {
    until("the exit to be seen", || async { py.workers().await.iter().all(|found| found.id != *worker) }).await;
}
