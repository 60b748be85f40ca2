//! Random headers, queries and bodies: no scheme panics, and none accepts them.

use ed25519_dalek::{Signer, SigningKey};
use proptest::prelude::*;

use super::super::{Scheme, SignedRequest, Verifier};
use super::vectors::{check, vectors};
use super::{check_at, verifier};

const NOW_MS: i64 = 1_764_000_000_000;

/// Headers that a scheme reads.
const HEADERS: &[&str] = &[
    "authorization",
    "x-t",
    "x-sig",
    "content-type",
    "webhook-id",
    "webhook-timestamp",
    "webhook-signature",
    "svix-id",
    "svix-timestamp",
    "svix-signature",
    "x-hub-signature-256",
    "x-hub-signature",
    "x-gitlab-token",
    "stripe-signature",
    "paddle-signature",
    "x-slack-signature",
    "x-slack-request-timestamp",
    "x-twilio-signature",
    "x-twilio-webhooks-signature-settings",
    "x-twilio-email-event-webhook-signature",
    "x-twilio-email-event-webhook-timestamp",
    "x-zm-signature",
    "x-zm-request-timestamp",
    "x-signature-ed25519",
    "x-signature-timestamp",
    "x-hubspot-signature-v3",
    "x-hubspot-request-timestamp",
    "linear-signature",
    "host",
];

/// A verifier of each scheme, with well-formed secrets.
fn all_verifiers() -> Vec<(&'static str, Verifier)> {
    let json = include_str!("../../../tests/vectors.json");
    let vectors = vectors(json);
    let build = |name: &'static str| {
        let verify = match name {
            "none" => return None,
            "token" => "scheme = \"token\", header = \"X-T\"".to_owned(),
            "basic" => "scheme = \"basic\", user = \"ada\"".to_owned(),
            "mailchimp" => "scheme = \"mailchimp\", query = \"key\"".to_owned(),
            "hmac" => "scheme = \"hmac\", header = \"X-Sig\"".to_owned(),
            name => format!("scheme = \"{name}\""),
        };
        let secret = vectors.iter().find(|vector| vector.scheme == name);
        let secret = secret.map_or("s3cret", |vector| vector.secret.as_str());
        Some((name, verifier(&verify, &[secret])))
    };
    Scheme::names().filter_map(build).collect()
}

/// Generates header values that are nearly valid.
fn header_value() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..80),
        "[ -~]{0,80}".prop_map(String::into_bytes),
        "(t|ts|v0|v1|v1a|h1|sha256|algorithm)[=,]?[0-9a-fA-F+/=,;:. v-]{0,140}"
            .prop_map(String::into_bytes),
        "[+-]?[0-9]{0,25}".prop_map(String::into_bytes),
        "application/(json|x-www-form-urlencoded)".prop_map(String::into_bytes),
        "multipart/form-data(; boundary=[ax\"]{0,3})?".prop_map(String::into_bytes),
    ]
}

