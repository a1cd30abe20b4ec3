//! A pool's zygote: the Python process that has loaded `preload` and forks the workers.

use super::reports::{Control, Report, ZygoteEvents};
use super::spawn::{self, Program, ZygoteFds};
use super::{DeathWatch, Lifeline, Link, Output, fds};
use crate::config::{PoolConfig, StartMethod};
use crate::id::{PoolName, WorkerId};
use crate::python::{self, Interpreter, Modules};
use rustix::process::Signal;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// What a zygote is to be.
#[derive(Clone, Debug)]
pub(crate) struct ZygoteSpec {
    pub(crate) pool: PoolName,
    pub(crate) interpreter: Interpreter,
    pub(crate) python_path: Vec<PathBuf>,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) preload: Vec<String>,
    pub(crate) init: Option<String>,
    pub(crate) start_method: StartMethod,
    pub(crate) concurrency: usize,
    /// Whether all that it starts is in a PID namespace of its own.
    pub(crate) pid_namespace: bool,
    /// Off: workers do not arm their lifeline, as where a sandbox does not honour it.
    pub(crate) lifeline: bool,
    pub(crate) start_timeout: Duration,
    /// What the worker runs.
    pub(crate) modules: Modules,
}

impl ZygoteSpec {
    /// # Errors
    /// A patch of a test that does not fit.
    pub(crate) fn new(config: &PoolConfig, interpreter: Interpreter) -> Result<Self, StartError> {
        let modules = Modules::embedded().patched(&config.patches);
        Ok(Self {
            pool: config.name.clone(),
            interpreter,
            python_path: config.python_path.clone(),
            env: config.env.clone(),
            preload: config.preload.clone(),
            init: config.init.clone(),
            start_method: config.start_method,
            concurrency: config.concurrency,
            pid_namespace: config.pid_namespace,
            lifeline: !config.without_lifeline,
            start_timeout: config.start_timeout,
            modules: modules.map_err(|what| StartError { permanent: true, what })?,
        })
    }

    /// All that the Python side reads, in one piece of memory: its settings and its own source.
    fn bundle(&self) -> io::Result<OwnedFd> {
        // Paths are bytes: JSON carries them as hexadecimal.
        let hex = |path: &PathBuf| path.as_os_str().as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        let paths: Vec<String> = self.python_path.iter().map(hex).collect();
        let bundle = serde_json::json!({
            "modules": self.modules,
            "bootstrap": python::BOOTSTRAP,
            "spec": {
                "host": std::process::id(),
                "executable": hex(&self.interpreter.executable),
                "python_path": paths,
                "preload": self.preload,
                "init": self.init,
                "exec": self.start_method == StartMethod::Exec,
                "concurrency": self.concurrency,
                "pid_namespace": self.pid_namespace,
                "lifeline": self.lifeline,
            },
        });
        let text = bundle.to_string();
        let memory = fds::sealed_memory("snakebridge-bundle", text.len() as u64)?;
        let mut offset = 0;
        while offset < text.len() {
            offset += rustix::io::pwrite(&memory, &text.as_bytes()[offset..], offset as u64)?;
        }
        Ok(memory)
    }
}

/// Why a zygote did not start.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{what}")]
pub(crate) struct StartError {
    /// It will be the same next time.
    pub(crate) permanent: bool,
    pub(crate) what: String,
}

impl StartError {
    fn transient(what: impl Into<String>) -> Self {
        Self { permanent: false, what: what.into() }
    }

    fn io(doing: &str, error: &io::Error) -> Self {
        use io::ErrorKind::{ExecutableFileBusy, InvalidInput, NotADirectory, NotFound, PermissionDenied};
        // ENOEXEC, a file that is no program, has no kind of its own.
        let no_program = error.raw_os_error() == Some(rustix::io::Errno::NOEXEC.raw_os_error());
        let permanent = no_program
            || matches!(error.kind(), NotFound | PermissionDenied | NotADirectory | InvalidInput | ExecutableFileBusy);
        Self { permanent, what: format!("cannot {doing}: {error}") }
    }
}

/// What holds for the workers of a zygote, as proved at its start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Guarantees {
    /// The kernel kills a worker's whole process group when its lifeline closes. Where it is false
    /// the parent-death signal stands in: a worker dies with its zygote, what it started is then found and killed.
    pub(crate) lifeline: bool,
    /// Why workers are executed anew although they were to be forked; `None` where all is as asked for.
    pub(crate) exec_because: Option<String>,
    /// All that it starts is in a PID namespace of its own.
    pub(crate) pid_namespace: bool,
}

/// A running zygote. Dropping it ends it with all its workers, whoever polls what afterwards.
#[derive(Debug)]
pub(crate) struct Zygote {
    control: Arc<Control>,
    concurrency: usize,
    guarantees: Guarantees,
    namespace: Option<Namespace>,
    /// Its closing is what ends the zygote.
    _lifeline: Lifeline,
}

impl Zygote {
    /// As [`start_kept`](Self::start_kept), with nothing to keep.
    #[cfg(test)]
    pub(crate) async fn start(spec: ZygoteSpec) -> Result<(Self, ZygoteEvents), StartError> {
        Self::start_kept(spec, ()).await
    }

    /// Starts a zygote; resolves when `preload` is done. Needs a runtime with I/O and time. Dropped
    /// before, it leaves nothing behind. `alive` is dropped when its process has been reaped.
    ///
    /// # Errors
    /// [`StartError`], with Python's own words.
    pub(crate) async fn start_kept(
        spec: ZygoteSpec,
        alive: impl Send + 'static,
    ) -> Result<(Self, ZygoteEvents), StartError> {
        let timeout = spec.start_timeout;
        let begun = Begun::begin(&spec, alive).map_err(|error| StartError::io("start Python", &error))?;
        match tokio::time::timeout(timeout, begun.ready(&spec)).await {
            Ok(started) => started,
            Err(_) => Err(StartError::transient(format!("Python did not start within {timeout:?}"))),
        }
    }

