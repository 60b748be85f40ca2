//! Tests of every documented default, and of every key with another value.

use std::time::Duration;

use super::super::*;
use super::{Folder, config};
use crate::body_redaction::RedactPath;

const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn jq(text: &str) -> Expression {
    Expression::new(text).unwrap()
}

const SMALLEST: &str = "
[sources.paminga]
[handlers.crm]
sources = ['paminga']
command = ['true']
";

#[test]
fn an_empty_file_has_the_documented_defaults() {
    let folder = Folder::new("");
    let path = folder.path();
    let expected = Config {
        file: path.join("config.toml"),
        server: ServerConfig {
            listen: vec![Listener::plain(Listen::Tcp("127.0.0.1:8080".parse().unwrap()))],
            tls: None,
            trusted_proxies: TrustedProxies { networks: vec![], has_unix: false },
            proxy_header: ProxyHeader::XForwardedFor,
            max_body_bytes: 1_048_576,
            max_inflight_bytes: 67_108_864,
            max_connections: 10_000,
            request_timeout: secs(10),
            keep_alive: secs(150),
        },
        admin: AdminConfig {
            listen: vec![Listen::Tcp("127.0.0.1:8081".parse().unwrap())],
            open_metrics: false,
            tokens: Vec::new(),
            read_tokens: Vec::new(),
            hosts: Vec::new(),
        },
        store: StoreConfig {
            path: path.join("hooktrail.db"),
            durability: Durability::Full,
            min_free_bytes: 268_435_456,
            retention: Retention { bodies: None, events: None, dead_jobs: None },
        },
        workers: WorkersConfig { threads: 16, shutdown_timeout: secs(25) },
        sources: vec![],
        handlers: vec![],
    };
    let loaded = folder.load();
    assert_eq!(loaded.config, expected);
    let warning = "config.toml: has no sources: every webhook gets a 404: add a table such as \
                   [sources.paminga]";
    assert_eq!(folder.warnings(), [warning]);
}

#[test]
fn a_source_and_a_handler_have_the_documented_defaults() {
    let folder = Folder::new(SMALLEST);
    let config = folder.load().config;
    let source = Source {
        name: "paminga".into(),
        input: SourceInput::Path("/hooks/paminga".into()),
        methods: vec!["POST".into()],
        accept: Accept::Any,
        allow_from: vec![],
        verify: verify::no_verification(),
        dedupe: Dedupe::Preset,
        dedupe_window: secs(7 * 86_400),
        on_duplicate: OnDuplicate::RetryDead,
        rate_limit: None,
        max_queued: NO_MAX_QUEUED,
        respond: None,
        max_body_bytes: 1_048_576,
        handshake: HandshakeConfig::Preset,
        alert_if_silent_for: None,
        retention: Retention::default(),
        redact: RedactSettings::default(),
    };
    let handler = Handler {
        name: "crm".into(),
        sources: vec!["paminga".into()],
        kind: HandlerKind::Command(CommandTarget {
            args: vec!["true".into()],
            directory: folder.path().to_owned(),
            env: vec![],
            mode: Mode::Each,
        }),
        when: None,
        split: None,
        transform: None,
        ordering_key: None,
        version_by: None,
        unique_by: None,
        debounce_by: None,
        debounce: None,
        rate_limit: None,
        breaker: Breaker { threshold: 20, cooldown: secs(60) },
        priority: 0,
        concurrency: 4,
        timeout: secs(30),
        max_output_bytes: 65_536,
        retry: Retry {
            max_attempts: 40,
            initial_delay: secs(5),
            multiplier: 2.0,
            max_delay: secs(6 * 3_600),
            jitter: 0.2,
            max_age: secs(7 * 86_400),
        },
        is_paused: false,
        should_prefetch: false,
    };
    assert_eq!((config.sources, config.handlers), (vec![source], vec![handler]));
}

