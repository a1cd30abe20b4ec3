//! Calls from inside callbacks: where they go, and when they would wait for ever.
//!
//! A call that is made inside a callback belongs to the *tree* of the call that made the callback. Where
//! a call of its tree **waits** for a callback, a worker takes it at once and runs it **nested**, on top
//! of the one that waits: else that would wait for it, and it for that. It passes every line, and what
//! turns others away does not turn it away.
//!
//! So calls of a tree pile up in a thread of a worker: on the highest, when that waits. Those below go on
//! when those above are over. What is on top began later than what it holds up, and so did what a call
//! waits for: within a tree nothing can wait in a circle. Between trees it can, and each such circle is closed by
//! a ticket: that one is refused, where all that it may wait for waits for a callback of another tree.

use super::Pool;
use super::call::{Call, Lease, Stage, Target};
use super::route::Choice;
use super::session::{Namespace, Session, Sid};
use super::slot::SlotState;
use super::ticket::Refusal;
use super::worker::{Place, State, Worker};
use crate::config::Affinity;
use crate::id::CallId;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

/// The root call of a tree.
pub(super) type Tree = CallId;

/// How deep calls nest in one worker: each level takes some ten of the thousand frames that Python has.
const DEEPEST: usize = 64;

/// The calls of a tree in one thread of a worker: one that needed room, and those on top of it.
pub(super) struct Stack {
    /// It may be over, with what came late still on it.
    base: CallId,
    tree: Tree,
    /// How many are on top of it.
    nested: usize,
    /// Whether the highest waits for a callback, which then can have another on top.
    is_free: bool,
    /// Whether any does.
    waits: bool,
}

impl Pool {
    /// The call waits for a callback from now on: those of its tree go on top of it.
    pub(crate) fn handle_callback(&mut self, call: CallId, now: Instant) {
        let Some((_, place)) = self.leased(call) else { return };
        self.take_to_run(call);
        let Some(lease) = self.calls.get_mut(&call).and_then(Call::lease_mut) else { return };
        lease.waits = true;
        if lease.on.is_some() {
            // It is the highest: who came first there need not be who was granted first.
            let leases = &mut self.worker_mut(place).leases;
            leases.retain(|open| *open != call);
            leases.push_back(call);
        }
        reach!("a call waits for its callback");
        self.serve_tree(self.tree_of(call), now);
        self.serve(place, now);
    }

    /// The callback is over, and the call goes on.
    pub(crate) fn handle_callback_over(&mut self, call: CallId, now: Instant) {
        let tree = self.tree_of(call);
        if let Some(lease) = self.calls.get_mut(&call).and_then(Call::lease_mut)
            && std::mem::replace(&mut lease.waits, false)
        {
            self.serve_tree(tree, now);
        }
    }

    /// The lease of a call is about to end, and those that came too late to run on top of it keep its thread: the
    /// first of them has the room that it had.
    pub(super) fn pass_room_on(&mut self, base: CallId, place: Place) {
        let is_on = |call: &Call| call.lease().is_some_and(|lease| lease.on == Some(base));
        let leases = &self.workers[&place].leases;
        let late: Vec<CallId> = leases.iter().filter(|id| is_on(&self.calls[*id])).copied().collect();
        let Some(heir) = late.first().copied() else { return };
        reach!("what came late keeps the thread");
        for id in late {
            if let Some(lease) = self.calls.get_mut(&id).and_then(Call::lease_mut) {
                lease.on = Some(heir).filter(|heir| *heir != id);
                lease.is_late = id == heir;
            }
        }
        let worker = self.worker_mut(place);
        worker.nested -= 1;
        worker.leases.retain(|id| *id != heir);
        let at = worker.leases.iter().position(|id| *id == base).unwrap_or(0);
        worker.leases.insert(at, heir);
    }

    pub(super) fn tree_of(&self, call: CallId) -> Tree {
        self.calls.get(&call).and_then(|call| call.tree).unwrap_or(call)
    }

