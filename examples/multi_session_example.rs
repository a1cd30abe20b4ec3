//! Sessions that do not disturb one another: their state, the three affinity modes, what a single
//! call may say instead, automatic sessions, what becomes of a session whose worker is tainted or
//! killed, and streams over the objects of a session.
//!
//! `cargo run --release --example multi_session_example`
#![expect(clippy::print_stdout, reason = "an example talks")]

mod support;

use futures::StreamExt;
use futures::future::try_join_all;
use snakebridge::{Affinity, OnWorkerLost, PyRef, PyStream, Session, SessionOptions, SnakeBridge};
use std::collections::BTreeSet;
use std::error::Error;
use std::time::{Duration, Instant};
use support::{Gate, code, part, until_waiting};

type Outcome = Result<(), Box<dyn Error>>;

#[actix::main]
async fn main() -> Outcome {
    let py = SnakeBridge::builder()
        .pool(support::pool("hint_pool", 2))
        .pool(support::pool("strict_pool", 2).affinity(Affinity::StrictQueue))
        .start()
        .await?;
    for worker in py.workers().await {
        println!("worker {}: process {}", worker.id, worker.pid);
    }

    concurrent_sessions(&py).await?;
    isolated_state(&py).await?;
    three_modes(&py).await?;
    overrides(&py).await?;
    automatic_sessions(&py).await?;
    named_sessions(&py).await?;
    tainted_home(&py).await?;
    killed_home(&py).await?;
    streams(&py).await?;
    work_in_parallel(&py).await?;

    py.shutdown().await?;
    println!("\nall as it should be");
    Ok(())
}

async fn notebook(session: &Session, pool: &str) -> snakebridge::Result<PyRef> {
    session.call("workshop", "Notebook", (session.id().as_str(),)).pool(pool).into_ref().await
}

async fn pid(session: &Session, pool: &str, affinity: Affinity) -> snakebridge::Result<u32> {
    session.call("workshop", "pid", ()).pool(pool).affinity(affinity).extract().await
}

async fn concurrent_sessions(py: &SnakeBridge) -> Outcome {
    part("four sessions at once, each with a notebook of its own, in a pool of two workers");
    let sessions: Vec<Session> = (0..4).map(|number| py.session(format!("user_{number}"))).collect();
    let notebooks = try_join_all(sessions.iter().map(|session| notebook(session, "strict_pool"))).await?;
    let mut calls = Vec::new();
    for note in 0..25 {
        for (session, notebook) in sessions.iter().zip(&notebooks) {
            calls.push(notebook.call_method("add", (format!("{} {note}", session.id()),)).discard());
        }
    }
    try_join_all(calls).await?;
    for (session, notebook) in sessions.iter().zip(&notebooks) {
        let notes: Vec<String> = notebook.call_method("read", ()).extract().await?;
        let expected: Vec<String> = (0..25).map(|note| format!("{} {note}", session.id())).collect();
        assert_eq!(notes, expected);
        println!("{} in {}: its own {} notes, in order", session.id(), notebook.worker(), notes.len());
    }
    let workers: BTreeSet<_> = notebooks.iter().map(PyRef::worker).collect();
    assert_eq!(workers.len(), 2, "homes are spread over the workers");
    for session in &sessions {
        session.release().await?;
    }
    Ok(())
}

async fn isolated_state(py: &SnakeBridge) -> Outcome {
    part("an object belongs to one session, and to one worker");
    let (ann, bob) = (py.session("ann"), py.session("bob"));
    let (of_ann, of_bob) = (notebook(&ann, "strict_pool").await?, notebook(&bob, "strict_pool").await?);
    of_ann.call_method("add", ("a secret",)).discard().await?;
    let read: Vec<String> = of_bob.call_method("read", ()).extract().await?;
    assert!(read.is_empty());
    println!("ann has written, and the notebook of bob is empty");

    let stolen = bob.call("builtins", "print", (&of_ann,)).await.expect_err("it is not bob's");
    println!("bob with the notebook of ann: {stolen}");
    assert_eq!(stolen.code(), "session_mismatch");
    assert_eq!(code(py.call("operator", "eq", (&of_ann, &of_bob)).await), "session_mismatch");
    ann.release().await?;
    bob.release().await?;
    Ok(())
}