#[test]
fn every_key_of_the_server_is_read() {
    let folder = Folder::new(
        r#"
[server]
listen = ["[::1]:9000", "unix:run/http.sock"]
trusted_proxies = ["10.1.2.3/8", "::ffff:192.168.0.0/112", "2001:db8::1", "unix"]
proxy_header = "forwarded"
max_body_size = "2 MiB"
max_inflight_size = 4194304
max_connections = 7
request_timeout = "1m 30s"
keep_alive = "2m"
[admin]
listen = []
[store]
path = "./data/trail.db"
min_free_space = 0
[workers]
threads = 1
shutdown_timeout = "0s"
"#,
    );
    let config = folder.load().config;
    let nets = ["10.0.0.0/8", "192.168.0.0/16", "2001:db8::1/128"];
    let networks = nets.iter().map(|net| net.parse().unwrap()).collect();
    let server = ServerConfig {
        listen: vec![
            Listener::plain(Listen::Tcp("[::1]:9000".parse().unwrap())),
            Listener::plain(Listen::Unix(folder.path().join("run/http.sock"))),
        ],
        tls: None,
        trusted_proxies: TrustedProxies { networks, has_unix: true },
        proxy_header: ProxyHeader::Forwarded,
        max_body_bytes: 2 << 20,
        max_inflight_bytes: 4 << 20,
        max_connections: 7,
        request_timeout: secs(90),
        keep_alive: secs(120),
    };
    assert_eq!(config.server, server);
    assert_eq!(config.admin.listen, vec![]);
    assert_eq!(config.store.path, folder.path().join("data/trail.db"));
    assert_eq!(config.store.min_free_bytes, 0);
    assert_eq!(config.workers, WorkersConfig { threads: 1, shutdown_timeout: Duration::ZERO });
}

#[test]
fn every_key_of_a_source_is_read() {
    let source = config(
        r#"
[sources.a]
path = "/in/{tenant}/x"
methods = ["PUT", "POST", "PUT"]
accept = "json"
allow_from = ["192.0.2.7"]
dedupe = { jq = ".id", window = "1d" }
handshake = { methods = ["GET", "POST"], respond = "$query.challenge", signed = false }
alert_if_silent_for = "24h"
retention = { bodies = "1h", events = "forever" }
redact = { headers = ["X-Card", "x-b"], paths = [".card.number", '.a["b c"][]'] }
on_duplicate = "ignore"
rate_limit = "100/m"
max_queued = 7
respond = { status = 200, body = "ok", content_type = "text/plain" }
max_body_size = "64 KiB"
"#,
    )
    .sources
    .remove(0);
    let expected = Source {
        name: "a".into(),
        input: SourceInput::Path("/in/{tenant}/x".into()),
        methods: vec!["PUT".into(), "POST".into()],
        accept: Accept::Json,
        allow_from: vec!["192.0.2.7/32".parse().unwrap()],
        verify: verify::no_verification(),
        dedupe: Dedupe::Key(DedupeSelector::Jq(jq(".id"))),
        dedupe_window: secs(86_400),
        on_duplicate: OnDuplicate::Ignore,
        rate_limit: Some(Rate { count: 100, period: secs(60) }),
        max_queued: 7,
        respond: Some(Respond {
            status: 200,
            body: Some("ok".into()),
            content_type: Some("text/plain".into()),
        }),
        max_body_bytes: 65_536,
        handshake: HandshakeConfig::Custom(HandshakeSettings {
            methods: vec!["GET".into(), "POST".into()],
            respond: jq("$query.challenge"),
            requires_signature: false,
        }),
        alert_if_silent_for: Some(secs(86_400)),
        retention: Retention { bodies: Some(secs(3600)), events: None, dead_jobs: None },
        redact: RedactSettings {
            headers: vec!["x-card".to_owned(), "x-b".to_owned()],
            body: BodyRedaction::new(
                [".card.number", ".a[\"b c\"][]"]
                    .map(|path| RedactPath::parse(path).unwrap())
                    .to_vec(),
            ),
        },
    };
    assert_eq!(source, expected);
}

