//! The handle of a bridge.

use super::args::IntoArgs;
use super::builder::Builder;
use super::call::{Call, Origin};
use super::session::Session;
use crate::actors::core::{Core, Life};
use crate::actors::hold::Hold;
use crate::actors::pool::{
    AwaitReady, ClearTaint, Homes, PoolReport, PoolStatus, PoolSupervisor, Reload, Resize, RestartWorker, TaintWorker,
    Workers,
};
use crate::actors::registry::CountRefs;
use crate::actors::scope;
use crate::actors::session::{SessionActor, SessionStatus};
use crate::clock;
use crate::config::{Config, SessionOptions, bounded};
use crate::error::{Error, Ran, Result};
use crate::event::Event;
use crate::id::{PoolName, SessionId, WorkerId};
use crate::observe::MessageLog;
use crate::status::{Guarantees, PoolStats, SessionInfo, Stats, WorkerInfo};
use crate::value::{Callback, PyRef};
use crate::wire::Step;
use actix::prelude::*;
use futures::Stream;
use futures::future::join_all;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::oneshot;

/// A running bridge: its pools, their workers, and the sessions in them.
///
/// The handle is `Send + Sync` and works from any thread and any async runtime. **A clone is a new
/// owner**: it has its own automatic session, which begins with the first call that names no session
/// and carries no refs, and ends when the handle and everything made through it are gone. The bridge
/// stops when its last handle, ref and call is gone, or with [`shutdown`](Self::shutdown).
///
/// ```
/// # #[actix::main]
/// # async fn main() -> snakebridge::Result<()> {
/// use snakebridge::{Affinity, PoolConfig, SnakeBridge};
///
/// let py = SnakeBridge::builder()
///     .pool(PoolConfig::new("strict_pool").size(1).affinity(Affinity::StrictQueue))
///     .start()
///     .await?;
/// let root: f64 = py.call("math", "sqrt", (16,)).extract().await?;
/// assert_eq!(root, 4.0);
/// py.shutdown().await
/// # }
/// ```
pub struct SnakeBridge {
    life: Arc<Life>,
    auto: Arc<Auto>,
}

/// The automatic session of one handle.
#[derive(Default)]
pub(crate) struct Auto(Mutex<AutoState>);

#[derive(Default)]
struct AutoState {
    id: Option<SessionId>,
    hold: Option<Arc<Hold>>,
}

impl Auto {
    fn lock(&self) -> std::sync::MutexGuard<'_, AutoState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reserve(&self, core: &Core) -> SessionId {
        self.lock().id.get_or_insert_with(|| core.directory.reserve()).clone()
    }

    /// The session, started if need be: also anew, when it was released or has expired.
    pub(crate) fn hold(&self, life: &Arc<Life>) -> Result<Arc<Hold>> {
        let mut auto = self.lock();
        if let Some(hold) = &auto.hold
            && !hold.state.has_ended()
        {
            return Ok(Arc::clone(hold));
        }
        let id = auto.id.get_or_insert_with(|| life.core.directory.reserve()).clone();
        let hold = life.core.directory.hold(&id, true, &SessionOptions::new(), life)?;
        // The one that it replaces has ended, and lets go without the lock of its directory waiting for this one.
        auto.hold = Some(Arc::clone(&hold));
        Ok(hold)
    }
}

impl SnakeBridge {
    pub(crate) fn new(life: Arc<Life>) -> Self {
        Self { life, auto: Arc::default() }
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.life.core
    }

    #[cfg(test)]
    pub(crate) fn registry(&self) -> &Addr<crate::actors::registry::Registry> {
        &self.core().registry
    }

