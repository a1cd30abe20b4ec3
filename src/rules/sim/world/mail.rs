//! Where messages go in a simulated world, and which there are.

use crate::id::{CallId, RefId, SessionKey, WorkerId};
use crate::rules::pool::Ticket;
use std::time::Duration;

/// A mailbox: what is posted to it is handled in that order.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::rules::sim) enum Mailbox {
    Pool,
    Registry,
    Session(u64),
    Worker(WorkerId),
    /// The socket, one box each way.
    ToProcess(WorkerId),
    FromProcess(WorkerId),
    Thread(WorkerId, u32),
    /// Nothing keeps these in order.
    Nowhere(u64),
}

#[derive(Clone, Debug)]
pub(in crate::rules::sim) enum Message {
    Ticket(Ticket),
    Withdrawn(CallId),
    Rebuilt(CallId),
    RebuildFailed(CallId, WorkerId),
    LeaseOver(CallId, usize),
    Returned(CallId, WorkerId),
    TakenBack(CallId),
    Kept(CallId),
    Passed(CallId, WorkerId),
    Unpinned(SessionKey, WorkerId, usize),
    Ready(WorkerId),
    StartFailed(WorkerId, bool),
    Exited(WorkerId, Vec<CallId>),
    Taint(WorkerId, Duration),
    ClearTaint(WorkerId),
    Restart(WorkerId),
    Resize(usize),
    ZygoteLost,
    Reset(SessionKey),
    Forget(SessionKey),
    Shutdown,

    Made(SessionKey, WorkerId, Vec<RefId>),
    Dropped(RefId),
    SessionEnded(SessionKey),
    SessionForgotten(SessionKey, Option<WorkerId>),
    WorkerGone(WorkerId),

    Submit(Ticket),
    GiveUp(CallId),
    /// Whether it set a home that is to be made ready first.
    Grant(CallId, WorkerId, bool),
    /// Whether its home was not ready.
    Refuse(CallId, bool),
    /// Whether the home that the call set is ready.
    RebuildEnds(CallId, bool),
    BodyBack(CallId),
    Ended(CallId),
    Forgotten(SessionKey),

    Request(CallId),
    TakeBack(CallId),
    DropTakeBack(CallId),
    Cancel(CallId),
    Free(Vec<RefId>),
    DropNamespace(SessionKey),
    Kill,
    Stop,

    Run {
        seq: u64,
        entry: u32,
        call: CallId,
    },
    Step(u32),
    Reply {
        seq: u64,
        refs: Vec<RefId>,
    },
    Pass {
        seq: u64,
    },
    Spawned,
    Gone,

    Client,
    Fault,
}
