//! Whether a worker still answers while no call runs in it.
//!
//! At each tick a worker that has not been heard of lately is sent a ping, which its loop answers. One that
//! leaves a ping unanswered until the next tick is *silent*; silent for three intervals it is to be killed.
//! A worker that sends anything else is heard as well, and so is one that gets on with letting go of objects:
//! what finalizers do may take long, and no ping is read meanwhile.
//!
//! While a call runs nothing is asked and nothing judged: Python may be anywhere, and how long a call may
//! take is not decided here. A tick that comes late judges nobody either: the host did not run, and the
//! worker may not have.
//!
//! The ticks of all workers of one interval fall on the same moments, so that the host wakes once.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// For so many intervals a worker is silent that has to die.
const MOST_MISSED: u32 = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "an action that is not carried out leaves somebody waiting"]
pub(crate) enum HeartAction {
    Ping,
    /// It has left one unanswered.
    Silent,
    /// It is heard again, or a call runs.
    Heard,
    /// Kill it: it was silent for as long.
    Kill {
        silent_for: Duration,
    },
}

/// An answer that nothing was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unasked;

#[derive(Debug)]
pub(crate) struct Heartbeat {
    interval: Duration,
    /// What the moments of the ticks are counted from.
    epoch: Instant,
    next_tick: Option<Instant>,
    heard_at: Instant,
    /// How many objects it had come to at the last look, of those to be let go.
    freed: u64,
    /// Since it was heard of.
    asked: Asked,
    /// Answers that are due, however late.
    unanswered: usize,
    actions: VecDeque<HeartAction>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    No,
    Yes,
    /// It had an interval to answer.
    InVain,
}

impl Heartbeat {
    /// Without an interval it never ticks.
    pub(crate) fn new(interval: Option<Duration>, epoch: Instant) -> Self {
        Self {
            interval: interval.unwrap_or_default(),
            epoch,
            next_tick: None,
            heard_at: epoch,
            freed: 0,
            asked: Asked::No,
            unanswered: 0,
            actions: VecDeque::new(),
        }
    }

    /// The worker takes calls, and answers from now on.
    pub(crate) fn start(&mut self, now: Instant) {
        self.heard_at = now;
        if !self.interval.is_zero() {
            self.next_tick = Some(tick_after(self.epoch, self.interval, now));
        }
    }

    /// It is to end, or has.
    pub(crate) fn stop(&mut self) {
        self.next_tick = None;
    }

    /// It has sent something.
    pub(crate) fn handle_heard(&mut self, now: Instant) {
        self.heard_at = now;
        if std::mem::replace(&mut self.asked, Asked::No) == Asked::InVain {
            self.actions.push_back(HeartAction::Heard);
        }
    }

    /// It has answered a ping.
    ///
    /// # Errors
    /// None was sent: kill the worker.
    pub(crate) fn handle_pong(&mut self) -> Result<(), Unasked> {
        self.unanswered = self.unanswered.checked_sub(1).ok_or(Unasked)?;
        Ok(())
    }

    /// Whether the moment of [`poll_timeout`](Self::poll_timeout) has come.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        self.poll_timeout().is_some_and(|at| at <= now)
    }

    /// It has come; `runs`: a call runs in the worker, `freed`: how many objects it has let go of.
    pub(crate) fn handle_timeout(&mut self, runs: bool, freed: u64, now: Instant) {
        let Some(due) = self.poll_timeout().filter(|at| *at <= now) else { return };
        let is_late = now.duration_since(due) >= self.interval / 2;
        let frees = std::mem::replace(&mut self.freed, freed) != freed;
        if runs || frees || is_late {
            self.handle_heard(now);
        }
        if self.dies_at().is_some_and(|at| at <= now) {
            self.stop();
            self.actions.push_back(HeartAction::Kill { silent_for: self.interval * MOST_MISSED });
            return;
        }
        if self.next_tick.is_some_and(|at| at <= now) {
            self.next_tick = Some(tick_after(self.epoch, self.interval, now));
            if !runs {
                self.ask(is_late, now);
            }
        }
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let tick = self.next_tick?;
        Some(self.dies_at().map_or(tick, |dies_at| dies_at.min(tick)))
    }

    pub(crate) fn poll_action(&mut self) -> Option<HeartAction> {
        self.actions.pop_front()
    }

    /// Whether an answer is due.
    pub(crate) fn is_waiting(&self) -> bool {
        self.unanswered > 0
    }

    fn ask(&mut self, is_late: bool, now: Instant) {
        self.asked = match self.asked {
            Asked::Yes => {
                self.actions.push_back(HeartAction::Silent);
                Asked::InVain
            }
            Asked::InVain => Asked::InVain,
            // An interval more is too long for one that stops right after it was heard of.
            Asked::No if !is_late && now.saturating_duration_since(self.heard_at) < self.interval / 4 => return,
            Asked::No => Asked::Yes,
        };
        self.unanswered += 1;
        self.actions.push_back(HeartAction::Ping);
    }

    fn dies_at(&self) -> Option<Instant> {
        (self.asked == Asked::InVain).then(|| self.heard_at + self.interval * MOST_MISSED)
    }
}

