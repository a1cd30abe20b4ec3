//! The end of a session here, and its reset.

use super::Pool;
use super::call::{Call, Stage, Then};
use super::session::{self, LostHome, Sid};
use super::ticket::Refusal;
use super::worker::Place;
use crate::event::Fact;
use crate::id::{CallId, SessionKey};
use std::time::Instant;

impl Pool {
    /// Forgets a home that is missing or tainted, never a healthy one, and a namespace that is lost.
    pub(crate) fn reset(&mut self, session: &SessionKey, now: Instant) {
        let sid = Sid::from(session);
        let Some(session) = self.sessions.get_mut(&sid) else { return };
        session.forget_lost_namespace();
        self.forget_lost_home(sid);
        if let Some(home) = self.session_mut(sid).home
            && self.workers.get(&home).is_none_or(|worker| worker.taint.is_some())
        {
            self.session_mut(sid).home = None;
            self.tell_home_forgotten(sid, home);
            if let Some(worker) = self.workers.get_mut(&home) {
                worker.homes.remove(&sid);
            }
            // One whose request is still on its way there must not begin after the next one does
            // elsewhere; one that has begun finishes.
            let there = |id: &CallId| self.calls[id].lease().is_some_and(|lease| lease.place == home);
            let strict = self.calls_of(sid, |call| call.is_in_line() && !call.is_continuing());
            for id in strict.into_iter().filter(there).collect::<Vec<_>>() {
                self.take_back(id, Then::RouteAgain);
            }
            self.stop_if_drained(home, now);
            self.serve_trees_of(sid, now);
        }
        self.settle_session(sid);
    }

    pub(super) fn forget_lost_home(&mut self, sid: Sid) {
        if let Some(LostHome { place, .. }) = self.session_mut(sid).lost.take() {
            self.tell_home_forgotten(sid, place);
        }
    }

    /// Its next call finds another.
    pub(super) fn tell_home_forgotten(&mut self, sid: Sid, place: Place) {
        if !self.is_shutting_down() {
            let session = self.sessions[&sid].key.id().clone();
            let worker = self.worker_id(place);
            self.emit(Fact::SessionHomeForgotten { session, worker });
        }
    }

    /// Ends the session here: `Forgotten` comes when no lease of it is open.
    pub(crate) fn forget(&mut self, session: &SessionKey, now: Instant) {
        let sid = Sid::from(session);
        self.sessions.entry(sid).or_insert_with(|| session::Session::new(session.clone())).stage =
            session::Stage::Ending;
        let session = self.session_mut(sid);
        session.lost = None;
        let home = session.home.take();
        let pins = std::mem::take(&mut session.pins);
        let waiting = self.calls_of(sid, |call| matches!(call.stage, Stage::Waiting(_)));
        let ahead = self.calls_of(sid, |call| matches!(call.stage, Stage::Ahead(_)));
        for id in ahead {
            self.take_back(id, Then::Refuse(Refusal::Cancelled));
        }
        for id in waiting.into_iter().filter(|id| !self.is_expected(id)).collect::<Vec<_>>() {
            self.leave_line(id);
            self.refuse(id, Refusal::Cancelled);
        }
        for place in home.into_iter().chain(pins.into_iter().map(|(place, _)| place)) {
            if let Some(worker) = self.workers.get_mut(&place) {
                worker.homes.remove(&sid);
                worker.pinned.remove(&sid);
            }
            self.stop_if_drained(place, now);
        }
        self.serve_trees_of(sid, now);
        self.settle_session(sid);
    }

    /// The calls of a session that pass, in the order of tickets.
    fn calls_of(&self, sid: Sid, passes: impl Fn(&Call) -> bool) -> Vec<CallId> {
        let session = &self.sessions[&sid];
        let waiting = session.lines.iter().flat_map(|line| line.calls.iter());
        let leased = self.workers.values().flat_map(|worker| worker.leases.iter());
        let mut ids: Vec<CallId> = waiting.chain(leased).copied().collect();
        ids.retain(|id| self.calls.get(id).is_some_and(|call| call.sid == sid && passes(call)));
        ids.sort_unstable();
        ids
    }
}
