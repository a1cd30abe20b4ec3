//! The calls of one session that no worker has: each waits here, with its body, until its pool grants or refuses it.
//!
//! A pool decides and does not know bodies. Those come from callers, and back from workers that have died or given
//! a call up: the decision may be here first. This brings the two together, in the order of the grants, and sees to
//! it that neither is left over when a caller leaves at any moment. Bodies and grants are passed on unseen.

use super::pool::Refusal;
use crate::id::CallId;
use std::collections::{BTreeMap, VecDeque};

pub(crate) trait Body {
    fn call(&self) -> CallId;
    /// Nobody waits for an answer any more. It may be so before that is told.
    fn is_abandoned(&self) -> bool;
}

pub(crate) trait Grant {
    fn call(&self) -> CallId;
    /// The call has set a home, which the session makes ready first.
    fn sets_home(&self) -> bool;
}

/// Why a home that a call has set will not be ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotReady {
    SessionEnded,
    CallerLeft,
    /// The `on_home` itself did not do it.
    Failed,
}

#[derive(Debug)]
#[must_use = "an action that is not carried out leaves somebody waiting"]
pub(crate) enum PendingAction<B, G> {
    /// To the worker of the grant.
    Send { body: B, grant: G },
    /// The caller is told; the pool has said its last of the call.
    Refuse { body: B, refusal: Refusal },
    /// The pool is to forget the call: `handle_withdrawal_seen`. Its body stays, for a grant may be under way.
    Withdraw { call: CallId },
    /// The session's `on_home` is to run: `handle_rebuilt` or `fail_rebuild`.
    Rebuild { call: CallId },
    /// Its `on_home` is to end, unless it has.
    EndRebuild { call: CallId },
    /// The pool is told so, and refuses the call unless it has done so.
    RebuildFailed { call: CallId, why: NotReady },
    /// It is not used: the lease goes back to the pool.
    GiveBack { grant: G },
    /// It was not used, and the pool has ended the lease by itself.
    Forget { grant: G },
}

struct Rebuild<B, G> {
    body: B,
    grant: G,
    /// The pool was told.
    has_failed: bool,
}

pub(crate) struct Pending<B, G> {
    waiting: BTreeMap<CallId, B>,
    /// Grants that wait for a body which is on its way back from a worker, and all grants after them: else a later
    /// call would overtake an earlier one.
    held: VecDeque<G>,
    /// Calls that set a home which the session's `on_home` makes ready.
    rebuilding: BTreeMap<CallId, Rebuild<B, G>>,
    /// Refusals of calls whose bodies are on their way back.
    refused: BTreeMap<CallId, Refusal>,
    has_ended: bool,
    actions: VecDeque<PendingAction<B, G>>,
}

impl<B, G> Default for Pending<B, G> {
    fn default() -> Self {
        Self {
            waiting: BTreeMap::new(),
            held: VecDeque::new(),
            rebuilding: BTreeMap::new(),
            refused: BTreeMap::new(),
            has_ended: false,
            actions: VecDeque::new(),
        }
    }
}

impl<B: Body, G: Grant> Pending<B, G> {
    /// A call, for which its pool has been asked for a worker.
    pub(crate) fn submit(&mut self, body: B) {
        self.waiting.insert(body.call(), body);
    }

    pub(crate) fn handle_granted(&mut self, grant: G) {
        let call = grant.call();
        // The worker of an earlier grant is gone, or has taken the call back unseen.
        if let Some(earlier) = self.end_rebuild(call) {
            self.actions.push_back(PendingAction::GiveBack { grant: earlier.grant });
            self.waiting.insert(call, earlier.body);
        }
        self.unhold(call);
        self.held.push_back(grant);
        self.use_grants();
    }

    pub(crate) fn handle_refused(&mut self, call: CallId, refusal: Refusal) {
        if let Some(Rebuild { body, grant, has_failed }) = self.end_rebuild(call) {
            // Else its worker is gone, and the pool waits for the request that was never sent.
            let is_heard = has_failed && refusal == Refusal::RebuildFailed;
            let leave = if is_heard { PendingAction::Forget { grant } } else { PendingAction::GiveBack { grant } };
            self.actions.extend([leave, PendingAction::Refuse { body, refusal }]);
            return;
        }
        self.unhold(call);
        match self.waiting.remove(&call) {
            Some(body) => self.actions.push_back(PendingAction::Refuse { body, refusal }),
            None => drop(self.refused.insert(call, refusal)),
        }
        self.use_grants();
    }

