//! What can go wrong, in one type.

use crate::id::{CallId, PoolName, RefId, SessionId, WorkerId};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// A `Result` whose error is [`enum@Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Whether the work of a failed call was begun.
///
/// `No` is exact: the call never began and never will, so it can be made again without fear.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ran {
    /// It never began.
    No,
    /// It had begun, and the caller was answered before its end was known.
    Maybe,
    /// Python finished it, by value or by exception.
    Yes,
}

/// Why a call, or a request to the bridge, failed.
///
/// Each has a [`code`](Error::code) that does not change, says whether the same call may be made
/// again ([`is_retryable`](Error::is_retryable)) and whether it [`ran`](Error::ran).
///
/// ```
/// # #[actix::main]
/// # async fn main() -> snakebridge::Result<()> {
/// use snakebridge::{Error, Ran};
/// # let py = snakebridge::SnakeBridge::builder().pool(snakebridge::PoolConfig::new("p").size(1)).start().await?;
///
/// let error = py.call("builtins", "int", ("x",)).await.unwrap_err();
/// assert_eq!((error.code(), error.ran(), error.is_retryable()), ("python", Ran::Yes, false));
/// match &error {
///     Error::Python(raised) => assert_eq!(raised.type_name(), "ValueError"),
///     other => panic!("{other}"),
/// }
///
/// let error = py.call("math", "sqrt", (4,)).pool("no_pool").await.unwrap_err();
/// assert_eq!((error.code(), error.ran()), ("unknown_pool", Ran::No));
/// assert_eq!(error.to_string(), "unknown pool no_pool; configured: p");
/// # py.shutdown().await
/// # }
/// ```
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The call must not wait, and every worker it may use is busy (`worker_busy`).
    #[error("every worker that a call of session {session} may use in pool {pool} is busy")]
    WorkerBusy {
        /// The session of the call.
        session: SessionId,
        /// The pool.
        pool: PoolName,
    },
    /// The session's `on_home` failed in the new home of the call, which never began. The code is that of what
    /// it failed with.
    #[error("the on_home of its session failed, and the call never began: {0}")]
    OnHome(Arc<Error>),
    /// The session's home is gone or tainted (`session_worker_unavailable`).
    #[error("session {session} has its state in worker {worker}, which is {why}")]
    SessionWorkerUnavailable {
        /// The session of the call.
        session: SessionId,
        /// Its home.
        worker: WorkerId,
        /// What befell it, and what can be done.
        why: Arc<str>,
    },
    /// No pool of that name is configured (`unknown_pool`).
    #[error("unknown pool {pool}; configured: {}", list(known))]
    UnknownPool {
        /// The name that was asked for.
        pool: PoolName,
        /// The names that there are.
        known: Vec<PoolName>,
    },
    /// No such worker lives (`unknown_worker`).
    #[error("no worker {worker} lives")]
    UnknownWorker {
        /// The worker that was asked for.
        worker: WorkerId,
    },
    /// The pool's queue is full (`pool_saturated`).
    #[error("the queue of pool {pool} is full ({limit})")]
    PoolSaturated {
        /// The pool.
        pool: PoolName,
        /// The limit that was reached, by name and size.
        limit: Arc<str>,
    },
    /// The pool has no worker left and cannot start one now (`pool_degraded`).
    #[error("pool {pool} is degraded and has no worker left: {cause}")]
    PoolDegraded {
        /// The pool.
        pool: PoolName,
        /// The last death or failed start.
        cause: Arc<str>,
    },
    /// The call waited for a worker as long as it may (`queue_timeout`).
    #[error("no worker of pool {pool} fell free within {waited:?}")]
    QueueTimeout {
        /// The pool.
        pool: PoolName,
        /// The limit.
        waited: Duration,
    },
    /// The deadline passed (`timeout`).
    #[error("the call did not end within {timeout:?}{}", began(*ran))]
    Timeout {
        /// The limit.
        timeout: Duration,
        /// Whether the call had begun.
        ran: Ran,
    },
    /// The call was cancelled, with its session or by its owner (`cancelled`).
    #[error("the call was cancelled: {why}{}", began(*ran))]
    Cancelled {
        /// By what.
        why: Arc<str>,
        /// Whether the call had begun.
        ran: Ran,
    },
    /// The worker died while it ran the call (`worker_crashed`).
    #[error("{0}")]
    WorkerCrashed(Arc<Crash>),
    /// The object was freed, or its session has ended (`ref_not_found`).
    #[error("{id} of session {session} is gone: {why}")]
    RefNotFound {
        /// The ref.
        id: RefId,
        /// The session that owned it.
        session: SessionId,
        /// What freed it.
        why: Arc<str>,
    },
    /// The object, or the namespace of the session, was lost with its worker (`ref_lost`).
    #[error("what session {session} kept in worker {worker} was lost with it: {cause}")]
    RefLost {
        /// The session that owned it.
        session: SessionId,
        /// The worker that held it.
        worker: WorkerId,
        /// How the worker ended.
        cause: Arc<str>,
    },
    /// The session holds as many refs as it may (`ref_limit`).
    #[error("session {session} may hold {limit} refs at once (max_refs): drop some, or raise the limit")]
    RefLimit {
        /// The session.
        session: SessionId,
        /// `max_refs`.
        limit: usize,
        /// Whether the call had run before the limit was met.
        ran: Ran,
    },
    /// A call names one session and carries refs of another, or of two (`session_mismatch`).
    #[error("a call of session {session} carries a ref of session {other}")]
    SessionMismatch {
        /// The session of the call.
        session: SessionId,
        /// The session of the ref.
        other: SessionId,
    },
    /// `max_sessions` are in use (`session_limit`).
    #[error("{limit} sessions are in use (max_sessions): release some, or raise the limit")]
    SessionLimit {
        /// `max_sessions`.
        limit: usize,
    },
    /// No worker holds all refs of the call (`refs_on_different_workers`).
    #[error("{what}")]
    RefsOnDifferentWorkers {
        /// Which refs, and where each is.
        what: Arc<str>,
    },
    /// Every worker that could run the call waits for it (`would_deadlock`).
    #[error("every worker that session {session} may use in pool {pool} waits for a callback")]
    WouldDeadlock {
        /// The session of the call.
        session: SessionId,
        /// The pool.
        pool: PoolName,
    },
    /// Python raised (`python`).
    #[error("{0}")]
    Python(Arc<PythonError>),
    /// A value does not fit (`convert`).
    #[error("{0}")]
    Convert(Arc<ConvertError>),
    /// The configuration is wrong (`config`).
    #[error("{0}")]
    Config(Arc<str>),
    /// A worker cannot be started (`spawn`).
    #[error("{0}")]
    Spawn(Arc<str>),
    /// A worker broke the protocol and was killed (`protocol`).
    #[error("worker {worker} broke the protocol and was killed: {what}")]
    Protocol {
        /// The worker.
        worker: WorkerId,
        /// What it sent.
        what: Arc<str>,
        /// Whether the call had begun.
        ran: Ran,
    },
    /// The bridge shuts down (`shutting_down`).
    #[error("the bridge shuts down{}", began(*ran))]
    ShuttingDown {
        /// Whether the call had begun.
        ran: Ran,
    },
    /// A bug in the bridge (`internal`).
    #[error("internal error: {what}")]
    Internal {
        /// What is known of it.
        what: Arc<str>,
        /// Whether the call had begun.
        ran: Ran,
    },
}

