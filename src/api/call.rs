//! A call: built, then awaited; nothing of it leaves before its first poll.

use super::args::{Args, IntoArgs};
use super::bridge::Auto;
use super::session::Inner as SessionInner;
use crate::actors::core::Life;
use crate::actors::hold::{Hold, hold_of};
use crate::actors::request::{IfUnheard, Place, Promise, Reply, Request};
use crate::actors::session::{self, GiveUp};
use crate::actors::{refusal, scope};
use crate::clock;
use crate::config::{Affinity, SessionOptions, bounded};
use crate::error::{ConvertError, Error, Ran, Result};
use crate::id::{CallId, PoolName, SessionId};
use crate::observe::Witness;
use crate::pickle::{self, Batch, Budget, DecodeError, Fragment};
use crate::process::LARGEST_BODY;
use crate::rules::address::{RefAddress, address};
use crate::rules::pool::Purpose;
use crate::value::{Callback, PyRef, RefSource, Value};
use crate::wire::{Plan, Step};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// A call that is not yet made: set what differs from the defaults, then await it, or one of
/// [`extract`](Self::extract), [`into_ref`](Self::into_ref), [`discard`](Self::discard).
///
/// Awaited as it is, it gives a `R`: a [`Value`] unless its maker said otherwise.
///
/// ```
/// # #[actix::main]
/// # async fn main() -> snakebridge::Result<()> {
/// use snakebridge::{Affinity, PoolConfig, PyRef, SnakeBridge, Value};
/// use std::time::Duration;
///
/// let py = SnakeBridge::builder().pool(PoolConfig::new("p").size(1)).start().await?;
/// let value: Value = py.call("json", "loads", ("[1, 2]",)).await?;
/// assert_eq!(value, Value::from(vec![1, 2]));
/// let rounded: f64 = py.call("builtins", "round", (2.5159,)).kwarg("ndigits", 2).extract().await?;
/// assert_eq!(rounded, 2.52);
/// let path: PyRef = py
///     .call("pathlib", "Path", (".",))
///     .affinity(Affinity::StrictFailFast)
///     .timeout(Duration::from_secs(5))
///     .into_ref()
///     .await?;
/// assert_eq!(path.module().split('.').next(), Some("pathlib"));
/// // A chain is one message, and leaves no objects behind.
/// let parent: String =
///     py.call("pathlib", "Path", ("/a/b.c",)).getattr("parent").call_method("as_posix", ()).extract().await?;
/// assert_eq!(parent, "/a");
/// py.shutdown().await
/// # }
/// ```
#[must_use = "a call does nothing until it is awaited"]
pub struct Call<R = Value>(CallFuture<R>);

/// Whose call it is.
pub(crate) enum Origin {
    Bridge {
        life: Arc<Life>,
        auto: Arc<Auto>,
    },
    Session(Arc<SessionInner>),
    /// Of an object; its session is that of the call.
    Ref(Arc<Hold>),
}

impl Origin {
    fn life(&self) -> &Arc<Life> {
        match self {
            Self::Bridge { life, .. } => life,
            Self::Session(session) => session.life(),
            Self::Ref(hold) => &hold.life,
        }
    }
}

struct Draft {
    origin: Origin,
    receiver: Option<PyRef>,
    steps: Vec<(Step, Args)>,
    session: Option<SessionId>,
    pool: Option<PoolName>,
    purpose: Purpose,
    /// In how many parts its answer may come, before the last.
    parts: usize,
    affinity: Option<Affinity>,
    timeout: Option<Duration>,
    queue_timeout: Option<Duration>,
    idempotent: bool,
    if_unheard: Option<IfUnheard>,
}

/// What is asked of Python, and what is made of the answer.
struct Finish<R> {
    want: Want,
    decode: Decode<R>,
}

type Decode<R> = fn(&[u8], &RefSource, &Budget) -> Result<R, DecodeError>;

/// A mode of the codec, and for a type its shape.
enum Want {
    Mode(u8),
    Shaped(Arc<[u8]>),
}

impl Want {
    const VALUE: Self = Self::Mode(0);
    const REFERENCE: Self = Self::Mode(1);
    const DISCARD: Self = Self::Mode(2);

    fn extract<T: DeserializeOwned + 'static>() -> Self {
        Self::Shaped(pickle::want_of::<T>())
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Self::Mode(mode) => std::slice::from_ref(mode),
            Self::Shaped(want) => want,
        }
    }
}

