//! What the rules of a simulated world are told, and what becomes of what they decide.

use super::{Mailbox, Message, World, micros};
use crate::event::{EndReason, Fact};
use crate::id::{SessionKey, WorkerId};
use crate::rules::heartbeat::Heartbeat;
use crate::rules::pool::{Action, Refusal};
use crate::rules::refs::RefAction;
use crate::rules::session::SessionAction;
use crate::rules::sim::actors::WorkerActor;
use crate::rules::sim::process::Life;
use crate::rules::sim::reach;
use crate::rules::sim::sessions::Grant;

/// To recount all takes longer than all else in a step.
const AUDITED_STEPS: u64 = 16;

impl World {
    pub(super) fn tell_pool(&mut self, message: Message) {
        let (pool, now) = (&mut self.pool, self.now);
        match message {
            Message::Ticket(ticket) => pool.handle_ticket(ticket, now),
            Message::Withdrawn(call) => {
                let is_last = pool.handle_withdrawn(call, now);
                let session = self.witness.calls[&call].session;
                self.post(Mailbox::Session(session), Message::WithdrawalSeen(call, is_last));
            }
            Message::Rebuilt(call, worker) => pool.handle_rebuilt(call, &worker, now),
            Message::RebuildFailed(call, worker) => pool.handle_rebuild_failed(call, &worker, now),
            Message::LeaseOver(call, pins) => pool.handle_lease_over(call, pins, now),
            Message::Callback(call) => pool.handle_callback(call, now),
            Message::CallbackOver(call) => pool.handle_callback_over(call, now),
            Message::Returned(call, worker) => pool.handle_lease_returned(call, &worker, now),
            Message::TakenBack(call) => {
                self.witness.taken_back(call);
                pool.handle_taken_back(call, now);
            }
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
            Message::Renew(worker) => pool.renew(&worker, "memory".into(), now),
            Message::Reload => pool.reload(now),
            Message::Resize(size) => pool.resize(size, now),
            Message::ZygoteLost => pool.handle_zygote_lost(now),
            Message::Reset(session) => {
                self.witness.may_start_anew(session.incarnation());
                pool.reset(&session, now);
            }
            Message::Forget(session) => pool.forget(&session, now),
            Message::Shutdown => {
                self.is_stopping = true;
                pool.shutdown(now);
            }
            other => panic!("{other:?} is not for the pool"),
        }
        self.after_pool();
    }

    pub(super) fn after_pool(&mut self) {
        let mut granted = Vec::new();
        while let Some(action) = self.pool.poll_action() {
            self.note(&format!("{action:?}"));
            match action {
                Action::Grant { call, session, worker, on, rebuild } => {
                    self.witness.granted(call, &worker, &session, &self.pool);
                    // What a callback calls passes every line.
                    if !self.witness.is_in_callback(call) {
                        granted.push((session.incarnation(), call, worker.clone()));
                    }
                    let grant = Grant { call, worker: worker.clone(), on, rebuild };
                    self.post(Mailbox::Session(session.incarnation()), Message::Grant(grant));
                    self.pull_away(session, worker);
                }
                Action::Refuse { call, session, refusal } => {
                    reach::hit(format!("refuse {}", code(&refusal)));
                    if let Refusal::QueueTimeout { waited } = refusal {
                        self.witness.waited_out(call, waited, self.now);
                    }
                    self.post(Mailbox::Session(session.incarnation()), Message::Refuse(call, refusal));
                }
                Action::TakeBack { call, worker } => self.post(Mailbox::Worker(worker), Message::TakeBack(call)),
                Action::DropTakeBack { call, worker } => {
                    self.post(Mailbox::Worker(worker), Message::DropTakeBack(call))
                }
                Action::Start { worker } => self.spawn(worker),
                Action::Stop { worker } => self.post(Mailbox::Worker(worker), Message::Stop),
                Action::Kill { worker, cause: _ } => self.post(Mailbox::Worker(worker), Message::Kill),
                Action::LeasesClosed { worker } => {
                    let actor = self.workers.remove(&worker).expect("its leases close once");
                    assert_eq!(actor.process.life, Life::Dead, "{worker} lives");
                }
                Action::Forgotten { session, namespace } => {
                    self.post(Mailbox::Session(session.incarnation()), Message::Forgotten(session, namespace));
                }
                Action::Degraded { .. } => reach::hit("degraded".into()),
                Action::Stopped => self.is_stopped = true,
                Action::Emit(fact) => self.on_fact(&fact),
                Action::Ready => {}
            }
        }
        self.steps += 1;
        if self.is_audited || self.steps.is_multiple_of(AUDITED_STEPS) {
            self.pool.check();
            if !self.is_stopping {
                self.replay.assert_shows(&self.pool, self.users.values().map(|user| &user.key));
            }
        }
        if self.concurrency == 1 {
            self.witness.turns(&granted, &self.pool);
        }
    }

