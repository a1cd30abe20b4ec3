//! For tests only: a message that its actor panics of.

use crate::actors::pool::PoolSupervisor;
use crate::actors::registry::Registry;
use crate::actors::session::SessionActor;
use crate::actors::worker::WorkerActor;
use crate::id::WorkerId;
use actix::prelude::*;

#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Panic;

macro_rules! panics {
    ($($actor:ty),*) => {$(
        impl Handler<Panic> for $actor {
            type Result = ();

            fn handle(&mut self, _: Panic, _: &mut Context<Self>) {
                panic!("on purpose");
            }
        }
    )*};
}

panics!(SessionActor, PoolSupervisor, WorkerActor, Registry);

/// To a pool: that worker's actor is to panic.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct PanicIn(pub(crate) WorkerId);
