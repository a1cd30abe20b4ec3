//! A Python `dict`: any key, in the order of insertion.

use super::Value;

/// A Python `dict`: keeps the order of its entries, and takes any key.
///
/// Look-ups walk the entries: for many look-ups in a large dict, extract a `HashMap`.
///
/// ```
/// use snakebridge::{Dict, Value};
///
/// let mut dict = Dict::new();
/// dict.insert("b", 1);
/// dict.insert(2, "two");
/// dict.insert("b", 3);
/// assert_eq!(dict.get(&Value::from(2)), Some(&Value::from("two")));
/// assert_eq!(Value::from(dict).to_string(), "{'b': 3, 2: 'two'}");
/// ```
#[derive(Clone, Default)]
pub struct Dict(pub(super) Vec<(Value, Value)>);

impl Dict {
    /// A dict without entries.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The value of a key.
    pub fn get(&self, key: &Value) -> Option<&Value> {
        self.0.iter().find(|(found, _)| found == key).map(|(_, value)| value)
    }

    /// The value of a `str` key.
    pub fn get_str(&self, key: &str) -> Option<&Value> {
        self.0.iter().find(|(found, _)| found.as_str() == Some(key)).map(|(_, value)| value)
    }

    /// Sets the value of a key, in the key's old place if it has one; returns the value it had.
    pub fn insert(&mut self, key: impl Into<Value>, value: impl Into<Value>) -> Option<Value> {
        let (key, value) = (key.into(), value.into());
        match self.0.iter_mut().find(|(found, _)| *found == key) {
            Some((_, old)) => Some(std::mem::replace(old, value)),
            None => {
                self.0.push((key, value));
                None
            }
        }
    }

    /// The entries, in order.
    pub fn iter(&self) -> std::slice::Iter<'_, (Value, Value)> {
        self.0.iter()
    }

    /// The keys, in order.
    pub fn keys(&self) -> impl Iterator<Item = &Value> {
        self.0.iter().map(|(key, _)| key)
    }

    /// The values, in the order of their keys.
    pub fn values(&self) -> impl Iterator<Item = &Value> {
        self.0.iter().map(|(_, value)| value)
    }
}

impl std::fmt::Debug for Dict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        super::repr::dict(f, self)
    }
}

impl IntoIterator for Dict {
    type Item = (Value, Value);
    type IntoIter = std::vec::IntoIter<(Value, Value)>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a> IntoIterator for &'a Dict {
    type Item = &'a (Value, Value);
    type IntoIter = std::slice::Iter<'a, (Value, Value)>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

/// A later entry replaces an earlier one of the same key.
impl<K: Into<Value>, V: Into<Value>> FromIterator<(K, V)> for Dict {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        // One pass with a set of the keys' fingerprints: inserting one by one is quadratic.
        let mut dict = Self::new();
        let mut seen = std::collections::HashSet::new();
        for (key, value) in entries {
            let (key, value) = (key.into(), value.into());
            if seen.insert(super::compare::fingerprint(&key)) {
                dict.0.push((key, value));
            } else {
                dict.insert(key, value);
            }
        }
        dict
    }
}
