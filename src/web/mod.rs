//! The front: sockets, what intake knows, and the way out.
//!
//! `intake` takes a request, the other rooms decide about it, `lane` brings it to the writer. The
//! admin listener so far answers `/healthz` and `/readyz` alone.

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
use crate::config::{Config, Listen, Secrets};
use crate::domain::SourceId;
use crate::expression::EvaluatorPool;
use crate::redact::Redactor;
use crate::store::deferrals::Deferrals;
use crate::store::handle::{Health, WriterHandle};
use crate::store::handshakes::HandshakeRecord;
use crate::store::registry::Registry;
use crate::store::rejections::RejectionRow;

pub mod body;
pub mod body_memory;
pub mod check_pool;
pub mod client_ip;
pub mod connection;
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
use server::{Kind, serve};

/// Threads that take requests. One more than one keeps a slow connection from holding others up;
/// more take time from the writer on small machines.
const INTAKE_THREADS: usize = 2;

/// The admin listener's own connections: strangers at intake take none of them.
pub const ADMIN_CONNECTIONS_MAX: usize = 64;

/// New connections beyond the limit that are accepted and wait for a place, with the admin listener's.
pub const SPARE_CONNECTIONS: usize = 2 * (INTAKE_THREADS + 1);

/// When intake ends, requests that are on their way get so long at most.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(500);

/// Intake has ended when no request was there for so long: one may sit in a socket unread.
const DRAIN_IDLE: Duration = Duration::from_millis(40);

/// What all intake threads share.
pub struct IntakeState {
    pub settings: ArcSwap<IntakeConfig>,
    pub writer: WriterHandle,
    pub disk_low: Arc<AtomicBool>,
    pub closing: AtomicBool,
    /// Memory for the bodies of requests.
    pub budget: body_memory::Budget,
    streaks: rejection_streak::RejectionStreaks,
    windows: rate_limiter::Windows,
    pub ledger: rejection_log::RejectionLog,
    /// Where expressions are asked that can't be answered in place.
    pub expressions: EvaluatorPool,
    /// Sources whose newer events wait for earlier ones.
    pub deferrals: Arc<Deferrals>,
    pub handshakes: handshake_log::HandshakeLog,
    /// Where large requests are checked.
    pub checks: check_pool::CheckPool,
}

impl IntakeState {
    pub fn new(
        writer: WriterHandle,
        config: &Config,
        registry: &Registry,
        secrets: (&Secrets, &Arc<Redactor>),
        counts: QueueCounters,
        expressions: EvaluatorPool,
        deferrals: Arc<Deferrals>,
    ) -> Self {
        let streaks = rejection_streak::RejectionStreaks::default();
        let windows = rate_limiter::Windows::default();
        let settings = IntakeConfig::new(config, registry, secrets, &counts, &streaks, &windows);
        Self {
            settings: ArcSwap::from_pointee(settings),
            streaks,
            windows,
            writer,
            disk_low: Arc::default(),
            closing: AtomicBool::new(false),
            budget: body_memory::Budget::default(),
            ledger: rejection_log::RejectionLog::default(),
            expressions,
            deferrals,
            handshakes: handshake_log::HandshakeLog::default(),
            checks: check_pool::CheckPool::default(),
        }
    }

    /// Takes over a configuration; requests on their way end by the old one.
    pub fn configure(
        &self,
        config: &Config,
        registry: &Registry,
        secrets: (&Secrets, &Arc<Redactor>),
        counts: QueueCounters,
    ) {
        let (streaks, windows) = (&self.streaks, &self.windows);
        let settings = IntakeConfig::new(config, registry, secrets, &counts, streaks, windows);
        self.settings.store(Arc::new(settings));
    }

    /// Why nothing can be accepted now, if so. While intake closes it still takes what is there.
    pub fn unavailable_reason(&self) -> Option<&'static str> {
        if self.disk_low.load(Ordering::Relaxed) {
            Some("disk low")
        } else {
            match self.writer.health.get() {
                Health::Healthy => None,
                Health::Blocked | Health::Broken => Some("the trail can't be written"),
            }
        }
    }

    /// What was refused since the last time.
    pub fn drain_rejections(&self) -> Vec<RejectionRow> {
        self.ledger.drain(clock::wall_ms())
    }

    /// Sources that had so many refusals in a row since the last time, and what was said last.
    pub fn drain_rejecting_sources(&self) -> Vec<(SourceId, String)> {
        let settings = self.settings.load();
        let told = |gated: &SourceRuntime| Some((gated.id, gated.streak.take_alert()?));
        settings.sources.iter().filter_map(told).collect()
    }

    /// What handshakes were answered since the last time.
    pub fn drain_handshakes(&self) -> Vec<HandshakeRecord> {
        self.handshakes.drain(clock::wall_ms())
    }
}

/// A bound socket.
pub enum BoundSocket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl BoundSocket {
    /// Another descriptor of the same socket.
    fn try_clone(&self) -> std::io::Result<Self> {
        match self {
            Self::Tcp(tcp) => tcp.try_clone().map(Self::Tcp),
            Self::Unix(unix) => unix.try_clone().map(Self::Unix),
        }
    }
}

/// Bound, not yet listened on.
pub struct Sockets {
    intake: Vec<BoundSocket>,
    admin: Vec<BoundSocket>,
}

impl Sockets {
    /// Other descriptors of the same sockets.
    ///
    /// # Errors
    /// There are no more descriptors.
    pub fn try_clone(&self) -> std::io::Result<Self> {
        let clone = |sockets: &[BoundSocket]| -> std::io::Result<Vec<BoundSocket>> {
            sockets.iter().map(BoundSocket::try_clone).collect()
        };
        Ok(Self { intake: clone(&self.intake)?, admin: clone(&self.admin)? })
    }
}