impl<R> Call<R> {
    fn with_want<S>(self, want: Want, decode: Decode<S>) -> Call<S> {
        Call(CallFuture::new(self.into_draft(), Finish { want, decode }))
    }

    fn draft(&mut self) -> &mut Draft {
        match &mut self.0.state {
            State::Draft(draft) => draft,
            State::Waiting(_) | State::Over => panic!("a call was changed after it was polled"),
        }
    }

    fn into_draft(self) -> Box<Draft> {
        match self.0.state {
            State::Draft(draft) => draft,
            State::Waiting(_) | State::Over => panic!("a call was changed after it was polled"),
        }
    }

    fn last(&mut self) -> &mut Args {
        &mut self.draft().steps.last_mut().expect("a call has a first step").1
    }

    fn edit_last(mut self, edit: impl FnOnce(Args) -> Args) -> Self {
        let args = std::mem::take(self.last());
        *self.last() = edit(args);
        self
    }

    /// Adds a keyword argument, to the last step.
    ///
    /// ```
    /// # #[actix::main]
    /// # async fn main() -> snakebridge::Result<()> {
    /// # let py = snakebridge::SnakeBridge::builder().pool(snakebridge::PoolConfig::new("p").size(1)).start().await?;
    /// let printed: String = py.call("json", "dumps", (vec![1],)).kwarg("indent", 1).extract().await?;
    /// assert_eq!(printed, "[\n 1\n]");
    /// # py.shutdown().await
    /// # }
    /// ```
    pub fn kwarg(self, key: impl Into<String>, value: impl Serialize) -> Self {
        self.edit_last(|args| args.kwarg(key, value))
    }

    /// Adds each entry of a map, or field of a struct, as a keyword argument of the last step.
    ///
    /// ```
    /// # #[actix::main]
    /// # async fn main() -> snakebridge::Result<()> {
    /// # let py = snakebridge::SnakeBridge::builder().pool(snakebridge::PoolConfig::new("p").size(1)).start().await?;
    /// #[derive(serde::Serialize)]
    /// struct Style {
    ///     indent: u8,
    ///     sort_keys: bool,
    /// }
    ///
    /// let style = Style { indent: 1, sort_keys: true };
    /// let printed: String = py.call("json", "dumps", (vec![1],)).kwargs(&style).extract().await?;
    /// assert_eq!(printed, "[\n 1\n]");
    /// # py.shutdown().await
    /// # }
    /// ```
    pub fn kwargs(self, entries: impl Serialize) -> Self {
        self.edit_last(|args| args.kwargs(entries))
    }

    /// The pool. Default: that of the refs that the call carries, else the bridge's default pool.
    pub fn pool(mut self, name: impl Into<PoolName>) -> Self {
        self.draft().pool = Some(name.into());
        self
    }

    /// How it chooses its worker. Default: as its pool says.
    pub fn affinity(mut self, affinity: Affinity) -> Self {
        self.draft().affinity = Some(affinity);
        self
    }

    /// The session. Default: the `Session` it is made on, else that of the refs that it carries,
    /// else the automatic session of its handle; inside a callback or an `on_home`, that of the call
    /// which this was made for.
    ///
    /// ```
    /// # #[actix::main]
    /// # async fn main() -> snakebridge::Result<()> {
    /// # let py = snakebridge::SnakeBridge::builder().pool(snakebridge::PoolConfig::new("p").size(1)).start().await?;
    /// let object = py.call("builtins", "object", ()).session("user_42").into_ref().await?;
    /// assert_eq!(object.session(), "user_42");
    /// # py.shutdown().await
    /// # }
    /// ```
    pub fn session(mut self, id: impl Into<SessionId>) -> Self {
        self.draft().session = Some(id.into());
        self
    }

