//! Variables of the environment: which setting each means, and which are none of ours.

use super::key::{Key, Keyed, POOLS, nearest, quoted, wrong_alone};
use super::kind::{Kind, List, Text};
use super::{Config, PoolConfig};
use crate::error::{Error, Result};
use crate::id::PoolName;
use std::collections::BTreeMap;
use std::ffi::OsString;

const PREFIX: &str = "SNAKEBRIDGE_";
/// The interpreter of every pool that names none: not a setting of ours, but of the search for one.
const PYTHON: &str = "PYTHON";

impl Config {
    /// The defaults, and what the variables of the environment say: see [`with_env`](Self::with_env).
    ///
    /// ```
    /// use snakebridge::{Config, PoolConfig, SnakeBridge};
    ///
    /// # #[actix::main]
    /// # async fn main() -> snakebridge::Result<()> {
    /// let py = SnakeBridge::builder().config(Config::from_env()?).pool(PoolConfig::new("p").size(1)).start().await?;
    /// # py.shutdown().await
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`with_env`](Self::with_env).
    pub fn from_env() -> Result<Self> {
        Self::new().with_env()
    }

    /// Applies the variables of the environment, which win over what was set before; setters that
    /// are called afterwards win over them.
    ///
    /// `SNAKEBRIDGE_<KEY>` is a setting of the bridge, `SNAKEBRIDGE_POOLS_<NAME>_<KEY>` one of a pool;
    /// key and name in upper case, with `_` for whatever is neither letter nor digit. A duration, a
    /// size, a name or a path stands as it is; of a list the items stand with commas between; a
    /// table is TOML. `SNAKEBRIDGE_POOLS` names pools that are to be there, with commas between.
    ///
    /// ```
    /// use snakebridge::{Config, PoolConfig};
    ///
    /// # fn main() -> snakebridge::Result<()> {
    /// // SNAKEBRIDGE_TIMEOUT=30s SNAKEBRIDGE_POOLS_STRICT_POOL_SIZE=4
    /// let config = Config::new().pool(PoolConfig::new("strict_pool").size(2)).with_env()?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// `Config`, for a value that is not what the setting wants, for a setting of a pool that is not
    /// there, and for a variable that resembles a setting. One that resembles none is somebody else's.
    pub fn with_env(self) -> Result<Self> {
        apply(self, std::env::vars_os())
    }
}

/// What a variable sets.
#[derive(Clone, Copy)]
enum Setting {
    Bridge(&'static Key<Config>),
    Pool(usize, &'static Key<PoolConfig>),
}

fn apply(mut config: Config, variables: impl IntoIterator<Item = (OsString, OsString)>) -> Result<Config> {
    let mut ours = BTreeMap::new();
    for (name, value) in variables {
        let Some(name) = name.to_str().and_then(|name| name.strip_prefix(PREFIX)).filter(|name| *name != PYTHON) else {
            continue;
        };
        ours.insert(name.to_owned(), value);
    }
    if let Some(names) = ours.remove(&upper(POOLS)) {
        let names = text(POOLS, &names)?;
        for name in List::<Text<PoolName>>::read_text(names).ok_or_else(|| not_names(names))? {
            if config.pools.iter().all(|pool| pool.name != name) {
                config.loaded.insert(name.clone());
                config.pools.push(PoolConfig::new(name));
            }
        }
    }
    let settings = settings(&config);
    for (name, value) in &ours {
        let Some(meant) = settings.get(name) else {
            stranger(name, &settings, &config)?;
            continue;
        };
        let &[setting] = meant.as_slice() else {
            let pools = quoted(meant.iter().filter_map(|setting| setting.pool(&config)));
            return Err(Error::config(format!(
                "{PREFIX}{name} may mean any of the pools {pools}: their names are too like"
            )));
        };
        let text = text(name, value)?;
        let wrong = |what: String| Error::config(format!("{PREFIX}{name} {what}"));
        match setting {
            Setting::Bridge(key) => key.set_text(&mut config, text).map_err(wrong)?,
            Setting::Pool(at, key) => {
                let pool = &mut config.pools[at];
                key.set_text(pool, text).map_err(wrong)?;
                let set = |alone: &mut PoolConfig| key.set_text(alone, text).expect("it could be set above");
                wrong_alone(&pool.name, set).map_err(|error| Error::config(format!("{PREFIX}{name}: {error}")))?;
            }
        }
    }
    Ok(config)
}

impl Setting {
    fn pool(self, config: &Config) -> Option<&str> {
        match self {
            Self::Bridge(_) => None,
            Self::Pool(at, _) => Some(config.pools[at].name.as_str()),
        }
    }
}

/// Each variable that means something, without the prefix. Names of pools may make two settings alike.
fn settings(config: &Config) -> BTreeMap<String, Vec<Setting>> {
    let mut settings = BTreeMap::<String, Vec<Setting>>::new();
    for key in Config::KEYS {
        settings.entry(upper(key.name)).or_default().push(Setting::Bridge(key));
    }
    for (at, pool) in config.pools.iter().enumerate() {
        for key in PoolConfig::KEYS {
            let name = format!("{}_{}_{}", upper(POOLS), upper(pool.name.as_str()), upper(key.name));
            settings.entry(name).or_default().push(Setting::Pool(at, key));
        }
    }
    settings
}

/// Lets a variable pass that means no setting, unless it was meant to.
fn stranger(name: &str, settings: &BTreeMap<String, Vec<Setting>>, config: &Config) -> Result<()> {
    let of_a_pool = format!("{}_", upper(POOLS));
    let unknown = |what: String| Err(Error::config(format!("unknown variable {PREFIX}{name}; {what}")));
    if let Some(meant) = nearest(name, settings.keys()) {
        return unknown(format!("did you mean {PREFIX}{meant}?"));
    }
    if name.starts_with(&of_a_pool) {
        return unknown(match config.pools.as_slice() {
            [] => format!("no pool is configured: name the pools in {PREFIX}{}", upper(POOLS)),
            pools => format!("the pools are {}", quoted(pools.iter().map(|pool| pool.name.as_str()))),
        });
    }
    match nearest(name, PoolConfig::KEYS.iter().map(|key| upper(key.name))) {
        Some(meant) => unknown(format!("did you mean {PREFIX}{of_a_pool}<NAME>_{meant}?")),
        None => Ok(()),
    }
}

fn text<'v>(name: &str, value: &'v OsString) -> Result<&'v str> {
    value.to_str().ok_or_else(|| Error::config(format!("{PREFIX}{} is not UTF-8", upper(name))))
}

