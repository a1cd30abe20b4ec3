//! What crosses on its way: an actor is told of what has changed while a message of before is still under way to it.

use super::{is_alive, outcome, pool, within};
use crate::actors::pool::Died;
use crate::api::SnakeBridge;
use crate::config::{Config, MessageLogLevel, SessionOptions};
use crate::error::Ran;
use crate::event::{Event, Fact};
use crate::status::WorkerInfo;
use futures::{FutureExt, StreamExt, poll};
use rustix::process::{Pid, Signal, kill_process};
use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;
use tracing_subscriber::Layer;
use tracing_subscriber::layer::SubscriberExt;

/// Everything that is ready to run runs once, in the order in which it came to be so, if this is awaited in a task.
async fn turn() {
    let mut is_first = true;
    poll_fn(|cx| {
        if std::mem::take(&mut is_first) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(())
    })
    .await;
}

async fn in_a_task(test: impl Future<Output = ()> + 'static) {
    tokio::task::spawn_local(test).await.expect("it holds");
}

fn kill(pid: u32) {
    let pid = Pid::from_raw(i32::try_from(pid).expect("a pid")).expect("a pid");
    kill_process(pid, Signal::KILL).expect("it lives");
}

/// What its pool will be told of it.
fn death_of(worker: &WorkerInfo) -> Died {
    Died { worker: worker.id.clone(), cause: "killed by SIGKILL".to_owned(), begun: Vec::new() }
}

#[actix::test]
async fn a_call_that_is_granted_again_when_its_caller_has_left_holds_up_no_other() {
    in_a_task(async {
        let config = Config::new().message_log_level(MessageLogLevel::Calls);
        let builder = SnakeBridge::builder().config(config).pool(pool("p").size(2));
        let py = within("the start", builder.start()).await.expect("the bridge starts");
        let session = py.session("s");
        within("a call", session.call("math", "sqrt", (4,)).discard()).await.expect("it ends");
        let home = py.workers().await.into_iter().find(|worker| worker.sessions == 1).expect("the session has a home");
        let supervisor = py.pool_addr("p").expect("the pool");
        {
            let mut call = pin!(session.call("math", "sqrt", (9,)).discard().into_future());
            assert!(poll!(&mut call).is_pending());
            turn().await;
            // Its ticket is with the pool, which finds next that the worker which it grants has died.
            kill(home.pid);
            supervisor.do_send(death_of(&home));
        }
        let next = session.call("math", "sqrt", (16,)).extract::<f64>();
        assert_eq!(within("the next call", next).await.expect("it runs elsewhere"), 4.0);
        let records = py.message_log().recent(1_000);
        let given_back = records.iter().filter(|record| record.outcome.starts_with("its caller has left, p/")).count();
        assert_eq!(given_back, 2, "both grants have met a caller that had left: {records:#?}");
        let waiting: usize = py.sessions().await.iter().map(|session| session.waiting).sum();
        assert_eq!(waiting, 0, "no session keeps a call");
        within("the shutdown", py.shutdown()).await.expect("it stops");
        assert!(!is_alive(home.pid));
    })
    .await;
}

#[actix::test]
async fn no_home_is_made_ready_for_a_caller_who_has_left_or_a_session_that_has_ended() {
    for ends in [false, true] {
        in_a_task(async move {
            let py = SnakeBridge::builder().pool(pool("p"));
            let py = within("the start", py.start()).await.expect("the bridge starts");
            let runs = Arc::new(AtomicU32::new(0));
            let counted = Arc::clone(&runs);
            let options = SessionOptions::new().on_home(move |_| {
                counted.fetch_add(1, Ordering::Relaxed);
                std::future::pending()
            });
            let session = py.session_with("s", options);
            let mut released = None;
            {
                let mut call = pin!(session.call("math", "sqrt", (9,)).discard().into_future());
                assert!(poll!(&mut call).is_pending());
                turn().await;
                // Its ticket is with the pool, and what it grants finds that nobody needs it.
                if ends {
                    let mut release = Box::pin(session.release());
                    assert!(poll!(&mut release).is_pending());
                    released = Some(release);
                    assert_eq!(outcome(within("the call", call).await), Err(("cancelled", Ran::No)));
                }
            }
            match released {
                Some(released) => within("the release", released).await.expect("it ends"),
                None => within("the release", session.release()).await.expect("it ends"),
            }
            assert_eq!(runs.load(Ordering::Relaxed), 0, "ended: {ends}");
            within("the shutdown", py.shutdown()).await.expect("it stops");
        })
        .await;
    }
}

