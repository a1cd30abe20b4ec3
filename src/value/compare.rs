//! When two values are equal. No recursion: a value may be deeper than the stack.

use super::Value;
use num_bigint::BigInt;
use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::mem::discriminant;

impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        let mut todo = vec![(self, other)];
        while let Some((left, right)) = todo.pop() {
            match (left, right) {
                (Self::List(left), Self::List(right)) | (Self::Tuple(left), Self::Tuple(right)) => {
                    if left.len() != right.len() {
                        return false;
                    }
                    todo.extend(left.iter().zip(right));
                }
                (Self::Set(left), Self::Set(right)) | (Self::FrozenSet(left), Self::FrozenSet(right)) => {
                    let Some(pairs) = matched(left.iter(), right.iter(), |item| item) else { return false };
                    todo.extend(pairs);
                }
                (Self::Dict(left), Self::Dict(right)) => {
                    let Some(pairs) = matched(left.iter(), right.iter(), |(key, _)| key) else { return false };
                    for ((left_key, left), (right_key, right)) in pairs {
                        todo.push((left_key, right_key));
                        todo.push((left, right));
                    }
                }
                (left, right) => {
                    if !same_leaf(left, right) {
                        return false;
                    }
                }
            }
        }
        true
    }
}

/// Each entry on the left with the one of the right whose key has the same fingerprint.
///
/// Keys that differ have the same fingerprint once in 2^64 pairs; the comparison of the keys that
/// follows then says "different", which is wrong only for entries in another order.
fn matched<'a, E>(
    left: std::slice::Iter<'a, E>,
    right: std::slice::Iter<'a, E>,
    key: impl Fn(&'a E) -> &'a Value,
) -> Option<Vec<(&'a E, &'a E)>> {
    if left.len() != right.len() {
        return None;
    }
    let mut by_key: HashMap<u64, Vec<&'a E>> = HashMap::new();
    for entry in right {
        by_key.entry(fingerprint(key(entry))).or_default().push(entry);
    }
    left.map(|entry| Some((entry, by_key.get_mut(&fingerprint(key(entry)))?.pop()?))).collect()
}

fn same_leaf(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::None, Value::None) => true,
        (Value::Bool(left), Value::Bool(right)) => left == right,
        (Value::Int(left), Value::Int(right)) => left == right,
        // A small BigInt can only be made by hand; it is the same number.
        (Value::Int(left), Value::BigInt(right)) | (Value::BigInt(right), Value::Int(left)) => {
            *right == BigInt::from(*left)
        }
        (Value::BigInt(left), Value::BigInt(right)) => left == right,
        (Value::Float(left), Value::Float(right)) => left == right,
        (Value::Complex { re, im }, Value::Complex { re: re2, im: im2 }) => re == re2 && im == im2,
        (Value::Str(left), Value::Str(right)) => left == right,
        (Value::Bytes(left), Value::Bytes(right)) => left == right,
        (Value::DateTime(left), Value::DateTime(right)) => left == right,
        (Value::DateTimeTz(left), Value::DateTimeTz(right)) => left == right,
        (Value::Date(left), Value::Date(right)) => left == right,
        (Value::Time(left), Value::Time(right)) => left == right,
        (Value::TimeDelta(left), Value::TimeDelta(right)) => left == right,
        (Value::Decimal(left), Value::Decimal(right)) => left == right,
        (Value::Uuid(left), Value::Uuid(right)) => left == right,
        (Value::Ref(left), Value::Ref(right)) | (Value::Stream(left), Value::Stream(right)) => left == right,
        _ => false,
    }
}

