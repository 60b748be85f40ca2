//! Reads `[sources.NAME]` except for `verify`.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use super::error::{Diagnostics, Location};
use super::parse::{self, DAY, POSITIVE_DURATION};
use super::retention::read_retention;
use super::server::{MAX_BODY_BYTES, reject_above_total};
use super::toml_reader::{TomlTable, TomlValue};
use super::{
    Accept, Dedupe, DedupeSelector, Handler, HandshakeConfig, HandshakeSettings, OnDuplicate,
    Respond, Retention, ServerConfig, Source, SourceInput, Verify, expression, jetstream, redact,
    verify,
};
use crate::verify::Scheme;

/// `max_queued` if it is not set: effectively no limit, and valid in SQLite.
pub const NO_MAX_QUEUED: u64 = i64::MAX as u64;

const METHODS: [&str; 7] = ["POST", "PUT", "PATCH", "DELETE", "GET", "HEAD", "OPTIONS"];
const METHODS_EXPECTED: &str = r#"expected a list such as ["POST"]"#;
const NETWORKS_EXPECTED: &str = r#"expected a list of networks such as ["10.0.0.0/8"]"#;
const DEDUPE_EXPECTED: &str =
    r#"expected { header = "X-Delivery" }, { jq = ".id" }, { body = true } or false"#;
const HANDSHAKE_EXPECTED: &str =
    r#"expected a table such as { respond = "$query.challenge" }, or false"#;
const PATH_EXPECTED: &str = r#"expected a path such as "/hooks/paminga" or "/hooks/{tenant}""#;
/// Paths that both listeners answer themselves.
const SERVER_PATHS: [&str; 2] = ["/healthz", "/readyz"];

/// A source and the locations of its table and its path, for errors that concern several tables.
pub(super) struct ParsedSource {
    pub source: Source,
    pub at: Location,
    pub path_at: Location,
}

pub(super) fn read_source(
    name: &str,
    table: TomlTable<'_>,
    server: &ServerConfig,
    (folder, retention): (&Path, Retention),
) -> ParsedSource {
    if name == "hooktrail" {
        table.error("is the name of the built-in source: expected another");
    } else if let Err(remedy) = parse::check_name(name) {
        table.error(format!("is not a valid name: {remedy}"));
    }
    let at = table.at;
    let path_at = table.get("path").map_or(at, |value| value.at);
    let input = match jetstream::read_consumer(&table, folder) {
        Some(consumer) => SourceInput::JetStream(consumer),
        None => {
            let path = table.parse_with("path", PATH_EXPECTED, parse_path);
            SourceInput::Path(path.unwrap_or_else(|| format!("/hooks/{name}")))
        }
    };
    let verify = match &input {
        SourceInput::Path(path) => read_verify(name, &table, server, (folder, path)),
        SourceInput::JetStream(_) => verify::no_verification(),
    };
    let (dedupe, dedupe_window) = read_dedupe(&table, &verify);
    check_tolerance(&table, &verify, &dedupe, dedupe_window);
    let source = Source {
        name: name.to_owned(),
        input,
        methods: read_methods(&table, "POST"),
        accept: table.choice(
            "accept",
            &[("any", Accept::Any), ("json", Accept::Json), ("form", Accept::Form)],
            Accept::Any,
        ),
        allow_from: table
            .texts("allow_from", NETWORKS_EXPECTED, parse::parse_network)
            .unwrap_or_default(),
        verify,
        dedupe,
        dedupe_window,
        on_duplicate: table.choice(
            "on_duplicate",
            &[("retry_dead", OnDuplicate::RetryDead), ("ignore", OnDuplicate::Ignore)],
            OnDuplicate::RetryDead,
        ),
        rate_limit: table.parse_with("rate_limit", parse::RATE, parse::parse_rate),
        max_queued: u64::try_from(table.integer("max_queued", i64::MAX, 1..=i64::MAX))
            .unwrap_or(NO_MAX_QUEUED),
        respond: table.get("respond").and_then(|value| read_respond(&value)),
        max_body_bytes: read_body_max(&table, server),
        handshake: read_handshake(&table),
        alert_if_silent_for: table.optional_duration("alert_if_silent_for", POSITIVE_DURATION),
        retention: read_retention(&table, retention),
        redact: redact::read_redact(&table),
    };
    redact::check_keys(&table, &source);
    table.reject_unknown();
    ParsedSource { source, at, path_at }
}

fn read_verify(
    name: &str,
    table: &TomlTable<'_>,
    server: &ServerConfig,
    (folder, path): (&Path, &str),
) -> Verify {
    let value = table.get("verify");
    // If the scheme can't be read, that is an error, and nobody uses this value.
    let parsed = value.as_ref().map(|value| verify::read_verify(value, folder, path));
    let verify = parsed.flatten().unwrap_or_else(verify::no_verification);
    let is_public = |listener: &super::Listener| match &listener.address {
        super::Listen::Tcp(address) => !address.ip().to_canonical().is_loopback(),
        super::Listen::Unix(_) => false,
    };
    if verify.scheme == Scheme::None && server.listen.iter().any(is_public) {
        let at = value.map_or(table.at, |value| value.at);
        table.log.warn(
            at,
            format!(
                "sources.{name}.verify is none: anybody who reaches server.listen can send events: \
                 set a scheme with a secret"
            ),
        );
    }
    verify
}

