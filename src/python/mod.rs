//! Finding an interpreter; the embedded sources of the worker.

mod find;
mod sources;

pub(crate) use find::{FindError, Interpreter, find};
pub(crate) use sources::{BOOTSTRAP, Modules};
