//! Reads `verify = { scheme = …, … }` and fills in what a preset knows.
//!
//! [`SCHEMES`] lists the keys of each scheme. The module `verify` verifies.

use std::path::Path;
use std::time::Duration;

use super::parse::{self, POSITIVE_DURATION};
use super::public_url::PublicUrl;
use super::scheme::{SCHEMES, SchemeSpec, find_scheme};
use super::secret::{self, SecretFormat};
use super::server::reject_rest;
use super::toml_reader::{TomlTable, TomlValue};
use super::{Algorithm, Encoding, Hmac, SignedPart, TimestampUnit, Tolerance, Verify};

const HEADER_EXPECTED: &str = r#"expected a header's name such as "X-Signature""#;
const VERIFY_EXPECTED: &str = r#"expected a table such as { scheme = "none" }"#;
const TEXT_EXPECTED: &str = "expected text";
/// Senders' clocks and queues are at most this far off.
const FIVE_MINUTES: Duration = Duration::from_secs(300);
const DEFAULT_TOLERANCE: Tolerance = Tolerance { back: FIVE_MINUTES, ahead: FIVE_MINUTES };

/// The verification of a source without `verify`.
pub(super) fn no_verification() -> Verify {
    Verify { scheme: "none".to_owned(), ..Verify::default() }
}

/// Reads `verify`; `None` if the scheme is unknown, whose error is recorded. `path`: the source's.
pub(super) fn read_verify(value: &TomlValue<'_>, folder: &Path, path: &str) -> Option<Verify> {
    if !value.is_table() {
        // It may be the secret, in the wrong place.
        return value.invalid_redacted(VERIFY_EXPECTED);
    }
    let table = value.table(VERIFY_EXPECTED)?;
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
        let header = table.parse_with("header", HEADER_EXPECTED, parse::parse_header_name);
        verify.header = Some(header.unwrap_or_else(|| default.to_owned()));
    }
    verify.tolerance = verify.tolerance.or(scheme.tolerance);
    let has_timestamp = scheme.tolerance.is_some()
        || verify.hmac.as_ref().is_some_and(|hmac| hmac.timestamp_header.is_some());
    if scheme.keys.contains(&"tolerance")
        && !has_timestamp
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
            "has no secret yet: only its sender's handshake is answered, all other requests are \
             rejected",
        ),
        None => table.missing_error(format!(
            r#"has no secret: scheme "{}" needs one, such as secret = {{ file = "path" }}"#,
            scheme.name
        )),
    }
    verify.url = table.get("url").and_then(|value| read_url(&value, path));
    verify.tolerance = table.get("tolerance").and_then(|value| {
        let parse = |text: &str| parse::parse_duration_in(text, POSITIVE_DURATION);
        let back = value.parse_with(parse::DURATION, parse)?;
        // A longer tolerance is for late senders, not for clocks that are ahead.
        let ahead = back.min(scheme.tolerance.unwrap_or(DEFAULT_TOLERANCE).ahead);
        Some(Tolerance { back, ahead })
    });
}

