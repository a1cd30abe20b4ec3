//! The exit of a worker: what it means for all that was bound to it, in one step.

use super::Pool;
use super::action::Action;
use super::call::{Stage, TakeBack, Target, Then};
use super::session::{LostHome, Sid};
use super::worker::{Place, State};
use crate::event::Fact;
use crate::id::{CallId, WorkerId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

/// Enough to say how a worker ended while anybody still asks.
const EXITS_KEPT: usize = 256;

impl Pool {
    /// The worker's exit was seen. `begun` names the calls that end with it: those that had begun, and
    /// those that were answered already. Every other open lease had not begun.
    pub(crate) fn handle_exit(&mut self, worker: &WorkerId, cause: String, begun: Vec<CallId>, now: Instant) {
        let place = Place::from(worker);
        let Some(gone) = self.workers.get_mut(&place) else { return };
        let expected = gone.state == State::Stopping;
        let ready_at = gone.ready_at;
        gone.state = State::Stopping;
        self.emit(Fact::WorkerExited { worker: worker.clone(), cause: cause.clone(), expected });
        let cause: Arc<str> = cause.into();
        self.note_exit(place, cause.clone());
        for id in &begun {
            self.note_namespace_used(*id);
        }
        self.lose_state(place, &cause);

        let rebuilding = self.rebuilding_at(place);
        let trees = self.trees_that_wait_at(place);
        // What waits of their sessions in trees has waited for the end of that.
        let held_up = self.held_up_by(place, &rebuilding);
        let mut displaced = self.end_leases(place, &begun, now);
        displaced.extend(self.leave_lines_for(place).into_iter().map(|id| (id, TakeBack::No)));
        self.workers.remove(&place);
        self.timers.forget(place);
        self.on_slot_down(place, ready_at, cause, false, now);
        if self.returning.get(&place).is_none_or(Vec::is_empty) {
            self.returning.remove(&place);
            self.act(Action::LeasesClosed { worker: worker.clone() });
        }
        for (id, take_back) in displaced {
            match take_back {
                TakeBack::Asked(Then::Refuse(refusal)) | TakeBack::Kept(Then::Refuse(refusal)) => {
                    self.refuse(id, refusal);
                }
                TakeBack::No if rebuilding.contains(&id) => {
                    let refusal = self.died_in_rebuild(worker, &self.cause_of(place));
                    self.refuse(id, refusal);
                }
                TakeBack::Asked(Then::RouteAgain) | TakeBack::Kept(Then::RouteAgain) | TakeBack::No => {
                    self.route(id, now);
                }
            }
        }
        for tree in trees {
            self.serve_tree(tree, now);
        }
        for sid in held_up {
            self.serve_trees_of(sid, now);
        }
        self.serve_all(now);
        self.finish_shutdown();
        self.renew_next(now);
    }

    /// What sessions held there is lost, their homes with a mark.
    pub(super) fn lose_state(&mut self, place: Place, cause: &Arc<str>) {
        let worker = self.worker_mut(place);
        let homes = std::mem::take(&mut worker.homes);
        let pinned = std::mem::take(&mut worker.pinned);
        let id = worker.id.clone();
        for sid in homes {
            let session = self.session_mut(sid);
            session.home = None;
            // One that was not ready yet held nothing.
            if session.rebuilding.is_some() {
                self.tell_home_forgotten(sid, place);
                continue;
            }
            if !mutant!("home.lost_without_mark") {
                session.lost = Some(LostHome { place, cause: cause.clone() });
            }
            let session = session.key.id().clone();
            if !self.is_shutting_down() {
                self.emit(Fact::SessionHomeLost { session, worker: id.clone() });
            }
        }
        for sid in pinned {
            let session = self.session_mut(sid);
            session.unpin(place, usize::MAX);
            session.lose_namespace(place, cause);
        }
    }

    /// Takes all that wait for the worker out of their lines, in the order of tickets.
    pub(super) fn leave_lines_for(&mut self, place: Place) -> Vec<CallId> {
        let waiting = self.waiting_for(place);
        for id in &waiting {
            self.leave_line(*id);
        }
        waiting
    }

    /// All that wait for the worker, in the order of tickets.
    pub(super) fn waiting_for(&self, place: Place) -> Vec<CallId> {
        if self.workers.get(&place).is_none_or(|worker| worker.waiting == 0) {
            return Vec::new();
        }
        let waits = |stage: &Stage| matches!(stage, Stage::Waiting(Target::Worker(at)) if *at == place);
        self.calls.iter().filter(|(_, call)| waits(&call.stage)).map(|(id, _)| *id).collect()
    }

    pub(super) fn note_exit(&mut self, place: Place, cause: Arc<str>) {
        if self.exits.len() == EXITS_KEPT {
            self.exits.pop_front();
        }
        self.exits.push_back((place, cause));
    }

    pub(super) fn cause_of(&self, place: Place) -> Arc<str> {
        match self.exits.iter().rev().find(|(exited, _)| *exited == place) {
            Some((_, cause)) => cause.clone(),
            None => "it has left its pool".into(),
        }
    }

    /// A request for a worker that is gone has come back, or was never sent.
    pub(super) fn on_request_back(&mut self, call: CallId, place: Place) {
        let Some(returning) = self.returning.get_mut(&place) else { return };
        let Some(at) = returning.iter().position(|(id, _)| *id == call) else { return };
        let (_, sid) = returning.swap_remove(at);
        if returning.is_empty() {
            self.returning.remove(&place);
            let worker = self.worker_id(place);
            self.act(Action::LeasesClosed { worker });
        }
        self.session_mut(sid).returning -= 1;
        self.settle_session(sid);
    }

    /// Ends every lease of a worker that is gone; returns the calls that had not begun.
    fn end_leases(&mut self, place: Place, begun: &[CallId], now: Instant) -> BTreeMap<CallId, TakeBack> {
        let leases: Vec<CallId> = self.workers[&place].leases.iter().copied().collect();
        let mut not_begun = BTreeMap::new();
        for id in leases {
            let sid = self.calls[&id].sid;
            let take_back = self.end_lease(id, false, now).take_back;
            if begun.contains(&id) {
                self.forget_call(id);
            } else {
                self.session_mut(sid).returning += 1;
                self.returning.entry(place).or_default().push((id, sid));
                not_begun.insert(id, take_back);
            }
            self.relist_if_known(sid);
        }
        not_begun
    }

    /// The sessions with calls there whose homes are made ready, or that were asked back.
    fn held_up_by(&self, place: Place, rebuilding: &[CallId]) -> BTreeSet<Sid> {
        let is_asked =
            |id: &CallId| self.calls[id].lease().is_some_and(|lease| matches!(lease.take_back, TakeBack::Asked(_)));
        let leases = self.workers.get(&place).into_iter().flat_map(|worker| worker.leases.iter());
        leases.filter(|id| rebuilding.contains(id) || is_asked(id)).map(|id| self.calls[id].sid).collect()
    }

    fn relist_if_known(&mut self, sid: Sid) {
        if self.sessions.contains_key(&sid) {
            self.relist_all(sid);
        }
    }
}
