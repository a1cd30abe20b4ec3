//! A worker that a pool has granted a call: it goes to that worker, or its lease back to the pool.

use crate::actors::pool::{LeaseReturned, PoolSupervisor};
use crate::actors::worker::{Run, WorkerActor};
use crate::id::{CallId, WorkerId};
use actix::prelude::*;

/// Dropped unused, wherever that may be, it gives the lease back.
pub(crate) struct Grant {
    pub(crate) call: CallId,
    pub(crate) worker: WorkerId,
    pub(crate) addr: Addr<WorkerActor>,
    /// The call of its tree that it runs on top of, where one waits for a callback.
    pub(crate) on: Option<CallId>,
    /// It set a home that the session makes ready first.
    pub(crate) rebuild: bool,
    /// Where the lease goes back to.
    pub(crate) lender: Option<Addr<PoolSupervisor>>,
}

impl Grant {
    pub(super) fn use_for(mut self, run: Run) {
        self.lender = None;
        self.addr.do_send(run);
    }

    /// The pool has ended the lease itself.
    pub(super) fn forget(mut self) {
        self.lender = None;
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        if let Some(lender) = self.lender.take().filter(|_| !mutant!("grant.is_lost")) {
            lender.do_send(LeaseReturned { call: self.call, worker: self.worker.clone() });
        }
    }
}
