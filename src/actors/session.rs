//! The requests of one session: each waits here, with its body, until a pool grants or refuses it.
//!
//! It decides nothing: pools do. It keeps bodies out of their queues, and [`Pending`] brings decision and body
//! together in whichever order they arrive.

mod grant;
mod journal;
mod panic;
mod rebuild;

pub(crate) use grant::Grant;
pub(crate) use panic::StartedOver;

use super::hold::{Hold, SessionState};
use super::pool::{Forget, PoolSupervisor, Reset, Submit, Withdrawn};
use super::refusal;
use super::registry::{Registry, SessionEnded};
use super::request::{Place, Request};
use super::worker::{Abandon, Run};
use crate::error::{Error, Ran};
use crate::event::EndReason;
use crate::id::{CallId, PoolName, SessionId, WorkerId};
use crate::observe::{Handled, Journal, Messages, Who};
use crate::rules::forgetting::Forgetting;
use crate::rules::pending::{self, Pending, PendingAction};
use crate::rules::pool::Refusal;
use actix::prelude::*;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// The mailbox of one session. `SnakeBridge::session_addr` gives its address; it answers
/// [`SessionStatus`](crate::SessionStatus).
pub struct SessionActor {
    state: Arc<SessionState>,
    registry: Addr<Registry>,
    journal: Journal,
    /// Dropped when the cleanup has been told: the bridge waits for it when it stops.
    alive: mpsc::Sender<Infallible>,
    /// Boxed and absent until the first call: most sessions of a busy host are idle.
    work: Option<Box<Work>>,
}

#[derive(Default)]
struct Work {
    /// Boxed, since they are passed on three times.
    pending: Pending<Box<Request>, Grant>,
    /// The `on_home`s that run, by the calls that have set the homes.
    on_homes: BTreeMap<CallId, SpawnHandle>,
    /// Every pool that ever got a ticket: each must answer `Forgotten` before this actor may stop.
    pools: Vec<(PoolName, Addr<PoolSupervisor>)>,
    /// How often each of them has started over, where one has.
    eras: BTreeMap<PoolName, u64>,
    ending: Option<Ending>,
    /// Who waits for the end. A panic loses nobody of them.
    when_over: Vec<oneshot::Sender<()>>,
    /// The call that is being given up: a panic does not lose that.
    giving_up: Option<(CallId, Place)>,
}

struct Ending {
    reason: EndReason,
    pools: Forgetting,
    /// The workers that have a namespace of it.
    namespaces: Vec<WorkerId>,
}

impl SessionActor {
    pub(crate) fn new(
        state: Arc<SessionState>,
        registry: Addr<Registry>,
        messages: Messages,
        alive: mpsc::Sender<Infallible>,
    ) -> Self {
        let journal = Journal::new(messages, Who::Session(state.key.id().clone()));
        Self { state, registry, journal, alive, work: None }
    }

    fn work(&mut self) -> &mut Work {
        self.work.get_or_insert_default()
    }

    fn perform(&mut self, ctx: &mut Context<Self>) {
        while let Some(action) = self.work().pending.poll_action() {
            match action {
                PendingAction::Send { body, grant } => send(body, grant),
                PendingAction::Refuse { body, refusal } => refuse(body, refusal),
                PendingAction::Withdraw { call } => self.work().withdraw(call),
                PendingAction::Rebuild { call } => self.rebuild(call, ctx),
                PendingAction::EndRebuild { call } => self.end_on_home(call, ctx),
                PendingAction::RebuildFailed { call, why } => self.rebuild_failed(call, why),
                PendingAction::GiveBack { grant } => drop(grant),
                PendingAction::Forget { grant } => grant.forget(),
            }
        }
    }

