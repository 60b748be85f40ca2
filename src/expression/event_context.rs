//! The event as an expression sees it: `.` is its body, the rest are variables.

use serde::{Deserialize, Serialize};

use super::protocol::serialize_bytes;
use crate::media_type::BodyFormat;

/// An event for expressions, borrowed from its owner.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct EventContext<'a> {
    #[serde(serialize_with = "serialize_bytes")]
    pub body: &'a [u8],
    #[serde(borrow)]
    pub content_type: Option<&'a str>,
    pub source: &'a str,
    /// Names in lower case, in their order. Values of a repeated one are joined with `", "`.
    #[serde(skip)]
    pub headers: &'a [(&'a str, &'a [u8])],
    /// The text after `?`, as sent.
    #[serde(borrow)]
    pub query: Option<&'a str>,
    pub path: &'a str,
    /// The path's named segments, decoded.
    #[serde(skip)]
    pub params: &'a [(String, String)],
    /// Empty if unknown: `$ip` is then null.
    pub ip: &'a str,
    /// The subject of the client certificate.
    #[serde(borrow)]
    pub client: Option<&'a str>,
    /// Wall clock, milliseconds since 1970 in UTC.
    pub received_at_ms: i64,
    /// `$event`: set in `transform`, else null.
    pub event_id: Option<i64>,
}

impl EventContext<'_> {
    /// How the body is read.
    pub(super) fn body_format(&self) -> BodyFormat {
        BodyFormat::from_content_type(self.content_type.unwrap_or_default().as_bytes())
    }
}
