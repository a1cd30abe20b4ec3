//! A call that nobody wants any more ends, and its worker lives on; one that does not end is killed with it.

use crate::support::{self, Gate, code, start, until, within};
use futures::StreamExt;
use futures::future::join_all;
use snakebridge::{Affinity, PoolConfig, Ran, Result, SnakeBridge};
use std::time::{Duration, Instant};

/// The deadline of calls that are to miss it.
const SHORT: Duration = Duration::from_millis(100);
/// Long enough for whatever obeys: with it a worker that was killed was killed for nothing.
const PATIENT: Duration = Duration::from_secs(15);

#[actix::test]
async fn a_call_that_sleeps_ends_at_its_deadline_and_its_worker_and_namespace_live_on() -> Result<()> {
    let py = start([pool(PATIENT)]).await;
    let session = py.session("s");
    session.exec("import time, snakebridge\nkept, ends = 7, []").await?;
    let code = "try:\n time.sleep(60)\nexcept Exception: ends.append('swallowed')\nfinally: ends.append('finally')";
    let error = session.exec(code).timeout(SHORT).await.unwrap_err();
    assert_eq!((error.code(), error.ran()), ("timeout", Ran::Maybe));
    let (kept, ends): (i64, Vec<String>) = within("the next call", session.eval("(kept, ends)").extract()).await?;
    assert_eq!((kept, ends), (7, vec!["finally".to_owned()]));
    lives_on(&py).await;
    py.shutdown().await
}

#[actix::test]
async fn a_call_whose_future_is_dropped_ends_and_its_worker_lives_on() -> Result<()> {
    let py = start([pool(PATIENT)]).await;
    let session = py.session("s");
    session.exec("import time\nkept = 7").await?;
    let gate = Gate::new();
    session.exec("def loop(path):\n open(path + '.begun', 'w').close()\n while True: pass").await?;
    let call = tokio::spawn(session.eval("loop").call_with((gate.path(),)).discard());
    gate.held().await;
    call.abort();
    assert_eq!(within("the next call", session.eval("kept").extract::<i64>()).await?, 7);
    lives_on(&py).await;
    py.shutdown().await
}

#[actix::test]
async fn a_stream_that_is_dropped_in_a_slow_batch_ends_and_its_worker_lives_on() -> Result<()> {
    let py = start([pool(PATIENT)]).await;
    let session = py.session("s");
    session.exec("import asyncio, time\nends = []").await?;
    let body = "\n try:\n  yield 1\n  SLEEP\n  yield 2\n finally: ends.append('NAME')";
    let plain = format!("def plain():{body}").replace("SLEEP", "time.sleep(60)").replace("NAME", "plain");
    let other =
        format!("async def other():{body}").replace("SLEEP", "await asyncio.sleep(60)").replace("NAME", "other");
    session.exec(plain).await?;
    session.exec(other).await?;
    for generator in ["plain()", "other()"] {
        // An opening never waits, and the closing of the one before may take its time.
        let begun = Instant::now();
        let mut stream = loop {
            match session.eval(generator).stream::<i64>().await {
                Err(error) if error.code() == "worker_busy" && begun.elapsed() < support::SOON => {}
                opened => break opened?,
            }
        };
        assert_eq!(within("the first item", stream.next()).await.transpose()?, Some(1));
        // The next batch is asked for, and waits.
        assert!(tokio::time::timeout(SHORT, stream.next()).await.is_err());
        drop(stream);
    }
    let ends: Vec<String> = within("the next call", session.eval("ends").extract()).await?;
    assert_eq!(ends, ["plain", "other"]);
    lives_on(&py).await;
    py.shutdown().await
}

