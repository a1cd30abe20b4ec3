//! The supervisor of one pool: carries what its rules decide to sessions, workers and the zygote.

use super::registry::Registry;
use super::session::{Forgotten, Granted, Refused, SessionActor, WithdrawalSeen};
use super::timer::{OnTimer, Timer};
use super::worker::{self, WorkerActor};
use crate::config::PoolConfig;
use crate::error::{Error, Ran, Result};
use crate::event::Fact;
use crate::id::{CallId, RefId, SessionKey, WorkerId};
use crate::observe::Events;
use crate::process::{self, Link, StartError, Zygote, ZygoteEvent, ZygoteEvents, ZygoteSpec};
use crate::python;
use crate::rules::pool::{Action, Pool, PoolRules, Standing, Ticket, UnknownWorker};
use crate::status::{PoolStats, RunningCall, Taint, Tie, WorkerInfo, WorkerState};
use actix::prelude::*;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::oneshot;

/// The supervisor of one pool. `SnakeBridge::pool_addr` gives its address; it answers
/// [`PoolStatus`](crate::PoolStatus).
pub struct PoolSupervisor {
    config: Arc<PoolConfig>,
    rules: Pool,
    sessions: HashMap<SessionKey, Addr<SessionActor>>,
    workers: BTreeMap<WorkerId, Member>,
    seat: Seat,
    ref_spaces: Arc<AtomicU64>,
    registry: Addr<Registry>,
    events: Events,
    timer: Timer,
    when_ready: Option<oneshot::Sender<Result<()>>>,
    await_ready: Vec<oneshot::Sender<bool>>,
    when_stopped: Vec<oneshot::Sender<()>>,
    tie: Tie,
    size: usize,
    finished: u64,
    deaths: u64,
}

/// What starts a pool.
pub(crate) struct Setup {
    pub(crate) config: Arc<PoolConfig>,
    pub(crate) registry: Addr<Registry>,
    pub(crate) events: Events,
    /// Counts the workers of the bridge, each of which has its own object ids.
    pub(crate) ref_spaces: Arc<AtomicU64>,
    /// Told when every slot is ready for the first time, or that this will not come.
    pub(crate) when_ready: oneshot::Sender<Result<()>>,
}

struct Member {
    addr: Addr<WorkerActor>,
    pid: Option<u32>,
    started_at: SystemTime,
    requests: u64,
    taint: Option<Taint>,
}

/// Each worker numbers its objects in a space of its own, so that no id is ever used twice.
const REF_BITS: u32 = 36;

/// The zygote's place.
enum Seat {
    Empty,
    /// It is being started; workers that are wanted wait for it.
    Starting {
        wanted: Vec<WorkerId>,
        start: SpawnHandle,
    },
    Taken(Zygote),
    /// The pool has stopped, and waits for the zygote's end.
    Left,
}

impl PoolSupervisor {
    pub(crate) fn new(setup: Setup, ctx: &mut Context<Self>) -> Self {
        Self {
            rules: Pool::new(PoolRules::from(&*setup.config)),
            size: setup.config.size,
            config: setup.config,
            sessions: HashMap::new(),
            workers: BTreeMap::new(),
            seat: Seat::Empty,
            ref_spaces: setup.ref_spaces,
            registry: setup.registry,
            events: setup.events,
            timer: Timer::start(ctx),
            when_ready: Some(setup.when_ready),
            await_ready: Vec::new(),
            when_stopped: Vec::new(),
            tie: Tie::Lifeline,
            finished: 0,
            deaths: 0,
        }
    }

