//! Interrupts in a simulated world: what they find when they come, and whether a call obeys.

use super::process::Step;
use super::reach;
use super::world::{Mailbox, Message, World};
use crate::id::WorkerId;

impl World {
    /// The page is written at once; the signal takes its time.
    pub(super) fn interrupt(&mut self, worker: &WorkerId, seq: u64) {
        let actor = self.workers.get_mut(worker).expect("it was just polled");
        assert!(actor.lane.is_overdue(seq), "{seq} at {worker} is not to end");
        let has_begun = actor.process.begun.iter().any(|begun| begun.plain.max(begun.nested) >= seq);
        assert!(has_begun, "{seq} at {worker} has not begun");
        actor.process.interrupted.insert(seq);
        self.post(Mailbox::Signals(worker.clone()), Message::Interrupt { seq });
    }

    /// The signal has come: whichever call it is meant for, each thread looks at the one that runs.
    pub(super) fn on_interrupt(&mut self, worker: &WorkerId, seq: u64) {
        if self.random.one_in(3) {
            return reach::hit("a signal is not noticed".into());
        }
        let process = &self.workers[worker].process;
        let frames = process.threads.iter().flat_map(|thread| &thread.stack);
        match frames.clone().find(|frame| frame.seq == seq).map(|frame| frame.step) {
            None => reach::hit("an interrupt comes too late".into()),
            Some(Step::Waiting) => reach::hit("an interrupt finds that its call waits".into()),
            Some(Step::Begun | Step::Running | Step::Ending) => {}
        }
        for entry in 0..process.threads.len() {
            self.strike(worker, entry as u32);
        }
    }

    /// An exception is raised in the call that runs there, if it is interrupted.
    pub(super) fn strike(&mut self, worker: &WorkerId, entry: u32) {
        let process = &mut self.workers.get_mut(worker).expect("it was just read").process;
        let Some(top) = process.threads[entry as usize].stack.last_mut() else { return };
        if top.step != Step::Running || !process.interrupted.contains(&top.seq) || !process.struck.insert(top.seq) {
            return;
        }
        let call = top.call;
        assert!(self.witness.calls[&call].outcome.is_some(), "{call} is struck, and its caller waits for it");
        if self.random.one_in(4) {
            reach::hit("an interrupt is ignored".into());
        } else {
            reach::hit("an interrupt is obeyed".into());
            top.step = Step::Ending;
            let takes = self.random.below(200);
            self.step_in(worker, entry, takes);
        }
    }
}
