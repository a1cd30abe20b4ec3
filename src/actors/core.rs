//! What everything made through a bridge shares, and what ends it.

use super::directory::Directory;
use super::pool::{Leave, PoolSupervisor, Shutdown};
use super::registry::{Close, Registry};
use crate::config::{Config, PoolConfig};
use crate::error::{Error, Result};
use crate::event::Fact;
use crate::id::{CallId, PoolName};
use crate::observe::Events;
use actix::Addr;
use actix_rt::{Arbiter, ArbiterHandle};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use tokio::sync::watch;

pub(crate) struct Core {
    pub(crate) pools: BTreeMap<PoolName, PoolEntry>,
    pool_names: Vec<PoolName>,
    pub(crate) default_pool: PoolName,
    pub(crate) arbiter: ArbiterHandle,
    pub(crate) registry: Addr<Registry>,
    pub(crate) directory: Arc<Directory>,
    pub(crate) events: Events,
    pub(crate) timeout: Option<std::time::Duration>,
    calls: AtomicU64,
    stopping: AtomicBool,
    stopped: watch::Sender<bool>,
    thread: Mutex<Option<JoinHandle<()>>>,
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

pub(crate) struct PoolEntry {
    pub(crate) addr: Addr<PoolSupervisor>,
    pub(crate) config: Arc<PoolConfig>,
    /// Its own, if each pool has one.
    pub(crate) thread: Option<Arbiter>,
}

impl Core {
    pub(crate) fn new(
        pools: BTreeMap<PoolName, PoolEntry>,
        config: &Config,
        arbiter: ArbiterHandle,
        registry: Addr<Registry>,
        directory: Arc<Directory>,
        events: Events,
    ) -> Self {
        Self {
            pool_names: pools.keys().cloned().collect(),
            pools,
            default_pool: config.default_pool_name(),
            arbiter,
            registry,
            directory,
            events,
            timeout: config.timeout,
            calls: AtomicU64::new(0),
            stopping: AtomicBool::new(false),
            stopped: watch::Sender::new(false),
            thread: Mutex::new(None),
        }
    }

    pub(crate) fn pool_names(&self) -> &[PoolName] {
        &self.pool_names
    }

    /// The thread that the bridge lives on, if it has one of its own.
    pub(crate) fn own_thread(&self, thread: JoinHandle<()>) {
        *self.thread.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread);
    }

    /// Waits for that thread, which ends as soon as the bridge has stopped.
    pub(crate) fn join_thread(&self) {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread
            && thread.thread().id() != std::thread::current().id()
        {
            // A panic on it was told to everyone who waited for an answer.
            let _panicked = thread.join();
        }
    }

    /// Begins to stop the bridge, once.
    pub(crate) fn stop(self: Arc<Self>) {
        if self.stopping.swap(true, Ordering::AcqRel) {
            return;
        }
        let core = Arc::clone(&self);
        // An arbiter that has stopped has dropped every actor, and with it every worker.
        if !self.arbiter.spawn(async move { core.wind_up().await }) {
            self.stopped.send_replace(true);
        }
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Resolves when nothing of the bridge is left.
    pub(crate) async fn until_stopped(&self) {
        let mut stopped = self.stopped.subscribe();
        // Only an arbiter that went in the middle drops the sender, and everything with it.
        let _gone = stopped.wait_for(|stopped| *stopped).await;
    }

    /// Pools first, so that calls which wait hear of the shutdown and not of the end of their session.
    async fn wind_up(&self) {
        let pools: Vec<_> = self.pools.values().map(|pool| pool.addr.send(Shutdown)).collect();
        let sessions = self.directory.close();
        futures::future::join_all(pools).await;
        sessions.ended().await;
        // A mailbox error means that the registry's arbiter has gone already.
        let _closed = self.registry.send(Close).await;
        for pool in self.pools.values() {
            pool.addr.do_send(Leave);
            if let Some(thread) = &pool.thread {
                thread.stop();
            }
        }
        self.events.emit(Fact::BridgeStopped {});
        self.stopped.send_replace(true);
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
