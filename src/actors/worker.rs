//! One worker process: its messages, the calls in flight there, its death.
//!
//! What is in flight and what a death means for it is decided in `rules::lane`; this shell owns the
//! descriptors. It lives on after its process until the pool says that no request can be on its way
//! to it, and sends such late ones back.

mod callbacks;
mod calls;
mod end;
mod force;
mod journal;
mod life;
mod panic;
mod polling;
mod replies;
mod vitals;

pub(crate) use calls::{Abandon, Distrust, DropTakeBack, Free, Run, TakeBack};
pub(crate) use life::{Exited, Forked, Kill, NeverForked, Orphaned, Retire, Stop};
pub(crate) use panic::PoolPanicked;

use super::outbox::Outbox;
use super::pool::{LeaseOver, PoolSupervisor, Started, TaintWorker, TakingBack};
use super::registry::Registry;
use super::request::{IfUnheard, Request};
use super::session::CameBack;
use super::timer::{OnTimer, Timer, epoch};
use crate::clock;
use crate::config::{Affinity, PoolConfig, bounded};
use crate::error::{Error, Ran, Result};
use crate::id::{CallId, WorkerId};
use crate::observe::{Handled, Journal, Messages, Who};
use crate::pickle;
use crate::process::{BlockTable, DeathWatch, Exit, First, Lifeline, Link, MESSAGE_LIMIT, Output, Page, Residency};
use crate::rules::heartbeat::Heartbeat;
use crate::rules::lane::{Granted, Lane, LaneAction, Sent, Verdict, Why};
use crate::rules::memory::Memory;
use crate::wire::{Ended, FromWorker, PROTOCOL};
use actix::prelude::*;
use callbacks::{Callbacks, HostCall};
use panic::InHand;
use polling::{Look, Polling};
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::{Duration, Instant};

/// How many messages are taken in before the mailbox gets its turn.
const BATCH: usize = 64;

/// The shell of one worker generation.
pub(crate) struct WorkerActor {
    id: WorkerId,
    outbox: Outbox,
    polling: Polling,
    incoming: BlockTable,
    page: Page,
    output: Output,
    /// Closed to kill.
    lifeline: Option<Lifeline>,
    watch: Option<Arc<DeathWatch>>,
    exit_seen: bool,
    lane: Lane,
    heart: Heartbeat,
    memory: Memory,
    sight: Sight,
    requests: BTreeMap<CallId, Box<Request>>,
    /// Of calls that were answered before the worker did.
    unheard: BTreeMap<CallId, IfUnheard>,
    /// When each entry last answered a call that did not run on top of another.
    answered_at: Vec<Instant>,
    callbacks: Callbacks,
    inbox: Vec<u8>,
    /// Of calls that name none.
    affinity: Affinity,
    phase: Phase,
    /// It took calls once.
    greeted: bool,
    /// Its socket was read to the end.
    closed: bool,
    /// It is killed because the bridge shuts down.
    for_shutdown: bool,
    exit: Option<Exit>,
    /// How long to wait for that, once its end was seen; zero where nobody will tell.
    status_wait: Duration,
    /// Why it cannot take calls, in Python's words.
    start_failure: Option<String>,
    /// What it did that it must not, if that is why it is being killed.
    violation: Option<Arc<str>>,
    /// Why it is being killed, if its exit would not say. What it died of before that, its exit does say.
    killed_for: Option<String>,
    /// The supervisor of its pool has panicked, and knows of no call here any more.
    is_void: bool,
    /// The pool has been told that it is gone.
    is_told: bool,
    /// A call of which a panic would leave nothing but this.
    in_hand: Option<InHand>,
    pool: Addr<PoolSupervisor>,
    registry: Addr<Registry>,
    journal: Journal,
    timer: Timer,
    /// The ids that it may give to objects.
    ids: Range<u64>,
}

/// Whom a worker tells.
pub(crate) struct Listeners {
    pub(crate) pool: Addr<PoolSupervisor>,
    pub(crate) registry: Addr<Registry>,
    pub(crate) messages: Messages,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Starting,
    Serving,
    /// Its exit was seen; the zygote has until then to say how it ended.
    Exited {
        judged_by: Instant,
    },
    Judged,
    /// This actor has panicked and its process is killed; calls wait until it is certain which had begun.
    Panicked {
        /// None: they are answered.
        answered_by: Option<Instant>,
    },
}

