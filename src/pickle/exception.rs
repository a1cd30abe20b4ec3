//! An exception as the worker describes it.

use super::budget::Budget;
use super::{DecodeError, parse};
use crate::error::{Frame, PythonError, Ran};
use crate::value::from_tree;

/// `(type_name, module, message, traceback, frames, notes)` of one exception of a chain.
type Link = (String, String, String, String, Vec<(String, u32, String)>, Vec<String>);

/// More is not an error of a person, and a chain drops recursively.
const LONGEST_CHAIN: usize = 100;

/// Reads what `errors.py` wrote: the step of a chain, if it was in one, and the exception, then its
/// cause, then that one's, and so on.
///
/// # Errors
/// Anything else, as `Malformed`.
pub(crate) fn decode_error(body: &[u8]) -> Result<PythonError, DecodeError> {
    let (nodes, root) = parse::parse(body, None, &Budget::default())?;
    let (step, chain): (Option<String>, Vec<Link>) = from_tree(nodes.root(root)).map_err(|error| {
        DecodeError::malformed(format!("an exception that is none: {}", error.into_convert(Ran::Yes)))
    })?;
    if chain.len() > LONGEST_CHAIN {
        return Err(DecodeError::malformed("a chain of causes that is too long"));
    }
    chain
        .into_iter()
        .rev()
        .fold(None, |cause, link| Some(build(link, cause)))
        .map(|error| PythonError { step: step.map(tame), ..error })
        .ok_or_else(|| DecodeError::malformed("an exception that is none: an empty chain"))
}

fn build((type_name, module, message, traceback, frames, notes): Link, cause: Option<PythonError>) -> PythonError {
    PythonError {
        type_name: tame(type_name),
        module: tame(module),
        message: tame(message),
        traceback: tame(traceback),
        frames: frames
            .into_iter()
            .map(|(file, line, function)| Frame { file: tame(file), line, function: tame(function) })
            .collect(),
        notes: notes.into_iter().map(tame).collect(),
        cause: cause.map(Box::new),
        step: None,
    }
}

/// Control characters escaped: this text ends in logs and terminals.
fn tame(text: String) -> String {
    let wild = |c: char| c.is_control() && c != '\n' && c != '\t';
    if !text.contains(wild) {
        return text;
    }
    text.chars().flat_map(|c| if wild(c) { c.escape_default().collect() } else { vec![c] }).collect()
}