    /// How long it may take, its wait included. Default: as its pool says.
    ///
    /// When it has passed the caller gets `Timeout`. A call that had not begun never will; one that
    /// had is interrupted: Python raises `snakebridge.CallCancelled` in it. If it has not ended `cancel_grace`
    /// later its worker is killed and replaced. A call that is made inside a callback or an `on_home` ends by
    /// the deadline of the call which this was made for, if that is earlier.
    ///
    /// ```
    /// # #[actix::main]
    /// # async fn main() -> snakebridge::Result<()> {
    /// use snakebridge::{PoolConfig, Ran, SnakeBridge};
    /// use std::time::Duration;
    ///
    /// let pool = PoolConfig::new("p").size(1).cancel_grace(Duration::from_millis(100));
    /// let py = SnakeBridge::builder().pool(pool).start().await?;
    /// let error = py.call("time", "sleep", (600,)).timeout(Duration::from_millis(50)).await.unwrap_err();
    /// assert_eq!(error.code(), "timeout");
    /// # py.shutdown().await
    /// # }
    /// ```
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.draft().timeout = Some(timeout);
        self
    }

    /// How long it may wait for a worker; then it gets `QueueTimeout`, and never begins. Default: as
    /// its pool says.
    pub fn queue_timeout(mut self, timeout: Duration) -> Self {
        self.draft().queue_timeout = Some(timeout);
        self
    }

    /// Running it twice does no harm: should it have begun when its worker dies, it is run once more, elsewhere.
    /// Default: a call that had begun gets `WorkerCrashed`.
    ///
    /// It holds for calls under `hint` that carry no refs and use no namespace, outside of callbacks and streams;
    /// others are bound to the worker that died. The second death, or an end before the second run, is the caller's
    /// error.
    ///
    /// ```
    /// # #[actix::main]
    /// # async fn main() -> snakebridge::Result<()> {
    /// # let py = snakebridge::SnakeBridge::builder().pool(snakebridge::PoolConfig::new("p").size(2)).start().await?;
    /// let root: f64 = py.call("math", "sqrt", (16,)).idempotent().extract().await?;
    /// # py.shutdown().await
    /// # }
    /// ```
    pub fn idempotent(mut self) -> Self {
        self.draft().idempotent = true;
        self
    }

    fn then(mut self, step: Step, args: impl IntoArgs) -> Call {
        self.draft().steps.push((step, args.into_args()));
        Call(CallFuture::new(self.into_draft(), Finish::value()))
    }

    /// Then calls a method of the result; the name may be dotted.
    ///
    /// All steps of a chain run in one go, in one worker, and what is between them is not kept.
    ///
    /// ```
    /// # #[actix::main]
    /// # async fn main() -> snakebridge::Result<()> {
    /// # let py = snakebridge::SnakeBridge::builder().pool(snakebridge::PoolConfig::new("p").size(1)).start().await?;
    /// let words: Vec<String> = py.call("builtins", "str", ("a b",)).call_method("split", ()).extract().await?;
    /// assert_eq!(words, ["a", "b"]);
    /// # py.shutdown().await
    /// # }
    /// ```
    pub fn call_method(self, name: impl Into<String>, args: impl IntoArgs) -> Call {
        self.then(Step::Method { name: name.into() }, args)
    }

    /// Then reads an attribute of the result; the name may be dotted.
    pub fn getattr(self, name: impl Into<String>) -> Call {
        self.then(Step::GetAttr { name: name.into() }, ())
    }

    /// Then reads an item of the result.
    ///
    /// ```
    /// # #[actix::main]
    /// # async fn main() -> snakebridge::Result<()> {
    /// # let py = snakebridge::SnakeBridge::builder().pool(snakebridge::PoolConfig::new("p").size(1)).start().await?;
    /// let home: String = py.get("os", "environ").get_item("PATH").extract().await?;
    /// assert_eq!(Ok(home), std::env::var("PATH"));
    /// # py.shutdown().await
    /// # }
    /// ```
    pub fn get_item(self, key: impl Serialize) -> Call {
        self.then(Step::GetItem, (key,))
    }

    /// Then calls the result itself.
    ///
    /// ```
    /// # #[actix::main]
    /// # async fn main() -> snakebridge::Result<()> {
    /// # let py = snakebridge::SnakeBridge::builder().pool(snakebridge::PoolConfig::new("p").size(1)).start().await?;
    /// let add = py.get("operator", "add").into_ref().await?;
    /// let sum: i64 = py.call("functools", "partial", (&add, 1)).call_with((2,)).extract().await?;
    /// assert_eq!(sum, 3);
    /// # py.shutdown().await
    /// # }
    /// ```
    pub fn call_with(self, args: impl IntoArgs) -> Call {
        self.then(Step::Call, args)
    }

    /// The call that opens a stream over the result, the timeout that was set, and the functions that the
    /// iteration may call.
    pub(super) fn opening(mut self) -> (CallFuture<PyRef>, Option<Duration>, Vec<Callback>) {
        let draft = self.draft();
        draft.purpose = Purpose::Opening;
        let callbacks = draft.steps.iter().flat_map(|(_, args)| args.callbacks()).cloned().collect();
        let timeout = draft.timeout;
        (self.then(Step::Stream, ()).into_ref(), timeout, callbacks)
    }

    /// It goes on with what its session has open in a worker.
    pub(super) fn continuing(mut self) -> Self {
        self.draft().purpose = Purpose::Continuing;
        self
    }

    /// Done about its value if that comes when nobody waits for it any more.
    pub(super) fn if_unheard(mut self, done: impl FnOnce() + Send + Sync + 'static) -> Self {
        self.draft().if_unheard = Some(Box::new(done));
        self
    }

    /// The next batch of a stream, of so many items at most: each may come by itself.
    pub(super) fn batch<T: DeserializeOwned + Send + 'static>(mut self, items: usize) -> CallFuture<Batch<T>> {
        self.draft().parts = items;
        let want = Want::Shaped(pickle::want_of_batch::<T>());
        CallFuture::new(self.into_draft(), Finish { want, decode: pickle::decode_batch::<T> })
    }

    /// Converts the result into any type that serde can deserialise.
    ///
    /// What is not plain data is taken by value where it has one: subclasses by their base, members of
    /// an `Enum` by their value, dataclasses, named tuples, attrs and pydantic objects by their
    /// fields, an iterator as a sequence if one is asked for.
    ///
    /// ```
    /// # #[actix::main]
    /// # async fn main() -> snakebridge::Result<()> {
    /// use serde::Deserialize;
    ///
    /// #[derive(Deserialize)]
    /// struct Version {
    ///     major: u32,
    ///     minor: u32,
    /// }
    ///
    /// # let py = snakebridge::SnakeBridge::builder().pool(snakebridge::PoolConfig::new("p").size(1)).start().await?;
    /// let int = py.get("builtins", "int").into_ref().await?;
    /// let parts: Vec<u32> = py.call("builtins", "map", (&int, ["3", "10"])).extract().await?;
    /// let dict = py.call("builtins", "dict", ()).kwarg("major", parts[0]).kwarg("minor", parts[1]);
    /// let version: Version = dict.extract().await?;
    /// assert_eq!((version.major, version.minor), (3, 10));
    /// let error = py.call("builtins", "list", ("ab",)).extract::<Vec<u8>>().await.unwrap_err();
    /// assert_eq!(error.to_string(), "result at [0]: expected u8, found str 'a'");
    /// # py.shutdown().await
    /// # }
    /// ```
    ///
    /// # Errors
    /// Awaited: `Convert` if the result does not fit without loss; else see [`enum@Error`].
    pub fn extract<T: DeserializeOwned + Send + 'static>(self) -> CallFuture<T> {
        CallFuture::new(self.into_draft(), Finish { want: Want::extract::<T>(), decode: pickle::decode::<T> })
    }

    /// Keeps the result in Python, whatever it is: an int too, or a module. See [`PyRef`].
    ///
    /// ```
    /// # #[actix::main]
    /// # async fn main() -> snakebridge::Result<()> {
    /// # let py = snakebridge::SnakeBridge::builder().pool(snakebridge::PoolConfig::new("p").size(1)).start().await?;
    /// let seven = py.call("builtins", "int", ("7",)).into_ref().await?;
    /// assert_eq!((seven.module(), seven.type_name()), ("builtins", "int"));
    /// # py.shutdown().await
    /// # }
    /// ```
    ///
    /// # Errors
    /// Awaited: see [`enum@Error`].
    pub fn into_ref(self) -> CallFuture<PyRef> {
        CallFuture::new(self.into_draft(), Finish { want: Want::REFERENCE, decode: decode_ref })
    }

    /// Drops the result in Python: for calls that are made for what they do.
    ///
    /// # Errors
    /// Awaited: see [`enum@Error`].
    pub fn discard(self) -> CallFuture<()> {
        CallFuture::new(self.into_draft(), Finish { want: Want::DISCARD, decode: |_, _, _| Ok(()) })
    }
}

