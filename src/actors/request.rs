//! A call on its way, and the promise that it is answered.

use super::hold::Hold;
use super::pool::{DistrustWorker, PoolSupervisor};
use super::scope::{Scope, Tree};
use super::session::{self, CameBack};
use super::worker::WorkerActor;
use crate::config::Affinity;
use crate::error::{Crash, Error, Ran, Result};
use crate::id::{CallId, PoolName, RefId, WorkerId};
use crate::observe::{End, Witness};
use crate::pickle::{Budget, DecodeError};
use crate::rules::lane::Sent;
use crate::rules::pool::{Purpose, Ticket};
use crate::value::{Callback, PyRef, RefOwner, RefSource};
use actix::Addr;
use std::cell::RefCell;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};

/// One call, with all that it needs to run and to be answered.
///
/// It lies with its `SessionActor` until a pool grants it, then with a `WorkerActor`. Should one of these panic
/// while it has it in hand, its session gets an empty shell of it.
pub(crate) struct Request {
    pub(crate) call: CallId,
    pub(crate) pool: PoolName,
    pub(crate) pool_addr: Addr<PoolSupervisor>,
    pub(crate) purpose: Purpose,
    /// The callback or `on_home` that it was made in.
    pub(crate) made_in: Option<Arc<Scope>>,
    pub(crate) affinity: Option<Affinity>,
    /// The worker that holds the refs which the call carries.
    pub(crate) pinned_to: Option<WorkerId>,
    pub(crate) uses_namespace: bool,
    pub(crate) deadline: Option<Instant>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) queue_timeout: Option<Duration>,
    pub(crate) plan: Vec<u8>,
    pub(crate) body: Vec<u8>,
    /// Kept alive until the call has ended.
    #[expect(dead_code, reason = "held, not read: while a handle lives, so does its object")]
    pub(crate) refs: Vec<PyRef>,
    pub(crate) callbacks: Vec<Callback>,
    pub(crate) hold: Arc<Hold>,
    pub(crate) promise: Promise,
    /// Whether it may run once more, where its ticket allows that.
    pub(crate) idempotent: bool,
    /// In how many parts its answer may come, before the last.
    pub(crate) parts: usize,
    /// When and how it was sent to the worker that has it.
    pub(crate) sent: Option<(Instant, Sent)>,
    /// Which start of its pool it was submitted to.
    pub(crate) era: u64,
    /// Why the home that it has set was not made ready.
    pub(crate) not_ready: Option<Box<Error>>,
    /// Done about a value that comes when nobody waits for it any more.
    pub(crate) if_unheard: Option<IfUnheard>,
}

/// It ends what that value has left open.
pub(crate) type IfUnheard = Box<dyn FnOnce() + Send + Sync>;

impl Request {
    /// The root call of the tree that it was made in; none outside of callbacks and of `on_home`.
    pub(crate) fn tree(&self) -> Option<CallId> {
        self.made_in.as_ref().map(|scope| scope.tree.root)
    }

    /// The tree of what is called for it.
    pub(crate) fn tree_within(&self) -> Tree {
        Tree {
            root: self.tree().unwrap_or(self.call),
            hold: Arc::clone(&self.hold),
            deadline: self.deadline.map(|deadline| (deadline, self.timeout.unwrap_or_default())),
            below: self.made_in.clone(),
        }
    }

    /// All that routing needs to know of it.
    pub(crate) fn ticket(&self) -> Ticket {
        Ticket {
            call: self.call,
            session: self.hold.key().clone(),
            purpose: self.purpose,
            rebuilds: self.hold.state.on_home.is_some(),
            tree: self.tree(),
            has_ended: false,
            affinity: self.affinity,
            pinned_to: self.pinned_to.clone(),
            uses_namespace: self.uses_namespace,
            deadline: self.deadline,
            timeout: self.timeout,
            queue_timeout: self.queue_timeout,
            bytes: self.body.len(),
            on_worker_lost: self.hold.state.on_worker_lost,
        }
    }
}

