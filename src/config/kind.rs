//! The kinds of settings: how each is read from TOML or from the text of a variable, and written.
//!
//! A kind knows nothing of the key it stands under, nor of lines: [`file`](super::file) does.

use super::FOREVER;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde::de::value::StrDeserializer;
use std::fmt;
use std::marker::PhantomData;
use std::path::PathBuf;
use std::time::Duration;
use toml::{Table, Value};

/// How "no limit" is written, for durations and for limits.
const NONE: &str = "none";

/// One kind of setting.
pub(super) trait Kind {
    /// What the setting is in Rust.
    type Of;

    /// What has to stand there, for the error of one that has something else.
    fn expected() -> String;

    /// `None`: it is not what is expected.
    fn read(value: &Value) -> Option<Self::Of>;

    /// Reads the text of a variable: as it stands where a text will do, else as TOML has it.
    fn read_text(text: &str) -> Option<Self::Of> {
        Self::read(&Value::String(text.to_owned())).or_else(|| Self::read(&text.parse().ok()?))
    }

    /// Nothing where it is not set.
    ///
    /// # Errors
    /// `Unwritable`, for what TOML cannot hold.
    fn write(setting: &Self::Of) -> Result<Option<Value>, Unwritable>;
}

/// What TOML cannot hold, and why.
#[derive(Debug)]
pub(super) struct Unwritable(&'static str);

impl fmt::Display for Unwritable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// A setting that may be unset, which is told by its absence.
pub(super) struct Maybe<K>(PhantomData<K>);

impl<K: Kind> Kind for Maybe<K> {
    type Of = Option<K::Of>;

    fn expected() -> String {
        K::expected()
    }

    fn read(value: &Value) -> Option<Self::Of> {
        K::read(value).map(Some)
    }

    fn read_text(text: &str) -> Option<Self::Of> {
        K::read_text(text).map(Some)
    }

    fn write(setting: &Self::Of) -> Result<Option<Value>, Unwritable> {
        setting.as_ref().map_or(Ok(None), K::write)
    }
}

/// How many.
pub(super) struct Count;

impl Kind for Count {
    type Of = usize;

    fn expected() -> String {
        "a whole number".into()
    }

    fn read(value: &Value) -> Option<usize> {
        usize::try_from(value.as_integer()?).ok()
    }

    fn write(setting: &usize) -> Result<Option<Value>, Unwritable> {
        let number = i64::try_from(*setting).map_err(|_| Unwritable("a number above 2^63 has no form in TOML"))?;
        Ok(Some(Value::Integer(number)))
    }
}

/// How many at most; beyond what TOML can count there is no limit.
pub(super) struct Limit;

impl Kind for Limit {
    type Of = usize;

    fn expected() -> String {
        format!("a whole number, or {NONE:?} for no limit")
    }

    fn read(value: &Value) -> Option<usize> {
        if value.as_str() == Some(NONE) { Some(usize::MAX) } else { Count::read(value) }
    }

    fn write(setting: &usize) -> Result<Option<Value>, Unwritable> {
        Ok(Some(i64::try_from(*setting).map_or_else(|_| NONE.into(), Value::Integer)))
    }
}

/// How many bytes at most.
pub(super) struct Bytes;

/// The first that divides a number is the one it is written in.
const UNITS: [(&str, usize); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("B", 1),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
];

impl Kind for Bytes {
    type Of = usize;

    fn expected() -> String {
        format!("a number of bytes, as a whole number or as text such as \"64 MiB\", or {NONE:?} for no limit")
    }

    fn read(value: &Value) -> Option<usize> {
        let Some(text) = value.as_str().filter(|text| *text != NONE) else {
            return Limit::read(value);
        };
        let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit())?);
        let (_, bytes) = UNITS.into_iter().find(|(known, _)| *known == unit.trim())?;
        number.parse::<usize>().ok()?.checked_mul(bytes)
    }

    fn write(setting: &usize) -> Result<Option<Value>, Unwritable> {
        match UNITS.into_iter().find(|(_, bytes)| setting.is_multiple_of(*bytes)) {
            Some((unit, bytes)) if bytes > 1 && *setting > 0 => Ok(Some(format!("{} {unit}", setting / bytes).into())),
            _ => Limit::write(setting),
        }
    }
}

