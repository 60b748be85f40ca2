//! The request as CGI's variables (RFC 3875 section 4.1), from an event that is long answered.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use percent_encoding::percent_decode_str;

use super::super::Task;
use crate::domain::Headers;

/// Not passed on as `HTTP_…`. `Proxy` would be HTTP_PROXY, which programs take for their own; the
/// RFC leaves out what proves who sent it, and what was between sender and server alone; type and
/// length have variables of their own.
const NOT_PASSED_ON: [&str; 6] =
    ["authorization", "connection", "content-length", "content-type", "proxy", "transfer-encoding"];

/// The script is the command's last element: by itself a program, else what that is given to run.
pub(super) fn script(task: &Task, program: &Path) -> PathBuf {
    match task.handler.command.as_slice() {
        [_, .., script] => task.handler.directory.join(script),
        _ => task.handler.directory.join(program),
    }
}

/// All variables of the request; each name once.
pub(super) fn variables(task: &Task, script: &Path) -> Vec<(String, OsString)> {
    let event = &task.event;
    let query = event.query.clone().unwrap_or_default();
    let (name, port) = server(event.headers.get("host").unwrap_or_default());
    let uri = match &event.query {
        Some(query) => format!("{}?{query}", event.path),
        None => event.path.clone(),
    };
    let path = percent_decode_str(&event.path).collect();
    let mut all: Vec<(String, OsString)> = Vec::with_capacity(32);
    let mut put = |name: &str, value: OsString| all.push((name.to_owned(), value));
    put("GATEWAY_INTERFACE", "CGI/1.1".into());
    put("SERVER_SOFTWARE", concat!("hooktrail/", env!("CARGO_PKG_VERSION")).into());
    put("SERVER_PROTOCOL", "HTTP/1.1".into());
    put("SERVER_NAME", name.into());
    put("SERVER_PORT", port.to_string().into());
    put("REQUEST_METHOD", event.method.clone().into());
    put("REQUEST_URI", uri.into());
    put("QUERY_STRING", query_string(&query, &task.handler.command).into());
    put("SCRIPT_NAME", OsString::from_vec(path));
    put("SCRIPT_FILENAME", script.into());
    put("DOCUMENT_ROOT", task.handler.directory.clone().into());
    put("REMOTE_ADDR", event.ip.clone().into());
    // Without it php-cgi answers nobody (cgi.force_redirect).
    put("REDIRECT_STATUS", "200".into());
    put("CONTENT_LENGTH", task.input.len().to_string().into());
    match event.headers.get("content-type") {
        _ if task.is_json_input => put("CONTENT_TYPE", "application/json".into()),
        Some(content_type) => put("CONTENT_TYPE", OsString::from_vec(content_type.to_vec())),
        None => {}
    }
    all.extend(headers(&event.headers));
    all
}

/// As it was sent. But php-cgi leaves out the arguments that config.toml gives it where a query has
/// no `=` and begins with `-`: an empty field before it means the same to every reader of forms.
fn query_string(query: &str, command: &[String]) -> String {
    let program = command.first().filter(|_| command.len() > 1).map(Path::new);
    let name = program.and_then(Path::file_name).map(OsStr::to_string_lossy);
    let is_php = name.is_some_and(|name| name.starts_with("php"));
    let decoded: Vec<u8> = percent_decode_str(&query.replace('+', " ")).collect();
    let first = decoded.iter().find(|byte| **byte > b' ');
    match is_php && first == Some(&b'-') && !query.contains('=') {
        true => format!("&{query}"),
        false => query.to_owned(),
    }
}

/// Name and port as the sender called them: `example.com:8080`, `[::1]`.
fn server(host: &[u8]) -> (String, u16) {
    let none = || ("localhost".to_owned(), 80);
    let Ok(host) = std::str::from_utf8(host) else { return none() };
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => (name, port.parse().ok()),
        _ => (host, Some(80)),
    };
    let is_name = |c: char| c.is_ascii_alphanumeric() || "-._~[]:".contains(c);
    match port {
        Some(port) if !name.is_empty() && name.chars().all(is_name) => (name.to_owned(), port),
        _ => none(),
    }
}

/// `HTTP_…`, repeated ones joined. A name with anything but letters, digits and dashes is left out:
/// `x_a` would be another's `x-a`.
fn headers(headers: &Headers) -> Vec<(String, OsString)> {
    let mut all: Vec<(String, Vec<u8>)> = Vec::new();
    for (name, value) in &headers.0 {
        let is_plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        if !is_plain || NOT_PASSED_ON.contains(&name.as_str()) {
            continue;
        }
        let name = format!("HTTP_{}", name.to_ascii_uppercase().replace('-', "_"));
        match all.iter_mut().find(|(before, _)| *before == name) {
            Some((_, before)) => {
                before.extend_from_slice(b", ");
                before.extend_from_slice(value);
            }
            None => all.push((name, value.clone())),
        }
    }
    all.into_iter().map(|(name, value)| (name, OsString::from_vec(value))).collect()
}
