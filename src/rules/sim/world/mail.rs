//! Where messages go in a simulated world, and which there are.

use crate::id::{CallId, RefId, SessionKey, WorkerId};
use crate::rules::pool::{Refusal, Ticket};
use crate::rules::sim::sessions::{Body, Grant};
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
    /// A step waits for none before it, which an interrupt may have put an end to.
    Thread(WorkerId, u32),
    /// Signals overtake what is in the socket.
    Signals(WorkerId),
    /// Nothing keeps these in order.
    Nowhere(u64),
}

#[derive(Clone, Debug)]
pub(in crate::rules::sim) enum Message {
    Ticket(Ticket),
    Withdrawn(CallId),
    Rebuilt(CallId, WorkerId),
    RebuildFailed(CallId, WorkerId),
    LeaseOver(CallId, usize),
    Callback(CallId),
    CallbackOver(CallId),
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
    Renew(WorkerId),
    Reload,
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

    Submit(Ticket, Body),
    GiveUp(CallId),
    Grant(Grant),
    Refuse(CallId, Refusal),
    /// Whether the home that the call set is ready.
    RebuildEnds(CallId, WorkerId, bool),
    CameBack(Body),
    /// Whether that was the last word on it.
    WithdrawalSeen(CallId, bool),
    Forgotten(SessionKey, Option<WorkerId>),

    /// With the call of its tree that it is to run on top of.
    Request(CallId, Option<CallId>),
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
        nested: bool,
        call: CallId,
    },
    HostReply {
        seq: u64,
    },
    Interrupt {
        seq: u64,
    },
    /// Of a thread, and which of its turns.
    Step(u32, u64),
    Ping,
    Pong,
    /// A process that was stopped goes on.
    Continue,
    Reply {
        seq: u64,
        refs: Vec<RefId>,
    },
    Pass {
        seq: u64,
    },
    HostCall {
        seq: u64,
    },
    CallbackEnds {
        seq: u64,
        call: CallId,
    },
    Spawned,
    Gone,

    Client,
    Fault,
    ContinueOf(WorkerId),
}
