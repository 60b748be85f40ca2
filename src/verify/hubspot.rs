//! `hubspot` (developers.hubspot.com, "Validating requests", version 3): base64 HMAC-SHA256 over
//! the method, the URL, the body and the timestamp.

use std::fmt;

use ring::digest::{Context, SHA256};
use serde::Deserializer;
use serde::de::{DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::delivery_key::{DeliveryKeyLocation, MemberName, NOT_JSON};
use super::hmac::HmacPreset;
use super::hmac_spec::TimestampUnit;
use super::preset::{FIVE_MINUTES, Preset};
use super::proof::Reason;
use crate::domain::job_plan::{KeyHash, hash_key};
use crate::json;

pub(super) const PRESET: Preset = Preset::hmac(
    "hubspot",
    "x-hubspot-signature-v3",
    HmacPreset {
        rewrite_url: Some(decode_escapes),
        ..HmacPreset::base64("{method}{url}{body}{timestamp}")
    }
    .with_timestamp("x-hubspot-request-timestamp", TimestampUnit::Milliseconds)
    .with_key(DeliveryKeyLocation::Custom(read_key)),
)
.with_tolerance(FIVE_MINUTES)
.with_sample(r#"[{"eventId":1,"subscriptionType":"contact.creation","objectId":1,"test":"{id}"}]"#);

/// Decodes the escapes that HubSpot decodes before it signs the URL.
fn decode_escapes(url: &str) -> String {
    const ESCAPES: [(&str, &str); 12] = [
        ("%3A", ":"),
        ("%2F", "/"),
        ("%3F", "?"),
        ("%40", "@"),
        ("%21", "!"),
        ("%24", "$"),
        ("%27", "'"),
        ("%28", "("),
        ("%29", ")"),
        ("%2A", "*"),
        ("%2C", ","),
        ("%3B", ";"),
    ];
    let mut text = url.to_owned();
    for (escape, character) in ESCAPES {
        text = text.replace(escape, character).replace(&escape.to_ascii_lowercase(), character);
    }
    text
}

/// The key is the batch without `attemptNumber`, which each retry increases. The body follows the
/// URL directly, so bodies other than JSON are rejected as with `FieldBehindUrl`.
fn read_key(body: &[u8]) -> Result<Option<KeyHash>, Reason> {
    Ok(Some(hash_batch(json::without_mark(body)).map_err(|_| NOT_JSON)?))
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

    #[test]
    fn hubspot_escapes_are_decoded_once() {
        assert_eq!(decode_escapes("https://h/a%2fb%2Cc%20d%253A"), "https://h/a/b,c%20d%253A");
    }

    #[test]
    fn a_body_that_is_not_json_is_rejected() {
        for body in ["x", "\"eventId\":1}", "[{\"a\":1}]x", "12"] {
            assert_eq!(read_key(body.as_bytes()), Err(NOT_JSON.into()), "{body}");
        }
    }

    #[test]
    fn the_key_of_a_batch_ignores_the_attempt_number() {
        let key = |body: &str| read_key(body.as_bytes()).unwrap();
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
