//! One run of a type's `Deserialize`, led along a path to see what it asks for at the end of it.

mod filler;

use crate::value::magic;
use filler::{FILLERS, Filler};
use serde::de::value::StrDeserializer;
use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, IntoDeserializer, MapAccess, SeqAccess, VariantAccess, Visitor,
};
use std::any::type_name;
use std::cell::RefCell;
use std::fmt;

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
        Filler::new(self.explorer.filler)
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
