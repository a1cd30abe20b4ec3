//! What users want of a pool.

use super::PoolSupervisor;
use crate::actors::worker;
use crate::clock;
use crate::error::{Error, PythonError, Result};
use crate::id::WorkerId;
use crate::observe::Handled;
use crate::rules::poison::{Mends, poison};
use crate::rules::pool::UnknownWorker;
use actix::prelude::*;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// Let a worker take nothing new for a time.
#[derive(Message)]
#[rtype(result = "Result<()>")]
pub(crate) struct TaintWorker {
    pub(crate) worker: WorkerId,
    pub(crate) how_long: Duration,
    pub(crate) reason: String,
    /// It does not come back: another takes its place.
    pub(crate) is_renewed: bool,
}

impl TaintWorker {
    /// Of a worker whose call has raised what says that it is broken.
    pub(crate) fn for_raised(worker: &WorkerId, error: &PythonError) -> Option<Self> {
        let poison = poison(error.module(), error.type_name(), error.message())?;
        let (how_long, is_renewed) = match poison.mends {
            Mends::After(how_long) => (how_long, false),
            Mends::Never => (Duration::MAX, true),
        };
        Some(Self { worker: worker.clone(), how_long, reason: poison.reason, is_renewed })
    }
}

fn known(outcome: Result<(), UnknownWorker>) -> Result<()> {
    outcome.map_err(|UnknownWorker(worker)| Error::UnknownWorker { worker })
}

impl Handler<TaintWorker> for PoolSupervisor {
    type Result = Result<()>;

    fn handle(&mut self, taint: TaintWorker, ctx: &mut Context<Self>) -> Result<()> {
        self.hear_of_worker(Handled::Taint, &taint.worker);
        let now = clock::now();
        let outcome = self.rules.taint(&taint.worker, taint.how_long, taint.reason.clone(), now);
        if taint.is_renewed {
            self.rules.renew(&taint.worker, taint.reason, now);
        }
        self.perform(ctx);
        known(outcome)
    }
}

/// End a taint before its time.
#[derive(Message)]
#[rtype(result = "Result<()>")]
pub(crate) struct ClearTaint {
    pub(crate) worker: WorkerId,
}

impl Handler<ClearTaint> for PoolSupervisor {
    type Result = Result<()>;

    fn handle(&mut self, clear: ClearTaint, ctx: &mut Context<Self>) -> Result<()> {
        self.hear_of_worker(Handled::ClearTaint, &clear.worker);
        let outcome = self.rules.clear_taint(&clear.worker, clock::now());
        self.perform(ctx);
        known(outcome)
    }
}

/// Replace a worker, replacement first.
#[derive(Message)]
#[rtype(result = "Result<()>")]
pub(crate) struct RestartWorker {
    pub(crate) worker: WorkerId,
}

impl Handler<RestartWorker> for PoolSupervisor {
    type Result = ResponseFuture<Result<()>>;

    fn handle(&mut self, restart: RestartWorker, ctx: &mut Context<Self>) -> ResponseFuture<Result<()>> {
        self.hear_of_worker(Handled::Restart, &restart.worker);
        match known(self.rules.restart_worker(&restart.worker, clock::now())) {
            Ok(()) => self.settle(ctx),
            Err(unknown) => {
                self.note_decision();
                Box::pin(async { Err(unknown) })
            }
        }
    }
}

/// Have another number of workers.
#[derive(Message)]
#[rtype(result = "Result<()>")]
pub(crate) struct Resize {
    pub(crate) size: usize,
}

impl Handler<Resize> for PoolSupervisor {
    type Result = ResponseFuture<Result<()>>;

    fn handle(&mut self, Resize { size }: Resize, ctx: &mut Context<Self>) -> ResponseFuture<Result<()>> {
        self.hear(Handled::Resize);
        self.size = size;
        self.rules.resize(size, clock::now());
        self.settle(ctx)
    }
}

/// Stop: resolves when no process of the pool is left.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Shutdown;

impl Handler<Shutdown> for PoolSupervisor {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: Shutdown, ctx: &mut Context<Self>) -> ResponseFuture<()> {
        self.hear(Handled::Shutdown);
        if self.has_stopped {
            self.note_decision();
            return Box::pin(async {});
        }
        let (stopped, when_stopped) = oneshot::channel();
        self.when_stopped.push(stopped);
        self.rules.shutdown(clock::now());
        self.perform(ctx);
        Box::pin(async move {
            // Dropped with the actor, which then has stopped as well.
            let _gone = when_stopped.await;
        })
    }
}

/// The bridge is over: nobody writes to this actor any more.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Leave;

impl Handler<Leave> for PoolSupervisor {
    type Result = ();

    fn handle(&mut self, _: Leave, ctx: &mut Context<Self>) {
        // First of all: nobody says so again.
        ctx.stop();
        for member in self.workers.values() {
            member.addr.do_send(worker::Retire);
        }
        self.journal.note(Handled::Leave, None, None, || "stopped");
    }
}

/// Resolves when every slot is ready, or to `false` at that moment.
#[derive(Message)]
#[rtype(result = "bool")]
pub(crate) struct AwaitReady {
    pub(crate) until: Instant,
}

impl Handler<AwaitReady> for PoolSupervisor {
    type Result = ResponseFuture<bool>;

    fn handle(&mut self, AwaitReady { until }: AwaitReady, _: &mut Context<Self>) -> ResponseFuture<bool> {
        let is_ready = self.rules.is_ready();
        self.journal.note(Handled::AwaitReady, None, None, || if is_ready { "ready" } else { "waits" });
        if is_ready {
            return Box::pin(async { true });
        }
        let (ready, when_ready) = oneshot::channel();
        // Those that waited long enough are gone.
        self.await_ready.retain(|waiting| !waiting.is_closed());
        self.await_ready.push(ready);
        Box::pin(async move {
            tokio::time::timeout_at(until.into(), when_ready).await.is_ok_and(|ready| ready.unwrap_or(false))
        })
    }
}
