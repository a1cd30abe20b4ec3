//! The moments that a pool waits for.

use super::worker::Place;
use crate::id::CallId;
use std::collections::BTreeSet;
use std::time::Instant;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// A call's wait is over: its deadline or its queue timeout, whichever is first.
    Wait(CallId),
    Untaint(Place),
    StartTimeout(Place),
    /// A worker has reached its age.
    Age(Place),
    RetireGrace(Place),
    /// A worker that was told to exit has not.
    Linger(Place),
    BackOff(u32),
    DegradedTry,
    ShutdownGrace,
}

#[derive(Debug, Default)]
pub(super) struct Timers(BTreeSet<(Instant, Timer)>);

impl Timers {
    pub(super) fn set(&mut self, at: Instant, timer: Timer) {
        self.0.insert((at, timer));
    }

    pub(super) fn unset(&mut self, at: Instant, timer: Timer) {
        self.0.remove(&(at, timer));
    }

    /// The worker is gone, and nothing of it is waited for.
    pub(super) fn forget(&mut self, place: Place) {
        self.0.retain(|(_, timer)| match timer {
            Timer::Untaint(of)
            | Timer::StartTimeout(of)
            | Timer::Age(of)
            | Timer::RetireGrace(of)
            | Timer::Linger(of) => *of != place,
            Timer::Wait(_) | Timer::BackOff(_) | Timer::DegradedTry | Timer::ShutdownGrace => true,
        });
    }

    #[cfg(test)]
    pub(super) fn iter(&self) -> impl Iterator<Item = (Instant, Timer)> {
        self.0.iter().copied()
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.0.first().map(|(at, _)| *at)
    }

    pub(super) fn pop_due(&mut self, now: Instant) -> Option<Timer> {
        let (at, _) = self.0.first()?;
        if *at > now {
            return None;
        }
        self.0.pop_first().map(|(_, timer)| timer)
    }
}
