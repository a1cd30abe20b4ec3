//! Finding an interpreter; the embedded worker sources.
