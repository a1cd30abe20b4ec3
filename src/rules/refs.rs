//! The catalogue of refs: who owns each, and when which worker is told to free it.
//!
//! Every id is made once and dropped once, in whichever order the two are heard; between them its
//! session may end or its worker go. An id is never heard of again after both, and memory is kept for
//! none after that. No routing depends on this: it may be a moment late.

use crate::id::{RefId, SessionKey, WorkerId};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

/// Long enough to gather the drops of a loop in one message, far below the second that is promised.
const GATHER: Duration = Duration::from_millis(5);
/// What a worker made is told within a moment of its end: a few of the last are enough to know.
const REMEMBERED: usize = 64;
/// So many ids fill 2 KiB; more would make other messages wait.
const BATCH: usize = 256;

#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a ref that is not freed is a leak"]
pub(crate) enum RefAction {
    /// Free these; to the worker, then to its pool as unpinned.
    Free { session: SessionKey, worker: WorkerId, ids: Vec<RefId> },
}

#[derive(Debug)]
enum Known {
    Live {
        session: SessionKey,
        worker: WorkerId,
    },
    /// Freed with its session or lost with its worker; Rust has yet to drop it.
    Gone,
    /// Rust has dropped it; that it was made has yet to be heard.
    Dropped,
}

#[derive(Debug, Default)]
pub(crate) struct Refs {
    known: BTreeMap<RefId, Known>,
    by_session: BTreeMap<SessionKey, BTreeMap<WorkerId, BTreeSet<RefId>>>,
    by_worker: BTreeMap<WorkerId, BTreeSet<SessionKey>>,
    /// Ended, and calls of theirs may still be running.
    ended: BTreeSet<SessionKey>,
    /// The workers that went last, the latest at the end.
    gone: VecDeque<WorkerId>,
    due: BTreeMap<(WorkerId, SessionKey), Vec<RefId>>,
    due_count: usize,
    flush_at: Option<Instant>,
    actions: VecDeque<RefAction>,
}

impl Refs {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// A call has returned these.
    pub(crate) fn handle_made(&mut self, session: &SessionKey, worker: &WorkerId, ids: &[RefId], now: Instant) {
        let is_gone = self.is_gone(worker);
        let is_ended = self.ended.contains(session) && !mutant!("ref.of_ended_is_kept");
        for id in ids {
            match self.known.remove(id) {
                None if is_gone || is_ended => {
                    self.known.insert(*id, Known::Gone);
                    if !is_gone {
                        self.free(session, worker, *id, now);
                    }
                }
                None => {
                    let owner = Known::Live { session: session.clone(), worker: worker.clone() };
                    self.known.insert(*id, owner);
                    let held = self.by_session.entry(session.clone()).or_default();
                    held.entry(worker.clone()).or_default().insert(*id);
                    self.by_worker.entry(worker.clone()).or_default().insert(session.clone());
                }
                Some(Known::Dropped) if is_gone || mutant!("ref.dropped_first_leaks") => {}
                Some(Known::Dropped) => self.free(session, worker, *id, now),
                // Made twice: the first owner stands.
                Some(known @ (Known::Live { .. } | Known::Gone)) => {
                    self.known.insert(*id, known);
                }
            }
        }
    }

    /// Its last clone was dropped.
    pub(crate) fn handle_dropped(&mut self, id: RefId, now: Instant) {
        match self.known.remove(&id) {
            Some(Known::Live { session, worker }) => {
                self.disown(&session, &worker, id);
                self.free(&session, &worker, id, now);
            }
            Some(Known::Gone) => {}
            None | Some(Known::Dropped) => {
                self.known.insert(id, Known::Dropped);
            }
        }
    }

    /// All refs of the session are freed at once; returns how many they were.
    pub(crate) fn handle_session_ended(&mut self, session: &SessionKey) -> usize {
        self.ended.insert(session.clone());
        let mut count = 0;
        for (worker, ids) in self.by_session.remove(session).unwrap_or_default() {
            self.disown_all(session, &worker);
            count += ids.len();
            let ids: Vec<RefId> = ids.into_iter().collect();
            for id in &ids {
                self.known.insert(*id, Known::Gone);
            }
            for batch in ids.chunks(BATCH) {
                let (session, worker) = (session.clone(), worker.clone());
                self.actions.push_back(RefAction::Free { session, worker, ids: batch.to_vec() });
            }
        }
        count
    }

