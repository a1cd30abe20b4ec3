//! What a call is made in: the callback or the `on_home` whose future is being polled on this thread.

use super::core::Life;
use super::hold::Hold;
use crate::id::{CallId, PoolName, SessionId, SessionKey};
use std::cell::RefCell;
use std::future::Future;
use std::iter;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// A callback or `on_home` under way.
#[derive(Clone)]
pub(crate) struct Scope {
    pub(crate) tree: Tree,
    /// The home that its calls make ready, if that is what it is for.
    pub(crate) rebuilds: Option<NewHome>,
}

/// The calls that a call makes while it runs, and the calls that these make.
#[derive(Clone)]
pub(crate) struct Tree {
    pub(crate) root: CallId,
    /// The session of the call that it is made for; kept while that runs, also when it has ended.
    pub(crate) hold: Arc<Hold>,
    pub(crate) deadline: Option<Deadline>,
    /// What the call was made in that it is made for.
    pub(crate) below: Option<Arc<Scope>>,
}

/// When the caller will have waited for how long.
pub(crate) type Deadline = (Instant, Duration);

/// A home of that session in that pool that is being made ready.
#[derive(Clone)]
pub(crate) struct NewHome {
    pub(crate) session: SessionKey,
    pub(crate) pool: PoolName,
    /// The call that set it.
    pub(crate) call: CallId,
}

thread_local! {
    static CURRENT: RefCell<Option<Arc<Scope>>> = const { RefCell::new(None) };
}

/// What a call of that bridge is made in. A callback of another bridge is nothing to it.
pub(crate) fn current(life: &Arc<Life>) -> Option<Arc<Scope>> {
    CURRENT.with_borrow(|current| current.as_ref().filter(|scope| Arc::ptr_eq(&scope.tree.hold.life, life)).cloned())
}

/// Whether a call is made for one of that very session, which keeps what it has while that runs, also when it
/// has ended.
pub(crate) fn is_inside(hold: &Hold) -> bool {
    current(&hold.life).is_some_and(|scope| scope.tree.holds().any(|below| below.key() == hold.key()))
}

impl Scope {
    /// The call whose new home a call of that session in that pool makes ready, if it is made for that.
    pub(crate) fn rebuilds(&self, session: &SessionKey, pool: &PoolName) -> Option<CallId> {
        let home = self.rebuilds.as_ref()?;
        (home.session == *session && home.pool == *pool).then_some(home.call)
    }

    /// The pool of the home that is being made ready, for calls of that session that name none.
    pub(crate) fn pool_of(&self, session: &SessionId) -> Option<&PoolName> {
        let home = self.rebuilds.as_ref()?;
        (home.session.id() == session).then_some(&home.pool)
    }
}

impl Tree {
    /// The session of that id, if one of the calls that a call is made for is of it.
    pub(crate) fn session(&self, id: &SessionId) -> Option<Arc<Hold>> {
        self.holds().find(|hold| hold.id() == id).cloned()
    }

    /// The sessions of the calls that a call is made for, the nearest first.
    fn holds(&self) -> impl Iterator<Item = &Arc<Hold>> {
        iter::successors(Some(self), |tree| tree.below.as_deref().map(|scope| &scope.tree)).map(|tree| &tree.hold)
    }

    /// Of a call with that deadline of its own: the earlier one.
    pub(crate) fn bound(&self, own: Option<Deadline>) -> Option<Deadline> {
        self.deadline.into_iter().chain(own).min_by_key(|(moment, _)| *moment)
    }
}

/// A future whose calls belong to a scope. A task that it spawns is outside.
pub(crate) struct Scoped<F> {
    scope: Arc<Scope>,
    future: Pin<Box<F>>,
}

impl<F: Future> Scoped<F> {
    pub(crate) fn new(scope: Scope, future: F) -> Self {
        Self { scope: Arc::new(scope), future: Box::pin(future) }
    }
}

impl<F: Future> Future for Scoped<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<F::Output> {
        let _inside = Inside(CURRENT.replace(Some(Arc::clone(&self.scope))));
        self.future.as_mut().poll(task)
    }
}

/// Puts back what was current before, also when the future panics.
struct Inside(Option<Arc<Scope>>);

