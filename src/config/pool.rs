//! The configuration of one pool.

use super::{Affinity, FOREVER, OnWorkerLost};
use crate::error::{Error, Result};
use crate::id::PoolName;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::Duration;

/// How the processes of a pool are started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StartMethod {
    /// Forked from a process that has loaded `preload`: about a millisecond each.
    #[default]
    Zygote,
    /// A new interpreter each: slower by its start and its imports, for libraries that do not survive a fork.
    Exec,
}

/// A named set of workers with one configuration.
///
/// ```
/// use snakebridge::{Affinity, PoolConfig};
/// use std::time::Duration;
///
/// let pool = PoolConfig::new("models")
///     .size(2)
///     .affinity(Affinity::StrictQueue)
///     .preload(["json", "decimal"])
///     .timeout(Duration::from_secs(30));
/// ```
#[derive(Clone, Debug)]
pub struct PoolConfig {
    pub(crate) name: PoolName,
    pub(crate) size: usize,
    pub(crate) affinity: Affinity,
    pub(crate) concurrency: usize,
    pub(crate) max_queue_size: usize,
    pub(crate) max_queue_bytes: usize,
    pub(crate) queue_timeout: Duration,
    pub(crate) timeout: Option<Duration>,
    pub(crate) cancel_grace: Duration,
    pub(crate) shutdown_grace: Duration,
    pub(crate) retire_grace: Duration,
    pub(crate) start_timeout: Duration,
    pub(crate) heartbeat: Duration,
    pub(crate) max_requests: usize,
    pub(crate) max_age: Duration,
    pub(crate) memory_soft_limit: usize,
    pub(crate) memory_hard_limit: usize,
    pub(crate) python: Option<PathBuf>,
    pub(crate) venv: Option<PathBuf>,
    pub(crate) python_path: Vec<PathBuf>,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) preload: Vec<String>,
    pub(crate) init: Option<String>,
    pub(crate) start_method: StartMethod,
    pub(crate) pid_namespace: bool,
    pub(crate) on_worker_lost: OnWorkerLost,
    pub(crate) restart_budget: Option<(usize, Duration)>,
    pub(crate) restart_backoff: (Duration, Duration),
    pub(crate) stream_credit: (usize, usize),
    /// Test only: workers do not arm their lifeline, so that the fall-back has to do.
    pub(crate) without_lifeline: bool,
    /// Test only: what is changed in the source of the workers.
    pub(crate) patches: Vec<Patch>,
}

/// A change of one text in the workers' source, for tests.
#[derive(Clone, Debug)]
pub(crate) struct Patch {
    /// As in `snakebridge_worker/loop.py`.
    pub(crate) file: String,
    /// Stands there exactly once.
    pub(crate) from: String,
    pub(crate) to: String,
}

impl PoolConfig {
    /// A pool of that name with the defaults: as many workers as cores, `Affinity::Hint`.
    pub fn new(name: impl Into<PoolName>) -> Self {
        Self {
            name: name.into(),
            size: std::thread::available_parallelism().map_or(2, usize::from),
            affinity: Affinity::Hint,
            concurrency: 1,
            max_queue_size: 1_000,
            max_queue_bytes: 1 << 30,
            queue_timeout: Duration::from_secs(10),
            timeout: None,
            cancel_grace: Duration::from_secs(2),
            shutdown_grace: Duration::from_secs(5),
            retire_grace: Duration::from_secs(60),
            start_timeout: Duration::from_secs(60),
            heartbeat: Duration::from_secs(2),
            max_requests: usize::MAX,
            max_age: Duration::MAX,
            memory_soft_limit: usize::MAX,
            memory_hard_limit: usize::MAX,
            python: None,
            venv: None,
            python_path: Vec::new(),
            env: Vec::new(),
            preload: Vec::new(),
            init: None,
            start_method: StartMethod::Zygote,
            pid_namespace: false,
            on_worker_lost: OnWorkerLost::Unavailable,
            restart_budget: None,
            restart_backoff: (Duration::from_millis(50), Duration::from_secs(5)),
            stream_credit: (1_024, 4 << 20),
            without_lifeline: false,
            patches: Vec::new(),
        }
    }