    /// Starts to describe a bridge.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Starts a bridge of one pool, named `default`, with as many workers as there are cores.
    ///
    /// # Errors
    /// As [`Builder::start`].
    pub fn start() -> impl Future<Output = Result<Self>> + Send + 'static {
        Self::builder().pool(crate::PoolConfig::new("default")).start()
    }

    /// Starts a bridge as configured.
    ///
    /// ```
    /// # #[actix::main]
    /// # async fn main() -> snakebridge::Result<()> {
    /// use snakebridge::{Affinity, Config, SnakeBridge};
    ///
    /// let py = SnakeBridge::from_config(Config::single(1, Affinity::StrictQueue)).await?;
    /// assert_eq!(py.stats().await.pools[0].name, "default");
    /// py.shutdown().await
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Builder::start`].
    pub fn from_config(config: Config) -> impl Future<Output = Result<Self>> + Send + 'static {
        Self::builder().config(config).start()
    }

    fn origin(&self) -> Origin {
        Origin::Bridge { life: Arc::clone(&self.life), auto: Arc::clone(&self.auto) }
    }

    /// Calls `module.function(*args)`; the name may be dotted. Nothing happens until it is awaited.
    ///
    /// `args` is a tuple of whatever serde can serialise, of [`PyRef`]s, or of both. A function of
    /// Python's own is in the module `builtins`. What a coroutine function returns is awaited there.
    ///
    /// ```
    /// # #[actix::main]
    /// # async fn main() -> snakebridge::Result<()> {
    /// # let py = snakebridge::SnakeBridge::builder().pool(snakebridge::PoolConfig::new("p").size(1)).start().await?;
    /// let rounded: f64 = py.call("builtins", "round", (2.5159,)).kwarg("ndigits", 2).extract().await?;
    /// assert_eq!(rounded, 2.52);
    /// let joined: String = py.call("os", "path.join", ("a", "b")).extract().await?;
    /// assert_eq!(joined, "a/b");
    /// # py.shutdown().await
    /// # }
    /// ```
    ///
    /// # Errors
    /// Awaited: see [`enum@Error`].
    pub fn call(&self, module: impl Into<String>, function: impl Into<String>, args: impl IntoArgs) -> Call {
        Call::new(self.origin(), Step::Function { module: module.into(), name: function.into() }, args)
    }

    /// Reads `module.name`; the name may be dotted.
    ///
    /// ```
    /// # #[actix::main]
    /// # async fn main() -> snakebridge::Result<()> {
    /// # let py = snakebridge::SnakeBridge::builder().pool(snakebridge::PoolConfig::new("p").size(1)).start().await?;
    /// let pi: f64 = py.get("math", "pi").extract().await?;
    /// assert_eq!(pi, std::f64::consts::PI);
    /// # py.shutdown().await
    /// # }
    /// ```
    ///
    /// # Errors
    /// Awaited: see [`enum@Error`].
    pub fn get(&self, module: impl Into<String>, name: impl Into<String>) -> Call {
        Call::new(self.origin(), Step::Global { module: module.into(), name: name.into() }, ())
    }

    /// Imports a module, as an object to call methods on.
    ///
    /// ```
    /// # #[actix::main]
    /// # async fn main() -> snakebridge::Result<()> {
    /// # let py = snakebridge::SnakeBridge::builder().pool(snakebridge::PoolConfig::new("p").size(1)).start().await?;
    /// let statistics = py.import("statistics").await?;
    /// let mean: f64 = statistics.call_method("mean", (vec![1, 2, 3, 6],)).extract().await?;
    /// assert_eq!(mean, 3.0);
    /// # py.shutdown().await
    /// # }
    /// ```
    ///
    /// # Errors
    /// Awaited: see [`enum@Error`].
    pub fn import(&self, module: impl Into<String>) -> Call<PyRef> {
        Call::new(self.origin(), Step::Module { name: module.into() }, ()).wanting_ref()
    }

    /// Runs Python statements in the namespace of the automatic session of this handle.
    ///
    /// A session has a namespace in each pool, empty at first, in one worker: what `exec` binds there,
    /// later calls of `exec` and `eval` find, under every affinity. It behaves like a module: functions
    /// and classes have it as their globals, and a traceback shows the lines of the code. It is made
    /// where the first of these calls is granted a worker, and stays there until its session ends.
    ///
    /// It is lost with its worker, as a ref is, and then these calls get `RefLost` until
    /// [`reset`](Session::reset), or with [`OnWorkerLost::Rehome`](crate::OnWorkerLost) find a new,
    /// empty one.
    ///
    /// ```
    /// # #[actix::main]
    /// # async fn main() -> snakebridge::Result<()> {
    /// # let py = snakebridge::SnakeBridge::builder().pool(snakebridge::PoolConfig::new("p").size(2)).start().await?;
    /// py.exec("import math\ndef area(r): return math.pi * r ** 2").await?;
    /// let area: f64 = py.eval("area(2)").extract().await?;
    /// assert_eq!(area.round(), 13.0);
    /// let error = py.exec("total = ").await.unwrap_err();
    /// assert_eq!(error.python().unwrap().type_name(), "SyntaxError");
    /// # py.shutdown().await
    /// # }
    /// ```
    ///
    /// # Errors
    /// Awaited: `Python` for what the code raises, a `SyntaxError` included; `RefsOnDifferentWorkers`
    /// if it carries refs that are not where the namespace is; else see [`enum@Error`].
    pub fn exec(&self, code: impl Into<String>) -> Call<()> {
        Call::exec(self.origin(), code.into())
    }

    /// The value of a Python expression in the namespace of the automatic session of this handle: see
    /// [`exec`](Self::exec). It arrives as any result does, and a chain may follow.
    ///
    /// ```
    /// # #[actix::main]
    /// # async fn main() -> snakebridge::Result<()> {
    /// # let py = snakebridge::SnakeBridge::builder().pool(snakebridge::PoolConfig::new("p").size(2)).start().await?;
    /// py.exec("words = ['b', 'a']").await?;
    /// let sorted: Vec<String> = py.eval("sorted(words)").extract().await?;
    /// assert_eq!(sorted, ["a", "b"]);
    /// let count: u32 = py.eval("words").call_method("count", ("a",)).extract().await?;
    /// assert_eq!(count, 1);
    /// # py.shutdown().await
    /// # }
    /// ```
    ///
    /// # Errors
    /// Awaited: as [`exec`](Self::exec).
    pub fn eval(&self, expression: impl Into<String>) -> Call {
        Call::eval(self.origin(), expression.into())
    }

    /// The session of that id, which begins with its first call; every handle of the same id speaks to it.
    ///
    /// See [`Session`] for an example.
    pub fn session(&self, id: impl Into<SessionId>) -> Session {
        self.session_with(id, SessionOptions::new())
    }

    /// The same, with options that hold if this handle's call is the one that starts it.
    ///
    /// ```
    /// # #[actix::main]
    /// # async fn main() -> snakebridge::Result<()> {
    /// # let py = snakebridge::SnakeBridge::builder().pool(snakebridge::PoolConfig::new("p").size(1)).start().await?;
    /// use snakebridge::{OnWorkerLost, SessionOptions};
    ///
    /// let options = SessionOptions::new().on_worker_lost(OnWorkerLost::Rehome);
    /// let cache = py.session_with("a cache", options);
    /// assert_eq!(cache.call("os", "_exit", (3,)).await.unwrap_err().code(), "worker_crashed");
    /// cache.call("math", "sqrt", (4,)).discard().await?; // finds a new, empty home
    /// # py.shutdown().await
    /// # }
    /// ```
    pub fn session_with(&self, id: impl Into<SessionId>, options: SessionOptions) -> Session {
        Session::new(id.into(), options, Arc::clone(&self.life))
    }

    /// The id of this handle's automatic session, which may not have begun.
    ///
    /// ```
    /// # #[actix::main]
    /// # async fn main() -> snakebridge::Result<()> {
    /// # let py = snakebridge::SnakeBridge::builder().pool(snakebridge::PoolConfig::new("p").size(1)).start().await?;
    /// let object = py.call("builtins", "object", ()).into_ref().await?;
    /// assert_eq!(*object.session(), py.current_session());
    /// assert_ne!(py.clone().current_session(), py.current_session());
    /// # py.shutdown().await
    /// # }
    /// ```
    pub fn current_session(&self) -> SessionId {
        self.auto.reserve(self.core())
    }

    /// Releases this handle's automatic session; its next call makes another, with another id.
    ///
    /// ```
    /// # #[actix::main]
    /// # async fn main() -> snakebridge::Result<()> {
    /// # let py = snakebridge::SnakeBridge::builder().pool(snakebridge::PoolConfig::new("p").size(1)).start().await?;
    /// let object = py.call("builtins", "object", ()).into_ref().await?;
    /// py.clear_auto_session().await?;
    /// assert_ne!(*object.session(), py.current_session());
    /// assert_eq!(object.repr().await.unwrap_err().code(), "ref_not_found");
    /// # py.shutdown().await
    /// # }
    /// ```
    ///
    /// Inside a callback it resolves at once, as [`Session::release`] does.
    ///
    /// # Errors
    /// `ShuttingDown`.
    pub fn clear_auto_session(&self) -> impl Future<Output = Result<()>> + Send + 'static {
        let AutoState { id, hold } = std::mem::take(&mut *self.auto.lock());
        drop(hold);
        end_session(Arc::clone(&self.life), id)
    }

    /// Lets a worker take nothing new for a time; what runs there goes on.
    ///
    /// Meanwhile strict calls of the sessions whose home it is, and calls that carry its refs, get
    /// `SessionWorkerUnavailable`. When the taint ends the worker is the home that it was. One
    /// that would end sooner than the taint it has changes nothing.
    ///
    /// ```
    /// # #[actix::main]
    /// # async fn main() -> snakebridge::Result<()> {
    /// use snakebridge::{Affinity, PoolConfig, SnakeBridge};
    /// use std::time::Duration;
    ///
    /// let pool = PoolConfig::new("p").size(1).affinity(Affinity::StrictQueue);
    /// let py = SnakeBridge::builder().pool(pool).start().await?;
    /// let session = py.session("a");
    /// session.call("math", "sqrt", (4,)).discard().await?;
    /// let home = session.home("p").await.unwrap();
    ///
    /// py.taint(&home, Duration::from_secs(60), "its card is too hot").await?;
    /// let error = session.call("math", "sqrt", (4,)).await.unwrap_err();
    /// assert_eq!(error.code(), "session_worker_unavailable");
    /// py.clear_taint(&home).await?;
    /// session.call("math", "sqrt", (4,)).discard().await?;
    /// # py.shutdown().await
    /// # }
    /// ```
    ///
    /// # Errors
    /// `UnknownWorker`.
    pub fn taint(
        &self,
        worker: &WorkerId,
        how_long: Duration,
        reason: &str,
    ) -> impl Future<Output = Result<()>> + Send + 'static {
        let reason = reason.to_owned();
        self.ask_worker(worker, move |worker| TaintWorker { worker, how_long, reason, is_renewed: false })
    }

    /// Ends a taint before its time.
    ///
    /// # Errors
    /// `UnknownWorker`.
    pub fn clear_taint(&self, worker: &WorkerId) -> impl Future<Output = Result<()>> + Send + 'static {
        self.ask_worker(worker, |worker| ClearTaint { worker })
    }

    /// Replaces a worker: it serves until its replacement is ready, then it finishes what it has and exits. One
    /// whose sessions hold refs there stays until they end, for `retire_grace` at most. Resolves when every slot
    /// of the pool has its worker ready.
    ///
    /// ```
    /// # #[actix::main]
    /// # async fn main() -> snakebridge::Result<()> {
    /// # let py = snakebridge::SnakeBridge::builder().pool(snakebridge::PoolConfig::new("p").size(1)).start().await?;
    /// let worker = py.workers().await.remove(0).id;
    /// py.restart_worker(&worker).await?;
    /// // The replacement has a slot of its own, and calls go there.
    /// let object = py.call("builtins", "object", ()).into_ref().await?;
    /// assert_ne!(*object.worker(), worker);
    /// # py.shutdown().await
    /// # }
    /// ```
    ///
    /// # Errors
    /// `UnknownWorker`; `Spawn` if the pool is degraded before that.
    pub fn restart_worker(&self, worker: &WorkerId) -> impl Future<Output = Result<()>> + Send + 'static {
        self.ask_worker(worker, |worker| RestartWorker { worker })
    }

    fn ask_worker<M>(
        &self,
        worker: &WorkerId,
        message: impl FnOnce(WorkerId) -> M,
    ) -> impl Future<Output = Result<()>> + Send + 'static
    where
        M: Message<Result = Result<()>> + Send + 'static,
        PoolSupervisor: Handler<M>,
    {
        let unknown = Error::UnknownWorker { worker: worker.clone() };
        let core = Arc::clone(self.core());
        let asked = core.pools.get(worker.pool()).map(|pool| pool.addr.send(message(worker.clone())));
        async move {
            match asked {
                Some(answer) => answer.await.unwrap_or_else(|_| Err(core.unanswered())),
                None => Err(unknown),
            }
        }
    }

    /// Makes a pool larger or smaller; resolves when every slot has its worker ready. Workers that are too many
    /// retire, those with the fewest sessions first.
    ///
    /// ```
    /// # #[actix::main]
    /// # async fn main() -> snakebridge::Result<()> {
    /// # let py = snakebridge::SnakeBridge::builder().pool(snakebridge::PoolConfig::new("p").size(1)).start().await?;
    /// py.resize("p", 2).await?;
    /// py.await_ready(std::time::Duration::from_secs(60)).await?;
    /// assert_eq!(py.stats().await.pools[0].ready, 2);
    /// # py.shutdown().await
    /// # }
    /// ```
    ///
    /// # Errors
    /// `UnknownPool`; `Config` for a size of 0; `Spawn` if the pool is degraded before that.
    pub fn resize(&self, pool: impl Into<PoolName>, size: usize) -> impl Future<Output = Result<()>> + Send + 'static {
        let name = pool.into();
        let asked = match self.core().pool(&name) {
            Ok(_) if size == 0 => Err(Error::config(format!("pool {name}: size is 0, it needs at least one worker"))),
            Ok(pool) => Ok(pool.addr.send(Resize { size })),
            Err(unknown) => Err(unknown),
        };
        let core = Arc::clone(self.core());
        async move { asked?.await.unwrap_or_else(|_| Err(core.unanswered())) }
    }

    /// Loads all Python code of a pool anew: starts a new zygote, which imports `preload`, then replaces every
    /// worker: one first, and when its replacement is ready the others together. Each serves until then, so the pool
    /// is at no moment smaller. Resolves when every slot has its new worker ready; sessions that hold something in
    /// an old worker have `retire_grace`.
    ///
    /// ```
    /// # #[actix::main]
    /// # async fn main() -> snakebridge::Result<()> {
    /// # let py = snakebridge::SnakeBridge::builder().pool(snakebridge::PoolConfig::new("p").size(1)).start().await?;
    /// let before: u32 = py.call("os", "getpid", ()).extract().await?;
    /// py.reload("p").await?;
    /// assert_ne!(py.call("os", "getpid", ()).extract::<u32>().await?, before);
    /// # py.shutdown().await
    /// # }
    /// ```
    ///
    /// # Errors
    /// `UnknownPool`. `Spawn` if the new zygote or its first worker cannot start, and all old workers serve on; in
    /// the second case the pool is degraded, and its workers are of the old code until a try or the next `reload`
    /// succeeds.
    pub fn reload(&self, pool: impl Into<PoolName>) -> impl Future<Output = Result<()>> + Send + 'static {
        let asked = self.core().pool(&pool.into()).map(|pool| pool.addr.send(Reload));
        let core = Arc::clone(self.core());
        async move { asked?.await.unwrap_or_else(|_| Err(core.unanswered())) }
    }

    /// Every worker, from its fork to its seen exit.
    ///
    /// ```
    /// # #[actix::main]
    /// # async fn main() -> snakebridge::Result<()> {
    /// # let py = snakebridge::SnakeBridge::builder().pool(snakebridge::PoolConfig::new("p").size(1)).start().await?;
    /// let workers = py.workers().await;
    /// assert_eq!(workers[0].id.to_string(), "p/0#1");
    /// let pid: u32 = py.call("os", "getpid", ()).extract().await?;
    /// assert_eq!(workers[0].pid, pid);
    /// # py.shutdown().await
    /// # }
    /// ```
    pub fn workers(&self) -> impl Future<Output = Vec<WorkerInfo>> + Send + 'static {
        let asked: Vec<_> = self.core().pools.values().map(|pool| pool.addr.send(Workers)).collect();
        async move { join_all(asked).await.into_iter().flatten().flatten().collect() }
    }

    /// Every session that lives, by id.
    ///
    /// ```
    /// # #[actix::main]
    /// # async fn main() -> snakebridge::Result<()> {
    /// # let py = snakebridge::SnakeBridge::builder().pool(snakebridge::PoolConfig::new("p").size(1)).start().await?;
    /// let session = py.session("a");
    /// session.call("math", "sqrt", (4,)).discard().await?;
    /// let sessions = py.sessions().await;
    /// assert_eq!((sessions[0].id.as_str(), sessions[0].refs), ("a", 0));
    /// assert_eq!(sessions[0].homes[0].to_string(), "p/0#1");
    /// # py.shutdown().await
    /// # }
    /// ```
    pub fn sessions(&self) -> impl Future<Output = Vec<SessionInfo>> + Send + 'static {
        let pools: Vec<_> = self.core().pools.values().map(|pool| pool.addr.send(Homes)).collect();
        let sessions: Vec<_> = self
            .core()
            .directory
            .all()
            .into_iter()
            .map(|(state, actor)| {
                let status = actor.send(SessionStatus);
                async move { (state.key.clone(), status.await) }
            })
            .collect();
        async move {
            let mut homes: HashMap<_, Vec<WorkerId>> = HashMap::new();
            for (session, home) in join_all(pools).await.into_iter().flatten().flatten() {
                homes.entry(session).or_default().push(home);
            }
            let mut found: Vec<_> = join_all(sessions)
                .await
                .into_iter()
                // One that ended between the two questions has no answer, and is no more.
                .filter_map(|(key, status)| Some((key, status.ok()?)))
                .map(|(key, status)| SessionInfo {
                    id: status.id,
                    refs: status.refs,
                    waiting: status.waiting,
                    homes: homes.remove(&key).unwrap_or_default(),
                })
                .collect();
            found.sort_by(|a, b| a.id.cmp(&b.id));
            found
        }
    }

    /// The state of every pool, and how much there is.
    ///
    /// ```
    /// # #[actix::main]
    /// # async fn main() -> snakebridge::Result<()> {
    /// # let py = snakebridge::SnakeBridge::builder().pool(snakebridge::PoolConfig::new("p").size(2)).start().await?;
    /// let stats = py.stats().await;
    /// assert_eq!((stats.pools[0].ready, stats.pools[0].waiting), (2, 0));
    /// # py.shutdown().await
    /// # }
    /// ```
    pub fn stats(&self) -> impl Future<Output = Stats> + Send + 'static {
        let core = Arc::clone(self.core());
        async move {
            let reports = join_all(core.pools.values().map(|pool| pool.addr.send(PoolStatus))).await;
            let pools: Vec<PoolStats> = reports.into_iter().flatten().map(|PoolReport { stats, .. }| stats).collect();
            let refs = core.registry.send(CountRefs).await.unwrap_or(0);
            Stats { pools, sessions: core.directory.all().len(), refs }
        }
    }

    /// The lifecycle events from this moment on. A reader that lags more than 4,096 events behind
    /// misses the oldest, and a warning is logged. See [`Event`] for an example.
    pub fn events(&self) -> impl Stream<Item = Event> + Send + Unpin + 'static {
        self.core().observers.events.stream()
    }

    /// Sends every lifecycle event from this moment on to an actor, the next when it has handled the one before.
    /// One that lags more than 4,096 events behind misses the oldest, and a warning is logged. When the bridge has
    /// stopped it has 500 ms for what is left.
    ///
    /// ```
    /// use actix::prelude::*;
    /// use snakebridge::{Event, PoolConfig, SnakeBridge};
    ///
    /// struct Watch;
    /// impl Actor for Watch {
    ///     type Context = Context<Self>;
    /// }
    /// impl Handler<Event> for Watch {
    ///     type Result = ();
    ///     fn handle(&mut self, event: Event, _: &mut Context<Self>) {
    ///         println!("{} {}", event.seq(), event.name());
    ///     }
    /// }
    ///
    /// #[actix::main]
    /// async fn main() -> snakebridge::Result<()> {
    ///     let py = SnakeBridge::builder().pool(PoolConfig::new("p").size(1)).start().await?;
    ///     py.subscribe(Watch.start().recipient());
    ///     py.call("math", "sqrt", (4,)).discard().await?;
    ///     py.shutdown().await
    /// }
    /// ```
    pub fn subscribe(&self, subscriber: Recipient<Event>) {
        let feed = self.core().observers.events.feed(subscriber);
        // Where the arbiter of the bridge has stopped, nothing is told any more.
        let _has_stopped = self.core().arbiter.spawn(feed);
    }

    /// The log of what the actors of this bridge handled, and what came of it: at its default level
    /// the lifecycle, at [`MessageLogLevel::Calls`](crate::MessageLogLevel::Calls) every call too. See
    /// [`MessageLog`] for an example.
    pub fn message_log(&self) -> MessageLog {
        self.core().observers.messages.reader()
    }

    /// The supervisor of a pool; it answers [`PoolStatus`](crate::PoolStatus).
    pub fn pool_addr(&self, name: impl Into<PoolName>) -> Option<Addr<PoolSupervisor>> {
        self.core().pools.get(&name.into()).map(|pool| pool.addr.clone())
    }

    /// The actor of a session that lives; it answers [`SessionStatus`](crate::SessionStatus).
    pub fn session_addr(&self, id: impl Into<SessionId>) -> Option<Addr<SessionActor>> {
        self.core().directory.find(&id.into()).map(|(_, actor)| actor)
    }

    /// Resolves when every slot of every pool has its worker ready.
    ///
    /// # Errors
    /// `Timeout` if that takes longer; `ShuttingDown`.
    pub fn await_ready(&self, within: Duration) -> impl Future<Output = Result<()>> + Send + 'static {
        let until = clock::now() + bounded(within);
        let core = Arc::clone(self.core());
        let asked: Vec<_> = core.pools.values().map(|pool| pool.addr.send(AwaitReady { until })).collect();
        async move {
            for answer in join_all(asked).await {
                match answer {
                    Ok(true) => {}
                    Ok(false) => return Err(Error::Timeout { timeout: within, ran: Ran::No }),
                    Err(_) => return Err(core.unanswered()),
                }
            }
            Ok(())
        }
    }

    /// What ties the workers to this process on this machine.
    pub fn guarantees(&self) -> impl Future<Output = Guarantees> + Send + 'static {
        let asked: Vec<_> = self.core().pools.values().map(|pool| pool.addr.send(PoolStatus)).collect();
        async move {
            let pools: Vec<_> = join_all(asked).await.into_iter().flatten().collect();
            Guarantees {
                ties: pools.iter().map(|pool| (pool.stats.name.clone(), pool.tie)).collect(),
                pid_namespaces: pools.into_iter().map(|pool| (pool.stats.name, pool.pid_namespace)).collect(),
            }
        }
    }

    /// Lets Python call a function of this process by that name, from any code that runs in a call, on the
    /// thread of that call: `snakebridge.host.call(name, *args, **kwargs)`.
    ///
    /// `A` is what it is called with: one positional argument alone is that value, none or several are a
    /// tuple, keywords are a map at its end, and keywords alone are the map, for which `A` may be a struct.
    /// They arrive as the results of [`extract`](Call::extract) do, objects as [`PyRef`]s where `A` has
    /// one. What the function returns may hold refs to objects in the worker that calls, and
    /// [`Callback`]s.
    ///
    /// An error becomes a `snakebridge.HostError` in Python, with its [`code`](Error::code) in `code`;
    /// [`Error::raise`] names the exception to be raised instead. So does a panic (`internal`), and
    /// arguments that do not fit (`convert`); `no_such_function` is what there is no function for.
    ///
    /// Python waits for the answer, and the calls that the function itself makes belong to the call that
    /// waits: a worker that waits for them runs them at once, so that they pass every queue, and the
    /// deadline of that call is theirs too. One on a bridge handle that names no session is of that
    /// call's session. All this holds for calls first polled by the function's own future: a task that
    /// it spawns is outside. A call that would wait for ever, since every worker that it may go to waits for
    /// the callback of another, or has 64 calls on top of each other, gets [`Error::WouldDeadlock`].
    ///
    /// It runs on the thread that the bridge lives on, which is that of `start()` unless it has one of its own: what
    /// takes long without awaiting belongs elsewhere (`tokio::task::spawn_blocking`). Calls of it run side by side if they come from several workers.
    ///
    /// The bridge keeps the function until [`unregister`](Self::unregister), or its stop. It does not keep
    /// the bridge running, unless it has captured a handle: [`downgrade`](Self::downgrade) is for that.
    ///
    /// ```
    /// # #[actix::main]
    /// # async fn main() -> snakebridge::Result<()> {
    /// # let py = snakebridge::SnakeBridge::builder().pool(snakebridge::PoolConfig::new("p").size(1)).start().await?;
    /// use serde::Deserialize;
    ///
    /// py.register("lookup", |id: u64| async move { Ok(id * 2) })?;
    /// py.exec("import snakebridge").await?;
    /// assert_eq!(py.eval("snakebridge.host.call('lookup', 21)").extract::<u64>().await?, 42);
    ///
    /// #[derive(Deserialize)]
    /// struct User {
    ///     name: String,
    ///     age: u8,
    /// }
    /// py.register("greet", |user: User| async move { Ok(format!("{} ({})", user.name, user.age)) })?;
    /// let greeting: String = py.eval("snakebridge.host.call('greet', name='Ada', age=36)").extract().await?;
    /// assert_eq!(greeting, "Ada (36)");
    ///
    /// // It may call Python in turn: the worker that waits for it runs that.
    /// let weak = py.downgrade();
    /// py.register("root", move |square: f64| {
    ///     let py = weak.upgrade();
    ///     async move { py.expect("a call of it runs").call("math", "sqrt", (square,)).extract::<f64>().await }
    /// })?;
    /// assert_eq!(py.eval("snakebridge.host.call('root', 16.0)").extract::<f64>().await?, 4.0);
    /// # py.shutdown().await
    /// # }
    /// ```
    ///
    /// # Errors
    /// `Config` for a name that is taken, or empty; `ShuttingDown`.
    pub fn register<A, R, F, Fut>(&self, name: impl Into<String>, f: F) -> Result<()>
    where
        F: Fn(A) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<R, Error>> + Send + 'static,
        A: DeserializeOwned + Send + 'static,
        R: Serialize + Send + 'static,
    {
        if self.core().is_stopping() {
            return Err(Error::ShuttingDown { ran: Ran::No });
        }
        self.core().functions.register(name, f)
    }

    /// Forgets the function of that name, if there is one: Python gets `no_such_function` from now on.
    /// Calls of it that are under way finish.
    ///
    /// ```
    /// # #[actix::main]
    /// # async fn main() -> snakebridge::Result<()> {
    /// # let py = snakebridge::SnakeBridge::builder().pool(snakebridge::PoolConfig::new("p").size(1)).start().await?;
    /// py.register("lookup", |id: u64| async move { Ok(id * 2) })?;
    /// let error = py.register("lookup", |id: u64| async move { Ok(id * 3) }).unwrap_err();
    /// assert_eq!(error.to_string(), "a function 'lookup' is registered already: unregister it first");
    /// py.unregister("lookup");
    /// py.register("lookup", |id: u64| async move { Ok(id * 3) })?;
    /// # py.shutdown().await
    /// # }
    /// ```
    pub fn unregister(&self, name: impl AsRef<str>) {
        self.core().functions.unregister(name.as_ref());
    }

    /// A function of this process as an argument of calls, where Python sees a callable. It is called,
    /// and what it does, runs and fails with is as [`register`](Self::register) says.
    ///
    /// ```
    /// # #[actix::main]
    /// # async fn main() -> snakebridge::Result<()> {
    /// # let py = snakebridge::SnakeBridge::builder().pool(snakebridge::PoolConfig::new("p").size(1)).start().await?;
    /// let double = py.callback(|x: i64| async move { Ok(2 * x) });
    /// let doubled: Vec<i64> = py.call("builtins", "map", (&double, vec![1, 2])).extract().await?;
    /// assert_eq!(doubled, [2, 4]);
    ///
    /// let add = py.callback(|(a, b): (i64, i64)| async move { Ok(a + b) });
    /// let sum: i64 = py.call("functools", "reduce", (&add, vec![1, 2, 3])).extract().await?;
    /// assert_eq!(sum, 6);
    /// # py.shutdown().await
    /// # }
    /// ```
    pub fn callback<A, R, F, Fut>(&self, f: F) -> Callback
    where
        F: Fn(A) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<R, Error>> + Send + 'static,
        A: DeserializeOwned + Send + 'static,
        R: Serialize + Send + 'static,
    {
        self.core().functions.callback(f)
    }

    /// A handle that does not keep the bridge running.
    pub fn downgrade(&self) -> WeakBridge {
        WeakBridge(Arc::downgrade(&self.life))
    }

    /// Stops the bridge: calls that wait are refused, running ones have their pool's
    /// `shutdown_grace`, then everything is killed. Resolves when no process is left, and no thread of the
    /// bridge; where these are its own, what a function that Python called has left on their blocking threads
    /// is waited for 500 ms, and then left with a warning.
    ///
    /// Later calls get `ShuttingDown`. Without it, the bridge stops when its last handle, ref and
    /// call is gone.
    ///
    /// ```
    /// # #[actix::main]
    /// # async fn main() -> snakebridge::Result<()> {
    /// # let py = snakebridge::SnakeBridge::builder().pool(snakebridge::PoolConfig::new("p").size(1)).start().await?;
    /// py.shutdown().await?;
    /// assert_eq!(py.call("math", "sqrt", (4,)).await.unwrap_err().code(), "shutting_down");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// None today: a second shutdown waits for the first.
    pub fn shutdown(&self) -> impl Future<Output = Result<()>> + Send + 'static {
        let core = Arc::clone(self.core());
        async move {
            Arc::clone(&core).stop();
            core.until_stopped().await;
            core.threads_ended().await;
            Ok(())
        }
    }
}

