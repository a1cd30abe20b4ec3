//! What an actor is told once: the panic of an actor that is told it leaves nobody waiting, and nobody is told that
//! what was lost was done.

use super::{SOON, is_alive, outcome, pool, until, within};
use crate::api::SnakeBridge;
use crate::config::{Config, MessageLogLevel, PoolConfig};
use crate::error::Ran;
use crate::event::{Event, Fact};
use crate::observe::fault::{self, Fault};
use futures::{FutureExt, StreamExt, poll};
use std::process::Command;
use std::time::Duration;

async fn start(pool: PoolConfig) -> SnakeBridge {
    let config = Config::new().message_log_level(MessageLogLevel::Calls);
    within("the start", SnakeBridge::builder().config(config).pool(pool).start()).await.expect("the bridge starts")
}

async fn is_noted(py: &SnakeBridge, message: &str) -> bool {
    py.message_log().recent(1_000).iter().any(|record| record.message == message)
}

fn kill(pid: u32) {
    let killed = Command::new("kill").args(["-KILL", &pid.to_string()]).status();
    assert!(killed.expect("kill can be run").success());
}

fn parent_of(pid: u32) -> u32 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it lives");
    let (_, rest) = stat.rsplit_once(')').expect("its name");
    rest.split_whitespace().nth(1).and_then(|parent| parent.parse().ok()).expect("its parent")
}

#[actix::test]
async fn a_shutdown_ends_though_the_pool_panics_when_it_hears_that_a_pid_namespace_is_empty() {
    let tried = |args: &[&str]| Command::new("unshare").args(args).output().is_ok_and(|tried| tried.status.success());
    if !tried(&["-pf", "true"]) && !tried(&["-Upf", "true"]) {
        return;
    }
    let py = start(pool("p").pid_namespace(true)).await;
    let pid = py.workers().await[0].pid;
    fault::set(Fault::Next("namespace empty"));
    within("the shutdown", py.shutdown()).await.expect("it stops");
    assert!(!fault::is_set(), "the pool has panicked");
    assert!(!is_alive(pid));
}

#[actix::test]
async fn the_death_of_a_worker_whose_zygote_is_dead_is_told_though_its_actor_panics_when_it_sees_it() {
    let py = start(pool("p").restart_backoff(Duration::ZERO, Duration::ZERO)).await;
    let pid = py.workers().await[0].pid;
    kill(parent_of(pid));
    until("the worker to be an orphan", || is_noted(&py, "orphaned")).await;
    fault::set(Fault::Next("exit seen"));
    kill(pid);
    until("the panic", || async { !fault::is_set() }).await;
    within("the next worker", py.await_ready(SOON)).await.expect("it comes");
    let call = py.call("math", "sqrt", (4,)).extract::<f64>();
    assert_eq!(within("a call", call).await.ok(), Some(2.0));
    assert_eq!(py.stats().await.pools[0].deaths, 1);
    within("the shutdown", py.shutdown()).await.expect("it stops");
}

#[actix::test]
async fn a_call_that_is_given_up_ends_though_its_session_panics_when_it_hears_of_it() {
    let py = start(pool("p").cancel_grace(Duration::from_millis(200))).await;
    let session = py.session("s");
    let call = tokio::task::spawn_local(session.call("time", "sleep", (3_600,)).discard().into_future());
    until("it to run", || async { py.stats().await.pools[0].busy == 1 }).await;
    fault::set(Fault::Next("given up"));
    call.abort();
    until("its end", || async { py.stats().await.pools[0].busy == 0 }).await;
    assert!(!fault::is_set(), "the session has panicked");
    within("the shutdown", py.shutdown()).await.expect("it stops");
}

#[actix::test]
async fn a_reset_that_is_lost_in_a_panic_is_not_said_to_be_done() {
    let py = start(pool("p")).await;
    let session = py.session("s");
    // By the session, and by its pool.
    for message in ["reset", "reset session"] {
        within("a call", session.call("math", "sqrt", (4,)).discard()).await.expect("it ends");
        fault::set(Fault::Next(message));
        let reset = within("the reset", session.reset()).await;
        assert!(!fault::is_set(), "{message}: an actor has panicked");
        assert_eq!(outcome(reset), Err(("internal", Ran::Maybe)), "{message}");
        within("the pool", py.await_ready(SOON)).await.expect("it is whole");
        assert_eq!(outcome(within("another", session.reset()).await), Ok(()), "{message}");
    }
    within("the shutdown", py.shutdown()).await.expect("it stops");
}

#[actix::test]
async fn a_release_is_over_when_the_session_is_though_its_actor_panics_when_it_hears_of_it() {
    // In a task, which is told at once.
    let test = async {
        for message in ["end", "await end"] {
            let py = start(pool("p")).await;
            let mut events = py.events();
            let session = py.session("s");
            within("a call", session.call("math", "sqrt", (4,)).discard()).await.expect("it ends");
            fault::set(Fault::Next(message));
            let mut release = Box::pin(session.release());
            assert!(poll!(&mut release).is_pending());
            if message == "await end" {
                release = Box::pin(session.release());
            }
            within("the release", release).await.expect("it ends");
            assert!(!fault::is_set(), "{message}: the session has panicked");
            let told: Vec<Event> = std::iter::from_fn(|| events.next().now_or_never().flatten()).collect();
            let is_over = told.iter().any(|event| matches!(event.fact(), Fact::SessionCleanup { .. }));
            assert!(is_over, "{message}: it was said to be over before it was: {told:#?}");
            within("the shutdown", py.shutdown()).await.expect("it stops");
        }
    };
    tokio::task::spawn_local(test).await.expect("it holds");
}
