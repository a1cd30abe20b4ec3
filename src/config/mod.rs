//! What can be set: per bridge ([`Config`]), per pool ([`PoolConfig`]), per session ([`SessionOptions`]).
//!
//! [`key`] has the keys of a configuration that is written down, [`file`] and [`variables`] read one.

mod file;
mod key;
mod kind;
mod pool;
mod session;
mod variables;

pub(crate) use pool::{MAX_CONCURRENCY, Patch};
pub use pool::{PoolConfig, StartMethod};
pub use session::SessionOptions;

use crate::error::{Error, Result};
use crate::id::PoolName;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

/// Longer than any wait, and far from the end of any clock: `Duration::MAX` means that there is no limit.
const FOREVER: Duration = Duration::from_secs(30 * 365 * 86_400);

/// A duration that can be added to a moment.
pub(crate) fn bounded(duration: Duration) -> Duration {
    duration.min(FOREVER)
}

/// How a call chooses between the worker that its session prefers and the others.
///
/// Its names in serde, and in print, are `hint`, `strict_queue` and `strict_fail_fast`.
///
/// ```
/// use snakebridge::Affinity;
///
/// assert_eq!(Affinity::default(), Affinity::Hint);
/// assert_eq!(Affinity::StrictQueue.to_string(), "strict_queue");
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Affinity {
    /// The home if it is free, else any free worker; calls that carry refs always go to their worker.
    #[default]
    Hint,
    /// The home, and wait for it.
    StrictQueue,
    /// The home, or `WorkerBusy` at once.
    StrictFailFast,
}

impl fmt::Display for Affinity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hint => "hint",
            Self::StrictQueue => "strict_queue",
            Self::StrictFailFast => "strict_fail_fast",
        })
    }
}

/// What becomes of a session whose home is lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnWorkerLost {
    /// Strict calls are refused until `session.reset()`: nobody takes an empty worker for the state that was lost.
    #[default]
    Unavailable,
    /// The session's next call finds it a new, empty home.
    Rehome,
}

/// The level of a log line that is off unless set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogLevel {
    /// No line.
    #[default]
    Off,
    /// `tracing::Level::ERROR`.
    Error,
    /// `tracing::Level::WARN`.
    Warn,
    /// `tracing::Level::INFO`.
    Info,
    /// `tracing::Level::DEBUG`.
    Debug,
    /// `tracing::Level::TRACE`.
    Trace,
}

/// What the message log of a bridge records.
///
/// Its names in serde are `off`, `lifecycle` and `calls`.
///
/// ```
/// use snakebridge::MessageLogLevel;
///
/// assert_eq!(MessageLogLevel::default(), MessageLogLevel::Lifecycle);
/// assert_eq!(serde_json::from_str::<MessageLogLevel>("\"calls\"").unwrap(), MessageLogLevel::Calls);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MessageLogLevel {
    /// Nothing.
    Off,
    /// What starts, ends and changes workers, pools and sessions.
    #[default]
    Lifecycle,
    /// Each message of each call too: about eight records a call.
    Calls,
}

/// The configuration of a whole bridge.
///
/// It is made in code, read from a file ([`from_toml_file`](Self::from_toml_file)) or from variables
/// of the environment ([`from_env`](Self::from_env)). As serde writes it, `from_toml` reads it again:
/// what is set, the defaults included, with durations as text.
///
/// ```
/// use snakebridge::{Affinity, Config, LogLevel, PoolConfig};
/// use std::time::Duration;
///
/// let config = Config::new()
///     .pool(PoolConfig::new("hint_pool").size(2))
///     .pool(PoolConfig::new("strict_pool").size(2).affinity(Affinity::StrictQueue))
///     .timeout(Duration::from_secs(30))
///     .session_cleanup_log_level(LogLevel::Debug);
///
/// let written = toml::to_string(&config).unwrap();
/// assert!(written.contains(r#"timeout = "30s""#));
/// assert_eq!(toml::to_string(&Config::from_toml(&written)?).unwrap(), written);
/// # Ok::<_, snakebridge::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Config {
    pub(crate) pools: Vec<PoolConfig>,
    /// Those of a file or a variable, which give way to one of the same name from code.
    loaded: BTreeSet<PoolName>,
    pub(crate) default_pool: Option<PoolName>,
    pub(crate) session_ttl: Duration,
    pub(crate) max_refs: usize,
    pub(crate) max_sessions: usize,
    pub(crate) session_cleanup_log_level: LogLevel,
    pub(crate) timeout: Option<Duration>,
    pub(crate) message_log_level: MessageLogLevel,
    pub(crate) call_events: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            pools: Vec::new(),
            loaded: BTreeSet::new(),
            default_pool: None,
            session_ttl: Duration::from_secs(3600),
            max_refs: 10_000,
            max_sessions: 100_000,
            session_cleanup_log_level: LogLevel::Off,
            timeout: None,
            message_log_level: MessageLogLevel::default(),
            call_events: false,
        }
    }
}