    /// Carries out what the rules have decided.
    fn perform(&mut self, ctx: &mut Context<Self>) {
        while let Some(action) = self.rules.poll_action() {
            match action {
                Action::Grant { call, session, worker } => {
                    let addr = self.workers[&worker].addr.clone();
                    self.tell(&session, Granted { call, worker, addr, pool: ctx.address() });
                }
                Action::Refuse { call, session, refusal } => {
                    self.tell(&session, Refused { call, refusal, pool: ctx.address() });
                }
                Action::TakeBack { call, worker } => self.order(&worker, worker::TakeBack { call }),
                Action::DropTakeBack { call, worker } => self.order(&worker, worker::DropTakeBack { call }),
                Action::Start { worker } => self.start_worker(worker, ctx),
                Action::Stop { worker } => self.order(&worker, worker::Stop),
                Action::Kill { worker } => self.kill(worker),
                Action::LeasesClosed { worker } => {
                    self.order(&worker, worker::Retire);
                    self.workers.remove(&worker);
                }
                Action::Forgotten { session } => {
                    self.tell(&session, Forgotten);
                    self.sessions.remove(&session);
                }
                Action::Ready => self.started(Ok(())),
                Action::Degraded { cause, permanent: _ } => {
                    let what = format!("pool {} cannot start its workers: {cause}", self.config.name);
                    self.started(Err(Error::Spawn(what.into())));
                }
                Action::Stopped => self.leave(ctx),
                Action::Emit(fact) => self.note(fact),
            }
        }
        if !self.await_ready.is_empty() && self.rules.is_ready() {
            self.answer_ready(true);
        }
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
                let until = SystemTime::now() + Duration::from_millis(*for_ms);
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
        self.events.emit(fact);
    }

    fn started(&mut self, outcome: Result<()>) {
        if let Some(when_ready) = self.when_ready.take() {
            // Whoever started the bridge may have given up.
            let _gone = when_ready.send(outcome);
        }
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
                match zygote.fork(&worker, space << REF_BITS) {
                    Ok(link) => self.add_member(worker, link, ctx),
                    Err(error) => {
                        let cause = format!("no worker can be forked: {error}");
                        self.rules.handle_start_failed(&worker, cause, false, Instant::now());
                    }
                }
            }
            Seat::Starting { wanted, .. } => wanted.push(worker),
            Seat::Empty => {
                let start = ctx.spawn(
                    start_zygote(Arc::clone(&self.config))
                        .into_actor(self)
                        .map(|outcome, this, ctx| this.on_zygote_started(outcome, ctx)),
                );
                self.seat = Seat::Starting { wanted: vec![worker], start };
            }
            Seat::Left => {}
        }
    }

    fn add_member(&mut self, id: WorkerId, link: Link, ctx: &mut Context<Self>) {
        let (pool, registry, config) = (ctx.address(), self.registry.clone(), Arc::clone(&self.config));
        let worker = id.clone();
        let addr = WorkerActor::create(move |ctx| WorkerActor::new(worker, link, &config, pool, registry, ctx));
        let member = Member { addr, pid: None, started_at: SystemTime::now(), requests: 0, taint: None };
        self.workers.insert(id, member);
    }

    fn on_zygote_started(&mut self, outcome: Result<(Zygote, ZygoteEvents), StartError>, ctx: &mut Context<Self>) {
        let Seat::Starting { wanted, .. } = std::mem::replace(&mut self.seat, Seat::Empty) else { return };
        let now = Instant::now();
        match outcome {
            Ok((zygote, events)) => {
                let guarantees = zygote.guarantees();
                self.tie = if guarantees.lifeline { Tie::Lifeline } else { Tie::ParentDeath };
                if let Some(why) = &guarantees.exec_because {
                    tracing::warn!(target: "snakebridge::pool", pool = %self.config.name, why, "workers are executed, not forked");
                }
                ctx.add_stream(events);
                self.seat = Seat::Taken(zygote);
                for worker in wanted {
                    self.start_worker(worker, ctx);
                }
            }
            Err(StartError { permanent, what }) => {
                for worker in wanted {
                    self.rules.handle_start_failed(&worker, what.clone(), permanent, now);
                }
            }
        }
        self.perform(ctx);
    }

    fn kill(&mut self, worker: WorkerId) {
        if self.workers.contains_key(&worker) {
            let for_shutdown = !self.when_stopped.is_empty();
            return self.order(&worker, worker::Kill { for_shutdown });
        }
        // It was never forked: its zygote is still being started.
        if let Seat::Starting { wanted, .. } = &mut self.seat {
            wanted.retain(|wanted| *wanted != worker);
        }
        let cause = "its zygote did not start in time".to_owned();
        self.rules.handle_start_failed(&worker, cause, false, Instant::now());
    }

    /// Every worker's exit was seen: the zygote goes too.
    fn leave(&mut self, ctx: &mut Context<Self>) {
        match std::mem::replace(&mut self.seat, Seat::Left) {
            // Its end is told by its events.
            Seat::Taken(zygote) => drop(zygote),
            Seat::Starting { start, .. } => {
                ctx.cancel_future(start);
                self.stopped();
            }
            Seat::Empty | Seat::Left => self.stopped(),
        }
    }

    fn stopped(&mut self) {
        self.started(Err(Error::ShuttingDown { ran: Ran::No }));
        self.answer_ready(false);
        for waiting in self.when_stopped.drain(..) {
            let _gone = waiting.send(());
        }
    }
}

