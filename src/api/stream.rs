//! Streams: iterations in Python, read batch by batch.

use super::call::{Call, CallFuture, Progress};
use crate::actors::hold::Hold;
use crate::actors::pool::TaintWorker;
use crate::actors::scope;
use crate::error::{Crash, Error, PythonError, Ran, Result};
use crate::id::WorkerId;
use crate::pickle::{Batch, BatchEnd};
use crate::value::{Callback, PyRef};
use crate::wire::Step;
use futures::Stream;
use serde::de::DeserializeOwned;
use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

/// The items of a Python iterator, as they are made: see [`Call::stream`].
///
/// Items come in batches, which double while they fill fast and have one item where the producer is slow.
/// A batch is a call of the stream's session: it takes turns with other calls for that worker, and between
/// two batches the worker is free. The next batch is asked for while there is room for half the credit
/// ([`PoolConfig::stream_credit`](crate::PoolConfig::stream_credit), 1,024 items or 4 MiB), so a reader
/// that stops stops the producer after so many items at most.
///
/// It ends with `None` at the iterator's end, or with one error: `Python` with what the iterator raised,
/// `WorkerCrashed`, `Timeout` where a batch took longer than the call's timeout, `Cancelled` when its session
/// was released, `ShuttingDown`; `RefLimit` where a batch brought more objects than its session may hold. An
/// item that does not fit its type is a `Convert` error in its place, and the stream goes on.
///
/// Dropped before its end it closes the generator, whose `finally` blocks run: that is a call of its session
/// too, and is given `cancel_grace`. An item that is being made is interrupted.
#[must_use = "a stream that is not read makes no items"]
pub struct PyStream<T> {
    worker: WorkerId,
    /// The iteration in Python, until its end was seen.
    source: Option<Source<T>>,
    ready: VecDeque<Result<T>>,
}

/// Items are moved out of it, and never pinned in it.
impl<T> Unpin for PyStream<T> {}

struct Source<T> {
    handle: PyRef,
    hold: Arc<Hold>,
    /// The call that opened it carried them, and what it made may call them for as long as it is read.
    _callbacks: Vec<Callback>,
    fetching: Option<CallFuture<Batch<T>>>,
    timeout: Option<Duration>,
    credit: (usize, usize),
    /// How many items the next batch asks for.
    next: usize,
    /// How many the one under way was asked for.
    asked: usize,
    /// What an item takes in a body, of the last batch.
    item_bytes: usize,
}

impl<T: DeserializeOwned + Send + 'static> PyStream<T> {
    pub(super) fn open(handle: PyRef, timeout: Option<Duration>, callbacks: Vec<Callback>) -> Result<Self> {
        let hold = handle.hold();
        let credit = hold.life.core.pool(handle.pool())?.config.stream_credit;
        Ok(Self {
            worker: handle.worker().clone(),
            source: Some(Source {
                handle,
                hold,
                _callbacks: callbacks,
                fetching: None,
                timeout,
                credit: (credit.0.max(1), credit.1.max(1)),
                next: 1,
                asked: 0,
                item_bytes: 0,
            }),
            ready: VecDeque::new(),
        })
    }
}

impl<T> PyStream<T> {
    /// The worker that runs it.
    pub fn worker(&self) -> &WorkerId {
        &self.worker
    }

    fn end(&mut self, error: Error) {
        if let Some(source) = self.source.take() {
            source.close();
        }
        self.ready.push_back(Err(error));
    }
}

impl<T: DeserializeOwned + Send + 'static> Source<T> {
    /// The batch under way, or a new one if there is room for one that is worth it.
    fn fetch(&mut self, ready: usize) -> Option<&mut CallFuture<Batch<T>>> {
        if self.fetching.is_none() {
            let (items, bytes) = self.credit;
            let items = if mutant!("credit.is_ignored") { usize::MAX } else { items };
            let bytes = bytes.saturating_sub(ready * self.item_bytes);
            if ready > items / 2 || (ready > 0 && bytes < self.credit.1 / 2) {
                return None;
            }
            let fitting = bytes.checked_div(self.item_bytes).unwrap_or(usize::MAX);
            // Items may be objects: a session that holds nearly all it may is not asked for more than fit.
            let refs = self.hold.state.max_refs.saturating_sub(self.hold.state.refs());
            self.asked = self.next.min(items - ready).min(fitting).min(refs).max(1);
            let mut call = Call::on(
                self.handle.clone(),
                Arc::clone(&self.hold),
                Step::Batch,
                (self.asked as u64, bytes.max(1) as u64),
            )
            .continuing();
            if let Some(timeout) = self.timeout {
                call = call.timeout(timeout);
            }
            self.fetching = Some(call.batch(self.asked));
        }
        self.fetching.as_mut()
    }

    /// The worker may be broken.
    fn taint_for(&self, worker: &WorkerId, error: &PythonError) {
        if let Some(taint) = TaintWorker::for_raised(worker, error)
            && let Some(pool) = self.hold.life.core.pools.get(worker.pool())
        {
            pool.addr.do_send(taint);
        }
    }

    fn learn(&mut self, batch: &Batch<T>) {
        let got = batch.items.len();
        self.item_bytes = batch.bytes.checked_div(got).unwrap_or(0);
        let most = (self.credit.0 / 2).max(1);
        self.next = if got >= self.asked { self.next.saturating_mul(2) } else { got * 2 }.clamp(1, most);
    }
}

