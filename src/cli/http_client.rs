//! Sends one request to the server's listener, over TCP or its unix socket. It uses no proxy and follows no
//! redirect.

use std::error::Error;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{
    ACCEPT, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderValue, USER_AGENT,
};
use hyper::http::request::Builder;
use hyper_util::rt::TokioIo;
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::runtime;
use tokio_rustls::TlsConnector;

use crate::config::Listen;
use crate::handler::OWN_USER_AGENT;
use crate::tls;
use crate::verify::OutgoingRequest;

/// Longer than the server needs. A proxy at its address may be slow.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A server that does not say within this time whether it is ready is not.
const READINESS_TIMEOUT: Duration = Duration::from_secs(3);

/// The longest response body that is read. The rest is ignored.
const MAX_RESPONSE_BYTES: usize = 64 << 10;

/// How long to wait before the next try if the backlog of a unix socket is full.
const BACKLOG_WAIT: Duration = Duration::from_millis(10);

/// The parts of a response that `send` prints.
pub struct ServerResponse {
    pub status: u16,
    pub content_type: Option<String>,
    pub body: Vec<u8>,
}

/// Returns the base URL of a listener as this machine reaches it, and the text for `Host`.
///
/// # Errors
/// The port is 0, so it is unknown.
pub fn local_endpoint(listen: &Listen) -> Result<(String, String), String> {
    match listen {
        Listen::Tcp(address) if address.port() == 0 => {
            Err("server.listen has port 0: the port is unknown: set a fixed port".to_owned())
        }
        Listen::Tcp(address) => {
            let ip = match address.ip() {
                IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
                IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
                ip => ip,
            };
            let host = SocketAddr::new(ip, address.port()).to_string();
            Ok((format!("http://{host}"), host))
        }
        Listen::Unix(_) => Ok(("http://localhost".to_owned(), "localhost".to_owned())),
    }
}

/// A listener of webhooks.
pub struct Target {
    pub listen: Listen,
    /// The certificate that it shows; `None`: it speaks no TLS.
    pub certificate: Option<CertificateDer<'static>>,
}

/// Sends a signed request.
///
/// # Errors
/// There was no response, or it is not HTTP.
pub fn post(target: &Target, outgoing: &OutgoingRequest) -> Result<ServerResponse, String> {
    let (base, host) = local_endpoint(&target.listen)?;
    let query = outgoing.query.as_ref().map(|query| format!("?{query}")).unwrap_or_default();
    let mut request = Request::builder()
        .method(outgoing.method.as_str())
        .uri(format!("{}{query}", outgoing.path))
        .header(CONTENT_LENGTH, outgoing.body.len());
    for (name, value) in &outgoing.headers {
        request = request.header(name, value);
    }
    let request = build_request(request, &host, outgoing.body.clone())?;
    let endpoint = match &target.listen {
        Listen::Tcp(_) => base,
        Listen::Unix(path) => format!("unix:{}", path.display()),
    };
    exchange(target, &host, TIMEOUT, request).map_err(|e| describe_error(&endpoint, &e))
}

/// Describes why there is no response.
fn describe_error(endpoint: &str, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => format!(
            "{endpoint}: no server listens there: start it with `hooktrail serve`, or check server.listen"
        ),
        io::ErrorKind::PermissionDenied => {
            format!(
                "{endpoint}: this user may not connect: run this command as the user of the server"
            )
        }
        _ => format!("{endpoint}: {error}: is the server running?"),
    }
}

/// Asks a listener of the running server whether it would accept a webhook now. Returns the reason if not.
///
/// # Errors
/// The address is unknown, or there was no response.
pub fn readiness(address: &str) -> Result<Option<String>, String> {
    let listen = parse_address(address)?;
    let (_, host) = local_endpoint(&listen)?;
    let request = build_request(Request::get("/readyz"), &host, Vec::new())?;
    let target = Target { listen, certificate: None };
    let response = exchange(&target, &host, READINESS_TIMEOUT, request)
        .map_err(|e| format!("{address}: {e}"))?;
    if response.status == 200 {
        return Ok(None);
    }
    let body: serde_json::Value = serde_json::from_slice(&response.body).unwrap_or_default();
    let reason = body["error"].as_str().map(str::to_owned);
    Ok(Some(reason.unwrap_or_else(|| format!("status {}", response.status))))
}

/// Parses the address of a running listener: `http://IP:PORT` or `unix:PATH`.
///
/// # Errors
/// It is none.
pub fn parse_address(address: &str) -> Result<Listen, String> {
    match address.strip_prefix("unix:") {
        Some(path) => Ok(Listen::Unix(PathBuf::from(path))),
        None => {
            let socket = address.strip_prefix("http://").and_then(|text| text.parse().ok());
            Ok(Listen::Tcp(socket.ok_or_else(|| format!("{address}: not an address"))?))
        }
    }
}

/// Sends a request without a body to the admin listener. `token`: its token, unless it is a unix socket.
///
/// # Errors
/// There was no response.
pub fn call_admin(
    listen: &Listen,
    method: &str,
    path: &str,
    token: Option<&str>,
) -> Result<ServerResponse, String> {
    let (base, host) = local_endpoint(listen)?;
    let request = admin_request(method, path, token, &host)?;
    let target = Target { listen: listen.clone(), certificate: None };
    exchange(&target, &host, TIMEOUT, request).map_err(|e| describe_error(&base, &e))
}

