//! Builds `.` from an event's body by its content type, and the variables.

use std::borrow::Cow;

use jaq_json::{Map, Val};

use super::{EventContext, form, json, multipart};
use crate::clock;
use crate::json::without_mark;
use crate::media_type::BodyFormat;

/// The body as a value. A byte order mark is skipped.
pub(super) fn body(event: &EventContext<'_>) -> Val {
    let body = without_mark(event.body);
    let value = match event.body_format() {
        BodyFormat::Json | BodyFormat::MaybeJson => match json::read(body) {
            Ok(value) => return value,
            Err(json::JsonError::TooDeep) => return Val::Null,
            Err(json::JsonError::Other(_)) => None,
        },
        BodyFormat::Form => form::read(body),
        BodyFormat::Multipart => multipart::read(event.content_type.unwrap_or_default(), body),
        BodyFormat::Text => None,
    };
    value.unwrap_or_else(|| match std::str::from_utf8(body) {
        Ok(text) if !text.is_empty() => Val::from(text.to_owned()),
        _ => Val::Null,
    })
}

/// The header lines of one name, joined.
pub(super) fn header(event: &EventContext<'_>, name: &str) -> Option<String> {
    let lines = event.headers.iter().filter(|(found, _)| *found == name);
    let values: Vec<Cow<'_, str>> =
        lines.map(|(_, value)| String::from_utf8_lossy(value)).collect();
    (!values.is_empty()).then(|| values.join(", "))
}

/// `$headers`.
pub(super) fn headers(event: &EventContext<'_>) -> Val {
    let mut all: Map<Val, String> = Map::default();
    for (name, value) in event.headers {
        let value = String::from_utf8_lossy(value);
        let joined = all.entry(Val::from((*name).to_owned()));
        let join = |all: &mut String| {
            all.push_str(", ");
            all.push_str(&value);
        };
        joined.and_modify(join).or_insert_with(|| value.clone().into_owned());
    }
    Val::obj(all.into_iter().map(|(name, value)| (name, Val::from(value))).collect())
}

/// `$query`, read as a form. With too many fields it is empty.
pub(super) fn query(event: &EventContext<'_>) -> Val {
    let value = form::read(event.query.unwrap_or_default().as_bytes());
    value.unwrap_or_else(|| Val::obj(Map::default()))
}

/// `$params`.
pub(super) fn params(event: &EventContext<'_>) -> Val {
    let all = event.params.iter();
    Val::obj(all.map(|(name, value)| (name.clone().into(), value.clone().into())).collect())
}

/// `$received_at`.
pub(super) fn received_at(event: &EventContext<'_>) -> String {
    clock::format_rfc3339(event.received_at_ms)
}
