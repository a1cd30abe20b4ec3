//! What stands in the places that are passed on the way: the simplest value that a type accepts.

use super::Stop;
use crate::id::{PoolName, RefId, SessionKey, WorkerId};
use crate::value::magic::{self, TicketDe};
use crate::value::{RefOwner, RefSource, Value};
use serde::de::value::StrDeserializer;
use serde::de::{DeserializeSeed, Deserializer, EnumAccess, MapAccess, SeqAccess, VariantAccess, Visitor};
use std::any::Any;
use std::sync::Arc;

/// The texts. One that is not empty may be refused by a type that parses it, hence several.
pub(super) const FILLERS: [&str; 7] = [
    "",
    "1",
    "1970-01-01",
    "1970-01-01T00:00:00Z",
    "1970-01-01T00:00:00",
    "00000000-0000-0000-0000-000000000000",
    "127.0.0.1",
];

/// The simplest value of whatever is asked for.
#[derive(Clone, Copy)]
pub(super) struct Filler {
    text: usize,
    depth: usize,
}

impl Filler {
    /// The one whose texts are the `text`th of [`FILLERS`].
    pub(super) fn new(text: usize) -> Self {
        Self { text, depth: 0 }
    }

    fn below(self) -> Result<Self, Stop> {
        const DEEPEST: usize = 16;
        if self.depth == DEEPEST { Err(Stop) } else { Ok(Self { depth: self.depth + 1, ..self }) }
    }

    /// 0, then 1, for types that refuse 0.
    fn number(self) -> u8 {
        u8::from(self.text > 0)
    }
}

macro_rules! fill {
    ($($method:ident $visit:ident($value:expr))*) => { $(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
            let value: fn(Self) -> _ = $value;
            visitor.$visit(value(self))
        }
    )* };
}

impl<'de> Deserializer<'de> for Filler {
    type Error = Stop;

    fill! {
        deserialize_bool visit_bool(|_| false)
        deserialize_i8 visit_i8(|filler| filler.number() as i8)
        deserialize_i16 visit_i16(|filler| filler.number().into())
        deserialize_i32 visit_i32(|filler| filler.number().into())
        deserialize_i64 visit_i64(|filler| filler.number().into())
        deserialize_i128 visit_i128(|filler| filler.number().into())
        deserialize_u8 visit_u8(|filler| filler.number())
        deserialize_u16 visit_u16(|filler| filler.number().into())
        deserialize_u32 visit_u32(|filler| filler.number().into())
        deserialize_u64 visit_u64(|filler| filler.number().into())
        deserialize_u128 visit_u128(|filler| filler.number().into())
        deserialize_f32 visit_f32(|_| 0.0)
        deserialize_f64 visit_f64(|_| 0.0)
        deserialize_char visit_char(|_| 'a')
        deserialize_str visit_str(|filler| FILLERS[filler.text])
        deserialize_string visit_str(|filler| FILLERS[filler.text])
        deserialize_bytes visit_bytes(|_| b"")
        deserialize_byte_buf visit_bytes(|_| b"")
        deserialize_identifier visit_u64(|_| 0)
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        visitor.visit_unit()
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        visitor.visit_unit()
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        visitor.visit_unit()
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Stop> {
        visitor.visit_unit()
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        visitor.visit_none()
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, Stop> {
        let ticket = match name {
            magic::VALUE => TicketDe::<Stop>::deposit(Value::None),
            magic::REF => {
                let handle = no_ref().make(RefId(0), "builtins", "object").ok_or(Stop)?;
                TicketDe::<Stop>::deposit(Value::Ref(handle))
            }
            _ => return visitor.visit_newtype_struct(self.below()?),
        };
        visitor.visit_newtype_struct(ticket.ok_or(Stop)?)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        visitor.visit_seq(Filled { left: 0, item: self })
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, length: usize, visitor: V) -> Result<V::Value, Stop> {
        visitor.visit_seq(Filled { left: length, item: self.below()? })
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        length: usize,
        visitor: V,
    ) -> Result<V::Value, Stop> {
        self.deserialize_tuple(length, visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        visitor.visit_map(LedNowhere)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Stop> {
        // By place: the names may hold aliases, and a field must not come twice.
        self.deserialize_tuple(fields.len(), visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Stop> {
        visitor.visit_enum(FilledEnum { name: variants.first().ok_or(Stop)?, content: self.below()? })
    }
}

struct Filled {
    left: usize,
    item: Filler,
}

impl<'de> SeqAccess<'de> for Filled {
    type Error = Stop;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Stop> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        seed.deserialize(self.item).map(Some)
    }
}

struct LedNowhere;

impl<'de> MapAccess<'de> for LedNowhere {
    type Error = Stop;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, _: S) -> Result<Option<S::Value>, Stop> {
        Ok(None)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, _: S) -> Result<S::Value, Stop> {
        Err(Stop)
    }
}

struct FilledEnum {
    name: &'static str,
    content: Filler,
}

impl<'de> EnumAccess<'de> for FilledEnum {
    type Error = Stop;
    type Variant = Filler;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Filler), Stop> {
        Ok((seed.deserialize(StrDeserializer::<Stop>::new(self.name))?, self.content))
    }
}

impl<'de> VariantAccess<'de> for Filler {
    type Error = Stop;

    fn unit_variant(self) -> Result<(), Stop> {
        Ok(())
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, Stop> {
        seed.deserialize(self)
    }

    fn tuple_variant<V: Visitor<'de>>(self, length: usize, visitor: V) -> Result<V::Value, Stop> {
        self.deserialize_tuple(length, visitor)
    }

    fn struct_variant<V: Visitor<'de>>(self, fields: &'static [&'static str], visitor: V) -> Result<V::Value, Stop> {
        self.deserialize_struct("", fields, visitor)
    }
}

/// Makes refs of nothing, which nobody sees.
fn no_ref() -> RefSource {
    struct Nobody;
    impl RefOwner for Nobody {
        fn ref_dropped(&self, _: RefId, _: &SessionKey, _: &WorkerId) {}

        fn as_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
            self
        }
    }
    RefSource {
        session: SessionKey::new("".into(), 0),
        worker: WorkerId::new(PoolName::from(""), 0, 0),
        owner: Arc::new(Nobody),
        left: None,
    }
}
