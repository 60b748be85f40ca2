//! Tests of the delivery key: it is the same if an attacker replays a captured request and changes
//! its unsigned parts.

use super::super::{DeliveryKey, OutgoingRequest, PRESETS, Preset, Reason, Verifier};
use super::vectors::{Vector, vectors};
use super::verifier;
use crate::domain::job_plan::KeyHash;

const TYPES: [&str; 7] = [
    "application/json",
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=b",
    "multipart/form-data",
    "text/plain",
    "image/png",
    "",
];

fn all_vectors() -> Vec<Vector> {
    let mut all = vectors(include_str!("../../../tests/vectors.json"));
    all.extend(vectors(include_str!("../../../tests/sns.json")));
    all
}

fn preset_of(vector: &Vector) -> &'static Preset {
    PRESETS.iter().find(|preset| preset.name == vector.scheme).unwrap()
}

/// Returns the delivery key of an accepted request, or the reason for its rejection.
fn key(
    verifier: &Verifier,
    outgoing: &OutgoingRequest,
    now_ms: i64,
) -> Result<Option<KeyHash>, Reason> {
    let lines = outgoing.header_refs();
    verifier.check(&outgoing.as_signed_request(&lines), now_ms).map(|proof| proof.delivery_key)
}

#[test]
fn a_delivery_key_does_not_depend_on_unsigned_headers() {
    for vector in all_vectors() {
        let spec = preset_of(&vector);
        let verifier = vector.verifier();
        let first = key(&verifier, &vector.outgoing, vector.now_ms).unwrap();
        match spec.delivery_key {
            DeliveryKey::Absent => assert_eq!(first, None, "{}", spec.name),
            DeliveryKey::Signed => assert!(first.is_some(), "{}", spec.name),
            DeliveryKey::Header(_) => {}
        }
        for content_type in TYPES {
            let mut repeat = vector.outgoing.clone();
            repeat.set_header("content-type", content_type);
            for name in ["linear-delivery", "idempotency-key", "x-request-id", "x-id"] {
                if repeat.header(name).is_none() {
                    repeat.set_header(name, "another");
                }
            }
            match key(&verifier, &repeat, vector.now_ms) {
                Ok(repeat_key) => assert_eq!(repeat_key, first, "{} as {content_type}", spec.name),
                // A body that this type makes unreadable is rejected.
                Err(_) => assert!(matches!(spec.name, "twilio" | "mailgun"), "{}", spec.name),
            }
        }
    }
}

#[test]
fn an_unsigned_delivery_key_depends_on_its_header_only() {
    for vector in all_vectors() {
        let spec = preset_of(&vector);
        let DeliveryKey::Header([name, ..]) = spec.delivery_key else { continue };
        let verifier = vector.verifier();
        let mut outgoing = vector.outgoing.clone();
        outgoing.set_header(name, "one");
        let first = key(&verifier, &outgoing, vector.now_ms).unwrap();
        outgoing.set_header(name, "two");
        assert_ne!(key(&verifier, &outgoing, vector.now_ms).unwrap(), first, "{}", spec.name);
        outgoing.headers.retain(|(found, _)| found != name);
        assert_eq!(key(&verifier, &outgoing, vector.now_ms), Ok(None), "{}", spec.name);
    }
}

#[test]
fn unsigned_parts_of_a_body_do_not_change_the_delivery_key() {
    for vector in all_vectors() {
        let verifier = vector.verifier();
        let first = key(&verifier, &vector.outgoing, vector.now_ms);
        let text = String::from_utf8_lossy(&vector.outgoing.body).into_owned();
        let changes: &[(&str, &str)] = match vector.scheme.as_str() {
            "sns" => &[("{", "{\"MessageAttributes\":{\"a\":1},"), ("SigningCertURL", "Other")],
            "mailgun" if text.starts_with('{') => {
                &[("{", "{\"token\":\"other\",\"x\":[1],"), ("event-data", "other")]
            }
            "mailgun" => &[("timestamp=", "token%5Bx%5D=1&a=b&timestamp=")],
            "mandrill" => &[("mandrill_events", "%6Dandrill%5Fevents")],
            _ => continue,
        };
        for (old, new) in changes {
            let body = text.replacen(old, new, 1);
            assert!(body != text || *old == "event-data", "{}: {old}", vector.scheme);
            let changed = OutgoingRequest { body: body.into_bytes(), ..vector.outgoing.clone() };
            assert_eq!(key(&verifier, &changed, vector.now_ms), first, "{}: {new}", vector.scheme);
        }
    }
}

/// `Subject` follows `MessageId` in the signed text, and may be missing.
#[test]
fn a_line_break_cannot_change_the_fields_of_a_signed_message() {
    for vector in vectors(include_str!("../../../tests/sns.json")) {
        let verifier = vector.verifier();
        let mut body: serde_json::Value = serde_json::from_slice(&vector.outgoing.body).unwrap();
        let Some(subject) = body["Subject"].as_str().map(str::to_owned) else { continue };
        let id = body["MessageId"].as_str().unwrap().to_owned();
        body["MessageId"] = format!("{id}\nSubject\n{subject}").into();
        body.as_object_mut().unwrap().remove("Subject");
        let forged =
            OutgoingRequest { body: body.to_string().into_bytes(), ..vector.outgoing.clone() };
        let expected = Err("body has a line break in a field that sns signs".into());
        assert_eq!(key(&verifier, &forged, vector.now_ms), expected);
        return;
    }
    panic!("no message with a subject");
}