impl Finish<Value> {
    fn value() -> Self {
        Self { want: Want::VALUE, decode: pickle::decode_value }
    }
}

fn decode_ref(body: &[u8], refs: &RefSource, budget: &Budget) -> Result<PyRef, DecodeError> {
    let value = pickle::decode_value(body, refs, budget)?;
    value.into_pyref().ok_or_else(|| DecodeError::Malformed("a ref was asked for, and a value came".to_owned()))
}

impl Call<Value> {
    pub(crate) fn new(origin: Origin, step: Step, args: impl IntoArgs) -> Self {
        Self::drafted(origin, None, step, args)
    }

    /// The id of the namespace is that of the session, which is known when the call is submitted.
    pub(crate) fn eval(origin: Origin, expression: String) -> Self {
        Self::new(origin, Step::Eval { namespace: 0 }, (expression,))
    }

    pub(crate) fn on(receiver: PyRef, hold: Arc<Hold>, step: Step, args: impl IntoArgs) -> Self {
        Self::drafted(Origin::Ref(hold), Some(receiver), step, args)
    }

    fn drafted(origin: Origin, receiver: Option<PyRef>, step: Step, args: impl IntoArgs) -> Self {
        let draft = Draft {
            origin,
            receiver,
            steps: vec![(step, args.into_args())],
            session: None,
            pool: None,
            purpose: Purpose::Call,
            parts: 0,
            affinity: None,
            timeout: None,
            queue_timeout: None,
            idempotent: false,
            if_unheard: None,
        };
        Self(CallFuture::new(Box::new(draft), Finish::value()))
    }

