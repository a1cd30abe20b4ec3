//! What a type wants from Python, told by its own requests to serde.
//!
//! Python has to know before it answers whether an object is to come by its fields or as a ref, so
//! the shape of the type travels with the call. It is explored node by node: for each, the type's
//! `Deserialize` is run once, led along the path to that node, and stopped when it says there what
//! it wants. What cannot be explored (behind `flatten`, untagged and tagged enums) is `Any`.
//!
//! The descriptor: for each node a letter, then what [`Shapes::encode`] writes after it; nodes name
//! their children by number, so a type may hold itself. `codec.py` reads it.

use super::probe::{self, Explorer, Request, Step};
use crate::value::magic;
use serde::de::DeserializeOwned;
use std::any::{TypeId, type_name};
use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

/// Deeper, and more, is `Any`.
const MAX_DEPTH: usize = 48;
const MAX_NODES: usize = 1_000;

/// The mode of the codec that takes a shape.
const EXTRACT: u8 = 3;

/// What a type wants of the codec: the mode that takes a shape, and its shape, explored when it is first
/// asked for.
pub(crate) fn want_of<T: DeserializeOwned + 'static>() -> Arc<[u8]> {
    static KNOWN: RwLock<Option<HashMap<TypeId, Arc<[u8]>>>> = RwLock::new(None);
    let id = TypeId::of::<T>();
    if let Some(shape) = KNOWN.read().unwrap_or_else(PoisonError::into_inner).as_ref().and_then(|known| known.get(&id))
    {
        return shape.clone();
    }
    // Not under the lock: a `Deserialize` is foreign code.
    let shape = explore::<T>();
    let mut known = KNOWN.write().unwrap_or_else(PoisonError::into_inner);
    known.get_or_insert_default().entry(id).or_insert(shape).clone()
}

fn explore<T: DeserializeOwned>() -> Arc<[u8]> {
    let _room = magic::Room::open();
    let lead = |explorer: &Explorer<'_>| {
        drop(T::deserialize(explorer.begin()));
    };
    let mut shapes = Shapes { nodes: Vec::new(), lead: &lead };
    shapes.node(&mut Vec::new(), &mut Vec::new(), Some(type_name::<T>()));
    [&[EXTRACT], &shapes.encode()[..]].concat().into()
}

enum Shape {
    Any,
    Leaf(u8),
    One(u8, u16),
    Many(u8, Vec<u16>),
    Named(u8, Vec<(&'static str, u16)>),
}

const ANY: u8 = b'a';
const VALUE: u8 = b'v';
const REF: u8 = b'r';
const IGNORED: u8 = b'i';
const SCALAR: u8 = b's';
const BYTES: u8 = b'b';
const UNIT_VARIANT: u8 = b'u';
const OPTION: u8 = b'o';
const SEQ: u8 = b'q';
const NEWTYPE_VARIANT: u8 = b'n';
const TUPLE: u8 = b't';
const MAP: u8 = b'm';
const STRUCT: u8 = b'f';
const ENUM: u8 = b'e';

struct Shapes<'a> {
    nodes: Vec<Shape>,
    lead: &'a dyn Fn(&Explorer<'_>),
}

