//! Tests of `verify`: the keys of each scheme, and the keys that it rejects.

use std::time::Duration;

use super::super::*;
use super::{Folder, check, complete};
use crate::verify::{
    Algorithm, CredentialLocation, Encoding, HmacSpec, PRESETS, SignedPart, TimestampUnit,
};

fn source(verify: &str) -> String {
    format!("[sources.a]\nverify = {{ {verify} }}")
}

fn read(verify: &str) -> Verify {
    Folder::new(&source(verify)).load().config.sources.remove(0).verify
}

fn secret() -> Vec<SecretRef> {
    vec![SecretRef::Env("S".into())]
}

const SECRET: &str = "secret = { env = 'S' }";

#[test]
fn every_documented_scheme_is_known_by_name() {
    let documented = "none token basic bearer hmac paminga standard github gitlab stripe shopify \
                    slack twilio sendgrid mailgun mailchimp mandrill meta zoom discord paddle \
                    square hubspot linear bitbucket dropbox trello microsoft-graph sns";
    let documented = documented.split_whitespace();
    assert_eq!(Scheme::names().collect::<Vec<_>>(), documented.collect::<Vec<_>>());
}

/// The sender of this name, with its signature or token here.
fn preset(name: &str, location: Option<CredentialLocation>) -> Scheme {
    Scheme::Preset(PRESETS.iter().find(|preset| preset.name == name).unwrap(), location)
}

fn header(name: &str) -> CredentialLocation {
    CredentialLocation::Header(name.into())
}

#[test]
fn each_scheme_reads_its_keys() {
    let (query, path) = (CredentialLocation::Query("key".into()), CredentialLocation::PathSegment);
    for (keys, scheme) in [
        ("'token', header = 'X-Token'", Scheme::Token(header("x-token"))),
        ("'token', query = 'key', path_token = false", Scheme::Token(query.clone())),
        ("'token', path_token = true", Scheme::Token(path.clone())),
        ("'basic', user = 'me'", Scheme::Basic { user: "me".into() }),
        ("'bearer'", Scheme::Bearer),
        ("'paminga'", preset("paminga", Some(header("x-paminga-signature")))),
        ("'paminga', header = 'Signature'", preset("paminga", Some(header("signature")))),
        ("'standard'", preset("standard", None)),
        ("'mailchimp', query = 'key'", preset("mailchimp", Some(query))),
        ("'mailchimp', path_token = true", preset("mailchimp", Some(path))),
    ] {
        let verify = read(&format!("scheme = {keys}, {SECRET}"));
        assert_eq!((verify.scheme, verify.secret), (scheme, secret()), "{keys}");
        assert_eq!((verify.url, verify.verify_token), (None, Vec::new()), "{keys}");
    }
}

/// A source with these keys of `verify`, and these other keys.
fn source_of(verify: &str, keys: &str) -> crate::config::Source {
    let text = format!("[sources.a]\nverify = {{ {verify}, {SECRET} }}\n{keys}");
    Folder::new(&text).load().config.sources.remove(0)
}

#[test]
fn a_preset_sets_its_header_its_tolerance_and_its_senders_own_key() {
    let slack = source_of("scheme = 'slack'", "");
    assert_eq!(slack.verify.scheme.location(), Some(&header("x-slack-signature")));
    assert_eq!(slack.verify.tolerance, tolerance(300, 300));
    assert_eq!(slack.dedupe, Dedupe::Preset);
    let own = "scheme = 'slack', header = 'X-Own', tolerance = '1m'";
    let slack = source_of(own, "dedupe = { window = '1d' }");
    assert_eq!(slack.verify.scheme.location(), Some(&header("x-own")));
    assert_eq!(slack.verify.tolerance, tolerance(60, 60));
    assert_eq!(slack.dedupe, Dedupe::Preset);
    assert_eq!(slack.dedupe_window, Duration::from_secs(86_400));
    for (scheme, back, ahead) in [
        ("linear", 8 * 3600, 60),
        ("mailgun", 9 * 3600, 300),
        ("sns", 24 * 3600, 3600),
        ("standard", 300, 300),
    ] {
        let settings = source_of(&format!("scheme = '{scheme}'"), "").verify.tolerance;
        assert_eq!(settings, tolerance(back, ahead), "{scheme}");
        // A tolerance in the configuration sets the past direction.
        let settings = source_of(&format!("scheme = '{scheme}', tolerance = '3h'"), "");
        assert_eq!(settings.verify.tolerance, tolerance(3 * 3600, ahead), "{scheme}");
        let settings = source_of(&format!("scheme = '{scheme}', tolerance = '3s'"), "");
        assert_eq!(settings.verify.tolerance, tolerance(3, 3), "{scheme}");
    }
    assert_eq!(source_of("scheme = 'github'", "").verify.tolerance, None);
}

