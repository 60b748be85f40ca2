//! The sockets of all listeners: those that the configuration names, that systemd passes, or that an earlier process has
//! stored.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;

use rustix::net::{AddressFamily, sockopt};

use super::sockets::{BoundSocket, bind_admin, bind_one, display_listen};
use crate::config::{Config, Listen, Listener};
use crate::notify;

/// A socket and how it is served.
pub struct BoundListener {
    pub listener: Listener,
    pub socket: BoundSocket,
}

impl BoundListener {
    /// Duplicates the descriptor of the socket.
    ///
    /// # Errors
    /// The process has no descriptors left.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { listener: self.listener.clone(), socket: self.socket.try_clone()? })
    }
}

/// The sockets of all listeners.
pub struct Sockets {
    pub intake: Vec<BoundListener>,
    pub admin: Vec<BoundListener>,
    /// Whether a socket unit of systemd passed those of intake, in place of `server.listen`.
    pub is_passed: bool,
}

/// Binds the configured addresses, or takes the sockets that systemd passes: those of a socket unit, and those that an
/// earlier process has stored.
///
/// # Errors
/// An address that is not available, with the reason.
pub fn bind(config: &Config) -> anyhow::Result<Sockets> {
    let (stored, passed): (Vec<_>, Vec<_>) =
        inherit()?.into_iter().partition(|(name, _)| name.starts_with(STORED_PREFIX));
    let of_configuration =
        |(_, socket)| BoundListener { listener: listener_of(&socket, config), socket };
    let mut stored: Vec<BoundListener> = stored.into_iter().map(of_configuration).collect();
    let is_passed = !passed.is_empty();
    let intake = passed.into_iter().map(of_configuration).collect();
    let mut sockets = Sockets { intake, admin: Vec::new(), is_passed };
    sockets.bind_configured(config, &mut stored)?;
    // What is left was configured before.
    stored.iter().for_each(|bound| notify::remove_descriptor(&stored_name(&bound.socket)));
    sockets.store();
    Ok(sockets)
}

impl Sockets {
    /// Binds what `config` needs. Takes sockets for the same address from `open`.
    fn bind_configured(
        &mut self,
        config: &Config,
        open: &mut Vec<BoundListener>,
    ) -> anyhow::Result<()> {
        let admin = config.admin.listen.iter().cloned().map(Listener::plain).map(|of| (of, true));
        let intake = config.server.listen.iter().filter(|_| !self.is_passed).cloned();
        for (listener, is_admin) in admin.chain(intake.map(|of| (of, false))) {
            let address = &listener.address;
            let is_open = |bound: &BoundListener| {
                // Port 0 stays the port that it has become.
                let is_tcp = matches!(address, Listen::Tcp(_));
                (is_tcp && bound.listener.address == *address) || is_at(&bound.socket, address)
            };
            let socket = match open.iter().position(is_open) {
                Some(index) => open.swap_remove(index).socket,
                None => {
                    let others: Vec<&BoundSocket> =
                        open.iter().map(|bound| &bound.socket).collect();
                    let bind = if is_admin { bind_admin } else { bind_one };
                    bind(address, &others)?
                }
            };
            let listeners = if is_admin { &mut self.admin } else { &mut self.intake };
            listeners.push(BoundListener { listener, socket });
        }
        Ok(())
    }

    /// Returns the sockets for a new configuration: those that are open, and new ones.
    ///
    /// # Errors
    /// An address that is not available, with the reason. Nothing has changed then.
    pub fn rebind(&self, config: &Config) -> anyhow::Result<Self> {
        self.check_moves(config)?;
        let mut next = Self { intake: Vec::new(), admin: Vec::new(), is_passed: self.is_passed };
        if self.is_passed {
            for bound in &self.intake {
                let socket = bound.socket.try_clone()?;
                next.intake.push(BoundListener { listener: listener_of(&socket, config), socket });
            }
        }
        let sockets = self.all().map(BoundListener::try_clone);
        let mut open = sockets.collect::<io::Result<Vec<_>>>()?;
        if let Err(error) = next.bind_configured(config, &mut open) {
            next.remove_files_unlike(self);
            return Err(error);
        }
        Ok(next)
    }

    /// Rejects an address that moves from one server to the other: both would accept its connections for a moment.
    fn check_moves(&self, config: &Config) -> anyhow::Result<()> {
        let to_admin =
            config.admin.listen.iter().map(|address| (address, &self.intake, "admin.listen"));
        let intake = config.server.listen.iter().filter(|_| !self.is_passed);
        let to_intake = intake.map(|listener| (&listener.address, &self.admin, "server.listen"));
        for (address, others, key) in to_admin.chain(to_intake) {
            if others.iter().any(|bound| is_at(&bound.socket, address)) {
                anyhow::bail!(
                    "{key}: {} belonged to the other listener: a reload can't move it between server.listen and \
                     admin.listen: restart",
                    display_listen(address)
                );
            }
        }
        Ok(())
    }

