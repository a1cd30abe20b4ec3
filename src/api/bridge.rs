//! The handle of a bridge.

use super::args::IntoArgs;
use super::builder::Builder;
use super::call::{Call, Origin};
use super::session::Session;
use crate::actors::core::{Core, Life};
use crate::actors::hold::Hold;
use crate::actors::pool::{
    AwaitReady, ClearTaint, Homes, PoolReport, PoolStatus, PoolSupervisor, Resize, RestartWorker, TaintWorker, Workers,
};
use crate::actors::registry::CountRefs;
use crate::actors::session::{SessionActor, SessionStatus};
use crate::config::{Config, SessionOptions};
use crate::error::{Error, Ran, Result};
use crate::event::{EndReason, Event};
use crate::id::{PoolName, SessionId, WorkerId};
use crate::status::{Guarantees, PoolStats, SessionInfo, Stats, WorkerInfo};
use crate::value::PyRef;
use crate::wire::Step;
use actix::prelude::*;
use futures::Stream;
use futures::future::join_all;
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// A running bridge: its pools, their workers, and the sessions in them.
///
/// The handle is `Send + Sync` and works from any thread and any async runtime. **A clone is a new
/// owner**: it has its own automatic session, which begins with the first call that names no session
/// and carries no refs, and ends when the handle and everything made through it are gone. The bridge
/// stops when its last handle, ref and call is gone, or with [`shutdown`](Self::shutdown).
///
/// ```no_run
/// use snakebridge::{Affinity, PoolConfig, SnakeBridge};
///
/// # async fn example() -> snakebridge::Result<()> {
/// let py = SnakeBridge::builder()
///     .pool(PoolConfig::new("strict_pool").size(2).affinity(Affinity::StrictQueue))
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

    fn core(&self) -> &Arc<Core> {
        &self.life.core
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
    /// `args` is a tuple of whatever serde can serialise, of [`PyRef`]s, or of both.
    ///
    /// # Errors
    /// Awaited: see [`enum@Error`].
    pub fn call(&self, module: impl Into<String>, function: impl Into<String>, args: impl IntoArgs) -> Call {
        Call::new(self.origin(), Step::Function { module: module.into(), name: function.into() }, args)
    }

    /// Reads `module.name`.
    ///
    /// # Errors
    /// Awaited: see [`enum@Error`].
    pub fn get(&self, module: impl Into<String>, name: impl Into<String>) -> Call {
        Call::new(self.origin(), Step::Global { module: module.into(), name: name.into() }, ())
    }

    /// Imports a module, as an object to call methods on.
    ///
    /// # Errors
    /// Awaited: see [`enum@Error`].
    pub fn import(&self, module: impl Into<String>) -> Call<PyRef> {
        Call::new(self.origin(), Step::Module { name: module.into() }, ()).wanting_ref()
    }

    /// The session of that id, which begins with its first call; every handle of the same id speaks to it.
    pub fn session(&self, id: impl Into<SessionId>) -> Session {
        self.session_with(id, SessionOptions::new())
    }

    /// The same, with options that hold if this handle's call is the one that starts it.
    pub fn session_with(&self, id: impl Into<SessionId>, options: SessionOptions) -> Session {
        Session::new(id.into(), options, Arc::clone(&self.life))
    }

    /// The id of this handle's automatic session, which may not have begun.
    pub fn current_session(&self) -> SessionId {
        self.auto.reserve(self.core())
    }

    /// Releases this handle's automatic session; its next call makes another, with another id.
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
    /// # Errors
    /// `UnknownWorker`.
    pub fn taint(
        &self,
        worker: &WorkerId,
        how_long: Duration,
        reason: &str,
    ) -> impl Future<Output = Result<()>> + Send + 'static {
        let reason = reason.to_owned();
        self.ask_worker(worker, move |worker| TaintWorker { worker, how_long, reason })
    }

    /// Ends a taint before its time.
    ///
    /// # Errors
    /// `UnknownWorker`.
    pub fn clear_taint(&self, worker: &WorkerId) -> impl Future<Output = Result<()>> + Send + 'static {
        self.ask_worker(worker, |worker| ClearTaint { worker })
    }

    /// Retires a worker: a replacement is started first, then it finishes what it has and exits. One
    /// whose sessions hold refs there stays until they end, for `retire_grace` at most.
    ///
    /// # Errors
    /// `UnknownWorker`.
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
        let asked = self.core().pools.get(worker.pool()).map(|pool| pool.addr.send(message(worker.clone())));
        async move {
            match asked {
                Some(answer) => answer.await.unwrap_or(Err(Error::ShuttingDown { ran: Ran::No })),
                None => Err(unknown),
            }
        }
    }

    /// Makes a pool larger or smaller; resolves when it has begun to be. Workers that are too many
    /// retire, those with the fewest sessions first.
    ///
    /// # Errors
    /// `UnknownPool`; `Config` for a size of 0.
    pub fn resize(&self, pool: impl Into<PoolName>, size: usize) -> impl Future<Output = Result<()>> + Send + 'static {
        let name = pool.into();
        let asked = match self.core().pool(&name) {
            Ok(_) if size == 0 => Err(Error::config(format!("pool {name}: size is 0, it needs at least one worker"))),
            Ok(pool) => Ok(pool.addr.send(Resize { size })),
            Err(unknown) => Err(unknown),
        };
        async move { asked?.await.map_err(|_| Error::ShuttingDown { ran: Ran::No }) }
    }

    /// Every worker, from its fork to its seen exit.
    pub fn workers(&self) -> impl Future<Output = Vec<WorkerInfo>> + Send + 'static {
        let asked: Vec<_> = self.core().pools.values().map(|pool| pool.addr.send(Workers)).collect();
        async move { join_all(asked).await.into_iter().flatten().flatten().collect() }
    }

    /// Every session that lives.
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
    /// misses the oldest, and a warning is logged.
    pub fn events(&self) -> impl Stream<Item = Event> + Send + Unpin + 'static {
        self.core().events.stream()
    }

    /// Sends every lifecycle event from this moment on to an actor.
    pub fn subscribe(&self, subscriber: Recipient<Event>) {
        self.core().events.subscribe(subscriber);
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
        let until = Instant::now() + within;
        let asked: Vec<_> = self.core().pools.values().map(|pool| pool.addr.send(AwaitReady { until })).collect();
        async move {
            for answer in join_all(asked).await {
                match answer {
                    Ok(true) => {}
                    Ok(false) => return Err(Error::Timeout { timeout: within, ran: Ran::No }),
                    Err(_) => return Err(Error::ShuttingDown { ran: Ran::No }),
                }
            }
            Ok(())
        }
    }

    /// What ties the workers to this process on this machine.
    pub fn guarantees(&self) -> impl Future<Output = Guarantees> + Send + 'static {
        let asked: Vec<_> = self.core().pools.values().map(|pool| pool.addr.send(PoolStatus)).collect();
        async move {
            let ties = join_all(asked).await.into_iter().flatten().map(|pool| (pool.stats.name, pool.tie)).collect();
            Guarantees { ties }
        }
    }

    /// A handle that does not keep the bridge running.
    pub fn downgrade(&self) -> WeakBridge {
        WeakBridge(Arc::downgrade(&self.life))
    }

    /// Stops the bridge: calls that wait are refused, running ones have their pool's
    /// `shutdown_grace`, then everything is killed. Resolves when no process is left.
    ///
    /// # Errors
    /// None today: a second shutdown waits for the first.
    pub fn shutdown(&self) -> impl Future<Output = Result<()>> + Send + 'static {
        let core = Arc::clone(self.core());
        async move {
            Arc::clone(&core).stop();
            core.until_stopped().await;
            core.join_thread();
            Ok(())
        }
    }
}

/// Ends the session of that id, if it lives, and resolves when nothing of it is left.
#[expect(clippy::manual_async_fn, reason = "the future is owned: it borrows nothing")]
pub(crate) fn end_session(life: Arc<Life>, id: Option<SessionId>) -> impl Future<Output = Result<()>> + Send + 'static {
    async move {
        let Some((state, actor)) = id.and_then(|id| life.core.directory.find(&id)) else { return Ok(()) };
        let (done, ended) = oneshot::channel();
        if !life.core.directory.end(&state.key, EndReason::Released, Some(done)) {
            return Ok(());
        }
        drop(actor);
        ended.await.map_err(|_| Error::ShuttingDown { ran: Ran::No })
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
