//! A parsed pickle: nodes that name one another by number, shared where Python shared them.
//!
//! Each node knows how deep it is and how many nodes stand below it, **counted as often as they are
//! reached**: 254 bytes can describe 2^41. A node that has become part of another cannot change any
//! more, so there are no cycles, and both figures are final when they are used.

use super::DecodeError;
use super::budget::Budget;
use crate::value::{PyRef, SeqKind, Tree, View};
use chrono::{DateTime, FixedOffset, NaiveDate, NaiveDateTime, NaiveTime, TimeDelta};
use num_bigint::BigInt;
use uuid::Uuid;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Id(u32);

pub(super) enum Node<'a> {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Str(&'a str),
    BadStr,
    Bytes(&'a [u8]),
    Seq(SeqKind, Vec<Id>),
    Dict(Vec<(Id, Id)>),
    /// An extension code that awaits its arguments.
    Code(u8),
    /// What is rare.
    Boxed(Box<Rare<'a>>),
}

pub(super) enum Rare<'a> {
    Big(BigInt),
    Complex(f64, f64),
    Record(Vec<Id>, Vec<Id>),
    DateTime(NaiveDateTime),
    DateTimeTz(DateTime<FixedOffset>),
    Date(NaiveDate),
    Time(NaiveTime),
    TimeDelta(TimeDelta),
    Decimal(&'a str),
    Uuid(Uuid),
    Ref(PyRef),
    Stream(PyRef),
    Opaque(&'a str, &'a str),
}

struct Slot<'a> {
    node: Node<'a>,
    /// Nodes here and below, with multiplicity.
    weight: u64,
    depth: u16,
    /// Part of another node: changes no more.
    used: bool,
}

pub(super) struct Nodes<'a> {
    slots: Vec<Slot<'a>>,
    most: u64,
}

impl<'a> Nodes<'a> {
    /// For a body of so many bytes.
    pub(super) fn new(body: usize, budget: &Budget) -> Self {
        let per_byte = (body as u64).saturating_mul(Budget::NODES_PER_BYTE).saturating_add(Budget::NODES_FREE);
        Self { slots: Vec::with_capacity((body / 8).clamp(4, 1 << 16)), most: budget.nodes.min(per_byte) }
    }

    pub(super) fn add(&mut self, node: Node<'a>) -> Result<Id, DecodeError> {
        let id = u32::try_from(self.slots.len()).map_err(|_| over_nodes(self.most))?;
        if u64::from(id) >= self.most.saturating_mul(2) {
            // Nodes that end up in nothing (extension codes, argument tuples) are not unbounded either.
            return Err(over_nodes(self.most));
        }
        self.slots.push(Slot { node, weight: 1, depth: 0, used: false });
        Ok(Id(id))
    }

    pub(super) fn node(&self, id: Id) -> &Node<'a> {
        &self.slots[id.0 as usize].node
    }

    pub(super) fn node_mut(&mut self, id: Id) -> &mut Node<'a> {
        &mut self.slots[id.0 as usize].node
    }

    /// Makes the children part of the parent, for the count.
    pub(super) fn attach(&mut self, parent: Id, children: &[Id]) -> Result<(), DecodeError> {
        if self.slots[parent.0 as usize].used {
            return Err(DecodeError::cycle());
        }
        let (mut weight, mut depth) = (0_u64, 0);
        for child in children {
            if *child == parent {
                return Err(DecodeError::cycle());
            }
            let child = &mut self.slots[child.0 as usize];
            if let Node::Code(_) = child.node {
                return Err(DecodeError::malformed("an extension code that is never reduced"));
            }
            child.used = true;
            weight = weight.saturating_add(child.weight);
            depth = depth.max(child.depth + 1);
        }
        let slot = &mut self.slots[parent.0 as usize];
        slot.weight = slot.weight.saturating_add(weight);
        slot.depth = slot.depth.max(depth);
        if slot.weight > self.most {
            return Err(over_nodes(self.most));
        }
        // Containers count, the leaf in the innermost does not.
        if usize::from(slot.depth) > Budget::DEPTH {
            return Err(DecodeError::OverBudget { what: "nesting", limit: Budget::DEPTH as u64 });
        }
        Ok(())
    }

    /// The parent stands for the child: one level, not two.
    pub(super) fn stand_for(&mut self, child: Id) {
        self.slots[child.0 as usize].used = true;
    }

    pub(super) fn root(&self, id: Id) -> At<'_, 'a> {
        At { nodes: self, id }
    }
}

