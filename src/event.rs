//! Lifecycle facts, as subscribers and logs see them.

use crate::id::{CallId, PoolName, SessionId, WorkerId};
use serde::Serialize;
use std::time::SystemTime;

/// One lifecycle fact, with its place in the order of all facts of its bridge.
///
/// As JSON it is one flat object:
/// `{"seq": 7, "at": "2026-01-01T00:00:00.000000Z", "name": "snakebridge.session.cleanup",
/// "session": "gone", "reason": "released", "refs": 2}`.
///
/// ```
/// # #[actix::main]
/// # async fn main() -> snakebridge::Result<()> {
/// use futures::StreamExt;
/// use snakebridge::{Fact, PoolConfig, SnakeBridge};
///
/// let py = SnakeBridge::builder().pool(PoolConfig::new("p").size(1)).start().await?;
/// let mut events = py.events();
/// let session = py.session("a");
/// session.call("math", "sqrt", (4,)).discard().await?;
/// session.release().await?;
///
/// let mut names = Vec::new();
/// while let Some(event) = events.next().await {
///     names.push(event.name());
///     if let Fact::SessionCleanup { session, .. } = event.fact() {
///         assert_eq!(session, "a");
///         break;
///     }
/// }
/// assert_eq!(
///     names,
///     ["snakebridge.session.created", "snakebridge.session.homed", "snakebridge.session.cleanup"]
/// );
/// # py.shutdown().await
/// # }
/// ```
#[derive(Clone, Debug, Serialize, actix::Message)]
#[rtype(result = "()")]
pub struct Event {
    seq: u64,
    #[serde(serialize_with = "rfc3339")]
    at: SystemTime,
    #[serde(flatten)]
    fact: Fact,
}

impl Event {
    pub(crate) fn new(seq: u64, at: SystemTime, fact: Fact) -> Self {
        Self { seq, at, fact }
    }

    /// Its place in the order of all events of its bridge, from 1.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// When it was noticed, on the wall clock.
    pub fn at(&self) -> SystemTime {
        self.at
    }

    /// What happened.
    pub fn fact(&self) -> &Fact {
        &self.fact
    }

    /// Its name, e.g. `snakebridge.worker.exited`.
    pub fn name(&self) -> &'static str {
        self.fact.name()
    }
}

pub(crate) fn rfc3339<S: serde::Serializer>(at: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    let at = chrono::DateTime::<chrono::Utc>::from(*at);
    serializer.collect_str(&at.to_rfc3339_opts(chrono::SecondsFormat::Micros, true))
}

/// Why a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum EndReason {
    /// `release()` was called.
    Released,
    /// The handle of an automatic session and all that was made through it are gone.
    OwnerDropped,
    /// Unused for longer than its TTL.
    Expired,
    /// The longest unused of more than `max_sessions`.
    Capped,
    /// The bridge shut down.
    Shutdown,
}

impl EndReason {
    /// The reason as it stands in the cleanup event, e.g. `owner_dropped`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Released => "released",
            Self::OwnerDropped => "owner_dropped",
            Self::Expired => "expired",
            Self::Capped => "capped",
            Self::Shutdown => "shutdown",
        }
    }
}

