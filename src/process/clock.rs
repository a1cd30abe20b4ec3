//! The clock that host and workers have in common.

use rustix::time::{ClockId, clock_gettime};
use std::time::{Duration, Instant};

/// A moment as `time.monotonic_ns()` tells it in Python, which reads the same clock; never 0.
pub(crate) fn monotonic_nanos(at: Instant) -> u64 {
    let clock = clock_gettime(ClockId::Monotonic);
    let now = Instant::now();
    let clock = Duration::new(clock.tv_sec.unsigned_abs(), clock.tv_nsec as u32);
    let at = match at.checked_duration_since(now) {
        Some(ahead) => clock.saturating_add(ahead),
        None => clock.saturating_sub(now - at),
    };
    u64::try_from(at.as_nanos()).unwrap_or(u64::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_keep_their_distance_on_the_common_clock() {
        let now = Instant::now();
        let second = Duration::from_secs(1);
        for (earlier, later) in [(now - second, now), (now, now + second)] {
            let apart = monotonic_nanos(later) - monotonic_nanos(earlier);
            assert!(apart.abs_diff(1_000_000_000) < 500_000_000, "{apart}");
        }
    }
}
