//! What sessions tell their pool.

use super::PoolSupervisor;
use crate::actors::session::{SessionActor, WithdrawalSeen};
use crate::clock;
use crate::id::{CallId, SessionKey, WorkerId};
use crate::observe::Handled;
use crate::rules::pool::Ticket;
use actix::prelude::*;
use tokio::sync::oneshot;

/// A call wants a worker.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Submit {
    pub(crate) ticket: Ticket,
    /// With its first call: whom to answer.
    pub(crate) session: Option<Addr<SessionActor>>,
}

impl Handler<Submit> for PoolSupervisor {
    type Result = ();

    fn handle(&mut self, Submit { ticket, session }: Submit, ctx: &mut Context<Self>) {
        if let Some(session) = session {
            self.sessions.insert(ticket.session.clone(), session);
        }
        self.hear_of_call(Handled::Ticket, ticket.call, Some(&ticket.session));
        self.rules.handle_ticket(ticket, clock::now());
        self.perform(ctx);
    }
}

/// The caller of a call that waits has gone.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Withdrawn {
    pub(crate) call: CallId,
    pub(crate) session: Addr<SessionActor>,
}

impl Handler<Withdrawn> for PoolSupervisor {
    type Result = ();

    fn handle(&mut self, Withdrawn { call, session }: Withdrawn, ctx: &mut Context<Self>) {
        self.hear_of_call(Handled::Withdrawn, call, None);
        let is_last = self.rules.handle_withdrawn(call, clock::now());
        self.note_decision();
        // Behind a grant that is under way, which so meets the body still.
        session.do_send(WithdrawalSeen { call, is_last });
        self.perform(ctx);
    }
}

/// The grant met a call whose caller had gone.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct LeaseReturned {
    pub(crate) call: CallId,
    pub(crate) worker: WorkerId,
}

impl Handler<LeaseReturned> for PoolSupervisor {
    type Result = ();

    fn handle(&mut self, LeaseReturned { call, worker }: LeaseReturned, ctx: &mut Context<Self>) {
        self.hear_of_call(Handled::LeaseReturned, call, None);
        self.rules.handle_lease_returned(call, &worker, clock::now());
        self.perform(ctx);
    }
}

/// A new home is ready, and the call that set it is being sent.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Rebuilt {
    pub(crate) call: CallId,
    pub(crate) worker: WorkerId,
}

impl Handler<Rebuilt> for PoolSupervisor {
    type Result = ();

    fn handle(&mut self, Rebuilt { call, worker }: Rebuilt, ctx: &mut Context<Self>) {
        self.hear_of_call(Handled::Rebuilt, call, None);
        self.rules.handle_rebuilt(call, &worker, clock::now());
        self.perform(ctx);
    }
}

/// A new home could not be made ready, and the call that set it was not sent. It is refused, unless it
/// was before.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct RebuildFailed {
    pub(crate) call: CallId,
    pub(crate) worker: WorkerId,
}

impl Handler<RebuildFailed> for PoolSupervisor {
    type Result = ();

    fn handle(&mut self, RebuildFailed { call, worker }: RebuildFailed, ctx: &mut Context<Self>) {
        self.hear_of_call(Handled::RebuildFailed, call, None);
        self.rules.handle_rebuild_failed(call, &worker, clock::now());
        self.perform(ctx);
    }
}

/// The session has ended.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Forget {
    pub(crate) session: SessionKey,
    pub(crate) actor: Addr<SessionActor>,
}

impl Handler<Forget> for PoolSupervisor {
    type Result = ();

    fn handle(&mut self, Forget { session, actor }: Forget, ctx: &mut Context<Self>) {
        self.sessions.entry(session.clone()).or_insert(actor);
        self.hear_of_session(Handled::Forget, &session);
        self.rules.forget(&session, clock::now());
        self.perform(ctx);
    }
}

/// Forget homes that are missing or tainted, and lost refs.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Reset {
    pub(crate) session: SessionKey,
    /// Told when it is done.
    pub(crate) done: oneshot::Sender<()>,
}

impl Handler<Reset> for PoolSupervisor {
    type Result = ();

    fn handle(&mut self, Reset { session, done }: Reset, ctx: &mut Context<Self>) {
        self.hear_of_session(Handled::Reset, &session);
        self.rules.reset(&session, clock::now());
        self.perform(ctx);
        // Whoever asked may have gone.
        let _gone = done.send(());
    }
}
