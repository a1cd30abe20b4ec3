//! Python values on the Rust side: what a call returns when nothing more exact is asked for.
//!
//! A [`Value`] owns plain data; everything else stays in Python, as a [`PyRef`] where it stands.
//! Nothing here knows of pickles: `pickle` makes values and sends them.

mod build;
mod bytes;
mod callback;
mod compare;
mod de;
mod dict;
mod iso;
pub(crate) mod magic;
mod pyref;
mod repr;
mod ser;
mod view;

pub use self::bytes::Bytes;
pub use self::callback::Callback;
pub(crate) use self::callback::HostFunction;
pub use self::dict::Dict;
pub(crate) use self::iso::delta_parts;
pub use self::pyref::PyRef;
pub(crate) use self::{
    de::{from_tree, value_of_tree},
    pyref::{RefOwner, RefSource},
    view::{SeqKind, Tree, View, describe},
};

use crate::error::{ConvertError, Ran};
use chrono::{DateTime, FixedOffset, NaiveDate, NaiveDateTime, NaiveTime, TimeDelta};
use num_bigint::BigInt;
use serde::de::DeserializeOwned;
use std::fmt;
use std::sync::Arc;
use uuid::Uuid;

/// A Python value.
///
/// Plain data is here by value, exactly: a [`Float`](Value::Float) was a `float`, an `int` of any
/// size is an [`Int`](Value::Int) or a [`BigInt`](Value::BigInt), a `dict` keeps its order and may
/// have any key. What is not plain data is a [`Ref`](Value::Ref) where it stands.
///
/// It compares as Python compares, except that kinds are never equal to one another (`1` is not
/// `1.0`): dicts and sets without regard to order. It prints as Python's `repr`.
///
/// ```
/// use snakebridge::Value;
///
/// let value = Value::from(vec![Value::from(1), Value::None, Value::from("it's")]);
/// assert_eq!(value.to_string(), r#"[1, None, "it's"]"#);
/// assert_eq!(value[0], Value::Int(1));
/// ```
#[derive(Clone)]
#[non_exhaustive]
pub enum Value {
    /// `None`
    None,
    /// `bool`
    Bool(bool),
    /// An `int` of up to 64 bits.
    Int(i64),
    /// An `int` that does not fit into an `i64`; compares equal to no [`Int`](Value::Int).
    BigInt(BigInt),
    /// `float`
    Float(f64),
    /// `complex`
    Complex {
        /// The real part.
        re: f64,
        /// The imaginary part.
        im: f64,
    },
    /// `str`
    Str(String),
    /// `bytes`; a `bytearray` arrives as this too.
    Bytes(Bytes),
    /// `list`
    List(Vec<Value>),
    /// `tuple`
    Tuple(Vec<Value>),
    /// `dict`
    Dict(Dict),
    /// `set`, in no particular order.
    Set(Vec<Value>),
    /// `frozenset`, in no particular order.
    FrozenSet(Vec<Value>),
    /// A `datetime.datetime` without a time zone.
    DateTime(NaiveDateTime),
    /// A `datetime.datetime` with a fixed offset from UTC. One with a named zone (`zoneinfo`) is a
    /// [`Ref`](Value::Ref), since an offset is not all that it says.
    DateTimeTz(DateTime<FixedOffset>),
    /// `datetime.date`
    Date(NaiveDate),
    /// A `datetime.time` without a time zone.
    Time(NaiveTime),
    /// `datetime.timedelta`
    TimeDelta(TimeDelta),
    /// `decimal.Decimal`, as its text, e.g. `1.10` or `NaN`.
    Decimal(Arc<str>),
    /// `uuid.UUID`
    Uuid(Uuid),
    /// Any other object: it stays in Python.
    Ref(PyRef),
    /// An iterator or generator, not begun: it stays in Python until it is streamed.
    Stream(PyRef),
}

impl Value {
    /// Converts into any type that serde can deserialise, as `extract` on a call does.
    ///
    /// ```
    /// use snakebridge::Value;
    ///
    /// let pair = Value::Tuple(vec![Value::from("a"), Value::from(2)]);
    /// let (name, count): (String, u8) = pair.extract().unwrap();
    /// assert_eq!((name.as_str(), count), ("a", 2));
    ///
    /// let error = pair.extract::<(String, String)>().unwrap_err();
    /// assert_eq!(error.path, "[1]");
    /// ```
    ///
    /// # Errors
    /// [`ConvertError`] names the path, what was expected there and what was found, if `T` cannot
    /// hold the value without loss.
    pub fn extract<T: DeserializeOwned>(&self) -> Result<T, ConvertError> {
        from_tree(self).map_err(|error| error.into_convert(Ran::Yes))
    }

    /// Whether this is `None`.
    pub fn is_none(&self) -> bool {
        matches!(self, Self::None)
    }

    /// The truth value of a `bool`.
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Self::Bool(value) => Some(*value),
            _ => None,
        }
    }

    /// The number of an `int` of up to 64 bits.
    pub fn as_i64(&self) -> Option<i64> {
        match self {
            Self::Int(value) => Some(*value),
            _ => None,
        }
    }

    /// The number of a `float`.
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Self::Float(value) => Some(*value),
            _ => None,
        }
    }

    /// The text of a `str`.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::Str(value) => Some(value),
            _ => None,
        }
    }

    /// The items of a `list`, `tuple`, `set` or `frozenset`.
    pub fn as_slice(&self) -> Option<&[Value]> {
        match self {
            Self::List(items) | Self::Tuple(items) | Self::Set(items) | Self::FrozenSet(items) => Some(items),
            _ => None,
        }
    }

    /// The entries of a `dict`.
    pub fn as_dict(&self) -> Option<&Dict> {
        match self {
            Self::Dict(dict) => Some(dict),
            _ => None,
        }
    }

    /// The handle of an object that stayed in Python, an iterator or not.
    ///
    /// ```
    /// # #[actix::main]
    /// # async fn main() -> snakebridge::Result<()> {
    /// # let py = snakebridge::SnakeBridge::builder().pool(snakebridge::PoolConfig::new("p").size(1)).start().await?;
    /// let class = py.get("builtins", "object").into_ref().await?;
    /// let pair = py.call("builtins", "list", ((1, &class),)).await?;
    /// assert_eq!(pair[0].as_i64(), Some(1));
    /// assert_eq!(pair[1].as_pyref().unwrap().type_name(), "type");
    /// # py.shutdown().await
    /// # }
    /// ```
    pub fn as_pyref(&self) -> Option<&PyRef> {
        match self {
            Self::Ref(handle) | Self::Stream(handle) => Some(handle),
            _ => None,
        }
    }

    /// The item at a position of a `list` or `tuple`, or of a `dict` by its `str` key.
    ///
    /// ```
    /// use snakebridge::Value;
    ///
    /// let value = Value::from(serde_json::json!({"points": [[1, 2], [3, 4]]}));
    /// assert_eq!(value.get("points").and_then(|points| points.get(1)), Some(&Value::from(vec![3, 4])));
    /// assert_eq!(value.get("lines"), None);
    /// ```
    pub fn get<I: build::Index>(&self, index: I) -> Option<&Value> {
        index.find(self)
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The `repr` says the kind of each value, and does not recurse.
        fmt::Display::fmt(self, f)
    }
}
