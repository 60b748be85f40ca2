//! Every scheme that can be signed for, signed as its sender would and then made wrong, one way at a
//! time; and those that only their senders can sign for.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::super::{OutgoingRequest, Verifier};
use super::vectors::check;
use super::verifier;

const NOW_MS: i64 = 1_764_000_000_000;
const JSON: &str = "application/json";
const FORM: &str = "application/x-www-form-urlencoded";

/// Where a time stamp stands.
#[derive(Clone, Copy, PartialEq)]
enum Time {
    None,
    /// Milliseconds back, and ahead.
    Within(i64, i64),
}

struct Case {
    verify: &'static str,
    /// The right one, and another.
    secrets: [&'static str; 2],
    body: &'static str,
    content_type: &'static str,
    /// The header that the signature stands in.
    header: &'static str,
    /// What is said of a `header` that can't be read.
    unreadable: &'static str,
    mismatch: &'static str,
    time: Time,
    /// The signature vouches for the body.
    covers: bool,
}

const TEXT: [&str; 2] = ["s3cret", "another"];
const KEYS: [&str; 2] = [
    "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
    "whsec_HxECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8",
];
const BODY: &str =
    r#"{"id":"evt_1","name":"Za\u017c\u00f3\u0142\u0107 🚀","n":12345678901234567890}"#;
const FIVE: Time = Time::Within(300_000, 300_000);
const NINE_HOURS: Time = Time::Within(9 * 3_600_000, 300_000);
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
        time: Time::None,
        covers: true,
    }
}

const fn timed(verify: &'static str, header: &'static str, unreadable: &'static str) -> Case {
    Case { time: FIVE, ..case(verify, header, unreadable) }
}

const fn token(verify: &'static str, header: &'static str, mismatch: &'static str) -> Case {
    Case { mismatch, covers: false, ..case(verify, header, mismatch) }
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
    timed(
        "scheme = 'hmac', header = 'X-Sig', encoding = 'base64', timestamp_header = 'X-Time', \
         id_header = 'X-Id', signed = '{method} {url} {id} {timestamp} {body}'",
        "x-sig", NOT_BASE64,
    ),
    case("scheme = 'paminga'", "x-paminga-signature", NOT_HEX),
    case("scheme = 'paminga', header = 'Signature'", "signature", NOT_HEX),
    Case { secrets: KEYS, ..timed("scheme = 'standard'", "webhook-signature", "no v1 or v1a in webhook-signature") },
    case("scheme = 'github'", "x-hub-signature-256", "x-hub-signature-256 does not begin with \"sha256=\""),
    token("scheme = 'gitlab'", "x-gitlab-token", "token in the header does not match"),
    timed("scheme = 'stripe'", "stripe-signature", "no t in stripe-signature"),
    case("scheme = 'shopify'", "x-shopify-hmac-sha256", NOT_BASE64),
    timed("scheme = 'slack'", "x-slack-signature", "x-slack-signature does not begin with \"v0=\""),
    Case { content_type: FORM, body: "b=1&a=%C3%A4+x&b=0&b=1&c", ..case("scheme = 'twilio'", "x-twilio-signature", NOT_BASE64) },
    case("scheme = 'twilio'", "x-twilio-signature", NOT_BASE64),
    Case { covers: false, time: NINE_HOURS, ..timed("scheme = 'mailgun'", "", "") },
    Case { covers: false, time: NINE_HOURS, content_type: FORM, body: "subject=x", ..timed("scheme = 'mailgun'", "", "") },
    token("scheme = 'mailchimp', query = 'key'", "", "token in the query parameter does not match"),
    token("scheme = 'mailchimp', path_token = true", "", "token in the path segment does not match"),
    Case { content_type: FORM, body: "mandrill_events=%5B1%5D&a=2&a=1", ..case("scheme = 'mandrill'", "x-mandrill-signature", NOT_BASE64) },
    case("scheme = 'meta', verify_token = { env = 'T' }", "x-hub-signature-256", "x-hub-signature-256 does not begin with \"sha256=\""),
    timed("scheme = 'zoom'", "x-zm-signature", "x-zm-signature does not begin with \"v0=\""),
    timed("scheme = 'paddle'", "paddle-signature", "no ts in paddle-signature"),
    case("scheme = 'square'", "x-square-hmacsha256-signature", NOT_BASE64),
    timed("scheme = 'hubspot'", "x-hubspot-signature-v3", NOT_BASE64),
    Case { time: Time::Within(8 * 3_600_000, 60_000), ..case("scheme = 'linear'", "linear-signature", NOT_HEX) },
    case("scheme = 'bitbucket'", "x-hub-signature", "x-hub-signature does not begin with \"sha256=\""),
    case("scheme = 'dropbox'", "x-dropbox-signature", NOT_HEX),
    case("scheme = 'trello'", "x-trello-webhook", NOT_BASE64),
    Case { covers: false, body: r#"{"value":[{"a":1},{"clientState":"old"}]}"#, ..token("scheme = 'microsoft-graph'", "", "clientState does not match") },
];

impl Case {
    fn verifier(&self, secrets: &[&str]) -> Verifier {
        let url = format!(", url = '{URL}'");
        verifier(&format!("{}{url}", self.verify).replace('\'', "\""), secrets)
    }

    fn draft(&self) -> OutgoingRequest {
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
            corrupt_signature: false,
        }
    }

    fn signed_by(&self, secret: &str) -> OutgoingRequest {
        let mut draft = self.draft();
        let signed = self.verifier(&[secret]).sign(&mut draft, NOW_MS);
        assert_eq!(signed, Ok(()), "{}", self.verify);
        draft
    }

    fn signed(&self) -> OutgoingRequest {
        self.signed_by(self.secrets[0])
    }

    #[track_caller]
    fn expect(&self, draft: &OutgoingRequest, now_ms: i64, expected: Result<(), &str>) {
        let verifier = self.verifier(&self.secrets[..1]);
        let found = checked(&verifier, draft, now_ms);
        assert_eq!(found.as_ref().map_err(String::as_str).copied(), expected, "{}", self.verify);
    }
}

