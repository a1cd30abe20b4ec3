//! The zygotes of a pool: the one that forks its workers, and those before it whose workers still live.

use super::{PoolSupervisor, Seat, start_zygote};
use crate::actors::worker;
use crate::clock;
use crate::error::{Error, Ran, Result};
use crate::id::WorkerId;
use crate::observe::Handled;
use crate::process::{Namespace, StartError, Zygote, ZygoteEvent, ZygoteEvents};
use crate::status::Tie;
use actix::prelude::*;
use futures::StreamExt;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::oneshot;

/// Which of them a worker or a report is of.
pub(super) type Number = u64;

/// Beside the one in its seat.
#[derive(Default)]
pub(super) struct Zygotes {
    /// The last that was started.
    pub(super) last: Number,
    /// Those whose end has not been told.
    living: BTreeSet<Number>,
    /// The PID namespaces that are not known to be empty, which outlive their zygotes. What is here is dropped when
    /// no worker is inside any more.
    namespaces: BTreeMap<Number, Option<oneshot::Sender<()>>>,
    /// Replaced, and kept for their workers: these die with them.
    replaced: BTreeMap<Number, Zygote>,
    /// Who waits for code to be loaded anew; the first of them is being served.
    reloads: VecDeque<oneshot::Sender<Result<()>>>,
    starting: Option<SpawnHandle>,
    /// Of all that were ever begun, also those that were given up or lost in a panic.
    threads: Arc<AtomicUsize>,
    /// They are not waited for any more.
    threads_given_up: bool,
}

/// Held by the threads that find an interpreter, start a zygote and reap it. The pool hears of its end.
pub(super) struct Alive {
    threads: Arc<AtomicUsize>,
    pool: Addr<PoolSupervisor>,
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.threads.fetch_sub(1, Ordering::AcqRel);
        self.pool.do_send(ThreadOver);
    }
}

impl Zygotes {
    /// For the threads of one start.
    pub(super) fn alive(&self, ctx: &mut Context<PoolSupervisor>) -> Arc<Alive> {
        self.threads.fetch_add(1, Ordering::AcqRel);
        Arc::new(Alive { threads: Arc::clone(&self.threads), pool: ctx.address() })
    }

    pub(super) fn give_up_threads(&mut self) {
        self.threads_given_up = true;
    }

    /// The task that started one is gone.
    pub(super) fn forget_starts(&mut self, error: &Error) {
        self.starting = None;
        for waiting in self.reloads.drain(..) {
            let _gone = waiting.send(Err(error.clone()));
        }
    }
}

impl PoolSupervisor {
    /// A zygote stands ready: it takes the seat, and forks what is wanted.
    pub(super) fn seat(
        &mut self,
        mut zygote: Zygote,
        events: ZygoteEvents,
        wanted: Vec<WorkerId>,
        ctx: &mut Context<Self>,
    ) {
        let guarantees = zygote.guarantees();
        self.tie = if guarantees.lifeline { Tie::Lifeline } else { Tie::ParentDeath };
        self.pid_namespace = guarantees.pid_namespace;
        if let Some(why) = &guarantees.exec_because {
            tracing::warn!(target: "snakebridge::pool", pool = %self.config.name, why, "workers are executed, not forked");
        }
        let before = self.zygotes.last;
        self.zygotes.last += 1;
        self.zygotes.living.insert(self.zygotes.last);
        follow(events, self.zygotes.last, ctx.address());
        if let Some(namespace) = zygote.take_namespace() {
            let (keep, kept) = oneshot::channel();
            self.zygotes.namespaces.insert(self.zygotes.last, Some(keep));
            end_after(kept, namespace, self.zygotes.last, ctx.address());
        }
        if let Seat::Taken(old) = std::mem::replace(&mut self.seat, Seat::Taken(zygote)) {
            self.zygotes.replaced.insert(before, old);
        }
        self.let_zygotes_go();
        for worker in wanted {
            self.start_worker(worker, ctx);
        }
    }

    /// Those that were replaced, and whose workers are gone.
    pub(super) fn let_zygotes_go(&mut self) {
        let has_workers = |number: &Number| self.workers.values().any(|member| member.zygote == *number);
        self.zygotes.replaced.retain(|number, _| has_workers(number));
        for (number, keep) in &mut self.zygotes.namespaces {
            if !self.zygotes.living.contains(number) && !has_workers(number) {
                *keep = None;
            }
        }
    }

