//! A tree of Python values into any type that serde can deserialise.
//!
//! Nothing is lossy: what does not fit is an error that names the place. Containers recurse as the
//! type asked for does; a parsed pickle is at most 400 deep.

mod misfit;
mod whole;

pub(crate) use misfit::DeError;
pub(crate) use whole::value_of_tree;

use super::{SeqKind, Tree, Value, View, iso, magic};
use misfit::Segment;
use num_bigint::BigInt;
use num_traits::ToPrimitive;
use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, MapAccess, SeqAccess, Unexpected, VariantAccess,
    Visitor,
};
use std::cell::RefCell;
use whole::to_value;

/// Makes a `T` of a whole tree.
pub(crate) fn from_tree<'de, T: DeserializeOwned, N: Tree<'de>>(node: N) -> Result<T, DeError> {
    let _room = magic::Room::open();
    let path = RefCell::new(Vec::new());
    T::deserialize(De { node, path: &path, depth: 0 })
}

/// One place in the tree, and the path to it: the first `depth` segments of `path`.
struct De<'p, N> {
    node: N,
    path: &'p RefCell<Vec<Segment<N>>>,
    depth: usize,
}

impl<N: Copy> Clone for De<'_, N> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<N: Copy> Copy for De<'_, N> {}

impl<'p, 'de, N: Tree<'de>> De<'p, N> {
    fn below(self, segment: Segment<N>, node: N) -> Self {
        let mut path = self.path.borrow_mut();
        path.truncate(self.depth);
        path.push(segment);
        Self { node, depth: self.depth + 1, path: self.path }
    }

    #[cold]
    fn locate(self, error: DeError) -> DeError {
        let path = self.path.borrow();
        error.at(&path[..self.depth.min(path.len())], self.node)
    }

    fn misfit(self, expected: &str) -> DeError {
        self.locate(DeError::new(expected))
    }

    fn items<V: Visitor<'de>>(self, items: impl ExactSizeIterator<Item = N>, visitor: V) -> Result<V::Value, DeError> {
        let mut access = Items { items, position: 0, parent: self };
        let value = visitor.visit_seq(&mut access).map_err(|error| self.locate(error))?;
        match access.items.len() {
            0 => Ok(value),
            _ => Err(self.misfit(&format!("a sequence of length {}", access.position))),
        }
    }

    fn pairs<V: Visitor<'de>>(
        self,
        pairs: impl ExactSizeIterator<Item = (N, N)>,
        visitor: V,
    ) -> Result<V::Value, DeError> {
        let mut access = Pairs { pairs, pending: None, parent: self };
        visitor.visit_map(&mut access).map_err(|error| self.locate(error))
    }

    /// What stands here, in serde's own terms.
    fn natural<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeError> {
        let done = match self.node.view() {
            View::None => visitor.visit_unit(),
            View::Bool(value) => visitor.visit_bool(value),
            View::Int(value) => match u64::try_from(value) {
                Ok(value) => visitor.visit_u64(value),
                Err(_) => visitor.visit_i64(value),
            },
            View::Big(value) => match (value.to_u64(), value.to_i128(), value.to_u128()) {
                (Some(value), _, _) => visitor.visit_u64(value),
                (_, Some(value), _) => visitor.visit_i128(value),
                (_, _, Some(value)) => visitor.visit_u128(value),
                _ => Err(de::Error::invalid_type(Unexpected::Other("int"), &visitor)),
            },
            View::Float(value) => visitor.visit_f64(value),
            View::Complex(re, im) => visitor.visit_seq(SeqDeserializer::new([re, im].into_iter())),
            View::Str(text) | View::Decimal(text) => visitor.visit_borrowed_str(text),
            View::BadStr => Err(DeError::new("valid UTF-8")),
            View::Bytes(bytes) => visitor.visit_borrowed_bytes(bytes),
            View::Seq(_, items) => return self.items(items, visitor),
            View::Dict(pairs) => return self.pairs(pairs, visitor),
            View::Record(names, values) => return self.pairs(names.zip(values), visitor),
            View::DateTime(value) => visitor.visit_string(iso::date_time(&value)),
            View::DateTimeTz(value) => visitor.visit_string(iso::date_time_tz(&value)),
            View::Date(value) => visitor.visit_string(value.to_string()),
            View::Time(value) => visitor.visit_string(iso::time(&value)),
            View::TimeDelta(value) => visitor.visit_string(iso::delta(&value)),
            View::Uuid(value) => visitor.visit_string(value.to_string()),
            View::Ref(handle) => self.ticket(Value::Ref(handle.clone()), visitor),
            View::Stream(handle) => self.ticket(Value::Stream(handle.clone()), visitor),
            View::Opaque(..) => Err(de::Error::invalid_type(Unexpected::Other("object"), &visitor)),
        };
        done.map_err(|error| self.locate(error))
    }

    /// Hands over what serde cannot carry. A visitor that expects none sees a newtype struct.
    fn ticket<V: Visitor<'de>>(self, value: Value, visitor: V) -> Result<V::Value, DeError> {
        let ticket = magic::TicketDe::deposit(value).expect("from_tree has opened a room on this thread");
        visitor.visit_newtype_struct(ticket)
    }
}

