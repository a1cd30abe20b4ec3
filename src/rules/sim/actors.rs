//! The shells of sessions and workers, as the real ones have to behave, and the steps of a process.

use super::process::{Life, Process};
use super::reach;
use super::witness::Outcome;
use super::world::{Mailbox, Message, World};
use crate::id::{CallId, RefId, SessionKey, WorkerId};
use crate::rules::heartbeat::{HeartAction, Heartbeat};
use crate::rules::lane::{Granted, Lane, LaneAction, Sent, Verdict};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

#[derive(Debug, Default)]
pub(super) struct SessionActor {
    pub(super) calls: BTreeMap<CallId, Request>,
    /// Grants that wait for a body, and all after them: else a later call would overtake.
    held: VecDeque<Grant>,
    /// Calls that set a home which is being made ready, and whether the pool was told that it will not be.
    rebuilding: BTreeMap<CallId, (Grant, bool)>,
    /// It has ended, and whether a ticket was sent since the pool was told to forget it.
    ending: Option<bool>,
}

#[derive(Clone, Debug)]
pub(super) struct Grant {
    pub(super) call: CallId,
    pub(super) worker: WorkerId,
    pub(super) on: Option<CallId>,
    pub(super) rebuild: bool,
}

#[derive(Debug)]
pub(super) struct Request {
    body: Body,
    is_given_up: bool,
}

impl SessionActor {
    /// Takes a grant that is held, and is not to be used.
    fn unhold(&mut self, call: CallId) -> Option<WorkerId> {
        let at = self.held.iter().position(|grant| grant.call == call)?;
        self.held.remove(at).map(|grant| grant.worker)
    }
}

#[derive(Debug)]
enum Body {
    Here,
    At(WorkerId),
}

pub(super) struct WorkerActor {
    pub(super) lane: Lane,
    pub(super) heart: Heartbeat,
    pub(super) process: Process,
    pub(super) has_exited: bool,
    /// Calls that could not be taken back, or so it seemed.
    kept: BTreeSet<CallId>,
}

impl WorkerActor {
    pub(super) fn new(concurrency: usize, cancel_grace: Duration, heart: Heartbeat) -> Self {
        Self {
            lane: Lane::new(concurrency, cancel_grace),
            heart,
            process: Process::new(concurrency),
            has_exited: false,
            kept: BTreeSet::new(),
        }
    }
}

impl World {
    pub(super) fn tell_session(&mut self, session: u64, message: Message) {
        match message {
            Message::Submit(mut ticket) => {
                let actor = self.actors.get_mut(&session).expect("a session takes calls while it lives");
                if let Some(had_ticket) = &mut actor.ending {
                    *had_ticket = true;
                    ticket.has_ended = true;
                    reach::hit("a call of an ended session, in a callback".into());
                }
                actor.calls.insert(ticket.call, Request { body: Body::Here, is_given_up: false });
                self.post(Mailbox::Pool, Message::Ticket(ticket));
            }
            Message::Forget(key) => {
                self.post(Mailbox::Pool, Message::Forget(key));
                if let Some(actor) = self.actors.get_mut(&session) {
                    actor.ending = Some(false);
                }
                let calls: Vec<CallId> = self.actors[&session].rebuilding.keys().copied().collect();
                for call in calls {
                    self.fail_rebuild(session, call);
                }
            }
            Message::Reset(key) => self.post(Mailbox::Pool, Message::Reset(key)),
            Message::GiveUp(call) => self.on_given_up(session, call),
            Message::Grant(grant) => self.on_grant(session, grant),
            Message::RebuildEnds(call, worker, is_ready) => self.on_rebuild_ends(session, call, &worker, is_ready),
            Message::Refuse(call, not_ready) => {
                let actor = self.actors.get_mut(&session).expect("nothing is refused that is forgotten");
                actor.calls.remove(&call);
                if let Some((Grant { worker, .. }, _)) = actor.rebuilding.remove(&call) {
                    reach::hit("refused while its home is made ready".into());
                    if !not_ready {
                        self.post(Mailbox::Pool, Message::Returned(call, worker));
                    }
                } else if let Some(worker) = actor.unhold(call) {
                    self.post(Mailbox::Pool, Message::Returned(call, worker));
                }
                self.answer(call, Outcome::Refused, Vec::new());
                self.use_grants(session);
            }
            Message::BodyBack(call) => self.on_body_back(session, call),
            Message::Ended(call) => {
                let actor = self.actors.get_mut(&session).expect("a session with an open lease lives");
                actor.calls.remove(&call);
            }
            Message::Forgotten(key, namespace) => {
                let actor = self.actors.get_mut(&session).expect("a session is forgotten once");
                if actor.ending == Some(true) {
                    reach::hit("a session is forgotten again".into());
                    actor.ending = Some(false);
                    self.post(Mailbox::Pool, Message::Forget(key.clone()));
                } else {
                    assert!(actor.calls.is_empty(), "{key} is forgotten with {:?}", actor.calls);
                    self.actors.remove(&session);
                }
                self.post(Mailbox::Registry, Message::SessionForgotten(key, namespace));
            }
            other => panic!("{other:?} is not for a session"),
        }
    }