impl Drop for Inside {
    fn drop(&mut self) {
        // Not under the borrow: with a scope its session may go.
        drop(CURRENT.replace(self.0.take()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actors::bare;
    use futures::FutureExt;

    fn scope(hold: &Arc<Hold>) -> Scope {
        Scope { tree: Tree { root: CallId(7), hold: Arc::clone(hold), deadline: None, below: None }, rebuilds: None }
    }

    #[actix::test]
    async fn a_call_is_inside_only_while_the_future_is_polled_and_only_of_its_bridge() {
        let (life, other) = (bare::bridge(), bare::bridge());
        let hold = bare::session(&life, "s");
        let roots = || [&life, &other].map(|life| current(life).map(|scope| scope.tree.root));
        assert_eq!(Scoped::new(scope(&hold), async { roots() }).now_or_never(), Some([Some(CallId(7)), None]));
        assert_eq!(roots(), [None, None]);
        assert!(Scoped::new(scope(&hold), async { is_inside(&hold) }).now_or_never().unwrap_or(false));
        let another = bare::session(&life, "t");
        assert_eq!(Scoped::new(scope(&hold), async { is_inside(&another) }).now_or_never(), Some(false));
        let deeper = Tree { below: Some(Arc::new(scope(&hold))), ..scope(&another).tree };
        let found = |id: &str| deeper.session(&id.into()).map(|hold| hold.key().clone());
        assert_eq!([found("s"), found("t"), found("u")], [Some(hold.key().clone()), Some(another.key().clone()), None]);
        let both = async { is_inside(&hold) && is_inside(&another) };
        assert_eq!(Scoped::new(Scope { tree: deeper.clone(), rebuilds: None }, both).now_or_never(), Some(true));
    }

    #[actix::test]
    async fn a_scope_inside_another_is_over_with_its_own_poll_and_a_panic_ends_it_too() {
        let life = bare::bridge();
        let hold = bare::session(&life, "s");
        let inner = Scope { tree: Tree { root: CallId(8), ..scope(&hold).tree }, rebuilds: None };
        let root = || current(&life).map(|scope| scope.tree.root);
        let seen = Scoped::new(scope(&hold), async {
            let within = Scoped::new(inner, async { root() }).await;
            (within, root())
        });
        assert_eq!(seen.now_or_never(), Some((Some(CallId(8)), Some(CallId(7)))));
        let panicking = Scoped::new(scope(&hold), async { panic!("on purpose") });
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| panicking.now_or_never()));
        assert!(panicked.is_err_and(|_| root().is_none()));
    }

    #[actix::test]
    async fn a_new_home_is_made_ready_by_calls_of_its_session_in_its_pool_alone() {
        let life = bare::bridge();
        let hold = bare::session(&life, "s");
        let (session, pool) = (hold.key().clone(), PoolName::from("p"));
        let home = NewHome { session: session.clone(), pool: pool.clone(), call: CallId(7) };
        let scope = Scope { rebuilds: Some(home), ..scope(&hold) };
        let next = SessionKey::new("s".into(), session.incarnation() + 1);
        assert_eq!(scope.rebuilds(&session, &pool), Some(CallId(7)));
        assert_eq!(scope.rebuilds(&next, &pool), None);
        assert_eq!(scope.rebuilds(&session, &"q".into()), None);
        assert_eq!((scope.pool_of(session.id()), scope.pool_of(&"t".into())), (Some(&pool), None));
    }

    #[actix::test]
    async fn the_earlier_deadline_holds_and_names_its_own_timeout() {
        let life = bare::bridge();
        let tree = scope(&bare::session(&life, "s")).tree;
        let now = Instant::now();
        let [soon, late] = [1, 2].map(|secs| (now + Duration::from_secs(secs), Duration::from_secs(10 * secs)));
        let with = |deadline| Tree { deadline, ..tree.clone() };
        assert_eq!(with(None).bound(None), None);
        assert_eq!((with(None).bound(Some(soon)), with(Some(soon)).bound(None)), (Some(soon), Some(soon)));
        assert_eq!((with(Some(soon)).bound(Some(late)), with(Some(late)).bound(Some(soon))), (Some(soon), Some(soon)));
    }
}
