//! The arguments of a call, pickled where the call is built.

use crate::error::ConvertError;
use crate::pickle::{Fragment, Items, to_fragment, to_keywords};
use crate::value::Callback;
use serde::Serialize;

/// Positional and keyword arguments that are put together one by one; a tuple does for most calls.
///
/// ```
/// use snakebridge::Args;
///
/// let mut args = Args::new();
/// for word in ["a", "b"] {
///     args = args.arg(word);
/// }
/// let args = args.kwarg("sep", ", ");
/// ```
#[derive(Clone, Debug, Default)]
pub struct Args {
    pub(crate) positional: Items,
    pub(crate) keywords: Vec<(String, Fragment)>,
    /// The first value that could not be pickled; the call says so when it is awaited.
    pub(crate) error: Option<ConvertError>,
}

impl Args {
    /// No arguments.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a positional argument.
    pub fn arg(mut self, value: impl Serialize) -> Self {
        if let Err(error) = self.positional.push(&value) {
            let place = format!("[{}]", self.positional.len());
            self.fail(&place, error);
        }
        self
    }

    /// Adds a keyword argument.
    pub fn kwarg(mut self, key: impl Into<String>, value: impl Serialize) -> Self {
        let key = key.into();
        match to_fragment(&value) {
            Ok(fragment) => self.keywords.push((key, fragment)),
            Err(error) => self.fail(&key, error),
        }
        self
    }

    /// Adds each entry of a map, or field of a struct, as a keyword argument.
    pub fn kwargs(mut self, entries: impl Serialize) -> Self {
        match to_keywords(&entries) {
            Ok(entries) => self.keywords.extend(entries),
            Err(error) => self.fail("", error),
        }
        self
    }

    /// The functions that it holds, wherever.
    pub(super) fn callbacks(&self) -> impl Iterator<Item = &Callback> {
        let of_keywords = self.keywords.iter().flat_map(|(_, value)| value.callbacks());
        self.positional.callbacks().iter().chain(of_keywords)
    }

    fn fail(&mut self, place: &str, mut error: ConvertError) {
        if self.error.is_none() {
            let joint = if error.path.is_empty() || error.path.starts_with('[') || place.is_empty() { "" } else { "." };
            error.path = format!("{place}{joint}{}", error.path);
            self.error = Some(error);
        }
    }
}

/// What a call takes as its arguments: a tuple of up to twelve values, or [`Args`].
///
/// Sequences are lists, tuples and arrays `[T; N]` are tuples, structs and maps are dicts, `None` and
/// `()` are `None`, a unit variant is a str, [`Bytes`](crate::Bytes) are `bytes`.
///
/// ```
/// # #[actix::main]
/// # async fn main() -> snakebridge::Result<()> {
/// use std::collections::BTreeMap;
/// # let py = snakebridge::SnakeBridge::builder().pool(snakebridge::PoolConfig::new("p").size(1)).start().await?;
///
/// let ages = BTreeMap::from([("Ada", 36)]);
/// let printed: String = py.call("builtins", "repr", ((vec![1], (2.5, "x"), ages, None::<u8>),)).extract().await?;
/// assert_eq!(printed, "([1], (2.5, 'x'), {'Ada': 36}, None)");
/// # py.shutdown().await
/// # }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not the arguments of a Python call",
    label = "arguments are a tuple: one argument is `(value,)` with a comma, none is `()`",
    note = "each value must implement `serde::Serialize`; for more than twelve, or for keywords, use `snakebridge::Args`"
)]
pub trait IntoArgs {
    /// The arguments, pickled.
    fn into_args(self) -> Args;
}

impl IntoArgs for Args {
    fn into_args(self) -> Args {
        self
    }
}

impl IntoArgs for () {
    fn into_args(self) -> Args {
        Args::new()
    }
}

macro_rules! tuples {
    ($($name:ident)+) => {
        impl<$($name: Serialize),+> IntoArgs for ($($name,)+) {
            #[expect(non_snake_case, reason = "one name for the type and its value")]
            fn into_args(self) -> Args {
                let ($($name,)+) = self;
                Args::new()$(.arg($name))+
            }
        }
    };
}

tuples!(A);
tuples!(A B);
tuples!(A B C);
tuples!(A B C D);
tuples!(A B C D E);
tuples!(A B C D E F);
tuples!(A B C D E F G);
tuples!(A B C D E F G H);
tuples!(A B C D E F G H I);
tuples!(A B C D E F G H I J);
tuples!(A B C D E F G H I J K);
tuples!(A B C D E F G H I J K L);