    fn on_given_up(&mut self, session: u64, call: CallId) {
        // Only callers may write to a session that has stopped: it has told them all.
        let Some(actor) = self.actors.get_mut(&session) else { return };
        let Some(request) = actor.calls.get_mut(&call) else { return };
        match &request.body {
            Body::Here if actor.rebuilding.contains_key(&call) => {
                request.is_given_up = true;
                self.fail_rebuild(session, call);
            }
            Body::Here => {
                actor.calls.remove(&call);
                match actor.unhold(call) {
                    Some(worker) => self.post(Mailbox::Pool, Message::Returned(call, worker)),
                    None => self.post(Mailbox::Pool, Message::Withdrawn(call)),
                }
                self.use_grants(session);
            }
            Body::At(worker) => {
                request.is_given_up = true;
                let worker = worker.clone();
                self.post(Mailbox::Worker(worker), Message::Cancel(call));
            }
        }
    }

    fn on_grant(&mut self, session: u64, grant: Grant) {
        let call = grant.call;
        let actor = self.actors.get_mut(&session).expect("nothing is granted that is forgotten");
        let Some(request) = actor.calls.get(&call) else {
            reach::hit("grant meets a call that was given up".into());
            return self.post(Mailbox::Pool, Message::Returned(call, grant.worker));
        };
        if let Body::At(_) = request.body {
            reach::hit("grant before the body is back".into());
        }
        // The worker of an earlier grant is gone, or has taken the call back unseen.
        let rebuilt_in = actor.rebuilding.remove(&call).map(|(grant, _)| grant.worker);
        let earlier = actor.unhold(call).or(rebuilt_in);
        actor.held.push_back(grant);
        if let Some(worker) = earlier {
            self.post(Mailbox::Pool, Message::Returned(call, worker));
        }
        self.use_grants(session);
    }

    /// Sends what is granted, in the order of the grants, up to the first whose body is not here.
    fn use_grants(&mut self, session: u64) {
        while let Some(actor) = self.actors.get_mut(&session)
            && let Some(grant) = actor.held.front().cloned()
        {
            let Grant { call, worker, on, rebuild } = grant.clone();
            let request = actor.calls.get_mut(&call).expect("a grant is held for a call that waits");
            if let Body::At(_) = request.body {
                return;
            }
            actor.held.pop_front();
            if rebuild {
                actor.rebuilding.insert(call, (grant, false));
                let is_ready = !self.random.one_in(3);
                self.post(Mailbox::Session(session), Message::RebuildEnds(call, worker, is_ready));
            } else if request.is_given_up {
                actor.calls.remove(&call);
                self.post(Mailbox::Pool, Message::Returned(call, worker));
            } else {
                request.body = Body::At(worker.clone());
                self.post(Mailbox::Worker(worker), Message::Request(call, on));
            }
        }
    }