/// How its memory is looked at.
#[derive(Debug)]
enum Sight {
    /// It is not limited, or its process is not there.
    Unasked,
    /// Its process has just come to be.
    Sought {
        pid: u32,
    },
    /// There was no descriptor to look at it by, and that was told; it is tried again with each look.
    Lost {
        pid: u32,
    },
    Open(Residency),
}

/// Why a message was not taken in.
enum Untaken {
    /// No worker of ours sends it.
    Broken(String),
    /// It is as it should be, and this process lacks something that it takes to read it.
    Lacking(String),
    /// The same, and it cannot be read later.
    Lost(String),
}

impl From<String> for Untaken {
    fn from(what: String) -> Self {
        Self::Broken(what)
    }
}

impl WorkerActor {
    pub(crate) fn new(
        id: WorkerId,
        link: Link,
        ids: Range<u64>,
        config: &PoolConfig,
        listeners: Listeners,
        ctx: &mut Context<Self>,
    ) -> Self {
        ctx.spawn(Pump);
        let Listeners { pool, registry, messages } = listeners;
        let journal = Journal::new(messages, Who::Worker(id.clone()));
        let Link { channel, outgoing, incoming, lifeline, page, output } = link;
        Self {
            id,
            outbox: Outbox::new(channel, outgoing),
            polling: Polling::new(config.concurrency),
            incoming,
            page,
            output,
            lifeline: Some(lifeline),
            watch: None,
            exit_seen: false,
            lane: Lane::new(config.concurrency, bounded(config.cancel_grace)),
            heart: Heartbeat::new(config.heartbeat_interval(), epoch()),
            memory: Memory::new(config.into(), epoch()),
            sight: Sight::Unasked,
            requests: BTreeMap::new(),
            unheard: BTreeMap::new(),
            answered_at: vec![epoch(); config.concurrency],
            callbacks: Callbacks::default(),
            inbox: vec![0; MESSAGE_LIMIT],
            affinity: config.affinity,
            phase: Phase::Starting,
            greeted: false,
            closed: false,
            for_shutdown: false,
            exit: None,
            status_wait: if mutant!("status.is_not_awaited") { Duration::ZERO } else { end::STATUS_WAIT },
            start_failure: None,
            violation: None,
            killed_for: None,
            is_void: false,
            is_told: false,
            in_hand: None,
            pool,
            registry,
            journal,
            timer: Timer::start(ctx),
            ids,
        }
    }

    /// Carries out what the rules have decided.
    fn perform(&mut self) {
        self.perform_heart();
        self.perform_memory();
        while let Some(action) = self.lane.poll_action() {
            match action {
                LaneAction::Revoke { seq, entry, nested } => {
                    // The worker has yet to read the word for an older call, or the kernel has no
                    // barrier: what was sent counts as begun.
                    let is_shared = self.lane.is_revoked(self.page.revoked(seq)) && !mutant!("revoke.word_is_shared");
                    let is_exact = !is_shared && {
                        self.page.revoke(seq);
                        self.page.barrier()
                    };
                    let begun = match (is_exact, nested) {
                        (false, _) => u64::MAX,
                        (true, false) => self.page.begun(entry),
                        (true, true) => self.page.begun_nested(entry),
                    };
                    self.note_revoked(seq, begun);
                    self.lane.handle_revocation(seq, begun, clock::now());
                }
                LaneAction::Answer { call, verdict } => self.answer(call, verdict),
                LaneAction::DropCallback { seq, call } => self.drop_callback(seq, call),
                LaneAction::Interrupt { seq } => self.interrupt(seq),
                LaneAction::TakenBack { call } => {
                    if let Some(request) = self.requests.remove(&call) {
                        self.send_back(request);
                    }
                    self.pool.do_send(TakingBack::Done { call });
                }
                LaneAction::Kept { call } => self.pool.do_send(TakingBack::Kept { call }),
                LaneAction::Passed { call } => {
                    self.pool.do_send(TakingBack::Passed { call, worker: self.id.clone() });
                }
                LaneAction::Over { call } => {
                    // Its caller left when it seemed to have begun, and it was passed all the same.
                    self.requests.remove(&call);
                    self.unheard.remove(&call);
                    let worker = self.id.clone();
                    self.pool.do_send(LeaseOver { call, worker, pins_made: 0, is_answer: false });
                }
                LaneAction::Taint { how_long } => {
                    let reason = "a cancelled call does not end".to_owned();
                    self.pool.do_send(TaintWorker { worker: self.id.clone(), how_long, reason, is_renewed: false });
                }
                LaneAction::Kill { why: Why::Overran { call } } => {
                    self.note_overran(call);
                    self.kill_for(format!("killed, its call {call} did not end when it was cancelled"));
                }
            }
        }
        debug_assert!(
            self.lane.due() > 0 || self.requests.is_empty() || !matches!(self.phase, Phase::Serving),
            "calls are over, and their requests are here: {:?}",
            self.requests.keys()
        );
        let judged_by = match self.phase {
            Phase::Exited { judged_by } => Some(judged_by),
            Phase::Panicked { answered_by } => answered_by,
            Phase::Starting | Phase::Serving | Phase::Judged => None,
        };
        let next = [self.lane.poll_timeout(), self.heart.poll_timeout(), self.memory.poll_timeout(), judged_by];
        self.timer.set(next.into_iter().flatten().min());
    }

