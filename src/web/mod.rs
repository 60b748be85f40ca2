//! The HTTP side: listeners, the state that intake threads share, and shutdown.
//!
//! `intake` handles a request, `verify` and the other modules check it, and `writer_client` sends
//! the event to the writer. The admin listener serves only `/healthz` and `/readyz` so far.

use std::io::ErrorKind;
use std::net::TcpListener;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use arc_swap::ArcSwap;
use rustix::io::Errno;

use crate::clock;
use crate::config::{Accept, Config, Listen, Secrets, Source};
use crate::domain::SourceId;
use crate::expression::EvaluatorPool;
use crate::redact::Redactor;
use crate::store::deferrals::Deferrals;
use crate::store::handle::{Health, WriterHandle};
use crate::store::handshakes::HandshakeRecord;
use crate::store::registry::Registry;
use crate::store::rejections::RejectionRow;
use crate::verify::Scheme;

pub mod body;
pub mod body_memory;
pub mod check_pool;
pub mod client_ip;
pub mod connection;
pub mod connection_stream;
pub mod connections;
pub mod content_type;
pub mod handshake;
pub mod handshake_log;
pub mod health;
pub mod intake;
pub mod intake_config;
pub mod rate_limiter;
mod received_request;
pub mod rejection;
pub mod rejection_log;
pub mod rejection_streak;
pub mod response;
pub mod route;
pub mod server;
pub mod standby;
pub mod stored_request;
pub mod writer_client;

pub use intake_config::{IntakeConfig, QueueCounters, SourceRuntime, sources_with_queue_limit};
use server::{ListenerKind, spawn_server};

/// Number of intake threads. A second one handles requests while a slow check occupies the first.
/// More would take CPU time from the writer on small machines.
const INTAKE_THREADS: usize = 2;

/// Maximum number of connections of the admin listener. Clients of intake cannot take these slots.
pub const MAX_ADMIN_CONNECTIONS: usize = 64;

/// New connections beyond the limit that are accepted and wait for a slot, those of the admin
/// listener included.
pub const SPARE_CONNECTIONS: usize = 2 * (INTAKE_THREADS + 1);

/// Maximum time for requests in flight when intake shuts down.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(500);

/// Intake is idle when no request was in flight for this time: one may still be unread in a socket.
const DRAIN_IDLE: Duration = Duration::from_millis(40);

/// The state that all intake threads share.
pub struct IntakeState {
    pub config: ArcSwap<IntakeConfig>,
    pub writer: WriterHandle,
    pub is_disk_low: Arc<AtomicBool>,
    pub is_closing: AtomicBool,
    /// The memory budget of request bodies.
    pub body_budget: body_memory::BodyBudget,
    rejection_streaks: rejection_streak::RejectionStreaks,
    rate_windows: rate_limiter::RateWindows,
    pub rejection_log: rejection_log::RejectionLog,
    /// Evaluates expressions that cannot be evaluated inline.
    pub expressions: EvaluatorPool,
    /// Sources that have deferred events, whose newer events are deferred too.
    pub deferrals: Arc<Deferrals>,
    pub handshake_log: handshake_log::HandshakeLog,
    /// Checks large requests.
    pub check_pool: check_pool::CheckPool,
}

impl IntakeState {
    /// Makes the state, with the first configuration.
    pub fn new(
        writer: WriterHandle,
        config: &Config,
        registry: &Registry,
        secrets: (&Secrets, &Arc<Redactor>),
        queue_counters: QueueCounters,
        expressions: EvaluatorPool,
        deferrals: Arc<Deferrals>,
    ) -> Self {
        let rejection_streaks = rejection_streak::RejectionStreaks::default();
        let rate_windows = rate_limiter::RateWindows::default();
        let intake_config = IntakeConfig::new(
            config,
            registry,
            secrets,
            &queue_counters,
            &rejection_streaks,
            &rate_windows,
        );
        Self {
            config: ArcSwap::from_pointee(intake_config),
            rejection_streaks,
            rate_windows,
            writer,
            is_disk_low: Arc::default(),
            is_closing: AtomicBool::new(false),
            body_budget: body_memory::BodyBudget::default(),
            rejection_log: rejection_log::RejectionLog::default(),
            expressions,
            deferrals,
            handshake_log: handshake_log::HandshakeLog::default(),
            check_pool: check_pool::CheckPool::default(),
        }
    }

