//! Retiring: a worker has left its slot, and keeps what sessions hold in it until they end or its grace is
//! over. It serves until its replacement is ready (`replace.rs`).

use super::Pool;
use super::action::Action;
use super::call::{Call, Stage, Target, Then};
use super::session::Sid;
use super::slot::Slot;
use super::timer::Timer;
use super::worker::{Place, State};
use crate::event::Fact;
use crate::id::CallId;
use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Instant;

impl Pool {
    /// From now on the pool has that many slots, and at least one.
    pub(crate) fn resize(&mut self, size: usize, now: Instant) {
        self.rules.size = size.max(1);
        if self.is_shutting_down() {
            return;
        }
        self.start(now);
        while self.slots.len() > self.rules.size {
            let Some(number) = self.least_needed_slot() else { return };
            let Some(slot) = self.slots.remove(&number) else { return };
            self.retire(Place { slot: number, generation: slot.generation }, "resize", now);
            if let Some(replaced) = slot.replaces {
                self.retire(replaced.place, "resize", now);
            }
        }
        self.on_slot_ready(now);
        // The slot that is gone may be the one that the other outdated workers wait for.
        self.replace_outdated(now);
        self.renew_next(now);
    }

    /// The worker has left its slot; it becomes nobody's home any more.
    pub(super) fn retire(&mut self, place: Place, reason: &str, now: Instant) {
        let Some(worker) = self.workers.get_mut(&place) else { return };
        let id = worker.id.clone();
        match worker.state {
            State::Starting { .. } => {
                worker.state = State::Stopping;
                let cause = "killed while it started, nobody waits for it any more".to_owned();
                self.act(Action::Kill { worker: id, cause });
                return;
            }
            State::Serving => worker.state = State::Retiring,
            State::Retiring | State::Draining | State::Stopping => return,
        }
        let homes: Vec<Sid> = worker.homes.iter().copied().collect();
        self.emit(Fact::WorkerRetiring { worker: id, reason: reason.to_owned() });
        self.timers.set(now + self.rules.retire_grace, Timer::RetireGrace(place));
        for sid in homes {
            self.leave_retiring(sid, place, now);
        }
        self.refuse_if_degraded_for_all();
        self.stop_if_drained(place, now);
    }

    /// A session that holds nothing in a retiring worker loses that home silently.
    pub(super) fn leave_retiring(&mut self, sid: Sid, place: Place, now: Instant) {
        let Some(worker) = self.workers.get(&place) else { return };
        if worker.state != State::Retiring || self.holds_something(sid, place) {
            return;
        }
        if let Some(session) = self.sessions.get_mut(&sid)
            && session.home == Some(place)
        {
            session.home = None;
            self.worker_mut(place).homes.remove(&sid);
            self.tell_home_forgotten(sid, place);
            for id in self.leave_lines(sid, Target::Worker(place)) {
                self.route(id, now);
            }
            self.settle_session(sid);
        }
        self.stop_if_drained(place, now);
    }

    fn holds_something(&self, sid: Sid, place: Place) -> bool {
        let Some(session) = self.sessions.get(&sid) else { return false };
        let waits_for_refs = |id: &CallId| self.calls[id].pinned_to.is_some();
        session.pins_at(place) > 0
            || self.leases_of(sid, place).next().is_some()
            || session.line(Target::Worker(place)).is_some_and(|line| line.calls.iter().any(waits_for_refs))
    }

    pub(super) fn on_retire_grace_over(&mut self, place: Place, now: Instant) {
        let Some(worker) = self.workers.get_mut(&place).filter(|worker| worker.state == State::Retiring) else {
            return;
        };
        worker.state = State::Draining;
        let cause: Arc<str> = "retired, and its grace is over".into();
        self.note_exit(place, cause.clone());
        for id in self.workers[&place].leases.iter().copied().collect::<Vec<_>>() {
            self.note_namespace_used(id);
        }
        self.lose_state(place, &cause);
        // Also those that seem to run: what has begun finishes, what has not fares as after a crash.
        // Before those that wait are routed, which must not overtake them.
        // The latest first: one that had begun is then never behind one of its session that had not.
        let open: Vec<CallId> = self.workers[&place].leases.iter().rev().copied().collect();
        for id in open {
            self.take_back(id, Then::RouteAgain);
        }
        for id in self.leave_lines_for(place) {
            self.route(id, now);
        }
        self.stop_if_drained(place, now);
    }

    pub(super) fn leases_ahead(&self, place: Place) -> Vec<CallId> {
        let Some(worker) = self.workers.get(&place) else { return Vec::new() };
        let is_ahead = |call: &Call| matches!(call.stage, Stage::Ahead(_));
        worker.leases.iter().copied().filter(|id| is_ahead(&self.calls[id])).collect()
    }

    /// Lets a worker exit that nothing keeps.
    pub(super) fn stop_if_drained(&mut self, place: Place, now: Instant) {
        let Some(worker) = self.workers.get_mut(&place) else { return };
        let is_idle = worker.leases.is_empty() && worker.passing.is_empty() && worker.waiting == 0;
        let is_drained = match worker.state {
            State::Retiring => is_idle && worker.pinned.is_empty() && worker.homes.is_empty(),
            State::Draining => is_idle,
            State::Starting { .. } | State::Serving | State::Stopping => false,
        };
        if is_drained {
            worker.state = State::Stopping;
            let worker = worker.id.clone();
            self.timers.set(now + self.rules.shutdown_grace, Timer::Linger(place));
            self.act(Action::Stop { worker });
        }
    }

    pub(super) fn on_linger_over(&mut self, place: Place) {
        if let Some(worker) = self.workers.get(&place) {
            let worker = worker.id.clone();
            let cause = "killed, it did not exit when it was told to".to_owned();
            self.act(Action::Kill { worker, cause });
        }
    }

    /// One without a worker, else one that starts, else the home of the fewest.
    fn least_needed_slot(&self) -> Option<u32> {
        let need = |number: u32, slot: &Slot| {
            let replaced = slot.replaces.as_ref().and_then(|replaced| self.workers.get(&replaced.place));
            match replaced.or(self.workers.get(&Place { slot: number, generation: slot.generation })) {
                None => (0, 0),
                Some(worker) => match worker.state {
                    State::Starting { .. } => (1, 0),
                    State::Serving | State::Retiring | State::Draining | State::Stopping => (2, worker.homes.len()),
                },
            }
        };
        let slots = self.slots.iter();
        slots.min_by_key(|(number, slot)| (need(**number, slot), Reverse(**number))).map(|(number, _)| *number)
    }
}
