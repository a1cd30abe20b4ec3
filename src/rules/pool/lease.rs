//! Leases: granted, sent ahead, taken back, over.

use super::Pool;
use super::action::Action;
use super::call::{Lease, Stage, TakeBack, Target, Then};
use super::rebuild::Rebuilding;
use super::session::{self, Namespace, Settling, Sid};
use super::worker::Place;
use crate::event::Fact;
use crate::id::{CallId, SessionKey, WorkerId};
use std::time::Instant;

impl Pool {
    /// The worker has answered the call, which made that many refs.
    pub(crate) fn handle_lease_over(&mut self, call: CallId, pins_made: usize, now: Instant) {
        // Most calls leave nothing behind.
        if pins_made > 0 || self.calls.get(&call).is_some_and(|call| call.uses_namespace) {
            self.handle_pins_made(call, pins_made);
        }
        self.close(call, true, now);
    }

    /// The call, which goes on, has made that many refs.
    pub(crate) fn handle_pins_made(&mut self, call: CallId, pins_made: usize) {
        let Some((sid, place)) = self.leased(call) else { return };
        self.note_namespace_used(call);
        let keeps_state = self.workers[&place].keeps_state();
        let session = self.session_mut(sid);
        if pins_made > 0 && keeps_state && session.stage == session::Stage::Live {
            session.pin(place, pins_made);
            self.worker_mut(place).pinned.insert(sid);
        }
    }

    /// The grant met a call that its caller had given up: its request was never sent.
    pub(crate) fn handle_lease_returned(&mut self, call: CallId, worker: &WorkerId, now: Instant) {
        let place = Place::from(worker);
        match self.leased(call) {
            Some((_, at)) if at == place && !mutant!("lease.returned_is_kept") => self.close(call, false, now),
            Some(_) | None => self.on_request_back(call, place),
        }
    }

    /// It is certain that the call never begins, and its body is with its session again.
    pub(crate) fn handle_taken_back(&mut self, call: CallId, now: Instant) {
        let Some((sid, place)) = self.leased(call) else { return };
        self.worker_mut(place).passing.push(call);
        let tree = self.tree_of(call);
        let lease = self.end_lease(call, false, now);
        let in_line = self.calls[&call].is_in_line();
        match lease.take_back.clone() {
            TakeBack::Asked(Then::RouteAgain) => self.route(call, now),
            TakeBack::Asked(Then::Refuse(refusal)) | TakeBack::Kept(Then::Refuse(refusal)) => {
                self.refuse(call, refusal);
            }
            // While it seemed to run, a later call of its session may have begun elsewhere.
            TakeBack::Kept(Then::RouteAgain) if in_line => {
                let refusal = self.unavailable(place, &self.workers[&place]);
                self.refuse(call, refusal);
            }
            TakeBack::Kept(Then::RouteAgain) | TakeBack::No => self.route(call, now),
        }
        self.after_lease(sid, place, now);
        self.after_lease_in(tree, &lease, now);
    }

    /// The call could not be taken back: it had begun.
    pub(crate) fn handle_kept(&mut self, call: CallId, now: Instant) {
        let Some((sid, place)) = self.leased(call) else { return };
        let in_line = self.calls[&call].is_in_line();
        let Some(lease) = self.calls.get_mut(&call).and_then(|call| call.lease_mut()) else { return };
        match std::mem::replace(&mut lease.take_back, TakeBack::No) {
            TakeBack::Asked(then) => lease.take_back = TakeBack::Kept(then),
            other @ (TakeBack::Kept(_) | TakeBack::No) => {
                lease.take_back = other;
                return;
            }
        }
        self.note_namespace_used(call);
        self.take_to_run(call);
        if in_line {
            self.unsettle(sid, now);
        }
        self.serve(place, now);
    }

    /// The worker has passed a call that was taken back, or a request for a worker that is gone has
    /// come back.
    pub(crate) fn handle_passed(&mut self, call: CallId, worker: &WorkerId, now: Instant) {
        let place = Place::from(worker);
        let Some(worker) = self.workers.get_mut(&place) else { return self.on_request_back(call, place) };
        if let Some(at) = worker.passing.iter().position(|passing| *passing == call) {
            worker.passing.swap_remove(at);
        }
        self.stop_if_drained(place, now);
        self.serve(place, now);
    }