    /// The end of each is told by its events, that of its namespace after it, that of its thread by what that holds;
    /// whether there are none any more.
    pub(super) fn end_zygotes(&mut self, ctx: &mut Context<Self>) -> bool {
        if let Some(start) = self.zygotes.starting.take() {
            ctx.cancel_future(start);
        }
        self.zygotes.reloads.clear();
        self.zygotes.replaced.clear();
        for (number, keep) in &mut self.zygotes.namespaces {
            if !self.zygotes.living.contains(number) {
                *keep = None;
            }
        }
        let has_threads = self.zygotes.threads.load(Ordering::Acquire) > 0 && !self.zygotes.threads_given_up;
        self.zygotes.living.is_empty() && self.zygotes.namespaces.is_empty() && !has_threads
    }

    /// One that says nothing of a worker is stuck, and nobody else will.
    pub(super) fn end_silent_zygote(&mut self, number: Number, worker: &WorkerId) {
        let is_seated = number == self.zygotes.last && matches!(self.seat, Seat::Taken(_));
        if is_seated || self.zygotes.replaced.remove(&number).is_some() {
            tracing::warn!(target: "snakebridge::pool", pool = %self.config.name, "ending a zygote that does not answer");
            self.journal.note(Handled::ZygoteSilent, None, None, || format!("ended: nothing is told of {worker}"));
        }
        if is_seated {
            self.seat = Seat::Ending { wanted: Vec::new() };
        }
    }

    fn begin_reload(&mut self, ctx: &mut Context<Self>) {
        let alive = self.zygotes.alive(ctx);
        let start = start_zygote(Arc::clone(&self.config), alive).into_actor(self);
        self.zygotes.starting = Some(ctx.spawn(start.map(|outcome, this, ctx| this.on_reloaded(outcome, ctx))));
    }

    fn on_reloaded(&mut self, outcome: Result<(Zygote, ZygoteEvents), StartError>, ctx: &mut Context<Self>) {
        self.zygotes.starting = None;
        let Some(answer) = self.zygotes.reloads.pop_front() else { return };
        match outcome {
            // The bridge stops, and this one ends with its handle.
            _ if self.is_stopping() => self.zygotes.reloads.clear(),
            Ok((zygote, events)) => {
                self.hear(Handled::Reload);
                // Another may be on its way to the seat, or from it: what was wanted of that, this one does.
                let wanted = match &mut self.seat {
                    Seat::Starting { wanted, start } => {
                        ctx.cancel_future(*start);
                        std::mem::take(wanted)
                    }
                    Seat::Ending { wanted } => std::mem::take(wanted),
                    Seat::Empty | Seat::Taken(_) | Seat::Left => Vec::new(),
                };
                // What was wanted of another is had of this one, and is not outdated.
                self.rules.reload(clock::now());
                self.seat(zygote, events, wanted, ctx);
                self.settling.push(answer);
            }
            Err(StartError { what, .. }) => {
                self.journal.note(Handled::ZygoteFailed, None, None, || what.as_str());
                let what = format!("pool {} is not reloaded, and keeps its workers: {what}", self.config.name);
                let _gone = answer.send(Err(Error::Spawn(what.into())));
            }
        }
        if !self.zygotes.reloads.is_empty() {
            self.begin_reload(ctx);
        }
        self.perform(ctx);
        self.timer.wake();
    }
}

/// Load all code anew: a new zygote first, then new workers.
#[derive(Message)]
#[rtype(result = "Result<()>")]
pub(crate) struct Reload;

impl Handler<Reload> for PoolSupervisor {
    type Result = ResponseFuture<Result<()>>;

    fn handle(&mut self, _: Reload, ctx: &mut Context<Self>) -> ResponseFuture<Result<()>> {
        self.journal.note(Handled::Reload, None, None, || "starts a zygote");
        if self.is_stopping() {
            return Box::pin(async { Err(Error::ShuttingDown { ran: Ran::No }) });
        }
        let (answer, answered) = oneshot::channel();
        self.zygotes.reloads.push_back(answer);
        // One after the other: the last to be asked for has to be the last to take the seat.
        if self.zygotes.reloads.len() == 1 {
            self.begin_reload(ctx);
        }
        Box::pin(async { answered.await.unwrap_or(Err(Error::ShuttingDown { ran: Ran::No })) })
    }
}