    /// Applies a new configuration. Requests in flight finish with the old one.
    pub fn configure(
        &self,
        config: &Config,
        registry: &Registry,
        secrets: (&Secrets, &Arc<Redactor>),
        queue_counters: QueueCounters,
    ) {
        let (rejection_streaks, rate_windows) = (&self.rejection_streaks, &self.rate_windows);
        let intake_config = IntakeConfig::new(
            config,
            registry,
            secrets,
            &queue_counters,
            rejection_streaks,
            rate_windows,
        );
        self.config.store(Arc::new(intake_config));
    }

    /// Returns why no event can be accepted now, if so. During shutdown intake still accepts what
    /// arrives.
    pub fn unavailable_reason(&self) -> Option<&'static str> {
        if self.is_disk_low.load(Ordering::Relaxed) {
            Some("disk low")
        } else {
            match self.writer.health.get() {
                Health::Healthy => None,
                Health::Blocked | Health::Broken => Some("the database cannot be written"),
            }
        }
    }

    /// Returns the rejections since the last call.
    pub fn drain_rejections(&self) -> Vec<RejectionRow> {
        self.rejection_log.drain(clock::wall_ms())
    }

    /// Returns the sources with many consecutive rejections since the last call, with the last
    /// reason.
    pub fn drain_rejecting_sources(&self) -> Vec<(SourceId, String)> {
        let config = self.config.load();
        let alert =
            |runtime: &SourceRuntime| Some((runtime.id, runtime.rejection_streak.take_alert()?));
        config.sources.iter().filter_map(alert).collect()
    }

    /// Returns the handshakes since the last call.
    pub fn drain_handshakes(&self) -> Vec<HandshakeRecord> {
        self.handshake_log.drain(clock::wall_ms())
    }
}

/// A listener before its server starts: connections already wait in its queue.
pub enum BoundSocket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl BoundSocket {
    /// Duplicates the descriptor of the socket.
    fn try_clone(&self) -> std::io::Result<Self> {
        match self {
            Self::Tcp(tcp) => tcp.try_clone().map(Self::Tcp),
            Self::Unix(unix) => unix.try_clone().map(Self::Unix),
        }
    }
}

/// Sockets that are bound, before the servers run on them.
pub struct Sockets {
    intake: Vec<BoundSocket>,
    admin: Vec<BoundSocket>,
}

impl Sockets {
    /// Duplicates the descriptors of the sockets.
    ///
    /// # Errors
    /// The process has no descriptors left.
    pub fn try_clone(&self) -> std::io::Result<Self> {
        let clone_all = |sockets: &[BoundSocket]| -> std::io::Result<Vec<BoundSocket>> {
            sockets.iter().map(BoundSocket::try_clone).collect()
        };
        Ok(Self { intake: clone_all(&self.intake)?, admin: clone_all(&self.admin)? })
    }
}

/// Binds the configured addresses, or takes the sockets that systemd passes.
///
/// # Errors
/// An address that is not available, with the reason.
pub fn bind(config: &Config) -> anyhow::Result<Sockets> {
    let admin = config.admin.listen.iter().map(bind_one).collect::<anyhow::Result<_>>()?;
    let passed: Vec<_> = sd_notify::listen_fds().map(Iterator::collect).unwrap_or_default();
    if passed.is_empty() {
        let intake = config.server.listen.iter().map(bind_one).collect::<anyhow::Result<_>>()?;
        return Ok(Sockets { intake, admin });
    }
    let take_socket = |fd: i32| {
        // SAFETY: systemd passes these descriptors to this process only, and each is taken once.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC)?;
        Ok(match rustix::net::sockopt::socket_domain(&fd)? {
            rustix::net::AddressFamily::UNIX => BoundSocket::Unix(UnixListener::from(fd)),
            _ => BoundSocket::Tcp(TcpListener::from(fd)),
        })
    };
    let intake = passed.into_iter().map(take_socket).collect::<anyhow::Result<_>>()?;
    Ok(Sockets { intake, admin })
}

fn bind_one(listen: &Listen) -> anyhow::Result<BoundSocket> {
    match listen {
        Listen::Tcp(address) => bind_tcp(*address).map(BoundSocket::Tcp).with_context(|| {
            format!("can't listen on {address}: free it, or configure another address")
        }),
        Listen::Unix(path) => bind_unix(path)
            .map(BoundSocket::Unix)
            .with_context(|| format!("can't listen on unix:{}", path.display())),
    }
}

fn bind_unix(path: &Path) -> anyhow::Result<UnixListener> {
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => remove_dead_socket(path)?,
        Ok(_) => anyhow::bail!(
            "a file that is not a socket has this path: remove it, or configure another path"
        ),
        Err(e) if e.kind() == ErrorKind::NotFound => {}
        Err(e) => return Err(e.into()),
    }
    Ok(UnixListener::bind(path)?)
}

