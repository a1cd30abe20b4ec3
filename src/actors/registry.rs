//! The catalogue of the bridge: which session and worker own each ref, and when sessions end.
//!
//! What it learns may be a moment late, so no routing depends on it.

use super::directory::Directory;
use super::pool::{FreeRefs, PoolSupervisor};
use super::timer::{OnTimer, Timer, epoch};
use crate::clock;
use crate::config::LogLevel;
use crate::event::{EndReason, Fact};
use crate::id::{PoolName, RefId, SessionKey, WorkerId};
use crate::observe::{Events, Handled, Journal, Observers, Who};
use crate::rules::refs::{RefAction, Refs};
use crate::rules::stall::Stalls;
use actix::prelude::*;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};

/// Tracks who owns which ref, frees what nobody holds, and ends sessions whose time is over.
pub(crate) struct Registry {
    refs: Refs,
    directory: Arc<Directory>,
    pools: BTreeMap<PoolName, Addr<PoolSupervisor>>,
    events: Events,
    journal: Journal,
    cleanup_log: LogLevel,
    timer: Timer,
    expiry: Option<Instant>,
    stalls: Stalls,
    /// The session whose end is being told, and how many refs it had: a panic does not lose that.
    ending: Option<(SessionEnded, u64)>,
}

impl Registry {
    pub(crate) fn new(
        directory: Arc<Directory>,
        observers: Observers,
        cleanup_log: LogLevel,
        heartbeat: Option<Duration>,
        ctx: &mut Context<Self>,
    ) -> Self {
        Self {
            refs: Refs::new(),
            directory,
            pools: BTreeMap::new(),
            journal: Journal::new(observers.messages, Who::Registry),
            events: observers.events,
            cleanup_log,
            timer: Timer::start(ctx),
            expiry: None,
            stalls: Stalls::new(heartbeat, epoch(), clock::now()),
            ending: None,
        }
    }

    fn perform(&mut self) {
        while let Some(action) = self.refs.poll_action() {
            match action {
                RefAction::Free { session, worker, ids } => {
                    self.events.emit(Fact::RefsFreed { worker: worker.clone(), count: ids.len() as u64 });
                    if let Some(pool) = self.pools.get(worker.pool()) {
                        pool.do_send(FreeRefs { session, worker, ids });
                    }
                }
            }
        }
        let next = [self.refs.poll_timeout(), self.expiry, self.stalls.poll_timeout()];
        self.timer.set(next.into_iter().flatten().min());
    }

    /// What is freed, for the message log.
    fn frees(&self) -> String {
        let frees = self.refs.pending().map(|RefAction::Free { worker, ids, .. }| format!("{} in {worker}", ids.len()));
        format!("frees [{}], and ends what has expired", frees.collect::<Vec<_>>().join(", "))
    }

    /// Frees what the session that has ended still has, and tells of its end.
    fn clean_up(&mut self) {
        let Some((ended, refs)) = &mut self.ending else { return };
        *refs += self.refs.handle_session_ended(&ended.session) as u64;
        self.journal.note(Handled::SessionEnded, None, Some(&ended.session), || {
            format!("{}; refs freed: {refs}", ended.reason.as_str())
        });
        // No call of it runs any more in any pool.
        self.refs.handle_session_forgotten(&ended.session);
        self.perform();
        let Some((ended, refs)) = self.ending.take() else { return };
        // After the refs: their finalizers may use what the namespace holds.
        for worker in ended.namespaces {
            if let Some(pool) = self.pools.get(worker.pool()) {
                let (session, ids) = (ended.session.clone(), vec![ended.session.namespace()]);
                pool.do_send(FreeRefs { session, worker, ids });
            }
        }
        self.events.emit(Fact::SessionCleanup { session: ended.session.id().clone(), reason: ended.reason, refs });
        self.log_cleanup(&ended.session, ended.reason, refs);
        self.directory.handle_cleaned_up(&ended.session);
        for done in ended.done {
            // Whoever waited may have gone.
            let _gone = done.send(());
        }
        drop(ended.alive);
    }

    fn log_cleanup(&self, session: &SessionKey, reason: EndReason, refs: u64) {
        macro_rules! line {
            ($level:ident) => {
                tracing::event!(
                    target: "snakebridge::session", tracing::Level::$level,
                    session = %session, reason = reason.as_str(), refs, "session ended"
                )
            };
        }
        match self.cleanup_log {
            LogLevel::Off => {}
            LogLevel::Error => line!(ERROR),
            LogLevel::Warn => line!(WARN),
            LogLevel::Info => line!(INFO),
            LogLevel::Debug => line!(DEBUG),
            LogLevel::Trace => line!(TRACE),
        }
    }
}

impl Actor for Registry {
    type Context = Context<Self>;

    fn started(&mut self, _: &mut Context<Self>) {
        self.perform();
    }
}