impl Drop for Request {
    /// A grant of it may be under way, and would wait at its session for a body that never comes. The shell stands
    /// for it, as a call whose caller has left.
    fn drop(&mut self) {
        if self.promise.is_answered() {
            return;
        }
        if !std::thread::panicking() {
            // It came when the actor of its session had stopped, or was about to.
            if self.hold.state.has_ended() && !self.hold.life.core.is_stopping() && !self.promise.sent {
                self.promise.answer(Err(session::ended(&self.hold)));
            }
            return;
        }
        if mutant!("request.leaves_no_shell") {
            return;
        }
        let shell = Self {
            call: self.call,
            pool: self.pool.clone(),
            pool_addr: self.pool_addr.clone(),
            purpose: self.purpose,
            made_in: self.made_in.take(),
            affinity: self.affinity,
            pinned_to: self.pinned_to.take(),
            uses_namespace: self.uses_namespace,
            deadline: self.deadline,
            timeout: self.timeout,
            queue_timeout: self.queue_timeout,
            plan: Vec::new(),
            body: Vec::new(),
            refs: Vec::new(),
            callbacks: Vec::new(),
            hold: Arc::clone(&self.hold),
            promise: Promise::given_up(),
            idempotent: false,
            parts: 0,
            sent: None,
            era: self.era,
            not_ready: None,
            if_unheard: None,
        };
        self.hold.actor.do_send(CameBack(Box::new(shell)));
    }
}

/// The right and the duty to answer a call: dropped unanswered, it answers by itself.
pub(crate) struct Promise {
    reply: Option<oneshot::Sender<Result<Reply>>>,
    /// Where what comes before the answer goes, for calls whose answer may come in parts.
    parts: Option<mpsc::UnboundedSender<Reply>>,
    place: Place,
    sent: bool,
    witness: Option<Box<Witness>>,
    /// It had begun in a worker that died, and is to run once more.
    earlier: Option<Arc<Crash>>,
}

impl Promise {
    pub(crate) fn new(witness: Option<Box<Witness>>) -> (Self, oneshot::Receiver<Result<Reply>>, Place) {
        let (reply, answer) = oneshot::channel();
        let place = Place::default();
        (
            Self { reply: Some(reply), parts: None, place: place.clone(), sent: false, witness, earlier: None },
            answer,
            place,
        )
    }

    /// Of a call that nobody waits for any more.
    fn given_up() -> Self {
        Self { reply: None, parts: None, place: Place::default(), sent: false, witness: None, earlier: None }
    }

    /// Has the answer come in parts, where the worker sends it so.
    pub(crate) fn in_parts(&mut self) -> mpsc::UnboundedReceiver<Reply> {
        // Bounded by `Request::parts`.
        let (parts, receiver) = mpsc::unbounded_channel();
        self.parts = Some(parts);
        receiver
    }

    /// Whether its answer may come in parts.
    pub(crate) fn comes_in_parts(&self) -> bool {
        self.parts.is_some()
    }

    /// Passes a part on; `false` if the call takes none.
    pub(crate) fn part(&self, part: Reply) -> bool {
        // A reader that has gone drops it, which frees its refs.
        self.parts.as_ref().map(|parts| drop(parts.send(part))).is_some()
    }

    /// The call is now with that worker.
    pub(crate) fn sent_to(&mut self, worker: &WorkerId, addr: Addr<WorkerActor>) {
        self.sent = true;
        self.place.set(Some(addr));
        if let Some(witness) = &mut self.witness {
            witness.sent_to(worker);
        }
    }

    /// The call had begun in a worker that died, and comes back to run once more.
    pub(crate) fn began_before(&mut self, crash: Crash) {
        self.earlier = Some(Arc::new(crash));
    }

    /// The call came back, and certainly never began there, unless that was told.
    pub(crate) fn came_back(&mut self) {
        self.sent = self.earlier.is_some();
        self.place.set(None);
        if let Some(witness) = &mut self.witness {
            witness.came_back();
        }
    }

