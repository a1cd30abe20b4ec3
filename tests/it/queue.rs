//! The bounds of waiting: size, bytes, time, deadlines, and calls that are given up.

use crate::support::{Busy, Gate, code, pool, start, until, within};
use snakebridge::{Affinity, Bytes, Error, Ran};
use std::time::{Duration, Instant};

#[tokio::test]
async fn a_full_queue_refuses_at_once_and_a_call_that_need_not_wait_is_none_of_it() {
    let py = start([pool("p", 1).affinity(Affinity::StrictQueue).max_queue_size(2)]).await;
    let busy = Busy::new(&py, "s", "p").await;
    let call = || busy.session.call("bridge_helpers", "pid", ()).extract::<u32>();
    let waiting = [tokio::spawn(call()), tokio::spawn(call())];
    until("two to wait", || async { py.stats().await.pools[0].waiting == 2 }).await;
    let error = within("the third", call()).await.unwrap_err();
    assert_eq!((error.code(), error.ran()), ("pool_saturated", Ran::No));
    assert!(error.is_retryable());
    busy.finish().await;
    for call in waiting {
        within("a waiting call", call).await.unwrap().unwrap();
    }
    py.shutdown().await.unwrap();

    let none = start([pool("p", 1).max_queue_size(0)]).await;
    none.call("math", "sqrt", (4,)).discard().await.unwrap();
    none.shutdown().await.unwrap();
}

