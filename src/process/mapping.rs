#![expect(unsafe_code, reason = "mapping memory that another process shares")]
//! Memory shared with a worker, mapped here.
//!
//! No slice into it is ever given out: the worker may write at any time, so bytes are copied in and
//! out, and words are atomics.

use rustix::mm::{Advice, MapFlags, ProtFlags};
use std::io;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

/// Private buffers from this size are backed by huge pages: their page faults cost a quarter.
const HUGE: usize = 4 << 20;
const HUGE_PAGE: usize = 2 << 20;

/// A mapping of a whole sealed memory.
#[derive(Debug)]
pub(super) struct Mapping {
    start: NonNull<u8>,
    size: usize,
}

// SAFETY: the mapping is plain memory, owned like a `Box`; it is touched only by copies and atomics.
unsafe impl Send for Mapping {}
// SAFETY: as above; copies into it need `&mut self`.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// The memory must be sealed against shrinking, or an access may fault.
    pub(super) fn new(memory: impl AsFd, size: usize) -> io::Result<Self> {
        // SAFETY: a new mapping at an address of the kernel's choice aliases nothing; `Drop` unmaps it.
        let start = unsafe {
            let access = ProtFlags::READ | ProtFlags::WRITE;
            rustix::mm::mmap(std::ptr::null_mut(), size, access, MapFlags::SHARED, memory, 0)?
        };
        Ok(Self { start: NonNull::new(start.cast()).expect("mmap never answers null"), size })
    }

    /// Writes bytes at an offset.
    pub(super) fn copy_in(&mut self, offset: usize, bytes: &[u8]) {
        assert!(offset <= self.size && bytes.len() <= self.size - offset);
        // SAFETY: in bounds; `bytes` is private memory, which the mapping does not overlap. What the
        // worker writes meanwhile can only spoil the bytes, and nothing here relies on them.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.start.as_ptr().add(offset), bytes.len()) }
    }

    /// A private copy of the first `len` bytes, in a buffer that was reserved for them.
    pub(super) fn copy_out(&self, len: usize, body: &mut Vec<u8>) {
        assert!(len <= self.size && body.is_empty() && body.capacity() >= len);
        // SAFETY: in bounds on both sides, and the buffer is private. The worker may write meanwhile:
        // any bytes are valid bytes, and they are looked at only after the copy.
        unsafe {
            std::ptr::copy_nonoverlapping(self.start.as_ptr(), body.as_mut_ptr(), len);
            body.set_len(len);
        }
    }

    /// The word of that index.
    pub(super) fn word(&self, index: usize) -> &AtomicU64 {
        assert!(index < self.size / size_of::<AtomicU64>());
        // SAFETY: in bounds; aligned, as a mapping begins at a page; it lives as long as `self`.
        unsafe { self.start.cast::<AtomicU64>().add(index).as_ref() }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by `new` with this size, and no reference into it outlives `self`.
        let unmapped = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.size) };
        debug_assert!(unmapped.is_ok());
    }
}

/// Asks for huge pages behind the spare capacity of a large buffer.
pub(super) fn prefer_huge_pages(buffer: &mut Vec<u8>) {
    let spare = buffer.spare_capacity_mut();
    if spare.len() < HUGE {
        return;
    }
    let start = spare.as_mut_ptr();
    let skipped = start.align_offset(HUGE_PAGE);
    let length = spare.len().saturating_sub(skipped) / HUGE_PAGE * HUGE_PAGE;
    // SAFETY: within the buffer's own spare capacity; the advice changes no contents. That the
    // kernel declines costs only time.
    let _ = unsafe { rustix::mm::madvise(start.add(skipped).cast(), length, Advice::LinuxHugepage) };
}