fn list(names: &[PoolName]) -> String {
    names.iter().map(PoolName::as_str).collect::<Vec<_>>().join(", ")
}

fn began(ran: Ran) -> &'static str {
    match ran {
        Ran::No => " (it never began)",
        Ran::Maybe => " (it had begun; whether it finished is not known)",
        Ran::Yes => "",
    }
}

impl Error {
    /// The kind of error as a stable, lower-case word, e.g. `worker_busy`.
    pub fn code(&self) -> &'static str {
        match self {
            Self::OnHome(error) => error.code(),
            Self::WorkerBusy { .. } => "worker_busy",
            Self::SessionWorkerUnavailable { .. } => "session_worker_unavailable",
            Self::UnknownPool { .. } => "unknown_pool",
            Self::UnknownWorker { .. } => "unknown_worker",
            Self::PoolSaturated { .. } => "pool_saturated",
            Self::PoolDegraded { .. } => "pool_degraded",
            Self::QueueTimeout { .. } => "queue_timeout",
            Self::Timeout { .. } => "timeout",
            Self::Cancelled { .. } => "cancelled",
            Self::WorkerCrashed(_) => "worker_crashed",
            Self::RefNotFound { .. } => "ref_not_found",
            Self::RefLost { .. } => "ref_lost",
            Self::RefLimit { .. } => "ref_limit",
            Self::SessionMismatch { .. } => "session_mismatch",
            Self::SessionLimit { .. } => "session_limit",
            Self::RefsOnDifferentWorkers { .. } => "refs_on_different_workers",
            Self::WouldDeadlock { .. } => "would_deadlock",
            Self::Python(_) => "python",
            Self::Convert(_) => "convert",
            Self::Config(_) => "config",
            Self::Spawn(_) => "spawn",
            Self::Protocol { .. } => "protocol",
            Self::ShuttingDown { .. } => "shutting_down",
            Self::Internal { .. } => "internal",
        }
    }

    /// Whether the work of the call was begun. `No` is exact.
    pub fn ran(&self) -> Ran {
        match self {
            Self::WorkerBusy { .. }
            | Self::SessionWorkerUnavailable { .. }
            | Self::UnknownPool { .. }
            | Self::UnknownWorker { .. }
            | Self::PoolSaturated { .. }
            | Self::PoolDegraded { .. }
            | Self::QueueTimeout { .. }
            | Self::RefNotFound { .. }
            | Self::RefLost { .. }
            | Self::SessionMismatch { .. }
            | Self::SessionLimit { .. }
            | Self::RefsOnDifferentWorkers { .. }
            | Self::WouldDeadlock { .. }
            | Self::OnHome(_)
            | Self::Config(_)
            | Self::Spawn(_) => Ran::No,
            Self::WorkerCrashed(_) => Ran::Maybe,
            Self::Python(_) => Ran::Yes,
            Self::Convert(error) => error.ran,
            Self::Timeout { ran, .. }
            | Self::Cancelled { ran, .. }
            | Self::RefLimit { ran, .. }
            | Self::Protocol { ran, .. }
            | Self::ShuttingDown { ran }
            | Self::Internal { ran, .. } => *ran,
        }
    }

    /// Whether the same call may succeed if it is made again a little later, and is safe to: it
    /// never began, and what stood in its way passes by itself.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::WorkerBusy { .. }
            | Self::PoolSaturated { .. }
            | Self::PoolDegraded { .. }
            | Self::QueueTimeout { .. }
            | Self::SessionLimit { .. } => true,
            Self::Timeout { ran, .. } => *ran == Ran::No,
            Self::OnHome(error) => error.is_retryable(),
            Self::SessionWorkerUnavailable { .. }
            | Self::UnknownPool { .. }
            | Self::UnknownWorker { .. }
            | Self::Cancelled { .. }
            | Self::WorkerCrashed(_)
            | Self::RefNotFound { .. }
            | Self::RefLost { .. }
            | Self::RefLimit { .. }
            | Self::SessionMismatch { .. }
            | Self::RefsOnDifferentWorkers { .. }
            | Self::WouldDeadlock { .. }
            | Self::Python(_)
            | Self::Convert(_)
            | Self::Config(_)
            | Self::Spawn(_)
            | Self::Protocol { .. }
            | Self::ShuttingDown { .. }
            | Self::Internal { .. } => false,
        }
    }

    /// The exception, if Python raised one.
    pub fn python(&self) -> Option<&PythonError> {
        match self {
            Self::Python(error) => Some(error),
            Self::OnHome(error) => error.python(),
            _ => None,
        }
    }

    /// What a function that Python calls fails with to have Python raise an exception of its choice: the
    /// class, by its name in `builtins` or by module and name, e.g. `json.JSONDecodeError`, and its only
    /// argument. Any other error is raised as `snakebridge.HostError`, and so is this one where there is
    /// no such class, or it does not take one argument.
    ///
    /// It is an [`Error::Python`] that no Python has raised yet: without traceback and frames.
    ///
    /// ```
    /// use snakebridge::{Error, Ran};
    ///
    /// let error = Error::raise("ValueError", "no such user");
    /// assert_eq!(error.to_string(), "ValueError: no such user");
    /// assert_eq!((error.code(), error.ran()), ("python", Ran::Yes));
    /// let raised = error.python().unwrap();
    /// assert_eq!((raised.module(), raised.type_name(), raised.message()), ("builtins", "ValueError", "no such user"));
    /// ```
    ///
    /// ```
    /// # #[actix::main]
    /// # async fn main() -> snakebridge::Result<()> {
    /// # let py = snakebridge::SnakeBridge::builder().pool(snakebridge::PoolConfig::new("p").size(1)).start().await?;
    /// use snakebridge::Error;
    ///
    /// py.register("age_of", |name: String| async move {
    ///     match name.as_str() {
    ///         "Ada" => Ok(36),
    ///         _ => Err(Error::raise("KeyError", name)),
    ///     }
    /// })?;
    /// py.exec("import snakebridge").await?;
    /// let error = py.eval("snakebridge.host.call('age_of', 'Bob')").await.unwrap_err();
    /// let raised = error.python().unwrap();
    /// assert_eq!((raised.type_name(), raised.message()), ("KeyError", "'Bob'"));
    /// # py.shutdown().await
    /// # }
    /// ```
    pub fn raise(class: impl AsRef<str>, text: impl Into<String>) -> Self {
        let class = class.as_ref();
        let (module, type_name) = class.rsplit_once('.').unwrap_or(("builtins", class));
        Self::Python(Arc::new(PythonError {
            type_name: type_name.to_owned(),
            module: module.to_owned(),
            message: text.into(),
            traceback: String::new(),
            frames: Vec::new(),
            notes: Vec::new(),
            cause: None,
            step: None,
            host_code: None,
            to_raise: Some(class.to_owned()),
        }))
    }

    pub(crate) fn config(what: impl Into<Arc<str>>) -> Self {
        Self::Config(what.into())
    }

    pub(crate) fn internal(what: impl Into<Arc<str>>, ran: Ran) -> Self {
        Self::Internal { what: what.into(), ran }
    }
}

