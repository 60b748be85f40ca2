//! Reads `jetstream` of a handler, which publishes its jobs to a stream of NATS, and of a source, whose events are the
//! messages of a stream.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use actix_web::http::Uri;

use super::toml_reader::{TomlTable, TomlValue};
use super::{Batch, SecretRef, expression, parse, secret};
use crate::expression::Expression;
use crate::verify::SecretFormat;

const TARGET_EXPECTED: &str = r#"expected a table such as { servers = ["nats://127.0.0.1:4222"], stream = "HOOKS", subject = "hooks.paminga" }"#;
const CONSUMER_EXPECTED: &str = r#"expected a table such as { servers = ["nats://127.0.0.1:4222"], stream = "HOOKS", consumer = "hooktrail" }"#;
const SERVERS_EXPECTED: &str = r#"expected a list of servers such as ["nats://127.0.0.1:4222"]"#;
const SERVER_EXPECTED: &str = "expected nats://HOST:PORT or tls://HOST:PORT";
const NAME_EXPECTED: &str = r"expected a name of at most 255 characters without blanks and .*>/\";
const SUBJECT_EXPECTED: &str =
    r#"expected a subject such as "hooks.paminga" or "hooks.paminga.{.contact_id}""#;
const FILTER_EXPECTED: &str = r#"expected a subject such as "hooks.paminga" or "hooks.>""#;
const TLS_EXPECTED: &str = r#"expected a table such as { ca = "ca.pem" }"#;
const FILE_EXPECTED: &str = "expected the path of a file";

const DEFAULT_BATCH_SIZE: i64 = 100;
/// Beyond this, a batch would hold too many bodies in memory.
const MAX_BATCH_SIZE: i64 = 1_000;

/// Keys of commands and URLs, which a handler with `jetstream` does not have.
const OTHER_KEYS: [&str; 8] =
    ["directory", "mode", "env", "batch_wait", "headers", "forward_headers", "sign", "proxy"];
/// Keys that only requests have.
const REQUEST_KEYS: [&str; 6] = ["path", "methods", "allow_from", "verify", "handshake", "respond"];

/// How to connect to a NATS cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NatsSettings {
    /// URLs with a host and a port, without credentials.
    pub servers: Vec<String>,
    pub credentials: Option<SecretRef>,
    pub tls: Option<NatsTls>,
}

/// The files of TLS to NATS, in PEM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NatsTls {
    /// The authority of the servers' certificates, instead of those of the system.
    pub ca: Option<PathBuf>,
    /// The certificate and the key of this client.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// `jetstream` of a handler.
#[derive(Clone, Debug, PartialEq)]
pub struct JetStreamTarget {
    pub nats: NatsSettings,
    pub stream: String,
    pub subject: SubjectTemplate,
    /// Replaces the idempotency key in `Nats-Msg-Id`, so that several machines that received the same webhook publish one
    /// message.
    pub message_id: Option<Expression>,
    /// The maximum number of messages that a thread publishes together.
    pub batch_size: usize,
}

impl JetStreamTarget {
    /// How many jobs a thread gets at once. It waits for no more of them.
    pub fn batch(&self) -> Batch {
        Batch { size: self.batch_size, wait: Duration::ZERO }
    }
}

/// `jetstream` of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamConsumer {
    pub nats: NatsSettings,
    pub stream: String,
    /// The name of the durable consumer.
    pub consumer: String,
    pub filter: Option<String>,
    /// One message at a time, so that a crash does not change their order.
    pub is_ordered: bool,
}

/// A subject, which may have expressions in braces.
#[derive(Clone, Debug, PartialEq)]
pub struct SubjectTemplate {
    parts: Vec<SubjectPart>,
}

#[derive(Clone, Debug, PartialEq)]
enum SubjectPart {
    Text(String),
    Expression(Expression),
}

impl SubjectTemplate {
    /// Builds the subject. `evaluate` returns the value of an expression.
    ///
    /// # Errors
    /// That of `evaluate`.
    pub fn build<E>(
        &self,
        mut evaluate: impl FnMut(&Expression) -> Result<String, E>,
    ) -> Result<String, E> {
        let mut subject = String::new();
        for part in &self.parts {
            match part {
                SubjectPart::Text(text) => subject.push_str(text),
                SubjectPart::Expression(expression) => subject.push_str(&evaluate(expression)?),
            }
        }
        Ok(subject)
    }

    /// The subject with `*` in the place of each expression: a filter that all its subjects match.
    pub fn filter(&self) -> String {
        let part = |part: &SubjectPart| match part {
            SubjectPart::Text(text) => text.clone(),
            SubjectPart::Expression(_) => "*".to_owned(),
        };
        self.parts.iter().map(part).collect()
    }

