//! serde into opcodes. Sequences are lists, tuples are tuples, structs and maps are dicts.

use super::fragment::Fragment;
use super::narrow::{BytesOf, SetPickler};
use super::opcode::{self, *};
use crate::error::ConvertError;
use crate::value::{Callback, PyRef, magic};
use serde::ser::{self, Serialize, Serializer};
use std::fmt;

/// The same on both sides; CPython's own pickler stops at about 500 up to 3.11.
pub(super) const MAX_DEPTH: usize = 400;

pub(super) fn to_fragment<T: Serialize + ?Sized>(value: &T) -> Result<Fragment, ConvertError> {
    let mut fragment = Fragment::default();
    append(&mut fragment, value)?;
    Ok(fragment)
}

/// Pickles a value behind what is there.
///
/// # Errors
/// As `to_fragment`; what was there stays as it was.
pub(super) fn append<T: Serialize + ?Sized>(to: &mut Fragment, value: &T) -> Result<(), ConvertError> {
    let _room = magic::Room::open();
    let lengths = (to.bytes.len(), to.refs.len(), to.callbacks.len());
    let Fragment { bytes: out, refs, callbacks } = std::mem::take(to);
    let mut pickler = Pickler { out, refs, callbacks, ..Pickler::default() };
    let outcome = value.serialize(&mut pickler).map_err(|error| error.into_convert(pickler.rendered_path()));
    let Pickler { out, refs, callbacks, .. } = pickler;
    *to = Fragment { bytes: out, refs, callbacks };
    if outcome.is_err() {
        to.bytes.truncate(lengths.0);
        to.refs.truncate(lengths.1);
        to.callbacks.truncate(lengths.2);
    }
    outcome
}

/// Why a value cannot be pickled. Where, the pickler knows: it stops there.
#[derive(Debug)]
pub(super) struct PickleError {
    expected: String,
    found: String,
}

impl PickleError {
    pub(super) fn new(expected: impl Into<String>, found: impl Into<String>) -> Self {
        Self { expected: expected.into(), found: found.into() }
    }

    pub(super) fn into_convert(self, path: String) -> ConvertError {
        ConvertError { path, ..ConvertError::of_argument(self.expected, self.found) }
    }
}

impl fmt::Display for PickleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "expected {}, found {}", self.expected, self.found)
    }
}

impl std::error::Error for PickleError {}

impl ser::Error for PickleError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new("a value that can be sent to Python", message.to_string())
    }
}

enum Segment {
    Index(usize),
    Field(&'static str),
    /// The key whose opcodes stand there in the output.
    KeyAt(usize, usize),
}

#[derive(Default)]
pub(super) struct Pickler {
    out: Vec<u8>,
    refs: Vec<PyRef>,
    callbacks: Vec<Callback>,
    path: Vec<Segment>,
    depth: usize,
    /// Inside what Python will hash: a key, or an item of a set.
    hashed: bool,
}

impl Pickler {
    fn rendered_path(&self) -> String {
        use fmt::Write;
        let mut path = String::new();
        for segment in &self.path {
            let written = match segment {
                Segment::Index(position) => write!(path, "[{position}]"),
                Segment::Field(name) => write!(path, ".{name}"),
                Segment::KeyAt(begin, end) => match short_str(&self.out[*begin..*end]) {
                    Some(key) => write!(path, ".{key}"),
                    None => write!(path, "[a key]"),
                },
            };
            written.expect("writing to a String does not fail");
        }
        if path.starts_with('.') { path.split_off(1) } else { path }
    }

    fn enter(&mut self, unhashable: Option<&str>) -> Result<(), PickleError> {
        if let (true, Some(kind)) = (self.hashed, unhashable) {
            return Err(PickleError::new("a key, or item of a set, that Python can hash", kind));
        }
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            // The path would be as long as the value is deep.
            self.path.truncate(8);
            return Err(PickleError::new(format!("nesting of at most {MAX_DEPTH}"), "more"));
        }
        Ok(())
    }

    pub(super) fn compound(&mut self, end: End) -> Result<Compound<'_>, PickleError> {
        self.enter(match end {
            End::Tuple(_) | End::Frozen => None,
            End::List => Some("a list"),
            End::Dict => Some("a dict"),
            End::Set => Some("a set"),
        })?;
        match end {
            End::List => self.out.extend([EMPTY_LIST, MARK]),
            End::Dict => self.out.extend([EMPTY_DICT, MARK]),
            End::Set => self.out.extend([EMPTY_SET, MARK]),
            End::Frozen | End::Tuple(4..) => self.out.push(MARK),
            End::Tuple(_) => {}
        }
        let (base, hashed) = (self.path.len(), self.hashed);
        self.hashed |= matches!(end, End::Set | End::Frozen);
        Ok(Compound { pickler: self, end, base, count: 0, variant: false, hashed })
    }

    /// `{name: …`, to be closed by the payload's end.
    fn variant(&mut self, name: &'static str) -> Result<(), PickleError> {
        self.enter(Some("a dict"))?;
        self.out.push(EMPTY_DICT);
        opcode::write_str(&mut self.out, name);
        self.path.push(Segment::Field(name));
        Ok(())
    }

    fn end_variant(&mut self) {
        self.out.push(SETITEM);
        self.path.pop();
        self.depth -= 1;
    }
}

