//! The sockets that ureq talks through, so that each of its waits ends at once when the attempt is
//! stopped, and never outlives its timeout: ureq's own block within the system for as long as that.
//!
//! Behind ureq's `unversioned` traits, for which Cargo.toml names its exact version. TLS and proxies
//! are ureq's connectors on top of this one.

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

use super::call_context::{self, CallError, doing, remaining, wait_at_most, wait_for};
use super::dns;
use crate::process::is_shortage;

/// An address that does not answer is left for the next one of its host after so long, if it has
/// one: the time it takes to say hello twice.
const NEXT_ADDRESS: Duration = Duration::from_secs(3);

/// ureq asks for addresses before it looks for a connection that it kept: they are looked up by
/// `Plain`, when there is none.
#[derive(Debug)]
pub(super) struct NotNow;

impl Resolver for NotNow {
    fn resolve(&self, _: &Uri, _: &Config, _: NextTimeout) -> Result<ResolvedSocketAddrs, Error> {
        Ok(self.empty())
    }
}

/// Opens a socket where no proxy did.
#[derive(Debug)]
pub(super) struct Plain;

impl<In: Transport> Connector<In> for Plain {
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
        doing(format!("looking up {host}"));
        let stream = open(&dns::addresses(host, port)?)?;
        doing(call_context::WAITING);
        let config = details.config;
        let buffers = LazyBuffers::new(config.input_buffer_size(), config.output_buffer_size());
        let exchange = call_context::number();
        Ok(Some(Either::B(CancellableTcp { stream, buffers, exchange, peer_closed: false })))
    }
}

/// A connection to the first of `addresses` that takes one.
fn open(addresses: &[SocketAddr]) -> Result<TcpStream, CallError> {
    let mut why = CallError::TimedOut;
    for (at, &address) in addresses.iter().enumerate() {
        let is_last = at + 1 == addresses.len();
        let most = if is_last { Duration::MAX } else { NEXT_ADDRESS.min(remaining() / 2) };
        doing(format!("connecting to {address}"));
        match open_one(address, most) {
            Err(CallError::NotConnected(reason)) => {
                why = CallError::NotConnected(format!("{address}: {reason}"));
            }
            decided => return decided,
        }
    }
    Err(why)
}

fn open_one(address: SocketAddr, most: Duration) -> Result<TcpStream, CallError> {
    let failed = |e: Errno| match is_shortage(e.raw_os_error()) || e == Errno::NOBUFS {
        true => CallError::NotNow(format!("{address}: {}", io::Error::from(e))),
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
            if !wait_at_most(&socket, PollFlags::OUT, most)? {
                return Err(CallError::NotConnected(format!("no answer within {most:?}")));
            }
            sockopt::socket_error(&socket).map_err(failed)?.map_err(failed)?;
        }
        Err(e) => return Err(failed(e)),
    }
    // A request is written in one go, or two: none of them waits for the other's receipt.
    let _ = sockopt::set_tcp_nodelay(&socket, true);
    Ok(TcpStream::from(socket))
}

/// A connection that never blocks but in an exchange's own wait.
pub(super) struct CancellableTcp {
    stream: TcpStream,
    buffers: LazyBuffers,
    /// The exchange that used it last.
    exchange: u64,
    /// The other end does not read any more.
    peer_closed: bool,
}

impl fmt::Debug for CancellableTcp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Socket({:?})", self.stream.peer_addr().ok())
    }
}

impl Transport for CancellableTcp {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, _: NextTimeout) -> Result<(), Error> {
        if self.exchange != call_context::number() {
            self.exchange = call_context::number();
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
                // Whoever does not want to read it all may have answered, and said why.
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

    /// Asked before it is kept and before it is used again: bytes that nobody asked for, or an end,
    /// and it is of no use.
    fn is_open(&mut self) -> bool {
        let peeked = self.stream.peek(&mut [0]);
        !self.peer_closed && peeked.is_err_and(|e| e.kind() == ErrorKind::WouldBlock)
    }
}

/// A connection, TLS or not, of which something was heard when an answer's first bytes are there: TLS
/// also says that it ends.
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
        let is_heard = self.0.await_input(timeout)?;
        if is_heard {
            call_context::set_stale(false);
        }
        Ok(is_heard)
    }

    fn is_open(&mut self) -> bool {
        self.0.is_open()
    }

    fn is_tls(&self) -> bool {
        self.0.is_tls()
    }
}

/// ureq's TLS, which says when it was TLS that failed.
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
        doing(format!("the TLS handshake with {host}"));
        let failed = |why: String| CallError::NotConnected(format!("{host}: TLS: {why}"));
        let connected = self.0.connect(details, chained).inspect(|_| doing(call_context::WAITING));
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
