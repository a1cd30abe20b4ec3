//! The supervisor of one pool: carries what its rules decide to sessions, workers and the zygote.
//!
//! The messages that it accepts stand in a file for each kind of sender.

mod journal;
mod panic;
mod reports;
mod sessions;
mod users;
mod workers;
mod zygotes;

pub(crate) use panic::SessionsTold;
pub(crate) use reports::{HomeOf, Homes, Workers};
pub use reports::{PoolReport, PoolStatus};
pub(crate) use sessions::{Forget, LeaseReturned, RebuildFailed, Rebuilt, Reset, Submit, Withdrawn};
pub(crate) use users::{AwaitReady, ClearTaint, Leave, Resize, RestartWorker, Shutdown, TaintWorker};
pub(crate) use workers::{
    CallbackBegun, CallbackOver, Died, DistrustWorker, FreeRefs, LeaseOver, PinsMade, RenewWorker, Silence,
    StartFailed, Started, TakingBack,
};

pub(crate) use zygotes::Reload;

use super::contained::{self, Teller};
use super::registry::Registry;
use super::session::{Forgotten, Grant, Granted, Refused, SessionActor};
use super::timer::{OnTimer, Timer};
use super::worker::{self, Listeners, WorkerActor};
use crate::clock;
use crate::config::{PoolConfig, bounded};
use crate::error::{Error, Ran, Result};
use crate::event::Fact;
use crate::id::{SessionKey, WorkerId};
use crate::observe::{Handled, Journal, Observers, Who};
use crate::process::{Link, StartError, Zygote, ZygoteEvents, ZygoteSpec};
use crate::python;
use crate::rules::pool::{Action, Pool, PoolRules};
use crate::status::{Taint, Tie};
use actix::prelude::*;
use journal::Heard;
use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};
use tokio::sync::oneshot;
use zygotes::{Alive, Number, Zygotes};

/// The supervisor of one pool. `SnakeBridge::pool_addr` gives its address; it answers
/// [`PoolStatus`](crate::PoolStatus).
pub struct PoolSupervisor {
    config: Arc<PoolConfig>,
    rules: Pool,
    sessions: BTreeMap<SessionKey, Addr<SessionActor>>,
    workers: BTreeMap<WorkerId, Member>,
    seat: Seat,
    zygotes: Zygotes,
    ref_spaces: Arc<AtomicU64>,
    registry: Addr<Registry>,
    observers: Observers,
    journal: Journal,
    heard: Heard,
    timer: Timer,
    when_ready: Option<oneshot::Sender<Result<()>>>,
    await_ready: Vec<oneshot::Sender<bool>>,
    /// Who changed the pool, and is told when every slot has its worker ready.
    settling: Vec<oneshot::Sender<Result<()>>>,
    when_stopped: Vec<oneshot::Sender<()>>,
    has_stopped: bool,
    /// It has started over, and sessions may still send requests of before to these workers, which are gone.
    closing: Option<Vec<WorkerId>>,
    /// How often it has.
    era: u64,
    tie: Tie,
    /// Whether its zygote, the last that was seated, has one.
    pid_namespace: bool,
    size: usize,
    finished: u64,
    deaths: u64,
}

/// What starts a pool.
pub(crate) struct Setup {
    pub(crate) config: Arc<PoolConfig>,
    pub(crate) registry: Addr<Registry>,
    pub(crate) observers: Observers,
    /// Counts the workers of the bridge, each of which has its own object ids.
    pub(crate) ref_spaces: Arc<AtomicU64>,
    /// Told when every slot is ready for the first time, or that this will not come.
    pub(crate) when_ready: oneshot::Sender<Result<()>>,
}

struct Member {
    addr: Addr<WorkerActor>,
    zygote: Number,
    pid: Option<u32>,
    started_at: SystemTime,
    requests: u64,
    taint: Option<Taint>,
    /// It has left a heartbeat unanswered.
    is_silent: bool,
}

/// Each worker numbers its objects in a space of its own, so that no id is ever used twice.
const REF_BITS: u32 = 36;

/// How long a zygote may take to tell of a worker that it was asked for, once that is to be killed.
const FORK_WAIT: Duration = Duration::from_secs(1);

/// How long a start that failed is kept back, where the cause may pass: above all that this process has no descriptors,
/// memory or threads for a worker or a zygote.
const FORK_PAUSE: Duration = Duration::from_millis(100);

/// How long a pool that stops waits for the threads that were to start its zygotes: a zygote that was let go has a
/// second to end by itself before its thread kills it.
const LINGER: Duration = Duration::from_secs(2);

