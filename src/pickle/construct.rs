//! The exact list of what a body can make beyond plain data. Nothing is run; each checks its arguments.

use super::DecodeError;
use super::nodes::{Id, Node, Rare};
use super::opcode::*;
use super::parse::Parser;
use crate::id::RefId;
use crate::value::{PyRef, SeqKind};
use chrono::{FixedOffset, NaiveDate, NaiveTime, TimeDelta};
use num_traits::ToPrimitive;
use uuid::Uuid;

/// The longest name of a class or module, in bytes.
const LONGEST_NAME: usize = 1_024;

pub(super) fn construct<'a>(parser: &mut Parser<'a, '_>, code: u8, arguments: &[Id]) -> Result<Id, DecodeError> {
    let rare = match code {
        EXT_PLAIN => {
            let [value] = arguments else { return Err(wrong(code)) };
            parser.nodes.stand_for(*value);
            return Ok(*value);
        }
        EXT_REF => Rare::Ref(handle(parser, code, arguments)?),
        EXT_STREAM => Rare::Stream(handle(parser, code, arguments)?),
        EXT_OPAQUE => match arguments {
            [module, type_name] => Rare::Opaque(name(parser, code, *module)?, name(parser, code, *type_name)?),
            _ => return Err(wrong(code)),
        },
        EXT_RECORD => return record(parser, code, arguments),
        EXT_DATE_TIME => date_time(parser, arguments).ok_or_else(|| wrong(code))?,
        EXT_DATE => ints(parser, arguments).and_then(date).map(Rare::Date).ok_or_else(|| wrong(code))?,
        EXT_TIME => ints(parser, arguments).and_then(time).map(Rare::Time).ok_or_else(|| wrong(code))?,
        EXT_DELTA => ints(parser, arguments).and_then(delta).map(Rare::TimeDelta).ok_or_else(|| wrong(code))?,
        EXT_DECIMAL => match arguments {
            [text] => Rare::Decimal(str(parser, *text).filter(|text| is_decimal(text)).ok_or_else(|| wrong(code))?),
            _ => return Err(wrong(code)),
        },
        EXT_UUID => match arguments {
            [bytes] => Rare::Uuid(uuid(parser, *bytes).ok_or_else(|| wrong(code))?),
            _ => return Err(wrong(code)),
        },
        EXT_COMPLEX => match arguments {
            [re, im] => match (parser.nodes.node(*re), parser.nodes.node(*im)) {
                (Node::Float(re), Node::Float(im)) => Rare::Complex(*re, *im),
                _ => return Err(wrong(code)),
            },
            _ => return Err(wrong(code)),
        },
        _ => return Err(DecodeError::malformed(format!("extension code {code:#04x}"))),
    };
    parser.nodes.add(Node::Boxed(Box::new(rare)))
}

fn wrong(code: u8) -> DecodeError {
    DecodeError::malformed(format!("wrong arguments for extension code {code:#04x}"))
}

fn handle(parser: &mut Parser<'_, '_>, code: u8, arguments: &[Id]) -> Result<PyRef, DecodeError> {
    let [id, module, type_name] = arguments else { return Err(wrong(code)) };
    let id = match parser.nodes.node(*id) {
        Node::Int(id) => u64::try_from(*id).ok(),
        Node::Boxed(rare) => match &**rare {
            Rare::Big(id) => id.to_u64(),
            _ => None,
        },
        _ => None,
    };
    let id = RefId(id.ok_or_else(|| wrong(code))?);
    let (module, type_name) = (name(parser, code, *module)?, name(parser, code, *type_name)?);
    let Some(source) = parser.refs else {
        return Err(DecodeError::malformed("a ref where none can be"));
    };
    parser.refs_left = parser
        .refs_left
        .checked_sub(1)
        .ok_or(DecodeError::OverBudget { what: "refs", limit: parser.budget.refs as u64 })?;
    source.make(id, module, type_name).ok_or_else(|| DecodeError::malformed(format!("{id} is no ref of this result")))
}

