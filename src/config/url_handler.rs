//! Reads `url` and its keys, which replace `command` and its keys.

use std::path::Path;

use actix_web::http::Uri;

use super::parse;
use super::secret;
use super::toml_reader::{TomlTable, TomlValue};
use super::{EnvValue, UrlTarget};
use crate::verify::{SecretFormat, next_name};

/// Keys of a URL.
const URL_KEYS: [&str; 4] = ["headers", "forward_headers", "sign", "proxy"];
/// Keys of a command.
const COMMAND_KEYS: [&str; 5] = ["directory", "mode", "env", "batch_size", "batch_wait"];

const URL_EXPECTED: &str = "expected a URL that begins with https:// or http://";
const PROXY_EXPECTED: &str = r#"expected a proxy such as "http://proxy.example.com:3128""#;
const HEADERS_EXPECTED: &str = r#"expected a table such as { Authorization = { env = "NAME" } }"#;
const FORWARD_HEADERS_EXPECTED: &str =
    r#"expected a list of headers' names such as ["X-Request-Id"]"#;
const HEADER_VALUE_EXPECTED: &str =
    r#"expected one line of text, { env = "NAME" }, { file = "path" } or { credential = "name" }"#;

/// Headers of the connection (RFC 9110 section 7.6.1), and those that the server sets.
const SERVER_HEADERS: [&str; 12] = [
    "connection",
    "content-length",
    "content-type",
    "expect",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "proxy-authorization",
];
/// Headers of a signature by Standard Webhooks.
const SIGNED_HEADERS: [&str; 3] = ["webhook-id", "webhook-timestamp", "webhook-signature"];
/// Headers that are stored as `[redacted]`.
const SECRET_HEADERS: [&str; 2] = ["authorization", "cookie"];

fn is_server_header(name: &str, is_signed: bool) -> bool {
    SERVER_HEADERS.contains(&name) || (is_signed && SIGNED_HEADERS.contains(&name))
}

pub(super) fn read_url_target(table: &TomlTable<'_>, folder: &Path) -> Option<UrlTarget> {
    let Some(value) = table.get("url") else {
        // Reading them makes them known keys, so that no second error calls them unknown.
        for value in URL_KEYS.iter().filter_map(|key| table.get(key)) {
            value.error("goes with url: a command has none");
        }
        return None;
    };
    value.log.add_location(&value.key, value.at);
    if table.has("command") {
        table.error("has a command and a url: expected one of them");
    } else {
        for value in COMMAND_KEYS.iter().filter_map(|key| table.get(key)) {
            value.error("goes with command: a url has none");
        }
    }
    let headers = table.get("headers").map(|value| read_headers(&value, table.has("sign"), folder));
    let keys = |value: TomlValue<'_>| secret::parse_list(&value, folder, SecretFormat::StandardKey);
    let sign = table.get("sign").map(keys);
    let target = UrlTarget {
        url: read_url(&value, URL_EXPECTED)
            .inspect(|url| warn_about_names(&value, url))
            .unwrap_or_default(),
        headers: headers.unwrap_or_default(),
        forward_headers: read_forwarded(table),
        sign: sign.unwrap_or_default(),
        proxy: table.get("proxy").and_then(|value| read_url(&value, PROXY_EXPECTED)),
    };
    for name in &target.forward_headers {
        let is_same = |(own, _): &&(String, EnvValue)| own.eq_ignore_ascii_case(name);
        if let (Some((own, _)), Some(value)) =
            (target.headers.iter().find(is_same), table.get("forward_headers"))
        {
            value.error(format!("names {name:?}: headers has {own} already: expected it once"));
        }
    }
    Some(target)
}

/// Warns about `{name}` in a handler's URL, which has no placeholders.
fn warn_about_names(value: &TomlValue<'_>, url: &str) {
    if let Some((_, name, _)) = next_name(url) {
        value.warn(format!(
            "has {{{name}}}: a handler's URL has no placeholders, it is called as written"
        ));
    }
}

/// Reads a URL. No error shows it, as it may contain a password.
fn read_url(value: &TomlValue<'_>, expected: &str) -> Option<String> {
    let Some(text) = value.raw_text() else { return value.invalid_redacted(expected) };
    let Ok(uri) = text.parse::<Uri>() else { return value.invalid_redacted(expected) };
    let is_http = matches!(uri.scheme_str(), Some("http" | "https"));
    let Some(authority) =
        uri.authority().filter(|authority| is_http && !authority.host().is_empty())
    else {
        return value.invalid_redacted(expected);
    };
    if authority.as_str().contains('@') {
        let remedy = "contains a user: write credentials in headers";
        value.error(remedy);
        return None;
    }
    let port_text = authority.as_str().strip_prefix(authority.host()).unwrap_or_default();
    let port = port_text.strip_prefix(':').map(str::parse::<u16>);
    if (port.is_none() && !port_text.is_empty())
        || port.is_some_and(|port| !matches!(port, Ok(1..)))
    {
        return value.invalid_redacted("expected a port from 1 to 65535, or none");
    }
    if text.contains('#') {
        return value.invalid_redacted("expected a URL without a #: what follows it is never sent");
    }
    Some(text.to_owned())
}

fn read_headers(value: &TomlValue<'_>, is_signed: bool, folder: &Path) -> Vec<(String, EnvValue)> {
    let Some(table) = value.table(HEADERS_EXPECTED) else { return Vec::new() };
    let mut headers: Vec<(String, EnvValue)> = Vec::new();
    for (name, value) in table.entries_in_order() {
        let lower = match parse::parse_header_name(name) {
            Ok(lower) => lower,
            Err(remedy) => {
                value.error(format!("is not a valid header name: {remedy}"));
                continue;
            }
        };
        let is_duplicate = headers.iter().any(|(other, _)| other.eq_ignore_ascii_case(name));
        if is_server_header(&lower, is_signed) {
            value.error("is set by the server: expected another header");
        } else if is_duplicate {
            value.error("is there twice: header names ignore case");
        } else if let Some(value) = read_header_value(&value, folder) {
            headers.push((name.to_owned(), value));
        }
    }
    headers
}

/// No error shows the text, as for `env`.
fn read_header_value(value: &TomlValue<'_>, folder: &Path) -> Option<EnvValue> {
    if value.is_table() {
        return secret::parse_one(value, folder, SecretFormat::Header).map(EnvValue::Secret);
    }
    match value.raw_text().map(parse::parse_header_value) {
        Some(Ok(text)) => Some(EnvValue::Text(text)),
        _ => value.invalid_redacted(HEADER_VALUE_EXPECTED),
    }
}

fn read_forwarded(table: &TomlTable<'_>) -> Vec<String> {
    let is_signed = table.has("sign");
    let mut names: Vec<String> = Vec::new();
    let items = table.get("forward_headers");
    for item in items.and_then(|value| value.list(FORWARD_HEADERS_EXPECTED)).iter().flatten() {
        let Some(name) = item.parse_with(FORWARD_HEADERS_EXPECTED, parse::parse_header_name) else {
            continue;
        };
        if is_server_header(&name, is_signed) {
            item.error(format!("names {name:?}, which the server sets: expected another header"));
        } else if SECRET_HEADERS.contains(&&*name) {
            item.warn(format!("names {name:?}, which is stored and passed on as [redacted]"));
            names.push(name);
        } else if names.contains(&name) {
            item.error(format!("names {name:?} twice: once is enough"));
        } else {
            names.push(name);
        }
    }
    names
}
