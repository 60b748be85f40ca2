//! The sender's own key of a delivery: the same for a captured request that is sent again, however it is
//! dressed up without its signature.

use super::super::{OutgoingRequest, Verifier};
use super::vectors::{Vector, vectors};
use super::verifier;
use crate::config::{self, DeliveryKey};
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

fn all() -> Vec<Vector> {
    let mut all = vectors(include_str!("../../../tests/vectors.json"));
    all.extend(vectors(include_str!("../../../tests/sns.json")));
    all
}

/// The key of a request that is let in, or why it is not.
fn key(
    verifier: &Verifier,
    draft: &OutgoingRequest,
    now_ms: i64,
) -> Result<Option<KeyHash>, String> {
    let lines = draft.header_refs();
    verifier.check(&draft.as_signed_request(&lines), now_ms).map(|proof| proof.delivery_key)
}

#[test]
fn a_key_does_not_depend_on_what_is_not_signed() {
    for vector in all() {
        let facts = config::find_scheme(&vector.scheme).unwrap();
        let verifier = vector.verifier();
        let first = key(&verifier, &vector.draft, vector.now_ms).unwrap();
        match facts.delivery_key {
            DeliveryKey::Absent => assert_eq!(first, None, "{}", facts.name),
            DeliveryKey::Signed => assert!(first.is_some(), "{}", facts.name),
            DeliveryKey::Header(_) => {}
        }
        for content_type in TYPES {
            let mut again = vector.draft.clone();
            again.set_header("content-type", content_type);
            for name in ["linear-delivery", "idempotency-key", "x-request-id", "x-id"] {
                if again.header(name).is_none() {
                    again.set_header(name, "another");
                }
            }
            match key(&verifier, &again, vector.now_ms) {
                Ok(found) => assert_eq!(found, first, "{} as {content_type}", facts.name),
                // What the type makes unreadable is no event.
                Err(_) => assert!(matches!(facts.name, "twilio" | "mailgun"), "{}", facts.name),
            }
        }
    }
}

#[test]
fn a_key_that_is_not_signed_is_that_of_its_header_alone() {
    for vector in all() {
        let facts = config::find_scheme(&vector.scheme).unwrap();
        let DeliveryKey::Header([name, ..]) = facts.delivery_key else { continue };
        let verifier = vector.verifier();
        let mut draft = vector.draft.clone();
        draft.set_header(name, "one");
        let one = key(&verifier, &draft, vector.now_ms).unwrap();
        draft.set_header(name, "two");
        assert_ne!(key(&verifier, &draft, vector.now_ms).unwrap(), one, "{}", facts.name);
        draft.headers.retain(|(found, _)| found != name);
        assert_eq!(key(&verifier, &draft, vector.now_ms), Ok(None), "{}", facts.name);
    }
}

#[test]
fn parts_of_a_body_that_are_not_signed_make_no_other_key() {
    for vector in all() {
        let verifier = vector.verifier();
        let first = key(&verifier, &vector.draft, vector.now_ms);
        let text = String::from_utf8_lossy(&vector.draft.body).into_owned();
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
            let changed = OutgoingRequest { body: body.into_bytes(), ..vector.draft.clone() };
            assert_eq!(key(&verifier, &changed, vector.now_ms), first, "{}: {new}", vector.scheme);
        }
    }
}

/// `Subject` stands behind `MessageId` in the text that is signed, and may be missing.
#[test]
fn no_line_break_makes_another_message_of_a_signed_one() {
    for vector in vectors(include_str!("../../../tests/sns.json")) {
        let verifier = vector.verifier();
        let mut body: serde_json::Value = serde_json::from_slice(&vector.draft.body).unwrap();
        let Some(subject) = body["Subject"].as_str().map(str::to_owned) else { continue };
        let id = body["MessageId"].as_str().unwrap().to_owned();
        body["MessageId"] = format!("{id}\nSubject\n{subject}").into();
        body.as_object_mut().unwrap().remove("Subject");
        let forged =
            OutgoingRequest { body: body.to_string().into_bytes(), ..vector.draft.clone() };
        let expected = Err("body has a line break in a field that sns signs".to_owned());
        assert_eq!(key(&verifier, &forged, vector.now_ms), expected);
        return;
    }
    panic!("no message with a subject");
}

