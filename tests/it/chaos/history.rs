//! What a run leaves behind: the log of its clients, the journal of its Python functions, the events of its bridge.
//!
//! The first two are witnesses that do not know of each other, and the bridge writes neither. One monotonic
//! clock orders them. The log is kept in memory: it has to outlive workers, not the host.

use snakebridge::{Affinity, Error, Event, Fact, Ran, WorkerId};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

/// Nanoseconds of the machine's monotonic clock.
pub(crate) type Ns = u64;

/// What `time.monotonic_ns()` says in Python.
pub(crate) fn now() -> Ns {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    u64::try_from(now.tv_sec * 1_000_000_000 + now.tv_nsec).expect("a monotonic clock counts from a start")
}

/// A worker, as both witnesses name it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Worker {
    /// Its pool, whose name is one letter.
    pub(crate) pool: u8,
    pub(crate) slot: u32,
    pub(crate) generation: u64,
}

impl From<&WorkerId> for Worker {
    fn from(id: &WorkerId) -> Self {
        Self { pool: id.pool().as_str().as_bytes()[0], slot: id.slot(), generation: id.generation() }
    }
}

impl fmt::Display for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}#{}", char::from(self.pool), self.slot, self.generation)
    }
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// What a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// Adds the call's number to the list that the worker has of its session. Gives the index, and whether its
    /// bytes were the same in all directions.
    Append,
    /// Gives that list.
    Read,
    /// Raises.
    Fail,
    /// Makes an object that holds a token.
    Make {
        token: u64,
    },
    /// Has the object that a call made tell its token.
    Use {
        made: u64,
    },
    /// Gives items, each numbered by its call and its place.
    Stream {
        items: u64,
    },
    Reset,
    Release,
}

#[derive(Clone, Debug)]
pub(crate) struct Invoke {
    pub(crate) id: u64,
    pub(crate) at: Ns,
    pub(crate) session: u32,
    pub(crate) pool: u8,
    /// Its place among the calls of its session, as they were submitted.
    pub(crate) seq: u64,
    pub(crate) affinity: Affinity,
    /// It may run once more where its worker has died.
    pub(crate) is_idempotent: bool,
    pub(crate) what: What,
}

#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub(crate) id: u64,
    pub(crate) at: Ns,
    pub(crate) how: How,
    /// An index and whether the bytes were whole; a list; a token; the items that came until then.
    pub(crate) got: Vec<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    Ok,
    Failed {
        code: &'static str,
        ran: Ran,
        /// That died, where one did.
        worker: Option<Worker>,
    },
    /// As `Failed`, of a stream that was open.
    Broken {
        code: &'static str,
        ran: Ran,
        worker: Option<Worker>,
    },
    /// The client went away before there was an outcome.
    Dropped,
}

#[derive(Clone, Debug)]
pub(crate) enum Entry {
    Invoke(Invoke),
    Outcome(Outcome),
}

/// The clients' log, in the order of its times.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<Entry>>>, Arc<Mutex<BTreeMap<&'static str, String>>>);

impl Log {
    pub(crate) fn invoke(&self, mut invoke: Invoke) {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        invoke.at = now();
        entries.push(Entry::Invoke(invoke));
    }

    pub(crate) fn outcome(&self, id: u64, how: How, got: Vec<u64>) {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        entries.push(Entry::Outcome(Outcome { id, at: now(), how, got }));
    }

    /// Keeps the first error of each code, in full.
    pub(crate) fn keep(&self, error: &Error) {
        let mut texts = self.1.lock().unwrap_or_else(PoisonError::into_inner);
        texts.entry(error.code()).or_insert_with(|| error.to_string());
    }

    pub(crate) fn text_of(&self, code: &str) -> Option<String> {
        self.1.lock().unwrap_or_else(PoisonError::into_inner).get(code).cloned()
    }

    pub(crate) fn take(&self) -> Vec<Entry> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A worker process, before its first call.
    Start,
    Begin,
    /// `value` is what the function returns, in one number.
    End,
    /// A generator is over; `value` is how many items it made.
    Closed,
}

/// A line of the journal: the functions of `chaos_helpers.py` write it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Record {
    pub(crate) kind: Kind,
    pub(crate) at: Ns,
    pub(crate) call: u64,
    pub(crate) session: u32,
    pub(crate) seq: u64,
    pub(crate) value: u64,
    pub(crate) worker: Worker,
    pub(crate) pid: u32,
}

impl Record {
    pub(crate) const SIZE: usize = 64;

    fn read(bytes: &[u8; Self::SIZE]) -> Result<Self, String> {
        let long = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        let kind = match bytes[53] {
            1 => Kind::Start,
            2 => Kind::Begin,
            3 => Kind::End,
            4 => Kind::Closed,
            other => return Err(format!("a record of kind {other}")),
        };
        let worker = Worker { pool: bytes[52], slot: word(44), generation: long(32) };
        let (at, call, seq, value) = (long(0), long(8), long(16), long(24));
        Ok(Self { kind, at, call, seq, value, worker, session: word(40), pid: word(48) })
    }

    /// # Errors
    /// A journal that is not a row of whole records.
    pub(crate) fn read_all(journal: &[u8]) -> Result<Vec<Self>, String> {
        let (records, rest) = journal.as_chunks::<{ Self::SIZE }>();
        if !rest.is_empty() {
            return Err(format!("{} bytes are left over after {} records", rest.len(), records.len()));
        }
        records.iter().map(Self::read).collect()
    }
}

/// An event of the bridge.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    pub(crate) seq: u64,
    pub(crate) at: Ns,
    pub(crate) fact: Fact,
}

impl From<Event> for Told {
    fn from(event: Event) -> Self {
        // It has a time of the wall clock, which is compared with that clock only now, before it drifts, and
        // again if something came between the two clocks.
        let (now, ago) = loop {
            let before = now();
            let ago = SystemTime::now().duration_since(event.at()).unwrap_or_default();
            let after = now();
            if after - before < 100_000 {
                break (after, u64::try_from(ago.as_nanos()).unwrap_or(u64::MAX));
            }
        };
        Self { seq: event.seq(), at: now.saturating_sub(ago), fact: event.fact().clone() }
    }
}

/// What the pools were told to keep to.
#[derive(Clone, Debug)]
pub(crate) struct Terms {
    /// How many restarts in how long.
    pub(crate) budget: (usize, Ns),
    /// How many items a stream may be ahead of its reader.
    pub(crate) credit: u64,
    /// The pools whose sessions find a new home by themselves.
    pub(crate) rehoming: Vec<u8>,
}

#[derive(Clone, Debug)]
pub(crate) struct History {
    pub(crate) entries: Vec<Entry>,
    pub(crate) records: Vec<Record>,
    pub(crate) told: Vec<Told>,
    /// When the workers were killed that were.
    pub(crate) killed: BTreeMap<Worker, Ns>,
    pub(crate) terms: Terms,
}