/// As it arrives: where the token is the path's last segment, that is taken off.
fn checked(verifier: &Verifier, draft: &OutgoingRequest, now_ms: i64) -> Result<(), String> {
    if !verifier.secret_segment() {
        return check(verifier, draft, now_ms);
    }
    let lines = draft.header_refs();
    let segment = draft.path.rsplit('/').next().unwrap();
    let asked = super::super::SignedRequest {
        secret_segment: Some(segment),
        ..draft.as_signed_request(&lines)
    };
    super::fresh(verifier, &asked, now_ms)
}

#[test]
fn what_a_scheme_signs_it_takes_and_takes_again() {
    for case in CASES {
        case.expect(&case.signed(), NOW_MS, Ok(()));
        case.expect(&case.signed(), NOW_MS, Ok(()));
    }
}

#[test]
fn either_of_two_secrets_will_do() {
    for case in CASES {
        let both = case.verifier(&case.secrets);
        for secret in case.secrets {
            let draft = case.signed_by(secret);
            assert_eq!(checked(&both, &draft, NOW_MS), Ok(()), "{}", case.verify);
        }
    }
}

#[test]
fn another_secret_and_a_bad_signature_do_not_match() {
    for case in CASES {
        case.expect(&case.signed_by(case.secrets[1]), NOW_MS, Err(case.mismatch));
        let mut draft = OutgoingRequest { corrupt_signature: true, ..case.draft() };
        case.verifier(&case.secrets).sign(&mut draft, NOW_MS).unwrap();
        case.expect(&draft, NOW_MS, Err(case.mismatch));
    }
}

#[test]
fn a_body_changed_by_one_byte_does_not_match() {
    for case in CASES.iter().filter(|case| case.covers) {
        let mut draft = case.signed();
        let middle = draft.body.len() / 2;
        draft.body[middle] ^= 1;
        let verifier = case.verifier(&case.secrets[..1]);
        let found = check(&verifier, &draft, NOW_MS).unwrap_err();
        let expected = [case.mismatch, "bodySHA256 in the URL is not the body's"];
        assert!(expected.contains(&found.as_str()), "{}: {found}", case.verify);
    }
}