#[actix::test]
async fn a_worker_that_is_wanted_of_a_zygote_which_has_just_died_is_had_of_the_next() {
    in_a_task(async {
        // With no back-off it would be asked for again, and again, within one step of the pool.
        let config = pool("p").restart_budget(20, Duration::from_secs(600));
        let config = config.restart_backoff(Duration::ZERO, Duration::ZERO);
        let py = within("the start", SnakeBridge::builder().pool(config).start()).await.expect("the bridge starts");
        let worker = py.workers().await.remove(0);
        let supervisor = py.pool_addr("p").expect("the pool");
        let zygote = parent_of(worker.pid);
        let mut events = py.events();
        kill(zygote);
        kill(worker.pid);
        // Nobody can hear of it meanwhile.
        while is_alive(zygote) || is_alive(worker.pid) {
            std::thread::sleep(Duration::from_millis(1));
        }
        supervisor.do_send(death_of(&worker));
        let call = py.call("math", "sqrt", (4,)).extract::<f64>();
        assert_eq!(within("a call", call).await.expect("another zygote forks its worker"), 2.0);
        let stats = py.stats().await;
        assert_eq!((stats.pools[0].ready, &stats.pools[0].degraded), (1, &None));
        let told: Vec<Event> = std::iter::from_fn(|| events.next().now_or_never().flatten()).collect();
        let starts = told.iter().filter(|event| matches!(event.fact(), Fact::WorkerStarting { .. })).count();
        assert_eq!(starts, 1, "it is not one of the zygote that died, and is not replaced: {told:#?}");
        within("the shutdown", py.shutdown()).await.expect("it stops");
    })
    .await;
}

/// Does something once, while the log line of a call's start is written.
struct Meanwhile(Mutex<Option<Box<dyn FnOnce() + Send>>>);

impl<S: tracing::Subscriber> Layer<S> for Meanwhile {
    fn on_event(&self, event: &tracing::Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
        let mut text = String::new();
        event.record(&mut |_: &tracing::field::Field, value: &dyn std::fmt::Debug| text += &format!("{value:?} "));
        if text.contains("snakebridge.call.started")
            && let Some(act) = self.0.lock().expect("no panic").take()
        {
            act();
        }
    }
}

#[actix::test]
async fn a_call_that_comes_behind_the_end_of_its_session_is_cancelled() {
    let builder = SnakeBridge::builder().config(Config::new().call_events(true)).pool(pool("p"));
    let py = within("the start", builder.start()).await.expect("the bridge starts");
    let session = py.session("s");
    // As another thread may: after the call has found its session, and before its request is on the way.
    let released = session.clone();
    let acts = move || assert!(released.release().boxed().now_or_never().is_none(), "it lives, and is ending");
    let meanwhile = Meanwhile(Mutex::new(Some(Box::new(acts))));
    let guard = tracing::subscriber::set_default(tracing_subscriber::registry().with(meanwhile));
    let call = within("the call", session.call("math", "sqrt", (4,)).discard()).await;
    drop(guard);
    assert_eq!(outcome(call), Err(("cancelled", Ran::No)));
    let next = within("the next", session.call("math", "sqrt", (4,)).extract::<f64>()).await;
    assert_eq!(next.ok(), Some(2.0), "in a new session");
    within("the shutdown", py.shutdown()).await.expect("it stops");
}

fn parent_of(pid: u32) -> u32 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it lives");
    let (_, rest) = stat.rsplit_once(')').expect("its name");
    rest.split_whitespace().nth(1).and_then(|parent| parent.parse().ok()).expect("its parent")
}
