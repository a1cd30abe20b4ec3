//! Polling before sleeping: two sides that look for each other's messages meet in a fraction of the time
//! that a wake-up costs.
//!
//! The host decides for both. For a moment after each call that it sends it looks at the page's count of
//! what the worker has sent, and lets the other tasks of its thread run in between; the worker does the
//! same for calls, while its budget on the page says so. With one core to look is to hinder: there the
//! thread waits in the kernel for the worker that it has just fed. What does not pay is left off: where
//! two looks find nothing, with few that do between them, they rest for a while, and longer each time.

use crate::clock;
use crate::process::First;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// For how long either side looks. A call that takes longer is not held up much by a wake-up.
pub(super) const BUDGET: Duration = Duration::from_micros(50);
/// With more calls in flight there is always something to do, and nobody sleeps.
const MOST_DUE: usize = 2;
/// What is waited for with the thread and comes later than this was not worth it. An answer that is a little
/// late is the machine's doing, and not a call that takes long.
const LATE: Duration = Duration::from_micros(200);
/// So many hits in a row forget the misses of such waits: with fewer, calls that are now short, now long would
/// never rest. A look that lets the other tasks run harms nobody, and one hit is enough.
const HITS_OF_WAITS: u32 = 16;
/// For how many calls the looks rest that found nothing, at first and at most.
const FIRST_REST: u32 = 256;
const LONGEST_REST: u32 = 65_536;

static CORES: LazyLock<usize> = LazyLock::new(|| std::thread::available_parallelism().map_or(1, usize::from));
/// How many workers are being looked at, in all bridges: each takes a core, and its own look another.
static LOOKING: AtomicUsize = AtomicUsize::new(0);

/// The looks at one worker's channel, both ways.
#[derive(Debug)]
pub(super) struct Polling {
    cores: usize,
    all_looking: &'static AtomicUsize,
    /// With a concurrency above one the worker's threads do not count exactly.
    is_possible: bool,
    received: u64,
    looking: Option<Looking>,
    misses: u32,
    /// Since the last miss.
    hits: u32,
    rest: u32,
    next_rest: u32,
    last_received: Option<Instant>,
    /// How many calls in a row came too late for a worker that looks.
    late_calls: u32,
    worker_looks: bool,
}

#[derive(Debug)]
struct Looking {
    until: Instant,
    all: &'static AtomicUsize,
}

impl Looking {
    fn begin(now: Instant, all: &'static AtomicUsize, most: usize) -> Option<Self> {
        let taken = all.fetch_add(1, Ordering::Relaxed);
        let looking = Self { until: now + BUDGET, all };
        (taken < most).then_some(looking)
    }
}

impl Drop for Looking {
    fn drop(&mut self) {
        self.all.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What is to be done about messages of the worker now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// Receive what there is, and how to begin with that.
    Receive(First),
    /// The same, then come back after the other tasks.
    Again,
    /// The worker has ended: what it wrote is there, whether or not the runtime has heard of it.
    ToTheEnd,
}

impl Look {
    /// How to begin with a receive, when so many messages were taken.
    pub(super) fn first(self, taken: usize) -> First {
        match self {
            Self::Receive(first) if taken == 0 => first,
            Self::Receive(_) | Self::Again => First::WhenReady,
            Self::ToTheEnd => First::AtOnce,
        }
    }
}

impl Polling {
    pub(super) fn new(concurrency: usize) -> Self {
        let mut polling = Self::with(concurrency, *CORES, &LOOKING);
        polling.is_possible &= !clock::is_stopped();
        polling
    }

    fn with(concurrency: usize, cores: usize, all_looking: &'static AtomicUsize) -> Self {
        Self {
            cores,
            all_looking,
            is_possible: concurrency == 1,
            received: 0,
            looking: None,
            misses: 0,
            hits: 0,
            rest: 0,
            next_rest: FIRST_REST,
            last_received: None,
            late_calls: 0,
            worker_looks: false,
        }
    }

    /// A call was sent; so many answers are due now. Gives the worker's new budget when that changes.
    #[must_use]
    pub(super) fn on_sent(&mut self, due: usize, now: Instant) -> Option<Duration> {
        if !self.is_possible {
            return None;
        }
        self.looking = None;
        let is_late = self.last_received.is_some_and(|last| now.duration_since(last) > BUDGET);
        self.late_calls = if is_late { self.late_calls.saturating_add(1) } else { 0 };
        if self.rest > 0 {
            self.rest -= 1;
        } else if due <= MOST_DUE {
            self.looking = Looking::begin(now, self.all_looking, (self.cores / 2).max(1));
        }
        let worker_looks = self.looking.is_some() && self.late_calls < 2 && self.cores > 1;
        let is_new = std::mem::replace(&mut self.worker_looks, worker_looks) != worker_looks;
        is_new.then_some(if worker_looks { BUDGET } else { Duration::ZERO })
    }

