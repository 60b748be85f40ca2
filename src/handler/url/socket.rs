//! The TCP transport for ureq. Each wait ends at once when the attempt is cancelled, and at its
//! timeout. ureq's own transport would block in the system until the timeout.
//!
//! It implements ureq's `unversioned` traits, so Cargo.toml requires an exact version of ureq. TLS
//! and proxies are ureq's connectors on top of this transport.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with, sockopt};
use ureq::Error;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, Either, LazyBuffers, NextTimeout, RustlsConnector,
    Transport,
};

use super::call_context::{self, CallError, remaining_time, set_phase, wait_at_most, wait_for};
use super::dns;
use crate::process::is_shortage;

/// How long to wait for one address of a host before the next one is tried. The time is enough for
/// two SYN packets.
const CONNECT_TIMEOUT_PER_ADDRESS: Duration = Duration::from_secs(3);

/// A resolver that returns no address. ureq resolves the host even if it then uses an idle
/// connection. So `TcpConnector` looks up the host when it needs a new connection.
#[derive(Debug)]
pub(super) struct DeferredResolver;

impl Resolver for DeferredResolver {
    fn resolve(&self, _: &Uri, _: &Config, _: NextTimeout) -> Result<ResolvedSocketAddrs, Error> {
        Ok(self.empty())
    }
}

/// Opens a TCP connection unless a proxy connector already did.
#[derive(Debug)]
pub(super) struct TcpConnector;

impl<In: Transport> Connector<In> for TcpConnector {
    type Out = Either<In, CancellableTcp>;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, Error> {
        if let Some(tunnel) = chained {
            return Ok(Some(Either::A(tunnel)));
        }
        let host = details.uri.host().unwrap_or_default();
        let port = details.uri.port_u16().unwrap_or(if details.needs_tls() { 443 } else { 80 });
        set_phase(format!("looking up {host}"));
        let stream = open_any(&dns::resolve_host(host, port)?)?;
        set_phase(call_context::AWAITING_RESPONSE);
        let config = details.config;
        let buffers = LazyBuffers::new(config.input_buffer_size(), config.output_buffer_size());
        let last_call = call_context::call_number();
        Ok(Some(Either::B(CancellableTcp { stream, buffers, last_call, peer_closed: false })))
    }
}

/// Connects to the first of `addresses` that accepts a connection.
fn open_any(addresses: &[SocketAddr]) -> Result<TcpStream, CallError> {
    let mut error = CallError::TimedOut;
    for (index, &address) in addresses.iter().enumerate() {
        let is_last = index + 1 == addresses.len();
        let max_wait = if is_last {
            Duration::MAX
        } else {
            CONNECT_TIMEOUT_PER_ADDRESS.min(remaining_time() / 2)
        };
        set_phase(format!("connecting to {address}"));
        match open_address(address, max_wait) {
            Err(CallError::NotConnected(reason)) => {
                error = CallError::NotConnected(format!("{address}: {reason}"));
            }
            result => return result,
        }
    }
    Err(error)
}

fn open_address(address: SocketAddr, max_wait: Duration) -> Result<TcpStream, CallError> {
    let failed = |e: Errno| match is_shortage(e.raw_os_error()) || e == Errno::NOBUFS {
        true => CallError::Shortage(format!("{address}: {}", io::Error::from(e))),
        false => CallError::NotConnected(io::Error::from(e).to_string()),
    };
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, SocketType::STREAM, flags, None).map_err(failed)?;
    match connect(&socket, &address) {
        Ok(()) => {}
        Err(Errno::INPROGRESS | Errno::INTR) => {
            if !wait_at_most(&socket, PollFlags::OUT, max_wait)? {
                return Err(CallError::NotConnected(format!("no response within {max_wait:?}")));
            }
            sockopt::socket_error(&socket).map_err(failed)?.map_err(failed)?;
        }
        Err(e) => return Err(failed(e)),
    }
    // A request takes one or two writes. The second must not wait for the acknowledgement of the
    // first.
    let _ = sockopt::set_tcp_nodelay(&socket, true);
    Ok(TcpStream::from(socket))
}

