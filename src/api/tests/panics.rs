//! Actors panic under a real bridge: what that costs, and that nothing else is lost.

use super::{SOON, is_alive, outcome, pool, until, within};
use crate::actors::contained::injection::{Panic, PanicIn};
use crate::api::{PyStream, Session, SnakeBridge};
use crate::config::{Affinity, OnWorkerLost, SessionOptions};
use crate::error::{Ran, Result};
use crate::event::{Event, Fact};
use crate::observe::fault::{self, Fault};
use crate::status::{WorkerInfo, WorkerState};
use crate::value::PyRef;
use futures::future::join_all;
use futures::{FutureExt, Stream, StreamExt, poll};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::task::JoinHandle;

/// More than are sent ahead to a worker that is busy.
const MANY: usize = 40;

/// A call that runs, many that wait behind it, some of them sent ahead, a ref and a stream, all in the one worker
/// of a pool.
struct Scene {
    py: SnakeBridge,
    events: Box<dyn Stream<Item = Event> + Unpin>,
    session: Session,
    worker: WorkerInfo,
    counter: PyRef,
    stream: PyStream<i64>,
    gate: Gate,
    running: JoinHandle<Result<i64>>,
    waiting: Vec<JoinHandle<Result<f64>>>,
}

impl Scene {
    async fn new() -> Self {
        let builder = SnakeBridge::builder().pool(pool("p")).pool(pool("q"));
        let py = within("the start", builder.start()).await.expect("the bridge starts");
        let events: Box<dyn Stream<Item = Event> + Unpin> = Box::new(py.events());
        let session = py.session("s");
        let counter = session.call("bridge_helpers", "Counter", ()).into_ref().await.expect("a counter");
        let mut stream = session.call("builtins", "range", (100_000,)).stream::<i64>().await.expect("a stream");
        assert_eq!(stream.next().await.expect("it has items").ok(), Some(0));
        let gate = Gate::new();
        let hold = session.call("bridge_helpers", "hold", (gate.path(), 7)).affinity(Affinity::StrictQueue);
        let running = tokio::task::spawn_local(hold.extract());
        gate.held().await;
        let queued = || session.call("math", "sqrt", (4,)).affinity(Affinity::StrictQueue).extract();
        let waiting: Vec<_> = std::iter::repeat_with(|| tokio::task::spawn_local(queued())).take(MANY).collect();
        until("them to wait", || async { waiting_in(&py, "p").await == MANY }).await;
        let worker = workers(&py, "p").await.remove(0);
        Self { py, events, session, worker, counter, stream, gate, running, waiting }
    }

    fn panic_in_worker(&self) {
        let pool = self.py.pool_addr("p").expect("the pool");
        pool.do_send(PanicIn(self.worker.id.clone()));
    }

    fn panic_in_pool(&self) {
        self.py.pool_addr("p").expect("the pool").do_send(Panic);
    }

    fn panic_in_session(&self) {
        self.py.session_addr("s").expect("it lives").do_send(Panic);
    }

    /// How each of those that wait ends.
    async fn all_that_waited(&mut self) -> Vec<Result<f64, (&'static str, Ran)>> {
        let waiting = std::mem::take(&mut self.waiting);
        within("all that wait", join_all(waiting))
            .await
            .into_iter()
            .map(|call| outcome(call.expect("no panic")))
            .collect()
    }

