//! A pool that starts over, since its shell has panicked: what stands here of calls may not be true any more.
//!
//! All of them are given up; that they are answered is the business of who has them. What stays is what others
//! rely on: which worker stands in which slot, so that the next waits for its exit; what sessions have in these
//! workers, which is lost with them, with a mark; the budget; what has happened and is not told yet.

use super::action::Action;
use super::session::{Namespace, Session, Sid, Stage};
use super::slot::SlotState;
use super::timer::Timer;
use super::worker::{Place, State, Worker};
use super::{Phase, Pool};
use crate::id::WorkerId;
use std::sync::Arc;
use std::time::Instant;

impl Pool {
    /// Every worker is on its way out, killed by the shell; its exit is a death like any other, for its slot and for
    /// the budget. Those that were never forked are named by `is_forked`, and told at once.
    pub(crate) fn start_over(&mut self, cause: &str, is_forked: impl Fn(&WorkerId) -> bool, now: Instant) {
        let old = std::mem::replace(self, Self::new(self.rules.clone()));
        self.phase = old.phase;
        self.slots = old.slots;
        // Who was to serve until another was ready does not.
        for slot in self.slots.values_mut() {
            slot.replaces = None;
        }
        self.next_slot = old.next_slot;
        self.exits = old.exits;
        self.restarts = old.restarts;
        self.zygotes_left = old.zygotes_left;
        self.outdated_because = old.outdated_because;
        self.has_settled = old.has_settled;
        self.actions = old.actions;
        self.actions.retain(is_still_true);
        for (place, worker) in old.workers {
            let mut doomed = Worker::new(worker.id, 0, now);
            doomed.state = State::Stopping;
            doomed.ready_at = worker.ready_at;
            self.workers.insert(place, doomed);
        }
        for (sid, session) in old.sessions {
            self.take_over(sid, session);
        }
        self.look_at_slots(cause, now);
        let never_forked = self.workers.values().filter(|worker| !is_forked(&worker.id));
        for worker in never_forked.map(|worker| worker.id.clone()).collect::<Vec<_>>() {
            self.handle_start_failed(&worker, cause.to_owned(), false, now);
        }
        if self.phase == Phase::Stopped {
            self.phase = Phase::ShuttingDown;
        }
        self.finish_shutdown();
    }

    /// What a session has in the workers that were.
    fn take_over(&mut self, sid: Sid, old: Session) {
        let is_here = |place: &Place| self.workers.contains_key(place);
        let session = Session {
            home: old.home.filter(is_here),
            lost: old.lost,
            pins: old.pins.into_iter().filter(|(place, _)| is_here(place)).collect(),
            namespace: match old.namespace {
                Namespace::At { place, .. } if !is_here(&place) => Namespace::None,
                namespace @ (Namespace::None | Namespace::At { .. } | Namespace::Lost { .. }) => namespace,
            },
            stage: match old.stage {
                Stage::Live => Stage::Live,
                // It tells the pool once more to forget it.
                Stage::Ended | Stage::Ending => Stage::Ended,
            },
            ..Session::new(old.key)
        };
        if let Some(worker) = session.home.and_then(|home| self.workers.get_mut(&home)) {
            worker.homes.insert(sid);
        }
        for (place, _) in &session.pins {
            if let Some(worker) = self.workers.get_mut(place) {
                worker.pinned.insert(sid);
            }
        }
        if !session.is_blank() {
            self.sessions.insert(sid, session);
        }
    }

    /// Their alarms are gone, and a start that nobody heard of is made up for.
    fn look_at_slots(&mut self, cause: &str, now: Instant) {
        let next_try = self.restarts.next_try();
        if let Some(at) = next_try {
            self.timers.set(at, Timer::DegradedTry);
        }
        let mut empty = Vec::new();
        for (number, slot) in &self.slots {
            let place = Place { slot: *number, generation: slot.generation };
            match slot.state {
                SlotState::BackingOff { until, .. } => self.timers.set(until, Timer::BackOff(*number)),
                SlotState::Up if self.workers.contains_key(&place) => {}
                SlotState::Missing if next_try.is_some() => {}
                SlotState::Up | SlotState::Missing => empty.push(place),
            }
        }
        for place in empty {
            self.on_slot_down(place, None, Arc::from(cause), false, now);
        }
    }
}

