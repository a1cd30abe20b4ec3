//! Namespaces: where the `exec` and `eval` of a session run, in one worker of the pool.
//!
//! A namespace is made where the first call that uses it is granted, in the same step, so that two at
//! once share it. From then on it is a pin: calls that use it go where it lives, and it is lost with
//! its worker. Python makes its part of it at the first use.

use super::Pool;
use super::call::{Call, Stage, Target};
use super::session::{self, Namespace, Session, Sid};
use super::ticket::Refusal;
use super::worker::Place;
use crate::id::{CallId, WorkerId};
use std::sync::Arc;

impl Session {
    pub(super) fn forget_lost_namespace(&mut self) {
        match self.namespace {
            Namespace::Lost { .. } => self.namespace = Namespace::None,
            Namespace::None | Namespace::At { .. } => {}
        }
    }

    /// One that nothing may have begun in is no loss: the next call makes it elsewhere.
    pub(super) fn lose_namespace(&mut self, gone: Place, cause: &Arc<str>) {
        match self.namespace {
            Namespace::At { place, is_used } if place == gone => {
                let lost = Namespace::Lost { place, cause: cause.clone() };
                self.namespace = if is_used { lost } else { Namespace::None };
            }
            Namespace::None | Namespace::At { .. } | Namespace::Lost { .. } => {}
        }
    }
}

impl Pool {
    /// The worker that holds what the call carries: its refs, and the namespace that it uses.
    pub(super) fn bound_to(&self, call: &Call, session: &Session) -> Result<Option<Place>, Refusal> {
        if !call.uses_namespace {
            return Ok(call.pinned_to);
        }
        match (&session.namespace, call.pinned_to) {
            (Namespace::None, refs) => {
                reach!("no namespace", call.affinity);
                Ok(refs)
            }
            (Namespace::At { place, .. }, Some(refs)) if *place != refs => {
                reach!("namespace elsewhere", call.affinity);
                Err(self.elsewhere(*place, refs))
            }
            (Namespace::At { place, .. }, _) => Ok(Some(*place)),
            (Namespace::Lost { place, cause }, _) => {
                reach!("namespace, worker gone", call.affinity);
                Err(Refusal::RefLost { worker: self.worker_id(*place), cause: cause.clone() })
            }
        }
    }

    fn elsewhere(&self, namespace: Place, refs: Place) -> Refusal {
        Refusal::NamespaceElsewhere { namespace: self.worker_id(namespace), refs: self.worker_id(refs) }
    }

    /// Calls of the session that use it and wait for anything else wait for its worker from now on.
    pub(super) fn make_namespace(&mut self, sid: Sid, place: Place) {
        let session = self.session_mut(sid);
        session.namespace = Namespace::At { place, is_used: false };
        // One that has ended keeps no worker: what it left is dropped with the last of its calls.
        if session.stage == session::Stage::Live {
            session.pin(place, 1);
            self.worker_mut(place).pinned.insert(sid);
        }
        let lines = self.sessions[&sid].lines.iter().filter(|line| line.target != Target::Worker(place));
        let waiting = lines.flat_map(|line| line.calls.iter());
        let uses_it: Vec<CallId> = waiting.copied().filter(|id| self.calls[id].uses_namespace).collect();
        for id in uses_it {
            self.queue.has_moved = true;
            match self.calls[&id].pinned_to {
                None => {
                    self.take_from_line(id);
                    self.join_line(id, Target::Worker(place));
                }
                Some(refs) => {
                    self.leave_line(id);
                    self.refuse(id, self.elsewhere(place, refs));
                }
            }
        }
    }

    /// A call that may have begun: what it left in the namespace can be lost.
    pub(super) fn note_namespace_used(&mut self, id: CallId) {
        let Some(call) = self.calls.get(&id).filter(|call| call.uses_namespace) else { return };
        let (Stage::Running(lease) | Stage::Ahead(lease)) = &call.stage else { return };
        let (sid, at) = (call.sid, lease.place);
        match &mut self.session_mut(sid).namespace {
            Namespace::At { place, is_used } if *place == at => *is_used = true,
            Namespace::None | Namespace::At { .. } | Namespace::Lost { .. } => {}
        }
    }

    /// The worker in which a session leaves its namespace, when it has ended and no call of it runs any more.
    pub(super) fn left_namespace(&self, session: &Session) -> Option<WorkerId> {
        match session.namespace {
            Namespace::At { place, .. } => self.workers.get(&place).map(|worker| worker.id.clone()),
            Namespace::None | Namespace::Lost { .. } => None,
        }
    }
}
