//! The control page: 4 KiB that the host and one worker both see, one aligned 64-bit word per fact.
//!
//! Each word has one writer. The worker writes *begun* before it looks at anything of a call, so
//! that after a death the host knows exactly which calls had begun; the host takes a call back by
//! writing its revoke word, then [`barrier`](Page::barrier), then reading *begun*. The layout is
//! specified in `docs/process-model.md` and mirrored in `worker_py/snakebridge_worker/page.py`.

use super::fds;
use super::mapping::Mapping;
use crate::config::MAX_CONCURRENCY;
use rustix::thread::MembarrierCommand;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const SIZE: usize = 4096;

/// `SBPAGE` and the version of the layout.
pub(super) const MAGIC: u64 = 0x5342_5041_4745_0002;

const WORD_MAGIC: usize = 0;
const WORD_ENTRIES: usize = 1;
/// Written by the host; on a cache line of their own, as the next two groups.
const WORD_HOST_SENT: usize = 8;
const WORD_POLL_BUDGET: usize = 9;
/// Written by the worker.
const WORD_WORKER_SENT: usize = 16;
const WORD_FENCED: usize = 17;
const WORD_FREED: usize = 18;
/// Written by the host: the sequence number at `seq % REVOKE_WORDS` is taken back.
const FIRST_REVOKE: usize = 64;
const REVOKE_WORDS: usize = 64;
/// Written by the worker: an entry is a cache line.
const FIRST_ENTRY: usize = 128;
const ENTRY_WORDS: usize = 8;
const ENTRY_BEGUN: usize = 0;
const ENTRY_BEGUN_NESTED: usize = 1;
/// Written by the host: the sequence number at `seq % INTERRUPT_WORDS` is to end.
const FIRST_INTERRUPT: usize = 384;
const INTERRUPT_WORDS: usize = 64;

/// One worker's control page, mapped here.
#[derive(Debug)]
pub(crate) struct Page {
    memory: Mapping,
    entries: u32,
}

impl Page {
    /// A fresh page for a worker that runs `entries` calls at once, and the descriptor it gets.
    pub(super) fn new(entries: usize) -> io::Result<(Self, OwnedFd)> {
        let memory = fds::sealed_memory("snakebridge-page", SIZE as u64)?;
        let page = Self::map(&memory, entries.clamp(1, MAX_CONCURRENCY))?;
        page.word(WORD_MAGIC).store(MAGIC, Ordering::Release);
        page.word(WORD_ENTRIES).store(u64::from(page.entries), Ordering::Release);
        Ok((page, memory))
    }

    fn map(memory: impl AsFd, entries: usize) -> io::Result<Self> {
        let entries = u32::try_from(entries).expect("clamped by the caller");
        Ok(Self { memory: Mapping::new(memory, SIZE)?, entries })
    }

    /// How many calls the worker runs at once.
    pub(crate) fn entries(&self) -> u32 {
        self.entries
    }

    /// The sequence number of the last plain call begun at an entry; 0: none yet. Calls of one
    /// entry begin in the order sent, so every number up to it has begun or was taken back.
    pub(crate) fn begun(&self, entry: u32) -> u64 {
        self.entry(entry, ENTRY_BEGUN).load(Ordering::Acquire)
    }

    /// As [`begun`](Self::begun), for calls that run nested inside others, which overtake the plain ones.
    pub(crate) fn begun_nested(&self, entry: u32) -> u64 {
        self.entry(entry, ENTRY_BEGUN_NESTED).load(Ordering::Acquire)
    }

    /// Takes a sent call back: the worker passes it over unless it has begun. Only after
    /// [`barrier`](Self::barrier) does *begun* say which. Numbers 64 apart share a word: it must not
    /// be written while the call that it [names](Self::revoked) has yet to be passed.
    pub(crate) fn revoke(&self, seq: u64) {
        self.word(FIRST_REVOKE + seq as usize % REVOKE_WORDS).store(seq, Ordering::Release);
    }

    /// The call that was last taken back by the word that this one would use; 0: none.
    pub(crate) fn revoked(&self, seq: u64) -> u64 {
        self.word(FIRST_REVOKE + seq as usize % REVOKE_WORDS).load(Ordering::Relaxed)
    }