    /// A body is back from a worker, where the call certainly never began, or is to run once more.
    pub(crate) fn handle_came_back(&mut self, body: B) {
        let call = body.call();
        if let Some(refusal) = self.refused.remove(&call) {
            return self.actions.push_back(PendingAction::Refuse { body, refusal });
        }
        // Its caller may have left while it was away, and nobody would hear of it again.
        if body.is_abandoned() && !self.is_held(call) {
            self.actions.push_back(PendingAction::Withdraw { call });
        }
        self.waiting.insert(call, body);
        self.use_grants();
    }

    /// The caller has left. `false`: the call is not here.
    pub(crate) fn give_up(&mut self, call: CallId) -> bool {
        if self.rebuilding.contains_key(&call) {
            self.stop_rebuild(call, NotReady::CallerLeft);
            return true;
        }
        let is_here = self.waiting.contains_key(&call);
        if is_here {
            self.actions.push_back(PendingAction::Withdraw { call });
        }
        is_here
    }

    /// The pool has forgotten the call, unless it had granted it before. If that was not its last word, the call may
    /// be one that came back from a worker whose report of that is still under way, and is granted again after it.
    pub(crate) fn handle_withdrawal_seen(&mut self, call: CallId, is_last: bool) {
        if self.is_forgotten_by(call, is_last) {
            self.waiting.remove(&call);
        }
    }

    /// Whether such a word is the last that is to be heard of the call.
    pub(crate) fn is_forgotten_by(&self, call: CallId, is_last: bool) -> bool {
        is_last && !self.is_held(call)
    }

    /// Its home is ready, and the pool was told.
    pub(crate) fn handle_rebuilt(&mut self, call: CallId) {
        if let Some(Rebuild { body, grant, .. }) = self.rebuilding.remove(&call) {
            self.send(body, grant);
        }
    }

    /// The home will not be ready.
    pub(crate) fn fail_rebuild(&mut self, call: CallId, why: NotReady) {
        if let Some(rebuild) = self.rebuilding.get_mut(&call).filter(|rebuild| !rebuild.has_failed) {
            rebuild.has_failed = true;
            self.actions.push_back(PendingAction::RebuildFailed { call, why });
        }
    }

    /// The session has ended: no home is made ready any more.
    pub(crate) fn end(&mut self) {
        self.has_ended = true;
        for call in self.rebuilding.keys().copied().collect::<Vec<_>>() {
            self.stop_rebuild(call, NotReady::SessionEnded);
        }
    }

    /// Nobody knows what was lost of these that wait: they are withdrawn, and the caller of each that is returned is to
    /// be told.
    pub(crate) fn lose(&mut self, is_lost: impl Fn(&B) -> bool) -> impl Iterator<Item = &mut B> {
        let Self { waiting, actions, .. } = self;
        waiting.values_mut().filter(move |body| is_lost(body)).inspect(move |body| {
            actions.push_back(PendingAction::Withdraw { call: body.call() });
        })
    }

    /// A pool has started over: its grants are worth nothing any more, those of homes that are being made ready too,
    /// whose calls wait again.
    pub(crate) fn lose_grants(&mut self, is_lost: impl Fn(&G) -> bool) {
        for _ in 0..self.held.len() {
            match self.held.pop_front() {
                Some(grant) if is_lost(&grant) => self.actions.push_back(PendingAction::GiveBack { grant }),
                Some(grant) => self.held.push_back(grant),
                None => {}
            }
        }
        let rebuilding = self.rebuilding.iter().filter(|(_, rebuild)| is_lost(&rebuild.grant));
        for call in rebuilding.map(|(call, _)| *call).collect::<Vec<_>>() {
            if let Some(Rebuild { body, grant, .. }) = self.end_rebuild(call) {
                self.actions.push_back(PendingAction::GiveBack { grant });
                self.waiting.insert(call, body);
            }
        }
    }

    /// Sends what is granted, in the order of the grants, up to the first whose body is not here.
    pub(crate) fn use_grants(&mut self) {
        while let Some(grant) = self.held.front()
            && let Some(body) = self.waiting.remove(&grant.call())
            && let Some(grant) = self.held.pop_front()
        {
            if grant.sets_home() {
                self.rebuild(body, grant);
            } else {
                self.send(body, grant);
            }
        }
    }

    /// Sends a call to its worker, unless its caller has left: then the grant goes back, and the body stays until the
    /// pool says that it was the last. Where it has granted the call anew meanwhile, as when that worker has died,
    /// another grant is under way, which would wait for the body for ever, and all calls of the session behind it.
    fn send(&mut self, body: B, grant: G) {
        if !body.is_abandoned() {
            return self.actions.push_back(PendingAction::Send { body, grant });
        }
        let call = body.call();
        self.actions.extend([PendingAction::GiveBack { grant }, PendingAction::Withdraw { call }]);
        if !mutant!("grant.meets_no_body") {
            self.waiting.insert(call, body);
        }
    }

