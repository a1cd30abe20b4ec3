//! The bridge against real Python, a module per promise.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

mod adversity;
mod callbacks;
mod cancel;
mod contexts;
mod endings;
mod failures;
mod input;
mod matrix;
mod namespaces;
mod observing;
mod on_home;
mod queue;
mod reference;
mod sessions;
mod stream_traps;
mod streams;
mod supervision;
