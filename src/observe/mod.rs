//! Message log, subscribers.