    fn answer(&mut self, call: CallId, verdict: Verdict) {
        let Some(mut request) = self.requests.remove(&call) else { return };
        if let Some(done) = request.if_unheard.take() {
            self.unheard.insert(call, done);
        }
        let ran = |began| if began { Ran::Maybe } else { Ran::No };
        request.promise.answer(Err(match verdict {
            Verdict::Timeout { timeout, began } => Error::Timeout { timeout, ran: ran(began) },
            Verdict::Cancelled { began } => Error::Cancelled { why: "its caller left".into(), ran: ran(began) },
        }));
    }

    fn send_back(&self, mut request: Box<Request>) {
        request.promise.came_back();
        request.sent = None;
        request.hold.actor.clone().do_send(CameBack(request));
    }

    fn lease_over(&mut self, call: CallId, pins_made: usize) {
        self.in_hand = None;
        self.pool.do_send(LeaseOver { call, worker: self.id.clone(), pins_made, is_answer: true });
    }

    fn run(&mut self, mut request: Box<Request>, on: Option<CallId>) {
        let call = request.call;
        self.in_hand = Some(InHand::Coming(call));
        match self.phase {
            Phase::Judged => {
                self.journal.note(Handled::Run, Some(call), Some(request.hold.key()), || "sent back: it is gone");
                self.send_back(request);
                self.pool.do_send(TakingBack::Passed { call, worker: self.id.clone() });
                self.in_hand = None;
                return;
            }
            Phase::Panicked { .. } => {
                self.journal.note(Handled::Run, Some(call), Some(request.hold.key()), || "kept: it is killed");
                self.requests.insert(call, request);
                self.in_hand = None;
                return;
            }
            Phase::Starting | Phase::Serving | Phase::Exited { .. } => {}
        }
        let session = request.hold.key().clone();
        let now = clock::now();
        let (tree, deadline, timeout) = (request.tree(), request.deadline, request.timeout);
        let may_rerun = request.idempotent && request.ticket().may_rerun(self.affinity);
        let parts = request.parts;
        let sent = self.lane.handle_granted(Granted { call, session, tree, on, deadline, timeout, may_rerun, parts });
        request.sent = sent.map(|sent| (now, sent));
        // What the lane knows is among the requests, whatever comes.
        let request = self.requests.entry(call).or_insert(request);
        self.journal.note(Handled::Run, Some(call), Some(request.hold.key()), || journal::sent(sent));
        let outcome = sent.map_or(Ok(()), |sent| self.outbox.send_call(request, sent, &self.page));
        self.look_for_answers();
        if let Err(error) = outcome {
            self.unsendable(call, &error);
        }
        self.perform();
        self.in_hand = None;
    }

    /// Something that the worker will answer was sent.
    fn look_for_answers(&mut self) {
        if let Some(budget) = self.polling.on_sent(self.lane.due(), clock::now()) {
            self.page.set_poll_budget(budget);
        }
    }

    /// There is no memory for the body of a call: it is refused, and passed by the worker.
    fn unsendable(&mut self, call: CallId, error: &io::Error) {
        if let Some(mut request) = self.requests.remove(&call) {
            let what = format!("the host has no memory for the arguments: {error}");
            request.promise.answer(Err(Error::internal(what, Ran::No)));
        }
        self.lane.cancel(call, clock::now());
        self.perform();
    }

    // ---- from the worker

