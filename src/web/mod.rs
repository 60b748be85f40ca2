//! The HTTP side: listeners, the state that intake threads share, and shutdown.
//!
//! `intake` handles a request, `verify` and the other modules check it, and `writer_client` sends
//! the event to the writer. `admin` has the other listener.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::clock;
use crate::config::{Accept, Config, Secrets, Source};
use crate::domain::SourceId;
use crate::expression::EvaluatorPool;
use crate::metrics::{Exporter, UnavailableReason};
use crate::redact::Redactor;
use crate::store::deferrals::Deferrals;
use crate::store::handle::{Health, WriterHandle};
use crate::store::handshakes::HandshakeRecord;
use crate::store::registry::Registry;
use crate::store::rejections::RejectionRow;
use crate::verify::Scheme;

pub mod acceptor;
pub mod body;
pub mod body_memory;
pub mod bound_sockets;
pub mod check_pool;
pub mod client_ip;
pub mod client_subject;
pub mod connection;
pub mod connection_stream;
pub mod connections;
pub mod content_type;
mod event_builder;
pub mod handshake;
pub mod handshake_log;
pub mod health;
pub mod intake;
pub mod intake_config;
pub mod listener;
pub mod message_intake;
pub mod proxy_protocol;
pub mod rate_limiter;
mod received_request;
pub mod rejection;
pub mod rejection_log;
pub mod rejection_streak;
pub mod response;
pub mod route;
pub mod server;
pub mod sockets;
pub mod standby;
pub mod stored_request;
pub mod tls_slot;
pub mod tracking;
pub mod transport;
pub mod writer_client;

pub use bound_sockets::{BoundListener, Sockets, bind};
use connections::TimeLimits;
pub use intake_config::{IntakeConfig, QueueCounters, SourceRuntime, sources_with_queue_limit};
pub use server::HttpServer;
use server::{ServerSettings, intake_app};
pub use sockets::{ListenError, UnavailableAddress, find_unavailable};
pub use tls_slot::TlsSlot;
use transport::TransportSettings;

/// Number of intake threads. A second one handles requests while a slow check occupies the first.
/// More would take CPU time from the writer on small machines.
const INTAKE_THREADS: usize = 2;

/// Maximum time for requests in flight when a server shuts down.
pub const STOP_LIMIT: Duration = Duration::from_millis(500);

/// The parts of a rejected request or message that are recorded, with their secrets.
struct RejectedHead<'a> {
    method: &'a str,
    path: &'a str,
    ip: &'a str,
    bytes: usize,
}

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
    /// Counts what intake does, and responds to scrapes.
    pub exporter: Exporter,
}