/// Binds what the configuration names, or takes what systemd hands over.
///
/// # Errors
/// An address that can't be had, named.
pub fn bind(config: &Config) -> anyhow::Result<Sockets> {
    let admin = config.admin.listen.iter().map(bind_one).collect::<anyhow::Result<_>>()?;
    let handed: Vec<_> = sd_notify::listen_fds().map(Iterator::collect).unwrap_or_default();
    if handed.is_empty() {
        let intake = config.server.listen.iter().map(bind_one).collect::<anyhow::Result<_>>()?;
        return Ok(Sockets { intake, admin });
    }
    let taken = |fd: i32| {
        // SAFETY: systemd hands these descriptors over to this process alone, each is taken once.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC)?;
        Ok(match rustix::net::sockopt::socket_domain(&fd)? {
            rustix::net::AddressFamily::UNIX => BoundSocket::Unix(UnixListener::from(fd)),
            _ => BoundSocket::Tcp(TcpListener::from(fd)),
        })
    };
    let intake = handed.into_iter().map(taken).collect::<anyhow::Result<_>>()?;
    Ok(Sockets { intake, admin })
}

fn bind_one(listen: &Listen) -> anyhow::Result<BoundSocket> {
    match listen {
        Listen::Tcp(address) => bind_tcp(*address)
            .map(BoundSocket::Tcp)
            .with_context(|| format!("can't listen on {address}: free it, or name another")),
        Listen::Unix(path) => bind_unix(path)
            .map(BoundSocket::Unix)
            .with_context(|| format!("can't listen on unix:{}", path.display())),
    }
}

fn bind_unix(path: &Path) -> anyhow::Result<UnixListener> {
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => remove_dead_socket(path)?,
        Ok(_) => anyhow::bail!(
            "something that is no socket is there, and it stays: remove it, or name another path"
        ),
        Err(e) if e.kind() == ErrorKind::NotFound => {}
        Err(e) => return Err(e.into()),
    }
    Ok(UnixListener::bind(path)?)
}

/// Removes a socket on which nobody listens: an ended server left it.
fn remove_dead_socket(path: &Path) -> anyhow::Result<()> {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    match rustix::net::connect(&socket, &SocketAddrUnix::new(path)?) {
        Err(Errno::CONNREFUSED) => Ok(std::fs::remove_file(path)?),
        // It ended meanwhile, and took its socket along.
        Err(Errno::NOENT) => Ok(()),
        // A server whose queue is full (AGAIN), or one that speaks otherwise (PROTOTYPE).
        Ok(()) | Err(Errno::AGAIN | Errno::PROTOTYPE) => {
            anyhow::bail!("another program listens there: stop it, or name another path")
        }
        Err(e) => anyhow::bail!(
            "a socket is there that this user can't look at ({e}): remove it, or name another path"
        ),
    }
}

/// With a backlog that holds a burst.
fn bind_tcp(address: std::net::SocketAddr) -> anyhow::Result<TcpListener> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt};
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    // A restart takes the port over from connections that are still closing.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    bind(&socket, &address)?;
    listen(&socket, 2048)?;
    Ok(TcpListener::from(socket))
}

/// Servers that are running.
pub struct RunningServers {
    servers: Vec<server::Running>,
    /// Where intake listens, as a sender would write it.
    pub intake: Vec<String>,
    pub admin: Vec<String>,
}

/// Starts to answer. Intake has at most so many connections.
///
/// # Errors
/// A thread can't be made.
pub fn listen(
    sockets: Sockets,
    connections_max: usize,
    gate: &Arc<IntakeState>,
) -> anyhow::Result<RunningServers> {
    let intake = sockets.intake.iter().map(display_address).collect();
    let admin: Vec<String> = sockets.admin.iter().map(display_address).collect();
    let mut servers =
        vec![serve(Kind::Intake, sockets.intake, INTAKE_THREADS, connections_max, gate)?];
    if !admin.is_empty() {
        servers.push(serve(Kind::Admin, sockets.admin, 1, ADMIN_CONNECTIONS_MAX, gate)?);
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
    /// Requests that are there are answered, each the last on its connection; then all ends.
    pub fn stop(self, gate: &IntakeState) {
        gate.closing.store(true, Ordering::SeqCst);
        let began = Instant::now();
        let mut busy_at = began;
        while busy_at.elapsed() < DRAIN_IDLE && began.elapsed() < DRAIN_TIMEOUT {
            std::thread::sleep(Duration::from_millis(2));
            if self.servers.iter().any(|server| server.connections.is_busy()) {
                busy_at = Instant::now();
            }
        }
        self.servers.into_iter().for_each(server::Running::stop);
    }
}

/// What is said at the start: where it listens and what to try, the command last on its line.
pub fn startup_banner(config: &Config, listening: &RunningServers) -> Vec<String> {
    let mut lines = Vec::new();
    for at in &listening.intake {
        lines.push(format!("listening for webhooks on {at}"));
    }
    for at in &listening.admin {
        lines.push(format!("listening for /healthz and /readyz on {at}"));
    }
    lines.push(format!("the trail is {}", config.store.path.display()));
    let open = config.sources.iter().find(|source| source.verify.scheme == "none");
    let http = listening.intake.iter().find(|at| at.starts_with("http"));
    if let (Some(source), Some(at)) = (open, http) {
        let body = r#"{"form_completion_id":"1","submission_values":{"first_name":["Ada"]}}"#;
        let url = format!("{at}{}", source.path);
        lines.push(format!(
            "to try it: curl -H 'Content-Type: application/json' -d '{body}' '{url}'"
        ));
    }
    lines
}