    fn on_message(&mut self, length: usize, ctx: &mut Context<Self>) {
        let datagram = std::mem::take(&mut self.inbox);
        match FromWorker::decode(&datagram[..length]) {
            Ok((message, inline)) => match self.take(message, inline, ctx) {
                Ok(()) => {}
                Err(Untaken::Broken(what)) => self.distrust(what),
                Err(Untaken::Lacking(what) | Untaken::Lost(what)) => {
                    self.kill_for(format!("the host cannot take what it sent: {what}"));
                }
            },
            Err(malformed) => self.distrust(malformed.to_string()),
        }
        self.inbox = datagram;
        self.perform();
    }

    fn take(&mut self, message: FromWorker, inline: &[u8], ctx: &mut Context<Self>) -> Result<(), Untaken> {
        match message {
            FromWorker::Hello { protocol: PROTOCOL, .. } if self.phase == Phase::Starting => {
                self.journal.note(Handled::Hello, None, None, || "takes calls");
                self.phase = Phase::Serving;
                self.greeted = true;
                self.heart.start(clock::now());
                self.tell_started();
                Ok(())
            }
            FromWorker::Hello { protocol, .. } => Err(format!("a greeting of protocol {protocol}").into()),
            FromWorker::StartFailed { .. } if self.greeted => {
                Err("a failed start after its greeting".to_owned().into())
            }
            FromWorker::StartFailed { body } => {
                let body = self.body(body, inline)?;
                let cause = pickle::decode_error(&body).map_err(|error| format!("{error:?}"))?.to_string();
                self.journal.note(Handled::CannotStart, None, None, || format!("killed: {cause}"));
                self.start_failure = Some(cause);
                self.kill();
                Ok(())
            }
            FromWorker::Passed { seq, released } => {
                for index in released {
                    self.outbox.on_released(index).map_err(|bad| bad.to_string())?;
                }
                self.note_passed(seq);
                self.note_answered(seq);
                Ok(self.lane.handle_passed(seq).map_err(|violation| format!("{violation:?}"))?)
            }
            FromWorker::Pong => Ok(self.heart.handle_pong().map_err(|unasked| format!("{unasked:?}"))?),
            FromWorker::HostCall { seq, function, body, released, refs } => {
                for index in released {
                    self.outbox.on_released(index).map_err(|bad| bad.to_string())?;
                }
                let refs = self.own(refs)?;
                let body = self.body(body, inline)?;
                Ok(self.host_call(HostCall { seq, function, body, refs }, ctx)?)
            }
            FromWorker::Reply { seq, ended: Ended::Part, body, released: _, refs } => {
                let refs = self.own(refs)?;
                let body = self.body(body, inline)?;
                let call = self.lane.handle_part(seq, body.len()).map_err(|violation| format!("{violation:?}"))?;
                self.note_part(seq);
                Ok(self.part(call, body, refs)?)
            }
            FromWorker::Reply { seq, ended, body, released, refs } => {
                for index in released {
                    self.outbox.on_released(index).map_err(|bad| bad.to_string())?;
                }
                self.note_answered(seq);
                let replied = self.lane.handle_reply(seq).map_err(|violation| format!("{violation:?}"))?;
                self.in_hand = Some(InHand::Answered(replied.call));
                self.note_reply(seq, &replied, ended);
                let outcome = self.own(refs).map_err(Untaken::from).and_then(|refs| match self.body(body, inline) {
                    Ok(body) => Ok(self.replied(replied.call, ended, body, refs)?),
                    Err(untaken) => {
                        self.free(refs);
                        Err(untaken)
                    }
                });
                let Err(untaken) = outcome else { return Ok(()) };
                self.lease_over(replied.call, 0);
                if let Some(mut request) = self.requests.remove(&replied.call) {
                    request.promise.answer(Err(match &untaken {
                        Untaken::Broken(what) => {
                            let (worker, what) = (self.id.clone(), what.as_str().into());
                            Error::Protocol { worker, what, ran: Ran::Yes }
                        }
                        Untaken::Lacking(what) | Untaken::Lost(what) => {
                            Error::internal(format!("the host cannot take the result: {what}"), Ran::Yes)
                        }
                    }));
                }
                if let Untaken::Lacking(_) = untaken { Ok(()) } else { Err(untaken) }
            }
        }
    }

    /// From now on the next call of the entry runs.
    fn note_answered(&mut self, seq: u64) {
        if let Some(Sent { entry, nested: false, .. }) = self.lane.sent(seq) {
            self.answered_at[entry as usize] = clock::now();
        }
    }