macro_rules! facts {
    ($($(#[$doc:meta])* $variant:ident = $name:literal { $($(#[$fdoc:meta])* $field:ident: $ty:ty),* $(,)? })*) => {
        /// What an [`Event`] says.
        #[derive(Clone, Debug, PartialEq, Serialize)]
        #[serde(tag = "name")]
        #[non_exhaustive]
        pub enum Fact {
            $($(#[$doc])* #[serde(rename = $name)] $variant { $($(#[$fdoc])* $field: $ty),* },)*
        }

        impl Fact {
            /// The name of the fact, e.g. `snakebridge.worker.exited`.
            pub fn name(&self) -> &'static str {
                match self {
                    $(Self::$variant { .. } => $name,)*
                }
            }

            /// The names of all facts that a bridge can tell.
            pub const NAMES: &'static [&'static str] = &[$($name),*];
        }
    };
}

facts! {
    /// A worker process is being started.
    WorkerStarting = "snakebridge.worker.starting" {
        /// The worker.
        worker: WorkerId,
    }
    /// A worker takes calls.
    WorkerReady = "snakebridge.worker.ready" {
        /// The worker.
        worker: WorkerId,
    }
    /// The exit of a worker was seen; its process is gone.
    WorkerExited = "snakebridge.worker.exited" {
        /// The worker.
        worker: WorkerId,
        /// How it ended, e.g. `signal 9 (SIGKILL)`.
        cause: String,
        /// Whether the pool had asked for it.
        expected: bool,
    }
    /// A worker could not be started.
    WorkerStartFailed = "snakebridge.worker.start_failed" {
        /// The worker that never was.
        worker: WorkerId,
        /// Why.
        cause: String,
    }
    /// A worker takes nothing new until the taint ends.
    WorkerTainted = "snakebridge.worker.tainted" {
        /// The worker.
        worker: WorkerId,
        /// Why.
        reason: String,
        /// How long, in milliseconds from the event.
        for_ms: u64,
    }
    /// A taint has ended.
    WorkerUntainted = "snakebridge.worker.untainted" {
        /// The worker.
        worker: WorkerId,
    }
    /// A worker is being replaced and takes no new sessions.
    WorkerRetiring = "snakebridge.worker.retiring" {
        /// The worker.
        worker: WorkerId,
        /// Why.
        reason: String,
    }
    /// A pool has spent its restart budget, or cannot start workers at all.
    PoolDegraded = "snakebridge.pool.degraded" {
        /// The pool.
        pool: PoolName,
        /// The last death or failed start.
        cause: String,
    }
    /// A degraded pool has all its workers again.
    PoolRecovered = "snakebridge.pool.recovered" {
        /// The pool.
        pool: PoolName,
    }
    /// A session began.
    SessionCreated = "snakebridge.session.created" {
        /// The session.
        session: SessionId,
    }
    /// A session has a home in a pool.
    SessionHomed = "snakebridge.session.homed" {
        /// The session.
        session: SessionId,
        /// Its home.
        worker: WorkerId,
    }
    /// A session's home is gone, and with it what the session kept there.
    SessionHomeLost = "snakebridge.session.home_lost" {
        /// The session.
        session: SessionId,
        /// The home that was.
        worker: WorkerId,
    }
    /// A session has let go of its home, lost or not: it was reset, its home is being replaced and holds nothing of
    /// it, or its `on_home` has failed there. Its next call finds another.
    SessionHomeForgotten = "snakebridge.session.home_forgotten" {
        /// The session.
        session: SessionId,
        /// The home that was.
        worker: WorkerId,
    }
    /// A session ended and its refs were freed in every worker.
    SessionCleanup = "snakebridge.session.cleanup" {
        /// The session.
        session: SessionId,
        /// Why it ended.
        reason: EndReason,
        /// How many refs were still alive.
        refs: u64,
    }
    /// Refs were freed: Rust dropped them, or their session ended, which its cleanup counts too.
    RefsFreed = "snakebridge.refs.freed" {
        /// The worker that held them.
        worker: WorkerId,
        /// How many.
        count: u64,
    }
    /// Refs were lost with their worker.
    RefsLost = "snakebridge.refs.lost" {
        /// The worker that held them.
        worker: WorkerId,
        /// How many.
        count: u64,
    }
    /// A call was submitted. Told, as the three that follow, only where
    /// [`Config::call_events`](crate::Config::call_events) is set; each call that started ends in
    /// exactly one of them. Each batch of a stream is a call.
    CallStarted = "snakebridge.call.started" {
        /// The call.
        call: CallId,
        /// Its session.
        session: SessionId,
        /// The pool that is to run it.
        pool: PoolName,
    }
    /// A worker has answered a call with a value.
    CallFinished = "snakebridge.call.finished" {
        /// The call.
        call: CallId,
        /// Its session.
        session: SessionId,
        /// Where it ran.
        worker: WorkerId,
    }
    /// A call ended in an error: refused, raised, out of time, crashed.
    CallFailed = "snakebridge.call.failed" {
        /// The call.
        call: CallId,
        /// Its session.
        session: SessionId,
        /// The code of the error, e.g. `worker_busy`: see [`Error::code`](crate::Error::code).
        code: &'static str,
    }
    /// A call was cancelled: its caller dropped it, or its session ended before it began.
    CallCancelled = "snakebridge.call.cancelled" {
        /// The call.
        call: CallId,
        /// Its session.
        session: SessionId,
    }
    /// The bridge takes calls.
    BridgeStarted = "snakebridge.bridge.started" {
        /// Its pools.
        pools: Vec<PoolName>,
    }
    /// The thread that the bridge lives on did not run: something blocked it, or the machine did. It is measured
    /// with the ticks of the heartbeats, by how late they come; a stall between two ticks is not seen.
    BridgeStalled = "snakebridge.bridge.stalled" {
        /// For how many milliseconds at least; more than 250.
        for_ms: u64,
    }
    /// An actor of the bridge panicked, and went on: a bug in snakebridge. The calls that it lost with that have
    /// ended in [`Internal`](crate::Error::Internal).
    ActorPanicked = "snakebridge.actor.panicked" {
        /// Which, e.g. `session user_42`, `pool strict_pool`, `worker strict_pool/1#3`, `registry`.
        actor: String,
        /// What the panic said.
        what: String,
    }
    /// The bridge has stopped; nothing of it is left.
    BridgeStopped = "snakebridge.bridge.stopped" {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cleanup_event_is_flat_json_with_its_name_and_reason() {
        let fact = Fact::SessionCleanup { session: "gone".into(), reason: EndReason::Released, refs: 2 };
        let event = Event::new(7, SystemTime::UNIX_EPOCH, fact);
        let json = serde_json::to_value(&event).expect("an event is plain data");
        assert_eq!(
            json,
            serde_json::json!({
                "name": "snakebridge.session.cleanup", "seq": 7, "at": "1970-01-01T00:00:00.000000Z",
                "session": "gone", "reason": "released", "refs": 2
            })
        );
        assert_eq!(event.name(), "snakebridge.session.cleanup");
    }
}
