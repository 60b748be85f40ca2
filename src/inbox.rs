//! What a repeat is known by: the key of a source's `dedupe`, computed here; whether it was seen is
//! decided in the writer's transaction.
//!
//! A preset's key is what its sender makes unique for each notification, and nothing else.

use ring::digest::{SHA256, digest};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use crate::config::{Dedupe, Source};

/// A key, cut to what is kept; `None`: not to be recognised by anything.
pub fn dedupe_key(
    source: &Source,
    headers: &[(&str, &[u8])],
    content_type: Option<&str>,
    body: &[u8],
) -> Option<[u8; 16]> {
    match &source.dedupe {
        _ if source.dedupe_off => None,
        Some(Dedupe::Header(name)) => {
            let (_, value) = headers.iter().find(|(found, _)| found == name)?;
            let value = value.trim_ascii();
            (!value.is_empty()).then(|| hashed(b'h', value))
        }
        Some(Dedupe::Body) => Some(hashed(b'b', body)),
        None if source.verify.scheme == "paminga" => paminga(content_type, body),
        None => None,
    }
}

/// The first byte keeps keys of different kinds apart.
fn hashed(kind: u8, key: &[u8]) -> [u8; 16] {
    let mut text = Vec::with_capacity(key.len() + 1);
    text.push(kind);
    text.extend_from_slice(key);
    let mut cut = [0; 16];
    cut.copy_from_slice(&digest(&SHA256, &text).as_ref()[..16]);
    cut
}

/// The parts of Paminga's bodies that matter here.
#[derive(Deserialize)]
struct Paminga<'a> {
    #[serde(borrow, default)]
    form_completion_id: Option<&'a RawValue>,
    #[serde(rename = "CampaignActionQualification", default)]
    campaign: Option<IgnoredAny>,
}

/// A form by its completion's number, a campaign by its bytes; two alerts may well be the same.
fn paminga(content_type: Option<&str>, body: &[u8]) -> Option<[u8; 16]> {
    let is_form = content_type.is_some_and(|text| {
        text.trim_start().to_ascii_lowercase().starts_with("application/x-www-form-urlencoded")
    });
    if is_form {
        let id = form_field(body, b"form_completion_id")?;
        return (!id.is_empty()).then(|| hashed(b'f', &id));
    }
    // An array would pass for the structure's fields in their order.
    if !body.trim_ascii_start().starts_with(b"{") {
        return None;
    }
    let found: Paminga<'_> = serde_json::from_slice(body).ok()?;
    if found.campaign.is_some() {
        return Some(hashed(b'b', body));
    }
    let raw = found.form_completion_id?.get();
    match serde_json::from_str(raw).ok()? {
        serde_json::Value::String(text) if !text.is_empty() => Some(hashed(b'f', text.as_bytes())),
        serde_json::Value::Number(_) => Some(hashed(b'f', raw.as_bytes())),
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
        let by_json = paminga(JSON, br#"{"a":[1],"form_completion_id":"445"}"#);
        assert!(by_json.is_some());
        assert_eq!(paminga(None, br#"{"form_completion_id":"\u0034\u0034\u0035"}"#), by_json);
        assert_eq!(paminga(JSON, br#"{"form_completion_id":445}"#), by_json);
        assert_eq!(paminga(FORM, b"a=1&form_completion_id=44%35"), by_json);
        assert_ne!(paminga(JSON, br#"{"form_completion_id":"446"}"#), by_json);
    }

    #[test]
    fn a_campaign_is_known_by_its_bytes() {
        let one = paminga(JSON, br#"{"CampaignActionQualification":[1]}"#);
        assert!(one.is_some());
        assert_eq!(paminga(JSON, br#"{"CampaignActionQualification":[1]}"#), one);
        assert_ne!(paminga(JSON, br#"{"CampaignActionQualification":[2]}"#), one);
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
            assert_eq!(paminga(JSON, body), None);
        }
        assert_eq!(paminga(FORM, b"form_completion_id="), None);
    }
}
