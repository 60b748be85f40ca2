//! `send`: posts a test webhook to the server, signed as the source's sender signs it. It can send a
//! duplicate or a wrong signature.

use std::io::{Read, Write};

use anyhow::Context;
use clap::Args;

use super::http_client::{self, ServerResponse, Target};
use super::{ExitError, open_store, output, read_secrets, user_error};
use crate::config::{self, Accept, Config, LoadedConfig, Source, TlsConfig};
use crate::redact::Redactor;
use crate::store::send_lookup::{self, Position};
use crate::verify::{OutgoingRequest, Preset, Verifier};
use crate::web::stored_request::Redaction;
use crate::{clock, json};

/// Arguments of `send`.
#[derive(Debug, Args)]
pub struct SendArgs {
    /// Name of the source
    source: String,
    /// File with the body, or - for standard input. Default: a sample body of the sender
    file: Option<String>,
    /// Content type of the body. Default: derived from the body
    #[arg(long, value_name = "TYPE")]
    content_type: Option<String>,
    /// Send the same request twice, to see how a duplicate is handled
    #[arg(long)]
    repeat: bool,
    /// Make the signature invalid: the server should reject the request
    #[arg(long)]
    bad_signature: bool,
}

/// Returns the listener to send to: one that this command can speak to, best without TLS.
fn find_target(config: &Config) -> Result<Target, String> {
    let mut listeners: Vec<_> =
        config.server.listen.iter().filter(|listener| !listener.proxy_protocol).collect();
    listeners.sort_by_key(|listener| listener.tls);
    let listener = listeners.first().ok_or(
        "server.listen has only addresses for the PROXY protocol: add one without it, such as \"127.0.0.1:8089\"",
    )?;
    let certificate = match config.server.tls.as_ref().filter(|_| listener.tls) {
        Some(TlsConfig { client_ca: Some(_), .. }) => {
            return Err("server.tls.client_ca asks for a sender's certificate, and this command has none: add an address \
                        without TLS, such as { address = \"127.0.0.1:8089\", tls = false }"
                .to_owned());
        }
        Some(tls) => {
            Some(config::load_files(tls).map_err(|e| format!("server.tls: {e}"))?.certificate)
        }
        None => None,
    };
    Ok(Target { listen: listener.address.clone(), certificate })
}

/// Sends the request. Prints the request, the response and the event.
pub fn send(loaded: &LoadedConfig, args: &SendArgs) -> Result<(), ExitError> {
    let config = &loaded.config;
    let Some(source) = config.sources.iter().find(|source| source.name == args.source) else {
        let name = &args.source;
        return Err(user_error(format!("source {name}: there is no such source in config.toml")));
    };
    let target = find_target(config).map_err(user_error)?;
    let secrets = read_secrets(loaded, &format!("sources.{}.verify", source.name))?;
    let verifier = source.verifier(&secrets);
    let (_, host) = http_client::local_endpoint(&target.listen).map_err(user_error)?;
    let mut request = build_request(source, args, host)?;
    verifier.sign(&mut request, clock::wall_ms()).map_err(|reason| {
        user_error(format!("source {}: {}: {reason}", source.name, source.verify.scheme.name()))
    })?;
    let mut out = output::stdout();
    print_request(&mut out, &request, &verifier)?;
    let mut statuses = Vec::new();
    for _ in 0..if args.repeat { 2 } else { 1 } {
        let position = find_position(loaded)?;
        let response = http_client::post(&target, &request).map_err(user_error)?;
        print_response(&mut out, &response)?;
        if let Some(position) = position {
            print_event(&mut out, loaded, source, &request, &position, &response)?;
        }
        statuses.push(response.status);
    }
    let is_accepted = statuses.iter().all(|status| (200..300).contains(status));
    match (args.bad_signature, is_accepted) {
        (false, true) => Ok(()),
        (true, false) if statuses.iter().all(|status| *status == 401) => Ok(()),
        (true, true) => Err(user_error(format!(
            "the server accepted a wrong signature: scheme \"{}\" checks none",
            source.verify.scheme.name()
        ))),
        _ => Err(ExitError { code: 1, text: String::new() }),
    }
}

