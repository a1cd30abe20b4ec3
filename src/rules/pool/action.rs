//! What a pool wants done.

use super::ticket::Refusal;
use crate::event::Fact;
use crate::id::{CallId, SessionKey, WorkerId};
use std::sync::Arc;

/// One thing to do, in the order in which they are polled.
#[derive(Clone, Debug, PartialEq)]
#[must_use = "an action that is not carried out leaves somebody waiting"]
pub(crate) enum Action {
    /// To the session: send the call's request to that worker.
    ///
    /// With `rebuild` it set a home that is to be made ready first: `handle_rebuilt`, then send it, or
    /// `handle_rebuild_failed`.
    /// With `on` it is to run on top of that call of its tree, where one waits for a callback.
    Grant { call: CallId, session: SessionKey, worker: WorkerId, on: Option<CallId>, rebuild: bool },
    /// To the session: answer the call.
    Refuse { call: CallId, session: SessionKey, refusal: Refusal },
    /// To the worker: see that the call does not begin; answered by `handle_taken_back`,
    /// `handle_kept`, or the end of the call.
    TakeBack { call: CallId, worker: WorkerId },
    /// To the worker: a `TakeBack` of this call that still waits for it to arrive waits in vain.
    DropTakeBack { call: CallId, worker: WorkerId },
    /// Start the process; answered by `handle_ready`, `handle_start_failed` or `handle_exit`.
    Start { worker: WorkerId },
    /// Nothing runs there and nothing will: let it exit by itself.
    Stop { worker: WorkerId },
    /// Kill it; what happens next follows from its seen exit.
    Kill { worker: WorkerId, cause: String },
    /// It has exited and no request is on its way to it any more: its actor may stop.
    LeasesClosed { worker: WorkerId },
    /// To the session, which has ended: the pool holds nothing of it any more. Its namespace is in that
    /// worker, to be dropped after its refs.
    Forgotten { session: SessionKey, namespace: Option<WorkerId> },
    /// Every slot is ready, for the first time.
    Ready,
    /// The restart budget is spent, or a start failed for good.
    Degraded { cause: Arc<str>, permanent: bool },
    /// The shutdown is over: every worker's exit was seen.
    Stopped,
    /// Tell the observers.
    Emit(Fact),
}
