//! Large bodies: shared memory blocks that are recycled, so that only their names travel.
//!
//! The sender owns a [`BlockPool`], the receiver a [`BlockTable`] of the blocks it was given. A
//! block's descriptor travels once, over the side socket, before the message that first names it.
//! Each side maps a block once. The host copies in and out and never keeps a slice into shared
//! memory, so that a worker that plays with it can give wrong bytes and nothing else; the worker
//! works in place.

use super::fds::{self, Message};
use super::mapping::{self, Mapping};
use rustix::fs::{FallocateFlags, SealFlags, SeekFrom};
use rustix::io::Errno;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

/// The smallest block; each size class is four times the one before.
const SMALLEST: u64 = 64 * 1024;
/// The largest block, and so the largest body.
pub(crate) const LARGEST: u64 = 1 << 30;
/// How many blocks a direction has at most; few enough for the side socket to hold every descriptor.
pub(super) const MAX_BLOCKS: usize = 64;
/// How much memory the blocks in use may hold.
const MAX_IN_USE: u64 = 4 << 30;
/// How much memory idle blocks keep, page tables warm, for the next body.
const MAX_IDLE: u64 = 64 << 20;
/// `pwritev` takes at most this many parts.
const IOV_MAX: usize = 1024;

/// What travels in place of a large body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BlockName {
    pub(crate) index: u32,
    pub(crate) len: u64,
}

/// A block that cannot be read: mostly, as the worker cannot have meant it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BadBlock {
    #[error("block {0} was never sent")]
    Unknown(u32),
    #[error("block {index} has {size} bytes, not {len}")]
    TooLong { index: u32, len: u64, size: u64 },
    #[error("block {0} is not in use")]
    NotInUse(u32),
    #[error("block {index} is no sealed memory of a valid size: {why}")]
    Invalid { index: u64, why: &'static str },
    #[error("no memory for a body of {0} bytes")]
    NoMemory(u64),
    /// It stays in the socket, and is looked for again when it is next named.
    #[error("no descriptor for a block: {0}")]
    NoDescriptor(io::Error),
    /// It is lost.
    #[error("block {0} cannot be read: {1}")]
    Io(u32, io::Error),
}

/// The side socket of a worker, shared by its two directions.
pub(super) type SideSocket = Arc<OwnedFd>;

/// The blocks that this side sends bodies in.
#[derive(Debug)]
pub(crate) struct BlockPool {
    side: SideSocket,
    blocks: Vec<Block>,
    in_use: u64,
}

#[derive(Debug)]
struct Block {
    memory: OwnedFd,
    mapping: Mapping,
    size: u64,
    /// How many of its bytes may hold memory of the system.
    touched: u64,
    /// Its length while the receiver has it.
    lent: Option<u64>,
}

impl BlockPool {
    pub(super) fn new(side: SideSocket) -> Self {
        Self { side, blocks: Vec::new(), in_use: 0 }
    }