async fn three_modes(py: &SnakeBridge) -> Outcome {
    part("hint: with its home busy, a call goes to another worker");
    let session = py.session("visitor");
    let mut gate = Gate::new()?;
    let held = actix::spawn(session.call("workshop", "hold", (gate.path(),)).extract::<u32>());
    gate.held().await;
    let home = session.home("hint_pool").await.expect("the held call has set it");
    let elsewhere = pid(&session, "hint_pool", Affinity::Hint).await?;
    assert_eq!(session.home("hint_pool").await, Some(home.clone()));
    gate.open();
    let at_home = held.await??;
    assert_ne!(elsewhere, at_home);
    println!("home {home} (process {at_home}) was busy: process {elsewhere} answered, the home is the same");

    part("strict_queue and strict_fail_fast: with its home busy, a call waits, or is refused at once");
    let notes = notebook(&session, "strict_pool").await?;
    let at_home = pid(&session, "strict_pool", Affinity::StrictQueue).await?;
    let mut gate = Gate::new()?;
    let held = actix::spawn(notes.call_method("add_when_told", (gate.path(), "held")).extract::<usize>());
    gate.held().await;
    let queued = actix::spawn(notes.call_method("add", ("queued",)).extract::<usize>());
    let queued_pid = actix::spawn(session.call("workshop", "pid", ()).pool("strict_pool").extract::<u32>());
    until_waiting(py, "strict_pool", 2).await;
    let refused = pid(&session, "strict_pool", Affinity::StrictFailFast).await.expect_err("the home is busy");
    println!("strict_fail_fast: {refused}");
    assert_eq!(refused.code(), "worker_busy");
    gate.open();
    assert_eq!((held.await??, queued.await??), (1, 2));
    assert_eq!(queued_pid.await??, at_home);
    let read: Vec<String> = notes.call_method("read", ()).extract().await?;
    assert_eq!(read, ["held", "queued"]);
    println!("strict_queue: waited for process {at_home}, and wrote {read:?}");

    part("strict_fail_fast with a free home: answered there");
    assert_eq!(pid(&session, "strict_pool", Affinity::StrictFailFast).await?, at_home);
    println!("process {at_home}");
    session.release().await?;
    Ok(())
}

async fn overrides(py: &SnakeBridge) -> Outcome {
    part("a call may name its pool and its affinity, also one on an object");
    let root: f64 = py.call("math", "sqrt", (16,)).pool("strict_pool").extract().await?;
    assert_eq!(root, 4.0);
    let path: PyRef =
        py.call("pathlib", "Path", (".",)).pool("strict_pool").affinity(Affinity::StrictFailFast).into_ref().await?;
    let exists: bool = path.call_method("exists", ()).pool("strict_pool").affinity(Affinity::Hint).extract().await?;
    assert!(exists);
    // The object knows its pool: it need not be named, and no other will do.
    assert_eq!(path.pool(), "strict_pool");
    assert!(path.call_method("exists", ()).extract::<bool>().await?);
    let wrong = path.call_method("exists", ()).pool("hint_pool").await.expect_err("it is not there");
    println!("{path:?}\nin another pool: {wrong}");
    assert_eq!(wrong.code(), "refs_on_different_workers");
    let unknown = py.call("math", "sqrt", (16,)).pool("no_pool").await.expect_err("there is none");
    println!("{unknown}");
    assert_eq!(unknown.code(), "unknown_pool");
    Ok(())
}

async fn automatic_sessions(py: &SnakeBridge) -> Outcome {
    part("a call without a session runs in the automatic session of its handle");
    let (one, two) = (py.clone(), py.clone());
    assert_ne!(one.current_session(), two.current_session());
    let session = one.session(one.current_session());
    assert_eq!(session.home("strict_pool").await, None, "no call was made yet");
    let first: u32 = one.call("workshop", "pid", ()).pool("strict_pool").extract().await?;
    let home = session.home("strict_pool").await.expect("the first call has set it");
    for _ in 0..10 {
        let again: u32 = one.call("workshop", "pid", ()).pool("strict_pool").extract().await?;
        assert_eq!(again, first);
    }
    println!("{}: its first call has set its home {home}, and the next ten went there", session.id());

    let kept: PyRef = two.call("workshop", "Notebook", ("two",)).into_ref().await?;
    assert_eq!(*kept.session(), two.current_session());
    println!("another handle is another owner: {}", kept.session());
    two.clear_auto_session().await?;
    assert_eq!(code(kept.call_method("read", ()).await), "ref_not_found");
    println!("cleared: its objects are freed");
    Ok(())
}