    /// The `on_home` of a session has ended, unless it was ended before.
    fn on_rebuild_ends(&mut self, session: u64, call: CallId, worker: &WorkerId, is_ready: bool) {
        let Some(actor) = self.actors.get_mut(&session) else { return };
        match actor.rebuilding.get(&call).filter(|(grant, _)| grant.worker == *worker) {
            Some((_, false)) if is_ready => {
                reach::hit("a home is made ready".into());
                let (grant, _) = actor.rebuilding.remove(&call).expect("it was just found");
                actor.held.push_front(Grant { rebuild: false, ..grant });
                self.post(Mailbox::Pool, Message::Rebuilt(call, worker.clone()));
                self.use_grants(session);
            }
            Some((_, false)) => self.fail_rebuild(session, call),
            Some((_, true)) | None => {}
        }
    }

    fn fail_rebuild(&mut self, session: u64, call: CallId) {
        let actor = self.actors.get_mut(&session).expect("it makes a home ready");
        if let Some((grant, is_told)) = actor.rebuilding.get_mut(&call)
            && !std::mem::replace(is_told, true)
        {
            let worker = grant.worker.clone();
            self.post(Mailbox::Pool, Message::RebuildFailed(call, worker));
        }
    }

    fn on_body_back(&mut self, session: u64, call: CallId) {
        let actor = self.actors.get_mut(&session).expect("a session waits for its bodies");
        let Some(request) = actor.calls.get_mut(&call) else { return };
        request.body = Body::Here;
        if request.is_given_up {
            reach::hit("given up while its body is on the way back".into());
            if !actor.held.iter().any(|grant| grant.call == call) {
                actor.calls.remove(&call);
                self.post(Mailbox::Pool, Message::Withdrawn(call));
            }
        }
        self.use_grants(session);
    }

    pub(super) fn tell_worker(&mut self, worker: &WorkerId, message: Message) {
        let now = self.now;
        let Some(actor) = self.workers.get_mut(worker) else {
            match message {
                // Whoever asks this of a worker that is gone wants nothing else.
                Message::Free(_)
                | Message::DropNamespace(_)
                | Message::Kill
                | Message::Stop
                | Message::Cancel(_)
                | Message::CallbackEnds { .. }
                | Message::TakeBack(_)
                | Message::DropTakeBack(_) => return,
                other => panic!("{other:?} comes to {worker}, which has stopped"),
            }
        };
        if actor.has_exited {
            if let Message::Request(call, _) = message {
                reach::hit("request for a worker that is gone".into());
                self.body_back(call);
                self.post(Mailbox::Pool, Message::Passed(call, worker.clone()));
            }
            return;
        }
        if matches!(message, Message::Reply { .. } | Message::HostCall { .. } | Message::Pass { .. }) {
            actor.heart.handle_heard(now);
        }
        match message {
            Message::Request(call, on) => {
                let record = &self.witness.calls[&call];
                let session = SessionKey::new("s".into(), record.session);
                let tree = record.parent.map(|_| self.witness.root(call));
                let (deadline, timeout) = (record.deadline, record.timeout);
                let may_rerun = record.may_rerun && record.reruns == 0;
                match actor.lane.handle_granted(Granted { call, session, tree, on, deadline, timeout, may_rerun }) {
                    Some(Sent { seq, entry, nested }) => {
                        self.post(Mailbox::ToProcess(worker.clone()), Message::Run { seq, entry, nested, call });
                    }
                    None => reach::hit("take-back before its request".into()),
                }
            }
            Message::TakeBack(call) => actor.lane.take_back(call),
            Message::DropTakeBack(call) => {
                reach::hit("take-back of a call that is over".into());
                actor.lane.drop_take_back(call);
            }
            Message::Cancel(call) => {
                reach::hit("given up at the worker".into());
                actor.lane.cancel(call, now);
            }
            Message::Free(ids) => self.post(Mailbox::ToProcess(worker.clone()), Message::Free(ids)),
            Message::DropNamespace(key) => {
                self.post(Mailbox::ToProcess(worker.clone()), Message::DropNamespace(key));
            }
            Message::Kill => self.kill(worker),
            Message::Stop => {
                actor.heart.stop();
                self.post(Mailbox::ToProcess(worker.clone()), Message::Stop);
            }
            Message::Spawned => self.on_spawned(worker),
            Message::Pong => {
                actor.heart.handle_heard(now);
                actor.heart.handle_pong().expect("the process answers what it was asked");
            }
            Message::Reply { seq, refs } => self.on_reply(worker, seq, refs),
            Message::HostCall { seq } => self.on_host_call(worker, seq),
            Message::CallbackEnds { seq, call } => self.on_callback_over(worker, seq, call),
            Message::Pass { seq } => {
                actor.lane.handle_passed(seq).expect("the process keeps the protocol");
            }
            Message::Gone => self.on_gone(worker),
            other => panic!("{other:?} is not for a worker"),
        }
        self.after_heart(worker);
        self.after_lane(worker);
    }

