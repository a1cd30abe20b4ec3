//! Callbacks in a simulated world: what they call, in turn or at once, and when they are over.

use super::reach;
use super::witness::Outcome;
use super::world::{Mailbox, Message, World};
use crate::id::{CallId, WorkerId};
use std::collections::BTreeSet;

/// Chains of calls in callbacks get no longer than this.
const LONGEST_CHAIN: usize = 6;

/// A callback that runs, of a call that waits for it.
#[derive(Debug)]
pub(super) struct Callback {
    worker: WorkerId,
    seq: u64,
    /// Its calls that are not answered.
    open: BTreeSet<CallId>,
    /// How many it makes yet, each when the one before is answered.
    left: u64,
}

impl World {
    /// Whether a call that runs asks for a callback now.
    pub(super) fn wants_callback(&mut self, call: CallId) -> bool {
        self.faults.callbacks && self.witness.depth(call) < LONGEST_CHAIN && self.random.one_in(3)
    }

    /// A call asks for a callback: the pool is told before that begins.
    pub(super) fn on_host_call(&mut self, worker: &WorkerId, seq: u64) {
        let actor = self.workers.get_mut(worker).expect("it was just told");
        let Some(call) = actor.lane.handle_callback(seq).expect("the process keeps the protocol") else {
            reach::hit("a cancelled call asks for a callback".into());
            return self.post(Mailbox::ToProcess(worker.clone()), Message::HostReply { seq });
        };
        self.post(Mailbox::Pool, Message::Callback(call));
        let at_once = self.random.below(3);
        let left = if self.random.one_in(3) { self.random.below(3) } else { 0 };
        let callback = Callback { worker: worker.clone(), seq, open: BTreeSet::new(), left };
        self.callbacks.insert(call, callback);
        for _ in 0..at_once {
            self.call_from(call);
        }
        self.look_at_callback(call);
    }

    /// One of the calls of a callback, most often of the session of the call that waits for it.
    fn call_from(&mut self, parent: CallId) {
        let of_parent = self.witness.calls[&parent].session;
        let session = match self.some_user() {
            Some(session) if self.random.one_in(3) => session,
            Some(_) | None => of_parent,
        };
        if self.actors.contains_key(&session) {
            let call = self.submit_in(session, Some(parent));
            if let Some(callback) = self.callbacks.get_mut(&parent) {
                callback.open.insert(call);
            }
        }
    }

    fn look_at_callback(&mut self, call: CallId) {
        while let Some(callback) = self.callbacks.get_mut(&call).filter(|callback| callback.open.is_empty()) {
            if callback.left > 0 {
                callback.left -= 1;
                self.call_from(call);
                continue;
            }
            let Some(Callback { worker, seq, .. }) = self.callbacks.remove(&call) else { return };
            let delay = self.random.below(100);
            self.post_in(Mailbox::Worker(worker), Message::CallbackEnds { seq, call }, delay);
            return;
        }
    }

    /// A call that a callback made is answered, or its caller has left.
    pub(super) fn on_answered(&mut self, call: CallId) {
        let Some(parent) = self.witness.calls[&call].parent else { return };
        let is_its = self.callbacks.get_mut(&parent).is_some_and(|callback| callback.open.remove(&call));
        if is_its {
            self.look_at_callback(parent);
        }
    }

    pub(super) fn on_callback_over(&mut self, worker: &WorkerId, seq: u64, call: CallId) {
        let actor = self.workers.get_mut(worker).expect("it was just told");
        if actor.lane.handle_callback_over(seq) {
            self.post(Mailbox::Pool, Message::CallbackOver(call));
            self.post(Mailbox::ToProcess(worker.clone()), Message::HostReply { seq });
        }
    }

    /// The call is cancelled, and with it what its callback has open.
    pub(super) fn drop_callback(&mut self, worker: &WorkerId, seq: u64, call: CallId) {
        reach::hit("a callback is dropped".into());
        self.post(Mailbox::Pool, Message::CallbackOver(call));
        self.post(Mailbox::ToProcess(worker.clone()), Message::HostReply { seq });
        self.give_up_callback(call);
    }

    pub(super) fn give_up_callback(&mut self, call: CallId) {
        let Some(callback) = self.callbacks.remove(&call) else { return };
        for open in callback.open {
            let session = self.witness.calls[&open].session;
            self.answer(open, Outcome::GivenUp, Vec::new());
            self.post(Mailbox::Session(session), Message::GiveUp(open));
        }
    }
}
