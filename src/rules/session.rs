//! The sessions of a bridge: how long each lives that nothing holds, and which ends when there are
//! too many.
//!
//! Whether something holds a session (a handle, a ref, a call) is counted elsewhere; here only the
//! change from held to idle and back is heard.

use crate::event::EndReason;
use crate::id::SessionKey;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a session that is not ended is a leak"]
pub(crate) enum SessionAction {
    End { session: SessionKey, reason: EndReason },
}

/// `max_sessions` are in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SessionLimit(pub(crate) usize);

#[derive(Clone, Copy, Debug)]
struct Known {
    ttl: Duration,
    use_: Use,
}

#[derive(Clone, Copy, Debug)]
enum Use {
    Held,
    Idle { since: Instant, expires: Option<Instant> },
}

#[derive(Debug)]
pub(crate) struct Sessions {
    max: usize,
    known: BTreeMap<SessionKey, Known>,
    /// Idle ones, the longest unused first.
    unused: BTreeSet<(Instant, SessionKey)>,
    expiring: BTreeSet<(Instant, SessionKey)>,
    actions: VecDeque<SessionAction>,
}

impl Sessions {
    pub(crate) fn new(max: usize) -> Self {
        Self {
            max,
            known: BTreeMap::new(),
            unused: BTreeSet::new(),
            expiring: BTreeSet::new(),
            actions: VecDeque::new(),
        }
    }

    /// A session begins, held by whoever made it.
    ///
    /// # Errors
    /// `max_sessions` are in use and something holds each of them.
    pub(crate) fn handle_created(
        &mut self,
        session: SessionKey,
        ttl: Duration,
        _now: Instant,
    ) -> Result<(), SessionLimit> {
        if self.known.len() >= self.max {
            let Some((_, longest_unused)) = self.unused.first().cloned() else {
                return Err(SessionLimit(self.max));
            };
            self.end(longest_unused, EndReason::Capped);
        }
        self.known.insert(session, Known { ttl, use_: Use::Held });
        Ok(())
    }

    /// Something holds the session again.
    pub(crate) fn handle_held(&mut self, session: &SessionKey) {
        self.unlist(session);
        if let Some(known) = self.known.get_mut(session) {
            known.use_ = Use::Held;
        }
    }

    /// Nothing holds the session any more.
    pub(crate) fn handle_idle(&mut self, session: &SessionKey, now: Instant) {
        self.unlist(session);
        let Some(known) = self.known.get_mut(session) else { return };
        let expires = now.checked_add(known.ttl);
        known.use_ = Use::Idle { since: now, expires };
        self.unused.insert((now, session.clone()));
        if let Some(at) = expires {
            self.expiring.insert((at, session.clone()));
        }
    }

    /// The session has ended for a reason that was decided elsewhere.
    pub(crate) fn handle_ended(&mut self, session: &SessionKey) {
        self.unlist(session);
        self.known.remove(session);
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.known.len()
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        while let Some((_, session)) = self.expiring.first().filter(|(at, _)| *at <= now).cloned() {
            self.end(session, EndReason::Expired);
        }
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.expiring.first().map(|(at, _)| *at)
    }

    pub(crate) fn poll_action(&mut self) -> Option<SessionAction> {
        self.actions.pop_front()
    }

    fn end(&mut self, session: SessionKey, reason: EndReason) {
        self.handle_ended(&session);
        self.actions.push_back(SessionAction::End { session, reason });
    }

    fn unlist(&mut self, session: &SessionKey) {
        if let Some(Known { use_: Use::Idle { since, expires }, .. }) = self.known.get(session).copied() {
            self.unused.remove(&(since, session.clone()));
            if let Some(at) = expires {
                self.expiring.remove(&(at, session.clone()));
            }
        }
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "any moment will do to count from")]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(3600);

    #[test]
    fn a_session_that_nothing_holds_ends_a_ttl_after_its_last_use() {
        let (mut sessions, now) = (Sessions::new(10), Instant::now());
        create(&mut sessions, 1, now);
        assert_eq!(sessions.poll_timeout(), None, "it is held");
        sessions.handle_idle(&key(1), now);
        assert_eq!(sessions.poll_timeout(), Some(now + TTL));
        sessions.handle_timeout(now + TTL - Duration::from_nanos(1));
        assert_eq!(sessions.poll_action(), None);
        sessions.handle_timeout(now + TTL);
        assert_eq!(ended(&mut sessions), [(1, EndReason::Expired)]);
        assert_eq!((sessions.len(), sessions.poll_timeout()), (0, None));
    }

    #[test]
    fn a_held_session_never_expires_and_its_time_starts_again_when_it_is_let_go() {
        let (mut sessions, now) = (Sessions::new(10), Instant::now());
        create(&mut sessions, 1, now);
        sessions.handle_idle(&key(1), now);
        sessions.handle_held(&key(1));
        sessions.handle_timeout(now + 2 * TTL);
        assert_eq!(sessions.poll_action(), None);
        sessions.handle_idle(&key(1), now + 2 * TTL);
        assert_eq!(sessions.poll_timeout(), Some(now + 3 * TTL));
    }

    #[test]
    fn the_cap_ends_the_longest_unused_that_nothing_holds() {
        let (mut sessions, now) = (Sessions::new(3), Instant::now());
        for id in 1..=3 {
            create(&mut sessions, id, now);
        }
        sessions.handle_idle(&key(3), now);
        sessions.handle_idle(&key(2), now + Duration::from_secs(1));
        create(&mut sessions, 4, now);
        assert_eq!(ended(&mut sessions), [(3, EndReason::Capped)]);
        assert_eq!(sessions.len(), 3);
    }

    #[test]
    fn a_session_more_than_the_cap_is_refused_when_all_are_held() {
        let (mut sessions, now) = (Sessions::new(2), Instant::now());
        create(&mut sessions, 1, now);
        create(&mut sessions, 2, now);
        assert_eq!(sessions.handle_created(key(3), TTL, now), Err(SessionLimit(2)));
        sessions.handle_ended(&key(1));
        create(&mut sessions, 3, now);
    }

    #[test]
    fn a_ttl_without_end_does_not_overflow() {
        let (mut sessions, now) = (Sessions::new(2), Instant::now());
        sessions.handle_created(key(1), Duration::MAX, now).expect("there is room");
        sessions.handle_idle(&key(1), now);
        assert_eq!(sessions.poll_timeout(), None);
    }

    fn key(incarnation: u64) -> SessionKey {
        SessionKey::new("s".into(), incarnation)
    }

    fn create(sessions: &mut Sessions, id: u64, now: Instant) {
        sessions.handle_created(key(id), TTL, now).expect("there is room");
    }

    fn ended(sessions: &mut Sessions) -> Vec<(u64, EndReason)> {
        let actions = std::iter::from_fn(|| sessions.poll_action());
        actions.map(|SessionAction::End { session, reason }| (session.incarnation(), reason)).collect()
    }
}
