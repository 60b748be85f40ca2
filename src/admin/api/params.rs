//! The parameters of lists: which rows, how many, and where the page begins.

use std::fmt::Write;

use actix_web::HttpRequest;
use actix_web::web::Query;
use serde::de::Error;
use serde::{Deserialize, Deserializer};
use utoipa::openapi::schema::{AnyOfBuilder, Schema, SchemaFormat, Type};
use utoipa::openapi::{KnownFormat, ObjectBuilder, RefOr};
use utoipa::{IntoParams, PartialSchema, ToSchema};

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

/// The most characters of `text`, `detail` and `reason`.
pub const MAX_TEXT_CHARS: usize = 1000;

/// A list of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct List {
    /// A cursor holds for the list of this name.
    pub name: &'static str,
    pub path: &'static str,
    /// The fields of [`ListParams`] that apply to it.
    pub parameters: &'static [&'static str],
}

/// Every list that has parameters.
pub const LISTS: [List; 8] =
    [EVENTS, JOBS, OUTCOMES, REJECTIONS, FAILURES, HANDLERS, SOURCES, AUDIT_LOG];

pub const EVENTS: List = List {
    name: "events",
    path: "/api/v1/events",
    parameters: &[
        "limit", "cursor", "source", "handler", "state", "since", "until", "text", "detail",
        "failure",
    ],
};

pub const JOBS: List = List {
    name: "jobs",
    path: "/api/v1/jobs",
    parameters: &[
        "limit", "cursor", "source", "handler", "state", "since", "until", "text", "detail",
        "event", "failure",
    ],
};

pub const OUTCOMES: List = List {
    name: "outcomes",
    path: "/api/v1/outcomes",
    parameters: &["limit", "cursor", "source", "handler", "state", "event", "follow"],
};

pub const REJECTIONS: List = List {
    name: "rejections",
    path: "/api/v1/rejections",
    parameters: &["limit", "cursor", "source", "since", "until", "detail"],
};

pub const FAILURES: List = List {
    name: "failures",
    path: "/api/v1/failures",
    parameters: &["limit", "cursor", "handler"],
};

pub const HANDLERS: List =
    List { name: "handlers", path: "/api/v1/handlers", parameters: &["limit", "cursor"] };

pub const SOURCES: List =
    List { name: "sources", path: "/api/v1/sources", parameters: &["limit", "cursor"] };

pub const AUDIT_LOG: List =
    List { name: "audit", path: "/api/v1/audit", parameters: &["limit", "cursor"] };

/// The parameters of a list.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields, default)]
pub struct ListParams {
    /// The most rows of the page.
    #[param(value_type = i64, required = false, minimum = 1, maximum = 1000, default = 50)]
    pub limit: Option<i64>,
    /// `next` of the page before.
    #[param(value_type = String, required = false, min_length = 1)]
    pub cursor: Option<String>,
    /// The name of a source.
    #[param(value_type = String, required = false, min_length = 1)]
    pub source: Option<String>,
    /// The name of a handler. Events: those with a job for it.
    #[param(value_type = String, required = false, min_length = 1)]
    pub handler: Option<String>,
    /// The state of a job. Events: those with a job in it.
    #[param(inline, value_type = StateName, required = false)]
    pub state: Option<String>,
    /// What was received at or after this time. Rejections: those at or after this time.
    #[param(inline, value_type = TimeText, required = false)]
    pub since: Option<String>,
    /// What was received before this time.
    #[param(inline, value_type = TimeText, required = false)]
    pub until: Option<String>,
    /// Text that the body of the event contains. The case of ASCII letters does not matter. Of a body, the first 16 MiB
    /// are searched.
    #[param(value_type = String, required = false, min_length = 1, max_length = 1000)]
    pub text: Option<String>,
    /// Text that the last detail or the reason of a job, or the reason of a rejection, contains.
    #[param(value_type = String, required = false, min_length = 1, max_length = 1000)]
    pub detail: Option<String>,
    /// The number of an event.
    #[param(value_type = i64, required = false, minimum = 1)]
    #[serde(deserialize_with = "optional_number")]
    pub event: Option<i64>,
    /// The number of a group of failures.
    #[param(value_type = i64, required = false, minimum = 1)]
    pub failure: Option<i64>,
    /// `1` for a stream of new outcomes as server-sent events, to which `limit` and `cursor` do not apply.
    #[param(inline, value_type = FollowFlag, required = false)]
    pub follow: Option<String>,
}

/// How far a job is, as the views name it.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "snake_case")]
#[expect(dead_code, reason = "it only describes a parameter")]
pub enum StateName {
    Queued,
    Running,
    Succeeded,
    Dead,
    Cancelled,
}

/// Whether outcomes are followed.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "it only describes a parameter")]
pub enum FollowFlag {
    #[schema(rename = "0")]
    No,
    #[schema(rename = "1")]
    Yes,
}

/// A time with a zone, a date, or a duration before now.
#[derive(Debug)]
pub struct TimeText;

impl PartialSchema for TimeText {
    fn schema() -> RefOr<Schema> {
        let text = || ObjectBuilder::new().schema_type(Type::String);
        let format = |format| text().format(Some(SchemaFormat::KnownFormat(format)));
        AnyOfBuilder::new()
            .description(Some("`2026-11-23T10:00:00Z`, `2026-11-23`, or `2h` before now"))
            .item(format(KnownFormat::DateTime))
            .item(format(KnownFormat::Date))
            .item(text().pattern(Some("^[1-9][0-9]{0,3}(s|m|h|d|w)$")))
            .into()
    }
}

