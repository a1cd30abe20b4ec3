//! The message log of one bridge: what its actors handled, in one order, and what came of it.
//!
//! An actor writes while it handles a message, before it tells anyone of what it has decided. So the
//! records of one actor stand in the order in which it handled its messages, and a cause stands
//! before its effect, whatever threads the two are on. A message that the level does not take costs
//! a comparison. Nobody's code runs under the lock: wakers are woken and log lines written after it.

mod table;

pub(crate) use table::Handled;

use crate::config::MessageLogLevel;
use crate::id::{CallId, PoolName, SessionId, SessionKey, WorkerId};
use futures::Stream;
use serde::Serialize;
use std::cell::OnceCell;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::SystemTime;

/// How many of the last records are kept for whoever asks.
const RECENT: usize = 1024;
/// How many records a follower may lag behind before it misses some.
const BACKLOG: usize = 65_536;

/// One message that an actor handled, and what it decided.
///
/// As JSON it is one flat object: `{"seq": 12, "at": "2026-01-01T00:00:00.000000Z", "actor": "pool p",
/// "message": "ticket", "call": 1, "session": "a", "outcome": "granted p/0#1; home p/0#1", "missed": 0}`.
/// See [`MessageLog`] for an example.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct LogRecord {
    /// Its place in the order of all records of its bridge, from 1, without gaps.
    pub seq: u64,
    /// When it was written, on the wall clock.
    #[serde(serialize_with = "crate::event::rfc3339")]
    pub at: SystemTime,
    /// Who handled the message: `session user_42`, `pool strict_pool`, `worker strict_pool/1#3`,
    /// `registry`.
    pub actor: Arc<str>,
    /// What it handled, e.g. `ticket`.
    pub message: &'static str,
    /// The call that it was about, if it was about one.
    pub call: Option<CallId>,
    /// The session that it was about, if it was about one.
    pub session: Option<SessionId>,
    /// What was decided, e.g. `granted p/0#1; home p/0#1`.
    pub outcome: Arc<str>,
    /// How many records before this one the follower that was given it has missed, since it was too
    /// slow; 0 in [`MessageLog::recent`].
    pub missed: u64,
}

/// The record of what the actors of a bridge handled: see
/// [`SnakeBridge::message_log`](crate::SnakeBridge::message_log).
///
/// What is recorded is chosen by [`Config::message_log_level`](crate::Config::message_log_level). The
/// records are log lines of the target `snakebridge::message` as well. The log holds nothing of the
/// bridge: it can be read when that has stopped.
///
/// ```
/// # #[actix::main]
/// # async fn main() -> snakebridge::Result<()> {
/// use snakebridge::{Config, MessageLogLevel, PoolConfig, SnakeBridge};
///
/// let config = Config::new().pool(PoolConfig::new("p").size(1)).message_log_level(MessageLogLevel::Calls);
/// let py = SnakeBridge::from_config(config).await?;
/// let log = py.message_log();
/// py.session("a").call("math", "sqrt", (4,)).discard().await?;
///
/// let ticket = log.recent(100).into_iter().find(|record| record.message == "ticket").unwrap();
/// assert_eq!(&*ticket.actor, "pool p");
/// assert_eq!(ticket.session.unwrap(), "a");
/// assert_eq!(&*ticket.outcome, "granted p/0#1; home p/0#1");
/// # py.shutdown().await
/// # }
/// ```
#[derive(Clone)]
pub struct MessageLog(Arc<Shared>);

impl MessageLog {
    /// The last `n` records, oldest first; at most 1,024 are kept.
    pub fn recent(&self, n: usize) -> Vec<LogRecord> {
        let inner = self.0.lock();
        let from = inner.records.len() - n.min(RECENT).min(inner.records.len());
        inner.records.range(from..).cloned().collect()
    }

