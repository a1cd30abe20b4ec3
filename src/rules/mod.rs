//! Every decision, as pure state machines: no clock, no I/O, no random source, no bodies.
//!
//! Each machine has the same face: `handle_*(…, now)` for what happened, plain verbs for what is
//! wanted, `handle_timeout(now)` when the moment of `poll_timeout()` has come, and `poll_action()`
//! for what is to be done. The shells in `actors/` feed and drain them and decide nothing.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

/// Notes in test builds that a row of a table was reached; the simulation fails for a row that never was.
macro_rules! reach {
    ($row:expr, $affinity:expr) => {
        #[cfg(test)]
        crate::rules::sim::reach::hit(format!("{} / {}", $row, $affinity));
    };
}

pub(crate) mod address;
pub(crate) mod lane;
pub(crate) mod pool;
pub(crate) mod refs;
pub(crate) mod restart;
pub(crate) mod session;

#[cfg(test)]
mod sim;