/// The zygote's place.
enum Seat {
    Empty,
    /// It is being started; workers that are wanted wait for it.
    Starting {
        wanted: Vec<WorkerId>,
        start: SpawnHandle,
    },
    Taken(Zygote),
    /// It was let go, or does not hear any more, and its end is not told yet; workers that are wanted wait for the next.
    Ending {
        wanted: Vec<WorkerId>,
    },
    /// The pool has stopped, and waits for the zygote's end.
    Left,
}

impl PoolSupervisor {
    pub(crate) fn new(setup: Setup, ctx: &mut Context<Self>) -> Self {
        Self {
            rules: Pool::new(PoolRules { seed: random(), ..PoolRules::from(&*setup.config) }),
            size: setup.config.size,
            sessions: BTreeMap::new(),
            workers: BTreeMap::new(),
            seat: Seat::Empty,
            zygotes: Zygotes::default(),
            ref_spaces: setup.ref_spaces,
            registry: setup.registry,
            journal: Journal::new(setup.observers.messages.clone(), Who::Pool(setup.config.name.clone())),
            observers: setup.observers,
            heard: Heard::default(),
            config: setup.config,
            timer: Timer::start(ctx),
            when_ready: Some(setup.when_ready),
            await_ready: Vec::new(),
            settling: Vec::new(),
            when_stopped: Vec::new(),
            has_stopped: false,
            closing: None,
            era: 0,
            tie: Tie::Lifeline,
            pid_namespace: false,
            finished: 0,
            deaths: 0,
        }
    }

    /// Carries out what the rules have decided.
    fn perform(&mut self, ctx: &mut Context<Self>) {
        self.note_decision();
        while let Some(action) = self.rules.poll_action() {
            match action {
                Action::Grant { call, session, worker, on, rebuild } => {
                    let addr = self.workers[&worker].addr.clone();
                    let lender = Some(ctx.address());
                    self.tell(&session, Granted(Grant { call, worker, addr, on, rebuild, lender }));
                }
                Action::Refuse { call, session, refusal } => {
                    self.tell(&session, Refused { call, refusal });
                }
                Action::TakeBack { call, worker } => self.order(&worker, worker::TakeBack { call }),
                Action::DropTakeBack { call, worker } => self.order(&worker, worker::DropTakeBack { call }),
                Action::Start { worker } => self.start_worker(worker, ctx),
                Action::Stop { worker } => self.order(&worker, worker::Stop),
                Action::Kill { worker, cause } => self.kill(worker, cause, ctx),
                Action::LeasesClosed { worker } => self.close(worker),
                Action::Forgotten { session, namespace } => {
                    self.tell(&session, Forgotten { pool: self.config.name.clone(), namespace });
                    self.sessions.remove(&session);
                }
                Action::Ready => self.started(Ok(())),
                Action::Degraded { cause, permanent: _ } => {
                    let error = self.cannot_start(&cause);
                    self.started(Err(error));
                }
                Action::Stopped => self.leave(ctx),
                Action::Emit(fact) => self.note(fact),
            }
        }
        let has_settled = self.rules.take_settled();
        if !self.await_ready.is_empty() && (has_settled || self.rules.is_ready()) {
            self.answer_ready(true);
        }
        self.answer_settled(has_settled);
        self.timer.set(self.rules.poll_timeout());
    }

    fn tell<M>(&self, session: &SessionKey, message: M)
    where
        M: Message<Result = ()> + Send + 'static,
        SessionActor: Handler<M>,
    {
        if let Some(actor) = self.sessions.get(session) {
            actor.do_send(message);
        }
    }

    fn order<M>(&self, worker: &WorkerId, message: M)
    where
        M: Message<Result = ()> + Send + 'static,
        WorkerActor: Handler<M>,
    {
        if let Some(member) = self.workers.get(worker) {
            member.addr.do_send(message);
        }
    }

    fn note(&mut self, fact: Fact) {
        match &fact {
            Fact::WorkerTainted { worker, reason, for_ms } => {
                let until = SystemTime::now() + bounded(Duration::from_millis(*for_ms));
                if let Some(member) = self.workers.get_mut(worker) {
                    member.taint = Some(Taint { reason: reason.clone(), until });
                }
            }
            Fact::WorkerUntainted { worker } => {
                if let Some(member) = self.workers.get_mut(worker) {
                    member.taint = None;
                }
            }
            Fact::WorkerExited { expected: false, .. } | Fact::WorkerStartFailed { .. } => self.deaths += 1,
            _ => {}
        }
        self.observers.events.emit(fact);
    }

    fn started(&mut self, outcome: Result<()>) {
        if let Some(when_ready) = self.when_ready.take() {
            // Whoever started the bridge may have given up.
            let _gone = when_ready.send(outcome);
        }
    }

