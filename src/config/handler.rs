//! Reads `[handlers.NAME]`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::parse::{self, ANY_DURATION, DAY, POSITIVE_DURATION, TIMEOUT_RANGE, WAIT_RANGE};
use super::toml_reader::{TomlTable, TomlValue};
use super::{
    Batch, Breaker, CommandTarget, EnvValue, Handler, HandlerKind, Mode, Retry, UniqueBy,
    command_checks, expression, jetstream, secret, url_handler,
};
use crate::domain::INTERNAL_SOURCE;
use crate::verify::SecretFormat;

const SOURCES_EXPECTED: &str = r#"expected a list of sources such as ["paminga"]"#;
const COMMAND_EXPECTED: &str =
    r#"expected a list of a program and its arguments such as ["handlers/crm.py", "--live"]"#;
const NO_COMMAND: &str = r#"has no command, no url and no jetstream: expected command = ["program", "argument"], url = "https://example.com" or jetstream = { … }"#;
const UNIQUE_BY_EXPECTED: &str = r#"expected a table such as { jq = ".id", window = "7d" }"#;
const BREAKER_EXPECTED: &str = r#"expected a table such as { threshold = 20, cooldown = "1m" }"#;
const ENV_EXPECTED: &str = r#"expected a table such as { CRM_URL = "https://example.com" }"#;
const ENV_VALUE_EXPECTED: &str =
    r#"expected text, { env = "NAME" }, { file = "path" } or { credential = "name" }"#;
const MAX_OUTPUT_BYTES: u64 = 64 << 20;
const DEFAULT_BATCH: Batch = Batch { size: 100, wait: Duration::from_secs(1) };
const MODES: [(&str, Mode); 4] = [
    ("each", Mode::Each),
    ("stream", Mode::Stream),
    ("batch", Mode::Batch(DEFAULT_BATCH)),
    ("cgi", Mode::Cgi),
];

/// Variables that the server sets for each attempt, without `HOOKTRAIL_`.
const SERVER_VARIABLES: &str = "EVENT JOB ITEM ATTEMPT MAX_ATTEMPTS SOURCE HANDLER RECEIVED_AT \
                                METHOD PATH QUERY IP CONTENT_TYPE HEADERS IDEMPOTENCY_KEY RUN_ID";

/// Reads a handler. `sources`: the names of all sources.
pub(super) fn read_handler(
    name: &str,
    table: TomlTable<'_>,
    sources: &[&str],
    folder: &Path,
) -> Handler {
    if let Err(remedy) = parse::check_name(name) {
        table.error(format!("is not a valid name: {remedy}"));
    }
    for (key, other) in [("version_by", "ordering_key"), ("debounce", "debounce_by")] {
        if table.has(key) && !table.has(other) {
            table.missing_error(format!("has {key} without {other}: expected both, or neither"));
        }
    }
    let default = Handler::with_defaults(name, folder);
    let command = read_command(&table, folder);
    let stream = jetstream::read_target(&table, folder);
    // Without a `url`, `jetstream` has reported the keys that go with it.
    let may_have_url = table.has("url") || !table.has("jetstream");
    let url = if may_have_url { url_handler::read_url_target(&table, folder) } else { None };
    let kind = match (stream, url) {
        (Some(target), _) => HandlerKind::JetStream(target),
        (None, Some(target)) => HandlerKind::Url(target),
        (None, None) => {
            command_checks::warn_about_command(&table, &command, folder);
            HandlerKind::Command(command)
        }
    };
    let handler = Handler {
        sources: read_sources(&table, sources),
        kind,
        when: expression::read_expression(&table, "when"),
        split: expression::read_expression(&table, "split"),
        transform: expression::read_expression(&table, "transform"),
        ordering_key: expression::read_expression(&table, "ordering_key"),
        version_by: expression::read_expression(&table, "version_by"),
        unique_by: table.get("unique_by").and_then(|value| read_unique_by(&value)),
        debounce_by: expression::read_expression(&table, "debounce_by"),
        debounce: table.optional_duration("debounce", POSITIVE_DURATION),
        rate_limit: table.parse_with("rate_limit", parse::RATE, parse::parse_rate),
        breaker: table.get("breaker").and_then(|value| read_breaker(&value)).unwrap_or_default(),
        priority: table.integer("priority", 0, i64::MIN..=i64::MAX),
        concurrency: table.integer("concurrency", 4, 1..=1024) as usize,
        should_prefetch: table.flag("prefetch", false),
        timeout: table.duration("timeout", default.timeout, TIMEOUT_RANGE),
        max_output_bytes: table.size("max_output_size", 64 << 10, 0..=MAX_OUTPUT_BYTES) as usize,
        retry: table.get("retry").and_then(|value| read_retry(&value)).unwrap_or_default(),
        is_paused: table.flag("paused", false),
        ..default
    };
    table.reject_unknown();
    handler
}

