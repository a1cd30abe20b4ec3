//! Replacing: a new worker starts in a fresh slot, and the one before serves on until that is ready. Then it retires.
//!
//! So a pool is never smaller for it, and a replacement that cannot start costs nobody anything. When all code
//! was loaded anew, or the zygote is gone, every worker of before is *outdated*: one of them is replaced first,
//! and the others follow together when a worker of the new zygote has stood ready.

use super::worker::{Place, State};
use super::{Pool, UnknownWorker};
use crate::id::WorkerId;
use std::time::Instant;

/// A worker that serves until the one in a slot is ready.
#[derive(Debug)]
pub(super) struct Replaced {
    pub(super) place: Place,
    pub(super) reason: String,
}

impl Pool {
    /// Replaces a worker; one that is on its way out already is left to it.
    ///
    /// # Errors
    /// No such worker lives.
    pub(crate) fn restart_worker(&mut self, worker: &WorkerId, now: Instant) -> Result<(), UnknownWorker> {
        let place = Place::from(worker);
        if !self.workers.contains_key(&place) {
            return Err(UnknownWorker(worker.clone()));
        }
        if self.holds_its_slot(place) {
            self.replace(place, "restart_worker", now);
        }
        Ok(())
    }

    /// A new zygote stands ready, which has loaded all code anew: every worker of the one before is replaced.
    pub(crate) fn reload(&mut self, now: Instant) {
        if self.is_shutting_down() {
            return;
        }
        self.outdate("reload");
        self.retry(now);
        self.replace_outdated(now);
    }

    /// A worker is had of the zygote that there is now: it may have been wanted of the one before.
    pub(crate) fn note_forked(&mut self, worker: &WorkerId) {
        let zygotes_left = self.zygotes_left;
        if let Some(worker) = self.workers.get_mut(&Place::from(worker)) {
            worker.zygote = zygotes_left;
        }
    }

    /// The process that forks workers is gone: those that it forked are replaced.
    pub(crate) fn handle_zygote_lost(&mut self, now: Instant) {
        if self.is_shutting_down() {
            return;
        }
        self.outdate("its zygote is gone");
        // A death that nobody asked for: a zygote that dies again and again must not loop.
        let is_borne = self.restarts.degraded().is_none() && self.restarts.take(now);
        if is_borne {
            return self.replace_outdated(now);
        }
        if let Some(place) = self.outdated().first().copied() {
            self.replace_later(place, self.outdated_because);
        }
        if self.restarts.degraded().is_none() {
            self.degrade("the zygote died".into(), false, now);
        }
    }

    /// The code is another, and with it perhaps the cause: what a degraded pool misses is started at once.
    fn retry(&mut self, now: Instant) {
        if self.restarts.retry() {
            while let Some(slot) = self.longest_missing() {
                self.start_slot(slot, now);
            }
        }
    }

    /// Starts a worker in a fresh slot; the one that serves goes when that is ready, one that starts goes now.
    pub(super) fn replace(&mut self, place: Place, reason: &str, now: Instant) {
        let slot = self.replace_later(place, reason);
        self.start_slot(slot, now);
        self.retire_unless_serving(place, reason, now);
    }

    /// What is outdated goes: one, and when one that is not has stood ready, the others.
    pub(super) fn replace_outdated(&mut self, now: Instant) {
        if self.is_shutting_down() || self.restarts.degraded().is_some() {
            return;
        }
        let is_proved = self.workers.iter().any(|(place, worker)| {
            worker.state == State::Serving && worker.zygote == self.zygotes_left && self.holds_its_slot(*place)
        });
        let most = match (is_proved, self.has_all_slots_ready()) {
            (true, _) => usize::MAX,
            (false, true) => 1,
            (false, false) => 0,
        };
        for place in self.outdated().into_iter().take(most) {
            self.replace(place, self.outdated_because, now);
        }
    }

    /// Workers in their slots that a zygote of before has forked.
    pub(super) fn outdated(&self) -> Vec<Place> {
        let serving = self.workers.iter().filter(|(place, worker)| {
            worker.state == State::Serving && worker.zygote < self.zygotes_left && self.holds_its_slot(**place)
        });
        serving.map(|(place, _)| *place).collect()
    }

    fn outdate(&mut self, because: &'static str) {
        self.zygotes_left += 1;
        self.outdated_because = because;
    }

    /// Puts a fresh slot in the place of the worker's; returns its number.
    fn replace_later(&mut self, place: Place, reason: &str) -> u32 {
        let before = self.slots.remove(&place.slot);
        let number = self.add_slot();
        let replaces = match self.workers.get(&place) {
            Some(worker) if worker.state == State::Serving => Some(Replaced { place, reason: reason.to_owned() }),
            // It was not ready itself, and whom it was to replace serves on.
            Some(_) | None => before.and_then(|slot| slot.replaces),
        };
        if let Some(slot) = self.slots.get_mut(&number) {
            slot.replaces = replaces;
        }
        number
    }

    fn retire_unless_serving(&mut self, place: Place, reason: &str, now: Instant) {
        if self.workers.get(&place).is_some_and(|worker| worker.state != State::Serving) {
            self.retire(place, reason, now);
        }
    }
}