    /// What the table has chosen for a call of a tree, if nothing of the tree changes that.
    pub(super) fn choose_in_tree(&self, tree: Tree, call: &Call, session: &Session, by_table: Choice) -> Choice {
        let is_settling = call.is_in_line() && session.settling.is_some();
        let is_behind = session.rebuilding.is_some() && call.rebuilds_under().is_none();
        if is_settling || is_behind {
            return self.unless_in_vain(tree, call, session, by_table);
        }
        if let Some(under) = call.rebuilds_under()
            && let Choice::Grant(place) = by_table
            && let Some(on) = self.calls.get(&under).and_then(Call::lease).filter(|lease| lease.place == place)
        {
            return on.on.map_or(by_table, |base| Choice::Nest(place, base));
        }
        if let Some(place) = self.wanted_by(call, session)
            && let Some(stack) = self.stack(place, tree)
            && self.can_hold(place, call, session)
        {
            return match by_table {
                _ if stack.nested >= DEEPEST => Choice::Refuse(Refusal::WouldDeadlock),
                _ if stack.is_free => Choice::Nest(place, stack.base),
                Choice::Grant(place) => Choice::Grant(place),
                Choice::Nest(..) | Choice::Wait(_) | Choice::Refuse(_) => self.beside_its_tree(place, call, session),
            };
        }
        match by_table {
            Choice::Wait(Target::Any)
            | Choice::Refuse(
                Refusal::WorkerBusy | Refusal::PoolDegraded { .. } | Refusal::Cancelled | Refusal::ShuttingDown,
            ) if !self.is_bound(call, session) => self.nest_anywhere(tree, call, session, by_table),
            Choice::Grant(_) | Choice::Nest(..) | Choice::Wait(_) | Choice::Refuse(_) => {
                self.unless_in_vain(tree, call, session, by_table)
            }
        }
    }

    /// The worker that it must go to, or would rather.
    fn wanted_by(&self, call: &Call, session: &Session) -> Option<Place> {
        let bound = self.bound_to(call, session).ok()?;
        bound.or(session.rebuilding.map(|rebuilding| rebuilding.place)).or(session.home)
    }

    /// Whether it may go to no other worker than the one that it wants.
    fn is_bound(&self, call: &Call, session: &Session) -> bool {
        match self.bound_to(call, session) {
            Ok(Some(_)) | Err(_) => true,
            Ok(None) => call.is_strict() && (session.home.is_some() || session.lost.is_some()),
        }
    }

    /// No other worker takes it: the one that waits for its tree and has the least on top of it does.
    fn nest_anywhere(&self, tree: Tree, call: &Call, session: &Session, by_table: Choice) -> Choice {
        let stacks = self.workers.keys().filter_map(|place| Some((*place, self.stack(*place, tree)?)));
        let best = stacks
            .min_by_key(|(place, stack)| (!self.can_hold(*place, call, session), !stack.is_free, stack.nested, *place));
        match best {
            // It would wait behind others of its session, which wait for the end of its tree.
            Some((place, _)) if !self.can_hold(place, call, session) => match by_table {
                Choice::Wait(_) => Choice::Refuse(self.unavailable(place, &self.workers[&place])),
                Choice::Grant(_) | Choice::Nest(..) | Choice::Refuse(_) => by_table,
            },
            Some((_, stack)) if stack.nested >= DEEPEST => Choice::Refuse(Refusal::WouldDeadlock),
            Some((place, stack)) if stack.is_free => Choice::Nest(place, stack.base),
            Some((place, _)) => match by_table {
                Choice::Wait(Target::Any) => Choice::Wait(Target::Any),
                Choice::Grant(_) | Choice::Nest(..) | Choice::Wait(_) | Choice::Refuse(_) => {
                    self.beside_its_tree(place, call, session)
                }
            },
            None => self.unless_in_vain(tree, call, session, by_table),
        }
    }

    /// What a call keeps in a worker that is on its way out would be lost with it: no namespace begins there.
    fn can_hold(&self, place: Place, call: &Call, session: &Session) -> bool {
        let makes_namespace = call.uses_namespace && matches!(session.namespace, Namespace::None);
        !makes_namespace || self.workers.get(&place).is_some_and(Worker::keeps_state)
    }

    /// Something of its tree is on top of the stack there: it goes to another thread, or waits for that to end.
    fn beside_its_tree(&self, place: Place, call: &Call, session: &Session) -> Choice {
        let has_room = self.workers[&place].has_room(self.rules.concurrency);
        if has_room && !(call.is_in_line() && self.must_wait_its_turn(session, place)) {
            Choice::Grant(place)
        } else if call.fails_fast() {
            Choice::Refuse(Refusal::WorkerBusy)
        } else {
            Choice::Wait(Target::Worker(place))
        }
    }

    fn unless_in_vain(&self, tree: Tree, call: &Call, session: &Session, choice: Choice) -> Choice {
        match choice {
            Choice::Wait(target) if self.waits_in_vain(tree, call, session, target) => {
                reach!("would deadlock");
                Choice::Refuse(Refusal::WouldDeadlock)
            }
            Choice::Grant(_) | Choice::Nest(..) | Choice::Wait(_) | Choice::Refuse(_) => choice,
        }
    }