async fn named_sessions(py: &SnakeBridge) -> Outcome {
    part("a session is its id: whoever names it speaks to the same one, until it is released");
    let (here, there) = (py.session("shared"), py.clone().session("shared"));
    let first = pid(&here, "strict_pool", Affinity::StrictQueue).await?;
    assert_eq!(pid(&there, "strict_pool", Affinity::StrictQueue).await?, first);
    let by_name: u32 = py.call("workshop", "pid", ()).session("shared").pool("strict_pool").extract().await?;
    assert_eq!(by_name, first);
    println!("three handles, one home: {}", here.home("strict_pool").await.expect("it is set"));

    let notes = notebook(&here, "strict_pool").await?;
    here.release().await?;
    let gone = notes.call_method("read", ()).await.expect_err("its session has ended");
    println!("released: {gone}");
    assert_eq!(gone.code(), "ref_not_found");
    assert_eq!(there.home("strict_pool").await, None, "a later call of that id starts a new session");
    Ok(())
}

async fn tainted_home(py: &SnakeBridge) -> Outcome {
    part("a tainted home: strict calls are refused, hint calls go elsewhere, the state is kept");
    let session = py.session("patient");
    let notes = notebook(&session, "strict_pool").await?;
    notes.call_method("add", ("before",)).discard().await?;
    let at_home = pid(&session, "strict_pool", Affinity::StrictQueue).await?;
    let home = notes.worker().clone();
    py.taint(&home, Duration::from_secs(600), "an example").await?;
    for mode in [Affinity::StrictQueue, Affinity::StrictFailFast] {
        let refused = pid(&session, "strict_pool", mode).await.expect_err("the home is tainted");
        println!("{mode}: {refused}");
        assert_eq!(refused.code(), "session_worker_unavailable");
    }
    let elsewhere = pid(&session, "strict_pool", Affinity::Hint).await?;
    assert_ne!(elsewhere, at_home);
    println!("hint: process {elsewhere} answered, not {at_home}");
    let on_object = notes.call_method("read", ()).affinity(Affinity::Hint).await;
    assert_eq!(code(on_object), "session_worker_unavailable", "a call never goes where its object is not");
    py.clear_taint(&home).await?;
    assert_eq!(notes.call_method("read", ()).extract::<Vec<String>>().await?, ["before"]);
    println!("the taint has ended: {home} still has what was written");
    session.release().await?;
    Ok(())
}

async fn killed_home(py: &SnakeBridge) -> Outcome {
    part("a killed home: what was lost is said, and nobody takes an empty worker for it");
    let session = py.session("unlucky");
    let notes = notebook(&session, "strict_pool").await?;
    let home = notes.worker().clone();
    let at_home = pid(&session, "strict_pool", Affinity::StrictQueue).await?;
    let killed = session.call("os", "kill", (at_home, 9)).pool("strict_pool").await.expect_err("it died");
    println!("the call that was running: {killed}");
    assert_eq!(killed.code(), "worker_crashed");
    let lost = notes.call_method("read", ()).await.expect_err("it is lost");
    println!("the object: {lost}");
    assert_eq!(lost.code(), "ref_lost");
    let refused = pid(&session, "strict_pool", Affinity::StrictQueue).await.expect_err("the home is gone");
    println!("a strict call: {refused}");
    assert_eq!(refused.code(), "session_worker_unavailable");

    session.reset().await?;
    let again = pid(&session, "strict_pool", Affinity::StrictQueue).await?;
    assert_ne!(again, at_home);
    let new_home = session.home("strict_pool").await.expect("it is set");
    assert_ne!(new_home, home);
    println!("after a reset: a new, empty home, {new_home}, process {again}");

    let options = SessionOptions::new().on_worker_lost(OnWorkerLost::Rehome);
    let session = py.session_with("stateless", options);
    let at_home = pid(&session, "strict_pool", Affinity::StrictQueue).await?;
    let killed = session.call("os", "kill", (at_home, 9)).pool("strict_pool").await;
    assert_eq!(code(killed), "worker_crashed");
    let again = pid(&session, "strict_pool", Affinity::StrictQueue).await?;
    assert_ne!(again, at_home);
    println!("with on_worker_lost = rehome, the next call finds a new home by itself: process {again}");
    py.await_ready(Duration::from_secs(60)).await?;
    let stats = py.stats().await;
    let strict = stats.pools.iter().find(|pool| pool.name == "strict_pool").expect("it is configured");
    assert_eq!((strict.ready, strict.deaths), (2, 2));
    println!("the pool is whole again: {} workers ready after {} deaths", strict.ready, strict.deaths);
    Ok(())
}

