//! `exec` and `eval`: one namespace for each session and pool, in one worker, for as long as the session.

use crate::support::{Gate, code, kill, pool, start, until, within};
use futures::TryStreamExt;
use futures::future::join_all;
use snakebridge::{Affinity, OnWorkerLost, PyRef, Ran, Session, SessionOptions, SnakeBridge, Value, WorkerId};
use std::collections::BTreeSet;
use std::time::Duration;

#[tokio::test]
async fn what_exec_binds_later_calls_of_the_session_find_under_every_affinity() {
    let py = start([pool("p", 4)]).await;
    for affinity in [Affinity::Hint, Affinity::StrictQueue, Affinity::StrictFailFast] {
        let session = py.session(format!("{affinity}"));
        session.exec("total = 0").affinity(affinity).await.unwrap();
        for n in 1..=20 {
            session.exec("total += 1").affinity(affinity).await.unwrap();
            assert_eq!(session.eval("total").affinity(affinity).extract::<i64>().await.unwrap(), n);
        }
    }
    py.exec("word = 'of the automatic session'").await.unwrap();
    assert_eq!(py.eval(" \tword.split()[-1]").await.unwrap(), Value::from("session"));
    py.shutdown().await.unwrap();
}

#[tokio::test]
async fn functions_and_classes_have_the_namespace_as_their_globals_and_it_is_a_module_of_its_own() {
    let py = start([pool("p", 1)]).await;
    let session = py.session("s");
    session.exec(PROGRAM).await.unwrap();
    assert_eq!(session.eval("total(Point(1, 2))").extract::<i64>().await.unwrap(), 13);
    session.exec("offset = 100").await.unwrap();
    assert_eq!(session.eval("total(Point(1, 2))").extract::<i64>().await.unwrap(), 103);
    assert!(session.eval("__name__ == Point.__module__").extract::<bool>().await.unwrap());
    // Which is where these look for the names of a class.
    session.exec("import pickle, typing").await.unwrap();
    session.exec("copy = pickle.loads(pickle.dumps(Point(1, 2)))").await.unwrap();
    assert!(session.eval("copy == Point(1, 2)").extract::<bool>().await.unwrap());
    assert!(session.eval("typing.get_type_hints(Point)['x'] is int").extract::<bool>().await.unwrap());
    assert_eq!(session.eval("later(7)").extract::<i64>().await.unwrap(), 7, "a coroutine is run to its end");
    // What one piece of code imports from the future is its own, and nothing is inherited.
    session.exec("def plain(x: int): pass").await.unwrap();
    assert!(session.eval("plain.__annotations__['x'] is int").extract::<bool>().await.unwrap());
    py.shutdown().await.unwrap();
}

const PROGRAM: &str = "
from __future__ import annotations
from dataclasses import dataclass

offset = 10

@dataclass
class Point:
    x: int
    y: int

def total(point: Point) -> int:
    return offset + point.x + point.y

async def later(value):
    return value
";

#[tokio::test]
async fn the_value_of_an_eval_follows_the_table_of_values_and_chains_go_on_from_it() {
    let py = start([pool("p", 1)]).await;
    let session = py.session("s");
    session.exec("import bridge_helpers; counter = bridge_helpers.Counter(5)").await.unwrap();
    let counter = session.eval("[counter, 1]").await.unwrap();
    assert!(matches!(&counter[0], Value::Ref(counter) if counter.type_name() == "Counter"), "{counter}");
    assert_eq!(session.eval("counter").call_method("add", (2,)).extract::<i64>().await.unwrap(), 7);
    let kept: PyRef = session.eval("counter").into_ref().await.unwrap();
    assert_eq!(kept.call_method("add", ()).extract::<i64>().await.unwrap(), 8);
    assert_eq!(session.eval("counter").getattr("count").extract::<i64>().await.unwrap(), 8);
    let (one, two): (i64, String) = session.eval("(1, 'two')").extract().await.unwrap();
    assert_eq!((one, two.as_str()), (1, "two"));
    session.exec("def counted():\n for n in range(3): yield counter.add()").await.unwrap();
    let stream = session.eval("counted()").stream::<i64>().await.unwrap();
    assert_eq!(stream.try_collect::<Vec<_>>().await.unwrap(), [9, 10, 11]);
    let error = session.exec("pass").kwarg("x", 1).await.unwrap_err();
    assert_eq!(error.python().unwrap().type_name(), "TypeError");
    py.shutdown().await.unwrap();
}

