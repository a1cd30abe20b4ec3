//! A new home that the session makes ready before the call that set it: its `on_home`.

use super::{Grant, SessionActor, refuse};
use crate::actors::pool::{RebuildFailed, Rebuilt};
use crate::actors::request::Request;
use crate::actors::scope::{NewHome, Scope, Scoped};
use crate::error::{Error, Ran};
use crate::id::{CallId, PoolName};
use crate::rules::pool::Refusal;
use actix::prelude::*;
use futures::FutureExt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

pub(super) struct Rebuild {
    request: Box<Request>,
    grant: Grant,
    /// The `on_home`, unless it has ended with a panic of the actor: its number is given again then.
    task: Option<SpawnHandle>,
    /// Why it ended, once the pool was told that it failed.
    error: Option<Error>,
}

impl Rebuild {
    /// Ends the `on_home`.
    pub(super) fn cancel(&mut self, ctx: &mut Context<SessionActor>) {
        if let Some(task) = self.task.take() {
            ctx.cancel_future(task);
        }
    }

    /// The actor has panicked, and its tasks are gone.
    pub(super) fn forget_task(&mut self) {
        self.task = None;
    }

    /// The call was granted another worker meanwhile: this one gets its lease back.
    pub(super) fn give_back(self) -> Box<Request> {
        self.request
    }

    pub(super) fn pool(&self) -> &PoolName {
        &self.request.pool
    }

    /// The home will not be ready: the pool refuses the call, unless it has done so.
    pub(super) fn fail(&mut self, error: Error) {
        if self.error.is_none() {
            self.error = Some(error);
            let (call, worker) = (self.grant.call, self.grant.worker.clone());
            self.request.pool_addr.do_send(RebuildFailed { call, worker });
        }
    }
}

impl SessionActor {
    /// Runs the session's `on_home`, then sends the call.
    pub(super) fn rebuild(&mut self, request: Box<Request>, grant: Grant, ctx: &mut Context<Self>) {
        let call = request.call;
        let needless = if self.work().ending.is_some() {
            Some(format!("session {} has ended", request.hold.id()))
        } else {
            request.promise.is_abandoned().then(|| "its caller left".to_owned())
        };
        // Nobody would come to end it.
        if let Some(why) = needless {
            let mut rebuild = Rebuild { request, grant, task: None, error: None };
            rebuild.fail(Error::Cancelled { why: why.into(), ran: Ran::No });
            self.work().rebuilding.insert(call, rebuild);
            return;
        }
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
            .map(move |outcome, this, _| this.on_rebuilt(call, outcome)),
        );
        self.work().rebuilding.insert(call, Rebuild { request, grant, task: Some(task), error: None });
    }

    fn on_rebuilt(&mut self, call: CallId, outcome: Result<(), Error>) {
        let work = self.work();
        match outcome {
            Ok(()) => {
                if let Some(Rebuild { request, grant, .. }) = work.rebuilding.remove(&call) {
                    request.pool_addr.do_send(Rebuilt { call, worker: grant.worker.clone() });
                    work.send(request, grant);
                }
            }
            Err(error) => {
                if let Some(rebuild) = work.rebuilding.get_mut(&call) {
                    rebuild.fail(error);
                }
            }
        }
    }
}

/// The call's home was not ready; what the pool says comes first, unless that is it.
pub(super) fn refuse_rebuilt(rebuild: Rebuild, refusal: Refusal) {
    let Rebuild { mut request, grant, error, .. } = rebuild;
    match (refusal, error) {
        (Refusal::RebuildFailed, Some(error)) => {
            grant.forget();
            request.promise.answer(Err(error));
        }
        (refusal, _) => {
            // Its worker is gone, and the pool waits for the request that was never sent.
            drop(grant);
            refuse(request, refusal);
        }
    }
}
