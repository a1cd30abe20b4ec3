//! Who waits, for what, and whose turn is next.
//!
//! The waiting calls of one session for one target are a *line*. Lines that wait for the same worker
//! take turns by a stamp that each gets when it comes and again when it was served; a line that waits
//! for any worker takes part at each. A line is *listed* while a call of it could begin: its first, or, where
//! that has to wait for another of its session, the first that keeps no order, as one under `hint`.

use super::Pool;
use super::call::{Call, Stage, TakeBack, Target, Then};
use super::session::{Line, Session, Sid};
use super::ticket::Refusal;
use super::timer::Timer;
use super::tree::Tree;
use super::worker::{Place, State};
use crate::id::CallId;
use std::collections::{BTreeSet, VecDeque};
use std::time::Instant;

#[derive(Debug, Default)]
pub(super) struct Queue {
    /// Calls that hold a place: those that wait and those that were sent ahead.
    pub(super) calls: usize,
    pub(super) bytes: usize,
    last_turn: u64,
    pub(super) any_turns: BTreeSet<(u64, Sid)>,
    /// Sessions with waiting calls, by how many.
    pub(super) by_waiting: BTreeSet<(usize, Sid)>,
    /// Waiting calls that were made inside callbacks, by their trees.
    pub(super) in_trees: BTreeSet<(Tree, CallId)>,
    /// Calls have left their lines within this step, and what waited behind them is to be served.
    pub(super) has_moved: bool,
}

impl Queue {
    fn next_turn(&mut self) -> u64 {
        self.last_turn += 1;
        self.last_turn
    }
}

impl Pool {
    /// Puts a call into line, and serves the worker that it waits for, which may take it ahead.
    pub(super) fn enqueue(&mut self, id: CallId, target: Target, now: Instant) {
        let (sid, bytes) = (self.calls[&id].sid, self.calls[&id].bytes);
        if target == Target::Any
            && let Some(refusal) = self.none_will_come(id)
        {
            return self.refuse(id, refusal);
        }
        if self.calls[&id].is_continuing() {
            return self.enqueue_continuing(id, target, now);
        }
        if let Some(limit) = self.limit_reached(bytes) {
            match self.displaceable(sid, bytes) {
                Some(displaced) => {
                    self.leave_line(displaced);
                    self.refuse(displaced, Refusal::PoolSaturated { limit: limit.into() });
                }
                None => return self.refuse(id, Refusal::PoolSaturated { limit: limit.into() }),
            }
        }
        self.queue.calls += 1;
        self.queue.bytes += bytes;
        self.join_line(id, target);
        let call = self.calls.get_mut(&id).expect("it was just read");
        let queue_ends = *call.wait_ends.get_or_insert(now + call.queue_timeout);
        let ends = call.deadline.map_or(queue_ends, |deadline| deadline.min(queue_ends));
        self.set_wait_timer(id, ends);
        if let Target::Worker(place) = target {
            self.serve(place, now);
        }
    }

    /// Without it what is open could neither go on nor end, so no limit refuses it: there is at most one
    /// for each stream.
    fn enqueue_continuing(&mut self, id: CallId, target: Target, now: Instant) {
        self.join_line(id, target);
        if let Some(deadline) = self.calls[&id].deadline {
            self.set_wait_timer(id, deadline);
        }
        if let Target::Worker(place) = target {
            self.serve(place, now);
        }
    }

    fn limit_reached(&self, bytes: usize) -> Option<String> {
        if self.queue.calls >= self.rules.max_queue_size + usize::from(mutant!("queue.one_more")) {
            Some(format!("max_queue_size {}", self.rules.max_queue_size))
        } else if self.queue.bytes.saturating_add(bytes) > self.rules.max_queue_bytes {
            Some(format!("max_queue_bytes {}", self.rules.max_queue_bytes))
        } else {
            None
        }
    }

    /// The newest waiting call of the session with most, if the newcomer's has fewer with it counted
    /// in and its place is large enough.
    fn displaceable(&self, newcomer: Sid, bytes: usize) -> Option<CallId> {
        let (most, sid) = *self.queue.by_waiting.last()?;
        if self.sessions[&newcomer].waiting + 1 >= most {
            return None;
        }
        let newest_of = |line: &Line| line.calls.iter().rev().find(|id| !self.calls[id].is_continuing()).copied();
        let newest = &self.sessions[&sid].lines.iter().filter_map(newest_of).max()?;
        let freed = self.calls[newest].bytes;
        let fits = self.queue.calls <= self.rules.max_queue_size
            && (self.queue.bytes - freed).saturating_add(bytes) <= self.rules.max_queue_bytes;
        fits.then_some(*newest)
    }

