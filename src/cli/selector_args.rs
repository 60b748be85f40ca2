//! The selectors that `list`, `retry`, `replay` and `cancel` share. A job must match all of them.

use clap::Args;

use super::id_list::parse_id;
use super::{ExitError, usage_error};
use crate::clock;
use crate::domain::job::PublicState;
use crate::store::queries::Selector;
use crate::time_input::parse_time;

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
            event: self.event,
            handler: self.handler.clone(),
            source: self.source.clone(),
            since_ms: self.since,
            until_ms: self.until,
            state: self.state,
            detail: self.detail.clone(),
            ..Selector::default()
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
