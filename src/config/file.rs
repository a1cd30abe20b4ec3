//! A configuration as TOML: what stands where, and what is wrong in which line.

use super::key::{Keyed, NAME, POOLS, nearest, quoted, wrong_alone};
use super::{Config, PoolConfig};
use crate::error::{Error, Result};
use crate::id::PoolName;
use serde::de::IntoDeserializer;
use serde::{Deserialize, Deserializer};
use std::ops::Range;
use std::path::Path;
use toml::de::{DeTable, DeValue};
use toml::{Spanned, Value};

impl Config {
    /// Reads a configuration from TOML: a key for each setter, and a table `[[pools]]` for each pool.
    ///
    /// Durations are text (`"500ms"`, `"1h 30m"`), sizes are numbers of bytes or text (`"64 MiB"`),
    /// and `"none"` means that there is no limit. What is not there has its default. Variables of
    /// the environment are not looked at: see [`with_env`](Self::with_env).
    ///
    /// ```
    /// use snakebridge::Config;
    ///
    /// # fn main() -> snakebridge::Result<()> {
    /// let config = Config::from_toml(
    ///     r#"
    ///     timeout = "30s"
    ///
    ///     [[pools]]
    ///     name = "models"
    ///     size = 2
    ///     affinity = "strict_queue"
    ///     "#,
    /// )?;
    /// let error = Config::from_toml("tiemout = '30s'").unwrap_err();
    /// assert_eq!(error.to_string(), "line 1: unknown key `tiemout`; did you mean `timeout`?");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// `Config`, with the line: for what is no TOML, an unknown key, a value that is not what the key
    /// wants, a pool without a name, and two of one name.
    pub fn from_toml(text: &str) -> Result<Self> {
        Source { place: Place::Text, text }.read()
    }

    /// Reads a configuration from a file of TOML, as [`from_toml`](Self::from_toml), and applies the
    /// variables of the environment to it, as [`with_env`](Self::with_env).
    ///
    /// ```no_run
    /// use snakebridge::{Config, SnakeBridge};
    ///
    /// # #[actix::main]
    /// # async fn main() -> snakebridge::Result<()> {
    /// let py = SnakeBridge::from_config(Config::from_toml_file("snakebridge.toml")?).await?;
    /// # py.shutdown().await
    /// # }
    /// ```
    ///
    /// # Errors
    /// `Config`, with file and line, or with the variable; also for a file that cannot be read.
    pub fn from_toml_file(path: impl AsRef<Path>) -> Result<Self> {
        Self::read_file(path.as_ref())?.with_env()
    }

    fn read_file(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| Error::config(format!("{} cannot be read: {error}", path.display())))?;
        Source { place: Place::File(path), text: &text }.read()
    }
}

/// Reads what [`Config::from_toml`] does, from any format: a configuration may be part of a larger one.
impl<'de> Deserialize<'de> for Config {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error as _;
        let table = toml::Table::deserialize(deserializer)?;
        let text = toml::to_string(&table).map_err(D::Error::custom)?;
        Source { place: Place::Elsewhere, text: &text }.read().map_err(D::Error::custom)
    }
}

/// Where a text stands, for its errors.
enum Place<'a> {
    File(&'a Path),
    Text,
    /// In something larger, whose reader knows the line.
    Elsewhere,
}

struct Source<'a> {
    place: Place<'a>,
    text: &'a str,
}

/// A key, its value, and where they stand.
struct Entry {
    key: String,
    at: Range<usize>,
    value: Value,
}

