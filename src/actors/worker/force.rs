//! What ends a worker or a call in it by force: the kill, and the interrupt.

use super::WorkerActor;
use crate::observe::Handled;
use std::sync::Arc;

impl WorkerActor {
    /// Kills the process and what it started; what follows, follows from its seen exit.
    pub(super) fn kill(&mut self) {
        self.lifeline = None;
        if let Some(watch) = &self.watch {
            // For one that left its process group. It may be gone already.
            let _gone = watch.signal(rustix::process::Signal::KILL);
        }
    }

    /// Writes the interrupt word of a call; `false` where that stands for another which is to end as well.
    pub(super) fn tell_to_end(&self, seq: u64) -> bool {
        let other = self.page.interrupted(seq);
        if other != seq && self.lane.is_overdue(other) && !mutant!("interrupt.word_is_shared") {
            return false;
        }
        self.page.interrupt(seq);
        true
    }

    /// Has an exception raised in a call that has begun.
    pub(super) fn interrupt(&self, seq: u64) {
        let is_first = self.page.interrupted(seq) != seq;
        if !self.tell_to_end(seq) {
            return;
        }
        if is_first {
            self.note_interrupted(seq);
        }
        if let Some(watch) = self.watch.as_ref().filter(|_| !mutant!("interrupt.without_signal")) {
            // It may be gone already.
            let _gone = watch.signal(rustix::process::Signal::URG);
        }
    }

    pub(super) fn distrust(&mut self, what: impl Into<Arc<str>>) {
        if self.violation.is_none() {
            let what = what.into();
            self.journal.note(Handled::Distrust, None, None, || format!("killed: {what}"));
            tracing::warn!(target: "snakebridge::worker", worker = %self.id, %what, "killing a worker that broke the protocol");
            self.violation = Some(what);
        }
        if !mutant!("violation.is_borne") {
            self.kill();
        }
    }

    /// It does not hear or is not heard any more, which may be because it has ended: then its exit says why.
    pub(super) fn kill_unreachable(&mut self) {
        if self.watch.as_ref().is_some_and(|watch| watch.runs_on()) {
            self.kill_for("killed, it had closed its channel".to_owned());
        } else {
            self.kill();
        }
    }

    /// Kills it for a reason that its exit would not say.
    pub(super) fn kill_for(&mut self, cause: String) {
        tracing::warn!(target: "snakebridge::worker", worker = %self.id, cause, "killing a worker");
        self.killed_for.get_or_insert(cause);
        self.kill();
    }
}