/// The text of a key, if it is a short one.
fn short_str(opcodes: &[u8]) -> Option<&str> {
    match opcodes {
        [SHORT_BINUNICODE, _, text @ ..] => std::str::from_utf8(text).ok(),
        _ => None,
    }
}

pub(super) enum End {
    List,
    Tuple(usize),
    Dict,
    Set,
    Frozen,
}

pub(super) struct Compound<'a> {
    pickler: &'a mut Pickler,
    end: End,
    base: usize,
    count: usize,
    /// Whether it is the payload of a variant.
    variant: bool,
    /// Whether the whole is hashed, as its items are.
    hashed: bool,
}

impl Compound<'_> {
    fn item<T: Serialize + ?Sized>(&mut self, segment: Segment, item: &T) -> Result<(), PickleError> {
        self.pickler.path.truncate(self.base);
        self.pickler.path.push(segment);
        self.count += 1;
        item.serialize(&mut *self.pickler)
    }

    fn element<T: Serialize + ?Sized>(&mut self, item: &T) -> Result<(), PickleError> {
        self.item(Segment::Index(self.count), item)
    }

    fn field<T: Serialize + ?Sized>(&mut self, name: &'static str, value: &T) -> Result<(), PickleError> {
        opcode::write_str(&mut self.pickler.out, name);
        self.item(Segment::Field(name), value)
    }

    fn key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), PickleError> {
        self.pickler.path.truncate(self.base);
        let begin = self.pickler.out.len();
        let hashed = std::mem::replace(&mut self.pickler.hashed, true);
        key.serialize(&mut *self.pickler)?;
        self.pickler.hashed = hashed;
        self.pickler.path.push(Segment::KeyAt(begin, self.pickler.out.len()));
        Ok(())
    }

    fn value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), PickleError> {
        value.serialize(&mut *self.pickler)
    }

    fn close(self) -> Result<(), PickleError> {
        let pickler = self.pickler;
        pickler.path.truncate(self.base);
        pickler.depth -= 1;
        match self.end {
            End::List => pickler.out.push(APPENDS),
            End::Dict => pickler.out.push(SETITEMS),
            End::Set => pickler.out.push(ADDITEMS),
            End::Frozen => pickler.out.push(FROZENSET),
            End::Tuple(length) if length != self.count => {
                // The opcode was chosen by the length that was announced.
                return Err(PickleError::new(format!("a tuple of length {length}"), format!("length {}", self.count)));
            }
            End::Tuple(0) => pickler.out.push(EMPTY_TUPLE),
            End::Tuple(1) => pickler.out.push(TUPLE1),
            End::Tuple(2) => pickler.out.push(TUPLE2),
            End::Tuple(3) => pickler.out.push(TUPLE3),
            End::Tuple(_) => pickler.out.push(TUPLE),
        }
        pickler.hashed = self.hashed;
        if self.variant {
            pickler.end_variant();
        }
        Ok(())
    }
}

macro_rules! ints {
    ($($method:ident: $kind:ty),*) => { $(
        fn $method(self, value: $kind) -> Result<(), PickleError> {
            opcode::write_int(&mut self.out, value.into());
            Ok(())
        }
    )* };
}

impl<'a> Serializer for &'a mut Pickler {
    type Ok = ();
    type Error = PickleError;
    type SerializeSeq = Compound<'a>;
    type SerializeTuple = Compound<'a>;
    type SerializeTupleStruct = Compound<'a>;
    type SerializeTupleVariant = Compound<'a>;
    type SerializeMap = Compound<'a>;
    type SerializeStruct = Compound<'a>;
    type SerializeStructVariant = Compound<'a>;

    ints!(serialize_i8: i8, serialize_i16: i16, serialize_i32: i32, serialize_i64: i64,
          serialize_u8: u8, serialize_u16: u16, serialize_u32: u32);

    fn serialize_bool(self, value: bool) -> Result<(), PickleError> {
        self.out.push(if value { NEWTRUE } else { NEWFALSE });
        Ok(())
    }

    fn serialize_u64(self, value: u64) -> Result<(), PickleError> {
        self.serialize_u128(value.into())
    }

    fn serialize_i128(self, value: i128) -> Result<(), PickleError> {
        match i64::try_from(value) {
            Ok(value) => opcode::write_int(&mut self.out, value),
            Err(_) => opcode::write_big_int(&mut self.out, &value.into()),
        }
        Ok(())
    }