    pub(crate) fn wanting_ref(self) -> Call<PyRef> {
        self.with_want(Want::REFERENCE, decode_ref)
    }

    pub(crate) fn wanting_nothing(self) -> Call<()> {
        self.with_want(Want::DISCARD, |_, _, _| Ok(()))
    }

    pub(crate) fn wanting<T: DeserializeOwned + Send + 'static>(self) -> Call<T> {
        self.with_want(Want::extract::<T>(), pickle::decode::<T>)
    }
}

impl Call<()> {
    pub(crate) fn exec(origin: Origin, code: String) -> Self {
        Call::new(origin, Step::Exec { namespace: 0 }, (code,)).wanting_nothing()
    }
}

impl<R> Future for Call<R> {
    type Output = Result<R>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<R>> {
        Pin::new(&mut self.0).poll(cx)
    }
}

impl<R> fmt::Debug for Call<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0.state {
            State::Draft(draft) => f.debug_list().entries(draft.steps.iter().map(|(step, _)| step)).finish(),
            State::Waiting(_) | State::Over => f.write_str("a call under way"),
        }
    }
}

impl Draft {
    /// Sends the call on its way.
    fn submit(self, want: &Want) -> Result<Waiting> {
        let Self {
            origin,
            receiver,
            mut steps,
            session,
            pool,
            purpose,
            parts,
            affinity,
            timeout,
            queue_timeout,
            idempotent,
            if_unheard,
        } = self;
        let life = Arc::clone(origin.life());
        let core = &life.core;
        if let Some(error) = steps.iter_mut().find_map(|(_, args)| args.error.take()) {
            return Err(error.into());
        }
        let scope = scope::current(&life);
        // The call that its tree began with still runs, and the pool takes what that needs to end.
        if core.is_stopping() && scope.is_none() {
            return Err(Error::ShuttingDown { ran: Ran::No });
        }

        let (mut plan, body) = assemble(receiver, steps, want);
        let mut encoded = plan.encode();
        too_large("names and type", encoded.len() as u64, LONGEST_PLAN)?;
        too_large("arguments", body.bytes.len() as u64, LARGEST_BODY)?;
        core.functions.check(&body.callbacks)?;
        let mut ref_hold = None;
        let mut addresses = Vec::new();
        for handle in &body.refs {
            let hold = hold_of(handle, &life)?;
            addresses.push(RefAddress {
                id: handle.id(),
                session: handle.key().clone(),
                worker: handle.worker().clone(),
            });
            ref_hold.get_or_insert(hold);
        }
        let tree = scope.as_deref().map(|scope| &scope.tree);
        let named = match (&session, &origin) {
            (Some(id), _) => Some(id),
            (None, Origin::Session(session)) => Some(session.id()),
            // Inside a tree a bridge stands for the session that the tree is made for.
            (None, Origin::Bridge { .. }) if addresses.is_empty() => tree.map(|tree| tree.hold.id()),
            (None, Origin::Bridge { .. } | Origin::Ref(_)) => None,
        };
        let of_new_home = scope.as_ref().zip(named).and_then(|(scope, session)| scope.pool_of(session));
        let default_pool = of_new_home.unwrap_or(&core.default_pool);
        let address = address(named, pool.as_ref(), &addresses, core.pool_names(), default_pool)
            .map_err(refusal::misaddressed)?;

        // The tree's session itself, also when it has ended: another of its id would be a stranger.
        let of_tree = tree.zip(named).and_then(|(tree, named)| tree.session(named));
        let hold = match (ref_hold.or(of_tree), &session, &origin) {
            (Some(hold), _, _) => hold,
            (None, None, Origin::Ref(hold)) => Arc::clone(hold),
            (None, Some(id), _) => core.directory.hold(id, false, &SessionOptions::new(), &life)?,
            (None, None, Origin::Session(session)) => session.hold()?,
            (None, None, Origin::Bridge { auto, .. }) => auto.hold(&life)?,
        };
        let namespace = plan.namespace_mut();
        let uses_namespace = namespace.is_some();
        if let Some(namespace) = namespace {
            *namespace = hold.key().namespace().0;
            encoded = plan.encode();
        }
        // The session of a tree is gone as soon as no call of it runs, and a callback with the call it was for.
        if hold.state.has_ended() && !hold.actor.connected() {
            return Err(match core.is_stopping() {
                true => Error::ShuttingDown { ran: Ran::No },
                false => session::ended(&hold),
            });
        }
        let pool = core.pool(&address.pool)?;
        let rebuilds = scope.as_ref().and_then(|scope| scope.rebuilds(hold.key(), &address.pool));
        let purpose = rebuilds.map_or(purpose, |under| Purpose::Rebuilding { under });
        let timeout = timeout.or(pool.config.timeout).or(core.timeout);
        let own = timeout.map(|timeout| (clock::now() + bounded(timeout), timeout));
        let (deadline, timeout) = tree.map_or(own, |tree| tree.bound(own)).unzip();
        let call = core.next_call();
        let witness = Witness::of_call(&core.observers, call, hold.id(), &address.pool);
        let (mut promise, answer, place) = Promise::new(witness);
        let coming = (parts > 0).then(|| promise.in_parts());
        let actor = hold.actor.clone();
        actor.do_send(session::Call(Box::new(Request {
            call,
            pool: address.pool,
            pool_addr: pool.addr.clone(),
            purpose,
            made_in: scope,
            affinity,
            pinned_to: address.pinned_to,
            uses_namespace,
            deadline,
            timeout,
            queue_timeout: queue_timeout.map(bounded),
            plan: encoded,
            body: body.bytes,
            refs: body.refs,
            callbacks: body.callbacks,
            hold,
            promise,
            idempotent,
            parts,
            sent: None,
            era: 0,
            not_ready: None,
            if_unheard,
        })));
        Ok(Waiting { call, answer, parts: coming, early: None, place, actor, over: false })
    }
}

