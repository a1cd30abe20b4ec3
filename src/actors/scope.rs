//! Which `on_home` a call is made by: the one whose future is being polled on this thread.

use crate::id::{CallId, PoolName, SessionId, SessionKey};
use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

/// An `on_home` under way, of that session, for the home in that pool.
#[derive(Clone, Debug)]
pub(crate) struct Scope {
    pub(crate) session: SessionKey,
    pub(crate) pool: PoolName,
    /// The call that set the home.
    pub(crate) call: CallId,
}

thread_local! {
    static CURRENT: RefCell<Option<Scope>> = const { RefCell::new(None) };
}

/// The call whose new home a call of that session in that pool makes ready, if it is made for that.
pub(crate) fn rebuilds(session: &SessionKey, pool: &PoolName) -> Option<CallId> {
    CURRENT.with_borrow(|current| {
        let scope = current.as_ref()?;
        (scope.session == *session && scope.pool == *pool).then_some(scope.call)
    })
}

/// The pool of the home that is being made ready, for calls of that session that name none.
pub(crate) fn pool_of(session: &SessionId) -> Option<PoolName> {
    CURRENT.with_borrow(|current| {
        let scope = current.as_ref()?;
        (scope.session.id() == session).then(|| scope.pool.clone())
    })
}

/// A future whose calls belong to a scope. A task that it spawns is outside.
pub(crate) struct Scoped<F> {
    scope: Scope,
    future: Pin<Box<F>>,
}

impl<F: Future> Scoped<F> {
    pub(crate) fn new(scope: Scope, future: F) -> Self {
        Self { scope, future: Box::pin(future) }
    }
}

impl<F: Future> Future for Scoped<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<F::Output> {
        let _inside = Inside(CURRENT.replace(Some(self.scope.clone())));
        self.future.as_mut().poll(task)
    }
}

/// Puts back what was current before, also when the future panics.
struct Inside(Option<Scope>);

impl Drop for Inside {
    fn drop(&mut self) {
        CURRENT.set(self.0.take());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[test]
    fn a_call_is_inside_only_while_the_future_is_polled_and_only_of_its_session_and_pool() {
        let (session, other) = (SessionKey::new("s".into(), 1), SessionKey::new("s".into(), 2));
        let pool = PoolName::from("p");
        let scope = Scope { session: session.clone(), pool: pool.clone(), call: CallId(7) };
        let inside = Scoped::new(scope, async {
            (rebuilds(&session, &pool), rebuilds(&other, &pool), rebuilds(&session, &PoolName::from("q")))
        });
        assert_eq!(inside.now_or_never(), Some((Some(CallId(7)), None, None)));
        assert_eq!(rebuilds(&session, &pool), None);
    }
}
