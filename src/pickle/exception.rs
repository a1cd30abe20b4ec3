//! An exception as the worker describes it, and the failure of a callback as this process does.

use super::budget::Budget;
use super::fragment::{Body, to_fragment};
use super::{DecodeError, parse};
use crate::error::{Error, Frame, PythonError, Ran};
use crate::value::from_tree;
use std::iter;

/// `(type_name, module, message, traceback, frames, notes, host_code)` of one exception of a chain.
type Link = (String, String, String, String, Vec<(String, u32, String)>, Vec<String>, Option<String>);

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

fn build(
    (type_name, module, message, traceback, frames, notes, host_code): Link,
    cause: Option<PythonError>,
) -> PythonError {
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
        host_code: host_code.map(tame),
        to_raise: None,
    }
}

/// The failure of a function that Python called: `(raises, code, message, chain)`, as `host.py` reads it.
///
/// `raises` is the class to raise, with the message as its argument, or `None`; `chain` is the exception
/// that Python had raised, if one did, with its causes, outermost first.
pub(crate) fn describe(error: &Error) -> Body {
    let raised = error.python();
    let to_raise = match error {
        Error::Python(raised) => raised.to_raise.as_deref(),
        _ => None,
    };
    let (message, chain): (String, Vec<_>) = match (to_raise, raised) {
        (Some(_), Some(raised)) => (raised.message.clone(), Vec::new()),
        (_, raised) => {
            let chain = iter::successors(raised, |error| error.cause()).take(LONGEST_CHAIN);
            (error.to_string(), chain.map(link).collect())
        }
    };
    to_fragment(&(to_raise, error.code(), message, chain)).expect("text and numbers can be pickled").into_body()
}

fn link(error: &PythonError) -> Link {
    let frames = error.frames.iter().map(|frame| (frame.file.clone(), frame.line, frame.function.clone()));
    (
        error.type_name.clone(),
        error.module.clone(),
        error.message.clone(),
        error.traceback.clone(),
        frames.collect(),
        error.notes.clone(),
        error.host_code.clone(),
    )
}

/// Control characters escaped: this text ends in logs and terminals.
fn tame(text: String) -> String {
    let wild = |c: char| c.is_control() && c != '\n' && c != '\t';
    if !text.contains(wild) {
        return text;
    }
    text.chars().flat_map(|c| if wild(c) { c.escape_default().collect() } else { vec![c] }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pickle::decode_plain;
    use std::sync::Arc;

    type Failure = (Option<String>, String, String, Vec<Link>);

    fn read(error: &Error) -> Failure {
        decode_plain(&describe(error).bytes).expect("what was described can be read")
    }

    fn raised(type_name: &str, cause: Option<PythonError>) -> PythonError {
        let text = |what: &str| format!("{what} of {type_name}");
        let frames = vec![(text("file"), 7, text("function"))];
        let notes = vec![text("note")];
        let link =
            (type_name.to_owned(), "m".to_owned(), text("message"), text("text"), frames, notes, Some(text("code")));
        build(link, cause)
    }

    #[test]
    fn an_exception_that_python_raised_is_described_with_all_its_causes() {
        let error = raised("Outer", Some(raised("Inner", None)));
        let step = Some("step 2 of 2: .x".to_owned());
        let python = Error::Python(Arc::new(PythonError { step, ..error.clone() }));
        for (error, message) in [
            (python.clone(), "text of Outer\nin step 2 of 2: .x"),
            (
                Error::OnHome(Arc::new(python)),
                "the on_home of its session failed, and the call never began: text of Outer\nin step 2 of 2: .x",
            ),
        ] {
            let (raises, code, said, chain) = read(&error);
            assert_eq!((raises, code.as_str(), said.as_str()), (None, "python", message));
            let body = to_fragment(&(None::<String>, chain)).expect("it is plain").into_body();
            let again = decode_error(&body.bytes).expect("a chain is what a worker writes");
            assert_eq!(
                &PythonError { step: error.python().and_then(|raised| raised.step.clone()), ..again },
                error.python().expect("it is Python's")
            );
        }
    }

    #[test]
    fn an_error_that_is_not_pythons_has_its_code_and_no_chain() {
        let error = Error::UnknownPool { pool: "q".into(), known: vec!["p".into()] };
        assert_eq!(read(&error), (None, "unknown_pool".into(), "unknown pool q; configured: p".into(), vec![]));
    }

    #[test]
    fn a_class_that_is_to_be_raised_has_its_text_alone_as_argument() {
        for class in ["ValueError", "json.decoder.JSONDecodeError"] {
            let error = Error::raise(class, "no\nsuch user");
            assert_eq!(read(&error), (Some(class.into()), "python".into(), "no\nsuch user".into(), vec![]));
        }
        // It was not raised for this call, but for one that its session made before.
        let (raises, _, message, _) = read(&Error::OnHome(Arc::new(Error::raise("ValueError", "x"))));
        assert_eq!(
            (raises, message.as_str()),
            (None, "the on_home of its session failed, and the call never began: ValueError: x")
        );
    }

    #[test]
    fn a_chain_without_end_is_cut() {
        let endless = (0..2 * LONGEST_CHAIN).fold(None, |cause, _| Some(raised("Same", cause)));
        let error = Error::Python(Arc::new(endless.expect("there are some")));
        assert_eq!(read(&error).3.len(), LONGEST_CHAIN);
    }
}
