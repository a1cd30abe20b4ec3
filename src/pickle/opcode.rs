//! The opcodes of pickle 5 that plain data needs, and the extension codes for what is not plain.
//!
//! `worker_py/snakebridge_worker/codec.py` registers the same codes with `copyreg`. An extension
//! code stands on the stack, then its arguments as a tuple, then `REDUCE`.

use crate::value::{HostFunction, Value};
use chrono::{Datelike, NaiveDate, NaiveTime, Timelike};
use num_bigint::BigInt;

pub(super) const MARK: u8 = b'(';
pub(super) const STOP: u8 = b'.';
pub(super) const BINFLOAT: u8 = b'G';
pub(super) const BININT: u8 = b'J';
pub(super) const BININT1: u8 = b'K';
pub(super) const BININT2: u8 = b'M';
pub(super) const NONE: u8 = b'N';
pub(super) const REDUCE: u8 = b'R';
pub(super) const BINUNICODE: u8 = b'X';
pub(super) const EMPTY_LIST: u8 = b']';
pub(super) const APPEND: u8 = b'a';
pub(super) const APPENDS: u8 = b'e';
pub(super) const EMPTY_DICT: u8 = b'}';
pub(super) const SETITEM: u8 = b's';
pub(super) const SETITEMS: u8 = b'u';
pub(super) const EMPTY_TUPLE: u8 = b')';
pub(super) const TUPLE: u8 = b't';
pub(super) const TUPLE1: u8 = 0x85;
pub(super) const TUPLE2: u8 = 0x86;
pub(super) const TUPLE3: u8 = 0x87;
pub(super) const POP: u8 = b'0';
pub(super) const POP_MARK: u8 = b'1';
pub(super) const BINGET: u8 = b'h';
pub(super) const LONG_BINGET: u8 = b'j';
pub(super) const BINBYTES: u8 = b'B';
pub(super) const SHORT_BINBYTES: u8 = b'C';
pub(super) const PROTO: u8 = 0x80;
pub(super) const EXT1: u8 = 0x82;
pub(super) const NEWTRUE: u8 = 0x88;
pub(super) const NEWFALSE: u8 = 0x89;
pub(super) const LONG1: u8 = 0x8a;
pub(super) const LONG4: u8 = 0x8b;
pub(super) const SHORT_BINUNICODE: u8 = 0x8c;
pub(super) const BINUNICODE8: u8 = 0x8d;
pub(super) const BINBYTES8: u8 = 0x8e;
pub(super) const EMPTY_SET: u8 = 0x8f;
pub(super) const ADDITEMS: u8 = 0x90;
pub(super) const FROZENSET: u8 = 0x91;
pub(super) const MEMOIZE: u8 = 0x94;
pub(super) const FRAME: u8 = 0x95;
pub(super) const BYTEARRAY8: u8 = 0x96;

/// To the worker: `(id,)`, the object of a ref.
pub(super) const EXT_RESOLVE: u8 = 0xf0;
/// From the worker: `(id, module, type_name)`.
pub(super) const EXT_REF: u8 = 0xf1;
/// From the worker: the same, of an iterator.
pub(super) const EXT_STREAM: u8 = 0xf2;
/// From the worker: `(x,)`, just `x`: what an object became when it was asked for by value.
pub(super) const EXT_PLAIN: u8 = 0xf3;
/// From the worker: `(module, type_name)` of an object that has no value.
pub(super) const EXT_OPAQUE: u8 = 0xf4;
/// From the worker: `(names, values)` of a named tuple.
pub(super) const EXT_RECORD: u8 = 0xf5;
/// Both ways: `(year, month, day, hour, minute, second, microsecond, offset in seconds or None)`.
pub(super) const EXT_DATE_TIME: u8 = 0xf6;
/// Both ways: `(year, month, day)`.
pub(super) const EXT_DATE: u8 = 0xf7;
/// Both ways: `(hour, minute, second, microsecond)`.
pub(super) const EXT_TIME: u8 = 0xf8;
/// Both ways: `(days, seconds, microseconds)`.
pub(super) const EXT_DELTA: u8 = 0xf9;
/// Both ways: `(text,)`.
pub(super) const EXT_DECIMAL: u8 = 0xfa;
/// Both ways: `(16 bytes,)`.
pub(super) const EXT_UUID: u8 = 0xfb;
/// Both ways: `(re, im)`.
pub(super) const EXT_COMPLEX: u8 = 0xfc;
/// To the worker: `(id, want, name)`, a function of the host.
pub(super) const EXT_CALLBACK: u8 = 0xfd;

pub(super) fn write_int(out: &mut Vec<u8>, value: i64) {
    let bytes = value.to_le_bytes();
    match value {
        0..=0xff => out.extend([BININT1, bytes[0]]),
        0x100..=0xffff => out.extend([BININT2, bytes[0], bytes[1]]),
        _ if i32::try_from(value).is_ok() => {
            out.push(BININT);
            out.extend_from_slice(&bytes[..4]);
        }
        _ => {
            out.extend([LONG1, 8]);
            out.extend_from_slice(&bytes);
        }
    }
}

pub(super) fn write_big_int(out: &mut Vec<u8>, value: &BigInt) {
    let bytes = value.to_signed_bytes_le();
    match u8::try_from(bytes.len()) {
        Ok(length) => out.extend([LONG1, length]),
        Err(_) => {
            // The form counts in an i32; no machine holds a longer integer that it could compute with.
            let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
            out.push(LONG4);
            out.extend_from_slice(&length.to_le_bytes());
        }
    }
    out.extend_from_slice(&bytes);
}

