//! What a worker answers, and the refs that come with it.

use super::{Untaken, WorkerActor};
use crate::actors::hold::Hold;
use crate::actors::pool::{PinsMade, TaintWorker};
use crate::actors::registry::RefsMade;
use crate::actors::request::Reply;
use crate::error::{ConvertError, Error, PythonError, Ran};
use crate::id::{CallId, RefId};
use crate::pickle::{self, DecodeError};
use crate::process::{BadBlock, BlockName};
use crate::wire::{Body, Ended, Place, ToWorker};
use std::sync::Arc;

/// How many refs one message frees: it has to fit into a datagram.
const MOST_FREED: usize = 4096;

impl WorkerActor {
    pub(super) fn body(&mut self, body: Body, inline: &[u8]) -> Result<Vec<u8>, Untaken> {
        match body.place().map_err(|malformed| malformed.to_string())? {
            Place::Inline { .. } => Ok(inline.to_vec()),
            Place::Block { index, len } => {
                let taken = self.incoming.take(BlockName { index, len: len as u64 });
                if let Ok(_) | Err(BadBlock::NoMemory(_) | BadBlock::NoDescriptor(_)) = taken {
                    self.outbox.release(index);
                }
                taken.map_err(|bad| match bad {
                    BadBlock::NoMemory(_) | BadBlock::NoDescriptor(_) => Untaken::Lacking(bad.to_string()),
                    BadBlock::Io(..) => Untaken::Lost(bad.to_string()),
                    BadBlock::Unknown(_)
                    | BadBlock::TooLong { .. }
                    | BadBlock::NotInUse(_)
                    | BadBlock::Invalid { .. } => Untaken::Broken(bad.to_string()),
                })
            }
        }
    }

    /// The ids of objects that a reply brings. One of another worker would be freed there in its time.
    pub(super) fn own(&self, refs: Vec<u64>) -> Result<Vec<RefId>, String> {
        let mut last = None;
        for id in &refs {
            if !self.ids.contains(id) && !mutant!("own.any_id") || last.is_some_and(|last| last >= id) {
                return Err(format!("object {id}, which it cannot have made for this reply"));
            }
            last = Some(id);
        }
        Ok(refs.into_iter().map(RefId).collect())
    }

    /// The pool hears that the worker is free before the caller can call again.
    pub(super) fn replied(
        &mut self,
        call: CallId,
        ended: Ended,
        body: Vec<u8>,
        refs: Vec<RefId>,
    ) -> Result<(), String> {
        // Its caller was answered before, or has left.
        let Some(request) = self.requests.get(&call).filter(|request| !request.promise.is_abandoned()) else {
            let request = self.requests.remove(&call);
            let unheard = self.unheard.remove(&call).or_else(|| request?.if_unheard.take());
            self.free(refs);
            // Nobody hears what it raised, and the worker is as broken as if somebody did.
            if ended == Ended::Raised {
                let raised = pickle::decode_error(&body).map_err(|error| format!("{error:?}"))?;
                self.look_for_poison(&raised);
            }
            self.lease_over(call, 0);
            if let (Ended::Value, Some(done)) = (ended, unheard)
                && !mutant!("entry.is_unheard")
            {
                done();
            }
            return Ok(());
        };
        let hold = Arc::clone(&request.hold);
        let answer = match ended {
            Ended::Value if !hold.admit_refs(refs.len()) => {
                self.free(refs);
                self.lease_over(call, 0);
                Err(Error::RefLimit { session: hold.id().clone(), limit: hold.state.max_refs, ran: Ran::Yes })
            }
            Ended::Value => {
                self.lease_over(call, refs.len());
                if !refs.is_empty() {
                    let (session, worker) = (hold.key().clone(), self.id.clone());
                    self.registry.do_send(RefsMade { session, worker, ids: refs.clone() });
                }
                Ok(Reply::new(body, self.id.clone(), hold, refs))
            }
            Ended::Raised | Ended::NoSuchRef | Ended::Unsendable | Ended::Part => {
                let error = self.failure(ended, &body, &hold).map_err(|error| format!("{error:?}"))?;
                if let Some(raised) = error.python() {
                    self.look_for_poison(raised);
                }
                self.lease_over(call, 0);
                Err(error)
            }
        };
        if let Some(mut request) = self.requests.remove(&call) {
            request.promise.answer(answer);
        }
        Ok(())
    }

    /// To be done before the pool can send it another call.
    fn look_for_poison(&self, raised: &PythonError) {
        if let Some(taint) = TaintWorker::for_raised(&self.id, raised) {
            self.pool.do_send(taint);
        }
    }

    /// Items of a batch that goes on.
    pub(super) fn part(&mut self, call: CallId, body: Vec<u8>, refs: Vec<RefId>) -> Result<(), String> {
        let Some(request) = self.requests.get(&call).filter(|request| !request.promise.is_abandoned()) else {
            self.free(refs);
            return Ok(());
        };
        let hold = Arc::clone(&request.hold);
        if !hold.admit_refs(refs.len()) {
            // The answer is this error; what comes behind it goes to nobody.
            let limit = Error::RefLimit { session: hold.id().clone(), limit: hold.state.max_refs, ran: Ran::Yes };
            if let Some(mut request) = self.requests.remove(&call) {
                request.promise.answer(Err(limit));
            }
            self.free(refs);
            return Ok(());
        }
        self.keep(call, &hold, &refs);
        let part = Reply::new(body, self.id.clone(), hold, refs);
        if request.promise.part(part) { Ok(()) } else { Err("a part of an answer that has none".to_owned()) }
    }

    /// Refs that a part brings: the pool and the registry know of them before anyone can drop one.
    pub(super) fn keep(&self, call: CallId, hold: &Hold, refs: &[RefId]) {
        if !refs.is_empty() {
            self.pool.do_send(PinsMade { call, pins_made: refs.len() });
            let (session, worker) = (hold.key().clone(), self.id.clone());
            self.registry.do_send(RefsMade { session, worker, ids: refs.to_vec() });
        }
    }

    pub(super) fn failure(&self, ended: Ended, body: &[u8], hold: &Hold) -> Result<Error, DecodeError> {
        Ok(match ended {
            Ended::NoSuchRef => Error::RefNotFound {
                id: RefId(pickle::decode_plain(body)?),
                session: hold.id().clone(),
                why: "its worker has let go of it".into(),
            },
            Ended::Unsendable => {
                ConvertError::of_result("a value that can be sent", pickle::decode_plain::<String>(body)?).into()
            }
            Ended::Raised | Ended::Value | Ended::Part => Error::Python(Arc::new(pickle::decode_error(body)?)),
        })
    }

    pub(super) fn free(&mut self, refs: Vec<RefId>) {
        for refs in refs.chunks(MOST_FREED) {
            let refs = refs.iter().map(|id| id.0).collect();
            self.outbox.send(|released| ToWorker::Free { refs, released }, &self.page);
        }
    }
}
