//! The world of one seed: its bridge, who plays what is beyond it, and what must hold at its end.

use super::clients;
use super::faults::{Faults, clear_taints, nemesis};
use super::overruns;
use super::witness::Witness;
use super::worker::Handle;
use super::zygote;
use crate::actors::core::Core;
use crate::api::SnakeBridge;
use crate::clock;
use crate::config::{Affinity, Config, MessageLogLevel, PoolConfig};
use crate::error::Result;
use crate::id::WorkerId;
use crate::observe::{LogRecord, MessageLog};
use crate::process::scripted::{Leftovers, stage};
use crate::rules::sim::random::Random;
use crate::rules::sim::reach::hit;
use futures::StreamExt;
use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio::task::spawn_local;

/// How long anything may take once nothing goes wrong any more.
const PATIENCE: Duration = Duration::from_secs(60);
const SHUTDOWN_GRACE: Duration = Duration::from_millis(200);

pub(super) struct World {
    random: Mutex<Random>,
    pub(super) faults: Faults,
    pub(super) affinities: Vec<Affinity>,
    witness: Mutex<Witness>,
    processes: Mutex<BTreeMap<String, Arc<Handle>>>,
    zygotes: Mutex<Vec<Weak<Notify>>>,
    leftovers: Mutex<Vec<(String, Leftovers)>>,
    story: Mutex<Vec<String>>,
    log: Mutex<Option<MessageLog>>,
    cancel_grace: Duration,
    pub(super) stream_credit: u64,
    size: AtomicUsize,
    is_stopping: AtomicBool,
    clients_are_done: AtomicBool,
    /// What was asked of the pool and is not answered.
    pending: Mutex<Vec<&'static str>>,
    began: Instant,
    calm_at: Instant,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl World {
    /// Lives through one seed; returns what happened.
    pub(super) fn run(seed: u64) -> Vec<String> {
        let system = actix_rt::System::with_tokio_rt(|| {
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            runtime.enable_all().start_paused(true).build().expect("a runtime")
        });
        system.block_on(async move {
            let _stopped = clock::stop();
            let world = Arc::new(Self::new(seed));
            let told = OnFailure(Arc::clone(&world));
            world.live().await;
            world.judge();
            drop(told);
            std::mem::take(&mut *lock(&world.story))
        })
    }

    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let faults = Faults::choose(&mut random);
        let all = [Affinity::Hint, Affinity::StrictQueue, Affinity::StrictFailFast, Affinity::StrictQueue];
        let affinities = match random.below(4) {
            0 => vec![Affinity::StrictQueue],
            1 => vec![Affinity::Hint],
            _ => all.to_vec(),
        };
        let witness = Witness::new(&faults);
        let began = clock::now();
        Self {
            calm_at: began + Duration::from_millis(random.between(50, 500)),
            cancel_grace: Duration::from_millis(if faults.are_none() { 60 } else { random.between(0, 20) }),
            stream_credit: random.between(1, 8),
            size: AtomicUsize::new(random.between(1, 3) as usize),
            random: Mutex::new(random),
            faults,
            affinities,
            witness: Mutex::new(witness),
            processes: Mutex::default(),
            zygotes: Mutex::default(),
            leftovers: Mutex::default(),
            story: Mutex::default(),
            log: Mutex::default(),
            is_stopping: AtomicBool::new(false),
            clients_are_done: AtomicBool::new(false),
            pending: Mutex::default(),
            began,
        }
    }

    fn config(&self) -> Config {
        let ms = Duration::from_millis;
        let concurrency = if self.one_in(3) { self.between(2, 3) } else { 1 };
        let mut pool = PoolConfig::new("p")
            .size(self.size.load(Ordering::Relaxed))
            .concurrency(concurrency as usize)
            .max_queue_size(if self.one_in(3) { self.between(0, 4) } else { 64 } as usize)
            .queue_timeout(ms(if self.one_in(2) { 60_000 } else { self.between(2, 60) }))
            .cancel_grace(self.cancel_grace)
            .retire_grace(ms(self.between(1, 100)))
            .shutdown_grace(SHUTDOWN_GRACE)
            .start_timeout(ms(100))
            .restart_budget(self.between(2, 20) as usize, ms(200))
            .restart_backoff(ms(1), ms(20))
            .stream_credit(self.stream_credit as usize, 1 << 20);
        if self.one_in(2) {
            pool = pool.heartbeat(ms(self.between(10, 40)));
        }
        if self.faults.renewals {
            pool = pool.max_requests(self.between(1, 20) as usize);
        }
        Config::new().pool(pool).message_log_level(MessageLogLevel::Calls)
    }

    // ---- its life