    /// The panic was told once; the pool is whole, and works; after the shutdown nothing is left.
    async fn end(mut self, actor: &str) {
        within("the pools to be whole", self.py.await_ready(SOON)).await.expect("they are");
        for name in ["p", "q"] {
            for session in [&self.session, &self.py.session("another")] {
                let call = session.call("math", "sqrt", (9,)).pool(name).affinity(Affinity::Hint).extract::<f64>();
                assert_eq!(within("a new call", call).await.ok(), Some(3.0), "in pool {name}");
            }
        }
        let stats = self.py.stats().await;
        let numbers = |name: &str| {
            let pool = stats.pools.iter().find(|pool| pool.name == name).expect("the pool");
            (pool.size, pool.ready, pool.busy, pool.waiting, pool.degraded.clone())
        };
        assert_eq!([numbers("p"), numbers("q")], [(1, 1, 0, 0, None), (1, 1, 0, 0, None)]);
        let workers = self.py.workers().await;
        assert!(workers.iter().all(|worker| worker.state == WorkerState::Free && is_alive(worker.pid)), "{workers:?}");
        assert_eq!(workers.len(), 2);
        let waiting: usize = self.py.sessions().await.iter().map(|session| session.waiting).sum();
        assert_eq!(waiting, 0, "no session keeps a call");
        within("the release", self.session.release()).await.expect("it ends");
        let pids: BTreeSet<u32> = workers.iter().map(|worker| worker.pid).chain([self.worker.pid]).collect();
        within("the shutdown", self.py.shutdown()).await.expect("it stops");
        assert!(pids.iter().all(|pid| !is_alive(*pid)), "no process is left");
        let told: Vec<Event> = std::iter::from_fn(|| self.events.next().now_or_never().flatten()).collect();
        let panics: Vec<_> = told.iter().filter_map(panicked).collect();
        assert_eq!(panics, [actor]);
        let count = |name: &str| told.iter().filter(|event| event.name() == name).count();
        assert_eq!(count("snakebridge.session.cleanup"), count("snakebridge.session.created"), "each end was told");
    }
}

#[actix::test]
async fn a_worker_whose_actor_panics_dies_and_what_waits_runs_in_the_next() {
    let mut scene = Scene::new().await;
    let behind = scene.py.session("t").call("math", "sqrt", (16,)).extract::<f64>();
    let behind = tokio::task::spawn_local(behind);
    until("it to wait", || async { waiting_in(&scene.py, "p").await == MANY + 1 }).await;
    scene.panic_in_worker();
    assert_eq!(ended(&mut scene.running).await, Err(("internal", Ran::Maybe)));
    let gone = Err(("session_worker_unavailable", Ran::No));
    assert_eq!(scene.all_that_waited().await, vec![gone; MANY], "as after any death of their home");
    assert_eq!(within("another session's", behind).await.expect("no panic").ok(), Some(4.0));
    assert_eq!(outcome(scene.counter.call_method("add", ()).extract::<i64>().await), Err(("ref_lost", Ran::No)));
    assert_eq!(rest_of(&mut scene.stream).await, Err("worker_crashed"));
    assert!(!is_alive(scene.worker.pid));
    let next = workers(&scene.py, "p").await.remove(0).id;
    assert_eq!((next.slot(), next.generation()), (0, 2));
    assert_eq!(scene.py.stats().await.pools[0].deaths, 1, "it counts");
    let actor = format!("worker {}", scene.worker.id);
    scene.end(&actor).await;
}

#[actix::test]
async fn a_session_whose_actor_panics_answers_what_waits_and_goes_on() {
    let mut scene = Scene::new().await;
    scene.panic_in_session();
    let last = scene.waiting.last_mut().expect("many");
    assert_eq!(ended(last).await, Err(("internal", Ran::No)));
    scene.waiting.pop();
    scene.gate.open();
    assert_eq!(ended(&mut scene.running).await, Ok(7), "what runs goes on");
    let waited = scene.all_that_waited().await;
    let goes_on = |outcome: &Result<f64, _>| matches!(outcome, Ok(2.0));
    let sent_ahead = waited.iter().take_while(|outcome| goes_on(outcome)).count();
    assert!(sent_ahead > 0 && waited[sent_ahead..].iter().all(|outcome| *outcome == Err(("internal", Ran::No))));
    assert_eq!(scene.counter.call_method("add", ()).extract::<i64>().await.ok(), Some(1));
    assert_eq!(rest_of(&mut scene.stream).await, Ok(99_999));
    scene.end("session s").await;
}

