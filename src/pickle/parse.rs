//! Opcodes into nodes. Runs nothing, recurses nowhere, and trusts no length.
//!
//! It knows the opcodes that CPython's pickler writes for plain data at protocol 5, and no other.

use super::DecodeError;
use super::budget::Budget;
use super::construct::construct;
use super::nodes::{Id, Node, Nodes, Rare};
use super::opcode::*;
use crate::value::{RefSource, SeqKind};
use num_bigint::BigInt;
use num_traits::ToPrimitive;

/// Reads one whole pickle: the nodes, and which of them it is.
pub(super) fn parse<'a>(
    body: &'a [u8],
    refs: Option<&RefSource>,
    budget: &Budget,
) -> Result<(Nodes<'a>, Id), DecodeError> {
    let mut parser = Parser {
        rest: body,
        nodes: Nodes::new(body.len(), budget),
        stack: Vec::with_capacity(8),
        marks: Vec::new(),
        memo: Vec::new(),
        refs,
        refs_left: budget.refs,
        budget,
    };
    if parser.take(2)? != [PROTO, 5] {
        return Err(DecodeError::malformed("it does not begin as protocol 5"));
    }
    let root = parser.run()?;
    Ok((parser.nodes, root))
}

pub(super) struct Parser<'a, 'r> {
    rest: &'a [u8],
    pub(super) nodes: Nodes<'a>,
    stack: Vec<Id>,
    marks: Vec<usize>,
    memo: Vec<Id>,
    pub(super) refs: Option<&'r RefSource>,
    pub(super) refs_left: usize,
    pub(super) budget: &'r Budget,
}

