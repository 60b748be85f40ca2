//! The selectors that `list`, `retry` and `cancel` share, joined by "and".

use clap::Args;
use jiff::Timestamp;
use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;

use crate::clock;
use crate::config::parse_duration;
use crate::domain::JobState;
use crate::store::queries::Selector;

/// Which jobs are meant.
#[derive(Debug, Args)]
pub struct SelectArgs {
    /// Of this event
    #[arg(long, value_name = "EVENT")]
    event: Option<i64>,
    /// Of this handler
    #[arg(long, value_name = "NAME")]
    handler: Option<String>,
    /// Of this source
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// Received at or after: 2026-11-23, "2026-11-23 10:00" (local), 2026-11-23T10:00:00Z, or 2h ago
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    since: Option<i64>,
    /// Received before
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    until: Option<i64>,
    /// queued, running, succeeded, dead or cancelled
    #[arg(long, value_name = "STATE", value_parser = state)]
    state: Option<JobState>,
    /// This text is in the detail of the last attempt, or in the reason
    #[arg(long, value_name = "TEXT")]
    detail: Option<String>,
}

impl SelectArgs {
    /// Whether nothing was selected.
    pub fn is_empty(&self) -> bool {
        self.event.is_none()
            && self.handler.is_none()
            && self.source.is_none()
            && self.since.is_none()
            && self.until.is_none()
            && self.state.is_none()
            && self.detail.is_none()
    }

    /// As the store takes it, with the jobs that were named.
    pub fn selector(&self, jobs: &[i64]) -> Selector {
        Selector {
            jobs: jobs.to_vec(),
            events: Vec::new(),
            event: self.event,
            handler: self.handler.clone(),
            source: self.source.clone(),
            since_ms: self.since,
            until_ms: self.until,
            state: self.state,
            detail: self.detail.clone(),
        }
    }

    /// The names that were given, to be looked for.
    pub fn names(&self) -> (Option<&str>, Option<&str>) {
        (self.handler.as_deref(), self.source.as_deref())
    }

    /// The event that was given.
    pub fn event(&self) -> Option<i64> {
        self.event
    }
}

fn state(text: &str) -> Result<JobState, String> {
    let found = JobState::ALL.into_iter().find(|state| state.name() == text);
    found.ok_or_else(|| "expected queued, running, succeeded, dead or cancelled".to_owned())
}

/// A moment on the wall clock: a date or time, or so long ago.
fn parse_time(text: &str) -> Result<i64, String> {
    let text = text.trim();
    if let Ok(at) = text.parse::<Timestamp>() {
        return Ok(at.as_millisecond());
    }
    let local = |at: DateTime| at.to_zoned(TimeZone::system()).map(|at| at.timestamp());
    let civil = text.parse::<DateTime>().or_else(|_| text.parse::<Date>().map(DateTime::from));
    if let Ok(at) = civil
        && let Ok(at) = local(at)
    {
        return Ok(at.as_millisecond());
    }
    let ago = text.strip_suffix("ago").unwrap_or(text);
    match parse_duration(ago).and_then(|ago| i64::try_from(ago.as_millis()).ok()) {
        Some(ago) => Ok(clock::wall_ms() - ago),
        None => Err("expected a time such as 2026-11-23, \"2026-11-23 10:00\" or 2h".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_a_time_or_so_long_ago() {
        assert_eq!(parse_time("2026-11-18T11:06:40.123Z"), Ok(1_795_000_000_123));
        assert!(parse_time("2026-11-18").is_ok());
        assert!(parse_time("2026-11-18 10:00").is_ok());
        assert!(parse_time("2h").unwrap() <= clock::wall_ms() - 7_200_000);
        assert!(parse_time("yesterday").is_err());
    }
}
