//! The shell of a session, as the real one has to behave.

use super::reach;
use super::witness::Outcome;
use super::world::{Mailbox, Message, World};
use crate::id::{CallId, PoolName, WorkerId};
use crate::rules::forgetting::Forgetting;
use crate::rules::pending::{self, NotReady, Pending, PendingAction};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

#[derive(Default)]
pub(super) struct SessionActor {
    pending: Pending<Body, Grant>,
    /// The `on_home`s that run, by the calls that have set the homes, and where.
    on_homes: BTreeMap<CallId, WorkerId>,
    ending: Option<Forgetting>,
}

#[derive(Clone, Debug)]
pub(super) struct Body {
    pub(super) call: CallId,
    /// Its caller was answered, or has left: seen at once, by whoever has the body.
    pub(super) is_abandoned: Arc<AtomicBool>,
}

impl pending::Body for Body {
    fn call(&self) -> CallId {
        self.call
    }

    fn is_abandoned(&self) -> bool {
        self.is_abandoned.load(Ordering::Relaxed)
    }
}

#[derive(Clone, Debug)]
pub(super) struct Grant {
    pub(super) call: CallId,
    pub(super) worker: WorkerId,
    pub(super) on: Option<CallId>,
    pub(super) rebuild: bool,
}

impl pending::Grant for Grant {
    fn call(&self) -> CallId {
        self.call
    }

    fn sets_home(&self) -> bool {
        self.rebuild
    }
}

fn pool() -> PoolName {
    "p".into()
}

impl World {
    pub(super) fn tell_session(&mut self, session: u64, message: Message) {
        let Some(actor) = self.actors.get_mut(&session) else {
            match message {
                // What callers want of a session that is over, and what crosses its end.
                Message::GiveUp(_) | Message::WithdrawalSeen(..) | Message::RebuildEnds(..) => return,
                other => panic!("{other:?} comes to session {session}, which is over"),
            }
        };
        match message {
            Message::Submit(mut ticket, body) => {
                ticket.has_ended = actor.ending.is_some();
                let key = ticket.session.clone();
                actor.pending.submit(body);
                let is_told_again = actor.ending.as_mut().is_some_and(|ending| ending.on_ticket(&pool()));
                if ticket.has_ended {
                    reach::hit("a call of an ended session, in a callback".into());
                }
                self.post(Mailbox::Pool, Message::Ticket(ticket));
                if is_told_again {
                    self.post(Mailbox::Pool, Message::Forget(key));
                }
            }
            Message::Forget(key) => {
                actor.ending = Some(Forgetting::of([&pool()]));
                actor.pending.end();
                self.post(Mailbox::Pool, Message::Forget(key));
            }
            Message::Reset(key) => self.post(Mailbox::Pool, Message::Reset(key)),
            Message::GiveUp(call) => {
                if !actor.pending.give_up(call)
                    && let Some((_, worker)) = self.sent.get(&call)
                {
                    self.post(Mailbox::Worker(worker.clone()), Message::Cancel(call));
                }
            }
            Message::Grant(grant) => {
                let call = grant.call;
                match actor.pending.body(call) {
                    Some(body) if pending::Body::is_abandoned(body) => {
                        reach::hit("grant meets a call that was given up".into());
                    }
                    None if actor.pending.rebuilding(call).is_none() => {
                        reach::hit("grant before the body is back".into());
                    }
                    Some(_) | None => {}
                }
                actor.pending.handle_granted(grant);
            }
            Message::Refuse(call, refusal) => {
                if actor.pending.rebuilding(call).is_some() {
                    reach::hit("refused while its home is made ready".into());
                }
                actor.pending.handle_refused(call, refusal);
                if actor.pending.refusal(call).is_some() {
                    reach::hit("refused before the body is back".into());
                }
            }
            Message::CameBack(body) => {
                if pending::Body::is_abandoned(&body) {
                    reach::hit("given up while its body is on the way back".into());
                }
                actor.pending.handle_came_back(body);
            }
            Message::WithdrawalSeen(call, is_last) => {
                if actor.pending.is_forgotten_by(call, is_last) {
                    self.witness.never_begins(call);
                } else {
                    reach::hit("withdrawn, and granted all the same".into());
                }
                actor.pending.handle_withdrawal_seen(call, is_last);
            }
            Message::RebuildEnds(call, worker, is_ready) => {
                if actor.on_homes.get(&call) != Some(&worker) {
                    return;
                }
                actor.on_homes.remove(&call);
                if is_ready {
                    reach::hit("a home is made ready".into());
                    self.post(Mailbox::Pool, Message::Rebuilt(call, worker));
                    self.pending_of(session).handle_rebuilt(call);
                } else {
                    actor.pending.fail_rebuild(call, NotReady::Failed);
                }
            }
            Message::Forgotten(key, namespace) => {
                let ending = actor.ending.as_mut().expect("it is forgotten when it has ended");
                if ending.on_answer(&pool()) {
                    reach::hit("a session is forgotten again".into());
                    self.post(Mailbox::Pool, Message::Forget(key.clone()));
                } else {
                    assert!(actor.pending.is_over(), "{key} is over, and somebody waits for it");
                    self.actors.remove(&session);
                }
                self.post(Mailbox::Registry, Message::SessionForgotten(key, namespace));
            }
            other => panic!("{other:?} is not for a session"),
        }
        self.after_pending(session);
    }

    fn pending_of(&mut self, session: u64) -> &mut Pending<Body, Grant> {
        &mut self.actors.get_mut(&session).expect("it was just told").pending
    }

    fn after_pending(&mut self, session: u64) {
        while let Some(action) = self.actors.get_mut(&session).and_then(|actor| actor.pending.poll_action()) {
            self.note(&format!("{session} {action:?}"));
            match action {
                PendingAction::Send { body, grant: Grant { call, worker, on, .. } } => {
                    self.sent.insert(call, (body, worker.clone()));
                    self.post(Mailbox::Worker(worker), Message::Request(call, on));
                }
                PendingAction::Refuse { body, .. } => self.answer(body.call, Outcome::Refused, Vec::new()),
                PendingAction::Withdraw { call } => self.post(Mailbox::Pool, Message::Withdrawn(call)),
                PendingAction::Rebuild { call } => self.run_on_home(session, call),
                PendingAction::EndRebuild { call } => {
                    if let Some(actor) = self.actors.get_mut(&session) {
                        actor.on_homes.remove(&call);
                    }
                }
                PendingAction::RebuildFailed { call, why } => {
                    reach::hit(format!("home not ready, {why:?}"));
                    if let Some((_, grant)) = self.pending_of(session).rebuilding(call) {
                        let worker = grant.worker.clone();
                        self.post(Mailbox::Pool, Message::RebuildFailed(call, worker));
                    }
                }
                PendingAction::GiveBack { grant } => {
                    self.post(Mailbox::Pool, Message::Returned(grant.call, grant.worker));
                }
                PendingAction::Forget { .. } => {}
            }
        }
    }

    fn run_on_home(&mut self, session: u64, call: CallId) {
        let actor = self.actors.get_mut(&session).expect("it was just told");
        let (_, grant) = actor.pending.rebuilding(call).expect("its home is wanted");
        let worker = grant.worker.clone();
        actor.on_homes.insert(call, worker.clone());
        let is_ready = !self.random.one_in(3);
        self.post(Mailbox::Session(session), Message::RebuildEnds(call, worker, is_ready));
    }
}