/// Whether what was decided holds though nobody knows of the calls any more.
fn is_still_true(action: &Action) -> bool {
    match action {
        Action::LeasesClosed { .. }
        | Action::Forgotten { .. }
        | Action::Ready
        | Action::Degraded { .. }
        | Action::Stopped
        | Action::Emit(_) => true,
        Action::Grant { .. }
        | Action::Refuse { .. }
        | Action::TakeBack { .. }
        | Action::DropTakeBack { .. }
        | Action::Start { .. }
        | Action::Stop { .. }
        | Action::Kill { .. } => false,
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "any moment will do to count from")]
mod tests {
    use super::super::{PoolRules, Purpose, Refusal, Ticket};
    use super::*;
    use crate::config::{Affinity, PoolConfig};
    use crate::id::{CallId, PoolName, SessionKey};
    use std::time::Duration;

    fn worker(generation: u64) -> WorkerId {
        WorkerId::new(PoolName::from("p"), 0, generation)
    }

    fn ticket(call: u64) -> Ticket {
        Ticket {
            call: CallId(call),
            session: SessionKey::new("s".into(), 1),
            purpose: Purpose::Call,
            rebuilds: false,
            tree: None,
            has_ended: false,
            affinity: Some(Affinity::StrictQueue),
            pinned_to: None,
            uses_namespace: false,
            deadline: None,
            timeout: None,
            queue_timeout: None,
            bytes: 0,
            on_worker_lost: None,
        }
    }

    /// A pool of one worker, which runs a call of a session whose home it is.
    fn busy(budget: usize, now: Instant) -> Pool {
        let config = PoolConfig::new("p").size(1).restart_budget(budget, Duration::from_secs(60));
        let mut pool = Pool::new(PoolRules::from(&config));
        pool.start(now);
        pool.handle_ready(&worker(1), now);
        pool.handle_ticket(ticket(1), now);
        pool
    }

    fn starts(pool: &mut Pool) -> Vec<WorkerId> {
        let actions = std::iter::from_fn(|| pool.poll_action());
        actions.filter_map(|action| if let Action::Start { worker } = action { Some(worker) } else { None }).collect()
    }

    #[test]
    fn a_slot_gets_its_next_worker_when_the_exit_of_the_one_before_was_seen() {
        let now = Instant::now();
        let mut pool = busy(10, now);
        pool.start_over("a panic", |_| true, now);
        assert_eq!(starts(&mut pool), []);
        pool.handle_exit(&worker(1), "killed".to_owned(), Vec::new(), now);
        assert_eq!(starts(&mut pool), [worker(2)]);
    }

    #[test]
    fn one_that_was_never_forked_is_not_waited_for() {
        let now = Instant::now();
        let mut pool = busy(10, now);
        pool.start_over("a panic", |_| false, now);
        assert_eq!(starts(&mut pool), [worker(2)]);
    }

    #[test]
    fn a_home_is_lost_with_a_mark_and_what_was_asked_before_is_void() {
        let now = Instant::now();
        let mut pool = busy(10, now);
        pool.start_over("a panic", |_| true, now);
        pool.handle_exit(&worker(1), "killed".to_owned(), Vec::new(), now);
        pool.handle_ready(&worker(2), now);
        let _started = starts(&mut pool);
        pool.handle_lease_over(CallId(1), 1, now);
        assert!(pool.handle_withdrawn(CallId(1), now), "it knows nothing of it");
        assert_eq!(pool.poll_action(), None);
        pool.handle_ticket(ticket(2), now);
        let Some(Action::Refuse { refusal, .. }) = pool.poll_action() else {
            panic!("a strict call has no other home")
        };
        assert!(matches!(refusal, Refusal::SessionWorkerUnavailable { worker: gone, .. } if gone == worker(1)));
    }

    #[test]
    fn it_counts_against_the_budget_which_is_not_forgotten() {
        let now = Instant::now();
        let mut pool = busy(1, now);
        let _started = starts(&mut pool);
        for (generation, next) in [(1, vec![worker(2)]), (2, vec![])] {
            pool.start_over("a panic", |_| true, now);
            pool.handle_exit(&worker(generation), "killed".to_owned(), Vec::new(), now);
            assert_eq!(starts(&mut pool), next);
        }
        assert!(pool.degraded().is_some());
        pool.start_over("a panic", |_| true, now);
        assert!(pool.degraded().is_some());
        assert_eq!(starts(&mut pool), []);
        assert_eq!(pool.poll_timeout(), Some(now + Duration::from_secs(30)), "it tries again in its time");
    }

    #[test]
    fn in_a_shutdown_it_stops_when_the_last_exit_was_seen() {
        let now = Instant::now();
        let mut pool = busy(10, now);
        pool.shutdown(now);
        pool.start_over("a panic", |_| true, now);
        assert!(!pool.pending().any(|action| matches!(action, Action::Stopped)));
        pool.handle_exit(&worker(1), "killed".to_owned(), Vec::new(), now);
        assert!(pool.pending().any(|action| matches!(action, Action::Stopped)));
    }
}