/// What a call says beside its arguments has to fit into one message.
const LONGEST_PLAN: u64 = 64 * 1024;

fn too_large(what: &str, length: u64, limit: u64) -> Result<()> {
    if length <= limit {
        return Ok(());
    }
    Err(ConvertError::of_argument(format!("{what} of at most {limit} bytes"), format!("{length} bytes")).into())
}

/// The plan and the body of a call; see `wire::Plan` for the two forms of a body.
fn assemble(receiver: Option<PyRef>, mut steps: Vec<(Step, Args)>, want: &Want) -> (Plan<'_>, pickle::Body) {
    let long = steps.len() > 1 || steps.iter().any(|(_, args)| !args.keywords.is_empty());
    let body = if long {
        let pairs = steps.iter_mut().map(|(_, args)| {
            let keywords = match args.keywords.is_empty() {
                true => Fragment::none(),
                false => Fragment::dict(args.keywords.iter_mut().map(|(key, value)| (&**key, std::mem::take(value)))),
            };
            Fragment::tuple([std::mem::take(&mut args.positional).into_tuple(None), keywords])
        });
        let pairs = Fragment::tuple(pairs.collect::<Vec<_>>());
        Fragment::tuple([receiver.as_ref().map_or_else(Fragment::none, Fragment::of_ref), pairs])
    } else {
        let (_, args) = &mut steps[0];
        std::mem::take(&mut args.positional).into_tuple(receiver.as_ref())
    };
    let steps = steps.into_iter().map(|(step, _)| step).collect();
    (Plan { long, steps, want: want.bytes() }, body.into_body())
}

