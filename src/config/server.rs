//! Reads `[server]`, `[admin]`, `[store]` and `[workers]`.

use std::path::Path;
use std::time::Duration;

use super::parse::{self, LISTEN, TIMEOUT_RANGE, WAIT_RANGE};
use super::retention::read_retention;
use super::secret;
use super::toml_reader::{TomlTable, TomlValue};
use super::{
    AdminConfig, Durability, Listen, Listener, ProxyHeader, Retention, ServerConfig, StoreConfig,
    TlsConfig, TrustedProxies, WorkersConfig,
};
use crate::verify::SecretFormat;

const MIB: u64 = 1 << 20;
/// SQLite's limit for a row is 1,000,000,000 bytes; this leaves room for headers and items.
pub(super) const MAX_BODY_BYTES: u64 = 512 * MIB;
const LISTEN_LIST_EXPECTED: &str = r#"expected a list such as ["127.0.0.1:8080"]"#;
const LISTENER_EXPECTED: &str = r#"expected an address, or a table such as { address = "127.0.0.1:8080", proxy_protocol = true }"#;
const TLS_EXPECTED: &str =
    r#"expected a table such as { certificate = "cert.pem", key = "key.pem" }"#;
const PROXIES_EXPECTED: &str =
    r#"expected a list of networks or "unix", such as ["10.0.0.0/8", "unix"]"#;
const HOST_EXPECTED: &str =
    r#"expected a list of host names without a scheme, such as ["console.example.com"]"#;
const PATH_EXPECTED: &str = "expected a path";

pub(super) fn read_server(table: TomlTable<'_>, folder: &Path) -> ServerConfig {
    let tls = read_tls(&table, folder);
    let listen = read_intake_listeners(&table, folder, tls.is_some());
    if let Some(value) = table.get("listen").filter(TomlValue::is_empty_list) {
        value.error("is []: expected at least one address");
    }
    let proxy_header = |text: &str| match text.to_ascii_lowercase().as_str() {
        "x-forwarded-for" => Ok(ProxyHeader::XForwardedFor),
        "forwarded" => Ok(ProxyHeader::Forwarded),
        _ => Err(parse::expected_one_of(text, &["X-Forwarded-For", "Forwarded"])),
    };
    let server = ServerConfig {
        listen,
        tls,
        trusted_proxies: read_trusted_proxies(&table),
        proxy_header: table
            .parse_with(
                "proxy_header",
                r#"expected "X-Forwarded-For" or "Forwarded""#,
                proxy_header,
            )
            .unwrap_or(ProxyHeader::XForwardedFor),
        max_body_bytes: table.size("max_body_size", MIB, 1..=MAX_BODY_BYTES) as usize,
        max_inflight_bytes: table.size("max_inflight_size", 64 * MIB, 1..=1 << 40) as usize,
        max_connections: table.integer("max_connections", 10_000, 1..=1_000_000) as usize,
        request_timeout: table.duration("request_timeout", Duration::from_secs(10), TIMEOUT_RANGE),
        // Longer than the keep-alive of common proxies, so that none reuses a connection that is
        // being closed. Caddy's is 120 s
        // (https://caddyserver.com/docs/json/apps/http/servers/routes/handle/reverse_proxy/transport/http/keep_alive/).
        keep_alive: table.duration("keep_alive", Duration::from_secs(150), TIMEOUT_RANGE),
    };
    let wants_header = server.listen.iter().any(|listener| listener.proxy_protocol);
    if wants_header && server.trusted_proxies == TrustedProxies::default() {
        table.error(
            "has a listener with proxy_protocol = true: expected trusted_proxies too, with the addresses of the proxies",
        );
    }
    if server.max_body_bytes > server.max_inflight_bytes {
        let limit = parse::size_text(server.max_inflight_bytes as u64);
        match (table.get("max_body_size"), table.get("max_inflight_size")) {
            (Some(value), _) => reject_above_total(&value, &limit),
            (None, Some(value)) => value.error(format!(
                "is {limit}: expected at least server.max_body_size, which is {}",
                parse::size_text(server.max_body_bytes as u64)
            )),
            (None, None) => {}
        }
    }
    table.reject_unknown();
    server
}

