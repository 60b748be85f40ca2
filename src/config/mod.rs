//! The configuration: config.toml as checked values, from which all other modules read their
//! settings.
//!
//! [`load`] reads the file and its includes. It returns a [`Config`] in which every value is
//! allowed, or all errors at once. It reads no secrets: [`read_secrets`] does, for the commands
//! that need them.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use crate::body_redaction::BodyRedaction;
use crate::expression::Expression;
use crate::verify::{DeliveryKey, PublicUrl, Scheme, SchemeSettings, Tolerance, Verifier};
pub use crate::verify::{ProxyHeader, SecretFormat, parse_shared_standard_key};

mod command_checks;
mod error;
mod expression;
mod former_keys;
mod handler;
mod include;
mod jetstream;
mod load;
mod parse;
mod program;
mod redact;
mod restart_required;
mod retention;
mod secret;
mod server;
mod source;
mod templates;
mod tls;
mod toml_reader;
mod url_handler;
mod verify;

#[cfg(test)]
mod tests;

pub use crate::domain::retention::Retention;
pub use error::{ConfigError, ConfigErrors};
pub use jetstream::{JetStreamTarget, NatsSettings, StreamConsumer, is_subject_token};
pub use load::{LoadedConfig, find, load, load_despite_errors};
pub use parse::{duration_text, nearest, parse_duration};
pub use program::{DEFAULT_PATH, find_in_path};
pub use restart_required::restart_required;
pub use secret::{Secrets, check_secrets, read_secrets, read_secrets_under, secret_warnings};
pub use source::NO_MAX_QUEUED;
pub use templates::{EMBEDDED, EMBEDDED_HANDLERS};
pub use tls::{ValidityProblem, at_certificate, check_tls, load_files, read_tls, validity_problem};

/// The contents of config.toml and its includes, with defaults filled in.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The main file, absolute. Relative paths in it are relative to its folder.
    pub file: PathBuf,
    pub server: ServerConfig,
    pub admin: AdminConfig,
    pub store: StoreConfig,
    pub workers: WorkersConfig,
    pub sources: Vec<Source>,
    pub handlers: Vec<Handler>,
}

impl Config {
    /// Returns the retention of a source: its own, or the store's for the built-in source and for one that is no longer
    /// configured.
    pub fn retention_of(&self, source: &str) -> Retention {
        let configured = self.sources.iter().find(|configured| configured.name == source);
        configured.map_or(self.store.retention, |configured| configured.retention)
    }
}

/// The settings of `[server]`.
#[derive(Clone, Debug, PartialEq)]
pub struct ServerConfig {
    pub listen: Vec<Listener>,
    /// `None`: plain HTTP on all listeners.
    pub tls: Option<TlsConfig>,
    pub trusted_proxies: TrustedProxies,
    pub proxy_header: ProxyHeader,
    pub max_body_bytes: usize,
    pub max_inflight_bytes: usize,
    pub max_connections: usize,
    pub request_timeout: Duration,
    pub keep_alive: Duration,
}

/// A listener for webhooks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    pub address: Listen,
    /// Whether clients speak TLS. Only with `server.tls`.
    pub tls: bool,
    /// Whether each connection begins with the PROXY protocol, by which a proxy says for whom it connects.
    pub proxy_protocol: bool,
}

impl Listener {
    /// A listener of plain HTTP.
    pub fn plain(address: Listen) -> Self {
        Self { address, tls: false, proxy_protocol: false }
    }
}

/// The files of `server.tls`, in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsConfig {
    /// The server's certificate, and those between it and its authority.
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// The authorities of the senders' certificates. `None`: senders need none.
    pub client_ca: Option<PathBuf>,
}

/// An address to listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// Peers whose `proxy_header` is trusted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustedProxies {
    pub networks: Vec<IpNet>,
    /// `"unix"`: trust all peers on a unix socket.
    pub has_unix: bool,
}

