//! The selectors that `list`, `retry`, `replay` and `cancel` share. A job must match all of them.

use clap::Args;
use jiff::civil::{Date, DateTime, Time};
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp, Zoned};

use super::id_list::parse_id;
use super::{ExitError, usage_error};
use crate::clock;
use crate::domain::job::PublicState;
use crate::store::queries::Selector;

/// The selectors as options of a command.
#[derive(Debug, Args)]
pub struct SelectorArgs {
    /// Select by event
    #[arg(long, value_name = "EVENT", value_parser = parse_id, allow_negative_numbers = true)]
    event: Option<i64>,
    /// Select by handler
    #[arg(long, value_name = "NAME")]
    handler: Option<String>,
    /// Select by source
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// Select what was received at or after this time: 2026-11-23, "2026-11-23 10:00", 10:00 (today),
    /// yesterday (all in local time), 2026-11-23T10:00:00Z, 2h or "10 minutes ago"
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    since: Option<i64>,
    /// Select what was received before this time
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    until: Option<i64>,
    /// Select by job state: queued, running, succeeded, dead or cancelled
    #[arg(long, value_name = "STATE", value_parser = parse_state)]
    state: Option<PublicState>,
    /// Select jobs whose reason, or detail of the last attempt, contains this text
    #[arg(long, value_name = "TEXT")]
    detail: Option<String>,
}

impl SelectorArgs {
    /// Whether no selector is given.
    pub fn is_empty(&self) -> bool {
        self.given().is_empty()
    }

    /// The options that are given.
    pub fn given(&self) -> Vec<&'static str> {
        let options = [
            ("--event", self.event.is_some()),
            ("--handler", self.handler.is_some()),
            ("--source", self.source.is_some()),
            ("--since", self.since.is_some()),
            ("--until", self.until.is_some()),
            ("--state", self.state.is_some()),
            ("--detail", self.detail.is_some()),
        ];
        options.into_iter().filter(|(_, is_given)| *is_given).map(|(name, _)| name).collect()
    }

    /// The selector for the store.
    pub fn to_selector(&self) -> Selector {
        Selector {
            jobs: Vec::new(),
            event: self.event,
            handler: self.handler.clone(),
            source: self.source.clone(),
            since_ms: self.since,
            until_ms: self.until,
            state: self.state,
            detail: self.detail.clone(),
        }
    }

    /// Checks that `--since` is before `--until`.
    ///
    /// # Errors
    /// Exit code 2: no time is in between.
    pub fn check_times(&self) -> Result<(), ExitError> {
        match (self.since, self.until) {
            (Some(since), Some(until)) if since >= until => {
                let (since, until) = (clock::format_local(since), clock::format_local(until));
                Err(usage_error(format!(
                    "--since {since} is not before --until {until}: nothing can match both"
                )))
            }
            _ => Ok(()),
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

/// Parses the name of a job state.
pub fn parse_state(text: &str) -> Result<PublicState, String> {
    let found = PublicState::ALL.into_iter().find(|state| state.name() == text);
    found.ok_or_else(|| "expected queued, running, succeeded, dead or cancelled".to_owned())
}

/// Parses a date, a time, or a duration before now. Returns Unix milliseconds.
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