    /// A message was received.
    pub(super) fn on_received(&mut self, now: Instant) {
        self.received += 1;
        self.last_received = Some(now);
        if let Some(looking) = self.looking.take() {
            let (late, enough) = if self.cores == 1 { (LATE - BUDGET, HITS_OF_WAITS) } else { (Duration::ZERO, 1) };
            if now <= looking.until + late {
                self.hits += 1;
                if self.hits >= enough {
                    self.misses = 0;
                    self.next_rest = FIRST_REST;
                }
            } else {
                self.missed();
            }
        }
    }

    /// Looks whether a message has come; the worker says that it has sent so many.
    pub(super) fn look(&mut self, worker_sent: u64, now: impl FnOnce() -> Instant) -> Look {
        let Some(looking) = &self.looking else { return Look::Receive(First::WhenReady) };
        if worker_sent > self.received {
            return Look::Receive(First::AtOnce);
        }
        if now() > looking.until {
            self.looking = None;
            self.missed();
            return Look::Receive(First::WhenReady);
        }
        if self.cores == 1 { Look::Receive(First::Waiting) } else { Look::Again }
    }

    /// The thread has waited for a message, and none came: one such wait is all that a call gets.
    pub(super) fn waited_in_vain(&mut self) {
        if self.looking.take().is_some() {
            self.missed();
        }
    }

