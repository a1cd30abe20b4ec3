//! What can be done with an object that stays in Python.

use super::args::IntoArgs;
use super::call::{Call, CallFuture};
use crate::actors::hold::Hold;
use crate::error::Result;
use crate::value::{PyRef, Value};
use crate::wire::Step;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::sync::Arc;

impl PyRef {
    pub(crate) fn hold(&self) -> Arc<Hold> {
        Arc::clone(self.owner()).as_any().downcast().expect("every ref of a bridge is owned by the hold of its session")
    }

    fn step(&self, step: Step, args: impl IntoArgs) -> Call {
        Call::on(self.clone(), self.hold(), step, args)
    }

    /// Calls the object itself.
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

    /// Sets an attribute.
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