/// Removes the socket file of a server that has ended, on which no process listens.
fn remove_dead_socket(path: &Path) -> anyhow::Result<()> {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    match rustix::net::connect(&socket, &SocketAddrUnix::new(path)?) {
        Err(Errno::CONNREFUSED) => Ok(std::fs::remove_file(path)?),
        // The server ended in the meantime and removed its socket.
        Err(Errno::NOENT) => Ok(()),
        // A server whose queue is full (AGAIN), or a socket of another type (PROTOTYPE).
        Ok(()) | Err(Errno::AGAIN | Errno::PROTOTYPE) => {
            anyhow::bail!("another program listens there: stop it, or configure another path")
        }
        Err(e) => anyhow::bail!(
            "this user has no access to the socket at this path ({e}): remove it, or configure \
             another path"
        ),
    }
}

/// Binds a TCP socket with a backlog that holds a burst.
fn bind_tcp(address: std::net::SocketAddr) -> anyhow::Result<TcpListener> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt};
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    // After a restart, connections of the old server may still be closing on the port.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    bind(&socket, &address)?;
    listen(&socket, 2048)?;
    Ok(TcpListener::from(socket))
}

/// The servers of all listeners, and where they listen.
pub struct RunningServers {
    servers: Vec<server::RunningServer>,
    /// The addresses of intake as a sender writes them.
    pub intake: Vec<String>,
    pub admin: Vec<String>,
}

/// Starts the servers. Intake accepts at most `max_connections` connections.
///
/// # Errors
/// A thread cannot be created.
pub fn listen(
    sockets: Sockets,
    max_connections: usize,
    state: &Arc<IntakeState>,
) -> anyhow::Result<RunningServers> {
    let intake = sockets.intake.iter().map(display_address).collect();
    let admin: Vec<String> = sockets.admin.iter().map(display_address).collect();
    let mut servers = vec![spawn_server(
        ListenerKind::Intake,
        sockets.intake,
        INTAKE_THREADS,
        max_connections,
        state,
    )?];
    if !admin.is_empty() {
        servers.push(spawn_server(
            ListenerKind::Admin,
            sockets.admin,
            1,
            MAX_ADMIN_CONNECTIONS,
            state,
        )?);
    }
    Ok(RunningServers { servers, intake, admin })
}

fn display_address(socket: &BoundSocket) -> String {
    match socket {
        BoundSocket::Tcp(tcp) => {
            tcp.local_addr().map_or_else(|_| "?".to_owned(), |address| format!("http://{address}"))
        }
        BoundSocket::Unix(unix) => {
            let path = unix.local_addr().ok();
            let path = path.as_ref().and_then(|address| address.as_pathname());
            format!("unix:{}", path.map_or_else(|| "?".into(), |path| path.to_string_lossy()))
        }
    }
}

impl RunningServers {
    /// Responds to the requests in flight, each the last on its connection, and stops the servers.
    pub fn stop(self, state: &IntakeState) {
        state.is_closing.store(true, Ordering::SeqCst);
        let started_at = Instant::now();
        let mut busy_at = started_at;
        while busy_at.elapsed() < DRAIN_IDLE && started_at.elapsed() < DRAIN_TIMEOUT {
            std::thread::sleep(Duration::from_millis(2));
            if self.servers.iter().any(|server| server.connections.is_busy()) {
                busy_at = Instant::now();
            }
        }
        self.servers.into_iter().for_each(server::RunningServer::stop);
    }
}

/// Returns the lines that are logged at start: the addresses, and a command to try as the end of
/// its line.
pub fn startup_banner(config: &Config, listening: &RunningServers) -> Vec<String> {
    let mut lines = Vec::new();
    for address in &listening.intake {
        lines.push(format!("listening for webhooks on {address}"));
    }
    for address in &listening.admin {
        lines.push(format!("listening for /healthz and /readyz on {address}"));
    }
    lines.push(format!("the database is {}", config.store.path.display()));
    let is_open = |source: &&Source| {
        source.verify.scheme == Scheme::None && source.methods.iter().any(|method| method == "POST")
    };
    let unverified = config.sources.iter().find(is_open);
    let http = listening.intake.iter().find(|address| address.starts_with("http"));
    if let (Some(source), Some(address)) = (unverified, http) {
        let (content_type, body) = match source.accept {
            Accept::Any | Accept::Json => ("application/json", r#"{"form_id":"1","name":"Ada"}"#),
            Accept::Form => ("application/x-www-form-urlencoded", "form_id=1&name=Ada"),
        };
        let url = format!("{address}{}", source.path);
        lines
            .push(format!("to try it: curl -H 'Content-Type: {content_type}' -d '{body}' '{url}'"));
    }
    lines
}
