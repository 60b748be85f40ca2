//! Runs URL handlers: sends the event's bytes, content type and chosen headers by POST. The status
//! of the response decides the outcome.
//!
//! Each handler keeps idle connections as long as its settings stay. hyper speaks HTTP on them. A `Call`
//! bounds each attempt and lets it be cancelled. Redirects are not followed, and proxies come from
//! config.toml only. The part of a response that is not kept is not read.

use std::sync::{Arc, OnceLock};

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{
    ACCEPT, ACCEPT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, DATE, HOST, HeaderName, HeaderValue,
    LOCATION, RETRY_AFTER, USER_AGENT,
};
use hyper::http::uri::PathAndQuery;
use hyper::{HeaderMap, Request, Uri};
use parking_lot::Mutex;
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, RootCertStore};
use rustls_native_certs::ErrorKind;

use super::detail_text::{self, MAX_DETAIL_CHARS};
use super::http_outcome::HttpOutcome;
use super::{HandlerRunner, Task, command};
use crate::clock;
use crate::config::{self, UrlTarget, duration_text};
use crate::domain::{AttemptResult, Outcome};
use crate::process::{self, CancelToken, ExitReason, ShortageBackoff, StartError};
use call::Call;
use call_error::CallError;
use connect::{Endpoint, Route};
use connection::{ReceivedResponse, UrlConnection};

mod call;
mod call_error;
mod connect;
mod connection;
mod dns;
mod exchange_stream;
mod http1;
mod sign;
#[cfg(test)]
mod tests;

pub use connect::OWN_USER_AGENT;
pub use dns::LookupLimit;

/// How much of a response is read for `detail`, even if less is kept.
const START_BYTES: usize = MAX_DETAIL_CHARS * 4;

/// How often one attempt repeats its request because an idle connection turned out to be closed.
const MAX_STALE_RETRIES: usize = 4;

/// Runs attempts of one handler with a `url`.
///
/// If the client could not be built, the next attempt tries again. The certificates may exist by
/// then.
#[derive(Debug)]
pub struct UrlRunner {
    client: OnceLock<UrlClient>,
    load_roots: LoadRoots,
}

/// Reads the root certificates.
type LoadRoots = fn() -> Result<Vec<CertificateDer<'static>>, StartError>;

#[derive(Debug)]
struct UrlClient {
    route: Route,
    path: PathAndQuery,
    host: HeaderValue,
    /// The connections that no attempt uses, the one used last at the end.
    idle: Mutex<Vec<UrlConnection>>,
    max_idle: usize,
}

impl UrlRunner {
    /// Builds the runner and reads the root certificates of the system.
    pub fn new(settings: &config::Handler) -> Self {
        let runner = Self { client: OnceLock::new(), load_roots: load_root_certificates };
        // If this fails, each attempt reports the reason.
        let _ = runner.client(settings);
        runner
    }

    fn client(&self, settings: &config::Handler) -> Result<&UrlClient, StartError> {
        if let Some(client) = self.client.get() {
            return Ok(client);
        }
        let target = settings.url().ok_or_else(|| "no url".to_owned())?;
        let client = UrlClient::new(settings, target, self.load_roots)?;
        Ok(self.client.get_or_init(|| client))
    }
}

impl HandlerRunner for UrlRunner {
    fn run(&self, task: &Task, stop: &CancelToken) -> AttemptResult {
        let prepared = process::start_when_possible(stop, || {
            let client = self.client(&task.handler)?;
            Ok((client, client.build_request(task)?))
        });
        let (client, request) = match prepared {
            Ok(prepared) => prepared,
            Err(ExitReason::Stopped) => return AttemptResult::new(Outcome::Interrupted, "stopped"),
            Err(ExitReason::Shortage(reason)) => return super::shortage_result(&reason),
            Err(exit) => {
                let (outcome, _, exit_text) = command::map_exit(&exit);
                return AttemptResult::new(outcome, exit_text);
            }
        };
        let mut shortage = ShortageBackoff::default();
        loop {
            if stop.is_cancelled() {
                return AttemptResult::new(Outcome::Interrupted, "stopped");
            }
            let call = Call::new(stop, &task.lookups, task.handler.timeout);
            match client.send(&request, &call, task.handler.max_output_bytes.max(START_BYTES) + 1) {
                Ok(response) => return result_from_response(response, task, &call),
                Err(CallError::Shortage(reason)) if shortage.wait(stop, &reason) => {}
                Err(CallError::Shortage(reason)) => return super::shortage_result(&reason),
                Err(error) => return result_from_error(&error, task, &call),
            }
        }
    }

    /// True, because the client contains the root certificates of the system.
    fn needs_rebuild_on_reload(&self) -> bool {
        true
    }
}

