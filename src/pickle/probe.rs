//! One run of a type's `Deserialize`, led along a path to see what it asks for at the end of it.

use crate::id::{PoolName, RefId, SessionKey, WorkerId};
use crate::value::magic::{self, TicketDe};
use crate::value::{RefOwner, RefSource, Value};
use serde::de::value::StrDeserializer;
use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, IntoDeserializer, MapAccess, SeqAccess, VariantAccess, Visitor,
};
use std::any::{Any, type_name};
use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;

#[derive(Clone, Copy)]
pub(super) enum Step {
    Some,
    Element(usize),
    Key,
    MapValue,
    Field(&'static str),
    Variant(&'static str),
    Content,
}

/// What a type asks for.
pub(super) enum Request {
    Any,
    Value,
    Ref,
    Ignored,
    Scalar,
    Bytes,
    Identifier,
    Option,
    Seq,
    Tuple(usize),
    Map,
    Struct(&'static [&'static str]),
    Enum(&'static [&'static str]),
    UnitVariant,
    NewtypeVariant,
}

pub(super) struct Found {
    pub(super) request: Request,
    /// The type that asked, where serde says.
    pub(super) type_name: Option<&'static str>,
}

/// What stands in the places that are passed on the way. A text that is not empty may be refused by
/// a type that parses it, hence several.
const FILLERS: [&str; 7] = [
    "",
    "1",
    "1970-01-01",
    "1970-01-01T00:00:00Z",
    "1970-01-01T00:00:00",
    "00000000-0000-0000-0000-000000000000",
    "127.0.0.1",
];

/// The request at the end of the path. `None` if no filler leads there.
pub(super) fn explore(lead: &dyn Fn(&Explorer<'_>), path: &[Step]) -> Option<Found> {
    (0..FILLERS.len()).find_map(|filler| {
        let explorer = Explorer { path, filler, found: RefCell::new(None), type_name: RefCell::new(None) };
        lead(&explorer);
        explorer.found.into_inner()
    })
}

pub(super) struct Explorer<'a> {
    path: &'a [Step],
    filler: usize,
    found: RefCell<Option<Found>>,
    type_name: RefCell<Option<&'static str>>,
}

impl Explorer<'_> {
    pub(super) fn begin(&self) -> Probe<'_> {
        Probe { explorer: self, path: self.path }
    }
}

/// Ends a run: its end is reached, or cannot be.
#[derive(Debug)]
pub(super) struct Stop;

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the shape of a type is explored")
    }
}

impl std::error::Error for Stop {}

impl serde::de::Error for Stop {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self
    }
}

#[derive(Clone, Copy)]
pub(super) struct Probe<'a> {
    explorer: &'a Explorer<'a>,
    /// What of the path lies ahead.
    path: &'a [Step],
}

impl<'a> Probe<'a> {
    fn ahead(self) -> Option<(Step, Self)> {
        let (step, rest) = self.path.split_first()?;
        self.explorer.type_name.replace(None);
        Some((*step, Self { path: rest, ..self }))
    }

    fn record<T>(self, request: Request) -> Result<T, Stop> {
        if self.path.is_empty() {
            let type_name = self.explorer.type_name.take();
            self.explorer.found.borrow_mut().get_or_insert(Found { request, type_name });
        }
        Err(Stop)
    }

    /// Goes on into a part whose type serde names.
    fn enter<'de, S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, Stop> {
        // A seed of another kind may do with the type what it likes.
        if type_name::<S>().starts_with("core::marker::PhantomData<") {
            self.explorer.type_name.replace(Some(type_name::<S::Value>()));
        }
        seed.deserialize(self)
    }

    fn filler(self) -> Filler {
        Filler { text: self.explorer.filler, depth: 0 }
    }

    fn sequence<'de, V: Visitor<'de>>(self, request: Request, visitor: V) -> Result<V::Value, Stop> {
        match self.ahead() {
            Some((Step::Element(place), rest)) => visitor.visit_seq(Led { before: place, rest }),
            _ => self.record(request),
        }
    }
}

macro_rules! record {
    ($request:ident: $($method:ident)*) => { $(
        fn $method<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Stop> {
            self.record(Request::$request)
        }
    )* };
}

