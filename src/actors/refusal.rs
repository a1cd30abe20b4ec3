//! What the caller is told when the rules say no.

use super::request::Request;
use crate::error::{Error, Ran};
use crate::rules::address::Misaddressed;
use crate::rules::pool::Refusal;

/// A pool's refusal of a call. None of these calls has begun.
pub(crate) fn error(refusal: Refusal, request: &Request) -> Error {
    let session = request.hold.id().clone();
    let pool = request.pool.clone();
    match refusal {
        Refusal::WorkerBusy => Error::WorkerBusy { session, pool },
        Refusal::SessionWorkerUnavailable { worker, why } => Error::SessionWorkerUnavailable { session, worker, why },
        Refusal::PoolSaturated { limit } => Error::PoolSaturated { pool, limit },
        Refusal::PoolDegraded { cause } => Error::PoolDegraded { pool, cause },
        Refusal::QueueTimeout { waited } => Error::QueueTimeout { pool, waited },
        Refusal::Timeout { timeout } => Error::Timeout { timeout, ran: Ran::No },
        Refusal::RefLost { worker, cause } => Error::RefLost { session, worker, cause },
        Refusal::NamespaceElsewhere { namespace, refs } => Error::RefsOnDifferentWorkers {
            what: format!(
                "the namespace of session {session} is in worker {namespace}, and refs of the call are in {refs}"
            )
            .into(),
        },
        Refusal::WouldDeadlock => Error::WouldDeadlock { session, pool },
        Refusal::RebuildFailed => Error::internal("the on_home of its session did not end", Ran::No),
        Refusal::Cancelled => Error::Cancelled { why: format!("session {session} was released").into(), ran: Ran::No },
        Refusal::ShuttingDown => Error::ShuttingDown { ran: Ran::No },
    }
}

/// The code of the error that a refusal becomes.
pub(crate) fn code(refusal: &Refusal) -> &'static str {
    match refusal {
        Refusal::WorkerBusy => "worker_busy",
        Refusal::SessionWorkerUnavailable { .. } => "session_worker_unavailable",
        Refusal::PoolSaturated { .. } => "pool_saturated",
        Refusal::PoolDegraded { .. } => "pool_degraded",
        Refusal::QueueTimeout { .. } => "queue_timeout",
        Refusal::Timeout { .. } => "timeout",
        Refusal::RefLost { .. } => "ref_lost",
        Refusal::NamespaceElsewhere { .. } => "refs_on_different_workers",
        Refusal::WouldDeadlock => "would_deadlock",
        Refusal::RebuildFailed => "on_home failed",
        Refusal::Cancelled => "cancelled",
        Refusal::ShuttingDown => "shutting_down",
    }
}

/// A call that goes nowhere.
pub(crate) fn misaddressed(wrong: Misaddressed) -> Error {
    match wrong {
        Misaddressed::UnknownPool { pool, known } => Error::UnknownPool { pool, known },
        Misaddressed::SessionMismatch { session, other } => Error::SessionMismatch { session, other },
        Misaddressed::RefsOnTwoWorkers { one, other } => Error::RefsOnDifferentWorkers {
            what: format!("no worker holds both {} ({}) and {} ({})", one.0, one.1, other.0, other.1).into(),
        },
        Misaddressed::RefsOfAnotherPool { id, worker, pool } => Error::RefsOnDifferentWorkers {
            what: format!("{id} is in worker {worker}, and the call is to go to pool {pool}").into(),
        },
        Misaddressed::RefOfEndedSession { id, session } => Error::RefNotFound {
            id,
            why: format!("an earlier session {session} made it, and has ended").into(),
            session,
        },
    }
}