    /// The records from this moment on; ends when the bridge and all its handles are gone.
    ///
    /// A reader may lag 65,536 records behind, of about 150 bytes each. Beyond that the oldest are
    /// given up, and the next record that it is given says in `missed` how many.
    ///
    /// ```
    /// # #[actix::main]
    /// # async fn main() -> snakebridge::Result<()> {
    /// use futures::StreamExt;
    /// # let py = snakebridge::SnakeBridge::builder().pool(snakebridge::PoolConfig::new("p").size(1)).start().await?;
    ///
    /// let mut records = py.message_log().follow();
    /// py.resize("p", 2).await?;
    /// let record = records.next().await.unwrap();
    /// assert_eq!((&*record.actor, record.message, record.missed), ("pool p", "resize", 0));
    /// assert_eq!(&*record.outcome, "event worker.starting; start p/1#1");
    /// # py.shutdown().await
    /// # }
    /// ```
    pub fn follow(&self) -> impl Stream<Item = LogRecord> + Send + Unpin + 'static {
        let mut inner = self.0.lock();
        let (id, next) = (inner.followers_made, inner.last + 1);
        inner.followers_made += 1;
        inner.followers.insert(id, Reader { next, waker: None });
        Follower { id, log: Arc::clone(&self.0) }
    }
}

impl fmt::Debug for MessageLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MessageLog").field("records", &self.0.lock().last).finish()
    }
}

struct Shared(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    last: u64,
    /// The last ones, and those before them that a follower has yet to read.
    records: VecDeque<LogRecord>,
    followers_made: u64,
    followers: BTreeMap<u64, Reader>,
    is_closed: bool,
}

struct Reader {
    /// The number of the record that it reads next.
    next: u64,
    waker: Option<Waker>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn append(&self, message: Handled, note: Note) {
        let Note { actor, call, session, outcome } = note;
        let (wakers, line) = {
            let mut inner = self.lock();
            inner.last += 1;
            let (seq, at, message) = (inner.last, SystemTime::now(), message.text());
            let record = LogRecord { seq, at, actor, message, call, session, outcome, missed: 0 };
            let line = record.clone();
            inner.records.push_back(record);
            inner.trim();
            (inner.take_wakers(), line)
        };
        wake(wakers);
        log(message, &line);
    }

    fn close(&self) {
        let wakers = {
            let mut inner = self.lock();
            inner.is_closed = true;
            inner.take_wakers()
        };
        wake(wakers);
    }
}

impl Inner {
    fn trim(&mut self) {
        let slowest = self.followers.values().map(|reader| reader.next).min().unwrap_or(u64::MAX);
        while let Some(oldest) = self.records.front()
            && self.records.len() > RECENT
            && (oldest.seq < slowest || self.records.len() > BACKLOG)
        {
            self.records.pop_front();
        }
    }

    fn take_wakers(&mut self) -> Vec<Waker> {
        self.followers.values_mut().filter_map(|reader| reader.waker.take()).collect()
    }

    /// The next record of a follower, with how many it has missed.
    fn read(&mut self, id: u64) -> Option<LogRecord> {
        let reader = self.followers.get_mut(&id)?;
        let oldest = self.records.front()?.seq;
        let missed = oldest.saturating_sub(reader.next);
        let at = usize::try_from(reader.next + missed - oldest).ok()?;
        let record = self.records.get(at)?;
        reader.next = record.seq + 1;
        Some(LogRecord { missed, ..record.clone() })
    }
}

fn wake(wakers: Vec<Waker>) {
    for waker in wakers {
        let _panicked = super::of_listener(|| waker.wake());
    }
}

fn log(message: Handled, record: &LogRecord) {
    macro_rules! line {
        ($level:ident) => {
            tracing::event!(
                target: "snakebridge::message", tracing::Level::$level,
                seq = record.seq, actor = &*record.actor, call = record.call.map(tracing::field::display),
                session = record.session.as_ref().map(tracing::field::display), outcome = &*record.outcome,
                "{}", record.message
            )
        };
    }
    match message.level() {
        MessageLogLevel::Calls => line!(TRACE),
        MessageLogLevel::Lifecycle | MessageLogLevel::Off => line!(DEBUG),
    }
}

