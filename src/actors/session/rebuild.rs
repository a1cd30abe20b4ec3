//! A new home that the session makes ready before the call that set it: its `on_home`.

use super::{SessionActor, Work, ended};
use crate::actors::pool::{RebuildFailed, Rebuilt};
use crate::actors::scope::{NewHome, Scope, Scoped};
use crate::error::{Error, Ran};
use crate::id::CallId;
use crate::rules::pending::NotReady;
use actix::prelude::*;
use futures::FutureExt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

impl SessionActor {
    /// Runs the session's `on_home`, then sends the call.
    pub(super) fn rebuild(&mut self, call: CallId, ctx: &mut Context<Self>) {
        let pending = &self.work().pending;
        // It was ended by a panic before it began.
        let Some((request, _)) = pending.rebuilding(call).filter(|_| pending.is_made_ready(call)) else { return };
        let hold = Arc::clone(&request.hold);
        let (deadline, timeout) = (request.deadline, request.timeout.unwrap_or_default());
        let scope = Scope {
            tree: request.tree_within(),
            rebuilds: Some(NewHome { session: hold.key().clone(), pool: request.pool.clone(), call }),
        };
        let on_home = self.state.on_home.clone();
        let run = async move {
            match on_home {
                Some(on_home) => on_home.run(&hold).await,
                None => Ok(()),
            }
        };
        // It is foreign code: its panic must not be this actor's.
        let run = AssertUnwindSafe(Scoped::new(scope, run)).catch_unwind();
        let task = ctx.spawn(
            async move {
                let ended = match deadline {
                    Some(deadline) => tokio::time::timeout_at(deadline.into(), run).await,
                    None => Ok(run.await),
                };
                let failed = |error| Error::OnHome(Arc::new(error));
                match ended {
                    Ok(Ok(outcome)) => outcome.map_err(failed),
                    Ok(Err(_panic)) => Err(failed(Error::internal("it panicked", Ran::Maybe))),
                    Err(_) => Err(Error::Timeout { timeout, ran: Ran::No }),
                }
            }
            .into_actor(self)
            .map(move |outcome, this, ctx| this.on_rebuilt(call, outcome, ctx)),
        );
        self.work().on_homes.insert(call, task);
    }

    fn on_rebuilt(&mut self, call: CallId, outcome: Result<(), Error>, ctx: &mut Context<Self>) {
        let work = self.work();
        work.on_homes.remove(&call);
        match outcome {
            Ok(()) => {
                if let Some((request, grant)) = work.pending.rebuilding(call) {
                    request.pool_addr.do_send(Rebuilt { call, worker: grant.worker.clone() });
                }
                work.pending.handle_rebuilt(call);
            }
            Err(error) => work.fail_rebuild(call, error),
        }
        self.perform(ctx);
    }

    pub(super) fn rebuild_failed(&mut self, call: CallId, why: NotReady) {
        let Some((request, grant)) = self.work().pending.rebuilding_mut(call) else { return };
        match why {
            NotReady::SessionEnded => request.not_ready = Some(Box::new(ended(&request.hold))),
            NotReady::CallerLeft => {
                request.not_ready = Some(Box::new(Error::Cancelled { why: "its caller left".into(), ran: Ran::No }));
            }
            NotReady::Failed => {}
        }
        request.pool_addr.do_send(RebuildFailed { call, worker: grant.worker.clone() });
    }

    pub(super) fn end_on_home(&mut self, call: CallId, ctx: &mut Context<Self>) {
        if let Some(task) = self.work().on_homes.remove(&call) {
            ctx.cancel_future(task);
        }
    }
}

impl Work {
    pub(super) fn fail_rebuild(&mut self, call: CallId, error: Error) {
        if self.pending.is_made_ready(call)
            && let Some((request, _)) = self.pending.rebuilding_mut(call)
        {
            request.not_ready = Some(Box::new(error));
            self.pending.fail_rebuild(call, NotReady::Failed);
        }
    }
}
