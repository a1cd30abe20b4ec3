//! What everything made through a bridge shares, and what ends it.

use super::directory::Directory;
use super::functions::Functions;
use super::pool::{Leave, PoolSupervisor, Shutdown};
use super::registry::{Close, Registry};
use super::threads::{OwnThread, PoolThread};
use crate::config::{Config, PoolConfig};
use crate::error::{Error, Ran, Result};
use crate::event::Fact;
use crate::id::{CallId, PoolName};
use crate::observe::Observers;
use actix::{Actor, Addr, Context, Handler, Message};
use actix_rt::ArbiterHandle;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::watch;

pub(crate) struct Core {
    pub(crate) pools: BTreeMap<PoolName, PoolEntry>,
    pool_names: Vec<PoolName>,
    pub(crate) default_pool: PoolName,
    pub(crate) arbiter: ArbiterHandle,
    pub(crate) registry: Addr<Registry>,
    pub(crate) directory: Arc<Directory>,
    /// What Python may call.
    pub(crate) functions: Arc<Functions>,
    pub(crate) observers: Observers,
    pub(crate) timeout: Option<std::time::Duration>,
    calls: AtomicU64,
    stopping: AtomicBool,
    /// Its arbiter takes no task to stop it: whoever waits for that does it.
    stranded: AtomicBool,
    is_told: AtomicBool,
    stopped: watch::Sender<bool>,
    thread: Mutex<Option<OwnThread>>,
    /// One for each pool, or none.
    pool_threads: Mutex<Vec<PoolThread>>,
}

/// Held by whatever can still use the bridge; the last one to go stops it.
pub(crate) struct Life {
    pub(crate) core: Arc<Core>,
}

impl Drop for Life {
    fn drop(&mut self) {
        Arc::clone(&self.core).stop();
    }
}

/// Says that the bridge has stopped: also when the arbiter that stops it drops this half-way, and
/// with it every actor and worker.
struct WindingUp(Arc<Core>);

impl Drop for WindingUp {
    fn drop(&mut self) {
        // What such a thread still runs goes with it.
        for thread in self.0.pool_threads.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            thread.stop();
        }
        // Until now calls that ran could call them.
        self.0.functions.close();
        self.0.stopped.send_replace(true);
    }
}

pub(crate) struct PoolEntry {
    pub(crate) addr: Addr<PoolSupervisor>,
    pub(crate) config: Arc<PoolConfig>,
}

/// How often an actor is asked that panics each time.
const MOST_ASKED: usize = 3;

/// Asks now, and once more where a panic has lost the message. Resolves, too, when the arbiter of the actor has gone.
fn surely<A, M>(actor: &Addr<A>, message: fn() -> M) -> impl Future<Output = ()> + use<A, M>
where
    A: Actor<Context = Context<A>> + Handler<M>,
    M: Message<Result = ()> + Send + 'static,
{
    let (actor, first) = (actor.clone(), actor.send(message()));
    async move {
        let mut asked = 1;
        let mut answer = first.await;
        while answer.is_err() && actor.connected() && asked < MOST_ASKED {
            answer = actor.send(message()).await;
            asked += 1;
        }
    }
}

impl Core {
    pub(crate) fn new(
        pools: BTreeMap<PoolName, PoolEntry>,
        pool_threads: Vec<PoolThread>,
        config: &Config,
        arbiter: ArbiterHandle,
        registry: Addr<Registry>,
        directory: Arc<Directory>,
        observers: Observers,
    ) -> Self {
        Self {
            pool_names: pools.keys().cloned().collect(),
            pools,
            default_pool: config.default_pool_name(),
            arbiter,
            registry,
            directory,
            functions: Functions::new(),
            observers,
            timeout: config.timeout,
            calls: AtomicU64::new(0),
            stopping: AtomicBool::new(false),
            stranded: AtomicBool::new(false),
            is_told: AtomicBool::new(false),
            stopped: watch::Sender::new(false),
            thread: Mutex::new(None),
            pool_threads: Mutex::new(pool_threads),
        }
    }

    pub(crate) fn pool_names(&self) -> &[PoolName] {
        &self.pool_names
    }

    /// The thread that the bridge lives on, if it has one of its own.
    pub(crate) fn own_thread(&self, thread: OwnThread) {
        *self.thread.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread);
    }

    /// Resolves when that thread and those of the pools have ended, which they do as soon as the bridge has stopped.
    pub(crate) async fn threads_ended(&self) {
        let pool_threads = std::mem::take(&mut *self.pool_threads.lock().unwrap_or_else(PoisonError::into_inner));
        PoolThread::all_ended(pool_threads).await;
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            thread.ended().await;
        }
    }

    /// Begins to stop the bridge, once.
    pub(crate) fn stop(self: Arc<Self>) {
        if self.stopping.swap(true, Ordering::AcqRel) {
            return;
        }
        let winding_up = WindingUp(Arc::clone(&self));
        // Before whoever waits is told by its drop, should no task be taken.
        self.stranded.store(true, Ordering::Release);
        if self.arbiter.spawn(async move { winding_up.0.wind_up().await }) {
            self.stranded.store(false, Ordering::Release);
        } else {
            // It was told to stop. Its actors go when its thread ends, which may take as long as the
            // program, and until then they answer.
            for pool in self.pools.values() {
                pool.addr.do_send(Shutdown);
            }
        }
    }

    /// Why a question to an actor has no answer.
    pub(crate) fn unanswered(&self) -> Error {
        match self.is_stopping() {
            true => Error::ShuttingDown { ran: Ran::No },
            false => Error::internal("the actor that was asked panicked, or its thread has ended", Ran::Maybe),
        }
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Resolves when nothing of the bridge is left.
    pub(crate) async fn until_stopped(&self) {
        let mut stopped = self.stopped.subscribe();
        // The sender is here, so that it cannot be dropped meanwhile.
        drop(stopped.wait_for(|stopped| *stopped).await);
        if self.stranded.load(Ordering::Acquire) {
            self.wind_up().await;
        }
    }

    /// Pools first, so that calls which wait hear of the shutdown and not of the end of their session.
    async fn wind_up(&self) {
        let pools: Vec<_> = self.pools.values().map(|pool| surely(&pool.addr, || Shutdown)).collect();
        let sessions = self.directory.close();
        futures::future::join_all(pools).await;
        sessions.ended().await;
        surely(&self.registry, || Close).await;
        for pool in self.pools.values() {
            pool.addr.do_send(Leave);
        }
        if !self.is_told.swap(true, Ordering::AcqRel) {
            self.observers.events.emit(Fact::BridgeStopped {});
            self.observers.events.close().await;
        }
    }

    pub(crate) fn next_call(&self) -> CallId {
        CallId(self.calls.fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// # Errors
    /// `UnknownPool`, with the names that there are.
    pub(crate) fn pool(&self, name: &PoolName) -> Result<&PoolEntry> {
        self.pools.get(name).ok_or_else(|| self.unknown(name))
    }

    pub(crate) fn unknown(&self, name: &PoolName) -> Error {
        Error::UnknownPool { pool: name.clone(), known: self.pools.keys().cloned().collect() }
    }
}
