//! One worker generation, as its pool sees it.

use super::session::Sid;
use crate::id::{CallId, WorkerId};
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A worker's place in its pool, slot and generation: its id without the name, cheap to keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) slot: u32,
    pub(super) generation: u64,
}

impl From<&WorkerId> for Place {
    fn from(id: &WorkerId) -> Self {
        Self { slot: id.slot(), generation: id.generation() }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Asked for; when it will have taken too long.
    Starting { until: Instant },
    /// In its slot, or until the one that replaces it is ready.
    Serving,
    /// Keeps the sessions that hold something in it until then.
    Retiring,
    /// Its grace is over: it finishes what runs and then exits.
    Draining,
    /// It was told to exit, or killed.
    Stopping,
}

#[derive(Clone, Debug)]
pub(super) struct Taint {
    pub(super) until: Instant,
    pub(super) reason: Arc<str>,
}

#[derive(Debug)]
pub(super) struct Worker {
    pub(super) id: WorkerId,
    /// How many zygotes were lost or replaced before the one that was to fork it.
    pub(super) zygote: u64,
    pub(super) state: State,
    pub(super) taint: Option<Taint>,
    pub(super) ready_at: Option<Instant>,
    /// How many calls were over there.
    pub(super) requests: usize,
    /// Open leases in the order of their grants: of those that need room the first `concurrency` run, the
    /// rest are sent ahead.
    pub(super) leases: VecDeque<CallId>,
    /// How many of them run on top of others.
    pub(super) nested: usize,
    /// Taken back, and not yet passed by the worker.
    pub(super) passing: Vec<CallId>,
    /// How many calls wait for this worker and no other.
    pub(super) waiting: usize,
    /// Sessions with such calls whose turn may come.
    pub(super) turns: BTreeSet<(u64, Sid)>,
    pub(super) homes: BTreeSet<Sid>,
    /// Sessions that hold something in it.
    pub(super) pinned: BTreeSet<Sid>,
    service: Service,
}

impl Worker {
    pub(super) fn new(id: WorkerId, zygote: u64, until: Instant) -> Self {
        Self {
            id,
            zygote,
            state: State::Starting { until },
            taint: None,
            ready_at: None,
            requests: 0,
            leases: VecDeque::new(),
            nested: 0,
            passing: Vec::new(),
            waiting: 0,
            turns: BTreeSet::new(),
            homes: BTreeSet::new(),
            pinned: BTreeSet::new(),
            service: Service::default(),
        }
    }

    /// It takes any call and may become a home, once it has room.
    pub(super) fn is_open_to_all(&self) -> bool {
        (self.taint.is_none() || mutant!("taint.is_ignored")) && self.state == State::Serving
    }

    pub(super) fn has_room(&self, concurrency: usize) -> bool {
        self.leases.len() - self.nested < concurrency
    }

    /// Whether one call more may be sent to it before another is over.
    pub(super) fn has_room_ahead(&self, concurrency: usize, most: usize) -> bool {
        let ahead = (self.leases.len() - self.nested + self.passing.len()).saturating_sub(concurrency);
        ahead < self.service.window(most) || mutant!("ahead.without_end")
    }

    /// Its process lives and what it holds can still be used.
    pub(super) fn keeps_state(&self) -> bool {
        matches!(self.state, State::Serving | State::Retiring)
    }

    pub(super) fn handle_granted(&mut self, call: CallId, now: Instant) {
        if self.leases.is_empty() {
            self.service.begin(now);
        }
        self.leases.push_back(call);
    }

    /// A call has left, by its end or not begun.
    pub(super) fn handle_left(&mut self, call: CallId, ran: bool, now: Instant) {
        if let Some(at) = self.leases.iter().position(|open| *open == call) {
            self.leases.remove(at);
        }
        if ran {
            self.service.observe(now);
        }
    }
}

/// About 1 ms of work keeps a worker busy from one wake-up of its host to the next.
const AHEAD: Duration = Duration::from_millis(1);

/// A moving average of the time that a call takes there.
#[derive(Debug, Default)]
struct Service {
    since: Option<Instant>,
    average: Option<Duration>,
}

impl Service {
    fn begin(&mut self, now: Instant) {
        self.since = Some(now);
    }

    fn observe(&mut self, now: Instant) {
        let Some(since) = self.since.replace(now) else { return };
        let took = now.saturating_duration_since(since);
        self.average = Some(match self.average {
            // A slow call counts at once, a fast one slowly: a window that is too large delays others.
            Some(average) if took < average => (average * 7 + took) / 8,
            Some(_) | None => took,
        });
    }

    fn window(&self, most: usize) -> usize {
        let fit = match self.average {
            None => 1,
            Some(average) => AHEAD.as_nanos() / average.as_nanos().max(1),
        };
        usize::try_from(fit).unwrap_or(usize::MAX).max(1).min(most)
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "any moment will do to count from")]
mod tests {
    use super::*;

    #[test]
    fn as_many_calls_are_sent_ahead_as_make_a_millisecond_else_one_and_never_more_than_the_most() {
        assert_eq!(window_after(&[]), 1);
        assert_eq!(window_after(&[100; 20]), 10);
        assert_eq!(window_after(&[1; 20]), 32);
        assert_eq!(window_after(&[0; 20]), 32);
        assert_eq!(window_after(&[1_000_000]), 1);
        assert_eq!(Service::default().window(0), 0);
    }

    #[test]
    fn one_slow_call_closes_the_window_at_once_and_fast_ones_open_it_again_slowly() {
        let mut fast = vec![10; 20];
        fast.push(5_000);
        assert_eq!(window_after(&fast), 1);
        fast.extend([10; 5]);
        assert_eq!(window_after(&fast), 1);
        fast.extend([10; 60]);
        assert_eq!(window_after(&fast), 32);
    }

    fn window_after(micros: &[u64]) -> usize {
        let mut now = Instant::now();
        let mut service = Service::default();
        service.begin(now);
        for took in micros {
            now += Duration::from_micros(*took);
            service.observe(now);
        }
        service.window(32)
    }
}