fn read_body_max(table: &TomlTable<'_>, server: &ServerConfig) -> usize {
    let default = server.max_body_bytes as u64;
    let max = table.size("max_body_size", default, 1..=MAX_BODY_BYTES) as usize;
    if let (true, Some(value)) = (max > server.max_inflight_bytes, table.get("max_body_size")) {
        reject_above_total(&value, &parse::size_text(server.max_inflight_bytes as u64));
    }
    max
}

fn read_methods(table: &TomlTable<'_>, default: &str) -> Vec<String> {
    let parse = |text: &str| match METHODS.contains(&text) {
        true => Ok(text.to_owned()),
        false => Err(match METHODS.iter().find(|known| known.eq_ignore_ascii_case(text)) {
            Some(known) => format!("did you mean {known:?}?"),
            None => parse::expected_one_of("", &METHODS),
        }),
    };
    let Some(value) = table.get("methods") else { return vec![default.to_owned()] };
    let items = value.list(METHODS_EXPECTED);
    if items.as_ref().is_some_and(Vec::is_empty) {
        value.error(format!("is []: {METHODS_EXPECTED}"));
    }
    let items = items.unwrap_or_default();
    let mut methods: Vec<String> = Vec::new();
    for method in items.iter().filter_map(|item| item.parse_with(METHODS_EXPECTED, parse)) {
        if !methods.contains(&method) {
            methods.push(method);
        }
    }
    methods
}

fn read_dedupe(table: &TomlTable<'_>, verify: &Verify) -> (Dedupe, Duration) {
    let week = 7 * DAY;
    let Some(value) = table.get("dedupe") else { return (Dedupe::Preset, week) };
    if value.as_flag() == Some(false) {
        return (Dedupe::Off, week);
    }
    let Some(table) = value.table(DEDUPE_EXPECTED) else { return (Dedupe::Preset, week) };
    let header = table.parse_with("header", DEDUPE_EXPECTED, parse::parse_header_name);
    let body = table.get("body").and_then(|value| match value.as_flag() {
        Some(true) => Some(DedupeSelector::Body),
        _ => value.invalid("expected true"),
    });
    let window = table.duration("window", week, POSITIVE_DURATION);
    let key_count = ["header", "body", "jq"].iter().filter(|key| table.has(key)).count();
    let has_window_alone = verify.scheme.preset().is_some() && table.has("window");
    if key_count > 1 {
        table.error(
            "has more than one key to recognise a duplicate by: expected header, jq or body",
        );
    } else if key_count == 0 && !has_window_alone {
        table.missing_error(format!("has no key to recognise a duplicate by: {DEDUPE_EXPECTED}"));
    }
    let jq = expression::read_expression(&table, "jq").map(DedupeSelector::Jq);
    table.reject_unknown();
    let key = header.map(DedupeSelector::Header).or(jq).or(body);
    (key.map_or(Dedupe::Preset, Dedupe::Key), window)
}

/// Warns about a `tolerance` longer than the window. It keeps a sender's own keys for longer than
/// the window says, but not those of `dedupe` with scheme `hmac`.
fn check_tolerance(table: &TomlTable<'_>, verify: &Verify, dedupe: &Dedupe, window: Duration) {
    let Some(tolerance) = verify.tolerance.filter(|tolerance| tolerance.back > window) else {
        return;
    };
    let (tolerance_text, window) =
        (parse::duration_text(tolerance.back), parse::duration_text(window));
    let has_key = matches!(dedupe, Dedupe::Key(_));
    let has_timestamp =
        matches!(&verify.scheme, Scheme::Hmac(hmac) if hmac.timestamp_header.is_some());
    if has_key && has_timestamp {
        table.warn(format!(
            "has a verify.tolerance of {tolerance_text}, longer than dedupe.window ({window}): a \
             captured request counts as new after {window}: expected a window of \
             {tolerance_text} or more"
        ));
    }
    let preset = verify.scheme.preset().and_then(|preset| preset.tolerance);
    if preset.is_some_and(|preset| preset.back != tolerance.back) {
        table.warn(format!(
            "has a verify.tolerance of {tolerance_text}, longer than dedupe.window ({window}): \
             the sender's own keys are kept for {tolerance_text} too, so that no captured \
             request counts as new"
        ));
    }
}