    /// How far a stream may run ahead of its reader: so many items, and about so many bytes of them, whichever
    /// is first, and always one item. Default: 1,024 items, 4 MiB.
    pub fn stream_credit(mut self, items: usize, bytes: usize) -> Self {
        self.stream_credit = (items, bytes);
        self
    }

    /// How many workers. Default: the number of cores.
    pub fn size(mut self, size: usize) -> Self {
        self.size = size;
        self
    }

    /// The affinity of calls that name none. Default: `Hint`. Where sessions keep state in Python,
    /// `StrictQueue` makes their calls wait rather than miss it.
    pub fn affinity(mut self, affinity: Affinity) -> Self {
        self.affinity = affinity;
        self
    }

    /// How many calls run at once in one worker, each on a thread of its own. Default: 1.
    ///
    /// Python threads share one lock: raise it for calls that wait, not for calls that compute.
    pub fn concurrency(mut self, calls: usize) -> Self {
        self.concurrency = calls;
        self
    }

    /// How many calls may wait. Default: 1,000; one more gets `PoolSaturated`, or takes the place of
    /// the newest one of the session that has most waiting. More bear a longer burst, and let each
    /// call of it wait for longer.
    pub fn max_queue_size(mut self, calls: usize) -> Self {
        self.max_queue_size = calls;
        self
    }

    /// How many bytes of arguments may wait. Default: 1 GiB; more gets `PoolSaturated`.
    pub fn max_queue_bytes(mut self, bytes: usize) -> Self {
        self.max_queue_bytes = bytes;
        self
    }

    /// How long a call may wait for a worker. Default: 10 s; then `QueueTimeout`.
    pub fn queue_timeout(mut self, wait: Duration) -> Self {
        self.queue_timeout = wait;
        self
    }

    /// How long a call may take, its wait included. Default: that of the bridge, which is no limit.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// How long a call may go on after its deadline, or after its caller left, before its worker is
    /// killed. Default: 2 s. It is interrupted first, unless that is zero. Where several calls run at once,
    /// the others get as long once more.
    pub fn cancel_grace(mut self, grace: Duration) -> Self {
        self.cancel_grace = grace;
        self
    }

    /// How long running calls may go on at shutdown before their worker is killed. Default: 5 s.
    pub fn shutdown_grace(mut self, grace: Duration) -> Self {
        self.shutdown_grace = grace;
        self
    }

    /// How long a retiring worker keeps the sessions that hold refs in it. Default: 60 s; then they
    /// are lost as in a crash, though what runs finishes.
    pub fn retire_grace(mut self, grace: Duration) -> Self {
        self.retire_grace = grace;
        self
    }

    /// How long a worker may take from its start until it takes calls, `preload` and `init`
    /// included. Default: 60 s.
    pub fn start_timeout(mut self, timeout: Duration) -> Self {
        self.start_timeout = timeout;
        self
    }

    /// How often a worker in which no call runs is asked whether it answers. Default: 2 s; silent for three
    /// times as long it is killed and replaced. `Duration::MAX`: never.
    ///
    /// A shorter one finds a worker that is stuck between calls sooner, and costs more wake-ups of an idle
    /// bridge. Finalizers count: one that takes so long while no call runs ends its worker.
    pub fn heartbeat(mut self, interval: Duration) -> Self {
        self.heartbeat = interval;
        self
    }

    /// After how many calls a worker is replaced, each batch of a stream being one; those that were sent to
    /// it by then are run there too. Default: no limit.
    ///
    /// For code that leaks. It retires as with [`restart_worker`](crate::SnakeBridge::restart_worker): the
    /// replacement is started first, sessions that hold something in it have `retire_grace`, and of one
    /// pool no two workers are replaced at a time for such a limit.
    ///
    /// ```
    /// # #[actix::main]
    /// # async fn main() -> snakebridge::Result<()> {
    /// use snakebridge::{PoolConfig, SnakeBridge};
    ///
    /// let py = SnakeBridge::builder().pool(PoolConfig::new("p").size(1).max_requests(2)).start().await?;
    /// let pid = || py.call("os", "getpid", ()).extract::<u32>();
    /// let first = pid().await?;
    /// // It serves until its replacement is ready.
    /// while pid().await? == first {}
    /// # py.shutdown().await
    /// # }
    /// ```
    pub fn max_requests(mut self, calls: usize) -> Self {
        self.max_requests = calls;
        self
    }

