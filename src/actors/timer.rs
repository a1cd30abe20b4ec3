//! The one timer of an actor, set from what its rules say.
//!
//! A timer per call would cost each message of the actor a walk over all of them. This one moves its
//! alarm forward only: a later deadline waits for the earlier alarm, which then finds nothing due and
//! sets the next. With no deadline at all it holds none, since a runtime that has any alarm to wait
//! for programs the machine's clock each time that it sleeps.

use actix::prelude::*;
use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context as TaskContext, Poll};
use std::time::Instant;

/// The handle that an actor keeps.
pub(crate) struct Timer {
    wanted: Rc<Cell<Option<Instant>>>,
}

/// What the actor hears when a deadline has passed.
pub(crate) trait OnTimer: Actor<Context = Context<Self>> {
    fn on_timer(&mut self, ctx: &mut Context<Self>);
}

impl Timer {
    /// Starts the timer of an actor; call it once, when the actor is created.
    pub(crate) fn start<A: OnTimer>(ctx: &mut Context<A>) -> Self {
        let wanted = Rc::new(Cell::new(None));
        let alarm = Alarm { wanted: Rc::clone(&wanted), set: None };
        ctx.spawn(alarm);
        Self { wanted }
    }

    /// The next moment that the rules want to hear of. Takes effect when the handler returns.
    pub(crate) fn set(&self, at: Option<Instant>) {
        self.wanted.set(at);
    }
}

struct Alarm {
    wanted: Rc<Cell<Option<Instant>>>,
    set: Option<Pin<Box<tokio::time::Sleep>>>,
}

impl<A: OnTimer> ActorFuture<A> for Alarm {
    type Output = ();

    fn poll(
        mut self: Pin<&mut Self>,
        actor: &mut A,
        ctx: &mut Context<A>,
        task: &mut TaskContext<'_>,
    ) -> Poll<Self::Output> {
        loop {
            let Some(wanted) = self.wanted.get() else {
                self.set = None;
                return Poll::Pending;
            };
            let wanted = tokio::time::Instant::from(wanted);
            match &mut self.set {
                Some(sleep) if sleep.deadline() > wanted => sleep.as_mut().reset(wanted),
                Some(_) => {}
                unset => *unset = Some(Box::pin(tokio::time::sleep_until(wanted))),
            }
            if self.set.as_mut().is_some_and(|sleep| sleep.as_mut().poll(task).is_pending()) {
                return Poll::Pending;
            }
            self.set = None;
            actor.on_timer(ctx);
        }
    }
}
