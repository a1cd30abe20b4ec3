//! The shells that carry messages and perform what the rules say; each file has the messages its actor accepts.
//!
//! A call's way: its `SessionActor` keeps the request and gives the pool a ticket; the
//! `PoolSupervisor` grants it a worker; the session sends it to that `WorkerActor`, which answers the
//! pool first and then the caller. No actor asks another while it decides.

#[cfg(test)]
pub(crate) mod bare;
pub(crate) mod contained;
pub(crate) mod core;
pub(crate) mod directory;
pub(crate) mod functions;
pub(crate) mod hold;
mod outbox;
pub(crate) mod pool;
pub(crate) mod refusal;
pub(crate) mod registry;
pub(crate) mod request;
pub(crate) mod scope;
#[cfg(test)]
mod scripted;
pub(crate) mod session;
pub(crate) mod threads;
mod timer;
pub(crate) mod worker;
