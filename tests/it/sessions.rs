//! Sessions and refs: who holds what, and when it ends.

use crate::support::{Gate, alone, code, kill, pid, pool, start, until, within};
use futures::future::join_all;
use snakebridge::{
    Affinity, Config, OnWorkerLost, PoolConfig, PyRef, Ran, SessionOptions, SessionStatus, SnakeBridge, Value,
};
use std::time::Duration;

#[tokio::test]
async fn handles_of_one_id_speak_to_the_same_session() {
    let py = start([pool("p", 4).affinity(Affinity::StrictQueue)]).await;
    let first = pid(&py.session("s")).await.unwrap();
    for _ in 0..10 {
        assert_eq!(pid(&py.session("s")).await.unwrap(), first);
        let named: u32 = py.call("bridge_helpers", "pid", ()).session("s").extract().await.unwrap();
        assert_eq!(named, first);
    }
    py.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_call_after_the_release_starts_a_new_session() {
    let py = start([pool("p", 1)]).await;
    let session = py.session("s");
    let counter: PyRef = session.call("bridge_helpers", "Counter", ()).into_ref().await.unwrap();
    session.release().await.unwrap();
    assert!(py.sessions().await.is_empty());
    let next: PyRef = session.call("bridge_helpers", "Counter", ()).into_ref().await.unwrap();
    assert_eq!(next.session(), counter.session(), "the id is the same");
    assert_eq!(code(counter.call_method("add", ()).await), "ref_not_found", "the incarnation is not");
    assert_eq!(code(session.call("operator", "eq", (&counter, &next)).await), "ref_not_found");
    assert_eq!(next.call_method("add", ()).extract::<i64>().await.unwrap(), 1);
    py.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_release_cancels_what_waits_lets_finish_what_runs_and_frees_what_that_returns() {
    let py = start([pool("p", 1).affinity(Affinity::StrictQueue)]).await;
    let session = py.session("s");
    let gate = Gate::new();
    let counter: PyRef = session.call("bridge_helpers", "Counter", ()).into_ref().await.unwrap();
    let running = tokio::spawn(counter.call_method("hold", (gate.path(), 7)).into_ref());
    gate.held().await;
    let waiting: Vec<_> = (0..5).map(|_| tokio::spawn(session.call("math", "sqrt", (4,)).discard())).collect();
    until("five to wait", || async { py.stats().await.pools[0].waiting == 5 }).await;
    let release = tokio::spawn(session.release());
    for call in waiting {
        let error = within("a waiting call", call).await.unwrap().unwrap_err();
        assert_eq!((error.code(), error.ran()), ("cancelled", Ran::No));
    }
    gate.open();
    let returned = within("the running call", running).await.unwrap().unwrap();
    within("the release", release).await.unwrap().unwrap();
    assert_eq!(code(returned.repr().await), "ref_not_found");
    until("its refs to be freed", || async { py.stats().await.refs == 0 }).await;
    py.shutdown().await.unwrap();
}

#[tokio::test]
async fn an_object_is_freed_when_the_last_clone_of_its_handle_goes() {
    let py = start([pool("p", 1)]).await;
    let tracked: PyRef = py.call("bridge_helpers", "Tracked", ()).into_ref().await.unwrap();
    let live = || py.call("bridge_helpers", "tracked_live", ()).extract::<i64>();
    let clone = tracked.clone();
    drop(tracked);
    assert_eq!(live().await.unwrap(), 1);
    assert!(clone.repr().await.is_ok());
    drop(clone);
    until("the object to be freed", || async { live().await.unwrap() == 0 }).await;
    until("the pool to know", || async { py.workers().await[0].refs == 0 }).await;
    py.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_result_that_nobody_takes_frees_its_objects() {
    let py = start([pool("p", 1)]).await;
    let live = || py.call("bridge_helpers", "tracked_live", ()).extract::<i64>();
    // Decoded, but not as what holds it.
    assert_eq!(code(py.call("bridge_helpers", "Tracked", ()).extract::<i64>().await), "convert");
    until("the object to be freed", || async { live().await.unwrap() == 0 }).await;
    // Answered after its caller left.
    let gate = Gate::new();
    let counter: PyRef = py.call("bridge_helpers", "Counter", ()).into_ref().await.unwrap();
    let left = tokio::spawn(counter.call_method("hold", (gate.path(), 1)).into_ref());
    gate.held().await;
    left.abort();
    gate.open();
    drop(counter);
    until("every object to be freed", || async { py.workers().await[0].refs == 0 && py.stats().await.refs == 0 }).await;
    py.shutdown().await.unwrap();
}

#[tokio::test]
async fn refs_keep_their_shape_inside_values() {
    let py = start([pool("p", 1)]).await;
    let counter: PyRef = py.call("bridge_helpers", "Counter", ()).into_ref().await.unwrap();
    let nested = py.call("builtins", "dict", ()).kwarg("a", (1, &counter)).kwarg("b", vec![&counter]);
    let value: Value = nested.await.unwrap();
    let Value::Tuple(pair) = &value["a"] else { panic!("{value}") };
    assert_eq!(pair[0], Value::Int(1));
    let inner = pair[1].as_pyref().unwrap().clone();
    assert_eq!(inner.call_method("add", (5,)).extract::<i64>().await.unwrap(), 5);
    assert_eq!(counter.getattr("count").extract::<i64>().await.unwrap(), 5, "the same object");
    py.shutdown().await.unwrap();
}

#[tokio::test]
async fn the_call_that_would_make_one_ref_too_many_fails_with_ref_limit() {
    let py = start([pool("p", 1)]).await;
    let session = py.session_with("s", SessionOptions::new().max_refs(3));
    let make = || session.call("bridge_helpers", "Counter", ()).into_ref();
    let mut kept = Vec::new();
    for _ in 0..3 {
        kept.push(make().await.unwrap());
    }
    assert_eq!(code(make().await), "ref_limit");
    kept.pop();
    make().await.expect("room for one again");
    py.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_session_ends_by_its_ttl_once_nothing_holds_it() {
    let py = start([pool("p", 1)]).await;
    let options = SessionOptions::new().ttl(Duration::from_millis(50));
    let session = py.session_with("short", options);
    let counter: PyRef = session.call("bridge_helpers", "Counter", ()).into_ref().await.unwrap();
    drop(session);
    tokio::time::sleep(Duration::from_millis(150)).await;
    assert_eq!(counter.call_method("add", ()).extract::<i64>().await.unwrap(), 1, "a ref holds it");
    drop(counter);
    until("the session to expire", || async { py.sessions().await.is_empty() }).await;
    py.shutdown().await.unwrap();
}

#[tokio::test]
async fn past_max_sessions_the_longest_unused_ends_and_if_all_are_held_the_new_one_is_refused() {
    let config = Config::single(1, Affinity::Hint).max_sessions(2);
    let py = SnakeBridge::from_config(config).await.unwrap();
    let call = |id: &'static str| py.call("math", "sqrt", (4,)).session(id).discard();
    call("first").await.unwrap();
    call("second").await.unwrap();
    call("third").await.unwrap();
    let ids: Vec<String> = py.sessions().await.iter().map(|session| session.id.to_string()).collect();
    assert_eq!(ids, ["second", "third"]);
    let held = [py.session("second"), py.session("third")];
    for session in &held {
        session.call("math", "sqrt", (4,)).discard().await.unwrap();
    }
    assert_eq!(code(call("fourth").await), "session_limit");
    drop(held);
    call("fourth").await.unwrap();
    py.shutdown().await.unwrap();
}

#[tokio::test]
async fn on_worker_lost_rehome_finds_a_new_home_without_reset() {
    for (pool_says, session_says) in [(true, None), (false, Some(OnWorkerLost::Rehome))] {
        let mut config = pool("p", 1).affinity(Affinity::StrictQueue);
        if pool_says {
            config = config.on_worker_lost(OnWorkerLost::Rehome);
        }
        let py = start([config]).await;
        let mut options = SessionOptions::new();
        if let Some(then) = session_says {
            options = options.on_worker_lost(then);
        }
        let session = py.session_with("s", options);
        let first = pid(&session).await.unwrap();
        kill(first);
        until("the replacement", || async { py.workers().await.iter().any(|worker| worker.pid != first) }).await;
        assert_ne!(within("a rehomed call", pid(&session)).await.unwrap(), first);
        py.shutdown().await.unwrap();
    }
}

#[tokio::test]
async fn clearing_the_automatic_session_frees_it_and_the_next_call_makes_another() {
    let py = start([pool("p", 1)]).await;
    let first = py.current_session();
    let counter: PyRef = py.call("bridge_helpers", "Counter", ()).into_ref().await.unwrap();
    py.clear_auto_session().await.unwrap();
    assert_eq!(code(counter.call_method("add", ()).await), "ref_not_found");
    assert_ne!(py.current_session(), first);
    py.call("math", "sqrt", (4,)).discard().await.unwrap();
    py.shutdown().await.unwrap();
}

#[tokio::test]
async fn the_actor_of_a_session_answers_how_it_is_doing() {
    let py = start([pool("p", 1)]).await;
    assert!(py.session_addr("s").is_none());
    let session = py.session("s");
    let _counter: PyRef = session.call("bridge_helpers", "Counter", ()).into_ref().await.unwrap();
    let report = py.session_addr("s").unwrap().send(SessionStatus).await.unwrap();
    assert_eq!((report.id.as_str(), report.waiting, report.refs), ("s", 0, 1));
    assert_eq!(report.pools, ["p"]);
    py.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_second_release_waits_for_the_first() {
    let py = start([pool("p", 1)]).await;
    let session = py.session("s");
    let gate = Gate::new();
    let running = tokio::spawn(session.call("bridge_helpers", "hold", (gate.path(),)).discard());
    gate.held().await;
    let first = tokio::spawn(session.release());
    until("the session to end", || async { py.session_addr("s").is_none() }).await;
    let mut second = Box::pin(session.release());
    assert!(futures::poll!(&mut second).is_pending());
    gate.open();
    within("the second release", second).await.unwrap();
    within("the first release", first).await.unwrap().unwrap();
    within("the running call", running).await.unwrap().unwrap();
    session.release().await.expect("a third finds nothing to do");
    py.shutdown().await.unwrap();
}

/// Eight threads, ten thousand sessions, a hundred thousand calls: nothing is left.
#[test]
fn ten_thousand_sessions_and_a_hundred_thousand_calls_leave_nothing() {
    if !alone("sessions::ten_thousand_sessions_and_a_hundred_thousand_calls_leave_nothing") {
        return;
    }
    let (threads, sessions, calls) = (8, 1_250, 10);
    let system = tokio::runtime::Runtime::new().unwrap();
    let py = system.block_on(async {
        SnakeBridge::builder()
            .pool(PoolConfig::new("p").size(2).affinity(Affinity::StrictQueue).max_queue_size(100_000))
            .start()
            .await
            .unwrap()
    });
    let fds = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    system.block_on(py.call("math", "sqrt", (4,)).discard()).unwrap();
    let before = fds();
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let py = py.clone();
            // No runtime here: a call needs none.
            scope.spawn(move || {
                futures::executor::block_on(async {
                    for n in 0..sessions / 10 {
                        let each = (0..10).map(|m| {
                            let session = py.session(format!("{thread}-{n}-{m}"));
                            async move {
                                let counter: PyRef =
                                    session.call("collections", "Counter", ()).into_ref().await.unwrap();
                                for _ in 2..calls {
                                    counter.call_method("total", ()).extract::<i64>().await.unwrap();
                                }
                                session.call("math", "sqrt", (4,)).extract::<f64>().await.unwrap();
                                if m % 2 == 0 {
                                    drop(counter);
                                }
                                session.release().await.unwrap();
                            }
                        });
                        join_all(each).await;
                    }
                });
            });
        }
    });
    system.block_on(async {
        py.clear_auto_session().await.unwrap();
        until("every ref to be freed", || async {
            py.stats().await.refs == 0 && py.workers().await.iter().all(|worker| worker.refs == 0)
        })
        .await;
        assert!(py.sessions().await.is_empty());
        let stats = py.stats().await;
        assert_eq!((stats.sessions, stats.pools[0].waiting, stats.pools[0].busy), (0, 0, 0));
        assert_eq!(stats.pools[0].finished, (threads * sessions * calls) as u64 + 1);
        assert!(py.workers().await.iter().all(|worker| worker.sessions == 0));
        assert_eq!(fds(), before);
        py.shutdown().await.unwrap();
    });
}
