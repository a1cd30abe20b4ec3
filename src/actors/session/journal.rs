//! What a session writes to the message log: what it heard of a call, and what comes of it.

use super::{Grant, SessionActor, Work};
use crate::actors::refusal;
use crate::actors::request::{Place, Request};
use crate::id::CallId;
use crate::observe::Handled;
use crate::rules::pool::{Purpose, Refusal};
use std::sync::Arc;

impl SessionActor {
    /// To be called before anything is done about it.
    pub(super) fn note<O: Into<Arc<str>>>(
        &self,
        message: Handled,
        call: Option<CallId>,
        outcome: impl FnOnce(&Work) -> O,
    ) {
        self.journal.note(message, call, Some(&self.state.key), || match &self.work {
            Some(work) => outcome(work),
            None => outcome(&Work::default()),
        });
    }
}

impl Work {
    pub(super) fn outcome_of_call(&self, request: &Request) -> String {
        match self.ending {
            Some(_) if request.made_in.is_none() => "refused: the session has ended".to_owned(),
            Some(_) | None => match request.purpose {
                Purpose::Call => format!("asks pool {}", request.pool),
                Purpose::Opening => format!("asks pool {}, to open a stream", request.pool),
                Purpose::Rebuilding { under } => {
                    format!("asks pool {}, to make a home ready for {under}", request.pool)
                }
                Purpose::Continuing => format!("asks pool {}, to go on with what is open", request.pool),
            },
        }
    }

    pub(super) fn outcome_of_grant(&self, grant: &Grant) -> String {
        let (worker, rebuild) = (&grant.worker, grant.rebuild);
        let is_next = self.pending.held().next().is_none();
        match self.pending.body(grant.call).filter(|_| is_next) {
            Some(request) if request.promise.is_abandoned() => {
                format!("its caller has left, {worker} is given back")
            }
            Some(_) if rebuild && self.ending.is_some() => {
                format!("its session has ended, {worker} is given back")
            }
            Some(_) if rebuild => format!("its on_home runs in {worker}"),
            Some(_) => format!("sent to {worker}"),
            None => format!("{worker}, held until a body is back"),
        }
    }

    pub(super) fn outcome_of_refusal(&self, call: CallId, refusal: &Refusal) -> String {
        let code = refusal::code(refusal);
        if self.pending.rebuilding(call).is_some() {
            return code.to_owned();
        }
        match self.pending.body(call).is_some() {
            true => code.to_owned(),
            false => format!("{code}, held until its body is back"),
        }
    }

    pub(super) fn outcome_of_return(&self, request: &Request) -> String {
        if let Some(refusal) = self.pending.refusal(request.call) {
            return refusal::code(refusal).to_owned();
        }
        let mut held = self.pending.held().enumerate();
        match held.find(|(_, grant)| grant.call == request.call) {
            Some((0, grant)) => format!("sent to {}", grant.worker),
            Some((_, _)) => "waits for a body that was granted before".to_owned(),
            None if request.promise.is_abandoned() => "its caller has left, withdrawn".to_owned(),
            None => "waits".to_owned(),
        }
    }

    pub(super) fn outcome_of_giving_up(&self, call: CallId, place: &Place) -> &'static str {
        if self.pending.rebuilding(call).is_some() {
            return "its on_home is ended";
        }
        match self.pending.body(call).is_some() {
            true => "withdrawn",
            false if place.worker().is_some() => "abandoned in its worker",
            false => "over before",
        }
    }
}
