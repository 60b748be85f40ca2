//! Reads `verify = { scheme = …, … }` and fills in what a preset knows. The module `verify` has the
//! schemes.

use std::path::Path;
use std::time::Duration;

use super::parse::{self, POSITIVE_DURATION};
use super::secret;

use super::toml_reader::{TomlTable, TomlValue};
use super::{SecretRef, Verify};
use crate::verify::{
    Algorithm, CredentialLocation, Encoding, HmacSpec, PRESETS, Preset, PresetLocation, PublicUrl,
    Scheme, SecretFormat, SignedPart, TimestampUnit, Tolerance, parse_signed_parts,
};

const HEADER_EXPECTED: &str = r#"expected a header's name such as "X-Signature""#;
const VERIFY_EXPECTED: &str = r#"expected a table such as { scheme = "none" }"#;
const TEXT_EXPECTED: &str = "expected text";
/// Senders' clocks and queues are at most this far off.
const FIVE_MINUTES: Duration = Duration::from_secs(300);
const DEFAULT_TOLERANCE: Tolerance = Tolerance { back: FIVE_MINUTES, ahead: FIVE_MINUTES };

/// The verification of a source without `verify`.
pub(super) fn no_verification() -> Verify {
    let (secret, verify_token) = (Vec::new(), Vec::new());
    Verify { scheme: Scheme::None, secret, tolerance: None, url: None, verify_token }
}

/// Reads `verify`; `None` if the scheme is unknown or incomplete, whose error is recorded. `path`:
/// the source's.
pub(super) fn read_verify(value: &TomlValue<'_>, folder: &Path, path: &str) -> Option<Verify> {
    if !value.is_table() {
        // It may be the secret, in the wrong place.
        return value.invalid_redacted(VERIFY_EXPECTED);
    }
    let table = value.table(VERIFY_EXPECTED)?;
    let name = read_name(&table)?;
    let preset = PRESETS.iter().find(|preset| preset.name == name);
    let mut verify = no_verification();
    if name != "none" {
        verify.secret = read_secret(&table, name, preset, folder);
        verify.url = table.get("url").and_then(|value| read_url(&value, path));
        verify.tolerance = read_tolerance(&table, preset);
    }
    if preset.is_some_and(|preset| preset.has_verify_token) {
        verify.verify_token = read_verify_token(&table, folder);
    }
    let scheme = match (name, preset) {
        (_, Some(preset)) => read_preset(&table, preset),
        ("token", _) => read_token(&table, true).map(Scheme::Token),
        ("basic", _) => read_user(&table).map(|user| Scheme::Basic { user }),
        ("bearer", _) => Some(Scheme::Bearer),
        ("hmac", _) => read_hmac(&table).map(Scheme::Hmac),
        _ => Some(Scheme::None),
    };
    let default = match &scheme {
        Some(Scheme::Hmac(hmac)) if hmac.timestamp_header.is_some() => Some(DEFAULT_TOLERANCE),
        _ => preset.and_then(|preset| preset.tolerance),
    };
    if name != "none"
        && default.is_none()
        && let Some(value) = table.get("tolerance")
    {
        value.warn("has no effect: there is no time stamp");
    }
    table.reject_unknown();
    Some(Verify { scheme: scheme?, tolerance: verify.tolerance.or(default), ..verify })
}

