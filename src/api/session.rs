//! The handle of a session.

use super::args::IntoArgs;
use super::bridge::end_session;
use super::call::{Call, Origin};
use crate::actors::core::Life;
use crate::actors::hold::{Hold, OnHome};
use crate::actors::pool::HomeOf;
use crate::actors::session::ResetAll;
use crate::config::SessionOptions;
use crate::error::{Error, Ran, Result};
use crate::id::{PoolName, SessionId, WorkerId};
use crate::value::PyRef;
use crate::wire::Step;
use futures::future::try_join_all;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::oneshot;

/// A session: calls made on it come back to the worker that holds their state, one in each pool.
///
/// Clones, and other handles of the same id, are the same session. It begins with its first call and
/// ends with [`release`](Self::release), or its TTL after the last handle, ref and call of it went.
///
/// ```
/// # #[actix::main]
/// # async fn main() -> snakebridge::Result<()> {
/// use snakebridge::{Affinity, PoolConfig, PyRef, SnakeBridge};
///
/// let pool = PoolConfig::new("p").size(2).affinity(Affinity::StrictQueue);
/// let py = SnakeBridge::builder().pool(pool).start().await?;
/// let session = py.session("user_42");
/// assert_eq!(session.home("p").await, None);
///
/// let counts: PyRef = session.call("collections", "Counter", ("abracadabra",)).into_ref().await?;
/// assert_eq!(session.home("p").await.as_ref(), Some(counts.worker()));
///
/// session.release().await?;
/// let error = counts.len().await.unwrap_err();
/// assert_eq!(error.code(), "ref_not_found");
/// # py.shutdown().await
/// # }
/// ```
#[derive(Clone)]
pub struct Session(Arc<Inner>);

pub(crate) struct Inner {
    id: SessionId,
    options: SessionOptions,
    life: Arc<Life>,
    hold: Mutex<Option<Arc<Hold>>>,
}

impl Inner {
    pub(crate) fn life(&self) -> &Arc<Life> {
        &self.life
    }

    pub(crate) fn id(&self) -> &SessionId {
        &self.id
    }

    /// The session, started if need be: anew, when it was released or has expired.
    pub(crate) fn hold(&self) -> Result<Arc<Hold>> {
        let mut kept = self.hold.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(hold) = &*kept
            && !hold.state.has_ended()
        {
            return Ok(Arc::clone(hold));
        }
        let hold = self.life.core.directory.hold(&self.id, false, &self.options, &self.life)?;
        *kept = Some(Arc::clone(&hold));
        Ok(hold)
    }
}

impl SessionOptions {
    /// What the session does in each new home before the call that set it: to load what its calls need
    /// there. Default: nothing.
    ///
    /// What it calls in its session, in that pool, runs in the new home before the session's other calls,
    /// which wait (those that must not wait get `WorkerBusy`); a task that it spawns is one of the others. A
    /// call on a bridge handle that names no session is in its session too. It counts against the deadline of
    /// the call that set the home. If it fails, panics or its worker dies, that call gets [`Error::OnHome`] or
    /// `SessionWorkerUnavailable`, and never begins; the home is forgotten, and the next call tries again.
    ///
    /// ```
    /// # #[actix::main]
    /// # async fn main() -> snakebridge::Result<()> {
    /// use snakebridge::{OnWorkerLost, PoolConfig, SessionOptions, SnakeBridge};
    ///
    /// let py = SnakeBridge::builder().pool(PoolConfig::new("p").size(1)).start().await?;
    /// let options = SessionOptions::new()
    ///     .on_worker_lost(OnWorkerLost::Rehome)
    ///     .on_home(|session| async move { session.exec("total = 100").await });
    /// let session = py.session_with("a", options);
    /// assert_eq!(session.eval("total + 1").extract::<u32>().await?, 101);
    ///
    /// session.call("os", "_exit", (1,)).await.unwrap_err();
    /// assert_eq!(session.eval("total + 1").extract::<u32>().await?, 101);
    /// # py.shutdown().await
    /// # }
    /// ```
    pub fn on_home<F, Fut>(mut self, rebuild: F) -> Self
    where
        F: Fn(Session) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<()>> + Send + 'static,
    {
        self.on_home = Some(OnHome::new(move |hold| {
            let session = Session::new(hold.id().clone(), SessionOptions::new(), Arc::clone(&hold.life));
            Box::pin(rebuild(session))
        }));
        self
    }
}

impl Session {
    pub(crate) fn new(id: SessionId, options: SessionOptions, life: Arc<Life>) -> Self {
        Self(Arc::new(Inner { id, options, life, hold: Mutex::new(None) }))
    }

    fn origin(&self) -> Origin {
        Origin::Session(Arc::clone(&self.0))
    }

    /// Its id.
    pub fn id(&self) -> &SessionId {
        &self.0.id
    }

    /// As [`SnakeBridge::call`](crate::SnakeBridge::call), in this session.
    ///
    /// # Errors
    /// Awaited: see [`enum@Error`].
    pub fn call(&self, module: impl Into<String>, function: impl Into<String>, args: impl IntoArgs) -> Call {
        Call::new(self.origin(), Step::Function { module: module.into(), name: function.into() }, args)
    }

