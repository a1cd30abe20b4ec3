//! Starting a bridge: which thread it lives on, its pools, and what becomes of a start that fails half-way.

use super::bridge::SnakeBridge;
use crate::actors::contained::{self, Teller};
use crate::actors::core::{Core, Life, PoolEntry};
use crate::actors::directory::Directory;
use crate::actors::pool::{PoolSupervisor, Setup};
use crate::actors::registry::{Introduce, Registry};
use crate::actors::threads::{self, OwnThread, PoolThread};
use crate::config::{Config, PoolConfig};
use crate::error::{Error, Ran, Result};
use crate::event::Fact;
use crate::id::PoolName;
use crate::observe::{Events, Messages, Observers, Who};
use actix::prelude::*;
use actix_rt::{Arbiter, ArbiterHandle};
use futures::future::try_join_all;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use tokio::sync::oneshot;

/// Builds a bridge: see [`SnakeBridge::builder`].
///
/// ```
/// # #[actix::main]
/// # async fn main() -> snakebridge::Result<()> {
/// use snakebridge::{Affinity, PoolConfig, SnakeBridge};
///
/// let py = SnakeBridge::builder()
///     .pool(PoolConfig::new("hint_pool").size(1))
///     .pool(PoolConfig::new("strict_pool").size(1).affinity(Affinity::StrictQueue))
///     .default_pool("strict_pool")
///     .start()
///     .await?;
/// let object = py.call("builtins", "object", ()).into_ref().await?;
/// assert_eq!(object.pool(), "strict_pool");
/// py.shutdown().await
/// # }
/// ```
#[derive(Clone, Debug, Default)]
pub struct Builder {
    config: Config,
    dedicated_thread: bool,
    thread_per_pool: bool,
}

impl Builder {
    /// Replaces the whole configuration; pools added after it are added to it.
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// Adds a pool; the first one is the default. It takes the place of one of the same name that
    /// came from a file or a variable.
    pub fn pool(mut self, pool: PoolConfig) -> Self {
        self.config = self.config.pool(pool);
        self
    }

    /// Makes another than the first pool the default.
    pub fn default_pool(mut self, name: impl Into<PoolName>) -> Self {
        self.config = self.config.default_pool(name);
        self
    }

    /// Gives the bridge a thread of its own, so that nothing which blocks the calling arbiter can
    /// delay it. Costs two wake-ups a call. Outside an actix `System` it is always so.
    pub fn dedicated_thread(mut self) -> Self {
        self.dedicated_thread = true;
        self
    }

    /// Gives each pool, with its workers, a thread of its own.
    pub fn thread_per_pool(mut self) -> Self {
        self.thread_per_pool = true;
        self
    }

