//! Where a sender puts its own key of a delivery in a body that it signs.
//!
//! The key is read from the bytes that were verified, never by the Content-Type: no sender signs that
//! header, so that a captured request could be sent again under another type and look new.

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

/// Where a sender's key of a delivery stands in its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KeyPlace {
    /// Not in the body.
    Nowhere,
    /// Its bytes.
    Body,
    /// A field at the top of a JSON object; without it, the bytes of the body.
    Field(&'static str),
    /// As `Field`. The signed URL stands directly before the body, and the sender sends JSON alone:
    /// other bodies are rejected, as their beginning could be moved into the query.
    FieldBehindUrl(&'static str),
    /// Trello's `action.id` with `webhook.id`: two webhooks may call one source.
    Action,
    /// HubSpot's batch without the number of the attempt, which each repeat counts up.
    Batch,
    Paminga,
}

const NO_JSON: &str = "body is not JSON, which this sender signs alone";

impl KeyPlace {
    /// The key; `None` where the sender makes nothing unique. Of an empty body nothing is: the next one must
    /// not count as its repeat.
    ///
    /// # Errors
    /// This sender never sends such a body.
    pub fn read(self, body: &[u8]) -> Result<Option<KeyHash>, String> {
        if body.is_empty() {
            return Ok(None);
        }
        let bytes = || hash_key(b'b', &[body]);
        let body = json::without_mark(body);
        let text = |id: &str| hash_key(b'j', &[id.as_bytes()]);
        let key = match self {
            Self::Nowhere => return Ok(None),
            Self::Paminga => return Ok(paminga::key(body)),
            Self::Body => None,
            Self::Field(name) => field(body, name).ok().flatten().map(|id| text(&id)),
            Self::FieldBehindUrl(name) => match field(body, name) {
                Ok(id) => id.map(|id| text(&id)),
                Err(_) => return Err(NO_JSON.to_owned()),
            },
            Self::Action => action(body).map(|id| text(&id)),
            Self::Batch => match batch(body) {
                Ok(key) => Some(key),
                Err(_) => return Err(NO_JSON.to_owned()),
            },
        };
        Ok(Some(key.unwrap_or_else(bytes)))
    }
}

/// A text that is not empty, or a number with its digits as they are; null and false are none.
pub(super) fn as_text(value: &RawValue) -> Option<Cow<'_, str>> {
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

/// The name of a member, borrowed where it has no escapes.
#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

/// Reads the member `name` of an object and skips the others.
struct Member(&'static str);

impl<'de> Visitor<'de> for Member {
    type Value = Option<&'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    /// Of a member given twice the last counts, as in jq.
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(Name(name)) = map.next_key()? {
            if name == self.0 {
                found = Some(map.next_value()?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }
}

fn field(body: &[u8], name: &'static str) -> serde_json::Result<Option<String>> {
    let mut json = serde_json::Deserializer::from_slice(body);
    let found = json.deserialize_map(Member(name))?;
    json.end()?;
    Ok(found.and_then(as_text).map(Cow::into_owned))
}

/// As `[.action.id, .webhook.id]` gives it.
fn action(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Body<'a> {
        #[serde(borrow)]
        action: Named<'a>,
        #[serde(borrow)]
        webhook: Option<Named<'a>>,
    }
    #[derive(Deserialize)]
    struct Named<'a> {
        #[serde(borrow)]
        id: Option<&'a RawValue>,
    }
    let body: Body<'_> = serde_json::from_slice(body).ok()?;
    let action = as_text(body.action.id?)?;
    let webhook = body.webhook.and_then(|webhook| webhook.id).and_then(as_text);
    serde_json::to_string(&(action, webhook)).ok()
}

/// Each member of an item but the number of the attempt, with its length before it, so that no two
/// batches look alike.
struct Batch<'d> {
    digest: &'d mut Context,
    is_item: bool,
}

const ATTEMPT_NUMBER: &str = "attemptNumber";

impl<'de> DeserializeSeed<'de> for Batch<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        if self.is_item { from.deserialize_map(self) } else { from.deserialize_any(self) }
    }
}

impl<'de> Visitor<'de> for Batch<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object, or a list of objects")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let digest = self.digest;
        while items.next_element_seed(Batch { digest: &mut *digest, is_item: true })?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let digest = self.digest;
        let mut put = |text: &str| {
            digest.update(&text.len().to_le_bytes());
            digest.update(text.as_bytes());
        };
        while let Some(Name(name)) = map.next_key()? {
            let value: &RawValue = map.next_value()?;
            if name != ATTEMPT_NUMBER {
                put(&name);
                put(value.get());
            }
        }
        // No length of a name: an item ends.
        digest.update(&usize::MAX.to_le_bytes());
        Ok(())
    }
}

fn batch(body: &[u8]) -> serde_json::Result<KeyHash> {
    let mut digest = Context::new(&SHA256);
    let mut json = serde_json::Deserializer::from_slice(body);
    Batch { digest: &mut digest, is_item: false }.deserialize(&mut json)?;
    json.end()?;
    Ok(hash_key(b'a', &[digest.finish().as_ref()]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(place: KeyPlace, body: &str) -> Option<KeyHash> {
        place.read(body.as_bytes()).unwrap()
    }

    #[test]
    fn a_field_is_the_key_and_without_it_the_bytes_are() {
        let id = KeyPlace::Field("id");
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
    fn a_body_behind_the_url_has_to_be_json() {
        for place in [KeyPlace::FieldBehindUrl("event_id"), KeyPlace::Batch] {
            for body in ["x", "\"event_id\":1}", "[{\"a\":1}]x", "12"] {
                assert_eq!(place.read(body.as_bytes()), Err(NO_JSON.to_owned()), "{body}");
            }
            assert_eq!(read(place, ""), None);
        }
    }

    #[test]
    fn an_action_of_two_webhooks_is_two() {
        let key = |body| read(KeyPlace::Action, body);
        let one = key(r#"{"action":{"id":"a"},"webhook":{"id":"w"}}"#);
        assert_eq!(one, Some(hash_key(b'j', &[br#"["a","w"]"#])));
        assert_eq!(key(r#"{"webhook":{"id":"w","x":1},"action":{"id":"a"}}"#), one);
        assert_ne!(key(r#"{"action":{"id":"a"},"webhook":{"id":"v"}}"#), one);
        let bare = r#"{"action":{},"webhook":{"id":"w"}}"#;
        assert_eq!(key(bare), Some(hash_key(b'b', &[bare.as_bytes()])));
    }

    #[test]
    fn a_batch_is_the_same_whichever_attempt_it_is() {
        let key = |body| read(KeyPlace::Batch, body);
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
