//! The schemes against requests that others signed (tests/vectors.json), and against what is wrong.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::{Asked, Verifier};
use crate::config::{self, SecretRef, Secrets};

/// A verifier of `verify = { … }`, whose secrets are `{ env = "S0" }` and on.
fn verifier(verify: &str, secrets: &[&str]) -> Verifier {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.toml");
    let names: Vec<String> =
        (0..secrets.len()).map(|number| format!("{{ env = \"S{number}\" }}")).collect();
    let text = format!("[sources.a]\nverify = {{ {verify}, secret = [{}] }}\n", names.join(", "));
    std::fs::write(&file, text).unwrap();
    let loaded = config::load(&file).unwrap();
    let mut known = Secrets::default();
    for (number, secret) in secrets.iter().enumerate() {
        known.insert(SecretRef::Env(format!("S{number}")), secret.as_bytes().to_vec());
    }
    Verifier::new(&loaded.config.sources[0], &known)
}

fn check(verifier: &Verifier, headers: &[(&str, &str)], body: &[u8]) -> Result<(), String> {
    check_at(verifier, headers, body, 0)
}

fn check_at(
    verifier: &Verifier,
    headers: &[(&str, &str)],
    body: &[u8],
    now_ms: i64,
) -> Result<(), String> {
    let headers: Vec<(&str, &[u8])> =
        headers.iter().map(|(name, value)| (*name, value.as_bytes())).collect();
    let asked = Asked {
        method: "POST",
        path: "/hooks/a",
        query: Some("key=a%20b&other=1"),
        headers: &headers,
        body,
        secret_segment: Some("segment"),
        proxied: false,
    };
    verifier.check(&asked, now_ms)
}

#[test]
fn what_a_sender_signed_is_let_in_and_nothing_that_was_changed() {
    let vectors: Vec<Value> =
        serde_json::from_str(include_str!("../../../tests/vectors.json")).unwrap();
    let mut tried = 0;
    for vector in &vectors {
        let name = vector["scheme"].as_str().unwrap();
        if !config::scheme(name).is_some_and(|scheme| scheme.known) {
            continue;
        }
        tried += 1;
        let verifier = verifier(
            &format!("scheme = \"{name}\""),
            &["other", vector["secret"].as_str().unwrap()],
        );
        let headers: Vec<(String, &str)> = vector["headers"]
            .as_object()
            .unwrap()
            .iter()
            .map(|(name, value)| (name.to_ascii_lowercase(), value.as_str().unwrap()))
            .collect();
        let headers: Vec<(&str, &str)> =
            headers.iter().map(|(name, value)| (name.as_str(), *value)).collect();
        let mut body = STANDARD.decode(vector["body_base64"].as_str().unwrap()).unwrap();
        let now_ms = vector["now"].as_i64().unwrap() * 1000;
        assert_eq!(check_at(&verifier, &headers, &body, now_ms), Ok(()), "{vector}");
        body.push(b' ');
        assert!(check_at(&verifier, &headers, &body, now_ms).is_err(), "{vector}");
        assert!(check_at(&verifier, &[], &body, now_ms).is_err(), "{vector}");
    }
    assert!(tried > 0);
}

#[test]
fn a_signature_is_read_strictly() {
    let hex = verifier("scheme = \"hmac\", header = \"X-Sig\"", &["key"]);
    let check = |value: &str| check(&hex, &[("x-sig", value)], b"body");
    let signed = ring::hmac::sign(&ring::hmac::Key::new(ring::hmac::HMAC_SHA256, b"key"), b"body");
    let right = hex::encode(signed);
    assert_eq!(check(&right), Ok(()));
    assert_eq!(check(&right.to_uppercase()), Ok(()));
    for wrong in [&right[2..], &format!("{right}00"), &format!(" {right}x"), "", "zz"] {
        assert!(check(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn a_recipe_is_built_as_it_says_and_old_time_stamps_are_refused() {
    let recipe = r#"scheme = "hmac", header = "X-Sig", prefix = "v1=", encoding = "base64",
        algorithm = "sha512", signed = "{method}:{id}.{timestamp}.{body}", tolerance = "5m",
        timestamp_header = "X-Time", id_header = "X-Id""#;
    let recipe = recipe.split_whitespace().collect::<Vec<_>>().join(" ");
    let verifier = verifier(&recipe, &["key"]);
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA512, b"key");
    let signature = format!("v1={}", STANDARD.encode(ring::hmac::sign(&key, b"POST:7.1000.body")));
    let headers = [("x-sig", signature.as_str()), ("x-time", "1000"), ("x-id", "7")];
    for (now_s, right) in [(1000, true), (1300, true), (700, true), (1301, false), (699, false)] {
        let found = check_at(&verifier, &headers, b"body", now_s * 1000);
        assert_eq!(found.is_ok(), right, "{now_s}: {found:?}");
    }
    let forged = [("x-sig", signature.as_str()), ("x-time", "1001"), ("x-id", "7")];
    let found = check_at(&verifier, &forged, b"body", 1_000_000);
    assert_eq!(found, Err("signature does not match".to_owned()));
}

#[test]
fn a_token_is_found_where_it_should_be_and_nowhere_else() {
    let header = verifier("scheme = \"token\", header = \"X-T\"", &["one", "two"]);
    assert_eq!(check(&header, &[("x-t", "two")], b""), Ok(()));
    assert!(check(&header, &[("x-t", "twoo")], b"").is_err());
    assert!(check(&header, &[("x-t", "one"), ("x-t", "one")], b"").is_err());
    let query = verifier("scheme = \"token\", query = \"key\"", &["a b"]);
    assert_eq!(check(&query, &[], b""), Ok(()));
    let segment = verifier("scheme = \"token\", segment = true", &["segment"]);
    assert_eq!(check(&segment, &[], b""), Ok(()));
    let other = verifier("scheme = \"token\", segment = true", &["other"]);
    assert!(check(&other, &[], b"").is_err());
}

#[test]
fn no_reason_tells_a_secret() {
    for verify in
        ["scheme = \"token\", header = \"X-T\"", "scheme = \"bearer\"", "scheme = \"paminga\""]
    {
        let verifier = verifier(verify, &["the-secret"]);
        let headers = [("x-t", "x"), ("authorization", "Bearer x"), ("x-paminga-signature", "00")];
        let reason = check(&verifier, &headers, b"").unwrap_err();
        assert!(!reason.contains("the-secret"), "{reason}");
    }
}