/// Reads the token that Meta sends in its handshake.
fn read_verify_token(table: &TomlTable<'_>, folder: &Path, verify: &mut Verify) {
    match table.get("verify_token") {
        Some(value) => {
            verify.verify_token = secret::parse_list(&value, folder, SecretFormat::Bytes)
        }
        None => table.warn(
            "has no verify_token: Meta's handshake will be rejected; expected the token that you \
             gave it, such as verify_token = { file = \"path\" }",
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
    value.parse_with(&parse::expected_one_of("", &names), parse)
}

/// Reads the public URL. No error shows it, as it may contain a password.
fn read_url(value: &TomlValue<'_>, path: &str) -> Option<PublicUrl> {
    let is_plausible = |rest: &&str| {
        !rest.is_empty() && !rest.starts_with('/') && rest.bytes().all(|b| b.is_ascii_graphic())
    };
    let text = value.raw_text().unwrap_or_default();
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    match rest.filter(is_plausible) {
        Some(_) => {
            let (url, unknown) = PublicUrl::new(text, path);
            for name in unknown {
                value.warn(format!(
                    "has {name}, which the source's path does not have: the URL is used as written"
                ));
            }
            Some(url)
        }
        None => value.invalid_redacted("expected a URL that begins with https:// or http://"),
    }
}

/// Reads where a token is. A sender that can't set a header has none.
fn read_token(table: &TomlTable<'_>, in_header: bool, verify: &mut Verify) {
    if in_header {
        verify.header = table.parse_with("header", HEADER_EXPECTED, parse::parse_header_name);
    }
    verify.query = table.parse_with("query", "expected the name of a query's field", |text| {
        if text.is_empty() { Err("expected a name".to_owned()) } else { Ok(text.to_owned()) }
    });
    verify.is_path_token = table.flag("path_token", false);
    let has_path_token =
        verify.is_path_token || (table.has("path_token") && !is_false(table, "path_token"));
    let places = [in_header && table.has("header"), table.has("query"), has_path_token];
    let expected = match in_header {
        true => ["header, query or path_token = true", "header, query, path_token = true"],
        false => ["query or path_token = true", "query, path_token = true"],
    };
    match places.iter().filter(|is_given| **is_given).count() {
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
    verify.user = table.parse_with("user", TEXT_EXPECTED, |text| match text.contains(':') {
        true => Err("expected a user without a colon".to_owned()),
        false => Ok(text.to_owned()),
    });
    if !table.has("user") {
        table.missing_error(r#"has no user: scheme "basic" needs one, such as user = "sender""#);
    }
}

fn read_hmac(table: &TomlTable<'_>, verify: &mut Verify) {
    verify.header = table.parse_with("header", HEADER_EXPECTED, parse::parse_header_name);
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
        prefix: table
            .parse_with("prefix", TEXT_EXPECTED, |text| Ok(text.to_owned()))
            .unwrap_or_default(),
        encoding: table.choice("encoding", &encodings, Encoding::Hex),
        signed: table
            .parse_with("signed", TEXT_EXPECTED, parse_signed_parts)
            .unwrap_or_else(|| vec![SignedPart::Body]),
        timestamp_header: table.parse_with(
            "timestamp_header",
            HEADER_EXPECTED,
            parse::parse_header_name,
        ),
        timestamp_unit: table.choice("timestamp_unit", &units, TimestampUnit::Seconds),
        id_header: table.parse_with("id_header", HEADER_EXPECTED, parse::parse_header_name),
    };
    if hmac.timestamp_header.is_some() {
        verify.tolerance = verify.tolerance.or(Some(DEFAULT_TOLERANCE));
    }
    check_signed(table, &hmac);
    verify.hmac = Some(hmac);
}

/// Checks that the headers of signed parts are set, and warns about headers that are not signed.
fn check_signed(table: &TomlTable<'_>, hmac: &Hmac) {
    let is_signed = |part: SignedPart| hmac.signed.contains(&part);
    for (part, name, key) in [
        (SignedPart::Timestamp, "{timestamp}", "timestamp_header"),
        (SignedPart::Id, "{id}", "id_header"),
    ] {
        match (is_signed(part), table.get(key)) {
            (true, None) => {
                table.missing_error(format!("has no {key}: the {name} in signed is read from it"));
            }
            (false, Some(value)) => value.warn(format!("is not signed: {name} is not in signed")),
            _ => {}
        }
    }
    if let (false, Some(value)) = (is_signed(SignedPart::Body), table.get("signed")) {
        value.warn("has no {body}: the signature does not cover the body");
    }
}

/// Parses `"{timestamp}.{body}"` into parts.
///
/// # Errors
/// The text is invalid; the error says what is allowed.
pub fn parse_signed_parts(text: &str) -> Result<Vec<SignedPart>, String> {
    let invalid = || {
        "expected text of {body}, {timestamp}, {id}, {url} and {method}, such as \
         \"{timestamp}.{body}\""
            .to_owned()
    };
    let (mut parts, mut rest) = (Vec::new(), text);
    while let Some(open) = rest.find('{') {
        let (before, after) = rest.split_at(open);
        let (name, after) = after[1..].split_once('}').ok_or_else(invalid)?;
        if !before.is_empty() {
            parts.push(SignedPart::Text(before.to_owned()));
        }
        parts.push(match name {
            "body" => SignedPart::Body,
            "timestamp" => SignedPart::Timestamp,
            "id" => SignedPart::Id,
            "url" => SignedPart::Url,
            "method" => SignedPart::Method,
            _ => return Err(invalid()),
        });
        rest = after;
    }
    if !rest.is_empty() {
        parts.push(SignedPart::Text(rest.to_owned()));
    }
    let is_constant = parts.iter().all(|part| matches!(part, SignedPart::Text(_)));
    let has_stray_brace =
        |part: &SignedPart| matches!(part, SignedPart::Text(text) if text.contains('}'));
    if is_constant || parts.iter().any(has_stray_brace) { Err(invalid()) } else { Ok(parts) }
}