#[actix::test]
async fn a_pool_whose_supervisor_panics_ends_its_calls_and_starts_over() {
    let mut scene = Scene::new().await;
    let elsewhere = scene.py.session("s").call("os", "getpid", ()).pool("q").extract::<u32>();
    let untouched = within("a call of another pool", elsewhere).await.expect("it works");
    scene.panic_in_pool();
    assert_eq!(ended(&mut scene.running).await, Err(("internal", Ran::Maybe)));
    assert_eq!(scene.all_that_waited().await, vec![Err(("internal", Ran::No)); MANY], "sent ahead or not");
    assert_eq!(outcome(scene.counter.call_method("add", ()).extract::<i64>().await), Err(("ref_lost", Ran::No)));
    assert_eq!(rest_of(&mut scene.stream).await, Err("worker_crashed"));
    within("the next generation", scene.py.await_ready(SOON)).await.expect("it comes");
    let next = workers(&scene.py, "p").await.remove(0).id;
    assert_eq!((next.slot(), next.generation()), (0, 2), "no id comes twice");
    let strict = scene.session.call("math", "sqrt", (4,)).affinity(Affinity::StrictQueue).discard();
    assert_eq!(outcome(strict.await), Err(("session_worker_unavailable", Ran::No)), "its home is known to be gone");
    assert_eq!(workers(&scene.py, "q").await[0].pid, untouched);
    scene.end("pool p").await;
}

#[actix::test]
async fn a_registry_that_panics_stops_no_call_and_keeps_what_it_knows() {
    let mut scene = Scene::new().await;
    scene.py.registry().do_send(Panic);
    scene.gate.open();
    assert_eq!(ended(&mut scene.running).await, Ok(7));
    assert_eq!(scene.all_that_waited().await, vec![Ok(2.0); MANY]);
    assert_eq!(rest_of(&mut scene.stream).await, Ok(99_999));
    assert_eq!(scene.counter.call_method("add", ()).extract::<i64>().await.ok(), Some(1));
    let counter = std::mem::replace(
        &mut scene.counter,
        scene.session.call("builtins", "object", ()).into_ref().await.expect("an object"),
    );
    drop(counter);
    until("the ref to be freed", || async { workers(&scene.py, "p").await[0].refs == 1 }).await;
    scene.end("registry").await;
}

// ---- at bad moments

#[actix::test]
async fn whoever_panics_while_the_bridge_shuts_down_it_ends_and_leaves_nothing() {
    for actor in ["pool", "session", "worker", "registry"] {
        let scene = Scene::new().await;
        let stopping = tokio::task::spawn_local(scene.py.shutdown());
        until("it to refuse", || async { waiting_in(&scene.py, "p").await == 0 }).await;
        match actor {
            "pool" => scene.panic_in_pool(),
            "session" => scene.session_in_shutdown().do_send(Panic),
            "worker" => scene.panic_in_worker(),
            _ => scene.py.registry().do_send(Panic),
        }
        within(actor, stopping).await.expect("no panic of its own").expect("it stops");
        let running = within("the running call", scene.running).await.expect("no panic");
        assert!(running.is_err(), "{actor}: its worker was killed at the end of its grace");
        assert!(!is_alive(scene.worker.pid), "{actor}");
    }
}

#[actix::test]
async fn a_pool_that_panics_while_it_starts_starts_all_the_same() {
    let builder = SnakeBridge::builder().pool(pool("p")).dedicated_thread();
    let starting = tokio::task::spawn_local(builder.start());
    let py = within("the start", starting).await.expect("no panic").expect("the bridge starts");
    let pool = py.pool_addr("p").expect("the pool");
    // The second panic meets the start that the first has made necessary.
    for _ in 0..3 {
        pool.do_send(Panic);
        let call = py.call("math", "sqrt", (4,)).extract::<f64>();
        let outcome = outcome(within("a call in between", call).await);
        assert!(matches!(outcome, Ok(_) | Err(("internal", _))), "{outcome:?}");
    }
    within("the pool to be whole", py.await_ready(SOON)).await.expect("it is");
    assert_eq!(within("a call", py.call("math", "sqrt", (4,)).extract::<f64>()).await.ok(), Some(2.0));
    within("the shutdown", py.shutdown()).await.expect("it stops");
}

