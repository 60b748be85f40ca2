//! Requests of every scheme that can sign, signed as its sender does and then made invalid, one direction
//! at a time. Also the schemes that only their senders can sign for.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::super::key_material::parse_standard_keys;
use super::super::{CredentialLocation, OutgoingRequest, Verifier};
use super::vectors::check;
use super::verifier;

const NOW_MS: i64 = 1_764_000_000_000;
const JSON: &str = "application/json";
const FORM: &str = "application/x-www-form-urlencoded";

/// Whether the scheme has a timestamp.
#[derive(Clone, Copy, PartialEq)]
enum TimestampCase {
    None,
    /// TimestampTolerance in milliseconds, back and ahead.
    Within(i64, i64),
}

struct Case {
    verify: &'static str,
    /// The valid one, and another.
    secrets: [&'static str; 2],
    body: &'static str,
    content_type: &'static str,
    /// The header that holds the signature.
    header: &'static str,
    /// The reason for an unreadable `header`.
    unreadable: &'static str,
    mismatch: &'static str,
    time: TimestampCase,
    /// The signature covers_body the body.
    covers_body: bool,
}

const TEXT: [&str; 2] = ["s3cret", "another"];
const KEYS: [&str; 2] = [
    "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
    "whsec_HxECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8",
];
const BODY: &str =
    r#"{"id":"evt_1","name":"Za\u017c\u00f3\u0142\u0107 🚀","n":12345678901234567890}"#;
const FIVE: TimestampCase = TimestampCase::Within(300_000, 300_000);
const NINE_HOURS: TimestampCase = TimestampCase::Within(9 * 3_600_000, 300_000);
const NOT_HEX: &str = "signature is not hex";
const NOT_BASE64: &str = "signature is not base64";

const fn case(verify: &'static str, header: &'static str, unreadable: &'static str) -> Case {
    Case {
        verify,
        secrets: TEXT,
        body: BODY,
        content_type: JSON,
        header,
        unreadable,
        mismatch: "signature does not match",
        time: TimestampCase::None,
        covers_body: true,
    }
}

const fn case_with_timestamp(
    verify: &'static str,
    header: &'static str,
    unreadable: &'static str,
) -> Case {
    Case { time: FIVE, ..case(verify, header, unreadable) }
}

const fn token(verify: &'static str, header: &'static str, mismatch: &'static str) -> Case {
    Case { mismatch, covers_body: false, ..case(verify, header, mismatch) }
}

const URL: &str = "https://hooks.example.com/hooks/a";

#[rustfmt::skip]
const CASES: &[Case] = &[
    token("scheme = 'token', header = 'X-T'", "x-t", "token in the header does not match"),
    token("scheme = 'token', query = 'key'", "", "token in the query parameter does not match"),
    token("scheme = 'token', path_token = true", "", "token in the path segment does not match"),
    token("scheme = 'bearer'", "authorization", "bearer token does not match"),
    token("scheme = 'basic', user = 'ada'", "authorization", "user or password does not match"),
    case("scheme = 'hmac', header = 'X-Sig'", "x-sig", NOT_HEX),
    case_with_timestamp(
        "scheme = 'hmac', header = 'X-Sig', encoding = 'base64', timestamp_header = 'X-Time', \
         id_header = 'X-Id', signed = '{method} {url} {id} {timestamp} {body}'",
        "x-sig", NOT_BASE64,
    ),
    case("scheme = 'paminga'", "x-paminga-signature", NOT_HEX),
    case("scheme = 'paminga', header = 'Signature'", "signature", NOT_HEX),
    Case { secrets: KEYS, ..case_with_timestamp("scheme = 'standard'", "webhook-signature", "no v1 or v1a in webhook-signature") },
    case("scheme = 'github'", "x-hub-signature-256", "x-hub-signature-256 does not begin with \"sha256=\""),
    token("scheme = 'gitlab'", "x-gitlab-token", "token in the header does not match"),
    case_with_timestamp("scheme = 'stripe'", "stripe-signature", "no t in stripe-signature"),
    case("scheme = 'shopify'", "x-shopify-hmac-sha256", NOT_BASE64),
    case_with_timestamp("scheme = 'slack'", "x-slack-signature", "x-slack-signature does not begin with \"v0=\""),
    Case { content_type: FORM, body: "b=1&a=%C3%A4+x&b=0&b=1&c", ..case("scheme = 'twilio'", "x-twilio-signature", NOT_BASE64) },
    case("scheme = 'twilio'", "x-twilio-signature", NOT_BASE64),
    Case { covers_body: false, time: NINE_HOURS, ..case_with_timestamp("scheme = 'mailgun'", "", "") },
    Case { covers_body: false, time: NINE_HOURS, content_type: FORM, body: "subject=x", ..case_with_timestamp("scheme = 'mailgun'", "", "") },
    token("scheme = 'mailchimp', query = 'key'", "", "token in the query parameter does not match"),
    token("scheme = 'mailchimp', path_token = true", "", "token in the path segment does not match"),
    Case { content_type: FORM, body: "mandrill_events=%5B1%5D&a=2&a=1", ..case("scheme = 'mandrill'", "x-mandrill-signature", NOT_BASE64) },
    case("scheme = 'meta', verify_token = { env = 'T' }", "x-hub-signature-256", "x-hub-signature-256 does not begin with \"sha256=\""),
    case_with_timestamp("scheme = 'zoom'", "x-zm-signature", "x-zm-signature does not begin with \"v0=\""),
    case_with_timestamp("scheme = 'paddle'", "paddle-signature", "no ts in paddle-signature"),
    case("scheme = 'square'", "x-square-hmacsha256-signature", NOT_BASE64),
    case_with_timestamp("scheme = 'hubspot'", "x-hubspot-signature-v3", NOT_BASE64),
    Case { time: TimestampCase::Within(8 * 3_600_000, 60_000), ..case("scheme = 'linear'", "linear-signature", NOT_HEX) },
    case("scheme = 'bitbucket'", "x-hub-signature", "x-hub-signature does not begin with \"sha256=\""),
    case("scheme = 'dropbox'", "x-dropbox-signature", NOT_HEX),
    case("scheme = 'trello'", "x-trello-webhook", NOT_BASE64),
    Case { covers_body: false, body: r#"{"value":[{"a":1},{"clientState":"old"}]}"#, ..token("scheme = 'microsoft-graph'", "", "clientState does not match") },
];

impl Case {
    fn verifier(&self, secrets: &[&str]) -> Verifier {
        let url = format!(", url = '{URL}'");
        verifier(&format!("{}{url}", self.verify).replace('\'', "\""), secrets)
    }

    fn unsigned(&self) -> OutgoingRequest {
        OutgoingRequest {
            method: "POST".to_owned(),
            path: "/hooks/a".to_owned(),
            query: Some("a=1%2C2".to_owned()),
            headers: vec![
                ("host".to_owned(), "hooks.example.com".to_owned()),
                ("content-type".to_owned(), self.content_type.to_owned()),
            ],
            body: self.body.as_bytes().to_vec(),
            id: "7f3c".to_owned(),
            is_corrupt: false,
        }
    }

    fn signed_by(&self, secret: &str) -> OutgoingRequest {
        let mut outgoing = self.unsigned();
        let signed = self.verifier(&[secret]).sign(&mut outgoing, NOW_MS);
        assert_eq!(signed, Ok(()), "{}", self.verify);
        outgoing
    }

    fn signed(&self) -> OutgoingRequest {
        self.signed_by(self.secrets[0])
    }

    #[track_caller]
    fn assert_check(&self, outgoing: &OutgoingRequest, now_ms: i64, expected: Result<(), &str>) {
        let verifier = self.verifier(&self.secrets[..1]);
        let result = check_as_received(&verifier, outgoing, now_ms);
        assert_eq!(result.as_ref().map_err(String::as_str).copied(), expected, "{}", self.verify);
    }
}

/// Checks the request as it arrives: a token in the last segment of the path is taken off.
fn check_as_received(
    verifier: &Verifier,
    outgoing: &OutgoingRequest,
    now_ms: i64,
) -> Result<(), String> {
    if verifier.secret_location() != Some(&CredentialLocation::PathSegment) {
        return check(verifier, outgoing, now_ms);
    }
    let lines = outgoing.header_refs();
    let segment = outgoing.path.rsplit('/').next().unwrap();
    let request = super::super::SignedRequest {
        secret_segment: Some(segment),
        ..outgoing.as_signed_request(&lines)
    };
    super::check_fresh(verifier, &request, now_ms)
}

#[test]
fn a_request_that_a_scheme_signs_is_accepted_twice() {
    for case in CASES {
        case.assert_check(&case.signed(), NOW_MS, Ok(()));
        case.assert_check(&case.signed(), NOW_MS, Ok(()));
    }
}

#[test]
fn either_of_two_secrets_is_accepted() {
    for case in CASES {
        let both = case.verifier(&case.secrets);
        for secret in case.secrets {
            let outgoing = case.signed_by(secret);
            assert_eq!(check_as_received(&both, &outgoing, NOW_MS), Ok(()), "{}", case.verify);
        }
    }
}

#[test]
fn another_secret_and_an_invalid_signature_are_rejected() {
    for case in CASES {
        case.assert_check(&case.signed_by(case.secrets[1]), NOW_MS, Err(case.mismatch));
        let mut outgoing = OutgoingRequest { is_corrupt: true, ..case.unsigned() };
        case.verifier(&case.secrets).sign(&mut outgoing, NOW_MS).unwrap();
        case.assert_check(&outgoing, NOW_MS, Err(case.mismatch));
    }
}

#[test]
fn a_body_changed_by_one_byte_is_rejected() {
    for case in CASES.iter().filter(|case| case.covers_body) {
        let mut outgoing = case.signed();
        let middle = outgoing.body.len() / 2;
        outgoing.body[middle] ^= 1;
        let verifier = case.verifier(&case.secrets[..1]);
        let result = check(&verifier, &outgoing, NOW_MS).unwrap_err();
        let expected = [case.mismatch, "bodySHA256 in the URL does not match the body"];
        assert!(expected.contains(&result.as_str()), "{}: {result}", case.verify);
    }
}

#[test]
fn the_reason_names_a_missing_or_unreadable_header_and_a_repeated_token() {
    for case in CASES.iter().filter(|case| !case.header.is_empty()) {
        let signed = case.signed();
        let mut outgoing = signed.clone();
        outgoing.headers.retain(|(name, _)| name != case.header);
        case.assert_check(&outgoing, NOW_MS, Err(&format!("no {} header", case.header)));

        // A scheme that does not cover the body uses a token.
        if !case.covers_body {
            let mut outgoing = signed.clone();
            let repeat = (case.header.to_owned(), signed.header(case.header).unwrap().to_owned());
            outgoing.headers.push(repeat);
            case.assert_check(
                &outgoing,
                NOW_MS,
                Err(&format!("more than one {} header", case.header)),
            );
        }

        if case.mismatch != case.unreadable {
            let mut outgoing = signed.clone();
            outgoing.set_header(case.header, "zz!");
            case.assert_check(&outgoing, NOW_MS, Err(case.unreadable));
        }
    }
}

#[test]
fn every_other_header_of_a_scheme_has_to_occur_exactly_once() {
    for case in CASES {
        let signed = case.signed();
        let is_required =
            |name: &str| name.contains("time") || matches!(name, "x-id" | "webhook-id");
        for name in signed.headers.iter().map(|(name, _)| name).filter(|name| is_required(name)) {
            let mut outgoing = signed.clone();
            outgoing.headers.retain(|(found, _)| found != name);
            case.assert_check(&outgoing, NOW_MS, Err(&format!("no {name} header")));
            let mut outgoing = signed.clone();
            outgoing.headers.push((name.clone(), "1".to_owned()));
            case.assert_check(&outgoing, NOW_MS, Err(&format!("more than one {name} header")));
        }
    }
}

#[test]
fn a_timestamp_outside_the_tolerance_is_rejected_in_both_directions() {
    for case in CASES {
        let TimestampCase::Within(back, ahead) = case.time else {
            case.assert_check(&case.signed(), NOW_MS + 100 * 86_400_000, Ok(()));
            continue;
        };
        for (direction, sign, max) in [("old", 1, back), ("ahead", -1, ahead)] {
            case.assert_check(&case.signed(), NOW_MS + sign * max, Ok(()));
            let (over_s, max_s) = (max / 1000 + 1, max / 1000);
            let reason = format!("timestamp is {over_s} s {direction}: at most {max_s} s");
            case.assert_check(&case.signed(), NOW_MS + sign * (max + 1000), Err(&reason));
        }
    }
}

#[test]
fn a_configured_tolerance_applies_and_no_reason_contains_a_secret() {
    for case in CASES {
        let keys = case.verify.replace('\'', "\"");
        let configured = verifier(&format!("{keys}, tolerance = \"10s\""), &case.secrets[..1]);
        let mut outgoing = case.unsigned();
        configured.sign(&mut outgoing, NOW_MS).unwrap();
        let result = check_as_received(&configured, &outgoing, NOW_MS + 11_000);
        assert_eq!(result.is_err(), case.time != TimestampCase::None, "{keys}");
        let mut reasons = vec![result.err().unwrap_or_default()];
        reasons.push(check_as_received(&configured, &case.unsigned(), NOW_MS).unwrap_err());
        reasons.push(
            check_as_received(&configured, &case.signed_by(case.secrets[1]), NOW_MS).unwrap_err(),
        );
        assert!(reasons.iter().all(|reason| !reason.contains(case.secrets[0])), "{reasons:?}");
        assert!(reasons.iter().all(|reason| !reason.contains(case.secrets[1])), "{reasons:?}");
    }
}

#[test]
fn one_valid_signature_of_several_is_enough() {
    let sign = |case: &Case| case.signed().header(case.header).unwrap().to_owned();
    let zeros = "0".repeat(64);
    let standard = CASES.iter().find(|case| case.verify.contains("standard")).unwrap();
    let valid = sign(standard);
    let invalid = STANDARD.encode([0; 32]);
    for (value, expected) in [
        (format!("v1,{invalid} {valid}"), Ok(())),
        (format!("{valid} v1,{invalid}"), Ok(())),
        (format!("v1a,AAAA v9,x {valid} v1,!!"), Ok(())),
        (format!("v1,{invalid}"), Err("signature does not match")),
        (valid.replace("v1,", "v2,"), Err("no v1 or v1a in webhook-signature")),
        (valid.replace("v1,", "v1a,"), Err("signature does not match")),
        (valid.replace('=', ""), Err("signature is not base64")),
        (format!("{valid} v1,{invalid} ").repeat(33), Ok(())),
        (format!("v1,{invalid},{valid}"), Ok(())),
        (format!("v1, {invalid}  ,{valid}"), Ok(())),
        (format!("v1,{invalid} {}", valid.replace("v1,", "v11,")), Err("signature does not match")),
    ] {
        let mut outgoing = standard.signed();
        outgoing.set_header("webhook-signature", value);
        standard.assert_check(&outgoing, NOW_MS, expected);
    }
    for (name, separator, version, other) in
        [("stripe", ',', "v1", "v0"), ("paddle", ';', "h1", "h2")]
    {
        let case = CASES.iter().find(|case| case.verify.contains(name)).unwrap();
        let valid = sign(case);
        let (time, one) = valid.split_once(separator).unwrap();
        let no_version = format!("no {version} in {}", case.header);
        let no_time = format!("no {} in {}", time.split('=').next().unwrap(), case.header);
        for (value, expected) in [
            (format!("{time}{separator}{version}={zeros}{separator}{one}"), Ok(())),
            (format!("{one}{separator}{version}=zz{separator}{other}=1{separator}{time}"), Ok(())),
            (format!("{time}{separator}{version}={zeros}"), Err(case.mismatch)),
            (format!("{time}{separator}{version}=zz"), Err(NOT_HEX)),
            (format!("{time}{separator}{other}={zeros}"), Err(no_version.as_str())),
            (format!("{time}{separator}{valid}"), Ok(())),
            (valid.replace(separator, &format!(" {separator}  ")), Ok(())),
            (valid.replace("=17", "=16"), Err(case.mismatch)),
            (format!("{valid}, {}", valid.replace("=17", "=16")), Ok(())),
            (format!("{}, {valid}", valid.replace("=17", "=16")), Ok(())),
            (one.to_owned(), Err(no_time.as_str())),
            (format!("{valid}00"), Err(case.mismatch)),
        ] {
            let mut outgoing = case.signed();
            outgoing.set_header(case.header, value);
            case.assert_check(&outgoing, NOW_MS, expected);
        }
    }
}

#[test]
fn one_valid_signature_is_enough_in_one_header_line_or_several() {
    let signs = |case: &&Case| case.covers_body && !case.header.is_empty();
    for case in CASES.iter().filter(signs) {
        let [valid, invalid] = case
            .secrets
            .map(|secret| case.signed_by(secret).header(case.header).unwrap().to_owned());
        let with_lines = |lines: &[&str]| {
            let mut outgoing = case.signed();
            outgoing.headers.retain(|(name, _)| name != case.header);
            outgoing
                .headers
                .extend(lines.iter().map(|line| (case.header.to_owned(), (*line).to_owned())));
            outgoing
        };
        let many = format!("{invalid},").repeat(31);
        for lines in [
            &[&*format!("{invalid},{valid}")][..],
            &[&format!("{invalid}, {valid}")],
            &[&format!(" {valid} , {invalid}, ")],
            &[&format!("zz!, {valid}")],
            &[&invalid, &valid],
            &[&valid, &invalid],
            &["zz!", &valid],
            &["", &valid],
            &[&format!("{many}{valid}")],
            &[&format!("{valid},{many}{invalid},{invalid}")],
        ] {
            case.assert_check(&with_lines(lines), NOW_MS, Ok(()));
        }
        for lines in [
            &[&*format!("{invalid}, {invalid}")][..],
            &[&invalid, &invalid],
            // Beyond the maximum number of signatures.
            &[&format!("{many}{invalid},{valid}")],
            &[&format!("{many}{invalid}"), &valid],
        ] {
            case.assert_check(&with_lines(lines), NOW_MS, Err(case.mismatch));
        }
    }
}

#[test]
fn a_stale_signature_beside_a_fresh_one_changes_nothing() {
    for name in ["stripe", "paddle"] {
        let case = CASES.iter().find(|case| case.verify.contains(name)).unwrap();
        let [mut old, fresh] = [NOW_MS - 301_000, NOW_MS].map(|at| {
            let mut outgoing = case.unsigned();
            case.verifier(&case.secrets).sign(&mut outgoing, at).unwrap();
            outgoing
        });
        let stale = Err("timestamp is 301 s old: at most 300 s");
        case.assert_check(&old, NOW_MS, stale);
        let [one, other] =
            [&old, &fresh].map(|request| request.header(case.header).unwrap().to_owned());
        old.set_header(case.header, format!("{one}, {other}"));
        case.assert_check(&old, NOW_MS, Ok(()));
        // The timestamp of one list does not apply to another list.
        let borrowed = other.replace("=1764000000", "=1763999699");
        old.set_header(case.header, format!("{one}, {borrowed}"));
        case.assert_check(&old, NOW_MS, stale);
    }
}

#[test]
fn the_number_of_checked_pairs_is_limited_and_lower_for_a_large_body() {
    use super::super::parse::pair_signatures;
    let signatures = vec![vec![0; 64]; 32];
    let count = |keys: usize, bytes: usize| {
        pair_signatures(&signatures, &vec![(); keys], &vec![0; bytes]).count()
    };
    assert_eq!([count(1, 0), count(2, 100), count(3, 100)], [32, 64, 64]);
    assert_eq!([count(3, 1 << 20), count(3, 8 << 20), count(3, 64 << 20)], [64, 8, 4]);
    let secrets: Vec<String> = (0..65).map(|number| format!("secret {number}")).collect();
    let secrets: Vec<&str> = secrets.iter().map(String::as_str).collect();
    let github = CASES.iter().find(|case| case.verify.contains("github")).unwrap();
    for (secret, expected) in [(secrets[63], true), (secrets[64], false)] {
        let result = check(&github.verifier(&secrets), &github.signed_by(secret), NOW_MS);
        assert_eq!(result.is_ok(), expected, "{secret}");
    }
}

#[test]
fn standard_webhooks_and_svix_headers_are_equivalent_and_their_ids_must_agree() {
    let case = CASES.iter().find(|case| case.verify.contains("standard")).unwrap();
    let mut svix = case.signed();
    for (name, _) in &mut svix.headers {
        *name = name.replace("webhook-", "svix-");
    }
    case.assert_check(&svix, NOW_MS, Ok(()));
    svix.set_header("webhook-id", "other");
    case.assert_check(&svix, NOW_MS, Err("webhook-id and svix-id differ"));
    svix.set_header("webhook-id", "7f3c");
    case.assert_check(&svix, NOW_MS, Ok(()));
}

#[test]
fn a_scheme_with_a_public_key_cannot_sign() {
    let public = "29acbae141bccaf0b22e1a94d34d0bc7361e526d0bfe12c89794bc9322966dd7";
    let standard = format!("whpk_{}", STANDARD.encode(hex::decode(public).unwrap()));
    for (verify, secret) in [
        ("scheme = \"discord\"", public),
        ("scheme = \"standard\"", &standard),
        ("scheme = \"sendgrid\"", "x"),
        ("scheme = \"sns\"", "x"),
    ] {
        let result = verifier(verify, &[secret]).sign(&mut OutgoingRequest::default(), NOW_MS);
        let expected = "only the sender can sign: the secret here is its public key";
        assert_eq!(result, Err(expected.into()), "{verify}");
    }
}

#[test]
fn a_multipart_body_of_mailgun_is_signed_by_three_of_its_fields() {
    let case = CASES.iter().find(|case| case.verify.contains("mailgun")).unwrap();
    let form = OutgoingRequest { body: Vec::new(), ..case.unsigned() };
    let mut form =
        OutgoingRequest { headers: vec![("content-type".to_owned(), FORM.to_owned())], ..form };
    case.verifier(&case.secrets).sign(&mut form, NOW_MS).unwrap();
    let text = String::from_utf8(form.body).unwrap();
    let part = |pair: &str| {
        let (name, value) = pair.split_once('=').unwrap();
        format!("--xx\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
    };
    let file = "--xx\r\nContent-Disposition: form-data; name=\"a\"; filename=\"a\"\r\n\r\n\0\r\n";
    let parts: String = text.split('&').map(part).collect();
    let body = format!("{file}{parts}--xx--\r\n");
    let multipart = |body: &str| {
        let mut outgoing = OutgoingRequest { body: body.as_bytes().to_vec(), ..case.unsigned() };
        outgoing.set_header("content-type", "multipart/form-data; boundary=xx");
        outgoing
    };
    case.assert_check(&multipart(&body), NOW_MS, Ok(()));
    case.assert_check(&multipart(&format!("\u{feff}{body}")), NOW_MS, Ok(()));
    let invalid = "body is not multipart, but its Content-Type says so";
    case.assert_check(&multipart(&body[..body.len() / 2]), NOW_MS, Err(invalid));
    let twice = format!("{parts}{body}");
    case.assert_check(&multipart(&twice), NOW_MS, Err("form needs exactly one field timestamp"));
    case.assert_check(
        &multipart("--xx--\r\n"),
        NOW_MS,
        Err("form needs exactly one field timestamp"),
    );
}

#[test]
fn a_form_with_too_many_fields_is_rejected_early() {
    const TOO_MANY: &str = "form has more than 1000 fields";
    for name in ["twilio", "mandrill", "mailgun"] {
        let case = |case: &&Case| case.verify.contains(name) && case.content_type == FORM;
        let case = CASES.iter().find(case).unwrap();
        let signature_fields = if name == "mailgun" { 3 } else { 0 };
        let mut outgoing =
            OutgoingRequest { body: b"a=%31&".repeat(1000 - signature_fields), ..case.unsigned() };
        case.verifier(&case.secrets).sign(&mut outgoing, NOW_MS).unwrap();
        case.assert_check(&outgoing, NOW_MS, Ok(()));
        // An empty element between two separators is not a field.
        outgoing.body = [b"&&&", &outgoing.body[..], b"&&&"].concat();
        case.assert_check(&outgoing, NOW_MS, Ok(()));
        outgoing.body.extend_from_slice(b"b");
        case.assert_check(&outgoing, NOW_MS, Err(TOO_MANY));
    }
    let case = CASES.iter().find(|case| case.verify.contains("mailgun")).unwrap();
    let part = "--xx\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n1\r\n";
    for (parts, expected) in [(1000, "form needs exactly one field timestamp"), (1001, TOO_MANY)] {
        let body = format!("{}--xx--\r\n", part.repeat(parts)).into_bytes();
        let mut outgoing = OutgoingRequest { body, ..case.unsigned() };
        outgoing.set_header("content-type", "multipart/form-data; boundary=xx");
        case.assert_check(&outgoing, NOW_MS, Err(expected));
    }
}

#[test]
fn a_digest_in_the_url_is_compared_only_after_the_signature() {
    let case = |case: &&Case| case.verify.contains("twilio") && case.content_type == JSON;
    let case = CASES.iter().find(case).unwrap();
    let mut outgoing = case.signed();
    outgoing.body.push(b' ');
    case.assert_check(&outgoing, NOW_MS, Err("bodySHA256 in the URL does not match the body"));
    let mut outgoing = case.signed_by(case.secrets[1]);
    outgoing.body.push(b' ');
    case.assert_check(&outgoing, NOW_MS, Err(case.mismatch));
}

#[test]
fn keys_of_standard_webhooks_may_be_joined_as_supabase_shows_them() {
    let case = CASES.iter().find(|case| case.verify.contains("standard")).unwrap();
    let joined = format!("v1,{}|v1,{}", case.secrets[0], case.secrets[1]);
    for secret in case.secrets {
        let outgoing = case.signed_by(secret);
        assert!(check_as_received(&case.verifier(&[&joined]), &outgoing, NOW_MS).is_ok());
        assert!(
            check_as_received(&case.verifier(&[&format!("v1,{secret}")]), &outgoing, NOW_MS)
                .is_ok()
        );
    }
    assert!(parse_standard_keys(joined.as_bytes()).is_ok());
    assert!(parse_standard_keys(format!("{joined}|").as_bytes()).is_err());
}

#[test]
fn a_byte_order_mark_before_a_form_is_skipped() {
    let form = ("content-type".to_owned(), "application/x-www-form-urlencoded".to_owned());
    for scheme in ["twilio", "mandrill", "mailgun"] {
        let url = if scheme == "mailgun" { "" } else { ", url = \"https://h/x\"" };
        let verifier = verifier(&format!("scheme = \"{scheme}\"{url}"), &["s"]);
        let mut outgoing = OutgoingRequest {
            method: "POST".to_owned(),
            path: "/x".to_owned(),
            headers: vec![form.clone()],
            body: b"a=1&b=2".to_vec(),
            ..OutgoingRequest::default()
        };
        verifier.sign(&mut outgoing, NOW_MS).unwrap();
        outgoing.body.splice(0..0, *b"\xef\xbb\xbf");
        let lines = outgoing.header_refs();
        assert_eq!(
            super::check_fresh(&verifier, &outgoing.as_signed_request(&lines), NOW_MS),
            Ok(()),
            "{scheme}"
        );
    }
}
