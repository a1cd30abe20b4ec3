//! What a call does in Python, apart from its arguments: the same bytes for the same call site,
//! and the same session if it runs in a namespace.

use super::layout;
use bincode::{Decode, Encode};

/// The steps of a call, each on the result of the one before, and what is wanted of the last.
#[derive(Clone, Debug, PartialEq, Eq, Encode)]
pub(crate) struct Plan<'a> {
    /// Whether the body is a pair of the object that the first step works on (`None` without one)
    /// and a list with `(args, kwargs)` for each step; otherwise it is the positional arguments of
    /// the only step, after the object if it works on one.
    pub(crate) long: bool,
    pub(crate) steps: Vec<Step>,
    /// What the codec is asked for: a mode, and the shape of the type.
    pub(crate) want: &'a [u8],
}

/// One step. Names may be dotted.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) enum Step {
    /// `module.name(*args, **kwargs)`
    Function { module: String, name: String },
    /// `module.name`
    Global { module: String, name: String },
    /// the module itself
    Module { name: String },
    /// the object itself
    Itself,
    /// `object(*args, **kwargs)`
    Call,
    /// `object.name(*args, **kwargs)`
    Method { name: String },
    /// `object.name`
    GetAttr { name: String },
    /// `object.name = args[0]`
    SetAttr { name: String },
    /// `object[args[0]]`
    GetItem,
    /// `object[args[0]] = args[1]`
    SetItem,
    /// `del object[args[0]]`
    DelItem,
    /// `len(object)`
    Len,
    /// `str(object)`
    Str,
    /// `repr(object)`
    Repr,
    /// an iteration over the object, for `Batch` and `Close`
    Stream,
    /// `args[0]` items of an iteration at most, or `args[1]` bytes, and how the batch ends
    Batch,
    /// the end of an iteration: its `finally` blocks run
    Close,
    /// `object.__enter__()`, or else `await object.__aenter__()`
    Enter,
    /// `object.__exit__(None, None, None)`, or else `await object.__aexit__(None, None, None)`
    Exit,
    /// `exec(args[0])` in the namespace of that id, which the worker makes at its first use
    Exec { namespace: u64 },
    /// `eval(args[0])` there
    Eval { namespace: u64 },
}

/// The steps of an encoded plan, and what is wanted, as a worker reads them.
#[cfg(test)]
pub(crate) fn decode(plan: &[u8]) -> (Vec<Step>, Vec<u8>) {
    let (plan, _) = bincode::decode_from_slice::<(bool, Vec<Step>, Vec<u8>), _>(plan, layout()).expect("a plan");
    (plan.1, plan.2)
}

impl Plan<'_> {
    pub(crate) fn encode(&self) -> Vec<u8> {
        // Long enough for most, so that it does not grow step by step.
        let mut out = Vec::with_capacity(128);
        bincode::encode_into_std_write(self, &mut out, layout()).expect("a vector takes any plan");
        out
    }

    /// The namespace that its first step runs in, if that runs in one: none other can.
    pub(crate) fn namespace_mut(&mut self) -> Option<&mut u64> {
        match self.steps.first_mut() {
            Some(Step::Exec { namespace } | Step::Eval { namespace }) => Some(namespace),
            _ => None,
        }
    }
}