fn read_handshake(table: &TomlTable<'_>) -> HandshakeConfig {
    let Some(value) = table.get("handshake") else { return HandshakeConfig::Preset };
    if value.as_flag() == Some(false) {
        return HandshakeConfig::Off;
    }
    let Some(table) = value.table(HANDSHAKE_EXPECTED) else { return HandshakeConfig::Preset };
    if !table.has("respond") {
        table.missing_error(format!("has no respond: {HANDSHAKE_EXPECTED}"));
    }
    let methods = read_methods(&table, "GET");
    let respond = expression::read_expression(&table, "respond");
    let requires_signature = table.flag("signed", true);
    table.reject_unknown();
    match respond {
        Some(respond) => {
            HandshakeConfig::Custom(HandshakeSettings { methods, respond, requires_signature })
        }
        None => HandshakeConfig::Preset,
    }
}

fn read_respond(value: &TomlValue<'_>) -> Option<Respond> {
    let table = value.table("expected a table such as { status = 202 }")?;
    let body = table.get("body");
    let respond = Respond {
        status: u16::try_from(table.integer("status", 202, 200..=299)).unwrap_or(202),
        body: body.as_ref().and_then(|value| match value.raw_text() {
            Some(text) => Some(text.to_owned()),
            None => value.invalid("expected text"),
        }),
        content_type: table.parse_with("content_type", "expected text", parse::parse_header_value),
    };
    // RFC 9110 sections 15.3.5 and 15.3.6.
    if matches!(respond.status, 204 | 205) && respond.body.as_ref().is_some_and(|b| !b.is_empty()) {
        table.error(format!("has a body: a response of {} can't have one", respond.status));
    }
    table.reject_unknown();
    Some(respond)
}

/// Parses a path whose segments are plain or one `{name}`. It has no escapes, so that it has one
/// spelling.
fn parse_path(text: &str) -> Result<String, String> {
    let Some(rest) = text.strip_prefix('/') else {
        return Err(format!("{PATH_EXPECTED}: it begins with a slash"));
    };
    if SERVER_PATHS.contains(&text.strip_suffix('/').unwrap_or(text)) {
        return Err("the server uses this path itself: expected another".to_owned());
    }
    if text.contains(['?', '#']) {
        return Err(format!("{PATH_EXPECTED}: without a query"));
    }
    let segments: Vec<&str> = rest.split('/').collect();
    let mut names = Vec::new();
    for (i, segment) in segments.iter().enumerate() {
        let is_last = i + 1 == segments.len();
        if let Some(name) = segment.strip_prefix('{').and_then(|name| name.strip_suffix('}')) {
            let is_name_byte = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
            if name.is_empty() || !name.bytes().all(is_name_byte) || names.contains(&name) {
                return Err(format!(
                    "{PATH_EXPECTED}: each {{name}} of letters, digits and _, once"
                ));
            }
            names.push(name);
        } else if (segment.is_empty() && !is_last) || matches!(*segment, "." | "..") {
            return Err(format!("{PATH_EXPECTED}: no segment may be empty, . or .."));
        } else if !segment.bytes().all(is_plain_byte) {
            return Err(format!("{PATH_EXPECTED}: of letters, digits and -._~!$&'()*+,;=:@"));
        }
    }
    Ok(text.to_owned())
}

fn is_plain_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@".contains(&b)
}

/// Rejects two sources that match the same paths, even with different names of segments.
pub(super) fn check_paths(sources: &[ParsedSource], log: &Diagnostics) {
    let pattern = |source: &Source, path: &str| {
        let mut segments: Vec<&str> = path.split('/').collect();
        // A trailing slash does not make another path.
        if segments.last() == Some(&"") {
            segments.pop();
        }
        if source.verify.scheme.has_path_token() {
            segments.push("{}");
        }
        let blank =
            |segment: &&str| if segment.starts_with('{') { "{}" } else { *segment }.to_owned();
        segments.iter().map(blank).collect::<Vec<_>>()
    };
    let mut first_by_pattern = BTreeMap::new();
    for parsed in sources {
        let Some(path) = parsed.source.path() else { continue };
        let first: &mut &ParsedSource =
            first_by_pattern.entry(pattern(&parsed.source, path)).or_insert(parsed);
        if std::ptr::eq(*first, parsed) {
            continue;
        }
        let (name, other) = (&parsed.source.name, &first.source.name);
        let text = format!(
            "sources.{name}.path is {path:?}: sources.{other} has it already ({}): expected \
             another path",
            log.display_location(first.path_at),
        );
        log.error(parsed.path_at, text);
    }
}

/// Warns about sources whose events run nothing, and about a configuration without sources.
pub(super) fn warn_about_unused(sources: &[ParsedSource], handlers: &[Handler], log: &Diagnostics) {
    if sources.is_empty() {
        let text =
            "has no sources: every webhook gets a 404: add a table such as [sources.paminga]";
        log.warn(Location { file: 0, line: 0 }, text.to_owned());
    }
    for ParsedSource { source, at, .. } in sources {
        let name = &source.name;
        if !handlers.iter().any(|handler| handler.sources.contains(name)) {
            let text = format!(
                "sources.{name} has no handler: its events are stored, and nothing runs for them: name it \
                 in the sources of a handler"
            );
            log.warn(*at, text);
        }
    }
}
