//! What Paminga's bodies are known by: a form by the number of its completion, a campaign by its bytes.
//! Read without an expression, as it is the first sender and may send forms in two encodings.

use std::fmt;

use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::delivery_key::as_text;
use super::form_fields;
use crate::domain::job_plan::KeyHash;
use crate::planner::hash_key;

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

/// A form by its completion's number, a campaign by its bytes; two alerts may well be the same. JSON
/// and forms are told apart by the bytes, which are signed, and not by the type, which is not.
pub(super) fn key(body: &[u8]) -> Option<KeyHash> {
    let Ok(found) = read(body) else {
        let id = form_field(body, b"form_completion_id")?;
        return (!id.is_empty()).then(|| hash_key(b'f', &[&id]));
    };
    match found.completion.and_then(as_text) {
        Some(id) => Some(hash_key(b'f', &[id.as_bytes()])),
        None => found.campaign.then(|| hash_key(b'b', &[body])),
    }
}

/// The last value of a field of an urlencoded form.
fn form_field(body: &[u8], name: &[u8]) -> Option<Vec<u8>> {
    let named = form_fields::each(body).filter(|(found, _)| **found == *name);
    named.last().map(|(_, value)| value.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_is_known_by_its_completion_whatever_it_is_written_in() {
        let by_json = key(br#"{"a":[1],"form_completion_id":"445"}"#);
        assert!(by_json.is_some());
        assert_eq!(key(br#"{"form_completion_id":"\u0034\u0034\u0035"}"#), by_json);
        assert_eq!(key(br#"{"form_completion_id":445}"#), by_json);
        assert_eq!(key(b"a=1&form_completion_id=44%35"), by_json);
        assert_ne!(key(br#"{"form_completion_id":"446"}"#), by_json);
    }

    #[test]
    fn a_key_given_twice_counts_as_jq_counts_it() {
        let one = key(br#"{"form_completion_id":"445"}"#);
        let body = br#"{"form_completion_id":"1","form_completion_id":"445"}"#;
        assert_eq!(key(body), one);
        let body = br#"{"form_completion_id":"1","form_completion_id":null}"#;
        assert_eq!(key(body), None);
    }

    #[test]
    fn a_completion_goes_before_a_campaign() {
        let body = br#"{"CampaignActionQualification":[1],"form_completion_id":"445"}"#;
        assert_eq!(key(body), key(b"form_completion_id=445"));
        let body = br#"{"form_completion_id":"","CampaignActionQualification":[1]}"#;
        assert_eq!(key(body), Some(hash_key(b'b', &[body])));
    }

    #[test]
    fn a_campaign_is_known_by_its_bytes() {
        let one = key(br#"{"CampaignActionQualification":[1]}"#);
        assert!(one.is_some());
        assert_eq!(key(br#"{"CampaignActionQualification":[1]}"#), one);
        assert_ne!(key(br#"{"CampaignActionQualification":[2]}"#), one);
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
            assert_eq!(key(body), None);
        }
        assert_eq!(key(b"form_completion_id="), None);
    }
}