impl Source<'_> {
    fn read(&self) -> Result<Config> {
        let document = DeTable::parse(self.text).map_err(|error| self.syntax(&error))?;
        let mut config = Config::new();
        for (key, value) in in_order(document.into_inner()) {
            if key.get_ref() == POOLS {
                self.read_pools(&mut config, value)?;
                continue;
            }
            let entry = self.entry(key.span(), key.into_inner().into_owned(), value)?;
            self.set(&mut config, &entry, POOLS, "")?;
        }
        Ok(config)
    }

    fn read_pools(&self, config: &mut Config, pools: Spanned<DeValue<'_>>) -> Result<()> {
        let at = pools.span();
        let DeValue::Array(pools) = pools.into_inner() else {
            return Err(self.error(at, "`pools` is not a list, expected a table [[pools]] for each pool"));
        };
        let mut lines = Vec::<usize>::new();
        for pool in pools {
            let at = pool.span();
            let DeValue::Table(table) = pool.into_inner() else {
                return Err(self.error(at, "a pool is not a table, expected [[pools]] and its keys"));
            };
            let pool = self.read_pool(at.clone(), table)?;
            if let Some(first) = config.pools.iter().position(|known| known.name == pool.name) {
                let what = format!("two pools are named `{}`, the first in line {}", pool.name, lines[first]);
                return Err(self.error(at, &what));
            }
            lines.push(self.line(at.start));
            config.loaded.insert(pool.name.clone());
            config.pools.push(pool);
        }
        Ok(())
    }

    fn read_pool(&self, at: Range<usize>, table: DeTable<'_>) -> Result<PoolConfig> {
        let mut entries = Vec::new();
        for (key, value) in in_order(table) {
            entries.push(self.entry(key.span(), key.into_inner().into_owned(), value)?);
        }
        let Some(named) = entries.iter().position(|entry| entry.key == NAME) else {
            return Err(self.error(at, "a pool has no `name`"));
        };
        let named = entries.remove(named);
        let name: PoolName = match named.value.as_str() {
            Some("") => return Err(self.error(named.at, "a pool has an empty name")),
            Some(name) => name.into(),
            None => return Err(self.error(named.at, &format!("`name` is {}, expected a text", named.value))),
        };
        let mut pool = PoolConfig::new(&name);
        for entry in &entries {
            self.set(&mut pool, entry, NAME, &format!(" in pool `{name}`"))?;
        }
        pool.validate().map_err(|error| {
            let guilty = entries.iter().find_map(|entry| {
                let set = |alone: &mut PoolConfig| {
                    self.set(alone, entry, NAME, "").expect("it could be set above");
                };
                Some((entry.at.clone(), wrong_alone(&name, set).err()?))
            });
            let (at, error) = guilty.unwrap_or((at, error));
            self.error(at, &error.to_string())
        })?;
        Ok(pool)
    }

    /// `besides` is a key that is read elsewhere, for the error of one that is not known.
    fn set<C: Keyed>(&self, config: &mut C, entry: &Entry, besides: &str, of: &str) -> Result<()> {
        let Some(key) = C::key(&entry.key) else {
            let known = || C::KEYS.iter().map(|key| key.name).chain([besides]);
            let what = match nearest(&entry.key, known()) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => format!("known are {}", quoted(known())),
            };
            return Err(self.error(entry.at.clone(), &format!("unknown key `{}`{of}; {what}", entry.key)));
        };
        key.set(config, &entry.value)
            .map_err(|wrong| self.error(entry.at.clone(), &format!("`{}`{of} {wrong}", key.name)))
    }

    fn entry(&self, at: Range<usize>, key: String, value: Spanned<DeValue<'_>>) -> Result<Entry> {
        let value = Value::deserialize(value.into_deserializer()).map_err(|error| self.syntax(&error))?;
        Ok(Entry { key, at, value })
    }

    fn syntax(&self, error: &toml::de::Error) -> Error {
        self.error(error.span().unwrap_or_default(), error.message())
    }

    fn error(&self, at: Range<usize>, what: &str) -> Error {
        let line = self.line(at.start);
        Error::config(match self.place {
            Place::File(path) => format!("{}:{line}: {what}", path.display()),
            Place::Text => format!("line {line}: {what}"),
            Place::Elsewhere => what.to_owned(),
        })
    }

    /// The line of that byte, from 1.
    fn line(&self, at: usize) -> usize {
        1 + self.text.bytes().take(at).filter(|byte| *byte == b'\n').count()
    }
}

