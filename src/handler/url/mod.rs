//! A URL: the event's bytes, its type and chosen headers by POST; the status decides.
//!
//! One agent a handler keeps its connections, as long as its settings stay. `exchange` bounds each
//! attempt and lets it be stopped, `socket` is what ureq talks through. Redirects are not followed,
//! proxies are taken from config.toml alone, and no more of an answer is read than is kept.

use std::io::Read;
use std::sync::{Arc, OnceLock};

use rustls_native_certs::ErrorKind;
use ureq::config::Config;
use ureq::http::header::{CONTENT_TYPE, DATE, LOCATION, RETRY_AFTER};
use ureq::http::{HeaderMap, HeaderName, HeaderValue, Request, Response, Uri};
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::unversioned::transport::{ConnectProxyConnector, Connector};
use ureq::{Agent, Body, Error, Proxy, ProxyProtocol};

use super::detail_text::{self, DETAIL_CHARS_MAX};
use super::http_outcome::HttpOutcome;
use super::{HandlerRunner, Task, command};
use crate::clock;
use crate::config::{self, UrlTarget, duration_text};
use crate::domain::{AttemptResult, Outcome};
use crate::process::{self, CancelToken, ExitReason, Shortage, StartError};
use call_context::{CallError, CallGuard, doing};

mod call_context;
mod dns;
mod sign;
mod socket;
#[cfg(test)]
mod tests;

/// What an answer's head may have.
const HEAD_BYTES_MAX: usize = 32 << 10;

/// Of an answer so much is read for `detail`, whatever is kept of it.
const START_BYTES: usize = DETAIL_CHARS_MAX * 4;

/// A request is sent anew this often in one attempt, where connections that were kept turn out to be
/// closed.
const STALE_MAX: usize = 4;

/// `url = "https://…"`.
///
/// Without a client the next attempt tries to make one: the certificates may be there by then.
#[derive(Debug)]
pub struct Url {
    client: OnceLock<Client>,
    roots: Roots,
}

/// Reads the certificates of trusted authorities.
type Roots = fn() -> Result<Vec<Certificate<'static>>, StartError>;

#[derive(Debug)]
struct Client {
    agent: Agent,
    uri: Uri,
}

impl Url {
    /// Certificates of those whom the system trusts are read once, here.
    pub fn new(settings: &config::Handler) -> Self {
        let url = Self { client: OnceLock::new(), roots: load_root_certificates };
        // An attempt says why there is none.
        let _ = url.client(settings);
        url
    }

    fn client(&self, settings: &config::Handler) -> Result<&Client, StartError> {
        if let Some(client) = self.client.get() {
            return Ok(client);
        }
        let target = settings.target.as_ref().ok_or_else(|| "no url".to_owned())?;
        let client = Client::new(settings, target, self.roots)?;
        Ok(self.client.get_or_init(|| client))
    }
}

impl HandlerRunner for Url {
    fn run(&self, task: &Task, stop: &CancelToken) -> AttemptResult {
        let asked = process::start_when_possible(stop, || {
            let client = self.client(&task.handler)?;
            Ok((client, client.request(task)?))
        });
        let (client, request) = match asked {
            Ok(asked) => asked,
            Err(ExitReason::Stopped) => return AttemptResult::new(Outcome::Interrupted, "stopped"),
            Err(ExitReason::NotNow(why)) => return super::not_now(&why),
            Err(exit) => {
                let (outcome, _, how) = command::outcome(&exit);
                return AttemptResult::new(outcome, how);
            }
        };
        let mut shortage = Shortage::default();
        loop {
            if stop.is_set() {
                return AttemptResult::new(Outcome::Interrupted, "stopped");
            }
            let exchange = CallGuard::begin(stop, task.handler.timeout);
            let error = match client.call(&request, &exchange) {
                Ok(answer) => return read_response(answer, task, &exchange),
                Err(error) => error,
            };
            match fault(&error) {
                Some(CallError::NotNow(why)) if shortage.wait(stop, &why) => {}
                Some(CallError::NotNow(why)) => return super::not_now(&why),
                _ => return result_from_error(error, task, &exchange),
            }
        }
    }

    /// The authorities that the system trusts.
    fn needs_rebuild_on_reload(&self) -> bool {
        true
    }
}