#[actix::test]
async fn a_pool_that_panics_again_and_again_is_degraded_and_says_so() {
    let config = pool("p").restart_budget(2, Duration::from_secs(600)).restart_backoff(Duration::ZERO, Duration::ZERO);
    let py = within("the start", SnakeBridge::builder().pool(config).start()).await.expect("the bridge starts");
    let supervisor = py.pool_addr("p").expect("the pool");
    for _ in 0..3 {
        until("a worker", || async { py.stats().await.pools.first().is_some_and(|pool| pool.ready == 1) }).await;
        supervisor.do_send(Panic);
    }
    until("the end of the budget", || async { py.stats().await.pools[0].degraded.is_some() }).await;
    assert_eq!(outcome(py.call("math", "sqrt", (4,)).discard().await), Err(("pool_degraded", Ran::No)));
    supervisor.do_send(Panic);
    assert!(py.stats().await.pools[0].degraded.is_some(), "it forgets nothing of that");
    assert_eq!(outcome(py.call("math", "sqrt", (4,)).discard().await), Err(("pool_degraded", Ran::No)));
    within("the shutdown", py.shutdown()).await.expect("it stops");
}

#[actix::test]
async fn the_end_of_a_session_is_told_though_the_registry_panics_of_it() {
    let py = within("the start", SnakeBridge::builder().pool(pool("p")).start()).await.expect("the bridge starts");
    let mut events = py.events();
    let session = py.session("s");
    session.exec("x = 1").await.expect("it has a namespace");
    let _counter = session.call("bridge_helpers", "Counter", ()).into_ref().await.expect("a counter");
    fault::set(Fault::Next("session ended"));
    within("the release", session.release()).await.expect("it ends");
    assert!(!fault::is_set(), "the registry has panicked");
    let refs = loop {
        let event = within("its cleanup", events.next()).await.expect("the bridge lives");
        if let Fact::SessionCleanup { refs, .. } = event.fact() {
            break *refs;
        }
    };
    assert_eq!(refs, 1, "as many as were freed");
    until("what it had to be freed", || async {
        let workers = py.workers().await;
        workers.iter().all(|worker| (worker.refs, worker.sessions) == (0, 0))
    })
    .await;
    within("the shutdown", py.shutdown()).await.expect("it stops");
}

#[actix::test]
async fn a_session_that_panics_while_it_ends_ends() {
    let scene = Scene::new().await;
    let actor = scene.py.session_addr("s").expect("it lives");
    let released = tokio::task::spawn_local(scene.session.release());
    until("its end to begin", || async { scene.py.session_addr("s").is_none() }).await;
    actor.do_send(Panic);
    scene.panic_in_pool();
    within("the release", released).await.expect("no panic").expect("it ends");
    within("the shutdown", scene.py.shutdown()).await.expect("it stops");
    assert!(!is_alive(scene.worker.pid));
}

#[actix::test]
async fn a_session_that_panics_while_its_on_home_runs_makes_the_next_home_ready() {
    let builder = SnakeBridge::builder().pool(pool("p")).pool(pool("q"));
    let py = within("the start", builder.start()).await.expect("the bridge starts");
    let runs = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&runs);
    let options = SessionOptions::new().on_home(move |session| {
        let run = counted.fetch_add(1, Ordering::Relaxed);
        async move {
            if run == 0 {
                std::future::pending::<()>().await;
            }
            session.call("time", "sleep", (0.05,)).discard().await
        }
    });
    let session = py.session_with("s", options);
    let call = |pool: &str| tokio::task::spawn_local(session.call("math", "sqrt", (4,)).pool(pool).extract::<f64>());
    let mut lost = call("p");
    until("its on_home to run", || async { runs.load(Ordering::Relaxed) == 1 }).await;
    // This is granted before the pool has answered for the other, and the number of its task is that of the other's.
    let mut next = pin!(session.call("math", "sqrt", (4,)).pool("q").discard().into_future());
    assert!(poll!(&mut next).is_pending());
    py.session_addr("s").expect("it lives").do_send(Panic);
    assert_eq!(ended(&mut lost).await, Err(("internal", Ran::No)));
    assert_eq!(outcome(within("a call", next).await), Err(("internal", Ran::No)));
    assert_eq!(ended(&mut call("q")).await, Ok(2.0), "nothing has ended the on_home there");
    assert_eq!(ended(&mut call("p")).await, Ok(2.0), "the home whose on_home was lost is tried again");
    within("the shutdown", py.shutdown()).await.expect("it stops");
}