    /// As [`SnakeBridge::get`](crate::SnakeBridge::get), in this session.
    ///
    /// # Errors
    /// Awaited: see [`enum@Error`].
    pub fn get(&self, module: impl Into<String>, name: impl Into<String>) -> Call {
        Call::new(self.origin(), Step::Global { module: module.into(), name: name.into() }, ())
    }

    /// As [`SnakeBridge::import`](crate::SnakeBridge::import), in this session.
    ///
    /// # Errors
    /// Awaited: see [`enum@Error`].
    pub fn import(&self, module: impl Into<String>) -> Call<PyRef> {
        Call::new(self.origin(), Step::Module { name: module.into() }, ()).wanting_ref()
    }

    /// As [`SnakeBridge::exec`](crate::SnakeBridge::exec), in the namespace of this session.
    ///
    /// ```
    /// # #[actix::main]
    /// # async fn main() -> snakebridge::Result<()> {
    /// # let py = snakebridge::SnakeBridge::builder().pool(snakebridge::PoolConfig::new("p").size(2)).start().await?;
    /// let (one, other) = (py.session("one"), py.session("other"));
    /// one.exec("total = 1").await?;
    /// other.exec("total = 10").await?;
    /// one.exec("total += 1").await?;
    /// assert_eq!(one.eval("total").extract::<i64>().await?, 2);
    /// # py.shutdown().await
    /// # }
    /// ```
    ///
    /// # Errors
    /// Awaited: as [`SnakeBridge::exec`](crate::SnakeBridge::exec).
    pub fn exec(&self, code: impl Into<String>) -> Call<()> {
        Call::exec(self.origin(), code.into())
    }

    /// As [`SnakeBridge::eval`](crate::SnakeBridge::eval), in the namespace of this session.
    ///
    /// # Errors
    /// Awaited: as [`SnakeBridge::exec`](crate::SnakeBridge::exec).
    pub fn eval(&self, expression: impl Into<String>) -> Call {
        Call::eval(self.origin(), expression.into())
    }

    /// The worker that the session prefers in that pool, also when it is gone; `None` before its
    /// first call there.
    pub fn home(&self, pool: impl Into<PoolName>) -> impl Future<Output = Option<WorkerId>> + Send + 'static {
        let core = &self.0.life.core;
        let asked = core
            .pools
            .get(&pool.into())
            .zip(core.directory.find(&self.0.id))
            .map(|(pool, (state, _))| pool.addr.send(HomeOf { session: state.key.clone() }));
        async move { asked?.await.ok().flatten() }
    }

    /// Forgets homes that are missing or tainted, so that strict calls find a new home, and namespaces
    /// that are lost; never a healthy home. It resolves when every pool has done so.
    ///
    /// What the session kept in a worker that is gone stays lost: this says that its owner knows.
    ///
    /// ```
    /// # #[actix::main]
    /// # async fn main() -> snakebridge::Result<()> {
    /// use snakebridge::{Affinity, PoolConfig, SnakeBridge};
    ///
    /// let pool = PoolConfig::new("p").size(1).affinity(Affinity::StrictQueue);
    /// let py = SnakeBridge::builder().pool(pool).start().await?;
    /// let session = py.session("a");
    /// let died = session.call("os", "_exit", (3,)).await.unwrap_err();
    /// assert_eq!(died.code(), "worker_crashed");
    /// let refused = session.call("os", "getpid", ()).await.unwrap_err();
    /// assert_eq!(refused.code(), "session_worker_unavailable");
    ///
    /// session.reset().await?;
    /// session.call("os", "getpid", ()).discard().await?;
    /// # py.shutdown().await
    /// # }
    /// ```
    ///
    /// # Errors
    /// `ShuttingDown`; `Internal` where an actor has panicked of it: some pool may not have done it.
    pub fn reset(&self) -> impl Future<Output = Result<()>> + Send + 'static {
        let core = Arc::clone(&self.0.life.core);
        let session = core.directory.find(&self.0.id);
        let stopping = core.is_stopping();
        async move {
            if stopping {
                return Err(Error::ShuttingDown { ran: Ran::No });
            }
            let Some((state, actor)) = session else { return Ok(()) };
            let (asked, pools) = oneshot::channel();
            actor.do_send(ResetAll { asked });
            match pools.await {
                Ok(pools) => try_join_all(pools).await.map(drop).map_err(|_lost| core.unanswered()),
                // It has ended meanwhile, and its homes with it.
                Err(_) if state.has_ended() => Ok(()),
                Err(_) => Err(core.unanswered()),
            }
        }
    }

    /// Ends the session: calls that wait get `Cancelled`, running ones finish, its objects and
    /// namespaces are freed in every worker and pool. Resolves when nothing of it is left. A later call of the same id
    /// starts a new session.
    ///
    /// Inside a callback it resolves at once, and the end comes later: the call that waits for the callback may
    /// be one of the session.
    ///
    /// # Errors
    /// `Internal` where it cannot be known that nothing is left.
    pub fn release(&self) -> impl Future<Output = Result<()>> + Send + 'static {
        end_session(Arc::clone(&self.0.life), Some(self.0.id.clone()))
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Session").field(&self.0.id).finish()
    }
}