#[test]
fn a_header_that_is_missing_or_unreadable_and_a_token_that_is_there_twice_are_said_to_be() {
    for case in CASES.iter().filter(|case| !case.header.is_empty()) {
        let signed = case.signed();
        let mut draft = signed.clone();
        draft.headers.retain(|(name, _)| name != case.header);
        case.expect(&draft, NOW_MS, Err(&format!("no {} header", case.header)));

        // What does not vouch for the body is a token.
        if !case.covers {
            let mut draft = signed.clone();
            let again = (case.header.to_owned(), signed.header(case.header).unwrap().to_owned());
            draft.headers.push(again);
            case.expect(&draft, NOW_MS, Err(&format!("more than one {} header", case.header)));
        }

        if case.mismatch != case.unreadable {
            let mut draft = signed.clone();
            draft.set_header(case.header, "zz!");
            case.expect(&draft, NOW_MS, Err(case.unreadable));
        }
    }
}

#[test]
fn every_other_header_of_a_scheme_has_to_be_there_once_too() {
    for case in CASES {
        let signed = case.signed();
        let own = |name: &str| name.contains("time") || matches!(name, "x-id" | "webhook-id");
        for name in signed.headers.iter().map(|(name, _)| name).filter(|name| own(name)) {
            let mut draft = signed.clone();
            draft.headers.retain(|(found, _)| found != name);
            case.expect(&draft, NOW_MS, Err(&format!("no {name} header")));
            let mut draft = signed.clone();
            draft.headers.push((name.clone(), "1".to_owned()));
            case.expect(&draft, NOW_MS, Err(&format!("more than one {name} header")));
        }
    }
}

#[test]
fn what_is_too_old_or_from_the_future_is_refused_and_the_rest_is_not() {
    for case in CASES {
        let Time::Within(back, ahead) = case.time else {
            case.expect(&case.signed(), NOW_MS + 100 * 86_400_000, Ok(()));
            continue;
        };
        for (way, sign, max) in [("old", 1, back), ("ahead", -1, ahead)] {
            case.expect(&case.signed(), NOW_MS + sign * max, Ok(()));
            let (over_s, max_s) = (max / 1000 + 1, max / 1000);
            let reason = format!("timestamp is {over_s} s {way}: at most {max_s} s");
            case.expect(&case.signed(), NOW_MS + sign * (max + 1000), Err(&reason));
        }
    }
}

#[test]
fn a_tolerance_of_ones_own_holds_and_no_reason_tells_a_secret() {
    for case in CASES {
        let keys = case.verify.replace('\'', "\"");
        let own = verifier(&format!("{keys}, tolerance = \"10s\""), &case.secrets[..1]);
        let mut draft = case.draft();
        own.sign(&mut draft, NOW_MS).unwrap();
        let found = checked(&own, &draft, NOW_MS + 11_000);
        assert_eq!(found.is_err(), case.time != Time::None, "{keys}");
        let mut reasons = vec![found.err().unwrap_or_default()];
        reasons.push(checked(&own, &case.draft(), NOW_MS).unwrap_err());
        reasons.push(checked(&own, &case.signed_by(case.secrets[1]), NOW_MS).unwrap_err());
        assert!(reasons.iter().all(|it| !it.contains(case.secrets[0])), "{reasons:?}");
        assert!(reasons.iter().all(|it| !it.contains(case.secrets[1])), "{reasons:?}");
    }
}