impl<'a> Parser<'a, '_> {
    fn run(&mut self) -> Result<Id, DecodeError> {
        loop {
            let opcode = self.take(1)?[0];
            match opcode {
                // A frame is a hint for who reads from a file; what it holds is read as it comes.
                FRAME => {
                    let length = self.length(8)?;
                    if length > self.rest.len() {
                        return Err(DecodeError::malformed("a frame longer than the body"));
                    }
                }
                NONE => self.push(Node::None)?,
                NEWTRUE => self.push(Node::Bool(true))?,
                NEWFALSE => self.push(Node::Bool(false))?,
                BININT => {
                    let bytes = self.array::<4>()?;
                    self.push(Node::Int(i32::from_le_bytes(bytes).into()))?;
                }
                BININT1 => {
                    let value = self.length(1)?;
                    self.push(Node::Int(value as i64))?;
                }
                BININT2 => {
                    let value = self.length(2)?;
                    self.push(Node::Int(value as i64))?;
                }
                LONG1 => self.long(1)?,
                LONG4 => self.long(4)?,
                BINFLOAT => {
                    let bytes = self.array::<8>()?;
                    self.push(Node::Float(f64::from_be_bytes(bytes)))?;
                }
                SHORT_BINUNICODE => self.str(1)?,
                BINUNICODE => self.str(4)?,
                BINUNICODE8 => self.str(8)?,
                SHORT_BINBYTES => self.bytes(1)?,
                BINBYTES => self.bytes(4)?,
                BINBYTES8 | BYTEARRAY8 => self.bytes(8)?,
                EMPTY_LIST => self.push(Node::Seq(SeqKind::List, Vec::new()))?,
                EMPTY_SET => self.push(Node::Seq(SeqKind::Set, Vec::new()))?,
                EMPTY_DICT => self.push(Node::Dict(Vec::new()))?,
                EMPTY_TUPLE => self.push(Node::Seq(SeqKind::Tuple, Vec::new()))?,
                TUPLE1 => self.gather(SeqKind::Tuple, 1)?,
                TUPLE2 => self.gather(SeqKind::Tuple, 2)?,
                TUPLE3 => self.gather(SeqKind::Tuple, 3)?,
                TUPLE => {
                    let count = self.above_mark()?;
                    self.gather(SeqKind::Tuple, count)?;
                }
                FROZENSET => {
                    let count = self.above_mark()?;
                    self.gather(SeqKind::FrozenSet, count)?;
                }
                MARK => self.marks.push(self.stack.len()),
                APPEND => self.extend(SeqKind::List, 1)?,
                APPENDS => {
                    let count = self.above_mark()?;
                    self.extend(SeqKind::List, count)?;
                }
                ADDITEMS => {
                    let count = self.above_mark()?;
                    self.extend(SeqKind::Set, count)?;
                }
                SETITEM => self.set_items(2)?,
                SETITEMS => {
                    let count = self.above_mark()?;
                    self.set_items(count)?;
                }
                MEMOIZE => {
                    let top = *self.stack.last().ok_or_else(underflow)?;
                    self.memo.push(top);
                }
                BINGET => self.get(1)?,
                LONG_BINGET => self.get(4)?,
                // CPython writes these where a tuple or frozenset turns out to hold itself.
                POP | POP_MARK => return Err(DecodeError::cycle()),
                EXT1 => {
                    let code = self.take(1)?[0];
                    self.push(Node::Code(code))?;
                }
                REDUCE => self.reduce()?,
                STOP => return self.stop(),
                other => return Err(DecodeError::malformed(format!("opcode {other:#04x}"))),
            }
        }
    }

    fn stop(&mut self) -> Result<Id, DecodeError> {
        if !self.rest.is_empty() {
            return Err(DecodeError::malformed(format!("{} bytes after its end", self.rest.len())));
        }
        match (self.stack.as_slice(), self.marks.is_empty()) {
            ([root], true) if !matches!(self.nodes.node(*root), Node::Code(_)) => Ok(*root),
            _ => Err(DecodeError::malformed("it does not end with one value")),
        }
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or_else(|| DecodeError::malformed("it is cut off"))?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        Ok(self.take(N)?.try_into().expect("as many were taken"))
    }

    /// A little-endian number of so many bytes; at most 8.
    fn length(&mut self, width: usize) -> Result<usize, DecodeError> {
        let mut bytes = [0; 8];
        bytes[..width].copy_from_slice(self.take(width)?);
        usize::try_from(u64::from_le_bytes(bytes)).map_err(|_| DecodeError::malformed("a length past the memory"))
    }

    fn push(&mut self, node: Node<'a>) -> Result<(), DecodeError> {
        let id = self.nodes.add(node)?;
        self.stack.push(id);
        Ok(())
    }

    fn long(&mut self, width: usize) -> Result<(), DecodeError> {
        let length = self.length(width)?;
        if length > self.budget.int_bytes {
            return Err(DecodeError::OverBudget { what: "bytes in one int", limit: self.budget.int_bytes as u64 });
        }
        let bytes = self.take(length)?;
        let small = (length <= 8).then(|| {
            let negative = bytes.last().is_some_and(|last| last & 0x80 != 0);
            let mut wide = [if negative { 0xff } else { 0 }; 8];
            wide[..length].copy_from_slice(bytes);
            i64::from_le_bytes(wide)
        });
        match small {
            Some(value) => self.push(Node::Int(value)),
            None => {
                let value = BigInt::from_signed_bytes_le(bytes);
                self.push(value.to_i64().map_or_else(|| Node::Boxed(Box::new(Rare::Big(value))), Node::Int))
            }
        }
    }

    fn str(&mut self, width: usize) -> Result<(), DecodeError> {
        let length = self.length(width)?;
        let bytes = self.take(length)?;
        // Python writes lone surrogates as they are: a `str` for Python, but no text for Rust.
        self.push(std::str::from_utf8(bytes).map_or(Node::BadStr, Node::Str))
    }

    fn bytes(&mut self, width: usize) -> Result<(), DecodeError> {
        let length = self.length(width)?;
        let bytes = self.take(length)?;
        self.push(Node::Bytes(bytes))
    }

    /// How many stand above the last mark, which goes.
    fn above_mark(&mut self) -> Result<usize, DecodeError> {
        let mark = self.marks.pop().ok_or_else(underflow)?;
        self.stack.len().checked_sub(mark).ok_or_else(underflow)
    }

    /// Where the topmost `count` begin; they must not reach below a mark.
    fn top(&self, count: usize) -> Result<usize, DecodeError> {
        let floor = self.marks.last().copied().unwrap_or(0);
        self.stack.len().checked_sub(count).filter(|at| *at >= floor).ok_or_else(underflow)
    }

    fn pop(&mut self) -> Result<Id, DecodeError> {
        let at = self.top(1)?;
        Ok(self.stack.remove(at))
    }

    fn gather(&mut self, kind: SeqKind, count: usize) -> Result<(), DecodeError> {
        let at = self.top(count)?;
        let items = self.stack.split_off(at);
        let id = self.nodes.add(Node::Seq(kind, Vec::new()))?;
        self.nodes.attach(id, &items)?;
        *self.nodes.node_mut(id) = Node::Seq(kind, items);
        self.stack.push(id);
        Ok(())
    }

    fn extend(&mut self, kind: SeqKind, count: usize) -> Result<(), DecodeError> {
        let at = self.top(count)?;
        let parent = *self.stack[..at].last().ok_or_else(underflow)?;
        self.nodes.attach(parent, &self.stack[at..])?;
        match self.nodes.node_mut(parent) {
            Node::Seq(found, items) if *found == kind => items.extend(self.stack.drain(at..)),
            _ => return Err(DecodeError::malformed(format!("items for what is not a {}", kind.name()))),
        }
        Ok(())
    }

    fn set_items(&mut self, count: usize) -> Result<(), DecodeError> {
        let at = self.top(count)?;
        let parent = *self.stack[..at].last().ok_or_else(underflow)?;
        self.nodes.attach(parent, &self.stack[at..])?;
        if !count.is_multiple_of(2) {
            return Err(DecodeError::malformed("a key without a value"));
        }
        match self.nodes.node_mut(parent) {
            Node::Dict(entries) => entries.extend(self.stack[at..].chunks_exact(2).map(|pair| (pair[0], pair[1]))),
            _ => return Err(DecodeError::malformed("entries for what is not a dict")),
        }
        self.stack.truncate(at);
        Ok(())
    }

    fn get(&mut self, width: usize) -> Result<(), DecodeError> {
        let place = self.length(width)?;
        let id = *self.memo.get(place).ok_or_else(|| DecodeError::malformed("a memo that was never written"))?;
        self.stack.push(id);
        Ok(())
    }

    fn reduce(&mut self) -> Result<(), DecodeError> {
        let (arguments, code) = (self.pop()?, self.pop()?);
        let (Node::Code(code), Node::Seq(SeqKind::Tuple, ids)) = (self.nodes.node(code), self.nodes.node(arguments))
        else {
            return Err(DecodeError::malformed("a call of what is no extension code"));
        };
        let (code, ids) = (*code, ids.clone());
        let id = construct(self, code, &ids)?;
        self.stack.push(id);
        Ok(())
    }
}

fn underflow() -> DecodeError {
    DecodeError::malformed("an opcode without its operands")
}