    /// Writes a body into a block and lends it to the receiver.
    ///
    /// # Errors
    /// `FileTooLarge` above 1 GiB. `WouldBlock` when every block is lent: try again after a
    /// release. Else the system is out of memory or descriptors.
    pub(crate) fn put(&mut self, parts: &[&[u8]]) -> io::Result<BlockName> {
        let len: u64 = parts.iter().map(|part| part.len() as u64).sum();
        if len > LARGEST {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                format!("a body of {len} bytes; 1 GiB is the limit"),
            ));
        }
        if self.in_use + len > MAX_IN_USE && self.in_use > 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let index = self.idle(len).map_or_else(|| self.add(len), Ok)?;
        let block = &mut self.blocks[index];
        if block.touched >= len {
            let mut offset = 0;
            for part in parts {
                block.mapping.copy_in(offset, part);
                offset += part.len();
            }
        } else {
            // Memory that is not there yet is written by the kernel: no page fault, nothing zeroed before.
            block.touched = len;
            write_all(&block.memory, parts)?;
        }
        block.lent = Some(len);
        self.in_use += len;
        Ok(BlockName { index: index as u32, len })
    }

    /// The receiver gives a block back.
    ///
    /// # Errors
    /// `NotInUse` for a block that it does not have.
    pub(crate) fn released(&mut self, index: u32) -> Result<(), BadBlock> {
        let block = self.blocks.get_mut(index as usize);
        let len = block.and_then(|block| block.lent.take()).ok_or(BadBlock::NotInUse(index))?;
        self.in_use -= len;
        while self.idle_bytes() > MAX_IDLE {
            let largest = self.blocks.iter_mut().filter(|block| block.lent.is_none()).max_by_key(|block| block.touched);
            largest.expect("idle blocks hold bytes, so there is one").empty();
        }
        Ok(())
    }

    /// Gives the memory of all idle blocks back to the system.
    #[cfg_attr(not(test), expect(dead_code, reason = "idle blocks hold at most `MAX_IDLE` without it"))]
    pub(crate) fn trim(&mut self) {
        for block in self.blocks.iter_mut().filter(|block| block.lent.is_none()) {
            block.empty();
        }
    }

    /// How much memory the idle blocks hold.
    pub(crate) fn idle_bytes(&self) -> u64 {
        self.blocks.iter().filter(|block| block.lent.is_none()).map(|block| block.touched).sum()
    }

    /// The idle block that fits best, warm memory first.
    fn idle(&self, len: u64) -> Option<usize> {
        let fitting = self.blocks.iter().enumerate().filter(|(_, block)| block.lent.is_none() && block.size >= len);
        fitting.min_by_key(|(_, block)| (block.touched < len, block.size)).map(|(index, _)| index)
    }

    fn add(&mut self, len: u64) -> io::Result<usize> {
        if self.blocks.len() == MAX_BLOCKS {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let size = class(len);
        let memory = fds::sealed_memory("snakebridge-block", size)?;
        let mapping = Mapping::new(&memory, size as usize)?;
        let index = self.blocks.len();
        let mut announcement = [0; 16];
        announcement[..8].copy_from_slice(&(index as u64).to_le_bytes());
        announcement[8..].copy_from_slice(&size.to_le_bytes());
        fds::send(&*self.side, &announcement, &[memory.as_fd()])?;
        self.blocks.push(Block { memory, mapping, size, touched: 0, lent: None });
        Ok(index)
    }
}

impl Block {
    /// A hole, not a shorter file: both sides keep their descriptor and their mapping, only the memory goes.
    fn empty(&mut self) {
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        // A kernel that cannot keeps the memory until the worker ends; it must not be counted again.
        let _ = rustix::fs::fallocate(&self.memory, hole, 0, self.size);
        self.touched = 0;
    }
}

/// The size of the smallest block class that takes a body.
fn class(len: u64) -> u64 {
    let mut size = SMALLEST;
    while size < len {
        size *= 4;
    }
    size.min(LARGEST)
}

