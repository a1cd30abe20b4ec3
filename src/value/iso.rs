//! Dates and times as text, as `isoformat()` and `str()` write them.

use chrono::{DateTime, FixedOffset, NaiveDateTime, NaiveTime, TimeDelta};

pub(crate) fn date_time(value: &NaiveDateTime) -> String {
    value.format("%Y-%m-%dT%H:%M:%S%.f").to_string()
}

pub(crate) fn date_time_tz(value: &DateTime<FixedOffset>) -> String {
    let offset = if value.offset().local_minus_utc() % 60 == 0 { "%:z" } else { "%::z" };
    value.format(&format!("%Y-%m-%dT%H:%M:%S%.f{offset}")).to_string()
}

pub(crate) fn time(value: &NaiveTime) -> String {
    value.format("%H:%M:%S%.f").to_string()
}

/// Days, seconds of the day and microseconds, as Python normalises them.
pub(crate) fn delta_parts(value: &TimeDelta) -> (i64, i64, i64) {
    const DAY: i64 = 86_400;
    // Both are truncated towards zero and have the same sign.
    let (mut seconds, mut micros) = (value.num_seconds(), i64::from(value.subsec_nanos()) / 1_000);
    if micros < 0 {
        seconds -= 1;
        micros += 1_000_000;
    }
    (seconds.div_euclid(DAY), seconds.rem_euclid(DAY), micros)
}

pub(crate) fn delta(value: &TimeDelta) -> String {
    let (days, seconds, micros) = delta_parts(value);
    let plural = if days.abs() == 1 { "" } else { "s" };
    let days = if days == 0 { String::new() } else { format!("{days} day{plural}, ") };
    let micros = if micros == 0 { String::new() } else { format!(".{micros:06}") };
    format!("{days}{}:{:02}:{:02}{micros}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_negative_duration_has_negative_days_and_positive_rest() {
        assert_eq!(delta(&TimeDelta::microseconds(-1)), "-1 day, 23:59:59.999999");
        assert_eq!(delta(&TimeDelta::seconds(2 * 86_400 + 3661)), "2 days, 1:01:01");
    }
}