#[tokio::test]
async fn sessions_and_pools_have_namespaces_of_their_own() {
    let py = start([pool("one", 1), pool("two", 1)]).await;
    for (session, pool, value) in [("a", "one", 1), ("b", "one", 2), ("a", "two", 3), ("b", "two", 4)] {
        let session = py.session(session);
        assert_eq!(code(session.eval("value").pool(pool).await), "python");
        session.exec(format!("value = {value}")).pool(pool).await.unwrap();
    }
    for (session, pool, value) in [("a", "one", 1), ("b", "one", 2), ("a", "two", 3), ("b", "two", 4)] {
        assert_eq!(py.session(session).eval("value").pool(pool).extract::<i64>().await.unwrap(), value);
    }
    assert_eq!(code(py.eval("value").await), "python");
    py.shutdown().await.unwrap();
}

#[tokio::test]
async fn concurrent_first_calls_under_hint_share_one_namespace() {
    for concurrency in [1, 4] {
        let py = start([pool("p", 2).concurrency(concurrency)]).await;
        for round in 0..10 {
            let session = py.session(format!("s{round}"));
            let add = |_| session.exec("globals().setdefault('seen', []).append(1)");
            within("the calls", join_all((0..8).map(add))).await.into_iter().for_each(Result::unwrap);
            assert_eq!(session.eval("len(seen)").extract::<i64>().await.unwrap(), 8, "round {round}");
        }
        py.shutdown().await.unwrap();
    }
}