fn tolerance(back: u64, ahead: u64) -> Option<Tolerance> {
    let (back, ahead) = (Duration::from_secs(back), Duration::from_secs(ahead));
    Some(Tolerance { back, ahead })
}

#[test]
fn a_signed_key_counts_besides_a_sources_own() {
    for (scheme, alone, own, off) in [
        ("slack", true, true, false),
        ("paminga", true, true, false),
        ("mailgun", true, true, true),
        ("linear", true, true, true),
        ("sns", true, true, true),
        ("github", true, false, false),
        ("gitlab", true, false, false),
        ("dropbox", false, false, false),
        ("microsoft-graph", false, false, false),
    ] {
        let is_enabled = |keys: &str| {
            source_of(&format!("scheme = '{scheme}'"), keys).delivery_key_window().is_some()
        };
        let found = ["", "dedupe = { jq = '.x' }", "dedupe = false"].map(is_enabled);
        assert_eq!(found, [alone, own, off], "{scheme}");
    }
    let bearer = source_of("scheme = 'bearer'", "dedupe = { body = true }");
    assert_eq!(bearer.delivery_key_window(), None);
}

#[test]
fn a_senders_key_is_kept_as_long_as_its_time_stamp_is_valid() {
    let window = |tolerance: &str, window: &str| {
        let keys = format!("dedupe = {{ window = '{window}' }}");
        source_of(&format!("scheme = 'mailgun', tolerance = '{tolerance}'"), &keys)
            .delivery_key_window()
            .map_or(0, |window| window.as_secs())
    };
    assert_eq!(window("9h", "1d"), 86_400);
    assert_eq!(window("9h", "1h"), 9 * 3600 + 300);
    assert_eq!(window("3s", "1s"), 6);
    let text = format!("[sources.a]\nverify = {{ scheme = 'sns', tolerance = '8d', {SECRET} }}\n");
    let warning = "config.toml:1: sources.a has a verify.tolerance of 8d, longer than dedupe.window \
                   (7d): the sender's own keys are kept for 8d too, so that no captured request \
                   counts as new";
    assert_eq!(Folder::new(&complete(&text)).warnings(), [warning]);
    let verify = format!("scheme = 'hmac', header = 'X', timestamp_header = 'T', {SECRET}");
    let verify = format!("{verify}, signed = '{{timestamp}}{{body}}', tolerance = '9h'");
    let text = |dedupe: &str| format!("[sources.a]\nverify = {{ {verify} }}\n{dedupe}");
    let warning = "config.toml:1: sources.a has a verify.tolerance of 9h, longer than dedupe.window \
                   (1h): a captured request counts as new after 1h: expected a window of 9h or \
                   more";
    let folder = Folder::new(&complete(&text("dedupe = { body = true, window = '1h' }")));
    assert_eq!(folder.warnings(), [warning]);
    for dedupe in ["", "dedupe = { body = true, window = '9h' }"] {
        assert_eq!(Folder::new(&complete(&text(dedupe))).warnings(), Vec::<String>::new());
    }
}

