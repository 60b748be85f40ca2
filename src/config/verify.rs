//! `verify = { scheme = …, … }`: the values of its keys, what a preset knows filled in.
//!
//! [`SCHEMES`] says which scheme takes which keys. How a scheme verifies is `web`'s.

use std::path::Path;
use std::time::Duration;

use super::parse::{self, POSITIVE_DURATION};
use super::public_url::PublicUrl;
use super::scheme::{SCHEMES, SchemeSpec, find_scheme};
use super::secret::{self, SecretFormat};
use super::server::reject_rest;
use super::toml_reader::{TomlTable, TomlValue};
use super::{Algorithm, Encoding, Hmac, SignedPart, TimestampUnit, Tolerance, Verify};

const HEADER: &str = r#"expected a header's name such as "X-Signature""#;
const TABLE: &str = r#"expected a table such as { scheme = "none" }"#;
const TEXT: &str = "expected text";
/// Senders' clocks and queues are that far off at most.
const FIVE_MINUTES: Duration = Duration::from_secs(300);
const TOLERANCE: Tolerance = Tolerance { back: FIVE_MINUTES, ahead: FIVE_MINUTES };

/// What a source without `verify` has.
pub(super) fn no_verification() -> Verify {
    Verify { scheme: "none".to_owned(), ..Verify::default() }
}

/// Reads `verify`; `None` where the scheme is not to be known, with its fault noted.
/// `path`: the source's.
pub(super) fn read_verify(value: &TomlValue<'_>, folder: &Path, path: &str) -> Option<Verify> {
    if !value.is_table() {
        // It may be the secret, written in the wrong place.
        return value.invalid_redacted(TABLE);
    }
    let table = value.table(TABLE)?;
    let scheme = read_scheme(&table)?;
    let mut verify = Verify { scheme: scheme.name.to_owned(), ..Verify::default() };
    if scheme.keys.contains(&"secret") {
        read_common(&table, scheme, (folder, path), &mut verify);
    }
    match scheme.name {
        "token" => read_token(&table, true, &mut verify),
        "mailchimp" => read_token(&table, false, &mut verify),
        "basic" => read_user(&table, &mut verify),
        "hmac" => read_hmac(&table, &mut verify),
        "meta" => read_verify_token(&table, folder, &mut verify),
        _ => {}
    }
    if let Some(default) = scheme.header {
        let header = table.parsed("header", HEADER, parse::parse_header_name);
        verify.header = Some(header.unwrap_or_else(|| default.to_owned()));
    }
    verify.tolerance = verify.tolerance.or(scheme.tolerance);
    let timed = scheme.tolerance.is_some()
        || verify.hmac.as_ref().is_some_and(|hmac| hmac.timestamp_header.is_some());
    if scheme.keys.contains(&"tolerance")
        && !timed
        && let Some(value) = table.get("tolerance")
    {
        value.warn("has no effect: there is no time stamp");
    }
    reject_rest(table, &[]);
    Some(verify)
}

fn read_common(
    table: &TomlTable<'_>,
    scheme: &SchemeSpec,
    (folder, path): (&Path, &str),
    verify: &mut Verify,
) {
    match table.get("secret") {
        Some(value) => verify.secret = secret::parse_list(&value, folder, scheme.secret),
        None if scheme.secret_optional => table.warn(
            "has no secret yet: its sender's handshake is answered, and everything else is refused",
        ),
        None => table.missing_error(format!(
            r#"has no secret: scheme "{}" needs one, such as secret = {{ file = "path" }}"#,
            scheme.name
        )),
    }
    verify.url = table.get("url").and_then(|value| read_url(&value, path));
    verify.tolerance = table.get("tolerance").and_then(|value| {
        let parse = |text: &str| parse::parse_duration_in(text, POSITIVE_DURATION);
        let back = value.parsed(parse::DURATION, parse)?;
        // A clock that is ahead is no reason to wait longer for a sender.
        let ahead = back.min(scheme.tolerance.unwrap_or(TOLERANCE).ahead);
        Some(Tolerance { back, ahead })
    });
}

/// What Meta is given back in its handshake.
fn read_verify_token(table: &TomlTable<'_>, folder: &Path, verify: &mut Verify) {
    match table.get("verify_token") {
        Some(value) => verify.verify_token = secret::parse_list(&value, folder, SecretFormat::Bytes),
        None => table.warn(
            "has no verify_token: Meta's handshake will be refused; expected the token that you gave \
             it, such as verify_token = { file = \"path\" }",
        ),
    }
}