    /// Whether every worker that it may wait for waits for a callback of another tree.
    fn waits_in_vain(&self, tree: Tree, call: &Call, session: &Session, target: Target) -> bool {
        match target {
            Target::Worker(place) => {
                self.is_stuck(place, tree) || call.is_in_line() && self.waits_for_its_own(tree, session, place)
            }
            Target::Any => {
                let is_coming = self.slots.values().any(|slot| matches!(slot.state, SlotState::BackingOff { .. }))
                    || self.workers.values().any(|worker| matches!(worker.state, State::Starting { .. }));
                let mut serving = self.workers.iter().filter(|(_, worker)| worker.state == State::Serving).peekable();
                !is_coming && serving.peek().is_some() && serving.all(|(place, _)| self.is_stuck(*place, tree))
            }
        }
    }

    /// Whether each call that runs there waits for a callback of another tree, or for one that does: calls of
    /// a session are on one thread.
    fn is_stuck(&self, place: Place, tree: Tree) -> bool {
        let Some(worker) = self.workers.get(&place).filter(|worker| !worker.has_room(self.rules.concurrency)) else {
            return false;
        };
        let others = self.waiting_of_others(worker, tree);
        if self.rules.concurrency == 1 {
            // Whatever else was granted is behind it: it may have come in another order than that of the grants.
            return !others.is_empty();
        }
        let mut held_up = BTreeSet::new();
        for (id, lease) in self.running(worker) {
            let sid = self.calls[&id].sid;
            match lease.on {
                None if others.contains(&id) => {
                    held_up.insert(sid);
                }
                Some(base) if others.contains(&base) => {}
                None if held_up.contains(&sid) => {}
                Some(_) | None => return false,
            }
        }
        !others.is_empty()
    }

    /// Whether a strict call, which waits for the one of its session there, waits for a callback of another tree.
    fn waits_for_its_own(&self, tree: Tree, session: &Session, place: Place) -> bool {
        let Some(worker) = self.workers.get(&place) else { return false };
        let (sid, others) = (Sid::from(&session.key), self.waiting_of_others(worker, tree));
        self.running(worker).any(|(id, lease)| self.calls[&id].sid == sid && others.contains(&lease.on.unwrap_or(id)))
    }

    /// The bases of the stacks there that wait for callbacks of other trees.
    fn waiting_of_others(&self, worker: &Worker, tree: Tree) -> BTreeSet<CallId> {
        let stacks = self.stacks(worker).into_iter().filter(|stack| stack.waits && stack.tree != tree);
        stacks.map(|stack| stack.base).collect()
    }

