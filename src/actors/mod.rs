//! The shells that carry messages and perform what the rules say.
