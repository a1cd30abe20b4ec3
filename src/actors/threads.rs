//! The threads of a bridge: its own, if it has one, and one for each pool, if they have.
//!
//! A runtime that is dropped waits for what runs on its blocking threads, for as long as that takes. What a callback
//! has left there is no reason for a shutdown to hang, so these runtimes are ended by hand.

use actix_rt::{Arbiter, ArbiterHandle};
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;

/// How long what runs on the blocking threads of a bridge that has stopped is waited for.
const LINGER: Duration = Duration::from_millis(500);

/// # Errors
/// There are no descriptors for one.
pub(crate) fn runtime() -> io::Result<Arc<Runtime>> {
    Ok(Arc::new(Builder::new_current_thread().enable_all().build()?))
}

/// Ends a runtime that no thread runs any more. Whatever is left on its blocking threads goes on without it.
pub(crate) fn end(runtime: Arc<Runtime>) {
    end_until(runtime, Instant::now() + LINGER);
}

fn end_until(runtime: Arc<Runtime>, until: Instant) {
    let Some(runtime) = Arc::into_inner(runtime) else { return };
    let patience = until.saturating_duration_since(Instant::now());
    runtime.shutdown_timeout(patience);
    // One that nothing has run on yet is not waited for at all, and leaves nothing.
    if !patience.is_zero() && until <= Instant::now() {
        tracing::warn!(
            target: "snakebridge::bridge",
            "what a function of this process runs on a blocking thread outlives the bridge",
        );
    }
}

/// The thread that a bridge lives on.
pub(crate) struct OwnThread {
    thread: JoinHandle<()>,
    /// Dropped at its end.
    over: oneshot::Receiver<()>,
}

impl OwnThread {
    /// # Errors
    /// There is no thread.
    pub(crate) fn start(run: impl FnOnce() + Send + 'static) -> io::Result<Self> {
        let (running, over) = oneshot::channel();
        let thread = std::thread::Builder::new().name("snakebridge".into()).spawn(move || {
            let _running: oneshot::Sender<()> = running;
            run();
        })?;
        Ok(Self { thread, over })
    }

    /// Resolves when it has ended, which it does as soon as the bridge has stopped. At once, if this is that thread.
    pub(crate) async fn ended(self) {
        if self.thread.thread().id() != std::thread::current().id() {
            let _over = self.over.await;
            // A panic on it was told to everyone who waited for an answer.
            let _panicked = self.thread.join();
        }
    }
}

/// The thread of a pool. Dropped, it is told to end.
pub(crate) struct PoolThread {
    arbiter: Option<Arbiter>,
    runtime: Option<Arc<Runtime>>,
}

impl PoolThread {
    /// So many, or none.
    ///
    /// # Errors
    /// There are no threads or descriptors for them.
    pub(crate) fn start(count: usize) -> io::Result<Vec<Self>> {
        let mut threads = Vec::new();
        for _ in 0..count {
            match Self::start_one() {
                Ok(thread) => threads.push(thread),
                Err(error) => {
                    // They do nothing yet.
                    threads.into_iter().for_each(|thread| thread.end(Instant::now()));
                    return Err(error);
                }
            }
        }
        Ok(threads)
    }

    fn start_one() -> io::Result<Self> {
        let runtime = runtime()?;
        let of_thread = Arc::clone(&runtime);
        let mut this = Self { arbiter: None, runtime: Some(runtime) };
        this.arbiter = Some(Arbiter::try_with_tokio_rt(move || Ok(of_thread))?);
        Ok(this)
    }

    pub(crate) fn handle(&self) -> Option<ArbiterHandle> {
        self.arbiter.as_ref().map(Arbiter::handle)
    }

    pub(crate) fn stop(&self) {
        if let Some(arbiter) = &self.arbiter {
            arbiter.stop();
        }
    }

    fn end(mut self, until: Instant) {
        self.stop();
        if let Some(arbiter) = self.arbiter.take() {
            let _panicked = arbiter.join();
        }
        if let Some(runtime) = self.runtime.take() {
            end_until(runtime, until);
        }
    }

    /// Resolves when all of them have ended, which they do as soon as the bridge has stopped.
    pub(crate) async fn all_ended(threads: Vec<Self>) {
        if threads.is_empty() {
            return;
        }
        let (ending, over) = oneshot::channel::<()>();
        // Joining them blocks, and whoever awaits this may be an executor.
        let end = move || {
            let until = Instant::now() + LINGER;
            threads.into_iter().for_each(|thread| thread.end(until));
            drop(ending);
        };
        // Without a thread for that they end by themselves.
        if let Ok(thread) = std::thread::Builder::new().name("snakebridge-end".into()).spawn(end) {
            let _over = over.await;
            let _panicked = thread.join();
        }
    }
}

impl Drop for PoolThread {
    fn drop(&mut self) {
        self.stop();
        if let Some(runtime) = self.runtime.take().and_then(Arc::into_inner) {
            runtime.shutdown_background();
        }
    }
}