    /// Takes a waiting call out of its line and gives its place back; false if it does not wait.
    pub(super) fn leave_line(&mut self, id: CallId) -> bool {
        if !self.calls.get(&id).is_some_and(|call| matches!(call.stage, Stage::Waiting(_))) {
            return false;
        }
        self.take_from_line(id);
        self.give_place_back(id);
        true
    }

    /// Takes every waiting call that passes out of its line, in the order of tickets.
    pub(super) fn leave_lines(&mut self, sid: Sid, target: Target) -> Vec<CallId> {
        let line = self.sessions.get(&sid).and_then(|session| session.line(target));
        let calls: Vec<CallId> = line.map(|line| line.calls.iter().copied().collect()).unwrap_or_default();
        for id in &calls {
            self.leave_line(*id);
        }
        calls
    }

    pub(super) fn give_place_back(&mut self, id: CallId) {
        let call = &self.calls[&id];
        if !call.is_continuing() {
            self.queue.calls -= 1;
            self.queue.bytes -= if mutant!("queue.bytes_are_kept") { 0 } else { call.bytes };
        }
        self.unset_wait_timer(id);
    }

    /// The turn goes round: the worker takes calls as long as it has room for one whose turn it is.
    pub(super) fn serve(&mut self, place: Place, now: Instant) {
        self.serve_turns(place, now);
        self.serve_moved(now);
    }

    /// What stood behind a call that has left its line may begin, in whichever worker.
    pub(super) fn serve_moved(&mut self, now: Instant) {
        while std::mem::take(&mut self.queue.has_moved) {
            for place in self.workers.keys().copied().collect::<Vec<_>>() {
                self.serve_turns(place, now);
            }
            self.serve_trees(now);
        }
    }

    fn serve_turns(&mut self, place: Place, now: Instant) {
        loop {
            // One that is tainted has turned away all but what goes on.
            let Some(worker) = self.workers.get(&place).filter(|worker| worker.keeps_state()) else { return };
            let concurrency = self.rules.concurrency;
            let has_room = worker.has_room(concurrency);
            // With threads beside each other one cannot know which of them falls free first.
            if !has_room && (concurrency > 1 || !worker.has_room_ahead(concurrency, self.rules.send_ahead)) {
                return;
            }
            let Some((sid, target, id)) = self.next_in_turn(place) else { return };
            match (has_room, target) {
                // Its turn comes first, and it may yet find another worker: nothing overtakes it here.
                (false, Target::Any) => return,
                // Behind the call that waits for it, it would never begin.
                (false, Target::Worker(_)) if self.calls[&id].tree.is_some() => return,
                (true, Target::Any | Target::Worker(_)) => {
                    self.take_turn(sid, place, id);
                    self.give_place_back(id);
                    self.grant(id, place, now);
                }
                (false, Target::Worker(_)) => {
                    self.take_turn(sid, place, id);
                    self.grant_ahead(id, place, now);
                }
            }
        }
    }

    /// Every worker that has room takes calls.
    pub(super) fn serve_all(&mut self, now: Instant) {
        let places: Vec<Place> = self.workers.keys().copied().collect();
        for place in places {
            self.serve(place, now);
        }
    }

    fn next_in_turn(&self, place: Place) -> Option<(Sid, Target, CallId)> {
        let worker = self.workers.get(&place)?;
        let any = if worker.is_open_to_all() { self.queue.any_turns.first() } else { None };
        let (_, sid) = worker.turns.first().into_iter().chain(any).min()?;
        let targets = [Target::Worker(place), Target::Any];
        let session = &self.sessions[sid];
        let heads = targets.into_iter().filter(|target| *target != Target::Any || worker.is_open_to_all()).filter_map(
            |target| {
                let line = session.line(target).filter(|line| line.is_listed)?;
                Some((self.next_in_line(session, line)?, target))
            },
        );
        heads.min().map(|(id, target)| (*sid, target, id))
    }

    /// The session had its turn at the worker: its lines there go behind all others.
    fn take_turn(&mut self, sid: Sid, place: Place, id: CallId) {
        self.take_from_line(id);
        for target in [Target::Worker(place), Target::Any] {
            let turn = self.queue.next_turn();
            self.unlist(sid, target);
            if let Some(line) = self.session_mut(sid).line_mut(target) {
                line.turn = if mutant!("turn.is_not_moved") { line.turn } else { turn };
                self.relist(sid, target);
            }
        }
    }

