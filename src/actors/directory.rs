//! The sessions of a bridge by id, behind one lock: who has one, starts one or ends one does it here.
//!
//! A call needs the actor of its session before it can send a message, so this is no actor. The lock
//! is held for a look-up; nothing waits for anything under it.

use super::contained::{self, Teller};
use super::core::Life;
use super::hold::{Hold, SessionState};
use super::registry::{Registry, Wake};
use super::session::{AwaitEnd, End, SessionActor};
use crate::clock;
use crate::config::{Config, SessionOptions, bounded};
use crate::error::{Error, Ran, Result};
use crate::event::{EndReason, Fact};
use crate::id::{SessionId, SessionKey};
use crate::observe::{Who, log};
use crate::rules::session::{SessionAction, Sessions};
use actix::Addr;
use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;
use tokio::sync::{mpsc, oneshot};

pub(crate) struct Directory {
    inner: Mutex<Inner>,
    config: Defaults,
}

struct Defaults {
    ttl: std::time::Duration,
    max_refs: usize,
    max_sessions: usize,
}

struct Inner {
    by_id: HashMap<SessionId, Entry>,
    /// Ended, and their cleanup has not been told yet.
    ending: HashMap<SessionId, (SessionKey, Addr<SessionActor>)>,
    sessions: Sessions,
    incarnations: u64,
    automatic: u64,
    /// Each session keeps a clone until its cleanup has been told. None: no session starts any more.
    alive: Option<mpsc::Sender<Infallible>>,
    all_ended: Option<mpsc::Receiver<Infallible>>,
}

struct Entry {
    state: Arc<SessionState>,
    actor: Addr<SessionActor>,
    hold: Weak<Hold>,
}