/// A call on its way. Dropped before its end, it gives the call up.
struct Waiting {
    call: CallId,
    answer: oneshot::Receiver<Result<Reply>>,
    /// What comes before the answer, of a batch whose items are slow.
    parts: Option<mpsc::UnboundedReceiver<Reply>>,
    /// The answer, if it was there before all parts were read.
    early: Option<Result<Reply>>,
    place: Place,
    actor: actix::Addr<session::SessionActor>,
    over: bool,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if !self.over {
            // Closed first, so that whoever hears of it sees that nobody waits.
            self.answer.close();
            self.actor.do_send(GiveUp { call: self.call, place: self.place.clone() });
        }
    }
}

/// A call that is being made: submitted at its first poll, given up when dropped.
///
/// It is `Send` and owns all it needs: it may be built in one task and awaited in another, on any
/// runtime. Dropped before its end, a call that has not begun never will; one that has is interrupted,
/// and its worker killed if it has not ended `cancel_grace` later.
///
/// ```
/// # #[actix::main]
/// # async fn main() -> snakebridge::Result<()> {
/// # let py = snakebridge::SnakeBridge::builder().pool(snakebridge::PoolConfig::new("p").size(2)).start().await?;
/// let roots = [1, 4, 9].map(|square| py.call("math", "isqrt", (square,)).extract::<u32>());
/// assert_eq!(futures::future::try_join_all(roots).await?, [1, 2, 3]);
/// # py.shutdown().await
/// # }
/// ```
#[must_use = "a call does nothing until it is awaited"]
pub struct CallFuture<R> {
    state: State,
    finish: Finish<R>,
    result: PhantomData<fn() -> R>,
}

enum State {
    Draft(Box<Draft>),
    Waiting(Waiting),
    Over,
}

impl<R> CallFuture<R> {
    fn new(draft: Box<Draft>, finish: Finish<R>) -> Self {
        Self { state: State::Draft(draft), finish, result: PhantomData }
    }
}

/// What has come of a call.
pub(super) enum Progress<R> {
    /// A part, with more to come.
    Part(Result<R>),
    /// Its answer, or the rest of it.
    Answer(Result<R>),
}

impl<R> CallFuture<R> {
    /// The call on its way, from the first time that it is asked for.
    fn waiting(&mut self) -> Result<&mut Waiting> {
        if let State::Draft(_) = self.state
            && let State::Draft(draft) = std::mem::replace(&mut self.state, State::Over)
        {
            self.state = State::Waiting(draft.submit(&self.finish.want)?);
        }
        match &mut self.state {
            State::Waiting(waiting) => Ok(waiting),
            State::Draft(_) | State::Over => panic!("a call was polled after its end"),
        }
    }

    fn answered(&mut self, answer: Result<Reply>) -> Result<R> {
        self.state = State::Over;
        answer.and_then(|reply| reply.decode(self.finish.decode))
    }

    /// As its poll, for a call whose answer may come in parts.
    pub(super) fn poll_progress(&mut self, cx: &mut Context<'_>) -> Poll<Progress<R>> {
        let waiting = match self.waiting() {
            Ok(waiting) => waiting,
            Err(error) => return Poll::Ready(Progress::Answer(Err(error))),
        };
        // The answer first: every part was sent before it, and is there then.
        let answer = waiting.poll_answer(cx);
        if let Some(Poll::Ready(Some(part))) = waiting.parts.as_mut().map(|parts| parts.poll_recv(cx)) {
            if let Poll::Ready(answer) = answer {
                waiting.early = Some(answer);
            }
            return Poll::Ready(Progress::Part(part.decode(self.finish.decode)));
        }
        answer.map(|answer| Progress::Answer(self.answered(answer)))
    }
}

impl Waiting {
    fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<Result<Reply>> {
        if let Some(early) = self.early.take() {
            return Poll::Ready(early);
        }
        let answer = ready!(Pin::new(&mut self.answer).poll(cx));
        self.over = true;
        Poll::Ready(answer.unwrap_or(Err(Error::ShuttingDown { ran: Ran::Maybe })))
    }
}

impl<R> Future for CallFuture<R> {
    type Output = Result<R>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<R>> {
        let answer = ready!(self.waiting()?.poll_answer(cx));
        Poll::Ready(self.answered(answer))
    }
}

