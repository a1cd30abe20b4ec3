//! The handle of an object that stays in Python. What can be called on it is in `api`.

use super::magic;
use crate::id::{PoolName, RefId, SessionId, SessionKey, WorkerId};
use serde::de::{self, Deserialize, Deserializer, Visitor};
use serde::ser::{Serialize, Serializer};
use std::any::Any;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A handle to a Python object that lives in one worker and belongs to one session.
///
/// It is an argument and a result, alone or inside any serde structure. The object is let go when
/// the last clone is dropped. Two handles are equal if they are of the same object *and* came from
/// the same result: each time that an object is returned makes a handle of its own.
///
/// Calls on it go to the worker that has the object, in the session that it belongs to, whatever
/// their affinity. When its session ends they get `RefNotFound`, when its worker is gone `RefLost`.
///
/// ```
/// # #[actix::main]
/// # async fn main() -> snakebridge::Result<()> {
/// use snakebridge::PyRef;
/// # let py = snakebridge::SnakeBridge::builder().pool(snakebridge::PoolConfig::new("p").size(1)).start().await?;
///
/// let numbers: PyRef = py.call("collections", "deque", (vec![1, 2, 3],)).into_ref().await?;
/// assert_eq!((numbers.module(), numbers.type_name()), ("collections", "deque"));
/// numbers.call_method("rotate", (1,)).discard().await?;
/// assert_eq!(numbers.len().await?, 3);
/// assert_eq!(numbers.get_item(0).extract::<u8>().await?, 3);
/// assert_eq!(numbers.repr().await?, "deque([3, 1, 2])");
///
/// // as an argument, alone or inside any structure
/// let largest: u8 = py.call("builtins", "max", (&numbers,)).extract().await?;
/// assert_eq!(largest, 3);
/// # py.shutdown().await
/// # }
/// ```
#[derive(Clone)]
pub struct PyRef(Arc<Inner>);

struct Inner {
    id: RefId,
    session: SessionKey,
    worker: WorkerId,
    module: Arc<str>,
    type_name: Arc<str>,
    owner: Arc<dyn RefOwner>,
    /// Let go before the last clone was dropped.
    released: AtomicBool,
}

/// Who is told when the last clone of a ref is gone.
pub(crate) trait RefOwner: Send + Sync + 'static {
    fn ref_dropped(&self, id: RefId, session: &SessionKey, worker: &WorkerId);
    fn as_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync>;
}

/// Makes the refs of one result.
pub(crate) struct RefSource {
    pub(crate) session: SessionKey,
    pub(crate) worker: WorkerId,
    pub(crate) owner: Arc<dyn RefOwner>,
    /// The refs that the result was said to hold and no handle was made of yet; `None`: any will do.
    pub(crate) left: Option<RefCell<VecDeque<RefId>>>,
}

impl RefSource {
    /// `None` for a ref that the result was not said to hold, or of which a handle was made before.
    pub(crate) fn make(&self, id: RefId, module: &str, type_name: &str) -> Option<PyRef> {
        if let Some(left) = &self.left {
            let mut left = left.borrow_mut();
            // They come in the order in which they were made: it is the first.
            let at = left.iter().position(|left| *left == id)?;
            left.remove(at);
        }
        Some(PyRef(Arc::new(Inner {
            id,
            session: self.session.clone(),
            worker: self.worker.clone(),
            module: module.into(),
            type_name: type_name.into(),
            owner: self.owner.clone(),
            released: AtomicBool::new(false),
        })))
    }
}

impl Inner {
    /// Tells the owner, once.
    fn let_go(&self) {
        if !self.released.swap(true, Ordering::AcqRel) {
            self.owner.ref_dropped(self.id, &self.session, &self.worker);
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.let_go();
    }
}

impl PyRef {
    /// The identity of the object in its worker.
    pub fn id(&self) -> RefId {
        self.0.id
    }

    /// The qualified name of the object's class, without its module, e.g. `PosixPath`.
    pub fn type_name(&self) -> &str {
        &self.0.type_name
    }

    /// The module of the object's class, e.g. `pathlib`.
    pub fn module(&self) -> &str {
        &self.0.module
    }

    /// The session that the object belongs to.
    pub fn session(&self) -> &SessionId {
        self.0.session.id()
    }

    /// The worker that holds the object.
    pub fn worker(&self) -> &WorkerId {
        &self.0.worker
    }

    /// The pool of the worker that holds the object.
    pub fn pool(&self) -> &PoolName {
        self.0.worker.pool()
    }

    pub(crate) fn key(&self) -> &SessionKey {
        &self.0.session
    }

    /// Lets go of the object for all clones of the handle.
    pub(crate) fn let_go(&self) {
        self.0.let_go();
    }

    pub(crate) fn is_released(&self) -> bool {
        self.0.released.load(Ordering::Acquire)
    }

    pub(crate) fn owner(&self) -> &Arc<dyn RefOwner> {
        &self.0.owner
    }
}

impl PartialEq for PyRef {
    fn eq(&self, other: &Self) -> bool {
        self.0.id == other.0.id && self.0.worker == other.0.worker
    }
}

impl Eq for PyRef {}

impl fmt::Debug for PyRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{}.{} {} in {}>", self.module(), self.type_name(), self.id(), self.worker())
    }
}

impl Serialize for PyRef {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        magic::serialize_ref(self, serializer)
    }
}

impl<'de> Deserialize<'de> for PyRef {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct RefVisitor;
        impl<'de> Visitor<'de> for RefVisitor {
            type Value = PyRef;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a reference to a Python object")
            }

            fn visit_newtype_struct<D: Deserializer<'de>>(self, inner: D) -> Result<PyRef, D::Error> {
                inner.deserialize_bytes(self)
            }

            fn visit_bytes<E: de::Error>(self, ticket: &[u8]) -> Result<PyRef, E> {
                magic::collect_ref(ticket).ok_or_else(|| E::invalid_type(de::Unexpected::Bytes(ticket), &self))
            }

            fn visit_byte_buf<E: de::Error>(self, ticket: Vec<u8>) -> Result<PyRef, E> {
                self.visit_bytes(&ticket)
            }
        }
        deserializer.deserialize_newtype_struct(magic::REF, RefVisitor)
    }
}
