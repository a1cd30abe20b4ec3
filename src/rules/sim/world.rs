//! The world of one seed: time, mailboxes, faults, clients.

use super::actors::{SessionActor, WorkerActor};
use super::process::Life;
use super::random::Random;
use super::reach;
use super::witness::{Outcome, Record, Witness};
use crate::config::{Affinity, OnWorkerLost, PoolConfig};
use crate::event::{EndReason, Fact};
use crate::id::{CallId, RefId, SessionKey, WorkerId};
use crate::rules::pool::{Action, Pool, PoolRules, Refusal, Ticket};
use crate::rules::refs::{RefAction, Refs};
use crate::rules::session::{SessionAction, Sessions};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// A mailbox: what is posted to it is handled in that order.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Mailbox {
    Pool,
    Registry,
    Session(u64),
    Worker(WorkerId),
    /// The socket, one box each way.
    ToProcess(WorkerId),
    FromProcess(WorkerId),
    Thread(WorkerId, u32),
    /// Nothing keeps these in order.
    Nowhere(u64),
}

#[derive(Clone, Debug)]
pub(super) enum Message {
    Ticket(Ticket),
    Withdrawn(CallId),
    LeaseOver(CallId, usize),
    Returned(CallId, WorkerId),
    TakenBack(CallId),
    Kept(CallId),
    Passed(CallId, WorkerId),
    Unpinned(SessionKey, WorkerId, usize),
    Ready(WorkerId),
    StartFailed(WorkerId, bool),
    Exited(WorkerId, Vec<CallId>),
    Taint(WorkerId, Duration),
    ClearTaint(WorkerId),
    Restart(WorkerId),
    Resize(usize),
    ZygoteLost,
    Reset(SessionKey),
    Forget(SessionKey),
    Shutdown,

    Made(SessionKey, WorkerId, Vec<RefId>),
    Dropped(RefId),
    SessionEnded(SessionKey),
    SessionForgotten(SessionKey),
    WorkerGone(WorkerId),

    Submit(Ticket),
    GiveUp(CallId),
    Grant(CallId, WorkerId),
    Refuse(CallId),
    BodyBack(CallId),
    Ended(CallId),
    Forgotten(SessionKey),

    Request(CallId),
    TakeBack(CallId),
    DropTakeBack(CallId),
    Cancel(CallId),
    Free(Vec<RefId>),
    Kill,
    Stop,

    Run { seq: u64, entry: u32, call: CallId },
    Step(u32),
    Reply { seq: u64, refs: Vec<RefId> },
    Pass { seq: u64 },
    Spawned,
    Gone,

    Client,
    Fault,
}

/// What goes wrong in this world.
#[derive(Debug)]
pub(super) struct Faults {
    kills: bool,
    pub(super) failed_starts: bool,
    taints: bool,
    restarts: bool,
    resizes: bool,
    zygote: bool,
    give_ups: bool,
    deadlines: bool,
    releases: bool,
    resets: bool,
    shutdown: bool,
    pub(super) long_calls: bool,
}

/// A session as its user knows it.
pub(super) struct User {
    key: SessionKey,
    pub(super) refs: Vec<(RefId, WorkerId)>,
    open: usize,
}

pub(super) struct World {
    pub(super) random: Random,
    pub(super) now: Instant,
    pub(super) is_calm: bool,
    pub(super) faults: Faults,
    pub(super) concurrency: usize,
    pub(super) cancel_grace: Duration,
    budget: (usize, Duration),
    affinities: Vec<Affinity>,
    mail: BTreeMap<(Instant, u64), (Mailbox, Message)>,
    posted: u64,
    last: BTreeMap<Mailbox, Instant>,
    pub(super) pool: Pool,
    refs: Refs,
    sessions: Sessions,
    pub(super) actors: BTreeMap<u64, SessionActor>,
    pub(super) workers: BTreeMap<WorkerId, WorkerActor>,
    pub(super) users: BTreeMap<u64, User>,
    pub(super) witness: Witness,
    pub(super) last_ref: u64,
    last_call: u64,
    last_session: u64,
    clients_left: u64,
    is_stopped: bool,
    /// Every step is checked, not one in `AUDITED_STEPS`.
    is_audited: bool,
    steps: u64,
    trace: u64,
}

/// To recount all takes longer than all else in a step.
const AUDITED_STEPS: u64 = 16;