/// Reads server-sent events of the admin listener until the stream ends, or `on_event` breaks. It gets the name and the
/// data of each.
///
/// # Errors
/// There was no response, or the stream broke off.
pub fn follow_admin(
    listen: &Listen,
    path: &str,
    token: Option<&str>,
    on_event: &mut dyn FnMut(&str, &str) -> ControlFlow<()>,
) -> Result<Followed, String> {
    let (base, host) = local_endpoint(listen)?;
    let request = admin_request("GET", path, token, &host)?;
    let runtime = runtime::Builder::new_current_thread().enable_io().enable_time().build();
    let follow = async {
        match listen {
            Listen::Tcp(_) => {
                follow_over(TcpStream::connect(&host).await?, request, on_event).await
            }
            Listen::Unix(path) => follow_over(connect_unix(path).await?, request, on_event).await,
        }
    };
    let followed = runtime.and_then(|runtime| runtime.block_on(follow));
    followed.map_err(|e| describe_error(&base, &e))
}

/// How a stream ended.
pub enum Followed {
    Ended,
    /// The server responded with something else.
    Other(ServerResponse),
}

fn admin_request(
    method: &str,
    path: &str,
    token: Option<&str>,
    host: &str,
) -> Result<Request<Full<Bytes>>, String> {
    let mut request = Request::builder().method(method).uri(path);
    if let Some(token) = token {
        request = request.header(AUTHORIZATION, format!("Bearer {token}"));
    }
    build_request(request, host, Vec::new())
}

async fn follow_over(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    request: Request<Full<Bytes>>,
    on_event: &mut dyn FnMut(&str, &str) -> ControlFlow<()>,
) -> io::Result<Followed> {
    let (mut sender, driver) = http1::handshake(TokioIo::new(stream)).await.map_err(io_error)?;
    tokio::spawn(driver);
    let (head, mut body) = sender.send_request(request).await.map_err(io_error)?.into_parts();
    if head.status != 200 {
        let mut response =
            ServerResponse { status: head.status.as_u16(), content_type: None, body: Vec::new() };
        while let Some(Ok(frame)) = body.frame().await
            && response.body.len() < MAX_RESPONSE_BYTES
        {
            response.body.extend(frame.into_data().unwrap_or_default());
        }
        return Ok(Followed::Other(response));
    }
    let mut buffer = Vec::new();
    while let Some(frame) = body.frame().await {
        buffer.extend(frame.map_err(io_error)?.into_data().unwrap_or_default());
        while let Some(end) = buffer.windows(2).position(|pair| pair == b"\n\n") {
            let event: Vec<u8> = buffer.drain(..end + 2).collect();
            let event = String::from_utf8_lossy(&event);
            let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name));
            if let Some(data) = field("data: ")
                && on_event(field("event: ").unwrap_or("message"), data).is_break()
            {
                return Ok(Followed::Ended);
            }
        }
    }
    Ok(Followed::Ended)
}

/// Completes a request with its body and the headers that each request has.
fn build_request(
    request: Builder,
    host: &str,
    body: Vec<u8>,
) -> Result<Request<Full<Bytes>>, String> {
    let mut request = request.body(Full::from(body)).map_err(|e| e.to_string())?;
    let host = HeaderValue::from_str(host).map_err(|e| e.to_string())?;
    let headers = request.headers_mut();
    for (name, value) in
        [(HOST, host), (USER_AGENT, OWN_USER_AGENT), (ACCEPT, HeaderValue::from_static("*/*"))]
    {
        headers.entry(name).or_insert(value);
    }
    Ok(request)
}

/// Connects, sends the request and reads the response. `host` is the address of a TCP listener.
fn exchange(
    target: &Target,
    host: &str,
    timeout: Duration,
    request: Request<Full<Bytes>>,
) -> io::Result<ServerResponse> {
    let runtime = runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    let exchange = async {
        match &target.listen {
            Listen::Tcp(address) => {
                let stream = TcpStream::connect(host).await?;
                let Some(certificate) = &target.certificate else {
                    return exchange_over(stream, request).await;
                };
                let connector = TlsConnector::from(tls::client_of(certificate.clone())?);
                let stream = connector.connect(address.ip().into(), stream).await?;
                exchange_over(stream, request).await
            }
            Listen::Unix(path) => exchange_over(connect_unix(path).await?, request).await,
        }
    };
    let no_response =
        || io::Error::new(io::ErrorKind::TimedOut, format!("no response within {timeout:?}"));
    runtime.block_on(async {
        tokio::time::timeout(timeout, exchange).await.unwrap_or_else(|_| Err(no_response()))
    })
}

/// Connects to a unix socket. If its backlog is full (unix(7)), tries again until the timeout.
async fn connect_unix(path: &Path) -> io::Result<UnixStream> {
    loop {
        match UnixStream::connect(path).await {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                tokio::time::sleep(BACKLOG_WAIT).await
            }
            result => return result,
        }
    }
}

async fn exchange_over(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    request: Request<Full<Bytes>>,
) -> io::Result<ServerResponse> {
    let (mut sender, driver) = http1::handshake(TokioIo::new(stream)).await.map_err(io_error)?;
    tokio::spawn(driver);
    let (head, mut body) = sender.send_request(request).await.map_err(io_error)?.into_parts();
    let content_type = head.headers.get(CONTENT_TYPE);
    let content_type = content_type.and_then(|value| value.to_str().ok()).map(str::to_owned);
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.map_err(io_error)?.into_data() {
            bytes.extend_from_slice(&data);
        }
        if bytes.len() >= MAX_RESPONSE_BYTES {
            bytes.truncate(MAX_RESPONSE_BYTES);
            break;
        }
    }
    Ok(ServerResponse { status: head.status.as_u16(), content_type, body: bytes })
}

/// Makes an error whose text has the cause too, which hyper's own text leaves out.
fn io_error(error: hyper::Error) -> io::Error {
    io::Error::other(match error.source() {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    })
}
