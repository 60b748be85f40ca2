//! Requests with real signatures: tests/vectors.json (the senders' own libraries and documentation)
//! and tests/sns.json (openssl).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::super::{OutgoingRequest, SignedRequest, Verifier};
use super::{detect, verifier};

/// A request from a file of vectors.
pub(super) struct Vector {
    pub scheme: String,
    pub secret: String,
    pub url: String,
    pub outgoing: OutgoingRequest,
    pub now_ms: i64,
    pub handshake: bool,
    pub response: Value,
}

pub(super) fn vectors(json: &str) -> Vec<Vector> {
    let all: Vec<Value> = serde_json::from_str(json).unwrap();
    all.iter().map(vector).collect()
}

fn vector(json: &Value) -> Vector {
    let text = |key: &str| json[key].as_str().unwrap().to_owned();
    let url = text("url");
    let path = url.splitn(4, '/').nth(3).unwrap();
    let (path, query) = path.split_once('?').map_or((path, None), |(p, q)| (p, Some(q)));
    let headers = json["headers"].as_object().unwrap().iter();
    let header = |(name, value): (&String, &Value)| {
        (name.to_ascii_lowercase(), value.as_str().unwrap().to_owned())
    };
    let outgoing = OutgoingRequest {
        method: text("method"),
        path: format!("/{path}"),
        query: query.map(str::to_owned),
        headers: headers.map(header).collect(),
        body: STANDARD.decode(text("body_base64")).unwrap(),
        ..OutgoingRequest::default()
    };
    Vector {
        scheme: text("scheme"),
        secret: text("secret"),
        outgoing,
        now_ms: json["now"].as_i64().unwrap() * 1000,
        handshake: json["handshake"] == true,
        response: json["answer"].clone(),
        url,
    }
}

impl Vector {
    pub fn verifier(&self) -> Verifier {
        let url = match self.scheme.as_str() {
            // Without `url` the URL would be built from the request's own Host.
            "twilio" | "mandrill" | "trello" | "square" | "hubspot" => {
                format!(", url = \"{}\"", self.url)
            }
            _ => String::new(),
        };
        let token = match self.scheme.as_str() {
            "meta" => ", verify_token = { env = \"T\" }",
            _ => "",
        };
        verifier(&format!("scheme = \"{}\"{url}{token}", self.scheme), &["other", &self.secret])
    }
}

pub(super) fn check(
    verifier: &Verifier,
    outgoing: &OutgoingRequest,
    now_ms: i64,
) -> Result<(), String> {
    let lines = outgoing.header_refs();
    super::check_fresh(verifier, &outgoing.as_signed_request(&lines), now_ms)
}

#[test]
fn a_request_signed_by_its_sender_is_accepted_and_a_changed_one_is_not() {
    for vector in vectors(include_str!("../../../tests/vectors.json")) {
        let (verifier, now_ms, name) = (vector.verifier(), vector.now_ms, &vector.scheme);
        assert_eq!(check(&verifier, &vector.outgoing, now_ms), Ok(()), "{name}");
        // These three do not sign the bytes of the body.
        if !matches!(name.as_str(), "gitlab" | "mailgun" | "sns") {
            let mut changed = vector.outgoing.clone();
            changed.body.push(b' ');
            assert!(check(&verifier, &changed, now_ms).is_err(), "{name}");
            let mut changed = vector.outgoing.clone();
            changed.body[5] ^= 1;
            assert!(check(&verifier, &changed, now_ms).is_err(), "{name}");
        }
        let other_verifier = super::verifier(
            &format!("scheme = \"{name}\", url = \"https://hooks.example.com/\""),
            &["other"],
        );
        assert!(check(&other_verifier, &vector.outgoing, now_ms).is_err(), "{name}");
        let mut unsigned = vector.outgoing.clone();
        unsigned.headers.clear();
        unsigned.body = b"{}".to_vec();
        assert!(check(&verifier, &unsigned, now_ms).is_err(), "{name}");
    }
}