    /// It takes calls once it has greeted and its death will be seen; the two are told on different sockets.
    fn tell_started(&self) {
        if self.greeted && self.watch.is_some() {
            self.pool.do_send(Started { worker: self.id.clone() });
        }
    }

    /// Whether the worker has one message to send and no more: a call whose answer may come in parts sends several.
    /// That cannot be told of one whose caller was answered, and whose request is gone.
    fn is_one_message_due(&self) -> bool {
        let is_whole = |request: &Request| !request.promise.comes_in_parts();
        self.lane.due() == 1
            && !self.heart.is_waiting()
            && self.requests.len() == 1
            && self.requests.values().all(|request| is_whole(request))
    }

    /// Takes one message in; `false` if there is none, or will be none.
    fn poll_message(&mut self, first: First, ctx: &mut Context<Self>, task: &mut TaskContext<'_>) -> bool {
        if self.closed {
            return false;
        }
        let last = self.exit.is_none() && !self.exit_seen && self.is_one_message_due();
        match self.outbox.poll_recv(task, &mut self.inbox, first, last) {
            Poll::Ready(Ok(0)) => {
                // A process that closes its socket serves nobody any more.
                self.journal.note(Handled::Closed, None, None, || "killed if it still runs");
                self.closed = true;
                self.kill_unreachable();
                false
            }
            Poll::Ready(Ok(length)) => {
                let now = clock::now();
                self.polling.on_received(now);
                self.heart.handle_heard(now);
                self.on_message(length, ctx);
                true
            }
            Poll::Ready(Err(error)) => {
                self.closed = true;
                self.distrust(error.to_string());
                false
            }
            Poll::Pending => false,
        }
    }
}

impl Actor for WorkerActor {
    type Context = Context<Self>;
}

impl OnTimer for WorkerActor {
    fn on_timer(&mut self, _: &mut Context<Self>) {
        let now = clock::now();
        self.lane.handle_timeout(now);
        self.beat(now);
        self.journal.note(Handled::CallAlarm, None, None, || "deadlines looked at");
        if let Phase::Exited { judged_by } = self.phase
            && judged_by <= now
        {
            self.judge(Exit::UNKNOWN);
        }
        if let Phase::Panicked { answered_by: Some(answered_by) } = self.phase
            && answered_by <= now
        {
            self.answer_unseen();
        }
        self.perform();
    }
}

/// Moves messages in both directions and sees the exit; polled behind the mailbox.
struct Pump;

impl ActorFuture<WorkerActor> for Pump {
    type Output = ();

    fn poll(
        self: Pin<&mut Self>,
        actor: &mut WorkerActor,
        ctx: &mut Context<WorkerActor>,
        task: &mut TaskContext<'_>,
    ) -> Poll<()> {
        if actor.phase == Phase::Judged {
            return Poll::Ready(());
        }
        if let Phase::Panicked { .. } = actor.phase {
            if actor.exit.is_none() && !actor.exit_seen {
                return Poll::Pending;
            }
            actor.judge_after_panic();
            return Poll::Ready(());
        }
        while let Err((call, error)) = actor.outbox.poll_flush(task, &actor.requests, &actor.page) {
            actor.unsendable(call, &error);
        }
        if actor.outbox.is_broken() && actor.lifeline.is_some() {
            actor.kill_unreachable();
        }
        // Looked at before the last read: what was written before the exit is then read to its end,
        // though a process that it forked may hold the socket open.
        let exited = actor.exit.is_some() || actor.exit_seen;
        let look = if exited { Look::ToTheEnd } else { actor.polling.look(actor.page.worker_sent(), clock::now) };
        for taken in 0..BATCH {
            if !actor.poll_message(look.first(taken), ctx, task) {
                match look {
                    Look::Again => task.waker().wake_by_ref(),
                    Look::Receive(First::Waiting) if taken == 0 => actor.polling.waited_in_vain(),
                    Look::Receive(_) | Look::ToTheEnd => {}
                }
                if taken > 0 && actor.outbox.is_waiting() {
                    // A message that was taken may have given back what waits for a block, or sent more.
                    task.waker().wake_by_ref();
                }
                if exited {
                    actor.on_exit_seen();
                }
                return if actor.phase == Phase::Judged { Poll::Ready(()) } else { Poll::Pending };
            }
        }
        task.waker().wake_by_ref();
        Poll::Pending
    }
}