    /// No call of the ended session runs anywhere: nothing of it will be made any more.
    pub(crate) fn handle_session_forgotten(&mut self, session: &SessionKey) {
        self.ended.remove(session);
    }

    /// What the worker held is lost; returns how many refs they were.
    pub(crate) fn handle_worker_gone(&mut self, worker: &WorkerId) -> usize {
        if self.gone.len() == REMEMBERED {
            self.gone.pop_front();
        }
        self.gone.push_back(worker.clone());
        let mut count = 0;
        for session in self.by_worker.remove(worker).unwrap_or_default() {
            let Some(held) = self.by_session.get_mut(&session) else { continue };
            for id in held.remove(worker).unwrap_or_default() {
                self.known.insert(id, Known::Gone);
                count += 1;
            }
            if held.is_empty() {
                self.by_session.remove(&session);
            }
        }
        // Nobody is left to free these.
        self.due.retain(|(of, _), ids| {
            let is_kept = of != worker;
            if !is_kept {
                self.due_count -= ids.len();
            }
            is_kept
        });
        count
    }

    /// The refs that live: of one session, or of all.
    pub(crate) fn live(&self, session: Option<&SessionKey>) -> usize {
        let of = |held: &BTreeMap<WorkerId, BTreeSet<RefId>>| held.values().map(BTreeSet::len).sum::<usize>();
        match session {
            Some(session) => self.by_session.get(session).map_or(0, of),
            None => self.by_session.values().map(of).sum(),
        }
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        if self.flush_at.is_some_and(|at| at <= now) {
            self.flush();
        }
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.flush_at
    }

    /// What is decided, and not polled yet.
    pub(crate) fn pending(&self) -> impl Iterator<Item = &RefAction> {
        self.actions.iter()
    }

    pub(crate) fn poll_action(&mut self) -> Option<RefAction> {
        self.actions.pop_front()
    }

    fn free(&mut self, session: &SessionKey, worker: &WorkerId, id: RefId, now: Instant) {
        self.due.entry((worker.clone(), session.clone())).or_default().push(id);
        self.due_count += 1;
        self.flush_at.get_or_insert(now + GATHER);
        if self.due_count >= BATCH {
            self.flush();
        }
    }

    fn flush(&mut self) {
        self.flush_at = None;
        self.due_count = 0;
        for ((worker, session), ids) in std::mem::take(&mut self.due) {
            self.actions.push_back(RefAction::Free { session, worker, ids });
        }
    }

    fn disown(&mut self, session: &SessionKey, worker: &WorkerId, id: RefId) {
        let Some(held) = self.by_session.get_mut(session) else { return };
        let Some(ids) = held.get_mut(worker) else { return };
        ids.remove(&id);
        if ids.is_empty() {
            held.remove(worker);
            if held.is_empty() {
                self.by_session.remove(session);
            }
            self.disown_all(session, worker);
        }
    }

    fn disown_all(&mut self, session: &SessionKey, worker: &WorkerId) {
        if let Some(sessions) = self.by_worker.get_mut(worker) {
            sessions.remove(session);
            if sessions.is_empty() {
                self.by_worker.remove(worker);
            }
        }
    }

    fn is_gone(&self, worker: &WorkerId) -> bool {
        self.gone.contains(worker)
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "any moment will do to count from")]
mod tests {
    use super::*;

    #[test]
    fn drops_are_gathered_for_five_milliseconds_and_freed_in_one_message_per_session_and_worker() {
        let (mut refs, now) = (Refs::new(), Instant::now());
        made(&mut refs, 1, "p/0#1", 1..=4, now);
        made(&mut refs, 2, "p/0#1", 5..=5, now);
        for id in [1, 2, 5] {
            refs.handle_dropped(RefId(id), now);
        }
        assert_eq!(refs.poll_action(), None);
        assert_eq!(refs.poll_timeout(), Some(now + GATHER));
        refs.handle_timeout(now + GATHER);
        assert_eq!(freed(&mut refs), [(1, vec![1, 2]), (2, vec![5])]);
        assert_eq!((refs.live(None), refs.poll_timeout()), (2, None));
    }

