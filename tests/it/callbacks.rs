//! Python calls Rust, which calls Python, and so on: nothing of it hangs, and errors cross whole.

use crate::support::until;
use futures::TryStreamExt;
use futures::future::{BoxFuture, join_all};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample;
use proptest::test_runner::TestCaseError;
use snakebridge::{Affinity, Error, PoolConfig, PyRef, Ran, Result, Session, SnakeBridge};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::Barrier;
use tokio::time::timeout;

/// Tells a hang from an answer.
const PATIENCE: Duration = Duration::from_secs(60);

#[actix::test]
async fn python_calls_a_registered_function_and_a_callback() -> Result<()> {
    let py = start(1).await?;
    py.register("lookup", |id: u64| async move { Ok(id * 2) })?;
    py.register("sum", |(a, b, more): (i64, i64, std::collections::BTreeMap<String, i64>)| async move {
        Ok(a + b + more.values().sum::<i64>())
    })?;
    let session = py.session("s");
    session.exec("from snakebridge import host").await?;
    assert_eq!(session.eval("host.call('lookup', 21)").extract::<u64>().await?, 42);
    assert_eq!(session.eval("host.call('sum', 1, 2, x=3, name=4)").extract::<i64>().await?, 10);
    let double = py.callback(|x: i64| async move { Ok(2 * x) });
    // The iterator is only run when the result is made.
    let doubled: Vec<i64> = py.call("builtins", "map", (&double, vec![1, 2])).extract().await?;
    assert_eq!(doubled, [2, 4]);
    let other = py.callback(|x: i64| async move { Ok(2 * x) });
    let kept = session.eval("list").call_with((vec![&double, &other],)).into_ref().await?;
    kept.call_method("remove", (&other,)).discard().await?;
    let mut left = Vec::new();
    for callback in [&double, &other] {
        left.push(kept.call_method("__contains__", (callback,)).extract::<bool>().await?);
    }
    assert_eq!(left, [true, false], "the same function is the same callable");
    py.unregister("lookup");
    let gone = session.eval("host.call('lookup', 21)").await.unwrap_err();
    assert!(gone.to_string().contains("HostError") && gone.to_string().contains("lookup"), "{gone}");
    py.register("lookup", |id: u64| async move { Ok(id + 1) })?;
    assert_eq!(session.eval("host.call('lookup', 21)").extract::<u64>().await?, 22);
    py.shutdown().await
}

#[actix::test]
async fn a_function_takes_objects_and_returns_them() -> Result<()> {
    let py = start(1).await?;
    py.register("same", |object: PyRef| async move { Ok(object) })?;
    let same: bool = py
        .session("s")
        .eval("(lambda o: __import__('snakebridge').host.call('same', o) is o)(object())")
        .extract()
        .await?;
    assert!(same);
    py.shutdown().await
}

#[actix::test]
async fn errors_cross_both_borders_whole() -> Result<()> {
    let py = start(1).await?;
    py.register("raises", |(): ()| async move { Err::<(), _>(Error::raise("ValueError", "no good")) })?;
    py.register("fails", |(): ()| async move {
        Err::<(), _>(Error::QueueTimeout { pool: "p".into(), waited: Duration::from_secs(1) })
    })?;
    let session = py.session("s");
    session.exec("from snakebridge import host, HostError").await?;
    let raised = session.eval("host.call('raises')").await.unwrap_err();
    let python = raised.python().expect("Python raised");
    assert_eq!((python.type_name(), python.message()), ("ValueError", "no good"));
    session
        .exec("try:\n    host.call('fails')\nexcept HostError as e:\n    got = (e.code, str(e), type(e).__name__)")
        .await?;
    let (code, text, name): (String, String, String) = session.eval("got").extract().await?;
    assert_eq!((code.as_str(), name.as_str()), ("queue_timeout", "HostError"));
    assert_eq!(text, "no worker of pool p fell free within 1s");
    // What Python raised inside, in a call of the callback, is the cause of what comes out.
    let failed = session.eval("host.call('fails')").await.unwrap_err();
    let codes = (failed.code(), failed.python().and_then(|raised| raised.host_code()));
    assert_eq!(codes, ("python", Some("queue_timeout")), "as Rust has it again");
    let inner = session.clone();
    py.register("divides", move |(): ()| {
        let inner = inner.clone();
        async move { inner.eval("1 / 0").extract::<i64>().await }
    })?;
    let error = session.eval("host.call('divides')").await.unwrap_err();
    let outer = error.python().expect("Python raised");
    assert_eq!((outer.module(), outer.type_name()), ("snakebridge", "HostError"));
    let cause = outer.cause().expect("it has a cause");
    assert_eq!(
        (cause.module(), cause.type_name(), cause.message()),
        ("builtins", "ZeroDivisionError", "division by zero")
    );
    assert!(!cause.frames().is_empty(), "{cause:?}");
    assert!(error.to_string().contains("ZeroDivisionError"), "{error}");
    py.shutdown().await
}

