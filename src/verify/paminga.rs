//! `paminga` (Paminga's documentation, "Webhook signatures"): HMAC-SHA256 over the body in hex. The
//! delivery key is `form_completion_id` of a form, and the bytes of a campaign. No expression is
//! needed, and a form gives the same key in both of its encodings.

use super::{DeliveryKeyLocation, HmacPreset, Preset, RawObject, body_key, json_body, key_text};
use crate::domain::job_plan::{KeyHash, hash_key};
use crate::{json, urlencoded};

pub(super) const PRESET: Preset = Preset::hmac(
    "paminga",
    "x-paminga-signature",
    HmacPreset {
        is_prefix_optional: true,
        key: Some(DeliveryKeyLocation::Custom(|body| Ok(read_key(json::without_mark(body))))),
        ..HmacPreset::hex("sha256=")
    },
)
.with_sample(concat!(
    r#"{"contact_id":"1","form_id":"test","form_completion_id":"{id}","#,
    r#""submission_time":"2026-11-23T10:00:00+00:00","submission_values":{"first_name":["Ada"],"#,
    r#""last_name":["Lovelace"],"email_address":["ada@example.com"]}}"#
));

/// Returns the key of a form or a campaign. Alerts have none, because two alerts may be equal. JSON
/// and forms are distinguished by the signed bytes and not by the unsigned Content-Type.
fn read_key(body: &[u8]) -> Option<KeyHash> {
    let Ok(object) = json_body::parse::<RawObject<'_>>(body) else {
        let id = form_field(body, b"form_completion_id")?;
        return (!id.is_empty()).then(|| hash_key(b'f', &[&id]));
    };
    match object.get("form_completion_id").and_then(key_text) {
        Some(id) => Some(hash_key(b'f', &[id.as_bytes()])),
        None => object.get("CampaignActionQualification").map(|_| body_key(body)),
    }
}

/// The last value of a field of an urlencoded form.
fn form_field(body: &[u8], name: &[u8]) -> Option<Vec<u8>> {
    let values = urlencoded::fields(body).filter(|(other, _)| **other == *name);
    values.last().map(|(_, value)| value.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_of_a_form_is_its_completion_id_in_both_encodings() {
        let by_json = read_key(br#"{"a":[1],"form_completion_id":"445"}"#);
        assert!(by_json.is_some());
        assert_eq!(read_key(br#"{"form_completion_id":"\u0034\u0034\u0035"}"#), by_json);
        assert_eq!(read_key(br#"{"form_completion_id":445}"#), by_json);
        assert_eq!(read_key(b"a=1&form_completion_id=44%35"), by_json);
        assert_ne!(read_key(br#"{"form_completion_id":"446"}"#), by_json);
    }

    #[test]
    fn the_last_of_two_equal_members_counts_as_in_jq() {
        let first = read_key(br#"{"form_completion_id":"445"}"#);
        let body = br#"{"form_completion_id":"1","form_completion_id":"445"}"#;
        assert_eq!(read_key(body), first);
        let body = br#"{"form_completion_id":"1","form_completion_id":null}"#;
        assert_eq!(read_key(body), None);
    }

    #[test]
    fn a_completion_id_takes_precedence_over_a_campaign() {
        let body = br#"{"CampaignActionQualification":[1],"form_completion_id":"445"}"#;
        assert_eq!(read_key(body), read_key(b"form_completion_id=445"));
        let body = br#"{"form_completion_id":"","CampaignActionQualification":[1]}"#;
        assert_eq!(read_key(body), Some(hash_key(b'b', &[body])));
    }

    #[test]
    fn the_key_of_a_campaign_is_its_bytes() {
        let first = read_key(br#"{"CampaignActionQualification":[1]}"#);
        assert!(first.is_some());
        assert_eq!(read_key(br#"{"CampaignActionQualification":[1]}"#), first);
        assert_ne!(read_key(br#"{"CampaignActionQualification":[2]}"#), first);
    }

    #[test]
    fn other_bodies_have_no_key() {
        for body in [
            &b"{\"form_completion_id\":\"\"}"[..],
            b"{\"form_completion_id\":null}",
            b"{\"form_completion_id\":false}",
            b"{\"alert\":1}",
            b"[1]",
            b"{",
            b"",
        ] {
            assert_eq!(read_key(body), None);
        }
        assert_eq!(read_key(b"form_completion_id="), None);
    }
}
