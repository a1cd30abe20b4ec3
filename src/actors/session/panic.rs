//! What a session does after a panic: its own, or that of a pool's supervisor, which has started over.

use super::{End, SessionActor, Work};
use crate::actors::pool::{Forget, SessionsTold};
use crate::actors::request::Request;
use crate::error::{Error, Ran};
use crate::id::PoolName;
use crate::observe::Handled;
use actix::prelude::*;
use std::sync::Arc;

impl Supervised for SessionActor {
    /// What waits here is answered, since nobody knows what else of it was lost; all of it is withdrawn, and its
    /// grants go back. What runs in a worker goes on.
    fn restarting(&mut self, ctx: &mut Context<Self>) {
        self.note(Handled::Panicked, None, |work| {
            format!("answers all that wait here: {}", work.pending.bodies().count())
        });
        let actor = ctx.address();
        let key = self.state.key.clone();
        let ended = self.state.ended();
        let work = self.work();
        for request in work.pending.lose(|_| true) {
            request.promise.answer(Err(lost()));
        }
        // With them the tasks have gone, and their numbers are given again.
        work.on_homes.clear();
        for call in work.pending.all_rebuilding().collect::<Vec<_>>() {
            work.fail_rebuild(call, lost());
        }
        work.pending.use_grants();
        if let Some((call, place)) = work.giving_up.take() {
            super::abandon(call, &place);
        }
        if let Some(ending) = &mut work.ending {
            // The answer of a pool may have been what was lost.
            ending.pools.ask_again();
            for (name, pool) in &work.pools {
                if ending.pools.waits_for(name) {
                    pool.do_send(Forget { session: key.clone(), actor: actor.clone() });
                }
            }
        } else if let Some(reason) = ended {
            // Or the word that it has ended.
            actor.do_send(End { reason, done: None });
        }
        self.perform(ctx);
        self.stop_if_over(ctx);
    }
}

/// That pool knows nothing any more of the calls that it was asked for: its supervisor panicked, and its
/// workers are being replaced.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct StartedOver {
    pub(crate) pool: PoolName,
    /// Dropped when no request of before can be on its way to a worker from here.
    pub(crate) told: Arc<SessionsTold>,
}

impl Handler<StartedOver> for SessionActor {
    type Result = ();

    fn handle(&mut self, StartedOver { pool, told }: StartedOver, ctx: &mut Context<Self>) {
        let key = self.state.key.clone();
        let work = self.work();
        *work.eras.entry(pool.clone()).or_default() += 1;
        self.note(Handled::StartedOver, None, |work| {
            format!("answers all that wait for pool {pool}: {}", work.of(&pool))
        });
        let work = self.work();
        // The pool may have got the tickets of some after it started over.
        work.pending.lose_grants(|grant| *grant.worker.pool() == pool);
        for request in work.pending.lose(|request| request.pool == pool) {
            answer_for_pool(request);
        }
        work.pending.use_grants();
        if let Some(ending) = &work.ending
            && ending.pools.waits_for(&pool)
            && let Some((_, pool)) = work.pools.iter().find(|(name, _)| *name == pool)
        {
            pool.do_send(Forget { session: key, actor: ctx.address() });
        }
        self.perform(ctx);
        drop(told);
    }
}

impl Work {
    fn of(&self, pool: &PoolName) -> usize {
        self.pending.bodies().filter(|request| request.pool == *pool).count()
    }
}

fn lost() -> Error {
    Error::internal("the actor of its session panicked", Ran::No)
}

/// A call that never began, and which its pool has lost.
pub(super) fn answer_for_pool(request: &mut Request) {
    request.promise.answer(Err(Error::internal("the supervisor of its pool panicked", Ran::No)));
}