    fn parse(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, inside)) = rest.split_once('{') {
            let end = expression_end(inside)
                .ok_or_else(|| format!("{SUBJECT_EXPECTED}: a {{ has no }}"))?;
            let (source, after) = (&inside[..end], &inside[end + 1..]);
            let is_token = (before.is_empty() && parts.is_empty() || before.ends_with('.'))
                && (after.is_empty() || after.starts_with('.'));
            if !is_token {
                return Err(format!("{SUBJECT_EXPECTED}: an expression is a token by itself"));
            }
            let expression = Expression::new(source).map_err(|error| {
                let (line, column, reason) = (error.line, error.column, error.text);
                format!(
                    "the expression {}: line {line}, column {column}: {reason}",
                    parse::quote(source)
                )
            })?;
            parts.extend((!before.is_empty()).then(|| SubjectPart::Text(before.to_owned())));
            parts.push(SubjectPart::Expression(expression));
            rest = after;
        }
        parts.extend((!rest.is_empty()).then(|| SubjectPart::Text(rest.to_owned())));
        if !matches!(parts.first(), Some(SubjectPart::Text(first)) if !first.starts_with(['$', '_']))
        {
            return Err(format!(
                "{SUBJECT_EXPECTED}: it begins with text, and neither with $ nor with _"
            ));
        }
        let template = Self { parts };
        // An expression may not bring a wildcard, and neither may the text.
        let sample = template.build(|_| Ok::<_, ()>("x".to_owned())).unwrap_or_default();
        if !sample.split('.').all(is_subject_token) {
            return Err(format!(
                "{SUBJECT_EXPECTED}: its tokens are not empty and have no *, > or blanks"
            ));
        }
        Ok(template)
    }
}

impl fmt::Display for SubjectTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in &self.parts {
            match part {
                SubjectPart::Text(text) => f.write_str(text)?,
                SubjectPart::Expression(expression) => write!(f, "{{{}}}", expression.text())?,
            }
        }
        Ok(())
    }
}

/// Finds the brace that ends an expression. Braces of objects and of text inside it do not.
fn expression_end(text: &str) -> Option<usize> {
    let (mut depth, mut is_text, mut is_escaped) = (0_usize, false, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if is_text => is_escaped = true,
            b'"' => is_text = !is_text,
            b'{' if !is_text => depth += 1,
            b'}' if !is_text && depth == 0 => return Some(at),
            b'}' if !is_text => depth -= 1,
            _ => {}
        }
    }
    None
}

/// The maximum length of a token. The server closes a connection that sends a subject of more than some thousand bytes.
const MAX_TOKEN_BYTES: usize = 255;

/// Whether this is a token of a subject that a message can have
/// (<https://docs.nats.io/nats-concepts/subjects>).
pub fn is_subject_token(token: &str) -> bool {
    let is_allowed =
        |c: char| !c.is_whitespace() && !c.is_control() && !matches!(c, '.' | '*' | '>');
    !token.is_empty() && token.len() <= MAX_TOKEN_BYTES && token.chars().all(is_allowed)
}

/// Reads `jetstream` of a handler; `None` if it is missing.
pub(super) fn read_target(table: &TomlTable<'_>, folder: &Path) -> Option<JetStreamTarget> {
    let value = table.get("jetstream")?;
    value.log.add_location(&value.key, value.at);
    for other in ["command", "url"].into_iter().filter(|other| table.has(other)) {
        table.error(format!("has a {other} and a jetstream: expected one of them"));
    }
    if !table.has("command") && !table.has("url") {
        for other in OTHER_KEYS.iter().filter_map(|key| table.get(key)) {
            other.error("has no effect beside jetstream: remove one of them");
        }
    }
    let batch_size = table.integer("batch_size", DEFAULT_BATCH_SIZE, 1..=MAX_BATCH_SIZE);
    let inner = value.table(TARGET_EXPECTED)?;
    let (nats, stream) = read_common(&inner, TARGET_EXPECTED, folder);
    if !inner.has("subject") {
        inner.missing_error(format!("has no subject: {SUBJECT_EXPECTED}"));
    }
    let subject = inner.parse_with("subject", SUBJECT_EXPECTED, SubjectTemplate::parse);
    let message_id = expression::read_expression(&inner, "message_id");
    inner.reject_unknown();
    Some(JetStreamTarget {
        nats,
        stream: stream.unwrap_or_default(),
        subject: subject.unwrap_or_else(|| SubjectTemplate { parts: Vec::new() }),
        message_id,
        batch_size: usize::try_from(batch_size).unwrap_or(1),
    })
}