    /// Removes the files of unix sockets that `other` does not have.
    pub fn remove_files_unlike(&self, other: &Self) {
        let known: Vec<String> = other.all().map(|bound| bound.socket.address()).collect();
        for bound in self.all().filter(|bound| !known.contains(&bound.socket.address())) {
            if let Listen::Unix(path) = &bound.listener.address {
                let _ = std::fs::remove_file(path);
            }
        }
    }

    /// Duplicates the descriptors of the sockets.
    ///
    /// # Errors
    /// The process has no descriptors left.
    pub fn try_clone(&self) -> io::Result<Self> {
        let clone_all = |bound: &[BoundListener]| -> io::Result<Vec<BoundListener>> {
            bound.iter().map(BoundListener::try_clone).collect()
        };
        let (intake, admin) = (clone_all(&self.intake)?, clone_all(&self.admin)?);
        Ok(Self { intake, admin, is_passed: self.is_passed })
    }

    fn all(&self) -> impl Iterator<Item = &BoundListener> {
        self.admin.iter().chain(&self.intake)
    }

    /// Stores the sockets with systemd, if it runs the server: connections then wait during a restart.
    pub fn store(&self) {
        let own = self.admin.iter().chain(self.intake.iter().filter(|_| !self.is_passed));
        for socket in own.map(|bound| &bound.socket) {
            notify::store_descriptor(&stored_name(socket), socket.as_fd());
        }
    }

    /// Removes from what systemd stores the sockets that `next` does not have. Call it before `store`, because another
    /// socket of the same address has the same name.
    pub fn remove_stored_unlike(&self, next: &Self) {
        let kept: Vec<Option<u64>> = next.all().map(|bound| bound.socket.number()).collect();
        for bound in self.all().filter(|bound| !kept.contains(&bound.socket.number())) {
            notify::remove_descriptor(&stored_name(&bound.socket));
        }
    }

    /// Whether systemd keeps the sockets when this process ends.
    pub fn are_kept(&self) -> bool {
        self.is_passed || notify::is_managed()
    }
}

/// How a socket that systemd passed is served: as `server.listen` says of its address, if it has it.
fn listener_of(socket: &BoundSocket, config: &Config) -> Listener {
    let listen = &config.server.listen;
    if let Some(listener) = listen.iter().find(|listener| is_at(socket, &listener.address)) {
        return listener.clone();
    }
    match socket {
        BoundSocket::Tcp(tcp) => {
            let unknown = SocketAddr::from(([0, 0, 0, 0], 0));
            let address = Listen::Tcp(tcp.local_addr().unwrap_or(unknown));
            Listener { tls: config.server.tls.is_some(), ..Listener::plain(address) }
        }
        BoundSocket::Unix(unix) => {
            let path = unix.local_addr().ok();
            let path = path.and_then(|address| address.as_pathname().map(Path::to_owned));
            Listener::plain(Listen::Unix(path.unwrap_or_default()))
        }
    }
}

/// Whether a socket listens on an address.
fn is_at(socket: &BoundSocket, address: &Listen) -> bool {
    match (socket, address) {
        (BoundSocket::Tcp(tcp), Listen::Tcp(address)) => {
            tcp.local_addr().is_ok_and(|local| local == *address)
        }
        // The file may have been removed.
        (BoundSocket::Unix(unix), Listen::Unix(path)) => {
            path.exists()
                && unix.local_addr().is_ok_and(|local| local.as_pathname() == Some(path.as_path()))
        }
        (BoundSocket::Tcp(_), Listen::Unix(_)) | (BoundSocket::Unix(_), Listen::Tcp(_)) => false,
    }
}

/// The start of the names of sockets that this program has stored.
const STORED_PREFIX: &str = "listen=";

/// The name of a stored socket. systemd allows 255 printable characters without a colon (`sd_pid_notify_with_fds(3)`).
fn stored_name(socket: &BoundSocket) -> String {
    let is_allowed = |c: char| c.is_ascii_graphic() && c != ':';
    let address = socket.address();
    let name = address.chars().map(|c| if is_allowed(c) { c } else { '_' });
    STORED_PREFIX.chars().chain(name).collect()
}

/// Takes the sockets that systemd passes, with their names.
fn inherit() -> anyhow::Result<Vec<(String, BoundSocket)>> {
    let passed = sd_notify::listen_fds_with_names().into_iter().flatten();
    let take_socket = |(fd, name): (i32, String)| {
        // SAFETY: systemd passes these descriptors to this process only, and each is taken once.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC)?;
        let socket = match sockopt::socket_domain(&fd)? {
            AddressFamily::UNIX => BoundSocket::Unix(UnixListener::from(fd)),
            _ => BoundSocket::Tcp(TcpListener::from(fd)),
        };
        Ok((name, socket))
    };
    passed.map(take_socket).collect()
}
