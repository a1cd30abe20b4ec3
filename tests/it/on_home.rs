//! What a session does in each new home before the call that set it.

use crate::support::{Gate, SOON, code, pool, start, until, within};
use snakebridge::{Affinity, Error, OnWorkerLost, PyRef, Ran, SessionOptions};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Counts how often it ran.
#[derive(Clone, Default)]
struct Count(Arc<AtomicU32>);

impl Count {
    fn more(&self) -> u32 {
        self.0.fetch_add(1, Ordering::SeqCst)
    }

    fn get(&self) -> u32 {
        self.0.load(Ordering::SeqCst)
    }
}

#[actix::test]
async fn it_runs_once_before_the_first_call_however_many_come_at_once() {
    let py = start([pool("p", 2).affinity(Affinity::StrictQueue)]).await;
    let count = Count::default();
    let counted = count.clone();
    let options = SessionOptions::new().on_home(move |session| {
        counted.more();
        async move {
            session.exec("log = ['ready']").await?;
            // What it has made it may use, and a stream too.
            let log: PyRef = session.eval("log").into_ref().await?;
            log.call_method("append", ("twice",)).discard().await
        }
    });
    let session = py.session_with("a", options);
    let calls = (0..20).map(|n| session.eval(format!("log.append({n}) or len(log)")).extract::<u32>());
    let lengths = within("all calls", futures::future::try_join_all(calls)).await.unwrap();
    assert_eq!(lengths, (3..23).collect::<Vec<_>>());
    assert_eq!(count.get(), 1);
    py.shutdown().await.unwrap();
}

#[actix::test]
async fn others_wait_for_it_and_those_that_must_not_are_refused() {
    let py = start([pool("p", 2)]).await;
    let gate = Gate::new();
    let path = gate.path();
    let options = SessionOptions::new().on_home(move |session| {
        let path = path.clone();
        async move { session.call("bridge_helpers", "hold", (path,)).discard().await }
    });
    let session = py.session_with("a", options);
    let first = tokio::spawn(session.call("os", "getpid", ()).extract::<u32>());
    gate.held().await;
    let fast = session.call("os", "getpid", ()).affinity(Affinity::StrictFailFast);
    assert_eq!(code(within("a refusal", fast).await), "worker_busy");
    assert_eq!(code(within("a refusal", session.call("builtins", "range", (3,)).stream::<u8>()).await), "worker_busy");
    let second = session.call("os", "getpid", ()).affinity(Affinity::StrictQueue).extract::<u32>();
    let second = tokio::spawn(second);
    // Another session is not held up by it.
    within("a call beside", py.session("b").call("os", "getpid", ()).discard()).await.unwrap();
    assert!(!first.is_finished() && !second.is_finished());
    gate.open();
    let (first, second) = (within("the first", first).await, within("the second", second).await);
    assert_eq!(first.unwrap().unwrap(), second.unwrap().unwrap());
    py.shutdown().await.unwrap();
}

#[actix::test]
async fn what_fails_it_is_the_error_of_the_call_and_the_next_one_tries_again() {
    let py = start([pool("p", 1).affinity(Affinity::StrictQueue)]).await;
    let count = Count::default();
    let counted = count.clone();
    let options = SessionOptions::new().on_home(move |session| {
        let nth = counted.more();
        async move {
            match nth {
                0 => session.call("builtins", "int", ("x",)).discard().await,
                1 => panic!("on purpose"),
                _ => session.exec("ready = 1").await,
            }
        }
    });
    let session = py.session_with("a", options);
    let error = within("a refusal", session.eval("ready")).await.unwrap_err();
    assert_eq!((error.code(), error.ran()), ("python", Ran::No), "{error}");
    assert_eq!(error.python().unwrap().type_name(), "ValueError");
    assert_eq!(session.home("p").await, None, "the home is forgotten");
    let error = within("a refusal", session.eval("ready")).await.unwrap_err();
    assert_eq!((error.code(), error.ran()), ("internal", Ran::No), "{error}");
    assert_eq!(within("an answer", session.eval("ready").extract::<u8>()).await.unwrap(), 1);
    assert_eq!(count.get(), 3);
    py.shutdown().await.unwrap();
}

#[actix::test]
async fn the_death_of_its_worker_refuses_the_call_and_loses_nothing() {
    let py = start([pool("p", 2).affinity(Affinity::StrictQueue)]).await;
    let count = Count::default();
    let counted = count.clone();
    let options = SessionOptions::new().on_home(move |session| {
        let nth = counted.more();
        async move {
            match nth {
                0 => session.call("os", "_exit", (3,)).discard().await,
                _ => session.exec("ready = 1").await,
            }
        }
    });
    let session = py.session_with("a", options);
    let error = within("a refusal", session.eval("ready")).await.unwrap_err();
    assert_eq!(error.ran(), Ran::No, "{error}");
    // Nothing was there yet that could be lost: no reset is needed.
    assert_eq!(within("an answer", session.eval("ready").extract::<u8>()).await.unwrap(), 1);
    py.shutdown().await.unwrap();
}