/// Finding an interpreter runs programs and waits for them: a thread of its own does it.
async fn start_zygote(config: Arc<PoolConfig>) -> Result<(Zygote, ZygoteEvents), StartError> {
    let (tell, found) = oneshot::channel();
    let search = Arc::clone(&config);
    let spawned = std::thread::Builder::new().name("snakebridge-find".into()).spawn(move || {
        let _gone = tell.send(python::find(&search));
    });
    if let Err(error) = spawned {
        return Err(StartError { permanent: false, what: format!("no thread to look for Python: {error}") });
    }
    match found.await {
        Ok(Ok(interpreter)) => Zygote::start(ZygoteSpec::new(&config, interpreter)).await,
        Ok(Err(error)) => Err(StartError { permanent: true, what: error.to_string() }),
        Err(_) => Err(StartError { permanent: false, what: "the search for Python panicked".to_owned() }),
    }
}

impl Actor for PoolSupervisor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        self.rules.start(Instant::now());
        self.perform(ctx);
    }
}

impl OnTimer for PoolSupervisor {
    fn on_timer(&mut self, ctx: &mut Context<Self>) {
        self.rules.handle_timeout(Instant::now());
        self.perform(ctx);
    }
}

impl StreamHandler<ZygoteEvent> for PoolSupervisor {
    fn handle(&mut self, event: ZygoteEvent, ctx: &mut Context<Self>) {
        match event {
            ZygoteEvent::Forked { worker, pid, pidfd } => {
                if let Some(member) = self.workers.get_mut(&worker) {
                    member.pid = Some(pid);
                    member.addr.do_send(worker::Forked { pidfd });
                }
            }
            ZygoteEvent::ForkFailed { worker, why } => {
                self.order(&worker, worker::NeverForked { why });
            }
            ZygoteEvent::Exited { worker, exit } => self.order(&worker, worker::Exited { exit }),
            ZygoteEvent::Gone { why } => {
                if matches!(self.seat, Seat::Left) {
                    return self.stopped();
                }
                tracing::warn!(target: "snakebridge::pool", pool = %self.config.name, why, "the zygote is gone");
                self.seat = Seat::Empty;
                // Nobody will tell of workers that it was asked for and did not report.
                for member in self.workers.values().filter(|member| member.pid.is_none()) {
                    member.addr.do_send(worker::NeverForked { why: why.clone() });
                }
                self.rules.handle_zygote_lost(Instant::now());
                self.perform(ctx);
            }
        }
    }

    /// The next zygote has events of its own.
    fn finished(&mut self, _: &mut Context<Self>) {}
}

// ---- from sessions

/// A call wants a worker.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Submit {
    pub(crate) ticket: Ticket,
    pub(crate) session: Addr<SessionActor>,
}

impl Handler<Submit> for PoolSupervisor {
    type Result = ();

    fn handle(&mut self, Submit { ticket, session }: Submit, ctx: &mut Context<Self>) {
        if !self.sessions.contains_key(&ticket.session) {
            self.sessions.insert(ticket.session.clone(), session);
        }
        self.rules.handle_ticket(ticket, Instant::now());
        self.perform(ctx);
    }
}

/// The caller of a call that waits has gone.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Withdrawn {
    pub(crate) call: CallId,
    pub(crate) session: Addr<SessionActor>,
}

impl Handler<Withdrawn> for PoolSupervisor {
    type Result = ();

    fn handle(&mut self, Withdrawn { call, session }: Withdrawn, ctx: &mut Context<Self>) {
        self.rules.handle_withdrawn(call, Instant::now());
        // Behind a grant that is under way, which so meets the body still.
        session.do_send(WithdrawalSeen { call });
        self.perform(ctx);
    }
}

