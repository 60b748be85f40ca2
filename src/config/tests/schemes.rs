//! `verify`: what each scheme takes, and what it may not be given.

use std::time::Duration;

use super::super::*;
use super::{Folder, check};

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
fn every_scheme_of_the_contract_is_known_by_name() {
    let names: Vec<&str> = SCHEMES.iter().map(|scheme| scheme.name).collect();
    let contract = "none token basic bearer hmac paminga standard github gitlab stripe shopify \
                    slack twilio sendgrid mailgun mailchimp mandrill meta zoom discord paddle \
                    square hubspot linear bitbucket dropbox trello microsoft-graph sns";
    assert_eq!(names, contract.split_whitespace().collect::<Vec<_>>());
    for scheme in SCHEMES.iter().filter(|scheme| !scheme.known) {
        let name = scheme.name;
        let fault =
            format!("2: sources.a.verify.scheme is \"{name}\": not yet known to this version");
        check(&source(&format!("scheme = '{name}', verify_token = 'x'")), &[&fault]);
    }
}

#[test]
fn the_keys_in_the_table_are_those_that_are_read() {
    for scheme in SCHEMES.iter().filter(|scheme| scheme.known) {
        let folder = Folder::new(&source(&format!("scheme = '{}', zzzzzzzz = 1", scheme.name)));
        let faults = folder.faults();
        let unknown =
            faults.iter().find_map(|fault| fault.split_once("zzzzzzzz is unknown: expected "));
        let mut read: Vec<&str> = unknown.unwrap().1.split([',', ' ']).collect();
        read.retain(|word| !matches!(*word, "" | "or" | "scheme"));
        let mut keys = scheme.keys.to_vec();
        read.sort_unstable();
        keys.sort_unstable();
        assert_eq!(read, keys, "{}", scheme.name);
    }
}

#[test]
fn each_scheme_takes_its_keys() {
    let base =
        |scheme: &str| Verify { scheme: scheme.into(), secret: secret(), ..Verify::default() };
    let token = read(&format!("scheme = 'token', header = 'X-Token', {SECRET}"));
    assert_eq!(token, Verify { header: Some("x-token".into()), ..base("token") });
    let token = read(&format!("scheme = 'token', query = 'key', segment = false, {SECRET}"));
    assert_eq!(token, Verify { query: Some("key".into()), ..base("token") });
    let token = read(&format!("scheme = 'token', segment = true, {SECRET}"));
    assert_eq!(token, Verify { segment: true, ..base("token") });
    let basic = read(&format!("scheme = 'basic', user = 'me', {SECRET}"));
    assert_eq!(basic, Verify { user: Some("me".into()), ..base("basic") });
    assert_eq!(read(&format!("scheme = 'bearer', {SECRET}")), base("bearer"));
    let paminga = read(&format!("scheme = 'paminga', {SECRET}"));
    assert_eq!(paminga, Verify { header: Some("x-paminga-signature".into()), ..base("paminga") });
    let paminga = read(&format!("scheme = 'paminga', header = 'Signature', {SECRET}"));
    assert_eq!(paminga.header.as_deref(), Some("signature"));
}

#[test]
fn an_hmac_recipe_is_read_part_by_part() {
    let least = read(&format!("scheme = 'hmac', header = 'X-Sig', {SECRET}"));
    let hmac = Hmac {
        algorithm: Algorithm::Sha256,
        prefix: String::new(),
        encoding: Encoding::Hex,
        signed: vec![SignedPart::Body],
        timestamp_header: None,
        timestamp_unit: TimestampUnit::Seconds,
        id_header: None,
    };
    assert_eq!((least.hmac, least.tolerance), (Some(hmac), None));

    let most = read(&format!(
        "scheme = 'hmac', header = 'X-Sig', algorithm = 'sha512', prefix = 'v1=', encoding = \
         'base64', signed = 'v1:{{id}}.{{timestamp}}{{method}}{{url}}{{body}}!', \
         timestamp_header = 'X-Time', timestamp_unit = 'ms', id_header = 'X-Id', url = \
         'https://example.com/a', {SECRET}"
    ));
    let hmac = Hmac {
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
    assert_eq!(most.hmac, Some(hmac));
    assert_eq!(most.tolerance, Some(Duration::from_secs(300)));
    assert_eq!(most.url.as_deref(), Some("https://example.com/a"));
}

#[test]
fn a_scheme_refuses_what_it_can_not_use() {
    let schemes = r#"expected "none", "token", "basic", "bearer", "hmac" or "paminga""#;
    for (verify, fault) in [
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
            " has no place for the token: expected header, query or segment = true".into(),
        ),
        (
            format!("scheme = 'token', header = 'X', segment = true, {SECRET}"),
            " has more than one place for the token: expected one of header, query, segment = true"
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
        check(&source(&verify), &[&format!("2: sources.a.verify{fault}")]);
    }
}

#[test]
fn an_hmac_recipe_is_whole() {
    let signed = "expected text of {body}, {timestamp}, {id}, {url} and {method}, such as \
                  \"{timestamp}.{body}\"";
    let hmac = |rest: &str| format!("scheme = 'hmac', header = 'X', {SECRET}, {rest}");
    for (verify, fault) in [
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
        check(&source(&verify), &[&format!("2: sources.a.verify{fault}")]);
    }
}