    /// Performs what a change of the pool has led to. Resolves when every slot has its worker ready, or fails when
    /// that will not come soon.
    fn settle(&mut self, ctx: &mut Context<Self>) -> ResponseFuture<Result<()>> {
        let (answer, settled) = oneshot::channel();
        self.settling.push(answer);
        self.perform(ctx);
        Box::pin(async { settled.await.unwrap_or(Err(Error::ShuttingDown { ran: Ran::No })) })
    }

    fn answer_settled(&mut self, has_settled: bool) {
        let outcome = match self.rules.given_up() {
            _ if self.settling.is_empty() => return,
            _ if self.is_stopping() => Err(Error::ShuttingDown { ran: Ran::No }),
            Some(cause) => Err(self.cannot_start(cause)),
            None if has_settled || self.rules.is_settled() => Ok(()),
            None => return,
        };
        for settling in self.settling.drain(..) {
            let _gone = settling.send(outcome.clone());
        }
    }

    fn cannot_start(&self, cause: &str) -> Error {
        Error::Spawn(format!("pool {} cannot start its workers: {cause}", self.config.name).into())
    }

    fn is_stopping(&self) -> bool {
        self.has_stopped || !self.when_stopped.is_empty()
    }

    fn answer_ready(&mut self, ready: bool) {
        for waiting in self.await_ready.drain(..) {
            let _gone = waiting.send(ready);
        }
    }

    // ---- processes

    fn start_worker(&mut self, worker: WorkerId, ctx: &mut Context<Self>) {
        match &mut self.seat {
            Seat::Taken(zygote) => {
                let space = self.ref_spaces.fetch_add(1, Ordering::Relaxed) + 1;
                let ids = space << REF_BITS..(space + 1) << REF_BITS;
                match zygote.fork(&worker, ids.start) {
                    Ok(link) => {
                        self.rules.note_forked(&worker);
                        self.add_member(worker, link, ids, ctx);
                    }
                    Err(error) if is_gone(&error) => self.seat = Seat::Ending { wanted: vec![worker] },
                    Err(error) => self.fail_start_soon(worker, format!("no worker can be forked: {error}"), ctx),
                }
            }
            Seat::Starting { wanted, .. } | Seat::Ending { wanted } => wanted.push(worker),
            Seat::Empty => {
                let alive = self.zygotes.alive(ctx);
                let start = ctx.spawn(
                    start_zygote(Arc::clone(&self.config), alive)
                        .into_actor(self)
                        .map(|outcome, this, ctx| this.on_zygote_started(outcome, ctx)),
                );
                self.seat = Seat::Starting { wanted: vec![worker], start };
            }
            Seat::Left => {}
        }
    }

    /// Not at once: what lacks is not there the next moment, and with no back-off it would be tried again and again by
    /// the thread of whoever could make some.
    fn fail_start_soon(&mut self, worker: WorkerId, cause: String, ctx: &mut Context<Self>) {
        ctx.run_later(FORK_PAUSE, move |this, ctx| {
            this.rules.handle_start_failed(&worker, cause, false, clock::now());
            this.perform(ctx);
            this.timer.wake();
        });
    }

    fn add_member(&mut self, id: WorkerId, link: Link, ids: Range<u64>, ctx: &mut Context<Self>) {
        let config = Arc::clone(&self.config);
        let listeners = Listeners {
            pool: ctx.address(),
            registry: self.registry.clone(),
            messages: self.observers.messages.clone(),
        };
        let worker = id.clone();
        let teller = Teller { events: self.observers.events.clone(), who: Who::Worker(id.clone()) };
        let addr = contained::create(teller, move |ctx| WorkerActor::new(worker, link, ids, &config, listeners, ctx));
        let member = Member {
            addr,
            zygote: self.zygotes.last,
            pid: None,
            started_at: SystemTime::now(),
            requests: 0,
            taint: None,
            is_silent: false,
        };
        self.workers.insert(id, member);
    }

    fn on_zygote_started(&mut self, outcome: Result<(Zygote, ZygoteEvents), StartError>, ctx: &mut Context<Self>) {
        let Seat::Starting { wanted, .. } = std::mem::replace(&mut self.seat, Seat::Empty) else { return };
        match outcome {
            Ok((zygote, events)) => {
                self.journal.note(Handled::ZygoteStarted, None, None, || starts(&wanted));
                self.seat(zygote, events, wanted, ctx);
            }
            Err(StartError { permanent, what }) => {
                self.journal.note(Handled::ZygoteFailed, None, None, || what.as_str());
                for worker in wanted {
                    match permanent {
                        true => self.rules.handle_start_failed(&worker, what.clone(), true, clock::now()),
                        false => self.fail_start_soon(worker, what.clone(), ctx),
                    }
                }
            }
        }
        self.perform(ctx);
        self.timer.wake();
    }

