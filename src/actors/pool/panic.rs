//! The supervisor of a pool after its own panic: it starts over.
//!
//! Nobody can say what the message that was lost would have changed, so the calls of the pool end, and its
//! workers with them. The zygote stays, the rules keep what others rely on, and each slot gets its next worker
//! when the exit of this one was seen.

use super::{PoolSupervisor, Seat};
use crate::actors::session::StartedOver;
use crate::actors::timer::Timer;
use crate::actors::worker;
use crate::clock;
use crate::error::{Error, Ran};
use crate::id::WorkerId;
use crate::observe::Handled;
use actix::prelude::*;
use std::sync::Arc;

const CAUSE: &str = "the supervisor of its pool panicked";

impl Supervised for PoolSupervisor {
    fn restarting(&mut self, ctx: &mut Context<Self>) {
        self.journal.note(Handled::Panicked, None, None, || format!("starts over; workers: {}", self.workers.len()));
        self.heard = super::Heard::default();
        self.timer = Timer::start(ctx);
        self.era += 1;
        // Behind what it has granted them, and before what it will.
        let told = Arc::new(SessionsTold { pool: ctx.address(), era: self.era });
        for session in self.sessions.values() {
            session.do_send(StartedOver { pool: self.config.name.clone(), told: Arc::clone(&told) });
        }
        self.closing.get_or_insert_default();
        self.forget_starts();
        let forked: Vec<WorkerId> = self.workers.keys().cloned().collect();
        self.rules.start_over(CAUSE, |worker| self.workers.contains_key(worker), clock::now());
        for worker in forked {
            let is_known = self.rules.workers().any(|view| *view.id == worker);
            self.order(&worker, worker::PoolPanicked { cause: CAUSE });
            self.kill(worker.clone(), CAUSE.to_owned(), ctx);
            if !is_known {
                // It is gone, and what its leases waited for is forgotten.
                self.close(worker);
            }
        }
        if self.is_stopping() {
            self.rules.shutdown(clock::now());
        }
    }
}

impl PoolSupervisor {
    /// The zygotes that were being started went with the panic.
    fn forget_starts(&mut self) {
        if let Seat::Starting { .. } = self.seat {
            self.seat = Seat::Empty;
        }
        if let Seat::Ending { wanted } = &mut self.seat {
            wanted.clear();
        }
        self.zygotes.forget_starts(&Error::internal("the supervisor of the pool panicked", Ran::Maybe));
    }
}

/// Shared by the sessions that are told that a pool has started over: with the last of them it is known that no
/// request of before is on its way to a worker from a session, and those that are gone may go.
pub(crate) struct SessionsTold {
    pool: Addr<PoolSupervisor>,
    era: u64,
}

impl Drop for SessionsTold {
    fn drop(&mut self) {
        self.pool.do_send(AllTold { era: self.era });
    }
}

#[derive(Message)]
#[rtype(result = "()")]
struct AllTold {
    era: u64,
}

impl Handler<AllTold> for PoolSupervisor {
    type Result = ();

    fn handle(&mut self, AllTold { era }: AllTold, _: &mut Context<Self>) {
        // Those of an earlier start wait for the last.
        if era == self.era {
            for worker in self.closing.take().unwrap_or_default() {
                self.close(worker);
            }
        }
    }
}

#[cfg(test)]
impl Handler<crate::actors::contained::injection::PanicIn> for PoolSupervisor {
    type Result = ();

    fn handle(&mut self, panic: crate::actors::contained::injection::PanicIn, _: &mut Context<Self>) {
        self.order(&panic.0, crate::actors::contained::injection::Panic);
    }
}