pub(super) fn write_float(out: &mut Vec<u8>, value: f64) {
    out.push(BINFLOAT);
    out.extend_from_slice(&value.to_be_bytes());
}

pub(super) fn write_str(out: &mut Vec<u8>, text: &str) {
    write_sized(out, [SHORT_BINUNICODE, BINUNICODE, BINUNICODE8], text.as_bytes());
}

pub(super) fn write_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    write_sized(out, [SHORT_BINBYTES, BINBYTES, BINBYTES8], bytes);
}

fn write_sized(out: &mut Vec<u8>, [short, long, huge]: [u8; 3], bytes: &[u8]) {
    let length = bytes.len().to_le_bytes();
    if bytes.len() <= 0xff {
        out.extend([short, length[0]]);
    } else if u32::try_from(bytes.len()).is_ok() {
        out.push(long);
        out.extend_from_slice(&length[..4]);
    } else {
        out.push(huge);
        out.extend_from_slice(&length);
    }
    out.extend_from_slice(bytes);
}

/// A call of an extension code with integers.
fn write_reduce(out: &mut Vec<u8>, code: u8, arguments: &[i64]) {
    out.extend([EXT1, code, MARK]);
    for argument in arguments {
        write_int(out, *argument);
    }
    out.extend([TUPLE, REDUCE]);
}

pub(super) fn write_resolve(out: &mut Vec<u8>, id: u64) {
    out.extend([EXT1, EXT_RESOLVE]);
    write_id(out, id);
    out.extend([TUPLE1, REDUCE]);
}

pub(super) fn write_callback(out: &mut Vec<u8>, function: &dyn HostFunction) {
    out.extend([EXT1, EXT_CALLBACK]);
    write_id(out, function.id());
    write_bytes(out, function.want());
    write_str(out, function.name());
    out.extend([TUPLE3, REDUCE]);
}

fn write_id(out: &mut Vec<u8>, id: u64) {
    match i64::try_from(id) {
        Ok(id) => write_int(out, id),
        Err(_) => write_big_int(out, &id.into()),
    }
}

/// A value that no serde method says, e.g. a date.
///
/// # Errors
/// What Python's kind cannot hold.
pub(crate) fn write_leaf(out: &mut Vec<u8>, value: &Value) -> Result<(), &'static str> {
    match value {
        Value::BigInt(value) => write_big_int(out, value),
        Value::Complex { re, im } => {
            out.extend([EXT1, EXT_COMPLEX]);
            write_float(out, *re);
            write_float(out, *im);
            out.extend([TUPLE2, REDUCE]);
        }
        Value::DateTime(value) => write_date_time(out, value.date(), value.time(), None)?,
        Value::DateTimeTz(value) => {
            let local = value.naive_local();
            write_date_time(out, local.date(), local.time(), Some(value.offset().local_minus_utc().into()))?;
        }
        Value::Date(value) => write_reduce(out, EXT_DATE, &date_parts(*value)?),
        Value::Time(value) => write_reduce(out, EXT_TIME, &time_parts(*value)?),
        Value::TimeDelta(value) => {
            const MOST_DAYS: i64 = 999_999_999;
            if value.subsec_nanos() % 1_000 != 0 {
                return Err("a fraction of a microsecond, which Python does not have");
            }
            let (days, seconds, micros) = crate::value::delta_parts(value);
            if days.abs() > MOST_DAYS {
                return Err("a billion days or more, which Python does not have");
            }
            write_reduce(out, EXT_DELTA, &[days, seconds, micros]);
        }
        Value::Decimal(text) => {
            out.extend([EXT1, EXT_DECIMAL]);
            write_str(out, text);
            out.extend([TUPLE1, REDUCE]);
        }
        Value::Uuid(value) => {
            out.extend([EXT1, EXT_UUID]);
            write_bytes(out, value.as_bytes());
            out.extend([TUPLE1, REDUCE]);
        }
        Value::None
        | Value::Bool(_)
        | Value::Int(_)
        | Value::Float(_)
        | Value::Str(_)
        | Value::Bytes(_)
        | Value::List(_)
        | Value::Tuple(_)
        | Value::Dict(_)
        | Value::Set(_)
        | Value::FrozenSet(_)
        | Value::Ref(_)
        | Value::Stream(_) => return Err("a kind that serde has no method for"),
    }
    Ok(())
}

fn write_date_time(
    out: &mut Vec<u8>,
    date: NaiveDate,
    time: NaiveTime,
    offset: Option<i64>,
) -> Result<(), &'static str> {
    out.extend([EXT1, EXT_DATE_TIME, MARK]);
    for part in date_parts(date)?.into_iter().chain(time_parts(time)?) {
        write_int(out, part);
    }
    match offset {
        Some(offset) => write_int(out, offset),
        None => out.push(NONE),
    }
    out.extend([TUPLE, REDUCE]);
    Ok(())
}

fn date_parts(date: NaiveDate) -> Result<[i64; 3], &'static str> {
    match date.year() {
        1..=9999 => Ok([date.year().into(), date.month().into(), date.day().into()]),
        _ => Err("a date outside the years 1 to 9999, which Python does not have"),
    }
}

fn time_parts(time: NaiveTime) -> Result<[i64; 4], &'static str> {
    let nanos = time.nanosecond();
    if nanos >= 1_000_000_000 {
        return Err("a leap second, which Python does not have");
    }
    if !nanos.is_multiple_of(1_000) {
        return Err("a fraction of a microsecond, which Python does not have");
    }
    Ok([time.hour().into(), time.minute().into(), time.second().into(), (nanos / 1_000).into()])
}