#[tokio::test]
async fn the_bytes_that_wait_are_bounded_too() {
    let py = start([pool("p", 1).affinity(Affinity::StrictQueue).max_queue_bytes(100_000)]).await;
    let busy = Busy::new(&py, "s", "p").await;
    let call = |size: usize| busy.session.call("builtins", "len", (Bytes::from(vec![0; size]),)).extract::<usize>();
    let waiting = tokio::spawn(call(80_000));
    until("one to wait", || async { py.stats().await.pools[0].waiting == 1 }).await;
    assert_eq!(code(within("one that is too much", call(80_000)).await), "pool_saturated");
    busy.finish().await;
    assert_eq!(within("the waiting call", waiting).await.unwrap().unwrap(), 80_000);
    py.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_call_that_waits_too_long_gets_queue_timeout_and_never_runs() {
    let py = start([pool("p", 1).affinity(Affinity::StrictQueue).queue_timeout(Duration::from_millis(200))]).await;
    let busy = Busy::new(&py, "s", "p").await;
    let begun = Instant::now();
    let error = within("a wait", busy.session.call("bridge_helpers", "append", (1,))).await.unwrap_err();
    assert_eq!((error.code(), error.ran()), ("queue_timeout", Ran::No));
    assert!(begun.elapsed() >= Duration::from_millis(200));
    let own = busy.session.call("bridge_helpers", "append", (2,)).queue_timeout(Duration::from_millis(1));
    assert_eq!(code(within("a shorter wait", own).await), "queue_timeout");
    let session = busy.session.clone();
    busy.finish().await;
    assert_eq!(session.call("bridge_helpers", "log", ()).extract::<Vec<u8>>().await.unwrap(), [0_u8; 0]);
    py.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_deadline_ends_the_wait_of_a_call_that_never_begins() {
    let py = start([pool("p", 1).affinity(Affinity::StrictQueue)]).await;
    let busy = Busy::new(&py, "s", "p").await;
    let call = busy.session.call("bridge_helpers", "append", (1,)).timeout(Duration::from_millis(100));
    let error = within("a deadline", call).await.unwrap_err();
    assert!(matches!(error, Error::Timeout { ran: Ran::No, .. }), "{error:?}");
    assert!(error.is_retryable());
    let session = busy.session.clone();
    busy.finish().await;
    assert_eq!(session.call("bridge_helpers", "log", ()).extract::<Vec<u8>>().await.unwrap(), [0_u8; 0]);
    py.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_deadline_frees_the_caller_and_a_worker_that_does_not_come_back_is_replaced() {
    let py = start([pool("p", 1).cancel_grace(Duration::from_millis(200))]).await;
    let session = py.session("s");
    session.call("math", "sqrt", (4,)).discard().await.unwrap();
    let home = session.home("p").await.unwrap();
    let stuck = session.call("bridge_helpers", "stuck_in_c", ()).timeout(Duration::from_millis(100));
    let error = within("the deadline", stuck).await.unwrap_err();
    assert!(matches!(error, Error::Timeout { ran: Ran::Maybe, .. }), "{error:?}");
    until("the kill", || async { py.workers().await.iter().all(|worker| worker.id != home) }).await;
    py.await_ready(Duration::from_secs(20)).await.unwrap();
    py.call("math", "sqrt", (4,)).discard().await.unwrap();
    py.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_worker_that_comes_back_within_the_grace_lives_on() {
    let py = start([pool("p", 1).cancel_grace(Duration::from_secs(60))]).await;
    let gate = Gate::new();
    let session = py.session("s");
    let held = session.call("bridge_helpers", "hold", (gate.path(),)).timeout(Duration::from_millis(100));
    assert_eq!(code(within("the deadline", held).await), "timeout");
    let home = session.home("p").await.unwrap();
    gate.open();
    within("the next call", session.call("math", "sqrt", (4,)).discard()).await.unwrap();
    assert_eq!(session.home("p").await, Some(home.clone()));
    assert_eq!(py.workers().await[0].id, home);
    py.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_future_that_is_dropped_gives_its_place_in_the_queue_back_and_never_runs() {
    let py = start([pool("p", 1).affinity(Affinity::StrictQueue).max_queue_size(1)]).await;
    let busy = Busy::new(&py, "s", "p").await;
    let waiting = tokio::spawn(busy.session.call("bridge_helpers", "append", (1,)).discard());
    until("it to wait", || async { py.stats().await.pools[0].waiting == 1 }).await;
    waiting.abort();
    until("its place to be free", || async { py.stats().await.pools[0].waiting == 0 }).await;
    let session = busy.session.clone();
    busy.finish().await;
    assert_eq!(session.call("bridge_helpers", "log", ()).extract::<Vec<u8>>().await.unwrap(), [0_u8; 0]);
    py.shutdown().await.unwrap();
}

#[tokio::test]
async fn waiting_calls_of_one_session_keep_their_order() {
    let py = start([pool("p", 2).affinity(Affinity::StrictQueue)]).await;
    let busy = Busy::new(&py, "s", "p").await;
    let mut calls = Vec::new();
    for n in 0..200 {
        let mut call = Box::pin(busy.session.call("bridge_helpers", "append", (n,)).extract::<usize>());
        // Submitted at its first poll.
        assert!(futures::poll!(&mut call).is_pending());
        calls.push(call);
    }
    let session = busy.session.clone();
    busy.finish().await;
    for call in calls {
        within("a call in line", call).await.unwrap();
    }
    let log: Vec<i32> = session.call("bridge_helpers", "log", ()).extract().await.unwrap();
    assert_eq!(log, (0..200).collect::<Vec<_>>());
    py.shutdown().await.unwrap();
}

/// The block of a call that never began was once kept for ever, and the 65th stopped every large call.
#[tokio::test]
async fn large_calls_that_never_begin_give_their_memory_back() {
    let py = start([pool("p", 1).affinity(Affinity::StrictQueue)]).await;
    let session = py.session("s");
    let large = Bytes::from(vec![1; 100_000]);
    for _ in 0..70 {
        let gate = Gate::new();
        let held = tokio::spawn(session.call("bridge_helpers", "hold", (gate.path(), 7)).discard());
        gate.held().await;
        let late = session.call("builtins", "len", (&large,)).timeout(Duration::from_millis(5));
        assert_eq!(code(late.discard().await), "timeout");
        gate.open();
        within("the held call", held).await.unwrap().unwrap();
    }
    let length = within("a large call", session.call("builtins", "len", (&large,)).extract::<usize>()).await;
    assert_eq!(length.unwrap(), 100_000);
    py.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_limit_of_duration_max_is_no_limit() {
    let never = Duration::MAX;
    let config = pool("p", 1).queue_timeout(never).timeout(never).cancel_grace(never).retire_grace(never);
    let config =
        config.start_timeout(never).shutdown_grace(never).restart_budget(3, never).restart_backoff(never, never);
    let py = start([config.affinity(Affinity::StrictQueue)]).await;
    let busy = Busy::new(&py, "s", "p").await;
    let call = busy.session.call("math", "sqrt", (4,)).timeout(never).queue_timeout(never);
    let waiting = tokio::spawn(call.discard());
    until("it to wait", || async { py.stats().await.pools[0].waiting == 1 }).await;
    py.taint(&busy.home, never, "a test").await.unwrap();
    py.clear_taint(&busy.home).await.unwrap();
    busy.finish().await;
    // Strict, and its home was tainted while it waited.
    assert_eq!(code(within("the waiting call", waiting).await.unwrap()), "session_worker_unavailable");
    py.await_ready(never).await.unwrap();
    within("the shutdown", py.shutdown()).await.unwrap();
}
