//! What a pool writes to the message log: what it heard, and what its rules have decided on it.

use super::PoolSupervisor;
use crate::actors::refusal;
use crate::event::Fact;
use crate::id::{CallId, SessionKey, WorkerId};
use crate::observe::Handled;
use crate::rules::pool::Action;
use std::fmt::Write;

/// A message that is being handled: written once the rules have decided, before anyone is told.
#[derive(Default)]
pub(super) struct Heard {
    message: Option<Handled>,
    call: Option<CallId>,
    session: Option<SessionKey>,
    worker: Option<WorkerId>,
}

impl PoolSupervisor {
    /// To be called before the rules are.
    pub(super) fn hear(&mut self, message: Handled) {
        self.hear_from(message, Heard::default);
    }

    pub(super) fn hear_of_worker(&mut self, message: Handled, worker: &WorkerId) {
        self.hear_from(message, || Heard { worker: Some(worker.clone()), ..Heard::default() });
    }

    pub(super) fn hear_of_session(&mut self, message: Handled, session: &SessionKey) {
        self.hear_from(message, || Heard { session: Some(session.clone()), ..Heard::default() });
    }

    pub(super) fn hear_of_call(&mut self, message: Handled, call: CallId, session: Option<&SessionKey>) {
        if self.journal.takes(message) {
            // It may be forgotten once the rules have heard of it.
            let session = session.or_else(|| self.rules.session_of(call)).cloned();
            self.heard = Heard { message: Some(message), call: Some(call), session, worker: None };
        }
    }

    fn hear_from(&mut self, message: Handled, heard: impl FnOnce() -> Heard) {
        if self.journal.takes(message) {
            self.heard = Heard { message: Some(message), ..heard() };
        }
    }

    /// A timer has run out, and the rules have decided: mostly nothing.
    pub(super) fn hear_alarm(&mut self) {
        let is_of_calls = |action: &Action| match action {
            Action::Grant { .. } | Action::Refuse { .. } | Action::TakeBack { .. } | Action::DropTakeBack { .. } => {
                true
            }
            Action::Start { .. }
            | Action::Stop { .. }
            | Action::Kill { .. }
            | Action::LeasesClosed { .. }
            | Action::Forgotten { .. }
            | Action::Ready
            | Action::Degraded { .. }
            | Action::Stopped
            | Action::Emit(_) => false,
        };
        if self.rules.pending().next().is_some() {
            let of_calls = self.rules.pending().all(is_of_calls);
            self.hear(if of_calls { Handled::CallAlarm } else { Handled::Alarm });
        }
    }

    /// Writes the message that is being handled. One that asked for it after the first has been told
    /// is part of what that caused, and has no record.
    pub(super) fn note_decision(&mut self) {
        let Some(message) = self.heard.message.take() else { return };
        let Heard { call, session, worker, .. } = std::mem::take(&mut self.heard);
        self.journal.note(message, call, session.as_ref(), || self.outcome(call, worker.as_ref()));
    }

    fn outcome(&self, call: Option<CallId>, worker: Option<&WorkerId>) -> String {
        let mut parts = Vec::new();
        if let Some(call) = call
            && let Some(waits_for) = self.rules.waits_for(call)
        {
            parts.push(match waits_for {
                Some(worker) => format!("queued for {worker}"),
                None => "queued for any".to_owned(),
            });
        }
        parts.extend(self.rules.pending().map(|action| described(action, call)));
        let decided = if parts.is_empty() { "noted".to_owned() } else { parts.join("; ") };
        match worker {
            Some(worker) => format!("{worker}: {decided}"),
            None => decided,
        }
    }
}

/// In the words of a person. The call that the message was about is not named again.
fn described(action: &Action, about: Option<CallId>) -> String {
    let mut text = String::new();
    let mut name = |verb: &str, call: CallId| {
        text.push_str(verb);
        if Some(call) != about {
            let _infallible = write!(text, " {call}");
        }
    };
    match action {
        Action::Grant { call, worker, .. } => {
            name("granted", *call);
            format!("{text} {worker}")
        }
        Action::Refuse { call, refusal, .. } => {
            name("refused", *call);
            format!("{text} {}", refusal::code(refusal))
        }
        Action::TakeBack { call, worker } => {
            name("take back", *call);
            format!("{text} from {worker}")
        }
        Action::DropTakeBack { call, worker } => {
            name("drop take back", *call);
            format!("{text} from {worker}")
        }
        Action::Start { worker } => format!("start {worker}"),
        Action::Stop { worker } => format!("stop {worker}"),
        Action::Kill { worker, cause } => format!("kill {worker}: {cause}"),
        Action::LeasesClosed { worker } => format!("retire the actor of {worker}"),
        Action::Forgotten { session, namespace: None } => format!("nothing left of session {session}"),
        Action::Forgotten { session, namespace: Some(worker) } => {
            format!("nothing left of session {session} but its namespace in {worker}")
        }
        Action::Ready => "all ready".to_owned(),
        Action::Degraded { cause, permanent: _ } => format!("degraded: {cause}"),
        Action::Stopped => "stopped".to_owned(),
        Action::Emit(Fact::SessionHomed { worker, .. }) => format!("home {worker}"),
        Action::Emit(fact) => format!("event {}", fact.name().trim_start_matches("snakebridge.")),
    }
}