#[test]
fn one_right_signature_of_several_is_enough() {
    let sign = |case: &Case| case.signed().header(case.header).unwrap().to_owned();
    let zeros = "0".repeat(64);
    let standard = CASES.iter().find(|case| case.verify.contains("standard")).unwrap();
    let right = sign(standard);
    let wrong = STANDARD.encode([0; 32]);
    for (value, expected) in [
        (format!("v1,{wrong} {right}"), Ok(())),
        (format!("{right} v1,{wrong}"), Ok(())),
        (format!("v1a,AAAA v9,x {right} v1,!!"), Ok(())),
        (format!("v1,{wrong}"), Err("signature does not match")),
        (right.replace("v1,", "v2,"), Err("no v1 or v1a in webhook-signature")),
        (right.replace("v1,", "v1a,"), Err("signature does not match")),
        (right.replace('=', ""), Err("signature is not base64")),
        (format!("{right} v1,{wrong} ").repeat(33), Ok(())),
        (format!("v1,{wrong},{right}"), Ok(())),
        (format!("v1, {wrong}  ,{right}"), Ok(())),
        (format!("v1,{wrong} {}", right.replace("v1,", "v11,")), Err("signature does not match")),
    ] {
        let mut draft = standard.signed();
        draft.set_header("webhook-signature", value);
        standard.expect(&draft, NOW_MS, expected);
    }
    for (name, separator, version, other) in
        [("stripe", ',', "v1", "v0"), ("paddle", ';', "h1", "h2")]
    {
        let case = CASES.iter().find(|case| case.verify.contains(name)).unwrap();
        let right = sign(case);
        let (time, one) = right.split_once(separator).unwrap();
        let no_version = format!("no {version} in {}", case.header);
        let no_time = format!("no {} in {}", time.split('=').next().unwrap(), case.header);
        for (value, expected) in [
            (format!("{time}{separator}{version}={zeros}{separator}{one}"), Ok(())),
            (format!("{one}{separator}{version}=zz{separator}{other}=1{separator}{time}"), Ok(())),
            (format!("{time}{separator}{version}={zeros}"), Err(case.mismatch)),
            (format!("{time}{separator}{version}=zz"), Err(NOT_HEX)),
            (format!("{time}{separator}{other}={zeros}"), Err(no_version.as_str())),
            (format!("{time}{separator}{right}"), Ok(())),
            (right.replace(separator, &format!(" {separator}  ")), Ok(())),
            (right.replace("=17", "=16"), Err(case.mismatch)),
            (format!("{right}, {}", right.replace("=17", "=16")), Ok(())),
            (format!("{}, {right}", right.replace("=17", "=16")), Ok(())),
            (one.to_owned(), Err(no_time.as_str())),
            (format!("{right}00"), Err(case.mismatch)),
        ] {
            let mut draft = case.signed();
            draft.set_header(case.header, value);
            case.expect(&draft, NOW_MS, expected);
        }
    }
}

#[test]
fn any_right_signature_is_enough_among_several_in_one_header_line_or_in_more() {
    let signs = |case: &&Case| case.covers && !case.header.is_empty();
    for case in CASES.iter().filter(signs) {
        let [right, wrong] = case
            .secrets
            .map(|secret| case.signed_by(secret).header(case.header).unwrap().to_owned());
        let with = |lines: &[&str]| {
            let mut draft = case.signed();
            draft.headers.retain(|(name, _)| name != case.header);
            draft.headers.extend(lines.iter().map(|it| (case.header.to_owned(), (*it).to_owned())));
            draft
        };
        let many = format!("{wrong},").repeat(31);
        for lines in [
            &[&*format!("{wrong},{right}")][..],
            &[&format!("{wrong}, {right}")],
            &[&format!(" {right} , {wrong}, ")],
            &[&format!("zz!, {right}")],
            &[&wrong, &right],
            &[&right, &wrong],
            &["zz!", &right],
            &["", &right],
            &[&format!("{many}{right}")],
            &[&format!("{right},{many}{wrong},{wrong}")],
        ] {
            case.expect(&with(lines), NOW_MS, Ok(()));
        }
        for lines in [
            &[&*format!("{wrong}, {wrong}")][..],
            &[&wrong, &wrong],
            // Beyond those that are looked at.
            &[&format!("{many}{wrong},{right}")],
            &[&format!("{many}{wrong}"), &right],
        ] {
            case.expect(&with(lines), NOW_MS, Err(case.mismatch));
        }
    }
}