/// How long.
pub(super) struct Time;

impl Kind for Time {
    type Of = Duration;

    fn expected() -> String {
        format!("a duration as text, such as \"500ms\", \"10s\" or \"1h 30m\", or {NONE:?} for no limit")
    }

    fn read(value: &Value) -> Option<Duration> {
        match value.as_str()? {
            NONE => Some(Duration::MAX),
            text => humantime::parse_duration(text).ok(),
        }
    }

    fn write(setting: &Duration) -> Result<Option<Value>, Unwritable> {
        let text = if *setting >= FOREVER { NONE.into() } else { humantime::format_duration(*setting).to_string() };
        Ok(Some(Value::String(text)))
    }
}

/// Any text.
pub(super) struct Text<T = String>(PhantomData<T>);

impl<T: From<String> + AsRef<str>> Kind for Text<T> {
    type Of = T;

    fn expected() -> String {
        "a text".into()
    }

    fn read(value: &Value) -> Option<T> {
        Some(value.as_str()?.to_owned().into())
    }

    fn write(setting: &T) -> Result<Option<Value>, Unwritable> {
        Ok(Some(setting.as_ref().into()))
    }
}

/// A file or directory; not resolved, so a relative one is relative to the working directory.
pub(super) struct Path;

impl Kind for Path {
    type Of = PathBuf;

    fn expected() -> String {
        "a path as text".into()
    }

    fn read(value: &Value) -> Option<PathBuf> {
        Some(value.as_str()?.into())
    }

    fn write(setting: &PathBuf) -> Result<Option<Value>, Unwritable> {
        let text = setting.to_str().ok_or(Unwritable("a path that is not UTF-8 has no form in TOML"))?;
        Ok(Some(text.into()))
    }
}

/// One of the names that serde knows the variants of `T` by.
pub(super) struct Word<T>(PhantomData<T>);

impl<T: Serialize + DeserializeOwned> Kind for Word<T> {
    type Of = T;

    fn expected() -> String {
        let names = match T::deserialize(StrDeserializer::<Variants>::new("")) {
            Ok(_) => &[],
            Err(Variants(names)) => names,
        };
        format!("one of {}", super::key::quoted(names.iter().copied()))
    }

    fn read(value: &Value) -> Option<T> {
        T::deserialize(StrDeserializer::<Variants>::new(value.as_str()?)).ok()
    }

    fn write(setting: &T) -> Result<Option<Value>, Unwritable> {
        Value::try_from(setting).map(Some).map_err(|_| Unwritable("a variant with fields has no name alone"))
    }
}

/// The names of an enum's variants, which serde tells to whom asks for an unknown one.
#[derive(Debug)]
struct Variants(&'static [&'static str]);

impl serde::de::Error for Variants {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self(&[])
    }

    fn unknown_variant(_: &str, names: &'static [&'static str]) -> Self {
        Self(names)
    }
}

impl fmt::Display for Variants {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl std::error::Error for Variants {}

/// Yes or no.
pub(super) struct Flag;

impl Kind for Flag {
    type Of = bool;

    fn expected() -> String {
        "`true` or `false`".into()
    }

    fn read(value: &Value) -> Option<bool> {
        value.as_bool()
    }

    fn write(setting: &bool) -> Result<Option<Value>, Unwritable> {
        Ok(Some(Value::Boolean(*setting)))
    }
}

/// Several of a kind; a single one may stand without the brackets.
pub(super) struct List<K>(PhantomData<K>);

impl<K: Kind> Kind for List<K> {
    type Of = Vec<K::Of>;

    fn expected() -> String {
        format!("{}, or a list of them", K::expected())
    }