impl Supervised for Registry {
    /// Of the message that was lost it may not know some refs, which then live as long as their worker.
    fn restarting(&mut self, ctx: &mut Context<Self>) {
        self.journal.note(Handled::Panicked, None, None, || "goes on");
        self.timer = Timer::start(ctx);
        self.expiry = self.directory.expire(clock::now());
        self.clean_up();
    }
}

impl OnTimer for Registry {
    fn on_timer(&mut self, _: &mut Context<Self>) {
        let now = clock::now();
        if let Some(late) = self.stalls.handle_timeout(now) {
            let for_ms = u64::try_from(late.as_millis()).unwrap_or(u64::MAX);
            tracing::warn!(target: "snakebridge::bridge", for_ms, "the thread of the bridge did not run");
            self.events.emit(Fact::BridgeStalled { for_ms });
        }
        if [self.refs.poll_timeout(), self.expiry].into_iter().flatten().all(|at| at > now) {
            return self.perform();
        }
        self.refs.handle_timeout(now);
        self.journal.note(Handled::CallAlarm, None, None, || self.frees());
        self.expiry = self.directory.expire(now);
        self.perform();
    }
}

/// The pools of the bridge, told once.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Introduce(pub(crate) BTreeMap<PoolName, Addr<PoolSupervisor>>);

impl Handler<Introduce> for Registry {
    type Result = ();

    fn handle(&mut self, Introduce(pools): Introduce, _: &mut Context<Self>) {
        self.journal.note(Handled::Introduce, None, None, || "noted");
        self.pools = pools;
    }
}

/// A session has begun to age: there may be an earlier end to wait for.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Wake;

impl Handler<Wake> for Registry {
    type Result = ();

    fn handle(&mut self, _: Wake, _: &mut Context<Self>) {
        self.journal.note(Handled::SessionIdle, None, None, || "noted");
        self.expiry = self.directory.expire(clock::now());
        self.perform();
    }
}

/// A worker has answered with refs that Rust now holds.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct RefsMade {
    pub(crate) session: SessionKey,
    pub(crate) worker: WorkerId,
    pub(crate) ids: Vec<RefId>,
}

impl Handler<RefsMade> for Registry {
    type Result = ();

    fn handle(&mut self, made: RefsMade, _: &mut Context<Self>) {
        let (session, ids) = (&made.session, &made.ids);
        self.journal.note(Handled::RefsMade, None, Some(session), || format!("{} in {}", ids.len(), made.worker));
        self.refs.handle_made(&made.session, &made.worker, &made.ids, clock::now());
        self.perform();
    }
}

/// Rust holds that ref no longer.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct RefDropped {
    pub(crate) id: RefId,
}

impl Handler<RefDropped> for Registry {
    type Result = ();

    fn handle(&mut self, dropped: RefDropped, _: &mut Context<Self>) {
        self.journal.note(Handled::RefDropped, None, None, || format!("{} is to be freed", dropped.id));
        self.refs.handle_dropped(dropped.id, clock::now());
        self.perform();
    }
}

/// A worker is gone, and with it the refs that it held.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct WorkerLost {
    pub(crate) worker: WorkerId,
}

impl Handler<WorkerLost> for Registry {
    type Result = ();

    fn handle(&mut self, lost: WorkerLost, _: &mut Context<Self>) {
        let count = self.refs.handle_worker_gone(&lost.worker);
        self.journal.note(Handled::WorkerLost, None, None, || format!("{}; refs lost: {count}", lost.worker));
        if count > 0 {
            self.events.emit(Fact::RefsLost { worker: lost.worker, count: count as u64 });
        }
    }
}

/// Every pool has forgotten that session.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct SessionEnded {
    pub(crate) session: SessionKey,
    pub(crate) reason: EndReason,
    pub(crate) namespaces: Vec<WorkerId>,
    pub(crate) done: Vec<oneshot::Sender<()>>,
    pub(crate) alive: mpsc::Sender<Infallible>,
}

impl Handler<SessionEnded> for Registry {
    type Result = ();

    fn handle(&mut self, ended: SessionEnded, _: &mut Context<Self>) {
        self.ending = Some((ended, 0));
        self.clean_up();
    }
}

/// How many refs live, for `stats()`.
#[derive(Message)]
#[rtype(result = "usize")]
pub(crate) struct CountRefs;

impl Handler<CountRefs> for Registry {
    type Result = usize;

    fn handle(&mut self, _: CountRefs, _: &mut Context<Self>) -> usize {
        self.journal.note(Handled::Asked, None, None, || "refs told");
        self.refs.live(None)
    }
}

/// The pools have stopped: nothing is left to free.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Close;

impl Handler<Close> for Registry {
    type Result = ();

    fn handle(&mut self, _: Close, ctx: &mut Context<Self>) {
        self.journal.note(Handled::Close, None, None, || "stopped");
        ctx.stop();
    }
}