/// Tells the pool what a zygote tells, from a task of its own: a stream of the actor would be polled
/// with each of its messages.
fn follow(mut events: ZygoteEvents, zygote: Number, pool: Addr<PoolSupervisor>) {
    actix_rt::spawn(async move {
        while let Some(event) = events.next().await {
            pool.do_send(Told { zygote, event });
        }
        // A panic may have lost that.
        let why = "its reports have ended".to_owned();
        pool.do_send(Told { zygote, event: ZygoteEvent::Gone { why } });
    });
}

/// Ends a namespace when its pool lets it go, or is gone.
fn end_after(kept: oneshot::Receiver<()>, namespace: Namespace, zygote: Number, pool: Addr<PoolSupervisor>) {
    actix_rt::spawn(async move {
        let _let_go = kept.await;
        namespace.end().await;
        // Until it is seen: a panic may lose it.
        while pool.send(NamespaceEmpty { zygote }).await.is_err() && pool.connected() {}
    });
}

/// The PID namespace of a zygote has ended, and all that was in it.
#[derive(Message)]
#[rtype(result = "()")]
struct NamespaceEmpty {
    zygote: Number,
}

impl Handler<NamespaceEmpty> for PoolSupervisor {
    type Result = ();

    fn handle(&mut self, NamespaceEmpty { zygote }: NamespaceEmpty, ctx: &mut Context<Self>) {
        self.journal.note(Handled::NamespaceEmpty, None, None, || "seen");
        self.zygotes.namespaces.remove(&zygote);
        self.stop_if_over(ctx);
    }
}

/// The threads of one start have ended.
#[derive(Message)]
#[rtype(result = "()")]
struct ThreadOver;

impl Handler<ThreadOver> for PoolSupervisor {
    type Result = ();

    fn handle(&mut self, _: ThreadOver, ctx: &mut Context<Self>) {
        self.stop_if_over(ctx);
    }
}

/// A zygote has told something.
#[derive(Message)]
#[rtype(result = "()")]
struct Told {
    zygote: Number,
    event: ZygoteEvent,
}

impl Handler<Told> for PoolSupervisor {
    type Result = ();

    fn handle(&mut self, Told { zygote, event }: Told, ctx: &mut Context<Self>) {
        match event {
            ZygoteEvent::Forked { worker, pid, pidfd } => {
                self.journal.note(Handled::ForkTold, None, None, || format!("{worker}: pid {pid}"));
                if let Some(member) = self.workers.get_mut(&worker) {
                    member.pid = Some(pid);
                    member.addr.do_send(worker::Forked { pid, pidfd });
                }
            }
            ZygoteEvent::ForkFailed { worker, why } => {
                self.journal.note(Handled::ForkFailed, None, None, || format!("{worker}: {why}"));
                self.order(&worker, worker::NeverForked { why });
            }
            ZygoteEvent::Exited { worker, exit } => {
                self.journal.note(Handled::ExitTold, None, None, || format!("{worker}: {exit}"));
                self.order(&worker, worker::Exited { exit });
            }
            ZygoteEvent::Gone { why } => self.on_zygote_gone(zygote, why, ctx),
        }
    }
}

impl PoolSupervisor {
    fn on_zygote_gone(&mut self, zygote: Number, why: String, ctx: &mut Context<Self>) {
        if !self.zygotes.living.remove(&zygote) {
            return;
        }
        self.journal.note(Handled::ZygoteGone, None, None, || why.as_str());
        self.zygotes.replaced.remove(&zygote);
        self.let_zygotes_go();
        if matches!(self.seat, Seat::Left) {
            return self.stop_if_over(ctx);
        }
        // Nobody will tell of workers that it was asked for and did not report, nor how the others end.
        for member in self.workers.values().filter(|member| member.zygote == zygote) {
            match member.pid {
                None => member.addr.do_send(worker::NeverForked { why: why.clone() }),
                Some(_) => member.addr.do_send(worker::Orphaned),
            }
        }
        // The workers of one that was replaced retire already.
        if zygote != self.zygotes.last {
            return;
        }
        tracing::warn!(target: "snakebridge::pool", pool = %self.config.name, why, "the zygote is gone");
        let wanted = match std::mem::replace(&mut self.seat, Seat::Empty) {
            Seat::Ending { wanted } => wanted,
            Seat::Empty | Seat::Starting { .. } | Seat::Taken(_) | Seat::Left => Vec::new(),
        };
        self.rules.handle_zygote_lost(clock::now());
        for worker in wanted {
            self.start_worker(worker, ctx);
        }
        self.perform(ctx);
        self.timer.wake();
    }
}
