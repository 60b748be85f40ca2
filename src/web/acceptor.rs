//! Accepts the connections of one listener, and ends without losing one.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::connections::{Connections, Slot};
use super::listener::ListenerState;
use super::sockets::BoundSocket;

/// How long a listener waits after an error of the system, such as a lack of descriptors.
const ERROR_PAUSE: Duration = Duration::from_millis(200);

/// A connection that a listener has accepted.
pub struct Accepted {
    pub socket: OwnedFd,
    /// `None`: a unix socket.
    pub peer: Option<SocketAddr>,
    pub slot: Slot,
}

/// Accepts connections, for which the threads take turns, until `stop_accepting`. A connection that was accepted gets its
/// slot and its thread even then.
pub async fn accept(
    socket: BoundSocket,
    listener: Arc<ListenerState>,
    connections: Arc<Connections>,
    threads: Arc<[mpsc::Sender<Accepted>]>,
) {
    let address = socket.address();
    let listening = match Listening::new(socket) {
        Ok(listening) => listening,
        Err(e) => return log::error!("{address}: can't accept connections: {e}"),
    };
    let mut turns = threads.iter().cycle();
    'accepting: while !listener.has_stopped_accepting() {
        let accepted = tokio::select! {
            biased;
            () = listener.until_stopped() => continue,
            accepted = listening.accept() => accepted,
        };
        let (socket, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(e) if is_of_one_connection(&e) => continue,
            Err(e) => {
                listener.warn(|| format!("{address}: can't accept connections: {e}"));
                tokio::time::sleep(ERROR_PAUSE).await;
                continue;
            }
        };
        let slot = connections.admit(&listener).await;
        let mut accepted = Accepted { socket, peer, slot };
        // A thread that is busy with a slow request does not keep others waiting.
        for thread in turns.by_ref().take(threads.len()) {
            match thread.try_send(accepted) {
                Ok(()) => continue 'accepting,
                Err(TrySendError::Full(returned) | TrySendError::Closed(returned)) => {
                    accepted = returned
                }
            }
        }
        let Some(thread) = turns.next() else { return };
        if thread.send(accepted).await.is_err() {
            return;
        }
    }
}

/// A socket in the event loop of its thread.
enum Listening {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listening {
    fn new(socket: BoundSocket) -> io::Result<Self> {
        match socket {
            BoundSocket::Tcp(tcp) => {
                tcp.set_nonblocking(true)?;
                TcpListener::from_std(tcp).map(Self::Tcp)
            }
            BoundSocket::Unix(unix) => {
                unix.set_nonblocking(true)?;
                UnixListener::from_std(unix).map(Self::Unix)
            }
        }
    }

    /// Accepts a connection, for any event loop.
    async fn accept(&self) -> io::Result<(OwnedFd, Option<SocketAddr>)> {
        match self {
            Self::Tcp(tcp) => {
                let (stream, peer) = tcp.accept().await?;
                Ok((stream.into_std()?.into(), Some(peer)))
            }
            Self::Unix(unix) => {
                let (stream, _) = unix.accept().await?;
                Ok((stream.into_std()?.into(), None))
            }
        }
    }
}

/// Whether an error concerns one connection alone, as accept(2) says of errors of the network.
fn is_of_one_connection(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    errno.is_some_and(|errno| {
        matches!(
            errno,
            Errno::CONNABORTED
                | Errno::CONNRESET
                | Errno::INTR
                | Errno::NETDOWN
                | Errno::PROTO
                | Errno::NOPROTOOPT
                | Errno::HOSTDOWN
                | Errno::NONET
                | Errno::HOSTUNREACH
                | Errno::OPNOTSUPP
                | Errno::NETUNREACH
                | Errno::PERM
        )
    })
}
