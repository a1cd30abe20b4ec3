//! Shutdown: what waits is refused, what runs finishes within its grace.

use super::action::Action;
use super::call::{Stage, Then};
use super::ticket::Refusal;
use super::timer::Timer;
use super::worker::{Place, State};
use super::{Phase, Pool};
use crate::id::CallId;
use std::time::Instant;

/// Why a worker is killed then.
const CAUSE: &str = "killed, the bridge shuts down";

impl Pool {
    /// Takes no call any more; `Stopped` comes when the exit of every worker was seen.
    pub(crate) fn shutdown(&mut self, now: Instant) {
        if self.is_shutting_down() {
            return;
        }
        self.phase = Phase::ShuttingDown;
        self.slots.clear();
        self.timers.set(now + self.rules.shutdown_grace, Timer::ShutdownGrace);
        let calls: Vec<CallId> = self.calls.keys().copied().collect();
        for id in calls {
            match self.calls[&id].stage {
                Stage::Waiting(_) if self.is_expected(&id) => {}
                Stage::Waiting(_) => {
                    self.leave_line(id);
                    self.refuse(id, Refusal::ShuttingDown);
                }
                Stage::Ahead(_) => self.take_back(id, Then::Refuse(Refusal::ShuttingDown)),
                Stage::Running(_) | Stage::Routing => {}
            }
        }
        let places: Vec<Place> = self.workers.keys().copied().collect();
        for place in places {
            self.let_go(place, now);
        }
        for sid in self.sessions.keys().copied().collect::<Vec<_>>() {
            self.serve_trees_of(sid, now);
        }
        self.finish_shutdown();
    }

    fn let_go(&mut self, place: Place, now: Instant) {
        let worker = self.worker_mut(place);
        match worker.state {
            State::Starting { .. } => {
                worker.state = State::Stopping;
                let worker = worker.id.clone();
                self.act(Action::Kill { worker, cause: CAUSE.to_owned() });
            }
            State::Serving | State::Retiring => {
                worker.state = State::Draining;
                self.stop_if_drained(place, now);
            }
            State::Draining | State::Stopping => {}
        }
    }

    pub(super) fn on_shutdown_grace_over(&mut self) {
        for worker in self.workers.values_mut() {
            worker.state = State::Stopping;
        }
        let workers: Vec<_> = self.workers.values().map(|worker| worker.id.clone()).collect();
        for worker in workers {
            self.act(Action::Kill { worker, cause: CAUSE.to_owned() });
        }
    }

    pub(super) fn finish_shutdown(&mut self) {
        if self.phase == Phase::ShuttingDown && (self.workers.is_empty() || mutant!("shutdown.before_the_exits")) {
            self.phase = Phase::Stopped;
            self.act(Action::Stopped);
        }
    }

    pub(super) fn is_shutting_down(&self) -> bool {
        match self.phase {
            Phase::ShuttingDown | Phase::Stopped => true,
            Phase::Starting | Phase::Open => false,
        }
    }
}