impl Client {
    fn new(
        settings: &config::Handler,
        target: &UrlTarget,
        roots: impl FnOnce() -> Result<Vec<Certificate<'static>>, StartError>,
    ) -> Result<Self, StartError> {
        let uri: Uri = target.url.parse().map_err(|e| format!("url: {e}"))?;
        let proxy = target.proxy.as_deref().map(proxy).transpose()?;
        let secure = |uri: &Uri| uri.scheme_str() == Some("https");
        let needs_roots = secure(&uri) || proxy.as_ref().is_some_and(|it| secure(it.uri()));
        let roots = if needs_roots { roots()? } else { Vec::new() };
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
            .max_response_header_size(HEAD_BYTES_MAX)
            // A head that is too large must be seen to be.
            .input_buffer_size(HEAD_BYTES_MAX * 2)
            .output_buffer_size(HEAD_BYTES_MAX)
            .max_idle_connections(settings.concurrency)
            .max_idle_connections_per_host(settings.concurrency)
            .build();
        let chain =
            ().chain(ConnectProxyConnector::default())
                .chain(socket::Plain)
                .chain(socket::TlsConnector::default());
        Ok(Self { agent: Agent::with_parts(config, chain, socket::NotNow), uri })
    }

    fn request<'t>(&self, task: &'t Task) -> Result<Request<&'t [u8]>, String> {
        let mut request = Request::post(self.uri.clone());
        if let Some(headers) = request.headers_mut() {
            *headers = headers_of(task)?;
        }
        request.body(&*task.input).map_err(|e| e.to_string())
    }

    /// Sends it; once more where a connection that was kept was closed before anything was heard
    /// over it (RFC 9112 section 9.3.1, with `Idempotency-Key` for what was read all the same).
    fn call(
        &self,
        request: &Request<&[u8]>,
        exchange: &CallGuard,
    ) -> Result<Response<Body>, Error> {
        let mut answer = self.agent.run(request.clone());
        for _ in 0..STALE_MAX {
            match answer {
                Err(Error::Io(_)) if exchange.was_stale() => {
                    call_context::set_stale(false);
                    answer = self.agent.run(request.clone());
                }
                answer => return answer,
            }
        }
        answer
    }
}

fn proxy(text: &str) -> Result<Proxy, String> {
    let proxy = Proxy::new(text).map_err(|e| format!("proxy: {e}"))?;
    match proxy.protocol() {
        ProxyProtocol::Http | ProxyProtocol::Https => Ok(proxy),
        _ => Err("proxy: expected http:// or https://".to_owned()),
    }
}

/// Those whom the system trusts, so that an owner's own authority is one among them; or those of
/// SSL_CERT_FILE and SSL_CERT_DIR.
fn load_root_certificates() -> Result<Vec<Certificate<'static>>, StartError> {
    let found = rustls_native_certs::load_native_certs();
    let remedy = "install ca-certificates, or set SSL_CERT_FILE";
    match found.errors.first() {
        _ if !found.certs.is_empty() => {
            Ok(found.certs.iter().map(|one| Certificate::from_der(one).to_owned()).collect())
        }
        Some(e) => {
            let reason = format!("no certificate of an authority was found: {e}: {remedy}");
            match &e.kind {
                ErrorKind::Io { inner, .. } => Err(StartError::of_io(inner, reason)),
                _ => Err(reason.into()),
            }
        }
        None => Err(format!("no certificate of an authority was found: {remedy}").into()),
    }
}

/// What is sent besides what ureq adds: Host, Content-Length, User-Agent, Accept.
fn headers_of(task: &Task) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    let own = task.event.headers.get("content-type").filter(|_| !task.is_json_input);
    let content_type = if task.is_json_input { Some(&b"application/json"[..]) } else { own };
    if let Some(content_type) = content_type {
        headers.insert(CONTENT_TYPE, value("content-type", content_type)?);
    }
    headers.insert("idempotency-key", value("idempotency-key", task.key.as_bytes())?);
    let forward = task.handler.target.as_ref().map_or(&[][..], |it| &it.forward_headers);
    for forwarded in forward {
        let of_event = task.event.headers.0.iter().filter(|(name, _)| name == forwarded);
        for (at, (_, bytes)) in of_event.enumerate() {
            let (name, value) = (name(forwarded)?, value(forwarded, bytes)?);
            match at {
                0 => drop(headers.insert(name, value)),
                _ => drop(headers.append(name, value)),
            }
        }
    }
    for (own, bytes) in task.headers.iter() {
        let mut value = value(own, bytes)?;
        value.set_sensitive(true);
        headers.insert(name(own)?, value);
    }
    let now_secs = clock::wall_ms().div_euclid(1000);
    let signed = sign::headers(&task.sign, &task.key, now_secs, &task.input);
    for (name, signed) in signed.map_err(|why| format!("sign: the secret {why}"))? {
        headers.insert(name, value(name, signed.as_bytes())?);
    }
    Ok(headers)
}

