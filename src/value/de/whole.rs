//! A tree as a [`Value`], and a [`Value`] out of any format.

use super::misfit::{DeError, Segment};
use crate::value::{Dict, SeqKind, Tree, Value, View, magic};
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};
use std::fmt;

/// The tree as a `Value`.
pub(crate) fn value_of_tree<'de, N: Tree<'de>>(node: N) -> Result<Value, DeError> {
    to_value(node).map_err(|unholdable| unholdable.under(Vec::new()))
}

/// What no `Value` can hold, and where it stands: the way there, innermost first.
pub(super) struct Unholdable<N> {
    expected: &'static str,
    node: N,
    way: Vec<Segment<N>>,
}

impl<'de, N: Tree<'de>> Unholdable<N> {
    #[cold]
    fn new(expected: &'static str, node: N) -> Box<Self> {
        Box::new(Self { expected, node, way: Vec::new() })
    }

    #[cold]
    fn inside(mut self: Box<Self>, segment: Segment<N>) -> Box<Self> {
        self.way.push(segment);
        self
    }

    pub(super) fn under(self, mut path: Vec<Segment<N>>) -> DeError {
        path.extend(self.way.into_iter().rev());
        DeError::new(self.expected).at(&path, self.node)
    }
}

/// It recurses to the tree's depth, which a parsed pickle bounds; a `Value` never comes here deeper
/// than what its owner could drop.
pub(super) fn to_value<'de, N: Tree<'de>>(node: N) -> Result<Value, Box<Unholdable<N>>> {
    let all = |items: N::Items| -> Result<Vec<Value>, Box<Unholdable<N>>> {
        let mut values = Vec::with_capacity(items.len());
        for (position, item) in items.enumerate() {
            values.push(to_value(item).map_err(|error| error.inside(Segment::Index(position)))?);
        }
        Ok(values)
    };
    Ok(match node.view() {
        View::None => Value::None,
        View::Bool(value) => Value::Bool(value),
        View::Int(value) => Value::Int(value),
        View::Big(value) => Value::BigInt(value.clone()),
        View::Float(value) => Value::Float(value),
        View::Complex(re, im) => Value::Complex { re, im },
        View::Str(text) => Value::Str(text.to_owned()),
        View::BadStr => return Err(Unholdable::new("valid UTF-8", node)),
        View::Bytes(bytes) => Value::Bytes(bytes.into()),
        View::Seq(SeqKind::List, items) => Value::List(all(items)?),
        View::Seq(SeqKind::Tuple, items) | View::Record(_, items) => Value::Tuple(all(items)?),
        View::Seq(SeqKind::Set, items) => Value::Set(all(items)?),
        View::Seq(SeqKind::FrozenSet, items) => Value::FrozenSet(all(items)?),
        View::Dict(pairs) => {
            // The keys of a Python dict differ already.
            let mut entries = Vec::with_capacity(pairs.len());
            for (key, value) in pairs {
                let inside = |error: Box<Unholdable<N>>| error.inside(Segment::Key(key));
                entries.push((to_value(key).map_err(inside)?, to_value(value).map_err(inside)?));
            }
            Value::Dict(Dict(entries))
        }
        View::DateTime(value) => Value::DateTime(value),
        View::DateTimeTz(value) => Value::DateTimeTz(value),
        View::Date(value) => Value::Date(value),
        View::Time(value) => Value::Time(value),
        View::TimeDelta(value) => Value::TimeDelta(value),
        View::Decimal(text) => Value::Decimal(text.into()),
        View::Uuid(value) => Value::Uuid(value),
        View::Ref(handle) => Value::Ref(handle.clone()),
        View::Stream(handle) => Value::Stream(handle.clone()),
        View::Opaque(..) => return Err(Unholdable::new("plain data or a ref", node)),
    })
}

impl<'de> de::Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_newtype_struct(magic::VALUE, ValueVisitor)
    }
}

/// A ticket where our own format hands over a `Value`; anything where another format describes one.
struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, inner: D) -> Result<Value, D::Error> {
        inner.deserialize_any(self)
    }

    fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Value, E> {
        Ok(magic::collect(bytes).unwrap_or_else(|| Value::Bytes(bytes.into())))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::None)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::None)
    }

    fn visit_some<D: Deserializer<'de>>(self, inner: D) -> Result<Value, D::Error> {
        inner.deserialize_any(self)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i128<E>(self, value: i128) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u128<E>(self, value: u128) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(text.into())
    }

    fn visit_string<E>(self, text: String) -> Result<Value, E> {
        Ok(text.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut list: Vec<(Value, Value)> = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            list.push(entry);
        }
        Ok(Value::Dict(list.into_iter().collect()))
    }
}
