//! Binds the socket of an address, and says beforehand whether that is possible.

use std::fmt;
use std::fs::Permissions;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::Path;

use rustix::fs::{Access, AtFlags, CWD, accessat};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind as bind_socket, connect, listen,
    socket_with, sockopt,
};

use super::socket_address;
use crate::config::{Config, Listen};

/// How many connections wait in the queue of a socket: a burst, or those that come during a restart.
pub const BACKLOG: i32 = 2048;

/// A listener before its server starts: connections already wait in its queue.
pub enum BoundSocket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl BoundSocket {
    /// Duplicates the descriptor of the socket.
    ///
    /// # Errors
    /// The process has no descriptors left.
    pub fn try_clone(&self) -> io::Result<Self> {
        match self {
            Self::Tcp(tcp) => tcp.try_clone().map(Self::Tcp),
            Self::Unix(unix) => unix.try_clone().map(Self::Unix),
        }
    }

    /// Returns the number of the socket in the kernel, which duplicates share.
    pub fn number(&self) -> Option<u64> {
        rustix::fs::fstat(self).ok().map(|found| found.st_ino)
    }

    /// Returns the IP address, or `None` for a unix socket.
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Tcp(tcp) => tcp.local_addr().ok().map(|address| address.ip()),
            Self::Unix(_) => None,
        }
    }

    /// Returns the address as a sender writes it: `http://IP:PORT` or `unix:PATH`.
    pub fn address(&self) -> String {
        match self {
            Self::Tcp(tcp) => tcp.local_addr().map_or_else(|_| "?".to_owned(), tcp_address),
            Self::Unix(unix) => {
                let path = unix.local_addr().ok();
                let path = path.as_ref().and_then(|address| address.as_pathname());
                path.map_or_else(|| "unix:?".to_owned(), unix_address)
            }
        }
    }
}

fn tcp_address(address: SocketAddr) -> String {
    format!("http://{address}")
}

fn unix_address(path: &Path) -> String {
    format!("unix:{}", path.display())
}

impl From<BoundSocket> for OwnedFd {
    fn from(socket: BoundSocket) -> Self {
        match socket {
            BoundSocket::Tcp(tcp) => tcp.into(),
            BoundSocket::Unix(unix) => unix.into(),
        }
    }
}

impl AsFd for BoundSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(tcp) => tcp.as_fd(),
            Self::Unix(unix) => unix.as_fd(),
        }
    }
}

/// Why the server cannot listen on an address, with the remedy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenError {
    /// Another program listens there.
    InUse(String),
    /// This user may not listen there; another user may.
    Denied(String),
    Other(String),
}

impl fmt::Display for ListenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::InUse(text) | Self::Denied(text) | Self::Other(text)) = self;
        f.write_str(text)
    }
}

/// Binds an address of the admin listener. The mode of a socket file decides who may connect, so nobody may before it
/// is set.
pub(super) fn bind_admin(address: &Listen, open: &[&BoundSocket]) -> anyhow::Result<BoundSocket> {
    let Listen::Unix(path) = address else { return bind_one(address, open) };
    let bind = || -> Result<UnixListener, ListenError> {
        let other = |e: Errno| ListenError::Other(e.to_string());
        remove_dead_socket(path)?;
        let socket =
            socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
                .map_err(other)?;
        bind_socket(&socket, &SocketAddrUnix::new(path).map_err(other)?).map_err(other)?;
        std::fs::set_permissions(path, Permissions::from_mode(ADMIN_SOCKET_MODE))
            .map_err(|e| ListenError::Other(e.to_string()))?;
        // Until now, a connection is refused.
        listen(&socket, 128).map_err(other)?;
        Ok(UnixListener::from(socket))
    };
    bind()
        .map(BoundSocket::Unix)
        .map_err(|error| anyhow::anyhow!("can't listen on {}: {error}", display_listen(address)))
}

/// The owner and the group of the socket may connect.
const ADMIN_SOCKET_MODE: u32 = 0o660;