struct Follower {
    id: u64,
    log: Arc<Shared>,
}

impl Stream for Follower {
    type Item = LogRecord;

    fn poll_next(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Option<LogRecord>> {
        if let Some(record) = self.log.lock().read(self.id) {
            return Poll::Ready(Some(record));
        }
        // A waker is somebody's code, its clone and its end too.
        let waker = task.waker().clone();
        let mut inner = self.log.lock();
        if let Some(record) = inner.read(self.id) {
            drop(inner);
            return Poll::Ready(Some(record));
        }
        if inner.is_closed {
            return Poll::Ready(None);
        }
        let replaced = inner.followers.get_mut(&self.id).and_then(|reader| reader.waker.replace(waker));
        drop(inner);
        drop(replaced);
        Poll::Pending
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let mut inner = self.log.lock();
        let gone = inner.followers.remove(&self.id);
        inner.trim();
        inner.records.shrink_to(RECENT);
        drop(inner);
        drop(gone);
    }
}

/// The writing end. When its last clone goes, followers come to their end.
#[derive(Clone)]
pub(crate) struct Messages {
    level: MessageLogLevel,
    open: Arc<Open>,
}

struct Open(Arc<Shared>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// What is written of one message.
pub(crate) struct Note {
    pub(crate) actor: Arc<str>,
    pub(crate) call: Option<CallId>,
    pub(crate) session: Option<SessionId>,
    pub(crate) outcome: Arc<str>,
}

impl Messages {
    pub(crate) fn new(level: MessageLogLevel) -> Self {
        Self { level, open: Arc::new(Open(Arc::new(Shared(Mutex::default())))) }
    }

    /// Whether the level takes such a message; all that a message costs that it does not take.
    #[inline]
    pub(crate) fn takes(&self, message: Handled) -> bool {
        message.level() <= self.level
    }

    #[inline]
    pub(crate) fn write(&self, message: Handled, note: impl FnOnce() -> Note) {
        if self.takes(message) {
            self.open.0.append(message, note());
        }
    }

    pub(crate) fn reader(&self) -> MessageLog {
        MessageLog(Arc::clone(&self.open.0))
    }
}

/// Who writes, as a person reads it.
#[derive(Clone, Debug)]
pub(crate) enum Who {
    Session(SessionId),
    Pool(PoolName),
    Worker(WorkerId),
    Registry,
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Session(id) => write!(f, "session {id}"),
            Self::Pool(name) => write!(f, "pool {name}"),
            Self::Worker(id) => write!(f, "worker {id}"),
            Self::Registry => f.write_str("registry"),
        }
    }
}

/// The log as one actor writes to it.
pub(crate) struct Journal {
    messages: Messages,
    who: Who,
    /// Made with its first record: most sessions of a busy host never write one.
    name: OnceCell<Arc<str>>,
}

impl Journal {
    pub(crate) fn new(messages: Messages, who: Who) -> Self {
        Self { messages, who, name: OnceCell::new() }
    }

    #[inline]
    pub(crate) fn takes(&self, message: Handled) -> bool {
        #[cfg(test)]
        super::fault::point(message.text());
        self.messages.takes(message)
    }

    /// Writes what came of a message; to be called before anyone is told of it.
    #[inline]
    pub(crate) fn note<O: Into<Arc<str>>>(
        &self,
        message: Handled,
        call: Option<CallId>,
        session: Option<&SessionKey>,
        outcome: impl FnOnce() -> O,
    ) {
        #[cfg(test)]
        super::fault::point(message.text());
        self.messages.write(message, || Note {
            actor: Arc::clone(self.name.get_or_init(|| self.who.to_string().into())),
            call,
            session: session.map(|session| session.id().clone()),
            outcome: outcome().into(),
        });
    }
}

#[cfg(test)]
mod tests;
