//! `Display`: what Python's `repr` says. No recursion: a value may be deeper than the stack.

use super::{Dict, Value, iso};
use chrono::{Datelike, NaiveDate, NaiveTime, Timelike};
use std::fmt::{self, Write};

/// Python refuses to print longer integers (in digits), since it takes quadratic time.
const LONGEST_INT_BITS: u64 = 4_300 * 10 / 3;

enum Step<'a> {
    Value(&'a Value),
    Text(&'static str),
    Items { items: std::slice::Iter<'a, Value>, first: bool },
    Entries { entries: std::slice::Iter<'a, (Value, Value)>, first: bool },
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write(f, Step::Value(self))
    }
}

pub(super) fn dict(f: &mut fmt::Formatter<'_>, dict: &Dict) -> fmt::Result {
    f.write_str("{")?;
    write(f, Step::Entries { entries: dict.iter(), first: true })?;
    f.write_str("}")
}

fn write<'a>(f: &mut fmt::Formatter<'_>, begin: Step<'a>) -> fmt::Result {
    let mut todo = vec![begin];
    while let Some(step) = todo.pop() {
        match step {
            Step::Text(text) => f.write_str(text)?,
            Step::Value(value) => {
                let mut open = |f: &mut fmt::Formatter<'_>, items: &'a [Value], before, after| {
                    todo.push(Step::Text(after));
                    todo.push(Step::Items { items: items.iter(), first: true });
                    f.write_str(before)
                };
                match value {
                    Value::List(items) => open(f, items, "[", "]")?,
                    Value::Tuple(items) => open(f, items, "(", if items.len() == 1 { ",)" } else { ")" })?,
                    Value::Set(items) if items.is_empty() => f.write_str("set()")?,
                    Value::Set(items) => open(f, items, "{", "}")?,
                    Value::FrozenSet(items) if items.is_empty() => f.write_str("frozenset()")?,
                    Value::FrozenSet(items) => open(f, items, "frozenset({", "})")?,
                    Value::Dict(dict) => {
                        f.write_str("{")?;
                        todo.push(Step::Text("}"));
                        todo.push(Step::Entries { entries: dict.iter(), first: true });
                    }
                    leaf => self::leaf(f, leaf)?,
                }
            }
            Step::Items { mut items, first } => {
                if let Some(item) = items.next() {
                    f.write_str(if first { "" } else { ", " })?;
                    todo.push(Step::Items { items, first: false });
                    todo.push(Step::Value(item));
                }
            }
            Step::Entries { mut entries, first } => {
                if let Some((key, value)) = entries.next() {
                    f.write_str(if first { "" } else { ", " })?;
                    todo.push(Step::Entries { entries, first: false });
                    todo.push(Step::Value(value));
                    todo.push(Step::Text(": "));
                    todo.push(Step::Value(key));
                }
            }
        }
    }
    Ok(())
}

fn leaf(f: &mut fmt::Formatter<'_>, value: &Value) -> fmt::Result {
    match value {
        Value::None => f.write_str("None"),
        Value::Bool(value) => f.write_str(if *value { "True" } else { "False" }),
        Value::Int(value) => write!(f, "{value}"),
        Value::BigInt(value) if value.bits() > LONGEST_INT_BITS => write!(f, "<int of {} bits>", value.bits()),
        Value::BigInt(value) => write!(f, "{value}"),
        Value::Float(value) => f.write_str(&float(*value)),
        Value::Complex { re, im } => complex(f, *re, *im),
        Value::Str(text) => str(f, text),
        Value::Bytes(value) => bytes(f, value),
        Value::DateTime(value) => {
            f.write_str("datetime.datetime(")?;
            date(f, value.date())?;
            f.write_str(", ")?;
            time(f, value.time())?;
            f.write_str(")")
        }
        Value::DateTimeTz(value) => {
            let local = value.naive_local();
            f.write_str("datetime.datetime(")?;
            date(f, local.date())?;
            f.write_str(", ")?;
            time(f, local.time())?;
            match i64::from(value.offset().local_minus_utc()) {
                0 => f.write_str(", tzinfo=datetime.timezone.utc)"),
                seconds => {
                    f.write_str(", tzinfo=datetime.timezone(")?;
                    leaf(f, &Value::TimeDelta(chrono::TimeDelta::seconds(seconds)))?;
                    f.write_str("))")
                }
            }
        }
        Value::Date(value) => {
            f.write_str("datetime.date(")?;
            date(f, *value)?;
            f.write_str(")")
        }
        Value::Time(value) => {
            f.write_str("datetime.time(")?;
            time(f, *value)?;
            f.write_str(")")
        }
        Value::TimeDelta(value) => {
            let (days, seconds, micros) = iso::delta_parts(value);
            let parts = [("days", days), ("seconds", seconds), ("microseconds", micros)];
            let parts: Vec<_> = parts.iter().filter(|(_, n)| *n != 0).map(|(name, n)| format!("{name}={n}")).collect();
            let parts = if parts.is_empty() { "0".to_owned() } else { parts.join(", ") };
            write!(f, "datetime.timedelta({parts})")
        }
        Value::Decimal(text) => write!(f, "Decimal('{text}')"),
        Value::Uuid(value) => write!(f, "UUID('{value}')"),
        Value::Ref(handle) | Value::Stream(handle) => write!(f, "{handle:?}"),
        Value::List(_) | Value::Tuple(_) | Value::Set(_) | Value::FrozenSet(_) | Value::Dict(_) => {
            f.write_str("…") // `write` opens containers itself.
        }
    }
}

fn date(f: &mut fmt::Formatter<'_>, value: NaiveDate) -> fmt::Result {
    write!(f, "{}, {}, {}", value.year(), value.month(), value.day())
}

fn time(f: &mut fmt::Formatter<'_>, value: NaiveTime) -> fmt::Result {
    write!(f, "{}, {}", value.hour(), value.minute())?;
    let micros = value.nanosecond() / 1_000;
    if value.second() != 0 || micros != 0 {
        write!(f, ", {}", value.second())?;
    }
    if micros != 0 {
        write!(f, ", {micros}")?;
    }
    Ok(())
}

/// The shortest digits that give the same float back; an exponent from 1e16 up and below 1e-4.
fn float(value: f64) -> String {
    if value.is_nan() {
        return "nan".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific.split_once('e').expect("the format is with an exponent");
    let exponent: i32 = exponent.parse().expect("an exponent is a small number");
    if value != 0.0 && !(-4..16).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{digits}e{sign}{:02}", exponent.abs());
    }
    let plain = format!("{value}");
    if plain.contains('.') { plain } else { plain + ".0" }
}

fn complex(f: &mut fmt::Formatter<'_>, re: f64, im: f64) -> fmt::Result {
    let short = |value| {
        let text = float(value);
        text.strip_suffix(".0").map(str::to_owned).unwrap_or(text)
    };
    if re == 0.0 && re.is_sign_positive() {
        return write!(f, "{}j", short(im));
    }
    let plus = if im.is_sign_negative() && !im.is_nan() { "" } else { "+" };
    write!(f, "({}{plus}{}j)", short(re), short(im))
}

fn str(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    f.write_char(quote)?;
    for c in text.chars() {
        match c {
            '\n' => f.write_str("\\n")?,
            '\r' => f.write_str("\\r")?,
            '\t' => f.write_str("\\t")?,
            c if c == quote || c == '\\' => write!(f, "\\{c}")?,
            ' '..='~' => f.write_char(c)?,
            c if printable(c) => f.write_char(c)?,
            c => match u32::from(c) {
                code @ ..=0xff => write!(f, "\\x{code:02x}")?,
                code @ ..=0xffff => write!(f, "\\u{code:04x}")?,
                code => write!(f, "\\U{code:08x}")?,
            },
        }
    }
    f.write_char(quote)
}

/// Python's `isprintable`, save for the Unicode version: Rust's own table knows, except that it
/// escapes a combining mark at the beginning of a text.
fn printable(c: char) -> bool {
    let mut pair = [0; 8];
    pair[0] = b'a';
    let length = c.encode_utf8(&mut pair[1..]).len();
    std::str::from_utf8(&pair[..=length]).is_ok_and(|pair| pair.escape_debug().count() == 2)
}

pub(super) fn bytes(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    let quote = if bytes.contains(&b'\'') && !bytes.contains(&b'"') { '"' } else { '\'' };
    write!(f, "b{quote}")?;
    for &byte in bytes {
        match byte {
            b'\n' => f.write_str("\\n")?,
            b'\r' => f.write_str("\\r")?,
            b'\t' => f.write_str("\\t")?,
            b'\\' => f.write_str("\\\\")?,
            byte if char::from(byte) == quote => write!(f, "\\{quote}")?,
            b' '..=b'~' => f.write_char(byte.into())?,
            byte => write!(f, "\\x{byte:02x}")?,
        }
    }
    f.write_char(quote)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_print_as_in_python() {
        let cases = [
            (1.0, "1.0"),
            (0.1, "0.1"),
            (-0.0, "-0.0"),
            (1e16, "1e+16"),
            (123456789012345680.0, "1.2345678901234568e+17"),
            (9007199254740993.0, "9007199254740992.0"),
            (1e-5, "1e-05"),
            (0.0001, "0.0001"),
            (1.5e300, "1.5e+300"),
            (f64::INFINITY, "inf"),
        ];
        for (value, expected) in cases {
            assert_eq!(Value::Float(value).to_string(), expected);
        }
    }

    #[test]
    fn a_value_a_million_deep_prints_and_compares() {
        let mut value = Value::None;
        for _ in 0..1_000_000 {
            value = Value::List(vec![value]);
        }
        assert_eq!(value.to_string().len(), 2_000_004);
        assert!(value == value);
        // It cannot be dropped: `Vec<Value>` is public, and drops its items itself.
        std::mem::forget(value);
    }
}