    fn on_fact(&mut self, fact: &Fact) {
        reach::hit(format!("event {}", fact.name()));
        self.replay.take(fact);
        match fact {
            Fact::WorkerReady { .. } => self.ready_at_step = self.steps,
            Fact::WorkerRetiring { worker, reason } => self.on_retiring(worker, reason),
            _ => {}
        }
    }

    /// The replacement is there first.
    fn on_retiring(&mut self, worker: &WorkerId, reason: &str) {
        assert!(
            reason == "resize" || self.ready_at_step == self.steps,
            "{worker} retires before its replacement is ready"
        );
        let renewal = ["max_requests", "max_age", "memory"].into_iter().find(|why| reason.starts_with(why));
        if let Some(why) = renewal {
            reach::hit(format!("renewed for {why}"));
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
        let heart = Heartbeat::new(Some(self.heartbeat), self.epoch);
        self.workers.insert(worker.clone(), WorkerActor::new(self.concurrency, self.cancel_grace, heart));
        let delay = self.random.between(100, 4_000);
        self.post_in(Mailbox::FromProcess(worker), Message::Spawned, delay);
    }

    pub(super) fn tell_registry(&mut self, message: Message) {
        match message {
            Message::Made(session, worker, ids) => self.refs.handle_made(&session, &worker, &ids, self.now),
            Message::Dropped(id) => self.refs.handle_dropped(id, self.now),
            Message::SessionEnded(session) => {
                self.refs.handle_session_ended(&session);
            }
            Message::SessionForgotten(session, namespace) => {
                self.refs.handle_session_forgotten(&session);
                if let Some(worker) = namespace {
                    self.post(Mailbox::Worker(worker), Message::DropNamespace(session));
                }
            }
            Message::WorkerGone(worker) => {
                self.refs.handle_worker_gone(&worker);
            }
            other => panic!("{other:?} is not for the registry"),
        }
        self.after_refs();
    }

    pub(super) fn after_refs(&mut self) {
        while let Some(RefAction::Free { session, worker, ids }) = self.refs.poll_action() {
            self.post(Mailbox::Pool, Message::Unpinned(session, worker.clone(), ids.len()));
            self.post(Mailbox::Worker(worker), Message::Free(ids));
        }
    }

    pub(super) fn after_sessions(&mut self) {
        while let Some(SessionAction::End { session, reason }) = self.sessions.poll_action() {
            match reason {
                EndReason::Expired => reach::hit("session expired".into()),
                EndReason::Capped => reach::hit("session capped".into()),
                EndReason::Released | EndReason::OwnerDropped | EndReason::Shutdown => {}
            }
            self.end(session.incarnation(), reason);
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
        Refusal::WouldDeadlock => "would_deadlock",
        Refusal::RebuildFailed => "rebuild_failed",
        Refusal::RefLost { .. } => "ref_lost",
        Refusal::NamespaceElsewhere { .. } => "namespace_elsewhere",
        Refusal::Cancelled => "cancelled",
        Refusal::ShuttingDown => "shutting_down",
    }
}
