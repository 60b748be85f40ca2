//! Accepts the connections of one listener, and ends without losing one.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{SocketFlags, acceptfrom_with};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::connections::{Connections, Slot};
use super::listener::ListenerState;
use super::sockets::{BACKLOG, BoundSocket};

/// How long a listener waits after an error of the system, such as a lack of descriptors.
const ERROR_PAUSE: Duration = Duration::from_millis(200);

/// A connection that a listener has accepted.
pub struct Accepted {
    pub socket: OwnedFd,
    /// `None`: a unix socket.
    pub peer: Option<SocketAddr>,
    pub slot: Slot,
}

/// The queue of new connections, which the threads share in turns.
pub struct Acceptor {
    pub listener: Arc<ListenerState>,
    pub connections: Arc<Connections>,
    pub threads: Arc<[mpsc::Sender<Accepted>]>,
}

impl Acceptor {
    /// Accepts connections until its listener stops that. A connection that was accepted gets its slot and its thread even
    /// then.
    pub async fn run(self, socket: BoundSocket) {
        let address = socket.address();
        let listening = match Listening::new(socket) {
            Ok(listening) => listening,
            Err(e) => return log::error!("{address}: can't accept connections: {e}"),
        };
        let mut turn = 0;
        while !self.listener.has_stopped_accepting() {
            let accepted = tokio::select! {
                biased;
                () = self.listener.until_stopped() => continue,
                accepted = listening.accept() => accepted,
            };
            match accepted {
                Ok((socket, peer)) => self.hand_over(socket, peer, &mut turn).await,
                Err(e) if is_of_one_connection(&e) => {}
                Err(e) => {
                    self.listener.warn(|| format!("{address}: can't accept connections: {e}"));
                    tokio::time::sleep(ERROR_PAUSE).await;
                }
            }
        }
        if !self.listener.leaves_queue() {
            self.empty_queue(&listening, turn).await;
        }
    }

    /// Accepts what waits in the queue of a socket that nobody has after this listener.
    async fn empty_queue(&self, listening: &Listening, mut turn: usize) {
        for _ in 0..BACKLOG {
            match listening.accept_now() {
                Ok((socket, peer)) => self.hand_over(socket, peer, &mut turn).await,
                Err(e) if is_of_one_connection(&e) => {}
                Err(_) => return,
            }
        }
    }

    async fn hand_over(&self, socket: OwnedFd, peer: Option<SocketAddr>, turn: &mut usize) {
        let slot = self.connections.admit(&self.listener).await;
        let mut accepted = Accepted { socket, peer, slot };
        // A thread that is busy with a slow request does not keep others waiting.
        for _ in 0..self.threads.len() {
            match self.next_thread(turn).try_send(accepted) {
                Ok(()) => return,
                Err(TrySendError::Full(returned) | TrySendError::Closed(returned)) => {
                    accepted = returned;
                }
            }
        }
        // If the server has ended, so has the connection.
        let _ = self.next_thread(turn).send(accepted).await;
    }

    fn next_thread(&self, turn: &mut usize) -> &mpsc::Sender<Accepted> {
        *turn = (*turn + 1) % self.threads.len();
        &self.threads[*turn]
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

    /// Accepts a connection that waits already.
    fn accept_now(&self) -> io::Result<(OwnedFd, Option<SocketAddr>)> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        match self {
            Self::Tcp(tcp) => {
                let (socket, peer) = acceptfrom_with(tcp, flags)?;
                let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok());
                // Without an address it would count as a unix socket.
                let peer = peer.ok_or(io::ErrorKind::NotConnected)?;
                Ok((socket, Some(peer)))
            }
            Self::Unix(unix) => Ok((acceptfrom_with(unix, flags)?.0, None)),
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