/// The grant met a call whose caller had gone.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct LeaseReturned {
    pub(crate) call: CallId,
    pub(crate) worker: WorkerId,
}

impl Handler<LeaseReturned> for PoolSupervisor {
    type Result = ();

    fn handle(&mut self, LeaseReturned { call, worker }: LeaseReturned, ctx: &mut Context<Self>) {
        self.rules.handle_lease_returned(call, &worker, Instant::now());
        self.perform(ctx);
    }
}

/// The session has ended.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Forget {
    pub(crate) session: SessionKey,
    pub(crate) actor: Addr<SessionActor>,
}

impl Handler<Forget> for PoolSupervisor {
    type Result = ();

    fn handle(&mut self, Forget { session, actor }: Forget, ctx: &mut Context<Self>) {
        self.sessions.entry(session.clone()).or_insert(actor);
        self.rules.forget(&session, Instant::now());
        self.perform(ctx);
    }
}

/// Forget homes that are missing or tainted, and lost refs.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Reset {
    pub(crate) session: SessionKey,
    /// Dropped when it is done.
    pub(crate) done: Arc<oneshot::Sender<()>>,
}

impl Handler<Reset> for PoolSupervisor {
    type Result = ();

    fn handle(&mut self, Reset { session, done }: Reset, ctx: &mut Context<Self>) {
        self.rules.reset(&session, Instant::now());
        self.perform(ctx);
        drop(done);
    }
}

// ---- from workers

/// It takes calls.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Started {
    pub(crate) worker: WorkerId,
}

impl Handler<Started> for PoolSupervisor {
    type Result = ();

    fn handle(&mut self, Started { worker }: Started, ctx: &mut Context<Self>) {
        self.rules.handle_ready(&worker, Instant::now());
        self.perform(ctx);
    }
}

/// It never took calls, and is gone.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct StartFailed {
    pub(crate) worker: WorkerId,
    pub(crate) cause: String,
    pub(crate) permanent: bool,
}

impl Handler<StartFailed> for PoolSupervisor {
    type Result = ();

    fn handle(&mut self, failed: StartFailed, ctx: &mut Context<Self>) {
        self.rules.handle_start_failed(&failed.worker, failed.cause, failed.permanent, Instant::now());
        self.workers.remove(&failed.worker);
        self.perform(ctx);
    }
}

/// A call has been answered there.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct LeaseOver {
    pub(crate) call: CallId,
    pub(crate) worker: WorkerId,
    pub(crate) pins_made: usize,
}

impl Handler<LeaseOver> for PoolSupervisor {
    type Result = ();

    fn handle(&mut self, over: LeaseOver, ctx: &mut Context<Self>) {
        self.finished += 1;
        if let Some(member) = self.workers.get_mut(&over.worker) {
            member.requests += 1;
        }
        self.rules.handle_lease_over(over.call, over.pins_made, Instant::now());
        self.perform(ctx);
    }
}

/// What became of taking a call back.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) enum TakingBack {
    /// It never begins, and its body is with its session.
    Done { call: CallId },
    /// It had begun.
    Kept { call: CallId },
    /// The worker has passed it over, or a request that came too late has been sent back.
    Passed { call: CallId, worker: WorkerId },
}

impl Handler<TakingBack> for PoolSupervisor {
    type Result = ();

    fn handle(&mut self, outcome: TakingBack, ctx: &mut Context<Self>) {
        let now = Instant::now();
        match outcome {
            TakingBack::Done { call } => self.rules.handle_taken_back(call, now),
            TakingBack::Kept { call } => self.rules.handle_kept(call, now),
            TakingBack::Passed { call, worker } => self.rules.handle_passed(call, &worker, now),
        }
        self.perform(ctx);
    }
}

/// Its exit was seen, its socket read to the end, its page judged.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Died {
    pub(crate) worker: WorkerId,
    pub(crate) cause: String,
    pub(crate) begun: Vec<CallId>,
}

impl Handler<Died> for PoolSupervisor {
    type Result = ();

    fn handle(&mut self, died: Died, ctx: &mut Context<Self>) {
        self.rules.handle_exit(&died.worker, died.cause, died.begun, Instant::now());
        self.perform(ctx);
    }
}

// ---- from the registry