    fn serialize_u128(self, value: u128) -> Result<(), PickleError> {
        match i64::try_from(value) {
            Ok(value) => opcode::write_int(&mut self.out, value),
            Err(_) => opcode::write_big_int(&mut self.out, &value.into()),
        }
        Ok(())
    }

    fn serialize_f32(self, value: f32) -> Result<(), PickleError> {
        self.serialize_f64(value.into())
    }

    fn serialize_f64(self, value: f64) -> Result<(), PickleError> {
        opcode::write_float(&mut self.out, value);
        Ok(())
    }

    fn serialize_char(self, value: char) -> Result<(), PickleError> {
        self.serialize_str(value.encode_utf8(&mut [0; 4]))
    }

    fn serialize_str(self, value: &str) -> Result<(), PickleError> {
        opcode::write_str(&mut self.out, value);
        Ok(())
    }

    fn serialize_bytes(self, value: &[u8]) -> Result<(), PickleError> {
        opcode::write_bytes(&mut self.out, value);
        Ok(())
    }

    fn serialize_none(self) -> Result<(), PickleError> {
        self.serialize_unit()
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), PickleError> {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<(), PickleError> {
        self.out.push(NONE);
        Ok(())
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<(), PickleError> {
        self.serialize_unit()
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, variant: &'static str) -> Result<(), PickleError> {
        self.serialize_str(variant)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, name: &'static str, value: &T) -> Result<(), PickleError> {
        match name {
            magic::REF => {
                let handle = magic::collect_ref(&value.serialize(BytesOf)?)
                    .ok_or_else(|| PickleError::new("a ref of this call", "a ticket of another"))?;
                opcode::write_resolve(&mut self.out, handle.id().0);
                self.refs.push(handle);
                Ok(())
            }
            magic::CALLBACK => {
                let callback = magic::collect_callback(&value.serialize(BytesOf)?)
                    .ok_or_else(|| PickleError::new("a callback of this call", "a ticket of another"))?;
                opcode::write_callback(&mut self.out, callback.function());
                self.callbacks.push(callback);
                Ok(())
            }
            magic::OPCODES => {
                self.out.extend_from_slice(&value.serialize(BytesOf)?);
                Ok(())
            }
            magic::SET => value.serialize(SetPickler { pickler: self, end: End::Set }),
            magic::FROZEN_SET => value.serialize(SetPickler { pickler: self, end: End::Frozen }),
            _ => value.serialize(self),
        }
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<(), PickleError> {
        self.variant(variant)?;
        value.serialize(&mut *self)?;
        self.end_variant();
        Ok(())
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Compound<'a>, PickleError> {
        self.compound(End::List)
    }

    fn serialize_tuple(self, length: usize) -> Result<Compound<'a>, PickleError> {
        self.compound(End::Tuple(length))
    }

    fn serialize_tuple_struct(self, _: &'static str, length: usize) -> Result<Compound<'a>, PickleError> {
        self.compound(End::Tuple(length))
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        length: usize,
    ) -> Result<Compound<'a>, PickleError> {
        self.variant(variant)?;
        let compound = self.compound(End::Tuple(length))?;
        Ok(Compound { variant: true, ..compound })
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Compound<'a>, PickleError> {
        self.compound(End::Dict)
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Compound<'a>, PickleError> {
        self.compound(End::Dict)
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Compound<'a>, PickleError> {
        self.variant(variant)?;
        let compound = self.compound(End::Dict)?;
        Ok(Compound { variant: true, ..compound })
    }
}

macro_rules! compound {
    ($($trait:ident $method:ident($($key:ident)?);)*) => { $(
        impl ser::$trait for Compound<'_> {
            type Ok = ();
            type Error = PickleError;

            fn $method<T: Serialize + ?Sized>(&mut self, $($key: &'static str,)? value: &T) -> Result<(), PickleError> {
                compound!(@call self value $($key)?)
            }

            fn end(self) -> Result<(), PickleError> {
                self.close()
            }
        }
    )* };
    (@call $self:ident $value:ident) => { $self.element($value) };
    (@call $self:ident $value:ident $key:ident) => { $self.field($key, $value) };
}

compound! {
    SerializeSeq serialize_element();
    SerializeTuple serialize_element();
    SerializeTupleStruct serialize_field();
    SerializeTupleVariant serialize_field();
    SerializeStruct serialize_field(key);
    SerializeStructVariant serialize_field(key);
}

impl ser::SerializeMap for Compound<'_> {
    type Ok = ();
    type Error = PickleError;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), PickleError> {
        self.key(key)
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), PickleError> {
        self.value(value)
    }

    fn end(self) -> Result<(), PickleError> {
        self.close()
    }
}
