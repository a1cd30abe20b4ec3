//! What a user holds.
