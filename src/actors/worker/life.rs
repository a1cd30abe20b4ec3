//! What a worker is told of its process: its pool's orders, and what the zygote and the kernel report.

use super::{Phase, Sight, WorkerActor};
use crate::actors::pool::StartFailed;
use crate::observe::Handled;
use crate::process::{DeathWatch, Exit};
use crate::wire::ToWorker;
use actix::prelude::*;
use rustix::io::Errno;
use std::future::poll_fn;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

/// Nothing runs there and nothing will: let it exit by itself.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Stop;

impl Handler<Stop> for WorkerActor {
    type Result = ();

    fn handle(&mut self, _: Stop, _: &mut Context<Self>) {
        self.journal.note(Handled::Stop, None, None, || "told");
        self.heart.stop();
        self.outbox.send(|_| ToWorker::Stop, &self.page);
    }
}

/// Kill it.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Kill {
    pub(crate) cause: String,
    /// It had its grace, and the bridge shuts down.
    pub(crate) for_shutdown: bool,
}

impl Handler<Kill> for WorkerActor {
    type Result = ();

    fn handle(&mut self, Kill { cause, for_shutdown }: Kill, _: &mut Context<Self>) {
        self.journal.note(Handled::Kill, None, None, || cause.as_str());
        self.for_shutdown |= for_shutdown;
        self.killed_for.get_or_insert(cause);
        self.kill();
    }
}

/// Its process is there.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Forked {
    pub(crate) pid: u32,
    /// None: there was no room for it here.
    pub(crate) pidfd: Option<OwnedFd>,
}

impl Handler<Forked> for WorkerActor {
    type Result = ();

    fn handle(&mut self, Forked { pid, pidfd }: Forked, ctx: &mut Context<Self>) {
        match pidfd.ok_or_else(|| Errno::MFILE.into()).and_then(DeathWatch::new) {
            Ok(watch) => {
                self.journal.note(Handled::Forked, None, None, || "watched");
                let (watch, this) = (Arc::new(watch), ctx.address());
                self.watch = Some(Arc::clone(&watch));
                if self.memory.is_limited() {
                    self.sight = Sight::Sought { pid };
                    self.see_memory();
                }
                // A task of its own: the pump is polled with each message, and this but once.
                actix_rt::spawn(async move {
                    poll_fn(|task| watch.poll_dead(task)).await;
                    this.do_send(ExitSeen);
                });
                self.tell_started();
            }
            // Without it its death would not be seen; the zygote still tells of it.
            Err(error) => {
                self.journal.note(Handled::Forked, None, None, || format!("killed: it cannot be watched: {error}"));
                self.kill_for(format!("the host cannot watch it: {error}"));
            }
        }
        if self.lifeline.is_none() {
            self.kill();
        }
    }
}

/// It has no process, or none that anyone knows of.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct NeverForked {
    pub(crate) why: String,
}

impl Handler<NeverForked> for WorkerActor {
    type Result = ();

    fn handle(&mut self, NeverForked { why }: NeverForked, _: &mut Context<Self>) {
        // First: it is told once, and a panic is not to lose it.
        self.exit.get_or_insert(Exit::UNKNOWN);
        self.journal.note(Handled::NeverForked, None, None, || why.as_str());
        if self.phase != Phase::Judged {
            self.phase = Phase::Judged;
            self.kill();
            self.is_told = true;
            self.pool.do_send(StartFailed { worker: self.id.clone(), cause: why, permanent: false });
        }
    }
}

/// Its process has ended.
#[derive(Message)]
#[rtype(result = "()")]
struct ExitSeen;

impl Handler<ExitSeen> for WorkerActor {
    type Result = ();

    fn handle(&mut self, _: ExitSeen, _: &mut Context<Self>) {
        // First: it is told once, and a panic is not to lose it.
        self.exit_seen = true;
        self.journal.note(Handled::ExitSeen, None, None, || "its socket is read to the end");
    }
}

/// The zygote has reaped it.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Exited {
    pub(crate) exit: Exit,
}

impl Handler<Exited> for WorkerActor {
    type Result = ();

    fn handle(&mut self, Exited { exit }: Exited, _: &mut Context<Self>) {
        self.journal.note(Handled::Exited, None, None, || exit.to_string());
        self.exit = Some(exit);
    }
}

/// Its zygote is gone: nobody will say how it ends.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Orphaned;

impl Handler<Orphaned> for WorkerActor {
    type Result = ();

    fn handle(&mut self, _: Orphaned, _: &mut Context<Self>) {
        self.journal.note(Handled::Orphaned, None, None, || "its end is seen, its status is not");
        self.status_wait = Duration::ZERO;
        // One that cannot be watched was killed, and only the zygote would have told of its end.
        let has_ended = matches!(self.phase, Phase::Exited { .. }) || self.watch.is_none();
        if has_ended {
            self.judge(Exit::UNKNOWN);
        }
    }
}

/// No request can be on its way here any more.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Retire;

impl Handler<Retire> for WorkerActor {
    type Result = ();

    fn handle(&mut self, _: Retire, ctx: &mut Context<Self>) {
        self.journal.note(Handled::Retire, None, None, || "stopped");
        ctx.stop();
    }
}