/// A TCP connection that blocks only in `call_context`.
pub(super) struct CancellableTcp {
    stream: TcpStream,
    buffers: LazyBuffers,
    /// The number of the call that used the connection last.
    last_call: u64,
    /// The peer no longer reads.
    peer_closed: bool,
}

impl fmt::Debug for CancellableTcp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CancellableTcp({:?})", self.stream.peer_addr().ok())
    }
}

impl Transport for CancellableTcp {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, _: NextTimeout) -> Result<(), Error> {
        if self.last_call != call_context::call_number() {
            self.last_call = call_context::call_number();
            call_context::set_stale(true);
        }
        let mut output = &self.buffers.output()[..amount];
        while !output.is_empty() && !self.peer_closed {
            match self.stream.write(output) {
                Ok(written) => output = &output[written..],
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    wait_for(&self.stream, PollFlags::OUT)?;
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                // A peer that stops reading may have sent a response with the reason.
                Err(_) => self.peer_closed = true,
            }
        }
        Ok(())
    }

    fn await_input(&mut self, _: NextTimeout) -> Result<bool, Error> {
        loop {
            wait_for(&self.stream, PollFlags::IN)?;
            match self.stream.read(self.buffers.input_append_buf()) {
                Ok(amount) => {
                    self.buffers.input_appended(amount);
                    return Ok(amount > 0);
                }
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                Err(e) => return Err(Error::Io(e)),
            }
        }
    }

    /// ureq calls this before it keeps the connection and before it uses it again. Unexpected bytes
    /// or the end of the stream make the connection unusable.
    fn is_open(&mut self) -> bool {
        let peeked = self.stream.peek(&mut [0]);
        !self.peer_closed && peeked.is_err_and(|e| e.kind() == ErrorKind::WouldBlock)
    }
}

/// A connection, with or without TLS, that is no longer stale once the first bytes of a response
/// arrive. A TLS close notification is not such a byte.
#[derive(Debug)]
pub(super) struct StaleTracking<T>(T);

impl<T: Transport> Transport for StaleTracking<T> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.0.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        self.0.transmit_output(amount, timeout)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        let has_input = self.0.await_input(timeout)?;
        if has_input {
            call_context::set_stale(false);
        }
        Ok(has_input)
    }

    fn is_open(&mut self) -> bool {
        self.0.is_open()
    }

    fn is_tls(&self) -> bool {
        self.0.is_tls()
    }
}

/// ureq's TLS connector. Its errors say that TLS failed.
#[derive(Debug, Default)]
pub(super) struct TlsConnector(RustlsConnector);

impl<In: Transport> Connector<In> for TlsConnector {
    type Out = StaleTracking<<RustlsConnector as Connector<In>>::Out>;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, Error> {
        if !details.needs_tls() {
            return Ok(self.0.connect(details, chained)?.map(StaleTracking));
        }
        let host = details.uri.host().unwrap_or_default();
        set_phase(format!("the TLS handshake with {host}"));
        let failed = |reason: String| CallError::NotConnected(format!("{host}: TLS: {reason}"));
        let connected = self
            .0
            .connect(details, chained)
            .inspect(|_| set_phase(call_context::AWAITING_RESPONSE));
        connected.map(|connected| connected.map(StaleTracking)).map_err(|e| match e {
            Error::Io(e) if e.kind() == ErrorKind::UnexpectedEof => {
                failed("the connection was closed".to_owned()).into()
            }
            Error::Io(e) => failed(e.to_string()).into(),
            Error::Rustls(e) => failed(e.to_string()).into(),
            Error::Tls(e) => failed(e.to_owned()).into(),
            other => other,
        })
    }
}