/// Rejects a `max_body_size` above the limit of all bodies together.
pub(super) fn reject_above_total(value: &TomlValue<'_>, limit: &str) {
    let _: Option<()> =
        value.invalid(format!("expected at most server.max_inflight_size, which is {limit}"));
}

pub(super) fn read_admin(
    table: TomlTable<'_>,
    server: &ServerConfig,
    folder: &Path,
) -> AdminConfig {
    let tokens = |key: &'static str| {
        let value = table.get(key);
        value.map_or_else(Vec::new, |value| {
            secret::parse_list(&value, folder, SecretFormat::BearerToken)
        })
    };
    let host = |text: &str| match text.is_empty() || text.contains(['/', '@', ' ']) {
        true => Err(HOST_EXPECTED.to_owned()),
        false => Ok(text.to_ascii_lowercase()),
    };
    let taken: Vec<Listen> =
        server.listen.iter().map(|listener| listener.address.clone()).collect();
    let admin = AdminConfig {
        listen: read_listeners(&table, folder, "127.0.0.1:8081", &taken, |item, parse| {
            item.parse_with(LISTEN, parse)
        }),
        open_metrics: table.flag("open_metrics", false),
        tokens: tokens("token"),
        read_tokens: tokens("read_token"),
        hosts: table.texts("hosts", HOST_EXPECTED, host).unwrap_or_default(),
    };
    table.reject_unknown();
    admin
}

