//! The selectors that `list`, `retry`, `replay` and `cancel` share. A job must match all of them.

use clap::Args;
use jiff::Timestamp;
use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;

use crate::clock;
use crate::config::parse_duration;
use crate::domain::JobState;
use crate::store::queries::Selector;

/// The selectors as options of a command.
#[derive(Debug, Args)]
pub struct SelectorArgs {
    /// Select by event
    #[arg(long, value_name = "EVENT")]
    event: Option<i64>,
    /// Select by handler
    #[arg(long, value_name = "NAME")]
    handler: Option<String>,
    /// Select by source
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// Select what was received at or after this time: 2026-11-23, "2026-11-23 10:00" (local time),
    /// 2026-11-23T10:00:00Z, or 2h (two hours ago)
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    since: Option<i64>,
    /// Select what was received before this time
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    until: Option<i64>,
    /// Select by job state: queued, running, succeeded, dead or cancelled
    #[arg(long, value_name = "STATE", value_parser = parse_state)]
    state: Option<JobState>,
    /// Select jobs whose reason, or detail of the last attempt, contains this text
    #[arg(long, value_name = "TEXT")]
    detail: Option<String>,
}

impl SelectorArgs {
    /// Whether no selector is given.
    pub fn is_empty(&self) -> bool {
        self.event.is_none()
            && self.handler.is_none()
            && self.source.is_none()
            && self.since.is_none()
            && self.until.is_none()
            && self.state.is_none()
            && self.detail.is_none()
    }

    /// The selector for the store, with the given job numbers.
    pub fn to_selector(&self, jobs: &[i64]) -> Selector {
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

    pub fn handler(&self) -> Option<&str> {
        self.handler.as_deref()
    }

    pub fn source(&self) -> Option<&str> {
        self.source.as_deref()
    }

    pub fn event(&self) -> Option<i64> {
        self.event
    }
}

fn parse_state(text: &str) -> Result<JobState, String> {
    let found = JobState::ALL.into_iter().find(|state| state.name() == text);
    found.ok_or_else(|| "expected queued, running, succeeded, dead or cancelled".to_owned())
}

/// Parses a date, a time, or a duration before now. Returns Unix milliseconds.
fn parse_time(text: &str) -> Result<i64, String> {
    let text = text.trim();
    if let Ok(at) = text.parse::<Timestamp>() {
        return Ok(at.as_millisecond());
    }
    let to_timestamp = |at: DateTime| at.to_zoned(TimeZone::system()).map(|at| at.timestamp());
    let civil = text.parse::<DateTime>().or_else(|_| text.parse::<Date>().map(DateTime::from));
    if let Ok(at) = civil
        && let Ok(at) = to_timestamp(at)
    {
        return Ok(at.as_millisecond());
    }
    let duration = text.strip_suffix("ago").unwrap_or(text);
    match parse_duration(duration).and_then(|duration| i64::try_from(duration.as_millis()).ok()) {
        Some(ms) => Ok(clock::wall_ms() - ms),
        None => Err("expected a time such as 2026-11-23, \"2026-11-23 10:00\" or 2h".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_a_date_a_time_or_a_duration_before_now() {
        assert_eq!(parse_time("2026-11-18T11:06:40.123Z"), Ok(1_795_000_000_123));
        assert!(parse_time("2026-11-18").is_ok());
        assert!(parse_time("2026-11-18 10:00").is_ok());
        assert!(parse_time("2h").unwrap() <= clock::wall_ms() - 7_200_000);
        assert!(parse_time("yesterday").is_err());
    }
}
