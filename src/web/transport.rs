//! What carries HTTP: a TCP connection, with or without TLS, or a unix socket.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use actix_web::rt::net::{TcpStream, UnixStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::acceptor::Accepted;
use super::client_ip::{self, Peer};
use super::client_subject::ClientSubject;
use super::connection::{Connection, Phase};
use super::connection_stream::ConnectionStream;
use super::listener::ListenerState;
use super::proxy_protocol::{self, Origin};
use super::tls_slot::TlsSlot;
use crate::config::Listen;

/// The stream of one connection.
pub enum Transport {
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    Unix(UnixStream),
}

/// How the connections of a server begin.
pub struct TransportSettings {
    /// TLS for the listeners that have it.
    pub tls: Option<Arc<TlsSlot>>,
    /// Whether a peer may say by the PROXY protocol for whom it connects.
    pub is_trusted_proxy: Box<dyn Fn(Peer) -> bool + Send + Sync>,
    /// How long a client may leave what was sent to it unread, before its connection is closed. `None`: the time limits
    /// of responses are enough.
    pub unread_timeout: Option<Duration>,
}

/// Prepares an accepted connection for HTTP: reads the header of the PROXY protocol and does the handshake of TLS, if
/// its listener asks for them. Returns `None` if the connection is not for HTTP.
pub async fn establish(
    accepted: Accepted,
    settings: &TransportSettings,
) -> Option<(ConnectionStream<Transport>, Option<SocketAddr>)> {
    let Accepted { socket, peer, slot } = accepted;
    let connection = Arc::clone(&slot.connection);
    let listener = Arc::clone(connection.listener());
    let beginning = begin(socket, peer, (&connection, &listener), settings);
    let began = until_expired(&connection, beginning).await;
    match began {
        Ok((transport, peer, subject)) => {
            Some((ConnectionStream::new(transport, slot, subject), peer))
        }
        Err(error) => {
            // Clients that connect and leave are no problem of the server, and scanners do little else.
            if !matches!(
                error.kind(),
                io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset
            ) {
                let peer = peer.map_or_else(|| "a local program".to_owned(), |ip| ip.to_string());
                listener.warn(|| format!("a connection of {peer} failed: {error}"));
            }
            None
        }
    }
}

type Began = (Transport, Option<SocketAddr>, Option<ClientSubject>);

async fn begin(
    socket: OwnedFd,
    peer: Option<SocketAddr>,
    (connection, state): (&Connection, &ListenerState),
    settings: &TransportSettings,
) -> io::Result<Began> {
    let has_header = state.listener.proxy_protocol;
    if matches!(state.listener.address, Listen::Unix(_)) {
        let mut stream = UnixStream::from_std(socket.into())?;
        let peer = match has_header {
            true => read_header(&mut stream, None, settings).await?,
            false => None,
        };
        return Ok((Transport::Unix(stream), peer, None));
    }
    let stream = std::net::TcpStream::from(socket);
    stream.set_nodelay(true)?;
    if let Some(limit) = settings.unread_timeout {
        let limit_ms = u32::try_from(limit.as_millis()).unwrap_or(u32::MAX);
        rustix::net::sockopt::set_tcp_user_timeout(&stream, limit_ms)?;
    }
    let mut stream = TcpStream::from_std(stream)?;
    let peer = match has_header {
        true => read_header(&mut stream, peer, settings).await?,
        false => peer,
    };
    if !state.listener.tls {
        return Ok((Transport::Tcp(stream), peer, None));
    }
    // Until its first byte, another connection may take the place of this one.
    stream.readable().await?;
    connection.enter_now(Phase::Head);
    let slot = settings.tls.as_ref().ok_or_else(|| io::Error::other("there is no certificate"))?;
    let (config, authorities) =
        slot.load().ok_or_else(|| io::Error::other("there is no certificate"))?;
    let stream = TlsAcceptor::from(config).accept(stream).await?;
    connection.set_authorities(Arc::clone(slot), authorities);
    connection.enter_now(Phase::New);
    let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    let subject = certificate.and_then(|certificate| ClientSubject::of_certificate(certificate));
    Ok((Transport::Tls(Box::new(stream)), peer, subject))
}

/// Reads the header of the PROXY protocol, which only a trusted proxy may send. Returns the address of its client, `None` if
/// that is unknown, or that of the proxy if it connects for itself.
async fn read_header(
    stream: &mut (impl AsyncRead + Unpin),
    peer: Option<SocketAddr>,
    settings: &TransportSettings,
) -> io::Result<Option<SocketAddr>> {
    if !(settings.is_trusted_proxy)(client_ip::peer_of(peer)) {
        return Err(io::Error::other(
            "it is not in server.trusted_proxies, which the PROXY protocol needs",
        ));
    }
    Ok(match proxy_protocol::read(stream).await? {
        Origin::Client(client) => Some(client),
        // Like a unix socket: no header of the request tells it either, unless "unix" is trusted.
        Origin::UnknownClient => None,
        Origin::Proxy => peer,
    })
}

/// Runs what comes before HTTP until it has ended or the connection has expired.
async fn until_expired<T>(
    connection: &Connection,
    future: impl Future<Output = io::Result<T>>,
) -> io::Result<T> {
    let mut future = pin!(future);
    poll_fn(|context| {
        connection.set_waker(context.waker());
        match future.as_mut().poll(context) {
            Poll::Pending if connection.state().is_expired() => {
                Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()))
            }
            polled => polled,
        }
    })
    .await
}

impl AsyncRead for Transport {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Tls(stream) => match Pin::new(stream).poll_read(context, buffer) {
                // Many clients do not say that they end. HTTP itself tells whether a request is complete.
                Poll::Ready(Err(e)) if e.kind() == io::ErrorKind::UnexpectedEof => {
                    Poll::Ready(Ok(()))
                }
                read => read,
            },
            Self::Unix(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Unix(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(context),
            Self::Tls(stream) => Pin::new(stream).poll_flush(context),
            Self::Unix(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
