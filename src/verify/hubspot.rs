//! `hubspot` (developers.hubspot.com, "Validating requests", version 3): base64 HMAC-SHA256 over
//! the method, the URL, the body and the timestamp.

use ring::digest::{Context, SHA256};

use super::{
    DeliveryKeyLocation, FIVE_MINUTES, HmacPreset, NOT_JSON, Preset, RawObject, Reason,
    TimestampUnit, json_body,
};
use crate::domain::job_plan::{KeyHash, hash_key};

pub(super) const PRESET: Preset = Preset::hmac(
    "hubspot",
    "x-hubspot-signature-v3",
    HmacPreset {
        timestamp: Some(("x-hubspot-request-timestamp", TimestampUnit::Milliseconds)),
        key: Some(DeliveryKeyLocation::Custom(read_key)),
        rewrite_url: Some(decode_escapes),
        ..HmacPreset::base64("{method}{url}{body}{timestamp}")
    },
)
.with_tolerance(FIVE_MINUTES)
.with_sample(r#"[{"eventId":1,"subscriptionType":"contact.creation","objectId":1,"test":"{id}"}]"#);

/// Decodes the escapes that HubSpot decodes before it signs the URL.
fn decode_escapes(url: &str) -> String {
    let mut text = url.to_owned();
    for character in ":/?@!$'()*,;".chars() {
        let escape = format!("%{:02X}", u32::from(character));
        let character = character.to_string();
        text = text.replace(&escape, &character).replace(&escape.to_ascii_lowercase(), &character);
    }
    text
}

/// The key is the batch without `attemptNumber`, which each retry increases. The body follows the
/// URL directly, so bodies other than JSON are rejected as with `FieldBehindUrl`.
fn read_key(body: &[u8]) -> Result<Option<KeyHash>, Reason> {
    Ok(Some(hash_batch(body).map_err(|_| NOT_JSON)?))
}

/// Hashes each member of each item except `attemptNumber`. Each text is preceded by its length, so
/// that two different batches never hash the same bytes.
fn hash_batch(body: &[u8]) -> serde_json::Result<KeyHash> {
    let items = match json_body::parse(body) {
        Ok(items) => items,
        Err(_) => vec![json_body::parse::<RawObject<'_>>(body)?],
    };
    let mut digest = Context::new(&SHA256);
    for RawObject(members) in items {
        for (name, value) in members.iter().filter(|(name, _)| name != "attemptNumber") {
            for text in [&**name, value.get()] {
                digest.update(&text.len().to_le_bytes());
                digest.update(text.as_bytes());
            }
        }
        // Marks the end of an item: no name has this length.
        digest.update(&usize::MAX.to_le_bytes());
    }
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