    /// Refs of the session were freed there.
    pub(crate) fn handle_unpinned(&mut self, session: &SessionKey, worker: &WorkerId, count: usize, now: Instant) {
        let (sid, place) = (Sid::from(session), Place::from(worker));
        // What is made in a worker on its way out is not counted, and so not counted down.
        if self.workers.get(&place).is_some_and(|worker| !worker.keeps_state()) {
            return;
        }
        let Some(session) = self.sessions.get_mut(&sid) else { return };
        if !session.unpin(place, count) {
            return;
        }
        if let Some(worker) = self.workers.get_mut(&place) {
            worker.pinned.remove(&sid);
        }
        self.leave_retiring(sid, place, now);
        self.settle_session(sid);
    }

    pub(super) fn grant(&mut self, id: CallId, place: Place, now: Instant) {
        self.lend(id, place, Stage::Running(Lease::new(place)), now);
    }

    /// On top of a call of its tree.
    pub(super) fn nest(&mut self, id: CallId, place: Place, on: CallId, now: Instant) {
        self.worker_mut(place).nested += 1;
        self.lend(id, place, Stage::Running(Lease::nested(place, on)), now);
    }

    pub(super) fn grant_ahead(&mut self, id: CallId, place: Place, now: Instant) {
        self.lend(id, place, Stage::Ahead(Lease::new(place)), now);
        match self.calls[&id].wait_ends {
            Some(ends) => self.set_wait_timer(id, ends),
            // What goes on has no `queue_timeout`, and its deadline is looked at in the worker.
            None => self.unset_wait_timer(id),
        }
    }

    fn lend(&mut self, id: CallId, place: Place, stage: Stage, now: Instant) {
        let call = self.calls.get_mut(&id).expect("only a known call is granted");
        let (sid, has_refs, uses_namespace) = (call.sid, call.pinned_to.is_some(), call.uses_namespace);
        let is_rebuilding = call.rebuilds_under().is_some();
        let rebuilds = call.rebuilds;
        if let Stage::Running(_) = stage {
            call.wait_ends = None;
        }
        call.stage = stage;
        let on = call.lease().and_then(|lease| lease.on);
        let worker = self.worker_mut(place);
        let may_be_home = worker.is_open_to_all();
        worker.handle_granted(id, now);
        let granted_to = worker.id.clone();
        let session = &self.sessions[&sid];
        let makes_namespace = uses_namespace && matches!(session.namespace, Namespace::None);
        let is_bound = has_refs || uses_namespace && !makes_namespace;
        let wants_home = session.home.is_none() && !is_rebuilding && !(is_bound && session.lost.is_some());
        let sets_home = wants_home && may_be_home && session.stage == session::Stage::Live;
        let session = session.key.clone();
        self.act(Action::Grant { call: id, session, worker: granted_to, on, rebuild: sets_home && rebuilds });
        if sets_home {
            self.set_home(sid, place);
        }
        if sets_home && rebuilds {
            self.session_mut(sid).rebuilding = Some(Rebuilding { call: id, place });
            self.relist_all(sid);
        }
        if makes_namespace {
            self.make_namespace(sid, place);
        }
        if self.rules.concurrency > 1 {
            self.relist_all(sid);
        }
    }

    /// Strict calls of the session that wait for any worker wait for its home from now on.
    fn set_home(&mut self, sid: Sid, place: Place) {
        self.session_mut(sid).home = Some(place);
        self.worker_mut(place).homes.insert(sid);
        let fact = Fact::SessionHomed { session: self.sessions[&sid].key.id().clone(), worker: self.worker_id(place) };
        self.emit(fact);
        let Some(line) = self.sessions[&sid].line(Target::Any) else { return };
        let strict: Vec<CallId> = line.calls.iter().copied().filter(|id| self.calls[id].is_strict()).collect();
        for id in strict {
            self.take_from_line(id);
            self.join_line(id, Target::Worker(place));
        }
    }

    /// Asks the worker to see that the call does not begin.
    pub(super) fn take_back(&mut self, id: CallId, then: Then) {
        let Some((sid, place)) = self.leased(id) else { return };
        let in_line = self.calls[&id].is_in_line();
        let Some(lease) = self.calls.get_mut(&id).and_then(|call| call.lease_mut()) else { return };
        match &mut lease.take_back {
            TakeBack::No => lease.take_back = TakeBack::Asked(then),
            TakeBack::Asked(earlier) => {
                if let (Then::RouteAgain, Then::Refuse(_)) = (&*earlier, &then) {
                    *earlier = then;
                }
                return;
            }
            TakeBack::Kept(_) => return,
        }
        let worker = self.worker_id(place);
        self.act(Action::TakeBack { call: id, worker });
        if in_line {
            let session = self.session_mut(sid);
            let calls = session.settling.map_or(0, |settling| settling.calls) + 1;
            session.settling = Some(Settling { place, calls });
            self.relist_all(sid);
        }
    }

