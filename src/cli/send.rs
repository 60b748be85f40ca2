//! `send`: a webhook to the server itself, signed as its source's sender would, to see that all of it
//! works, and what a repeat and a wrong signature come to.

use std::io::{Read, Write};

use clap::Args;

use super::http_client::{self, Answer};
use super::{ExitError, open_store, output, runtime_error, sample_bodies, user_error};
use crate::config::{self, Accept, LoadedConfig, Source};
use crate::redact::Redactor;
use crate::store::send_lookup::{self, Position};
use crate::verify::{OutgoingRequest, Verifier};
use crate::web::stored_request::Redaction;
use crate::{clock, json};

/// `send`
#[derive(Debug, Args)]
pub struct SendArgs {
    source: String,
    /// The body (- for standard input); else one that its sender might send
    file: Option<String>,
    /// What its sender would say that the body is
    #[arg(long, value_name = "TYPE")]
    content_type: Option<String>,
    /// Send the same twice: the second is a repeat, where the source knows repeats
    #[arg(long)]
    repeat: bool,
    /// Sign it wrongly: it should be refused
    #[arg(long)]
    bad_signature: bool,
}

/// Sends, and prints the request, the answer and the event.
pub fn send(loaded: &LoadedConfig, args: &SendArgs) -> Result<(), ExitError> {
    let config = &loaded.config;
    let Some(source) = config.sources.iter().find(|source| source.name == args.source) else {
        let name = &args.source;
        return Err(user_error(format!(
            "source {name}: there is none of that name in config.toml"
        )));
    };
    let Some(listen) = config.server.listen.first() else {
        return Err(user_error("server.listen is empty: there is nowhere to send to"));
    };
    let (secrets, missing) =
        config::read_secrets_under(loaded, &format!("sources.{}.verify", source.name));
    if !missing.is_empty() {
        let lines: Vec<String> = missing.iter().map(ToString::to_string).collect();
        return Err(ExitError { code: 78, text: lines.join("\n") });
    }
    let verifier = Verifier::new(source, &secrets);
    let (_, host) = http_client::local_endpoint(listen).map_err(user_error)?;
    let mut draft = draft(source, args, host)?;
    verifier.sign(&mut draft, clock::wall_ms()).map_err(|why| {
        user_error(format!("source {}: {}: {why}", source.name, source.verify.scheme))
    })?;
    let mut out = output::stdout();
    print_request(&mut out, &draft, &verifier).map_err(runtime_error)?;
    let mut statuses = Vec::new();
    for _ in 0..if args.repeat { 2 } else { 1 } {
        let mark = mark(loaded)?;
        let answer = http_client::post(listen, &draft).map_err(user_error)?;
        print_answer(&mut out, &answer).map_err(runtime_error)?;
        if let Some(mark) = mark {
            print_event(&mut out, loaded, source, &draft, &mark, &answer)?;
        }
        statuses.push(answer.status);
    }
    let taken = statuses.iter().all(|status| (200..300).contains(status));
    match (args.bad_signature, taken) {
        (false, true) => Ok(()),
        (true, false) if statuses.iter().all(|status| *status == 401) => Ok(()),
        (true, true) => Err(user_error(format!(
            "a wrong signature was let in: scheme \"{}\" does not look at one",
            source.verify.scheme
        ))),
        _ => Err(ExitError { code: 1, text: String::new() }),
    }
}

fn draft(source: &Source, args: &SendArgs, host: String) -> Result<OutgoingRequest, ExitError> {
    let method = ["POST", "PUT", "PATCH"];
    let Some(method) = method.into_iter().find(|it| source.methods.iter().any(|own| own == it))
    else {
        return Err(user_error(format!(
            "source {}: takes {} alone, none of which has a body",
            source.name,
            source.methods.join(", ")
        )));
    };
    let id = hex::encode(clock::random_id().map_err(runtime_error)?);
    let scheme = &source.verify.scheme;
    let body = match args.file.as_deref() {
        None => sample_bodies::body(scheme, &id).into_bytes(),
        Some("-") => {
            let mut body = Vec::new();
            std::io::stdin().lock().read_to_end(&mut body).map_err(runtime_error)?;
            body
        }
        Some(path) => {
            std::fs::read(path).map_err(|e| user_error(format!("{path}: can't be read: {e}")))?
        }
    };
    let is_form = source.accept == Accept::Form || sample_bodies::is_form(scheme);
    let content_type = match &args.content_type {
        Some(content_type) => content_type,
        None if json::validate(&body).is_ok() => "application/json",
        None if is_form => "application/x-www-form-urlencoded",
        None if std::str::from_utf8(&body).is_ok() => "text/plain",
        None => "application/octet-stream",
    };
    let mut draft = OutgoingRequest {
        method: method.to_owned(),
        path: fill_path_params(&source.path),
        body,
        id,
        is_corrupt: args.bad_signature,
        ..OutgoingRequest::default()
    };
    draft.set_header("host", host);
    draft.set_header("content-type", content_type);
    Ok(draft)
}

/// A path of a source, its named segments given their own names.
fn fill_path_params(path: &str) -> String {
    path.replace(['{', '}'], "")
}

fn print_request(
    out: &mut impl Write,
    draft: &OutgoingRequest,
    verifier: &Verifier,
) -> std::io::Result<()> {
    // Its place is enough: what is sent holds no other secret.
    let redaction = Redaction { verifier: Some(verifier), redactor: &Redactor::default() };
    let path = redaction.redact_path(&draft.path);
    let query = draft.query.as_ref().map(|query| format!("?{}", redaction.redact_query(query)));
    writeln!(out, "{} {path}{}", draft.method, query.unwrap_or_default())?;
    let lines: Vec<(&str, &[u8])> =
        draft.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
    for (name, value) in redaction.redact_headers(&lines) {
        writeln!(out, "  {name}: {}", shown(&value))?;
    }
    writeln!(out, "  {} bytes", draft.body.len())
}

fn print_answer(out: &mut impl Write, answer: &Answer) -> std::io::Result<()> {
    let content_type = answer.content_type.as_deref().unwrap_or("");
    match answer.body.is_empty() {
        true => writeln!(out, "{} without a body", answer.status),
        false => writeln!(out, "{} {content_type} {}", answer.status, shown(&answer.body)),
    }
}

/// Where the trail is, unless there is none yet.
fn mark(loaded: &LoadedConfig) -> Result<Option<Position>, ExitError> {
    if !loaded.config.store.path.exists() {
        return Ok(None);
    }
    send_lookup::position(&open_store(loaded)?.conn).map(Some).map_err(runtime_error)
}

fn print_event(
    out: &mut impl Write,
    loaded: &LoadedConfig,
    source: &Source,
    draft: &OutgoingRequest,
    mark: &Position,
    answer: &Answer,
) -> Result<(), ExitError> {
    let found = send_lookup::find_since(&open_store(loaded)?.conn, mark, &source.name, &draft.body);
    match found.map_err(runtime_error)? {
        Some(send_lookup::SentEvent { event, is_duplicate: false }) => {
            writeln!(out, "event {event}: `hooktrail show {event}` tells what became of it")
        }
        Some(send_lookup::SentEvent { event, is_duplicate: true }) => {
            writeln!(out, "a repeat of event {event}")
        }
        None if answer.status >= 400 && answer.status < 500 => {
            writeln!(out, "no event: `hooktrail tail --rejected` tells why, within a second")
        }
        None => writeln!(out, "no event"),
    }
    .map_err(runtime_error)
}

/// On one line, whatever it is.
fn shown(bytes: &[u8]) -> String {
    output::plain(String::from_utf8_lossy(bytes).trim_end())
}