pub(super) fn bind_one(address: &Listen, open: &[&BoundSocket]) -> anyhow::Result<BoundSocket> {
    let bound = match address {
        Listen::Tcp(address) => bind_beside(*address, open).map(BoundSocket::Tcp),
        Listen::Unix(path) => bind_unix(path).map(BoundSocket::Unix),
    };
    bound.map_err(|error| anyhow::anyhow!("can't listen on {}: {error}", display_listen(address)))
}

pub(super) fn display_listen(listen: &Listen) -> String {
    match listen {
        Listen::Tcp(address) => address.to_string(),
        Listen::Unix(path) => unix_address(path),
    }
}

/// An address of config.toml on which no server could listen.
pub struct UnavailableAddress {
    /// `server.listen` or `admin.listen`.
    pub key: &'static str,
    /// Its index in that list.
    pub index: usize,
    pub address: String,
    pub error: ListenError,
}

/// Returns the addresses on which no server could listen now. Leaves out `taken`: those of the server that
/// runs with this configuration.
pub fn find_unavailable(config: &Config, taken: &[String]) -> Vec<UnavailableAddress> {
    let taken: Vec<String> = taken.iter().map(|address| socket_address(address)).collect();
    let intake = config.server.listen.iter().map(|listener| listener.address.clone()).collect();
    let keys = [("admin.listen", &config.admin.listen), ("server.listen", &intake)];
    let ports = || keys.iter().flat_map(|(_, list)| list.iter()).filter_map(port);
    let (mut bound, mut unavailable) = (Vec::new(), Vec::new());
    for (key, list) in keys {
        for (index, listen) in list.iter().enumerate() {
            let checked = match listen {
                Listen::Tcp(address) if taken.contains(&tcp_address(*address)) => Ok(()),
                Listen::Unix(path) if taken.contains(&unix_address(path)) => Ok(()),
                Listen::Unix(path) => check_unix(path).map(drop),
                Listen::Tcp(address) => bind_tcp(*address, false).and_then(|socket| {
                    // Two addresses of one port exclude each other only when they listen. Otherwise a
                    // sender that connects now would get no response.
                    let is_shared = ports().filter(|port| *port == address.port()).count() > 1;
                    match is_shared {
                        true => bound.push(listen_tcp(socket, *address)?),
                        false => drop(socket),
                    }
                    Ok(())
                }),
            };
            if let Err(error) = checked {
                let address = display_listen(listen);
                unavailable.push(UnavailableAddress { key, index, address, error });
            }
        }
    }
    unavailable
}

/// The port of a TCP address, unless it is 0, a new one each time.
fn port(listen: &Listen) -> Option<u16> {
    match listen {
        Listen::Tcp(address) => Some(address.port()).filter(|port| *port > 0),
        Listen::Unix(_) => None,
    }
}

fn bind_unix(path: &Path) -> Result<UnixListener, ListenError> {
    remove_dead_socket(path)?;
    UnixListener::bind(path).map_err(|e| ListenError::Other(e.to_string()))
}

/// Removes the socket that an ended server has left at `path`.
fn remove_dead_socket(path: &Path) -> Result<(), ListenError> {
    if check_unix(path)? == UnixPath::DeadSocket {
        std::fs::remove_file(path).map_err(|e| ListenError::Other(e.to_string()))?;
    }
    Ok(())
}

/// The kind of file at the path of a unix socket.
#[derive(Clone, Copy, PartialEq, Eq)]
enum UnixPath {
    Free,
    /// The socket of a server that has ended, on which no process listens.
    DeadSocket,
}

/// Checks whether a server could make its socket at `path`.
fn check_unix(path: &Path) -> Result<UnixPath, ListenError> {
    let found = match std::fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => check_socket(path)?,
        Ok(_) => {
            return Err(ListenError::Other(
                "a file that is not a socket has this path: remove it, or configure another path"
                    .to_owned(),
            ));
        }
        // The folder is checked below.
        Err(_) => UnixPath::Free,
    };
    let folder = path.parent().unwrap_or(Path::new("/"));
    let shown = folder.display();
    match accessat(CWD, folder, Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS) {
        Ok(()) if folder.is_dir() => Ok(found),
        Ok(()) | Err(Errno::NOTDIR) => {
            Err(ListenError::Other(format!("{shown} is not a folder: configure another path")))
        }
        Err(Errno::NOENT) => Err(ListenError::Other(format!(
            "there is no folder {shown}: create it, or configure another path"
        ))),
        Err(e @ (Errno::ACCESS | Errno::PERM)) => Err(ListenError::Denied(format!(
            "this user can't create a file in {shown} ({e}): make it writable, or configure another path"
        ))),
        Err(e) => Err(ListenError::Other(format!("{shown}: {e}"))),
    }
}