#[test]
fn mailchimp_has_its_token_in_the_query_or_the_path_and_mandrills_secret_is_optional() {
    let places = "expected query or path_token = true";
    check(
        &source(&format!("scheme = 'mailchimp', {SECRET}")),
        &[&format!("2: sources.a.verify has no place for the token: {places}")],
    );
    assert_eq!(read("scheme = 'mandrill'").secret, []);
    let folder = Folder::new(&complete(&source("scheme = 'mandrill'")));
    let warning = "2: sources.a.verify has no secret yet: only its sender's handshake is \
        answered, all other requests are rejected";
    assert_eq!(folder.warnings(), [format!("config.toml:{warning}")]);
    let meta = "scheme = 'meta', verify_token = [{ env = 'T' }, { env = 'U' }]";
    let tokens = read(&format!("{meta}, {SECRET}")).verify_token;
    assert_eq!(tokens, [SecretRef::Env("T".into()), SecretRef::Env("U".into())]);
}

#[test]
fn a_secret_that_is_not_a_key_of_its_scheme_is_an_error_and_not_shown() {
    use base64::Engine;
    let key = |bytes: usize| base64::engine::general_purpose::STANDARD.encode(vec![0x42; bytes]);
    let weak = format!("whpk_{}", base64::engine::general_purpose::STANDARD.encode([0; 32]));
    for (scheme, secret, error) in [
        ("standard", "whsec_hush!".to_owned(), Some("is not base64")),
        ("standard", format!("whsec_{}", key(23)), Some("is a key of 23 bytes")),
        ("standard", format!("whsec_{}", key(65)), Some("is a key of 65 bytes")),
        ("standard", format!("whsec_{}", key(24)), None),
        ("standard", key(64), None),
        ("standard", format!("whpk_{}", key(31)), Some("has 31 bytes")),
        ("standard", weak, Some("is not an Ed25519 public key")),
        ("standard", format!("whsk_{}", key(64)), Some("is the sender's private key")),
        ("discord", "hush".to_owned(), Some("is not hex")),
        ("discord", "00".repeat(32), Some("is not an Ed25519 public key")),
        ("discord", "00".repeat(31), Some("has 31 bytes")),
        ("sendgrid", "hush".to_owned(), Some("is not an ECDSA P-256 public key")),
        ("sendgrid", key(91), Some("is not an ECDSA P-256 public key")),
        ("sns", "hush".to_owned(), Some("has no certificate")),
        (
            "sns",
            "-----BEGIN CERTIFICATE-----\nQUJD\n-----END CERTIFICATE-----\n".to_owned(),
            Some("has an invalid certificate or another kind of key"),
        ),
        ("github", "hush".to_owned(), None),
    ] {
        let keys = format!("scheme = '{scheme}', secret = {{ file = 'key' }}");
        let folder = Folder::new(&source(&keys)).write("key", &secret);
        let (_, errors) = read_secrets(&folder.load());
        let found = errors.first().map(ConfigError::to_string).unwrap_or_default();
        assert!(found.contains(error.unwrap_or("")), "{scheme}: {found}");
        assert_eq!(found.is_empty(), error.is_none(), "{scheme}: {found}");
        assert!(!found.contains(&secret) && !found.contains("hush"), "{found}");
    }
}

#[test]
fn the_keys_of_hmac_are_read() {
    let minimal = read(&format!("scheme = 'hmac', header = 'X-Sig', {SECRET}"));
    let hmac = HmacSpec {
        header: "x-sig".into(),
        algorithm: Algorithm::Sha256,
        prefix: String::new(),
        encoding: Encoding::Hex,
        signed: vec![SignedPart::Body],
        timestamp_header: None,
        timestamp_unit: TimestampUnit::Seconds,
        id_header: None,
    };
    assert_eq!((minimal.scheme, minimal.tolerance), (Scheme::Hmac(hmac), None));

    let complete = read(&format!(
        "scheme = 'hmac', header = 'X-Sig', algorithm = 'sha512', prefix = 'v1=', encoding = \
         'base64', signed = 'v1:{{id}}.{{timestamp}}{{method}}{{url}}{{body}}!', \
         timestamp_header = 'X-Time', timestamp_unit = 'ms', id_header = 'X-Id', url = \
         'https://example.com/a', {SECRET}"
    ));
    let hmac = HmacSpec {
        header: "x-sig".into(),
        algorithm: Algorithm::Sha512,
        prefix: "v1=".into(),
        encoding: Encoding::Base64,
        signed: vec![
            SignedPart::Text("v1:".into()),
            SignedPart::Id,
            SignedPart::Text(".".into()),
            SignedPart::Timestamp,
            SignedPart::Method,
            SignedPart::Url,
            SignedPart::Body,
            SignedPart::Text("!".into()),
        ],
        timestamp_header: Some("x-time".into()),
        timestamp_unit: TimestampUnit::Milliseconds,
        id_header: Some("x-id".into()),
    };
    assert_eq!(complete.scheme, Scheme::Hmac(hmac));
    assert_eq!(complete.tolerance, tolerance(300, 300));
    assert_eq!(
        complete.url.as_ref().map(|url| url.for_path("/")),
        Some("https://example.com/a".into())
    );
}