    fn rebuild(&mut self, body: B, grant: G) {
        let call = body.call();
        let needless = if self.has_ended {
            Some(NotReady::SessionEnded)
        } else {
            body.is_abandoned().then_some(NotReady::CallerLeft)
        };
        self.rebuilding.insert(call, Rebuild { body, grant, has_failed: false });
        match needless {
            // Nobody would come to end it.
            Some(why) => self.fail_rebuild(call, why),
            None => self.actions.push_back(PendingAction::Rebuild { call }),
        }
    }

    fn stop_rebuild(&mut self, call: CallId, why: NotReady) {
        self.actions.push_back(PendingAction::EndRebuild { call });
        self.fail_rebuild(call, why);
    }

    fn end_rebuild(&mut self, call: CallId) -> Option<Rebuild<B, G>> {
        let rebuild = self.rebuilding.remove(&call)?;
        self.actions.push_back(PendingAction::EndRebuild { call });
        Some(rebuild)
    }

    /// A grant that is held is not to be used.
    fn unhold(&mut self, call: CallId) {
        if let Some(at) = self.held.iter().position(|grant| grant.call() == call)
            && let Some(grant) = self.held.remove(at)
        {
            self.actions.push_back(PendingAction::GiveBack { grant });
        }
    }

    /// Nobody waits for anything here any more.
    #[cfg(test)]
    pub(crate) fn is_over(&self) -> bool {
        let is_empty = self.held.is_empty() && self.rebuilding.is_empty() && self.refused.is_empty();
        is_empty && self.waiting.values().all(B::is_abandoned)
    }

    pub(crate) fn is_held(&self, call: CallId) -> bool {
        self.held.iter().any(|grant| grant.call() == call)
    }
}

impl<B, G> Pending<B, G> {
    pub(crate) fn poll_action(&mut self) -> Option<PendingAction<B, G>> {
        self.actions.pop_front()
    }

    /// A call that waits here.
    pub(crate) fn body(&self, call: CallId) -> Option<&B> {
        self.waiting.get(&call)
    }

    pub(crate) fn bodies(&self) -> impl Iterator<Item = &B> {
        self.waiting.values()
    }

    /// What no pool will say anything of any more.
    pub(crate) fn take_bodies(&mut self) -> impl Iterator<Item = B> + use<B, G> {
        std::mem::take(&mut self.waiting).into_values()
    }

    /// Grants that wait, the next to be used first.
    pub(crate) fn held(&self) -> impl Iterator<Item = &G> {
        self.held.iter()
    }

    /// A call whose home is made ready, or will not be.
    pub(crate) fn rebuilding(&self, call: CallId) -> Option<(&B, &G)> {
        self.rebuilding.get(&call).map(|rebuild| (&rebuild.body, &rebuild.grant))
    }

    pub(crate) fn rebuilding_mut(&mut self, call: CallId) -> Option<(&mut B, &G)> {
        self.rebuilding.get_mut(&call).map(|rebuild| (&mut rebuild.body, &rebuild.grant))
    }

    pub(crate) fn all_rebuilding(&self) -> impl Iterator<Item = CallId> {
        self.rebuilding.keys().copied()
    }

    /// Whether its `on_home` is wanted still.
    pub(crate) fn is_made_ready(&self, call: CallId) -> bool {
        self.rebuilding.get(&call).is_some_and(|rebuild| !rebuild.has_failed)
    }