#[test]
fn a_stale_signature_beside_a_fresh_one_does_no_harm_and_no_good() {
    for name in ["stripe", "paddle"] {
        let case = CASES.iter().find(|case| case.verify.contains(name)).unwrap();
        let [mut old, fresh] = [NOW_MS - 301_000, NOW_MS].map(|at| {
            let mut draft = case.draft();
            case.verifier(&case.secrets).sign(&mut draft, at).unwrap();
            draft
        });
        let stale = Err("timestamp is 301 s old: at most 300 s");
        case.expect(&old, NOW_MS, stale);
        let [one, other] = [&old, &fresh].map(|it| it.header(case.header).unwrap().to_owned());
        old.set_header(case.header, format!("{one}, {other}"));
        case.expect(&old, NOW_MS, Ok(()));
        // The time stamp of another list does not stand for its own.
        let borrowed = other.replace("=1764000000", "=1763999699");
        old.set_header(case.header, format!("{one}, {borrowed}"));
        case.expect(&old, NOW_MS, stale);
    }
}

#[test]
fn so_many_pairs_of_a_signature_and_a_key_are_looked_at_and_fewer_of_a_large_body() {
    use super::super::parse::pairs;
    let signatures = vec![vec![0; 64]; 32];
    let count =
        |keys: usize, bytes: usize| pairs(&signatures, &vec![(); keys], &vec![0; bytes]).count();
    assert_eq!([count(1, 0), count(2, 100), count(3, 100)], [32, 64, 64]);
    assert_eq!([count(3, 1 << 20), count(3, 8 << 20), count(3, 64 << 20)], [64, 8, 4]);
    let secrets: Vec<String> = (0..65).map(|number| format!("secret {number}")).collect();
    let secrets: Vec<&str> = secrets.iter().map(String::as_str).collect();
    let github = CASES.iter().find(|case| case.verify.contains("github")).unwrap();
    for (secret, expected) in [(secrets[63], true), (secrets[64], false)] {
        let found = check(&github.verifier(&secrets), &github.signed_by(secret), NOW_MS);
        assert_eq!(found.is_ok(), expected, "{secret}");
    }
}

#[test]
fn standard_webhooks_and_svix_are_one_and_no_id_stands_for_the_other() {
    let case = CASES.iter().find(|case| case.verify.contains("standard")).unwrap();
    let mut svix = case.signed();
    for (name, _) in &mut svix.headers {
        *name = name.replace("webhook-", "svix-");
    }
    case.expect(&svix, NOW_MS, Ok(()));
    svix.set_header("webhook-id", "other");
    case.expect(&svix, NOW_MS, Err("webhook-id and svix-id differ"));
    svix.set_header("webhook-id", "7f3c");
    case.expect(&svix, NOW_MS, Ok(()));
}

#[test]
fn only_the_sender_can_sign_by_a_public_key() {
    let public = "29acbae141bccaf0b22e1a94d34d0bc7361e526d0bfe12c89794bc9322966dd7";
    let standard = format!("whpk_{}", STANDARD.encode(hex::decode(public).unwrap()));
    for (verify, secret) in [
        ("scheme = \"discord\"", public),
        ("scheme = \"standard\"", &standard),
        ("scheme = \"sendgrid\"", "x"),
        ("scheme = \"sns\"", "x"),
    ] {
        let found = verifier(verify, &[secret]).sign(&mut OutgoingRequest::default(), NOW_MS);
        let expected = "only the sender can sign: the secret here is its public key";
        assert_eq!(found, Err(expected.to_owned()), "{verify}");
    }
}

#[test]
fn mailgun_signs_a_multipart_body_by_three_of_its_fields() {
    let case = CASES.iter().find(|case| case.verify.contains("mailgun")).unwrap();
    let form = OutgoingRequest { body: Vec::new(), ..case.draft() };
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
        let mut draft = OutgoingRequest { body: body.as_bytes().to_vec(), ..case.draft() };
        draft.set_header("content-type", "multipart/form-data; boundary=xx");
        draft
    };
    case.expect(&multipart(&body), NOW_MS, Ok(()));
    case.expect(&multipart(&format!("\u{feff}{body}")), NOW_MS, Ok(()));
    let wrong = "body is not multipart, as its type says";
    case.expect(&multipart(&body[..body.len() / 2]), NOW_MS, Err(wrong));
    let twice = format!("{parts}{body}");
    case.expect(&multipart(&twice), NOW_MS, Err("not one field timestamp in the form"));
    case.expect(&multipart("--xx--\r\n"), NOW_MS, Err("not one field timestamp in the form"));
}