#[test]
fn every_key_of_a_handler_is_read() {
    let folder = Folder::new(
        r#"
[sources.a]
[handlers.crm]
sources = ["a", "hooktrail"]
command = ["./bin/crm", "--live", ""]
directory = "/"
mode = "batch"
when = ".form_id? != null"
split = ".items[]"
transform = "{id: .contact_id}"
ordering_key = ".contact_id"
version_by = ".updated_at"
unique_by = { jq = ".id", window = "1d" }
debounce_by = ".repository.id"
debounce = "5s"
rate_limit = "50/m"
batch_size = 10000
batch_wait = "0s"
breaker = { threshold = 0 }
priority = -3
concurrency = 1
prefetch = true
timeout = "7d"
env = { B = "text", A = { file = "crm.key" } }
max_output_size = "1 KiB"
retry = { max_attempts = 3, jitter = 0 }
paused = true
"#,
    );
    let handler = folder.load().config.handlers.remove(0);
    let expected = Handler {
        name: "crm".into(),
        sources: vec!["a".into(), "hooktrail".into()],
        kind: HandlerKind::Command(CommandTarget {
            args: vec![
                folder.path().join("bin/crm").to_str().unwrap().into(),
                "--live".into(),
                String::new(),
            ],
            directory: "/".into(),
            env: vec![
                ("B".into(), EnvValue::Text("text".into())),
                ("A".into(), EnvValue::Secret(SecretRef::File(folder.path().join("crm.key")))),
            ],
            mode: Mode::Batch(Batch { size: 10_000, wait: Duration::ZERO }),
        }),
        when: Some(jq(".form_id? != null")),
        split: Some(jq(".items[]")),
        transform: Some(jq("{id: .contact_id}")),
        ordering_key: Some(jq(".contact_id")),
        version_by: Some(jq(".updated_at")),
        unique_by: Some(UniqueBy { jq: jq(".id"), window: secs(86_400) }),
        debounce_by: Some(jq(".repository.id")),
        debounce: Some(secs(5)),
        rate_limit: Some(Rate { count: 50, period: secs(60) }),
        breaker: Breaker { threshold: 0, cooldown: secs(60) },
        priority: -3,
        concurrency: 1,
        timeout: secs(7 * 86_400),
        max_output_bytes: 1_024,
        retry: Retry { max_attempts: 3, jitter: 0.0, ..Retry::default() },
        is_paused: true,
        should_prefetch: true,
    };
    assert_eq!(handler, expected);
}

#[test]
fn every_key_of_a_url_is_read() {
    let handler = config(
        r#"
[sources.a]
[handlers.crm]
sources = ["a"]
url = "https://crm.example.com:8443/in?x=1"
headers = { X-Kind = "form", Authorization = { env = "CRM" } }
forward_headers = ["X-Request-Id"]
sign = [{ env = "NEW" }, { env = "OLD" }]
proxy = "http://proxy:3128"
"#,
    )
    .handlers
    .remove(0);
    let env = |name: &str| SecretRef::Env(name.into());
    let expected = UrlTarget {
        url: "https://crm.example.com:8443/in?x=1".into(),
        headers: vec![
            ("X-Kind".into(), EnvValue::Text("form".into())),
            ("Authorization".into(), EnvValue::Secret(env("CRM"))),
        ],
        forward_headers: vec!["x-request-id".into()],
        sign: vec![env("NEW"), env("OLD")],
        proxy: Some("http://proxy:3128".into()),
    };
    assert_eq!(handler.kind, HandlerKind::Url(expected));
}

#[test]
fn a_duplicate_is_recognised_as_its_source_says() {
    let read = |dedupe: &str, verify: &str| {
        let text = format!("[sources.a]\nverify = {verify}\ndedupe = {dedupe}");
        let source = config(&text).sources.remove(0);
        (source.dedupe, source.dedupe_window.as_secs())
    };
    let (none, paminga) =
        (r#"{ scheme = "none" }"#, r#"{ scheme = "paminga", secret = { env = "S" } }"#);
    let week = 604_800;
    assert_eq!(read("false", paminga), (Dedupe::Off, week));
    assert_eq!(read("{ body = true }", none), (Dedupe::Key(DedupeSelector::Body), week));
    let header = Dedupe::Key(DedupeSelector::Header("x-delivery-id".into()));
    assert_eq!(read("{ header = 'X-Delivery-Id' }", none), (header, week));
    assert_eq!(read(r#"{ window = "1h" }"#, paminga), (Dedupe::Preset, 3_600));
}