    async fn live(self: &Arc<Self>) {
        spawn_local(zygote::play(Arc::clone(self), stage()));
        let config = self.config();
        let py = loop {
            match SnakeBridge::from_config(config.clone()).await {
                Ok(py) => break py,
                Err(error) => {
                    hit(format!("start: {}", error.code()));
                    self.note(|| format!("no start: {error}"));
                    let is_fair = self.faults.failed_starts || self.faults.failed_zygotes || self.faults.late_news;
                    assert!(is_fair, "nothing is wrong, and it does not start: {error}");
                    self.assert_nothing_is_left("a start that failed").await;
                }
            }
        };
        *lock(&self.log) = Some(py.message_log());
        let records = py.message_log().follow();
        self.note(|| "started".to_owned());
        let core = Arc::downgrade(py.core());
        let nemesis = spawn_local(nemesis(Arc::clone(self), py.clone()));
        let sessions = clients::sessions(self, &py);
        let clients: Vec<_> = (0..self.between(1, 6))
            .map(|_| spawn_local(clients::client(Arc::clone(self), py.clone(), sessions.clone())))
            .collect();
        for client in clients {
            let limit = tokio::time::timeout(PATIENCE, client).await;
            let unanswered = self.witness().unanswered();
            limit.unwrap_or_else(|_| panic!("these calls are never answered: {unanswered:?}")).expect("a client");
        }
        self.clients_are_done.store(true, Ordering::Relaxed);
        self.within("the nemesis is heard", nemesis).await.expect("the nemesis does not panic");
        self.note(|| "calm".to_owned());
        if !self.is_stopping() {
            self.come_to_rest(&py, &sessions).await;
        }
        self.until("what was asked of the pool is answered", async || lock(&self.pending).is_empty()).await;
        self.end(py, sessions, core).await;
        let records = self.within("the message log ends", records.collect()).await;
        overruns::judge(records, &mut self.witness(), self.cancel_grace);
    }

    async fn come_to_rest(&self, py: &SnakeBridge, sessions: &clients::Sessions) {
        self.until("every slot is ready and nothing waits", async || {
            clear_taints(py).await;
            let stats = py.stats().await.pools.remove(0);
            let size = self.size.load(Ordering::Relaxed);
            let is_whole = stats.size == size && stats.ready == size && stats.degraded.is_none();
            is_whole && (stats.busy, stats.waiting, stats.unresponsive) == (0, 0, 0)
        })
        .await;
        for session in sessions.all() {
            self.within("a session is released", session.release()).await.expect("the bridge runs");
        }
        self.until("nothing is left of the sessions", async || {
            let stats = py.stats().await;
            let workers = py.workers().await;
            let is_bare =
                workers.iter().all(|worker| (worker.refs, worker.sessions, worker.running.len()) == (0, 0, 0));
            let holds: usize = lock(&self.processes).values().map(|process| *lock(&process.holds)).sum();
            (stats.refs, stats.sessions, holds) == (0, 0, 0) && is_bare
        })
        .await;
    }

    async fn end(&self, py: SnakeBridge, sessions: clients::Sessions, core: Weak<Core>) {
        let pool = py.pool_addr("p").expect("the pool");
        let registry = py.core().registry.clone();
        drop(sessions);
        let began = clock::now();
        if self.one_in(2) {
            self.within("the bridge is shut down", py.shutdown()).await.expect("nothing else can be said");
            drop(py);
        } else {
            drop(py);
        }
        self.until("the bridge is gone", async || core.strong_count() == 0).await;
        let took = clock::now() - began;
        self.note(|| format!("over after {took:?}"));
        assert!(took <= SHUTDOWN_GRACE + Duration::from_secs(1), "the shutdown takes {took:?}");
        self.until("no actor lives", async || !pool.connected() && !registry.connected()).await;
        self.assert_nothing_is_left("the end").await;
    }

    /// Processes, and descriptors that this side has kept.
    async fn assert_nothing_is_left(&self, of: &str) {
        self.until(&format!("nothing is left of {of}"), async || {
            lock(&self.processes).is_empty() && lock(&self.leftovers).iter().all(|(_, ends)| !ends.are_left())
        })
        .await;
    }

    async fn within<T>(&self, what: &str, future: impl Future<Output = T>) -> T {
        match tokio::time::timeout(PATIENCE, future).await {
            Ok(outcome) => outcome,
            Err(_) => panic!("it never comes true that {what}"),
        }
    }