fn read_scheme(table: &TomlTable<'_>) -> Option<&'static SchemeSpec> {
    let names: Vec<&str> = SCHEMES.iter().map(|scheme| scheme.name).collect();
    let Some(value) = table.get("scheme") else {
        table.missing_error(format!("has no scheme: {}", parse::expected_one_of("", &names)));
        return None;
    };
    let parse = |text: &str| find_scheme(text).ok_or_else(|| parse::expected_one_of(text, &names));
    value.parsed(&parse::expected_one_of("", &names), parse)
}

/// Not shown when it is wrong: a URL may hold a password.
fn read_url(value: &TomlValue<'_>, path: &str) -> Option<PublicUrl> {
    let plain = |rest: &&str| {
        !rest.is_empty() && !rest.starts_with('/') && rest.bytes().all(|b| b.is_ascii_graphic())
    };
    let text = value.raw_text().unwrap_or_default();
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    match rest.filter(plain) {
        Some(_) => {
            let (url, unknown) = PublicUrl::new(text, path);
            for name in unknown {
                value.warn(format!(
                    "has {name}, which the source's path has not: it is signed as it stands there"
                ));
            }
            Some(url)
        }
        None => value.invalid_redacted("expected a URL that begins with https:// or http://"),
    }
}

/// Where a token stands. No header of a sender that can't set one.
fn read_token(table: &TomlTable<'_>, in_header: bool, verify: &mut Verify) {
    if in_header {
        verify.header = table.parsed("header", HEADER, parse::parse_header_name);
    }
    verify.query = table.parsed("query", "expected the name of a query's field", |text| {
        if text.is_empty() { Err("expected a name".to_owned()) } else { Ok(text.to_owned()) }
    });
    verify.is_path_token = table.flag("path_token", false);
    let segment =
        verify.is_path_token || (table.has("path_token") && !is_false(table, "path_token"));
    let places = [in_header && table.has("header"), table.has("query"), segment];
    let expected = match in_header {
        true => ["header, query or path_token = true", "header, query, path_token = true"],
        false => ["query or path_token = true", "query, path_token = true"],
    };
    match places.iter().filter(|there| **there).count() {
        1 => {}
        0 => table.missing_error(format!("has no place for the token: expected {}", expected[0])),
        _ => table.error(format!(
            "has more than one place for the token: expected one of {}",
            expected[1]
        )),
    }
}

fn is_false(table: &TomlTable<'_>, key: &'static str) -> bool {
    table.get(key).and_then(|value| value.as_flag()) == Some(false)
}

fn read_user(table: &TomlTable<'_>, verify: &mut Verify) {
    // RFC 7617 section 2: the first colon ends the user.
    verify.user = table.parsed("user", TEXT, |text| match text.contains(':') {
        true => Err("expected a user without a colon".to_owned()),
        false => Ok(text.to_owned()),
    });
    if !table.has("user") {
        table.missing_error(r#"has no user: scheme "basic" needs one, such as user = "sender""#);
    }
}

fn read_hmac(table: &TomlTable<'_>, verify: &mut Verify) {
    verify.header = table.parsed("header", HEADER, parse::parse_header_name);
    if !table.has("header") {
        table.missing_error(
            r#"has no header: scheme "hmac" needs one, such as header = "X-Signature""#,
        );
    }
    let algorithms =
        [("sha1", Algorithm::Sha1), ("sha256", Algorithm::Sha256), ("sha512", Algorithm::Sha512)];
    let units = [("s", TimestampUnit::Seconds), ("ms", TimestampUnit::Milliseconds)];
    let encodings = [("hex", Encoding::Hex), ("base64", Encoding::Base64)];
    let hmac = Hmac {
        algorithm: table.choice("algorithm", &algorithms, Algorithm::Sha256),
        prefix: table.parsed("prefix", TEXT, |text| Ok(text.to_owned())).unwrap_or_default(),
        encoding: table.choice("encoding", &encodings, Encoding::Hex),
        signed: table
            .parsed("signed", TEXT, parse_signed_parts)
            .unwrap_or_else(|| vec![SignedPart::Body]),
        timestamp_header: table.parsed("timestamp_header", HEADER, parse::parse_header_name),
        timestamp_unit: table.choice("timestamp_unit", &units, TimestampUnit::Seconds),
        id_header: table.parsed("id_header", HEADER, parse::parse_header_name),
    };
    if hmac.timestamp_header.is_some() {
        verify.tolerance = verify.tolerance.or(Some(TOLERANCE));
    }
    check_signed(table, &hmac);
    verify.hmac = Some(hmac);
}

/// What is signed must be there, and what is there had better be signed.
fn check_signed(table: &TomlTable<'_>, hmac: &Hmac) {
    let signed = |part: SignedPart| hmac.signed.contains(&part);
    for (part, name, key) in [
        (SignedPart::Timestamp, "{timestamp}", "timestamp_header"),
        (SignedPart::Id, "{id}", "id_header"),
    ] {
        match (signed(part), table.get(key)) {
            (true, None) => {
                table.missing_error(format!("has no {key}: the {name} in signed is read from it"));
            }
            (false, Some(value)) => value.warn(format!("is not signed: {name} is not in signed")),
            _ => {}
        }
    }
    if let (false, Some(value)) = (signed(SignedPart::Body), table.get("signed")) {
        value.warn("has no {body}: a signature would not vouch for the body");
    }
}

/// `"{timestamp}.{body}"` in its parts.
///
/// # Errors
/// What was expected.
pub fn parse_signed_parts(text: &str) -> Result<Vec<SignedPart>, String> {
    let wrong = || {
        "expected text of {body}, {timestamp}, {id}, {url} and {method}, such as \
         \"{timestamp}.{body}\""
            .to_owned()
    };
    let (mut parts, mut rest) = (Vec::new(), text);
    while let Some(open) = rest.find('{') {
        let (before, after) = rest.split_at(open);
        let (name, after) = after[1..].split_once('}').ok_or_else(wrong)?;
        if !before.is_empty() {
            parts.push(SignedPart::Text(before.to_owned()));
        }
        parts.push(match name {
            "body" => SignedPart::Body,
            "timestamp" => SignedPart::Timestamp,
            "id" => SignedPart::Id,
            "url" => SignedPart::Url,
            "method" => SignedPart::Method,
            _ => return Err(wrong()),
        });
        rest = after;
    }
    if !rest.is_empty() {
        parts.push(SignedPart::Text(rest.to_owned()));
    }
    let constant = parts.iter().all(|part| matches!(part, SignedPart::Text(_)));
    let stray = |part: &SignedPart| matches!(part, SignedPart::Text(text) if text.contains('}'));
    if constant || parts.iter().any(stray) { Err(wrong()) } else { Ok(parts) }
}
