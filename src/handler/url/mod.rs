//! Runs URL handlers: sends the event's bytes, content type and chosen headers by POST. The status
//! of the response decides the outcome.
//!
//! Each handler has one agent, which keeps connections as long as the settings stay. `call_context`
//! bounds each attempt and lets it be cancelled. `socket` is the transport for ureq. Redirects are
//! not followed, and proxies come from config.toml only. The part of a response that is not kept is
//! not read.

use std::io::Read;
use std::sync::{Arc, OnceLock};

use rustls_native_certs::ErrorKind;
use ureq::config::Config;
use ureq::http::header::{CONTENT_TYPE, DATE, LOCATION, RETRY_AFTER};
use ureq::http::{HeaderMap, HeaderName, HeaderValue, Request, Response, Uri};
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::unversioned::transport::{ConnectProxyConnector, Connector};
use ureq::{Agent, Body, Error, Proxy, ProxyProtocol};

use super::detail_text::{self, MAX_DETAIL_CHARS};
use super::http_outcome::HttpOutcome;
use super::{HandlerRunner, Task, command};
use crate::clock;
use crate::config::{self, UrlTarget, duration_text};
use crate::domain::{AttemptResult, Outcome};
use crate::process::{self, CancelToken, ExitReason, ShortageBackoff, StartError};
use call_context::{CallError, CallGuard, set_phase};

mod call_context;
mod dns;
mod sign;
mod socket;
#[cfg(test)]
mod tests;

/// The maximum size of a response head.
const MAX_HEAD_BYTES: usize = 32 << 10;

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
type LoadRoots = fn() -> Result<Vec<Certificate<'static>>, StartError>;

#[derive(Debug)]
struct UrlClient {
    agent: Agent,
    uri: Uri,
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
            let call = CallGuard::begin(stop, task.handler.timeout);
            let error = match client.send(&request, &call) {
                Ok(response) => return read_response(response, task, &call),
                Err(error) => error,
            };
            match find_call_error(&error) {
                Some(CallError::Shortage(reason)) if shortage.wait(stop, &reason) => {}
                Some(CallError::Shortage(reason)) => return super::shortage_result(&reason),
                _ => return result_from_error(error, task, &call),
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
        load_roots: impl FnOnce() -> Result<Vec<Certificate<'static>>, StartError>,
    ) -> Result<Self, StartError> {
        let uri: Uri = target.url.parse().map_err(|e| format!("url: {e}"))?;
        let proxy = target.proxy.as_deref().map(parse_proxy).transpose()?;
        let roots = if needs_roots(target) { load_roots()? } else { Vec::new() };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = TlsConfig::builder()
            .root_certs(RootCerts::from(roots))
            .unversioned_rustls_crypto_provider(provider)
            .build();
        let config = Config::builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(proxy)
            .tls_config(tls)
            .user_agent(concat!("hooktrail/", env!("CARGO_PKG_VERSION")))
            .accept_encoding("identity")
            .max_response_header_size(MAX_HEAD_BYTES)
            // The buffer is larger than the limit, so that a head that is too large is recognised.
            .input_buffer_size(MAX_HEAD_BYTES * 2)
            .output_buffer_size(MAX_HEAD_BYTES)
            .max_idle_connections(settings.concurrency)
            .max_idle_connections_per_host(settings.concurrency)
            .build();
        let chain =
            ().chain(ConnectProxyConnector::default())
                .chain(socket::TcpConnector)
                .chain(socket::TlsConnector::default());
        Ok(Self { agent: Agent::with_parts(config, chain, socket::DeferredResolver), uri })
    }