    /// What runs there, in the order of the grants, but for calls whose homes are being made ready: those are
    /// not sent yet.
    fn running<'a>(&'a self, worker: &'a Worker) -> impl Iterator<Item = (CallId, &'a Lease)> {
        worker.leases.iter().filter_map(|id| match &self.calls[id].stage {
            Stage::Running(lease) if !self.is_rebuilding(*id) => Some((*id, lease)),
            Stage::Running(_) | Stage::Ahead(_) | Stage::Routing | Stage::Waiting(_) => None,
        })
    }

    fn stacks(&self, worker: &Worker) -> Vec<Stack> {
        let mut stacks: BTreeMap<CallId, Stack> = BTreeMap::new();
        // The last that asked for a callback was the highest then.
        for (id, lease) in self.running(worker) {
            let (base, tree) = (lease.on.unwrap_or(id), self.tree_of(id));
            let stack = stacks.entry(base).or_insert(Stack { base, tree, nested: 0, is_free: false, waits: false });
            stack.nested += usize::from(lease.on.is_some());
            stack.is_free = lease.waits;
            stack.waits |= lease.waits;
        }
        stacks.into_values().collect()
    }

    /// The best stack that a worker has of a tree, if a call there waits for a callback of it.
    pub(super) fn stack(&self, place: Place, tree: Tree) -> Option<Stack> {
        let worker = self.workers.get(&place).filter(|worker| match worker.state {
            State::Serving | State::Retiring | State::Draining => true,
            State::Starting { .. } | State::Stopping => false,
        })?;
        let is_its = |stack: &Stack| stack.waits && stack.tree == tree;
        let stacks = self.stacks(worker).into_iter().filter(is_its);
        stacks.min_by_key(|stack| (!stack.is_free, stack.nested))
    }

    /// Whether a worker that this call waits for will take it nested, whatever turns others away.
    pub(super) fn is_expected(&self, id: &CallId) -> bool {
        let call = &self.calls[id];
        match (call.tree, &call.stage) {
            (Some(tree), Stage::Waiting(Target::Worker(place))) => self.stack(*place, tree).is_some(),
            (Some(tree), Stage::Waiting(Target::Any)) => {
                self.workers.keys().any(|place| self.stack(*place, tree).is_some())
            }
            (_, Stage::Routing | Stage::Waiting(_) | Stage::Running(_) | Stage::Ahead(_)) => false,
        }
    }

    /// Looks again at what waits of a tree: grants what would be granted if it came now, past every line, and
    /// refuses what only a call that waited kept from being turned away.
    pub(super) fn serve_tree(&mut self, tree: Tree, now: Instant) {
        for id in self.waiting_in(tree) {
            // A grant before it may have moved or refused it.
            let Some(call) = self.calls.get(&id).filter(|call| matches!(call.stage, Stage::Waiting(_))) else {
                continue;
            };
            let choice = match self.choose(call, &self.sessions[&call.sid]) {
                Choice::Wait(Target::Any) => self.none_will_come(id).map_or(Choice::Wait(Target::Any), Choice::Refuse),
                choice @ (Choice::Grant(_) | Choice::Nest(..) | Choice::Wait(_) | Choice::Refuse(_)) => choice,
            };
            match choice {
                Choice::Nest(place, on) => {
                    self.leave_line(id);
                    self.queue.has_moved = true;
                    self.nest(id, place, on, now);
                }
                // As if it came now: what it waited for, its home or the end of a rebuild, is not in its way any more.
                Choice::Grant(place) => {
                    self.leave_line(id);
                    self.queue.has_moved = true;
                    self.grant(id, place, now);
                }
                // What held it where it waited has ended: that was not its home, or is so no more.
                Choice::Wait(target) if !matches!(self.calls[&id].stage, Stage::Waiting(at) if at == target) => {
                    reach!("waits elsewhere when its tree has left");
                    self.take_from_line(id);
                    self.join_line(id, target);
                    self.queue.has_moved = true;
                }
                // That is said to tickets: what waits may still be served.
                Choice::Wait(_) | Choice::Refuse(Refusal::WouldDeadlock) => {}
                Choice::Refuse(refusal) => {
                    self.leave_line(id);
                    self.queue.has_moved = true;
                    self.refuse(id, refusal);
                }
            }
        }
        self.serve_moved(now);
    }

    /// The same of every tree of which something waits.
    pub(super) fn serve_trees(&mut self, now: Instant) {
        let mut next = self.queue.in_trees.first().copied();
        while let Some((tree, _)) = next {
            self.serve_tree(tree, now);
            next = self.queue.in_trees.range((CallId(tree.0 + 1), CallId(0))..).next().copied();
        }
    }

    /// The same of what waits of a session, which something of its own has held up.
    pub(super) fn serve_trees_of(&mut self, sid: Sid, now: Instant) {
        if self.queue.in_trees.is_empty() {
            return;
        }
        let Some(session) = self.sessions.get(&sid) else { return };
        let waiting = session.lines.iter().flat_map(|line| line.calls.iter());
        let trees: BTreeSet<Tree> = waiting.filter_map(|id| self.calls[id].tree).collect();
        for tree in trees {
            self.serve_tree(tree, now);
        }
    }

    pub(super) fn trees_that_wait_at(&self, place: Place) -> BTreeSet<Tree> {
        let leases = self.workers.get(&place).into_iter().flat_map(|worker| worker.leases.iter());
        let waits = |id: &&CallId| self.calls[*id].lease().is_some_and(|lease| lease.waits);
        leases.filter(waits).map(|id| self.tree_of(*id)).collect()
    }

    /// What the end of a lease means for the tree of its call.
    pub(super) fn after_lease_in(&mut self, tree: Tree, lease: &Lease, now: Instant) {
        if lease.waits || lease.on.is_some() {
            self.serve_tree(tree, now);
        }
    }

    fn waiting_in(&self, tree: Tree) -> Vec<CallId> {
        let all = (tree, CallId(0))..(CallId(tree.0 + 1), CallId(0));
        self.queue.in_trees.range(all).map(|(_, id)| *id).collect()
    }
}

impl Call {
    fn fails_fast(&self) -> bool {
        self.affinity == Affinity::StrictFailFast && !self.is_continuing()
    }
}
