//! Accepts the connections of one listener, and ends without losing one.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
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

/// How long a socket that closes waits for connections that are being made.
const HANDSHAKE_TIME: Duration = Duration::from_millis(5);

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
            listening.ignore_new();
            self.empty_queue(&listening, &mut turn).await;
            // A connection that was being made has been made by now, unless it is from far away.
            tokio::time::sleep(HANDSHAKE_TIME).await;
            self.empty_queue(&listening, &mut turn).await;
        }
    }

    /// Accepts what waits in the queue of a socket that nobody has after this listener.
    async fn empty_queue(&self, listening: &Listening, turn: &mut usize) {
        for _ in 0..BACKLOG {
            match listening.accept_now() {
                Ok((socket, peer)) => self.hand_over(socket, peer, turn).await,
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

    /// Lets the system drop requests for new connections. Their clients repeat them after a second, and find another listener
    /// or none. Without that, a connection that is made right before the socket closes is reset.
    fn ignore_new(&self) {
        if let Self::Tcp(tcp) = self
            && let Err(e) = ignore_syn(tcp)
        {
            log::debug!("connections may be reset while a listener closes: {e}");
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

/// Attaches a filter that drops segments with the flag SYN (bpf(2), socket(7)). It sees the header of TCP first.
fn ignore_syn(tcp: &TcpListener) -> io::Result<()> {
    const FLAGS: u32 = 13;
    const SYN: u32 = 2;
    let instruction = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    let mut program = [
        instruction(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, 0, 0, FLAGS),
        instruction(libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K, 0, 1, SYN),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, u32::MAX),
    ];
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    let length = size_of::<libc::sock_fprog>() as libc::socklen_t;
    // SAFETY: the descriptor is open, and the kernel copies the program, which lives until the call returns.
    let attached = unsafe {
        libc::setsockopt(
            tcp.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const filter).cast(),
            length,
        )
    };
    if attached == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
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