    /// Puts a call where its ticket says among those of its session that wait for the same.
    pub(super) fn join_line(&mut self, id: CallId, target: Target) {
        let call = &self.calls[&id];
        let (sid, is_loose) = (call.sid, usize::from(!call.is_in_line()));
        if let Target::Worker(place) = target {
            self.worker_mut(place).waiting += 1;
        }
        self.count_waiting(id, |waiting| waiting + 1);
        if self.sessions[&sid].line(target).is_none() {
            let turn = self.queue.next_turn();
            self.session_mut(sid).lines.push(Line { target, calls: VecDeque::new(), loose: 0, turn, is_listed: false });
        }
        let line = self.session_mut(sid).line_mut(target).expect("it was just made sure of");
        let at = line.calls.partition_point(|other| *other < id && !mutant!("line.newest_first"));
        line.calls.insert(at, id);
        line.loose += is_loose;
        let call = self.calls.get_mut(&id).expect("it was read above");
        call.stage = Stage::Waiting(target);
        if let Some(tree) = call.tree {
            self.queue.in_trees.insert((tree, id));
        }
        self.relist(sid, target);
    }

    /// Takes a call out of its line; it keeps its place in the queue.
    pub(super) fn take_from_line(&mut self, id: CallId) {
        let call = self.calls.get_mut(&id).expect("only a waiting call is taken from a line");
        let (sid, is_loose) = (call.sid, usize::from(!call.is_in_line()));
        let Stage::Waiting(target) = std::mem::replace(&mut call.stage, Stage::Routing) else { return };
        if let Some(tree) = call.tree {
            self.queue.in_trees.remove(&(tree, id));
        }
        if let Target::Worker(place) = target {
            self.worker_mut(place).waiting -= 1;
        }
        self.count_waiting(id, |waiting| waiting - 1);
        self.unlist(sid, target);
        let session = self.session_mut(sid);
        let line = session.line_mut(target).expect("a waiting call stands in its line");
        // Almost always the first.
        let at = if line.calls.front() == Some(&id) { Some(0) } else { line.calls.binary_search(&id).ok() };
        if let Some(at) = at {
            line.calls.remove(at);
            line.loose -= is_loose;
        }
        session.lines.retain(|line| !line.calls.is_empty());
        self.relist(sid, target);
    }

    fn count_waiting(&mut self, id: CallId, change: impl Fn(usize) -> usize) {
        let call = &self.calls[&id];
        if call.is_continuing() {
            return;
        }
        let sid = call.sid;
        let session = self.sessions.get_mut(&sid).expect("a call's session is known");
        let before = session.waiting;
        session.waiting = change(before);
        let after = session.waiting;
        self.queue.by_waiting.remove(&(before, sid));
        if after > 0 {
            self.queue.by_waiting.insert((after, sid));
        }
    }

    fn unlist(&mut self, sid: Sid, target: Target) {
        let Some(line) = self.sessions.get_mut(&sid).and_then(|session| session.line_mut(target)) else { return };
        if std::mem::replace(&mut line.is_listed, false) {
            let turn = line.turn;
            self.turns_mut(target).remove(&(turn, sid));
        }
    }

    /// Looks again whether the turn of a line may come.
    pub(super) fn relist(&mut self, sid: Sid, target: Target) {
        self.unlist(sid, target);
        let Some(session) = self.sessions.get(&sid) else { return };
        let Some(line) = session.line(target).filter(|line| self.next_in_line(session, line).is_some()) else { return };
        let turn = line.turn;
        self.turns_mut(target).insert((turn, sid));
        if let Some(line) = self.session_mut(sid).line_mut(target) {
            line.is_listed = true;
        }
    }

    pub(super) fn relist_all(&mut self, sid: Sid) {
        let Some(session) = self.sessions.get(&sid) else { return };
        let targets: Vec<Target> = session.lines.iter().map(|line| line.target).collect();
        for target in targets {
            self.relist(sid, target);
        }
    }

    /// The call of a line that could begin in a worker that has room.
    pub(super) fn next_in_line(&self, session: &Session, line: &Line) -> Option<CallId> {
        if session.rebuilding.is_some() {
            return None;
        }
        let first = *line.calls.front()?;
        if !self.calls[&first].is_in_line() || self.may_begin_in_line(session, line.target) {
            return Some(first);
        }
        // What waits for the end of that may be held up by a call that is made in it.
        if line.loose == 0 {
            return None;
        }
        line.calls.iter().find(|id| !self.calls[*id].is_in_line()).copied()
    }