impl UrlClient {
    fn new(
        settings: &config::Handler,
        target: &UrlTarget,
        load_roots: impl FnOnce() -> Result<Vec<CertificateDer<'static>>, StartError>,
    ) -> Result<Self, StartError> {
        let uri: Uri = target.url.parse().map_err(|e| format!("url: {e}"))?;
        let proxy = target.proxy.as_deref().map(parse_proxy).transpose()?;
        let mut roots = RootCertStore::empty();
        if needs_roots(target) {
            roots.add_parsable_certificates(load_roots()?);
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| format!("TLS: {e}"))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let route = Route { target: Endpoint::new(&uri), proxy, tls: Arc::new(tls) };
        let host = header_value("url", route.target.host_header().as_bytes())?;
        let path = uri.path_and_query().cloned();
        Ok(Self {
            route,
            path: path.unwrap_or_else(|| PathAndQuery::from_static("/")),
            host,
            idle: Mutex::default(),
            max_idle: settings.concurrency,
        })
    }

    fn build_request(&self, task: &Task) -> Result<Request<Full<Bytes>>, String> {
        let mut headers = build_headers(task)?;
        for (name, value) in [
            (HOST, self.host.clone()),
            (USER_AGENT, OWN_USER_AGENT),
            (ACCEPT, HeaderValue::from_static("*/*")),
            (ACCEPT_ENCODING, HeaderValue::from_static("identity")),
            (CONTENT_LENGTH, task.input.len().into()),
        ] {
            headers.entry(name).or_insert(value);
        }
        let body = Full::new(Bytes::from_owner(Arc::clone(&task.input)));
        let mut request = Request::post(self.path.clone()).body(body).map_err(|e| e.to_string())?;
        *request.headers_mut() = headers;
        Ok(request)
    }