#[actix::test]
async fn calls_nest_64_deep_in_one_strict_session_and_no_deeper() -> Result<()> {
    let py = start(1).await?;
    let session = py.session("a");
    nest(&py, std::slice::from_ref(&session)).await?;
    assert_eq!(dive(&session, 64).await?, 64);
    let too_deep = dive(&session, 66).await.unwrap_err();
    assert!(
        too_deep.to_string().contains("would_deadlock") || too_deep.to_string().contains("waits for a callback"),
        "{too_deep}"
    );
    assert_eq!(dive(&session, 3).await?, 3);
    py.shutdown().await
}

#[actix::test]
async fn calls_nest_64_deep_across_two_workers_and_two_sessions() -> Result<()> {
    let py = start(2).await?;
    let (a, b) = (py.session("a"), py.session("b"));
    nest(&py, &[a.clone(), b.clone()]).await?;
    assert_ne!(a.home("p").await, b.home("p").await);
    assert_eq!(dive(&a, 64).await?, 64);
    py.shutdown().await
}

/// Each level hands on to the next session.
async fn nest(py: &SnakeBridge, sessions: &[Session]) -> Result<()> {
    for session in sessions {
        session
            .exec("from snakebridge import host\ndef down(left, at): return host.call('down', left, at) if left else 0")
            .await?;
    }
    let sessions = sessions.to_vec();
    py.register("down", move |(left, at): (u64, usize)| {
        let next = sessions[(at + 1) % sessions.len()].clone();
        async move {
            let below: u64 = next.eval(format!("down({}, {})", left - 1, at + 1)).extract().await?;
            Ok(below + 1)
        }
    })
}

async fn dive(session: &Session, depth: u64) -> Result<u64> {
    timeout(PATIENCE, session.eval(format!("down({depth}, 0)")).extract()).await.expect("it does not hang")
}

/// What a call does: its own share, and the calls that its callbacks make.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
struct Node {
    share: u64,
    session: usize,
    at_once: bool,
    below: Vec<Node>,
}

impl Node {
    fn sum(&self) -> u64 {
        self.share + self.below.iter().map(Self::sum).sum::<u64>()
    }
}

/// Up to 40 calls, in three sessions, six deep.
fn any_tree() -> impl Strategy<Value = Node> {
    let node = |(share, session, at_once), below| Node { share, session, at_once, below };
    let own = || (0..100_u64, 0..3_usize, any::<bool>());
    let leaf = own().prop_map(move |own| node(own, Vec::new()));
    leaf.prop_recursive(6, 40, 4, move |below| (own(), vec(below, 1..4)).prop_map(move |(own, below)| node(own, below)))
}

/// How many workers, the concurrency of each, and where the bridge and the pool live.
fn any_pool() -> impl Strategy<Value = (usize, usize, Home)> {
    let homes = sample::select(vec![Home::Here, Home::Thread, Home::ThreadPerPool]);
    (sample::select(vec![(1, 1), (2, 1), (2, 3)]), homes)
        .prop_map(|((size, concurrency), home)| (size, concurrency, home))
}