#[test]
fn a_scheme_rejects_keys_it_can_not_use() {
    let names: Vec<String> = Scheme::names().map(|name| format!("{name:?}")).collect();
    let (last, others) = names.split_last().unwrap();
    let schemes = format!("expected {} or {last}", others.join(", "));
    for (verify, error) in [
        (String::new(), format!(" has no scheme: {schemes}")),
        (
            "scheme = 'paminha'".into(),
            format!(".scheme is \"paminha\": {schemes}: did you mean \"paminga\"?"),
        ),
        ("scheme = 1".into(), format!(".scheme is 1: {schemes}")),
        (
            "scheme = 'none', secret = { env = 'S' }".into(),
            ".secret is unknown: expected scheme".into(),
        ),
        (
            "scheme = 'bearer'".into(),
            " has no secret: scheme \"bearer\" needs one, such as secret = { file = \"path\" }"
                .into(),
        ),
        (
            format!("scheme = 'bearer', {SECRET}, usr = 'x'"),
            ".usr is unknown: expected scheme, secret, url or tolerance".into(),
        ),
        (
            format!("scheme = 'token', {SECRET}"),
            " has no place for the token: expected header, query or path_token = true".into(),
        ),
        (
            format!("scheme = 'token', header = 'X', path_token = true, {SECRET}"),
            " has more than one place for the token: expected one of header, query, path_token = true"
                .into(),
        ),
        (
            format!("scheme = 'basic', {SECRET}"),
            " has no user: scheme \"basic\" needs one, such as user = \"sender\"".into(),
        ),
        (
            format!("scheme = 'basic', user = 'a:b', {SECRET}"),
            ".user is \"a:b\": expected a user without a colon".into(),
        ),
        (
            format!("scheme = 'paminga', {SECRET}, url = 'me:hush@example.com'"),
            ".url is a bare text: expected a URL that begins with https:// or http://".into(),
        ),
    ] {
        check(&source(&verify), &[&format!("2: sources.a.verify{error}")]);
    }
}

#[test]
fn missing_and_invalid_keys_of_hmac_are_errors() {
    let signed = "expected text of {body}, {timestamp}, {id}, {url} and {method}, such as \
                  \"{timestamp}.{body}\"";
    let hmac = |rest: &str| format!("scheme = 'hmac', header = 'X', {SECRET}, {rest}");
    for (verify, error) in [
        (
            format!("scheme = 'hmac', {SECRET}"),
            " has no header: scheme \"hmac\" needs one, such as header = \"X-Signature\"".into(),
        ),
        (
            hmac("algorithm = 'md5'"),
            ".algorithm is \"md5\": expected \"sha1\", \"sha256\" or \"sha512\"".into(),
        ),
        (hmac("signed = '{bdy}'"), format!(".signed is \"{{bdy}}\": {signed}")),
        (hmac("signed = 'body}'"), format!(".signed is \"body}}\": {signed}")),
        (hmac("signed = ''"), format!(".signed is \"\": {signed}")),
        (
            hmac("signed = '{timestamp}{body}'"),
            " has no timestamp_header: the {timestamp} in signed is read from it".into(),
        ),
        (
            hmac("signed = '{id}{body}'"),
            " has no id_header: the {id} in signed is read from it".into(),
        ),
        (
            hmac("timestamp_header = 'T', signed = '{timestamp}{body}', tolerance = '0s'"),
            ".tolerance is \"0s\": expected at least 1ms".into(),
        ),
    ] {
        check(&source(&verify), &[&format!("2: sources.a.verify{error}")]);
    }
}