    /// How old a worker gets before it is replaced, as by `max_requests`; the limit of each lies at random
    /// between this and a tenth more. Default: no limit.
    pub fn max_age(mut self, age: Duration) -> Self {
        self.max_age = age;
        self
    }

    /// How many bytes a worker may have resident before it is replaced, as by `max_requests`, once it has run
    /// a call. Default: no limit.
    ///
    /// The kernel's count of resident memory is read with each heartbeat, and every 100 ms while a call is
    /// open. It has what a forked worker shares with others counted in each, is exact to some hundred KiB, and
    /// leaves out processes that the worker has started. What comes and goes between two looks is not seen.
    /// It has to be below the hard limit.
    pub fn memory_soft_limit(mut self, bytes: usize) -> Self {
        self.memory_soft_limit = bytes;
        self
    }

    /// How many bytes a worker may have resident before it is killed and replaced: its running calls get
    /// `WorkerCrashed`. Default: no limit. Looked at as the soft limit is; it is no protection against what
    /// takes more than there is within 100 ms.
    pub fn memory_hard_limit(mut self, bytes: usize) -> Self {
        self.memory_hard_limit = bytes;
        self
    }

    /// The interpreter, CPython 3.10 or later. Default: `SNAKEBRIDGE_PYTHON`, `VIRTUAL_ENV`,
    /// `./.venv`, `python3`, whichever is first. The first that is named must do.
    pub fn python(mut self, path: impl Into<PathBuf>) -> Self {
        self.python = Some(path.into());
        self
    }

    /// The virtual environment whose interpreter is used. Default: none.
    pub fn venv(mut self, dir: impl Into<PathBuf>) -> Self {
        self.venv = Some(dir.into());
        self
    }

    /// Adds a directory to the front of `sys.path`; may be given more than once.
    pub fn python_path(mut self, dir: impl Into<PathBuf>) -> Self {
        self.python_path.push(dir.into());
        self
    }

    /// Sets an environment variable of the workers; the rest is inherited.
    pub fn env(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.push((key.into(), value.into()));
        self
    }

    /// Modules that are loaded once, before workers are forked, which then have them at once.
    /// Default: none. One that leaves threads running makes the workers be executed instead. One
    /// that cannot be imported fails the start of the bridge, with Python's own words.
    pub fn preload<I>(mut self, modules: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        self.preload.extend(modules.into_iter().map(Into::into));
        self
    }

    /// A function without arguments, as `module:function`, that each worker calls before it takes
    /// calls. Default: none.
    pub fn init(mut self, function: impl Into<String>) -> Self {
        self.init = Some(function.into());
        self
    }

    /// How workers are started. Default: `Zygote`.
    pub fn start_method(mut self, method: StartMethod) -> Self {
        self.start_method = method;
        self
    }

    /// Whether the workers of the pool, with all that they start, are in a PID namespace of their own, which nothing
    /// can leave. Default: no.
    ///
    /// When this process ends the kernel kills all that is in it, also what a worker has daemonised before its zygote
    /// was killed; and Python code in a worker sees and signals no process but those in there. It is required where
    /// it is asked for: a bridge that cannot have it does not start, and says why. It takes `CAP_SYS_ADMIN`, or a
    /// kernel that lets its users make user namespaces, which many containers do not.
    ///
    /// It costs a millisecond for each start of a worker, some 30 ms for the first one, and a process that sleeps, of
    /// 6 MiB. In Python `os.getpid()` is the number in there, another than [`WorkerInfo::pid`](crate::WorkerInfo::pid),
    /// and `os.getppid()` is 0. `/proc` shows the namespace, unless a container has masked parts of it: then it stays
    /// as it was, and a process finds itself as `/proc/self`, but not by its number. Where it took a user namespace a
    /// worker has no capabilities, cannot change its user, and sees files of others as those of `nobody`. What
    /// `preload` starts is not in it, unless workers are executed.
    ///
    /// ```no_run
    /// # #[actix::main]
    /// # async fn main() -> snakebridge::Result<()> {
    /// use snakebridge::{PoolConfig, SnakeBridge};
    ///
    /// let py = SnakeBridge::builder().pool(PoolConfig::new("p").pid_namespace(true)).start().await?;
    /// assert_eq!(py.guarantees().await.pid_namespaces, [("p".into(), true)]);
    /// # py.shutdown().await
    /// # }
    /// ```
    pub fn pid_namespace(mut self, own: bool) -> Self {
        self.pid_namespace = own;
        self
    }

