//! One request to the server's own listener, by TCP or over its unix socket, and the answer. No proxy,
//! no redirect.

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

/// Longer than any server of ours takes; a proxy in its place may be slow.
const PATIENCE: Duration = Duration::from_secs(60);

/// So much of an answer is shown.
const SHOWN_BYTES_MAX: u64 = 64 << 10;

/// What came back.
pub struct Answer {
    pub status: u16,
    pub content_type: Option<String>,
    pub body: Vec<u8>,
}

/// Where a listener is to be reached from here: its base URL, and the text for `Host`.
///
/// # Errors
/// It can't be known.
pub fn local_endpoint(listen: &Listen) -> Result<(String, String), String> {
    match listen {
        Listen::Tcp(address) if address.port() == 0 => {
            Err("server.listen has port 0: it is not known where the server listens".to_owned())
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

/// Sends a draft that is signed.
///
/// # Errors
/// Nobody answered, or not by HTTP.
pub fn post(listen: &Listen, draft: &OutgoingRequest) -> Result<Answer, String> {
    let (base, _) = local_endpoint(listen)?;
    let query = draft.query.as_ref().map(|query| format!("?{query}")).unwrap_or_default();
    let mut request = Request::builder()
        .method(draft.method.as_str())
        .uri(format!("{base}{}{query}", draft.path));
    for (name, value) in draft.headers.iter().filter(|(name, _)| name != "host") {
        request = request.header(name, value);
    }
    let request = request.body(draft.body.as_slice()).map_err(|e| e.to_string())?;
    let at = match listen {
        Listen::Tcp(_) => base,
        Listen::Unix(path) => format!("unix:{}", path.display()),
    };
    let answer = agent(listen).run(request).map_err(|e| format!("{at}: {e}: is the server up?"))?;
    read(answer).map_err(|e| format!("{at}: {e}"))
}

fn agent(listen: &Listen) -> Agent {
    let config = Config::builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .proxy(None)
        .timeout_global(Some(PATIENCE))
        .user_agent(concat!("hooktrail/", env!("CARGO_PKG_VERSION")))
        .build();
    match listen {
        Listen::Tcp(_) => Agent::new_with_config(config),
        Listen::Unix(path) => Agent::with_parts(config, LocalConnector(path.clone()), Nowhere),
    }
}

fn read(answer: Response<Body>) -> io::Result<Answer> {
    let (head, body) = answer.into_parts();
    let content_type = head.headers.get("content-type");
    let content_type = content_type.and_then(|value| value.to_str().ok()).map(str::to_owned);
    let mut bytes = Vec::new();
    body.into_reader().take(SHOWN_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(Answer { status: head.status.as_u16(), content_type, body: bytes })
}

/// A socket's path needs no looking up.
#[derive(Debug)]
struct Nowhere;

impl Resolver for Nowhere {
    fn resolve(&self, _: &Uri, _: &Config, _: NextTimeout) -> Result<ResolvedSocketAddrs, Error> {
        Ok(self.empty())
    }
}

/// Connects to a unix socket, whatever the URL's host is.
#[derive(Debug)]
struct LocalConnector(PathBuf);

impl<In: Transport> Connector<In> for LocalConnector {
    type Out = Socket;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        _: Option<In>,
    ) -> Result<Option<Self::Out>, Error> {
        let stream = open(&self.0)?;
        let config = details.config;
        let buffers = LazyBuffers::new(config.input_buffer_size(), config.output_buffer_size());
        Ok(Some(Socket { stream, buffers }))
    }
}

fn open(path: &Path) -> io::Result<UnixStream> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    // Bounds the connect too: a server that accepts nothing has a full backlog (unix(7)).
    set_socket_timeout(&socket, Timeout::Send, Some(PATIENCE))?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    let stream = UnixStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// A unix socket as ureq reads and writes it.
struct Socket {
    stream: UnixStream,
    buffers: LazyBuffers,
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Socket")
    }
}

impl Transport for Socket {
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
