//! Maps an HTTP status to the result of an attempt, for URL handlers and CGI scripts.
//!
//! 2xx succeeds. 410 makes the job dead at once. All other statuses fail. Redirects fail too,
//! because a POST to another URL is not what was configured. 429 and 503 may set the delay of the
//! retry.

use std::time::Duration;

use super::detail_text;
use crate::clock;
use crate::domain::{AttemptResult, Outcome};

/// The status and headers of a response that decide the result.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HttpOutcome {
    pub status: u16,
    pub retry_after: Option<Vec<u8>>,
    pub location: Option<Vec<u8>>,
    /// The `Date` header of the response.
    pub date: Option<Vec<u8>>,
}

impl HttpOutcome {
    /// Makes the result. `text` is appended to the detail.
    pub fn attempt_result(&self, text: &str, now_ms: i64) -> AttemptResult {
        let status = format!("status {}", self.status);
        let redirect = match (&self.location, self.status) {
            (Some(location), 300..=399) => {
                format!("not followed to {}", detail_text::one_line(location))
            }
            _ => String::new(),
        };
        let detail = detail_text::join(&[&status, &redirect, text]);
        let outcome = match self.status {
            200..=299 => Outcome::Succeeded,
            _ => Outcome::Failed,
        };
        let wait = self.retry_delay(now_ms).filter(|_| matches!(self.status, 429 | 503));
        AttemptResult {
            is_permanent: self.status == 410,
            retry_after: wait,
            ..AttemptResult::new(outcome, detail)
        }
    }

    /// Parses `Retry-After` (RFC 9110 section 10.2.3): seconds, or a date. A date is compared with
    /// the date of the response, so a difference between the two clocks does not matter.
    fn retry_delay(&self, now_ms: i64) -> Option<Duration> {
        let text = trimmed_text(self.retry_after.as_deref()?)?;
        if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
            // Too many digits mean a very long delay.
            return Some(Duration::from_secs(text.parse().unwrap_or(u64::MAX)));
        }
        let until = clock::http_date_ms(text)?;
        let date = self.date.as_deref().and_then(parse_date);
        let ms = until.saturating_sub(date.unwrap_or(now_ms));
        Some(Duration::from_millis(u64::try_from(ms).unwrap_or(0)))
    }
}

fn parse_date(date: &[u8]) -> Option<i64> {
    clock::http_date_ms(trimmed_text(date)?)
}

fn trimmed_text(value: &[u8]) -> Option<&str> {
    std::str::from_utf8(value).ok().map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: &str = "Sun, 06 Nov 1994 12:00:00 GMT";
    const NOON_MS: i64 = 784_123_200_000;

    fn response(status: u16) -> HttpOutcome {
        HttpOutcome { status, ..HttpOutcome::default() }
    }

    #[test]
    fn the_status_decides_the_outcome() {
        let check = |status: u16, expected: (Outcome, bool)| {
            let result = response(status).attempt_result("the body", 0);
            assert_eq!((result.outcome, result.is_permanent), expected, "{status}");
            assert_eq!(result.detail, format!("status {status}: the body"));
            assert_eq!(result.retry_after, None);
        };
        for status in [200, 201, 202, 204, 299] {
            check(status, (Outcome::Succeeded, false));
        }
        check(410, (Outcome::Failed, true));
        for status in [100, 101, 199, 300, 301, 302, 304, 307, 400, 404, 429, 500, 503, 599, 999] {
            check(status, (Outcome::Failed, false));
        }
    }

    #[test]
    fn a_redirect_shows_its_location() {
        let location = Some(b"https://example.com/\x1b[2J".to_vec());
        let result =
            HttpOutcome { location: location.clone(), ..response(302) }.attempt_result("", 0);
        assert_eq!(result.detail, "status 302: not followed to https://example.com/ [2J");
        assert_eq!(
            HttpOutcome { location, ..response(201) }.attempt_result("", 0).detail,
            "status 201"
        );
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let check = |value: &str, expected_ms: Option<u64>| {
            let retry_after = Some(value.as_bytes().to_vec());
            let result = HttpOutcome { retry_after, ..response(503) }.attempt_result("", NOON_MS);
            assert_eq!(result.retry_after, expected_ms.map(Duration::from_millis), "{value}");
        };
        check("120", Some(120_000));
        check(" 7 ", Some(7000));
        check("0", Some(0));
        check("Sun, 06 Nov 1994 12:01:30 GMT", Some(90_000));
        // The two obsolete date formats must be accepted too.
        check("Sunday, 06-Nov-94 12:01:30 GMT", Some(90_000));
        check("Sun Nov  6 12:01:30 1994", Some(90_000));
        // A date in the past means no delay.
        check("Sun, 06 Nov 1994 11:00:00 GMT", Some(0));
        for none in ["", "-1", "1.5", "soon", "10m", "Sun, 06 Nov 1994", "\u{661}"] {
            check(none, None);
        }
    }

    #[test]
    fn retry_after_is_finite_and_applies_to_429_and_503_only() {
        let endless = || Some(b"99999999999999999999999".to_vec());
        for status in [429, 503] {
            let result =
                HttpOutcome { retry_after: endless(), ..response(status) }.attempt_result("", 0);
            assert!(result.retry_after.is_some_and(|wait| wait > Duration::from_secs(86_400)));
        }
        for status in [200, 302, 410, 500, 502] {
            let result =
                HttpOutcome { retry_after: endless(), ..response(status) }.attempt_result("", 0);
            assert_eq!(result.retry_after, None, "{status}");
        }
        assert_eq!(response(503).attempt_result("", 0).retry_after, None);
    }

    #[test]
    fn a_retry_date_is_relative_to_the_date_of_the_response() {
        let retry_after = Some(b"Sun, 06 Nov 1994 12:01:00 GMT".to_vec());
        let date = Some(NOON.as_bytes().to_vec());
        let result = HttpOutcome { retry_after, date, ..response(429) }
            .attempt_result("", NOON_MS - 3_600_000);
        assert_eq!(result.retry_after, Some(Duration::from_secs(60)));
    }
}
