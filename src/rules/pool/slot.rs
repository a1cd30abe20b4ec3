//! Slots: which worker stands in each, and when the next one is started.

use super::action::Action;
use super::replace::Replaced;
use super::timer::Timer;
use super::worker::{Place, State, Worker};
use super::{Phase, Pool};
use crate::event::Fact;
use crate::id::WorkerId;
use crate::rules::restart::BackOff;
use std::sync::Arc;
use std::time::Instant;

#[derive(Debug)]
pub(super) struct Slot {
    /// Of its last worker.
    pub(super) generation: u64,
    pub(super) state: SlotState,
    pub(super) back_off: BackOff,
    pub(super) replaces: Option<Replaced>,
}

#[derive(Debug)]
pub(super) enum SlotState {
    /// Its worker starts or serves.
    Up,
    BackingOff {
        until: Instant,
        cause: Arc<str>,
    },
    /// It waits for a try: the pool is degraded.
    Missing,
}

impl Pool {
    /// Asks for a worker in every slot.
    pub(crate) fn start(&mut self, now: Instant) {
        for _ in self.slots.len()..self.rules.size {
            let slot = self.add_slot();
            self.start_slot(slot, now);
        }
    }

    /// The worker takes calls.
    pub(crate) fn handle_ready(&mut self, worker: &WorkerId, now: Instant) {
        let place = Place::from(worker);
        let Some(worker) = self.workers.get_mut(&place) else { return };
        let State::Starting { until } = worker.state else { return };
        worker.state = State::Serving;
        worker.ready_at = Some(now);
        let worker = worker.id.clone();
        // A timer that nobody needs any more would still have the host's clock programmed at each wait.
        self.timers.unset(until, Timer::StartTimeout(place));
        self.restarts.handle_ready();
        self.emit(Fact::WorkerReady { worker });
        self.set_age(place, now);
        self.on_slot_ready(now);
        self.serve(place, now);
        // What loses its home with that one must not overtake what has waited.
        if let Some(replaced) = self.slots.get_mut(&place.slot).and_then(|slot| slot.replaces.take()) {
            self.retire(replaced.place, &replaced.reason, now);
        }
        self.replace_outdated(now);
        self.renew_next(now);
    }

    /// The worker never was, or its exit was seen before it was ready.
    pub(crate) fn handle_start_failed(&mut self, worker: &WorkerId, cause: String, permanent: bool, now: Instant) {
        let place = Place::from(worker);
        let Some(gone) = self.workers.get(&place) else { return };
        match gone.state {
            State::Starting { until } => {
                self.restarts.handle_failed_start(until - self.rules.start_timeout);
                self.emit(Fact::WorkerStartFailed { worker: worker.clone(), cause: cause.clone() });
            }
            // It was not to start any more.
            State::Stopping => {
                self.emit(Fact::WorkerExited { worker: worker.clone(), cause: cause.clone(), expected: true });
            }
            State::Serving | State::Retiring | State::Draining => {
                return self.handle_exit(worker, cause, Vec::new(), now);
            }
        }
        self.workers.remove(&place);
        self.timers.forget(place);
        self.act(Action::LeasesClosed { worker: worker.clone() });
        let cause: Arc<str> = cause.into();
        self.note_exit(place, cause.clone());
        self.on_slot_down(place, None, cause, permanent, now);
        self.finish_shutdown();
        self.renew_next(now);
    }

    /// Adds a slot that waits for its worker; returns its number.
    pub(super) fn add_slot(&mut self) -> u32 {
        let number = self.next_slot;
        self.next_slot += 1;
        let slot = Slot { generation: 0, state: SlotState::Missing, back_off: BackOff::default(), replaces: None };
        self.slots.insert(number, slot);
        number
    }

    pub(super) fn start_slot(&mut self, number: u32, now: Instant) {
        let Some(slot) = self.slots.get_mut(&number) else { return };
        slot.generation = if mutant!("slot.generation_comes_again") { 1 } else { slot.generation + 1 };
        slot.state = SlotState::Up;
        let place = Place { slot: number, generation: slot.generation };
        let worker = WorkerId::new(self.rules.name.clone(), place.slot, place.generation);
        let until = now + self.rules.start_timeout;
        self.workers.insert(place, Worker::new(worker.clone(), self.zygotes_left, until));
        self.timers.set(until, Timer::StartTimeout(place));
        self.emit(Fact::WorkerStarting { worker: worker.clone() });
        self.act(Action::Start { worker });
    }

    /// Whether the worker is the one that its slot has now.
    pub(super) fn holds_its_slot(&self, place: Place) -> bool {
        self.slots.get(&place.slot).is_some_and(|slot| slot.generation == place.generation)
    }