impl Shapes<'_> {
    /// Explores the node at the end of the path; `above` are the types on the way to it.
    fn node(&mut self, path: &mut Vec<Step>, above: &mut Vec<(&'static str, u16)>, name: Option<&'static str>) -> u16 {
        let id = u16::try_from(self.nodes.len()).expect("MAX_NODES fits");
        self.nodes.push(Shape::Any);
        if path.len() >= MAX_DEPTH || self.nodes.len() >= MAX_NODES {
            return id;
        }
        let Some(found) = probe::explore(self.lead, path) else { return id };
        let name = found.type_name.or(name);
        let known = name.and_then(|name| above.iter().find(|(known, _)| *known == name));
        if let Some((_, known)) = known {
            // The type holds itself. The node made for this place goes again.
            self.nodes.pop();
            return *known;
        }
        above.extend(name.map(|name| (name, id)));
        let shape = match found.request {
            Request::Any => Shape::Any,
            Request::Value => Shape::Leaf(VALUE),
            Request::Ref => Shape::Leaf(REF),
            Request::Ignored => Shape::Leaf(IGNORED),
            Request::Scalar => Shape::Leaf(SCALAR),
            Request::Bytes => Shape::Leaf(BYTES),
            Request::UnitVariant => Shape::Leaf(UNIT_VARIANT),
            // A key that is an identifier: the map is the buffer of a struct with `flatten`.
            Request::Identifier => Shape::Any,
            Request::Option => Shape::One(OPTION, self.below(path, above, Step::Some)),
            Request::Seq => Shape::One(SEQ, self.below(path, above, Step::Element(0))),
            Request::NewtypeVariant => Shape::One(NEWTYPE_VARIANT, self.below(path, above, Step::Content)),
            Request::Map => match self.is_flattened(path) {
                true => Shape::Any,
                false => {
                    let key = self.below(path, above, Step::Key);
                    Shape::Many(MAP, vec![key, self.below(path, above, Step::MapValue)])
                }
            },
            Request::Tuple(length) => {
                Shape::Many(TUPLE, (0..length).map(|place| self.below(path, above, Step::Element(place))).collect())
            }
            Request::Struct(names) => Shape::Named(
                STRUCT,
                names.iter().map(|name| (*name, self.below(path, above, Step::Field(name)))).collect(),
            ),
            Request::Enum(names) => Shape::Named(
                ENUM,
                names.iter().map(|name| (*name, self.below(path, above, Step::Variant(name)))).collect(),
            ),
        };
        if name.is_some() {
            above.pop();
        }
        self.nodes[usize::from(id)] = shape;
        id
    }

    fn below(&mut self, path: &mut Vec<Step>, above: &mut Vec<(&'static str, u16)>, step: Step) -> u16 {
        path.push(step);
        let id = self.node(path, above, None);
        path.pop();
        id
    }

    fn is_flattened(&self, path: &mut Vec<Step>) -> bool {
        path.push(Step::Key);
        let key = probe::explore(self.lead, path);
        path.pop();
        key.is_some_and(|key| matches!(key.request, Request::Identifier))
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let number = |out: &mut Vec<u8>, number: u16| out.extend_from_slice(&number.to_le_bytes());
        let length = |out: &mut Vec<u8>, length: usize| number(out, u16::try_from(length).unwrap_or(u16::MAX));
        for shape in &self.nodes {
            match shape {
                Shape::Any => out.push(ANY),
                Shape::Leaf(letter) => out.push(*letter),
                Shape::One(letter, child) => {
                    out.push(*letter);
                    number(&mut out, *child);
                }
                Shape::Many(letter, children) => {
                    out.push(*letter);
                    length(&mut out, children.len());
                    children.iter().for_each(|child| number(&mut out, *child));
                }
                Shape::Named(letter, children) => {
                    out.push(*letter);
                    length(&mut out, children.len());
                    for (name, child) in children {
                        length(&mut out, name.len());
                        out.extend_from_slice(name.as_bytes());
                        number(&mut out, *child);
                    }
                }
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Bytes, PyRef, Value};
    use serde::Deserialize;
    use std::collections::BTreeMap;

    /// The descriptor in a form that can be read.
    fn shape<T: DeserializeOwned + 'static>() -> String {
        want_of::<T>()[1..].iter().map(|byte| if byte.is_ascii_graphic() { char::from(*byte) } else { '.' }).collect()
    }

    #[test]
    fn leaves_are_one_letter() {
        assert_eq!(shape::<f64>(), "s");
        assert_eq!(shape::<()>(), "s");
        assert_eq!(shape::<String>(), "s");
        assert_eq!(shape::<Bytes>(), "b");
        assert_eq!(shape::<PyRef>(), "r");
        assert_eq!(shape::<Value>(), "v");
        assert_eq!(shape::<serde_json::Value>(), "a");
        assert_eq!(shape::<serde::de::IgnoredAny>(), "i");
    }

    #[derive(Deserialize)]
    #[expect(dead_code, reason = "only its shape is looked at")]
    struct Order {
        at: (std::num::NonZeroU8, PyRef, std::net::IpAddr, Option<Value>),
        #[serde(default, rename = "by")]
        name: Option<String>,
        lines: Vec<Line>,
        next: Option<Box<Order>>,
    }

    #[derive(Deserialize)]
    #[expect(dead_code, reason = "only its shape is looked at")]
    enum Line {
        Empty,
        Item(PyRef),
        Pair(i8, PyRef),
        Full { price: f64, of: BTreeMap<i32, PyRef> },
    }

    #[test]
    fn a_structure_is_explored_to_its_leaves_and_may_hold_itself() {
        let found = shape::<Order>();
        assert!(found.starts_with("f...."), "{found}");
        for part in ["at", "by", "lines", "next", "Empty", "Item", "Pair", "Full", "price", "of"] {
            assert!(found.contains(part), "{part} in {found}");
        }
        assert!(decoded_kinds(&want_of::<Order>()[1..]).len() < 50, "it comes back to itself");
        assert!(!decoded_kinds(&want_of::<Order>()[1..]).contains(&b'a'), "nothing of it stays unknown");
    }

    #[derive(Deserialize)]
    #[expect(dead_code, reason = "only its shape is looked at")]
    struct Flat {
        id: u8,
        #[serde(flatten)]
        rest: BTreeMap<String, String>,
    }

    #[derive(Deserialize)]
    #[serde(untagged)]
    #[expect(dead_code, reason = "only its shape is looked at")]
    enum Either {
        Number(i64),
        Object(PyRef),
    }

    #[test]
    fn behind_flatten_and_untagged_the_shape_is_unknown() {
        assert_eq!(shape::<Flat>(), "a");
        assert_eq!(shape::<Vec<Either>>(), "q..a");
        assert_eq!(shape::<BTreeMap<String, Flat>>(), "m......sa");
    }

    /// The letter of each node.
    fn decoded_kinds(shape: &[u8]) -> Vec<u8> {
        let number = |at: usize| usize::from(u16::from_le_bytes([shape[at], shape[at + 1]]));
        let (mut kinds, mut at) = (Vec::new(), 0);
        while at < shape.len() {
            let kind = shape[at];
            kinds.push(kind);
            at += 1;
            match kind {
                b'o' | b'q' | b'n' => at += 2,
                b't' | b'm' => at += 2 + 2 * number(at),
                b'f' | b'e' => {
                    let count = number(at);
                    at += 2;
                    for _ in 0..count {
                        at += 2 + number(at) + 2;
                    }
                }
                _ => {}
            }
        }
        kinds
    }
}
