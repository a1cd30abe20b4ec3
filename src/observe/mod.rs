//! Who is told of lifecycle facts: subscribers and event streams.

mod events;

pub(crate) use events::{Events, log};