impl<'de> Deserializer<'de> for Probe<'_> {
    type Error = Stop;

    record! { Any: deserialize_any }
    record! { Ignored: deserialize_ignored_any }
    record! { Identifier: deserialize_identifier }
    record! { Bytes: deserialize_bytes deserialize_byte_buf }
    record! {
        Scalar: deserialize_bool deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_i128
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_u128 deserialize_f32
        deserialize_f64 deserialize_char deserialize_str deserialize_string deserialize_unit
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, _: &'static str, _: V) -> Result<V::Value, Stop> {
        self.record(Request::Scalar)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        match self.ahead() {
            Some((Step::Some, rest)) => visitor.visit_some(rest),
            _ => self.record(Request::Option),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, Stop> {
        match name {
            magic::VALUE => self.record(Request::Value),
            magic::REF => self.record(Request::Ref),
            _ => visitor.visit_newtype_struct(self),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        self.sequence(Request::Seq, visitor)
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, length: usize, visitor: V) -> Result<V::Value, Stop> {
        self.sequence(Request::Tuple(length), visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        length: usize,
        visitor: V,
    ) -> Result<V::Value, Stop> {
        self.sequence(Request::Tuple(length), visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        match self.ahead() {
            Some((step @ (Step::Key | Step::MapValue), rest)) => visitor.visit_map(LedMap { step: Some(step), rest }),
            _ => self.record(Request::Map),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Stop> {
        match self.ahead() {
            Some((step @ Step::Field(_), rest)) => visitor.visit_map(LedMap { step: Some(step), rest }),
            _ => self.record(Request::Struct(fields)),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Stop> {
        match self.ahead() {
            Some((Step::Variant(name), rest)) => visitor.visit_enum(LedEnum { name, rest }),
            _ => self.record(Request::Enum(variants)),
        }
    }
}

struct Led<'a> {
    /// How many elements are filled before the one that is led on.
    before: usize,
    rest: Probe<'a>,
}

impl<'de> SeqAccess<'de> for Led<'_> {
    type Error = Stop;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Stop> {
        match self.before.checked_sub(1) {
            None => self.rest.enter(seed).map(Some),
            Some(before) => {
                self.before = before;
                seed.deserialize(self.rest.filler()).map(Some)
            }
        }
    }
}

struct LedMap<'a> {
    step: Option<Step>,
    rest: Probe<'a>,
}

impl<'de> MapAccess<'de> for LedMap<'_> {
    type Error = Stop;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Stop> {
        match self.step.take() {
            Some(Step::Field(name)) => seed.deserialize(StrDeserializer::new(name)).map(Some),
            Some(Step::MapValue) => seed.deserialize(self.rest.filler()).map(Some),
            Some(_) => self.rest.enter(seed).map(Some),
            None => Ok(None),
        }
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Stop> {
        self.rest.enter(seed)
    }
}

struct LedEnum<'a> {
    name: &'static str,
    rest: Probe<'a>,
}

impl<'a, 'de> EnumAccess<'de> for LedEnum<'a> {
    type Error = Stop;
    type Variant = Probe<'a>;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Probe<'a>), Stop> {
        let name: StrDeserializer<'_, Stop> = self.name.into_deserializer();
        Ok((seed.deserialize(name)?, self.rest))
    }
}

impl<'de> VariantAccess<'de> for Probe<'_> {
    type Error = Stop;

    fn unit_variant(self) -> Result<(), Stop> {
        self.record(Request::UnitVariant)
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, Stop> {
        match self.ahead() {
            Some((Step::Content, rest)) => rest.enter(seed),
            _ => self.record(Request::NewtypeVariant),
        }
    }

    fn tuple_variant<V: Visitor<'de>>(self, length: usize, visitor: V) -> Result<V::Value, Stop> {
        self.deserialize_tuple(length, visitor)
    }

    fn struct_variant<V: Visitor<'de>>(self, fields: &'static [&'static str], visitor: V) -> Result<V::Value, Stop> {
        self.deserialize_struct("", fields, visitor)
    }
}

/// The simplest value of whatever is asked for.
#[derive(Clone, Copy)]
struct Filler {
    text: usize,
    depth: usize,
}

impl Filler {
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
            magic::REF => TicketDe::<Stop>::deposit(Value::Ref(no_ref().make(RefId(0), "builtins", "object"))),
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
        made: Default::default(),
    }
}