/// The settings of `[admin]`.
#[derive(Clone, Debug, PartialEq)]
pub struct AdminConfig {
    pub listen: Vec<Listen>,
    /// Whether `/metrics` needs no token.
    pub open_metrics: bool,
    /// Any of them may read and act. Empty: the token in the file `admin.token`.
    pub tokens: Vec<SecretRef>,
    /// Any of them may read.
    pub read_tokens: Vec<SecretRef>,
    /// Further names in `Host` and `Origin`, for a proxy that passes them on.
    pub hosts: Vec<String>,
}

impl AdminConfig {
    /// The file of the token that the server creates: beside the database.
    pub fn token_file(&self, store: &StoreConfig) -> PathBuf {
        store.path.with_file_name("admin.token")
    }
}

/// The settings of `[store]`.
#[derive(Clone, Debug, PartialEq)]
pub struct StoreConfig {
    /// An absolute path.
    pub path: PathBuf,
    pub durability: Durability,
    pub min_free_bytes: u64,
    /// Also applies to the events of sources that are no longer configured.
    pub retention: Retention,
}

/// `store.durability`: when a commit is synced to disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// `synchronous=FULL`: an event survives a power cut once its sender has a response.
    Full,
    /// `synchronous=NORMAL`: a power cut may lose the newest events.
    Normal,
}

/// The settings of `[workers]`.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkersConfig {
    pub threads: usize,
    pub shutdown_timeout: Duration,
}

/// A source: the settings of `[sources.NAME]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Source {
    pub name: String,
    pub input: SourceInput,
    pub methods: Vec<String>,
    pub accept: Accept,
    pub allow_from: Vec<IpNet>,
    pub verify: Verify,
    pub dedupe: Dedupe,
    /// How long keys of `dedupe` are kept, including a preset's.
    pub dedupe_window: Duration,
    pub on_duplicate: OnDuplicate,
    pub rate_limit: Option<Rate>,
    pub max_queued: u64,
    /// `None`: the scheme's own response.
    pub respond: Option<Respond>,
    /// The server's limit, unless the source sets its own.
    pub max_body_bytes: usize,
    pub handshake: HandshakeConfig,
    /// Raise an alert when no event came for this long.
    pub alert_if_silent_for: Option<Duration>,
    /// Its own parts, and the store's for the others.
    pub retention: Retention,
    pub redact: RedactSettings,
}

/// Where the events of a source come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceInput {
    /// Requests to a path: `/hooks/paminga`, or with named segments: `/hooks/{tenant}`.
    Path(String),
    /// Messages of a stream.
    JetStream(StreamConsumer),
}

/// The values to replace in the requests of a source before they are stored: the settings of `redact = { … }`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RedactSettings {
    /// Names in lower case.
    pub headers: Vec<String>,
    pub body: BodyRedaction,
}

impl RedactSettings {
    /// Whether requests are stored as they are, apart from secrets.
    pub fn is_empty(&self) -> bool {
        self.headers.is_empty() && self.body.is_empty()
    }
}

impl Source {
    /// The path of its requests; `None`: it gets messages of a stream.
    pub fn path(&self) -> Option<&str> {
        if let SourceInput::Path(path) = &self.input { Some(path) } else { None }
    }

    /// The consumer of its messages; `None`: it gets requests.
    pub fn consumer(&self) -> Option<&StreamConsumer> {
        if let SourceInput::JetStream(consumer) = &self.input { Some(consumer) } else { None }
    }

    /// How long a sender's delivery key is kept; `None`: it doesn't count.
    ///
    /// A signed key counts besides a source's own rule, as it prevents resending a captured
    /// request. It can't be turned off for a scheme whose tolerance outlasts retries. It is kept at
    /// least as long as its time stamp is valid. Otherwise somebody could resend a captured request
    /// after its key has expired.
    ///
    /// The id of a message always counts: the server may stop between its commit and the acknowledgement.
    pub fn delivery_key_window(&self) -> Option<Duration> {
        if self.consumer().is_some() {
            return Some(self.dedupe_window);
        }
        let preset = self.verify.scheme.preset()?;
        let counts = match preset.delivery_key {
            DeliveryKey::Absent => false,
            DeliveryKey::Header(_) => self.dedupe == Dedupe::Preset,
            DeliveryKey::Signed => preset.is_stamp_repeated || self.dedupe != Dedupe::Off,
        };
        let tolerance =
            self.verify.tolerance.map_or(Duration::ZERO, |t| t.back.saturating_add(t.ahead));
        counts.then(|| self.dedupe_window.max(tolerance))
    }