/// As they stand in the text, so that the first error is the one that is told.
fn in_order<'i>(table: DeTable<'i>) -> Vec<(Spanned<std::borrow::Cow<'i, str>>, Spanned<DeValue<'i>>)> {
    let mut entries: Vec<_> = table.into_iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    entries
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
mod tests {
    use super::*;
    use crate::config::{Affinity, LogLevel};
    use std::time::Duration;

    fn error(text: &str) -> String {
        let source = Source { place: Place::File(Path::new("config.toml")), text };
        let error = source.read().unwrap_err();
        assert_eq!(error.code(), "config");
        error.to_string()
    }

    #[test]
    fn what_stands_there_is_set_and_the_rest_has_its_default() {
        let text = "max_sessions = 5\nsession_cleanup_log_level = 'debug'\n\
                    [[pools]]\nname = 'a'\naffinity = 'strict_fail_fast'\nqueue_timeout = '250ms'\n[[pools]]\nname = 'b'";
        let config = Config::from_toml(text).unwrap();
        assert_eq!((config.max_sessions, config.max_refs), (5, 10_000));
        assert_eq!(config.session_cleanup_log_level, LogLevel::Debug);
        let [a, b] = config.pools.as_slice() else { panic!("two pools") };
        assert_eq!((a.affinity, a.queue_timeout), (Affinity::StrictFailFast, Duration::from_millis(250)));
        assert_eq!(format!("{b:?}"), format!("{:?}", PoolConfig::new("b")));
        assert_eq!(config.default_pool_name(), "a");
    }

    #[test]
    fn an_unknown_key_is_told_with_its_line_and_the_nearest_one() {
        let text = "timeout = '1s'\n\n[[pools]]\nname = 'a'\n\n# more\nmax_quee_size = 3\n";
        assert_eq!(
            error(text),
            "config.toml:7: unknown key `max_quee_size` in pool `a`; did you mean `max_queue_size`?"
        );
        assert_eq!(error("max_ref = 3"), "config.toml:1: unknown key `max_ref`; did you mean `max_refs`?");
        assert_eq!(error("[[pool]]\nname = 'a'"), "config.toml:1: unknown key `pool`; did you mean `pools`?");
        assert_eq!(
            error("[[pools]]\nname = 'a'\nnam = 'a'"),
            "config.toml:3: unknown key `nam` in pool `a`; did you mean `name`?"
        );
        let told = error("colour = 3");
        assert!(
            told.starts_with("config.toml:1: unknown key `colour`; known are `default_pool`, `timeout`, "),
            "{told}"
        );
    }

    #[test]
    fn the_first_error_of_the_text_is_the_one_that_is_told() {
        assert!(error("zzz = 1\naaa = 1").starts_with("config.toml:1: unknown key `zzz`"));
    }

    #[test]
    fn a_wrong_value_is_told_with_its_line_and_what_was_expected() {
        for (line, expected) in [
            ("size = '2'", "`size` in pool `a` is \"2\", expected a whole number"),
            ("size = -1", "`size` in pool `a` is -1, expected a whole number"),
            ("size = 0", "pool a: size is 0, it needs at least one worker"),
            (
                "affinity = 'strict'",
                "`affinity` in pool `a` is \"strict\", expected one of `hint`, `strict_queue`, `strict_fail_fast`",
            ),
            ("init = 'warm'", "pool a: init is not of the form module:function"),
            ("preload = ['json', 3]", "`preload` in pool `a` is [\"json\", 3], expected a text, or a list of them"),
            (
                "timeout = 30",
                "`timeout` in pool `a` is 30, expected a duration as text, such as \"500ms\", \"10s\" or \"1h 30m\", or \"none\" for no limit",
            ),
            (
                "max_queue_bytes = '64 Mb'",
                "`max_queue_bytes` in pool `a` is \"64 Mb\", expected a number of bytes, as a whole number or as text such as \"64 MiB\", or \"none\" for no limit",
            ),
            (
                "restart_budget = { deaths = 3 }",
                "`restart_budget` in pool `a` is { deaths = 3 }, expected a table such as { deaths = 10, within = \"60s\" }",
            ),
        ] {
            assert_eq!(error(&format!("[[pools]]\nname = 'a'\n{line}\n")), format!("config.toml:3: {expected}"));
        }
        // Of two keys neither is the wrong one.
        assert_eq!(
            error("[[pools]]\nname = 'a'\nmemory_soft_limit = '2 GiB'\nmemory_hard_limit = '2 GiB'"),
            "config.toml:1: pool a: memory_soft_limit is not below memory_hard_limit, a worker would be killed before it is replaced"
        );
        assert!(error("max_refs = true").starts_with("config.toml:1: `max_refs` is true, expected a whole number"));
    }

    #[test]
    fn a_pool_has_a_name_of_its_own() {
        let twice = "[[pools]]\nname = 'a'\n\n[[pools]]\nname = 'b'\n[[pools]]\nname = 'a'";
        assert_eq!(error(twice), "config.toml:6: two pools are named `a`, the first in line 1");
        assert_eq!(error("\n[[pools]]\nsize = 2"), "config.toml:2: a pool has no `name`");
        assert_eq!(error("[[pools]]\nname = ''"), "config.toml:2: a pool has an empty name");
        assert_eq!(error("[[pools]]\nname = 3"), "config.toml:2: `name` is 3, expected a text");
        assert_eq!(
            error("[pools]\na = 1"),
            "config.toml:1: `pools` is not a list, expected a table [[pools]] for each pool"
        );
        assert_eq!(error("pools = [1]"), "config.toml:1: a pool is not a table, expected [[pools]] and its keys");
    }

    #[test]
    fn what_is_no_toml_is_told_with_its_line() {
        assert!(error("timeout = '1s'\n[[pools").starts_with("config.toml:2: "));
        assert!(error("timeout = '1s'\ntimeout = '2s'").starts_with("config.toml:2: "));
    }

    #[test]
    fn a_text_that_is_no_file_has_lines_alone() {
        assert_eq!(
            Config::from_toml("\nsizes = 1").unwrap_err().to_string().split(';').next(),
            Some("line 2: unknown key `sizes`")
        );
    }

    #[test]
    fn a_file_that_cannot_be_read_is_told_with_its_path() {
        let error = Config::from_toml_file("/no/such/config.toml").unwrap_err();
        assert_eq!(error.to_string(), "/no/such/config.toml cannot be read: No such file or directory (os error 2)");
    }

    #[test]
    fn a_file_is_read() {
        let path = std::env::temp_dir().join(format!("snakebridge-config-{}.toml", std::process::id()));
        std::fs::write(&path, "max_refs = 3").unwrap();
        let config = Config::read_file(&path);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(config.unwrap().max_refs, 3);
    }

    #[test]
    fn a_configuration_may_be_part_of_a_larger_one() {
        #[derive(Debug, serde::Deserialize)]
        struct Service {
            python: Config,
        }
        let service: Service =
            toml::from_str("[python]\nmax_refs = 3\n[[python.pools]]\nname = 'a'\nsize = 2").unwrap();
        assert_eq!((service.python.max_refs, service.python.pools[0].size), (3, 2));
        let error = toml::from_str::<Service>("[python]\nmax_ref = 3").unwrap_err();
        assert!(error.message().contains("unknown key `max_ref`; did you mean `max_refs`?"), "{error}");
    }

    #[test]
    fn a_pool_from_code_takes_the_place_of_one_from_a_file_and_of_no_other() {
        let file = Config::from_toml("[[pools]]\nname = 'a'\nsize = 2\n[[pools]]\nname = 'b'").unwrap();
        let replaced = file.pool(PoolConfig::new("a").size(7));
        assert_eq!(replaced.pools.iter().map(|pool| (pool.name.as_str(), pool.size)).next(), Some(("a", 7)));
        assert_eq!(replaced.pools.len(), 2);
        replaced.validate().unwrap();
        assert!(replaced.pool(PoolConfig::new("a")).validate().is_err(), "two from code are a mistake");
    }
}
