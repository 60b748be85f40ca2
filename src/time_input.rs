//! Times as people write them: on the command line, in filters of the console and in requests to the API.

use jiff::civil::{Date, DateTime, Time};
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp, Zoned};

use crate::clock;

/// Parses a date, a time, or a duration before now. Returns Unix milliseconds.
///
/// # Errors
/// What is expected.
pub fn parse_time(text: &str) -> Result<i64, String> {
    let error = || {
        "expected a time such as 2026-11-23, \"2026-11-23 10:00\", 10:00, yesterday, 2h or \
         \"10 minutes ago\""
            .to_owned()
    };
    let now = Timestamp::from_millisecond(clock::wall_ms()).map_err(|_| error())?;
    parse_time_at(text.trim(), &now.to_zoned(TimeZone::system())).ok_or_else(error)
}

fn parse_time_at(text: &str, now: &Zoned) -> Option<i64> {
    if let Ok(at) = text.parse::<Timestamp>() {
        return Some(at.as_millisecond());
    }
    let today = now.date();
    let civil = match text {
        "now" => return Some(now.timestamp().as_millisecond()),
        "today" => Ok(DateTime::from(today)),
        "yesterday" => today.yesterday().map(DateTime::from),
        _ => text
            .parse::<DateTime>()
            .or_else(|_| text.parse::<Date>().map(DateTime::from))
            .or_else(|error| match text.contains(':') {
                true => text.parse::<Time>().map(|time| today.to_datetime(time)),
                // A bare number is neither a time nor a duration.
                false => Err(error),
            }),
    };
    if let Ok(at) = civil {
        let at = at.to_zoned(now.time_zone().clone()).ok()?;
        return Some(at.timestamp().as_millisecond());
    }
    // `2h` and `2h ago` mean the same: a time that lies before now.
    let span = text.parse::<Span>().ok()?.abs();
    Some(now.checked_sub(span).ok()?.timestamp().as_millisecond())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_a_date_a_time_or_a_duration_before_now() {
        let now: Zoned = "2026-11-18T12:00:00+01:00[Europe/Vienna]".parse().unwrap();
        for (text, expected) in [
            ("2026-11-18T11:06:40.123Z", "2026-11-18T11:06:40.123Z"),
            ("2026-11-17", "2026-11-16T23:00:00Z"),
            ("2026-11-17 10:00", "2026-11-17T09:00:00Z"),
            ("10:00", "2026-11-18T09:00:00Z"),
            ("today", "2026-11-17T23:00:00Z"),
            ("yesterday", "2026-11-16T23:00:00Z"),
            ("2h", "2026-11-18T09:00:00Z"),
            ("1h 30m", "2026-11-18T09:30:00Z"),
            ("10 minutes ago", "2026-11-18T10:50:00Z"),
            ("3d", "2026-11-15T11:00:00Z"),
        ] {
            let expected: Timestamp = expected.parse().unwrap();
            assert_eq!(parse_time_at(text, &now), Some(expected.as_millisecond()), "{text}");
        }
        for text in ["", "soon", "2", "10", "25:00", "2026-13-01"] {
            assert_eq!(parse_time_at(text, &now), None, "{text}");
        }
    }
}
