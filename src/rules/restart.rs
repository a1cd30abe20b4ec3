//! When a slot that lost its worker gets the next one: budget, back-off, degraded.
//!
//! The budget counts restarts in a sliding window; spent, it makes the pool degraded: no restart but
//! one try every half window, until every slot is ready again. The back-off is per slot.
//!
//! Starts that fail slowly never fill a window. So a pool in which nothing but that has happened for a
//! window, and for two starts that take as long as they may, has spent its budget, too.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A worker that was healthy for as long starts its slot's back-off anew.
const HEALTHY: Duration = Duration::from_secs(5);
/// A window of zero must not make the tries of a degraded pool a busy loop.
const SHORTEST_TRY: Duration = Duration::from_millis(10);

/// The budget of one pool.
#[derive(Debug)]
pub(crate) struct Restarts {
    limit: usize,
    window: Duration,
    spent: VecDeque<Instant>,
    /// How long starts may fail in a row.
    patience: Duration,
    /// When the first of those began that have failed since a worker was ready.
    failing_since: Option<Instant>,
    degraded: Option<Degraded>,
}

#[derive(Debug)]
struct Degraded {
    cause: Arc<str>,
    next_try: Instant,
    /// All that was missing is being started, and nothing has failed since.
    is_retried: bool,
}

impl Restarts {
    pub(crate) fn new((limit, window): (usize, Duration), start_timeout: Duration) -> Self {
        let patience = window.max(start_timeout.saturating_mul(2));
        Self { limit, window, spent: VecDeque::new(), patience, failing_since: None, degraded: None }
    }

    /// A start that began then has failed.
    pub(crate) fn handle_failed_start(&mut self, began: Instant) {
        self.failing_since.get_or_insert(began);
    }

    pub(crate) fn handle_ready(&mut self) {
        self.failing_since = None;
    }

    /// Takes one restart from the budget; false if it is spent.
    #[must_use]
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        if !self.has_room(now) {
            return false;
        }
        self.spent.push_back(now);
        true
    }

    pub(crate) fn has_room(&mut self, now: Instant) -> bool {
        while self.spent.front().is_some_and(|at| *at + self.window <= now) {
            self.spent.pop_front();
        }
        let has_failed_for = self.failing_since.map(|since| now.saturating_duration_since(since));
        self.spent.len() < self.limit + usize::from(mutant!("budget.one_more"))
            && has_failed_for.is_none_or(|long| long < self.patience || mutant!("budget.slow_starts_are_free"))
    }

    /// From now on only tries; returns the moment of the first.
    pub(crate) fn degrade(&mut self, cause: Arc<str>, now: Instant) -> Instant {
        let next_try = now + self.half_window();
        self.degraded = Some(Degraded { cause, next_try, is_retried: false });
        next_try
    }

    /// A try was made; returns the moment of the next.
    pub(crate) fn tried(&mut self, now: Instant) -> Option<Instant> {
        let next = now + self.half_window();
        let degraded = self.degraded.as_mut()?;
        degraded.next_try = next;
        Some(next)
    }

    /// Whether the moment of a try has come.
    pub(crate) fn is_try_due(&self, now: Instant) -> bool {
        self.degraded.as_ref().is_some_and(|degraded| degraded.next_try <= now)
    }

    pub(crate) fn handle_cause(&mut self, cause: &Arc<str>) {
        if let Some(degraded) = &mut self.degraded {
            degraded.cause = cause.clone();
            degraded.is_retried = false;
        }
    }

    /// All that is missing will be started, whatever the budget; true if the pool is degraded.
    pub(crate) fn retry(&mut self) -> bool {
        if let Some(degraded) = &mut self.degraded {
            degraded.is_retried = true;
        }
        self.degraded.is_some()
    }

    /// Why the pool is degraded, unless it was retried and nothing has failed since.
    pub(crate) fn given_up(&self) -> Option<&Arc<str>> {
        self.degraded.as_ref().filter(|degraded| !degraded.is_retried).map(|degraded| &degraded.cause)
    }

    /// Every slot is ready; true if the pool was degraded.
    pub(crate) fn recover(&mut self) -> bool {
        self.degraded.take().is_some()
    }

    /// Why the pool is degraded, if it is.
    pub(crate) fn degraded(&self) -> Option<&Arc<str>> {
        self.degraded.as_ref().map(|degraded| &degraded.cause)
    }

    /// When a degraded pool tries again.
    pub(crate) fn next_try(&self) -> Option<Instant> {
        self.degraded.as_ref().map(|degraded| degraded.next_try)
    }

    fn half_window(&self) -> Duration {
        (self.window / 2).max(SHORTEST_TRY)
    }
}

