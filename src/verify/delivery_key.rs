//! Where the body contains the sender's own key of a delivery.
//!
//! The key is read from the verified bytes and never by Content-Type. No sender signs that header,
//! so an attacker could replay a captured request under another type, and it would look new.

use std::borrow::Cow;
use std::fmt;

use ring::digest::{Context, SHA256};
use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::paminga;
use crate::domain::job_plan::KeyHash;
use crate::json;
use crate::planner::hash_key;

/// Where the body contains the sender's key of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DeliveryKeyLocation {
    /// Not in the body.
    None,
    /// The key is the bytes of the body.
    Body,
    /// The key is a field at the top of a JSON object. If the field is missing, it is the bytes of
    /// the body.
    Field(&'static str),
    /// Like `Field`, for a signature over the URL directly followed by the body. Such a sender
    /// sends JSON only. Other bodies are rejected, because an attacker could move their beginning
    /// into the query.
    FieldBehindUrl(&'static str),
    /// Trello: `action.id` with `webhook.id`, because two webhooks may call one source.
    Action,
    /// HubSpot: the batch without `attemptNumber`, which each retry increases.
    Batch,
    Paminga,
}

const NOT_JSON: &str = "body is not JSON: this sender signs JSON only";

impl DeliveryKeyLocation {
    /// Reads the key. It is `None` if the sender makes nothing unique, and for an empty body:
    /// otherwise the next empty body would count as a duplicate.
    ///
    /// # Errors
    /// This sender never sends such a body.
    pub fn read_key(self, body: &[u8]) -> Result<Option<KeyHash>, String> {
        if body.is_empty() {
            return Ok(None);
        }
        let body_key = || hash_key(b'b', &[body]);
        let body = json::without_mark(body);
        let id_key = |id: &str| hash_key(b'j', &[id.as_bytes()]);
        let key = match self {
            Self::None => return Ok(None),
            Self::Paminga => return Ok(paminga::read_key(body)),
            Self::Body => None,
            Self::Field(name) => read_field(body, name).ok().flatten().map(|id| id_key(&id)),
            Self::FieldBehindUrl(name) => match read_field(body, name) {
                Ok(id) => id.map(|id| id_key(&id)),
                Err(_) => return Err(NOT_JSON.to_owned()),
            },
            Self::Action => read_action(body).map(|id| id_key(&id)),
            Self::Batch => match hash_batch(body) {
                Ok(key) => Some(key),
                Err(_) => return Err(NOT_JSON.to_owned()),
            },
        };
        Ok(Some(key.unwrap_or_else(body_key)))
    }
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

/// The name of a member, borrowed unless it contains escapes.
#[derive(Deserialize)]
struct MemberName<'a>(#[serde(borrow)] Cow<'a, str>);

/// Reads the named member of an object and skips the others.
struct MemberVisitor(&'static str);

impl<'de> Visitor<'de> for MemberVisitor {
    type Value = Option<&'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    /// If a member occurs twice, the last one counts, as in jq.
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut value = None;
        while let Some(MemberName(name)) = map.next_key()? {
            if name == self.0 {
                value = Some(map.next_value()?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(value)
    }
}

fn read_field(body: &[u8], name: &'static str) -> serde_json::Result<Option<String>> {
    let mut json = serde_json::Deserializer::from_slice(body);
    let value = json.deserialize_map(MemberVisitor(name))?;
    json.end()?;
    Ok(value.and_then(key_text).map(Cow::into_owned))
}

/// Returns the same text as `[.action.id, .webhook.id]` in jq.
fn read_action(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct TrelloBody<'a> {
        #[serde(borrow)]
        action: TrelloObject<'a>,
        #[serde(borrow)]
        webhook: Option<TrelloObject<'a>>,
    }
    #[derive(Deserialize)]
    struct TrelloObject<'a> {
        #[serde(borrow)]
        id: Option<&'a RawValue>,
    }
    let body: TrelloBody<'_> = serde_json::from_slice(body).ok()?;
    let action = key_text(body.action.id?)?;
    let webhook = body.webhook.and_then(|webhook| webhook.id).and_then(key_text);
    serde_json::to_string(&(action, webhook)).ok()
}

/// Hashes each member of each item except `attemptNumber`. Each text is preceded by its length, so
/// that two different batches never hash the same bytes.
struct BatchHasher<'d> {
    digest: &'d mut Context,
    is_item: bool,
}

const ATTEMPT_NUMBER: &str = "attemptNumber";

impl<'de> DeserializeSeed<'de> for BatchHasher<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        if self.is_item { from.deserialize_map(self) } else { from.deserialize_any(self) }
    }
}

