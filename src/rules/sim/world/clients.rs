//! What the users of a simulated world do: sessions, calls, refs, and giving up.

use super::{Mailbox, Message, World, micros};
use crate::config::{Affinity, OnWorkerLost};
use crate::event::EndReason;
use crate::id::{CallId, RefId, SessionKey, WorkerId};
use crate::rules::pool::{Purpose, Ticket};
use crate::rules::sim::reach;
use crate::rules::sim::session_key;
use crate::rules::sim::sessions::{Body, SessionActor};
use crate::rules::sim::witness::{Outcome, Record};
use std::sync::Arc;

/// A session as its user knows it.
pub(in crate::rules::sim) struct User {
    pub(super) key: SessionKey,
    pub(in crate::rules::sim) refs: Vec<(RefId, WorkerId)>,
    open: usize,
}

impl World {
    /// A session ends, whoever decided it.
    pub(super) fn end(&mut self, session: u64, _reason: EndReason) {
        let Some(user) = self.users.remove(&session) else { return };
        self.sessions.handle_ended(&user.key);
        self.post(Mailbox::Registry, Message::SessionEnded(user.key.clone()));
        for (id, _) in user.refs {
            self.post(Mailbox::Registry, Message::Dropped(id));
        }
        // By the way of its actor: tickets that it has sent come first.
        self.post(Mailbox::Session(session), Message::Forget(user.key));
    }

    pub(super) fn client(&mut self) {
        self.clients_left -= 1;
        if self.clients_left > 0 {
            let pause = if self.random.one_in(6) { self.random.below(6_000) } else { self.random.below(300) };
            self.post_in(Mailbox::Nowhere(0), Message::Client, pause);
        }
        match self.random.below(12) {
            0 if self.faults.give_ups => self.give_up(),
            1 if self.faults.releases => {
                if let Some(session) = self.some_user() {
                    self.end(session, EndReason::Released);
                }
            }
            2 if self.faults.resets => {
                if let Some(session) = self.some_user() {
                    let key = self.users[&session].key.clone();
                    self.post(Mailbox::Session(session), Message::Reset(key));
                }
            }
            3 => self.drop_ref(),
            _ => self.submit(),
        }
    }

    pub(in crate::rules::sim) fn some_user(&mut self) -> Option<u64> {
        let users: Vec<u64> = self.users.keys().copied().collect();
        self.random.pick(&users).copied()
    }

    fn submit(&mut self) {
        let session = match self.some_user() {
            Some(session) if !self.random.one_in(6) => session,
            Some(_) | None => match self.create() {
                Some(session) => session,
                None => return,
            },
        };
        self.submit_for(session);
    }

    pub(super) fn submit_for(&mut self, session: u64) {
        self.submit_in(session, None);
    }

