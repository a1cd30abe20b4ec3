//! Arguments as pickles: each value on its own, then put together into one body.

use super::opcode::{self, EMPTY_DICT, EMPTY_TUPLE, MARK, NONE, PROTO, SETITEMS, STOP, TUPLE, TUPLE1, TUPLE2, TUPLE3};
use super::ser;
use crate::error::ConvertError;
use crate::value::{Callback, PyRef};
use serde::Serialize;

/// Opcodes that leave exactly one object on the stack, and the refs and callbacks among them, kept alive.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fragment {
    pub(super) bytes: Vec<u8>,
    pub(super) refs: Vec<PyRef>,
    pub(super) callbacks: Vec<Callback>,
}

/// Values one behind the other, for a tuple: the positional arguments of a call.
#[derive(Clone, Debug, Default)]
pub(crate) struct Items {
    all: Fragment,
    count: usize,
}

/// A whole pickle, and the refs and callbacks in it, which must live until the call has ended.
#[derive(Clone, Debug)]
pub(crate) struct Body {
    pub(crate) bytes: Vec<u8>,
    pub(crate) refs: Vec<PyRef>,
    pub(crate) callbacks: Vec<Callback>,
}

/// Pickles an argument.
///
/// # Errors
/// What Python cannot hold, with its path; `ran` is `No`.
pub(crate) fn to_fragment<T: Serialize + ?Sized>(value: &T) -> Result<Fragment, ConvertError> {
    ser::to_fragment(value)
}

/// Pickles the entries of a map or struct one by one, for keyword arguments.
///
/// # Errors
/// As [`to_fragment`]; also anything but a map or struct whose keys are `str`.
pub(crate) fn to_keywords<T: Serialize + ?Sized>(value: &T) -> Result<Vec<(String, Fragment)>, ConvertError> {
    super::keywords::to_keywords(value)
}

impl Fragment {
    /// The functions that it holds.
    pub(crate) fn callbacks(&self) -> &[Callback] {
        &self.callbacks
    }
}

impl Items {
    pub(crate) fn callbacks(&self) -> &[Callback] {
        self.all.callbacks()
    }

    /// Pickles one more.
    ///
    /// # Errors
    /// As [`to_fragment`]; nothing is added then.
    pub(crate) fn push<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), ConvertError> {
        ser::append(&mut self.all, value)?;
        self.count += 1;
        Ok(())
    }

    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// A `tuple` of them, behind an object if there is one.
    pub(crate) fn into_tuple(self, first: Option<&PyRef>) -> Fragment {
        let Fragment { bytes, refs, callbacks } = self.all;
        let mut whole = Fragment { bytes: Vec::with_capacity(bytes.len() + 24), refs, callbacks };
        let count = self.count + usize::from(first.is_some());
        if count > 3 {
            whole.bytes.push(MARK);
        }
        if let Some(first) = first {
            opcode::write_resolve(&mut whole.bytes, first.id().0);
            whole.refs.push(first.clone());
        }
        whole.bytes.extend_from_slice(&bytes);
        whole.bytes.push(tuple_of(count));
        whole
    }
}

/// What makes a tuple of so many objects on the stack.
fn tuple_of(count: usize) -> u8 {
    match count {
        0 => EMPTY_TUPLE,
        1 => TUPLE1,
        2 => TUPLE2,
        3 => TUPLE3,
        _ => TUPLE,
    }
}

impl Fragment {
    pub(crate) fn none() -> Self {
        Self { bytes: vec![NONE], ..Self::default() }
    }

    pub(crate) fn of_ref(handle: &PyRef) -> Self {
        let mut bytes = Vec::new();
        opcode::write_resolve(&mut bytes, handle.id().0);
        Self { bytes, refs: vec![handle.clone()], callbacks: Vec::new() }
    }

    /// A `tuple` of the items.
    pub(crate) fn tuple(items: impl IntoIterator<Item = Fragment>) -> Self {
        let items: Vec<_> = items.into_iter().collect();
        let mut whole = Self { bytes: Vec::with_capacity(2 + Self::length(&items)), ..Self::default() };
        if items.len() > 3 {
            whole.bytes.push(MARK);
        }
        let end = tuple_of(items.len());
        items.into_iter().for_each(|item| whole.append(item));
        whole.bytes.push(end);
        whole
    }

    /// A `dict` of the entries; of two with the same key Python takes the later.
    pub(crate) fn dict<'a>(entries: impl IntoIterator<Item = (&'a str, Fragment)>) -> Self {
        let mut whole = Self { bytes: vec![EMPTY_DICT, MARK], ..Self::default() };
        for (key, value) in entries {
            opcode::write_str(&mut whole.bytes, key);
            whole.append(value);
        }
        whole.bytes.push(SETITEMS);
        whole
    }

    /// How many bytes it takes in a body.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The whole pickle of this one object.
    pub(crate) fn into_body(mut self) -> Body {
        self.bytes.splice(0..0, [PROTO, 5]);
        self.bytes.push(STOP);
        Body { bytes: self.bytes, refs: self.refs, callbacks: self.callbacks }
    }

    fn append(&mut self, mut part: Fragment) {
        self.bytes.append(&mut part.bytes);
        self.refs.append(&mut part.refs);
        self.callbacks.append(&mut part.callbacks);
    }

    fn length(items: &[Fragment]) -> usize {
        items.iter().map(Fragment::len).sum()
    }
}