    /// Asks for a worker and returns at once; whether it came to be is an event. Its object ids
    /// count from `ref_base`.
    ///
    /// # Errors
    /// The zygote is gone, or this process is out of descriptors or memory.
    pub(crate) fn fork(&mut self, worker: &WorkerId, ref_base: u64) -> io::Result<Link> {
        let (link, ends) = Link::new(worker, self.concurrency)?;
        self.control.request(worker, ref_base, ends)?;
        Ok(link)
    }

    /// One without a process, for tests.
    #[cfg(test)]
    pub(super) fn played(control: Arc<Control>, concurrency: usize, lifeline: Lifeline) -> Self {
        let guarantees = Guarantees { lifeline: true, exec_because: None, pid_namespace: false };
        Self { control, concurrency, guarantees, namespace: None, _lifeline: lifeline }
    }

    pub(crate) fn guarantees(&self) -> &Guarantees {
        &self.guarantees
    }

    /// Its PID namespace, once, if it has one. Its workers live on without their zygote, but not without this.
    pub(crate) fn take_namespace(&mut self) -> Option<Namespace> {
        self.namespace.take()
    }
}

/// The first process of a PID namespace. Dropped, it is killed, and the kernel kills all that is inside.
#[derive(Debug)]
#[must_use = "dropping it kills all that is in it"]
pub(crate) struct Namespace(DeathWatch);

impl Namespace {
    /// Kills all that is in it, and waits until nothing is, though no longer than a zygote would have for that:
    /// where nobody reaps what the zygote has left, the kernel waits for ever.
    pub(crate) async fn end(self) {
        self.kill();
        let _unkillable = tokio::time::timeout(LEAVE, std::future::poll_fn(|cx| self.0.poll_dead(cx))).await;
    }

    fn kill(&self) {
        if !mutant!("namespace.is_not_killed") {
            // It is gone already where its zygote ended it.
            let _gone = self.0.signal(Signal::KILL);
        }
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        self.kill();
    }
}

/// How long the end of all in a namespace may take.
const LEAVE: Duration = Duration::from_secs(1);

/// A zygote between its spawn and its readiness.
struct Begun {
    control: Arc<Control>,
    lifeline: Lifeline,
    output: Output,
    starting: tokio::sync::oneshot::Receiver<io::Result<spawn::Reaped>>,
}

impl Begun {
    fn begin(spec: &ZygoteSpec, alive: impl Send + 'static) -> io::Result<Self> {
        let (control, far_control) = fds::message_pair()?;
        let (lifeline, far_lifeline) = fds::lifeline_pair()?;
        let host = rustix::process::pidfd_open(rustix::process::getpid(), rustix::process::PidfdFlags::empty())?;
        let (stdout, far_stdout) = fds::output_pipe()?;
        let (stderr, far_stderr) = fds::output_pipe()?;
        let leash = far_lifeline.try_clone()?;
        let program = Program {
            executable: spec.interpreter.executable.clone(),
            bootstrap: python::BOOTSTRAP,
            env: spec.env.clone(),
            lifeline: far_lifeline,
            fds: ZygoteFds { bundle: spec.bundle()?, control: far_control, host },
            stdout: far_stdout,
            stderr: far_stderr,
        };
        let control = Arc::new(Control::new(control)?);
        let output = Output::capture(&spec.pool, &format!("{}/zygote", spec.pool), stdout, stderr)?;
        Ok(Self { control, lifeline: Lifeline::new(lifeline), output, starting: spawn::spawn(program, leash, alive)? })
    }

    async fn ready(self, spec: &ZygoteSpec) -> Result<(Zygote, ZygoteEvents), StartError> {
        let executable = spec.interpreter.executable.display();
        let mut reaped = match self.starting.await {
            Ok(Ok(reaped)) => reaped,
            Ok(Err(error)) => return Err(StartError::io(&format!("run {executable}"), &error)),
            Err(_) => return Err(StartError::transient("the thread that starts Python ended")),
        };
        match std::future::poll_fn(|cx| self.control.poll_report(cx)).await {
            Ok(Some((Report::Ready { lifeline, exec_because, pid_namespace }, init))) => {
                // Without room for a descriptor it ends by itself.
                let namespace = init.and_then(|init| DeathWatch::new(init).ok()).map(Namespace);
                let zygote = Zygote {
                    control: Arc::clone(&self.control),
                    concurrency: spec.concurrency,
                    guarantees: Guarantees { lifeline, exec_because, pid_namespace },
                    namespace,
                    _lifeline: self.lifeline,
                };
                Ok((zygote, ZygoteEvents::new(self.control, reaped, self.output)))
            }
            Ok(Some((Report::Failed { permanent, what }, _))) => Err(StartError { permanent, what }),
            Ok(Some((report, _))) => Err(StartError::transient(format!("Python said {report:?} before it was ready"))),
            Err(error) => Err(StartError::transient(format!("Python cannot be understood: {error}"))),
            Ok(None) => {
                let exit = (&mut reaped).await.unwrap_or(super::Exit::UNKNOWN);
                // Whoever kills it from outside (a lack of memory above all) may not do it again.
                let permanent = exit.status != super::ExitStatus::Signal(9);
                let tail = self.output.stderr_tail();
                Err(StartError { permanent, what: format!("Python ended while it started: {exit}\n{tail}") })
            }
        }
    }
}