/// What is signed is `{id}.{timestamp}.{body}`, and an id may have dots.
#[test]
fn no_message_is_cut_into_another_id_time_and_body() {
    let standard =
        verifier("scheme = \"standard\"", &["whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="]);
    let body = br#"{"a":1}"#.to_vec();
    let mut draft =
        OutgoingRequest { id: "order.1764000000".into(), body, ..OutgoingRequest::default() };
    standard.sign(&mut draft, 1_764_000_100_000).unwrap();
    assert!(key(&standard, &draft, 1_764_000_100_000).is_ok());
    draft.set_header("webhook-id", "order");
    draft.set_header("webhook-timestamp", "1764000000");
    draft.body = br#"1764000100.{"a":1}"#.to_vec();
    let expected = Err("body begins as a time stamp ends".to_owned());
    assert_eq!(key(&standard, &draft, 1_764_000_100_000), expected);
}

/// The URL is all that is signed of a JSON request, and all but the fields of a form.
#[test]
fn a_url_that_vouches_for_the_body_does_so_under_any_type() {
    let url = "https://hooks.example.com/hooks/a";
    let twilio = verifier(&format!("scheme = \"twilio\", url = \"{url}\""), &["s3cret"]);
    let mut draft = OutgoingRequest { body: b"{}".to_vec(), ..OutgoingRequest::default() };
    draft.set_header("content-type", "application/json");
    twilio.sign(&mut draft, 0).unwrap();
    assert_eq!(key(&twilio, &draft, 0), Ok(None));
    draft.set_header("content-type", "application/x-www-form-urlencoded");
    assert_eq!(key(&twilio, &draft, 0), Ok(None));
    draft.body = b"&".to_vec();
    let expected = Err("bodySHA256 in the URL is not the body's".to_owned());
    assert_eq!(key(&twilio, &draft, 0), expected);
}

#[test]
fn requests_without_a_body_are_told_apart_by_their_time_and_url() {
    let url = "https://hooks.example.com/hooks/a";
    let hubspot = verifier(&format!("scheme = \"hubspot\", url = \"{url}\""), &["s3cret"]);
    let key_of = |query: &str, now_ms: i64| {
        let query = Some(query.to_owned());
        let mut draft =
            OutgoingRequest { method: "GET".into(), query, ..OutgoingRequest::default() };
        hubspot.sign(&mut draft, now_ms).unwrap();
        key(&hubspot, &draft, now_ms).unwrap()
    };
    let first = key_of("a=1", 0);
    assert!(first.is_some());
    assert_eq!(key_of("a=1", 0), first);
    assert_ne!(key_of("a=2", 0), first);
    assert_ne!(key_of("a=1", 1), first);
}

#[test]
fn a_slash_command_is_known_by_its_bytes() {
    let slack = verifier("scheme = \"slack\"", &["s3cret"]);
    let key_of = |body: &str, now_ms: i64| {
        let mut draft = OutgoingRequest {
            method: "POST".into(),
            body: body.into(),
            ..OutgoingRequest::default()
        };
        slack.sign(&mut draft, now_ms).unwrap();
        key(&slack, &draft, now_ms).unwrap()
    };
    let command = key_of("command=%2Fx&trigger_id=1", 0);
    assert!(command.is_some());
    assert_eq!(key_of("command=%2Fx&trigger_id=1", 9_000), command);
    assert_ne!(key_of("command=%2Fx&trigger_id=2", 0), command);
}

#[test]
fn an_attempt_that_is_counted_up_is_the_same_delivery() {
    let url = "https://hooks.example.com/hooks/a";
    let hubspot = verifier(&format!("scheme = \"hubspot\", url = \"{url}\""), &["s3cret"]);
    let key_of = |body: &str, now_ms: i64| {
        let mut draft = OutgoingRequest {
            method: "POST".into(),
            body: body.into(),
            ..OutgoingRequest::default()
        };
        hubspot.sign(&mut draft, now_ms).unwrap();
        key(&hubspot, &draft, now_ms)
    };
    let first = key_of(r#"[{"eventId":7,"attemptNumber":0}]"#, 0).unwrap();
    assert_eq!(key_of(r#"[{"eventId":7,"attemptNumber":1}]"#, 60_000), Ok(first));
    assert_ne!(key_of(r#"[{"eventId":8,"attemptNumber":0}]"#, 0), Ok(first));
    let expected = Err("body is not JSON, which this sender signs alone".to_owned());
    assert_eq!(key_of("eventId\":7}]", 0), expected);
}
