//! How `PyRef`, `Value` and `Callback` pass through serde, which knows none of them.
//!
//! They call `serialize_newtype_struct` and `deserialize_newtype_struct` with a name that only our
//! own formats know. The object itself is deposited in a thread-local room that such a format opens
//! for the time of its work; through serde goes a *ticket*: bytes that name the place in the room.
//! Bytes survive being buffered (untagged enums, `flatten`), and a number made at random when the
//! program starts keeps data from being mistaken for a ticket. Without an open room (JSON, say) a
//! ref or a callback is an error.

use super::{Callback, PyRef, Value};
use serde::de::{self, Deserializer, Visitor};
use serde::ser::{Error, Serialize, Serializer};
use std::cell::RefCell;
use std::hash::{BuildHasher, RandomState};
use std::sync::OnceLock;

/// A ref; inside is its ticket.
pub(crate) const REF: &str = "$snakebridge::ref";
/// A callback; inside is its ticket.
pub(crate) const CALLBACK: &str = "$snakebridge::callback";
/// A `Value` is asked for; inside is a ticket, or anything.
pub(crate) const VALUE: &str = "$snakebridge::value";
/// Opcodes that are ready to be sent; inside are bytes.
pub(crate) const OPCODES: &str = "$snakebridge::opcodes";
/// A `set`; inside is a sequence.
pub(crate) const SET: &str = "$snakebridge::set";
/// A `frozenset`; inside is a sequence.
pub(crate) const FROZEN_SET: &str = "$snakebridge::frozenset";

const TICKET_LEN: usize = 24;

/// What is deposited.
enum Item {
    Value(Value),
    Callback(Callback),
}

thread_local! {
    static ROOM: RefCell<Option<Vec<Item>>> = const { RefCell::new(None) };
}

/// The thread's room, open until this is dropped; rooms nest.
pub(crate) struct Room(Option<Vec<Item>>);

impl Room {
    pub(crate) fn open() -> Self {
        Self(ROOM.with_borrow_mut(|room| room.replace(Vec::new())))
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let leftovers = ROOM.with_borrow_mut(|room| std::mem::replace(room, self.0.take()));
        // Dropping a ref runs its owner's code: not while the room is borrowed.
        drop(leftovers);
    }
}

/// Whether one of our own formats is at work on this thread.
pub(crate) fn is_open() -> bool {
    ROOM.with_borrow(Option::is_some)
}

fn nonce() -> &'static [u8; 16] {
    static NONCE: OnceLock<[u8; 16]> = OnceLock::new();
    NONCE.get_or_init(|| {
        let mut nonce = [0; 16];
        nonce[..8].copy_from_slice(&RandomState::new().hash_one(1).to_ne_bytes());
        nonce[8..].copy_from_slice(&RandomState::new().hash_one(2).to_ne_bytes());
        nonce
    })
}

/// Puts something into the room. `None` if no room is open.
fn deposit(item: Item) -> Option<[u8; TICKET_LEN]> {
    ROOM.with_borrow_mut(|room| {
        let room = room.as_mut()?;
        let mut ticket = [0; TICKET_LEN];
        ticket[..16].copy_from_slice(nonce());
        ticket[16..].copy_from_slice(&(room.len() as u64).to_ne_bytes());
        room.push(item);
        Some(ticket)
    })
}

fn look_up<T>(ticket: &[u8], read: impl FnOnce(&mut Item) -> Option<T>) -> Option<T> {
    let place = ticket.strip_prefix(nonce().as_slice())?;
    let place = usize::try_from(u64::from_ne_bytes(place.try_into().ok()?)).ok()?;
    ROOM.with_borrow_mut(|room| read(room.as_mut()?.get_mut(place)?))
}

/// Looks up the value that a ticket names. A ref stays, since a buffered ticket may be read twice; any
/// other value is handed over.
pub(crate) fn collect(ticket: &[u8]) -> Option<Value> {
    look_up(ticket, |item| match item {
        Item::Value(value @ (Value::Ref(_) | Value::Stream(_))) => Some(value.clone()),
        Item::Value(value) => Some(std::mem::replace(value, Value::None)),
        Item::Callback(_) => None,
    })
}

pub(crate) fn collect_ref(ticket: &[u8]) -> Option<PyRef> {
    match collect(ticket)? {
        Value::Ref(handle) | Value::Stream(handle) => Some(handle),
        _ => None,
    }
}

pub(crate) fn collect_callback(ticket: &[u8]) -> Option<Callback> {
    look_up(ticket, |item| match item {
        Item::Callback(callback) => Some(callback.clone()),
        Item::Value(_) => None,
    })
}

/// Bytes that are written as bytes, not as a list.
pub(super) struct Raw<'a>(pub(super) &'a [u8]);

impl Serialize for Raw<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}

pub(super) fn serialize_ref<S: Serializer>(handle: &PyRef, serializer: S) -> Result<S::Ok, S::Error> {
    match deposit(Item::Value(Value::Ref(handle.clone()))) {
        Some(ticket) => serializer.serialize_newtype_struct(REF, &Raw(&ticket)),
        None => Err(S::Error::custom(format_args!(
            "{handle:?} stays in Python: a PyRef can be an argument or a result of a call, and nothing else"
        ))),
    }
}

pub(super) fn serialize_callback<S: Serializer>(callback: &Callback, serializer: S) -> Result<S::Ok, S::Error> {
    match deposit(Item::Callback(callback.clone())) {
        Some(ticket) => serializer.serialize_newtype_struct(CALLBACK, &Raw(&ticket)),
        None => Err(S::Error::custom(format_args!(
            "{callback:?} is a function of this process: a Callback can be an argument of a call, or in what a \
             callback returns, and nothing else"
        ))),
    }
}

/// Yields a ticket, whatever is asked for.
pub(crate) struct TicketDe<E> {
    ticket: [u8; TICKET_LEN],
    error: std::marker::PhantomData<E>,
}

impl<E> TicketDe<E> {
    /// `None` if no room is open.
    pub(crate) fn deposit(value: Value) -> Option<Self> {
        Some(Self { ticket: deposit(Item::Value(value))?, error: std::marker::PhantomData })
    }
}

impl<'de, E: de::Error> Deserializer<'de> for TicketDe<E> {
    type Error = E;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, E> {
        visitor.visit_bytes(&self.ticket)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit
        unit_struct newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}