/// How often in a row the workers of one slot were lost early.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct BackOff {
    losses: u32,
}

impl BackOff {
    /// How long the slot waits: not at all, then `first`, doubled up to `longest`.
    ///
    /// `healthy_for` is the time from ready to the end; none if it never was ready.
    pub(crate) fn handle_loss(
        &mut self,
        healthy_for: Option<Duration>,
        (first, longest): (Duration, Duration),
    ) -> Duration {
        if healthy_for.is_some_and(|healthy| healthy >= HEALTHY && !mutant!("back_off.is_kept")) {
            self.losses = 0;
        }
        self.losses = self.losses.saturating_add(1);
        match self.losses {
            1 => Duration::ZERO,
            losses => {
                let doublings = (losses - 2).min(31);
                first.checked_mul(1 << doublings).unwrap_or(longest).min(longest)
            }
        }
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "any moment will do to count from")]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_secs(60);
    const START: Duration = Duration::from_secs(60);
    const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

    #[test]
    fn the_budget_bears_as_many_restarts_as_it_says_in_any_window() {
        let start = Instant::now();
        let mut restarts = Restarts::new((3, WINDOW), START);
        for second in 0..3 {
            assert!(restarts.take(start + Duration::from_secs(second)));
        }
        assert!(!restarts.take(start + Duration::from_secs(59)));
        assert!(restarts.take(start + Duration::from_secs(60)), "the first has left the window");
        assert!(!restarts.take(start + Duration::from_secs(60)));
    }

    #[test]
    fn a_budget_of_zero_bears_nothing() {
        assert!(!Restarts::new((0, WINDOW), START).take(Instant::now()));
    }

    #[test]
    fn starts_that_fail_slowly_spend_the_budget_too() {
        let start = Instant::now();
        let at = |second| start + Duration::from_secs(second);
        let mut restarts = Restarts::new((10, WINDOW), START);
        restarts.handle_failed_start(at(0));
        assert!(restarts.take(at(60)));
        restarts.handle_failed_start(at(60));
        assert!(!restarts.take(at(120)), "two that hung, and nothing else");
        restarts.handle_ready();
        assert!(restarts.take(at(120)));
        restarts.handle_failed_start(at(120));
        assert!(restarts.take(at(239)));
    }

    #[test]
    fn a_degraded_pool_tries_every_half_window_until_it_recovers() {
        let start = Instant::now();
        let half = WINDOW / 2;
        let mut restarts = Restarts::new((0, WINDOW), START);
        assert_eq!(restarts.degrade("signal 9".into(), start), start + half);
        assert!(!restarts.is_try_due(start + half - Duration::from_nanos(1)));
        assert!(restarts.is_try_due(start + half));
        assert_eq!(restarts.tried(start + half), Some(start + WINDOW));
        assert_eq!(restarts.degraded().map(|cause| &**cause), Some("signal 9"));
        assert!(restarts.recover());
        assert!(!restarts.recover());
        assert_eq!(restarts.tried(start + WINDOW), None);
    }

    #[test]
    fn a_slot_restarts_at_once_then_after_50_ms_doubled_up_to_the_longest() {
        let mut slot = BackOff::default();
        let waits: Vec<u128> = (0..10).map(|_| slot.handle_loss(None, BACKOFF).as_millis()).collect();
        assert_eq!(waits, [0, 50, 100, 200, 400, 800, 1600, 3200, 5000, 5000]);
    }

    #[test]
    fn five_seconds_of_health_start_the_back_off_anew() {
        let mut slot = BackOff::default();
        for _ in 0..4 {
            slot.handle_loss(Some(HEALTHY - Duration::from_nanos(1)), BACKOFF);
        }
        assert_eq!(slot.handle_loss(Some(HEALTHY), BACKOFF), Duration::ZERO);
        assert_eq!(slot.handle_loss(None, BACKOFF), BACKOFF.0);
    }

    #[test]
    fn a_back_off_of_zero_is_always_at_once_and_nothing_overflows() {
        let mut slot = BackOff::default();
        for _ in 0..100 {
            assert_eq!(slot.handle_loss(None, (Duration::ZERO, Duration::ZERO)), Duration::ZERO);
        }
        let mut slot = BackOff { losses: u32::MAX };
        assert_eq!(slot.handle_loss(None, (Duration::MAX, Duration::MAX)), Duration::MAX);
    }
}
