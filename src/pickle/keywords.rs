//! The entries of a map or struct one by one, for keyword arguments.

use super::fragment::Fragment;
use super::narrow::{StrOf, refuse};
use super::ser::{PickleError, to_fragment};
use crate::error::ConvertError;
use crate::value::magic;
use serde::ser::{Impossible, Serialize, SerializeMap, SerializeStruct, Serializer};

pub(super) fn to_keywords<T: Serialize + ?Sized>(value: &T) -> Result<Vec<(String, Fragment)>, ConvertError> {
    let _room = magic::Room::open();
    let mut keywords = Keywords::default();
    match (value.serialize(&mut keywords), keywords.failed) {
        (Ok(()), _) => Ok(keywords.entries),
        (Err(_), Some(error)) => Err(error),
        (Err(_), None) => Err(ConvertError::of_argument(
            "a map or struct whose keys are str, for keyword arguments",
            "something else",
        )),
    }
}

#[derive(Default)]
struct Keywords {
    entries: Vec<(String, Fragment)>,
    key: Option<String>,
    /// Why the value of a keyword cannot be pickled, with its path.
    failed: Option<ConvertError>,
}

impl Keywords {
    fn entry<T: Serialize + ?Sized>(&mut self, key: String, value: &T) -> Result<(), PickleError> {
        match to_fragment(value) {
            Ok(fragment) => {
                self.entries.push((key, fragment));
                Ok(())
            }
            Err(mut error) => {
                let dot = if error.path.is_empty() || error.path.starts_with('[') { "" } else { "." };
                error.path = format!("{key}{dot}{}", error.path);
                self.failed = Some(error);
                Err(PickleError::new("a keyword argument", "what cannot be pickled"))
            }
        }
    }
}

impl Serializer for &mut Keywords {
    type Ok = ();
    type Error = PickleError;
    type SerializeSeq = Impossible<(), PickleError>;
    type SerializeTuple = Impossible<(), PickleError>;
    type SerializeTupleStruct = Impossible<(), PickleError>;
    type SerializeTupleVariant = Impossible<(), PickleError>;
    type SerializeMap = Self;
    type SerializeStruct = Self;
    type SerializeStructVariant = Impossible<(), PickleError>;

    fn serialize_map(self, _: Option<usize>) -> Result<Self, PickleError> {
        Ok(self)
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Self, PickleError> {
        Ok(self)
    }

    refuse! { scalars str bytes seq through }
}

impl SerializeMap for &mut Keywords {
    type Ok = ();
    type Error = PickleError;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), PickleError> {
        self.key = Some(key.serialize(StrOf)?);
        Ok(())
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), PickleError> {
        let key = self.key.take().ok_or_else(|| PickleError::new("a key before its value", "none"))?;
        self.entry(key, value)
    }

    fn end(self) -> Result<(), PickleError> {
        Ok(())
    }
}

impl SerializeStruct for &mut Keywords {
    type Ok = ();
    type Error = PickleError;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, key: &'static str, value: &T) -> Result<(), PickleError> {
        self.entry(key.to_owned(), value)
    }

    fn end(self) -> Result<(), PickleError> {
        Ok(())
    }
}