    /// A call of that session, in a callback of the other call if there is one: then the session may have ended.
    pub(in crate::rules::sim) fn submit_in(&mut self, session: u64, parent: Option<CallId>) -> CallId {
        self.last_call += 1;
        let call = CallId(self.last_call);
        let affinity = *self.random.pick(&self.affinities).expect("there are some");
        let (key, refs) = match self.users.get_mut(&session) {
            Some(user) => {
                user.open += 1;
                (user.key.clone(), user.refs.as_slice())
            }
            None => (session_key(session), &[][..]),
        };
        let pinned_to = if self.random.one_in(3) { self.random.pick(refs).map(|(_, at)| at.clone()) } else { None };
        let purpose = match &pinned_to {
            Some(_) if self.random.one_in(3) => Purpose::Continuing,
            _ if self.random.one_in(6) => Purpose::Opening,
            _ => Purpose::Call,
        };
        // A batch works on what is open, and on nothing else.
        let uses_namespace = purpose != Purpose::Continuing && self.random.one_in(4);
        if self.users.contains_key(&session) {
            self.sessions.handle_held(&key);
        }
        let timeout = (self.faults.deadlines && self.random.one_in(3)).then(|| micros(self.random.below(10_000)));
        // The earlier one of its own and that of the call that waits for it.
        let of_parent = parent.and_then(|parent| self.witness.calls[&parent].deadline);
        let own = timeout.map(|timeout| self.now + timeout);
        let deadline = own.into_iter().chain(of_parent).min();
        let timeout = deadline.map(|_| timeout.unwrap_or_default());
        // It waits its turn as a strict call does, whatever was asked for.
        let waits_as = if purpose == Purpose::Continuing { Affinity::StrictQueue } else { affinity };
        let record = Record {
            session,
            parent,
            affinity: waits_as,
            pinned_to: pinned_to.clone(),
            uses_namespace,
            deadline,
            timeout,
            outcome: None,
            is_abandoned: Arc::default(),
            has_begun: false,
            is_withdrawn: false,
            ran_at: None,
            may_rerun: false,
            reruns: 0,
            rerun_at: None,
        };
        let body = Body { call, is_abandoned: Arc::clone(&record.is_abandoned) };
        self.witness.calls.insert(call, record);
        let is_idempotent = self.random.one_in(3);
        let ticket = Ticket {
            call,
            session: key,
            purpose,
            // A trait of the session.
            rebuilds: session.is_multiple_of(3),
            tree: parent.map(|parent| self.witness.root(parent)),
            has_ended: false,
            affinity: Some(affinity),
            pinned_to,
            uses_namespace,
            deadline,
            timeout,
            queue_timeout: (self.random.one_in(8) && !self.faults.patience).then(|| micros(200)),
            bytes: self.random.between(1, 100) as usize,
            on_worker_lost: self.random.one_in(8).then_some(OnWorkerLost::Rehome),
        };
        if let Some(record) = self.witness.calls.get_mut(&call) {
            record.may_rerun = is_idempotent && ticket.may_rerun(Affinity::StrictQueue);
        }
        if uses_namespace && (self.rehomes || ticket.on_worker_lost.is_some()) {
            self.witness.may_always_start_anew(session);
        }
        self.post(Mailbox::Session(session), Message::Submit(ticket, body));
        call
    }

    fn create(&mut self) -> Option<u64> {
        self.last_session += 1;
        let key = session_key(self.last_session);
        let ttl = micros(if self.random.one_in(4) { 3_000 } else { 1_000_000 });
        let is_created = self.sessions.handle_created(key.clone(), ttl, self.now).is_ok();
        self.after_sessions();
        if !is_created {
            return None;
        }
        self.users.insert(self.last_session, User { key: key.clone(), refs: Vec::new(), open: 0 });
        self.actors.insert(self.last_session, SessionActor::default());
        Some(self.last_session)
    }

    pub(super) fn give_up(&mut self) {
        let Some(call) = self.witness.some_open(&mut self.random) else { return };
        let session = self.witness.calls[&call].session;
        self.answer(call, Outcome::GivenUp, Vec::new());
        self.post(Mailbox::Session(session), Message::GiveUp(call));
    }

    fn drop_ref(&mut self) {
        let Some(session) = self.some_user() else { return };
        let user = self.users.get_mut(&session).expect("it was just chosen");
        if let Some((id, _)) = user.refs.pop() {
            self.post(Mailbox::Registry, Message::Dropped(id));
        }
        self.look_at(session);
    }

    /// A caller is answered, by whomever; refs that nobody takes are dropped.
    pub(in crate::rules::sim) fn answer(&mut self, call: CallId, outcome: Outcome, refs: Vec<(RefId, WorkerId)>) {
        // As the promise of a call does that had begun before.
        let outcome = match outcome {
            Outcome::Refused | Outcome::TimedOut { began: false } if self.witness.calls[&call].reruns > 0 => {
                reach::hit("no second run".into());
                Outcome::Crashed
            }
            other => other,
        };
        let is_heard = self.witness.answer(call, outcome);
        let session = self.witness.calls[&call].session;
        match self.users.get_mut(&session).filter(|_| is_heard) {
            Some(user) => {
                user.refs.extend(refs);
                user.open -= 1;
            }
            None => {
                for (id, _) in refs {
                    self.post(Mailbox::Registry, Message::Dropped(id));
                }
            }
        }
        self.look_at(session);
        self.on_answered(call);
    }

    fn look_at(&mut self, session: u64) {
        let Some(user) = self.users.get(&session) else { return };
        if user.open == 0 && user.refs.is_empty() {
            let key = user.key.clone();
            self.sessions.handle_idle(&key, self.now);
        }
    }
}