fn record(parser: &mut Parser<'_, '_>, code: u8, arguments: &[Id]) -> Result<Id, DecodeError> {
    let [names, values] = arguments else { return Err(wrong(code)) };
    let (Node::Seq(SeqKind::Tuple, names), Node::Seq(SeqKind::Tuple, values)) =
        (parser.nodes.node(*names), parser.nodes.node(*values))
    else {
        return Err(wrong(code));
    };
    if names.len() != values.len() || !names.iter().all(|name| matches!(parser.nodes.node(*name), Node::Str(_))) {
        return Err(wrong(code));
    }
    let (names, values) = (names.clone(), values.clone());
    let id = parser.nodes.add(Node::None)?;
    parser.nodes.attach(id, &values)?;
    parser.nodes.attach(id, &names)?;
    *parser.nodes.node_mut(id) = Node::Boxed(Box::new(Rare::Record(names, values)));
    Ok(id)
}

fn str<'a>(parser: &Parser<'a, '_>, id: Id) -> Option<&'a str> {
    match parser.nodes.node(id) {
        Node::Str(text) => Some(text),
        _ => None,
    }
}

fn name<'a>(parser: &Parser<'a, '_>, code: u8, id: Id) -> Result<&'a str, DecodeError> {
    str(parser, id).filter(|name| name.len() <= LONGEST_NAME).ok_or_else(|| wrong(code))
}

fn int(parser: &Parser<'_, '_>, id: Id) -> Option<i64> {
    match parser.nodes.node(id) {
        Node::Int(value) => Some(*value),
        _ => None,
    }
}

fn ints<const N: usize>(parser: &Parser<'_, '_>, arguments: &[Id]) -> Option<[i64; N]> {
    let ids: &[Id; N] = arguments.try_into().ok()?;
    let mut values = [0; N];
    for (value, id) in values.iter_mut().zip(ids) {
        *value = int(parser, *id)?;
    }
    Some(values)
}

fn date([year, month, day]: [i64; 3]) -> Option<NaiveDate> {
    if !(1..=9999).contains(&year) {
        return None;
    }
    NaiveDate::from_ymd_opt(year.try_into().ok()?, month.try_into().ok()?, day.try_into().ok()?)
}

fn time([hour, minute, second, micro]: [i64; 4]) -> Option<NaiveTime> {
    if !(0..1_000_000).contains(&micro) {
        return None;
    }
    let (hour, minute, second) = (hour.try_into().ok()?, minute.try_into().ok()?, second.try_into().ok()?);
    NaiveTime::from_hms_micro_opt(hour, minute, second, micro.try_into().ok()?)
}

fn date_time<'a>(parser: &Parser<'a, '_>, arguments: &[Id]) -> Option<Rare<'a>> {
    let [year, month, day, hour, minute, second, micro] = ints(parser, arguments.get(..7)?)?;
    let naive = date([year, month, day])?.and_time(time([hour, minute, second, micro])?);
    match arguments.get(7..)? {
        [offset] => match parser.nodes.node(*offset) {
            Node::None => Some(Rare::DateTime(naive)),
            Node::Int(seconds) => {
                let offset = FixedOffset::east_opt(i32::try_from(*seconds).ok()?)?;
                Some(Rare::DateTimeTz(naive.and_local_timezone(offset).single()?))
            }
            _ => None,
        },
        _ => None,
    }
}

fn delta([days, seconds, micros]: [i64; 3]) -> Option<TimeDelta> {
    const MOST_DAYS: i64 = 999_999_999;
    if days.abs() > MOST_DAYS || !(0..86_400).contains(&seconds) || !(0..1_000_000).contains(&micros) {
        return None;
    }
    TimeDelta::try_days(days)?.checked_add(&TimeDelta::seconds(seconds))?.checked_add(&TimeDelta::microseconds(micros))
}

fn is_decimal(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'+' | b'-' | b'.'))
}

fn uuid(parser: &Parser<'_, '_>, id: Id) -> Option<Uuid> {
    match parser.nodes.node(id) {
        Node::Bytes(bytes) => Uuid::from_slice(bytes).ok(),
        _ => None,
    }
}