fn read_unique_by(value: &TomlValue<'_>) -> Option<UniqueBy> {
    let table = value.table(UNIQUE_BY_EXPECTED)?;
    if !table.has("jq") {
        table.missing_error(format!("has no jq: {UNIQUE_BY_EXPECTED}"));
    }
    let jq = expression::read_expression(&table, "jq");
    let window = table.duration("window", 7 * DAY, POSITIVE_DURATION);
    table.reject_unknown();
    Some(UniqueBy { jq: jq?, window })
}

fn read_breaker(value: &TomlValue<'_>) -> Option<Breaker> {
    let table = value.table(BREAKER_EXPECTED)?;
    let default = Breaker::default();
    let failures = table.integer("threshold", i64::from(default.threshold), 0..=1_000_000);
    let breaker = Breaker {
        threshold: u32::try_from(failures).unwrap_or(default.threshold),
        cooldown: table.duration("cooldown", default.cooldown, POSITIVE_DURATION),
    };
    table.reject_unknown();
    Some(breaker)
}

fn read_sources(table: &TomlTable<'_>, known: &[&str]) -> Vec<String> {
    let Some(value) = table.get("sources") else {
        table.missing_error(format!("has no sources: {SOURCES_EXPECTED}"));
        return Vec::new();
    };
    let Some(items) = value.list(SOURCES_EXPECTED) else { return Vec::new() };
    if items.is_empty() {
        value.error(format!("is []: {SOURCES_EXPECTED}"));
    }
    let mut sources = Vec::new();
    for item in &items {
        let Some(text) = item.text(SOURCES_EXPECTED) else { continue };
        if sources.iter().any(|source| source == text) {
            item.error(format!("names {} twice: once is enough", parse::quote(text)));
        } else if text != INTERNAL_SOURCE && !known.contains(&text) {
            let all: Vec<&str> = known.iter().copied().chain([INTERNAL_SOURCE]).collect();
            let hint = parse::suggest(text, &all, parse::quote);
            let text =
                format!("{} names {}, which is not a source: {hint}", item.key, parse::quote(text));
            // In a file with a syntax error, the source may exist.
            table.log.missing_error(item.at, text);
        } else {
            sources.push(text.to_owned());
        }
    }
    sources
}

fn read_command(table: &TomlTable<'_>, folder: &Path) -> CommandTarget {
    let args = read_args(table, folder);
    let directory = read_directory(table, folder);
    CommandTarget { args, directory, env: read_env(table, folder), mode: read_mode(table) }
}