#[test]
fn a_form_of_more_fields_than_its_sender_makes_is_refused_before_it_is_read_further() {
    const TOO_MANY: &str = "form has more than 1000 fields";
    for name in ["twilio", "mandrill", "mailgun"] {
        let case = |case: &&Case| case.verify.contains(name) && case.content_type == FORM;
        let case = CASES.iter().find(case).unwrap();
        let own = if name == "mailgun" { 3 } else { 0 };
        let mut draft = OutgoingRequest { body: b"a=%31&".repeat(1000 - own), ..case.draft() };
        case.verifier(&case.secrets).sign(&mut draft, NOW_MS).unwrap();
        case.expect(&draft, NOW_MS, Ok(()));
        // Nothing between two separators is no field.
        draft.body = [b"&&&", &draft.body[..], b"&&&"].concat();
        case.expect(&draft, NOW_MS, Ok(()));
        draft.body.extend_from_slice(b"b");
        case.expect(&draft, NOW_MS, Err(TOO_MANY));
    }
    let case = CASES.iter().find(|case| case.verify.contains("mailgun")).unwrap();
    let part = "--xx\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n1\r\n";
    for (parts, expected) in [(1000, "not one field timestamp in the form"), (1001, TOO_MANY)] {
        let body = format!("{}--xx--\r\n", part.repeat(parts)).into_bytes();
        let mut draft = OutgoingRequest { body, ..case.draft() };
        draft.set_header("content-type", "multipart/form-data; boundary=xx");
        case.expect(&draft, NOW_MS, Err(expected));
    }
}

#[test]
fn a_body_that_the_url_vouches_for_is_looked_at_where_the_signature_holds() {
    let case = |case: &&Case| case.verify.contains("twilio") && case.content_type == JSON;
    let case = CASES.iter().find(case).unwrap();
    let mut draft = case.signed();
    draft.body.push(b' ');
    case.expect(&draft, NOW_MS, Err("bodySHA256 in the URL is not the body's"));
    let mut draft = case.signed_by(case.secrets[1]);
    draft.body.push(b' ');
    case.expect(&draft, NOW_MS, Err(case.mismatch));
}

#[test]
fn keys_of_standard_webhooks_may_be_joined_as_supabase_shows_them() {
    let case = CASES.iter().find(|case| case.verify.contains("standard")).unwrap();
    let joined = format!("v1,{}|v1,{}", case.secrets[0], case.secrets[1]);
    for secret in case.secrets {
        let draft = case.signed_by(secret);
        assert!(checked(&case.verifier(&[&joined]), &draft, NOW_MS).is_ok());
        assert!(checked(&case.verifier(&[&format!("v1,{secret}")]), &draft, NOW_MS).is_ok());
    }
    assert!(crate::config::key_material::parse_standard_keys(joined.as_bytes()).is_ok());
    assert!(
        crate::config::key_material::parse_standard_keys(format!("{joined}|").as_bytes()).is_err()
    );
}

#[test]
fn a_byte_order_mark_before_a_form_is_no_part_of_its_first_field() {
    let form = ("content-type".to_owned(), "application/x-www-form-urlencoded".to_owned());
    for scheme in ["twilio", "mandrill", "mailgun"] {
        let url = if scheme == "mailgun" { "" } else { ", url = \"https://h/x\"" };
        let verifier = verifier(&format!("scheme = \"{scheme}\"{url}"), &["s"]);
        let mut draft = OutgoingRequest {
            method: "POST".to_owned(),
            path: "/x".to_owned(),
            headers: vec![form.clone()],
            body: b"a=1&b=2".to_vec(),
            ..OutgoingRequest::default()
        };
        verifier.sign(&mut draft, NOW_MS).unwrap();
        draft.body.splice(0..0, *b"\xef\xbb\xbf");
        let lines = draft.header_refs();
        assert_eq!(
            super::fresh(&verifier, &draft.as_signed_request(&lines), NOW_MS),
            Ok(()),
            "{scheme}"
        );
    }
}