    #[test]
    fn the_256th_drop_flushes_at_once() {
        let (mut refs, now) = (Refs::new(), Instant::now());
        made(&mut refs, 1, "p/0#1", 1..=256, now);
        for id in 1..=255 {
            refs.handle_dropped(RefId(id), now);
        }
        assert_eq!(refs.poll_action(), None);
        refs.handle_dropped(RefId(256), now);
        assert_eq!(freed(&mut refs).len(), 1);
        assert_eq!(refs.poll_timeout(), None);
    }

    #[test]
    fn a_ref_that_was_dropped_before_it_was_made_is_freed_when_it_is_made() {
        let (mut refs, now) = (Refs::new(), Instant::now());
        refs.handle_dropped(RefId(1), now);
        made(&mut refs, 1, "p/0#1", 1..=1, now);
        refs.handle_timeout(now + GATHER);
        assert_eq!(freed(&mut refs), [(1, vec![1])]);
        assert!(refs.known.is_empty());
    }

    #[test]
    fn the_end_of_a_session_frees_all_of_it_and_nothing_of_another() {
        let (mut refs, now) = (Refs::new(), Instant::now());
        made(&mut refs, 1, "p/0#1", 1..=600, now);
        made(&mut refs, 2, "p/0#1", 601..=601, now);
        assert_eq!(refs.handle_session_ended(&key(1)), 600);
        assert_eq!(freed(&mut refs).iter().map(|(_, ids)| ids.len()).collect::<Vec<_>>(), [256, 256, 88]);
        assert_eq!(refs.live(None), 1);
        refs.handle_dropped(RefId(1), now);
        assert_eq!(refs.poll_timeout(), None, "it is not freed twice");
    }

    #[test]
    fn a_ref_that_is_made_after_the_end_of_its_session_is_freed_at_once() {
        let (mut refs, now) = (Refs::new(), Instant::now());
        refs.handle_session_ended(&key(1));
        made(&mut refs, 1, "p/0#1", 1..=1, now);
        refs.handle_timeout(now + GATHER);
        assert_eq!(freed(&mut refs), [(1, vec![1])]);
        refs.handle_dropped(RefId(1), now);
        refs.handle_session_forgotten(&key(1));
        assert!(refs.known.is_empty() && refs.ended.is_empty());
    }

    #[test]
    fn what_a_dead_worker_held_is_lost_and_never_freed_in_the_next_generation() {
        let (mut refs, now) = (Refs::new(), Instant::now());
        made(&mut refs, 1, "p/0#1", 1..=3, now);
        refs.handle_dropped(RefId(1), now);
        assert_eq!(refs.handle_worker_gone(&"p/0#1".parse().expect("a worker id")), 2);
        made(&mut refs, 1, "p/0#1", 4..=4, now);
        made(&mut refs, 1, "p/0#2", 5..=5, now);
        for id in [2, 3, 4, 5] {
            refs.handle_dropped(RefId(id), now);
        }
        refs.handle_timeout(now + GATHER);
        assert_eq!(freed(&mut refs), [(1, vec![5])]);
        assert!(refs.known.is_empty() && refs.by_worker.is_empty() && refs.by_session.is_empty());
    }

    fn key(incarnation: u64) -> SessionKey {
        SessionKey::new("s".into(), incarnation)
    }

    fn made(refs: &mut Refs, session: u64, worker: &str, ids: std::ops::RangeInclusive<u64>, now: Instant) {
        let ids: Vec<RefId> = ids.map(RefId).collect();
        refs.handle_made(&key(session), &worker.parse().expect("a worker id"), &ids, now);
    }

    fn freed(refs: &mut Refs) -> Vec<(u64, Vec<u64>)> {
        let actions = std::iter::from_fn(|| refs.poll_action());
        actions
            .map(|RefAction::Free { session, ids, .. }| (session.incarnation(), ids.iter().map(|id| id.0).collect()))
            .collect()
    }
}