    /// What the pool has said of a call whose body is on its way back.
    pub(crate) fn refusal(&self, call: CallId) -> Option<&Refusal> {
        self.refused.get(&call)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A call, and whether its caller has left.
    type Call = (u64, bool);

    impl Body for Call {
        fn call(&self) -> CallId {
            CallId(self.0)
        }

        fn is_abandoned(&self) -> bool {
            self.1
        }
    }

    impl Grant for u64 {
        fn call(&self) -> CallId {
            CallId(*self)
        }

        fn sets_home(&self) -> bool {
            *self >= 100
        }
    }

    fn with(calls: &[Call]) -> Pending<Call, u64> {
        let mut pending = Pending::default();
        calls.iter().for_each(|call| pending.submit(*call));
        pending
    }

    /// What is to be done, a word and the call for each.
    fn done(pending: &mut Pending<Call, u64>) -> Vec<(&'static str, u64)> {
        let mut done = Vec::new();
        while let Some(action) = pending.poll_action() {
            done.push(match action {
                PendingAction::Send { body, .. } => ("send", body.0),
                PendingAction::Refuse { body, .. } => ("refuse", body.0),
                PendingAction::Withdraw { call } => ("withdraw", call.0),
                PendingAction::Rebuild { call } => ("rebuild", call.0),
                PendingAction::EndRebuild { call } => ("end rebuild", call.0),
                PendingAction::RebuildFailed { call, .. } => ("rebuild failed", call.0),
                PendingAction::GiveBack { grant } => ("give back", grant),
                PendingAction::Forget { grant } => ("forget", grant),
            });
        }
        done
    }

    #[test]
    fn a_grant_waits_for_its_body_and_later_ones_behind_it() {
        let mut pending = with(&[(2, false)]);
        pending.handle_granted(1);
        pending.handle_granted(2);
        assert_eq!(done(&mut pending), []);
        pending.handle_came_back((1, false));
        assert_eq!(done(&mut pending), [("send", 1), ("send", 2)]);
        assert!(pending.is_over());
    }

    #[test]
    fn a_second_grant_takes_the_place_of_the_first() {
        let mut pending = with(&[(2, false)]);
        for call in [1, 2, 1] {
            pending.handle_granted(call);
        }
        assert_eq!(done(&mut pending), [("give back", 1), ("send", 2)]);
        pending.handle_came_back((1, false));
        assert_eq!(done(&mut pending), [("send", 1)]);
    }

    #[test]
    fn a_refusal_waits_for_its_body_and_takes_back_a_grant() {
        let mut pending = with(&[]);
        pending.handle_granted(1);
        pending.handle_refused(CallId(1), Refusal::Cancelled);
        assert_eq!(done(&mut pending), [("give back", 1)]);
        pending.handle_came_back((1, false));
        assert_eq!(done(&mut pending), [("refuse", 1)]);
        assert!(pending.is_over());
    }

    #[test]
    fn the_body_of_a_caller_who_has_left_meets_every_grant_that_is_under_way() {
        let mut pending = with(&[(1, true), (2, false)]);
        assert!(pending.give_up(CallId(1)));
        pending.handle_granted(1);
        pending.handle_withdrawal_seen(CallId(1), false);
        pending.handle_granted(1);
        let twice = [("withdraw", 1), ("give back", 1), ("withdraw", 1), ("give back", 1), ("withdraw", 1)];
        assert_eq!(done(&mut pending), twice);
        pending.handle_granted(2);
        assert_eq!(done(&mut pending), [("send", 2)]);
        pending.handle_withdrawal_seen(CallId(1), true);
        assert_eq!(pending.bodies().count(), 0);
        assert!(!pending.give_up(CallId(1)));
    }

    #[test]
    fn a_home_that_is_not_ready_is_told_once_and_its_call_waits_for_the_pool() {
        let mut pending = with(&[(100, false), (101, true)]);
        pending.handle_granted(100);
        assert_eq!(done(&mut pending), [("rebuild", 100)]);
        pending.end();
        pending.fail_rebuild(CallId(100), NotReady::Failed);
        pending.handle_granted(101);
        assert_eq!(done(&mut pending), [("end rebuild", 100), ("rebuild failed", 100), ("rebuild failed", 101)]);
        pending.handle_refused(CallId(100), Refusal::RebuildFailed);
        pending.handle_refused(CallId(101), Refusal::Cancelled);
        let ended = |call, leave| [("end rebuild", call), (leave, call), ("refuse", call)];
        assert_eq!(done(&mut pending), [ended(100, "forget"), ended(101, "give back")].concat());
        assert!(pending.is_over());
    }

    #[test]
    fn a_pool_that_starts_over_loses_its_grants_and_calls_and_no_other() {
        let mut pending = with(&[(1, false), (3, false), (100, false)]);
        pending.handle_granted(100);
        pending.handle_granted(2);
        pending.handle_granted(3);
        assert_eq!(done(&mut pending), [("rebuild", 100)]);
        pending.lose_grants(|grant| *grant != 3);
        let lost: Vec<u64> = pending.lose(|(call, _)| *call != 3).map(|(call, _)| *call).collect();
        assert_eq!(lost, [1, 100]);
        pending.use_grants();
        let told = [("give back", 2), ("end rebuild", 100), ("give back", 100)];
        assert_eq!(done(&mut pending), [&told[..], &[("withdraw", 1), ("withdraw", 100), ("send", 3)]].concat());
    }
}