#[derive(Clone, Copy, Debug)]
enum Home {
    Here,
    Thread,
    ThreadPerPool,
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_tree_of_calls_across_workers_and_sessions_ends_with_its_value(pool in any_pool(), trees in vec(any_tree(), 1..4)) {
        actix_rt::System::new().block_on(run_trees(pool, &trees)).map_err(|error| TestCaseError::fail(error.to_string()))?;
    }
}

/// One after the other: trees that want each other's workers may be refused.
async fn run_trees((size, concurrency, home): (usize, usize, Home), trees: &[Node]) -> Result<()> {
    let pool = PoolConfig::new("p").size(size).concurrency(concurrency).affinity(Affinity::StrictQueue);
    let builder = SnakeBridge::builder().pool(pool);
    let builder = match home {
        Home::Here => builder,
        Home::Thread => builder.dedicated_thread(),
        Home::ThreadPerPool => builder.thread_per_pool(),
    };
    let py = builder.start().await?;
    let sessions: Arc<[Session]> = ["a", "b", "c"].map(|id| py.session(id)).into();
    for session in &*sessions {
        session.exec("from snakebridge import host\ndef run(node): return node['share'] + (host.call('below', node) if node['below'] else 0)").await?;
    }
    let all = Arc::clone(&sessions);
    py.register("below", move |node: Node| {
        let all = Arc::clone(&all);
        async move {
            let calls = node.below.iter().map(|child| run(&all, child));
            let mut sum = 0;
            if node.at_once {
                for value in join_all(calls).await {
                    sum += value?;
                }
            } else {
                for call in calls {
                    sum += call.await?;
                }
            }
            Ok(sum)
        }
    })?;
    for tree in trees {
        let value = timeout(PATIENCE, run(&sessions, tree)).await.expect("it does not hang")?;
        assert_eq!(value, tree.sum());
    }
    py.shutdown().await
}

fn run(sessions: &[Session], node: &Node) -> BoxFuture<'static, Result<u64>> {
    let call = sessions[node.session].eval("run").call_with((node,)).extract();
    Box::pin(call)
}

#[actix::test]
async fn two_trees_that_want_each_others_workers_do_not_wait_for_ever() -> Result<()> {
    let py = start(2).await?;
    let (a, b) = (py.session("a"), py.session("b"));
    let both = Arc::new(Barrier::new(2));
    for (session, other, name) in [(&a, &b, "of_a"), (&b, &a, "of_b")] {
        session.exec("from snakebridge import host").await?;
        let (other, both) = (other.clone(), Arc::clone(&both));
        py.register(name, move |(): ()| {
            let (other, both) = (other.clone(), Arc::clone(&both));
            async move {
                both.wait().await;
                let outcome = other.eval("1").extract::<u64>().await;
                both.wait().await;
                outcome.map_err(|error| Error::raise("RuntimeError", error.code()))
            }
        })?;
    }
    let calls = [a.eval("host.call('of_a')").extract::<u64>(), b.eval("host.call('of_b')").extract::<u64>()];
    for outcome in timeout(PATIENCE, join_all(calls)).await.expect("they do not hang") {
        let error = outcome.unwrap_err();
        assert_eq!(error.python().map(|raised| raised.message()), Some("would_deadlock"), "{error}");
    }
    py.shutdown().await
}

#[actix::test]
async fn a_deadline_drops_the_callback_and_the_worker_lives_on() -> Result<()> {
    let py = start(1).await?;
    let dropped = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&dropped);
    py.register("for_ever", move |(): ()| {
        let flag = Flag(Arc::clone(&flag));
        async move {
            let _flag = flag;
            std::future::pending::<Result<()>>().await
        }
    })?;
    let session = py.session("s");
    session.exec("from snakebridge import host").await?;
    let error = session.eval("host.call('for_ever')").timeout(Duration::from_millis(100)).await.unwrap_err();
    assert_eq!((error.code(), error.ran()), ("timeout", Ran::Maybe));
    let one: u64 = timeout(PATIENCE, session.eval("1").extract()).await.expect("it does not hang")?;
    assert_eq!(one, 1, "in the namespace that it had");
    assert!(dropped.load(Ordering::SeqCst));
    assert_eq!(py.workers().await[0].id.generation(), 1, "the worker was not killed");
    py.shutdown().await
}

