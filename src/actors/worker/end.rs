//! The end of a worker: what its death means for its calls, and who is told in which order.
//!
//! The pool hears of it before any caller does; bodies that were not begun go back to their sessions before that.

use super::{Phase, Sight, WorkerActor};
use crate::actors::pool::{Died, StartFailed, TakingBack};
use crate::actors::registry::WorkerLost;
use crate::actors::request::Request;
use crate::clock;
use crate::error::{Crash, Error, Ran};
use crate::process::Exit;
use crate::rules::lane::Sent;
use std::sync::Arc;
use std::time::Duration;

/// How long the zygote may take to say how a worker ended, once its end was seen. On a busy machine it is late by
/// tens of milliseconds; what starts the next worker is that same zygote, so that nothing waits for it in vain.
pub(super) const STATUS_WAIT: Duration = Duration::from_millis(500);

impl WorkerActor {
    /// Its exit was seen and its socket read to the end; how it ended may take a moment more.
    pub(super) fn on_exit_seen(&mut self) {
        if let Some(exit) = self.exit {
            self.judge(exit);
        } else if let Phase::Starting | Phase::Serving = self.phase {
            self.phase = Phase::Exited { judged_by: clock::now() + self.status_wait };
            // It would be found silent.
            self.heart.stop();
            self.perform();
        }
    }

    /// The page says what had begun.
    pub(super) fn judge(&mut self, exit: Exit) {
        match self.phase {
            Phase::Judged => return,
            Phase::Panicked { .. } => return self.judge_after_panic(),
            Phase::Starting | Phase::Serving | Phase::Exited { .. } => {}
        }
        let starting = !self.greeted;
        self.phase = Phase::Judged;
        self.watch = None;
        self.kill();
        self.heart.stop();
        self.sight = Sight::Unasked;
        self.callbacks.drop_all();
        self.unheard.clear();
        let death = self.lane.handle_exit(&self.begun());
        let stderr = self.output.stderr_tail();
        self.note_death(exit, &death);
        let killed_for = self.killed_for.as_ref().filter(|_| exit.may_be_a_kill());
        let cause = match (&self.violation, killed_for) {
            (Some(what), _) => format!("killed, it broke the protocol: {what}"),
            (None, Some(cause)) if starting => format!("{cause}\n{stderr}").trim_end().to_owned(),
            (None, Some(cause)) => cause.clone(),
            (None, None) if starting => format!("it ended while it started: {exit}\n{stderr}").trim_end().to_owned(),
            (None, None) => exit.to_string(),
        };
        let crash = |call, request: &Request, this: &Self| Crash {
            worker: this.id.clone(),
            cause: cause.clone(),
            stderr: stderr.clone(),
            call: Some(call),
            running_for: this.running_for(request),
            peak_memory: Some(exit.max_rss).filter(|bytes| *bytes > 0),
        };
        for call in &death.returned {
            let Some(mut request) = self.requests.remove(call) else { continue };
            if death.rerun.contains(call) {
                let crash = crash(*call, &request, self);
                request.promise.began_before(crash);
                request.idempotent = false;
            }
            self.send_back(request);
        }
        if let Some(cause) = self.start_failure.take() {
            self.is_told = true;
            self.pool.do_send(StartFailed { worker: self.id.clone(), cause, permanent: true });
            return;
        }
        self.is_told = true;
        self.pool.do_send(Died { worker: self.id.clone(), cause: cause.clone(), begun: death.over });
        for call in death.returned {
            self.pool.do_send(TakingBack::Passed { call, worker: self.id.clone() });
        }
        self.registry.do_send(WorkerLost { worker: self.id.clone() });
        for call in death.crashed {
            let Some(mut request) = self.requests.remove(&call) else { continue };
            let error = match &self.violation {
                Some(what) => Error::Protocol { worker: self.id.clone(), what: Arc::clone(what), ran: Ran::Maybe },
                None if self.is_void => Error::internal(&*cause, Ran::Maybe),
                None if self.for_shutdown => Error::ShuttingDown { ran: Ran::Maybe },
                None => Error::WorkerCrashed(Arc::new(crash(call, &request, self))),
            };
            request.promise.answer(Err(error));
        }
        self.perform();
    }

    fn running_for(&self, request: &Request) -> Duration {
        let Some((sent_at, Sent { entry, nested, .. })) = request.sent else { return Duration::ZERO };
        let before = if nested { sent_at } else { self.answered_at[entry as usize] };
        clock::now().saturating_duration_since(before.max(sent_at))
    }
}