    fn missed(&mut self) {
        self.hits = 0;
        self.misses += 1;
        if self.misses == 2 {
            self.misses = 0;
            self.rest = self.next_rest;
            self.next_rest = (self.next_rest * 2).min(LONGEST_REST);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Desk {
        polling: Polling,
        now: Instant,
        sent: u64,
    }

    impl Desk {
        fn new(cores: usize) -> Self {
            let all = Box::leak(Box::new(AtomicUsize::new(0)));
            Self { polling: Polling::with(1, cores, all), now: Instant::now(), sent: 0 }
        }

        fn send(&mut self) -> Option<Duration> {
            self.polling.on_sent(1, self.now)
        }

        fn look(&mut self) -> Look {
            let now = self.now;
            self.polling.look(self.sent, || now)
        }

        /// A call whose answer comes after so long.
        fn call(&mut self, takes: Duration) {
            let _budget = self.send();
            self.now += takes;
            if takes > BUDGET {
                assert_eq!(self.look(), Look::Receive(First::WhenReady));
            }
            self.sent += 1;
            self.polling.on_received(self.now);
        }
    }

    const SHORT: Duration = Duration::from_micros(10);
    const LONG: Duration = Duration::from_millis(3);

    #[test]
    fn after_a_call_was_sent_it_looks_until_the_answer_is_there() {
        let mut desk = Desk::new(2);
        assert_eq!(desk.look(), Look::Receive(First::WhenReady), "nothing is due");
        assert_eq!(desk.send(), Some(BUDGET));
        assert_eq!(desk.look(), Look::Again);
        desk.sent = 1;
        assert_eq!(desk.look(), Look::Receive(First::AtOnce));
        desk.polling.on_received(desk.now);
        assert_eq!(desk.look(), Look::Receive(First::WhenReady));
        assert_eq!(desk.send(), None, "the worker knows");
    }

    #[test]
    fn what_an_ended_worker_wrote_is_received_without_waiting_to_hear_of_it() {
        let firsts = |look: Look| [look.first(0), look.first(1)];
        assert_eq!(firsts(Look::ToTheEnd), [First::AtOnce, First::AtOnce]);
        assert_eq!(firsts(Look::Again), [First::WhenReady, First::WhenReady]);
        assert_eq!(firsts(Look::Receive(First::AtOnce)), [First::AtOnce, First::WhenReady]);
    }

    #[test]
    fn with_one_core_it_waits_in_the_kernel_and_the_worker_never_looks() {
        let mut desk = Desk::new(1);
        assert_eq!(desk.send(), None);
        assert_eq!(desk.look(), Look::Receive(First::Waiting));
        desk.now += BUDGET * 2;
        assert_eq!(desk.look(), Look::Receive(First::WhenReady));
    }

    #[test]
    fn two_misses_rest_the_looks_for_longer_each_time() {
        let mut desk = Desk::new(2);
        for rest in [FIRST_REST, 2 * FIRST_REST, 4 * FIRST_REST] {
            desk.call(LONG);
            desk.call(LONG);
            for _ in 0..rest {
                let _budget = desk.send();
                assert_eq!(desk.look(), Look::Receive(First::WhenReady));
                desk.sent += 1;
                desk.polling.on_received(desk.now);
            }
            let _budget = desk.send();
            assert_eq!(desk.look(), Look::Again, "after {rest} calls it tries again");
            desk.sent += 1;
            desk.now += BUDGET * 2;
            desk.polling.on_received(desk.now);
            desk.polling.misses = 0;
        }
    }

    #[test]
    fn an_answer_that_came_too_late_is_a_miss_though_it_was_waited_for() {
        let mut desk = Desk::new(1);
        for _ in 0..2 {
            let _budget = desk.send();
            assert_eq!(desk.look(), Look::Receive(First::Waiting));
            desk.now += LONG;
            desk.sent += 1;
            desk.polling.on_received(desk.now);
        }
        let _budget = desk.send();
        assert_eq!(desk.look(), Look::Receive(First::WhenReady));
    }

    #[test]
    fn hits_in_a_row_forget_the_misses() {
        let mut desk = Desk::new(2);
        for _ in 0..3 {
            desk.call(LONG);
            desk.call(SHORT);
        }
        let _budget = desk.send();
        assert_eq!(desk.look(), Look::Again);
        let mut desk = Desk::new(1);
        for _ in 0..3 {
            desk.call(LONG);
            (0..HITS_OF_WAITS).for_each(|_| desk.call(SHORT));
        }
        let _budget = desk.send();
        assert_eq!(desk.look(), Look::Receive(First::Waiting));
    }

    #[test]
    fn an_answer_that_is_a_little_late_is_no_miss_of_a_wait() {
        let mut desk = Desk::new(1);
        for _ in 0..3 {
            let _budget = desk.send();
            assert_eq!(desk.look(), Look::Receive(First::Waiting));
            desk.now += LATE;
            desk.sent += 1;
            desk.polling.on_received(desk.now);
        }
        let _budget = desk.send();
        assert_eq!(desk.look(), Look::Receive(First::Waiting));
    }

    #[test]
    fn calls_that_are_now_short_now_long_are_not_looked_for() {
        let mut desk = Desk::new(1);
        for takes in [LONG, SHORT, LONG] {
            desk.call(takes);
        }
        let _budget = desk.send();
        assert_eq!(desk.look(), Look::Receive(First::WhenReady));
    }

    #[test]
    fn a_worker_whose_calls_come_seldom_does_not_look_for_them() {
        let mut desk = Desk::new(2);
        assert_eq!(desk.send(), Some(BUDGET));
        for expected in [None, Some(Duration::ZERO), None] {
            desk.sent += 1;
            desk.polling.on_received(desk.now);
            desk.now += LONG;
            assert_eq!(desk.send(), expected);
            assert_eq!(desk.look(), Look::Again, "the host does, since the answers come soon");
        }
    }

    #[test]
    fn no_more_are_looked_at_than_half_the_cores_and_none_with_many_calls_due() {
        let all = Box::leak(Box::new(AtomicUsize::new(0)));
        let (mut one, mut other) = (Polling::with(1, 2, all), Polling::with(1, 2, all));
        let now = Instant::now();
        assert_eq!(one.on_sent(1, now), Some(BUDGET));
        assert_eq!(other.on_sent(1, now), None);
        assert_eq!(other.look(0, || now), Look::Receive(First::WhenReady));
        assert_eq!(one.on_sent(3, now), Some(Duration::ZERO));
        assert_eq!(other.on_sent(1, now), Some(BUDGET));
        drop((one, other));
        assert_eq!(all.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn one_that_was_waited_for_in_vain_does_not_keep_others_from_being_looked_at() {
        let all = Box::leak(Box::new(AtomicUsize::new(0)));
        let (mut one, mut other) = (Polling::with(1, 1, all), Polling::with(1, 1, all));
        let now = Instant::now();
        let _budget = one.on_sent(1, now);
        assert_eq!(one.look(0, || now), Look::Receive(First::Waiting));
        one.waited_in_vain();
        let _budget = other.on_sent(1, now);
        assert_eq!(other.look(0, || now), Look::Receive(First::Waiting));
    }

    #[test]
    fn a_worker_with_threads_is_never_looked_at() {
        let all = Box::leak(Box::new(AtomicUsize::new(0)));
        let mut polling = Polling::with(4, 8, all);
        assert_eq!(polling.on_sent(1, Instant::now()), None);
        assert_eq!(polling.look(9, Instant::now), Look::Receive(First::WhenReady));
    }
}