/// Rust holds these objects no longer.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct FreeRefs {
    pub(crate) session: SessionKey,
    pub(crate) worker: WorkerId,
    pub(crate) ids: Vec<RefId>,
}

impl Handler<FreeRefs> for PoolSupervisor {
    type Result = ();

    fn handle(&mut self, free: FreeRefs, ctx: &mut Context<Self>) {
        self.rules.handle_unpinned(&free.session, &free.worker, free.ids.len(), Instant::now());
        self.order(&free.worker, worker::Free { ids: free.ids });
        self.perform(ctx);
    }
}

// ---- from users

/// Let a worker take nothing new for a time.
#[derive(Message)]
#[rtype(result = "Result<()>")]
pub(crate) struct TaintWorker {
    pub(crate) worker: WorkerId,
    pub(crate) how_long: Duration,
    pub(crate) reason: String,
}

fn known(outcome: Result<(), UnknownWorker>) -> Result<()> {
    outcome.map_err(|UnknownWorker(worker)| Error::UnknownWorker { worker })
}

impl Handler<TaintWorker> for PoolSupervisor {
    type Result = Result<()>;

    fn handle(&mut self, taint: TaintWorker, ctx: &mut Context<Self>) -> Result<()> {
        let outcome = self.rules.taint(&taint.worker, taint.how_long, taint.reason, Instant::now());
        self.perform(ctx);
        known(outcome)
    }
}

/// End a taint before its time.
#[derive(Message)]
#[rtype(result = "Result<()>")]
pub(crate) struct ClearTaint {
    pub(crate) worker: WorkerId,
}

impl Handler<ClearTaint> for PoolSupervisor {
    type Result = Result<()>;

    fn handle(&mut self, clear: ClearTaint, ctx: &mut Context<Self>) -> Result<()> {
        let outcome = self.rules.clear_taint(&clear.worker, Instant::now());
        self.perform(ctx);
        known(outcome)
    }
}

/// Replace a worker, replacement first.
#[derive(Message)]
#[rtype(result = "Result<()>")]
pub(crate) struct RestartWorker {
    pub(crate) worker: WorkerId,
}

impl Handler<RestartWorker> for PoolSupervisor {
    type Result = Result<()>;

    fn handle(&mut self, restart: RestartWorker, ctx: &mut Context<Self>) -> Result<()> {
        let outcome = self.rules.restart_worker(&restart.worker, Instant::now());
        self.perform(ctx);
        known(outcome)
    }
}

/// Have another number of workers.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Resize {
    pub(crate) size: usize,
}

impl Handler<Resize> for PoolSupervisor {
    type Result = ();

    fn handle(&mut self, Resize { size }: Resize, ctx: &mut Context<Self>) {
        self.size = size;
        self.rules.resize(size, Instant::now());
        self.perform(ctx);
    }
}

/// Stop: resolves when no process of the pool is left.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Shutdown;

impl Handler<Shutdown> for PoolSupervisor {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: Shutdown, ctx: &mut Context<Self>) -> ResponseFuture<()> {
        let (stopped, when_stopped) = oneshot::channel();
        self.when_stopped.push(stopped);
        self.rules.shutdown(Instant::now());
        self.perform(ctx);
        Box::pin(async move {
            // Dropped with the actor, which then has stopped as well.
            let _gone = when_stopped.await;
        })
    }
}

/// The bridge is over: nobody writes to this actor any more.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Leave;

impl Handler<Leave> for PoolSupervisor {
    type Result = ();

    fn handle(&mut self, _: Leave, ctx: &mut Context<Self>) {
        ctx.stop();
    }
}

/// Resolves when every slot is ready, or to `false` at that moment.
#[derive(Message)]
#[rtype(result = "bool")]
pub(crate) struct AwaitReady {
    pub(crate) until: Instant,
}

impl Handler<AwaitReady> for PoolSupervisor {
    type Result = ResponseFuture<bool>;

    fn handle(&mut self, AwaitReady { until }: AwaitReady, _: &mut Context<Self>) -> ResponseFuture<bool> {
        if self.rules.is_ready() {
            return Box::pin(async { true });
        }
        let (ready, when_ready) = oneshot::channel();
        self.await_ready.push(ready);
        Box::pin(async move {
            tokio::time::timeout_at(until.into(), when_ready).await.is_ok_and(|ready| ready.unwrap_or(false))
        })
    }
}