    /// Whether nothing of the session has to end before the next of its strict calls begins.
    fn may_begin_in_line(&self, session: &Session, target: Target) -> bool {
        let sid = Sid::from(&session.key);
        match target {
            Target::Any => session.settling.is_none() && !self.overlaps_anywhere(sid),
            Target::Worker(place) => {
                let overlaps = self.rules.concurrency > 1 && self.runs_in_line(sid, place);
                !overlaps && !session.is_settling_elsewhere(Some(place)) && !self.may_come_back(session, place)
            }
        }
    }

    /// Whether a strict call is being taken back from there that may be granted there again: none is sent ahead of it.
    fn may_come_back(&self, session: &Session, place: Place) -> bool {
        let is_asked = |call: &Call| {
            call.is_in_line()
                && call.lease().is_some_and(|lease| matches!(lease.take_back, TakeBack::Asked(Then::RouteAgain)))
        };
        session.settling.is_some() && self.leases_of(Sid::from(&session.key), place).any(is_asked)
    }

    fn turns_mut(&mut self, target: Target) -> &mut BTreeSet<(u64, Sid)> {
        match target {
            Target::Any => &mut self.queue.any_turns,
            Target::Worker(place) => &mut self.worker_mut(place).turns,
        }
    }

    pub(super) fn set_wait_timer(&mut self, id: CallId, at: Instant) {
        self.unset_wait_timer(id);
        self.timers.set(at, Timer::Wait(id));
        self.calls.get_mut(&id).expect("only a known call waits").timer = Some(at);
    }

    pub(super) fn unset_wait_timer(&mut self, id: CallId) {
        if let Some(at) =
            self.calls.get_mut(&id).and_then(|call| call.timer.take()).filter(|_| !mutant!("wait.timer_is_left"))
        {
            self.timers.unset(at, Timer::Wait(id));
        }
    }

    pub(super) fn on_wait_over(&mut self, id: CallId) {
        let Some(call) = self.calls.get_mut(&id) else { return };
        call.timer = None;
        let waited_out = Refusal::QueueTimeout { waited: call.queue_timeout };
        match (&call.stage, call.deadline) {
            (Stage::Waiting(_), Some(deadline)) if call.wait_ends.is_none_or(|ends| deadline <= ends) => {
                let timeout = call.timeout.unwrap_or_default();
                self.leave_line(id);
                self.queue.has_moved = true;
                self.refuse(id, Refusal::Timeout { timeout });
            }
            (Stage::Waiting(_), _) => {
                self.leave_line(id);
                self.queue.has_moved = true;
                self.refuse(id, waited_out);
            }
            (Stage::Ahead(_), _) => self.take_back(id, Then::Refuse(waited_out)),
            (Stage::Routing | Stage::Running(_), _) => {}
        }
    }

    /// Why a call that would wait for any worker cannot: the pool is degraded and has none left.
    pub(super) fn degraded_for_all(&self) -> Option<Refusal> {
        let cause = self.restarts.degraded()?;
        let has_worker = self.workers.values().any(|worker| worker.state == State::Serving);
        (!has_worker).then(|| Refusal::PoolDegraded { cause: cause.clone() })
    }

    /// Why a call would wait for any worker in vain. One that waits for a callback of its tree takes it, though it
    /// leaves.
    pub(super) fn none_will_come(&self, id: CallId) -> Option<Refusal> {
        let waits_for_it = |tree| self.workers.keys().any(|place| self.stack(*place, tree).is_some());
        self.degraded_for_all().filter(|_| !self.calls[&id].tree.is_some_and(waits_for_it))
    }

    /// Refuses all that wait for any worker, if none is left and none will come soon.
    pub(super) fn refuse_if_degraded_for_all(&mut self) {
        for id in self.waiting_for_any() {
            if let Some(refusal) = self.none_will_come(id) {
                self.leave_line(id);
                self.refuse(id, refusal);
            }
        }
    }

    pub(super) fn waiting_for_any(&self) -> Vec<CallId> {
        let waits = |stage: &Stage| matches!(stage, Stage::Waiting(Target::Any));
        self.calls.iter().filter(|(_, call)| waits(&call.stage)).map(|(id, _)| *id).collect()
    }
}
