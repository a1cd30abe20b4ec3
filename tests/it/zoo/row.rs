//! A row of the zoo's tables, and how what came of it is compared with what it says.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use snakebridge::{Error, Ran, Value};
use std::collections::BTreeMap;
use std::path::Path;

/// The name of the row to play.
pub(super) const CHOICE: &str = "SNAKEBRIDGE_ZOO";

/// A case, a section of a table. Its Python sees what `tests/py/zoo.py` defines.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Row {
    /// Of the section.
    #[serde(skip)]
    pub(super) name: String,
    /// Statements that run first, and must succeed.
    #[serde(default)]
    pub(super) setup: String,
    /// The expression whose evaluation is the case.
    pub(super) call: String,
    /// What the caller is told, and what becomes of the worker: see [`compare`].
    outcome: String,
    #[serde(default)]
    pub(super) asked: Asked,
    /// If there are, the value of the expression is a function, which is called with so many bytes.
    #[serde(default)]
    pub(super) bytes: usize,
    /// Whether the call does not end by itself: it gets a deadline.
    #[serde(default)]
    pub(super) stuck: bool,
    /// The concurrency of the worker; it is played once for each.
    #[serde(default = "one")]
    pub(super) concurrency: Vec<usize>,
    /// How many processes it leaves in a worker that lives. They end with it.
    #[serde(default)]
    pub(super) leaves: usize,
    /// Whether the worker dies of the end of the session.
    #[serde(default)]
    pub(super) dies_later: bool,
    /// Whether it takes too long to be played twice.
    #[serde(default)]
    pub(super) once: bool,
}

fn one() -> Vec<usize> {
    vec![1]
}

/// What the call is asked for.
#[derive(Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Asked {
    #[default]
    Value,
    /// A list of whatever it is.
    List,
    /// By value, as a list of numbers.
    Numbers,
    /// By value, as a list of what has fields that are numbers.
    Fields,
    /// By value, as a text.
    Text,
    /// By value, as bytes, of which only the length is told.
    Length,
    /// A stream, which is dropped after two items.
    Stream,
}

/// What becomes of the worker.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Fate {
    Lives,
    Dies,
}

/// The rows of a table that are to be played.
pub(super) fn rows(table: &str) -> Vec<Row> {
    let rows: BTreeMap<String, Row> = sections(table);
    rows.into_iter().map(|(name, row)| Row { name, ..row }).filter(|row| chosen(&row.name)).collect()
}

/// A table, section by section.
pub(super) fn sections<T: DeserializeOwned>(table: &str) -> BTreeMap<String, T> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/zoo").join(table).with_extension("toml");
    toml::from_str(&std::fs::read_to_string(path).unwrap()).unwrap_or_else(|error| panic!("{table}: {error}"))
}

/// Whether a row is to be played: all are, unless one was chosen.
pub(super) fn chosen(name: &str) -> bool {
    std::env::var(CHOICE).map_or(true, |choice| choice == name)
}

/// Whether a busy machine leaves nothing to compare: the deadline passed before the call had begun.
pub(super) fn untold(outcome: &Result<Value, Error>) -> bool {
    outcome.as_ref().is_err_and(|error| error.code() == "timeout" && error.ran() == Ran::No)
}

/// Compares with what a row says: `value` and Python's `repr` of it, with objects as `<type>`; `python`, the
/// type of the exception, and maybe after a colon a part of its message; or the code of an error and a part of
/// its text. After a comma `lives` or `dies` is the fate of the worker, where it does not follow from the rest.
/// ` | ` stands between what different versions of Python do.
pub(super) fn compare(outcome: &Result<Value, Error>, row: &Row) -> Result<Fate, String> {
    let found = row.outcome.split(" | ").find_map(|said| fits(outcome, said));
    found.ok_or_else(|| format!("it came to `{}`, not to `{}`", tell(outcome), row.outcome))
}

fn fits(outcome: &Result<Value, Error>, said: &str) -> Option<Fate> {
    let (said, fate) = match said.rsplit_once(", ") {
        Some((said, "lives")) => (said, Fate::Lives),
        Some((said, "dies")) => (said, Fate::Dies),
        _ if said.starts_with("worker_crashed") || said.starts_with("protocol") => (said, Fate::Dies),
        _ => (said, Fate::Lives),
    };
    let (code, rest) = said.split_once(' ').unwrap_or((said, ""));
    let fits = match outcome {
        Ok(value) => code == "value" && show(value) == rest,
        Err(Error::Python(error)) => {
            let (kind, message) = rest.split_once(": ").unwrap_or((rest, ""));
            code == "python" && error.type_name() == kind && error.message().contains(message)
        }
        // Each of them had begun.
        Err(error) => code == error.code() && error.ran() != Ran::No && error.to_string().contains(rest),
    };
    fits.then_some(fate)
}

fn tell(outcome: &Result<Value, Error>) -> String {
    let text = match outcome {
        Ok(value) => format!("value {}", show(value)),
        Err(Error::Python(error)) => format!("python {}: {}", error.type_name(), error.message()),
        Err(error) => format!("{} {error}", error.code()),
    };
    text.chars().take(500).collect()
}

fn show(value: &Value) -> String {
    match value {
        Value::Ref(object) | Value::Stream(object) => format!("<{}>", object.type_name()),
        Value::List(items) => format!("[{}]", items.iter().map(show).collect::<Vec<_>>().join(", ")),
        value => value.to_string(),
    }
}
