//! The bridge against real Python, a module per promise.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod random;
mod support;

mod adversity;
mod callbacks;
mod cancel;
mod chaos;
mod contexts;
mod endings;
mod failures;
mod heartbeat;
mod idempotent;
mod input;
mod matrix;
mod namespaces;
mod observing;
mod on_home;
mod pid_namespace;
mod queue;
mod reference;
mod retiring;
mod sessions;
mod starvation;
mod stream_traps;
mod streams;
mod supervision;
mod zoo;
