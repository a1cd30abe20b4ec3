//! A simulated worker process: threads that take calls in order, a page, objects.

use super::world::Message;
use crate::id::{CallId, RefId, WorkerId};
use crate::rules::lane::Begun;
use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

#[derive(Debug)]
pub(super) struct Process {
    pub(super) life: Life,
    pub(super) threads: Vec<Thread>,
    /// The page: the numbers of the last calls that each thread has begun.
    pub(super) begun: Vec<Begun>,
    pub(super) revoked: BTreeSet<u64>,
    /// The interrupt words.
    pub(super) interrupted: BTreeSet<u64>,
    /// The calls that an exception was raised in.
    pub(super) struck: BTreeSet<u64>,
    pub(super) objects: BTreeSet<RefId>,
    /// The sessions whose namespace was made there.
    pub(super) namespaces: BTreeSet<u64>,
    /// By a signal: it does nothing until it is continued, and `held` is what it does then.
    pub(super) is_stopped: bool,
    pub(super) continued_at: Option<Instant>,
    pub(super) held: VecDeque<Message>,
    /// To be answered once the calls before them are over.
    pub(super) pings: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Life {
    Starting,
    /// Killed before it was there.
    Doomed,
    Alive,
    Dead,
}

#[derive(Debug, Default)]
pub(super) struct Thread {
    pub(super) inbox: VecDeque<(u64, CallId)>,
    /// What is to run on top of a call that waits.
    pub(super) nested: VecDeque<(u64, CallId)>,
    /// The call that runs, below it those that wait.
    pub(super) stack: Vec<Frame>,
    /// Whether it takes a step by itself; else it waits for a message.
    pub(super) is_awake: bool,
    /// Of its steps under way only the last counts.
    pub(super) turn: u64,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Frame {
    pub(super) seq: u64,
    pub(super) call: CallId,
    pub(super) step: Step,
    /// When it came, no call of its tree stood there any more.
    pub(super) is_late: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The begun word is written; the revoke word is read next.
    Begun,
    Running,
    /// An exception was raised in it, and it obeys.
    Ending,
    /// It waits for a callback.
    Waiting,
}

impl Thread {
    pub(super) fn is_idle(&self) -> bool {
        self.stack.is_empty() && self.inbox.is_empty() && self.nested.is_empty()
    }

    /// The next call that it may begin, and whether that is one of the nested.
    pub(super) fn take_next(&mut self) -> Option<(u64, CallId, bool)> {
        let is_waiting = self.stack.last().is_some_and(|top| top.step == Step::Waiting);
        let is_nested_first = match (self.nested.front(), self.inbox.front()) {
            (Some((nested, _)), Some((plain, _))) => is_waiting || nested < plain,
            (nested, _) => nested.is_some(),
        };
        if is_nested_first {
            return self.nested.pop_front().map(|(seq, call)| (seq, call, true));
        }
        if is_waiting {
            return None;
        }
        self.inbox.pop_front().map(|(seq, call)| (seq, call, false))
    }
}

impl Process {
    pub(super) fn new(threads: usize) -> Self {
        Self {
            life: Life::Starting,
            threads: (0..threads).map(|_| Thread::default()).collect(),
            begun: vec![Begun::default(); threads],
            revoked: BTreeSet::new(),
            interrupted: BTreeSet::new(),
            struck: BTreeSet::new(),
            objects: BTreeSet::new(),
            namespaces: BTreeSet::new(),
            is_stopped: false,
            continued_at: None,
            held: VecDeque::new(),
            pings: 0,
        }
    }

    /// It is to be killed, since it does not answer: no call runs in it, and its answers are not on their way.
    pub(super) fn assert_silent(&self, worker: &WorkerId, now: Instant) {
        if self.life == Life::Dead {
            return;
        }
        let answers_soon = self.continued_at.is_some_and(|at| now < at + ANSWERS_WITHIN);
        assert!(self.is_stopped || answers_soon, "{worker} is killed, and it answers");
        // One that was taken back and is about to be passed never runs.
        let runs = |frame: &Frame| frame.step != Step::Begun || !self.revoked.contains(&frame.seq);
        let is_running = self.threads.iter().any(|thread| thread.stack.iter().any(runs));
        assert!(!is_running || answers_soon, "{worker} is killed while a call runs in it");
    }
}

const ANSWERS_WITHIN: Duration = Duration::from_millis(2);
