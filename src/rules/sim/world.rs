//! The world of one seed: time, mailboxes, and what must hold at its end.

mod clients;
mod faults;
mod mail;
mod shells;

pub(super) use mail::{Mailbox, Message};

use self::clients::User;
use self::faults::Faults;
use super::actors::WorkerActor;
use super::callbacks::Callback;
use super::random::Random;
use super::replay::Replay;
use super::seeds::setting;
use super::sessions::{Body, SessionActor};
use super::witness::Witness;
use crate::config::{Affinity, OnWorkerLost, PoolConfig};
use crate::event::EndReason;
use crate::id::{CallId, WorkerId};
use crate::rules::pool::{Pool, PoolRules};
use crate::rules::refs::Refs;
use crate::rules::session::Sessions;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

pub(super) struct World {
    pub(super) random: Random,
    pub(super) now: Instant,
    pub(super) is_calm: bool,
    pub(super) faults: Faults,
    pub(super) concurrency: usize,
    pub(super) cancel_grace: Duration,
    heartbeat: Duration,
    epoch: Instant,
    budget: (usize, Duration),
    affinities: Vec<Affinity>,
    /// Every session finds a new home by itself.
    rehomes: bool,
    mail: BTreeMap<(Instant, u64), (Mailbox, Message)>,
    posted: u64,
    last: BTreeMap<Mailbox, Instant>,
    pub(super) pool: Pool,
    refs: Refs,
    sessions: Sessions,
    pub(super) actors: BTreeMap<u64, SessionActor>,
    pub(super) workers: BTreeMap<WorkerId, WorkerActor>,
    /// The bodies of calls that are with a worker, or on their way there.
    pub(super) sent: BTreeMap<CallId, (Body, WorkerId)>,
    pub(super) users: BTreeMap<u64, User>,
    /// By the calls that wait for them.
    pub(super) callbacks: BTreeMap<CallId, Callback>,
    pub(super) witness: Witness,
    pub(super) last_ref: u64,
    last_call: u64,
    last_session: u64,
    clients_left: u64,
    is_stopping: bool,
    is_stopped: bool,
    replay: Replay,
    /// In which step a worker became ready last.
    ready_at_step: u64,
    /// Every step is checked, not one in `AUDITED_STEPS`.
    is_audited: bool,
    steps: u64,
    trace: u64,
    /// Every message and decision is printed.
    is_told: bool,
}

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
        world.continue_those_that_run();
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
        world.until("no object and no namespace is stranded, and no lane remembers a call that is over", |world| {
            let is_empty =
                |actor: &WorkerActor| actor.process.objects.is_empty() && actor.process.namespaces.is_empty();
            let is_at_rest = |actor: &WorkerActor| is_empty(actor) && actor.lane.is_at_rest();
            world.workers.values().all(|actor| actor.has_exited || is_at_rest(actor))
        });
        if !world.is_stopped {
            world.post(Mailbox::Pool, Message::Shutdown);
        }
        world.until("the pool has stopped", |world| world.is_stopped && world.workers.is_empty());
        assert_eq!(world.sessions.len(), 0);
        assert!(world.sent.is_empty(), "bodies outlive their calls: {:?}", world.sent);
        assert!(world.callbacks.is_empty(), "callbacks outlive their calls: {:?}", world.callbacks);
        world.trace
    }

    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let faults = Faults::choose(&mut random);
        let concurrency = if random.one_in(3) { random.between(2, 3) } else { 1 } as usize;
        let budget = (random.between(0, 8) as usize, micros(100_000));
        let heartbeat = micros(random.between(4_000, 12_000));
        let epoch = start();
        let grace = if random.one_in(8) { 0 } else { random.between(500, 5_000) };
        let mut config = PoolConfig::new("p")
            .size(random.between(1, 4) as usize)
            .concurrency(concurrency)
            .max_queue_size(if random.one_in(3) { random.between(0, 4) } else { 64 } as usize)
            .max_queue_bytes(if random.one_in(4) { 200 } else { 100_000 })
            .queue_timeout(if faults.patience { Duration::from_secs(600) } else { micros(random.between(500, 30_000)) })
            .restart_budget(budget.0, budget.1)
            .restart_backoff(micros(1_000), micros(8_000))
            .retire_grace(micros(random.between(1_000, 20_000)))
            .shutdown_grace(micros(random.between(1_000, 20_000)))
            .start_timeout(micros(10_000));
        if random.one_in(4) {
            config = config.max_requests(random.between(1, 20) as usize);
        }
        if random.one_in(4) {
            config = config.max_age(micros(random.between(3_000, 40_000)));
        }
        let rehomes = random.one_in(4);
        if rehomes {
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
            now: epoch,
            is_calm: false,
            faults,
            concurrency,
            cancel_grace: micros(grace),
            heartbeat,
            epoch,
            budget,
            affinities,
            rehomes,
            mail: BTreeMap::new(),
            posted: 0,
            last: BTreeMap::new(),
            pool: Pool::new(rules),
            refs: Refs::new(),
            sessions: Sessions::new(max_sessions),
            actors: BTreeMap::new(),
            workers: BTreeMap::new(),
            sent: BTreeMap::new(),
            users: BTreeMap::new(),
            callbacks: BTreeMap::new(),
            witness: Witness::default(),
            last_ref: 0,
            last_call: 0,
            last_session: 0,
            clients_left,
            is_stopping: false,
            is_stopped: false,
            replay: Replay::default(),
            ready_at_step: 0,
            is_audited: seed.is_multiple_of(8),
            steps: 0,
            trace: 0xCBF2_9CE4_8422_2325,
            is_told: setting("SNAKEBRIDGE_SIM_TOLD").is_some(),
        }
    }

    pub(super) fn post(&mut self, to: Mailbox, message: Message) {
        let delay = if self.random.one_in(8) { self.random.below(400) } else { self.random.below(20) };
        self.post_in(to, message, delay);
    }

    pub(super) fn post_in(&mut self, to: Mailbox, message: Message, delay: u64) {
        self.posted += 1;
        let mut at = self.now + micros(delay);
        if !matches!(to, Mailbox::Nowhere(_) | Mailbox::Thread(..)) {
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
            let hearts = self.workers.values().map(|worker| worker.heart.poll_timeout());
            let timer = timers.into_iter().chain(lanes).chain(hearts).flatten().min();
            let Some(next) = mail.into_iter().chain(timer).min() else {
                panic!("at rest, but not: {what}; unanswered {:?}", self.witness.unanswered())
            };
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
                self.beat(&worker);
            }
        }
    }

    fn handle(&mut self, to: Mailbox, message: Message) {
        if self.is_told {
            self.tell(&format!("  {to:?} <- {message:?}"));
        }
        match to {
            Mailbox::Pool => self.tell_pool(message),
            Mailbox::Registry => self.tell_registry(message),
            Mailbox::Session(session) => self.tell_session(session, message),
            Mailbox::Worker(worker) | Mailbox::FromProcess(worker) => self.tell_worker(&worker, message),
            Mailbox::ToProcess(worker) | Mailbox::Thread(worker, _) | Mailbox::Signals(worker) => {
                self.tell_process(&worker, message);
            }
            Mailbox::Nowhere(_) => match message {
                Message::Client => self.client(),
                Message::Fault => self.fault(),
                Message::ContinueOf(worker) => self.tell_process(&worker, Message::Continue),
                other => panic!("{other:?} goes nowhere"),
            },
        }
    }

    #[expect(clippy::print_stderr, reason = "somebody asked for it")]
    fn tell(&self, what: &str) {
        eprintln!("{:?} {what}", self.now - self.epoch);
    }

    /// FNV-1a over all that was decided.
    pub(super) fn note(&mut self, what: &str) {
        if self.is_told {
            self.tell(what);
        }
        for byte in what.bytes() {
            self.trace = (self.trace ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3);
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "any moment will do to count from")]
fn start() -> Instant {
    Instant::now()
}
