//! Opens connections: the DNS lookup, TCP, the tunnel of a proxy, and TLS.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Empty;
use hyper::body::Bytes;
use hyper::header::{HOST, HeaderValue, USER_AGENT};
use hyper::{Request, Uri, upgrade};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;

use super::call::{AWAITING_RESPONSE, Call};
use super::call_error::CallError;
use super::dns;
use super::http1;

/// How long to wait for one address of a host before the next one is tried. The time is enough for
/// two SYN packets.
const CONNECT_TIMEOUT_PER_ADDRESS: Duration = Duration::from_secs(3);

/// The `User-Agent` of the requests that this program sends: to the URLs of handlers, to their proxies, and
/// to its own server.
pub const OWN_USER_AGENT: HeaderValue =
    HeaderValue::from_static(concat!("hooktrail/", env!("CARGO_PKG_VERSION")));

/// A TCP connection, or TLS or a tunnel over one.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// The server of a URL.
#[derive(Clone, Debug)]
pub(super) struct Endpoint {
    /// As the URL has it: an IPv6 address is in brackets.
    pub host: String,
    port: u16,
    is_tls: bool,
}

impl Endpoint {
    pub fn new(uri: &Uri) -> Self {
        let is_tls = uri.scheme_str() == Some("https");
        let port = uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        Self { host: uri.host().unwrap_or_default().to_owned(), port, is_tls }
    }

    /// Returns the text for `Host`: without the port if it is the scheme's own.
    pub fn host_header(&self) -> String {
        match (self.is_tls, self.port) {
            (true, 443) | (false, 80) => self.host.clone(),
            _ => self.to_string(),
        }
    }

    fn unbracketed_host(&self) -> &str {
        let inner = self.host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        inner.unwrap_or(&self.host)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// The way to the server of a URL.
#[derive(Debug)]
pub(super) struct Route {
    pub target: Endpoint,
    pub proxy: Option<Endpoint>,
    pub tls: Arc<ClientConfig>,
}

impl Route {
    pub async fn open(&self, call: &Call<'_>) -> Result<Box<dyn Stream>, CallError> {
        let Some(proxy) = &self.proxy else {
            return self.open_endpoint(&self.target, call).await;
        };
        let stream = self.open_endpoint(proxy, call).await?;
        let tunnel = open_tunnel(stream, &self.target).await?;
        self.add_tls(tunnel, &self.target, call).await
    }

    async fn open_endpoint(
        &self,
        endpoint: &Endpoint,
        call: &Call<'_>,
    ) -> Result<Box<dyn Stream>, CallError> {
        call.set_phase(format!("looking up {}", endpoint.host));
        let host = endpoint.unbracketed_host();
        let addresses = dns::resolve_host(host, endpoint.port, call.lookups).await?;
        let stream = open_any(&addresses, call).await?;
        call.set_phase(AWAITING_RESPONSE);
        self.add_tls(Box::new(stream), endpoint, call).await
    }

    /// Does the TLS handshake if the URL of `endpoint` begins with https.
    async fn add_tls(
        &self,
        stream: Box<dyn Stream>,
        endpoint: &Endpoint,
        call: &Call<'_>,
    ) -> Result<Box<dyn Stream>, CallError> {
        if !endpoint.is_tls {
            return Ok(stream);
        }
        let host = &endpoint.host;
        let failed = |reason: String| CallError::NotConnected(format!("{host}: TLS: {reason}"));
        let name = ServerName::try_from(endpoint.unbracketed_host().to_owned())
            .map_err(|e| failed(e.to_string()))?;
        call.set_phase(format!("the TLS handshake with {host}"));
        let connector = TlsConnector::from(Arc::clone(&self.tls));
        let stream = connector.connect(name, stream).await.map_err(|e| match e.kind() {
            io::ErrorKind::UnexpectedEof => failed("the connection was closed".to_owned()),
            _ => failed(e.to_string()),
        })?;
        call.set_phase(AWAITING_RESPONSE);
        Ok(Box::new(stream))
    }
}

/// Connects to the first of `addresses` that accepts a connection.
async fn open_any(addresses: &[SocketAddr], call: &Call<'_>) -> Result<TcpStream, CallError> {
    let mut error = CallError::TimedOut;
    for (index, &address) in addresses.iter().enumerate() {
        call.set_phase(format!("connecting to {address}"));
        let connect = open_address(address);
        let result = if index + 1 == addresses.len() {
            connect.await
        } else {
            let max_wait = CONNECT_TIMEOUT_PER_ADDRESS.min(call.remaining_time() / 2);
            tokio::time::timeout(max_wait, connect).await.unwrap_or_else(|_| {
                let reason = format!("{address}: no response within {max_wait:?}");
                Err(CallError::NotConnected(reason))
            })
        };
        match result {
            Err(CallError::NotConnected(reason)) => error = CallError::NotConnected(reason),
            result => return result,
        }
    }
    Err(error)
}

async fn open_address(address: SocketAddr) -> Result<TcpStream, CallError> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    };
    let failed = |e| CallError::from_connect(address, &e);
    let stream = socket.map_err(failed)?.connect(address).await.map_err(failed)?;
    // A request takes one or more writes. None must wait for the acknowledgement of the one before.
    let _ = stream.set_nodelay(true);
    Ok(stream)
}

/// Asks the proxy at the end of `stream` for a tunnel to `target` (RFC 9110 section 9.3.6).
async fn open_tunnel(
    stream: Box<dyn Stream>,
    target: &Endpoint,
) -> Result<Box<dyn Stream>, CallError> {
    let failed = |e: hyper::Error| match e.is_incomplete_message() {
        true => CallError::NotConnected("proxy server did not respond".to_owned()),
        false => http1::response_error(&e, 0),
    };
    let handshake = http1::settings().handshake(TokioIo::new(stream));
    let (mut sender, driver) = handshake.await.map_err(failed)?;
    tokio::spawn(driver.with_upgrades());
    let authority = target.to_string();
    let request = Request::connect(&authority)
        .header(HOST, &authority)
        .header(USER_AGENT, OWN_USER_AGENT)
        .header("proxy-connection", "keep-alive")
        .body(Empty::<Bytes>::new())
        .map_err(|e| CallError::NotConnected(e.to_string()))?;
    let response = sender.send_request(request).await.map_err(failed)?;
    let status = response.status().as_u16();
    if !response.status().is_success() {
        let reason = format!("proxy server responded {status}/{status}");
        return Err(CallError::NotConnected(reason));
    }
    Ok(Box::new(TokioIo::new(upgrade::on(response).await.map_err(failed)?)))
}
