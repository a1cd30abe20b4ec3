//! Finding an interpreter; the embedded sources of the worker.

mod find;
#[cfg(test)]
pub(crate) mod interpreters;
mod sources;

pub(crate) use find::{Interpreter, find};
pub(crate) use sources::{BOOTSTRAP, Modules};