/// Reads `jetstream` of a source; `None` if it is missing.
pub(super) fn read_consumer(table: &TomlTable<'_>, folder: &Path) -> Option<StreamConsumer> {
    let value = table.get("jetstream")?;
    value.log.add_location(&value.key, value.at);
    for other in REQUEST_KEYS.iter().filter_map(|key| table.get(key)) {
        other.error("has no effect beside jetstream, which gets no requests: remove one of them");
    }
    let inner = value.table(CONSUMER_EXPECTED)?;
    let (nats, stream) = read_common(&inner, CONSUMER_EXPECTED, folder);
    if !inner.has("consumer") {
        inner.missing_error(format!("has no consumer: {CONSUMER_EXPECTED}"));
    }
    let consumer = inner.parse_with("consumer", NAME_EXPECTED, parse_name);
    let filter = inner.parse_with("filter", FILTER_EXPECTED, parse_filter);
    let is_ordered = inner.flag("ordered", false);
    inner.reject_unknown();
    Some(StreamConsumer {
        nats,
        stream: stream.unwrap_or_default(),
        consumer: consumer.unwrap_or_default(),
        filter,
        is_ordered,
    })
}

/// Reads the keys that both kinds of `jetstream` have: the connection, and the stream.
fn read_common(
    table: &TomlTable<'_>,
    expected: &str,
    folder: &Path,
) -> (NatsSettings, Option<String>) {
    for key in ["servers", "stream"].into_iter().filter(|key| !table.has(key)) {
        table.missing_error(format!("has no {key}: {expected}"));
    }
    let servers = read_servers(table);
    let credentials = table
        .get("credentials")
        .and_then(|value| secret::parse_one(&value, folder, SecretFormat::NatsCredentials));
    let tls = table.get("tls").and_then(|value| read_tls(&value, folder));
    let stream = table.parse_with("stream", NAME_EXPECTED, parse_name);
    (NatsSettings { servers, credentials, tls }, stream)
}

fn read_servers(table: &TomlTable<'_>) -> Vec<String> {
    let Some(value) = table.get("servers") else { return Vec::new() };
    let Some(items) = value.list(SERVERS_EXPECTED) else { return Vec::new() };
    if items.is_empty() {
        value.error(format!("is []: {SERVERS_EXPECTED}"));
    }
    items.iter().filter_map(read_server).collect()
}

/// Reads a URL. No error shows it, as it may contain a password.
fn read_server(value: &TomlValue<'_>) -> Option<String> {
    let Some(text) = value.raw_text() else { return value.invalid_redacted(SERVER_EXPECTED) };
    let Ok(uri) = text.parse::<Uri>() else { return value.invalid_redacted(SERVER_EXPECTED) };
    let authority = uri.authority().filter(|authority| !authority.host().is_empty());
    let (Some("nats" | "tls"), Some(authority)) = (uri.scheme_str(), authority) else {
        return value.invalid_redacted(SERVER_EXPECTED);
    };
    if authority.as_str().contains('@') {
        value.error("contains a user: put it into credentials");
        return None;
    }
    let port = authority.as_str().strip_prefix(authority.host()).unwrap_or_default();
    let is_port_valid = match port.strip_prefix(':') {
        Some(port) => port.parse::<u16>().is_ok_and(|port| port > 0),
        None => port.is_empty(),
    };
    if !is_port_valid
        || !matches!(uri.path(), "" | "/")
        || uri.query().is_some()
        || text.contains('#')
    {
        return value.invalid_redacted(SERVER_EXPECTED);
    }
    Some(text.strip_suffix('/').unwrap_or(text).to_owned())
}

fn read_tls(value: &TomlValue<'_>, folder: &Path) -> Option<NatsTls> {
    let table = value.table(TLS_EXPECTED)?;
    let path = |key: &'static str| {
        let value = table.get(key)?;
        let parse = |text: &str| match text {
            "" => Err(FILE_EXPECTED.to_owned()),
            text => Ok(parse::resolve_path(text, folder)),
        };
        let path = value.parse_with(FILE_EXPECTED, parse)?;
        if !path.exists() {
            value.warn("does not exist: NATS cannot be reached without it");
        }
        Some(path)
    };
    let (ca, certificate, key) = (path("ca"), path("certificate"), path("key"));
    if table.has("certificate") != table.has("key") {
        table.missing_error("has a certificate or a key alone: expected both, or neither");
    }
    table.reject_unknown();
    Some(NatsTls { ca, identity: certificate.zip(key) })
}

fn parse_name(text: &str) -> Result<String, String> {
    let is_name = is_subject_token(text) && !text.contains(['/', '\\']);
    if is_name { Ok(text.to_owned()) } else { Err(NAME_EXPECTED.to_owned()) }
}

fn parse_filter(text: &str) -> Result<String, String> {
    let tokens: Vec<&str> = text.split('.').collect();
    let is_valid = tokens.iter().enumerate().all(|(index, token)| match *token {
        "*" => true,
        ">" => index + 1 == tokens.len(),
        token => is_subject_token(token),
    });
    if is_valid { Ok(text.to_owned()) } else { Err(FILTER_EXPECTED.to_owned()) }
}