fn name(name: &str) -> Result<HeaderName, String> {
    name.parse().map_err(|_| format!("{name:?} is no header's name"))
}

/// A value that is none is not shown: it may be a secret.
fn value(name: &str, bytes: &[u8]) -> Result<HeaderValue, String> {
    HeaderValue::from_bytes(bytes).map_err(|_| format!("{name}: not one line of text"))
}

/// Reads an answer, as far as it is kept, and lets its status decide.
fn read_response(answer: Response<Body>, task: &Task, exchange: &CallGuard) -> AttemptResult {
    let (head, mut body) = answer.into_parts();
    let header = |name| head.headers.get(name).map(|value: &HeaderValue| value.as_bytes().to_vec());
    let decisive = HttpOutcome {
        status: head.status.as_u16(),
        retry_after: header(RETRY_AFTER),
        location: header(LOCATION),
        date: header(DATE),
    };
    doing("reading the answer");
    let keep = task.handler.max_output_bytes;
    let most = keep.max(START_BYTES) as u64 + 1;
    let mut stdout = Vec::new();
    let read = body.as_reader().take(most).read_to_end(&mut stdout);
    let said = detail_text::first_words(&stdout);
    stdout.truncate(keep);
    let ended = match read {
        Ok(_) => decisive.ended(&said, clock::wall_ms()),
        // An answer that is not whole is no success (RFC 9112 section 8); what its head asks for holds.
        Err(e) => {
            let ended = result_from_error(Error::from(e), task, exchange);
            let AttemptResult { is_permanent: dead, retry_after: wait, .. } =
                decisive.ended("", clock::wall_ms());
            let status = format!("status {}, but {}", decisive.status, ended.detail);
            match ended.outcome {
                Outcome::Failed => AttemptResult {
                    detail: detail_text::join(&[&status]),
                    is_permanent: dead,
                    retry_after: wait,
                    ..ended
                },
                Outcome::TimedOut => AttemptResult { retry_after: wait, ..ended },
                _ => ended,
            }
        }
    };
    AttemptResult { stdout, ..ended }
}

fn fault(error: &Error) -> Option<CallError> {
    match error {
        Error::Other(other) => other.downcast_ref::<CallError>().cloned(),
        Error::Timeout(_) => Some(CallError::TimedOut),
        _ => None,
    }
}

/// What an exchange without a whole answer comes to.
fn result_from_error(error: Error, task: &Task, exchange: &CallGuard) -> AttemptResult {
    let why = match fault(&error) {
        Some(CallError::Stopped) => return AttemptResult::new(Outcome::Interrupted, "stopped"),
        Some(CallError::TimedOut) => {
            let timeout = format!("timeout {}", duration_text(task.handler.timeout));
            let detail = detail_text::join(&[&timeout, &exchange.set_phase()]);
            return AttemptResult::new(Outcome::TimedOut, detail);
        }
        Some(fault) => fault.to_string(),
        None => explain(&error),
    };
    AttemptResult::new(
        Outcome::Failed,
        detail_text::join(&[&detail_text::one_line(why.as_bytes())]),
    )
}

fn explain(error: &Error) -> String {
    match error {
        Error::Io(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => {
            "no answer: the connection was closed".to_owned()
        }
        Error::Io(e) => format!("no answer: {e}"),
        Error::ConnectProxyFailed(why) => format!("not connected: {why}"),
        Error::LargeResponseHeader(..) => {
            format!("no answer: its head is larger than {} KiB", HEAD_BYTES_MAX >> 10)
        }
        Error::Protocol(e) => format!("no answer: not HTTP: {e}"),
        error => format!("no answer: {error}"),
    }
}