fn over_nodes(limit: u64) -> DecodeError {
    DecodeError::OverBudget { what: "values", limit }
}

/// One node, as the deserialiser sees it.
pub(super) struct At<'n, 'a> {
    nodes: &'n Nodes<'a>,
    id: Id,
}

impl Clone for At<'_, '_> {
    fn clone(&self) -> Self {
        *self
    }
}

impl Copy for At<'_, '_> {}

pub(super) struct Items<'n, 'a> {
    nodes: &'n Nodes<'a>,
    ids: std::slice::Iter<'n, Id>,
}

impl<'n, 'a> Iterator for Items<'n, 'a> {
    type Item = At<'n, 'a>;

    fn next(&mut self) -> Option<Self::Item> {
        self.ids.next().map(|id| At { nodes: self.nodes, id: *id })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.ids.size_hint()
    }
}

impl ExactSizeIterator for Items<'_, '_> {}

pub(super) struct Pairs<'n, 'a> {
    nodes: &'n Nodes<'a>,
    ids: std::slice::Iter<'n, (Id, Id)>,
}

impl<'n, 'a> Iterator for Pairs<'n, 'a> {
    type Item = (At<'n, 'a>, At<'n, 'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let (key, value) = self.ids.next()?;
        Some((At { nodes: self.nodes, id: *key }, At { nodes: self.nodes, id: *value }))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.ids.size_hint()
    }
}

impl ExactSizeIterator for Pairs<'_, '_> {}

impl<'n, 'a> Tree<'n> for At<'n, 'a> {
    type Items = Items<'n, 'a>;
    type Pairs = Pairs<'n, 'a>;

    fn view(self) -> View<'n, Self> {
        let nodes = self.nodes;
        let items = |ids: &'n [Id]| Items { nodes, ids: ids.iter() };
        match nodes.node(self.id) {
            // The parser lets no code into a tree.
            Node::None | Node::Code(_) => View::None,
            Node::Bool(value) => View::Bool(*value),
            Node::Int(value) => View::Int(*value),
            Node::Float(value) => View::Float(*value),
            Node::Str(text) => View::Str(text),
            Node::BadStr => View::BadStr,
            Node::Bytes(bytes) => View::Bytes(bytes),
            Node::Seq(kind, ids) => View::Seq(*kind, items(ids)),
            Node::Dict(ids) => View::Dict(Pairs { nodes, ids: ids.iter() }),
            Node::Boxed(rare) => match &**rare {
                Rare::Big(value) => View::Big(value),
                Rare::Complex(re, im) => View::Complex(*re, *im),
                Rare::Record(names, values) => View::Record(items(names), items(values)),
                Rare::DateTime(value) => View::DateTime(*value),
                Rare::DateTimeTz(value) => View::DateTimeTz(*value),
                Rare::Date(value) => View::Date(*value),
                Rare::Time(value) => View::Time(*value),
                Rare::TimeDelta(value) => View::TimeDelta(*value),
                Rare::Decimal(text) => View::Decimal(text),
                Rare::Uuid(value) => View::Uuid(*value),
                Rare::Ref(handle) => View::Ref(handle),
                Rare::Stream(handle) => View::Stream(handle),
                Rare::Opaque(module, type_name) => View::Opaque(module, type_name),
            },
        }
    }
}
