//! What workers tell their pool, and the registry of what they hold.

use super::PoolSupervisor;
use crate::actors::worker;
use crate::clock;
use crate::id::{CallId, RefId, SessionKey, WorkerId};
use crate::observe::Handled;
use actix::prelude::*;
use std::sync::Arc;

/// It takes calls.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Started {
    pub(crate) worker: WorkerId,
}

impl Handler<Started> for PoolSupervisor {
    type Result = ();

    fn handle(&mut self, Started { worker }: Started, ctx: &mut Context<Self>) {
        self.hear_of_worker(Handled::Started, &worker);
        self.rules.handle_ready(&worker, clock::now());
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
        self.hear_of_worker(Handled::StartFailed, &failed.worker);
        self.rules.handle_start_failed(&failed.worker, failed.cause, failed.permanent, clock::now());
        self.perform(ctx);
    }
}

/// A call is over there.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct LeaseOver {
    pub(crate) call: CallId,
    pub(crate) worker: WorkerId,
    pub(crate) pins_made: usize,
    /// It ran to its end, and was not passed over.
    pub(crate) is_answer: bool,
}

impl Handler<LeaseOver> for PoolSupervisor {
    type Result = ();

    fn handle(&mut self, over: LeaseOver, ctx: &mut Context<Self>) {
        self.hear_of_call(Handled::LeaseOver, over.call, None);
        if over.is_answer {
            self.finished += 1;
            if let Some(member) = self.workers.get_mut(&over.worker) {
                member.requests += 1;
            }
        }
        self.rules.handle_lease_over(over.call, over.pins_made, clock::now());
        self.perform(ctx);
    }
}

/// A call that goes on has made refs.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct PinsMade {
    pub(crate) call: CallId,
    pub(crate) pins_made: usize,
}

impl Handler<PinsMade> for PoolSupervisor {
    type Result = ();

    fn handle(&mut self, PinsMade { call, pins_made }: PinsMade, _: &mut Context<Self>) {
        self.hear_of_call(Handled::PinsMade, call, None);
        self.note_decision();
        self.rules.handle_pins_made(call, pins_made);
    }
}

/// A call waits for a callback, which has not been polled yet.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct CallbackBegun {
    pub(crate) call: CallId,
}

impl Handler<CallbackBegun> for PoolSupervisor {
    type Result = ();

    fn handle(&mut self, CallbackBegun { call }: CallbackBegun, ctx: &mut Context<Self>) {
        self.hear_of_call(Handled::CallbackBegun, call, None);
        self.rules.handle_callback(call, clock::now());
        self.perform(ctx);
    }
}

/// It waits no more, and has not been answered yet.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct CallbackOver {
    pub(crate) call: CallId,
}

impl Handler<CallbackOver> for PoolSupervisor {
    type Result = ();

    fn handle(&mut self, CallbackOver { call }: CallbackOver, ctx: &mut Context<Self>) {
        self.hear_of_call(Handled::CallbackOver, call, None);
        self.rules.handle_callback_over(call, clock::now());
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
        let now = clock::now();
        match &outcome {
            TakingBack::Done { call } => self.hear_of_call(Handled::TakenBack, *call, None),
            TakingBack::Kept { call } => self.hear_of_call(Handled::Kept, *call, None),
            TakingBack::Passed { call, .. } => self.hear_of_call(Handled::PassedOver, *call, None),
        }
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
        self.hear_of_worker(Handled::Died, &died.worker);
        self.rules.handle_exit(&died.worker, died.cause, died.begun, clock::now());
        self.perform(ctx);
    }
}

/// It has left a heartbeat unanswered, or is heard again.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Silence {
    pub(crate) worker: WorkerId,
    pub(crate) is_silent: bool,
}

impl Handler<Silence> for PoolSupervisor {
    type Result = ();

    fn handle(&mut self, Silence { worker, is_silent }: Silence, _: &mut Context<Self>) {
        let what = if is_silent { "silent" } else { "heard again" };
        self.journal.note(Handled::SilenceTold, None, None, || format!("{worker}: {what}"));
        if let Some(member) = self.workers.get_mut(&worker) {
            member.is_silent = is_silent;
        }
    }
}

/// It has too much memory.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct RenewWorker {
    pub(crate) worker: WorkerId,
    pub(crate) reason: String,
}

impl Handler<RenewWorker> for PoolSupervisor {
    type Result = ();

    fn handle(&mut self, RenewWorker { worker, reason }: RenewWorker, ctx: &mut Context<Self>) {
        self.hear_of_worker(Handled::Renew, &worker);
        self.rules.renew(&worker, reason, clock::now());
        self.perform(ctx);
    }
}

/// The decoder has found that it writes what no worker of ours writes.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct DistrustWorker {
    pub(crate) worker: WorkerId,
    pub(crate) what: Arc<str>,
}

impl Handler<DistrustWorker> for PoolSupervisor {
    type Result = ();

    fn handle(&mut self, DistrustWorker { worker, what }: DistrustWorker, _: &mut Context<Self>) {
        self.journal.note(Handled::DistrustWorker, None, None, || format!("{worker}: {what}"));
        self.order(&worker, worker::Distrust { what });
    }
}

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
        self.hear_of_session(Handled::FreeRefs, &free.session);
        self.rules.handle_unpinned(&free.session, &free.worker, free.ids.len(), clock::now());
        self.note_decision();
        self.order(&free.worker, worker::Free { ids: free.ids });
        self.perform(ctx);
    }
}
