//! The routing table: where a call goes, waits, or why it is refused.

use super::call::{Call, Stage, Target};
use super::session::{self, Namespace, Session, Sid};
use super::ticket::{Purpose, Refusal};
use super::worker::{Place, Worker};
use super::{Phase, Pool};
use crate::config::Affinity;
use crate::id::CallId;
use std::sync::Arc;
use std::time::Instant;

pub(super) enum Choice {
    Grant(Place),
    /// Granted, on top of a call of its tree and what is on that already.
    Nest(Place, CallId),
    Wait(Target),
    Refuse(Refusal),
}

impl Pool {
    /// Grants, queues or refuses a call that holds neither a place nor a lease.
    pub(super) fn route(&mut self, id: CallId, now: Instant) {
        let call = &self.calls[&id];
        debug_assert!(matches!(call.stage, Stage::Routing));
        let sid = call.sid;
        let (rehomes, uses_namespace, has_refs) = (call.rehomes, call.uses_namespace, call.pinned_to.is_some());
        if rehomes && uses_namespace {
            self.session_mut(sid).forget_lost_namespace();
        }
        let is_bound = has_refs || uses_namespace && matches!(self.sessions[&sid].namespace, Namespace::At { .. });
        if rehomes && !is_bound {
            self.forget_lost_home(sid);
        }
        match self.choose(&self.calls[&id], &self.sessions[&sid]) {
            Choice::Grant(place) => {
                self.grant(id, place, now);
                self.serve(place, now);
            }
            Choice::Nest(place, on) => {
                self.nest(id, place, on, now);
                self.serve(place, now);
            }
            Choice::Wait(_) if self.calls[&id].purpose == Purpose::Opening => {
                let refusal = self.none_will_come(id).unwrap_or(Refusal::WorkerBusy);
                self.refuse(id, refusal);
            }
            Choice::Wait(target) => self.enqueue(id, target, now),
            Choice::Refuse(refusal) => self.refuse(id, refusal),
        }
    }

    pub(super) fn choose(&self, call: &Call, session: &Session) -> Choice {
        let by_table = self.choose_by_table(call, session);
        match call.tree {
            None => by_table,
            Some(tree) => self.choose_in_tree(tree, call, session, by_table),
        }
    }

    fn choose_by_table(&self, call: &Call, session: &Session) -> Choice {
        match self.phase {
            Phase::ShuttingDown | Phase::Stopped => return Choice::Refuse(Refusal::ShuttingDown),
            Phase::Starting | Phase::Open => {}
        }
        match session.stage {
            session::Stage::Ended | session::Stage::Ending => return Choice::Refuse(Refusal::Cancelled),
            session::Stage::Live => {}
        }
        let bound = match self.bound_to(call, session) {
            Ok(bound) => bound,
            Err(refusal) => return Choice::Refuse(refusal),
        };
        if let Some(under) = call.rebuilds_under() {
            return self.choose_to_rebuild(session, under, bound);
        }
        if let Some(rebuilding) = session.rebuilding
            && let Some(choice) = self.choose_behind_rebuild(call, session, rebuilding, bound)
        {
            return choice;
        }
        if let Some(place) = bound.filter(|_| !mutant!("ref.goes_anywhere")) {
            return self.choose_for_refs(call, session, place);
        }
        if let Some(lost) = session.lost.as_ref().filter(|_| call.is_strict()) {
            reach!("home lost", call.affinity);
            return Choice::Refuse(self.lost_home(lost));
        }
        match session.home.and_then(|home| self.workers.get(&home).map(|worker| (home, worker))) {
            None => {
                reach!(if session.lost.is_some() { "home lost" } else { "no home" }, call.affinity);
                self.choose_any(call, session)
            }
            Some((home, worker)) if worker.taint.is_some() => {
                reach!("home tainted", call.affinity);
                match call.affinity {
                    Affinity::Hint => self.choose_any(call, session),
                    Affinity::StrictQueue | Affinity::StrictFailFast => Choice::Refuse(self.unavailable(home, worker)),
                }
            }
            Some((home, worker)) if worker.has_room(self.rules.concurrency) => {
                reach!("home free", call.affinity);
                if call.is_in_line() && self.must_wait_its_turn(session, home) {
                    Choice::Wait(Target::Worker(home))
                } else {
                    Choice::Grant(home)
                }
            }
            Some((home, _)) => {
                reach!("home busy", call.affinity);
                match call.affinity {
                    Affinity::Hint => self.choose_any(call, session),
                    Affinity::StrictQueue => Choice::Wait(Target::Worker(home)),
                    Affinity::StrictFailFast => Choice::Refuse(Refusal::WorkerBusy),
                }
            }
        }
    }