    async fn until(&self, what: &str, holds: impl AsyncFn() -> bool) {
        let limit = clock::now() + PATIENCE;
        while !self.within(what, holds()).await {
            if clock::now() > limit {
                let kept = lock(&self.leftovers);
                let kept: Vec<_> = kept.iter().filter(|(_, ends)| ends.are_left()).map(|(name, _)| name).collect();
                let living: Vec<_> = lock(&self.processes).keys().cloned().collect();
                let pending = lock(&self.pending);
                panic!("it never comes true that {what}; kept of {kept:?}, living: {living:?}, asked: {pending:?}");
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn judge(&self) {
        let witness = self.witness();
        let unanswered = witness.unanswered();
        assert!(unanswered.is_empty(), "never answered: {unanswered:?}");
        assert!(witness.violations.is_empty(), "{:#?}", witness.violations);
    }

    // ---- dice

    pub(super) fn below(&self, bound: u64) -> u64 {
        lock(&self.random).below(bound)
    }

    pub(super) fn between(&self, low: u64, high: u64) -> u64 {
        lock(&self.random).between(low, high)
    }

    pub(super) fn one_in(&self, n: u64) -> bool {
        lock(&self.random).one_in(n)
    }

    /// Some milliseconds at most, or none.
    pub(super) async fn pause(&self, most: u64) {
        let pause = self.below(most + 1);
        if pause > 0 {
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
    }

    /// The same where news come late, else nothing.
    pub(super) async fn delay(&self, most: u64) {
        if self.faults.late_news && self.one_in(2) {
            self.pause(most).await;
        }
    }

    // ---- what there is

    pub(super) fn is_calm(&self) -> bool {
        clock::now() >= self.calm_at
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.is_stopping.load(Ordering::Relaxed)
    }

    pub(super) fn is_over(&self) -> bool {
        self.clients_are_done.load(Ordering::Relaxed)
    }

    pub(super) fn begin_shutdown(&self) {
        self.is_stopping.store(true, Ordering::Relaxed);
    }

    pub(super) fn set_size(&self, size: usize) {
        self.size.store(size, Ordering::Relaxed);
    }

    pub(super) fn witness(&self) -> MutexGuard<'_, Witness> {
        lock(&self.witness)
    }

    pub(super) fn fail(&self, what: String) {
        self.witness().violations.push(what);
    }

    pub(super) fn note(&self, what: impl FnOnce() -> String) {
        let line = format!("{:>6?} {}", clock::now() - self.began, what());
        lock(&self.story).push(line);
    }

    pub(super) fn add_process(&self, name: &str) -> Arc<Handle> {
        let handle = Arc::new(Handle::new());
        let before = lock(&self.processes).insert(name.to_owned(), Arc::clone(&handle));
        assert!(before.is_none(), "{name} is started twice");
        // One that nobody told of has had no call; it is killed, and its end cannot be waited for.
        let slot = |name: &str| name.split('#').next().map(str::to_owned);
        let lives = |(other, handle): &(&String, &Arc<Handle>)| slot(other) == slot(name) && handle.is_told();
        let living = lock(&self.processes).iter().find(lives).map(|(other, _)| other.clone());
        if let Some(living) = living {
            self.fail(format!("{name} is started, and {living} was not seen to end"));
        }
        handle
    }

    pub(super) fn remove_process(&self, name: &str) {
        self.witness().died(name);
        lock(&self.processes).remove(name);
    }

    pub(super) fn some_worker(&self) -> Option<(WorkerId, Arc<Handle>)> {
        let processes = lock(&self.processes);
        let at = self.below(processes.len() as u64) as usize;
        let (name, handle) = processes.iter().nth(at)?;
        Some((name.parse().expect("a worker's name"), Arc::clone(handle)))
    }

    pub(super) fn add_zygote(&self, death: &Arc<Notify>) {
        lock(&self.zygotes).push(Arc::downgrade(death));
    }

    pub(super) fn kill_a_zygote(&self) {
        if let Some(zygote) = lock(&self.zygotes).iter().rev().find_map(Weak::upgrade) {
            zygote.notify_one();
        }
    }

    pub(super) fn keep_leftovers(&self, of: String, ends: io::Result<Leftovers>) {
        lock(&self.leftovers).push((of, ends.expect("there are descriptors")));
    }

    /// It is answered some time: it need not be waited for.
    pub(super) fn in_background(
        self: &Arc<Self>,
        what: &'static str,
        asked: impl Future<Output = Result<()>> + 'static,
    ) {
        let world = Arc::clone(self);
        lock(&world.pending).push(what);
        world.note(|| format!("{what}?"));
        spawn_local(async move {
            let outcome = asked.await;
            hit(format!("{what}: {}", super::faults::said(&outcome)));
            world.note(|| format!("{what}: {}", super::faults::said(&outcome)));
            let mut pending = lock(&world.pending);
            pending.iter().position(|other| *other == what).map(|at| pending.swap_remove(at));
        });
    }
}

/// A failure tells its story.
struct OnFailure(Arc<World>);

impl Drop for OnFailure {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let story = lock(&self.0.story);
            let last = story.len().saturating_sub(TOLD);
            #[expect(clippy::print_stderr, reason = "a failure tells how it came to be")]
            {
                for record in lock(&self.0.log).iter().flat_map(|log| log.recent(20 * TOLD)) {
                    let LogRecord { actor, message, call, session, outcome, .. } = record;
                    eprintln!("{actor}: {message} {call:?} {session:?}: {outcome}");
                }
                eprintln!("{:?}\n{}", self.0.faults, story[last..].join("\n"));
            }
        }
    }
}

/// How many of its last lines.
const TOLD: usize = 60;