/// The signed text is `{id}.{timestamp}.{body}`, and an id may contain dots.
#[test]
fn a_signed_message_cannot_be_split_into_another_id_timestamp_and_body() {
    let standard =
        verifier("scheme = \"standard\"", &["whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="]);
    let body = br#"{"a":1}"#.to_vec();
    let mut outgoing =
        OutgoingRequest { id: "order.1764000000".into(), body, ..OutgoingRequest::default() };
    standard.sign(&mut outgoing, 1_764_000_100_000).unwrap();
    assert!(key(&standard, &outgoing, 1_764_000_100_000).is_ok());
    outgoing.set_header("webhook-id", "order");
    outgoing.set_header("webhook-timestamp", "1764000000");
    outgoing.body = br#"1764000100.{"a":1}"#.to_vec();
    let expected = Err("body starts like the end of a timestamp: digits and a dot".into());
    assert_eq!(key(&standard, &outgoing, 1_764_000_100_000), expected);
}

/// A signature covers only the URL of a JSON request, and not the Content-Type of a form.
#[test]
fn the_digest_in_the_url_applies_under_any_content_type() {
    let url = "https://hooks.example.com/hooks/a";
    let twilio = verifier(&format!("scheme = \"twilio\", url = \"{url}\""), &["s3cret"]);
    let mut outgoing = OutgoingRequest { body: b"{}".to_vec(), ..OutgoingRequest::default() };
    outgoing.set_header("content-type", "application/json");
    twilio.sign(&mut outgoing, 0).unwrap();
    assert_eq!(key(&twilio, &outgoing, 0), Ok(None));
    outgoing.set_header("content-type", "application/x-www-form-urlencoded");
    assert_eq!(key(&twilio, &outgoing, 0), Ok(None));
    outgoing.body = b"&".to_vec();
    let expected = Err("bodySHA256 in the URL does not match the body".into());
    assert_eq!(key(&twilio, &outgoing, 0), expected);
}

#[test]
fn requests_without_a_body_differ_by_their_timestamp_and_url() {
    let url = "https://hooks.example.com/hooks/a";
    let hubspot = verifier(&format!("scheme = \"hubspot\", url = \"{url}\""), &["s3cret"]);
    let key_of = |query: &str, now_ms: i64| {
        let query = Some(query.to_owned());
        let mut outgoing =
            OutgoingRequest { method: "GET".into(), query, ..OutgoingRequest::default() };
        hubspot.sign(&mut outgoing, now_ms).unwrap();
        key(&hubspot, &outgoing, now_ms).unwrap()
    };
    let first = key_of("a=1", 0);
    assert!(first.is_some());
    assert_eq!(key_of("a=1", 0), first);
    assert_ne!(key_of("a=2", 0), first);
    assert_ne!(key_of("a=1", 1), first);
}

#[test]
fn the_delivery_key_of_a_slash_command_is_its_bytes() {
    let slack = verifier("scheme = \"slack\"", &["s3cret"]);
    let key_of = |body: &str, now_ms: i64| {
        let mut outgoing = OutgoingRequest {
            method: "POST".into(),
            body: body.into(),
            ..OutgoingRequest::default()
        };
        slack.sign(&mut outgoing, now_ms).unwrap();
        key(&slack, &outgoing, now_ms).unwrap()
    };
    let command = key_of("command=%2Fx&trigger_id=1", 0);
    assert!(command.is_some());
    assert_eq!(key_of("command=%2Fx&trigger_id=1", 9_000), command);
    assert_ne!(key_of("command=%2Fx&trigger_id=2", 0), command);
}

#[test]
fn a_higher_attempt_number_is_the_same_delivery() {
    let url = "https://hooks.example.com/hooks/a";
    let hubspot = verifier(&format!("scheme = \"hubspot\", url = \"{url}\""), &["s3cret"]);
    let key_of = |body: &str, now_ms: i64| {
        let mut outgoing = OutgoingRequest {
            method: "POST".into(),
            body: body.into(),
            ..OutgoingRequest::default()
        };
        hubspot.sign(&mut outgoing, now_ms).unwrap();
        key(&hubspot, &outgoing, now_ms)
    };
    let first = key_of(r#"[{"eventId":7,"attemptNumber":0}]"#, 0).unwrap();
    assert_eq!(key_of(r#"[{"eventId":7,"attemptNumber":1}]"#, 60_000), Ok(first));
    assert_ne!(key_of(r#"[{"eventId":8,"attemptNumber":0}]"#, 0), Ok(first));
    let expected = Err("body is not JSON: this sender signs JSON only".into());
    assert_eq!(key_of("eventId\":7}]", 0), expected);
}