pub(super) fn read_store(table: TomlTable<'_>, folder: &Path) -> StoreConfig {
    let path = |text: &str| match text {
        "" => Err("expected the path of a file".to_owned()),
        text if text.ends_with('/') => Err("expected the path of a file, not a folder".to_owned()),
        text => Ok(parse::resolve_path(text, folder)),
    };
    let store = StoreConfig {
        path: table
            .parse_with("path", PATH_EXPECTED, path)
            .unwrap_or_else(|| folder.join("hooktrail.db")),
        durability: table.choice(
            "durability",
            &[("full", Durability::Full), ("normal", Durability::Normal)],
            Durability::Full,
        ),
        min_free_bytes: table.size("min_free_space", 256 * MIB, 0..=u64::MAX),
        retention: read_retention(&table, Retention::default()),
    };
    let path_at = table.get("path").map_or(table.at, |value| value.at);
    table.log.add_location("store.path", path_at);
    if let (Durability::Normal, Some(value)) = (store.durability, table.get("durability")) {
        value.warn(r#"is "normal": a power cut may lose the newest events"#);
    }
    table.reject_unknown();
    store
}

pub(super) fn read_workers(table: TomlTable<'_>) -> WorkersConfig {
    let workers = WorkersConfig {
        threads: table.integer("threads", 16, 1..=1024) as usize,
        shutdown_timeout: table.duration("shutdown_timeout", Duration::from_secs(25), WAIT_RANGE),
    };
    table.reject_unknown();
    workers
}

/// Reads the addresses of one `listen`. Two listeners can't share an address, except for port 0,
/// which is a new port each time. `read_item` reads one, with a function that reads its address.
fn read_listeners(
    table: &TomlTable<'_>,
    folder: &Path,
    default: &str,
    taken_addresses: &[Listen],
    mut read_item: impl FnMut(&TomlValue<'_>, &dyn Fn(&str) -> Result<Listen, String>) -> Option<Listen>,
) -> Vec<Listen> {
    let check_free = |address: &Listen, others: &[Listen]| {
        let is_fixed = !matches!(address, Listen::Tcp(tcp) if tcp.port() == 0);
        match is_fixed && others.contains(address) {
            true => Err("has a listener already: expected another address".to_owned()),
            false => Ok(()),
        }
    };
    let mut listeners: Vec<Listen> = Vec::new();
    let Some(value) = table.get("listen") else {
        listeners.extend(parse::parse_listen(default, folder));
        if let Some(Err(remedy)) =
            listeners.first().map(|address| check_free(address, taken_addresses))
        {
            table.error(format!("listens on {default:?} by default, which {remedy}"));
        }
        table.log.add_location(&format!("{}.listen", table.key), table.at);
        return listeners;
    };
    for item in value.list(LISTEN_LIST_EXPECTED).unwrap_or_default() {
        let parse = |text: &str| {
            let address = parse::parse_listen(text, folder)?;
            check_free(&address, taken_addresses)?;
            check_free(&address, &listeners)?;
            Ok(address)
        };
        let address = read_item(&item, &parse);
        if address.is_some() {
            item.log.add_location(&item.key, item.at);
        }
        listeners.extend(address);
    }
    listeners
}

/// Reads `server.listen`, where an address may be a table with settings of this listener.
fn read_intake_listeners(table: &TomlTable<'_>, folder: &Path, has_tls: bool) -> Vec<Listener> {
    let mut settings = Vec::new();
    let addresses = read_listeners(table, folder, "127.0.0.1:8080", &[], |item, parse| {
        if !item.is_table() {
            let expected = if item.raw_text().is_some() { LISTEN } else { LISTENER_EXPECTED };
            let address = item.parse_with(expected, parse)?;
            settings.push((None, false));
            return Some(address);
        }
        let entries = item.table(LISTENER_EXPECTED)?;
        let address = entries.parse_with("address", LISTEN, parse);
        if !entries.has("address") {
            entries.missing_error(format!("has no address: {LISTENER_EXPECTED}"));
        }
        let is_unix = matches!(address, Some(Listen::Unix(_)));
        let tls = entries.get("tls");
        let wanted = tls.as_ref().and_then(TomlValue::flag);
        if let (Some(true), Some(value)) = (wanted, &tls) {
            match (is_unix, has_tls) {
                (true, _) => value.error("is true: expected false for a unix socket"),
                (false, false) => {
                    value.error(format!("is true: expected server.tls too: {TLS_EXPECTED}"));
                }
                (false, true) => {}
            }
        }
        let proxy_protocol = entries.flag("proxy_protocol", false);
        entries.reject_unknown();
        let address = address?;
        settings.push((wanted, proxy_protocol));
        Some(address)
    });
    settings.resize(addresses.len(), (None, false));
    let listener = |(address, (tls, proxy_protocol)): (Listen, (Option<bool>, bool))| {
        let is_tcp = matches!(address, Listen::Tcp(_));
        Listener { tls: tls.unwrap_or(has_tls && is_tcp), address, proxy_protocol }
    };
    addresses.into_iter().zip(settings).map(listener).collect()
}

fn read_tls(table: &TomlTable<'_>, folder: &Path) -> Option<TlsConfig> {
    let value = table.get("tls")?;
    let entries = value.table(TLS_EXPECTED)?;
    let path = |key: &'static str| {
        let path = entries.parse_with(key, PATH_EXPECTED, |text| match text {
            "" => Err(PATH_EXPECTED.to_owned()),
            text => Ok(parse::resolve_path(text, folder)),
        });
        if let Some(at) = entries.get(key).map(|value| value.at) {
            table.log.add_location(&format!("server.tls.{key}"), at);
        }
        path
    };
    let (certificate, key, client_ca) = (path("certificate"), path("key"), path("client_ca"));
    for (name, found) in [("certificate", &certificate), ("key", &key)] {
        if found.is_none() && !entries.has(name) {
            entries.missing_error(format!("has no {name}: {TLS_EXPECTED}"));
        }
    }
    entries.reject_unknown();
    Some(TlsConfig { certificate: certificate?, key: key?, client_ca })
}

fn read_trusted_proxies(table: &TomlTable<'_>) -> TrustedProxies {
    let mut proxies = TrustedProxies::default();
    let parse = |text: &str| match text {
        "unix" => Ok(None),
        text => {
            parse::parse_network(text).map(Some).map_err(|remedy| format!("{remedy}, or \"unix\""))
        }
    };
    for network in table.texts("trusted_proxies", PROXIES_EXPECTED, parse).unwrap_or_default() {
        match network {
            Some(network) => proxies.networks.push(network),
            None => proxies.has_unix = true,
        }
    }
    proxies
}