#[actix::test]
async fn it_runs_in_each_new_home() {
    let py = start([pool("p", 1), pool("q", 1)]).await;
    let options = SessionOptions::new().on_worker_lost(OnWorkerLost::Rehome).on_home(|session| async move {
        // In the pool of the new home, unless another is named.
        session.exec("import os; ready = os.getpid()").await
    });
    let session = py.session_with("a", options);
    for pool in ["p", "q"] {
        let ready: u32 = within("an answer", session.eval("ready").pool(pool).extract()).await.unwrap();
        let workers = py.workers().await;
        assert!(workers.iter().any(|worker| worker.pid == ready && worker.pool == pool), "{pool}");
    }
    session.call("os", "_exit", (3,)).pool("q").discard().await.unwrap_err();
    within("an answer in the next home", session.eval("ready").pool("q").discard()).await.unwrap();
    py.shutdown().await.unwrap();
}

#[actix::test]
async fn it_counts_against_the_deadline_of_the_call() {
    let py = start([pool("p", 1).cancel_grace(Duration::from_millis(50))]).await;
    let gate = Gate::new();
    let path = gate.path();
    let options = SessionOptions::new().on_home(move |session| {
        let path = path.clone();
        async move { session.call("bridge_helpers", "hold", (path,)).discard().await }
    });
    let session = py.session_with("a", options);
    let call = session.call("os", "getpid", ()).timeout(Duration::from_millis(200));
    let error = within("a timeout", call).await.unwrap_err();
    assert!(matches!(error, Error::Timeout { ran: Ran::No, .. }), "{error}");
    gate.open();
    within("the next call", session.call("os", "getpid", ()).discard()).await.unwrap();
    py.shutdown().await.unwrap();
}

#[actix::test]
async fn a_caller_that_leaves_and_a_session_that_ends_end_it() {
    let py = start([pool("p", 1).cancel_grace(Duration::from_millis(50))]).await;
    let gate = Gate::new();
    let path = gate.path();
    let options = SessionOptions::new().on_home(move |session| {
        let path = path.clone();
        async move { session.call("bridge_helpers", "hold", (path,)).discard().await }
    });
    let session = py.session_with("a", options.clone());
    let left = tokio::spawn(session.call("os", "getpid", ()).discard());
    gate.held().await;
    left.abort();
    until("a forgotten home", || async { session.home("p").await.is_none() }).await;

    let waiting = tokio::spawn(session.call("os", "getpid", ()).discard());
    until("a home", || async { session.home("p").await.is_some() }).await;
    within("a release", session.release()).await.unwrap();
    assert_eq!(code(within("its end", waiting).await.unwrap()), "cancelled");
    gate.open();
    within("a call of the next session", session.call("os", "getpid", ()).discard()).await.unwrap();
    within("a stop", py.shutdown()).await.unwrap();
}

#[actix::test]
async fn a_task_that_it_spawns_is_outside_and_waits() {
    let py = start([pool("p", 1)]).await;
    let options = SessionOptions::new().on_home(|session| async move {
        let outside = tokio::spawn(session.call("os", "getpid", ()).timeout(Duration::from_millis(100)).discard());
        assert_eq!(code(within("a timeout", outside).await.unwrap()), "timeout");
        Ok(())
    });
    let session = py.session_with("a", options);
    within("the call", session.call("os", "getpid", ()).timeout(SOON).discard()).await.unwrap();
    py.shutdown().await.unwrap();
}

#[actix::test]
async fn what_it_calls_on_a_bridge_is_of_its_session_in_the_new_home() {
    let py = start([pool("p", 1), pool("q", 2)]).await;
    let weak = py.downgrade();
    let options = SessionOptions::new().on_home(move |session| {
        let py = weak.upgrade().expect("the bridge runs");
        async move {
            py.exec("import os; ready = os.getpid()").await?;
            let object = py.call("builtins", "object", ()).into_ref().await?;
            assert_eq!(object.session(), session.id());
            Ok(())
        }
    });
    let session = py.session_with("a", options);
    let ready: u32 = within("an answer", session.eval("ready").pool("q").extract()).await.unwrap();
    let home = session.home("q").await;
    assert!(py.workers().await.iter().any(|worker| worker.pid == ready && Some(&worker.id) == home.as_ref()));
    py.shutdown().await.unwrap();
}