#[actix::test]
async fn a_coroutine_is_cancelled_by_its_loop() -> Result<()> {
    for concurrency in [1, 3] {
        let py = start([pool(PATIENT).concurrency(concurrency)]).await;
        let session = py.session("s");
        session.exec("import asyncio\nends = []").await?;
        let code = "async def main():\n try: await asyncio.sleep(60)\n except BaseException as e: ends.append(type(e).__name__); raise";
        session.exec(code).await?;
        assert_eq!(support::code(session.eval("main()").timeout(SHORT).await), "timeout");
        let ends: Vec<String> = within("the next call", session.eval("ends").extract()).await?;
        assert_eq!(ends, ["CancelledError"]);
        lives_on(&py).await;
        py.shutdown().await?;
    }
    Ok(())
}

#[actix::test]
async fn a_call_that_ignores_its_interrupt_is_killed_after_the_grace_and_not_before() -> Result<()> {
    let grace = Duration::from_millis(600);
    let py = start([pool(grace)]).await;
    let session = py.session("s");
    let ignores = "import time\nends = time.monotonic() + 60\nwhile time.monotonic() < ends:\n try: time.sleep(60)\n except BaseException: pass";
    let id = support::pid(&session).await?;
    let begun = Instant::now();
    assert_eq!(code(session.exec(ignores).timeout(SHORT).await), "timeout");
    let told = begun.elapsed();
    assert!(told < SHORT + Duration::from_millis(500), "{told:?}");
    until("the end of the worker", || async { !support::is_alive(id) }).await;
    let died = begun.elapsed();
    assert!(died >= SHORT + grace && died < SHORT + grace + Duration::from_millis(500), "{died:?}");
    until("its replacement", || async { py.workers().await.iter().any(|worker| worker.id.generation() == 2) }).await;
    py.shutdown().await
}

#[actix::test]
async fn calls_beside_one_that_is_interrupted_are_untouched() -> Result<()> {
    let py = start([pool(PATIENT).concurrency(3)]).await;
    let sessions = ["a", "b", "c"].map(|id| py.session(id));
    let loops = "import time\ndef turns(seconds):\n end, n = time.monotonic() + seconds, 0\n while time.monotonic() < end: n += 1\n return 'whole'";
    for session in &sessions {
        session.exec(loops).await?;
    }
    let [a, b, c] = &sessions;
    let beside = [b, c].map(|session| tokio::spawn(session.eval("turns(1.5)").extract::<String>()));
    for _ in 0..5 {
        assert_eq!(code(a.eval("turns(60)").timeout(SHORT).await), "timeout");
    }
    for call in beside {
        let whole = within("a call beside it", call).await.expect("the task of a call")?;
        assert_eq!(whole, "whole");
    }
    assert_eq!(within("the next call", a.eval("turns(0)").extract::<String>()).await?, "whole");
    lives_on(&py).await;
    py.shutdown().await
}

#[actix::test]
async fn a_nested_call_is_interrupted_and_the_call_below_it_is_cancelled() -> Result<()> {
    let py = start([pool(PATIENT)]).await;
    let session = py.session("s");
    session.exec("import time\nfrom snakebridge import host\nends = []").await?;
    let ends = |name, code| {
        format!(
            "def {name}():\n try: {code}\n except BaseException as e: ends.append('{name} ' + type(e).__name__); raise"
        )
    };
    session.exec(ends("outer", "host.call('inner')")).await?;
    session.exec(ends("inner", "time.sleep(60)")).await?;
    let inner = session.clone();
    py.register("inner", move |(): ()| {
        let inner = inner.clone();
        async move { inner.eval("inner()").discard().await }
    })?;
    assert_eq!(code(session.eval("outer()").timeout(SHORT).await), "timeout");
    let ends: Vec<String> = within("the next call", session.eval("ends").extract()).await?;
    assert_eq!(ends, ["inner CallCancelled", "outer CallCancelled"]);
    lives_on(&py).await;
    py.shutdown().await
}