/// Checks an existing socket. Connecting tells whether a process listens on it.
fn check_socket(path: &Path) -> Result<UnixPath, ListenError> {
    let other = |e: Errno| ListenError::Other(e.to_string());
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket =
        socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).map_err(other)?;
    match connect(&socket, &SocketAddrUnix::new(path).map_err(other)?) {
        Err(Errno::CONNREFUSED) => Ok(UnixPath::DeadSocket),
        // The server ended in the meantime and removed its socket.
        Err(Errno::NOENT) => Ok(UnixPath::Free),
        // A server whose queue is full (AGAIN), or a socket of another type (PROTOTYPE).
        Ok(()) | Err(Errno::AGAIN | Errno::PROTOTYPE) => Err(ListenError::InUse(
            "another program listens there: stop it, or configure another path".to_owned(),
        )),
        Err(e) => Err(ListenError::Denied(format!(
            "this user has no access to the socket at this path ({e}): remove it, or configure \
             another path"
        ))),
    }
}

/// Binds an address and listens on it. A socket of this process may listen on a wider or narrower address of the same
/// port, and close later.
fn bind_beside(address: SocketAddr, open: &[&BoundSocket]) -> Result<TcpListener, ListenError> {
    let is_beside = |socket: &&BoundSocket| match socket {
        BoundSocket::Tcp(tcp) => tcp.local_addr().is_ok_and(|own| own.port() == address.port()),
        BoundSocket::Unix(_) => false,
    };
    let beside: Vec<&BoundSocket> = open.iter().copied().filter(is_beside).collect();
    // Other programs must not share the port, so this holds only while the socket is made.
    let share = |is_shared: bool| {
        for socket in &beside {
            let _ = sockopt::set_socket_reuseport(socket, is_shared);
        }
    };
    share(true);
    let is_shared = !beside.is_empty();
    let made = bind_tcp(address, is_shared).and_then(|socket| {
        let listening = listen_tcp(socket, address)?;
        if is_shared {
            let _ = sockopt::set_socket_reuseport(&listening, false);
        }
        Ok(listening)
    });
    share(false);
    made
}

/// Binds a TCP socket, which does not listen yet. `is_shared`: a socket of this user may share the address if it allows
/// that too.
fn bind_tcp(address: SocketAddr, is_shared: bool) -> Result<OwnedFd, ListenError> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let bind = || {
        let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        // After a restart, connections of the old server may still be closing on the port.
        sockopt::set_socket_reuseaddr(&socket, true)?;
        if is_shared {
            sockopt::set_socket_reuseport(&socket, true)?;
        }
        bind_socket(&socket, &address)?;
        Ok(socket)
    };
    bind().map_err(|e| tcp_error(address, e))
}

/// Listens with a backlog that holds a burst.
fn listen_tcp(socket: OwnedFd, address: SocketAddr) -> Result<TcpListener, ListenError> {
    listen(&socket, BACKLOG).map_err(|e| tcp_error(address, e))?;
    Ok(TcpListener::from(socket))
}

fn tcp_error(address: SocketAddr, error: Errno) -> ListenError {
    match io::Error::from(error).kind() {
        ErrorKind::AddrInUse => ListenError::InUse(format!(
            "another program listens there, which `ss -ltnp` names: stop it, or configure another \
             address ({error})"
        )),
        ErrorKind::AddrNotAvailable => ListenError::Other(format!(
            "this machine does not have the address {}: configure one that `ip address` lists \
             ({error})",
            address.ip()
        )),
        ErrorKind::PermissionDenied => ListenError::Denied(format!(
            "this user may not use port {}: configure a port from 1024 on, or let systemd pass the \
             socket ({error})",
            address.port()
        )),
        _ => ListenError::Other(format!("configure another address ({error})")),
    }
}