/// The same for equal values. Unordered containers add up the fingerprints of their items.
pub(super) fn fingerprint(value: &Value) -> u64 {
    // Each part is hashed with the path to it; a path through a set or dict has no position in it.
    let mut sum = 0_u64;
    let mut todo = vec![(value, 0_u64)];
    while let Some((value, path)) = todo.pop() {
        let mut hasher = DefaultHasher::new();
        path.hash(&mut hasher);
        hash_leaf(value, &mut hasher);
        let here = hasher.finish();
        sum = sum.wrapping_add(here);
        let below = |position: u64| here.rotate_left(1).wrapping_add(position.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        match value {
            Value::List(items) | Value::Tuple(items) => {
                todo.extend(items.iter().zip(0..).map(|(item, position)| (item, below(position))));
            }
            Value::Set(items) | Value::FrozenSet(items) => todo.extend(items.iter().map(|item| (item, below(0)))),
            Value::Dict(dict) => {
                for (key, value) in dict {
                    todo.push((key, below(0)));
                    todo.push((value, below(1)));
                }
            }
            _ => {}
        }
    }
    sum
}

fn hash_leaf(value: &Value, hasher: &mut DefaultHasher) {
    let float = |value: f64| if value == 0.0 { 0 } else { value.to_bits() };
    match value {
        Value::BigInt(_) => discriminant(&Value::Int(0)).hash(hasher),
        value => discriminant(value).hash(hasher),
    }
    match value {
        Value::None => {}
        Value::Bool(value) => value.hash(hasher),
        Value::Int(value) => BigInt::from(*value).hash(hasher),
        Value::BigInt(value) => value.hash(hasher),
        Value::Float(value) => float(*value).hash(hasher),
        Value::Complex { re, im } => (float(*re), float(*im)).hash(hasher),
        Value::Str(value) => value.hash(hasher),
        Value::Bytes(value) => value.hash(hasher),
        Value::List(items) | Value::Tuple(items) | Value::Set(items) | Value::FrozenSet(items) => {
            items.len().hash(hasher);
        }
        Value::Dict(dict) => dict.len().hash(hasher),
        Value::DateTime(value) => value.hash(hasher),
        Value::DateTimeTz(value) => value.hash(hasher),
        Value::Date(value) => value.hash(hasher),
        Value::Time(value) => value.hash(hasher),
        Value::TimeDelta(value) => value.hash(hasher),
        Value::Decimal(value) => value.hash(hasher),
        Value::Uuid(value) => value.hash(hasher),
        Value::Ref(handle) | Value::Stream(handle) => handle.id().hash(hasher),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Dict;

    fn dict(entries: &[(&str, i64)]) -> Value {
        Value::Dict(entries.iter().map(|(key, value)| (*key, *value)).collect())
    }

    #[test]
    fn dicts_and_sets_are_equal_in_any_order_and_lists_are_not() {
        assert_eq!(dict(&[("a", 1), ("b", 2)]), dict(&[("b", 2), ("a", 1)]));
        assert_ne!(dict(&[("a", 1), ("b", 2)]), dict(&[("a", 2), ("b", 1)]));
        let set = |items: &[i64]| Value::FrozenSet(items.iter().map(|item| Value::Int(*item)).collect());
        assert_eq!(Value::Set(vec![set(&[1, 2]), set(&[3])]), Value::Set(vec![set(&[3]), set(&[2, 1])]));
        assert_ne!(set(&[1, 2]), set(&[1, 3]));
        assert_ne!(Value::from(vec![1, 2]), Value::from(vec![2, 1]));
    }

    #[test]
    fn kinds_are_never_equal_to_one_another() {
        assert_ne!(Value::Int(1), Value::Float(1.0));
        assert_ne!(Value::Int(1), Value::Bool(true));
        assert_ne!(Value::List(vec![]), Value::Tuple(vec![]));
        assert_ne!(Value::Float(f64::NAN), Value::Float(f64::NAN));
        assert_eq!(Value::Int(5), Value::BigInt(5.into()));
    }

    #[test]
    fn a_dict_with_ten_thousand_keys_is_built_and_compared_at_once() {
        let forth: Dict = (0..10_000).map(|key| (key, key)).collect();
        let back: Dict = (0..10_000).rev().map(|key| (key, key)).collect();
        assert_eq!(Value::Dict(forth), Value::Dict(back));
    }

    #[test]
    fn a_later_entry_of_the_same_key_replaces_the_earlier() {
        let dict: Dict = [("a", 1), ("b", 2), ("a", 3)].into_iter().collect();
        assert_eq!(Value::Dict(dict).to_string(), "{'a': 3, 'b': 2}");
    }
}
