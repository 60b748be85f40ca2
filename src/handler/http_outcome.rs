//! What an HTTP status says of an attempt, whoever answered: a URL or a CGI script.
//!
//! 2xx succeeded; 410 is dead at once; all others failed, redirects too, since a POST that is sent
//! elsewhere is not what was configured. 429 and 503 may say when to come again.

use std::time::Duration;

use super::detail_text;
use crate::clock;
use crate::domain::{AttemptResult, Outcome};

/// The head of an answer, as far as it decides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HttpOutcome {
    pub status: u16,
    pub retry_after: Option<Vec<u8>>,
    pub location: Option<Vec<u8>>,
    /// The moment of the answer by the clock of whoever gave it.
    pub date: Option<Vec<u8>>,
}

impl HttpOutcome {
    /// What it comes to; `said` is shown besides.
    pub fn ended(&self, said: &str, now_ms: i64) -> AttemptResult {
        let status = format!("status {}", self.status);
        let elsewhere = match (&self.location, self.status) {
            (Some(location), 300..=399) => {
                format!("not followed to {}", detail_text::one_line(location))
            }
            _ => String::new(),
        };
        let detail = detail_text::join(&[&status, &elsewhere, said]);
        let outcome = match self.status {
            200..=299 => Outcome::Succeeded,
            _ => Outcome::Failed,
        };
        let wait = self.wait(now_ms).filter(|_| matches!(self.status, 429 | 503));
        AttemptResult {
            is_permanent: self.status == 410,
            retry_after: wait,
            ..AttemptResult::new(outcome, detail)
        }
    }

    /// `Retry-After` (RFC 9110 section 10.2.3): seconds, or a date, which is read against the date
    /// of the answer, so that two clocks that differ make no difference.
    fn wait(&self, now_ms: i64) -> Option<Duration> {
        let text = text(self.retry_after.as_deref()?)?;
        if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
            // More than a number holds is a long wait too.
            return Some(Duration::from_secs(text.parse().unwrap_or(u64::MAX)));
        }
        let until = clock::http_date_ms(text)?;
        let date = self.date.as_deref().and_then(text_of_date);
        let ms = until.saturating_sub(date.unwrap_or(now_ms));
        Some(Duration::from_millis(u64::try_from(ms).unwrap_or(0)))
    }
}

fn text_of_date(date: &[u8]) -> Option<i64> {
    clock::http_date_ms(text(date)?)
}

fn text(value: &[u8]) -> Option<&str> {
    std::str::from_utf8(value).ok().map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: &str = "Sun, 06 Nov 1994 12:00:00 GMT";
    const NOON_MS: i64 = 784_123_200_000;

    fn answer(status: u16) -> HttpOutcome {
        HttpOutcome { status, ..HttpOutcome::default() }
    }

    #[test]
    fn a_status_is_an_outcome() {
        let check = |status: u16, expected: (Outcome, bool)| {
            let ended = answer(status).ended("so it said", 0);
            assert_eq!((ended.outcome, ended.is_permanent), expected, "{status}");
            assert_eq!(ended.detail, format!("status {status}: so it said"));
            assert_eq!(ended.retry_after, None);
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
    fn a_redirect_says_where_to() {
        let location = Some(b"https://example.com/\x1b[2J".to_vec());
        let ended = HttpOutcome { location: location.clone(), ..answer(302) }.ended("", 0);
        assert_eq!(ended.detail, "status 302: not followed to https://example.com/ [2J");
        assert_eq!(HttpOutcome { location, ..answer(201) }.ended("", 0).detail, "status 201");
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let check = |asked: &str, expected_ms: Option<u64>| {
            let retry_after = Some(asked.as_bytes().to_vec());
            let ended = HttpOutcome { retry_after, ..answer(503) }.ended("", NOON_MS);
            assert_eq!(ended.retry_after, expected_ms.map(Duration::from_millis), "{asked}");
        };
        check("120", Some(120_000));
        check(" 7 ", Some(7000));
        check("0", Some(0));
        check("Sun, 06 Nov 1994 12:01:30 GMT", Some(90_000));
        // The two obsolete forms, which are still to be understood.
        check("Sunday, 06-Nov-94 12:01:30 GMT", Some(90_000));
        check("Sun Nov  6 12:01:30 1994", Some(90_000));
        // What has passed is no wait.
        check("Sun, 06 Nov 1994 11:00:00 GMT", Some(0));
        for none in ["", "-1", "1.5", "soon", "10m", "Sun, 06 Nov 1994", "\u{661}"] {
            check(none, None);
        }
    }

    #[test]
    fn a_wait_is_finite_and_heard_with_429_and_503_alone() {
        let endless = || Some(b"99999999999999999999999".to_vec());
        for status in [429, 503] {
            let ended = HttpOutcome { retry_after: endless(), ..answer(status) }.ended("", 0);
            assert!(ended.retry_after.is_some_and(|wait| wait > Duration::from_secs(86_400)));
        }
        for status in [200, 302, 410, 500, 502] {
            let ended = HttpOutcome { retry_after: endless(), ..answer(status) }.ended("", 0);
            assert_eq!(ended.retry_after, None, "{status}");
        }
        assert_eq!(answer(503).ended("", 0).retry_after, None);
    }

    #[test]
    fn a_date_is_read_against_the_clock_of_who_gave_it() {
        let retry_after = Some(b"Sun, 06 Nov 1994 12:01:00 GMT".to_vec());
        let date = Some(NOON.as_bytes().to_vec());
        let ended = HttpOutcome { retry_after, date, ..answer(429) }.ended("", NOON_MS - 3_600_000);
        assert_eq!(ended.retry_after, Some(Duration::from_secs(60)));
    }
}