    /// Makes a revoke exact: after it, either the worker sees the revoke words written before it,
    /// or this side sees *begun*. `false`: the worker is not yet, or cannot be, reached by barriers, and what was sent must be taken for begun.
    #[must_use]
    pub(crate) fn barrier(&self) -> bool {
        if self.word(WORD_FENCED).load(Ordering::Acquire) == 0 {
            return false;
        }
        std::sync::atomic::fence(Ordering::SeqCst);
        rustix::thread::membarrier(MembarrierCommand::GlobalExpedited).is_ok()
    }

    /// Says that a call which has begun is to end. The worker looks there when it gets its signal, and
    /// when that call goes on after it has waited. Numbers 64 apart share a word, as those of
    /// [`revoke`](Self::revoke) do.
    pub(crate) fn interrupt(&self, seq: u64) {
        self.word(FIRST_INTERRUPT + seq as usize % INTERRUPT_WORDS).store(seq, Ordering::Release);
    }

    /// The call that was last interrupted by the word that this one would use; 0: none.
    pub(crate) fn interrupted(&self, seq: u64) -> u64 {
        self.word(FIRST_INTERRUPT + seq as usize % INTERRUPT_WORDS).load(Ordering::Relaxed)
    }

    /// Counts a message sent to the worker; after the send, never before, or the worker wakes to find nothing.
    pub(crate) fn count_sent(&self) {
        self.word(WORD_HOST_SENT).fetch_add(1, Ordering::Release);
    }

    /// How many messages the worker has sent; exact with one entry.
    pub(crate) fn worker_sent(&self) -> u64 {
        self.word(WORD_WORKER_SENT).load(Ordering::Acquire)
    }

    /// How many objects the worker has come to, of those that it was told to let go of; of several at once it counts each.
    pub(crate) fn freed(&self) -> u64 {
        self.word(WORD_FREED).load(Ordering::Relaxed)
    }

    /// How long the worker polls before it sleeps.
    pub(crate) fn set_poll_budget(&self, budget: Duration) {
        self.word(WORD_POLL_BUDGET).store(budget.as_nanos() as u64, Ordering::Release);
    }

    fn entry(&self, entry: u32, word: usize) -> &AtomicU64 {
        assert!(entry < self.entries, "entry {entry} of {}", self.entries);
        self.word(FIRST_ENTRY + if mutant!("page.one_entry") { 0 } else { entry as usize * ENTRY_WORDS } + word)
    }

    fn word(&self, index: usize) -> &AtomicU64 {
        self.memory.word(index)
    }
}

/// As the worker has it.
#[cfg(test)]
impl Page {
    pub(super) fn far(memory: &OwnedFd) -> io::Result<Self> {
        let page = Self::map(memory, 1)?;
        let entries = page.word(WORD_ENTRIES).load(Ordering::Acquire);
        Ok(Self { entries: u32::try_from(entries).expect("few"), ..page })
    }

    pub(crate) fn set_fenced(&self) {
        self.word(WORD_FENCED).store(1, Ordering::Release);
    }

    pub(crate) fn begin(&self, entry: u32, nested: bool, seq: u64) {
        let word = if nested { ENTRY_BEGUN_NESTED } else { ENTRY_BEGUN };
        self.entry(entry, word).store(seq, Ordering::SeqCst);
    }

    pub(crate) fn count_worker_sent(&self) {
        self.word(WORD_WORKER_SENT).fetch_add(1, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entry_has_words_of_its_own_inside_the_page() {
        for entries in 1..=MAX_CONCURRENCY {
            let (page, memory) = Page::new(entries).expect("a page");
            let other = Page::map(&memory, entries).expect("mapped twice");
            let last = ENTRY_WORDS - 1;
            for entry in 0..page.entries() {
                other.entry(entry, ENTRY_BEGUN).store(100 + u64::from(entry), Ordering::Release);
                other.entry(entry, last).store(200 + u64::from(entry), Ordering::Release);
            }
            for seq in 1000..1064 {
                page.revoke(seq);
                page.interrupt(seq + 64);
            }
            assert!((1000..1064).all(|seq| (page.revoked(seq), page.interrupted(seq)) == (seq, seq + 64)));
            for entry in 0..page.entries() {
                assert_eq!(page.begun(entry), 100 + u64::from(entry));
                assert_eq!(page.entry(entry, last).load(Ordering::Acquire), 200 + u64::from(entry));
            }
        }
    }

    #[test]
    #[should_panic(expected = "entry 1 of 1")]
    fn an_entry_that_is_not_there_is_a_bug() {
        Page::new(1).expect("a page").0.begun(1);
    }
}
