//! Renewal: a worker that has served long enough, by its age, its calls or its memory, is replaced.
//!
//! One of a pool at a time, and only while every slot has its worker ready: a pool whose workers were started
//! together must not start as many again together. Nor while more have retired and not gone yet than there are
//! slots: sessions may keep them long. The others wait for their turn.

use super::Pool;
use super::timer::Timer;
use super::worker::{Place, State};
use crate::id::WorkerId;
use std::time::Instant;

/// A worker that is to be renewed, and why.
#[derive(Debug)]
pub(super) struct Renewal {
    place: Place,
    reason: String,
    once: Once,
}

/// What a renewal waits for beside its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Once {
    Always,
    /// One that has run nothing is not much larger than its replacement will be, which would be renewed in turn.
    HasRun,
}

impl Pool {
    /// The worker has too much memory, or is broken: it is to be replaced when its turn comes. One that serves in
    /// no slot is on its way out already.
    pub(crate) fn renew(&mut self, worker: &WorkerId, reason: String, now: Instant) {
        self.want_renewal(Renewal { place: Place::from(worker), reason, once: Once::HasRun }, now);
    }

    pub(super) fn on_age_over(&mut self, place: Place, now: Instant) {
        let reason = format!("max_age of {:?}", self.rules.max_age.unwrap_or_default());
        self.want_renewal(Renewal { place, reason, once: Once::Always }, now);
    }

    /// A call was over there.
    pub(super) fn count_request(&mut self, place: Place, now: Instant) {
        let Some(worker) = self.workers.get_mut(&place) else { return };
        worker.requests += 1;
        if worker.requests == self.rules.max_requests {
            let reason = format!("max_requests of {}", self.rules.max_requests);
            self.want_renewal(Renewal { place, reason, once: Once::Always }, now);
        } else if worker.requests == 1 {
            self.renew_next(now);
        }
    }

    /// Sets the timer of a worker's age; each has its own, so that those started together do not end together.
    pub(super) fn set_age(&mut self, place: Place, now: Instant) {
        let Some(age) = self.rules.max_age else { return };
        let share = share(self.rules.seed, place);
        self.timers.set(now + age + age.mul_f64(share * MOST_LATER), Timer::Age(place));
    }

    fn want_renewal(&mut self, renewal: Renewal, now: Instant) {
        if self.may_be_renewed(renewal.place) {
            self.renewals.push_back(renewal);
            self.renew_next(now);
        }
    }

    /// Renews the first that may be, if no other is under way.
    pub(super) fn renew_next(&mut self, now: Instant) {
        if self.renewals.is_empty() || self.is_shutting_down() {
            return;
        }
        let on_their_way_out = self.workers.len() - self.slots.len().min(self.workers.len());
        if !self.has_all_slots_ready() || on_their_way_out > self.rules.size {
            return;
        }
        let mut renewals = std::mem::take(&mut self.renewals);
        renewals.retain(|renewal| self.may_be_renewed(renewal.place));
        let at = renewals.iter().position(|renewal| match renewal.once {
            Once::Always => true,
            Once::HasRun => self.workers[&renewal.place].requests > 0,
        });
        let next = at.and_then(|at| renewals.remove(at));
        self.renewals = renewals;
        if let Some(Renewal { place, reason, once: _ }) = next {
            self.replace(place, &reason, now);
        }
    }

    fn may_be_renewed(&self, place: Place) -> bool {
        self.holds_its_slot(place) && self.workers.get(&place).is_some_and(|worker| worker.state == State::Serving)
    }
}

/// A worker's limit of age lies between the configured one and so much of it more.
const MOST_LATER: f64 = 0.1;

/// Evenly spread over 0 to 1, another for each worker.
fn share(seed: u64, place: Place) -> f64 {
    // SplitMix64.
    let mut mixed = seed ^ (u64::from(place.slot) << 32) ^ place.generation;
    mixed = mixed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^= mixed >> 31;
    (mixed >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limits_of_age_are_spread_over_a_tenth() {
        let shares: Vec<f64> = (0..1_000).map(|slot| share(7, Place { slot, generation: 1 })).collect();
        assert!(shares.iter().all(|share| (0.0..1.0).contains(share)));
        for tenth in 0..10 {
            let range = f64::from(tenth) / 10.0..f64::from(tenth + 1) / 10.0;
            let count = shares.iter().filter(|share| range.contains(share)).count();
            assert!((50..200).contains(&count), "{count} in {range:?}");
        }
        assert_ne!(share(7, Place { slot: 0, generation: 1 }), share(8, Place { slot: 0, generation: 1 }));
        assert_ne!(share(7, Place { slot: 0, generation: 1 }), share(7, Place { slot: 0, generation: 2 }));
    }
}
