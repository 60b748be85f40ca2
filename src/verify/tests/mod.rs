//! Tests of the schemes that a configuration defines (`token`, `basic`, `bearer`, `hmac`) and of
//! what all schemes have in common. The presets are tested against real signatures in `vectors`,
//! against invalid requests in `rejected`, and against random input in `hostile`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::{ProxyHeader, Reason, SignedRequest, Verifier};
use crate::config::{self, SecretRef, Secrets};

mod delivery_key;
mod handshakes;
mod hostile;
mod rejected;
mod vectors;

/// Builds a verifier from `verify = { … }`, whose secrets are `{ env = "S0" }` and on.
pub fn verifier(verify: &str, secrets: &[&str]) -> Verifier {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.toml");
    let names: Vec<String> =
        (0..secrets.len()).map(|number| format!("{{ env = \"S{number}\" }}")).collect();
    let text = format!("[sources.a]\nverify = {{ {verify}, secret = [{}] }}\n", names.join(", "));
    std::fs::write(&file, text).unwrap();
    let loaded = config::load(&file).unwrap();
    let mut values = Secrets::default();
    for (number, secret) in secrets.iter().enumerate() {
        values.insert(SecretRef::Env(format!("S{number}")), secret.as_bytes().to_vec());
    }
    loaded.config.sources[0].verifier(&values)
}

/// Builds a verifier whose secret is not available.
fn without_secrets(verify: &str) -> Verifier {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.toml");
    let text = format!("[sources.a]\nverify = {{ {verify}, secret = {{ env = \"X\" }} }}\n");
    std::fs::write(&file, text).unwrap();
    config::load(&file).unwrap().config.sources[0].verifier(&Secrets::default())
}

/// Recognizes a handshake, whether it requires a signature or not.
fn detect(
    preset: &super::PresetHandshakes,
    request: &SignedRequest<'_>,
) -> Option<Result<super::HandshakeReply, Reason>> {
    preset.detect(request, false).or_else(|| preset.detect(request, true))
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
    let request = SignedRequest {
        method: "POST",
        path: "/hooks/a",
        query: Some("key=a%20b&other=1"),
        headers: &headers,
        body,
        secret_segment: Some("segment"),
        trusted_proxy_header: None,
    };
    check_fresh(verifier, &request, now_ms)
}

/// Verifies a request that must not be stale.
pub fn check_fresh(
    verifier: &Verifier,
    request: &SignedRequest<'_>,
    now_ms: i64,
) -> Result<(), String> {
    let proof = verifier.check(request, now_ms).map_err(|reason| reason.to_string())?;
    proof.stale_reason.map_or(Ok(()), |reason| Err(reason.to_string()))
}

