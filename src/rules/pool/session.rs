//! What a pool keeps of one session: its home, its mark of a lost one, its pins, its namespace, its
//! waiting calls.

use super::call::Target;
use super::rebuild::Rebuilding;
use super::worker::Place;
use crate::id::{CallId, SessionKey};
use std::collections::VecDeque;
use std::sync::Arc;

/// A session's incarnation: its key without the name, cheap to keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Sid(u64);

impl From<&SessionKey> for Sid {
    fn from(key: &SessionKey) -> Self {
        Self(key.incarnation())
    }
}

/// A home that is gone, which strict calls are refused for until reset or rehome.
#[derive(Clone, Debug)]
pub(super) struct LostHome {
    pub(super) place: Place,
    pub(super) cause: Arc<str>,
}

/// Where the session's `exec` and `eval` run.
#[derive(Clone, Debug)]
pub(super) enum Namespace {
    /// It is made where the next call that uses it is granted.
    None,
    At {
        place: Place,
        /// Whether a call may have begun in it: else nothing is lost with its worker.
        is_used: bool,
    },
    /// Calls that use it are refused until reset or rehome.
    Lost { place: Place, cause: Arc<str> },
}

#[derive(Debug)]
pub(super) struct Session {
    pub(super) key: SessionKey,
    pub(super) home: Option<Place>,
    pub(super) lost: Option<LostHome>,
    /// How many refs it holds in each worker.
    pub(super) pins: Vec<(Place, usize)>,
    /// One of the pins there, where it lives.
    pub(super) namespace: Namespace,
    /// Its calls that are neither over nor refused.
    pub(super) calls: usize,
    /// Its requests that may still be on their way to a worker that is gone.
    pub(super) returning: usize,
    /// Strict calls that are being taken back from a worker: none of the session may begin elsewhere
    /// before it is known whether these did.
    pub(super) settling: Option<Settling>,
    /// Its home, while that is being made ready: all calls but those that do so wait.
    pub(super) rebuilding: Option<Rebuilding>,
    pub(super) lines: Vec<Line>,
    /// How many of its calls are in its lines and take a place there.
    pub(super) waiting: usize,
    pub(super) stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Live,
    /// It has ended, as a late call of it says; that the pool is to forget it, it will hear.
    Ended,
    /// It has ended; what runs finishes, and then the pool says that it has forgotten it.
    Ending,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Settling {
    pub(super) place: Place,
    pub(super) calls: usize,
}

/// The waiting calls of one session for one target, in the order of submission.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) target: Target,
    pub(super) calls: VecDeque<CallId>,
    /// How many of them keep no order, and may pass those that do.
    pub(super) loose: usize,
    /// Its place among the lines that wait for the same worker.
    pub(super) turn: u64,
    /// Whether its turn may come now; else something of its own session has to end first.
    pub(super) is_listed: bool,
}

impl Session {
    pub(super) fn new(key: SessionKey) -> Self {
        Self {
            key,
            home: None,
            lost: None,
            pins: Vec::new(),
            namespace: Namespace::None,
            calls: 0,
            returning: 0,
            settling: None,
            rebuilding: None,
            lines: Vec::new(),
            waiting: 0,
            stage: Stage::Live,
        }
    }

    pub(super) fn line(&self, target: Target) -> Option<&Line> {
        self.lines.iter().find(|line| line.target == target)
    }

    pub(super) fn line_mut(&mut self, target: Target) -> Option<&mut Line> {
        self.lines.iter_mut().find(|line| line.target == target)
    }

    pub(super) fn pins_at(&self, place: Place) -> usize {
        self.pins.iter().find(|(at, _)| *at == place).map_or(0, |(_, count)| *count)
    }

    pub(super) fn pin(&mut self, place: Place, count: usize) {
        match self.pins.iter_mut().find(|(at, _)| *at == place) {
            Some((_, pins)) => *pins += count,
            None => self.pins.push((place, count)),
        }
    }

    /// Takes pins away; true if none is left there.
    pub(super) fn unpin(&mut self, place: Place, count: usize) -> bool {
        let Some(at) = self.pins.iter().position(|(at, _)| *at == place) else { return false };
        self.pins[at].1 = self.pins[at].1.saturating_sub(count);
        let none_left = self.pins[at].1 == 0;
        if none_left {
            self.pins.swap_remove(at);
        }
        none_left
    }

    /// Whether strict calls must not begin there yet.
    pub(super) fn is_settling_elsewhere(&self, place: Option<Place>) -> bool {
        self.settling.is_some_and(|settling| Some(settling.place) != place && !mutant!("settling.is_ignored"))
    }

    /// Whether the pool has nothing to remember of it.
    pub(super) fn is_blank(&self) -> bool {
        self.home.is_none()
            && self.lost.is_none()
            && self.pins.is_empty()
            && matches!(self.namespace, Namespace::None)
            && self.is_idle()
            && self.stage == Stage::Live
    }

    /// No call of it is anywhere, nor on its way.
    pub(super) fn is_idle(&self) -> bool {
        self.calls == 0 && self.returning == 0
    }
}