fn not_names(text: &str) -> Error {
    Error::config(format!("{PREFIX}{} is {text:?}, expected names with commas between", upper(POOLS)))
}

/// A name as it stands in a variable.
fn upper(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
mod tests {
    use super::*;
    use crate::config::Affinity;
    use std::os::unix::ffi::OsStringExt;
    use std::time::Duration;

    fn with(config: Config, variables: &[(&str, &str)]) -> Result<Config> {
        apply(config, variables.iter().map(|(name, value)| (name.into(), value.into())))
    }

    fn pools() -> Config {
        Config::new().pool(PoolConfig::new("a")).pool(PoolConfig::new("strict-pool").size(2))
    }

    fn error(config: Config, name: &str, value: &str) -> String {
        let error = with(config, &[(name, value)]).unwrap_err();
        assert_eq!(error.code(), "config");
        error.to_string()
    }

    #[test]
    fn variables_win_over_what_was_set_before_and_setters_over_them() {
        let before = pools().timeout(Duration::from_secs(1)).max_refs(5);
        let variables = [("SNAKEBRIDGE_TIMEOUT", "30s"), ("SNAKEBRIDGE_MAX_SESSIONS", "7")];
        let config = with(before, &variables).unwrap();
        assert_eq!((config.timeout, config.max_sessions, config.max_refs), (Some(Duration::from_secs(30)), 7, 5));
        assert_eq!(config.max_sessions(8).max_sessions, 8);
    }

    #[test]
    fn a_pool_is_named_in_upper_case_with_underscores() {
        let variables = [
            ("SNAKEBRIDGE_POOLS_STRICT_POOL_SIZE", "4"),
            ("SNAKEBRIDGE_POOLS_STRICT_POOL_AFFINITY", "strict_queue"),
            ("SNAKEBRIDGE_POOLS_STRICT_POOL_PRELOAD", "json,decimal"),
            ("SNAKEBRIDGE_POOLS_STRICT_POOL_ENV", "{ OMP_NUM_THREADS = \"1\" }"),
            ("SNAKEBRIDGE_POOLS_A_MAX_QUEUE_BYTES", "64 MiB"),
            ("SNAKEBRIDGE_POOLS_A_MAX_QUEUE_SIZE", "none"),
        ];
        let config = with(pools(), &variables).unwrap();
        let [a, strict] = config.pools.as_slice() else { panic!("two pools") };
        assert_eq!((strict.size, strict.affinity), (4, Affinity::StrictQueue));
        assert_eq!(strict.preload, ["json", "decimal"]);
        assert_eq!(strict.env, [("OMP_NUM_THREADS".to_owned(), "1".to_owned())]);
        assert_eq!((a.max_queue_bytes, a.max_queue_size), (64 << 20, usize::MAX));
    }

    #[test]
    fn every_key_has_a_variable() {
        let config = pools();
        let settings = settings(&config);
        assert_eq!(settings.len(), Config::KEYS.len() + 2 * PoolConfig::KEYS.len());
        for name in ["SESSION_CLEANUP_LOG_LEVEL", "POOLS_STRICT_POOL_RESTART_BACKOFF"] {
            assert!(settings.contains_key(name), "{name}");
        }
    }

    #[test]
    fn pools_may_be_named_by_a_variable_and_give_way_to_those_from_code() {
        let variables = [("SNAKEBRIDGE_POOLS", "a, b"), ("SNAKEBRIDGE_POOLS_B_SIZE", "3")];
        let config = with(Config::new(), &variables).unwrap();
        let names: Vec<_> = config.pools.iter().map(|pool| pool.name.as_str()).collect();
        assert_eq!((names.as_slice(), config.pools[1].size), (["a", "b"].as_slice(), 3));
        assert_eq!(config.pool(PoolConfig::new("b").size(9)).pools[1].size, 9);
        assert_eq!(with(pools(), &variables[..1]).unwrap().pools.len(), 3, "one that is there stays as it is");
    }

    #[test]
    fn a_wrong_value_is_told_with_its_variable() {
        assert_eq!(
            error(pools(), "SNAKEBRIDGE_TIMEOUT", "soon"),
            "SNAKEBRIDGE_TIMEOUT is \"soon\", expected a duration as text, such as \"500ms\", \"10s\" or \"1h 30m\", \
             or \"none\" for no limit"
        );
        assert_eq!(
            error(pools(), "SNAKEBRIDGE_POOLS_A_SIZE", "0"),
            "SNAKEBRIDGE_POOLS_A_SIZE: pool a: size is 0, it needs at least one worker"
        );
        assert_eq!(
            error(pools(), "SNAKEBRIDGE_POOLS_A_SIZE", ""),
            "SNAKEBRIDGE_POOLS_A_SIZE is \"\", expected a whole number"
        );
        let broken = [("SNAKEBRIDGE_TIMEOUT".into(), OsString::from_vec(vec![0xff]))];
        assert_eq!(apply(pools(), broken).unwrap_err().to_string(), "SNAKEBRIDGE_TIMEOUT is not UTF-8");
    }

    #[test]
    fn a_variable_that_resembles_a_setting_is_an_error_with_the_nearest() {
        for (name, told) in [
            ("SNAKEBRIDGE_TIEMOUT", "did you mean SNAKEBRIDGE_TIMEOUT?"),
            ("SNAKEBRIDGE_POOLS_STRICT_POOL_SIZ", "did you mean SNAKEBRIDGE_POOLS_STRICT_POOL_SIZE?"),
            ("SNAKEBRIDGE_POOLS_STRCT_POOL_SIZE", "did you mean SNAKEBRIDGE_POOLS_STRICT_POOL_SIZE?"),
            ("SNAKEBRIDGE_POOLS_ELSEWHERE_QUITE_COLOURFUL", "the pools are `a`, `strict-pool`"),
            ("SNAKEBRIDGE_QUEUE_TIMEOUT", "did you mean SNAKEBRIDGE_POOLS_<NAME>_QUEUE_TIMEOUT?"),
        ] {
            assert_eq!(error(pools(), name, "4"), format!("unknown variable {name}; {told}"));
        }
        assert_eq!(
            error(Config::new(), "SNAKEBRIDGE_POOLS_A_SIZE", "4"),
            "unknown variable SNAKEBRIDGE_POOLS_A_SIZE; no pool is configured: name the pools in SNAKEBRIDGE_POOLS"
        );
    }

    #[test]
    fn names_that_are_alike_in_a_variable_are_an_error() {
        let alike = Config::new().pool(PoolConfig::new("a-b")).pool(PoolConfig::new("a.b"));
        assert_eq!(
            error(alike.clone(), "SNAKEBRIDGE_POOLS_A_B_SIZE", "4"),
            "SNAKEBRIDGE_POOLS_A_B_SIZE may mean any of the pools `a-b`, `a.b`: their names are too like"
        );
        with(alike, &[("SNAKEBRIDGE_TIMEOUT", "1s")]).unwrap();
    }

    #[test]
    fn variables_of_others_are_left_alone() {
        for name in [
            "SNAKEBRIDGE_PYTHON",
            "SNAKEBRIDGE_SIM_SEED",
            "SNAKEBRIDGE_SIM_SEEDS",
            "SNAKEBRIDGE_SIM_TOLD",
            "SNAKEBRIDGE_BLESS",
            "SNAKEBRIDGE_CI_MARK",
            "SNAKEBRIDGE_CODEC_ROUNDS",
            "SNAKEBRIDGE_TEST_FILES",
            "SNAKEBRIDGE_TEST_HOST",
            "SNAKEBRIDGE_URL",
            "PATH",
        ] {
            let untouched = format!("{:?}", with(pools(), &[(name, "x")]).unwrap());
            assert_eq!(untouched, format!("{:?}", pools()), "{name}");
        }
    }
}