#[test]
fn a_handshake_is_recognized_and_an_event_is_not_one() {
    for vector in vectors(include_str!("../../../tests/vectors.json")) {
        let verifier = vector.verifier();
        let lines = vector.outgoing.header_refs();
        let request = vector.outgoing.as_signed_request(&lines);
        let result = verifier.handshakes().and_then(|preset| detect(preset, &request));
        assert_eq!(result.is_some(), vector.handshake, "{}", vector.scheme);
        let response = match result {
            Some(reply) => reply.unwrap().response,
            None => verifier.success_response(&vector.outgoing.body).unwrap(),
        };
        if let Some(status) = vector.response["status"].as_u64() {
            assert_eq!(u64::from(response.status), status, "{}", vector.scheme);
            let contains = vector.response["contains"].as_str().unwrap_or("");
            assert!(response.body.contains(contains), "{}: {}", vector.scheme, response.body);
        }
    }
}

#[test]
fn sns_is_verified_in_both_versions_and_only_for_signed_fields() {
    for vector in vectors(include_str!("../../../tests/sns.json")) {
        let verifier = vector.verifier();
        let at = vector.now_ms;
        assert_eq!(check(&verifier, &vector.outgoing, at), Ok(()));
        let text = String::from_utf8(vector.outgoing.body.clone()).unwrap();
        let mismatch = Err("signature does not match".to_owned());
        for (old, new, expected) in [
            ("Hello", "Hullo", mismatch.clone()),
            ("MyTopic", "HerTopic", mismatch.clone()),
            ("\"SignatureVersion\": \"1\"", "\"SignatureVersion\": \"2\"", mismatch.clone()),
            (
                "\"SignatureVersion\": \"2\"",
                "\"SignatureVersion\": \"3\"",
                Err("signature has an unknown version".to_owned()),
            ),
            (
                "{\"Type\"",
                "{\"Type\": \"Notification\", \"Type\"",
                Err("body lacks the fields that sns signs".to_owned()),
            ),
            ("SigningCertURL", "SigningCert", Ok(())),
        ] {
            let mut outgoing = vector.outgoing.clone();
            outgoing.body = text.replace(old, new).into_bytes();
            if outgoing.body != vector.outgoing.body {
                assert_eq!(check(&verifier, &outgoing, at), expected, "{new}");
            }
        }
        let hour = 3_600_000;
        assert!(check(&verifier, &vector.outgoing, at + 24 * hour).is_ok());
        let result = check(&verifier, &vector.outgoing, at + 24 * hour + 1000);
        assert_eq!(result, Err("timestamp is 86401 s old: at most 86400 s".to_owned()));
        let result = check(&verifier, &vector.outgoing, at - hour - 1000);
        assert_eq!(result, Err("timestamp is 3601 s ahead: at most 3600 s".to_owned()));
        let lines = vector.outgoing.header_refs();
        let request = vector.outgoing.as_signed_request(&lines);
        let result =
            verifier.handshakes().and_then(|preset| detect(preset, &request)).map(Result::unwrap);
        assert_eq!(result.is_some(), vector.handshake);
        if let Some(reply) = result {
            assert!(reply.operator_action.is_some() && reply.detail.contains("https://sns."));
            assert_eq!(reply.response.status, 200);
        }
    }
}

/// The nesting is deeper than a recursive parser could follow.
#[test]
fn a_deeply_nested_member_that_a_scheme_does_not_need_is_skipped() {
    let deep = format!("{{\"x\":{}{},", "[".repeat(100_000), "]".repeat(100_000));
    for vector in vectors(include_str!("../../../tests/vectors.json")) {
        let text = String::from_utf8_lossy(&vector.outgoing.body).into_owned();
        if !matches!(vector.scheme.as_str(), "mailgun" | "sns") || !text.starts_with('{') {
            continue;
        }
        let body = text.replacen('{', &deep, 1).into_bytes();
        let lines = vector.outgoing.header_refs();
        let request = SignedRequest { body: &body, ..vector.outgoing.as_signed_request(&lines) };
        assert_eq!(
            super::check_fresh(&vector.verifier(), &request, vector.now_ms),
            Ok(()),
            "{}",
            vector.scheme
        );
    }
}