    pub(crate) fn answer(&mut self, answer: Result<Reply>) {
        let answer = answer.map_err(|error| match (&self.earlier, error) {
            (Some(_), Error::Timeout { timeout, ran: Ran::No }) => Error::Timeout { timeout, ran: Ran::Maybe },
            (Some(_), Error::Cancelled { why, ran: Ran::No }) => Error::Cancelled { why, ran: Ran::Maybe },
            (Some(_), Error::ShuttingDown { ran: Ran::No }) => Error::ShuttingDown { ran: Ran::Maybe },
            // It gets no second run: what is left to tell is how the first ended.
            (Some(crash), error) if error.ran() == Ran::No => Error::WorkerCrashed(Arc::clone(crash)),
            (_, error) => error,
        });
        if let Some(reply) = self.reply.take() {
            self.witness_end(&reply, &answer);
            // The caller may have gone: a reply that nobody takes frees its refs.
            drop(reply.send(answer));
        }
    }

    fn witness_end(&mut self, reply: &oneshot::Sender<Result<Reply>>, answer: &Result<Reply>) {
        if let Some(witness) = self.witness.take() {
            witness.ended(&match answer {
                _ if reply.is_closed() => End::Unheard,
                Ok(reply) => End::Value(&reply.worker),
                Err(error) => End::Failed(error),
            });
        }
    }

    fn is_answered(&self) -> bool {
        self.reply.is_none()
    }

    /// Whether it was answered, or nobody waits for that any more.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.reply.as_ref().is_none_or(oneshot::Sender::is_closed)
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        if let Some(reply) = self.reply.take() {
            let ran = if self.sent { Ran::Maybe } else { Ran::No };
            let error = if std::thread::panicking() {
                Error::internal("an actor panicked while it held the call", ran)
            } else {
                Error::ShuttingDown { ran }
            };
            let answer = Err(error);
            self.witness_end(&reply, &answer);
            drop(reply.send(answer));
        }
    }
}

/// Where a call is, for the caller that gives it up.
#[derive(Clone, Default)]
pub(crate) struct Place(Arc<Mutex<Option<Addr<WorkerActor>>>>);

impl Place {
    fn set(&self, worker: Option<Addr<WorkerActor>>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = worker;
    }

    /// The worker that has the call, if one has.
    pub(crate) fn worker(&self) -> Option<Addr<WorkerActor>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What Python answered, or calls a function with, not yet decoded: that is done on the thread of whoever
/// takes it.
pub(crate) struct Reply {
    body: Vec<u8>,
    worker: WorkerId,
    hold: Arc<Hold>,
    refs: Vec<RefId>,
}

impl Reply {
    pub(crate) fn new(body: Vec<u8>, worker: WorkerId, hold: Arc<Hold>, refs: Vec<RefId>) -> Self {
        Self { body, worker, hold, refs }
    }

    /// The worker that sent it.
    pub(crate) fn worker(&self) -> &WorkerId {
        &self.worker
    }

    /// The session of the call that it belongs to.
    pub(crate) fn hold(&self) -> &Arc<Hold> {
        &self.hold
    }

    /// Makes the value of it. Each ref of the body becomes a handle, which frees it in its time.
    ///
    /// # Errors
    /// `Convert` if it does not fit; `Protocol` if no worker of ours would write it, which kills this one.
    pub(crate) fn decode<R>(
        mut self,
        decode: impl FnOnce(&[u8], &RefSource, &Budget) -> Result<R, DecodeError>,
    ) -> Result<R> {
        let owner: Arc<dyn RefOwner> = self.hold.clone();
        let (session, worker) = (self.hold.key().clone(), self.worker.clone());
        let left = Some(RefCell::new(std::mem::take(&mut self.refs).into()));
        let source = RefSource { session, worker, owner, left };
        let budget = Budget { refs: self.hold.state.max_refs, ..Budget::default() };
        let decoded = decode(&self.body, &source, &budget);
        if let Err(DecodeError::Malformed(what)) = &decoded
            && let Some(pool) = self.hold.life.core.pools.get(self.worker.pool())
        {
            pool.addr.do_send(DistrustWorker { worker: self.worker.clone(), what: what.as_str().into() });
        }
        // Each of which a handle was made is freed by that.
        self.refs = source.left.map(RefCell::into_inner).unwrap_or_default().into();
        decoded.map_err(|error| error.into_error(&self.worker))
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        for id in self.refs.drain(..) {
            self.hold.free(id);
        }
    }
}