    /// Makes the verifier of its requests.
    pub fn verifier(&self, secrets: &Secrets) -> Verifier {
        let Verify { scheme, secret, tolerance, url, verify_token } = &self.verify;
        let resolve = |references| secrets.resolve(references).collect::<Vec<_>>();
        let settings = SchemeSettings {
            tolerance: *tolerance,
            url: url.as_ref(),
            secrets: &resolve(secret),
            verify_tokens: &resolve(verify_token),
            are_handshakes_off: self.handshake == HandshakeConfig::Off,
        };
        Verifier::new(scheme, &settings)
    }
}

/// How a source answers handshakes.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum HandshakeConfig {
    /// By the scheme's own handshake, if it has one.
    #[default]
    Preset,
    /// `handshake = false`: the preset's handshake is off.
    Off,
    Custom(HandshakeSettings),
}

/// A handshake of the source's own: the settings of `handshake = { … }`.
#[derive(Clone, Debug, PartialEq)]
pub struct HandshakeSettings {
    pub methods: Vec<String>,
    /// Text is the response; null means that the request is not a handshake.
    pub respond: Expression,
    /// Only requests with a valid signature count.
    pub requires_signature: bool,
}

/// `accept` of a source: the content types that it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accept {
    Any,
    Json,
    Form,
}

/// `dedupe` of a source: how a duplicate is recognised.
#[derive(Clone, Debug, PartialEq)]
pub enum Dedupe {
    /// `dedupe = false`: not even by a preset's key.
    Off,
    /// By the preset's own key of a delivery, if there is one.
    Preset,
    /// By the source's own key.
    Key(DedupeSelector),
}

/// The source's own key by which a duplicate is recognised.
#[derive(Clone, Debug, PartialEq)]
pub enum DedupeSelector {
    /// In lower case.
    Header(String),
    Body,
    Jq(Expression),
}

/// `on_duplicate` of a source: what a duplicate does to jobs of the first event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnDuplicate {
    /// `retry_dead`: dead jobs of the first delivery are retried.
    RetryDead,
    Ignore,
}

/// A rate: at most `count` in each period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    pub count: u32,
    pub period: Duration,
}

/// A source's own response to accepted events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Respond {
    /// From 200 to 299.
    pub status: u16,
    pub body: Option<String>,
    pub content_type: Option<String>,
}

/// `verify = { scheme = …, … }`.
#[derive(Clone, Debug, PartialEq)]
pub struct Verify {
    pub scheme: Scheme,
    /// Any of them is valid.
    pub secret: Vec<SecretRef>,
    pub tolerance: Option<Tolerance>,
    /// The public URL that the sender calls.
    pub url: Option<PublicUrl>,
    /// The tokens that the sender may send in its handshake.
    pub verify_token: Vec<SecretRef>,
}

/// Where to read a secret; never the secret itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum SecretRef {
    Env(String),
    /// An absolute path.
    File(PathBuf),
    /// A name in `$CREDENTIALS_DIRECTORY`.
    Credential(String),
}

/// A reference to a secret in config.toml, with its location.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretReference {
    pub file: PathBuf,
    pub line: usize,
    /// `sources.paminga.verify.secret`
    pub key: String,
    pub secret: SecretRef,
    pub format: SecretFormat,
}