    fn on_spawned(&mut self, worker: &WorkerId) {
        let fails = self.faults.failed_starts && !self.is_calm;
        let fate = if fails { self.random.below(8) } else { 7 };
        let actor = self.workers.get_mut(worker).expect("it was just told");
        match (actor.process.life, fate) {
            (Life::Doomed, _) | (Life::Starting, 0 | 1) => {
                actor.process.life = Life::Dead;
                actor.has_exited = true;
                self.post(Mailbox::Pool, Message::StartFailed(worker.clone(), fate == 1));
            }
            // It hangs, and is killed when it has taken too long.
            (Life::Starting, 2) => actor.process.life = Life::Alive,
            (Life::Starting, _) => {
                actor.process.life = Life::Alive;
                actor.heart.start(self.now);
                self.post(Mailbox::Pool, Message::Ready(worker.clone()));
            }
            (Life::Alive | Life::Dead, _) => {}
        }
    }

    /// The pool first, then the catalogue, then the caller.
    fn on_reply(&mut self, worker: &WorkerId, seq: u64, refs: Vec<RefId>) {
        let actor = self.workers.get_mut(worker).expect("it was just told");
        let replied = actor.lane.handle_reply(seq).expect("the process keeps the protocol");
        self.post(Mailbox::Pool, Message::LeaseOver(replied.call, refs.len()));
        if !refs.is_empty() {
            self.post(Mailbox::Registry, Message::Made(replied.session.clone(), worker.clone(), refs.clone()));
        }
        self.post(Mailbox::Session(replied.session.incarnation()), Message::Ended(replied.call));
        if replied.is_awaited {
            let refs = refs.into_iter().map(|id| (id, worker.clone())).collect();
            self.answer(replied.call, Outcome::Value, refs);
        } else {
            for id in refs {
                self.post(Mailbox::Registry, Message::Dropped(id));
            }
        }
    }

    fn on_gone(&mut self, worker: &WorkerId) {
        let actor = self.workers.get_mut(worker).expect("it was just told");
        actor.has_exited = true;
        actor.heart.stop();
        let begun = actor.process.begun.clone();
        let death = actor.lane.handle_exit(&begun);
        let waiting = actor.process.threads.iter().flat_map(|thread| thread.stack.iter().map(|frame| frame.call));
        let waiting: Vec<CallId> = waiting.collect();
        for call in &death.rerun {
            reach::hit("run once more".into());
            self.witness.rerun(*call, self.now);
        }
        for call in &death.returned {
            self.body_back(*call);
        }
        self.post(Mailbox::Registry, Message::WorkerGone(worker.clone()));
        self.post(Mailbox::Pool, Message::Exited(worker.clone(), death.over.clone()));
        for call in death.returned {
            self.post(Mailbox::Pool, Message::Passed(call, worker.clone()));
        }
        for call in death.over {
            let session = self.witness.calls[&call].session;
            self.post(Mailbox::Session(session), Message::Ended(call));
        }
        for call in waiting {
            self.give_up_callback(call);
        }
        for call in death.crashed {
            reach::hit("crashed".into());
            // One that a callback made which died with its call has no caller any more.
            if self.witness.calls[&call].outcome.is_none() {
                self.answer(call, Outcome::Crashed, Vec::new());
            }
        }
    }

