//! `Value` from plain types and JSON, and its parts by position and name.

use super::{Bytes, Dict, PyRef, Value};
use chrono::{DateTime, FixedOffset, NaiveDate, NaiveDateTime, NaiveTime, TimeDelta, Utc};
use num_bigint::BigInt;
use num_traits::ToPrimitive;
use std::ops;
use uuid::Uuid;

macro_rules! from {
    ($($from:ty => $to:expr;)*) => { $(
        impl From<$from> for Value {
            fn from(value: $from) -> Self {
                let to: fn($from) -> Value = $to;
                to(value)
            }
        }
    )* };
}

from! {
    () => |()| Self::None;
    bool => Self::Bool;
    i8 => |value| Self::Int(value.into());
    i16 => |value| Self::Int(value.into());
    i32 => |value| Self::Int(value.into());
    i64 => Self::Int;
    i128 => |value| BigInt::from(value).into();
    isize => |value| BigInt::from(value).into();
    u8 => |value| Self::Int(value.into());
    u16 => |value| Self::Int(value.into());
    u32 => |value| Self::Int(value.into());
    u64 => |value| BigInt::from(value).into();
    u128 => |value| BigInt::from(value).into();
    usize => |value| BigInt::from(value).into();
    f32 => |value| Self::Float(value.into());
    f64 => Self::Float;
    BigInt => |value| value.to_i64().map_or(Self::BigInt(value), Self::Int);
    char => |value| Self::Str(value.into());
    &str => |value| Self::Str(value.into());
    String => Self::Str;
    &String => |value| Self::Str(value.clone());
    Bytes => Self::Bytes;
    Dict => Self::Dict;
    NaiveDateTime => Self::DateTime;
    DateTime<FixedOffset> => Self::DateTimeTz;
    DateTime<Utc> => |value| Self::DateTimeTz(value.fixed_offset());
    NaiveDate => Self::Date;
    NaiveTime => Self::Time;
    TimeDelta => Self::TimeDelta;
    Uuid => Self::Uuid;
    PyRef => Self::Ref;
    &PyRef => |value| Self::Ref(value.clone());
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::None, Into::into)
    }
}

impl<T: Into<Value>> From<Vec<T>> for Value {
    fn from(items: Vec<T>) -> Self {
        Self::List(items.into_iter().map(Into::into).collect())
    }
}

impl<T: Into<Value>> FromIterator<T> for Value {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
        Self::List(items.into_iter().map(Into::into).collect())
    }
}

impl From<serde_json::Value> for Value {
    fn from(json: serde_json::Value) -> Self {
        match json {
            serde_json::Value::Null => Self::None,
            serde_json::Value::Bool(value) => Self::Bool(value),
            serde_json::Value::Number(number) => match (number.as_i64(), number.as_u64()) {
                (Some(value), _) => Self::Int(value),
                (None, Some(value)) => value.into(),
                (None, None) => Self::Float(number.as_f64().expect("a JSON number is an i64, a u64 or an f64")),
            },
            serde_json::Value::String(text) => Self::Str(text),
            serde_json::Value::Array(items) => items.into(),
            serde_json::Value::Object(entries) => Self::Dict(entries.into_iter().collect()),
        }
    }
}

/// What a `Value` can be indexed by: a position, or a `str` key.
pub trait Index {
    #[doc(hidden)]
    fn find(self, value: &Value) -> Option<&Value>;
}

impl Index for usize {
    fn find(self, value: &Value) -> Option<&Value> {
        match value {
            Value::List(items) | Value::Tuple(items) => items.get(self),
            _ => None,
        }
    }
}

impl Index for &str {
    fn find(self, value: &Value) -> Option<&Value> {
        value.as_dict()?.get_str(self)
    }
}

/// # Panics
/// If there is no such key; [`Value::get`] does not panic.
impl ops::Index<&str> for Value {
    type Output = Value;

    fn index(&self, key: &str) -> &Value {
        self.get(key).unwrap_or_else(|| panic!("no key {key:?} in {}", super::view::describe(self)))
    }
}

/// # Panics
/// If there is no such position; [`Value::get`] does not panic.
impl ops::Index<usize> for Value {
    type Output = Value;

    fn index(&self, position: usize) -> &Value {
        self.get(position).unwrap_or_else(|| panic!("no position {position} in {}", super::view::describe(self)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_integer_is_an_int_as_long_as_it_fits() {
        assert_eq!(Value::from(i64::MAX as u64), Value::Int(i64::MAX));
        assert_eq!(Value::from(u64::MAX), Value::BigInt(u64::MAX.into()));
        assert_eq!(Value::from(-5_i128), Value::Int(-5));
    }

    #[test]
    fn json_keeps_its_order_and_its_integers() {
        let json: serde_json::Value =
            serde_json::from_str(r#"{"a": [1, 1.5, null], "b": 18446744073709551615}"#).expect("this is JSON");
        assert_eq!(Value::from(json).to_string(), "{'a': [1, 1.5, None], 'b': 18446744073709551615}");
    }

    #[test]
    #[should_panic(expected = "no position 2 in list of length 1")]
    fn a_position_that_is_not_there_panics_with_what_is() {
        let _ = &Value::from(vec![1])[2];
    }
}
