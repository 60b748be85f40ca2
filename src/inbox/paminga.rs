//! What Paminga's bodies are known by: a form by the number of its completion, a campaign by its bytes.
//! Read without an expression, as it is the first sender and may send forms in two encodings.

use std::borrow::Cow;
use std::fmt;

use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::hashed;
use crate::domain::owed::Key;

/// The parts of Paminga's bodies that matter here; of a key given twice the last counts, as in jq.
#[derive(Default)]
struct Paminga<'a> {
    completion: Option<&'a RawValue>,
    campaign: bool,
}

#[derive(Deserialize)]
#[serde(field_identifier)]
enum Field {
    #[serde(rename = "form_completion_id")]
    Completion,
    #[serde(rename = "CampaignActionQualification")]
    Campaign,
    #[serde(other)]
    Other,
}

/// Takes an object and nothing else.
struct Reading;

impl<'de> Visitor<'de> for Reading {
    type Value = Paminga<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = Paminga::default();
        while let Some(key) = map.next_key()? {
            match key {
                Field::Completion => found.completion = Some(map.next_value()?),
                Field::Campaign => {
                    map.next_value::<IgnoredAny>()?;
                    found.campaign = true;
                }
                Field::Other => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(found)
    }
}

fn read(body: &[u8]) -> serde_json::Result<Paminga<'_>> {
    let mut json = serde_json::Deserializer::from_slice(body);
    let found = json.deserialize_map(Reading)?;
    json.end()?;
    Ok(found)
}

/// A form by its completion's number, a campaign by its bytes; two alerts may well be the same.
pub(super) fn key(content_type: Option<&str>, body: &[u8]) -> Option<Key> {
    if content_type.is_some_and(is_form) {
        let id = form_field(body, b"form_completion_id")?;
        return (!id.is_empty()).then(|| hashed(b'f', &id));
    }
    let found = read(body).ok()?;
    match found.completion.and_then(as_text) {
        Some(id) => Some(hashed(b'f', id.as_bytes())),
        None => found.campaign.then(|| hashed(b'b', body)),
    }
}

fn is_form(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or("").trim();
    essence.eq_ignore_ascii_case("application/x-www-form-urlencoded")
}

/// A text that is not empty, or a number with its digits as they are; null and false are none.
fn as_text(value: &RawValue) -> Option<Cow<'_, str>> {
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

/// The last value of a field of an urlencoded form.
fn form_field(body: &[u8], name: &[u8]) -> Option<Vec<u8>> {
    let decoded = |text: &[u8]| -> Vec<u8> {
        let spaced: Vec<u8> = text.iter().map(|&b| if b == b'+' { b' ' } else { b }).collect();
        percent_encoding::percent_decode(&spaced).collect()
    };
    let value = |pair: &[u8]| {
        let at = pair.iter().position(|&byte| byte == b'=')?;
        (decoded(&pair[..at]) == name).then(|| decoded(&pair[at + 1..]))
    };
    body.split(|&byte| byte == b'&').filter_map(value).next_back()
}

#[cfg(test)]
mod tests {
    use super::*;

    const JSON: Option<&str> = Some("application/json");
    const FORM: Option<&str> = Some("application/x-www-form-urlencoded; charset=utf-8");

    #[test]
    fn a_form_is_known_by_its_completion_whatever_it_is_written_in() {
        let by_json = key(JSON, br#"{"a":[1],"form_completion_id":"445"}"#);
        assert!(by_json.is_some());
        assert_eq!(key(None, br#"{"form_completion_id":"\u0034\u0034\u0035"}"#), by_json);
        assert_eq!(key(JSON, br#"{"form_completion_id":445}"#), by_json);
        assert_eq!(key(FORM, b"a=1&form_completion_id=44%35"), by_json);
        assert_ne!(key(JSON, br#"{"form_completion_id":"446"}"#), by_json);
    }

    #[test]
    fn a_key_given_twice_counts_as_jq_counts_it() {
        let one = key(JSON, br#"{"form_completion_id":"445"}"#);
        let body = br#"{"form_completion_id":"1","form_completion_id":"445"}"#;
        assert_eq!(key(JSON, body), one);
        let body = br#"{"form_completion_id":"1","form_completion_id":null}"#;
        assert_eq!(key(JSON, body), None);
    }

    #[test]
    fn a_completion_goes_before_a_campaign() {
        let body = br#"{"CampaignActionQualification":[1],"form_completion_id":"445"}"#;
        assert_eq!(key(JSON, body), key(FORM, b"form_completion_id=445"));
        let body = br#"{"form_completion_id":"","CampaignActionQualification":[1]}"#;
        assert_eq!(key(JSON, body), Some(hashed(b'b', body)));
    }

    #[test]
    fn a_campaign_is_known_by_its_bytes() {
        let one = key(JSON, br#"{"CampaignActionQualification":[1]}"#);
        assert!(one.is_some());
        assert_eq!(key(JSON, br#"{"CampaignActionQualification":[1]}"#), one);
        assert_ne!(key(JSON, br#"{"CampaignActionQualification":[2]}"#), one);
    }

    #[test]
    fn anything_else_is_known_by_nothing() {
        for body in [
            &b"{\"form_completion_id\":\"\"}"[..],
            b"{\"form_completion_id\":null}",
            b"{\"form_completion_id\":false}",
            b"{\"alert\":1}",
            b"[1]",
            b"{",
            b"",
        ] {
            assert_eq!(key(JSON, body), None);
        }
        assert_eq!(key(FORM, b"form_completion_id="), None);
    }
}
