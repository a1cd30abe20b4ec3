//! One pool's routing table: homes, slots, leases, tickets and turns, pins, taints, retiring.
//!
//! The pool is told what happened (`handle_*`) and what is wanted (plain verbs), and says what is to
//! be done (`poll_action`). It never sees a body: a call waits with its session, and here stands only
//! its ticket.
//!
//! **A call** is routed when its ticket comes (`route.rs`, the table itself). It is *granted* a
//! worker, *waits* in a line of its session (`queue.rs`), or is *refused*. From its grant until
//! `handle_lease_over` it holds a **lease** (`lease.rs`). A lease beyond the worker's concurrency is
//! **sent ahead**: it holds its place in the queue until the call before it is over, and can be taken
//! back. Whatever makes its worker useless routes it again, in the order of tickets, in the same step.
//!
//! **A worker** is a generation of a slot (`slot.rs`): the next one is started only after the exit of
//! this one was seen. One that is **replaced** (`replace.rs`) serves until a new one in a fresh slot
//! is ready. Then it **retires** (`retire.rs`): it keeps what sessions hold in it until they end or its grace is
//! over. One that has served long enough is **renewed** (`renew.rs`): replaced, when its turn comes.
//!
//! **A namespace** of a session (`namespace.rs`) lives in one worker, and calls that use it go there.
//!
//! **A tree** (`tree.rs`) is a call with the calls that its callbacks make: they run on top of it.
//!
//! After every step no worker has room while a call whose turn may come waits for it. All calls name
//! their worker with the generation, so nothing late is ever taken for something of the next one.

mod action;
mod call;
mod death;
mod ending;
mod lease;
mod namespace;
mod observe;
mod queue;
mod rebuild;
mod renew;
mod replace;
mod retire;
mod route;
mod session;
mod shutdown;
mod slot;
mod start_over;
mod taint;
mod ticket;
mod timer;
mod tree;
mod worker;

#[cfg(test)]
mod check;
#[cfg(test)]
mod transcript;

pub(crate) use action::Action;
#[cfg(test)]
pub(crate) use check::LineView;
pub(crate) use observe::Standing;
pub(crate) use ticket::{PoolRules, Purpose, Refusal, Ticket};

use crate::config::OnWorkerLost;
use crate::event::Fact;
use crate::id::{CallId, WorkerId};
use crate::rules::restart::Restarts;
use call::{Call, Stage};
use queue::Queue;
use renew::Renewal;
use session::{Session, Sid};
use slot::Slot;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;
use timer::{Timer, Timers};
use worker::{Place, Worker};

/// No such worker lives in the pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UnknownWorker(pub(crate) WorkerId);

#[derive(Debug)]
pub(crate) struct Pool {
    rules: PoolRules,
    phase: Phase,
    slots: BTreeMap<u32, Slot>,
    /// Never used again, so that a worker's id is never used twice.
    next_slot: u32,
    /// Every generation from its start to its seen exit.
    workers: BTreeMap<Place, Worker>,
    /// Requests that may still be on their way to a worker that is gone.
    returning: BTreeMap<Place, Vec<(CallId, Sid)>>,
    /// How the last of them ended.
    exits: VecDeque<(Place, Arc<str>)>,
    sessions: BTreeMap<Sid, Session>,
    calls: BTreeMap<CallId, Call>,
    queue: Queue,
    restarts: Restarts,
    /// Workers that wait to be renewed.
    renewals: VecDeque<Renewal>,
    /// How many zygotes were lost or replaced, and why the last: workers of an older one are replaced.
    zygotes_left: u64,
    outdated_because: &'static str,
    /// All that was wanted of the slots has been done since this was asked last.
    has_settled: bool,
    timers: Timers,
    actions: VecDeque<Action>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Until every slot is ready for the first time.
    Starting,
    Open,
    ShuttingDown,
    Stopped,
}

impl Pool {
    pub(crate) fn new(rules: PoolRules) -> Self {
        Self {
            restarts: Restarts::new(rules.restart_budget, rules.start_timeout),
            rules,
            phase: Phase::Starting,
            slots: BTreeMap::new(),
            next_slot: 0,
            workers: BTreeMap::new(),
            returning: BTreeMap::new(),
            exits: VecDeque::new(),
            sessions: BTreeMap::new(),
            calls: BTreeMap::new(),
            queue: Queue::default(),
            renewals: VecDeque::new(),
            zygotes_left: 0,
            outdated_because: "",
            has_settled: false,
            timers: Timers::default(),
            actions: VecDeque::new(),
        }
    }

