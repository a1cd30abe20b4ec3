//! What keeps a session alive, and the bridge with it: handles, refs and open calls share one.

use super::core::Life;
use super::registry::{RefDropped, Registry};
use super::scope;
use super::session::SessionActor;
use crate::config::{OnWorkerLost, SessionOptions};
use crate::error::{Error, Result};
use crate::event::EndReason;
use crate::id::{RefId, SessionId, SessionKey, WorkerId};
use crate::value::{PyRef, RefOwner};
use actix::Addr;
use futures::future::BoxFuture;
use std::any::Any;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

/// A session in use. When the last clone of the `Arc` goes, an automatic session ends and an explicit
/// one starts to age.
pub(crate) struct Hold {
    pub(crate) state: Arc<SessionState>,
    pub(crate) actor: Addr<SessionActor>,
    pub(crate) life: Arc<Life>,
}

/// What a session does in each new home, before the call that set it.
#[derive(Clone)]
pub(crate) struct OnHome(Arc<Rebuild>);

type Rebuild = dyn Fn(&Arc<Hold>) -> BoxFuture<'static, Result<()>> + Send + Sync;

impl OnHome {
    pub(crate) fn new(run: impl Fn(&Arc<Hold>) -> BoxFuture<'static, Result<()>> + Send + Sync + 'static) -> Self {
        Self(Arc::new(run))
    }

    pub(crate) fn run(&self, hold: &Arc<Hold>) -> BoxFuture<'static, Result<()>> {
        (self.0)(hold)
    }
}

impl fmt::Debug for OnHome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OnHome")
    }
}

/// What all holders of one incarnation share.
pub(crate) struct SessionState {
    pub(crate) key: SessionKey,
    pub(crate) automatic: bool,
    pub(crate) on_worker_lost: Option<OnWorkerLost>,
    pub(crate) max_refs: usize,
    pub(crate) on_home: Option<OnHome>,
    /// Refs that Rust holds or is about to: exact, since the Registry may be a moment late.
    refs: AtomicUsize,
    ended: OnceLock<EndReason>,
}

impl SessionState {
    /// With the options of its session, and how many refs that may hold.
    pub(crate) fn new(key: SessionKey, automatic: bool, options: &SessionOptions, max_refs: usize) -> Self {
        Self {
            key,
            automatic,
            on_worker_lost: options.on_worker_lost,
            max_refs,
            on_home: options.on_home.clone(),
            refs: AtomicUsize::new(0),
            ended: OnceLock::new(),
        }
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.ended().is_some()
    }

    pub(crate) fn ended(&self) -> Option<EndReason> {
        self.ended.get().copied()
    }

    /// It ends once.
    pub(crate) fn set_ended(&self, reason: EndReason) {
        let _again = self.ended.set(reason);
    }

    pub(crate) fn refs(&self) -> usize {
        self.refs.load(Ordering::Relaxed)
    }
}

impl Hold {
    pub(crate) fn key(&self) -> &SessionKey {
        &self.state.key
    }

    pub(crate) fn id(&self) -> &SessionId {
        self.state.key.id()
    }

    fn registry(&self) -> &Addr<Registry> {
        &self.life.core.registry
    }

    /// Counts refs that a reply brings; `false` if the session may not hold so many.
    pub(crate) fn admit_refs(&self, count: usize) -> bool {
        let refs = &self.state.refs;
        if refs.fetch_add(count, Ordering::Relaxed) + count <= self.state.max_refs {
            return true;
        }
        refs.fetch_sub(count, Ordering::Relaxed);
        false
    }

    /// Lets go of a ref that was counted.
    pub(crate) fn free(&self, id: RefId) {
        self.state.refs.fetch_sub(1, Ordering::Relaxed);
        self.registry().do_send(RefDropped { id });
    }
}

impl RefOwner for Hold {
    fn ref_dropped(&self, id: RefId, _session: &SessionKey, _worker: &WorkerId) {
        self.free(id);
    }

    fn as_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }
}

impl PyRef {
    pub(crate) fn hold(&self) -> Arc<Hold> {
        Arc::clone(self.owner()).as_any().downcast().expect("every ref of a bridge is owned by the hold of its session")
    }
}

/// The session of a ref that may be sent to a worker of this bridge.
///
/// # Errors
/// `RefsOnDifferentWorkers` for a ref of another bridge; `RefNotFound` for one that was let go of.
pub(crate) fn hold_of(handle: &PyRef, life: &Arc<Life>) -> Result<Arc<Hold>> {
    let hold = handle.hold();
    let gone = |why: &str| Error::RefNotFound { id: handle.id(), session: handle.session().clone(), why: why.into() };
    if !Arc::ptr_eq(&hold.life, life) {
        let what = format!("{} of worker {} belongs to another bridge", handle.id(), handle.worker());
        return Err(Error::RefsOnDifferentWorkers { what: what.into() });
    }
    if handle.is_released() {
        return Err(gone("it was released"));
    }
    // A session that has ended keeps its refs until its last call is over: one that runs may use them.
    if hold.state.has_ended() && !scope::is_inside(&hold) {
        return Err(gone("its session has ended"));
    }
    Ok(hold)
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.life.core.directory.let_go(&self.state, &self.life.core.registry);
    }
}
