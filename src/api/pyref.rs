//! What can be done with an object that stays in Python.

use super::args::IntoArgs;
use super::call::{Call, CallFuture};
use crate::actors::hold::Hold;
use crate::error::{Error, Ran, Result};
use crate::value::{PyRef, Value};
use crate::wire::Step;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::sync::Arc;
use std::time::Duration;

/// What is ended in the background gets so long where `cancel_grace` is shorter: it could not begin.
const SHORTEST_GRACE: Duration = Duration::from_millis(10);

impl PyRef {
    pub(super) fn step(&self, step: Step, args: impl IntoArgs) -> Call {
        Call::on(self.clone(), self.hold(), step, args)
    }

    /// Has Python end what is open in the object; nobody waits for it. It is given `cancel_grace`.
    pub(super) fn finish(self, hold: Arc<Hold>, end: Step) {
        let core = &hold.life.core;
        // With its session or its worker it ends anyway.
        if hold.state.has_ended() || core.is_stopping() {
            return;
        }
        if let Ok(pool) = core.pool(self.pool()) {
            let grace = pool.config.cancel_grace.max(SHORTEST_GRACE);
            let life = Arc::clone(&hold.life);
            // With its thread the bridge has gone, and with that what the call was for.
            let _spawned = life.core.arbiter.spawn(async move {
                // The grace is for the end itself: one that has only waited so long waits again.
                let mut waited = true;
                while waited {
                    let ending = Call::on(self.clone(), Arc::clone(&hold), end.clone(), ()).continuing();
                    let outcome = ending.timeout(grace).discard().await;
                    waited = matches!(outcome, Err(Error::Timeout { ran: Ran::No, .. }));
                }
            });
        }
    }

    /// Calls the object itself.
    ///
    /// ```
    /// # #[actix::main]
    /// # async fn main() -> snakebridge::Result<()> {
    /// # let py = snakebridge::SnakeBridge::builder().pool(snakebridge::PoolConfig::new("p").size(1)).start().await?;
    /// let parse = py.get("builtins", "int").into_ref().await?;
    /// let value: u32 = parse.call(("ff",)).kwarg("base", 16).extract().await?;
    /// assert_eq!(value, 255);
    /// # py.shutdown().await
    /// # }
    /// ```
    ///
    /// # Errors
    /// Awaited: see [`enum@crate::Error`].
    pub fn call(&self, args: impl IntoArgs) -> Call {
        self.step(Step::Call, args)
    }

    /// Calls a method; the name may be dotted.
    ///
    /// # Errors
    /// Awaited: see [`enum@crate::Error`].
    pub fn call_method(&self, name: impl Into<String>, args: impl IntoArgs) -> Call {
        self.step(Step::Method { name: name.into() }, args)
    }

    /// Reads an attribute; the name may be dotted.
    ///
    /// # Errors
    /// Awaited: see [`enum@crate::Error`].
    pub fn getattr(&self, name: impl Into<String>) -> Call {
        self.step(Step::GetAttr { name: name.into() }, ())
    }

    /// Sets an attribute; the name is not dotted.
    ///
    /// ```
    /// # #[actix::main]
    /// # async fn main() -> snakebridge::Result<()> {
    /// # let py = snakebridge::SnakeBridge::builder().pool(snakebridge::PoolConfig::new("p").size(1)).start().await?;
    /// let options = py.call("types", "SimpleNamespace", ()).into_ref().await?;
    /// options.setattr("depth", 3).await?;
    /// assert_eq!(options.getattr("depth").extract::<u8>().await?, 3);
    /// # py.shutdown().await
    /// # }
    /// ```
    ///
    /// # Errors
    /// Awaited: see [`enum@crate::Error`].
    pub fn setattr(&self, name: impl Into<String>, value: impl Serialize) -> Call<()> {
        self.step(Step::SetAttr { name: name.into() }, (value,)).wanting_nothing()
    }

    /// Reads an item.
    ///
    /// # Errors
    /// Awaited: see [`enum@crate::Error`].
    pub fn get_item(&self, key: impl Serialize) -> Call {
        self.step(Step::GetItem, (key,))
    }

    /// Sets an item.
    ///
    /// ```
    /// # #[actix::main]
    /// # async fn main() -> snakebridge::Result<()> {
    /// # let py = snakebridge::SnakeBridge::builder().pool(snakebridge::PoolConfig::new("p").size(1)).start().await?;
    /// let ages = py.call("builtins", "dict", ()).into_ref().await?;
    /// ages.set_item("Ada", 36).await?;
    /// assert_eq!(ages.get_item("Ada").extract::<u8>().await?, 36);
    /// ages.del_item("Ada").await?;
    /// assert_eq!(ages.len().await?, 0);
    /// # py.shutdown().await
    /// # }
    /// ```
    ///
    /// # Errors
    /// Awaited: see [`enum@crate::Error`].
    pub fn set_item(&self, key: impl Serialize, value: impl Serialize) -> Call<()> {
        self.step(Step::SetItem, (key, value)).wanting_nothing()
    }

    /// Deletes an item.
    ///
    /// # Errors
    /// Awaited: see [`enum@crate::Error`].
    pub fn del_item(&self, key: impl Serialize) -> Call<()> {
        self.step(Step::DelItem, (key,)).wanting_nothing()
    }

    /// Python's `len()` of it.
    ///
    /// # Errors
    /// Awaited: see [`enum@crate::Error`].
    pub fn len(&self) -> Call<usize> {
        self.step(Step::Len, ()).wanting()
    }

    /// Python's `str()` of it.
    ///
    /// # Errors
    /// Awaited: see [`enum@crate::Error`].
    pub fn str(&self) -> Call<String> {
        self.step(Step::Str, ()).wanting()
    }

    /// Python's `repr()` of it.
    ///
    /// # Errors
    /// Awaited: see [`enum@crate::Error`].
    pub fn repr(&self) -> Call<String> {
        self.step(Step::Repr, ()).wanting()
    }

    /// The object by value, as any type that serde can deserialise.
    ///
    /// ```
    /// # #[actix::main]
    /// # async fn main() -> snakebridge::Result<()> {
    /// # let py = snakebridge::SnakeBridge::builder().pool(snakebridge::PoolConfig::new("p").size(1)).start().await?;
    /// let counts = py.call("collections", "Counter", ("aab",)).into_ref().await?;
    /// let counts: std::collections::BTreeMap<char, u32> = counts.extract().await?;
    /// assert_eq!(counts[&'a'], 2);
    /// # py.shutdown().await
    /// # }
    /// ```
    ///
    /// # Errors
    /// Awaited: `Convert` if it does not fit without loss; else see [`enum@crate::Error`].
    pub fn extract<T: DeserializeOwned + Send + 'static>(&self) -> CallFuture<T> {
        self.step(Step::Itself, ()).extract()
    }

    /// Lets go of the object now, for all clones of this handle; using one later is `RefNotFound`.
    ///
    /// # Errors
    /// None today.
    #[expect(clippy::manual_async_fn, reason = "the future is owned: it borrows nothing")]
    pub fn release(self) -> impl Future<Output = Result<()>> + Send + 'static {
        async move {
            self.let_go();
            Ok(())
        }
    }
}

impl Value {
    /// The object that stayed in Python, if that is what it is.
    pub fn into_pyref(self) -> Option<PyRef> {
        match self {
            Self::Ref(handle) | Self::Stream(handle) => Some(handle),
            _ => None,
        }
    }
}
