//! The parameters of lists: which rows, how many, and where the page begins.

use std::fmt::Write;

use serde::de::Error;
use serde::{Deserialize, Deserializer};
use utoipa::IntoParams;

use crate::admin::cursor;
use crate::admin::problem::Problem;
use crate::domain::job::PublicState;
use crate::store::queries::Selector;
use crate::store::search::pages::{Page, PageRequest};
use crate::time_input::parse_time;

/// The rows of a page, without `limit`.
pub const DEFAULT_LIMIT: i64 = 50;

/// The most rows of a page.
pub const MAX_LIMIT: i64 = 1000;

/// The parameters of a list.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields, default)]
pub struct ListParams {
    /// The most rows of the page.
    #[param(minimum = 1, maximum = 1000, default = 50)]
    #[serde(deserialize_with = "optional_number")]
    pub limit: Option<i64>,
    /// `next` of the page before.
    pub cursor: Option<String>,
    /// The name of a source.
    pub source: Option<String>,
    /// The name of a handler. Events: those with a job for it.
    pub handler: Option<String>,
    /// The state of a job. Events: those with a job in it.
    #[param(pattern = "^(queued|running|succeeded|dead|cancelled)$")]
    pub state: Option<String>,
    /// What was received at or after this time: `2026-11-23T10:00:00Z`, `2026-11-23`, or `2h` before now.
    pub since: Option<String>,
    /// What was received before this time.
    pub until: Option<String>,
    /// Text that the body of the event contains. The case of ASCII letters does not matter.
    pub text: Option<String>,
    /// Text that the last detail or the reason of a job contains.
    pub detail: Option<String>,
    /// The number of an event.
    #[param(minimum = 1)]
    #[serde(deserialize_with = "optional_number")]
    pub event: Option<i64>,
    /// The number of a group of failures.
    #[param(minimum = 1)]
    #[serde(deserialize_with = "optional_number")]
    pub failure: Option<i64>,
    /// Outcomes: `1` for a stream of new ones as server-sent events.
    #[param(pattern = "^[01]$")]
    pub follow: Option<String>,
}

/// Removes empty values: forms send all of their fields.
fn given(text: &Option<String>) -> Option<String> {
    text.clone().filter(|text| !text.is_empty())
}

/// Reads a number. An empty value counts as none.
fn optional_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| {
        D::Error::custom(format!("{text:?}: expected a number up to 9223372036854775807"))
    })
}

/// Parses the name of a state.
pub fn parse_state(text: &str) -> Result<PublicState, Problem> {
    let found = PublicState::ALL.into_iter().find(|state| state.name() == text);
    found.ok_or_else(|| {
        Problem::bad_request(format!(
            "state: is {text:?}: expected queued, running, succeeded, dead or cancelled"
        ))
    })
}

/// Parses `since` or `until`.
pub fn parse_time_param(name: &str, text: &str) -> Result<i64, Problem> {
    parse_time(text)
        .map_err(|expected| Problem::bad_request(format!("{name}: is {text:?}: {expected}")))
}

impl ListParams {
    /// Returns the selector.
    ///
    /// # Errors
    /// A parameter is not valid.
    pub fn selector(&self) -> Result<Selector, Problem> {
        let time = |name: &str, text: &Option<String>| {
            given(text).map(|text| parse_time_param(name, &text)).transpose()
        };
        let selector = Selector {
            jobs: Vec::new(),
            event: self.event,
            handler: given(&self.handler),
            source: given(&self.source),
            since_ms: time("since", &self.since)?,
            until_ms: time("until", &self.until)?,
            state: given(&self.state).map(|state| parse_state(&state)).transpose()?,
            detail: given(&self.detail),
            text: given(&self.text),
            failure: self.failure,
        };
        match (selector.since_ms, selector.until_ms) {
            (Some(since), Some(until)) if since >= until => {
                Err(Problem::bad_request("since: is not before `until`: nothing can match both"))
            }
            _ => Ok(selector),
        }
    }

    /// Whether a parameter selects rows.
    pub fn has_filter(&self) -> bool {
        let Self { source, handler, state, since, until, text, detail, event, failure, .. } = self;
        [source, handler, state, since, until, text, detail]
            .into_iter()
            .any(|text| given(text).is_some())
            || event.or(*failure).is_some()
    }

    /// The URL of a page of the console with these filters.
    pub fn href(&self, path: &str, cursor: Option<&str>) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        let texts = [
            ("source", &self.source),
            ("handler", &self.handler),
            ("state", &self.state),
            ("since", &self.since),
            ("until", &self.until),
            ("text", &self.text),
            ("detail", &self.detail),
        ];
        for (name, text) in texts {
            if let Some(text) = given(text) {
                query.append_pair(name, &text);
            }
        }
        for (name, number) in [("failure", self.failure), ("limit", self.limit)] {
            if let Some(number) = number {
                query.append_pair(name, &number.to_string());
            }
        }
        if let Some(cursor) = cursor {
            query.append_pair("cursor", cursor);
        }
        match query.finish() {
            query if query.is_empty() => path.to_owned(),
            query => format!("{path}?{query}"),
        }
    }

    /// Whether a stream is asked for.
    ///
    /// # Errors
    /// `follow` has another value.
    pub fn is_following(&self) -> Result<bool, Problem> {
        match self.follow.as_deref() {
            None | Some("" | "0") => Ok(false),
            Some("1") => Ok(true),
            Some(other) => {
                Err(Problem::bad_request(format!("follow: is {other:?}: expected 0 or 1")))
            }
        }
    }

    /// The list with everything that selects its rows: a cursor holds for it alone. Times count as they are written,
    /// so that `since=2h` is the same filter on each page.
    fn filter(&self, list: &str) -> String {
        let mut filter = list.to_owned();
        let texts = [
            ("source", &self.source),
            ("handler", &self.handler),
            ("state", &self.state),
            ("since", &self.since),
            ("until", &self.until),
            ("text", &self.text),
            ("detail", &self.detail),
        ];
        for (name, text) in texts {
            if let Some(text) = given(text) {
                let _ = write!(filter, "\0{name}={text}");
            }
        }
        let _ = write!(filter, "\0{:?}\0{:?}", self.event, self.failure);
        filter
    }

    /// Returns which rows the page has.
    ///
    /// # Errors
    /// A parameter is not valid.
    pub fn page(&self, list: &str) -> Result<PageRequest, Problem> {
        let limit = self.limit.unwrap_or(DEFAULT_LIMIT);
        if !(1..=MAX_LIMIT).contains(&limit) {
            return Err(Problem::bad_request(format!(
                "limit: is {limit}: expected a number from 1 to {MAX_LIMIT}"
            )));
        }
        let cursor = given(&self.cursor);
        let before =
            cursor.map(|cursor| cursor::decode(&self.filter(list), &cursor)).transpose()?;
        Ok(PageRequest { before, limit })
    }

    /// Returns the cursor of the page after `page`.
    pub fn next(&self, list: &str, page: &Page) -> Option<String> {
        page.next.map(|position| cursor::encode(&self.filter(list), position))
    }
}
