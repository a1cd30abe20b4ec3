//! Why a value does not fit, and where.

use crate::error::{ConvertError, Ran};
use crate::value::{Tree, Value, View, describe};
use serde::de::{self, Expected, Unexpected};
use std::fmt;

/// Why a value does not fit, with the place where it stands once that is known.
#[derive(Debug)]
pub(crate) struct DeError(Box<Misfit>);

#[derive(Debug)]
struct Misfit {
    expected: String,
    found: Option<String>,
    why: Option<String>,
    path: Option<String>,
}

impl DeError {
    pub(super) fn new(expected: impl Into<String>) -> Self {
        Self(Box::new(Misfit { expected: expected.into(), found: None, why: None, path: None }))
    }

    /// The innermost place that an error passes is where it happened.
    #[cold]
    pub(super) fn at<'de, N: Tree<'de>>(mut self, path: &[Segment<N>], node: N) -> Self {
        if self.0.path.is_none() {
            self.0.path = Some(render(path));
            self.0.found = Some(describe(node));
        }
        self
    }

    pub(crate) fn into_convert(self, ran: Ran) -> ConvertError {
        let Misfit { expected, found, why, path } = *self.0;
        let mut found = found.unwrap_or_else(|| "something else".to_owned());
        if let Some(why) = why {
            found = format!("{found} ({why})");
        }
        ConvertError { path: path.unwrap_or_default(), expected, found, ran, function: None }
    }
}

impl fmt::Display for DeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "expected {}", self.0.expected)
    }
}

impl std::error::Error for DeError {}

impl de::Error for DeError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        let mut error = Self::new("a value that the type accepts");
        error.0.why = Some(message.to_string());
        error
    }

    fn invalid_type(_: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::new(expected.to_string())
    }

    fn invalid_value(_: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::new(expected.to_string())
    }

    fn invalid_length(_: usize, expected: &dyn Expected) -> Self {
        Self::new(expected.to_string())
    }

    fn unknown_variant(_: &str, variants: &'static [&'static str]) -> Self {
        Self::new(format!("one of {}", quoted(variants)))
    }

    fn unknown_field(_: &str, fields: &'static [&'static str]) -> Self {
        Self::new(format!("no key but {}", quoted(fields)))
    }

    fn missing_field(field: &'static str) -> Self {
        Self::new(format!("a key `{field}`"))
    }

    fn duplicate_field(field: &'static str) -> Self {
        Self::new(format!("the key `{field}` once"))
    }
}

fn quoted(names: &[&str]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

/// A step of the way to a place.
#[derive(Clone, Copy)]
pub(super) enum Segment<N> {
    Index(usize),
    Key(N),
}

fn render<'de, N: Tree<'de>>(path: &[Segment<N>]) -> String {
    use fmt::Write;
    let mut out = String::new();
    for segment in path {
        let written = match segment {
            Segment::Index(position) => write!(out, "[{position}]"),
            Segment::Key(key) => match key.view() {
                View::Str(name) if is_identifier(name) => write!(out, ".{name}"),
                View::Str(name) => write!(out, "[{}]", Value::Str(name.chars().take(60).collect())),
                View::Int(number) => write!(out, "[{number}]"),
                _ => write!(out, "[{}]", describe(*key)),
            },
        };
        written.expect("writing to a String does not fail");
    }
    if out.starts_with('.') { out.split_off(1) } else { out }
}

fn is_identifier(name: &str) -> bool {
    !name.starts_with(|c: char| c.is_ascii_digit())
        && !name.is_empty()
        && name.len() <= 60
        && name.chars().all(|c| c.is_alphanumeric() || c == '_')
}
