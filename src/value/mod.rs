//! Python values on the Rust side.