impl<T> Source<T> {
    /// Has Python close what is not at its end. Nobody waits for it.
    fn close(mut self) {
        // Given up before its end is asked for, so that it does not hold that up.
        self.fetching = None;
        self.handle.finish(self.hold, Step::Close);
    }
}

impl<T: DeserializeOwned + Send + 'static> Stream for PyStream<T> {
    type Item = Result<T>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<T>>> {
        let this = &mut *self;
        while let Some(source) = &mut this.source {
            if source.hold.state.has_ended() && !scope::is_inside(&source.hold) {
                this.ready.clear();
                let error = if source.hold.life.core.is_stopping() {
                    Error::ShuttingDown { ran: Ran::Yes }
                } else {
                    let why = format!("session {} was released", source.hold.id()).into();
                    Error::Cancelled { why, ran: Ran::Yes }
                };
                this.end(error);
                break;
            }
            let ready = this.ready.len();
            let Some(fetching) = source.fetch(ready) else { break };
            let Poll::Ready(progress) = fetching.poll_progress(cx) else { break };
            let batch = match progress {
                Progress::Part(part) => part,
                Progress::Answer(rest) => {
                    source.fetching = None;
                    rest
                }
            };
            match batch {
                Ok(batch) => {
                    if source.fetching.is_none() {
                        source.learn(&batch);
                    }
                    this.ready.extend(batch.items.into_iter().map(|item| item.map_err(Error::from)));
                    match batch.end {
                        BatchEnd::More => {}
                        BatchEnd::End => this.source = None,
                        BatchEnd::Raised(error) => {
                            source.taint_for(&this.worker, &error);
                            this.source = None;
                            this.ready.push_back(Err(Error::Python(error)));
                        }
                    }
                }
                // What it was running in is gone, between two batches.
                Err(Error::RefLost { worker, cause, .. }) => {
                    let crash = Crash {
                        worker,
                        cause: cause.to_string(),
                        stderr: String::new(),
                        call: None,
                        running_for: Duration::ZERO,
                        peak_memory: None,
                    };
                    this.end(Error::WorkerCrashed(Arc::new(crash)));
                }
                Err(error) => this.end(error),
            }
        }
        match this.ready.pop_front() {
            Some(item) => Poll::Ready(Some(item)),
            None if this.source.is_none() => Poll::Ready(None),
            None => Poll::Pending,
        }
    }
}

impl<T> Drop for PyStream<T> {
    fn drop(&mut self) {
        if let Some(source) = self.source.take() {
            source.close();
        }
    }
}

impl<T> fmt::Debug for PyStream<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PyStream").field("worker", &self.worker).field("ready", &self.ready.len()).finish()
    }
}

impl<R> Call<R> {
    /// Opens a stream over the result, whatever Python can iterate: a generator, an asynchronous one, any
    /// iterator or iterable.
    ///
    /// It chooses its worker as any call does, but never waits for one: where another call would wait it gets
    /// `WorkerBusy`, under `strict_queue` too. A timeout holds for the opening, then for each batch.
    ///
    /// ```
    /// # #[actix::main]
    /// # async fn main() -> snakebridge::Result<()> {
    /// use futures::{StreamExt, TryStreamExt};
    ///
    /// # let py = snakebridge::SnakeBridge::builder().pool(snakebridge::PoolConfig::new("p").size(1)).start().await?;
    /// let letters = py.call("builtins", "iter", ("abc",)).stream::<char>().await?;
    /// assert_eq!(letters.try_collect::<Vec<_>>().await?, ['a', 'b', 'c']);
    ///
    /// let mut numbers = py.call("itertools", "count", (1,)).stream::<u64>().await?;
    /// assert_eq!(numbers.next().await.transpose()?, Some(1));
    /// // Dropped: the iterator is closed, and its worker free.
    /// drop(numbers);
    /// # py.shutdown().await
    /// # }
    /// ```
    ///
    /// # Errors
    /// Awaited: `WorkerBusy`; `Python` with a `TypeError` for what cannot be iterated; else see
    /// [`enum@Error`].
    pub fn stream<T: DeserializeOwned + Send + 'static>(
        self,
    ) -> impl Future<Output = Result<PyStream<T>>> + Send + 'static + use<T, R> {
        let (opening, timeout, callbacks) = self.opening();
        async move { PyStream::open(opening.await?, timeout, callbacks) }
    }
}

impl PyRef {
    /// Opens a stream over the object: see [`Call::stream`].
    ///
    /// # Errors
    /// Awaited: as [`Call::stream`].
    pub fn stream<T: DeserializeOwned + Send + 'static>(
        &self,
    ) -> impl Future<Output = Result<PyStream<T>>> + Send + 'static + use<T> {
        self.step(Step::Itself, ()).stream()
    }
}
