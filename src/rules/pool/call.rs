//! One call, from its ticket until it is over or refused.

use super::session::Sid;
use super::ticket::{Purpose, Refusal};
use super::tree::Tree;
use super::worker::Place;
use crate::config::Affinity;
use crate::id::CallId;
use std::time::{Duration, Instant};

#[derive(Debug)]
pub(super) struct Call {
    pub(super) sid: Sid,
    pub(super) purpose: Purpose,
    pub(super) rebuilds: bool,
    /// Of the call whose callback made it.
    pub(super) tree: Option<Tree>,
    pub(super) affinity: Affinity,
    /// The worker that holds its refs.
    pub(super) pinned_to: Option<Place>,
    pub(super) uses_namespace: bool,
    pub(super) rehomes: bool,
    pub(super) deadline: Option<Instant>,
    pub(super) timeout: Option<Duration>,
    pub(super) queue_timeout: Duration,
    /// When it has waited for `queue_timeout`; set when it first waits, and gone when it has a worker to run in:
    /// should it have to wait again, it has as long again.
    pub(super) wait_ends: Option<Instant>,
    /// The moment that its timer is set for.
    pub(super) timer: Option<Instant>,
    pub(super) bytes: usize,
    pub(super) stage: Stage,
}

#[derive(Debug)]
pub(super) enum Stage {
    /// Not looked at yet, or on its way from one place to the next within a step.
    Routing,
    Waiting(Target),
    /// Granted a free slot, or taken to run since.
    Running(Lease),
    /// Granted behind a running one: it holds its place in the queue until that is over.
    Ahead(Lease),
}

#[derive(Debug)]
pub(super) struct Lease {
    pub(super) place: Place,
    pub(super) take_back: TakeBack,
    /// The call that it runs on top of, or which is below that one; it needs no room of its own.
    pub(super) on: Option<CallId>,
    /// What it was to run on top of is over, and it has that room.
    pub(super) is_late: bool,
    /// It waits for a callback.
    pub(super) waits: bool,
}

impl Lease {
    pub(super) fn new(place: Place) -> Self {
        Self { place, take_back: TakeBack::No, on: None, is_late: false, waits: false }
    }

    pub(super) fn nested(place: Place, on: CallId) -> Self {
        Self { on: Some(on), ..Self::new(place) }
    }
}

#[derive(Clone, Debug)]
pub(super) enum TakeBack {
    No,
    Asked(Then),
    /// It seems to have begun; if the worker passes it all the same, it is not lost.
    Kept(Then),
}

/// What becomes of a call that was taken back.
#[derive(Clone, Debug)]
pub(super) enum Then {
    Refuse(Refusal),
    RouteAgain,
}

/// What a call waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Target {
    Any,
    Worker(Place),
}

impl Call {
    pub(super) fn is_strict(&self) -> bool {
        match self.affinity {
            Affinity::Hint => false,
            Affinity::StrictQueue | Affinity::StrictFailFast => true,
        }
    }

    /// No other worker will do than that of its home, its refs or its namespace.
    pub(super) fn is_tied(&self) -> bool {
        self.is_strict() || self.pinned_to.is_some() || self.uses_namespace
    }

    /// It keeps the order of submission and never overlaps another of its session.
    pub(super) fn is_in_line(&self) -> bool {
        self.affinity == Affinity::StrictQueue || self.is_continuing()
    }

    /// It waits its turn whatever its affinity, takes no place in the queue, and no taint turns it away.
    pub(super) fn is_continuing(&self) -> bool {
        self.purpose == Purpose::Continuing
    }

    pub(super) fn lease(&self) -> Option<&Lease> {
        match &self.stage {
            Stage::Running(lease) | Stage::Ahead(lease) => Some(lease),
            Stage::Routing | Stage::Waiting(_) => None,
        }
    }

    pub(super) fn lease_mut(&mut self) -> Option<&mut Lease> {
        match &mut self.stage {
            Stage::Running(lease) | Stage::Ahead(lease) => Some(lease),
            Stage::Routing | Stage::Waiting(_) => None,
        }
    }
}
