//! Context managers whose block is in Rust.

use crate::support::{Gate, SOON, pool, start, until, within};
use snakebridge::{PyRef, Ran, SessionOptions, SnakeBridge, Value};
use std::time::Duration;

async fn manager(py: &SnakeBridge, class: &str) -> PyRef {
    within("a manager", py.call("open_helpers", class, ()).into_ref()).await.unwrap()
}

async fn events(manager: &PyRef) -> Vec<String> {
    within("its events", manager.getattr("events").extract()).await.unwrap()
}

#[actix::test]
async fn a_block_is_entered_and_left() {
    let py = start([pool("p", 1)]).await;
    let manager = manager(&py, "Manager").await;
    let (inside, guard) = within("an entry", manager.enter()).await.unwrap();
    assert_eq!(inside, Value::from("inside"));
    assert_eq!(events(&manager).await, ["entered"]);
    within("an exit", guard.exit()).await.unwrap();
    assert_eq!(events(&manager).await, ["entered", "left (None, None, None)"]);
    py.shutdown().await.unwrap();
}

#[actix::test]
async fn a_dropped_guard_ends_its_block() {
    let py = start([pool("p", 1)]).await;
    let manager = manager(&py, "Manager").await;
    drop(within("an entry", manager.enter()).await.unwrap());
    until("the end of the block", || async { events(&manager).await.len() == 2 }).await;
    py.shutdown().await.unwrap();
}

#[actix::test]
async fn an_exit_that_is_never_polled_ends_its_block_too() {
    let py = start([pool("p", 1)]).await;
    let manager = manager(&py, "Manager").await;
    let (_, guard) = within("an entry", manager.enter()).await.unwrap();
    drop(guard.exit());
    until("the end of the block", || async { events(&manager).await.len() == 2 }).await;
    py.shutdown().await.unwrap();
}

#[actix::test]
async fn an_asynchronous_manager_is_awaited() {
    let py = start([pool("p", 1)]).await;
    let manager = manager(&py, "AsyncManager").await;
    let (inside, guard) = within("an entry", manager.enter()).await.unwrap();
    assert!(matches!(inside, Value::Ref(_)));
    within("an exit", guard.exit()).await.unwrap();
    assert_eq!(events(&manager).await, ["entered", "left"]);
    py.shutdown().await.unwrap();
}

#[actix::test]
async fn what_an_exit_raises_is_its_error() {
    let py = start([pool("p", 1)]).await;
    let manager = within("a manager", py.call("open_helpers", "Manager", (true,)).into_ref()).await.unwrap();
    let (_, guard) = within("an entry", manager.enter()).await.unwrap();
    let error = within("an exit", guard.exit()).await.unwrap_err();
    assert_eq!(error.python().unwrap().message(), "cannot leave");
    py.shutdown().await.unwrap();
}

#[actix::test]
async fn what_is_no_manager_cannot_be_entered() {
    let py = start([pool("p", 1)]).await;
    let object = within("an object", py.call("builtins", "object", ()).into_ref()).await.unwrap();
    let error = within("an entry", object.enter()).await.unwrap_err();
    let python = error.python().unwrap();
    assert_eq!(python.type_name(), "TypeError");
    assert!(python.message().contains("context manager protocol"), "{python}");
    py.shutdown().await.unwrap();
}

#[actix::test]
async fn a_taint_does_not_keep_a_block_open() {
    let py = start([pool("p", 1)]).await;
    let manager = manager(&py, "Manager").await;
    let (_, guard) = within("an entry", manager.enter()).await.unwrap();
    py.taint(manager.worker(), SOON, "a test").await.unwrap();
    within("an exit", guard.exit()).await.unwrap();
    py.clear_taint(manager.worker()).await.unwrap();
    assert_eq!(events(&manager).await.len(), 2);
    py.shutdown().await.unwrap();
}

#[actix::test]
async fn a_dropped_guard_ends_its_block_also_after_a_long_wait() {
    let py = start([pool("p", 1).cancel_grace(Duration::from_millis(20))]).await;
    let manager = manager(&py, "Manager").await;
    let (_, guard) = within("an entry", manager.enter()).await.unwrap();
    let gate = Gate::new();
    let held = tokio::spawn(py.session("b").call("bridge_helpers", "hold", (gate.path(),)).discard());
    gate.held().await;
    drop(guard);
    // Longer than the grace: another session has the worker.
    let waits = manager.getattr("events").timeout(Duration::from_millis(300)).discard();
    within("a wait", waits).await.unwrap_err();
    gate.open();
    within("the held call", held).await.unwrap().unwrap();
    until("the end of the block", || async { events(&manager).await.len() == 2 }).await;
    py.shutdown().await.unwrap();
}

#[actix::test]
async fn an_exit_that_is_never_polled_ends_its_block() {
    let py = start([pool("p", 1)]).await;
    let manager = manager(&py, "Manager").await;
    let (_, guard) = within("an entry", manager.enter()).await.unwrap();
    drop(guard.exit());
    until("the end of the block", || async { events(&manager).await.len() == 2 }).await;
    py.shutdown().await.unwrap();
}

#[actix::test]
async fn a_block_whose_entry_cannot_be_told_is_ended() {
    let py = start([pool("p", 1)]).await;
    let session = py.session_with("a", SessionOptions::new().max_refs(1));
    let manager = within("a manager", session.call("open_helpers", "AsyncManager", ()).into_ref()).await.unwrap();
    // It calls itself inside what it is, which would be a second ref.
    let error = within("an entry", manager.enter()).await.unwrap_err();
    assert_eq!(error.code(), "ref_limit");
    until("the end of the block", || async { events(&manager).await == ["entered", "left"] }).await;

    let mut entering = Box::pin(manager.enter());
    assert!(futures::poll!(&mut entering).is_pending());
    drop(entering);
    until("the end of the other", || async { events(&manager).await.len() == 4 }).await;
    py.shutdown().await.unwrap();
}

#[actix::test]
async fn a_block_that_is_entered_behind_the_deadline_of_its_entry_is_left_again() {
    let py = start([pool("p", 1).cancel_grace(SOON).timeout(Duration::from_millis(100))]).await;
    let made = py.call("open_helpers", "StubbornManager", ()).timeout(SOON).into_ref();
    let manager = within("a manager", made).await.unwrap();
    let error = within("an entry", manager.enter()).await.unwrap_err();
    assert_eq!((error.code(), error.ran()), ("timeout", Ran::Maybe));
    let events = || async {
        let asked = manager.getattr("events").timeout(SOON).extract::<Vec<String>>();
        within("its events", asked).await.unwrap()
    };
    until("the end of the block", || async { events().await == ["entered", "left"] }).await;
    py.shutdown().await.unwrap();
}
