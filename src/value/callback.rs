//! A function of this process as an argument of calls. What it runs is in `actors::functions`.

use super::magic;
use serde::ser::{Serialize, Serializer};
use std::any::Any;
use std::fmt;
use std::sync::Arc;

/// A function of this process that Python can call: an argument of calls, alone or inside any serde
/// structure, and inside what another such function returns.
///
/// [`SnakeBridge::callback`](crate::SnakeBridge::callback) makes one, and says how Python calls it. It
/// is for calls of the bridge that made it. Its function lives as long as a clone of it does, or a call
/// that carries it, or a stream which that has opened. An object that such a call has made does not keep it:
/// keep a clone beside the ref. Python code that kept the callable and calls it later gets a
/// `snakebridge.HostError` whose `code` is `no_such_function`.
///
/// ```
/// # #[actix::main]
/// # async fn main() -> snakebridge::Result<()> {
/// # let py = snakebridge::SnakeBridge::builder().pool(snakebridge::PoolConfig::new("p").size(1)).start().await?;
/// use std::collections::BTreeMap;
///
/// let key = py.callback(|word: String| async move { Ok(word.to_lowercase()) });
/// let words = vec!["b", "C", "a"];
/// let sorted: Vec<String> = py.call("builtins", "sorted", (words,)).kwarg("key", &key).extract().await?;
/// assert_eq!(sorted, ["a", "b", "C"]);
///
/// // Inside a structure too.
/// let handlers = BTreeMap::from([("lower", &key)]);
/// let lower = py.call("operator", "getitem", (handlers, "lower")).call_with(("ABC",));
/// assert_eq!(lower.extract::<String>().await?, "abc");
/// # py.shutdown().await
/// # }
/// ```
#[derive(Clone)]
pub struct Callback(Arc<dyn HostFunction>);

/// What a worker is told of a function that it may call.
pub(crate) trait HostFunction: Any + Send + Sync {
    fn id(&self) -> u64;
    fn name(&self) -> &str;
    /// What its arguments are to be encoded for.
    fn want(&self) -> &[u8];
}

impl Callback {
    pub(crate) fn new(function: Arc<dyn HostFunction>) -> Self {
        Self(function)
    }

    pub(crate) fn function(&self) -> &dyn HostFunction {
        &*self.0
    }
}

impl fmt::Debug for Callback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<callback {}>", self.0.name())
    }
}

impl Serialize for Callback {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        magic::serialize_callback(self, serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Named;

    impl HostFunction for Named {
        fn id(&self) -> u64 {
            7
        }

        fn name(&self) -> &str {
            "double"
        }

        fn want(&self) -> &[u8] {
            &[3]
        }
    }

    #[test]
    fn it_crosses_threads_says_its_name_and_has_no_form_in_json() {
        fn crosses<T: Send + Sync + Clone + 'static>(_: &T) {}
        let callback = Callback::new(Arc::new(Named));
        crosses(&callback);
        assert_eq!(format!("{callback:?}"), "<callback double>");
        let error = serde_json::to_string(&vec![callback]).expect_err("it is no data");
        assert_eq!(
            error.to_string(),
            "<callback double> is a function of this process: a Callback can be an argument of a call, or in what a \
             callback returns, and nothing else"
        );
    }
}