/// Reads the name of a scheme that exists.
fn read_name(table: &TomlTable<'_>) -> Option<&'static str> {
    if !table.has("scheme") {
        let names: Vec<&str> = Scheme::names().collect();
        table.missing_error(format!("has no scheme: {}", parse::expected_one_of("", &names)));
    }
    let choices: Vec<_> = Scheme::names().map(|name| (name, Some(name))).collect();
    table.choice("scheme", &choices, None)
}

fn read_secret(
    table: &TomlTable<'_>,
    name: &str,
    preset: Option<&Preset>,
    folder: &Path,
) -> Vec<SecretRef> {
    let format = match (name, preset) {
        (_, Some(preset)) => preset.secret,
        ("bearer", _) => SecretFormat::BearerToken,
        _ => SecretFormat::Bytes,
    };
    match table.get("secret") {
        Some(value) => return secret::parse_list(&value, folder, format),
        None if preset.is_some_and(|preset| preset.is_secret_optional) => table.warn(
            "has no secret yet: only its sender's handshake is answered, all other requests are \
             rejected",
        ),
        None => table.missing_error(format!(
            r#"has no secret: scheme "{name}" needs one, such as secret = {{ file = "path" }}"#
        )),
    }
    Vec::new()
}

fn read_tolerance(table: &TomlTable<'_>, preset: Option<&Preset>) -> Option<Tolerance> {
    let parse = |text: &str| parse::parse_duration_in(text, POSITIVE_DURATION);
    let back = table.parse_with("tolerance", parse::DURATION, parse)?;
    // A longer tolerance is for late senders, not for clocks that are ahead.
    let default = preset.and_then(|preset| preset.tolerance).unwrap_or(DEFAULT_TOLERANCE);
    Some(Tolerance { back, ahead: back.min(default.ahead) })
}

fn read_preset(table: &TomlTable<'_>, preset: &'static Preset) -> Option<Scheme> {
    let location = match preset.location {
        PresetLocation::Fixed => None,
        PresetLocation::Header(default) => {
            let header = read_header(table).unwrap_or_else(|| default.to_owned());
            Some(CredentialLocation::Header(header))
        }
        PresetLocation::Url => Some(read_token(table, false)?),
    };
    Some(Scheme::Preset(preset, location))
}

fn read_header(table: &TomlTable<'_>) -> Option<String> {
    table.parse_with("header", HEADER_EXPECTED, parse::parse_header_name)
}

/// Reads the token that Meta sends in its handshake.
fn read_verify_token(table: &TomlTable<'_>, folder: &Path) -> Vec<SecretRef> {
    if let Some(value) = table.get("verify_token") {
        return secret::parse_list(&value, folder, SecretFormat::Bytes);
    }
    table.warn(
        "has no verify_token: Meta's handshake will be rejected; expected the token that you gave \
         it, such as verify_token = { file = \"path\" }",
    );
    Vec::new()
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
fn read_token(table: &TomlTable<'_>, in_header: bool) -> Option<CredentialLocation> {
    let header = in_header.then(|| read_header(table)).flatten();
    let query = table.parse_with("query", "expected the name of a query's field", |text| {
        if text.is_empty() { Err("expected a name".to_owned()) } else { Ok(text.to_owned()) }
    });
    let is_path_token = table.flag("path_token", false);
    let has_path_token =
        is_path_token || (table.has("path_token") && !is_false(table, "path_token"));
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
    let path_token = is_path_token.then_some(CredentialLocation::PathSegment);
    let query = query.map(CredentialLocation::Query);
    header.map(CredentialLocation::Header).or(query).or(path_token)
}

fn is_false(table: &TomlTable<'_>, key: &'static str) -> bool {
    table.get(key).and_then(|value| value.as_flag()) == Some(false)
}

fn read_user(table: &TomlTable<'_>) -> Option<String> {
    if !table.has("user") {
        table.missing_error(r#"has no user: scheme "basic" needs one, such as user = "sender""#);
    }
    // RFC 7617 section 2: the first colon ends the user.
    table.parse_with("user", TEXT_EXPECTED, |text| match text.contains(':') {
        true => Err("expected a user without a colon".to_owned()),
        false => Ok(text.to_owned()),
    })
}

fn read_hmac(table: &TomlTable<'_>) -> Option<HmacSpec> {
    let header = read_header(table);
    if !table.has("header") {
        table.missing_error(
            r#"has no header: scheme "hmac" needs one, such as header = "X-Signature""#,
        );
    }
    let algorithms =
        [("sha1", Algorithm::Sha1), ("sha256", Algorithm::Sha256), ("sha512", Algorithm::Sha512)];
    let units = [("s", TimestampUnit::Seconds), ("ms", TimestampUnit::Milliseconds)];
    let encodings = [("hex", Encoding::Hex), ("base64", Encoding::Base64)];
    let hmac = HmacSpec {
        header: String::new(),
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
    check_signed(table, &hmac);
    header.map(|header| HmacSpec { header, ..hmac })
}

/// Checks that the headers of signed parts are set, and warns about headers that are not signed.
fn check_signed(table: &TomlTable<'_>, hmac: &HmacSpec) {
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
    if let Some(value) = table.get("signed") {
        warn_about_ambiguity(&value, &hmac.signed);
    }
}

/// Warns about two parts of any length without a text between them: their border can be moved without a
/// change of the signature. A time stamp has a fixed length in practice, and a method is one of a few.
fn warn_about_ambiguity(value: &TomlValue<'_>, signed: &[SignedPart]) {
    let name = |part: &SignedPart| match part {
        SignedPart::Body => Some("{body}"),
        SignedPart::Id => Some("{id}"),
        SignedPart::Url => Some("{url}"),
        SignedPart::Text(_) | SignedPart::Timestamp | SignedPart::Method => None,
    };
    for pair in signed.windows(2) {
        if let (Some(first), Some(second)) = (name(&pair[0]), name(&pair[1])) {
            value.warn(format!(
                "has {first}{second} without a text between them: a captured signature is valid for any \
                 other division of the same bytes: expected a text between them, if the sender signs one"
            ));
        }
    }
}
