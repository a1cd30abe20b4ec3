//! An actix application that watches its bridge: a supervisor actor of its own gets the events, follows
//! the message log, and shows what the actors did when a worker was killed under a running call.
//!
//! `cargo run --example lifecycle_log`
#![expect(clippy::print_stdout, reason = "an example talks")]

mod support;

use actix::prelude::*;
use rustix::process::{Pid, Signal, kill_process};
use snakebridge::{Affinity, Config, Event, LogRecord, MessageLogLevel, SnakeBridge};
use std::error::Error;
use std::time::Duration;
use support::{Gate, code, part, pool};
use tokio::sync::oneshot;

/// What the supervisor has seen by the end of the bridge.
#[derive(Default)]
struct Seen {
    events: Vec<&'static str>,
    records: Vec<LogRecord>,
}

/// Sees what happens, without asking anyone.
struct Supervisor {
    seen: Seen,
    at_the_end: Option<oneshot::Sender<Seen>>,
}

impl Actor for Supervisor {
    type Context = Context<Self>;
}

impl Handler<Event> for Supervisor {
    type Result = ();

    fn handle(&mut self, event: Event, _: &mut Context<Self>) {
        println!("event {:>2} {}", event.seq(), event.name());
        self.seen.events.push(event.name());
    }
}

impl StreamHandler<LogRecord> for Supervisor {
    fn handle(&mut self, record: LogRecord, _: &mut Context<Self>) {
        assert_eq!(record.missed, 0, "this reader is quick enough");
        self.seen.records.push(record);
    }

    /// The bridge and all its handles are gone.
    fn finished(&mut self, ctx: &mut Context<Self>) {
        if let Some(tell) = self.at_the_end.take() {
            let _gone = tell.send(std::mem::take(&mut self.seen));
        }
        ctx.stop();
    }
}

#[actix::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let config =
        Config::new().pool(pool("p", 1).affinity(Affinity::StrictQueue)).message_log_level(MessageLogLevel::Calls);
    let py = SnakeBridge::from_config(config).await?;

    let (at_the_end, end) = oneshot::channel();
    let records = py.message_log().follow();
    let supervisor = Supervisor::create(|ctx| {
        ctx.add_stream(records);
        Supervisor { seen: Seen::default(), at_the_end: Some(at_the_end) }
    });
    py.subscribe(supervisor.recipient());

    part("a session finds its home");
    let session = py.session("user_42");
    let mut gate = Gate::new()?;
    let held = tokio::spawn(session.call("workshop", "hold", (gate.path(),)).discard());
    gate.held().await;
    println!("at home in {}", session.home("p").await.ok_or("no home")?);
    gate.open();
    held.await??;

    part("its worker is killed while it runs a call, and another waits");
    let mut gate = Gate::new()?;
    let running = tokio::spawn(session.call("workshop", "hold", (gate.path(),)).discard());
    gate.held().await;
    let waiting = tokio::spawn(session.call("workshop", "pid", ()).discard());
    support::until_waiting(&py, "p", 1).await;
    let victim = py.workers().await.remove(0);
    let process = i32::try_from(victim.pid).ok().and_then(Pid::from_raw).ok_or("no pid")?;
    kill_process(process, Signal::KILL)?;
    let (running, waiting) = (code(running.await?), code(waiting.await?));
    println!("the running call: {running}; the waiting one: {waiting}");
    assert_eq!((running, waiting), ("worker_crashed", "session_worker_unavailable"));
    py.await_ready(Duration::from_secs(60)).await?;

    part("the session is told to go on, in the worker that took the place");
    session.reset().await?;
    session.call("workshop", "pid", ()).discard().await?;
    session.release().await?;
    py.shutdown().await?;
    drop((py, session));
    let seen = tokio::time::timeout(Duration::from_secs(60), end).await??;

    part("what the actors did");
    for LogRecord { seq, actor, message, call, outcome, .. } in &seen.records {
        let call = call.map_or_else(String::new, |call| call.to_string());
        println!("{seq:>3} {actor:<16} {message:<15} {call:<7} {outcome}");
    }
    let find = |actor: &str, message: &str, outcome: &str| {
        let is_it = |record: &&LogRecord| {
            *record.actor == *actor && record.message == message && record.outcome.contains(outcome)
        };
        seen.records.iter().find(is_it).map(|record| record.seq).ok_or(format!("no {message} of {actor}: {outcome}"))
    };
    // Each is the cause of the next.
    let chain = [
        find("worker p/0#1", "run", "sent (2)")?,
        find("worker p/0#1", "judged", "signal 9 (SIGKILL); begun: call-2; not begun: call-3")?,
        find("pool p", "died", "start p/0#2")?,
        find("session user_42", "refused", "session_worker_unavailable")?,
        find("worker p/0#2", "hello", "takes calls")?,
        find("pool p", "started", "worker.ready")?,
        find("pool p", "ticket", "granted p/0#2; home p/0#2")?,
        find("worker p/0#2", "reply", "value (1)")?,
        find("registry", "session ended", "released; refs freed: 0")?,
        find("pool p", "shutdown", "stop p/0#2")?,
    ];
    assert!(chain.is_sorted(), "{chain:?}");
    let told = ["worker.exited", "session.home_lost", "worker.starting", "worker.ready", "session.cleanup"];
    let places: Vec<_> = told
        .iter()
        .map(|name| seen.events.iter().position(|event| event.strip_prefix("snakebridge.") == Some(name)))
        .collect();
    assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{places:?}");
    Ok(())
}
