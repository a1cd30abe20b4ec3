//! Calls that may run once more, should their worker die.

use crate::support::{Dir, SOON, code, pool, start, within};
use snakebridge::{Affinity, PyRef, Ran, Result, SnakeBridge};
use std::path::PathBuf;
use std::time::Duration;

/// Where each run leaves a line.
struct Runs {
    path: PathBuf,
    _dir: Dir,
}

impl Runs {
    fn new() -> Self {
        let dir = Dir::new();
        Self { path: dir.0.join("runs"), _dir: dir }
    }

    fn path(&self) -> &str {
        self.path.to_str().unwrap()
    }

    fn count(&self) -> usize {
        std::fs::read_to_string(&self.path).unwrap_or_default().lines().count()
    }
}

async fn bridge(affinity: Affinity) -> SnakeBridge {
    start([pool("p", 2).affinity(affinity).restart_budget(1_000, Duration::from_secs(1))]).await
}

#[tokio::test]
async fn one_that_had_begun_runs_once_more_and_only_if_it_is_marked() {
    let py = bridge(Affinity::Hint).await;
    for _ in 0..10 {
        let runs = Runs::new();
        let call = || py.call("bridge_helpers", "die_first", (1, runs.path()));
        assert_eq!(within("the call", call().idempotent().extract::<usize>()).await.unwrap(), 2);
        assert_eq!(runs.count(), 2);
        let runs = Runs::new();
        let call = py.call("bridge_helpers", "die_first", (1, runs.path()));
        assert_eq!(code(within("the call", call.discard()).await), "worker_crashed");
        assert_eq!(runs.count(), 1);
    }
    py.shutdown().await.unwrap();
}

#[tokio::test]
async fn it_runs_at_most_twice() {
    let py = bridge(Affinity::Hint).await;
    let runs = Runs::new();
    let call = py.call("bridge_helpers", "die_first", (9, runs.path())).idempotent();
    let error = within("the call", call.discard()).await.unwrap_err();
    assert_eq!((error.code(), error.ran(), runs.count()), ("worker_crashed", Ran::Maybe, 2));
    py.shutdown().await.unwrap();
}

#[tokio::test]
async fn one_that_is_bound_to_its_worker_or_part_of_something_else_never_runs_again() {
    let py = bridge(Affinity::Hint).await;
    let session = || py.session("s");
    let counter = || session().call("bridge_helpers", "Counter", ()).into_ref();
    let once = |runs: &Runs| py.call("bridge_helpers", "die_first", (1, runs.path())).idempotent();
    let check = |runs: &Runs, outcome: Result<()>| assert_eq!((code(outcome), runs.count()), ("worker_crashed", 1));

    // What never waits needs a worker that is there.
    let ready = || py.await_ready(SOON);
    for affinity in [Affinity::StrictQueue, Affinity::StrictFailFast] {
        let runs = Runs::new();
        ready().await.unwrap();
        let call = once(&runs).affinity(affinity).session(affinity.to_string());
        check(&runs, within("a strict call", call.discard()).await);
    }
    let runs = Runs::new();
    let held: PyRef = counter().await.unwrap();
    let call = session().call("bridge_helpers", "die_first", (1, runs.path(), &held)).idempotent();
    check(&runs, within("a call with a ref", call.discard()).await);
    session().release().await.unwrap();

    let runs = Runs::new();
    let code = format!("__import__('bridge_helpers').die_first(1, {:?})", runs.path());
    check(&runs, within("one in a namespace", session().eval(code).idempotent().discard()).await);
    session().release().await.unwrap();

    let runs = Runs::new();
    ready().await.unwrap();
    check(&runs, within("a stream", once(&runs).stream::<i64>()).await.map(drop));

    let runs = Runs::new();
    let (inner, path) = (py.downgrade(), runs.path().to_owned());
    py.register("inner", move |()| {
        let call = inner.upgrade().unwrap().call("bridge_helpers", "die_first", (1, &path)).idempotent();
        async move { Ok(call.discard().await.err().map(|error| error.code().to_owned())) }
    })
    .unwrap();
    // It runs on top of the call that waits for it, and takes that with it.
    let outer = py.eval("__import__('snakebridge').host.call('inner')");
    check(&runs, within("one in a callback", outer.discard()).await);
    py.shutdown().await.unwrap();
}

#[tokio::test]
async fn one_that_gets_no_second_run_does_not_say_that_it_never_began() {
    let py = start([pool("p", 1).restart_budget(0, Duration::from_secs(60))]).await;
    let runs = Runs::new();
    let call = py.call("bridge_helpers", "die_first", (1, runs.path())).idempotent();
    let error = within("the call", call.discard()).await.unwrap_err();
    assert_eq!((error.code(), error.ran(), runs.count()), ("worker_crashed", Ran::Maybe, 1));
    py.shutdown().await.unwrap();
}

#[tokio::test]
async fn the_wait_for_its_second_run_is_within_its_deadline() {
    let pool = pool("p", 1).restart_budget(9, Duration::from_secs(60)).init("bridge_helpers:sleep_if_told");
    let told = Runs::new();
    let py = start([pool.env("SLEEP_IF", told.path())]).await;
    std::fs::write(&told.path, "").unwrap();
    let runs = Runs::new();
    let call = py.call("bridge_helpers", "die_first", (1, runs.path())).idempotent();
    let error = within("the call", call.timeout(Duration::from_millis(500)).discard()).await.unwrap_err();
    assert_eq!((error.code(), error.ran(), runs.count()), ("timeout", Ran::Maybe, 1));
    py.shutdown().await.unwrap();
}