impl<R> fmt::Debug for CallFuture<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CallFuture")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actors::bare;
    use crate::actors::scope::{Scope, Scoped, Tree};
    use crate::api::SnakeBridge;
    use futures::FutureExt;

    // A bridge without a pool: what a call gets past is seen by its error.

    fn scope(hold: &Arc<Hold>) -> Scope {
        Scope { tree: Tree { root: CallId(7), hold: Arc::clone(hold), deadline: None, below: None }, rebuilds: None }
    }

    fn code<R>(call: Call<R>) -> &'static str {
        call.now_or_never().expect("it is refused at once").err().expect("there is no pool").code()
    }

    fn inside(hold: &Arc<Hold>, call: Call) -> &'static str {
        Scoped::new(scope(hold), async { code(call) }).now_or_never().expect("it waits for nothing")
    }

    fn sessions(life: &Life) -> Vec<String> {
        let all = life.core.directory.all();
        all.into_iter().map(|(state, _)| state.key.id().to_string()).collect()
    }

    fn call(py: &SnakeBridge) -> Call {
        py.call("math", "sqrt", (4,))
    }

    #[actix::test]
    async fn a_callback_of_another_bridge_is_refused_before_a_session_is_made() {
        let life = bare::bridge();
        let (py, other) = (SnakeBridge::new(Arc::clone(&life)), SnakeBridge::new(bare::bridge()));
        let [own, foreign] = [&py, &other].map(|py| py.callback(|x: i64| async move { Ok(2 * x) }));
        assert_eq!(code(py.call("m", "f", (vec![&foreign],))), "convert");
        assert_eq!(code(py.call("m", "f", ()).kwarg("key", &foreign)), "convert");
        assert!(sessions(&life).is_empty());
        assert_eq!(code(py.call("m", "f", (vec![&own],)).kwarg("key", &own)), "unknown_pool");
    }

    #[actix::test]
    async fn a_call_on_a_bridge_belongs_to_the_session_of_the_tree_that_it_is_made_in() {
        let life = bare::bridge();
        let (py, hold) = (SnakeBridge::new(Arc::clone(&life)), bare::session(&life, "s"));
        assert_eq!(inside(&hold, call(&py)), "unknown_pool");
        assert_eq!(inside(&hold, call(&py).session("s")), "unknown_pool");
        assert_eq!(sessions(&life), ["s"]);
        assert_eq!(code(call(&py)), "unknown_pool");
        assert_eq!(sessions(&life).len(), 2);
        // A tree of another bridge is nothing to this one.
        let elsewhere = SnakeBridge::new(bare::bridge());
        assert_eq!(inside(&hold, call(&elsewhere)), "unknown_pool");
        assert_eq!(sessions(&life).len(), 2);
    }

    #[actix::test]
    async fn the_end_of_its_session_starts_no_other_for_a_tree_and_is_told_when_nothing_is_left() {
        let life = bare::bridge();
        let (py, hold) = (SnakeBridge::new(Arc::clone(&life)), bare::session(&life, "s"));
        let session = py.session("s");
        let mut release = Box::pin(session.release());
        // It has ended with the first poll; its actor has yet to hear of it.
        assert!((&mut release).now_or_never().is_none());
        for call in [call(&py), call(&py).session("s"), session.call("math", "sqrt", (4,))] {
            assert_eq!(inside(&hold, call), "unknown_pool", "the tree's own session takes it");
        }
        assert!(sessions(&life).is_empty());
        release.await.expect("the bridge runs");
        assert_eq!(inside(&hold, call(&py)), "cancelled");
    }

    #[actix::test]
    async fn a_bridge_that_stops_takes_the_calls_of_a_tree_and_no_others() {
        let life = bare::bridge();
        let (py, hold) = (SnakeBridge::new(Arc::clone(&life)), bare::session(&life, "s"));
        Arc::clone(&life.core).stop();
        assert_eq!(code(call(&py)), "shutting_down");
        assert_eq!(inside(&hold, call(&py)), "unknown_pool");
        assert_eq!(py.register("f", |(): ()| async { Ok(()) }).map_err(|error| error.code()), Err("shutting_down"));
        py.shutdown().await.expect("there is nothing to stop");
        assert_eq!(inside(&hold, call(&py)), "shutting_down");
    }
}