impl From<ConvertError> for Error {
    fn from(error: ConvertError) -> Self {
        Self::Convert(Arc::new(error))
    }
}

/// A value that does not fit: where it stands, what was expected there and what was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConvertError {
    /// Where in the value, e.g. `[3].price`; empty at the top.
    pub path: String,
    /// What was expected there.
    pub expected: String,
    /// What was found instead.
    pub found: String,
    /// `No` for an argument, `Yes` for a result.
    pub ran: Ran,
    /// The function of this process that Python called, if it is an argument or the result of one.
    pub(crate) function: Option<Arc<str>>,
}

impl ConvertError {
    /// At the top of an argument.
    pub(crate) fn of_argument(expected: impl Into<String>, found: impl Into<String>) -> Self {
        Self { path: String::new(), expected: expected.into(), found: found.into(), ran: Ran::No, function: None }
    }

    /// At the top of a result.
    pub(crate) fn of_result(expected: impl Into<String>, found: impl Into<String>) -> Self {
        Self { ran: Ran::Yes, ..Self::of_argument(expected, found) }
    }

    /// It was found in the arguments that Python called that function with, which so did not run.
    pub(crate) fn in_arguments_of(self, function: &Arc<str>) -> Self {
        Self { ran: Ran::No, function: Some(Arc::clone(function)), ..self }
    }