impl Config {
    /// An empty configuration, to add pools to.
    pub fn new() -> Self {
        Self::default()
    }

    /// One pool, named `default`, of `size` workers.
    ///
    /// ```
    /// use snakebridge::{Affinity, Config};
    ///
    /// let config = Config::single(2, Affinity::StrictQueue);
    /// ```
    pub fn single(size: usize, affinity: Affinity) -> Self {
        Self::new().pool(PoolConfig::new("default").size(size).affinity(affinity))
    }

    /// Adds a pool; the first one added is the default. It takes the place of one of the same name
    /// that came from a file or a variable, as a whole.
    pub fn pool(mut self, pool: PoolConfig) -> Self {
        let replaced = self.loaded.remove(&pool.name);
        match self.pools.iter_mut().find(|known| replaced && known.name == pool.name) {
            Some(known) => *known = pool,
            None => self.pools.push(pool),
        }
        self
    }

    /// Makes another than the first pool the default.
    pub fn default_pool(mut self, name: impl Into<PoolName>) -> Self {
        self.default_pool = Some(name.into());
        self
    }

    /// How long a session that nothing holds lives after its last use. Default: 1 hour.
    pub fn session_ttl(mut self, ttl: Duration) -> Self {
        self.session_ttl = ttl;
        self
    }

    /// How many refs a session may hold at once, unless its options say otherwise. Default: 10,000.
    ///
    /// Each costs about 200 bytes here, and in Python what the object costs.
    pub fn max_refs(mut self, limit: usize) -> Self {
        self.max_refs = limit;
        self
    }

    /// How many sessions may live at once; a new one then ends the longest unused that nothing
    /// holds. Default: 100,000, of about 1 KB each.
    pub fn max_sessions(mut self, limit: usize) -> Self {
        self.max_sessions = limit;
        self
    }

    /// The level of the log line that each ended session gets. Default: none.
    pub fn session_cleanup_log_level(mut self, level: LogLevel) -> Self {
        self.session_cleanup_log_level = level;
        self
    }

    /// How long a call may take, its wait included, unless its pool or the call says otherwise.
    /// Default: no limit.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// What the [`MessageLog`](crate::MessageLog) records. Default: lifecycle.
    ///
    /// With `Calls` each call costs about eight records, each a few small allocations, and every actor of
    /// the bridge takes one lock for each.
    ///
    /// ```
    /// use snakebridge::{Affinity, Config, MessageLogLevel};
    ///
    /// let config = Config::single(2, Affinity::Hint).message_log_level(MessageLogLevel::Calls);
    /// ```
    pub fn message_log_level(mut self, level: MessageLogLevel) -> Self {
        self.message_log_level = level;
        self
    }

    /// Whether each call is told as events: `call.started`, then one of `call.finished`,
    /// `call.failed` and `call.cancelled`. Default: no.
    ///
    /// It costs two events a call, each cloned for everyone who listens.
    ///
    /// ```
    /// # #[actix::main]
    /// # async fn main() -> snakebridge::Result<()> {
    /// use futures::StreamExt;
    /// use snakebridge::{Affinity, Config, SnakeBridge};
    ///
    /// let py = SnakeBridge::from_config(Config::single(1, Affinity::Hint).call_events(true)).await?;
    /// let calls = py.events().filter(|event| std::future::ready(event.name().contains(".call.")));
    /// py.call("math", "sqrt", (4,)).discard().await?;
    /// let names: Vec<_> = calls.map(|event| event.name()).take(2).collect().await;
    /// assert_eq!(names, ["snakebridge.call.started", "snakebridge.call.finished"]);
    /// # py.shutdown().await
    /// # }
    /// ```
    pub fn call_events(mut self, told: bool) -> Self {
        self.call_events = told;
        self
    }

    /// # Errors
    /// `Config`, with what is wrong and what to do.
    pub(crate) fn validate(&self) -> Result<()> {
        if self.pools.is_empty() {
            return Err(Error::config("no pool is configured: add one with .pool(PoolConfig::new(name))"));
        }
        let mut names = BTreeSet::new();
        for pool in &self.pools {
            pool.validate()?;
            if !names.insert(&pool.name) {
                return Err(Error::config(format!("two pools are named {}", pool.name)));
            }
        }
        match &self.default_pool {
            Some(name) if !names.contains(name) => Err(Error::UnknownPool {
                pool: name.clone(),
                known: self.pools.iter().map(|pool| pool.name.clone()).collect(),
            }),
            _ => Ok(()),
        }
    }

    pub(crate) fn default_pool_name(&self) -> PoolName {
        match &self.default_pool {
            Some(name) => name.clone(),
            None => self.pools[0].name.clone(),
        }
    }
}
