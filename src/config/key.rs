//! The keys of a configuration: one for each field that can be set, named as the field and its setter.
//!
//! A field that is neither a key nor said to be none does not compile; so this is the only list.

use super::kind::{
    Backoff, Budget, Bytes, Count, Credit, Flag, Kind, Limit, List, Maybe, Path, Text, Time, Unwritable, Variables,
    Word,
};
use super::{Affinity, Config, LogLevel, MessageLogLevel, OnWorkerLost, PoolConfig, StartMethod};
use crate::error::Result;
use crate::id::PoolName;
use serde::ser::{Error as _, SerializeMap};
use serde::{Serialize, Serializer};
use toml::Value;

/// The key of the pools, beside those of [`Config::KEYS`].
pub(super) const POOLS: &str = "pools";
/// The key of a pool's name, beside those of [`PoolConfig::KEYS`].
pub(super) const NAME: &str = "name";

/// One key of a `C`, and the kind of setting that stands under it.
pub(super) struct Key<C> {
    pub(super) name: &'static str,
    expected: fn() -> String,
    read: fn(&mut C, &Value) -> Option<()>,
    read_text: fn(&mut C, &str) -> Option<()>,
    write: fn(&C) -> Result<Option<Value>, Unwritable>,
}

impl<C> Key<C> {
    /// # Errors
    /// What is wrong, as the end of a sentence that begins with the key.
    pub(super) fn set(&self, config: &mut C, value: &Value) -> Result<(), String> {
        (self.read)(config, value).ok_or_else(|| self.wrong(&value.to_string()))
    }

    /// # Errors
    /// As [`Self::set`].
    pub(super) fn set_text(&self, config: &mut C, text: &str) -> Result<(), String> {
        (self.read_text)(config, text).ok_or_else(|| self.wrong(&format!("{text:?}")))
    }

    fn wrong(&self, found: &str) -> String {
        let mut short: String = found.chars().take(MOST_SHOWN).collect();
        if short.len() < found.len() {
            short.push('…');
        }
        format!("is {short}, expected {}", (self.expected)())
    }
}

/// A value in an error is there to be recognised, not to be read.
const MOST_SHOWN: usize = 80;

/// What has keys.
pub(super) trait Keyed: Sized + 'static {
    /// All of them; tables come last, as TOML wants it.
    const KEYS: &'static [Key<Self>];

    /// The key of that name.
    fn key(name: &str) -> Option<&'static Key<Self>> {
        Self::KEYS.iter().find(|key| key.name == name)
    }
}

macro_rules! keys {
    ($config:ident, no keys: $($other:ident),+; $($key:ident: $kind:ty,)+) => {
        impl Keyed for $config {
            const KEYS: &'static [Key<Self>] = &[$(Key {
                name: stringify!($key),
                expected: <$kind>::expected,
                read: |config, value| <$kind>::read(value).map(|read| config.$key = read),
                read_text: |config, text| <$kind>::read_text(text).map(|read| config.$key = read),
                write: |config| <$kind>::write(&config.$key),
            }),+];
        }

        // Every field is named here, or this does not compile.
        const _: fn(&$config) = |config| {
            let $config { $($other: _,)+ $($key: _,)+ } = config;
        };
    };
}

keys! {
    Config, no keys: pools, loaded;
    default_pool: Maybe<Text<PoolName>>,
    timeout: Maybe<Time>,
    session_ttl: Time,
    max_refs: Limit,
    max_sessions: Limit,
    session_cleanup_log_level: Word<LogLevel>,
    message_log_level: Word<MessageLogLevel>,
    call_events: Flag,
}

keys! {
    PoolConfig, no keys: name, without_lifeline, patches;
    size: Count,
    affinity: Word<Affinity>,
    concurrency: Count,
    max_queue_size: Limit,
    max_queue_bytes: Bytes,
    queue_timeout: Time,
    timeout: Maybe<Time>,
    cancel_grace: Time,
    shutdown_grace: Time,
    retire_grace: Time,
    start_timeout: Time,
    heartbeat: Time,
    max_requests: Limit,
    max_age: Time,
    memory_soft_limit: Bytes,
    memory_hard_limit: Bytes,
    python: Maybe<Path>,
    venv: Maybe<Path>,
    python_path: List<Path>,
    preload: List<Text>,
    init: Maybe<Text>,
    start_method: Word<StartMethod>,
    pid_namespace: Flag,
    on_worker_lost: Word<OnWorkerLost>,
    restart_budget: Maybe<Budget>,
    restart_backoff: Backoff,
    stream_credit: Credit,
    env: Variables,
}

/// Writes what is set, the defaults included.
impl Serialize for Config {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        serialize_keys(self, &mut map)?;
        map.serialize_entry(POOLS, &self.pools)?;
        map.end()
    }
}

/// Writes what is set, the defaults included.
impl Serialize for PoolConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry(NAME, &self.name)?;
        serialize_keys(self, &mut map)?;
        map.end()
    }
}

fn serialize_keys<C: Keyed, M: SerializeMap>(config: &C, map: &mut M) -> Result<(), M::Error> {
    for key in C::KEYS {
        match (key.write)(config) {
            Ok(Some(value)) => map.serialize_entry(key.name, &value)?,
            Ok(None) => {}
            Err(why) => return Err(M::Error::custom(format!("{}: {why}", key.name))),
        }
    }
    Ok(())
}