async fn streams(py: &SnakeBridge) -> Outcome {
    part("streaming with session-bound refs: a loop over a stream calls the session that it streams from");
    let session = py.session("writer");
    let notes = notebook(&session, "strict_pool").await?;
    for plan in ["plan", "write", "read"] {
        notes.call_method("add", (plan,)).discard().await?;
    }
    let mut pages: PyStream<String> = notes.call_method("leaf_through", ()).stream().await?;
    assert_eq!(pages.worker(), notes.worker(), "a stream runs where its object is");
    let mut written = 3;
    while let Some(note) = pages.next().await {
        let note = note?;
        let count: usize = notes.call_method("add", (format!("{note}: done"),)).extract().await?;
        println!("{note:?} came from {}, and note {count} was written while the stream is open", pages.worker());
        written += 1;
        assert_eq!(count, written);
    }
    let read: Vec<String> = notes.call_method("read", ()).extract().await?;
    assert_eq!(read, ["plan", "write", "read", "plan: done", "write: done", "read: done"]);
    println!("after its end: {read:?}");

    part("opening a stream never waits: a busy home is worker_busy, under strict_queue too");
    let mut gate = Gate::new()?;
    let held = actix::spawn(notes.call_method("add_when_told", (gate.path(), "held")).extract::<usize>());
    gate.held().await;
    let of_the_object = notes.call_method("draft", ()).stream::<String>().await.expect_err("its worker is busy");
    println!("a stream over the object: {of_the_object}");
    assert_eq!(of_the_object.code(), "worker_busy");
    assert!(of_the_object.is_retryable());
    let of_the_session = session.call("itertools", "count", ()).pool("strict_pool").stream::<u64>().await;
    assert_eq!(code(of_the_session), "worker_busy", "though another worker is free");
    gate.open();
    assert_eq!(held.await??, 7);

    part("a stream that is dropped closes its generator, and its worker is free");
    let mut drafts: PyStream<String> = notes.call_method("draft", ()).stream().await?;
    for number in 1..=3 {
        let draft = drafts.next().await.expect("it has no end")?;
        assert_eq!(draft, format!("draft {number}"));
        println!("{draft}");
    }
    drop(drafts);
    // Nobody waits for the close: it is a call that takes its turn.
    let deadline = Instant::now() + Duration::from_secs(60);
    let last = loop {
        let read: Vec<String> = notes.call_method("read", ()).extract().await?;
        let last = read.last().expect("it has notes").clone();
        if last != "held" {
            break last;
        }
        assert!(Instant::now() < deadline, "the generator is still open");
    };
    assert_eq!(last, "no more drafts");
    println!("the generator's finally has run: {last:?}");
    let at_home = pid(&session, "strict_pool", Affinity::StrictFailFast).await?;
    println!("and process {at_home} takes calls");
    session.release().await?;
    Ok(())
}

async fn work_in_parallel(py: &SnakeBridge) -> Outcome {
    part("one piece of work, in parallel, over sessions");
    let pieces = (0..4).map(|number| {
        let session = py.session(format!("piece_{number}"));
        let (first, last) = (number * 5_000, (number + 1) * 5_000);
        async move {
            let count: u32 = session.call("workshop", "primes_below", (first, last)).extract().await?;
            println!("{first} to {last}: {count} primes, counted in {}", session.home("hint_pool").await.expect("set"));
            session.release().await?;
            Ok::<u32, snakebridge::Error>(count)
        }
    });
    let total: u32 = try_join_all(pieces).await?.into_iter().sum();
    println!("{total} primes below 20,000");
    assert_eq!(total, 2_262);
    Ok(())
}