    /// The page is read where the heartbeat is due, as it is.
    pub(super) fn beat(&mut self, worker: &WorkerId) {
        let Some(actor) = self.workers.get_mut(worker).filter(|actor| actor.heart.is_due(self.now)) else { return };
        let runs = actor.lane.is_running(&actor.process.begun);
        actor.heart.handle_timeout(runs, 0, self.now);
        self.after_heart(worker);
    }

    fn after_heart(&mut self, worker: &WorkerId) {
        while let Some(action) = self.workers.get_mut(worker).and_then(|actor| actor.heart.poll_action()) {
            self.note(&format!("{worker} {action:?}"));
            match action {
                HeartAction::Ping => self.post(Mailbox::ToProcess(worker.clone()), Message::Ping),
                HeartAction::Silent => reach::hit("silent".into()),
                HeartAction::Heard => reach::hit("silent, and heard again".into()),
                HeartAction::Kill { .. } => {
                    self.workers[worker].process.assert_silent(worker, self.now);
                    reach::hit("killed, it did not answer".into());
                    self.kill(worker);
                }
            }
        }
    }

    pub(super) fn after_lane(&mut self, worker: &WorkerId) {
        while let Some(action) = self.workers.get_mut(worker).and_then(|actor| actor.lane.poll_action()) {
            self.note(&format!("{worker} {action:?}"));
            match action {
                LaneAction::Revoke { seq, entry, nested } => {
                    let actor = self.workers.get_mut(worker).expect("it was just polled");
                    actor.process.revoked.insert(seq);
                    let begun = actor.process.begun[entry as usize];
                    let begun = if nested { begun.nested } else { begun.plain };
                    actor.lane.handle_revocation(seq, begun, self.now);
                }
                LaneAction::Answer { call, verdict } => self.on_verdict(call, verdict),
                LaneAction::DropCallback { seq, call } => self.drop_callback(worker, seq, call),
                LaneAction::Interrupt { seq } => self.interrupt(worker, seq),
                LaneAction::TakenBack { call } => {
                    reach::hit("taken back".into());
                    if self.workers.get(worker).is_some_and(|actor| actor.kept.contains(&call)) {
                        reach::hit("kept, and passed all the same".into());
                    }
                    self.body_back(call);
                    self.post(Mailbox::Pool, Message::TakenBack(call));
                }
                LaneAction::Kept { call } => {
                    reach::hit("kept".into());
                    if let Some(actor) = self.workers.get_mut(worker) {
                        actor.kept.insert(call);
                    }
                    self.post(Mailbox::Pool, Message::Kept(call));
                }
                LaneAction::Passed { call } => self.post(Mailbox::Pool, Message::Passed(call, worker.clone())),
                LaneAction::Over { call } => {
                    let session = self.witness.calls[&call].session;
                    self.post(Mailbox::Pool, Message::LeaseOver(call, 0));
                    self.post(Mailbox::Session(session), Message::Ended(call));
                }
                LaneAction::Taint { how_long } => self.post(Mailbox::Pool, Message::Taint(worker.clone(), how_long)),
                LaneAction::Kill { .. } => {
                    reach::hit("overran".into());
                    self.kill(worker);
                }
            }
        }
    }

    fn on_verdict(&mut self, call: CallId, verdict: Verdict) {
        match verdict {
            Verdict::Timeout { began, .. } => {
                reach::hit(format!("answer timeout, {}", if began { "begun" } else { "not begun" }));
                self.answer(call, Outcome::TimedOut { began }, Vec::new());
            }
            Verdict::Cancelled { .. } => {}
        }
    }

    fn body_back(&mut self, call: CallId) {
        let session = self.witness.calls[&call].session;
        self.post(Mailbox::Session(session), Message::BodyBack(call));
    }
}