    /// Sends the request and reads at most `max_bytes` of the response's body. If an idle connection was
    /// closed before any byte of the response arrived, sends it again (RFC 9112 section 9.3.1). If the
    /// first request was processed nevertheless, the receiver recognises the second by its
    /// `Idempotency-Key`.
    fn send(
        &self,
        request: &Request<Full<Bytes>>,
        call: &Call<'_>,
        max_bytes: usize,
    ) -> Result<ReceivedResponse, CallError> {
        let mut stale_retries = 0;
        loop {
            let idle = self.find_idle_connection();
            let is_reused = idle.is_some();
            let mut connection = match idle {
                Some(connection) => connection,
                None => UrlConnection::open(&self.route, call)?,
            };
            match connection.exchange(request.clone(), call, max_bytes) {
                Ok(response) => {
                    if connection.is_reusable_after(&response) {
                        self.keep(connection);
                    }
                    return Ok(response);
                }
                Err(CallError::NoResponse(_))
                    if is_reused
                        && connection.has_received_nothing()
                        && stale_retries < MAX_STALE_RETRIES =>
                {
                    stale_retries += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Takes the connection that was used last and is still open. Drops those that are closed.
    fn find_idle_connection(&self) -> Option<UrlConnection> {
        loop {
            let connection = self.idle.lock().pop()?;
            if connection.is_open() {
                return Some(connection);
            }
        }
    }

    fn keep(&self, connection: UrlConnection) {
        let mut idle = self.idle.lock();
        if idle.len() < self.max_idle {
            idle.push(connection);
        }
    }
}

fn parse_proxy(text: &str) -> Result<Endpoint, String> {
    let uri: Uri = text.parse().map_err(|e| format!("proxy: {e}"))?;
    match uri.scheme_str() {
        Some("http" | "https") => Ok(Endpoint::new(&uri)),
        _ => Err("proxy: expected http:// or https://".to_owned()),
    }
}

/// Whether the URL or its proxy has a certificate to verify.
fn needs_roots(target: &UrlTarget) -> bool {
    let is_https =
        |url: &str| url.get(..6).is_some_and(|start| start.eq_ignore_ascii_case("https:"));
    is_https(&target.url) || target.proxy.as_deref().is_some_and(is_https)
}

/// Returns why no `https://` URL of these handlers can be called, and the first handler that has one.
pub fn find_root_problem(handlers: &[config::Handler]) -> Option<(&config::Handler, String)> {
    let has_tls = |handler: &&config::Handler| handler.url().is_some_and(needs_roots);
    let handler = handlers.iter().find(has_tls)?;
    let problem = load_root_certificates().err()?;
    Some((handler, problem.reason))
}

/// Loads the root certificates of the system, which may include a private authority, or those of
/// SSL_CERT_FILE and SSL_CERT_DIR.
fn load_root_certificates() -> Result<Vec<CertificateDer<'static>>, StartError> {
    let loaded = rustls_native_certs::load_native_certs();
    let remedy = "install ca-certificates, or set SSL_CERT_FILE";
    match loaded.errors.first() {
        _ if !loaded.certs.is_empty() => Ok(loaded.certs),
        Some(e) => {
            let reason = format!("no root certificate was found: {e}: {remedy}");
            match &e.kind {
                ErrorKind::Io { inner, .. } => Err(StartError::from_io(inner, reason)),
                _ => Err(reason.into()),
            }
        }
        None => Err(format!("no root certificate was found: {remedy}").into()),
    }
}

/// Builds the headers that depend on the event and on the configuration.
fn build_headers(task: &Task) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    let event_type = task.event.headers.get("content-type").filter(|_| !task.is_json_input);
    let content_type = if task.is_json_input { Some(&b"application/json"[..]) } else { event_type };
    if let Some(content_type) = content_type {
        headers.insert(CONTENT_TYPE, header_value("content-type", content_type)?);
    }
    headers.insert(
        "idempotency-key",
        header_value("idempotency-key", task.idempotency_key.as_bytes())?,
    );
    let forward = task.handler.url().map_or(&[][..], |target| &target.forward_headers);
    for forwarded in forward {
        let lines = task.event.headers.0.iter().filter(|(name, _)| name == forwarded);
        for (index, (_, bytes)) in lines.enumerate() {
            let (name, value) = (header_name(forwarded)?, header_value(forwarded, bytes)?);
            match index {
                0 => drop(headers.insert(name, value)),
                _ => drop(headers.append(name, value)),
            }
        }
    }
    for (configured, bytes) in task.headers.iter() {
        let mut value = header_value(configured, bytes)?;
        value.set_sensitive(true);
        headers.insert(header_name(configured)?, value);
    }
    let now_secs = clock::wall_ms().div_euclid(1000);
    let signed = sign::build_headers(&task.sign, &task.idempotency_key, now_secs, &task.input);
    for (name, signed) in signed.map_err(|reason| format!("sign: the secret {reason}"))? {
        headers.insert(name, header_value(name, signed.as_bytes())?);
    }
    Ok(headers)
}

fn header_name(name: &str) -> Result<HeaderName, String> {
    name.parse().map_err(|_| format!("{name:?} is not a header name"))
}

/// Parses a header value. The error does not contain the value, which may be a secret.
fn header_value(name: &str, bytes: &[u8]) -> Result<HeaderValue, String> {
    HeaderValue::from_bytes(bytes).map_err(|_| format!("{name}: not one line of text"))
}

/// Makes the result of a response from its status.
fn result_from_response(response: ReceivedResponse, task: &Task, call: &Call<'_>) -> AttemptResult {
    let ReceivedResponse { head, body: mut stdout, error, .. } = response;
    let header = |name| head.headers.get(name).map(|value: &HeaderValue| value.as_bytes().to_vec());
    let outcome = HttpOutcome {
        status: head.status.as_u16(),
        retry_after: header(RETRY_AFTER),
        location: header(LOCATION),
        date: header(DATE),
    };
    let text = detail_text::first_words(&stdout);
    stdout.truncate(task.handler.max_output_bytes);
    let result = match error {
        None => outcome.attempt_result(&text, clock::wall_ms()),
        // An incomplete response is not a success (RFC 9112 section 8), but the headers in its head
        // apply.
        Some(error) => {
            let result = result_from_error(&error, task, call);
            let AttemptResult { is_permanent: dead, retry_after: wait, .. } =
                outcome.attempt_result("", clock::wall_ms());
            let status = format!("status {}, but {}", outcome.status, result.detail);
            match result.outcome {
                Outcome::Failed => AttemptResult {
                    detail: detail_text::join(&[&status]),
                    is_permanent: dead,
                    retry_after: wait,
                    ..result
                },
                Outcome::TimedOut => AttemptResult { retry_after: wait, ..result },
                _ => result,
            }
        }
    };
    AttemptResult { stdout, ..result }
}

/// Makes the result of a call without a complete response.
fn result_from_error(error: &CallError, task: &Task, call: &Call<'_>) -> AttemptResult {
    match error {
        CallError::Stopped => AttemptResult::new(Outcome::Interrupted, "stopped"),
        CallError::TimedOut => {
            let timeout = format!("timeout {}", duration_text(task.handler.timeout));
            let detail = detail_text::join(&[&timeout, &call.phase()]);
            AttemptResult::new(Outcome::TimedOut, detail)
        }
        error => {
            let reason = detail_text::one_line(error.to_string().as_bytes());
            AttemptResult::new(Outcome::Failed, detail_text::join(&[&reason]))
        }
    }
}
