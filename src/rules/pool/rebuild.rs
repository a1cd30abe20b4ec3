//! What a session does in each new home before the call that set it: its `on_home`.
//!
//! The call that sets such a home is granted, and not sent: its session runs the `on_home` first, whose
//! calls go to that worker under the lease of the first and pass every line. All other calls of the
//! session wait. If it fails the home is forgotten, and the next call tries again.

use super::Pool;
use super::action::Action;
use super::call::{Call, TakeBack, Target};
use super::route::Choice;
use super::session::{Session, Sid};
use super::ticket::{Purpose, Refusal};
use super::worker::Place;
use crate::config::Affinity;
use crate::id::{CallId, WorkerId};
use std::time::Instant;

/// A home that is being made ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rebuilding {
    /// The call that set it.
    pub(super) call: CallId,
    pub(super) place: Place,
}

impl Pool {
    /// The home is ready, and the call that set it is sent now.
    pub(crate) fn handle_rebuilt(&mut self, call: CallId, worker: &WorkerId, now: Instant) {
        // Another worker than that may have it by now.
        let Some((sid, place)) = self.leased(call).filter(|(_, at)| *at == Place::from(worker)) else { return };
        if self.end_rebuild(call) {
            self.relist_all(sid);
            // Under `hint` a home that is busy is no reason to wait any longer.
            let line = self.sessions[&sid].line(Target::Worker(place));
            let waiting: Vec<CallId> = line.into_iter().flat_map(|line| line.calls.iter().copied()).collect();
            for id in waiting.into_iter().filter(|id| !self.calls[id].is_tied()).collect::<Vec<_>>() {
                if self.leave_line(id) {
                    self.route(id, now);
                }
            }
            self.serve_all(now);
            self.serve_trees_of(sid, now);
        }
    }

    /// The home could not be made ready: it is forgotten, and its call refused, unless it was before.
    pub(crate) fn handle_rebuild_failed(&mut self, call: CallId, worker: &WorkerId, now: Instant) {
        let place = Place::from(worker);
        let Some((sid, at)) = self.leased(call).filter(|(_, at)| *at == place) else {
            return self.on_request_back(call, place);
        };
        let was_rebuilding = self.end_rebuild(call);
        if was_rebuilding {
            self.forget_home(sid, at);
        }
        let session = self.sessions[&sid].key.clone();
        self.act(Action::Refuse { call, session, refusal: Refusal::RebuildFailed });
        let tree = self.tree_of(call);
        let lease = self.end_lease(call, false, now);
        if let TakeBack::Asked(_) = lease.take_back {
            let worker = self.worker_id(at);
            self.act(Action::DropTakeBack { call, worker });
        }
        self.forget_call(call);
        // What waited for that home finds another, when those have had their turn that waited before.
        let displaced = if was_rebuilding { self.leave_lines(sid, Target::Worker(at)) } else { Vec::new() };
        self.after_lease(sid, at, now);
        for id in displaced {
            self.route(id, now);
        }
        self.after_lease_in(tree, &lease, now);
    }

    fn forget_home(&mut self, sid: Sid, place: Place) {
        let session = self.session_mut(sid);
        if session.home != Some(place) {
            return;
        }
        session.home = None;
        if let Some(worker) = self.workers.get_mut(&place) {
            worker.homes.remove(&sid);
        }
        self.tell_home_forgotten(sid, place);
    }

    /// Whether the call's home was being made ready, which is over now.
    pub(super) fn end_rebuild(&mut self, call: CallId) -> bool {
        let Some(sid) = self.calls.get(&call).map(|call| call.sid) else { return false };
        let Some(session) = self.sessions.get_mut(&sid) else { return false };
        session.rebuilding.take_if(|rebuilding| rebuilding.call == call).is_some()
    }

    /// Whether the call has set a home that is being made ready, and is not sent before.
    pub(super) fn is_rebuilding(&self, call: CallId) -> bool {
        let session = self.calls.get(&call).and_then(|call| self.sessions.get(&call.sid));
        session.and_then(|session| session.rebuilding).is_some_and(|rebuilding| rebuilding.call == call)
    }

    /// The calls that a worker's new homes are made ready for.
    pub(super) fn rebuilding_at(&self, place: Place) -> Vec<CallId> {
        let Some(worker) = self.workers.get(&place) else { return Vec::new() };
        worker.leases.iter().copied().filter(|id| self.is_rebuilding(*id)).collect()
    }

    pub(super) fn died_in_rebuild(&self, worker: &WorkerId, cause: &str) -> Refusal {
        let why = format!("gone ({cause}) while the session's on_home ran there: the next call tries again");
        Refusal::SessionWorkerUnavailable { worker: worker.clone(), why: why.into() }
    }

    /// Where a call goes that the `on_home` under that call makes, bound as it may be.
    pub(super) fn choose_to_rebuild(&self, session: &Session, under: CallId, bound: Option<Place>) -> Choice {
        let Some(rebuilding) = session.rebuilding.filter(|rebuilding| rebuilding.call == under) else {
            return Choice::Refuse(Refusal::Cancelled);
        };
        let place = bound.unwrap_or(rebuilding.place);
        match self.workers.get(&place) {
            Some(worker) if worker.keeps_state() => {
                if place == rebuilding.place || worker.has_room(self.rules.concurrency) {
                    Choice::Grant(place)
                } else {
                    // It would wait for a turn that comes after the end of what makes it.
                    Choice::Refuse(Refusal::WorkerBusy)
                }
            }
            Some(_) | None => {
                Choice::Refuse(Refusal::RefLost { worker: self.worker_id(place), cause: self.cause_of(place) })
            }
        }
    }

    /// How any other call of the session waits for that; none if what it is bound to is gone, or if a reset has
    /// taken the home away.
    pub(super) fn choose_behind_rebuild(
        &self,
        call: &Call,
        session: &Session,
        rebuilding: Rebuilding,
        bound: Option<Place>,
    ) -> Option<Choice> {
        let place = bound.or(session.home.filter(|home| *home == rebuilding.place))?;
        let worker = self.workers.get(&place).filter(|worker| worker.keeps_state())?;
        if worker.taint.is_some() && !call.is_continuing() {
            return None;
        }
        Some(match call.affinity {
            Affinity::StrictFailFast if !call.is_continuing() => Choice::Refuse(Refusal::WorkerBusy),
            Affinity::Hint | Affinity::StrictQueue | Affinity::StrictFailFast => Choice::Wait(Target::Worker(place)),
        })
    }
}

impl Call {
    /// The call whose new home it makes ready.
    pub(super) fn rebuilds_under(&self) -> Option<CallId> {
        match self.purpose {
            Purpose::Rebuilding { under } => Some(under),
            Purpose::Call | Purpose::Opening | Purpose::Continuing => None,
        }
    }
}