    /// It was found in what that function returned to Python.
    pub(crate) fn in_result_of(self, function: &Arc<str>) -> Self {
        Self { ran: Ran::Yes, function: Some(Arc::clone(function)), ..self }
    }
}

impl fmt::Display for ConvertError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.ran == Ran::No { "argument" } else { "result" })?;
        if let Some(function) = &self.function {
            write!(f, " of callback '{function}'")?;
        }
        if !self.path.is_empty() {
            write!(f, " at {}", self.path)?;
        }
        write!(f, ": expected {}, found {}", self.expected, self.found)
    }
}

impl std::error::Error for ConvertError {}

/// How a worker died, and what is known of the call that it ran.
///
/// ```
/// # #[actix::main]
/// # async fn main() -> snakebridge::Result<()> {
/// use snakebridge::Error;
/// # let py = snakebridge::SnakeBridge::builder().pool(snakebridge::PoolConfig::new("p").size(1)).start().await?;
///
/// match py.call("os", "_exit", (3,)).await {
///     Err(Error::WorkerCrashed(crash)) => {
///         assert_eq!((crash.worker.to_string().as_str(), crash.cause.as_str()), ("p/0#1", "exit status 3"));
///     }
///     other => panic!("{other:?}"),
/// }
/// # py.shutdown().await
/// # }
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Crash {
    /// The worker.
    pub worker: WorkerId,
    /// How it ended, e.g. `exit status 3` or `signal 11 (SIGSEGV)`; or why this side has killed it.
    pub cause: String,
    /// The last lines that it wrote to stderr, Python's own fault dump included.
    pub stderr: String,
    /// The call that ran; none for a stream whose worker died between two batches.
    pub call: Option<CallId>,
    /// How long it had run when the worker's end was seen, as this process saw it: since it was sent, or the call
    /// before it in its thread was answered.
    pub running_for: Duration,
    /// The most memory that the worker ever had resident, in bytes, as its kernel counts (`ru_maxrss`); none if
    /// nobody was left to say.
    pub peak_memory: Option<u64>,
}

impl fmt::Display for Crash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "worker {} died while it ran the call: {}", self.worker, self.cause)?;
        if !self.stderr.is_empty() {
            write!(f, "\nits last output:\n{}", self.stderr.trim_end())?;
        }
        Ok(())
    }
}