    fn stop_if_over(&mut self, ctx: &mut Context<Self>) {
        let Some(work) = &mut self.work else { return };
        if work.ending.as_ref().is_some_and(|ending| ending.pools.left() == 0)
            && let Some(ending) = work.ending.take()
        {
            // A request that came after the end was never ticketed; its promise says so.
            for request in work.pending.take_bodies() {
                refuse_ended(request);
            }
            self.registry.do_send(SessionEnded {
                session: self.state.key.clone(),
                reason: ending.reason,
                namespaces: ending.namespaces,
                done: std::mem::take(&mut work.when_over),
                alive: self.alive.clone(),
            });
            ctx.stop();
        }
    }
}

impl Work {
    fn era(&self, pool: &PoolName) -> u64 {
        self.eras.get(pool).copied().unwrap_or(0)
    }

    /// Asks the pool to forget a call. Its body stays until it has: a grant may be under way.
    fn withdraw(&self, call: CallId) {
        if let Some(request) = self.pending.body(call) {
            request.pool_addr.do_send(Withdrawn { call, session: request.hold.actor.clone() });
        }
    }
}

impl pending::Body for Box<Request> {
    fn call(&self) -> CallId {
        self.call
    }

    fn is_abandoned(&self) -> bool {
        self.promise.is_abandoned()
    }
}

impl pending::Grant for Grant {
    fn call(&self) -> CallId {
        self.call
    }

    fn sets_home(&self) -> bool {
        self.rebuild
    }
}

fn send(mut request: Box<Request>, grant: Grant) {
    request.promise.sent_to(&grant.worker, grant.addr.clone());
    let run = Run { request, on: grant.on };
    grant.use_for(run);
}

fn refuse(mut request: Box<Request>, refusal: Refusal) {
    let error = match (&refusal, request.not_ready.take()) {
        (Refusal::RebuildFailed, Some(error)) => *error,
        (_, _) => refusal::error(refusal, &request),
    };
    request.promise.answer(Err(error));
}

fn refuse_ended(mut request: Box<Request>) {
    let error = ended(&request.hold);
    request.promise.answer(Err(error));
}

/// Its caller has left, and it may be with a worker.
fn abandon(call: CallId, place: &Place) {
    if let Some(worker) = place.worker() {
        worker.do_send(Abandon { call });
    }
}

/// What a call of that session gets that never began.
pub(crate) fn ended(hold: &Hold) -> Error {
    Error::Cancelled { why: format!("session {} has ended", hold.id()).into(), ran: Ran::No }
}

impl Actor for SessionActor {
    type Context = Context<Self>;
}

/// A call of this session.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Call(pub(crate) Box<Request>);

impl Handler<Call> for SessionActor {
    type Result = ();

    fn handle(&mut self, Call(mut request): Call, _: &mut Context<Self>) {
        self.note(Handled::Call, Some(request.call), |work| work.outcome_of_call(&request));
        let work = self.work();
        // One that was made in a callback is for a call that still runs.
        if work.ending.is_some() && request.made_in.is_none() {
            return refuse_ended(request);
        }
        request.era = work.era(&request.pool);
        let (mut ticket, pool, actor) = (request.ticket(), &request.pool_addr, &request.hold.actor);
        ticket.has_ended = work.ending.is_some();
        let is_known = work.pools.iter().any(|(name, _)| *name == request.pool);
        if !is_known {
            work.pools.push((request.pool.clone(), pool.clone()));
        }
        // One that has forgotten the session does not know whom to answer.
        let is_new = !is_known || work.ending.is_some();
        pool.do_send(Submit { ticket, session: is_new.then(|| actor.clone()) });
        if let Some(ending) = &mut work.ending
            && ending.pools.on_ticket(&request.pool)
        {
            pool.do_send(Forget { session: request.hold.key().clone(), actor: actor.clone() });
        }
        work.pending.submit(request);
    }
}

/// A pool has a worker for that call.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Granted(pub(crate) Grant);

impl Handler<Granted> for SessionActor {
    type Result = ();

    fn handle(&mut self, Granted(grant): Granted, ctx: &mut Context<Self>) {
        self.note(Handled::Granted, Some(grant.call), |work| work.outcome_of_grant(&grant));
        self.work().pending.handle_granted(grant);
        self.perform(ctx);
    }
}