struct Flag(Arc<AtomicBool>);

impl Drop for Flag {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[actix::test]
async fn the_death_of_a_worker_ends_the_call_and_drops_its_callback() -> Result<()> {
    let py = start(1).await?;
    let dropped = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&dropped);
    let inner = py.session("s");
    py.register("kills", move |(): ()| {
        let (flag, inner) = (Flag(Arc::clone(&flag)), inner.clone());
        async move {
            let _flag = flag;
            inner.call("os", "_exit", (3,)).discard().await
        }
    })?;
    let session = py.session("s");
    session.exec("from snakebridge import host").await?;
    let outcome = timeout(PATIENCE, session.eval("host.call('kills')")).await.expect("it does not hang");
    assert_eq!(outcome.unwrap_err().code(), "worker_crashed");
    py.await_ready(PATIENCE).await?;
    session.reset().await?;
    assert_eq!(session.eval("2").extract::<u64>().await?, 2);
    assert!(dropped.load(Ordering::SeqCst));
    py.shutdown().await
}

#[actix::test]
async fn a_session_is_released_inside_its_own_callback_however_deep() -> Result<()> {
    for (outer, depth) in [("release", 1), ("through_b", 2)] {
        let py = start(1).await?;
        let (a, b) = (py.session("a"), py.session("b"));
        for session in [&a, &b] {
            session.exec("from snakebridge import host").await?;
        }
        let (released, through) = (a.clone(), b.clone());
        py.register("release", move |(): ()| {
            let a = released.clone();
            async move { a.release().await }
        })?;
        py.register("through_b", move |(): ()| {
            let b = through.clone();
            async move { b.eval("host.call('release')").discard().await }
        })?;
        let call = a.eval(format!("(host.call('{outer}'), 5)[1]")).extract::<u64>();
        let outcome = timeout(PATIENCE, call).await.expect("it does not hang")?;
        assert_eq!(outcome, 5, "{depth} deep");
        let ended = || async { py.sessions().await.iter().all(|session| session.id.as_str() != "a") };
        until("the session has ended", ended).await;
        py.shutdown().await?;
    }
    Ok(())
}

#[actix::test]
async fn the_session_of_a_call_below_is_that_very_one_though_it_was_released() -> Result<()> {
    let py = start(1).await?;
    let (a, b) = (py.session("a"), py.session("b"));
    a.exec("from snakebridge import host\ntotal = 7").await?;
    b.exec("from snakebridge import host").await?;
    let through = b.clone();
    py.register("through_b", move |(): ()| {
        let b = through.clone();
        async move { b.eval("host.call('total_of_a')").extract::<u64>().await }
    })?;
    let below = a.clone();
    py.register("total_of_a", move |(): ()| {
        let a = below.clone();
        async move {
            a.release().await?;
            a.eval("total").extract::<u64>().await
        }
    })?;
    let total: u64 = timeout(PATIENCE, a.eval("host.call('through_b')").extract()).await.expect("it does not hang")?;
    assert_eq!(total, 7);
    let gone = a.eval("total").await.unwrap_err();
    assert_eq!(gone.python().map(|raised| raised.type_name()), Some("NameError"), "a new one of that id");
    py.shutdown().await
}

#[actix::test]
async fn a_task_that_a_callback_spawns_is_outside_and_waits_its_turn() -> Result<()> {
    let py = start(1).await?;
    let session = py.session("s");
    session.exec("from snakebridge import host").await?;
    let spawning = session.clone();
    py.register("spawns", move |(): ()| {
        let call = spawning.eval("1").queue_timeout(Duration::from_millis(200)).extract::<u64>();
        async move {
            let outcome = tokio::spawn(call).await.expect("it does not panic");
            Ok(outcome.unwrap_err().code().to_owned())
        }
    })?;
    let code: String =
        timeout(PATIENCE, session.eval("host.call('spawns')").extract()).await.expect("it does not hang")?;
    assert_eq!(code, "queue_timeout");
    py.shutdown().await
}