/// Every worker from its fork to its seen exit.
#[derive(Message)]
#[rtype(result = "Vec<WorkerInfo>")]
pub(crate) struct Workers;

impl Handler<Workers> for PoolSupervisor {
    type Result = MessageResult<Workers>;

    fn handle(&mut self, _: Workers, _: &mut Context<Self>) -> MessageResult<Workers> {
        let workers = self.rules.workers().filter_map(|view| {
            let member = self.workers.get(view.id)?;
            let pid = member.pid?;
            let running = view.running.iter().filter_map(|call| {
                Some(RunningCall { call: *call, session: self.rules.session_of(*call)?.id().clone() })
            });
            Some(WorkerInfo {
                id: view.id.clone(),
                pool: self.config.name.clone(),
                pid,
                state: state(view.standing),
                sessions: view.sessions,
                refs: view.pins,
                requests: member.requests,
                memory_bytes: process::resident_bytes(pid),
                running: running.collect(),
                tainted: member.taint.clone(),
                started_at: member.started_at,
            })
        });
        MessageResult(workers.collect())
    }
}

fn state(standing: Standing) -> WorkerState {
    match standing {
        Standing::Starting => WorkerState::Starting,
        Standing::Free => WorkerState::Free,
        Standing::Busy => WorkerState::Busy,
        Standing::Tainted => WorkerState::Tainted,
        Standing::Retiring => WorkerState::Retiring,
        Standing::Stopping => WorkerState::Gone,
    }
}

/// The home of one session, also when it is gone.
#[derive(Message)]
#[rtype(result = "Option<WorkerId>")]
pub(crate) struct HomeOf {
    pub(crate) session: SessionKey,
}

impl Handler<HomeOf> for PoolSupervisor {
    type Result = Option<WorkerId>;

    fn handle(&mut self, HomeOf { session }: HomeOf, _: &mut Context<Self>) -> Option<WorkerId> {
        self.rules.home(&session)
    }
}

/// The homes of all sessions.
#[derive(Message)]
#[rtype(result = "Vec<(SessionKey, WorkerId)>")]
pub(crate) struct Homes;

impl Handler<Homes> for PoolSupervisor {
    type Result = MessageResult<Homes>;

    fn handle(&mut self, _: Homes, _: &mut Context<Self>) -> MessageResult<Homes> {
        let homes = self.sessions.keys().filter_map(|session| Some((session.clone(), self.rules.home(session)?)));
        MessageResult(homes.collect())
    }
}

/// How a pool is doing, as its supervisor sees it: see
/// [`SnakeBridge::pool_addr`](crate::SnakeBridge::pool_addr).
///
/// ```
/// # #[actix::main]
/// # async fn main() -> snakebridge::Result<()> {
/// use snakebridge::PoolStatus;
/// # let py = snakebridge::SnakeBridge::builder().pool(snakebridge::PoolConfig::new("p").size(1)).start().await?;
///
/// let pool = py.pool_addr("p").unwrap();
/// let report = pool.send(PoolStatus).await.unwrap();
/// assert_eq!(report.stats.ready, 1);
/// # py.shutdown().await
/// # }
/// ```
#[derive(Message)]
#[rtype(result = "PoolReport")]
pub struct PoolStatus;

/// The answer to [`PoolStatus`].
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, actix::MessageResponse)]
pub struct PoolReport {
    /// Its numbers.
    pub stats: PoolStats,
    /// How its workers are tied to this process.
    pub tie: Tie,
}

impl Handler<PoolStatus> for PoolSupervisor {
    type Result = PoolReport;

    fn handle(&mut self, _: PoolStatus, _: &mut Context<Self>) -> PoolReport {
        let (mut ready, mut busy) = (0, 0);
        for view in self.rules.workers() {
            ready += usize::from(matches!(view.standing, Standing::Free | Standing::Busy));
            busy += usize::from(view.standing == Standing::Busy);
        }
        PoolReport {
            stats: PoolStats {
                name: self.config.name.clone(),
                size: self.size,
                ready,
                busy,
                waiting: self.rules.waiting(),
                finished: self.finished,
                deaths: self.deaths,
                degraded: self.rules.degraded().map(|cause| cause.to_string()),
            },
            tie: self.tie,
        }
    }
}