pub(super) fn micros(count: u64) -> Duration {
    Duration::from_micros(count)
}

impl World {
    /// Lives through one seed; returns a digest of all that was decided.
    pub(super) fn run(seed: u64) -> u64 {
        let mut world = Self::new(seed);
        let start = world.now;
        world.pool.start(start);
        world.after_pool();
        world.post_in(Mailbox::Nowhere(0), Message::Client, 10);
        world.post_in(Mailbox::Nowhere(1), Message::Fault, 2_000);
        world.until("the clients are done", |world| world.clients_left == 0);
        world.is_calm = true;
        for worker in world.pool.tainted() {
            world.post(Mailbox::Pool, Message::ClearTaint(worker));
        }
        world.until("every call is answered and every slot is ready", |world| {
            world.witness.unanswered().is_empty() && (world.is_stopped || world.pool.is_ready())
        });
        for session in world.users.keys().copied().collect::<Vec<_>>() {
            world.end(session, EndReason::Released);
        }
        world.until("nothing is left of the sessions", |world| {
            world.pool.is_blank() && world.actors.is_empty() && world.refs.live(None) == 0
        });
        world.until("no object is stranded, and no lane remembers a call that is over", |world| {
            let is_at_rest = |actor: &WorkerActor| actor.process.objects.is_empty() && actor.lane.is_at_rest();
            world.workers.values().all(|actor| actor.has_exited || is_at_rest(actor))
        });
        if !world.is_stopped {
            world.post(Mailbox::Pool, Message::Shutdown);
        }
        world.until("the pool has stopped", |world| world.is_stopped && world.workers.is_empty());
        assert_eq!(world.sessions.len(), 0);
        world.trace
    }

    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let faultless = random.one_in(8);
        let mut fault = |n| !faultless && random.one_in(n);
        let faults = Faults {
            kills: fault(2),
            failed_starts: fault(3),
            taints: fault(2),
            restarts: fault(3),
            resizes: fault(4),
            zygote: fault(4),
            give_ups: fault(2),
            deadlines: fault(2),
            releases: fault(2),
            resets: fault(2),
            shutdown: fault(8),
            long_calls: fault(3),
        };
        let concurrency = if random.one_in(3) { random.between(2, 3) } else { 1 } as usize;
        let budget = (random.between(0, 8) as usize, micros(100_000));
        let grace = if random.one_in(8) { 0 } else { random.between(500, 5_000) };
        let mut config = PoolConfig::new("p")
            .size(random.between(1, 4) as usize)
            .concurrency(concurrency)
            .max_queue_size(if random.one_in(3) { random.between(0, 4) } else { 64 } as usize)
            .max_queue_bytes(if random.one_in(4) { 200 } else { 100_000 })
            .queue_timeout(micros(random.between(500, 30_000)))
            .restart_budget(budget.0, budget.1)
            .restart_backoff(micros(1_000), micros(8_000))
            .retire_grace(micros(random.between(1_000, 20_000)))
            .shutdown_grace(micros(random.between(1_000, 20_000)))
            .start_timeout(micros(10_000));
        if random.one_in(4) {
            config = config.on_worker_lost(OnWorkerLost::Rehome);
        }
        let mut rules = PoolRules::from(&config);
        rules.send_ahead = *random.pick(&[0, 1, 4, 32]).expect("there are some");
        let all = [Affinity::Hint, Affinity::StrictQueue, Affinity::StrictFailFast, Affinity::StrictQueue];
        let affinities = match random.below(4) {
            0 => vec![Affinity::StrictQueue],
            1 => vec![Affinity::Hint],
            _ => all.to_vec(),
        };
        let max_sessions = random.between(1, 12) as usize;
        let clients_left = random.between(20, 120);
        Self {
            random,
            now: start(),
            is_calm: false,
            faults,
            concurrency,
            cancel_grace: micros(grace),
            budget,
            affinities,
            mail: BTreeMap::new(),
            posted: 0,
            last: BTreeMap::new(),
            pool: Pool::new(rules),
            refs: Refs::new(),
            sessions: Sessions::new(max_sessions),
            actors: BTreeMap::new(),
            workers: BTreeMap::new(),
            users: BTreeMap::new(),
            witness: Witness::default(),
            last_ref: 0,
            last_call: 0,
            last_session: 0,
            clients_left,
            is_stopped: false,
            is_audited: seed.is_multiple_of(8),
            steps: 0,
            trace: 0xCBF2_9CE4_8422_2325,
        }
    }

    pub(super) fn post(&mut self, to: Mailbox, message: Message) {
        let delay = if self.random.one_in(8) { self.random.below(400) } else { self.random.below(20) };
        self.post_in(to, message, delay);
    }

    pub(super) fn post_in(&mut self, to: Mailbox, message: Message, delay: u64) {
        self.posted += 1;
        let mut at = self.now + micros(delay);
        if !matches!(to, Mailbox::Nowhere(_)) {
            let last = self.last.entry(to.clone()).or_insert(at);
            at = at.max(*last);
            *last = at;
        }
        self.mail.insert((at, self.posted), (to, message));
    }

    fn until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) {
        let limit = self.now + Duration::from_secs(120);
        while !holds(self) {
            let mail = self.mail.keys().next().map(|(at, _)| *at);
            let timers = [self.pool.poll_timeout(), self.refs.poll_timeout(), self.sessions.poll_timeout()];
            let lanes = self.workers.values().map(|worker| worker.lane.poll_timeout());
            let timer = timers.into_iter().chain(lanes).flatten().min();
            let Some(next) = mail.into_iter().chain(timer).min() else { panic!("at rest, but not: {what}") };
            assert!(next < limit, "not after 120 s: {what}; unanswered {:?}", self.witness.unanswered());
            self.now = self.now.max(next);
            if mail.is_some_and(|mail| mail <= next) {
                let (_, (to, message)) = self.mail.pop_first().expect("it was just looked at");
                self.handle(to, message);
            } else {
                self.handle_timers();
            }
        }
    }

    fn handle_timers(&mut self) {
        self.pool.handle_timeout(self.now);
        self.after_pool();
        self.refs.handle_timeout(self.now);
        self.after_refs();
        self.sessions.handle_timeout(self.now);
        self.after_sessions();
        for worker in self.workers.keys().cloned().collect::<Vec<_>>() {
            if let Some(actor) = self.workers.get_mut(&worker) {
                actor.lane.handle_timeout(self.now);
                self.after_lane(&worker);
            }
        }
    }

    fn handle(&mut self, to: Mailbox, message: Message) {
        match to {
            Mailbox::Pool => self.tell_pool(message),
            Mailbox::Registry => self.tell_registry(message),
            Mailbox::Session(session) => self.tell_session(session, message),
            Mailbox::Worker(worker) | Mailbox::FromProcess(worker) => self.tell_worker(&worker, message),
            Mailbox::ToProcess(worker) | Mailbox::Thread(worker, _) => self.tell_process(&worker, message),
            Mailbox::Nowhere(_) => match message {
                Message::Client => self.client(),
                Message::Fault => self.fault(),
                other => panic!("{other:?} goes nowhere"),
            },
        }
    }

    fn tell_pool(&mut self, message: Message) {
        let (pool, now) = (&mut self.pool, self.now);
        match message {
            Message::Ticket(ticket) => pool.handle_ticket(ticket, now),
            Message::Withdrawn(call) => pool.handle_withdrawn(call, now),
            Message::LeaseOver(call, pins) => pool.handle_lease_over(call, pins, now),
            Message::Returned(call, worker) => pool.handle_lease_returned(call, &worker, now),
            Message::TakenBack(call) => pool.handle_taken_back(call, now),
            Message::Kept(call) => pool.handle_kept(call, now),
            Message::Passed(call, worker) => pool.handle_passed(call, &worker, now),
            Message::Unpinned(session, worker, count) => pool.handle_unpinned(&session, &worker, count, now),
            Message::Ready(worker) => pool.handle_ready(&worker, now),
            Message::StartFailed(worker, permanent) => {
                pool.handle_start_failed(&worker, "broken".into(), permanent, now);
            }
            Message::Exited(worker, begun) => pool.handle_exit(&worker, "SIGKILL".into(), begun, now),
            // Of a worker that is gone meanwhile there is nothing to taint, clear or restart.
            Message::Taint(worker, how_long) => drop(pool.taint(&worker, how_long, "why".into(), now)),
            Message::ClearTaint(worker) => drop(pool.clear_taint(&worker, now)),
            Message::Restart(worker) => drop(pool.restart_worker(&worker, now)),
            Message::Resize(size) => pool.resize(size, now),
            Message::ZygoteLost => pool.handle_zygote_lost(now),
            Message::Reset(session) => pool.reset(&session, now),
            Message::Forget(session) => pool.forget(&session, now),
            Message::Shutdown => pool.shutdown(now),
            other => panic!("{other:?} is not for the pool"),
        }
        self.after_pool();
    }

    fn after_pool(&mut self) {
        let mut granted = Vec::new();
        while let Some(action) = self.pool.poll_action() {
            self.note(&format!("{action:?}"));
            match action {
                Action::Grant { call, session, worker } => {
                    self.witness.granted(call, &worker, self.pool.home(&session));
                    granted.push((session.incarnation(), worker.clone()));
                    self.post(Mailbox::Session(session.incarnation()), Message::Grant(call, worker.clone()));
                    self.pull_away(session, worker);
                }
                Action::Refuse { call, session, refusal } => {
                    reach::hit(format!("refuse {}", code(&refusal)));
                    self.post(Mailbox::Session(session.incarnation()), Message::Refuse(call));
                }
                Action::TakeBack { call, worker } => self.post(Mailbox::Worker(worker), Message::TakeBack(call)),
                Action::DropTakeBack { call, worker } => {
                    self.post(Mailbox::Worker(worker), Message::DropTakeBack(call))
                }
                Action::Start { worker } => self.spawn(worker),
                Action::Stop { worker } => self.post(Mailbox::Worker(worker), Message::Stop),
                Action::Kill { worker } => self.post(Mailbox::Worker(worker), Message::Kill),
                Action::LeasesClosed { worker } => {
                    let actor = self.workers.remove(&worker).expect("its leases close once");
                    assert_eq!(actor.process.life, Life::Dead, "{worker} lives");
                }
                Action::Forgotten { session } => {
                    self.post(Mailbox::Session(session.incarnation()), Message::Forgotten(session.clone()));
                    self.post(Mailbox::Registry, Message::SessionForgotten(session));
                }
                Action::Degraded { .. } => reach::hit("degraded".into()),
                Action::Stopped => self.is_stopped = true,
                Action::Emit(Fact::PoolRecovered { .. }) => reach::hit("recovered".into()),
                Action::Ready | Action::Emit(_) => {}
            }
        }
        self.steps += 1;
        if self.is_audited || self.steps.is_multiple_of(AUDITED_STEPS) {
            self.pool.check();
        }
        if self.concurrency == 1 {
            self.witness.turns(&granted, &self.pool);
        }
    }

    /// Sometimes a home is tainted and forgotten while a request is on its way there, and the next
    /// call of the session comes at once.
    fn pull_away(&mut self, session: SessionKey, worker: WorkerId) {
        let can = self.faults.taints && self.faults.resets && !self.is_calm;
        if can && self.random.one_in(20) && self.users.contains_key(&session.incarnation()) {
            self.post(Mailbox::Pool, Message::Taint(worker, micros(3_000)));
            self.post(Mailbox::Pool, Message::Reset(session.clone()));
            self.submit_for(session.incarnation());
        }
    }

    fn spawn(&mut self, worker: WorkerId) {
        for (other, actor) in &self.workers {
            let is_same = other.slot() == worker.slot();
            assert!(!is_same || actor.has_exited, "{worker} starts while {other} may live");
        }
        if worker.generation() > 1 && self.pool.degraded().is_none() {
            self.witness.restarted(self.budget, self.now);
        }
        self.workers.insert(worker.clone(), WorkerActor::new(self.concurrency, self.cancel_grace));
        let delay = self.random.between(100, 4_000);
        self.post_in(Mailbox::FromProcess(worker), Message::Spawned, delay);
    }

    fn tell_registry(&mut self, message: Message) {
        match message {
            Message::Made(session, worker, ids) => self.refs.handle_made(&session, &worker, &ids, self.now),
            Message::Dropped(id) => self.refs.handle_dropped(id, self.now),
            Message::SessionEnded(session) => {
                self.refs.handle_session_ended(&session);
            }
            Message::SessionForgotten(session) => self.refs.handle_session_forgotten(&session),
            Message::WorkerGone(worker) => {
                self.refs.handle_worker_gone(&worker);
            }
            other => panic!("{other:?} is not for the registry"),
        }
        self.after_refs();
    }

    fn after_refs(&mut self) {
        while let Some(RefAction::Free { session, worker, ids }) = self.refs.poll_action() {
            self.post(Mailbox::Pool, Message::Unpinned(session, worker.clone(), ids.len()));
            self.post(Mailbox::Worker(worker), Message::Free(ids));
        }
    }

    fn after_sessions(&mut self) {
        while let Some(SessionAction::End { session, reason }) = self.sessions.poll_action() {
            match reason {
                EndReason::Expired => reach::hit("session expired".into()),
                EndReason::Capped => reach::hit("session capped".into()),
                EndReason::Released | EndReason::OwnerDropped | EndReason::Shutdown => {}
            }
            self.end(session.incarnation(), reason);
        }
    }

    /// A session ends, whoever decided it.
    fn end(&mut self, session: u64, _reason: EndReason) {
        let Some(user) = self.users.remove(&session) else { return };
        self.sessions.handle_ended(&user.key);
        self.post(Mailbox::Registry, Message::SessionEnded(user.key.clone()));
        for (id, _) in user.refs {
            self.post(Mailbox::Registry, Message::Dropped(id));
        }
        // By the way of its actor: tickets that it has sent come first.
        self.post(Mailbox::Session(session), Message::Forget(user.key));
    }

    fn client(&mut self) {
        self.clients_left -= 1;
        if self.clients_left > 0 {
            let pause = if self.random.one_in(6) { self.random.below(6_000) } else { self.random.below(300) };
            self.post_in(Mailbox::Nowhere(0), Message::Client, pause);
        }
        match self.random.below(12) {
            0 if self.faults.give_ups => self.give_up(),
            1 if self.faults.releases => {
                if let Some(session) = self.some_user() {
                    self.end(session, EndReason::Released);
                }
            }
            2 if self.faults.resets => {
                if let Some(session) = self.some_user() {
                    let key = self.users[&session].key.clone();
                    self.post(Mailbox::Session(session), Message::Reset(key));
                }
            }
            3 => self.drop_ref(),
            _ => self.submit(),
        }
    }

    fn some_user(&mut self) -> Option<u64> {
        let users: Vec<u64> = self.users.keys().copied().collect();
        self.random.pick(&users).copied()
    }

    fn submit(&mut self) {
        let session = match self.some_user() {
            Some(session) if !self.random.one_in(6) => session,
            Some(_) | None => match self.create() {
                Some(session) => session,
                None => return,
            },
        };
        self.submit_for(session);
    }

    fn submit_for(&mut self, session: u64) {
        self.last_call += 1;
        let call = CallId(self.last_call);
        let affinity = *self.random.pick(&self.affinities).expect("there are some");
        let user = self.users.get_mut(&session).expect("it was just chosen");
        let pinned_to =
            if self.random.one_in(3) { self.random.pick(&user.refs).map(|(_, at)| at.clone()) } else { None };
        user.open += 1;
        let key = user.key.clone();
        self.sessions.handle_held(&key);
        let timeout = (self.faults.deadlines && self.random.one_in(3)).then(|| micros(self.random.below(10_000)));
        let deadline = timeout.map(|timeout| self.now + timeout);
        let record =
            Record { session, affinity, pinned_to: pinned_to.clone(), deadline, timeout, outcome: None, ran_at: None };
        self.witness.calls.insert(call, record);
        let ticket = Ticket {
            call,
            session: key,
            affinity: Some(affinity),
            pinned_to,
            deadline,
            timeout,
            queue_timeout: self.random.one_in(8).then(|| micros(200)),
            bytes: self.random.between(1, 100) as usize,
            on_worker_lost: self.random.one_in(8).then_some(OnWorkerLost::Rehome),
        };
        self.post(Mailbox::Session(session), Message::Submit(ticket));
    }

    fn create(&mut self) -> Option<u64> {
        self.last_session += 1;
        let key = SessionKey::new("s".into(), self.last_session);
        let ttl = micros(if self.random.one_in(4) { 3_000 } else { 1_000_000 });
        let is_created = self.sessions.handle_created(key.clone(), ttl, self.now).is_ok();
        self.after_sessions();
        if !is_created {
            return None;
        }
        self.users.insert(self.last_session, User { key: key.clone(), refs: Vec::new(), open: 0 });
        self.actors.insert(self.last_session, SessionActor::default());
        Some(self.last_session)
    }

    fn give_up(&mut self) {
        let Some(call) = self.witness.some_open(&mut self.random) else { return };
        let session = self.witness.calls[&call].session;
        self.answer(call, Outcome::GivenUp, Vec::new());
        self.post(Mailbox::Session(session), Message::GiveUp(call));
    }

    fn drop_ref(&mut self) {
        let Some(session) = self.some_user() else { return };
        let user = self.users.get_mut(&session).expect("it was just chosen");
        if let Some((id, _)) = user.refs.pop() {
            self.post(Mailbox::Registry, Message::Dropped(id));
        }
        self.look_at(session);
    }

    /// A caller is answered, by whomever; refs that nobody takes are dropped.
    pub(super) fn answer(&mut self, call: CallId, outcome: Outcome, refs: Vec<(RefId, WorkerId)>) {
        let is_heard = self.witness.answer(call, outcome);
        let session = self.witness.calls[&call].session;
        match self.users.get_mut(&session).filter(|_| is_heard) {
            Some(user) => {
                user.refs.extend(refs);
                user.open -= 1;
            }
            None => {
                for (id, _) in refs {
                    self.post(Mailbox::Registry, Message::Dropped(id));
                }
            }
        }
        self.look_at(session);
    }

    fn look_at(&mut self, session: u64) {
        let Some(user) = self.users.get(&session) else { return };
        if user.open == 0 && user.refs.is_empty() {
            let key = user.key.clone();
            self.sessions.handle_idle(&key, self.now);
        }
    }

    fn fault(&mut self) {
        if self.is_calm {
            return;
        }
        let pause = self.random.below(3_000);
        self.post_in(Mailbox::Nowhere(1), Message::Fault, pause);
        let workers: Vec<WorkerId> = self.workers.keys().cloned().collect();
        let Some(worker) = self.random.pick(&workers).cloned() else { return };
        match self.random.below(8) {
            0 | 1 if self.faults.kills => {
                self.kill(&worker);
                if self.faults.give_ups && self.random.one_in(2) {
                    self.give_up();
                }
            }
            2 if self.faults.taints => {
                let how_long = micros(self.random.below(10_000));
                let resident = self.users.values().find(|user| self.pool.home(&user.key).as_ref() == Some(&worker));
                let resident = resident.map(|user| user.key.clone());
                self.post(Mailbox::Pool, Message::Taint(worker, how_long));
                // At once, while requests are still on their way there.
                if let Some(key) = resident.filter(|_| self.faults.resets) {
                    self.post(Mailbox::Pool, Message::Reset(key));
                }
            }
            3 if self.faults.taints => self.post(Mailbox::Pool, Message::ClearTaint(worker)),
            4 if self.faults.restarts => self.post(Mailbox::Pool, Message::Restart(worker)),
            5 if self.faults.resizes => {
                let size = self.random.between(1, 4) as usize;
                self.post(Mailbox::Pool, Message::Resize(size));
            }
            6 if self.faults.zygote => {
                reach::hit("zygote lost".into());
                self.post(Mailbox::Pool, Message::ZygoteLost);
            }
            7 if self.faults.shutdown && self.random.one_in(8) => self.post(Mailbox::Pool, Message::Shutdown),
            _ => {}
        }
    }

    /// FNV-1a over all that was decided.
    pub(super) fn note(&mut self, what: &str) {
        for byte in what.bytes() {
            self.trace = (self.trace ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3);
        }
    }
}

fn code(refusal: &Refusal) -> &'static str {
    match refusal {
        Refusal::WorkerBusy => "worker_busy",
        Refusal::SessionWorkerUnavailable { .. } => "session_worker_unavailable",
        Refusal::PoolSaturated { .. } => "pool_saturated",
        Refusal::PoolDegraded { .. } => "pool_degraded",
        Refusal::QueueTimeout { .. } => "queue_timeout",
        Refusal::Timeout { .. } => "timeout",
        Refusal::RefLost { .. } => "ref_lost",
        Refusal::Cancelled => "cancelled",
        Refusal::ShuttingDown => "shutting_down",
    }
}

#[expect(clippy::disallowed_methods, reason = "any moment will do to count from")]
fn start() -> Instant {
    Instant::now()
}
