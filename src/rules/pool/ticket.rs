//! What a session asks of a pool, and how it may be refused.

use crate::config::{Affinity, OnWorkerLost, PoolConfig, bounded};
use crate::id::{CallId, PoolName, SessionKey, WorkerId};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What of a pool's configuration its rules read.
#[derive(Clone, Debug)]
pub(crate) struct PoolRules {
    pub(crate) name: PoolName,
    pub(crate) size: usize,
    pub(crate) affinity: Affinity,
    pub(crate) concurrency: usize,
    pub(crate) max_queue_size: usize,
    pub(crate) max_queue_bytes: usize,
    pub(crate) queue_timeout: Duration,
    pub(crate) shutdown_grace: Duration,
    pub(crate) retire_grace: Duration,
    pub(crate) start_timeout: Duration,
    pub(crate) max_requests: usize,
    pub(crate) max_age: Option<Duration>,
    /// A random number, for what is to differ between pools and workers.
    pub(crate) seed: u64,
    pub(crate) on_worker_lost: OnWorkerLost,
    pub(crate) restart_budget: (usize, Duration),
    pub(crate) restart_backoff: (Duration, Duration),
    /// How many calls may be sent to a worker beyond the running one; 0 for none.
    pub(crate) send_ahead: usize,
}

/// A socket buffer holds 278 small messages; 32 keep a worker busy while its host is descheduled.
const SEND_AHEAD: usize = 32;

impl From<&PoolConfig> for PoolRules {
    fn from(config: &PoolConfig) -> Self {
        Self {
            name: config.name.clone(),
            size: config.size,
            affinity: config.affinity,
            concurrency: config.concurrency,
            max_queue_size: config.max_queue_size,
            max_queue_bytes: config.max_queue_bytes,
            queue_timeout: bounded(config.queue_timeout),
            shutdown_grace: bounded(config.shutdown_grace),
            retire_grace: bounded(config.retire_grace),
            start_timeout: bounded(config.start_timeout),
            max_requests: config.max_requests,
            max_age: (bounded(config.max_age) == config.max_age).then_some(config.max_age),
            seed: 0,
            on_worker_lost: config.on_worker_lost,
            restart_budget: (config.budget().0, bounded(config.budget().1)),
            restart_backoff: (bounded(config.restart_backoff.0), bounded(config.restart_backoff.1)),
            send_ahead: SEND_AHEAD,
        }
    }
}

/// What a call is for, where that decides how it waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Purpose {
    #[default]
    Call,
    /// Opens a stream: it never waits.
    Opening,
    /// Goes on with what its session has open in a worker, a batch of a stream or its close. It waits its
    /// turn as a strict call does, takes no place in the queue, and a taint does not turn it away.
    Continuing,
    /// Made by the `on_home` of its session, which runs before the call that set the home.
    Rebuilding { under: CallId },
}

/// A call that wants a worker; its body stays with its session.
#[derive(Clone, Debug)]
pub(crate) struct Ticket {
    pub(crate) call: CallId,
    pub(crate) session: SessionKey,
    pub(crate) purpose: Purpose,
    /// The session makes each new home ready before the call that sets it.
    pub(crate) rebuilds: bool,
    /// The root call of the tree that it was made in: see the module's head.
    pub(crate) tree: Option<CallId>,
    /// Its session has ended, and the pool may have forgotten that.
    pub(crate) has_ended: bool,
    /// Of the call; else the pool's.
    pub(crate) affinity: Option<Affinity>,
    /// The worker that holds the refs which the call carries.
    pub(crate) pinned_to: Option<WorkerId>,
    /// Whether it runs in the session's namespace, which it then carries like a ref.
    pub(crate) uses_namespace: bool,
    /// When the caller will have waited for `timeout`.
    pub(crate) deadline: Option<Instant>,
    pub(crate) timeout: Option<Duration>,
    /// Of the call; else the pool's.
    pub(crate) queue_timeout: Option<Duration>,
    pub(crate) bytes: usize,
    /// Of the session; else the pool's.
    pub(crate) on_worker_lost: Option<OnWorkerLost>,
}

impl Ticket {
    /// Whether a call that was marked `idempotent` may run once more, elsewhere, should it have begun in a worker
    /// that dies: it is bound to none, and nobody else's work hangs on its first run.
    pub(crate) fn may_rerun(&self, of_pool: Affinity) -> bool {
        self.affinity.unwrap_or(of_pool) == Affinity::Hint
            && self.pinned_to.is_none()
            && !self.uses_namespace
            && self.tree.is_none()
            && self.purpose == Purpose::Call
    }
}

/// Why a call gets no worker. None of these calls has begun, nor ever will.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    WorkerBusy,
    SessionWorkerUnavailable {
        worker: WorkerId,
        why: Arc<str>,
    },
    PoolSaturated {
        limit: Arc<str>,
    },
    PoolDegraded {
        cause: Arc<str>,
    },
    QueueTimeout {
        waited: Duration,
    },
    Timeout {
        timeout: Duration,
    },
    RefLost {
        worker: WorkerId,
        cause: Arc<str>,
    },
    /// The namespace that it uses is not where its refs are.
    NamespaceElsewhere {
        namespace: WorkerId,
        refs: WorkerId,
    },
    /// It was made inside a callback, and every worker that it may wait for waits for another.
    WouldDeadlock,
    /// The new home could not be made ready for it; its session knows why.
    RebuildFailed,
    /// Its session has ended.
    Cancelled,
    ShuttingDown,
}