    fn build_request<'t>(&self, task: &'t Task) -> Result<Request<&'t [u8]>, String> {
        let mut request = Request::post(self.uri.clone());
        if let Some(headers) = request.headers_mut() {
            *headers = build_headers(task)?;
        }
        request.body(&*task.input).map_err(|e| e.to_string())
    }

    /// Sends the request. If an idle connection was closed before any byte of the response arrived,
    /// sends it again (RFC 9112 section 9.3.1). If the first request was processed nevertheless,
    /// the receiver recognises the second by its `Idempotency-Key`.
    fn send(&self, request: &Request<&[u8]>, call: &CallGuard) -> Result<Response<Body>, Error> {
        let mut response = self.agent.run(request.clone());
        for _ in 0..MAX_STALE_RETRIES {
            match response {
                Err(Error::Io(_)) if call.was_stale() => {
                    call_context::set_stale(false);
                    response = self.agent.run(request.clone());
                }
                response => return response,
            }
        }
        response
    }
}

fn parse_proxy(text: &str) -> Result<Proxy, String> {
    let proxy = Proxy::new(text).map_err(|e| format!("proxy: {e}"))?;
    match proxy.protocol() {
        ProxyProtocol::Http | ProxyProtocol::Https => Ok(proxy),
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
fn load_root_certificates() -> Result<Vec<Certificate<'static>>, StartError> {
    let loaded = rustls_native_certs::load_native_certs();
    let remedy = "install ca-certificates, or set SSL_CERT_FILE";
    match loaded.errors.first() {
        _ if !loaded.certs.is_empty() => Ok(loaded
            .certs
            .iter()
            .map(|certificate| Certificate::from_der(certificate).to_owned())
            .collect()),
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

/// Builds the headers of a request. ureq adds Host, Content-Length, User-Agent and Accept.
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

/// Reads as much of a response as is kept, and makes the result from its status.
fn read_response(response: Response<Body>, task: &Task, call: &CallGuard) -> AttemptResult {
    let (head, mut body) = response.into_parts();
    let header = |name| head.headers.get(name).map(|value: &HeaderValue| value.as_bytes().to_vec());
    let outcome = HttpOutcome {
        status: head.status.as_u16(),
        retry_after: header(RETRY_AFTER),
        location: header(LOCATION),
        date: header(DATE),
    };
    set_phase("reading the response");
    let keep_bytes = task.handler.max_output_bytes;
    let read_bytes_max = keep_bytes.max(START_BYTES) as u64 + 1;
    let mut stdout = Vec::new();
    let read = body.as_reader().take(read_bytes_max).read_to_end(&mut stdout);
    let text = detail_text::first_words(&stdout);
    stdout.truncate(keep_bytes);
    let result = match read {
        Ok(_) => outcome.attempt_result(&text, clock::wall_ms()),
        // An incomplete response is not a success (RFC 9112 section 8), but the headers in its head
        // apply.
        Err(e) => {
            let result = result_from_error(Error::from(e), task, call);
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

fn find_call_error(error: &Error) -> Option<CallError> {
    match error {
        Error::Other(other) => other.downcast_ref::<CallError>().cloned(),
        Error::Timeout(_) => Some(CallError::TimedOut),
        _ => None,
    }
}

/// Makes the result of a call without a complete response.
fn result_from_error(error: Error, task: &Task, call: &CallGuard) -> AttemptResult {
    let reason = match find_call_error(&error) {
        Some(CallError::Stopped) => return AttemptResult::new(Outcome::Interrupted, "stopped"),
        Some(CallError::TimedOut) => {
            let timeout = format!("timeout {}", duration_text(task.handler.timeout));
            let detail = detail_text::join(&[&timeout, &call.phase()]);
            return AttemptResult::new(Outcome::TimedOut, detail);
        }
        Some(call_error) => call_error.to_string(),
        None => error_text(&error),
    };
    AttemptResult::new(
        Outcome::Failed,
        detail_text::join(&[&detail_text::one_line(reason.as_bytes())]),
    )
}

fn error_text(error: &Error) -> String {
    match error {
        Error::Io(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => {
            "no response: the connection was closed".to_owned()
        }
        Error::Io(e) => format!("no response: {e}"),
        Error::ConnectProxyFailed(reason) => format!("not connected: {reason}"),
        Error::LargeResponseHeader(..) => {
            format!("no response: its head is larger than {} KiB", MAX_HEAD_BYTES >> 10)
        }
        Error::Protocol(e) => format!("no response: not HTTP: {e}"),
        error => format!("no response: {error}"),
    }
}