/// Ends the session of that id, if it lives, and resolves when nothing of it is left. Inside a callback that may
/// never be, since the call that waits for that may be one of the session: there it resolves at once.
#[expect(clippy::manual_async_fn, reason = "the future is owned: it borrows nothing")]
pub(crate) fn end_session(life: Arc<Life>, id: Option<SessionId>) -> impl Future<Output = Result<()>> + Send + 'static {
    async move {
        let Some(id) = id else { return Ok(()) };
        let (done, ended) = oneshot::channel();
        let core = &life.core;
        let Some(session) = core.directory.release(&id, done) else { return Ok(()) };
        if scope::current(&life).is_some() || ended.await.is_ok() {
            return Ok(());
        }
        // Its actor had told of its end before it was asked: the registry hears of that before this.
        let _handled = core.registry.send(CountRefs).await;
        // Nothing is left of it where the bridge is gone.
        match core.directory.is_ending(&session) && !core.is_stopping() {
            true => Err(core.unanswered()),
            false => Ok(()),
        }
    }
}

impl Clone for SnakeBridge {
    fn clone(&self) -> Self {
        Self::new(Arc::clone(&self.life))
    }
}

impl fmt::Debug for SnakeBridge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SnakeBridge").field("pools", &self.core().pool_names()).finish_non_exhaustive()
    }
}

/// A handle that does not keep its bridge running: see [`SnakeBridge::downgrade`].
///
/// ```
/// # #[actix::main]
/// # async fn main() -> snakebridge::Result<()> {
/// # let py = snakebridge::SnakeBridge::builder().pool(snakebridge::PoolConfig::new("p").size(1)).start().await?;
/// let weak = py.downgrade();
/// let root: f64 = weak.upgrade().unwrap().call("math", "sqrt", (4,)).extract().await?;
/// assert_eq!(root, 2.0);
/// # py.shutdown().await
/// # }
/// ```
#[derive(Clone)]
pub struct WeakBridge(Weak<Life>);

impl WeakBridge {
    /// A handle that does, with an automatic session of its own, if the bridge still runs.
    pub fn upgrade(&self) -> Option<SnakeBridge> {
        self.0.upgrade().map(SnakeBridge::new)
    }
}

impl fmt::Debug for WeakBridge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WeakBridge")
    }
}