impl IntakeState {
    /// Makes the state, with the first configuration.
    pub fn new(
        writer: WriterHandle,
        config: &Config,
        registry: &Registry,
        secrets: (&Secrets, &Arc<Redactor>),
        queue_counters: QueueCounters,
        (expressions, exporter): (EvaluatorPool, Exporter),
        deferrals: Arc<Deferrals>,
    ) -> Self {
        let rejection_streaks = rejection_streak::RejectionStreaks::default();
        let rate_windows = rate_limiter::RateWindows::default();
        let intake_config = IntakeConfig::new(
            config,
            registry,
            secrets,
            &queue_counters,
            (&rejection_streaks, &rate_windows),
            &exporter.metrics,
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
            exporter,
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
        let intake_config = IntakeConfig::new(
            config,
            registry,
            secrets,
            &queue_counters,
            (&self.rejection_streaks, &self.rate_windows),
            &self.exporter.metrics,
        );
        self.config.store(Arc::new(intake_config));
    }

    /// The time limits of connections, in the present configuration.
    pub fn time_limits(&self) -> TimeLimits {
        TimeLimits::of(&self.config.load().server)
    }

    /// Returns why no event can be accepted now, if so. During shutdown intake still accepts what
    /// arrives.
    pub fn unavailable_reason(&self) -> Option<UnavailableReason> {
        if self.is_disk_low.load(Ordering::Relaxed) {
            Some(UnavailableReason::DiskLow)
        } else {
            match self.writer.health.get() {
                Health::Healthy => None,
                Health::Blocked | Health::Broken => Some(UnavailableReason::Database),
            }
        }
    }

    /// Records a rejection, without the secrets that `redactor` and the source know.
    fn record_rejection(
        &self,
        rejection: &rejection::Rejection,
        (runtime, redactor): (Option<&SourceRuntime>, &Redactor),
        head: &RejectedHead<'_>,
    ) {
        let redaction = stored_request::Redaction {
            verifier: runtime.map(|runtime| &runtime.verifier),
            redactor,
            headers: &[],
        };
        let reason = rejection.reason();
        let reason = &*redactor.redact(&reason);
        if let Some(runtime) = runtime {
            runtime.rejection_streak.record_rejection(rejection, reason);
        }
        self.rejection_log.record(
            &rejection_log::RejectedRequest {
                source: runtime.map(|runtime| runtime.source.name.as_str()),
                method: &redactor.redact(head.method),
                path: &redaction.redact_path(head.path),
                ip: head.ip,
                bytes: head.bytes,
                status: rejection.status(),
                reason,
            },
            clock::wall_ms(),
        );
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

/// Starts the server of intake, without a listener. It has at most `max_connections` connections.
///
/// # Errors
/// A thread cannot be created.
pub fn start_intake(
    max_connections: usize,
    state: &Arc<IntakeState>,
    tls: Arc<TlsSlot>,
) -> anyhow::Result<Arc<HttpServer>> {
    let proxies = Arc::clone(state);
    let settings = ServerSettings {
        name: "intake",
        threads: INTAKE_THREADS,
        max_connections,
        open_count: Arc::clone(&state.exporter.metrics.intake_connections),
        transport: TransportSettings {
            tls: Some(tls),
            is_trusted_proxy: Box::new(move |peer| {
                let config = proxies.config.load();
                client_ip::is_trusted_proxy(peer, &config.server.trusted_proxies)
            }),
            unread_timeout: None,
        },
    };
    let (limits, app_state) = (Arc::clone(state), Arc::clone(state));
    let make_app = move || intake_app(&app_state);
    HttpServer::start(settings, move || limits.time_limits(), make_app).map(Arc::new)
}

/// Where the server listens.
#[derive(Clone, Debug, Default)]
pub struct ListenAddresses {
    /// The addresses of intake as a sender writes them.
    pub intake: Vec<String>,
    pub admin: Vec<String>,
}

impl ListenAddresses {
    /// The addresses of bound sockets.
    pub fn of(sockets: &Sockets) -> Self {
        let addresses = |sockets: &[BoundListener]| sockets.iter().map(address_of).collect();
        Self { intake: addresses(&sockets.intake), admin: addresses(&sockets.admin) }
    }

    pub fn all(&self) -> impl Iterator<Item = &String> {
        self.intake.iter().chain(&self.admin)
    }
}

/// Returns the address of a listener as a sender writes it.
fn address_of(bound: &BoundListener) -> String {
    let address = bound.socket.address();
    let address = match address.strip_prefix("http://") {
        Some(rest) if bound.listener.tls => format!("https://{rest}"),
        _ => address,
    };
    if bound.listener.proxy_protocol { address + PROXY_PROTOCOL } else { address }
}

/// Returns an address as the socket has it: without what `address_of` says of its listener.
fn socket_address(address: &str) -> String {
    let address = address.strip_suffix(PROXY_PROTOCOL).unwrap_or(address);
    match address.strip_prefix("https://") {
        Some(rest) => format!("http://{rest}"),
        None => address.to_owned(),
    }
}

/// What follows the address of a listener whose connections begin with the PROXY protocol.
const PROXY_PROTOCOL: &str = " (PROXY protocol)";

/// Whether a listener with this address can be asked without TLS and without the PROXY protocol.
pub fn speaks_plain_http(address: &str) -> bool {
    !address.starts_with("https:") && !address.ends_with(PROXY_PROTOCOL)
}

/// Returns the lines that are logged at start: the addresses, and a command to try as the end of
/// its line.
pub fn startup_banner(config: &Config, addresses: &ListenAddresses) -> Vec<String> {
    let mut lines = Vec::new();
    for address in &addresses.intake {
        lines.push(format!("listening for webhooks on {address}"));
    }
    for address in &addresses.admin {
        lines.push(match address.starts_with("http") {
            true => format!("the console is at {address} (`hooktrail open` signs in)"),
            false => format!("the console is at {address}"),
        });
    }
    lines.push(format!("the database is {}", config.store.path.display()));
    let open_path = |source: &Source| {
        let is_open = source.verify.scheme == Scheme::None
            && source.methods.iter().any(|method| method == "POST");
        Some((source.accept, source.path().filter(|_| is_open)?.to_owned()))
    };
    let unverified = config.sources.iter().find_map(open_path);
    let is_curl_target =
        |address: &&String| address.starts_with("http") && !address.ends_with(PROXY_PROTOCOL);
    let http = addresses.intake.iter().find(is_curl_target);
    if let (Some((accept, path)), Some(address)) = (unverified, http) {
        let (content_type, body) = match accept {
            Accept::Any | Accept::Json => ("application/json", r#"{"form_id":"1","name":"Ada"}"#),
            Accept::Form => ("application/x-www-form-urlencoded", "form_id=1&name=Ada"),
        };
        let url = format!("{address}{path}");
        lines
            .push(format!("to try it: curl -H 'Content-Type: {content_type}' -d '{body}' '{url}'"));
    }
    lines
}
