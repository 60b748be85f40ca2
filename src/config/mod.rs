//! config.toml as checked values: what every other room reads its settings from.
//!
//! `load` reads the file and what it includes, and either gives a `Config` in which every value is
//! allowed, or all faults at once. Reading does not touch secrets: `secrets` does, for those
//! commands that need them.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use crate::expression::Expression;

mod command_checks;
mod error;
mod expression;
mod former_keys;
mod handler;
mod handler_delivery;
mod include;
pub mod key_material;
mod load;
mod parse;
mod public_url;
mod restart_required;
mod scheme;
mod secret;
mod server;
mod source;
mod templates;
mod toml_reader;
mod url_handler;
mod verify;

#[cfg(test)]
mod tests;

pub use error::{ConfigError, ConfigErrors};
pub use handler::INTERNAL_SOURCE;
pub use load::{LoadedConfig, find, load};
pub use parse::{duration_text, parse_duration};
pub use public_url::PublicUrl;
pub use restart_required::restart_required;
pub use scheme::{DeliveryKey, SCHEMES, SchemeSpec, find_scheme};
pub use secret::{
    SecretFormat, SecretReference, Secrets, check_secrets, parse_shared_standard_key, read_secrets,
    read_secrets_under, secret_warnings,
};
pub use source::NO_QUEUED_MAX;
pub use templates::{EMBEDDED, EMBEDDED_HANDLERS};
pub use verify::parse_signed_parts;

/// Everything that config.toml and its includes say, defaults filled in.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The main file, absolute; relative paths in it are relative to its folder.
    pub file: PathBuf,
    pub server: ServerConfig,
    pub admin: AdminConfig,
    pub store: StoreConfig,
    pub workers: WorkersConfig,
    pub sources: Vec<Source>,
    pub handlers: Vec<Handler>,
}

/// `[server]`
#[derive(Clone, Debug, PartialEq)]
pub struct ServerConfig {
    pub listen: Vec<Listen>,
    pub trusted_proxies: TrustedProxies,
    pub proxy_header: ProxyHeader,
    pub max_body_bytes: usize,
    pub max_inflight_bytes: usize,
    pub max_connections: usize,
    pub request_timeout: Duration,
    pub keep_alive: Duration,
}

/// An address to listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// Peers whose `proxy_header` is believed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustedProxies {
    pub networks: Vec<IpNet>,
    /// `"unix"`: whoever comes through a unix socket.
    pub has_unix: bool,
}

/// `server.proxy_header`: the header in which a trusted proxy names the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyHeader {
    XForwardedFor,
    Forwarded,
}

/// `[admin]`
#[derive(Clone, Debug, PartialEq)]
pub struct AdminConfig {
    pub listen: Vec<Listen>,
}

/// `[store]`
#[derive(Clone, Debug, PartialEq)]
pub struct StoreConfig {
    /// Absolute.
    pub path: PathBuf,
    pub durability: Durability,
    pub min_free_bytes: u64,
}

/// `store.durability`: when a commit is synced to disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// `synchronous=FULL`: an answer means that the event survives a power cut.
    Full,
    /// `synchronous=NORMAL`: a power cut may lose the newest events.
    Normal,
}

/// `[workers]`
#[derive(Clone, Debug, PartialEq)]
pub struct WorkersConfig {
    pub threads: usize,
    pub shutdown_timeout: Duration,
}

/// `[sources.NAME]`
#[derive(Clone, Debug, PartialEq)]
pub struct Source {
    pub name: String,
    /// `/hooks/paminga`, or with named segments: `/hooks/{tenant}`.
    pub path: String,
    pub methods: Vec<String>,
    pub accept: Accept,
    pub allow_from: Vec<IpNet>,
    pub verify: Verify,
    pub dedupe: Option<Dedupe>,
    /// `dedupe = false`: a preset's is off.
    pub is_dedupe_off: bool,
    /// How long `dedupe` remembers, a preset's too.
    pub dedupe_window: Duration,
    /// Whether repeats are recognised by the sender's own key of a delivery, beside `dedupe`.
    pub uses_preset_key: bool,
    pub on_duplicate: OnDuplicate,
    pub rate_limit: Option<Rate>,
    pub max_queued: u64,
    /// `None`: the scheme's own answer.
    pub respond: Option<Respond>,
    /// The server's, unless the source has its own.
    pub max_body_bytes: usize,
    pub handshake: HandshakeConfig,
    /// No event for so long is an alert.
    pub alert_if_silent_for: Option<Duration>,
}

impl Source {
    /// How long a sender's own key of a delivery is kept: never shorter than a time stamp is taken, or a
    /// captured request could be sent again after its key was forgotten.
    pub fn preset_key_window(&self) -> Duration {
        let taken =
            self.verify.tolerance.map_or(Duration::ZERO, |it| it.back.saturating_add(it.ahead));
        self.dedupe_window.max(taken)
    }
}

/// How a sender's question whether we are there is answered.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum HandshakeConfig {
    /// As the scheme's sender asks, if it does.
    #[default]
    Preset,
    /// `handshake = false`.
    Off,
    Custom(CustomHandshake),
}

/// `handshake = { … }`
#[derive(Clone, Debug, PartialEq)]
pub struct CustomHandshake {
    pub methods: Vec<String>,
    /// Text is the answer; null: no handshake.
    pub respond: Expression,
    /// Only where the signature holds.
    pub is_signed: bool,
}

/// `accept` of a source: the content types that it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accept {
    Any,
    Json,
    Form,
}

/// What a repeat is recognised by.
#[derive(Clone, Debug, PartialEq)]
pub enum Dedupe {
    /// Lower case.
    Header(String),
    Body,
    Jq(Expression),
}

