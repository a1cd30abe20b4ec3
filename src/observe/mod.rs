//! Who is told of lifecycle facts: subscribers and event streams; and the log of what actors handle.

mod events;
#[cfg(test)]
pub(crate) mod fault;
mod messages;
mod witness;

pub(crate) use events::{Events, log};
pub(crate) use messages::{Handled, Journal, Messages, Note, Who};
pub use messages::{LogRecord, MessageLog};
pub(crate) use witness::{End, Witness};

/// Runs what belongs to whoever listens: the waker of a reader, say. Its panic is none of the actor's that tells.
fn of_listener<R>(run: impl FnOnce() -> R) -> Option<R> {
    if mutant!("listener.panics_into_us") {
        return Some(run());
    }
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).ok()
}

/// Both, as they are handed to whoever speaks to them.
#[derive(Clone)]
pub(crate) struct Observers {
    pub(crate) events: Events,
    pub(crate) messages: Messages,
    /// Whether the calls are told as events.
    pub(crate) call_events: bool,
}
