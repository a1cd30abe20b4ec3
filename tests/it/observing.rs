//! Events and the message log: every fact of the catalogue is told, and what is told is enough to check the rest.

mod checker;
mod replay;

use crate::support::{Busy, Gate, Log, alone, kill, pid, pool, until, within};
use checker::{Shown, check};
use futures::StreamExt;
use futures::future::join_all;
use replay::Replay;
use snakebridge::{
    Affinity, Config, Fact, LogRecord, MessageLogLevel, OnWorkerLost, PoolConfig, PoolStatus, PyRef, SnakeBridge,
};
use std::collections::BTreeSet;
use std::time::Duration;

async fn start(config: Config) -> SnakeBridge {
    within("the start of the bridge", SnakeBridge::from_config(config)).await.expect("the bridge starts")
}

fn one(pool: PoolConfig, level: MessageLogLevel) -> Config {
    Config::new().pool(pool).message_log_level(level)
}

/// Waits with its first event until it may go on, and then tells of each.
struct Slow {
    may_go_on: Option<std::sync::mpsc::Receiver<()>>,
    tells: tokio::sync::mpsc::UnboundedSender<(u64, &'static str)>,
}

impl actix::Actor for Slow {
    type Context = actix::Context<Self>;
}

impl actix::Handler<snakebridge::Event> for Slow {
    type Result = ();