/// The float that is exactly this integer.
fn exact_float(value: &BigInt) -> Option<f64> {
    let float = value.to_f64().filter(|float| float.is_finite())?;
    (num_traits::FromPrimitive::from_f64(float) == Some(value.clone())).then_some(float)
}

macro_rules! natural {
    ($($method:ident)*) => { $(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeError> {
            self.natural(visitor)
        }
    )* };
}

impl<'de, N: Tree<'de>> Deserializer<'de> for De<'_, N> {
    type Error = DeError;

    natural! {
        deserialize_any deserialize_bool deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_char deserialize_str
        deserialize_string deserialize_bytes deserialize_byte_buf
    }

    fn deserialize_i128<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeError> {
        match self.node.view() {
            View::Int(value) => visitor.visit_i128(value.into()).map_err(|error| self.locate(error)),
            _ => self.natural(visitor),
        }
    }

    fn deserialize_u128<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeError> {
        let value = match self.node.view() {
            View::Int(value) => value.to_u128(),
            View::Big(value) => value.to_u128(),
            _ => return self.natural(visitor),
        };
        value.map_or_else(|| Err(self.misfit("u128")), |value| visitor.visit_u128(value))
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeError> {
        match self.node.view() {
            #[expect(clippy::cast_possible_truncation, reason = "whether it fits is what is asked")]
            View::Float(value) if value.is_finite() && (value as f32).is_infinite() => Err(self.misfit("f32")),
            _ => self.deserialize_f64(visitor),
        }
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeError> {
        let value = match self.node.view() {
            View::Float(value) => Some(value),
            View::Int(value) => exact_float(&value.into()),
            View::Big(value) => exact_float(value),
            _ => return self.natural(visitor),
        };
        match value {
            Some(value) => visitor.visit_f64(value).map_err(|error| self.locate(error)),
            None => Err(self.misfit("an int that a float can hold exactly")),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeError> {
        match self.node.view() {
            View::None => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeError> {
        match self.node.view() {
            // What `()` is in Rust; and what a function that takes no arguments is called with.
            View::Seq(SeqKind::Tuple, items) if items.len() == 0 => visitor.visit_unit(),
            _ => self.natural(visitor),
        }
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, DeError> {
        self.deserialize_unit(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, DeError> {
        let done = match (name, self.node.view()) {
            (magic::VALUE, _) => match to_value(self.node) {
                Ok(value) => self.ticket(value, visitor),
                Err(unholdable) => Err(unholdable.under(self.path.borrow()[..self.depth].to_vec())),
            },
            (magic::REF, View::Ref(handle) | View::Stream(handle)) => self.ticket(Value::Ref(handle.clone()), visitor),
            (magic::REF, _) => Err(self.misfit("a reference to a Python object")),
            _ => visitor.visit_newtype_struct(self),
        };
        done.map_err(|error| self.locate(error))
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeError> {
        match self.node.view() {
            View::Bytes(bytes) => {
                visitor.visit_seq(SeqDeserializer::new(bytes.iter().copied())).map_err(|error| self.locate(error))
            }
            View::Record(_, values) => self.items(values, visitor),
            _ => self.natural(visitor),
        }
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, length: usize, visitor: V) -> Result<V::Value, DeError> {
        match self.node.view() {
            // A set has no order to take the places of a tuple from.
            View::Seq(SeqKind::Set | SeqKind::FrozenSet, _) => {
                Err(self.misfit(&format!("a sequence of length {length}, in order")))
            }
            View::Bytes(bytes) if bytes.len() != length => Err(self.misfit(&format!("a sequence of length {length}"))),
            _ => self.deserialize_seq(visitor),
        }
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        length: usize,
        visitor: V,
    ) -> Result<V::Value, DeError> {
        self.deserialize_tuple(length, visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeError> {
        match self.node.view() {
            View::Seq(..) | View::Bytes(_) => Err(self.misfit("a map")),
            _ => self.natural(visitor),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DeError> {
        match self.node.view() {
            // A list has no names: taking its items in the order of the fields would be a guess.
            View::Seq(..) | View::Bytes(_) => Err(self.misfit(&format!("struct {name}"))),
            // `std::time::Duration`, as serde knows it.
            View::TimeDelta(value) if name == "Duration" && fields == ["secs", "nanos"] => {
                let value = value.to_std().map_err(|_| self.misfit("a duration that is not negative"))?;
                let parts = [("secs", value.as_secs()), ("nanos", value.subsec_nanos().into())];
                visitor.visit_map(MapDeserializer::new(parts.into_iter()))
            }
            _ => self.natural(visitor),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DeError> {
        let variant = match self.node.view() {
            View::Str(_) => Variant { name: self, payload: None },
            View::Dict(mut pairs) if pairs.len() == 1 => {
                let (key, value) = pairs.next().expect("its length is 1");
                let payload = self.below(Segment::Key(key), value);
                Variant { name: De { node: key, ..payload }, payload: Some(payload) }
            }
            _ => return Err(self.misfit("a str that names a variant, or a dict with one such key")),
        };
        visitor.visit_enum(variant).map_err(|error| self.locate(error))
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeError> {
        match self.node.view() {
            View::Str(name) => visitor.visit_borrowed_str(name).map_err(|error| self.locate(error)),
            // serde would take a number as the position of a field.
            _ => Err(self.misfit("a str as key")),
        }
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeError> {
        visitor.visit_unit()
    }
}

struct Items<'p, N, I> {
    items: I,
    position: usize,
    parent: De<'p, N>,
}

impl<'de, N: Tree<'de>, I: ExactSizeIterator<Item = N>> SeqAccess<'de> for &mut Items<'_, N, I> {
    type Error = DeError;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, DeError> {
        let Some(item) = self.items.next() else { return Ok(None) };
        let item = self.parent.below(Segment::Index(self.position), item);
        self.position += 1;
        seed.deserialize(item).map(Some).map_err(|error| item.locate(error))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.items.len())
    }
}

struct Pairs<'p, N, I> {
    pairs: I,
    pending: Option<De<'p, N>>,
    parent: De<'p, N>,
}

impl<'de, N: Tree<'de>, I: ExactSizeIterator<Item = (N, N)>> MapAccess<'de> for &mut Pairs<'_, N, I> {
    type Error = DeError;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, DeError> {
        let Some((key, value)) = self.pairs.next() else { return Ok(None) };
        let value = self.parent.below(Segment::Key(key), value);
        self.pending = Some(value);
        let key = De { node: key, ..value };
        seed.deserialize(key).map(Some).map_err(|error| key.locate(error))
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, DeError> {
        let value = self.pending.take().ok_or_else(|| de::Error::custom("a value was asked for before its key"))?;
        seed.deserialize(value).map_err(|error| value.locate(error))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.pairs.len())
    }
}

struct Variant<'p, N> {
    name: De<'p, N>,
    payload: Option<De<'p, N>>,
}

impl<'p, 'de, N: Tree<'de>> EnumAccess<'de> for Variant<'p, N> {
    type Error = DeError;
    type Variant = Self;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Self), DeError> {
        let variant = seed.deserialize(self.name).map_err(|error| self.name.locate(error))?;
        Ok((variant, self))
    }
}

impl<'p, 'de, N: Tree<'de>> Variant<'p, N> {
    fn payload(self) -> Result<De<'p, N>, DeError> {
        self.payload.ok_or_else(|| self.name.misfit("a dict with the variant's name and its content"))
    }
}

impl<'de, N: Tree<'de>> VariantAccess<'de> for Variant<'_, N> {
    type Error = DeError;

    fn unit_variant(self) -> Result<(), DeError> {
        match self.payload {
            None => Ok(()),
            Some(payload) => de::Deserialize::deserialize(payload),
        }
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, DeError> {
        let payload = self.payload()?;
        seed.deserialize(payload).map_err(|error| payload.locate(error))
    }

    fn tuple_variant<V: Visitor<'de>>(self, length: usize, visitor: V) -> Result<V::Value, DeError> {
        self.payload()?.deserialize_tuple(length, visitor)
    }

    fn struct_variant<V: Visitor<'de>>(self, fields: &'static [&'static str], visitor: V) -> Result<V::Value, DeError> {
        self.payload()?.deserialize_struct("variant", fields, visitor)
    }
}