#[actix::test]
async fn a_stream_keeps_the_callbacks_of_the_call_that_opened_it() -> Result<()> {
    let py = start(1).await?;
    let double = py.callback(|x: u64| async move { Ok(2 * x) });
    let items = py.call("builtins", "map", (double, [1, 2, 3])).stream::<u64>().await?;
    let items: Vec<u64> = timeout(PATIENCE, items.try_collect()).await.expect("it does not hang")?;
    assert_eq!(items, [2, 4, 6]);
    py.shutdown().await
}

#[actix::test]
async fn what_only_the_worker_means_by_an_exception_kills_nobody_when_a_user_raises_it() -> Result<()> {
    let py = start(1).await?;
    py.register("fails", |(): ()| async { Err::<(), _>(Error::raise("snakebridge_worker.errors.RefNotFound", "x")) })?;
    let session = py.session("s");
    session.exec("from snakebridge import host").await?;
    let error = session.eval("host.call('fails')").await.unwrap_err();
    assert_eq!(error.python().map(|raised| raised.type_name()), Some("RefNotFound"));
    assert_eq!(py.workers().await[0].id.generation(), 1);
    py.shutdown().await
}

#[actix::test]
async fn a_callback_that_panics_is_an_error_in_python_and_of_nothing_else() -> Result<()> {
    let py = start(1).await?;
    py.register("panics", |(): ()| async { panic!("on purpose") as Result<()> })?;
    let session = py.session("s");
    let before = py.workers().await[0].pid;
    session.exec("from snakebridge import host, HostError").await?;
    session.exec("try:\n    host.call('panics')\nexcept HostError as e:\n    got = e.code").await?;
    assert_eq!(session.eval("got").extract::<String>().await?, "internal");
    assert_eq!(py.workers().await[0].pid, before, "the worker lives on");
    py.shutdown().await
}

/// Panics of each event.
struct Fragile;

impl actix::Actor for Fragile {
    type Context = actix::Context<Self>;
}

impl actix::Handler<snakebridge::Event> for Fragile {
    type Result = ();

    fn handle(&mut self, _: snakebridge::Event, _: &mut Self::Context) {
        panic!("on purpose");
    }
}

/// A reader whose waker panics.
struct Rude;

impl std::task::Wake for Rude {
    fn wake(self: Arc<Self>) {
        panic!("on purpose");
    }
}

#[actix::test]
async fn whoever_hears_of_events_or_reads_the_log_may_panic_and_no_call_ends_for_it() -> Result<()> {
    use futures::StreamExt;
    let py = start(1).await?;
    py.subscribe(actix::Actor::start(Fragile).recipient());
    let (mut events, mut records) = (py.events(), py.message_log().follow());
    let waker = std::task::Waker::from(Arc::new(Rude));
    for round in 0..3 {
        let mut task = std::task::Context::from_waker(&waker);
        while events.poll_next_unpin(&mut task).is_ready() {}
        while records.poll_next_unpin(&mut task).is_ready() {}
        let session = py.session(format!("s{round}"));
        assert_eq!(session.call("math", "sqrt", (4,)).extract::<f64>().await?, 2.0);
        timeout(PATIENCE, session.release()).await.expect("it ends")?;
    }
    assert_eq!(py.workers().await[0].id.generation(), 1, "the worker lives on");
    timeout(PATIENCE, py.shutdown()).await.expect("it stops")
}

async fn start(size: usize) -> Result<SnakeBridge> {
    let pool = PoolConfig::new("p").size(size).affinity(Affinity::StrictQueue);
    SnakeBridge::builder().pool(pool).start().await
}