impl Directory {
    pub(crate) fn new(config: &Config) -> Self {
        let (alive, all_ended) = mpsc::channel(1);
        let inner = Inner {
            by_id: HashMap::new(),
            ending: HashMap::new(),
            sessions: Sessions::new(config.max_sessions),
            incarnations: 0,
            automatic: 0,
            alive: Some(alive),
            all_ended: Some(all_ended),
        };
        let config = Defaults { ttl: config.session_ttl, max_refs: config.max_refs, max_sessions: config.max_sessions };
        Self { inner: Mutex::new(inner), config }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An id that no session has, for an automatic one.
    pub(crate) fn reserve(&self) -> SessionId {
        let mut inner = self.lock();
        loop {
            inner.automatic += 1;
            let id = SessionId::from(format!("auto:{}", inner.automatic));
            if !inner.by_id.contains_key(&id) {
                return id;
            }
        }
    }

    /// The session of that id, started if there is none.
    ///
    /// # Errors
    /// `SessionLimit` if there may be no more and all are in use; `ShuttingDown`.
    pub(crate) fn hold(
        &self,
        id: &SessionId,
        automatic: bool,
        options: &SessionOptions,
        life: &Arc<Life>,
    ) -> Result<Arc<Hold>> {
        let mut inner = self.lock();
        let Some(alive) = inner.alive.clone() else { return Err(Error::ShuttingDown { ran: Ran::No }) };
        if let Some(entry) = inner.by_id.get(id) {
            if let Some(hold) = entry.hold.upgrade() {
                return Ok(hold);
            }
            let hold =
                Arc::new(Hold { state: entry.state.clone(), actor: entry.actor.clone(), life: Arc::clone(life) });
            let key = entry.state.key.clone();
            inner.by_id.get_mut(id).expect("found above").hold = Arc::downgrade(&hold);
            inner.sessions.handle_held(&key);
            return Ok(hold);
        }

        let now = clock::now();
        inner.incarnations += 1;
        let key = SessionKey::new(id.clone(), inner.incarnations);
        let ttl = bounded(options.ttl.unwrap_or(self.config.ttl));
        if inner.sessions.handle_created(key.clone(), ttl, now).is_err() {
            return Err(Error::SessionLimit { limit: self.config.max_sessions });
        }
        let max_refs = options.max_refs.unwrap_or(self.config.max_refs);
        let state = Arc::new(SessionState::new(key.clone(), automatic, options, max_refs));
        let core = &life.core;
        let shell =
            SessionActor::new(Arc::clone(&state), core.registry.clone(), core.observers.messages.clone(), alive);
        let teller = Teller { events: core.observers.events.clone(), who: Who::Session(id.clone()) };
        let actor = contained::start_in_arbiter(&core.arbiter, teller, move |_| shell);
        let hold = Arc::new(Hold { state: Arc::clone(&state), actor: actor.clone(), life: Arc::clone(life) });
        inner.by_id.insert(id.clone(), Entry { state, actor, hold: Arc::downgrade(&hold) });
        inner.end_due();
        let created = core.observers.events.tell(Fact::SessionCreated { session: id.clone() });
        drop(inner);
        log(&created);
        Ok(hold)
    }

    /// The session's actor and state, if it lives.
    pub(crate) fn find(&self, id: &SessionId) -> Option<(Arc<SessionState>, Addr<SessionActor>)> {
        self.lock().by_id.get(id).map(|entry| (entry.state.clone(), entry.actor.clone()))
    }

    /// Ends the session of that id, if it lives; `done` hears when nothing of it is left, also if it
    /// is ending for another reason. None: nothing is.
    pub(crate) fn release(&self, id: &SessionId, done: oneshot::Sender<()>) -> Option<SessionKey> {
        let mut inner = self.lock();
        if let Some(key) = inner.by_id.get(id).map(|entry| entry.state.key.clone()) {
            inner.end(&key, EndReason::Released, Some(done));
            return Some(key);
        }
        let (key, ending) = inner.ending.get(id)?;
        ending.do_send(AwaitEnd(done));
        Some(key.clone())
    }

    /// Whether the cleanup of a session that has ended is yet to be told.
    pub(crate) fn is_ending(&self, key: &SessionKey) -> bool {
        self.lock().ending.get(key.id()).is_some_and(|(ending, _)| ending == key)
    }

    /// The cleanup of that incarnation has been told.
    pub(crate) fn handle_cleaned_up(&self, key: &SessionKey) {
        let mut inner = self.lock();
        if inner.ending.get(key.id()).is_some_and(|(ending, _)| ending == key) {
            inner.ending.remove(key.id());
        }
    }

    pub(crate) fn all(&self) -> Vec<(Arc<SessionState>, Addr<SessionActor>)> {
        self.lock().by_id.values().map(|entry| (entry.state.clone(), entry.actor.clone())).collect()
    }

    /// The last holder of a session went.
    pub(crate) fn let_go(&self, state: &Arc<SessionState>, registry: &Addr<Registry>) {
        let mut inner = self.lock();
        let Some(entry) = inner.by_id.get(state.key.id()) else { return };
        // Somebody may have taken hold of it again before this lock was had.
        if entry.state.key != state.key || entry.hold.strong_count() > 0 {
            return;
        }
        if state.automatic {
            inner.end(&state.key, EndReason::OwnerDropped, None);
        } else {
            inner.sessions.handle_idle(&state.key, clock::now());
            registry.do_send(Wake);
        }
    }

    /// Ends what has expired, and says when to look again.
    pub(crate) fn expire(&self, now: Instant) -> Option<Instant> {
        let mut inner = self.lock();
        inner.sessions.handle_timeout(now);
        inner.end_due();
        inner.sessions.poll_timeout()
    }

    /// No session starts from now on; all that live end.
    pub(crate) fn close(&self) -> Closing {
        let mut inner = self.lock();
        let mut keys: Vec<_> = inner.by_id.values().map(|entry| entry.state.key.clone()).collect();
        // Else a run could not be repeated.
        keys.sort_unstable();
        for key in keys {
            inner.end(&key, EndReason::Shutdown, None);
        }
        inner.alive = None;
        Closing(inner.all_ended.take())
    }
}

/// The sessions that are ending when the bridge stops.
pub(crate) struct Closing(Option<mpsc::Receiver<Infallible>>);

impl Closing {
    /// Resolves when the cleanup of every session has been told.
    pub(crate) async fn ended(self) {
        if let Some(mut all_ended) = self.0 {
            // Nothing is ever sent: it ends when the last session has dropped its end.
            let _none = all_ended.recv().await;
        }
    }
}

impl Inner {
    fn end_due(&mut self) {
        while let Some(SessionAction::End { session, reason }) = self.sessions.poll_action() {
            self.end(&session, reason, None);
        }
    }

    fn end(&mut self, key: &SessionKey, reason: EndReason, done: Option<oneshot::Sender<()>>) -> bool {
        let lives = self.by_id.get(key.id()).is_some_and(|entry| entry.state.key == *key);
        if let Some(entry) = lives.then(|| self.by_id.remove(key.id())).flatten() {
            entry.state.set_ended(reason);
            self.sessions.handle_ended(key);
            entry.actor.do_send(End { reason, done });
            self.ending.insert(key.id().clone(), (key.clone(), entry.actor));
        }
        lives
    }
}
