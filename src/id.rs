//! The identities that everything else speaks in.
//!
//! Each is a newtype made in one place, so that a slot cannot be taken for a generation, nor one
//! incarnation of a session for the next.

use serde::{Deserialize, Serialize};
use std::borrow::{Borrow, Cow};
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.into())
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self(text.into())
            }
        }

        impl From<&String> for $name {
            fn from(text: &String) -> Self {
                Self(text.as_str().into())
            }
        }

        impl From<Cow<'_, str>> for $name {
            fn from(text: Cow<'_, str>) -> Self {
                Self(text.as_ref().into())
            }
        }

        impl From<&$name> for $name {
            fn from(name: &$name) -> Self {
                name.clone()
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl PartialEq<str> for $name {
            fn eq(&self, other: &str) -> bool {
                &*self.0 == other
            }
        }

        impl PartialEq<&str> for $name {
            fn eq(&self, other: &&str) -> bool {
                &*self.0 == *other
            }
        }
    };
}

name! {
    /// The name of a pool, as configured. Where one is wanted, a `&str` or a `String` does.
    ///
    /// ```
    /// use snakebridge::PoolName;
    ///
    /// assert_eq!(PoolName::from("strict_pool"), "strict_pool");
    /// ```
    PoolName
}

name! {
    /// The name of a session: chosen by the user, or made for an automatic session. Where one is
    /// wanted, a `&str` or a `String` does.
    ///
    /// ```
    /// use snakebridge::SessionId;
    ///
    /// assert_eq!(SessionId::from("user_42").as_str(), "user_42");
    /// ```
    SessionId
}

/// One worker: a place in a pool, and which of the processes that have stood in that place.
///
/// Prints as `pool/slot#generation`, e.g. `strict_pool/1#3`.
///
/// ```
/// use snakebridge::WorkerId;
///
/// let worker: WorkerId = "strict_pool/1#3".parse().unwrap();
/// assert_eq!(worker.pool().as_str(), "strict_pool");
/// assert_eq!((worker.slot(), worker.generation()), (1, 3));
/// assert_eq!(worker.to_string(), "strict_pool/1#3");
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerId {
    pool: PoolName,
    slot: u32,
    generation: u64,
}

impl WorkerId {
    pub(crate) fn new(pool: PoolName, slot: u32, generation: u64) -> Self {
        Self { pool, slot, generation }
    }

    /// The pool that the worker belongs to.
    pub fn pool(&self) -> &PoolName {
        &self.pool
    }

    /// The place in the pool, from 0.
    pub fn slot(&self) -> u32 {
        self.slot
    }

    /// Which process has this place: 1 for the first, one more for each replacement.
    pub fn generation(&self) -> u64 {
        self.generation
    }
}

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}#{}", self.pool, self.slot, self.generation)
    }
}

impl fmt::Debug for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// A text that is not a worker id (`pool/slot#generation`).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a worker id: expected pool/slot#generation, e.g. strict_pool/1#3")]
pub struct ParseWorkerIdError(String);

impl std::str::FromStr for WorkerId {
    type Err = ParseWorkerIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts = || {
            let (pool, rest) = text.rsplit_once('/')?;
            let (slot, generation) = rest.split_once('#')?;
            Some(Self::new(pool.into(), slot.parse().ok()?, generation.parse().ok()?))
        };
        parts().ok_or_else(|| ParseWorkerIdError(text.to_owned()))
    }
}

impl Serialize for WorkerId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for WorkerId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// One call, unique in its bridge and rising in the order of submission.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CallId(pub(crate) u64);

impl fmt::Display for CallId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "call-{}", self.0)
    }
}

impl fmt::Debug for CallId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// One Python object that a worker keeps for Rust; never used twice in one bridge.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RefId(pub(crate) u64);

impl fmt::Display for RefId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ref-{}", self.0)
    }
}

impl fmt::Debug for RefId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Objects are counted from 2³⁶ for each worker that ever was; none will reach this bit.
const NAMESPACES: u64 = 1 << 63;

/// One incarnation of a session: what ends with `release()` and never comes back, though its id may.
///
/// Equality, order and hash look at the incarnation alone, which is unique in its bridge.
#[derive(Clone)]
pub(crate) struct SessionKey {
    id: SessionId,
    incarnation: u64,
}

impl SessionKey {
    pub(crate) fn new(id: SessionId, incarnation: u64) -> Self {
        Self { id, incarnation }
    }

    pub(crate) fn id(&self) -> &SessionId {
        &self.id
    }

    pub(crate) fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// What a worker knows the session's namespace by: an id that no worker gives to an object.
    pub(crate) fn namespace(&self) -> RefId {
        RefId(NAMESPACES | self.incarnation)
    }
}

impl PartialEq for SessionKey {
    fn eq(&self, other: &Self) -> bool {
        self.incarnation == other.incarnation
    }
}

impl Eq for SessionKey {}

impl PartialOrd for SessionKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for SessionKey {
    fn cmp(&self, other: &Self) -> Ordering {
        self.incarnation.cmp(&other.incarnation)
    }
}

impl Hash for SessionKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.incarnation.hash(state);
    }
}

impl fmt::Display for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.id)
    }
}

impl fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}~{}", self.id, self.incarnation)
    }
}
