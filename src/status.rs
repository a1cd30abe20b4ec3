//! What a bridge says of itself when asked.

use crate::id::{CallId, PoolName, SessionId, WorkerId};
use serde::Serialize;
use std::time::SystemTime;

/// What a worker can do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum WorkerState {
    /// Its process runs and does not take calls yet.
    Starting,
    /// It could take a call at once.
    Free,
    /// It runs as many calls as it can.
    Busy,
    /// It takes nothing new until the taint ends.
    Tainted,
    /// It is being replaced, and finishes what it has.
    Retiring,
    /// It is exiting.
    Gone,
}

/// One worker, from its fork to its seen exit.
#[derive(Clone, Debug, Serialize)]
pub struct WorkerInfo {
    /// The worker.
    pub id: WorkerId,
    /// Its pool.
    pub pool: PoolName,
    /// Its process.
    pub pid: u32,
    /// What it can do now.
    pub state: WorkerState,
    /// How many sessions have their home there.
    pub sessions: usize,
    /// How many of its objects Rust holds; the namespace of a session counts as one.
    pub refs: usize,
    /// How many calls it has finished.
    pub requests: u64,
    /// Its resident memory, in bytes, at the moment of the question; 0 if the system did not say.
    pub memory_bytes: u64,
    /// The calls that run there.
    pub running: Vec<RunningCall>,
    /// The taint, if it has one.
    pub tainted: Option<Taint>,
    /// When its process was started.
    #[serde(serialize_with = "crate::event::rfc3339")]
    pub started_at: SystemTime,
}

/// A call that a worker runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RunningCall {
    /// The call.
    pub call: CallId,
    /// Its session.
    pub session: SessionId,
}

/// Why a worker takes nothing new, and until when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Taint {
    /// What was said when it was tainted.
    pub reason: String,
    /// When the taint ends by itself.
    #[serde(serialize_with = "crate::event::rfc3339")]
    pub until: SystemTime,
}

/// One session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SessionInfo {
    /// The session.
    pub id: SessionId,
    /// How many of its objects Rust holds, its namespaces not counted.
    pub refs: usize,
    /// How many of its calls wait.
    pub waiting: usize,
    /// Its home in each pool where it has one; a home that is gone included.
    pub homes: Vec<WorkerId>,
}

/// One pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PoolStats {
    /// The pool.
    pub name: PoolName,
    /// How many workers it should have.
    pub size: usize,
    /// How many take calls: free or busy.
    pub ready: usize,
    /// How many of these run as many calls as they can.
    pub busy: usize,
    /// How many have left a heartbeat unanswered; they are not counted as ready.
    pub unresponsive: usize,
    /// How many calls wait, those sent ahead included.
    pub waiting: usize,
    /// How many calls were answered by a worker since the pool started.
    pub finished: u64,
    /// How many workers died, or failed to start, without being asked to.
    pub deaths: u64,
    /// Why the pool is degraded, if it is.
    pub degraded: Option<String>,
}

/// The whole bridge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// Its pools, by name.
    pub pools: Vec<PoolStats>,
    /// How many sessions live.
    pub sessions: usize,
    /// How many refs the catalogue holds.
    pub refs: usize,
}

/// What ties the workers of a pool to this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Tie {
    /// The kernel kills each worker's process group when this process ends, in whatever state either is.
    Lifeline,
    /// A parent process does; the kernel does not honour lifelines here.
    ParentDeath,
}

/// What is in force on this machine: see [`SnakeBridge::guarantees`](crate::SnakeBridge::guarantees).
///
/// ```
/// # #[actix::main]
/// # async fn main() -> snakebridge::Result<()> {
/// # let py = snakebridge::SnakeBridge::builder().pool(snakebridge::PoolConfig::new("p").size(1)).start().await?;
/// for (pool, tie) in py.guarantees().await.ties {
///     println!("{pool}: {tie:?}");
/// }
/// # py.shutdown().await
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Guarantees {
    /// How the workers of each pool are tied to this process.
    pub ties: Vec<(PoolName, Tie)>,
    /// Whether the processes of each pool are in a PID namespace of their own, as
    /// [`PoolConfig::pid_namespace`](crate::PoolConfig::pid_namespace) asks for.
    pub pid_namespaces: Vec<(PoolName, bool)>,
}
