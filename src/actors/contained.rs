//! Actors that outlive their panics.
//!
//! A panic unwinds the task of an actor, and with the task would go what it owns, its address and what waits in
//! its mailbox: whoever awaits something of it would wait in vain. So the unwinding ends here, below the actor.
//! Lost are the message that it was handling and the futures that it had spawned; it stays where it is, is told
//! `restarting`, where it puts in order what that message may have left half done, and takes the next message.
//! What becomes of its work is each actor's affair.
//!
//! One that panics again soon rests before it goes on, so that a panic which comes back at once costs no core.

use crate::clock;
use crate::event::Fact;
use crate::observe::{Events, Who};
use actix::dev::ContextFut;
use actix::dev::channel::channel;
use actix::prelude::*;
use actix_rt::ArbiterHandle;
use std::any::Any;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll, ready};
use std::time::{Duration, Instant};
use tokio::time::Sleep;

/// As actix has it. The mailboxes are fed by `do_send`, which no capacity holds back.
const MAILBOX: usize = 16;
/// A panic that comes later is a new one.
const SOON: Duration = Duration::from_secs(60);
const FIRST_REST: Duration = Duration::from_millis(10);
const LONGEST_REST: Duration = Duration::from_secs(1);

/// Whom the panics of an actor are told to, and as whose.
pub(crate) struct Teller {
    pub(crate) events: Events,
    pub(crate) who: Who,
}

/// Starts an actor on this arbiter.
pub(crate) fn create<A>(teller: Teller, make: impl FnOnce(&mut Context<A>) -> A) -> Addr<A>
where
    A: Supervised + Actor<Context = Context<A>>,
{
    let mut context = Context::new();
    let address = context.address();
    let actor = make(&mut context);
    actix_rt::spawn(Contained::new(context.into_future(actor), teller));
    address
}

/// Starts an actor on another arbiter.
pub(crate) fn start_in_arbiter<A>(
    arbiter: &ArbiterHandle,
    teller: Teller,
    make: impl FnOnce(&mut Context<A>) -> A + Send + 'static,
) -> Addr<A>
where
    A: Supervised + Actor<Context = Context<A>>,
{
    let (address, mailbox) = channel(MAILBOX);
    // Where the arbiter has stopped, so has the actor, as its address then says.
    let _has_stopped = arbiter.spawn_fn(move || {
        let mut context = Context::with_receiver(mailbox);
        let actor = make(&mut context);
        actix_rt::spawn(Contained::new(context.into_future(actor), teller));
    });
    Addr::new(address)
}

struct Contained<A: Actor<Context = Context<A>>> {
    actor: ContextFut<A, Context<A>>,
    teller: Teller,
    phase: Phase,
    /// How many panics came soon after each other, and when the last did.
    panics: u32,
    last: Option<Instant>,
}

enum Phase {
    Running,
    /// It has panicked, and is to be told.
    Panicked,
    /// Before that it rests.
    Resting(Pin<Box<Sleep>>),
}

impl<A: Supervised + Actor<Context = Context<A>>> Contained<A> {
    fn new(actor: ContextFut<A, Context<A>>, teller: Teller) -> Self {
        Self { actor, teller, phase: Phase::Running, panics: 0, last: None }
    }

    fn on_panic(&mut self, panic: &(dyn Any + Send)) {
        let now = clock::now();
        let is_new = self.last.is_none_or(|last| now.duration_since(last) > SOON);
        self.panics = if is_new { 1 } else { self.panics.saturating_add(1) };
        self.last = Some(now);
        self.phase = match rest(self.panics) {
            None => Phase::Panicked,
            Some(rest) => Phase::Resting(Box::pin(tokio::time::sleep(rest))),
        };
        let (actor, what) = (self.teller.who.to_string(), text(panic));
        // Whoever handles a log line, and it may be that which has panicked.
        let _panicked = catch_unwind(AssertUnwindSafe(|| {
            tracing::error!(target: "snakebridge::actor", actor, what, "an actor panicked");
            self.teller.events.emit(Fact::ActorPanicked { actor: actor.clone(), what: what.clone() });
        }));
    }

    /// Whether it goes on: one that was on its way out stays so.
    fn restart(&mut self) -> bool {
        match self.actor.ctx().state() {
            ActorState::Stopping | ActorState::Stopped => false,
            ActorState::Started | ActorState::Running => self.actor.restart(),
        }
    }
}

impl<A: Supervised + Actor<Context = Context<A>>> Future for Contained<A> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<()> {
        let this = &mut *self;
        loop {
            // Safe of unwinding: what the actor has left half done it puts in order when it is told.
            let outcome = match &mut this.phase {
                Phase::Running => match catch_unwind(AssertUnwindSafe(|| Pin::new(&mut this.actor).poll(task))) {
                    Ok(poll) => return poll,
                    Err(panic) if mutant!("panic.ends_the_actor") => std::panic::resume_unwind(panic),
                    Err(panic) => Err(panic),
                },
                Phase::Resting(rest) => {
                    ready!(rest.as_mut().poll(task));
                    this.phase = Phase::Panicked;
                    continue;
                }
                Phase::Panicked => catch_unwind(AssertUnwindSafe(|| this.restart())),
            };
            match outcome {
                Ok(true) => this.phase = Phase::Running,
                Ok(false) => return Poll::Ready(()),
                Err(panic) => this.on_panic(&*panic),
            }
        }
    }
}

/// Before the nth panic in a row is got over.
fn rest(panics: u32) -> Option<Duration> {
    let doubled = panics.checked_sub(2)?;
    Some(FIRST_REST.saturating_mul(2_u32.saturating_pow(doubled)).min(LONGEST_REST))
}

fn text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it does not say why").to_owned()
}

#[cfg(test)]
pub(crate) mod injection;

#[cfg(test)]
mod tests;
