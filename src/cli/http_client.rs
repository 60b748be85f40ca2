//! Sends one request to the server's listener, over TCP or its unix socket. It uses no proxy and follows no
//! redirect.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use ureq::config::Config;
use ureq::http::{Request, Response, Uri};
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, LazyBuffers, NextTimeout, Transport,
};
use ureq::{Agent, Body, Error};

use crate::config::Listen;
use crate::verify::OutgoingRequest;

/// Longer than the server needs. A proxy at its address may be slow.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A server that does not say within this time whether it is ready is not.
const READINESS_TIMEOUT: Duration = Duration::from_secs(3);

/// The longest response body that is read. The rest is ignored.
const MAX_RESPONSE_BYTES: u64 = 64 << 10;

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

/// Sends a signed request.
///
/// # Errors
/// There was no response, or it is not HTTP.
pub fn post(listen: &Listen, outgoing: &OutgoingRequest) -> Result<ServerResponse, String> {
    let (base, _) = local_endpoint(listen)?;
    let query = outgoing.query.as_ref().map(|query| format!("?{query}")).unwrap_or_default();
    let mut request = Request::builder()
        .method(outgoing.method.as_str())
        .uri(format!("{base}{}{query}", outgoing.path));
    for (name, value) in outgoing.headers.iter().filter(|(name, _)| name != "host") {
        request = request.header(name, value);
    }
    let request = request.body(outgoing.body.as_slice()).map_err(|e| e.to_string())?;
    let endpoint = match listen {
        Listen::Tcp(_) => base,
        Listen::Unix(path) => format!("unix:{}", path.display()),
    };
    let response =
        agent(listen, TIMEOUT).run(request).map_err(|e| describe_error(&endpoint, &e))?;
    read_response(response).map_err(|e| format!("{endpoint}: {e}"))
}

/// Describes why there is no response.
fn describe_error(endpoint: &str, error: &Error) -> String {
    let kind = match error {
        Error::Io(error) => Some(error.kind()),
        Error::ConnectionFailed => Some(io::ErrorKind::ConnectionRefused),
        _ => None,
    };
    match kind {
        Some(io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound) => format!(
            "{endpoint}: no server listens there: start it with `hooktrail serve`, or check server.listen"
        ),
        Some(io::ErrorKind::PermissionDenied) => {
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
    let listen = match address.strip_prefix("unix:") {
        Some(path) => Listen::Unix(PathBuf::from(path)),
        None => {
            let socket = address.strip_prefix("http://").and_then(|text| text.parse().ok());
            Listen::Tcp(socket.ok_or_else(|| format!("{address}: not an address"))?)
        }
    };
    let (base, _) = local_endpoint(&listen)?;
    let request = Request::get(format!("{base}/readyz")).body(()).map_err(|e| e.to_string())?;
    let response =
        agent(&listen, READINESS_TIMEOUT).run(request).map_err(|e| format!("{address}: {e}"))?;
    let response = read_response(response).map_err(|e| format!("{address}: {e}"))?;
    if response.status == 200 {
        return Ok(None);
    }
    let body: serde_json::Value = serde_json::from_slice(&response.body).unwrap_or_default();
    let reason = body["error"].as_str().map(str::to_owned);
    Ok(Some(reason.unwrap_or_else(|| format!("status {}", response.status))))
}

fn agent(listen: &Listen, timeout: Duration) -> Agent {
    let config = Config::builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .proxy(None)
        .timeout_global(Some(timeout))
        .user_agent(concat!("hooktrail/", env!("CARGO_PKG_VERSION")))
        .build();
    match listen {
        Listen::Tcp(_) => Agent::new_with_config(config),
        Listen::Unix(path) => Agent::with_parts(config, LocalConnector(path.clone()), NoResolver),
    }
}

fn read_response(response: Response<Body>) -> io::Result<ServerResponse> {
    let (head, body) = response.into_parts();
    let content_type = head.headers.get("content-type");
    let content_type = content_type.and_then(|value| value.to_str().ok()).map(str::to_owned);
    let mut bytes = Vec::new();
    body.into_reader().take(MAX_RESPONSE_BYTES).read_to_end(&mut bytes)?;
    Ok(ServerResponse { status: head.status.as_u16(), content_type, body: bytes })
}

/// A resolver that resolves nothing: the path of a unix socket needs no address.
#[derive(Debug)]
struct NoResolver;

impl Resolver for NoResolver {
    fn resolve(&self, _: &Uri, _: &Config, _: NextTimeout) -> Result<ResolvedSocketAddrs, Error> {
        Ok(self.empty())
    }
}

/// Connects to a unix socket, for any host in the URL.
#[derive(Debug)]
struct LocalConnector(PathBuf);

impl<In: Transport> Connector<In> for LocalConnector {
    type Out = UnixTransport;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        _: Option<In>,
    ) -> Result<Option<Self::Out>, Error> {
        let stream = connect_unix(&self.0)?;
        let config = details.config;
        let buffers = LazyBuffers::new(config.input_buffer_size(), config.output_buffer_size());
        Ok(Some(UnixTransport { stream, buffers }))
    }
}

fn connect_unix(path: &Path) -> io::Result<UnixStream> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    // This bounds the connect too, which blocks if the backlog is full (unix(7)).
    set_socket_timeout(&socket, Timeout::Send, Some(TIMEOUT))?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    let stream = UnixStream::from(socket);
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    Ok(stream)
}

/// A unix socket as a transport of ureq.
struct UnixTransport {
    stream: UnixStream,
    buffers: LazyBuffers,
}

impl fmt::Debug for UnixTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UnixTransport")
    }
}

impl Transport for UnixTransport {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, _: NextTimeout) -> Result<(), Error> {
        Ok(self.stream.write_all(&self.buffers.output()[..amount])?)
    }

    fn await_input(&mut self, _: NextTimeout) -> Result<bool, Error> {
        let amount = self.stream.read(self.buffers.input_append_buf())?;
        self.buffers.input_appended(amount);
        Ok(amount > 0)
    }

    fn is_open(&mut self) -> bool {
        false
    }
}