#[actix::test]
async fn a_call_that_is_made_while_anything_panics_ends_and_nothing_is_left() {
    let py =
        within("the start", SnakeBridge::builder().pool(pool("p").size(2).restart_budget(1_000, SOON)).start()).await;
    let py = py.expect("the bridge starts");
    let mut pids = BTreeSet::new();
    for round in 0..12 {
        let sessions: Vec<_> = (0..4).map(|n| py.session(format!("s{n}"))).collect();
        let calls = sessions.iter().flat_map(|session| {
            (0..4).map(|n| {
                let affinity = [Affinity::Hint, Affinity::StrictQueue][n % 2];
                tokio::task::spawn_local(session.call("math", "sqrt", (4,)).affinity(affinity).extract::<f64>())
            })
        });
        let calls: Vec<_> = calls.collect();
        pids.extend(py.workers().await.iter().map(|worker| worker.pid));
        match round % 3 {
            0 => py.pool_addr("p").expect("the pool").do_send(Panic),
            1 => {
                for worker in py.workers().await {
                    py.pool_addr("p").expect("the pool").do_send(PanicIn(worker.id));
                }
            }
            _ => {
                if let Some(session) = py.session_addr("s1") {
                    session.do_send(Panic);
                }
            }
        }
        for call in calls {
            let outcome = outcome(within("a call", call).await.expect("no panic"));
            let is_told = matches!(outcome, Ok(_) | Err(("internal" | "session_worker_unavailable", _)));
            assert!(is_told, "round {round}: {outcome:?}");
        }
        for session in &sessions {
            within("a reset", session.reset()).await.expect("it is reset");
        }
    }
    until("all calls to be over", || is_at_rest(&py)).await;
    within("the shutdown", py.shutdown()).await.expect("it stops");
    assert!(pids.iter().all(|pid| !is_alive(*pid)));
}

// ---- at each moment

/// `SNAKEBRIDGE_PANICS=1 cargo test --lib panics` for every moment, and not one in a few after the first.
fn moments(first: u32, up_to: u32, one_in: usize) -> impl Iterator<Item = u32> {
    let one_in = std::env::var("SNAKEBRIDGE_PANICS").map_or(one_in, |text| text.parse().expect("a whole number"));
    (0..first).chain((first..up_to).step_by(one_in))
}

#[actix::test]
async fn whatever_an_actor_is_handling_when_it_panics_no_call_hangs_and_the_bridge_is_whole_again() {
    let mut panics = 0;
    let (mut moments, mut last) = (moments(12, 400, 17).peekable(), false);
    while moments.peek().is_some() && !last {
        let config = pool("p").size(2).restart_budget(1_000, SOON).restart_backoff(Duration::ZERO, Duration::ZERO);
        let py = within("the start", SnakeBridge::builder().pool(config).start()).await.expect("the bridge starts");
        py.register("double", |x: i64| async move { Ok(2 * x) }).expect("a name");
        let mut pids = BTreeSet::new();
        // Not many with one bridge: an actor that panics again and again takes its time.
        for moment in moments.by_ref().take(5) {
            pids.extend(py.workers().await.iter().map(|worker| worker.pid));
            let a = py.session(format!("a{moment}"));
            fault::set(Fault::After(moment));
            within(&format!("the work at {moment}"), work(&py, &a)).await;
            last = fault::is_set();
            fault::set(Fault::None);
            panics += usize::from(!last);
            within(&format!("the pool after {moment}"), py.await_ready(SOON)).await.expect("it is whole");
            within("the reset", a.reset()).await.expect("its home may be gone");
            for affinity in [Affinity::StrictQueue, Affinity::Hint] {
                let call = a.call("math", "sqrt", (4,)).affinity(affinity).extract::<f64>();
                let outcome = outcome(within(&format!("a new call after {moment}"), call).await);
                assert_eq!(outcome, Ok(2.0), "after {moment}");
            }
            // A worker may have begun to die only now.
            until(&format!("all calls to be over after {moment}"), || is_at_rest(&py)).await;
            within(&format!("the release after {moment}"), a.release()).await.expect("it ends");
        }
        within("the shutdown", py.shutdown()).await.expect("it stops");
        assert!(pids.iter().all(|pid| !is_alive(*pid)));
    }
    assert!(panics > 5, "{panics}");
}