/// The first moment after `now` that lies whole steps after the epoch.
pub(super) fn tick_after(epoch: Instant, step: Duration, now: Instant) -> Instant {
    let past = now.saturating_duration_since(epoch).as_nanos() % step.as_nanos();
    now + step - Duration::from_nanos(u64::try_from(past).unwrap_or(u64::MAX))
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "any moment will do to count from")]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const EVERY: Duration = Duration::from_secs(2);

    /// A worker and its host, asked every 2 s.
    struct Desk {
        heart: Heartbeat,
        epoch: Instant,
        now: Instant,
        freed: u64,
    }

    impl Desk {
        fn new() -> Self {
            let epoch = Instant::now();
            let mut heart = Heartbeat::new(Some(EVERY), epoch);
            heart.start(epoch);
            Self { heart, epoch, now: epoch, freed: 0 }
        }

        fn said(&mut self) -> Vec<HeartAction> {
            std::iter::from_fn(|| self.heart.poll_action()).collect()
        }

        /// The next tick, and what it says, by milliseconds from the epoch.
        fn tick(&mut self, runs: bool) -> (u128, Vec<HeartAction>) {
            self.now = self.heart.poll_timeout().expect("it ticks");
            self.heart.handle_timeout(runs, self.freed, self.now);
            ((self.now - self.epoch).as_millis(), self.said())
        }

        fn pong(&mut self, after: Duration) {
            self.now += after;
            self.heart.handle_heard(self.now);
            self.heart.handle_pong().expect("it was asked");
        }
    }

    #[test]
    fn a_worker_that_answers_is_asked_once_in_an_interval_and_never_judged() {
        let mut desk = Desk::new();
        for beat in 1..100 {
            assert_eq!(desk.tick(false), (beat * 2_000, vec![HeartAction::Ping]));
            desk.pong(Duration::from_millis(3));
            assert_eq!(desk.said(), []);
        }
    }

    #[test]
    fn one_that_stops_at_any_moment_is_killed_when_it_has_been_silent_for_three_intervals() {
        for stopped_at in (1..2_000).step_by(7).map(Duration::from_millis) {
            let mut desk = Desk::new();
            assert_eq!(desk.tick(false).1, [HeartAction::Ping]);
            desk.pong(Duration::ZERO);
            // The last thing that it did was to send something.
            desk.now += stopped_at;
            desk.heart.handle_heard(desk.now);
            let stopped_at = desk.now;
            let mut said = Vec::new();
            while desk.heart.poll_timeout().is_some() {
                said.extend(desk.tick(false).1);
            }
            assert_eq!(said.pop(), Some(HeartAction::Kill { silent_for: EVERY * 3 }));
            assert_eq!(desk.now - stopped_at, EVERY * 3);
            let pings = said.iter().filter(|action| **action == HeartAction::Ping).count();
            assert!(pings >= 2 && said.contains(&HeartAction::Silent), "{said:?}");
        }
    }

    #[test]
    fn any_message_ends_a_silence() {
        let mut desk = Desk::new();
        assert_eq!(desk.tick(false), (2_000, vec![HeartAction::Ping]));
        assert_eq!(desk.tick(false), (4_000, vec![HeartAction::Silent, HeartAction::Ping]));
        desk.now += SECOND;
        desk.heart.handle_heard(desk.now);
        assert_eq!(desk.said(), [HeartAction::Heard]);
        assert_eq!(desk.tick(false), (6_000, vec![HeartAction::Ping]));
        assert_eq!(desk.tick(false), (8_000, vec![HeartAction::Silent, HeartAction::Ping]));
        assert_eq!(desk.tick(false), (10_000, vec![HeartAction::Ping]));
        assert_eq!(desk.tick(false), (11_000, vec![HeartAction::Kill { silent_for: EVERY * 3 }]));
    }

    #[test]
    fn while_a_call_runs_nothing_is_asked_and_when_it_ends_the_count_starts_anew() {
        let mut desk = Desk::new();
        assert_eq!(desk.tick(false).1, [HeartAction::Ping]);
        assert_eq!(desk.tick(false).1, [HeartAction::Silent, HeartAction::Ping]);
        assert_eq!(desk.tick(true), (6_000, vec![HeartAction::Heard]));
        for beat in 4..50 {
            assert_eq!(desk.tick(true), (beat * 2_000, vec![]));
        }
        assert_eq!(desk.tick(false), (100_000, vec![HeartAction::Ping]));
        assert_eq!(desk.tick(false), (102_000, vec![HeartAction::Silent, HeartAction::Ping]));
        assert_eq!(desk.tick(false), (104_000, vec![HeartAction::Kill { silent_for: EVERY * 3 }]));
    }

    #[test]
    fn one_that_gets_on_with_letting_go_of_objects_is_not_judged_and_one_that_is_stuck_in_that_is() {
        let mut desk = Desk::new();
        assert_eq!(desk.tick(false), (2_000, vec![HeartAction::Ping]));
        assert_eq!(desk.tick(false), (4_000, vec![HeartAction::Silent, HeartAction::Ping]));
        desk.freed += 1;
        assert_eq!(desk.tick(false), (6_000, vec![HeartAction::Heard]));
        for beat in 4..50 {
            desk.freed += 1;
            assert_eq!(desk.tick(false), (beat * 2_000, vec![]));
        }
        assert_eq!(desk.tick(false), (100_000, vec![HeartAction::Ping]));
        assert_eq!(desk.tick(false), (102_000, vec![HeartAction::Silent, HeartAction::Ping]));
        assert_eq!(desk.tick(false), (104_000, vec![HeartAction::Kill { silent_for: EVERY * 3 }]));
    }

    #[test]
    fn a_tick_that_comes_late_judges_nobody() {
        let mut desk = Desk::new();
        assert_eq!(desk.tick(false).1, [HeartAction::Ping]);
        assert_eq!(desk.tick(false).1, [HeartAction::Silent, HeartAction::Ping]);
        // The host stood still, and perhaps the whole machine.
        desk.now += 3_601 * SECOND;
        desk.heart.handle_timeout(false, 0, desk.now);
        assert_eq!(desk.said(), [HeartAction::Heard, HeartAction::Ping]);
        desk.pong(SECOND);
        for _ in 0..2 {
            desk.heart.handle_pong().expect("earlier ones are answered late");
        }
    }

    #[test]
    fn one_that_has_just_been_heard_of_is_not_asked() {
        let mut desk = Desk::new();
        desk.heart.handle_heard(desk.epoch + EVERY - Duration::from_millis(100));
        assert_eq!(desk.tick(false), (2_000, vec![]));
        assert!(!desk.heart.is_waiting());
        assert_eq!(desk.tick(false), (4_000, vec![HeartAction::Ping]));
        assert!(desk.heart.is_waiting());
    }

    #[test]
    fn an_answer_that_was_not_asked_for_is_told() {
        let mut desk = Desk::new();
        assert_eq!(desk.heart.handle_pong(), Err(Unasked));
        assert_eq!(desk.tick(false).1, [HeartAction::Ping]);
        assert_eq!(desk.heart.handle_pong(), Ok(()));
        assert_eq!(desk.heart.handle_pong(), Err(Unasked));
    }

    #[test]
    fn the_ticks_of_all_workers_coincide() {
        let epoch = Instant::now();
        let ticks = (0..50).map(|n| {
            let mut heart = Heartbeat::new(Some(EVERY), epoch);
            heart.start(epoch + Duration::from_millis(2_000 + n * 39));
            heart.poll_timeout().expect("it ticks")
        });
        assert!(ticks.eq((0..50).map(|_| epoch + EVERY * 2)));
    }

    #[test]
    fn without_an_interval_it_never_ticks() {
        let mut heart = Heartbeat::new(None, Instant::now());
        heart.start(Instant::now());
        assert_eq!(heart.poll_timeout(), None);
    }
}