    /// The lease is over and so is the call.
    fn close(&mut self, id: CallId, ran: bool, now: Instant) {
        let Some((sid, place)) = self.leased(id) else { return };
        let tree = self.tree_of(id);
        let lease = self.end_lease(id, ran, now);
        if let TakeBack::Asked(_) = lease.take_back {
            let worker = self.worker_id(place);
            self.act(Action::DropTakeBack { call: id, worker });
        }
        self.forget_call(id);
        self.after_lease(sid, place, now);
        self.after_lease_in(tree, &lease, now);
        if ran {
            self.count_request(place, now);
        }
    }

    /// Ends a lease; the call is on its way within this step.
    pub(super) fn end_lease(&mut self, id: CallId, ran: bool, now: Instant) -> Lease {
        let call = self.calls.get_mut(&id).expect("only a known call holds a lease");
        let (sid, rebuilds) = (call.sid, call.rebuilds);
        let (lease, was_ahead) = match std::mem::replace(&mut call.stage, Stage::Routing) {
            Stage::Running(lease) => (lease, false),
            Stage::Ahead(lease) => (lease, true),
            Stage::Routing | Stage::Waiting(_) => panic!("{id} holds no lease"),
        };
        if was_ahead {
            self.give_place_back(id);
        }
        if rebuilds {
            self.end_rebuild(id);
        }
        if lease.on.is_some() {
            self.worker_mut(lease.place).nested -= 1;
        } else if self.workers[&lease.place].nested > 0 {
            self.pass_room_on(id, lease.place);
        }
        self.worker_mut(lease.place).handle_left(id, ran, now);
        self.take_next_to_run(lease.place);
        if matches!(lease.take_back, TakeBack::Asked(_)) && self.calls[&id].is_in_line() {
            self.note_settled(sid);
        }
        lease
    }

    /// What waits for the end of a lease: calls of its session, those of others, its home, its end.
    pub(super) fn after_lease(&mut self, sid: Sid, place: Place, now: Instant) {
        self.relist_all(sid);
        self.leave_retiring(sid, place, now);
        self.stop_if_drained(place, now);
        self.settle_session(sid);
        self.serve(place, now);
        self.serve_trees_of(sid, now);
        // What was taken back there may have kept its other calls from beginning elsewhere.
        if self.sessions.get(&sid).is_some_and(|session| session.lines.iter().any(|line| line.is_listed)) {
            self.serve_all(now);
        }
    }

    fn take_next_to_run(&mut self, place: Place) {
        let concurrency = self.rules.concurrency;
        let running: Vec<CallId> = match self.workers.get(&place) {
            Some(worker) => {
                let nests = |id: &&CallId| self.calls[*id].lease().is_some_and(|lease| lease.on.is_some());
                worker.leases.iter().filter(|id| !nests(id)).take(concurrency).copied().collect()
            }
            None => return,
        };
        for id in running {
            self.take_to_run(id);
        }
    }

    pub(super) fn take_to_run(&mut self, id: CallId) {
        let call = self.calls.get_mut(&id).expect("a lease is of a known call");
        if let Stage::Ahead(_) = call.stage {
            if let Stage::Ahead(lease) = std::mem::replace(&mut call.stage, Stage::Routing) {
                call.stage = Stage::Running(lease);
                call.wait_ends = None;
            }
            self.give_place_back(id);
        }
    }

    fn note_settled(&mut self, sid: Sid) {
        let session = self.session_mut(sid);
        session.settling = session
            .settling
            .and_then(|settling| (settling.calls > 1).then_some(Settling { calls: settling.calls - 1, ..settling }));
    }

    fn unsettle(&mut self, sid: Sid, now: Instant) {
        self.note_settled(sid);
        self.relist_all(sid);
        self.serve_all(now);
        self.serve_trees_of(sid, now);
    }

    /// The session and the worker of a call that holds a lease.
    pub(super) fn leased(&self, id: CallId) -> Option<(Sid, Place)> {
        let call = self.calls.get(&id)?;
        call.lease().map(|lease| (call.sid, lease.place))
    }
}
