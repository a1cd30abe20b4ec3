//! Whether a worker may live on: its heartbeat and its memory, as `rules::heartbeat` and `rules::memory` decide.

use super::{Sight, WorkerActor};
use crate::actors::pool::{RenewWorker, Silence};
use crate::clock;
use crate::process::Residency;
use crate::rules::heartbeat::HeartAction;
use crate::rules::lane::Begun;
use crate::rules::memory::MemoryAction;
use crate::wire::ToWorker;
use std::time::Instant;

impl WorkerActor {
    /// Which calls have begun, by entry, as the page says.
    pub(super) fn begun(&self) -> Vec<Begun> {
        let begun = |entry| Begun { plain: self.page.begun(entry), nested: self.page.begun_nested(entry) };
        (0..self.page.entries()).map(begun).collect()
    }

    pub(super) fn beat(&mut self, now: Instant) {
        let is_due = self.heart.is_due(now);
        if is_due {
            let runs = self.lane.due() > 0 && self.lane.is_running(&self.begun());
            self.heart.handle_timeout(runs, self.page.freed(), now);
        }
        if is_due || self.memory.is_due(now) {
            self.see_memory();
        }
    }

    /// Looks at its memory, or for a way to.
    pub(super) fn see_memory(&mut self) {
        if let Sight::Sought { pid } | Sight::Lost { pid } = self.sight {
            let opened = Residency::open(pid);
            let is_told = matches!(self.sight, Sight::Lost { .. });
            // Where it has ended meanwhile, the number may be another's.
            let lives = self.watch.as_ref().is_some_and(|watch| watch.lives());
            self.sight = match opened {
                _ if !lives => Sight::Unasked,
                Ok(residency) => Sight::Open(residency),
                Err(_) if is_told => Sight::Lost { pid },
                Err(error) => {
                    self.note_memory(&format!("cannot be looked at: {error}"));
                    tracing::warn!(target: "snakebridge::worker", worker = %self.id, %error, "its memory is limited, and cannot be looked at");
                    Sight::Lost { pid }
                }
            };
        }
        if let Sight::Open(residency) = &self.sight {
            self.memory.handle_resident(residency.bytes());
        }
    }

    pub(super) fn perform_memory(&mut self) {
        while let Some(action) = self.memory.poll_action() {
            match action {
                MemoryAction::Renew { reason } => {
                    self.note_memory(&reason);
                    self.pool.do_send(RenewWorker { worker: self.id.clone(), reason });
                }
                MemoryAction::Kill { cause } => {
                    self.note_memory(&format!("killed: {cause}"));
                    self.kill_for(cause);
                }
            }
        }
        if !matches!(self.sight, Sight::Unasked) {
            self.memory.handle_calls(self.lane.due() > 0, clock::now());
        }
    }

    pub(super) fn perform_heart(&mut self) {
        while let Some(action) = self.heart.poll_action() {
            match action {
                HeartAction::Ping => {
                    // Nothing else may come for long, and they can be large.
                    if self.outbox.has_released() {
                        self.outbox.send(|released| ToWorker::Free { refs: Vec::new(), released }, &self.page);
                    }
                    self.outbox.ping(&self.page);
                }
                HeartAction::Silent | HeartAction::Heard => {
                    let is_silent = action == HeartAction::Silent;
                    self.note_silence(if is_silent { "does not answer" } else { "heard again" });
                    self.pool.do_send(Silence { worker: self.id.clone(), is_silent });
                }
                HeartAction::Kill { silent_for } => {
                    let cause = format!("no heartbeat for {silent_for:?}");
                    self.note_silence(&format!("killed: {cause}"));
                    self.kill_for(cause);
                }
            }
        }
    }
}
