//! A simulated worker process: threads that take calls in order, a page, objects.

use crate::id::{CallId, RefId};
use std::collections::{BTreeSet, VecDeque};

#[derive(Debug)]
pub(super) struct Process {
    pub(super) life: Life,
    pub(super) threads: Vec<Thread>,
    /// The page: the number of the last call that each thread has begun.
    pub(super) begun: Vec<u64>,
    pub(super) revoked: BTreeSet<u64>,
    pub(super) objects: BTreeSet<RefId>,
    /// The sessions whose namespace was made there.
    pub(super) namespaces: BTreeSet<u64>,
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
    pub(super) step: Step,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) enum Step {
    #[default]
    Idle,
    /// The begun word is written; the revoke word is read next.
    Begun(u64, CallId),
    Running(u64),
}

impl Process {
    pub(super) fn new(threads: usize) -> Self {
        Self {
            life: Life::Starting,
            threads: (0..threads).map(|_| Thread::default()).collect(),
            begun: vec![0; threads],
            revoked: BTreeSet::new(),
            objects: BTreeSet::new(),
            namespaces: BTreeSet::new(),
        }
    }
}