/// A pool will not run that call.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Refused {
    pub(crate) call: CallId,
    pub(crate) refusal: Refusal,
}

impl Handler<Refused> for SessionActor {
    type Result = ();

    fn handle(&mut self, Refused { call, refusal }: Refused, ctx: &mut Context<Self>) {
        self.note(Handled::Refused, Some(call), |work| work.outcome_of_refusal(call, &refusal));
        self.work().pending.handle_refused(call, refusal);
        self.perform(ctx);
    }
}

/// A call that was sent to a worker is back, and certainly never began.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct CameBack(pub(crate) Box<Request>);

impl Handler<CameBack> for SessionActor {
    type Result = ();

    fn handle(&mut self, CameBack(mut request): CameBack, ctx: &mut Context<Self>) {
        self.note(Handled::CameBack, Some(request.call), |work| work.outcome_of_return(&request));
        let work = self.work();
        let is_of_old = request.era != work.era(&request.pool) && !mutant!("era.is_ignored");
        if is_of_old && work.pending.refusal(request.call).is_none() {
            return panic::answer_for_pool(&mut request);
        }
        work.pending.handle_came_back(request);
        self.perform(ctx);
    }
}

/// The caller has dropped the future of that call.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct GiveUp {
    pub(crate) call: CallId,
    pub(crate) place: Place,
}

impl Handler<GiveUp> for SessionActor {
    type Result = ();

    fn handle(&mut self, GiveUp { call, place }: GiveUp, ctx: &mut Context<Self>) {
        self.work().giving_up = Some((call, place.clone()));
        self.note(Handled::GiveUp, Some(call), |work| work.outcome_of_giving_up(call, &place));
        if !self.work().pending.give_up(call) {
            abandon(call, &place);
        }
        self.work().giving_up = None;
        self.perform(ctx);
    }
}

/// The pool has withdrawn the call, unless it had granted it before.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct WithdrawalSeen {
    pub(crate) call: CallId,
    /// The pool will say nothing more of it.
    pub(crate) is_last: bool,
}

impl Handler<WithdrawalSeen> for SessionActor {
    type Result = ();

    fn handle(&mut self, WithdrawalSeen { call, is_last }: WithdrawalSeen, _: &mut Context<Self>) {
        let is_over = |work: &Work| work.pending.is_forgotten_by(call, is_last);
        self.note(Handled::WithdrawalSeen, Some(call), |work| if is_over(work) { "forgotten" } else { "kept" });
        self.work().pending.handle_withdrawal_seen(call, is_last);
    }
}

/// The session has ended: every pool is to forget it, then this actor stops.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct End {
    pub(crate) reason: EndReason,
    pub(crate) done: Option<oneshot::Sender<()>>,
}

impl Handler<End> for SessionActor {
    type Result = ();

    fn handle(&mut self, end: End, ctx: &mut Context<Self>) {
        self.work().when_over.extend(end.done);
        self.note(Handled::End, None, |work| {
            format!("{}; pools to forget it: {}", end.reason.as_str(), work.pools.len())
        });
        let key = self.state.key.clone();
        let work = self.work();
        // It heard of it already, and was told again after a panic.
        if work.ending.is_some() {
            return;
        }
        for (_, pool) in &work.pools {
            pool.do_send(Forget { session: key.clone(), actor: ctx.address() });
        }
        work.pending.end();
        let pools = Forgetting::of(work.pools.iter().map(|(name, _)| name));
        work.ending = Some(Ending { reason: end.reason, pools, namespaces: Vec::new() });
        self.perform(ctx);
        self.stop_if_over(ctx);
    }
}

/// Somebody else waits for the end that is under way.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct AwaitEnd(pub(crate) oneshot::Sender<()>);

impl Handler<AwaitEnd> for SessionActor {
    type Result = ();

