//! What observers may ask; nothing is decided by it.

use super::Pool;
use super::action::Action;
use super::call::{Stage, Target};
#[cfg(test)]
use super::session::Namespace;
use super::session::Sid;
use super::worker::{State, Worker};
use crate::id::{CallId, SessionKey, WorkerId};
use std::sync::Arc;

/// How a worker stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    Starting,
    Free,
    Busy,
    Tainted,
    Retiring,
    /// On its way out; it takes nothing any more.
    Stopping,
}

/// A worker as observers see it.
#[derive(Clone, Debug)]
pub(crate) struct WorkerView<'a> {
    pub(crate) id: &'a WorkerId,
    pub(crate) standing: Standing,
    /// How many sessions have their home in it.
    pub(crate) sessions: usize,
    /// How many refs live in it.
    pub(crate) pins: usize,
    /// The calls that run in it.
    pub(crate) running: Vec<CallId>,
}

impl Pool {
    /// The session's home, also when it is gone.
    pub(crate) fn home(&self, session: &SessionKey) -> Option<WorkerId> {
        let session = self.sessions.get(&Sid::from(session))?;
        let place = session.home.or(session.lost.as_ref().map(|lost| lost.place))?;
        Some(self.worker_id(place))
    }

    /// The worker that the session's namespace lives in.
    #[cfg(test)]
    pub(crate) fn namespace(&self, session: &SessionKey) -> Option<WorkerId> {
        match self.sessions.get(&Sid::from(session))?.namespace {
            Namespace::At { place, .. } => Some(self.worker_id(place)),
            Namespace::None | Namespace::Lost { .. } => None,
        }
    }

    /// The session of a call that waits or holds a lease.
    pub(crate) fn session_of(&self, call: CallId) -> Option<&SessionKey> {
        self.calls.get(&call).and_then(|call| self.sessions.get(&call.sid)).map(|session| &session.key)
    }

    /// The worker that a waiting call waits for, none for any; nothing of a call that does not wait.
    pub(crate) fn waits_for(&self, call: CallId) -> Option<Option<WorkerId>> {
        match self.calls.get(&call)?.stage {
            Stage::Waiting(Target::Any) => Some(None),
            Stage::Waiting(Target::Worker(place)) => Some(Some(self.worker_id(place))),
            Stage::Routing | Stage::Running(_) | Stage::Ahead(_) => None,
        }
    }

    /// What is decided, and not polled yet.
    pub(crate) fn pending(&self) -> impl Iterator<Item = &Action> {
        self.actions.iter()
    }

    /// Every worker from its start to its seen exit.
    pub(crate) fn workers(&self) -> impl Iterator<Item = WorkerView<'_>> {
        self.workers.values().map(|worker| self.view(worker))
    }

    /// Every slot has a worker that takes calls.
    pub(crate) fn is_ready(&self) -> bool {
        self.has_all_slots_ready()
    }

    /// Every slot has such a worker, and none is to be replaced because code was loaded anew or its zygote is gone.
    pub(crate) fn is_settled(&self) -> bool {
        self.has_all_slots_ready() && self.outdated().is_empty()
    }

    /// Whether that has become so since this was asked last: under load the next renewal begins in the same step.
    pub(crate) fn take_settled(&mut self) -> bool {
        std::mem::take(&mut self.has_settled)
    }

    /// How many calls hold a place in the queue.
    pub(crate) fn waiting(&self) -> usize {
        self.queue.calls
    }

    /// Why the pool is degraded, if it is.
    pub(crate) fn degraded(&self) -> Option<&Arc<str>> {
        self.restarts.degraded()
    }

    /// Why the pool is degraded and does not start at once what it misses.
    pub(crate) fn given_up(&self) -> Option<&Arc<str>> {
        self.restarts.given_up()
    }

    fn view<'a>(&'a self, worker: &'a Worker) -> WorkerView<'a> {
        let place = super::Place::from(&worker.id);
        let ahead = |id: &&CallId| matches!(self.calls[*id].stage, Stage::Ahead(_));
        let standing = match worker.state {
            State::Starting { .. } => Standing::Starting,
            State::Retiring | State::Draining => Standing::Retiring,
            State::Stopping => Standing::Stopping,
            State::Serving if worker.taint.is_some() => Standing::Tainted,
            State::Serving if worker.has_room(self.rules.concurrency) => Standing::Free,
            State::Serving => Standing::Busy,
        };
        WorkerView {
            id: &worker.id,
            standing,
            sessions: worker.homes.len(),
            pins: worker.pinned.iter().map(|sid| self.sessions[sid].pins_at(place)).sum(),
            running: worker.leases.iter().filter(|id| !ahead(id)).copied().collect(),
        }
    }
}