    fn handle(&mut self, event: snakebridge::Event, _: &mut Self::Context) {
        if let Some(may_go_on) = self.may_go_on.take() {
            may_go_on.recv().unwrap();
        }
        self.tells.send((event.seq(), event.name())).unwrap();
    }
}

#[actix::test]
async fn a_slow_subscriber_gathers_no_more_events_than_a_reader_and_misses_the_oldest() {
    let py = start(Config::new().pool(pool("p", 1)).call_events(true)).await;
    let (go_on, may_go_on) = std::sync::mpsc::channel();
    let (tells, mut told) = tokio::sync::mpsc::unbounded_channel();
    let elsewhere = actix::Arbiter::new();
    let slow = move |_: &mut actix::Context<Slow>| Slow { may_go_on: Some(may_go_on), tells };
    py.subscribe(actix::Actor::start_in_arbiter(&elsewhere.handle(), slow).recipient());
    let session = py.session("s");
    // Two events each.
    for _ in 0..60 {
        let calls = std::iter::repeat_with(|| session.call("math", "sqrt", (4,)).discard()).take(50);
        let answers = within("fifty calls", join_all(calls)).await;
        assert!(answers.iter().all(Result::is_ok));
    }
    go_on.send(()).unwrap();
    within("the shutdown", py.shutdown()).await.unwrap();
    elsewhere.stop();
    let mut all = Vec::new();
    while let Some(event) = within("the next event", told.recv()).await {
        all.push(event);
    }
    assert!(all.len() < 5_000, "{} of some 6,000 had gathered", all.len());
    assert!(all.len() > 4_000, "{}", all.len());
    assert!(all.windows(2).all(|pair| pair[0].0 < pair[1].0), "they are in order");
    let newest = &all[all.len() - 4_000..];
    assert!(newest.windows(2).all(|pair| pair[0].0 + 1 == pair[1].0), "what is missing are the oldest");
    assert_eq!(all.last().unwrap().1, "snakebridge.bridge.stopped");
}

#[test]
fn every_fact_of_the_catalogue_is_told() {
    // Log lines are captured: who writes one first, on whatever thread, decides whether it is looked at.
    if !alone("observing::every_fact_of_the_catalogue_is_told") {
        return;
    }
    let log = Log::capture("snakebridge::event");
    let told = log.on_actix(async {
        let fails = Gate::new();
        let config = pool("p", 1)
            .env("FAIL_IF", fails.path())
            .init("bridge_helpers:fail_if_told")
            .heartbeat(Duration::from_millis(500))
            .restart_budget(2, Duration::from_millis(400))
            .restart_backoff(Duration::ZERO, Duration::ZERO);
        let py = start(Config::new().pool(config).call_events(true)).await;
        let mut events = py.events();
        let told = tokio::spawn(async move {
            let mut told = BTreeSet::new();
            while let Some(event) = events.next().await {
                told.insert(event.name());
                if matches!(event.fact(), Fact::BridgeStopped {}) {
                    break;
                }
            }
            told
        });
        let session = py.session("s");
        let counter = || session.call("bridge_helpers", "Counter", ()).into_ref();

        drop(counter().await.unwrap());
        until("the object to be freed", || async { py.stats().await.refs == 0 }).await;
        session.call("bridge_helpers", "fail", ()).await.unwrap_err();
        let gate = Gate::new();
        let dropped = tokio::spawn(session.call("bridge_helpers", "hold", (gate.path(),)).discard());
        gate.held().await;
        dropped.abort();
        gate.open();

        // Long enough for a tick to fall into it, and to come late.
        std::thread::sleep(Duration::from_millis(1_000));
        let worker = py.workers().await.remove(0).id;
        py.taint(&worker, Duration::from_secs(600), "a test").await.unwrap();
        py.clear_taint(&worker).await.unwrap();
        py.restart_worker(&worker).await.unwrap();
        until("it to go", || async { py.workers().await.iter().all(|other| other.id != worker) }).await;

        let lost: PyRef = counter().await.unwrap();
        fails.open();
        kill(py.workers().await[0].pid);
        until("the pool to be degraded", || async { py.stats().await.pools[0].degraded.is_some() }).await;
        std::fs::remove_file(fails.path()).unwrap();
        until("the pool to recover", || async { py.stats().await.pools[0].degraded.is_none() }).await;
        drop(lost);
        session.release().await.unwrap();
        within("the shutdown", py.shutdown()).await.unwrap();
        within("the last event", told).await.unwrap()
    });
    // Nobody can listen before the bridge has started: its log line tells of that.
    let started = "snakebridge.bridge.started";
    assert!(log.lines().iter().any(|line| line.contains(started)));
    // It takes a bug in an actor: the unit tests have that.
    let panicked = "snakebridge.actor.panicked";
    let untold = |name: &&&str| ![started, panicked].contains(*name) && !told.contains(**name);
    let missing: Vec<_> = Fact::NAMES.iter().filter(untold).collect();
    assert_eq!(missing, [&""; 0], "{told:?}");
}

#[tokio::test]
async fn calls_are_told_as_events_only_where_that_is_asked_for() {
    for asked in [false, true] {
        let py = start(Config::new().pool(pool("p", 1)).call_events(asked)).await;
        let mut events = py.events();
        let session = py.session("s");
        session.call("math", "sqrt", (4,)).discard().await.unwrap();
        session.call("math", "sqrt", (-4,)).discard().await.unwrap_err();
        session.release().await.unwrap();
        let mut told = Vec::new();
        loop {
            match within("the cleanup", events.next()).await.unwrap().fact() {
                Fact::SessionCleanup { .. } => break,
                Fact::CallStarted { session, pool, .. } => told.push(format!("started {session} {pool}")),
                Fact::CallFinished { worker, .. } => told.push(format!("finished {worker}")),
                Fact::CallFailed { code, .. } => told.push(format!("failed {code}")),
                _ => {}
            }
        }
        let all = ["started s p", "finished p/0#1", "started s p", "failed python"];
        assert_eq!(told, if asked { &all[..] } else { &[] });
        py.shutdown().await.unwrap();
    }
}

#[tokio::test]
async fn the_events_alone_give_the_state_that_the_bridge_tells_of_itself() {
    let strict = pool("strict", 2).affinity(Affinity::StrictQueue).restart_backoff(Duration::ZERO, Duration::ZERO);
    let hint = pool("hint", 1).restart_backoff(Duration::ZERO, Duration::ZERO);
    let py = start(Config::new().pool(strict).pool(hint)).await;
    let mut replay = Replay::new(&py.workers().await);
    let mut events = py.events();

    let sessions: Vec<_> = (0..8).map(|n| py.session(format!("s{n}"))).collect();
    for pool in ["strict", "hint"] {
        join_all(sessions.iter().map(|session| session.call("math", "sqrt", (4,)).pool(pool).discard())).await;
    }
    let kept: PyRef = sessions[0].call("bridge_helpers", "Counter", ()).into_ref().await.unwrap();
    // A death that sessions notice, and one of a worker that runs a call.
    kill(pid(&sessions[1]).await.unwrap());
    let busy = Busy::new(&py, "busy", "hint").await;
    kill(py.workers().await.into_iter().find(|worker| worker.id == busy.home).unwrap().pid);
    until("the exit to be seen", || async { py.workers().await.iter().all(|worker| worker.id != busy.home) }).await;
    py.await_ready(Duration::from_secs(20)).await.unwrap();
    for session in &sessions[4..6] {
        session.release().await.unwrap();
    }
    // One that had its home in a worker that was killed, and one that had it in the other.
    for session in &sessions[1..3] {
        session.reset().await.unwrap();
    }
    py.resize("strict", 3).await.unwrap();
    py.await_ready(Duration::from_secs(20)).await.unwrap();
    join_all((0..6).map(|n| py.session(format!("new{n}")).call("math", "sqrt", (4,)).discard())).await;
    py.resize("strict", 1).await.unwrap();
    drop(kept);
    until("two to go", || async { py.workers().await.len() == 2 }).await;
    let workers = py.workers().await;
    for worker in &workers {
        py.taint(&worker.id, Duration::from_secs(600), "a test").await.unwrap();
    }
    py.clear_taint(&workers[0].id).await.unwrap();
    // A call of another pool than the tainted one: its home is the last event.
    let last = workers[0].id.pool();
    py.session("last").call("math", "sqrt", (4,)).pool(last).discard().await.unwrap();

    loop {
        let event = within("the last event", events.next()).await.unwrap();
        replay.take(&event);
        if matches!(event.fact(), Fact::SessionHomed { session, .. } if session == "last") {
            break;
        }
    }
    replay.assert_shows(&py.workers().await, &py.sessions().await);
    py.shutdown().await.unwrap();
}

/// Many strict calls at once while workers are killed, and all that the log says of it.
async fn busy_run(calls: usize, kills: u64) -> Vec<LogRecord> {
    let config = pool("p", 2)
        .affinity(Affinity::StrictQueue)
        .on_worker_lost(OnWorkerLost::Rehome)
        .max_queue_size(calls)
        .queue_timeout(Duration::from_secs(600))
        .restart_budget(1000, Duration::from_secs(60))
        .restart_backoff(Duration::ZERO, Duration::ZERO);
    let py = start(one(config, MessageLogLevel::Calls)).await;
    let records = tokio::spawn(py.message_log().follow().collect::<Vec<_>>());
    let sessions: Vec<_> = (0..20).map(|n| py.session(format!("s{n}"))).collect();
    let all = (0..calls).map(|n| sessions[n % 20].call("math", "sqrt", (n,)).discard());
    let answers = tokio::spawn(join_all(all.collect::<Vec<_>>()));
    for number in 0..kills {
        let done = calls as u64 * number / kills;
        until("so many answers", || async { py.stats().await.pools[0].finished >= done }).await;
        let workers = py.workers().await;
        if let Some(worker) = workers.get(number as usize % 2) {
            kill(worker.pid);
        }
    }
    let answers = tokio::time::timeout(Duration::from_secs(120), answers).await.unwrap().unwrap();
    for error in answers.into_iter().filter_map(Result::err) {
        assert_eq!(error.code(), "worker_crashed", "{error}");
    }
    py.shutdown().await.unwrap();
    drop((py, sessions));
    within("the end of the log", records).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_alone_shows_order_homes_and_at_most_once_in_ten_thousand_calls_with_deaths() {
    let records = busy_run(10_000, 8).await;
    let shown = check(&records).unwrap();
    assert_eq!(shown.calls, 10_000);
    assert!(shown.deaths >= 6 && shown.returned + shown.crashed > 0, "{shown:?}");
}

#[tokio::test]
async fn the_checker_of_a_log_sees_what_is_wrong_with_it() {
    let records = busy_run(200, 1).await;
    assert!(matches!(check(&records).unwrap(), Shown { calls: 200, .. }));

    let of =
        |message: &str| -> Vec<usize> { (0..records.len()).filter(|at| records[*at].message == message).collect() };
    let session = records[of("reply")[0]].session.clone();
    let of_session = |message: &str| -> Vec<usize> {
        of(message).into_iter().filter(|at| records[*at].session == session).collect()
    };
    let doctored = |change: &dyn Fn(&mut Vec<LogRecord>)| {
        let mut records = records.clone();
        change(&mut records);
        // As a log that is written so would be numbered.
        for (at, record) in records.iter_mut().enumerate() {
            record.seq = at as u64 + 1;
        }
        check(&records).expect_err("what was changed is wrong")
    };

    for message in ["run", "reply"] {
        let [one, other, ..] = of_session(message)[..] else { panic!("a session has several calls") };
        let error = doctored(&|records| records.swap(one, other));
        assert!(error.contains("session") || error.contains("number"), "{error}");
    }
    for message in ["call", "granted", "run", "reply", "ended"] {
        let one = of(message)[7];
        doctored(&|records| drop(records.remove(one)));
    }
    let reply = of("reply")[7];
    let error = doctored(&|records| records.insert(reply, records[reply].clone()));
    assert!(error.starts_with("a call begins twice"), "{error}");
    let end = of("ended")[7];
    let error = doctored(&|records| records.insert(end, records[end].clone()));
    assert!(error.starts_with("a call ends twice"), "{error}");

    // One call of a session, in the middle of the others, somewhere else: one that was sent but once.
    let runs = |call| records.iter().filter(|record| record.message == "run" && record.call == call).count();
    let mut replied = of_session("reply").into_iter().skip(1).map(|at| records[at].call);
    let moved = replied.find(|call| runs(*call) == 1).expect("most are sent once");
    let error = doctored(&|records| {
        for record in records.iter_mut().filter(|record| record.call == moved) {
            match record.message {
                "granted" => record.outcome = "sent to p/9#1".into(),
                "run" => (record.actor, record.outcome) = ("worker p/9#1".into(), "sent (1)".into()),
                "reply" => (record.actor, record.outcome) = ("worker p/9#1".into(), "value (1)".into()),
                _ => {}
            }
        }
    });
    assert!(error.contains("away from the home") || error.contains("next number"), "{error}");

    let mut gap = records.clone();
    gap.remove(records.len() / 2);
    assert!(check(&gap).unwrap_err().starts_with("a gap"));
}

#[tokio::test]
async fn a_slow_follower_is_told_how_many_records_it_missed() {
    let py = start(one(pool("p", 1), MessageLogLevel::Calls)).await;
    let supervisor = py.pool_addr("p").unwrap();
    let log = py.message_log();
    let last = log.recent(1).last().unwrap().seq;
    let mut slow = log.follow();
    for _ in 0..65_536 + 1000 {
        supervisor.do_send(PoolStatus);
    }
    supervisor.send(PoolStatus).await.unwrap();
    let (first, next) = (slow.next().await.unwrap(), slow.next().await.unwrap());
    assert_eq!(first.seq, last + first.missed + 1);
    assert!((1000..2000).contains(&first.missed), "{first:?}");
    assert_eq!((next.seq, next.missed), (first.seq + 1, 0));
    assert!(log.recent(5000).iter().all(|record| record.missed == 0));
    py.shutdown().await.unwrap();
}

#[tokio::test]
async fn off_means_that_nothing_is_recorded_and_lifecycle_is_the_default() {
    let levels = [Some(MessageLogLevel::Off), Some(MessageLogLevel::Calls), None];
    for level in levels {
        let config = Config::new().pool(pool("p", 1));
        let py = start(level.map_or(config.clone(), |level| config.message_log_level(level))).await;
        let log = py.message_log();
        let followed = log.follow();
        let worker = py.workers().await.remove(0);
        let session = py.session("s");
        session.call("math", "sqrt", (4,)).discard().await.unwrap();
        kill(worker.pid);
        until("the exit to be seen", || async { py.workers().await.iter().all(|other| other.id != worker.id) }).await;
        py.shutdown().await.unwrap();
        drop((py, session));
        let followed: Vec<_> = within("the end of the log", followed.collect::<Vec<_>>()).await;
        let recent: BTreeSet<_> = log.recent(usize::MAX).into_iter().map(|record| record.message).collect();
        let has = |message| recent.contains(message) && followed.iter().any(|record| record.message == message);
        match level {
            Some(MessageLogLevel::Off) => assert!(recent.is_empty() && followed.is_empty()),
            Some(_) => assert!(has("ticket") && has("judged")),
            None => assert!(has("judged") && has("died") && !recent.contains("ticket")),
        }
    }
}

#[test]
fn records_are_log_lines_of_their_own_target() {
    if !alone("observing::records_are_log_lines_of_their_own_target") {
        return;
    }
    let log = Log::capture("snakebridge::message");
    log.on_actix(async {
        let py = start(one(pool("p", 1), MessageLogLevel::Calls)).await;
        py.session("s").call("math", "sqrt", (4,)).discard().await.unwrap();
        py.shutdown().await.unwrap();
    });
    let lines = log.lines();
    let ticket = lines.iter().find(|line| line.contains("ticket"));
    let ticket = ticket.unwrap_or_else(|| panic!("{lines:#?}"));
    for part in ["TRACE", "snakebridge::message", "actor=\"pool p\"", "session=s", "granted p/0#1; home p/0#1"] {
        assert!(ticket.contains(part), "{ticket}");
    }
    assert!(lines.iter().any(|line| line.contains("DEBUG") && line.contains("hello")));
}