#[actix::test]
async fn a_call_knows_its_deadline_and_that_it_is_cancelled_and_may_put_that_off() -> Result<()> {
    let py = start([pool(PATIENT)]).await;
    let session = py.session("s");
    session.exec("import time\nfrom snakebridge import call\nseen = []").await?;
    assert!(session.eval("call.deadline() is None and not call.is_cancelled()").extract::<bool>().await?);
    let left: f64 = session.eval("call.deadline() - time.monotonic()").timeout(PATIENT).extract().await?;
    assert!(left > 1.0 && left < PATIENT.as_secs_f64(), "{left}");
    let works =
        "with call.shield():\n while not call.is_cancelled(): pass\n seen.append('done')\nseen.append('beyond')";
    assert_eq!(code(session.exec(works).timeout(SHORT).await), "timeout");
    let seen: Vec<String> = within("the next call", session.eval("seen").extract()).await?;
    assert_eq!(seen, ["done"]);
    lives_on(&py).await;
    py.shutdown().await
}

#[actix::test]
async fn calls_whose_deadlines_come_as_they_end_cost_no_worker_and_leave_nothing() -> Result<()> {
    for concurrency in [1, 3] {
        let py = start([pool(PATIENT).concurrency(concurrency)]).await;
        let sessions = ["a", "b", "c"].map(|id| py.session(id));
        for session in &sessions {
            session.exec("def work(): return [object() for _ in range(300)][:3]").await?;
        }
        for micros in (100..3_100).step_by(10) {
            let calls = sessions.iter().map(|session| {
                // Its value is a list of refs, which nobody keeps.
                let call = session.eval("work()").timeout(Duration::from_micros(micros));
                async move { within("a call", call).await.map(drop) }
            });
            for outcome in join_all(calls).await {
                assert!(outcome.as_ref().map_or_else(|error| error.code() == "timeout", |()| true), "{outcome:?}");
            }
        }
        until("all refs to go", || async { py.stats().await.refs == 0 }).await;
        // What the worker itself holds: three namespaces, and nothing that nobody knows of.
        let [session, ..] = &sessions;
        session.exec("from snakebridge_worker import codec").await?;
        until("all objects to go", || async { matches!(session.eval("len(codec._table)").extract().await, Ok(3)) })
            .await;
        lives_on(&py).await;
        py.shutdown().await?;
    }
    Ok(())
}

fn pool(cancel_grace: Duration) -> PoolConfig {
    support::pool("p", 1).affinity(Affinity::StrictQueue).cancel_grace(cancel_grace)
}

async fn lives_on(py: &SnakeBridge) {
    assert_eq!(py.workers().await[0].id.generation(), 1, "the worker was not killed");
}

#[actix::test]
async fn a_call_that_is_told_to_end_is_so_though_another_that_shares_its_word_waits_for_a_callback() -> Result<()> {
    let py = start([pool(PATIENT).concurrency(2)]).await;
    py.register("never", |(): ()| std::future::pending::<Result<()>>())?;
    let session = py.session("s");
    let program = "import os, snakebridge, time
def stubborn(path):
    open(path + '.begun', 'w').close()
    while not os.path.exists(path):
        try:
            time.sleep(0.001)
        except BaseException:
            pass
    with open(path + '.new', 'w') as file:
        file.write(str(snakebridge.call.is_cancelled()))
    os.rename(path + '.new', path + '.said')";
    session.exec(program).await?;
    let gate = Gate::new();
    let error = session.eval("stubborn").call_with((gate.path(),)).timeout(SHORT).await.unwrap_err();
    assert_eq!((error.code(), error.ran()), ("timeout", Ran::Maybe));
    let other = py.session("other");
    // There are 64 words.
    for _ in 0..64 {
        let waits = other.eval("__import__('snakebridge').host.call('never')").timeout(Duration::from_millis(20));
        assert_eq!(code(waits.await), "timeout");
    }
    gate.open();
    let said = std::path::PathBuf::from(format!("{}.said", gate.path()));
    until("its word", || async { said.exists() }).await;
    assert_eq!(std::fs::read_to_string(said).expect("it is there"), "True");
    py.shutdown().await
}
