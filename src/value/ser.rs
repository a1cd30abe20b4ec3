//! `Value` into serde: lossless into a call, text where another format has no such kind.

use super::magic::{self, Raw};
use super::{Value, iso};
use crate::pickle::opcode;
use serde::ser::{Error, Serialize, SerializeMap, SerializeTuple, Serializer};

struct Items<'a>(&'a [Value]);

impl Serialize for Items<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0)
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::None => serializer.serialize_unit(),
            Self::Bool(value) => serializer.serialize_bool(*value),
            Self::Int(value) => serializer.serialize_i64(*value),
            Self::Float(value) => serializer.serialize_f64(*value),
            Self::Str(text) => serializer.serialize_str(text),
            Self::Bytes(bytes) => serializer.serialize_bytes(bytes),
            Self::List(items) => serializer.collect_seq(items),
            Self::Tuple(items) => {
                let mut tuple = serializer.serialize_tuple(items.len())?;
                for item in items {
                    tuple.serialize_element(item)?;
                }
                tuple.end()
            }
            Self::Set(items) => serializer.serialize_newtype_struct(magic::SET, &Items(items)),
            Self::FrozenSet(items) => serializer.serialize_newtype_struct(magic::FROZEN_SET, &Items(items)),
            Self::Dict(dict) => {
                let mut map = serializer.serialize_map(Some(dict.len()))?;
                for (key, value) in dict {
                    map.serialize_entry(key, value)?;
                }
                map.end()
            }
            Self::Ref(handle) | Self::Stream(handle) => handle.serialize(serializer),
            leaf if magic::is_open() => {
                let mut opcodes = Vec::new();
                opcode::write_leaf(&mut opcodes, leaf).map_err(S::Error::custom)?;
                serializer.serialize_newtype_struct(magic::OPCODES, &Raw(&opcodes))
            }
            Self::BigInt(value) => match (i64::try_from(value), u64::try_from(value)) {
                (Ok(value), _) => serializer.serialize_i64(value),
                (_, Ok(value)) => serializer.serialize_u64(value),
                _ => serializer.collect_str(value),
            },
            Self::Complex { re, im } => (re, im).serialize(serializer),
            Self::DateTime(value) => serializer.serialize_str(&iso::date_time(value)),
            Self::DateTimeTz(value) => serializer.serialize_str(&iso::date_time_tz(value)),
            Self::Date(value) => serializer.collect_str(value),
            Self::Time(value) => serializer.serialize_str(&iso::time(value)),
            Self::TimeDelta(value) => serializer.serialize_str(&iso::delta(value)),
            Self::Decimal(text) => serializer.serialize_str(text),
            Self::Uuid(value) => serializer.collect_str(value),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::Value;
    use num_bigint::BigInt;

    #[test]
    fn what_json_has_no_kind_for_is_text() {
        let value = Value::List(vec![
            Value::Int(1),
            Value::from(u64::MAX),
            Value::BigInt(BigInt::from(10).pow(20)),
            Value::Date(chrono::NaiveDate::from_ymd_opt(2024, 2, 29).expect("a leap day")),
            Value::Decimal("1.10".into()),
            Value::Uuid(uuid::Uuid::nil()),
            Value::Set(vec![Value::None]),
        ]);
        assert_eq!(
            serde_json::to_string(&value).expect("all of it is text or plain"),
            concat!(
                r#"[1,18446744073709551615,"100000000000000000000","2024-02-29","1.10","#,
                r#""00000000-0000-0000-0000-000000000000",[null]]"#
            )
        );
    }
}
