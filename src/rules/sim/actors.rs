//! The shell of a worker, as the real one has to behave, and the steps of its process.

use super::process::{Life, Process};
use super::reach;
use super::session_key;
use super::witness::Outcome;
use super::world::{Mailbox, Message, World};
use crate::id::{CallId, RefId, WorkerId};
use crate::rules::heartbeat::{HeartAction, Heartbeat};
use crate::rules::lane::{Granted, Lane, LaneAction, Sent, Verdict};
use std::collections::BTreeSet;
use std::time::Duration;

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
                let session = session_key(record.session);
                let tree = record.parent.map(|_| self.witness.root(call));
                let (deadline, timeout) = (record.deadline, record.timeout);
                let may_rerun = record.may_rerun && record.reruns == 0;
                match actor.lane.handle_granted(Granted {
                    call,
                    session,
                    tree,
                    on,
                    deadline,
                    timeout,
                    may_rerun,
                    parts: 0,
                }) {
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
        self.sent.remove(&replied.call);
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
            self.sent.remove(&call);
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
                    self.sent.remove(&call);
                    self.post(Mailbox::Pool, Message::LeaseOver(call, 0));
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
            Verdict::Cancelled { began: true } => self.witness.must_have_begun(call),
            Verdict::Cancelled { began: false } => self.witness.never_begins(call),
        }
        self.sent.remove(&call);
    }

    /// There is none of a call whose caller was answered.
    fn body_back(&mut self, call: CallId) {
        if let Some((body, _)) = self.sent.remove(&call) {
            let session = self.witness.calls[&call].session;
            self.post(Mailbox::Session(session), Message::CameBack(body));
        }
    }
}
