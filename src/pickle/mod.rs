//! serde to and from pickle 5; knows no actor.
//!
//! Out: [`to_fragment`] pickles each argument, and fragments are put together into a [`Body`]. In:
//! a body is parsed into nodes, which runs nothing and is bounded by a [`Budget`]; from the nodes
//! comes whatever type was asked for. [`want_of`] tells the worker what that is.

mod budget;
mod construct;
mod exception;
mod fragment;
mod keywords;
mod narrow;
mod nodes;
pub(crate) mod opcode;
mod parse;
mod probe;
mod ser;
mod shape;
#[cfg(test)]
mod tests;

pub(crate) use self::{
    budget::Budget,
    exception::{decode_error, describe},
    fragment::{Body, Fragment, Items, to_fragment, to_keywords},
    shape::want_of,
};

use crate::error::{ConvertError, Error, PythonError, Ran};
use crate::id::WorkerId;
use crate::value::{self, Bytes, RefSource, Tree, Value, View};
use serde::de::DeserializeOwned;
use std::sync::Arc;

/// Why a body has no value for who asked.
#[derive(Debug)]
pub(crate) enum DecodeError {
    /// No worker writes such a body: the protocol is broken.
    Malformed(String),
    /// The body is past a limit, or holds itself.
    OverBudget { what: &'static str, limit: u64 },
    /// The value is not what was asked for.
    Convert(ConvertError),
}

impl DecodeError {
    fn malformed(what: impl Into<String>) -> Self {
        Self::Malformed(what.into())
    }

    fn cycle() -> Self {
        Self::convert("a value that does not hold itself".to_owned(), "a cycle".to_owned())
    }

    fn convert(expected: String, found: String) -> Self {
        Self::Convert(ConvertError::of_result(expected, found))
    }

    /// The error of the call. `Malformed` becomes `protocol`: the worker is to be killed.
    pub(crate) fn into_error(self, worker: &WorkerId) -> Error {
        match self {
            Self::Malformed(what) => Error::Protocol {
                worker: worker.clone(),
                what: format!("a body that is no pickle of ours: {what}").into(),
                ran: Ran::Yes,
            },
            Self::OverBudget { what, limit } => {
                Self::convert(format!("at most {limit} {what}"), "more".to_owned()).into_error(worker)
            }
            Self::Convert(error) => error.into(),
        }
    }
}

/// Reads a result as a `T`.
///
/// # Errors
/// [`DecodeError`]; a value that does not fit says so with `ran: Yes`.
pub(crate) fn decode<T: DeserializeOwned>(body: &[u8], refs: &RefSource, budget: &Budget) -> Result<T, DecodeError> {
    let (nodes, root) = parse::parse(body, Some(refs), budget)?;
    value::from_tree(nodes.root(root)).map_err(|error| DecodeError::Convert(error.into_convert(Ran::Yes)))
}

/// Items of a stream, and how their batch ends.
pub(crate) struct Batch<T> {
    pub(crate) items: Vec<Result<T, ConvertError>>,
    pub(crate) end: BatchEnd,
    /// How long its body was.
    pub(crate) bytes: usize,
}

/// How a batch ends.
pub(crate) enum BatchEnd {
    More,
    End,
    Raised(Arc<PythonError>),
}

/// What a worker is asked for where a batch of such items is wanted.
pub(crate) fn want_of_batch<T: DeserializeOwned + 'static>() -> Arc<[u8]> {
    want_of::<(Vec<T>, Option<Bytes>)>()
}

/// Reads a batch; an item that does not fit is an error in its place.
///
/// # Errors
/// As [`decode`], but `Convert`.
pub(crate) fn decode_batch<T: DeserializeOwned>(
    body: &[u8],
    refs: &RefSource,
    budget: &Budget,
) -> Result<Batch<T>, DecodeError> {
    let (nodes, root) = parse::parse(body, Some(refs), budget)?;
    let no_batch = || DecodeError::malformed("a batch that is none");
    let View::Seq(_, mut pair) = nodes.root(root).view() else { return Err(no_batch()) };
    let (Some(items), Some(end), None) = (pair.next(), pair.next(), pair.next()) else { return Err(no_batch()) };
    let View::Seq(_, items) = items.view() else { return Err(no_batch()) };
    let items = items.map(|item| value::from_tree(item).map_err(|error| error.into_convert(Ran::Yes))).collect();
    let end = match end.view() {
        View::None => BatchEnd::More,
        View::Bytes([]) => BatchEnd::End,
        View::Bytes(described) => BatchEnd::Raised(Arc::new(decode_error(described)?)),
        _ => return Err(no_batch()),
    };
    Ok(Batch { items, end, bytes: body.len() })
}

/// Reads plain data that holds no ref.
///
/// # Errors
/// As [`decode`].
pub(crate) fn decode_plain<T: DeserializeOwned>(body: &[u8]) -> Result<T, DecodeError> {
    let (nodes, root) = parse::parse(body, None, &Budget::default())?;
    value::from_tree(nodes.root(root)).map_err(|error| DecodeError::Convert(error.into_convert(Ran::Yes)))
}

/// Reads a result as it is.
///
/// # Errors
/// As [`decode`].
pub(crate) fn decode_value(body: &[u8], refs: &RefSource, budget: &Budget) -> Result<Value, DecodeError> {
    let (nodes, root) = parse::parse(body, Some(refs), budget)?;
    value::value_of_tree(nodes.root(root)).map_err(|error| DecodeError::Convert(error.into_convert(Ran::Yes)))
}
