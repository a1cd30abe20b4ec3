//! Whether the thread that a bridge lives on runs when it should: it is asked to, with the ticks of the
//! heartbeats, and how late it comes is how long it did not run at least.

use super::heartbeat::tick_after;
use std::time::{Duration, Instant};

/// What a busy machine does to a thread that nobody blocks.
const USUAL: Duration = Duration::from_millis(250);

#[derive(Debug)]
pub(crate) struct Stalls {
    interval: Option<Duration>,
    epoch: Instant,
    next: Option<Instant>,
}

impl Stalls {
    /// Without an interval nothing is measured.
    pub(crate) fn new(interval: Option<Duration>, epoch: Instant, now: Instant) -> Self {
        Self { interval, epoch, next: interval.map(|interval| tick_after(epoch, interval, now)) }
    }

    /// For how long the thread did not run at least, if that is worth telling.
    #[must_use]
    pub(crate) fn handle_timeout(&mut self, now: Instant) -> Option<Duration> {
        let (interval, due) = self.interval.zip(self.next.filter(|due| *due <= now))?;
        self.next = Some(tick_after(self.epoch, interval, now));
        Some(now.duration_since(due)).filter(|late| *late > USUAL)
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.next
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "any moment will do to count from")]
mod tests {
    use super::*;

    #[test]
    fn a_tick_that_comes_more_than_a_quarter_of_a_second_late_is_told_once() {
        let (every, epoch) = (Duration::from_secs(2), Instant::now());
        let at = |millis| epoch + Duration::from_millis(millis);
        let mut stalls = Stalls::new(Some(every), epoch, at(100));
        assert_eq!(stalls.poll_timeout(), Some(at(2_000)));
        assert_eq!(stalls.handle_timeout(at(1_999)), None);
        assert_eq!(stalls.handle_timeout(at(2_250)), None);
        assert_eq!(stalls.poll_timeout(), Some(at(4_000)));
        assert_eq!(stalls.handle_timeout(at(4_251)), Some(Duration::from_millis(251)));
        assert_eq!(stalls.handle_timeout(at(4_251)), None);
        assert_eq!(stalls.handle_timeout(at(60_500)), Some(Duration::from_millis(54_500)));
        assert_eq!(stalls.poll_timeout(), Some(at(62_000)));
    }

    #[test]
    fn without_an_interval_nothing_is_measured() {
        let now = Instant::now();
        let mut stalls = Stalls::new(None, now, now);
        assert_eq!(stalls.poll_timeout(), None);
        assert_eq!(stalls.handle_timeout(now + Duration::from_secs(60)), None);
    }
}
