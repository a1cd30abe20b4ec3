//! Finding an interpreter; the embedded sources of the worker.

mod find;
#[cfg(test)]
pub(crate) mod interpreters;
mod sources;

#[cfg(test)]
pub(crate) use find::find;
pub(crate) use find::{Interpreter, find_unless};
pub(crate) use sources::{BOOTSTRAP, Modules};