/// An exception that Python raised; prints as Python prints it, with the [`step`](Self::step) below.
///
/// ```
/// # #[actix::main]
/// # async fn main() -> snakebridge::Result<()> {
/// # let py = snakebridge::SnakeBridge::builder().pool(snakebridge::PoolConfig::new("p").size(1)).start().await?;
/// let error = py.call("json", "loads", ("[1,",)).await.unwrap_err();
/// let raised = error.python().unwrap();
/// assert_eq!((raised.module(), raised.type_name()), ("json.decoder", "JSONDecodeError"));
/// assert!(raised.message().starts_with("Expecting value"));
/// assert!(raised.frames().last().unwrap().file.ends_with("decoder.py"));
/// assert!(raised.traceback().starts_with("Traceback (most recent call last):"));
/// // It was raised `from None`.
/// assert!(raised.cause().is_none());
/// # py.shutdown().await
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PythonError {
    pub(crate) type_name: String,
    pub(crate) module: String,
    pub(crate) message: String,
    pub(crate) traceback: String,
    pub(crate) frames: Vec<Frame>,
    pub(crate) notes: Vec<String>,
    pub(crate) cause: Option<Box<PythonError>>,
    pub(crate) step: Option<String>,
    pub(crate) host_code: Option<String>,
    /// The class that Python is to raise, of an exception that it has yet to: see [`Error::raise`].
    pub(crate) to_raise: Option<String>,
}

/// One line of a traceback.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The file, as Python names it.
    pub file: String,
    /// The line, from 1; 0 if Python does not know.
    pub line: u32,
    /// The function.
    pub function: String,
}

impl PythonError {
    /// The qualified name of the class, without its module, e.g. `ZeroDivisionError`.
    pub fn type_name(&self) -> &str {
        &self.type_name
    }

    /// The module of the class, e.g. `builtins`.
    pub fn module(&self) -> &str {
        &self.module
    }

    /// What `str()` says of the exception.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The whole traceback, cause chain and notes included, as Python prints it.
    pub fn traceback(&self) -> &str {
        &self.traceback
    }

    /// The frames of the traceback, outermost first.
    pub fn frames(&self) -> &[Frame] {
        &self.frames
    }

    /// What `add_note` has added.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The exception that caused this one: `__cause__`, else `__context__` unless suppressed.
    pub fn cause(&self) -> Option<&PythonError> {
        self.cause.as_deref()
    }

    /// The step of a chain that raised it; `None` where the call had one step, or where no step did,
    /// but what came before or after them. Of the exception itself, not of its causes.
    ///
    /// ```
    /// # #[actix::main]
    /// # async fn main() -> snakebridge::Result<()> {
    /// # let py = snakebridge::SnakeBridge::builder().pool(snakebridge::PoolConfig::new("p").size(1)).start().await?;
    /// let error = py.call("pathlib", "Path", ("/a",)).call_method("as_posix", ()).getattr("size").await.unwrap_err();
    /// let raised = error.python().unwrap();
    /// assert_eq!((raised.type_name(), raised.step()), ("AttributeError", Some(r#"step 3 of 3: .getattr("size")"#)));
    /// assert!(error.to_string().ends_with("\nin step 3 of 3: .getattr(\"size\")"));
    /// # py.shutdown().await
    /// # }
    /// ```
    pub fn step(&self) -> Option<&str> {
        self.step.as_deref()
    }

    /// Of a `snakebridge.HostError`, which is what a failed function of this process is to Python: the
    /// [`code`](Error::code) of what it failed with, or `no_such_function`.
    ///
    /// ```
    /// # #[actix::main]
    /// # async fn main() -> snakebridge::Result<()> {
    /// # let py = snakebridge::SnakeBridge::builder().pool(snakebridge::PoolConfig::new("p").size(1)).start().await?;
    /// let gone = py.eval("__import__('snakebridge').host.call('lookup', 21)").await.unwrap_err();
    /// assert_eq!((gone.code(), gone.python().unwrap().host_code()), ("python", Some("no_such_function")));
    /// # py.shutdown().await
    /// # }
    /// ```
    pub fn host_code(&self) -> Option<&str> {
        self.host_code.as_deref()
    }
}

impl fmt::Display for PythonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.traceback.is_empty() {
            write!(f, "{}: {}", self.type_name, self.message)?;
        } else {
            f.write_str(self.traceback.trim_end())?;
        }
        self.step.iter().try_for_each(|step| write!(f, "\nin {step}"))
    }
}

impl std::error::Error for PythonError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.cause.as_deref().map(|cause| cause as _)
    }
}