    /// Starts the bridge; resolves when every slot of every pool has its worker ready.
    ///
    /// # Errors
    /// `Config` for a configuration that makes no sense, `Spawn` if no interpreter is found or
    /// workers cannot be started. Nothing is left running then.
    #[expect(clippy::manual_async_fn, reason = "the future is owned: it borrows nothing")]
    pub fn start(self) -> impl Future<Output = Result<SnakeBridge>> + Send + 'static {
        async move {
            self.config.validate()?;
            let (started, outcome) = oneshot::channel();
            let thread = match Arbiter::try_current().filter(|_| !self.dedicated_thread) {
                Some(arbiter) => {
                    let home = arbiter.clone();
                    arbiter.spawn(async move {
                        // Nobody waits any more: what was started is dropped, and so stops.
                        let _unclaimed = started.send(self.launch(home).await);
                    });
                    None
                }
                None => Some(self.launch_on_thread(started)?),
            };
            let ended = || Err(Error::internal("the thread of the bridge ended while it started", Ran::No));
            match (outcome.await.unwrap_or_else(|_| ended()), thread) {
                (Ok(life), thread) => {
                    if let Some(thread) = thread {
                        life.core.own_thread(thread);
                    }
                    Ok(SnakeBridge::new(life))
                }
                (Err(error), thread) => {
                    if let Some(thread) = thread {
                        thread.ended().await;
                    }
                    Err(error)
                }
            }
        }
    }

    fn launch_on_thread(self, started: oneshot::Sender<Result<Arc<Life>>>) -> Result<OwnThread> {
        let lacking = |error: io::Error| Error::Spawn(format!("no thread for the bridge: {error}").into());
        let runtime = threads::runtime().map_err(lacking)?;
        let spawned = OwnThread::start(move || {
            actix_rt::System::with_tokio_rt(|| Arc::clone(&runtime)).block_on(async move {
                let launched = self.launch(Arbiter::current()).await;
                let core = launched.as_ref().ok().map(|life| Arc::clone(&life.core));
                let _unclaimed = started.send(launched);
                if let Some(core) = core {
                    core.until_stopped().await;
                }
            });
            threads::end(runtime);
        });
        spawned.map_err(lacking)
    }

    /// Runs on the arbiter that the bridge lives on.
    async fn launch(self, arbiter: ArbiterHandle) -> Result<Arc<Life>> {
        // All of them before anything is started on one.
        let threads = PoolThread::start(if self.thread_per_pool { self.config.pools.len() } else { 0 })
            .map_err(|error| Error::Spawn(format!("no thread for each pool: {error}").into()))?;
        let observers = Observers {
            events: Events::new(),
            messages: Messages::new(self.config.message_log_level),
            call_events: self.config.call_events,
        };
        let directory = Arc::new(Directory::new(&self.config));
        let teller = |who| Teller { events: observers.events.clone(), who };
        let registry = contained::create(teller(Who::Registry), {
            let (directory, observers) = (Arc::clone(&directory), observers.clone());
            let cleanup_log = self.config.session_cleanup_log_level;
            let heartbeat = self.config.pools.iter().filter_map(PoolConfig::heartbeat_interval).min();
            move |ctx| Registry::new(directory, observers, cleanup_log, heartbeat, ctx)
        });

        let ref_spaces = Arc::new(AtomicU64::new(0));
        let (mut entries, mut ready) = (BTreeMap::new(), Vec::new());
        for (n, config) in self.config.pools.iter().enumerate() {
            let config = Arc::new(config.clone());
            let (when_ready, is_ready) = oneshot::channel();
            let setup = Setup {
                config: Arc::clone(&config),
                registry: registry.clone(),
                observers: observers.clone(),
                ref_spaces: Arc::clone(&ref_spaces),
                when_ready,
            };
            let thread = threads.get(n).and_then(PoolThread::handle);
            let teller = teller(Who::Pool(config.name.clone()));
            let make = move |ctx: &mut Context<PoolSupervisor>| PoolSupervisor::new(setup, ctx);
            let addr = match &thread {
                Some(thread) => contained::start_in_arbiter(thread, teller, make),
                None => contained::create(teller, make),
            };
            entries.insert(config.name.clone(), PoolEntry { addr, config });
            ready.push(async {
                let stopped = || Err(Error::internal("a pool stopped while it started", Ran::No));
                is_ready.await.unwrap_or_else(|_| stopped())
            });
        }
        registry.do_send(Introduce(entries.iter().map(|(name, pool)| (name.clone(), pool.addr.clone())).collect()));
        let core = Core::new(entries, threads, &self.config, arbiter, registry, directory, observers);
        let life = Arc::new(Life { core: Arc::new(core) });

        if let Err(error) = try_join_all(ready).await {
            let core = Arc::clone(&life.core);
            drop(life);
            core.until_stopped().await;
            core.threads_ended().await;
            return Err(error);
        }
        let pools = life.core.pools.keys().cloned().collect();
        life.core.observers.events.emit(Fact::BridgeStarted { pools });
        Ok(life)
    }
}
