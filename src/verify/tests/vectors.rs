//! Requests that others signed: tests/vectors.json (the senders' own libraries and documentation),
//! and tests/sns.json (openssl).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::super::{OutgoingRequest, SignedRequest, Verifier};
use super::{ask, verifier};

/// A request of a file of vectors.
pub(super) struct Vector {
    pub scheme: String,
    pub secret: String,
    pub url: String,
    pub draft: OutgoingRequest,
    pub now_ms: i64,
    pub handshake: bool,
    pub answer: Value,
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
    let draft = OutgoingRequest {
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
        draft,
        now_ms: json["now"].as_i64().unwrap() * 1000,
        handshake: json["handshake"] == true,
        answer: json["answer"].clone(),
        url,
    }
}

impl Vector {
    pub fn verifier(&self) -> Verifier {
        let url = match self.scheme.as_str() {
            // Without it the URL is put together from the request's own Host.
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
    draft: &OutgoingRequest,
    now_ms: i64,
) -> Result<(), String> {
    let lines = draft.header_refs();
    super::fresh(verifier, &draft.as_signed_request(&lines), now_ms)
}

#[test]
fn what_a_sender_signed_is_let_in_and_nothing_that_was_changed() {
    for vector in vectors(include_str!("../../../tests/vectors.json")) {
        let (verifier, now_ms, name) = (vector.verifier(), vector.now_ms, &vector.scheme);
        assert_eq!(check(&verifier, &vector.draft, now_ms), Ok(()), "{name}");
        // With these three nobody vouches for the bytes of the body.
        if !matches!(name.as_str(), "gitlab" | "mailgun" | "sns") {
            let mut changed = vector.draft.clone();
            changed.body.push(b' ');
            assert!(check(&verifier, &changed, now_ms).is_err(), "{name}");
            let mut changed = vector.draft.clone();
            changed.body[5] ^= 1;
            assert!(check(&verifier, &changed, now_ms).is_err(), "{name}");
        }
        let others = super::verifier(
            &format!("scheme = \"{name}\", url = \"https://hooks.example.com/\""),
            &["other"],
        );
        assert!(check(&others, &vector.draft, now_ms).is_err(), "{name}");
        let mut bare = vector.draft.clone();
        bare.headers.clear();
        bare.body = b"{}".to_vec();
        assert!(check(&verifier, &bare, now_ms).is_err(), "{name}");
    }
}

#[test]
fn a_handshake_is_known_and_answered_and_an_event_is_none() {
    for vector in vectors(include_str!("../../../tests/vectors.json")) {
        let verifier = vector.verifier();
        let lines = vector.draft.header_refs();
        let asked = vector.draft.as_signed_request(&lines);
        let found = verifier.handshake().and_then(|it| ask(it, &asked));
        assert_eq!(found.is_some(), vector.handshake, "{}", vector.scheme);
        let answer = match found {
            Some(found) => found.unwrap().answer,
            None => verifier.answer(&vector.draft.body).unwrap(),
        };
        if let Some(status) = vector.answer["status"].as_u64() {
            assert_eq!(u64::from(answer.status), status, "{}", vector.scheme);
            let contains = vector.answer["contains"].as_str().unwrap_or("");
            assert!(answer.body.contains(contains), "{}: {}", vector.scheme, answer.body);
        }
    }
}

#[test]
fn sns_is_believed_in_both_versions_and_only_for_what_is_signed() {
    for vector in vectors(include_str!("../../../tests/sns.json")) {
        let verifier = vector.verifier();
        let at = vector.now_ms;
        assert_eq!(check(&verifier, &vector.draft, at), Ok(()));
        let text = String::from_utf8(vector.draft.body.clone()).unwrap();
        let mismatch = Err("signature does not match".to_owned());
        for (old, new, expected) in [
            ("Hello", "Hullo", mismatch.clone()),
            ("MyTopic", "HerTopic", mismatch.clone()),
            ("\"SignatureVersion\": \"1\"", "\"SignatureVersion\": \"2\"", mismatch.clone()),
            (
                "\"SignatureVersion\": \"2\"",
                "\"SignatureVersion\": \"3\"",
                Err("signature is of an unknown version".to_owned()),
            ),
            (
                "{\"Type\"",
                "{\"Type\": \"Notification\", \"Type\"",
                Err("body has not the fields that sns signs".to_owned()),
            ),
            ("SigningCertURL", "SigningCert", Ok(())),
        ] {
            let mut draft = vector.draft.clone();
            draft.body = text.replace(old, new).into_bytes();
            if draft.body != vector.draft.body {
                assert_eq!(check(&verifier, &draft, at), expected, "{new}");
            }
        }
        let hour = 3_600_000;
        assert!(check(&verifier, &vector.draft, at + 24 * hour).is_ok());
        let found = check(&verifier, &vector.draft, at + 24 * hour + 1000);
        assert_eq!(found, Err("timestamp is 86401 s old: at most 86400 s".to_owned()));
        let found = check(&verifier, &vector.draft, at - hour - 1000);
        assert_eq!(found, Err("timestamp is 3601 s ahead: at most 3600 s".to_owned()));
        let lines = vector.draft.header_refs();
        let asked = vector.draft.as_signed_request(&lines);
        let found = verifier.handshake().and_then(|it| ask(it, &asked)).map(Result::unwrap);
        assert_eq!(found.is_some(), vector.handshake);
        if let Some(found) = found {
            assert!(found.operator_action.is_some() && found.detail.contains("https://sns."));
            assert_eq!(found.answer.status, 200);
        }
    }
}

/// As a person would who reads the body of a request.
#[test]
fn what_reads_the_body_reads_no_more_than_it_needs() {
    let deep = format!("{{\"x\":{}{},", "[".repeat(100_000), "]".repeat(100_000));
    for vector in vectors(include_str!("../../../tests/vectors.json")) {
        let text = String::from_utf8_lossy(&vector.draft.body).into_owned();
        if !matches!(vector.scheme.as_str(), "mailgun" | "sns") || !text.starts_with('{') {
            continue;
        }
        let body = text.replacen('{', &deep, 1).into_bytes();
        let lines = vector.draft.header_refs();
        let asked = SignedRequest { body: &body, ..vector.draft.as_signed_request(&lines) };
        assert_eq!(
            super::fresh(&vector.verifier(), &asked, vector.now_ms),
            Ok(()),
            "{}",
            vector.scheme
        );
    }
}
