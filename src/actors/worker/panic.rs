//! The end of a worker whose actor has panicked: nobody can say what the message that was lost would have
//! changed, so its process is killed, and its calls are judged by the page alone.

use super::{Phase, Pump, Sight, WorkerActor};
use crate::actors::pool::{Died, TakingBack};
use crate::actors::registry::WorkerLost;
use crate::actors::timer::Timer;
use crate::clock;
use crate::error::{Error, Ran};
use crate::id::CallId;
use crate::observe::Handled;
use crate::rules::lane::Sent;
use actix::prelude::*;
use std::time::Duration;

/// How long callers wait for the exit, which says whether their calls had begun. A process that is killed and does
/// not end sleeps in the kernel.
const EXIT_WAIT: Duration = Duration::from_secs(1);

const CAUSE: &str = "its actor in the host panicked";

/// A call that is neither among the requests nor in the lane while it is handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum InHand {
    /// Its request has come.
    Coming(CallId),
    /// The worker has answered it, and the pool has not heard of that.
    Answered(CallId),
}

impl Supervised for WorkerActor {
    fn restarting(&mut self, ctx: &mut Context<Self>) {
        self.journal.note(Handled::Panicked, None, None, || format!("killed; calls: {}", self.requests.len()));
        self.timer = Timer::start(ctx);
        self.callbacks.drop_all();
        self.unheard.clear();
        self.heart.stop();
        self.sight = Sight::Unasked;
        if !self.is_told {
            self.phase = Phase::Panicked { answered_by: Some(clock::now() + EXIT_WAIT) };
            ctx.spawn(Pump);
        }
        self.kill_for(CAUSE.to_owned());
        self.perform();
        self.timer.wake();
    }
}

impl WorkerActor {
    /// Its exit was seen after the panic: the page says what had begun.
    pub(super) fn judge_after_panic(&mut self) {
        self.phase = Phase::Judged;
        let begun = self.begun();
        let has_begun = |Sent { seq, entry, nested }: Sent| {
            let begun = begun.get(entry as usize).copied().unwrap_or_default();
            (if nested { begun.nested } else { begun.plain }) >= seq
        };
        let (mut came, ran): (Vec<_>, Vec<_>) = std::mem::take(&mut self.requests)
            .into_iter()
            .partition(|(_, request)| !request.sent.is_some_and(|(_, sent)| has_begun(sent)));
        let mut over: Vec<CallId> = ran.iter().map(|(call, _)| *call).collect();
        // The panic may have been about that call, and would come again with it.
        let in_hand = self.in_hand.take();
        let blamed = came.extract_if(.., |(call, _)| in_hand == Some(InHand::Coming(*call))).collect::<Vec<_>>();
        over.extend(blamed.iter().map(|(call, _)| *call));
        let mut passed: Vec<CallId> = came.iter().map(|(call, _)| *call).collect();
        over.extend(self.lane.leased().filter(|call| !passed.contains(call)));
        match in_hand {
            Some(InHand::Coming(call)) if !over.contains(&call) && !passed.contains(&call) => passed.push(call),
            Some(InHand::Answered(call)) => over.push(call),
            Some(InHand::Coming(_)) | None => {}
        }
        for (_, request) in came {
            self.send_back(request);
        }
        self.is_told = true;
        let cause = self.killed_for.clone().unwrap_or_else(|| CAUSE.to_owned());
        self.pool.do_send(Died { worker: self.id.clone(), cause: cause.clone(), begun: over });
        for call in passed {
            self.pool.do_send(TakingBack::Passed { call, worker: self.id.clone() });
        }
        self.registry.do_send(WorkerLost { worker: self.id.clone() });
        for (_, mut request) in ran {
            request.promise.answer(Err(Error::internal(&*cause, Ran::Maybe)));
        }
        for (_, mut request) in blamed {
            request.promise.answer(Err(Error::internal(&*cause, Ran::No)));
        }
        let _judged = self.lane.handle_exit(&begun);
        self.perform();
    }

    /// Its exit does not come.
    pub(super) fn answer_unseen(&mut self) {
        self.phase = Phase::Panicked { answered_by: None };
        for request in self.requests.values_mut().filter(|request| request.sent.is_some()) {
            request.promise.answer(Err(Error::internal(CAUSE, Ran::Maybe)));
        }
    }
}

/// The supervisor of its pool has panicked, and has this worker killed.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct PoolPanicked {
    pub(crate) cause: &'static str,
}

impl Handler<PoolPanicked> for WorkerActor {
    type Result = ();

    fn handle(&mut self, PoolPanicked { cause }: PoolPanicked, _: &mut Context<Self>) {
        self.is_void = true;
        if self.phase == Phase::Judged && !mutant!("death.is_told_once") {
            // What the pool was told may be what it has lost.
            let (worker, cause) = (self.id.clone(), cause.to_owned());
            self.pool.do_send(Died { worker, cause, begun: Vec::new() });
        } else {
            self.kill_for(cause.to_owned());
        }
    }
}