    /// The exit of a slot's worker was seen, asked for by nobody.
    pub(super) fn on_slot_down(
        &mut self,
        place: Place,
        ready_at: Option<Instant>,
        cause: Arc<str>,
        permanent: bool,
        now: Instant,
    ) {
        if !self.holds_its_slot(place) {
            // It may have been the last that a degraded pool had.
            self.refuse_if_degraded_for_all();
            return;
        }
        self.restarts.handle_cause(&cause);
        let healthy_for = ready_at.map(|at| now.saturating_duration_since(at));
        let Some(slot) = self.slots.get_mut(&place.slot) else { return };
        let wait = slot.back_off.handle_loss(healthy_for, self.rules.restart_backoff);
        if self.restarts.degraded().is_some() {
            slot.state = SlotState::Missing;
            self.refuse_if_degraded_for_all();
        } else if permanent || !self.restarts.has_room(now) {
            slot.state = SlotState::Missing;
            self.degrade(cause, permanent, now);
        } else if wait.is_zero() {
            self.restart_slot(place.slot, cause, now);
        } else {
            let until = now + wait;
            slot.state = SlotState::BackingOff { until, cause };
            self.timers.set(until, Timer::BackOff(place.slot));
        }
    }

    fn restart_slot(&mut self, number: u32, cause: Arc<str>, now: Instant) {
        if self.restarts.take(now) {
            self.start_slot(number, now);
        } else if let Some(slot) = self.slots.get_mut(&number) {
            slot.state = SlotState::Missing;
            self.degrade(cause, false, now);
        }
    }

    pub(super) fn degrade(&mut self, cause: Arc<str>, permanent: bool, now: Instant) {
        let next_try = self.restarts.degrade(cause.clone(), now);
        self.timers.set(next_try, Timer::DegradedTry);
        for slot in self.slots.values_mut() {
            match slot.state {
                SlotState::BackingOff { .. } => slot.state = SlotState::Missing,
                SlotState::Up | SlotState::Missing => {}
            }
        }
        self.emit(Fact::PoolDegraded { pool: self.rules.name.clone(), cause: cause.to_string() });
        self.act(Action::Degraded { cause, permanent });
        self.refuse_if_degraded_for_all();
    }

    pub(super) fn on_slot_ready(&mut self, now: Instant) {
        if self.has_all_slots_ready() {
            self.has_settled |= self.is_settled();
            if self.restarts.recover() {
                self.emit(Fact::PoolRecovered { pool: self.rules.name.clone() });
            }
            if self.phase == Phase::Starting {
                self.phase = Phase::Open;
                self.act(Action::Ready);
            }
        } else if self.restarts.degraded().is_some() {
            // A try has succeeded: the others follow, as far as the budget bears them.
            while let Some(slot) = self.longest_missing() {
                if !self.restarts.take(now) {
                    break;
                }
                self.start_slot(slot, now);
            }
        }
    }

    pub(super) fn on_back_off_over(&mut self, number: u32, now: Instant) {
        let Some(slot) = self.slots.get(&number) else { return };
        match &slot.state {
            SlotState::BackingOff { until, cause } if *until <= now => {
                let cause = cause.clone();
                self.restart_slot(number, cause, now);
            }
            SlotState::BackingOff { .. } | SlotState::Up | SlotState::Missing => {}
        }
    }

    pub(super) fn on_degraded_try(&mut self, now: Instant) {
        if !self.restarts.is_try_due(now) {
            return;
        }
        if let Some(next) = self.restarts.tried(now) {
            self.timers.set(next, Timer::DegradedTry);
        }
        if let Some(slot) = self.longest_missing() {
            // A try is made whether or not the budget has room, and counts against it if it has.
            let _counted = self.restarts.take(now);
            self.start_slot(slot, now);
        }
    }

    /// The slots have their turns: the one with the fewest generations was tried least.
    pub(super) fn longest_missing(&self) -> Option<u32> {
        let missing = self.slots.iter().filter(|(_, slot)| matches!(slot.state, SlotState::Missing));
        missing.min_by_key(|(number, slot)| (slot.generation, **number)).map(|(number, _)| *number)
    }

    pub(super) fn on_start_timeout(&mut self, place: Place) {
        let Some(worker) = self.workers.get(&place) else { return };
        if matches!(worker.state, State::Starting { .. }) {
            let worker = worker.id.clone();
            let cause = format!("killed, it did not start within {:?}", self.rules.start_timeout);
            self.act(Action::Kill { worker, cause });
        }
    }

    pub(super) fn has_all_slots_ready(&self) -> bool {
        self.slots.iter().all(|(number, slot)| {
            let place = Place { slot: *number, generation: slot.generation };
            self.workers.get(&place).is_some_and(|worker| worker.state == State::Serving)
        })
    }
}