    fn read(value: &Value) -> Option<Self::Of> {
        match value.as_array() {
            Some(items) => items.iter().map(K::read).collect(),
            None => K::read(value).map(|only| vec![only]),
        }
    }

    /// As TOML has it, or without brackets and quotes, with commas between.
    fn read_text(text: &str) -> Option<Self::Of> {
        if text.trim_start().starts_with('[') {
            return Self::read(&text.parse().ok()?);
        }
        text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(K::read_text).collect()
    }

    fn write(setting: &Self::Of) -> Result<Option<Value>, Unwritable> {
        let items: Result<Vec<_>, _> = setting.iter().map(K::write).collect();
        Ok(Some(Value::Array(items?.into_iter().flatten().collect())))
    }
}

/// Environment variables.
pub(super) struct Variables;

impl Kind for Variables {
    type Of = Vec<(String, String)>;

    fn expected() -> String {
        "a table of texts, such as { OMP_NUM_THREADS = \"1\" }".into()
    }

    fn read(value: &Value) -> Option<Self::Of> {
        value.as_table()?.iter().map(|(name, text)| Some((name.clone(), text.as_str()?.to_owned()))).collect()
    }

    fn write(setting: &Self::Of) -> Result<Option<Value>, Unwritable> {
        let table: Table = setting.iter().map(|(name, text)| (name.clone(), text.as_str().into())).collect();
        Ok(Some(Value::Table(table)))
    }
}

/// A pair of settings, as a table of two fields.
macro_rules! pair {
    ($(#[$doc:meta])* $name:ident { $first:ident: $a:ty, $second:ident: $b:ty } such as $example:literal) => {
        $(#[$doc])*
        pub(super) struct $name;

        impl Kind for $name {
            type Of = (<$a as Kind>::Of, <$b as Kind>::Of);

            fn expected() -> String {
                concat!("a table such as ", $example).into()
            }

            fn read(value: &Value) -> Option<Self::Of> {
                let [first, second] = fields(value, [stringify!($first), stringify!($second)])?;
                Some((<$a>::read(first)?, <$b>::read(second)?))
            }

            fn write((first, second): &Self::Of) -> Result<Option<Value>, Unwritable> {
                let (first, second) = (<$a>::write(first)?, <$b>::write(second)?);
                Ok(table([(stringify!($first), first), (stringify!($second), second)]))
            }
        }
    };
}

pair! {
    /// How many deaths, within which time.
    Budget { deaths: Count, within: Time } such as r#"{ deaths = 10, within = "60s" }"#
}

pair! {
    /// The first wait, and the longest.
    Backoff { first: Time, longest: Time } such as r#"{ first = "50ms", longest = "5s" }"#
}

pair! {
    /// How many items, and how many bytes of them.
    Credit { items: Limit, bytes: Bytes } such as r#"{ items = 1024, bytes = "4 MiB" }"#
}

/// The fields of a table that has these and no others.
fn fields<'v, const N: usize>(value: &'v Value, names: [&str; N]) -> Option<[&'v Value; N]> {
    let table = value.as_table().filter(|table| table.len() == N)?;
    let found: Vec<_> = names.iter().map_while(|name| table.get(*name)).collect();
    found.try_into().ok()
}

fn table<const N: usize>(fields: [(&str, Option<Value>); N]) -> Option<Value> {
    let set = fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    Some(Value::Table(set.collect()))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
mod tests {
    use super::*;
    use crate::config::{Affinity, LogLevel};
    use proptest::prelude::*;

    fn text<K: Kind>(text: &str) -> Option<K::Of> {
        K::read(&Value::String(text.to_owned()))
    }

    #[test]
    fn a_duration_is_text_with_units() {
        for (written, millis) in
            [("500ms", 500), ("10s", 10_000), ("1h 30m", 5_400_000), ("1h30m", 5_400_000), ("0s", 0)]
        {
            assert_eq!(text::<Time>(written), Some(Duration::from_millis(millis)), "{written}");
        }
        assert_eq!(text::<Time>("none"), Some(Duration::MAX));
        for wrong in ["", "10", "soon", "-1s", "10 parsecs"] {
            assert_eq!(text::<Time>(wrong), None, "{wrong}");
        }
        assert_eq!(Time::read(&Value::Integer(10)), None, "a number does not say of what");
    }

    #[test]
    fn a_size_is_a_number_of_bytes_or_text_with_a_unit() {
        for (written, bytes) in
            [("64 MiB", 64 << 20), ("1GiB", 1 << 30), ("5 kB", 5_000), ("7 B", 7), ("none", usize::MAX)]
        {
            assert_eq!(text::<Bytes>(written), Some(bytes), "{written}");
        }
        assert_eq!(Bytes::read(&Value::Integer(4096)), Some(4096));
        for wrong in ["", "64", "MiB", "1.5 MiB", "64 mib", "-1 B", "99999999999 TiB"] {
            assert_eq!(text::<Bytes>(wrong), None, "{wrong}");
        }
        assert_eq!(Bytes::read_text("4096"), Some(4096), "in a variable a number has no quotes");
        assert_eq!(Bytes::read(&Value::Integer(-1)), None);
    }

    #[test]
    fn a_word_is_one_of_the_names_of_its_enum() {
        assert_eq!(text::<Word<Affinity>>("strict_queue"), Some(Affinity::StrictQueue));
        assert_eq!(text::<Word<Affinity>>("strict"), None);
        assert_eq!(Word::<Affinity>::expected(), "one of `hint`, `strict_queue`, `strict_fail_fast`");
        assert_eq!(Word::<LogLevel>::expected(), "one of `off`, `error`, `warn`, `info`, `debug`, `trace`");
    }

    #[test]
    fn a_flag_is_true_or_false_and_nothing_like_it() {
        assert_eq!((Flag::read_text("true"), Flag::read_text("false")), (Some(true), Some(false)));
        for wrong in ["yes", "1", "True", ""] {
            assert_eq!(Flag::read_text(wrong), None, "{wrong}");
        }
        assert_eq!(Flag::read(&Value::String("true".into())), None);
    }

    #[test]
    fn a_list_may_be_a_single_text_and_in_a_variable_has_commas() {
        let two = Some(vec!["json".to_owned(), "decimal".to_owned()]);
        assert_eq!(text::<List<Text>>("json"), Some(vec!["json".to_owned()]));
        assert_eq!(List::<Text>::read_text("json, decimal"), two);
        assert_eq!(List::<Text>::read_text(r#"["json", "decimal"]"#), two);
        assert_eq!(List::<Text>::read_text(""), Some(Vec::new()));
        assert_eq!(List::<Text>::read_text("[json]"), None);
    }

    #[test]
    fn a_table_has_its_fields_and_no_others() {
        let budget = |text: &str| Budget::read_text(text);
        assert_eq!(budget(r#"{ deaths = 3, within = "1m" }"#), Some((3, Duration::from_secs(60))));
        for wrong in
            [r#"{ deaths = 3 }"#, r#"{ deaths = 3, withn = "1m" }"#, r#"{ deaths = 3, within = "1m", x = 1 }"#, "3"]
        {
            assert_eq!(budget(wrong), None, "{wrong}");
        }
        assert_eq!(Variables::read_text("{ A = 1 }"), None, "what a number's text would be is not for us to say");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(nanos in any::<u64>(), count in any::<usize>()) {
            let time = Duration::from_nanos(nanos);
            let written = Time::write(&time).unwrap().unwrap();
            prop_assert_eq!(Time::read(&written).unwrap().min(FOREVER), time.min(FOREVER));
            let written = Bytes::write(&count).unwrap().unwrap();
            let read = Bytes::read(&written).unwrap();
            let past_counting = i64::try_from(count).is_err() && read == usize::MAX;
            prop_assert!(read == count || past_counting, "{count} is written as {written}");
        }
    }
}