impl ToSchema for TimeText {}

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

/// Checks that the words of a query, once decoded, are text. Otherwise a filter would search for other text than
/// the client has sent.
fn check_encoding(query: &str) -> Result<(), Problem> {
    let is_text = |word: &str| percent_encoding::percent_decode_str(word).decode_utf8().is_ok();
    match query.split(['&', '=']).find(|word| !is_text(word)) {
        None => Ok(()),
        Some(word) => Err(Problem::bad_request(format!("the query has {word}: expected UTF-8"))),
    }
}

/// Rejects all parameters of a query, for a list that has none.
pub fn check_no_parameters(request: &HttpRequest) -> Result<(), Problem> {
    match request.query_string() {
        "" => Ok(()),
        query => Err(Problem::bad_request(format!(
            "the query is {query:?}: expected none: this list has no parameters"
        ))),
    }
}

/// Checks the length of a text to search for or to store.
pub fn check_text(name: &str, text: &str) -> Result<(), Problem> {
    match text.chars().count() {
        0 => Err(Problem::bad_request(format!("{name}: is empty: leave it out"))),
        count if count > MAX_TEXT_CHARS => Err(Problem::bad_request(format!(
            "{name}: has {count} characters: expected at most {MAX_TEXT_CHARS}"
        ))),
        _ => Ok(()),
    }
}

/// Checks that a time can be between `since` and `until`.
pub fn check_order(since_ms: Option<i64>, until_ms: Option<i64>) -> Result<(), Problem> {
    match (since_ms, until_ms) {
        (Some(since), Some(until)) if since >= until => {
            Err(Problem::bad_request("since: is not before `until`: nothing can match both"))
        }
        _ => Ok(()),
    }
}

/// Checks that the values of parameters which are numbers are some, because the parser's error does not name the
/// parameter.
fn check_digits(query: &str) -> Result<(), Problem> {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    for (name, value) in pairs.filter(|(name, _)| matches!(*name, "limit" | "event" | "failure")) {
        if !value.is_empty() && value.parse::<i64>().is_err() {
            let most = match name {
                "limit" => MAX_LIMIT,
                _ => i64::MAX,
            };
            return Err(Problem::bad_request(format!(
                "{name}: is {value:?}: expected a number from 1 to {most}"
            )));
        }
    }
    Ok(())
}

/// Checks the number of an event, a job or a group.
pub fn check_number(name: &str, number: Option<i64>) -> Result<(), Problem> {
    match number {
        Some(number) if number < 1 => {
            Err(Problem::bad_request(format!("{name}: is {number}: expected a number from 1")))
        }
        _ => Ok(()),
    }
}

impl ListParams {
    /// Reads the parameters of a request to the API. A parameter that does not apply to the list is an error: a client
    /// would otherwise take all rows for those that it asked for.
    ///
    /// # Errors
    /// A parameter is unknown, does not apply, is empty, or has another type.
    pub fn read(request: &HttpRequest, list: &List) -> Result<Self, Problem> {
        let query = request.query_string();
        check_encoding(query)?;
        check_digits(query)?;
        let params = Query::<Self>::from_query(query)
            .map_err(|error| Problem::malformed("the query", &error))?
            .into_inner();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            if !list.parameters.contains(&name) {
                return Err(Problem::bad_request(format!(
                    "{name}: does not apply to {}: expected {}",
                    list.name,
                    list.parameters.join(", ")
                )));
            }
            if value.is_empty() {
                return Err(Problem::bad_request(format!("{name}: is empty: leave it out")));
            }
        }
        check_number("event", params.event)?;
        check_number("failure", params.failure)?;
        Ok(params)
    }

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
        for (name, text) in [("text", &selector.text), ("detail", &selector.detail)] {
            text.as_ref().map_or(Ok(()), |text| check_text(name, text))?;
        }
        check_order(selector.since_ms, selector.until_ms)?;
        Ok(selector)
    }

    /// Whether a parameter selects rows.
    pub fn has_filter(&self) -> bool {
        self.texts().next().is_some() || self.event.or(self.failure).is_some()
    }

    /// Whether the page is the one with the newest rows.
    pub fn is_first_page(&self) -> bool {
        given(&self.cursor).is_none()
    }

    /// The parameters that are texts and select rows, with their names.
    fn texts(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let texts = [
            ("source", &self.source),
            ("handler", &self.handler),
            ("state", &self.state),
            ("since", &self.since),
            ("until", &self.until),
            ("text", &self.text),
            ("detail", &self.detail),
        ];
        let given = texts.into_iter().filter_map(|(name, text)| Some((name, text.as_deref()?)));
        given.filter(|(_, text)| !text.is_empty())
    }

    /// The URL of a page of the console with these filters.
    pub fn href(&self, path: &str, cursor: Option<&str>) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.extend_pairs(self.texts());
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
        for (name, text) in self.texts() {
            let _ = write!(filter, "\0{name}={text}");
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
        page.next.map(|position| self.cursor_at(list, position))
    }

    /// Returns the cursor of a position.
    pub fn cursor_at(&self, list: &str, position: i64) -> String {
        cursor::encode(&self.filter(list), position)
    }
}