    /// What becomes of a session whose home is lost. Default: strict calls are refused until `reset()`.
    pub fn on_worker_lost(mut self, then: OnWorkerLost) -> Self {
        self.on_worker_lost = then;
        self
    }

    /// How many deaths that nobody asked for, and failed starts, the pool bears within a time before
    /// it is degraded. Default: the larger of 10 and twice its size, in 60 s.
    ///
    /// Nothing but failed starts for that time, and for two `start_timeout`s, spends it too.
    pub fn restart_budget(mut self, deaths: usize, within: Duration) -> Self {
        self.restart_budget = Some((deaths, within));
        self
    }

    /// How long a slot waits before its second restart in a row, and at most; the first is at once.
    /// Default: 50 ms, doubled up to 5 s; both zero: always at once.
    pub fn restart_backoff(mut self, first: Duration, longest: Duration) -> Self {
        self.restart_backoff = (first, longest);
        self
    }

    #[doc(hidden)]
    pub fn without_lifeline_for_tests(mut self) -> Self {
        self.without_lifeline = true;
        self
    }

    /// How often workers are asked whether they answer; none: never.
    pub(crate) fn heartbeat_interval(&self) -> Option<Duration> {
        (self.heartbeat < FOREVER).then_some(self.heartbeat)
    }

    #[doc(hidden)]
    pub fn patched_for_tests(
        mut self,
        file: impl Into<String>,
        from: impl Into<String>,
        to: impl Into<String>,
    ) -> Self {
        self.patches.push(Patch { file: file.into(), from: from.into(), to: to.into() });
        self
    }

    /// The restart budget in force.
    pub(crate) fn budget(&self) -> (usize, Duration) {
        self.restart_budget.unwrap_or((10.max(2 * self.size), Duration::from_secs(60)))
    }

    /// # Errors
    /// `Config`, with what is wrong and what to do.
    pub(crate) fn validate(&self) -> Result<()> {
        let name = &self.name;
        let wrong = |what: &str| Err(Error::config(format!("pool {name}: {what}")));
        if name.as_str().is_empty() {
            return Err(Error::config("a pool has an empty name"));
        }
        if self.size == 0 {
            return wrong("size is 0, it needs at least one worker");
        }
        if self.concurrency == 0 {
            return wrong("concurrency is 0, a worker runs at least one call at a time");
        }
        if self.concurrency > MAX_CONCURRENCY {
            return wrong("concurrency is above 32");
        }
        if self.max_requests == 0 {
            return wrong("max_requests is 0, a worker runs at least one call");
        }
        if self.max_age.is_zero() {
            return wrong("max_age is 0, a worker lives for some time");
        }
        if self.memory_hard_limit == 0 || self.memory_soft_limit == 0 {
            return wrong("a memory limit is 0, Python needs some");
        }
        if self.memory_soft_limit != usize::MAX && self.memory_soft_limit >= self.memory_hard_limit {
            return wrong(
                "memory_soft_limit is not below memory_hard_limit, a worker would be killed before it is replaced",
            );
        }
        if self.heartbeat < SHORTEST_HEARTBEAT {
            return wrong("heartbeat is below 10 ms");
        }
        if let Some(init) = &self.init
            && init.split_once(':').is_none_or(|(module, function)| module.is_empty() || function.is_empty())
        {
            return wrong("init is not of the form module:function");
        }
        Ok(())
    }
}

/// What is asked more often than a busy machine can answer kills those that are well.
const SHORTEST_HEARTBEAT: Duration = Duration::from_millis(10);

/// One entry of the control page per concurrent call has to fit in it.
pub(crate) const MAX_CONCURRENCY: usize = 32;
