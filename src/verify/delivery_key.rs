//! Where the body contains the sender's own key of a delivery.
//!
//! The key is read from the verified bytes and never by Content-Type. No sender signs that header,
//! so an attacker could replay a captured request under another type, and it would look new.

use std::borrow::Cow;

use serde_json::value::RawValue;

use super::json_body::{self, RawObject};
use super::proof::Reason;
use crate::domain::job_plan::{KeyHash, hash_key};

/// Where the body contains the sender's key of a delivery.
#[derive(Clone, Copy, Debug)]
pub(super) enum DeliveryKeyLocation {
    /// The key is the bytes of the body.
    Body,
    /// The key is a field at the top of a JSON object. If the field is missing, it is the bytes of
    /// the body.
    Field(&'static str),
    /// Like `Field`, for a signature over the URL directly followed by the body. Such a sender
    /// sends JSON only. Other bodies are rejected, because an attacker could move their beginning
    /// into the query.
    FieldBehindUrl(&'static str),
    /// The sender's file has a function that reads it from a body that is not empty.
    Custom(fn(&[u8]) -> Result<Option<KeyHash>, Reason>),
}

pub(super) const NOT_JSON: &str = "body is not JSON: this sender signs JSON only";

impl DeliveryKeyLocation {
    /// Reads the key. It is `None` if the sender makes nothing unique, and for an empty body:
    /// otherwise the next empty body would count as a duplicate.
    ///
    /// # Errors
    /// This sender never sends such a body.
    pub fn read_key(self, body: &[u8]) -> Result<Option<KeyHash>, Reason> {
        if body.is_empty() {
            return Ok(None);
        }
        let field = |name| -> serde_json::Result<Option<Cow<'_, str>>> {
            let object: RawObject<'_> = json_body::parse(body)?;
            Ok(object.get(name).and_then(key_text))
        };
        let id = match self {
            Self::Body => None,
            Self::Field(name) => field(name).ok().flatten(),
            Self::FieldBehindUrl(name) => field(name).map_err(|_| NOT_JSON)?,
            Self::Custom(read) => return read(body),
        };
        Ok(Some(id.map_or_else(|| body_key(body), |id| id_key(&id))))
    }
}

/// The key of a body with an id.
pub(super) fn id_key(id: &str) -> KeyHash {
    hash_key(b'j', &[id.as_bytes()])
}

/// The key of a body without an id: its bytes.
pub(super) fn body_key(body: &[u8]) -> KeyHash {
    hash_key(b'b', &[body])
}

/// Returns a text that is not empty, or a number with its digits unchanged. Null and false give
/// `None`.
pub(super) fn key_text(value: &RawValue) -> Option<Cow<'_, str>> {
    let raw = value.get();
    match raw.as_bytes().first()? {
        b'"' => {
            let text: String = serde_json::from_str(raw).ok()?;
            (!text.is_empty()).then_some(Cow::Owned(text))
        }
        b'-' | b'0'..=b'9' => Some(Cow::Borrowed(raw)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(location: DeliveryKeyLocation, body: &str) -> Option<KeyHash> {
        location.read_key(body.as_bytes()).unwrap()
    }

    #[test]
    fn a_field_is_the_key_and_without_it_the_bytes_are() {
        let id = DeliveryKeyLocation::Field("id");
        let first = read(id, r#"{"id":"evt_1","n":1}"#);
        assert_eq!(read(id, r#"{"n":2,"\u0069d":"evt_1"}"#), first);
        assert_ne!(read(id, r#"{"id":"evt_2"}"#), first);
        assert_eq!(read(id, r#"{"id":12}"#), read(id, r#"{"id":"12"}"#));
        let nested = format!(r#"{{"id":"evt_1","x":{}{}}}"#, "[".repeat(9000), "]".repeat(9000));
        assert_eq!(read(id, &nested), first);
        assert_eq!(read(id, "\u{feff}{\"id\":\"evt_1\"}"), first);
        for body in [r#"{"id":""}"#, r#"{"id":null}"#, r#"{"id":{"a":1}}"#, "[]", "id=evt_1", "x"] {
            assert_eq!(read(id, body), Some(hash_key(b'b', &[body.as_bytes()])), "{body}");
        }
    }

    #[test]
    fn a_body_signed_directly_after_the_url_has_to_be_json() {
        let location = DeliveryKeyLocation::FieldBehindUrl("event_id");
        for body in ["x", "\"event_id\":1}", "[{\"a\":1}]x", "12"] {
            assert_eq!(location.read_key(body.as_bytes()), Err(NOT_JSON.into()), "{body}");
        }
        assert_eq!(read(location, ""), None);
    }
}