impl<'de> Visitor<'de> for BatchHasher<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object, or a list of objects")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let digest = self.digest;
        while items
            .next_element_seed(BatchHasher { digest: &mut *digest, is_item: true })?
            .is_some()
        {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let digest = self.digest;
        let mut hash_text = |text: &str| {
            digest.update(&text.len().to_le_bytes());
            digest.update(text.as_bytes());
        };
        while let Some(MemberName(name)) = map.next_key()? {
            let value: &RawValue = map.next_value()?;
            if name != ATTEMPT_NUMBER {
                hash_text(&name);
                hash_text(value.get());
            }
        }
        // Marks the end of an item: no name has this length.
        digest.update(&usize::MAX.to_le_bytes());
        Ok(())
    }
}

fn hash_batch(body: &[u8]) -> serde_json::Result<KeyHash> {
    let mut digest = Context::new(&SHA256);
    let mut json = serde_json::Deserializer::from_slice(body);
    BatchHasher { digest: &mut digest, is_item: false }.deserialize(&mut json)?;
    json.end()?;
    Ok(hash_key(b'a', &[digest.finish().as_ref()]))
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
        for location in
            [DeliveryKeyLocation::FieldBehindUrl("event_id"), DeliveryKeyLocation::Batch]
        {
            for body in ["x", "\"event_id\":1}", "[{\"a\":1}]x", "12"] {
                assert_eq!(location.read_key(body.as_bytes()), Err(NOT_JSON.to_owned()), "{body}");
            }
            assert_eq!(read(location, ""), None);
        }
    }

    #[test]
    fn one_action_of_two_webhooks_has_two_keys() {
        let key = |body| read(DeliveryKeyLocation::Action, body);
        let first = key(r#"{"action":{"id":"a"},"webhook":{"id":"w"}}"#);
        assert_eq!(first, Some(hash_key(b'j', &[br#"["a","w"]"#])));
        assert_eq!(key(r#"{"webhook":{"id":"w","x":1},"action":{"id":"a"}}"#), first);
        assert_ne!(key(r#"{"action":{"id":"a"},"webhook":{"id":"v"}}"#), first);
        let without_id = r#"{"action":{},"webhook":{"id":"w"}}"#;
        assert_eq!(key(without_id), Some(hash_key(b'b', &[without_id.as_bytes()])));
    }

    #[test]
    fn the_key_of_a_batch_ignores_the_attempt_number() {
        let key = |body| read(DeliveryKeyLocation::Batch, body);
        let first = key(r#"[{"eventId":7,"attemptNumber":0},{"eventId":8,"attemptNumber":0}]"#);
        assert_eq!(
            key(r#"[{"eventId":7,"attemptNumber":2},{"eventId":8,"attemptNumber":1}]"#),
            first
        );
        assert_eq!(key(r#"[{"eventId":7},{"eventId":8}]"#), first);
        for other in [
            r#"[{"eventId":7},{"eventId":9}]"#,
            r#"[{"eventId":7,"eventId":8}]"#,
            r#"[{"eventId":7}]"#,
            r#"{"eventId":7}"#,
            r#"[{"eventId":7,"x":{"attemptNumber":1}},{"eventId":8}]"#,
            r#"[{"eventId":"7"},{"eventId":8}]"#,
        ] {
            assert_ne!(key(other), first, "{other}");
        }
    }
}