    fn choose_for_refs(&self, call: &Call, session: &Session, place: Place) -> Choice {
        let Some(worker) = self.workers.get(&place).filter(|worker| worker.keeps_state()) else {
            reach!("refs, worker gone", call.affinity);
            return Choice::Refuse(Refusal::RefLost { worker: self.worker_id(place), cause: self.cause_of(place) });
        };
        if worker.taint.is_some() && !call.is_continuing() {
            reach!(
                if call.uses_namespace { "namespace, worker tainted" } else { "refs, worker tainted" },
                call.affinity
            );
            return Choice::Refuse(self.unavailable_to(call, place, worker));
        }
        if worker.has_room(self.rules.concurrency) {
            reach!(if call.uses_namespace { "namespace, worker free" } else { "refs, worker free" }, call.affinity);
            return if call.is_in_line() && self.must_wait_its_turn(session, place) {
                Choice::Wait(Target::Worker(place))
            } else {
                Choice::Grant(place)
            };
        }
        reach!(if call.uses_namespace { "namespace, worker busy" } else { "refs, worker busy" }, call.affinity);
        match call.affinity {
            Affinity::StrictFailFast if !call.is_continuing() => Choice::Refuse(Refusal::WorkerBusy),
            Affinity::Hint | Affinity::StrictQueue | Affinity::StrictFailFast => Choice::Wait(Target::Worker(place)),
        }
    }

    fn choose_any(&self, call: &Call, session: &Session) -> Choice {
        let must_wait =
            session.settling.is_some() || session.line(Target::Any).is_some() || self.overlaps_anywhere(call.sid);
        if call.is_in_line() && must_wait {
            return Choice::Wait(Target::Any);
        }
        match (self.freest(), call.affinity) {
            (Some(place), _) => Choice::Grant(place),
            (None, Affinity::Hint | Affinity::StrictQueue) => Choice::Wait(Target::Any),
            (None, Affinity::StrictFailFast) => Choice::Refuse(self.degraded_for_all().unwrap_or(Refusal::WorkerBusy)),
        }
    }

    /// The worker with room that is the home of the fewest, then runs the fewest calls; rather not one that goes
    /// as soon as its replacement is ready.
    fn freest(&self) -> Option<Place> {
        let free = |worker: &&Worker| worker.is_open_to_all() && worker.has_room(self.rules.concurrency);
        self.workers
            .iter()
            .filter(|(_, worker)| free(worker))
            .min_by_key(|(place, worker)| {
                (!self.holds_its_slot(**place), worker.homes.len(), worker.leases.len(), **place)
            })
            .map(|(place, _)| *place)
    }

    /// A strict call does not overlap another of its session, nor overtake one.
    pub(super) fn must_wait_its_turn(&self, session: &Session, place: Place) -> bool {
        session.is_settling_elsewhere(Some(place))
            || session.line(Target::Worker(place)).is_some()
            || self.runs_in_line(Sid::from(&session.key), place)
    }

    /// Whether a strict call of the session has a lease there.
    pub(super) fn runs_in_line(&self, sid: Sid, place: Place) -> bool {
        self.leases_of(sid, place).any(Call::is_in_line) && !mutant!("strict.overlaps")
    }

    /// A strict call without a home waits for one of its session that runs where their refs are:
    /// that worker may become its home.
    pub(super) fn overlaps_anywhere(&self, sid: Sid) -> bool {
        self.rules.concurrency > 1 && self.workers.keys().any(|place| self.runs_in_line(sid, *place))
    }

    pub(super) fn leases_of(&self, sid: Sid, place: Place) -> impl Iterator<Item = &Call> {
        let leases = self.workers.get(&place).into_iter().flat_map(|worker| worker.leases.iter());
        leases.filter_map(|id| self.calls.get(id)).filter(move |call| call.sid == sid)
    }

    pub(super) fn lost_home(&self, lost: &session::LostHome) -> Refusal {
        let why = format!("gone ({}): reset the session to let it find a new, empty one", lost.cause);
        Refusal::SessionWorkerUnavailable { worker: self.worker_id(lost.place), why: why.into() }
    }

    /// A call that carries what is there has no use for another home.
    pub(super) fn unavailable_to(&self, call: &Call, place: Place, worker: &Worker) -> Refusal {
        match &worker.taint {
            Some(taint) if call.pinned_to.is_some() || call.uses_namespace => {
                let reason = &taint.reason;
                let why = format!("tainted ({reason}), and holds what the call carries: wait for the end of the taint");
                Refusal::SessionWorkerUnavailable { worker: self.worker_id(place), why: why.into() }
            }
            Some(_) | None => self.unavailable(place, worker),
        }
    }

    pub(super) fn unavailable(&self, place: Place, worker: &Worker) -> Refusal {
        let why: Arc<str> = match &worker.taint {
            Some(taint) => {
                format!("tainted ({}): wait for the end of the taint, or reset the session", taint.reason).into()
            }
            None => "leaving: reset the session to let it find a new, empty one".into(),
        };
        Refusal::SessionWorkerUnavailable { worker: self.worker_id(place), why }
    }
}