/// `on_duplicate` of a source: what a duplicate does to jobs of the first event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnDuplicate {
    /// Dead jobs of the first run again.
    RetryDead,
    Ignore,
}

/// So many in each period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    pub count: u32,
    pub period: Duration,
}

/// A source's own answer to accepted events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Respond {
    /// 200 to 299.
    pub status: u16,
    pub body: Option<String>,
    pub content_type: Option<String>,
}

/// `verify = { scheme = …, … }`: the keys of all schemes; `SCHEMES` says which scheme takes which, and
/// what a preset fills in (`header`, `tolerance`).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Verify {
    pub scheme: String,
    /// All are valid.
    pub secret: Vec<SecretRef>,
    pub user: Option<String>,
    /// Lower case.
    pub header: Option<String>,
    pub query: Option<String>,
    /// The path's last segment, after `path`, is the token.
    pub is_path_token: bool,
    pub tolerance: Option<Tolerance>,
    /// The public URL, as the sender calls it.
    pub url: Option<PublicUrl>,
    pub hmac: Option<Hmac>,
    /// Meta's: given back to it in its GET.
    pub verify_token: Vec<SecretRef>,
}

impl Verify {
    /// Whether a signature covers the bytes of the body, and with them nothing that says how they are read.
    pub fn signs_body(&self) -> bool {
        match self.scheme.as_str() {
            "none" | "token" | "basic" | "bearer" => false,
            // What these send is a secret, or a signature of a part of the body.
            "gitlab" | "mailchimp" | "mailgun" | "microsoft-graph" => false,
            "hmac" => self.hmac.as_ref().is_some_and(|it| it.signed.contains(&SignedPart::Body)),
            _ => true,
        }
    }
}

/// How far a time stamp may be off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tolerance {
    pub back: Duration,
    pub ahead: Duration,
}

/// The recipe of `scheme = "hmac"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hmac {
    pub algorithm: Algorithm,
    /// Stands before the signature in its header; empty: nothing does.
    pub prefix: String,
    pub encoding: Encoding,
    pub signed: Vec<SignedPart>,
    /// Lower case.
    pub timestamp_header: Option<String>,
    pub timestamp_unit: TimestampUnit,
    /// Lower case.
    pub id_header: Option<String>,
}

/// `algorithm` of the scheme `hmac`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    Sha1,
    Sha256,
    Sha512,
}

/// `encoding` of the scheme `hmac`: how the header encodes the signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    Hex,
    Base64,
}

/// `timestamp_unit` of the scheme `hmac`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimestampUnit {
    Seconds,
    Milliseconds,
}

/// A part of the text that is signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SignedPart {
    Text(String),
    Body,
    Timestamp,
    Id,
    Url,
    Method,
}

/// Where a secret is to be had; never the secret itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum SecretRef {
    Env(String),
    /// Absolute.
    File(PathBuf),
    /// A name in `$CREDENTIALS_DIRECTORY`.
    Credential(String),
}

/// `[handlers.NAME]`
#[derive(Clone, Debug, PartialEq)]
pub struct Handler {
    pub name: String,
    /// Names of sources, each of which exists.
    pub sources: Vec<String>,
    /// Program and arguments, no shell. A program with a slash is absolute here; one without is
    /// looked up in PATH.
    pub command: Vec<String>,
    /// Absolute.
    pub directory: PathBuf,
    pub mode: Mode,
    /// Instead of a command.
    pub target: Option<UrlTarget>,
    pub when: Option<Expression>,
    pub split: Option<Expression>,
    pub transform: Option<Expression>,
    pub ordering_key: Option<Expression>,
    /// With `ordering_key`.
    pub version_by: Option<Expression>,
    pub unique_by: Option<UniqueBy>,
    pub debounce_by: Option<Expression>,
    /// With `debounce_by`: starts when its key has been quiet for so long.
    pub debounce: Option<Duration>,
    pub rate_limit: Option<Rate>,
    pub batch_size: usize,
    pub batch_wait: Duration,
    pub breaker: Breaker,
    pub priority: i64,
    pub concurrency: usize,
    pub timeout: Duration,
    pub env: Vec<(String, EnvValue)>,
    pub max_output_bytes: usize,
    pub retry: Retry,
    pub is_paused: bool,
}

/// How a command is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Each,
    Stream,
    Batch,
    Cgi,
}

/// `url` and the keys that go with it.
#[derive(Clone, Debug, PartialEq)]
pub struct UrlTarget {
    pub url: String,
    pub headers: Vec<(String, EnvValue)>,
    /// Lower case: the event's headers that are passed on.
    pub forward_headers: Vec<String>,
    /// Standard Webhooks secrets, each of which signs.
    pub sign: Vec<SecretRef>,
    pub proxy: Option<String>,
}

/// `unique_by = { … }`
#[derive(Clone, Debug, PartialEq)]
pub struct UniqueBy {
    pub jq: Expression,
    pub window: Duration,
}

/// `breaker = { … }`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Breaker {
    /// So many in a row; 0: never.
    pub threshold: u32,
    pub cooldown: Duration,
}

/// A value of `env`: text, or a secret that is read at start and reload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EnvValue {
    Text(String),
    Secret(SecretRef),
}

/// `retry = { … }`
#[derive(Clone, Debug, PartialEq)]
pub struct Retry {
    pub max_attempts: u32,
    pub initial_delay: Duration,
    pub multiplier: f64,
    pub max_delay: Duration,
    /// 0 to 1: a wait is changed by at most this share, either way.
    pub jitter: f64,
    pub max_age: Duration,
}
