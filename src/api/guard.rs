//! Context managers.

use super::call::Call;
use crate::actors::hold::Hold;
use crate::error::{Error, Ran, Result};
use crate::value::{PyRef, Value};
use crate::wire::Step;
use std::fmt;
use std::sync::Arc;
use tokio::sync::oneshot;

/// The open block of a context manager: see [`PyRef::enter`].
///
/// It ends with [`exit`](Self::exit), or in the background when this is dropped: that is a call of its
/// session, which waits its turn, however long, and is then given the pool's `cancel_grace`. When its session
/// ends first, or its worker dies, the block does not end.
#[must_use = "dropped, it ends the block at once"]
pub struct Guard(Option<(PyRef, Arc<Hold>)>);

impl Guard {
    /// Ends the block, without an exception. Never polled, it is as if the guard had been dropped.
    ///
    /// # Errors
    /// Awaited: `Python` with what the manager raised; else see [`enum@crate::Error`].
    #[expect(clippy::manual_async_fn, reason = "the bounds are part of the promise")]
    pub fn exit(mut self) -> impl Future<Output = Result<()>> + Send + 'static {
        // Never polled, it is dropped with the guard in it, and that ends the block.
        async move {
            let (manager, hold) = self.0.take().expect("only this and the drop take it");
            let life = Arc::clone(&hold.life);
            let exit = Call::on(manager, hold, Step::Exit, ()).continuing().discard();
            // Elsewhere, so that it goes on when this is dropped: it may have begun, and must not be repeated.
            let (tell, told) = oneshot::channel();
            let _spawned = life.core.arbiter.spawn(async move {
                let _nobody_waits = tell.send(exit.await);
            });
            told.await.unwrap_or(Err(Error::ShuttingDown { ran: Ran::Maybe }))
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some((manager, hold)) = self.0.take() {
            manager.finish(hold, Step::Exit);
        }
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Guard").field(&self.0.as_ref().map(|(manager, _)| manager)).finish()
    }
}

impl PyRef {
    /// Enters the object as `with` does, and gives what it calls itself inside, with the guard of the block.
    ///
    /// ```
    /// # #[actix::main]
    /// # async fn main() -> snakebridge::Result<()> {
    /// # let py = snakebridge::SnakeBridge::builder().pool(snakebridge::PoolConfig::new("p").size(1)).start().await?;
    /// let lock = py.call("threading", "Lock", ()).into_ref().await?;
    /// let (_, guard) = lock.enter().await?;
    /// assert!(lock.call_method("locked", ()).extract::<bool>().await?);
    /// guard.exit().await?;
    /// assert!(!lock.call_method("locked", ()).extract::<bool>().await?);
    /// # py.shutdown().await
    /// # }
    /// ```
    ///
    /// # Errors
    /// Awaited: `Python` with a `TypeError` if it is no context manager; else see [`enum@crate::Error`].
    pub fn enter(&self) -> impl Future<Output = Result<(Value, Guard)>> + Send + 'static {
        let (manager, hold) = (self.clone(), self.hold());
        let unheard = (self.clone(), self.hold());
        // It may come to an end behind its deadline.
        let entering = self.step(Step::Enter, ()).if_unheard(move || unheard.0.finish(unheard.1, Step::Exit));
        async move {
            let life = Arc::clone(&hold.life);
            let (tell, told) = oneshot::channel();
            // Elsewhere, so that a block is never open without its guard: also when this is dropped, or the
            // manager was entered and what it calls itself cannot come.
            let _spawned = life.core.arbiter.spawn(async move {
                let outcome = entering.await;
                let is_open =
                    outcome.as_ref().err().is_none_or(|error| error.ran() == Ran::Yes && error.python().is_none());
                let guard = Guard(is_open.then_some((manager, hold)));
                let _nobody_waits = tell.send(outcome.map(|inside| (inside, guard)));
            });
            told.await.unwrap_or(Err(Error::ShuttingDown { ran: Ran::Maybe }))
        }
    }
}