#[test]
fn a_signature_is_parsed_strictly() {
    let hex = verifier("scheme = \"hmac\", header = \"X-Sig\"", &["key"]);
    let check = |value: &str| check(&hex, &[("x-sig", value)], b"body");
    let signed = ring::hmac::sign(&ring::hmac::Key::new(ring::hmac::HMAC_SHA256, b"key"), b"body");
    let valid = hex::encode(signed);
    assert_eq!(check(&valid), Ok(()));
    assert_eq!(check(&valid.to_uppercase()), Ok(()));
    for wrong in [&valid[2..], &format!("{valid}00"), &format!(" {valid}x"), "", "zz"] {
        assert!(check(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn an_hmac_signs_the_configured_parts_and_a_timestamp_outside_the_tolerance_is_stale() {
    let keys = r#"scheme = "hmac", header = "X-Sig", prefix = "v1=", encoding = "base64",
        algorithm = "sha512", signed = "{method}:{id}.{timestamp}.{body}", tolerance = "5m",
        timestamp_header = "X-Time", id_header = "X-Id""#;
    let keys = keys.split_whitespace().collect::<Vec<_>>().join(" ");
    let verifier = verifier(&keys, &["key"]);
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA512, b"key");
    let signature = format!("v1={}", STANDARD.encode(ring::hmac::sign(&key, b"POST:7.1000.body")));
    let headers = [("x-sig", signature.as_str()), ("x-time", "1000"), ("x-id", "7")];
    for (now_s, is_fresh) in [(1000, true), (1300, true), (700, true), (1301, false), (699, false)]
    {
        let result = check_at(&verifier, &headers, b"body", now_s * 1000);
        assert_eq!(result.is_ok(), is_fresh, "{now_s}: {result:?}");
    }
    let forged = [("x-sig", signature.as_str()), ("x-time", "1001"), ("x-id", "7")];
    let result = check_at(&verifier, &forged, b"body", 1_000_000);
    assert_eq!(result, Err("signature does not match".to_owned()));
}

#[test]
fn a_token_is_read_only_from_its_configured_place() {
    let header = verifier("scheme = \"token\", header = \"X-T\"", &["one", "two"]);
    assert_eq!(check(&header, &[("x-t", "two")], b""), Ok(()));
    assert!(check(&header, &[("x-t", "twoo")], b"").is_err());
    assert!(check(&header, &[("x-t", "one"), ("x-t", "one")], b"").is_err());
    let query = verifier("scheme = \"token\", query = \"key\"", &["a b"]);
    assert_eq!(check(&query, &[], b""), Ok(()));
    let segment = verifier("scheme = \"token\", path_token = true", &["segment"]);
    assert_eq!(check(&segment, &[], b""), Ok(()));
    let other = verifier("scheme = \"token\", path_token = true", &["other"]);
    assert!(check(&other, &[], b"").is_err());
}

#[test]
fn no_reason_contains_a_secret() {
    for verify in
        ["scheme = \"token\", header = \"X-T\"", "scheme = \"bearer\"", "scheme = \"paminga\""]
    {
        let verifier = verifier(verify, &["the-secret"]);
        let headers = [("x-t", "x"), ("authorization", "Bearer x"), ("x-paminga-signature", "00")];
        let reason = check(&verifier, &headers, b"").unwrap_err();
        assert!(!reason.contains("the-secret"), "{reason}");
    }
}

#[test]
fn the_public_url_comes_only_from_the_configured_header_of_a_trusted_proxy() {
    let verifier = verifier(r#"scheme = "hmac", header = "X-Sig", signed = "{url}""#, &["key"]);
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, b"key");
    let check = |headers: &[(&str, &str)], proxy_header: Option<ProxyHeader>, url: &str| {
        let signature = hex::encode(ring::hmac::sign(&key, url.as_bytes()));
        let mut lines: Vec<(&str, &[u8])> = vec![("x-sig", signature.as_bytes())];
        lines.extend(headers.iter().map(|(name, value)| (*name, value.as_bytes())));
        let request = SignedRequest {
            method: "POST",
            path: "/hooks/a",
            query: Some("b=1"),
            headers: &lines,
            body: b"",
            secret_segment: None,
            trusted_proxy_header: proxy_header,
        };
        assert_eq!(
            check_fresh(&verifier, &request, 0),
            Ok(()),
            "{headers:?} through {proxy_header:?}"
        );
    };
    let x = Some(ProxyHeader::XForwardedFor);
    let both = [
        ("host", "inner:8080"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "x.example.com"),
        (
            "forwarded",
            r#"for=6.6.6.6;host=six, for=192.0.2.1;HOST="f.example.com:8443";proto=https"#,
        ),
    ];
    check(&both, None, "http://inner:8080/hooks/a?b=1");
    check(&both, x, "https://x.example.com/hooks/a?b=1");
    check(&both, Some(ProxyHeader::Forwarded), "https://f.example.com:8443/hooks/a?b=1");
    let chain =
        [("host", "inner"), ("x-forwarded-proto", "http"), ("x-forwarded-proto", "a, https")];
    check(&chain, x, "https://inner/hooks/a?b=1");
    check(&[("host", "inner")], x, "http://inner/hooks/a?b=1");
}

#[test]
fn basic_and_bearer_read_only_authorization() {
    let basic = verifier(r#"scheme = "basic", user = "ada""#, &["old", "pass:word"]);
    let check_value =
        |verifier: &Verifier, value: &str| check(verifier, &[("authorization", value)], b"");
    let pair = |text: &str| format!("bAsIc {}", STANDARD.encode(text));
    assert_eq!(check_value(&basic, &pair("ada:pass:word")), Ok(()));
    assert_eq!(check_value(&basic, &pair("ada:old")), Ok(()));
    for wrong in ["bob:old", "ada:", "ada", ":old", "ada:older"] {
        let result = check_value(&basic, &pair(wrong));
        assert_eq!(result, Err("user or password does not match".to_owned()), "{wrong}");
    }
    let result = check_value(&basic, "Basic YWRhOm9sZB==");
    assert_eq!(result, Err("basic credentials are not base64".to_owned()));
    assert_eq!(check_value(&basic, "Bearer old"), Err("authorization is not basic".to_owned()));
    assert_eq!(basic.www_authenticate(), Some(r#"Basic realm="hooktrail""#));

    let bearer = verifier("scheme = \"bearer\"", &["old", "new"]);
    assert_eq!(check_value(&bearer, "Bearer  new"), Ok(()));
    for wrong in ["Bearer", "Bearer ", "Bearer new2", "new", "Basic new"] {
        assert!(check_value(&bearer, wrong).is_err(), "{wrong}");
    }
    assert_eq!(check(&bearer, &[], b""), Err("no authorization header".to_owned()));
    assert_eq!(bearer.www_authenticate(), Some("Bearer"));
}

#[test]
fn a_stale_timestamp_says_how_far_it_is_off_and_never_overflows() {
    let keys = r#"scheme = "hmac", header = "X-Sig", signed = "{timestamp}", tolerance = "300s",
        timestamp_header = "X-Time", timestamp_unit = "ms""#;
    let keys = keys.split_whitespace().collect::<Vec<_>>().join(" ");
    let verifier = verifier(&keys, &["key"]);
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, b"key");
    let now_ms = 1_764_000_000_000;
    for (time, expected) in [
        ("1764000000000", None),
        ("1763999588000", Some("timestamp is 412 s old: at most 300 s")),
        ("1764000301000", Some("timestamp is 301 s ahead: at most 300 s")),
        ("soon", Some("timestamp is not a number")),
        ("", Some("timestamp is not a number")),
        ("99999999999999999999", Some("timestamp is not a number")),
    ] {
        let signature = hex::encode(ring::hmac::sign(&key, time.as_bytes()));
        let result = check_at(&verifier, &[("x-sig", &signature), ("x-time", time)], b"", now_ms);
        assert_eq!(result.err().as_deref(), expected, "{time}");
    }
    for time in [i64::MIN, i64::MAX] {
        let time = time.to_string();
        let signature = hex::encode(ring::hmac::sign(&key, time.as_bytes()));
        assert!(
            check_at(&verifier, &[("x-sig", &signature), ("x-time", &time)], b"", now_ms).is_err()
        );
    }
}

#[test]
fn a_verifier_without_secrets_rejects_every_request() {
    let signature =
        hex::encode(ring::hmac::sign(&ring::hmac::Key::new(ring::hmac::HMAC_SHA256, b""), b""));
    let headers = [
        ("x-t", ""),
        ("authorization", "Bearer "),
        ("x-sig", signature.as_str()),
        ("x-paminga-signature", signature.as_str()),
    ];
    for verify in [
        "scheme = \"token\", header = \"X-T\"",
        "scheme = \"bearer\"",
        "scheme = \"basic\", user = \"ada\"",
        "scheme = \"hmac\", header = \"X-Sig\"",
        "scheme = \"paminga\"",
    ] {
        let verifier = without_secrets(verify);
        assert!(check(&verifier, &headers, b"").is_err(), "{verify}");
    }
}
