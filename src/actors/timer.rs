//! The one timer of an actor, set from what its rules say.
//!
//! A timer per call would cost each message of the actor a walk over all of them. This one moves its
//! alarm forward only: a later deadline waits for the earlier alarm, which then finds nothing due and
//! sets the next. With no deadline at all it holds none, since a runtime that has any alarm to wait
//! for programs the machine's clock each time that it sleeps.

use actix::prelude::*;
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::LazyLock;
use std::task::{Context as TaskContext, Poll, Waker};
use std::time::Instant;

/// What the ticks of all actors are counted from, so that they coincide.
pub(crate) fn epoch() -> Instant {
    #[cfg(test)]
    if let Some(epoch) = crate::clock::epoch() {
        return epoch;
    }
    static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);
    *EPOCH
}

/// The handle that an actor keeps.
pub(crate) struct Timer {
    shared: Rc<Shared>,
}

#[derive(Default)]
struct Shared {
    wanted: Cell<Option<Instant>>,
    alarm: RefCell<Option<Waker>>,
}

/// What the actor hears when a deadline has passed.
pub(crate) trait OnTimer: Actor<Context = Context<Self>> {
    fn on_timer(&mut self, ctx: &mut Context<Self>);
}

impl Timer {
    /// Starts the timer of an actor; call it once, when the actor is created.
    pub(crate) fn start<A: OnTimer>(ctx: &mut Context<A>) -> Self {
        let shared = Rc::<Shared>::default();
        let alarm = Alarm { shared: Rc::clone(&shared), set: None };
        ctx.spawn(alarm);
        Self { shared }
    }

    /// The next moment that the rules want to hear of. Takes effect when the handler of a message
    /// returns; anywhere else, [`wake`](Self::wake) after it.
    pub(crate) fn set(&self, at: Option<Instant>) {
        self.shared.wanted.set(at);
    }

    /// Has the alarm look at once. The actor's streams and futures are polled behind it, and what
    /// they set it would else find with the next message.
    pub(crate) fn wake(&self) {
        if let Some(alarm) = &*self.shared.alarm.borrow() {
            alarm.wake_by_ref();
        }
    }
}

struct Alarm {
    shared: Rc<Shared>,
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
        {
            let mut alarm = self.shared.alarm.borrow_mut();
            if alarm.as_ref().is_none_or(|alarm| !alarm.will_wake(task.waker())) {
                *alarm = Some(task.waker().clone());
            }
        }
        loop {
            let Some(wanted) = self.shared.wanted.get() else {
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