/// A little of everything. How each ends is of no interest, but that it does.
async fn work(py: &SnakeBridge, a: &Session) {
    let counter = a.call("bridge_helpers", "Counter", ()).into_ref().await;
    let calls = (0..6).map(|n| {
        let affinity = [Affinity::StrictQueue, Affinity::Hint, Affinity::StrictFailFast][n % 3];
        a.call("math", "sqrt", (n,)).affinity(affinity).discard()
    });
    let _answered = join_all(calls).await;
    let _called = a.eval("__import__('snakebridge').host.call('double', 21)").discard().await;
    if let Ok(mut stream) = a.call("builtins", "range", (5,)).stream::<i64>().await {
        while let Some(Ok(_)) = stream.next().await {}
    }
    let slow = a.call("time", "sleep", (5,)).timeout(Duration::from_millis(20)).discard();
    let _timed_out = slow.await;
    // Given up while it runs, and while it waits.
    let mut given_up =
        [a.call("time", "sleep", (5,)).discard().boxed(), a.call("time", "sleep", (5,)).discard().boxed()];
    let _begun = tokio::time::timeout(Duration::from_millis(10), futures::future::select_all(&mut given_up)).await;
    drop(given_up);
    if let Ok(counter) = counter {
        let _answered = counter.call_method("add", ()).discard().await;
    }
    let b = py.session("b");
    let _answered = b.call("math", "sqrt", (4,)).discard().await;
    let _reset = b.reset().await;
    let _released = b.release().await;
    let _stats = py.stats().await;
    let _workers = py.workers().await;
}

#[actix::test]
async fn a_call_that_is_lost_on_its_way_back_from_a_worker_blocks_no_other() {
    let config = pool("p").restart_budget(1_000, SOON).restart_backoff(Duration::ZERO, Duration::ZERO);
    let py = within("the start", SnakeBridge::builder().pool(config).start()).await.expect("the bridge starts");
    for lost in ["came back", "granted", "passed over", "died"] {
        let rehomes = SessionOptions::new().on_worker_lost(OnWorkerLost::Rehome);
        let session = py.session_with(lost, rehomes);
        let call = || session.call("math", "sqrt", (4,)).affinity(Affinity::StrictQueue).extract::<f64>();
        // Many are sent ahead to a worker whose calls are known to be short.
        let _answered = within("short calls", join_all(std::iter::repeat_with(call).take(MANY))).await;
        let gate = Gate::new();
        let held = tokio::task::spawn_local(session.call("bridge_helpers", "hold", (gate.path(), 7)).discard());
        gate.held().await;
        let waiting: Vec<_> = std::iter::repeat_with(|| tokio::task::spawn_local(call())).take(MANY).collect();
        until("them to wait", || async { waiting_in(&py, "p").await == MANY }).await;
        let worker = workers(&py, "p").await.remove(0).id;
        // They come back.
        fault::set(Fault::Next(lost));
        py.pool_addr("p").expect("the pool").do_send(PanicIn(worker));
        let waited = within(&format!("all that wait: {lost}"), join_all(waiting)).await;
        drop(held);
        for outcome in waited.into_iter().map(|call| outcome(call.expect("no panic of its own"))) {
            assert!(matches!(outcome, Ok(2.0) | Err(("internal", Ran::No))), "{lost}: {outcome:?}");
        }
        assert!(!fault::is_set(), "{lost}");
        assert_eq!(outcome(within("a new call", call()).await), Ok(2.0), "{lost}");
        until(&format!("all calls to be over: {lost}"), || is_at_rest(&py)).await;
        within(&format!("the release: {lost}"), session.release()).await.expect("it ends");
    }
    within("the shutdown", py.shutdown()).await.expect("it stops");
}

