//! The messages that are written, as a person reads them, and which level takes which.

use crate::config::MessageLogLevel;

macro_rules! messages {
    ($($level:ident { $($message:ident = $text:literal,)* })*) => {
        /// What an actor handled. A few are no messages of a mailbox: a timer, an answer of Python, a
        /// judgement.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Handled { $($($message,)*)* }

        impl Handled {
            /// The lowest level that takes it.
            pub(crate) const fn level(self) -> MessageLogLevel {
                match self { $($(Self::$message => MessageLogLevel::$level,)*)* }
            }

            pub(crate) const fn text(self) -> &'static str {
                match self { $($(Self::$message => $text,)*)* }
            }
        }
    };
}

messages! {
    Lifecycle {
        // To each of them, from the one that polls it.
        Panicked = "panicked",
        // To a session.
        End = "end",
        AwaitEnd = "await end",
        Forgotten = "forgotten",
        ResetAll = "reset",
        StartedOver = "pool started over",
        // To a pool, from users, sessions and what ends a bridge.
        Open = "open",
        Forget = "forget session",
        Reset = "reset session",
        Taint = "taint",
        ClearTaint = "clear taint",
        Restart = "restart worker",
        Resize = "resize",
        Reload = "reload",
        AwaitReady = "await ready",
        Shutdown = "shutdown",
        Leave = "leave",
        // To a pool, from its zygote and its workers.
        ZygoteStarted = "zygote started",
        ZygoteFailed = "zygote failed",
        ZygoteGone = "zygote gone",
        ZygoteSilent = "zygote silent",
        NamespaceEmpty = "namespace empty",
        ForkTold = "fork told",
        ForkFailed = "fork failed",
        ExitTold = "exit told",
        Started = "started",
        StartFailed = "start failed",
        Died = "died",
        DistrustWorker = "distrust worker",
        SilenceTold = "silence told",
        Renew = "renew worker",
        // To a worker, from its pool, the kernel and the process itself.
        Forked = "forked",
        NeverForked = "never forked",
        Hello = "hello",
        CannotStart = "cannot start",
        Stop = "stop",
        Kill = "kill",
        Distrust = "distrust",
        Overran = "overran",
        Silence = "heartbeat",
        Memory = "memory",
        Closed = "socket closed",
        ExitSeen = "exit seen",
        Exited = "exited",
        Orphaned = "orphaned",
        Judged = "judged",
        Retire = "retire",
        // To the registry.
        Introduce = "introduce pools",
        WorkerLost = "worker lost",
        SessionEnded = "session ended",
        Close = "close",
        // Of any: a timer, where it has to do with more than calls.
        Alarm = "alarm",
    }
    Calls {
        // To a session.
        Call = "call",
        Granted = "granted",
        Refused = "refused",
        CameBack = "came back",
        GiveUp = "given up",
        WithdrawalSeen = "withdrawal seen",
        // To a pool.
        Ticket = "ticket",
        Withdrawn = "withdrawn",
        LeaseReturned = "lease returned",
        LeaseOver = "lease over",
        CallbackBegun = "callback begun",
        CallbackOver = "callback over",
        Rebuilt = "home ready",
        RebuildFailed = "home not ready",
        TakenBack = "taken back",
        Kept = "kept",
        PassedOver = "passed over",
        PinsMade = "pins made",
        FreeRefs = "free refs",
        // To a worker, and what it judges of one call.
        Run = "run",
        Abandon = "abandon",
        TakeBack = "take back",
        DropTakeBack = "drop take back",
        Free = "free",
        Passed = "passed",
        Part = "part",
        HostCall = "host call",
        Reply = "reply",
        Revoked = "revoked",
        Interrupted = "interrupted",
        CallJudged = "call judged",
        // To the registry.
        SessionIdle = "session idle",
        RefsMade = "refs made",
        RefDropped = "ref dropped",
        // Of whoever holds the call when it ends.
        Ended = "ended",
        // Questions, and timers of calls.
        Asked = "asked",
        CallAlarm = "alarm",
    }
}