    fn handle(&mut self, AwaitEnd(done): AwaitEnd, _: &mut Context<Self>) {
        self.work().when_over.push(done);
        self.note(Handled::AwaitEnd, None, |_| "noted");
    }
}

/// Nothing of this session is left in a pool, but the namespace in that worker.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Forgotten {
    pub(crate) pool: PoolName,
    pub(crate) namespace: Option<WorkerId>,
}

impl Handler<Forgotten> for SessionActor {
    type Result = ();

    fn handle(&mut self, Forgotten { pool, namespace }: Forgotten, ctx: &mut Context<Self>) {
        let session = self.state.key.clone();
        let work = self.work();
        if let Some(ending) = &mut work.ending {
            let is_new = |worker: &WorkerId| !ending.namespaces.contains(worker);
            let namespace = namespace.filter(is_new);
            ending.namespaces.extend(namespace);
            if ending.pools.on_answer(&pool)
                && let Some((_, pool)) = work.pools.iter().find(|(name, _)| *name == pool)
            {
                pool.do_send(Forget { session, actor: ctx.address() });
            }
        }
        self.note(Handled::Forgotten, None, |work| {
            format!("pools to answer: {}", work.ending.as_ref().map_or(0, |ending| ending.pools.left()))
        });
        self.stop_if_over(ctx);
    }
}

/// Forget homes that are missing or tainted.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct ResetAll {
    /// Gets what each pool says when it has: one that says nothing has not.
    pub(crate) asked: oneshot::Sender<Vec<oneshot::Receiver<()>>>,
}

impl Handler<ResetAll> for SessionActor {
    type Result = ();

    fn handle(&mut self, reset: ResetAll, _: &mut Context<Self>) {
        self.note(Handled::ResetAll, None, |work| format!("pools told: {}", work.pools.len()));
        let key = self.state.key.clone();
        let ask = |(_, pool): &(PoolName, Addr<PoolSupervisor>)| {
            let (done, is_done) = oneshot::channel();
            pool.do_send(Reset { session: key.clone(), done });
            is_done
        };
        // Whoever asked may have gone.
        let _gone = reset.asked.send(self.work().pools.iter().map(ask).collect());
    }
}

/// What a session is doing, as its actor sees it: see
/// [`SnakeBridge::session_addr`](crate::SnakeBridge::session_addr).
///
/// ```
/// # #[actix::main]
/// # async fn main() -> snakebridge::Result<()> {
/// use snakebridge::SessionStatus;
/// # let py = snakebridge::SnakeBridge::builder().pool(snakebridge::PoolConfig::new("p").size(1)).start().await?;
///
/// let session = py.session("a");
/// session.call("math", "sqrt", (4,)).discard().await?;
/// let actor = py.session_addr("a").unwrap();
/// let report = actor.send(SessionStatus).await.unwrap();
/// assert_eq!((report.id.as_str(), report.waiting), ("a", 0));
/// # py.shutdown().await
/// # }
/// ```
#[derive(Message)]
#[rtype(result = "SessionReport")]
pub struct SessionStatus;

/// The answer to [`SessionStatus`].
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, actix::MessageResponse)]
pub struct SessionReport {
    /// The session.
    pub id: SessionId,
    /// How many of its calls wait for a worker.
    pub waiting: usize,
    /// How many refs Rust holds in it.
    pub refs: usize,
    /// The pools that have had calls of it.
    pub pools: Vec<PoolName>,
}

impl Handler<SessionStatus> for SessionActor {
    type Result = SessionReport;

    fn handle(&mut self, _: SessionStatus, _: &mut Context<Self>) -> SessionReport {
        self.note(Handled::Asked, None, |_| "status told");
        let work = self.work.as_deref();
        SessionReport {
            id: self.state.key.id().clone(),
            waiting: work.map_or(0, |work| work.pending.bodies().count()),
            refs: self.state.refs(),
            pools: work.map_or_else(Vec::new, |work| work.pools.iter().map(|(name, _)| name.clone()).collect()),
        }
    }
}