/// Checks one setting by itself, with the defaults for the others.
///
/// # Errors
/// As [`PoolConfig::validate`].
pub(super) fn wrong_alone(name: &PoolName, set: impl FnOnce(&mut PoolConfig)) -> Result<()> {
    let mut alone = PoolConfig::new(name);
    set(&mut alone);
    alone.validate()
}

/// The known word that was most likely meant.
pub(super) fn nearest<W: AsRef<str>>(word: &str, known: impl IntoIterator<Item = W>) -> Option<W> {
    let distance = |known: &W| strsim::osa_distance(word, known.as_ref());
    let nearest = known.into_iter().min_by_key(distance)?;
    // More than a third of the letters wrong is another word.
    let likely = distance(&nearest) * 3 <= word.len().max(nearest.as_ref().len());
    likely.then_some(nearest)
}

/// The words, each in its quotes, as a list in a sentence.
pub(super) fn quoted<'w>(words: impl IntoIterator<Item = &'w str>) -> String {
    let words: Vec<_> = words.into_iter().map(|word| format!("`{word}`")).collect();
    words.join(", ")
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
mod tests {
    use super::*;

    const GUIDE: &str = include_str!("../../docs/guide/configuration.md");

    /// The first block of TOML in the guide; it has every key.
    fn example() -> &'static str {
        let (_, rest) = GUIDE.split_once("```toml\n").expect("the guide has an example");
        rest.split_once("```").expect("the example ends").0
    }

    /// The setters of a file: what takes `mut self`.
    fn setters(source: &str) -> Vec<&str> {
        let functions = source.lines().filter_map(|line| line.trim_start().strip_prefix("pub fn "));
        let setters = functions.filter(|function| function.contains("(mut self"));
        setters
            .filter_map(|setter| setter.split(['(', '<']).next())
            .filter(|name| !name.ends_with("_for_tests"))
            .collect()
    }

    fn names<C: Keyed>(besides: &[&'static str]) -> Vec<&'static str> {
        let mut names: Vec<_> = C::KEYS.iter().map(|key| key.name).chain(besides.iter().copied()).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn every_setter_has_a_key_of_its_name() {
        let mut pool = setters(include_str!("pool.rs"));
        pool.sort_unstable();
        assert_eq!(pool, names::<PoolConfig>(&[]));
        let mut bridge = setters(include_str!("mod.rs"));
        bridge.sort_unstable();
        assert_eq!(bridge, names::<Config>(&["pool"]));
    }

    #[test]
    fn the_example_of_the_guide_sets_every_key_to_something_else_than_its_default() {
        let config = Config::from_toml(example()).unwrap();
        differs(&config, &Config::new());
        let pool = &config.pools[0];
        // Its default depends on the machine.
        differs(pool, &PoolConfig::new(&pool.name).size(0));
        config.validate().unwrap();
    }

    fn differs<C: Keyed>(config: &C, default: &C) {
        for key in C::KEYS {
            assert_ne!((key.write)(config).unwrap(), (key.write)(default).unwrap(), "{}", key.name);
        }
    }

    #[test]
    fn what_is_written_is_read_again_as_it_was() {
        for text in [example(), "", "timeout = 'none'\n[[pools]]\nname = 'a'\nmax_queue_size = 'none'"] {
            let config = Config::from_toml(text).unwrap();
            let written = toml::to_string(&config).unwrap();
            let again = Config::from_toml(&written).unwrap();
            assert_eq!(format!("{again:?}"), format!("{config:?}"), "{written}");
            let json = serde_json::to_string(&config).unwrap();
            let again: Config = serde_json::from_str(&json).unwrap();
            assert_eq!(format!("{again:?}"), format!("{config:?}"), "{json}");
        }
    }

    #[test]
    fn what_has_no_form_in_toml_is_an_error_that_names_the_key() {
        use std::os::unix::ffi::OsStringExt;
        let path = std::ffi::OsString::from_vec(vec![b'/', 0xff]);
        let error = toml::to_string(&PoolConfig::new("a").venv(path)).unwrap_err();
        assert!(error.to_string().contains("venv: a path that is not UTF-8"), "{error}");
    }

    /// The guide has a row `| key | value | default | meaning |` for each key.
    #[test]
    fn the_guide_has_each_key_with_its_default() {
        let (bridge, pool) = GUIDE.split_once("## Keys of a pool").expect("the guide has both tables");
        rows(bridge, &Config::new());
        rows(pool, &PoolConfig::new("a"));
    }

    fn rows<C: Keyed>(page: &str, default: &C) {
        for key in C::KEYS {
            let row = page.lines().find(|line| line.starts_with(&format!("| `{}` |", key.name)));
            let row = row.unwrap_or_else(|| panic!("no row for {}", key.name));
            let told = row.split('|').nth(3).expect("a column for the default").trim();
            match (key.write)(default).unwrap() {
                // That of the machine.
                Some(_) if key.name == "size" => assert_eq!(told, "the number of cores"),
                Some(value) => assert_eq!(told, format!("`{value}`"), "{}", key.name),
                None => assert!(!told.is_empty() && !told.contains('`'), "{}", key.name),
            }
        }
    }

    #[test]
    fn the_nearest_word_is_the_one_that_was_meant_or_none() {
        let known = ["timeout", "max_refs", "size"];
        for (word, meant) in
            [("tiemout", Some("timeout")), ("max_ref", Some("max_refs")), ("sizes", Some("size")), ("colour", None)]
        {
            assert_eq!(nearest(word, known), meant, "{word}");
        }
    }
}