#[actix::test]
async fn whatever_an_actor_is_handling_when_it_panics_the_shutdown_ends_and_leaves_nothing() {
    for moment in moments(0, 40, 3) {
        let config = pool("p").shutdown_grace(Duration::from_millis(50));
        let py = within("the start", SnakeBridge::builder().pool(config).start()).await.expect("the bridge starts");
        let pid = py.workers().await[0].pid;
        let session = py.session("s");
        let counter = session.call("bridge_helpers", "Counter", ()).into_ref().await.expect("a counter");
        let running = tokio::task::spawn_local(session.call("time", "sleep", (60,)).discard());
        until("it to run", || async { py.stats().await.pools[0].busy == 1 }).await;
        fault::set(Fault::After(moment));
        drop(counter);
        within(&format!("the shutdown, with a panic at {moment}"), py.shutdown()).await.expect("it stops");
        fault::set(Fault::None);
        assert!(!is_alive(pid), "{moment}");
        assert!(within("the running call", running).await.expect("no panic").is_err(), "{moment}");
    }
}

// ---- helpers

impl Scene {
    /// The session's actor, which the directory has let go of.
    fn session_in_shutdown(&self) -> actix::Addr<crate::actors::session::SessionActor> {
        self.counter.hold().actor.clone()
    }
}

fn panicked(event: &Event) -> Option<String> {
    match event.fact() {
        Fact::ActorPanicked { actor, what } if what == "on purpose" => Some(actor.clone()),
        _ => None,
    }
}

async fn waiting_in(py: &SnakeBridge, name: &str) -> usize {
    py.stats().await.pools.iter().find(|pool| pool.name == name).map_or(0, |pool| pool.waiting)
}

async fn is_at_rest(py: &SnakeBridge) -> bool {
    let waiting = py.sessions().await.iter().any(|session| session.waiting > 0);
    let (workers, stats) = (py.workers().await, py.stats().await);
    let pool = &stats.pools[0];
    !waiting && pool.waiting == 0 && pool.ready == pool.size && workers.len() == pool.size
}

async fn workers(py: &SnakeBridge, name: &str) -> Vec<WorkerInfo> {
    py.workers().await.into_iter().filter(|worker| worker.pool == name).collect()
}

async fn ended<T>(call: &mut JoinHandle<Result<T>>) -> Result<T, (&'static str, Ran)> {
    outcome(within("a call", call).await.expect("no panic of its own"))
}

/// How many items come, or the code of the error that ends them.
async fn rest_of(stream: &mut PyStream<i64>) -> Result<usize, &'static str> {
    let mut items = 0;
    while let Some(item) = within("an item", stream.next()).await {
        item.map_err(|error| error.code())?;
        items += 1;
    }
    Ok(items)
}

/// A call in Python that goes on until its gate is opened.
struct Gate(PathBuf);

impl Gate {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("snakebridge-panics-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let dir = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&dir).expect("a temporary directory");
        Self(dir)
    }

    fn path(&self) -> String {
        self.0.join("gate").to_str().expect("plain characters").to_owned()
    }

    async fn held(&self) {
        let begun = PathBuf::from(format!("{}.begun", self.path()));
        until("a held call", || async { begun.exists() }).await;
    }

    fn open(&self) {
        std::fs::write(self.path(), b"").expect("a gate can be opened");
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        let _left_behind = std::fs::remove_dir_all(&self.0);
    }
}
