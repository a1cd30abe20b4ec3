//! How much memory a worker may have resident: past its soft limit it is to be replaced, past its hard
//! limit to die.
//!
//! It is looked at with each heartbeat, and ten times a second while a call is open there.

use super::heartbeat::tick_after;
use crate::config::PoolConfig;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How often memory is looked at while a call is open.
const BUSY_LOOK: Duration = Duration::from_millis(100);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MemoryLimits {
    pub(crate) soft: usize,
    pub(crate) hard: usize,
}

impl From<&PoolConfig> for MemoryLimits {
    fn from(config: &PoolConfig) -> Self {
        Self { soft: config.memory_soft_limit, hard: config.memory_hard_limit }
    }
}

impl MemoryLimits {
    pub(crate) fn is_set(self) -> bool {
        self.soft < usize::MAX || self.hard < usize::MAX
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "an action that is not carried out leaves somebody waiting"]
pub(crate) enum MemoryAction {
    /// Tell the pool, once, that the worker is to be replaced.
    Renew {
        reason: String,
    },
    Kill {
        cause: String,
    },
}

#[derive(Debug)]
pub(crate) struct Memory {
    limits: MemoryLimits,
    epoch: Instant,
    next: Option<Instant>,
    verdict: Verdict,
    actions: VecDeque<MemoryAction>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Fits,
    Renewed,
    Killed,
}

impl Memory {
    pub(crate) fn new(limits: MemoryLimits, epoch: Instant) -> Self {
        Self { limits, epoch, next: None, verdict: Verdict::Fits, actions: VecDeque::new() }
    }

    pub(crate) fn is_limited(&self) -> bool {
        self.limits.is_set()
    }

    /// Whether calls are open at the worker, as often as that may have changed.
    pub(crate) fn handle_calls(&mut self, are_open: bool, now: Instant) {
        if !are_open || !self.limits.is_set() || self.verdict == Verdict::Killed {
            self.next = None;
        } else if self.next.is_none_or(|at| at <= now) {
            self.next = Some(tick_after(self.epoch, BUSY_LOOK, now));
        }
    }

    /// Whether to look now, where the heartbeat does not ask for it.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        self.next.is_some_and(|at| at <= now)
    }

    /// So many bytes are resident; 0: unknown.
    pub(crate) fn handle_resident(&mut self, bytes: u64) {
        let is_past = |limit: usize| limit < usize::MAX && bytes > limit as u64;
        let MemoryLimits { soft, hard } = self.limits;
        if is_past(hard) && self.verdict != Verdict::Killed {
            self.verdict = Verdict::Killed;
            let cause = format!("resident memory of {bytes} bytes is past its hard limit of {hard}");
            self.actions.push_back(MemoryAction::Kill { cause });
        } else if is_past(soft) && self.verdict == Verdict::Fits {
            self.verdict = Verdict::Renewed;
            let reason = format!("resident memory of {bytes} bytes is past its soft limit of {soft}");
            self.actions.push_back(MemoryAction::Renew { reason });
        }
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.next
    }

    pub(crate) fn poll_action(&mut self) -> Option<MemoryAction> {
        self.actions.pop_front()
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "any moment will do to count from")]
mod tests {
    use super::*;

    const NONE: usize = usize::MAX;

    fn memory(soft: usize, hard: usize) -> Memory {
        Memory::new(MemoryLimits { soft, hard }, Instant::now())
    }

    fn said(memory: &mut Memory, bytes: u64) -> Vec<MemoryAction> {
        memory.handle_resident(bytes);
        std::iter::from_fn(|| memory.poll_action()).collect()
    }

    #[test]
    fn past_its_soft_limit_it_is_replaced_once_and_past_its_hard_limit_it_dies() {
        let mut memory = memory(100, 200);
        assert_eq!(said(&mut memory, 0), []);
        assert_eq!(said(&mut memory, 99), []);
        assert_eq!(said(&mut memory, 100), []);
        let reason = "resident memory of 101 bytes is past its soft limit of 100".to_owned();
        assert_eq!(said(&mut memory, 101), [MemoryAction::Renew { reason }]);
        assert_eq!(said(&mut memory, 200), []);
        let cause = "resident memory of 201 bytes is past its hard limit of 200".to_owned();
        assert_eq!(said(&mut memory, 201), [MemoryAction::Kill { cause }]);
        assert_eq!(said(&mut memory, 900), []);
    }

    #[test]
    fn without_a_limit_nothing_is_looked_at_and_nothing_is_too_much() {
        let mut memory = memory(NONE, NONE);
        memory.handle_calls(true, memory.epoch);
        assert_eq!(memory.poll_timeout(), None);
        assert_eq!(said(&mut memory, u64::MAX), []);
    }

    #[test]
    fn it_is_looked_at_ten_times_a_second_while_calls_are_open_at_moments_that_all_workers_share() {
        let mut memory = memory(NONE, 1);
        let at = |memory: &Memory, millis| memory.epoch + Duration::from_millis(millis);
        assert_eq!(memory.poll_timeout(), None);
        let now = at(&memory, 1_030);
        memory.handle_calls(true, now);
        assert_eq!(memory.poll_timeout(), Some(at(&memory, 1_100)));
        let now = at(&memory, 1_099);
        memory.handle_calls(true, now);
        assert!(!memory.is_due(now));
        let now = at(&memory, 1_170);
        assert!(memory.is_due(now));
        memory.handle_calls(true, now);
        assert_eq!(memory.poll_timeout(), Some(at(&memory, 1_200)));
        memory.handle_calls(false, now);
        assert_eq!(memory.poll_timeout(), None);
    }
}
