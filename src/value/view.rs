//! One face for the two trees that are deserialised: a `Value`, and the nodes of a parsed pickle.

use super::{PyRef, Value};
use chrono::{DateTime, FixedOffset, NaiveDate, NaiveDateTime, NaiveTime, TimeDelta};
use num_bigint::BigInt;
use std::fmt::Write;
use uuid::Uuid;

/// A place in a tree that lives for `'de`.
pub(crate) trait Tree<'de>: Copy {
    type Items: ExactSizeIterator<Item = Self>;
    type Pairs: ExactSizeIterator<Item = (Self, Self)>;

    fn view(self) -> View<'de, Self>;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SeqKind {
    List,
    Tuple,
    Set,
    FrozenSet,
}

impl SeqKind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::List => "list",
            Self::Tuple => "tuple",
            Self::Set => "set",
            Self::FrozenSet => "frozenset",
        }
    }
}

/// What stands at a place.
pub(crate) enum View<'de, N: Tree<'de>> {
    None,
    Bool(bool),
    Int(i64),
    Big(&'de BigInt),
    Float(f64),
    Complex(f64, f64),
    Str(&'de str),
    /// A `str` with lone surrogates, which no Rust text can hold.
    BadStr,
    Bytes(&'de [u8]),
    Seq(SeqKind, N::Items),
    Dict(N::Pairs),
    /// A named tuple: a sequence for who asks for one, else a map.
    Record(N::Items, N::Items),
    DateTime(NaiveDateTime),
    DateTimeTz(DateTime<FixedOffset>),
    Date(NaiveDate),
    Time(NaiveTime),
    TimeDelta(TimeDelta),
    Decimal(&'de str),
    Uuid(Uuid),
    Ref(&'de PyRef),
    Stream(&'de PyRef),
    /// An object that was asked for by value and has none.
    Opaque(&'de str, &'de str),
}

/// What stands at a place, in the words of an error.
pub(crate) fn describe<'de, N: Tree<'de>>(node: N) -> String {
    match node.view() {
        View::None => "None".to_owned(),
        View::Bool(value) => format!("bool {}", Value::Bool(value)),
        View::Int(value) => format!("int {value}"),
        View::Big(value) => format!("int of {} bits", value.bits()),
        View::Float(value) => format!("float {}", Value::Float(value)),
        View::Complex(re, im) => format!("complex {}", Value::Complex { re, im }),
        View::Str(text) => format!("str {}", excerpt(text)),
        View::BadStr => "str with lone surrogates, which is not valid UTF-8".to_owned(),
        View::Bytes(bytes) => format!("bytes of length {}", bytes.len()),
        View::Seq(kind, items) => format!("{} of length {}", kind.name(), items.len()),
        View::Dict(pairs) => format!("dict of length {}", pairs.len()),
        View::Record(_, values) => format!("named tuple of length {}", values.len()),
        View::DateTime(_) | View::DateTimeTz(_) => "datetime".to_owned(),
        View::Date(_) => "date".to_owned(),
        View::Time(_) => "time".to_owned(),
        View::TimeDelta(_) => "timedelta".to_owned(),
        View::Decimal(text) => format!("Decimal {}", excerpt(text)),
        View::Uuid(_) => "UUID".to_owned(),
        View::Ref(handle) | View::Stream(handle) => object(handle.module(), handle.type_name()),
        View::Opaque(module, type_name) => object(module, type_name),
    }
}

fn object(module: &str, type_name: &str) -> String {
    match module {
        "builtins" => format!("an object of type {type_name}"),
        _ => format!("an object of type {module}.{type_name}"),
    }
}

/// The beginning of a text that may be long.
fn excerpt(text: &str) -> String {
    const LONGEST: usize = 60;
    let mut out = String::new();
    let short: String = text.chars().take(LONGEST).collect();
    write!(out, "{}", Value::Str(short)).expect("writing to a String does not fail");
    if text.chars().nth(LONGEST).is_some() {
        out.push('…');
    }
    out
}

fn split((key, value): &(Value, Value)) -> (&Value, &Value) {
    (key, value)
}

impl<'de> Tree<'de> for &'de Value {
    type Items = std::slice::Iter<'de, Value>;
    type Pairs = std::iter::Map<std::slice::Iter<'de, (Value, Value)>, fn(&'de (Value, Value)) -> (Self, Self)>;

    fn view(self) -> View<'de, Self> {
        match self {
            Value::None => View::None,
            Value::Bool(value) => View::Bool(*value),
            Value::Int(value) => View::Int(*value),
            Value::BigInt(value) => View::Big(value),
            Value::Float(value) => View::Float(*value),
            Value::Complex { re, im } => View::Complex(*re, *im),
            Value::Str(text) => View::Str(text),
            Value::Bytes(bytes) => View::Bytes(bytes),
            Value::List(items) => View::Seq(SeqKind::List, items.iter()),
            Value::Tuple(items) => View::Seq(SeqKind::Tuple, items.iter()),
            Value::Set(items) => View::Seq(SeqKind::Set, items.iter()),
            Value::FrozenSet(items) => View::Seq(SeqKind::FrozenSet, items.iter()),
            Value::Dict(dict) => View::Dict(dict.0.iter().map(split as fn(_) -> _)),
            Value::DateTime(value) => View::DateTime(*value),
            Value::DateTimeTz(value) => View::DateTimeTz(*value),
            Value::Date(value) => View::Date(*value),
            Value::Time(value) => View::Time(*value),
            Value::TimeDelta(value) => View::TimeDelta(*value),
            Value::Decimal(text) => View::Decimal(text),
            Value::Uuid(value) => View::Uuid(*value),
            Value::Ref(handle) => View::Ref(handle),
            Value::Stream(handle) => View::Stream(handle),
        }
    }
}
