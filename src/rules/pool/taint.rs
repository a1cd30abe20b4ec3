//! Taints: a worker that takes nothing new for a while.

use super::call::{Call, Stage, Target, Then};
use super::timer::Timer;
use super::worker::{Place, State, Taint};
use super::{Pool, UnknownWorker};
use crate::event::Fact;
use crate::id::{CallId, WorkerId};
use std::time::{Duration, Instant};

impl Pool {
    /// The worker takes nothing new until `how_long` has passed; a second taint prolongs, never shortens.
    ///
    /// # Errors
    /// No such worker lives.
    pub(crate) fn taint(
        &mut self,
        worker: &WorkerId,
        how_long: Duration,
        reason: String,
        now: Instant,
    ) -> Result<(), UnknownWorker> {
        let place = Place::from(worker);
        let Some(tainted) = self.workers.get_mut(&place).filter(|worker| worker.state != State::Stopping) else {
            return Err(UnknownWorker(worker.clone()));
        };
        let until = now.checked_add(how_long).unwrap_or_else(|| now + LONGEST);
        if tainted.taint.as_ref().is_some_and(|taint| taint.until >= until) {
            return Ok(());
        }
        if let Some(earlier) = tainted.taint.replace(Taint { until, reason: reason.as_str().into() }) {
            self.timers.unset(earlier.until, Timer::Untaint(place));
        }
        self.timers.set(until, Timer::Untaint(place));
        let for_ms = u64::try_from(how_long.as_millis()).unwrap_or(u64::MAX);
        self.emit(Fact::WorkerTainted { worker: worker.clone(), reason, for_ms });
        self.turn_away(place, now);
        Ok(())
    }

    /// Ends a taint; a worker that has none is left as it is.
    ///
    /// # Errors
    /// No such worker lives.
    pub(crate) fn clear_taint(&mut self, worker: &WorkerId, now: Instant) -> Result<(), UnknownWorker> {
        let place = Place::from(worker);
        if !self.workers.contains_key(&place) {
            return Err(UnknownWorker(worker.clone()));
        }
        self.end_taint(place, now);
        Ok(())
    }

    pub(super) fn on_taint_over(&mut self, place: Place, now: Instant) {
        let taint = self.workers.get(&place).and_then(|worker| worker.taint.as_ref());
        if taint.is_some_and(|taint| taint.until <= now) {
            self.end_taint(place, now);
        }
    }

    fn end_taint(&mut self, place: Place, now: Instant) {
        let Some(worker) = self.workers.get_mut(&place) else { return };
        if let Some(taint) = worker.taint.take() {
            self.timers.unset(taint.until, Timer::Untaint(place));
            let worker = worker.id.clone();
            self.emit(Fact::WorkerUntainted { worker });
            self.serve(place, now);
        }
    }

    /// What waits for a worker that is tainted now, or was sent ahead to it.
    fn turn_away(&mut self, place: Place, now: Instant) {
        let refusal = |pool: &Self, id: &CallId| pool.unavailable_to(&pool.calls[id], place, &pool.workers[&place]);
        let goes = |pool: &Self, id: &CallId| !pool.calls[id].is_continuing() && !pool.is_expected(id);
        for id in self.waiting_for(place).into_iter().filter(|id| goes(self, id)).collect::<Vec<_>>() {
            let waits_here = |call: &Call| matches!(call.stage, Stage::Waiting(Target::Worker(at)) if at == place);
            // One before it may have made room for it elsewhere.
            let Some(call) = self.calls.get(&id).filter(|call| waits_here(call)) else { continue };
            let is_tied = call.is_tied();
            let refusal = refusal(self, &id);
            self.leave_line(id);
            if is_tied {
                self.refuse(id, refusal);
            } else {
                // It has only waited for the end of an `on_home` there, or of a call of its tree.
                self.route(id, now);
            }
        }
        for id in self.leases_ahead(place).into_iter().filter(|id| goes(self, id)).collect::<Vec<_>>() {
            let refusal = refusal(self, &id);
            self.take_back(id, Then::Refuse(refusal));
        }
    }
}

/// For a taint without end: `Instant` has no largest value.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