fn write_all(memory: &OwnedFd, parts: &[&[u8]]) -> io::Result<()> {
    let mut offset = 0;
    let mut slices: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
    let mut left = slices.as_mut_slice();
    IoSlice::advance_slices(&mut left, 0);
    while !left.is_empty() {
        let batch = left.len().min(IOV_MAX);
        match rustix::io::pwritev(memory, &left[..batch], offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                offset += written as u64;
                IoSlice::advance_slices(&mut left, written);
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// The blocks that the other side has sent bodies in.
#[derive(Debug)]
pub(crate) struct BlockTable {
    side: SideSocket,
    blocks: Vec<Received>,
}

#[derive(Debug)]
struct Received {
    memory: OwnedFd,
    /// None while there is no memory for it.
    mapping: Option<Mapping>,
    size: u64,
}

impl BlockTable {
    pub(super) fn new(side: SideSocket) -> Self {
        Self { side, blocks: Vec::new() }
    }

    /// Copies a body out of its block. The block may be named as released right after.
    ///
    /// # Errors
    /// [`BadBlock`]: the worker broke the protocol, or there is no memory or descriptor for the body.
    pub(crate) fn take(&mut self, name: BlockName) -> Result<Vec<u8>, BadBlock> {
        let BlockName { index, len } = name;
        while self.blocks.len() <= index as usize {
            self.receive(index)?;
        }
        let block = &mut self.blocks[index as usize];
        if len > block.size && !mutant!("block.any_length") {
            return Err(BadBlock::TooLong { index, len, size: block.size });
        }
        let wanted = usize::try_from(len).map_err(|_| BadBlock::NoMemory(len))?;
        let mut body = Vec::new();
        body.try_reserve_exact(wanted).map_err(|_| BadBlock::NoMemory(len))?;
        mapping::prefer_huge_pages(&mut body);
        let mapping = match &block.mapping {
            Some(mapping) => mapping,
            None => {
                let made = Mapping::new(&block.memory, block.size as usize).map_err(|_| BadBlock::NoMemory(len))?;
                block.mapping.insert(made)
            }
        };
        // To touch a hole through the mapping would take memory for it: an honest worker has none
        // within a body, another could make the host pay for every block it names.
        if len == 0 || rustix::fs::seek(&block.memory, SeekFrom::Hole(0)).is_ok_and(|hole| hole >= len) {
            mapping.copy_out(wanted, &mut body);
            return Ok(body);
        }
        body.resize(wanted, 0);
        let mut read = 0;
        while read < wanted {
            match rustix::io::pread(&block.memory, &mut body[read..], read as u64) {
                Ok(0) => return Err(BadBlock::TooLong { index, len, size: read as u64 }),
                Ok(length) => read += length,
                Err(Errno::INTR) => {}
                Err(error) => return Err(BadBlock::Io(index, error.into())),
            }
        }
        Ok(body)
    }

    /// The next block off the side socket; they arrive in the order of their indices.
    fn receive(&mut self, named: u32) -> Result<(), BadBlock> {
        let mut announcement = [0; 16];
        // What is received without room for it is lost.
        let room = rustix::io::fcntl_dupfd_cloexec(&*self.side, 0);
        drop(room.map_err(|error| BadBlock::NoDescriptor(error.into()))?);
        let Message { length, mut fds, is_short } = match fds::recv(&*self.side, &mut announcement) {
            Ok(received) => received,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(BadBlock::Unknown(named)),
            Err(error) => return Err(BadBlock::Io(named, error)),
        };
        if length == 0 {
            return Err(BadBlock::Unknown(named));
        }
        let word = |at: usize| u64::from_le_bytes(announcement[at..at + 8].try_into().expect("8 of 16 bytes"));
        let (index, size) = (word(0), word(8));
        let invalid = |why| Err(BadBlock::Invalid { index, why });
        if length != announcement.len() || index != self.blocks.len() as u64 || self.blocks.len() == MAX_BLOCKS {
            return invalid("not the next block");
        }
        if is_short && fds.is_empty() {
            return Err(BadBlock::Io(named, Errno::MFILE.into()));
        }
        let (Some(memory), true) = (fds.pop(), fds.is_empty()) else {
            return invalid("not one descriptor");
        };
        // Only memory has seals: a pipe or a file on a slow disk could make a read wait for ever.
        match rustix::fs::fcntl_get_seals(&memory) {
            Ok(seals) if seals.contains(SealFlags::SHRINK | SealFlags::GROW) => {}
            _ => return invalid("not sealed"),
        }
        let actual = rustix::fs::fstat(&memory).map_or(-1, |stat| stat.st_size);
        if u64::try_from(actual) != Ok(size) || size == 0 || size > LARGEST {
            return invalid("its size");
        }
        self.blocks.push(Received { memory, mapping: None, size });
        Ok(())
    }
}
