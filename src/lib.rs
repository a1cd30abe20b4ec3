#![doc = include_str!("../README.md")]
#[cfg(not(target_os = "linux"))]
compile_error!("snakebridge runs on Linux only: it ties its workers to their host with Linux system calls");

#[macro_use]
mod mutants;

mod actors;
mod api;
mod clock;
mod config;
mod error;
mod event;
mod id;
mod observe;
mod pickle;
mod process;
mod python;
mod rules;
mod status;
mod value;
mod wire;

/// The programs in the guides are run as tests.
#[cfg(doctest)]
mod guides {
    #[doc = include_str!("../docs/guide/streams.md")]
    mod streams {}
    #[doc = include_str!("../docs/guide/sessions-and-refs.md")]
    mod sessions_and_refs {}
    #[doc = include_str!("../docs/guide/callbacks.md")]
    mod callbacks {}
    #[doc = include_str!("../docs/guide/cancellation.md")]
    mod cancellation {}
}

pub use actors::pool::{PoolReport, PoolStatus, PoolSupervisor};
pub use actors::session::{SessionActor, SessionReport, SessionStatus};
pub use api::{Args, Builder, Call, CallFuture, Guard, IntoArgs, PyStream, Session, SnakeBridge, WeakBridge};
pub use config::{Affinity, Config, LogLevel, MessageLogLevel, OnWorkerLost, PoolConfig, SessionOptions, StartMethod};
pub use error::{ConvertError, Crash, Error, Frame, PythonError, Ran, Result};
pub use event::{EndReason, Event, Fact};
pub use id::{CallId, ParseWorkerIdError, PoolName, RefId, SessionId, WorkerId};
pub use observe::{LogRecord, MessageLog};
pub use status::{Guarantees, PoolStats, RunningCall, SessionInfo, Stats, Taint, Tie, WorkerInfo, WorkerState};
pub use value::{Bytes, Callback, Dict, PyRef, Value};