    /// No request can be on its way to that worker.
    fn close(&mut self, worker: WorkerId) {
        if let Some(closing) = &mut self.closing {
            return closing.push(worker);
        }
        self.order(&worker, worker::Retire);
        self.workers.remove(&worker);
        self.let_zygotes_go();
    }

    fn kill(&mut self, worker: WorkerId, cause: String, ctx: &mut Context<Self>) {
        if let Some(member) = self.workers.get(&worker) {
            if member.pid.is_none() {
                let asked = worker.clone();
                ctx.run_later(FORK_WAIT, move |this, _| this.on_fork_overdue(&asked));
            }
            let for_shutdown = !self.when_stopped.is_empty();
            return self.order(&worker, worker::Kill { cause, for_shutdown });
        }
        // It was never forked, and waits for a zygote, or to be told that it cannot be.
        if let Seat::Starting { wanted, .. } | Seat::Ending { wanted } = &mut self.seat {
            wanted.retain(|wanted| *wanted != worker);
        }
        let cause = "it was not forked in time".to_owned();
        self.rules.handle_start_failed(&worker, cause, false, clock::now());
    }

    /// A worker is to be killed of which the zygote has said nothing: it is stuck, and nobody else will.
    fn on_fork_overdue(&mut self, worker: &WorkerId) {
        if let Some(member) = self.workers.get(worker).filter(|member| member.pid.is_none()) {
            self.end_silent_zygote(member.zygote, worker);
        }
    }

    /// Every worker's exit was seen: the zygotes go too.
    fn leave(&mut self, ctx: &mut Context<Self>) {
        match std::mem::replace(&mut self.seat, Seat::Left) {
            Seat::Starting { start, .. } => {
                ctx.cancel_future(start);
            }
            Seat::Taken(_) | Seat::Ending { .. } | Seat::Empty | Seat::Left => {}
        }
        // What is killed and does not end sleeps in the kernel.
        ctx.run_later(LINGER, |this, ctx| {
            this.zygotes.give_up_threads();
            this.stop_if_over(ctx);
        });
        self.stop_if_over(ctx);
    }

    fn stop_if_over(&mut self, ctx: &mut Context<Self>) {
        if !self.has_stopped && matches!(self.seat, Seat::Left) && self.end_zygotes(ctx) {
            self.stopped();
        }
    }

    fn stopped(&mut self) {
        self.has_stopped = true;
        self.started(Err(Error::ShuttingDown { ran: Ran::No }));
        self.answer_ready(false);
        for waiting in self.when_stopped.drain(..) {
            let _gone = waiting.send(());
        }
    }
}

/// Each `RandomState` has keys of its own.
fn random() -> u64 {
    // A test that stops the clock is to repeat itself.
    if clock::is_stopped() { 0 } else { RandomState::new().hash_one(0) }
}

fn starts(wanted: &[WorkerId]) -> String {
    wanted.iter().map(|worker| format!("start {worker}")).collect::<Vec<_>>().join("; ")
}

/// Finding an interpreter runs programs and waits for them: a thread of its own does it. Each thread that this starts
/// keeps a clone of `alive` until it has ended what it has started.
async fn start_zygote(config: Arc<PoolConfig>, alive: Arc<Alive>) -> Result<(Zygote, ZygoteEvents), StartError> {
    #[cfg(test)]
    if let Some(started) = crate::process::scripted::start(&config).await {
        return started;
    }
    let (tell, found) = oneshot::channel();
    let (search, searching) = (Arc::clone(&config), Arc::clone(&alive));
    let spawned = std::thread::Builder::new().name("snakebridge-find".into()).spawn(move || {
        let outcome = python::find_unless(&search, &|| tell.is_closed());
        let _gone = tell.send(outcome);
        drop(searching);
    });
    if let Err(error) = spawned {
        return Err(StartError { permanent: false, what: format!("no thread to look for Python: {error}") });
    }
    match found.await {
        Ok(Ok(interpreter)) => Zygote::start_kept(ZygoteSpec::new(&config, interpreter)?, alive).await,
        Ok(Err(error)) => Err(StartError { permanent: true, what: error.to_string() }),
        Err(_) => Err(StartError { permanent: false, what: "the search for Python panicked".to_owned() }),
    }
}

impl Actor for PoolSupervisor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        self.hear(Handled::Open);
        // Also after a panic, which may have been in the first start.
        if !self.is_stopping() {
            self.rules.start(clock::now());
        }
        self.perform(ctx);
    }
}

impl OnTimer for PoolSupervisor {
    fn on_timer(&mut self, ctx: &mut Context<Self>) {
        self.rules.handle_timeout(clock::now());
        self.hear_alarm();
        self.perform(ctx);
    }
}

/// Whether nobody hears what is said to the zygote: it has ended, as will be told.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}
