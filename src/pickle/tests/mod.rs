//! The codec against CPython, on each interpreter that is found, and against bodies that no Python writes.

mod fuzz;
mod golden;
mod hostile;
mod python;
mod table;

use super::{Budget, DecodeError, decode, decode_value};
use crate::id::{PoolName, RefId, SessionKey, WorkerId};
use crate::value::{RefOwner, RefSource, Value};
use serde::de::DeserializeOwned;
use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts the refs that are let go.
#[derive(Default)]
struct Counter(AtomicUsize);

impl RefOwner for Counter {
    fn ref_dropped(&self, _: RefId, _: &SessionKey, _: &WorkerId) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }

    fn as_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }
}

fn counted() -> (RefSource, Arc<Counter>) {
    let counter = Arc::new(Counter::default());
    let source = RefSource {
        session: SessionKey::new("s".into(), 1),
        worker: WorkerId::new(PoolName::from("p"), 0, 1),
        owner: counter.clone(),
        left: None,
    };
    (source, counter)
}

fn source() -> RefSource {
    counted().0
}

fn value_of(body: &[u8]) -> Result<Value, DecodeError> {
    decode_value(body, &source(), &Budget::default())
}

fn typed<T: DeserializeOwned>(body: &[u8]) -> Result<T, DecodeError> {
    decode(body, &source(), &Budget::default())
}
