//! The CGI variables of a request (RFC 3875 section 4.1), made from the stored event.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use percent_encoding::percent_decode_str;

use super::super::Task;
use crate::domain::Headers;
use crate::process::CommandSpec;
use crate::urlencoded;

/// Headers that are not passed on as `HTTP_…`. `Proxy` would become HTTP_PROXY, which many programs
/// read as their own setting. The RFC leaves out credentials, and headers that concern only the
/// connection. The content type and length have separate variables.
const NOT_PASSED_ON: [&str; 6] =
    ["authorization", "connection", "content-length", "content-type", "proxy", "transfer-encoding"];

/// Returns the path of the script, the last element of the command. A single element is the script
/// itself.
pub(super) fn script_path(command: &CommandSpec) -> PathBuf {
    command.directory.join(match command.args.as_slice() {
        [_, .., script] => Path::new(script),
        _ => &command.path,
    })
}

/// Returns all variables of the request, each name once.
pub(super) fn build_variables(task: &Task, command: &CommandSpec) -> Vec<(String, OsString)> {
    let event = &task.event;
    let query = event.query.clone().unwrap_or_default();
    let (name, port) = split_host(event.headers.get("host").unwrap_or_default());
    let uri = match &event.query {
        Some(query) => format!("{}?{query}", event.path),
        None => event.path.clone(),
    };
    let path = percent_decode_str(&event.path).collect();
    let mut variables: Vec<(String, OsString)> = Vec::with_capacity(32);
    let mut add = |name: &str, value: OsString| variables.push((name.to_owned(), value));
    add("GATEWAY_INTERFACE", "CGI/1.1".into());
    add("SERVER_SOFTWARE", concat!("hooktrail/", env!("CARGO_PKG_VERSION")).into());
    add("SERVER_PROTOCOL", "HTTP/1.1".into());
    add("SERVER_NAME", name.into());
    add("SERVER_PORT", port.to_string().into());
    add("REQUEST_METHOD", event.method.clone().into());
    add("REQUEST_URI", uri.into());
    add("QUERY_STRING", query_string(&query, &command.args).into());
    add("SCRIPT_NAME", OsString::from_vec(path));
    add("SCRIPT_FILENAME", script_path(command).into());
    add("DOCUMENT_ROOT", command.directory.clone().into());
    add("REMOTE_ADDR", event.ip.clone().into());
    if let Some(client) = &event.client {
        // The name that Apache's mod_ssl gives it.
        add("SSL_CLIENT_S_DN", client.clone().into());
    }
    // php-cgi rejects requests without it (cgi.force_redirect).
    add("REDIRECT_STATUS", "200".into());
    add("CONTENT_LENGTH", task.input.len().to_string().into());
    match event.headers.get("content-type") {
        _ if task.is_json_input => add("CONTENT_TYPE", "application/json".into()),
        Some(content_type) => add("CONTENT_TYPE", OsString::from_vec(content_type.to_vec())),
        None => {}
    }
    variables.extend(header_variables(&event.headers));
    variables
}

/// Returns the query as it was sent, with one exception for php-cgi. If a query begins with `-` and
/// has no `=`, php-cgi ignores the arguments of its command line. An empty field (`&`) before such
/// a query prevents this. Form parsers ignore it.
fn query_string(query: &str, command: &[String]) -> String {
    let program = command.first().filter(|_| command.len() > 1).map(Path::new);
    let name = program.and_then(Path::file_name).map(OsStr::to_string_lossy);
    let is_php = name.is_some_and(|name| name.starts_with("php"));
    let decoded = urlencoded::decode(query.as_bytes());
    let first = decoded.iter().find(|byte| **byte > b' ');
    match is_php && first == Some(&b'-') && !query.contains('=') {
        true => format!("&{query}"),
        false => query.to_owned(),
    }
}

/// Splits the `Host` header into name and port: `example.com:8080`, `[::1]`.
fn split_host(host: &[u8]) -> (String, u16) {
    let default = || ("localhost".to_owned(), 80);
    let Ok(host) = std::str::from_utf8(host) else { return default() };
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => (name, port.parse().ok()),
        _ => (host, Some(80)),
    };
    let is_name = |c: char| c.is_ascii_alphanumeric() || "-._~[]:".contains(c);
    match port {
        Some(port) if !name.is_empty() && name.chars().all(is_name) => (name.to_owned(), port),
        _ => default(),
    }
}

/// Returns the `HTTP_…` variables. Values of repeated headers are joined. A header whose name
/// contains other characters than letters, digits and dashes is left out, because `x_a` would get
/// the variable of `x-a`.
fn header_variables(headers: &Headers) -> Vec<(String, OsString)> {
    let mut variables: Vec<(String, Vec<u8>)> = Vec::new();
    for (name, value) in &headers.0 {
        let is_plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        if !is_plain || NOT_PASSED_ON.contains(&name.as_str()) {
            continue;
        }
        let name = format!("HTTP_{}", name.to_ascii_uppercase().replace('-', "_"));
        match variables.iter_mut().find(|(earlier, _)| *earlier == name) {
            Some((_, values)) => {
                values.extend_from_slice(b", ");
                values.extend_from_slice(value);
            }
            None => variables.push((name, value.clone())),
        }
    }
    variables.into_iter().map(|(name, value)| (name, OsString::from_vec(value))).collect()
}