fn build_request(
    source: &Source,
    args: &SendArgs,
    host: String,
) -> Result<OutgoingRequest, ExitError> {
    let Some(path) = source.path() else {
        return Err(user_error(format!(
            "source {}: it gets no requests, but messages of a stream: publish one there",
            source.name
        )));
    };
    let methods = ["POST", "PUT", "PATCH"];
    let is_allowed = |method: &&str| source.methods.iter().any(|allowed| allowed == method);
    let Some(method) = methods.into_iter().find(is_allowed) else {
        return Err(user_error(format!(
            "source {}: its methods are {}: expected POST, PUT or PATCH, to send a body",
            source.name,
            source.methods.join(", ")
        )));
    };
    let id = hex::encode(clock::random_id()?);
    let preset = source.verify.scheme.preset();
    let body = match args.file.as_deref() {
        // The id makes it differ from earlier ones, so it is no duplicate.
        None => preset
            .map_or(Preset::SAMPLE_BODY, |preset| preset.sample_body)
            .replace("{id}", &id)
            .into_bytes(),
        Some("-") => {
            let mut body = Vec::new();
            std::io::stdin().lock().read_to_end(&mut body)?;
            body
        }
        Some(path) => std::fs::read(path).with_context(|| format!("{path}: can't be read"))?,
    };
    let is_form = source.accept == Accept::Form || preset.is_some_and(|preset| preset.posts_forms);
    let content_type = match &args.content_type {
        Some(content_type) => content_type,
        None if json::validate(&body).is_ok() => "application/json",
        None if is_form => "application/x-www-form-urlencoded",
        None if std::str::from_utf8(&body).is_ok() => "text/plain",
        None => "application/octet-stream",
    };
    let mut request = OutgoingRequest {
        method: method.to_owned(),
        path: fill_path_params(path),
        body,
        id,
        is_corrupt: args.bad_signature,
        ..OutgoingRequest::default()
    };
    request.set_header("host", host);
    request.set_header("content-type", content_type);
    Ok(request)
}

/// Makes a path of a path template: each named segment gets its own name as its value.
fn fill_path_params(path: &str) -> String {
    path.replace(['{', '}'], "")
}

fn print_request(
    out: &mut impl Write,
    request: &OutgoingRequest,
    verifier: &Verifier,
) -> std::io::Result<()> {
    // Redacting the place of the credentials is enough: the request holds no other secret.
    let redaction =
        Redaction { verifier: Some(verifier), redactor: &Redactor::default(), headers: &[] };
    let path = redaction.redact_path(&request.path);
    let query = request.query.as_ref().map(|query| format!("?{}", redaction.redact_query(query)));
    writeln!(out, "{} {path}{}", request.method, query.unwrap_or_default())?;
    let lines: Vec<(&str, &[u8])> =
        request.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
    for (name, value) in redaction.redact_headers(&lines) {
        writeln!(out, "  {name}: {}", printable(&value))?;
    }
    writeln!(out, "  {} bytes", request.body.len())
}

fn print_response(out: &mut impl Write, response: &ServerResponse) -> std::io::Result<()> {
    let content_type = response.content_type.as_deref().unwrap_or("");
    match response.body.is_empty() {
        true => writeln!(out, "{} without a body", response.status),
        false => writeln!(out, "{} {content_type} {}", response.status, printable(&response.body)),
    }
}

/// Returns the newest position in the database, or none if there is no database yet.
fn find_position(loaded: &LoadedConfig) -> Result<Option<Position>, ExitError> {
    if !loaded.config.store.path.exists() {
        return Ok(None);
    }
    Ok(Some(send_lookup::position(&open_store(loaded)?.conn)?))
}

fn print_event(
    out: &mut impl Write,
    loaded: &LoadedConfig,
    source: &Source,
    request: &OutgoingRequest,
    position: &Position,
    response: &ServerResponse,
) -> Result<(), ExitError> {
    let conn = open_store(loaded)?.conn;
    let redacted = source.redact.body.redact(request.header("content-type"), &request.body);
    let redacted = redacted.ok().flatten();
    let stored_body = redacted.as_deref().unwrap_or(&request.body);
    let found = send_lookup::find_since(&conn, position, &source.name, stored_body);
    match found? {
        Some(send_lookup::SentEvent { event, is_duplicate: false }) => {
            writeln!(out, "event {event}: `hooktrail show {event}` prints its jobs and attempts")
        }
        Some(send_lookup::SentEvent { event, is_duplicate: true }) => {
            writeln!(out, "duplicate of event {event}")
        }
        None if response.status >= 400 && response.status < 500 => {
            writeln!(out, "no event: within a second, `hooktrail tail --rejected` shows the reason")
        }
        None => writeln!(out, "no event"),
    }
    .map_err(Into::into)
}

/// Makes one line of text from any bytes.
fn printable(bytes: &[u8]) -> String {
    output::escape_line(String::from_utf8_lossy(bytes).trim_end())
}
