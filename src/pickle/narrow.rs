//! Serialisers that take one kind only, for the inside of what has a name of its own.

use super::ser::{Compound, End, PickleError, Pickler};
use serde::ser::{Impossible, Serialize, Serializer};

pub(super) fn refused<T>() -> Result<T, PickleError> {
    Err(PickleError::new("the one kind that can stand here", "another"))
}

/// The methods that a narrow serialiser refuses.
macro_rules! refuse {
    ($($kind:ident)*) => { $( refuse!(@ $kind); )* };
    (@ scalars) => {
        refuse!(@one serialize_bool(bool)); refuse!(@one serialize_i8(i8)); refuse!(@one serialize_i16(i16));
        refuse!(@one serialize_i32(i32)); refuse!(@one serialize_i64(i64)); refuse!(@one serialize_u8(u8));
        refuse!(@one serialize_u16(u16)); refuse!(@one serialize_u32(u32)); refuse!(@one serialize_u64(u64));
        refuse!(@one serialize_f32(f32)); refuse!(@one serialize_f64(f64)); refuse!(@one serialize_char(char));
        refuse!(@one serialize_unit_struct(&'static str));
        fn serialize_none(self) -> Result<Self::Ok, PickleError> { $crate::pickle::narrow::refused() }
        fn serialize_unit(self) -> Result<Self::Ok, PickleError> { $crate::pickle::narrow::refused() }
        fn serialize_unit_variant(self, _: &'static str, _: u32, _: &'static str) -> Result<Self::Ok, PickleError> {
            $crate::pickle::narrow::refused()
        }
        fn serialize_newtype_variant<T: Serialize + ?Sized>(
            self, _: &'static str, _: u32, _: &'static str, _: &T,
        ) -> Result<Self::Ok, PickleError> { $crate::pickle::narrow::refused() }
        fn serialize_tuple(self, _: usize) -> Result<Self::SerializeTuple, PickleError> { $crate::pickle::narrow::refused() }
        fn serialize_tuple_struct(
            self, _: &'static str, _: usize,
        ) -> Result<Self::SerializeTupleStruct, PickleError> { $crate::pickle::narrow::refused() }
        fn serialize_tuple_variant(
            self, _: &'static str, _: u32, _: &'static str, _: usize,
        ) -> Result<Self::SerializeTupleVariant, PickleError> { $crate::pickle::narrow::refused() }
        fn serialize_struct_variant(
            self, _: &'static str, _: u32, _: &'static str, _: usize,
        ) -> Result<Self::SerializeStructVariant, PickleError> { $crate::pickle::narrow::refused() }
    };
    (@ str) => { refuse!(@one serialize_str(&str)); };
    (@ bytes) => { refuse!(@one serialize_bytes(&[u8])); };
    (@ seq) => {
        fn serialize_seq(self, _: Option<usize>) -> Result<Self::SerializeSeq, PickleError> { $crate::pickle::narrow::refused() }
    };
    (@ map) => {
        fn serialize_map(self, _: Option<usize>) -> Result<Self::SerializeMap, PickleError> { $crate::pickle::narrow::refused() }
        fn serialize_struct(self, _: &'static str, _: usize) -> Result<Self::SerializeStruct, PickleError> { $crate::pickle::narrow::refused() }
    };
    (@ through) => {
        fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<Self::Ok, PickleError> {
            value.serialize(self)
        }
        fn serialize_newtype_struct<T: Serialize + ?Sized>(
            self, _: &'static str, value: &T,
        ) -> Result<Self::Ok, PickleError> { value.serialize(self) }
    };
    (@one $method:ident($value:ty)) => {
        fn $method(self, _: $value) -> Result<Self::Ok, PickleError> { $crate::pickle::narrow::refused() }
    };
}
pub(super) use refuse;

/// The bytes that a value serialises as.
pub(super) struct BytesOf;

impl Serializer for BytesOf {
    type Ok = Vec<u8>;
    type Error = PickleError;
    type SerializeSeq = Impossible<Vec<u8>, PickleError>;
    type SerializeTuple = Impossible<Vec<u8>, PickleError>;
    type SerializeTupleStruct = Impossible<Vec<u8>, PickleError>;
    type SerializeTupleVariant = Impossible<Vec<u8>, PickleError>;
    type SerializeMap = Impossible<Vec<u8>, PickleError>;
    type SerializeStruct = Impossible<Vec<u8>, PickleError>;
    type SerializeStructVariant = Impossible<Vec<u8>, PickleError>;

    fn serialize_bytes(self, bytes: &[u8]) -> Result<Vec<u8>, PickleError> {
        Ok(bytes.to_vec())
    }

    refuse! { scalars str seq map through }
}

/// A sequence, as a set.
pub(super) struct SetPickler<'a> {
    pub(super) pickler: &'a mut Pickler,
    pub(super) end: End,
}

impl<'a> Serializer for SetPickler<'a> {
    type Ok = ();
    type Error = PickleError;
    type SerializeSeq = Compound<'a>;
    type SerializeTuple = Impossible<(), PickleError>;
    type SerializeTupleStruct = Impossible<(), PickleError>;
    type SerializeTupleVariant = Impossible<(), PickleError>;
    type SerializeMap = Impossible<(), PickleError>;
    type SerializeStruct = Impossible<(), PickleError>;
    type SerializeStructVariant = Impossible<(), PickleError>;

    fn serialize_seq(self, _: Option<usize>) -> Result<Compound<'a>, PickleError> {
        self.pickler.compound(self.end)
    }

    refuse! { scalars str bytes map through }
}

/// The text that a key serialises as.
pub(super) struct StrOf;

impl Serializer for StrOf {
    type Ok = String;
    type Error = PickleError;
    type SerializeSeq = Impossible<String, PickleError>;
    type SerializeTuple = Impossible<String, PickleError>;
    type SerializeTupleStruct = Impossible<String, PickleError>;
    type SerializeTupleVariant = Impossible<String, PickleError>;
    type SerializeMap = Impossible<String, PickleError>;
    type SerializeStruct = Impossible<String, PickleError>;
    type SerializeStructVariant = Impossible<String, PickleError>;

    fn serialize_str(self, text: &str) -> Result<String, PickleError> {
        Ok(text.to_owned())
    }

    refuse! { scalars bytes seq map through }
}