/// A handler: the settings of `[handlers.NAME]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Handler {
    pub name: String,
    /// Names of existing sources.
    pub sources: Vec<String>,
    pub kind: HandlerKind,
    pub when: Option<Expression>,
    pub split: Option<Expression>,
    pub transform: Option<Expression>,
    pub ordering_key: Option<Expression>,
    /// Only with `ordering_key`.
    pub version_by: Option<Expression>,
    pub unique_by: Option<UniqueBy>,
    pub debounce_by: Option<Expression>,
    /// Only with `debounce_by`: how long its key has to be quiet before the job starts.
    pub debounce: Option<Duration>,
    pub rate_limit: Option<Rate>,
    pub breaker: Breaker,
    pub priority: i64,
    pub concurrency: usize,
    /// The next short jobs are claimed while the threads of the handler are busy.
    pub should_prefetch: bool,
    pub timeout: Duration,
    pub max_output_bytes: usize,
    pub retry: Retry,
    pub is_paused: bool,
}

impl Handler {
    /// The command, if the handler runs one.
    pub fn command(&self) -> Option<&CommandTarget> {
        if let HandlerKind::Command(command) = &self.kind { Some(command) } else { None }
    }

    /// The URL, if the handler posts to one.
    pub fn url(&self) -> Option<&UrlTarget> {
        if let HandlerKind::Url(target) = &self.kind { Some(target) } else { None }
    }

    /// The stream, if the handler publishes to one.
    pub fn jetstream(&self) -> Option<&JetStreamTarget> {
        if let HandlerKind::JetStream(target) = &self.kind { Some(target) } else { None }
    }

    /// How many jobs a thread gets at once, if it gets more than one: with `mode = "batch"` and with `jetstream`.
    pub fn batch(&self) -> Option<Batch> {
        match &self.kind {
            HandlerKind::Command(CommandTarget { mode: Mode::Batch(batch), .. }) => Some(*batch),
            HandlerKind::JetStream(target) => Some(target.batch()),
            HandlerKind::Command(_) | HandlerKind::Url(_) => None,
        }
    }
}

/// The program, URL or stream that gets the jobs of a handler.
#[derive(Clone, Debug, PartialEq)]
pub enum HandlerKind {
    Command(CommandTarget),
    Url(UrlTarget),
    JetStream(JetStreamTarget),
}

/// `command` and its keys.
#[derive(Clone, Debug, PartialEq)]
pub struct CommandTarget {
    /// Program and arguments, without a shell. A program with a slash is an absolute path here; one
    /// without is looked up in PATH.
    pub args: Vec<String>,
    /// An absolute path.
    pub directory: PathBuf,
    pub env: Vec<(String, EnvValue)>,
    pub mode: Mode,
}

/// `mode`: how a command runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Each,
    Stream,
    Batch(Batch),
    Cgi,
}

/// `batch_size` and `batch_wait`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batch {
    pub size: usize,
    pub wait: Duration,
}

/// `url` and its keys.
#[derive(Clone, Debug, PartialEq)]
pub struct UrlTarget {
    pub url: String,
    pub headers: Vec<(String, EnvValue)>,
    /// The event's headers that are passed on, in lower case.
    pub forward_headers: Vec<String>,
    /// Secrets of Standard Webhooks; each adds a signature.
    pub sign: Vec<SecretRef>,
    pub proxy: Option<String>,
}

/// The settings of `unique_by = { … }`.
#[derive(Clone, Debug, PartialEq)]
pub struct UniqueBy {
    pub jq: Expression,
    pub window: Duration,
}

/// The circuit breaker: the settings of `breaker = { … }`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Breaker {
    /// Failed attempts in a row that open the circuit breaker; 0: it never opens.
    pub threshold: u32,
    pub cooldown: Duration,
}

/// A value of `env`: text, or a secret that is read at start and reload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EnvValue {
    Text(String),
    Secret(SecretRef),
}

/// The retry policy: the settings of `retry = { … }`.
#[derive(Clone, Debug, PartialEq)]
pub struct Retry {
    pub max_attempts: u32,
    pub initial_delay: Duration,
    pub multiplier: f64,
    pub max_delay: Duration,
    /// 0 to 1: a delay varies by at most this share, either way.
    pub jitter: f64,
    pub max_age: Duration,
}
