//! Tells how one call began and ended, where somebody wants to hear of calls.

use super::{Handled, Note, Observers, Who};
use crate::error::{Error, Ran};
use crate::event::Fact;
use crate::id::{CallId, PoolName, SessionId, WorkerId};

/// Goes with the promise of a call. Calls have none unless the configuration asks to hear of them.
pub(crate) struct Witness {
    observers: Observers,
    call: CallId,
    session: SessionId,
    /// Who has the call.
    holder: Who,
}

/// How a call ended.
pub(crate) enum End<'a> {
    Value(&'a WorkerId),
    Failed(&'a Error),
    /// Its caller had left.
    Unheard,
}

impl Witness {
    /// None where nobody wants to hear of calls.
    pub(crate) fn of_call(
        observers: &Observers,
        call: CallId,
        session: &SessionId,
        pool: &PoolName,
    ) -> Option<Box<Self>> {
        if !observers.call_events && !observers.messages.takes(Handled::Ended) {
            return None;
        }
        let this = Self {
            observers: observers.clone(),
            call,
            session: session.clone(),
            holder: Who::Session(session.clone()),
        };
        if observers.call_events {
            let (session, pool) = (session.clone(), pool.clone());
            observers.events.emit(Fact::CallStarted { call, session, pool });
        }
        Some(Box::new(this))
    }

    pub(crate) fn sent_to(&mut self, worker: &WorkerId) {
        self.holder = Who::Worker(worker.clone());
    }

    pub(crate) fn came_back(&mut self) {
        self.holder = Who::Session(self.session.clone());
    }

    /// To be called before the caller hears of it.
    pub(crate) fn ended(self, end: &End<'_>) {
        let Self { observers, call, session, holder } = self;
        observers.messages.write(Handled::Ended, || Note {
            actor: holder.to_string().into(),
            call: Some(call),
            session: Some(session.clone()),
            outcome: match end {
                End::Value(_) => "value".into(),
                End::Failed(error) => format!("{}, ran: {}", error.code(), ran(error.ran())).into(),
                End::Unheard => "its caller has left".into(),
            },
        });
        if observers.call_events {
            observers.events.emit(match end {
                End::Value(worker) => Fact::CallFinished { call, session, worker: (*worker).clone() },
                End::Failed(Error::Cancelled { .. }) | End::Unheard => Fact::CallCancelled { call, session },
                End::Failed(error) => Fact::CallFailed { call, session, code: error.code() },
            });
        }
    }
}

fn ran(ran: Ran) -> &'static str {
    match ran {
        Ran::No => "no",
        Ran::Maybe => "maybe",
        Ran::Yes => "yes",
    }
}
