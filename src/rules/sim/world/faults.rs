//! What goes wrong in a simulated world.

use super::{Mailbox, Message, World, micros};
use crate::id::WorkerId;
use crate::rules::sim::actors::WorkerActor;
use crate::rules::sim::process::Life;
use crate::rules::sim::random::Random;
use crate::rules::sim::reach;

/// What goes wrong in this world.
#[derive(Debug)]
pub(in crate::rules::sim) struct Faults {
    kills: bool,
    stops: bool,
    renewals: bool,
    pub(in crate::rules::sim) failed_starts: bool,
    pub(super) taints: bool,
    restarts: bool,
    resizes: bool,
    zygote: bool,
    pub(super) give_ups: bool,
    pub(super) deadlines: bool,
    pub(super) releases: bool,
    pub(super) resets: bool,
    shutdown: bool,
    pub(in crate::rules::sim) long_calls: bool,
    /// No fault: calls ask for callbacks, which make calls.
    pub(in crate::rules::sim) callbacks: bool,
    /// Nor is this: nobody gives up by himself, so that who waits in vain waits for ever, and is found.
    pub(super) patience: bool,
}

impl Faults {
    /// Which of them a world has.
    pub(super) fn choose(random: &mut Random) -> Self {
        let faultless = random.one_in(8);
        let callbacks = random.one_in(2);
        let patience = random.one_in(4);
        let mut fault = |n| !faultless && random.one_in(n);
        Self {
            callbacks,
            patience,
            kills: fault(2),
            stops: fault(3),
            renewals: fault(3),
            failed_starts: fault(3),
            taints: fault(2),
            restarts: fault(3),
            resizes: fault(4),
            zygote: fault(4),
            give_ups: fault(2) && !patience,
            deadlines: fault(2) && !patience,
            releases: fault(2),
            resets: fault(2),
            shutdown: fault(8),
            long_calls: fault(3),
        }
    }
}

impl World {
    pub(super) fn fault(&mut self) {
        if self.is_calm {
            return;
        }
        let pause = self.random.below(3_000);
        self.post_in(Mailbox::Nowhere(1), Message::Fault, pause);
        let workers: Vec<WorkerId> = self.workers.keys().cloned().collect();
        let Some(worker) = self.random.pick(&workers).cloned() else { return };
        match self.random.below(10) {
            0 | 1 if self.faults.kills => {
                self.kill(&worker);
                if self.faults.give_ups && self.random.one_in(2) {
                    self.give_up();
                }
            }
            8 if self.faults.stops => self.stop(&worker),
            9 if self.faults.renewals => self.post(Mailbox::Pool, Message::Renew(worker)),
            2 if self.faults.taints => {
                let how_long = micros(self.random.below(10_000));
                let resident = self.users.values().find(|user| self.pool.home(&user.key).as_ref() == Some(&worker));
                let resident = resident.map(|user| user.key.clone());
                self.post(Mailbox::Pool, Message::Taint(worker, how_long));
                // At once, while requests are still on their way there.
                if let Some(key) = resident.filter(|_| self.faults.resets) {
                    self.post(Mailbox::Pool, Message::Reset(key));
                }
            }
            3 if self.faults.taints => self.post(Mailbox::Pool, Message::ClearTaint(worker)),
            4 if self.faults.restarts && self.random.one_in(4) => self.post(Mailbox::Pool, Message::Reload),
            4 if self.faults.restarts => self.post(Mailbox::Pool, Message::Restart(worker)),
            5 if self.faults.resizes => {
                let size = self.random.between(1, 4) as usize;
                self.post(Mailbox::Pool, Message::Resize(size));
            }
            6 if self.faults.zygote => {
                reach::hit("zygote lost".into());
                self.post(Mailbox::Pool, Message::ZygoteLost);
            }
            7 if self.faults.shutdown && self.random.one_in(8) => self.post(Mailbox::Pool, Message::Shutdown),
            _ => {}
        }
    }

    /// A process does nothing any more, mostly for good.
    fn stop(&mut self, worker: &WorkerId) {
        let Some(actor) = self.workers.get_mut(worker) else { return };
        if actor.process.life == Life::Alive && !std::mem::replace(&mut actor.process.is_stopped, true) {
            reach::hit("stopped".into());
            if self.random.one_in(3) {
                let delay = self.random.below(30_000);
                self.post_in(Mailbox::Nowhere(2), Message::ContinueOf(worker.clone()), delay);
            }
        }
    }

    /// What runs there would never end, and nobody judges it.
    pub(super) fn continue_those_that_run(&mut self) {
        let runs = |actor: &WorkerActor| actor.process.threads.iter().any(|thread| !thread.stack.is_empty());
        let running: Vec<_> = self.workers.iter().filter(|(_, actor)| runs(actor)).map(|(id, _)| id.clone()).collect();
        for worker in running {
            self.tell_process(&worker, Message::Continue);
        }
    }
}