fn read_mode(table: &TomlTable<'_>) -> Mode {
    let mode = table.choice("mode", &MODES, Mode::Each);
    if table.has("jetstream") {
        return mode;
    }
    let size = table.integer("batch_size", DEFAULT_BATCH.size as i64, 1..=10_000) as usize;
    let wait = table.duration("batch_wait", DEFAULT_BATCH.wait, WAIT_RANGE);
    if let Mode::Batch(_) = mode {
        return Mode::Batch(Batch { size, wait });
    }
    if !table.has("url") && !table.has("jetstream") {
        for value in ["batch_size", "batch_wait"].iter().filter_map(|key| table.get(key)) {
            value.warn(r#"has no effect: expected mode = "batch" beside it"#);
        }
    }
    mode
}

fn read_args(table: &TomlTable<'_>, folder: &Path) -> Vec<String> {
    let Some(value) = table.get("command") else {
        if !["url", "jetstream"].iter().any(|key| table.has(key)) {
            table.missing_error(NO_COMMAND);
        }
        return Vec::new();
    };
    let Some(items) = value.list(COMMAND_EXPECTED) else { return Vec::new() };
    let mut command: Vec<String> =
        items.iter().filter_map(|item| item.text(COMMAND_EXPECTED)).map(str::to_owned).collect();
    match command.first_mut() {
        None if items.is_empty() => value.error(format!("is []: {COMMAND_EXPECTED}")),
        None => {}
        Some(program) if program.is_empty() => {
            value.error(format!("has an empty program: {COMMAND_EXPECTED}"));
        }
        Some(program) if program.contains('/') => match parse::resolve_path(program, folder)
            .to_str()
        {
            Some(path) => *program = path.to_owned(),
            None => value.error("is under a folder whose name is not UTF-8: expected one that is"),
        },
        Some(_) => {}
    }
    command
}

fn read_directory(table: &TomlTable<'_>, folder: &Path) -> PathBuf {
    let parse = |text: &str| match text {
        "" => Err("expected a folder".to_owned()),
        text => Ok(parse::resolve_path(text, folder)),
    };
    let path = table.parse_with("directory", "expected a folder", parse);
    path.unwrap_or_else(|| folder.to_owned())
}

fn read_env(table: &TomlTable<'_>, folder: &Path) -> Vec<(String, EnvValue)> {
    let Some(table) = table.get("env").and_then(|value| value.table(ENV_EXPECTED)) else {
        return Vec::new();
    };
    let mut env = Vec::new();
    for (name, value) in table.entries_in_order() {
        let is_server_variable = name
            .strip_prefix("HOOKTRAIL_")
            .is_some_and(|name| SERVER_VARIABLES.split(' ').any(|set| set == name));
        if name.is_empty() || name.contains(['=', '\0']) {
            value.error("is not a valid variable name: expected one without =");
        } else if is_server_variable {
            value.error("is set by the server: expected another name");
        } else if let Some(value) = read_env_value(&value, folder) {
            env.push((name.to_owned(), value));
        }
    }
    env
}

/// No error shows the text: it may be a password.
fn read_env_value(value: &TomlValue<'_>, folder: &Path) -> Option<EnvValue> {
    if value.is_table() {
        return secret::parse_one(value, folder, SecretFormat::Variable).map(EnvValue::Secret);
    }
    match value.raw_text() {
        Some(text) if text.contains('\0') => value.invalid_redacted("expected text without a NUL"),
        Some(text) => Some(EnvValue::Text(text.to_owned())),
        None => value.invalid_redacted(ENV_VALUE_EXPECTED),
    }
}

impl Handler {
    /// A handler with the documented defaults, without sources or a command.
    pub fn with_defaults(name: &str, directory: &Path) -> Self {
        Self {
            name: name.to_owned(),
            sources: Vec::new(),
            kind: HandlerKind::Command(CommandTarget {
                args: Vec::new(),
                directory: directory.to_owned(),
                env: Vec::new(),
                mode: Mode::Each,
            }),
            when: None,
            split: None,
            transform: None,
            ordering_key: None,
            version_by: None,
            unique_by: None,
            debounce_by: None,
            debounce: None,
            rate_limit: None,
            breaker: Breaker::default(),
            priority: 0,
            concurrency: 4,
            should_prefetch: false,
            timeout: Duration::from_secs(30),
            max_output_bytes: 64 << 10,
            retry: Retry::default(),
            is_paused: false,
        }
    }
}

impl Default for Breaker {
    fn default() -> Self {
        Self { threshold: 20, cooldown: Duration::from_secs(60) }
    }
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            max_attempts: 40,
            initial_delay: Duration::from_secs(5),
            multiplier: 2.0,
            max_delay: Duration::from_secs(6 * 3_600),
            jitter: 0.2,
            max_age: 7 * DAY,
        }
    }
}

fn read_retry(value: &TomlValue<'_>) -> Option<Retry> {
    let table = value.table("expected a table such as { max_attempts = 40 }")?;
    let default = Retry::default();
    let attempts = table.integer("max_attempts", i64::from(default.max_attempts), 1..=1_000_000);
    let retry = Retry {
        max_attempts: u32::try_from(attempts).unwrap_or(default.max_attempts),
        initial_delay: table.duration("initial_delay", default.initial_delay, ANY_DURATION),
        multiplier: table.number(
            "multiplier",
            default.multiplier,
            1.0..=1e9,
            "expected a number, at least 1",
        ),
        max_delay: table.duration("max_delay", default.max_delay, ANY_DURATION),
        jitter: table.number("jitter", default.jitter, 0.0..=1.0, "expected a number from 0 to 1"),
        max_age: table.duration("max_age", default.max_age, POSITIVE_DURATION),
    };
    table.reject_unknown();
    Some(retry)
}