    /// A call wants a worker; answered by `Grant` or `Refuse`.
    pub(crate) fn handle_ticket(&mut self, ticket: Ticket, now: Instant) {
        let sid = Sid::from(&ticket.session);
        let on_lost = ticket.on_worker_lost.unwrap_or(self.rules.on_worker_lost);
        let stage = if ticket.has_ended { session::Stage::Ended } else { session::Stage::Live };
        self.sessions.entry(sid).or_insert_with(|| Session { stage, ..Session::new(ticket.session) }).calls += 1;
        let call = Call {
            sid,
            purpose: ticket.purpose,
            rebuilds: ticket.rebuilds,
            tree: ticket.tree,
            affinity: ticket.affinity.unwrap_or(self.rules.affinity),
            pinned_to: ticket.pinned_to.as_ref().map(Place::from),
            uses_namespace: ticket.uses_namespace,
            rehomes: on_lost == OnWorkerLost::Rehome,
            deadline: ticket.deadline,
            timeout: ticket.timeout,
            queue_timeout: ticket.queue_timeout.unwrap_or(self.rules.queue_timeout),
            wait_ends: None,
            timer: None,
            bytes: ticket.bytes,
            stage: Stage::Routing,
        };
        self.calls.insert(ticket.call, call);
        self.route(ticket.call, now);
    }

    /// The caller gave up. A call that was granted meanwhile is none of this: its grant meets the
    /// withdrawal at the session, which gives the lease back. `false`: it is granted, and more will
    /// be said of it.
    pub(crate) fn handle_withdrawn(&mut self, call: CallId, now: Instant) -> bool {
        if self.leave_line(call) {
            self.queue.has_moved = true;
            self.forget_call(call);
            self.serve_moved(now);
        }
        !self.calls.contains_key(&call)
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        while let Some(timer) = self.timers.pop_due(now) {
            match timer {
                Timer::Wait(call) => self.on_wait_over(call),
                Timer::Untaint(place) => self.on_taint_over(place, now),
                Timer::StartTimeout(place) => self.on_start_timeout(place),
                Timer::Age(place) => self.on_age_over(place, now),
                Timer::RetireGrace(place) => self.on_retire_grace_over(place, now),
                Timer::Linger(place) => self.on_linger_over(place),
                Timer::BackOff(slot) => self.on_back_off_over(slot, now),
                Timer::DegradedTry => self.on_degraded_try(now),
                Timer::ShutdownGrace => self.on_shutdown_grace_over(),
            }
        }
        self.serve_moved(now);
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    pub(crate) fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    fn act(&mut self, action: Action) {
        self.actions.push_back(action);
    }

    fn emit(&mut self, fact: Fact) {
        self.act(Action::Emit(fact));
    }

    fn refuse(&mut self, id: CallId, refusal: Refusal) {
        let call = &self.calls[&id];
        let session = self.sessions[&call.sid].key.clone();
        self.act(Action::Refuse { call: id, session, refusal });
        self.forget_call(id);
    }

    /// The call holds neither a place nor a lease any more.
    fn forget_call(&mut self, id: CallId) {
        if let Some(call) = self.calls.remove(&id) {
            self.session_mut(call.sid).calls -= 1;
            self.settle_session(call.sid);
        }
    }

    /// Ends an ending session that holds nothing, and remembers nothing of a blank one.
    fn settle_session(&mut self, sid: Sid) {
        let Some(session) = self.sessions.get(&sid) else { return };
        if session.is_blank() {
            self.sessions.remove(&sid);
        } else if session.stage == session::Stage::Ending && session.is_idle() {
            let (session, namespace) = (session.key.clone(), self.left_namespace(session));
            self.sessions.remove(&sid);
            self.act(Action::Forgotten { session, namespace });
        }
    }

    fn session_mut(&mut self, sid: Sid) -> &mut Session {
        self.sessions.get_mut(&sid).expect("a session is known while anything of it is")
    }

    fn worker_mut(&mut self, place: Place) -> &mut Worker {
        self.workers.get_mut(&place).expect("a worker is known while anything is bound to it")
    }

    fn worker_id(&self, place: Place) -> WorkerId {
        match self.workers.get(&place) {
            Some(worker) => worker.id.clone(),
            None => WorkerId::new(self.rules.name.clone(), place.slot, place.generation),
        }
    }
}