fn body() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..200),
        r#"[\[\]{}":,a-z0-9\\u%&=+]{0,200}"#.prop_map(String::into_bytes),
        r#"\{"(Type|signature|value|type|event|challenge|webhookTimestamp)":[\[\]{}":,a-z0-9]{0,80}\}"#
            .prop_map(String::into_bytes),
        "(--a|\r\n|Content-Disposition: form-data; name=\"token\"|[a-z\"=-]{0,9}){0,12}"
            .prop_map(String::into_bytes),
        "((timestamp|token|signature|mandrill_events)=[0-9a-f%\\[\\]]{0,20}&){0,5}"
            .prop_map(String::into_bytes),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_scheme_panics_or_accepts_an_unsigned_request(
        lines in proptest::collection::vec((0..HEADERS.len(), header_value()), 0..12),
        query in proptest::option::of("[ -~]{0,80}"),
        body in body(),
        now_ms in prop_oneof![Just(NOW_MS), any::<i64>()],
    ) {
        thread_local! { static ALL: Vec<(&'static str, Verifier)> = all_verifiers(); }
        let lines: Vec<(&str, &[u8])> =
            lines.iter().map(|(name, value)| (HEADERS[*name], value.as_slice())).collect();
        ALL.with(|all| for (name, verifier) in all {
            for method in ["POST", "GET", "HEAD"] {
                let request = SignedRequest {
                    method,
                    path: "/hooks/a",
                    query: query.as_deref(),
                    headers: &lines,
                    body: &body,
                    secret_segment: None,
                    trusted_proxy_header: None,
                };
                assert!(verifier.check(&request, now_ms).is_err(), "{name}");
                if let Some(handshakes) = verifier.handshakes() {
                    let _ = handshakes.detect(&request, false);
                    let _ = handshakes.detect(&request, true);
                }
                let _ = verifier.success_response(&body);
            }
        });
    }
}

/// The cost decides where a request is checked: above 64 KiB not on an intake thread.
#[test]
fn the_cost_of_a_check_counts_each_text_that_each_key_hashes() {
    let timestamps: Vec<String> = (0..40).map(|at| format!("t={at},v1=aa")).collect();
    let stripe = timestamps.join(",");
    let paddle = stripe.replace("t=", "ts=").replace("v1", "h1").replace(",h", ";h");
    let standard = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    for (verify, secrets, (header, value), times) in [
        ("scheme = \"hmac\", header = \"X-Sig\"", &["one", "two"][..], ("x-sig", "aa"), 2),
        ("scheme = \"linear\"", &["one", "two"], ("linear-signature", "aa"), 2),
        ("scheme = \"hubspot\"", &["one"], ("x-hubspot-signature-v3", "aaaa"), 2),
        ("scheme = \"twilio\"", &["one"], ("x-twilio-signature", "aaaa"), 2),
        ("scheme = \"mandrill\"", &["one", "two"], ("x-mandrill-signature", "aaaa"), 2),
        ("scheme = \"standard\"", &[standard, standard], ("webhook-signature", "v1,aaaa"), 2),
        ("scheme = \"stripe\"", &["one"], ("stripe-signature", "t=1,v1=aa"), 1),
        ("scheme = \"stripe\"", &["one"], ("stripe-signature", &*stripe), 32),
        ("scheme = \"paddle\"", &["one", "two"], ("paddle-signature", &*paddle), 64),
    ] {
        let request = SignedRequest {
            method: "POST",
            path: "/hooks/a",
            query: None,
            headers: &[(header, value.as_bytes())],
            body: &[b'x'; 1000],
            secret_segment: None,
            trusted_proxy_header: None,
        };
        assert_eq!(verifier(verify, secrets).check_cost(&request), times * 1000, "{verify}");
    }
}

#[test]
fn a_point_of_small_order_is_not_a_valid_key() {
    // Points of order 1, 2 and 4 in canonical encoding. With one of the first two as key, S = 0
    // matches any text in a lenient check.
    let identity = "0100000000000000000000000000000000000000000000000000000000000000";
    let order_two = "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f";
    let zero = "0000000000000000000000000000000000000000000000000000000000000000";
    let headers = |signature: &str, time: &str| {
        [
            ("x-signature-ed25519".to_owned(), signature.to_owned()),
            ("x-signature-timestamp".to_owned(), time.to_owned()),
        ]
    };
    for key in [identity, order_two, zero] {
        // The configuration would reject such a key.
        let verifier = verifier("scheme = \"discord\"", &[key]);
        for point in [identity, order_two, zero] {
            let lines = headers(&format!("{point}{zero}"), "1764000000");
            let lines = lines.each_ref().map(|(name, value)| (name.as_str(), value.as_str()));
            assert!(check_at(&verifier, &lines, b"{}", NOW_MS).is_err());
        }
    }
    // A valid key, and a signature to whose S the order of the group was added. A lenient check
    // accepts it, and it would be another signature to a receiver that recognizes duplicates by
    // signature.
    let secret = SigningKey::from_bytes(&[7; 32]);
    let public = hex::encode(secret.verifying_key().as_bytes());
    let verifier = verifier("scheme = \"discord\"", &[&public]);
    let valid = secret.sign(b"1764000000{}").to_bytes();
    let lines = headers(&hex::encode(valid), "1764000000");
    let lines = lines.each_ref().map(|(name, value)| (name.as_str(), value.as_str()));
    assert_eq!(check_at(&verifier, &lines, b"{}", NOW_MS), Ok(()));
    let order = "edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010";
    let order = hex::decode(order).unwrap();
    let (mut other, mut carry) = (valid, 0u16);
    for at in 0..32 {
        carry += u16::from(other[32 + at]) + u16::from(order[at]);
        other[32 + at] = (carry & 0xff) as u8;
        carry >>= 8;
    }
    let lines = headers(&hex::encode(other), "1764000000");
    let lines = lines.each_ref().map(|(name, value)| (name.as_str(), value.as_str()));
    assert!(check_at(&verifier, &lines, b"{}", NOW_MS).is_err());
}

#[test]
fn discord_rejects_a_timestamp_outside_the_tolerance() {
    let secret = SigningKey::from_bytes(&[7; 32]);
    let public = hex::encode(secret.verifying_key().as_bytes());
    let verifier = verifier("scheme = \"discord\"", &[&public]);
    let signature = hex::encode(secret.sign(b"1764000000{}").to_bytes());
    let lines =
        [("x-signature-ed25519", signature.as_str()), ("x-signature-timestamp", "1764000000")];
    assert_eq!(check_at(&verifier, &lines, b"{}", NOW_MS + 300_000), Ok(()));
    let several = format!("{}, {signature}", "0".repeat(128));
    let several = [("x-signature-ed25519", several.as_str()), lines[1]];
    assert_eq!(check_at(&verifier, &several, b"{}", NOW_MS), Ok(()));
    for (now_ms, expected) in [
        (NOW_MS + 301_000, "timestamp is 301 s old: at most 300 s"),
        (NOW_MS - 301_000, "timestamp is 301 s ahead: at most 300 s"),
    ] {
        assert_eq!(check_at(&verifier, &lines, b"{}", now_ms), Err(expected.to_owned()));
    }
    assert_eq!(
        check_at(&verifier, &[("x-signature-ed25519", "zz"), lines[1]], b"{}", NOW_MS),
        Err("signature is not hex".to_owned())
    );
    let short = [("x-signature-ed25519", &signature[2..]), lines[1]];
    let mismatch = Err("signature does not match".to_owned());
    assert_eq!(check_at(&verifier, &short, b"{}", NOW_MS), mismatch);
    assert_eq!(
        check_at(&verifier, &lines[..1], b"{}", NOW_MS),
        Err("no x-signature-timestamp header".into())
    );
}

#[test]
fn sendgrid_rejects_a_timestamp_outside_the_tolerance() {
    let json = include_str!("../../../tests/vectors.json");
    let vector = vectors(json).into_iter().find(|vector| vector.scheme == "sendgrid").unwrap();
    let (verifier, at) = (vector.verifier(), vector.now_ms);
    let result = check(&verifier, &vector.outgoing, at + 301_000);
    assert_eq!(result, Err("timestamp is 301 s old: at most 300 s".to_owned()));
    let result = check(&verifier, &vector.outgoing, at - 301_000);
    assert_eq!(result, Err("timestamp is 301 s ahead: at most 300 s".to_owned()));
    let mut outgoing = vector.outgoing.clone();
    outgoing.set_header("x-twilio-email-event-webhook-signature", "MEYCIQ==");
    let mismatch = Err("signature does not match".to_owned());
    assert_eq!(check(&verifier, &outgoing, at), mismatch);
    let valid = vector.outgoing.header("x-twilio-email-event-webhook-signature").unwrap();
    outgoing.set_header("x-twilio-email-event-webhook-signature", format!("MEYCIQ==, {valid}"));
    assert_eq!(check(&verifier, &outgoing, at), Ok(()));
    outgoing.set_header("x-twilio-email-event-webhook-signature", "MEYCIQ");
    assert_eq!(check(&verifier, &outgoing, at), Err("signature is not base64".to_owned()));
}