#[tokio::test]
async fn a_hint_call_waits_for_the_busy_worker_that_holds_the_namespace_and_fail_fast_does_not() {
    let py = start([pool("p", 2)]).await;
    let session = py.session("s");
    session.exec("value = 7").await.unwrap();
    let gate = Gate::new();
    let held = tokio::spawn(session.call("bridge_helpers", "hold", (gate.path(),)).discard());
    gate.held().await;
    let waiting = tokio::spawn(session.eval("value").extract::<i64>());
    until("the eval to wait", || async { py.stats().await.pools[0].waiting == 1 }).await;
    assert_eq!(code(session.eval("value").affinity(Affinity::StrictFailFast).await), "worker_busy");
    // The other worker is free, for calls that do not use it.
    session.call("math", "sqrt", (4,)).discard().await.unwrap();
    gate.open();
    assert_eq!(within("the eval", waiting).await.unwrap().unwrap(), 7);
    within("the held call", held).await.unwrap().unwrap();
    py.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_namespace_is_lost_with_its_worker_and_the_next_one_is_empty_after_a_reset() {
    let py = start([pool("p", 2)]).await;
    let session = py.session("s");
    session.exec("value = 7").await.unwrap();
    kill_home(&py, &session).await;
    for _ in 0..3 {
        let error = within("an eval", session.eval("value")).await.unwrap_err();
        assert_eq!((error.code(), error.ran()), ("ref_lost", Ran::No));
        // A hint call that does not use it gives the session a new home, and nobody takes that for the old.
        session.call("math", "sqrt", (4,)).discard().await.unwrap();
    }
    session.reset().await.unwrap();
    let error = session.eval("value").await.unwrap_err();
    assert_eq!(error.python().expect("Python says so").type_name(), "NameError");
    session.exec("value = 8").await.unwrap();
    assert_eq!(session.eval("value").extract::<i64>().await.unwrap(), 8);
    py.shutdown().await.unwrap();
}

#[tokio::test]
async fn with_rehome_the_next_call_makes_a_new_namespace_by_itself() {
    let py = start([pool("p", 2).affinity(Affinity::StrictQueue)]).await;
    let session = py.session_with("s", SessionOptions::new().on_worker_lost(OnWorkerLost::Rehome));
    session.exec("value = 7").await.unwrap();
    kill_home(&py, &session).await;
    within("an exec", session.exec("value = globals().get('value', 0) + 1")).await.unwrap();
    assert_eq!(session.eval("value").extract::<i64>().await.unwrap(), 1);
    py.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_taint_of_its_worker_refuses_its_calls_and_leaves_it_whole() {
    let py = start([pool("p", 2)]).await;
    let session = py.session("s");
    session.exec("value = 7").await.unwrap();
    let home = session.home("p").await.unwrap();
    py.taint(&home, Duration::from_secs(600), "a test").await.unwrap();
    let error = session.eval("value").await.unwrap_err();
    assert_eq!(error.code(), "session_worker_unavailable");
    assert!(error.to_string().ends_with("wait for the end of the taint"), "{error}");
    session.reset().await.unwrap();
    assert_eq!(code(session.eval("value").await), "session_worker_unavailable");
    py.clear_taint(&home).await.unwrap();
    assert_eq!(session.eval("value").extract::<i64>().await.unwrap(), 7);
    py.shutdown().await.unwrap();
}

#[tokio::test]
async fn refs_of_another_worker_do_not_go_together_with_the_namespace() {
    let py = start([pool("p", 2)]).await;
    let session = py.session("s");
    session.exec("def length(of): return len(of)").await.unwrap();
    let gate = Gate::new();
    let held = tokio::spawn(session.call("bridge_helpers", "hold", (gate.path(),)).discard());
    gate.held().await;
    let elsewhere: PyRef = session.call("builtins", "list", ("abc",)).into_ref().await.unwrap();
    gate.open();
    within("the held call", held).await.unwrap().unwrap();
    let error = session.eval("length").call_with((&elsewhere,)).await.unwrap_err();
    assert_eq!(error.code(), "refs_on_different_workers");
    let home = session.home("p").await.unwrap();
    assert!(error.to_string().contains(&home.to_string()) && error.to_string().contains("namespace"), "{error}");
    let here: PyRef = session.eval("['a', 'b']").into_ref().await.unwrap();
    assert_eq!(session.eval("length").call_with((&here,)).extract::<i64>().await.unwrap(), 2);
    py.shutdown().await.unwrap();
}

#[tokio::test]
async fn the_end_of_the_session_frees_the_namespace_and_all_that_python_knows_of_it() {
    let py = start([pool("p", 1)]).await;
    let session = py.session("s");
    session.exec("import bridge_helpers, os\ndef separator(): return os.sep").await.unwrap();
    // The finalizer uses what was defined before it, though the namespace is being dropped.
    let text = "class Last(bridge_helpers.Tracked):\n def __del__(self):\n  if separator() == '/': super().__del__()";
    session.exec(text).await.unwrap();
    session.exec("one, other = bridge_helpers.Tracked(), Last()").await.unwrap();
    assert_eq!(live(&py).await, 2);
    assert_eq!(traces(&py).await.len(), 4, "its module and three texts");
    assert_eq!(py.workers().await[0].refs, 1, "the namespace");
    session.release().await.unwrap();
    assert_eq!(live(&py).await, 0);
    assert_eq!(traces(&py).await, BTreeSet::new());
    // The next session of that id has one of its own.
    assert_eq!(code(session.eval("one").await), "python");
    py.shutdown().await.unwrap();
}

#[tokio::test]
async fn what_ends_with_the_session_ends_before_the_namespace_that_it_uses() {
    let py = start([pool("p", 1)]).await;
    let session = py.session("s");
    session.exec("import os\nended = os.environ").await.unwrap();
    let text = "def items():\n try:\n  while True: yield 1\n finally: ended['ITEMS_ENDED'] = 'yes'";
    session.exec(text).await.unwrap();
    let mut stream = session.eval("items()").stream::<i64>().await.unwrap();
    assert_eq!(stream.try_next().await.unwrap(), Some(1));
    session.release().await.unwrap();
    let told: Option<String> = py.get("os", "environ").call_method("get", ("ITEMS_ENDED",)).extract().await.unwrap();
    assert_eq!(told.as_deref(), Some("yes"));
    py.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_retiring_worker_keeps_the_namespace_until_its_session_ends() {
    let py = start([pool("p", 1)]).await;
    let session = py.session("s");
    session.exec("value = 7").await.unwrap();
    let old = session.home("p").await.unwrap();
    py.restart_worker(&old).await.unwrap();
    py.await_ready(Duration::from_secs(20)).await.unwrap();
    assert_eq!(session.eval("value").extract::<i64>().await.unwrap(), 7);
    assert_eq!(session.home("p").await, Some(old.clone()));
    session.release().await.unwrap();
    until("the old worker to go", || gone(&py, &old)).await;
    py.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_syntax_error_is_pythons_own_and_whole() {
    let py = start([pool("p", 1)]).await;
    let error = py.exec("good = 1\nbad = = 2\n").await.unwrap_err();
    let raised = error.python().unwrap();
    assert_eq!((error.ran(), raised.type_name()), (Ran::Yes, "SyntaxError"));
    let text = raised.to_string();
    assert!(text.contains("line 2") && text.contains("    bad = = 2\n") && text.contains('^'), "{text}");
    // Nothing of it ran.
    assert_eq!(code(py.eval("good").await), "python");
    let error = py.eval("good = 1").await.unwrap_err();
    assert_eq!(error.python().unwrap().type_name(), "SyntaxError");
    py.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_traceback_shows_the_lines_of_the_code_of_earlier_calls_too() {
    let py = start([pool("p", 1)]).await;
    py.exec("def half(n):\n    return 1 / n  # the inner line\n").await.unwrap();
    py.exec("def outer():\n    return half(0)  # the middle line\n").await.unwrap();
    let error = py.eval("outer()  # the outer line").await.unwrap_err();
    let text = error.python().unwrap().to_string();
    let lines = ["outer()  # the outer line", "return half(0)  # the middle line", "return 1 / n  # the inner line"];
    let places: Vec<_> = lines.iter().map(|line| text.find(line)).collect();
    assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{text}");
    assert!(!text.contains("namespaces.py") && !text.contains("plans.py"), "{text}");
    py.shutdown().await.unwrap();
}

#[tokio::test]
async fn of_many_texts_a_worker_keeps_the_latest() {
    let py = start([pool("p", 1)]).await;
    let session = py.session("s");
    session.exec("seen = 0").await.unwrap();
    let adds: Vec<_> = (0..300).map(|n| session.exec(format!("seen += {n} * 0 + 1"))).collect();
    within("the calls", join_all(adds)).await.into_iter().for_each(Result::unwrap);
    assert_eq!(session.eval("seen").extract::<i64>().await.unwrap(), 300);
    assert_eq!(traces(&py).await.len(), 1 + 256);
    py.shutdown().await.unwrap();
}

async fn live(py: &SnakeBridge) -> i64 {
    py.call("bridge_helpers", "tracked_live", ()).extract().await.unwrap()
}

/// What the only worker keeps by the names of namespaces: modules, and sources for tracebacks.
async fn traces(py: &SnakeBridge) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (module, name) in [("sys", "modules"), ("linecache", "cache")] {
        let names: Vec<String> = py.get(module, name).call_method("keys", ()).extract().await.unwrap();
        found.extend(names.into_iter().filter(|name| name.contains("__snakebridge_")));
    }
    found
}

async fn kill_home(py: &SnakeBridge, session: &Session) {
    let home = session.home("p").await.unwrap();
    kill(py.workers().await.into_iter().find(|worker| worker.id == home).unwrap().pid);
    until("the exit to be seen", || gone(py, &home)).await;
}

async fn gone(py: &SnakeBridge, worker: &WorkerId) -> bool {
    py.workers().await.iter().all(|other| other.id != *worker)
}
