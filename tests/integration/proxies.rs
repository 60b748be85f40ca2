//! The configurations of `proxies/`, run by nginx, Caddy and HAProxy in front of the server. A test replaces TLS,
//! addresses, paths, users and idle times in them, and nothing else.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::time::Duration;

use hooktrail::internals::config;
use rustix::io::FdFlags;
use rustix::process::Signal;

use crate::support::client::{Response, parse_response, post};
use crate::support::server::{
    DEADLINE, RunningCommand, Scenario, Server, scenario, send_signal, stderr, stdout, until,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Nginx,
    Caddy,
    Haproxy,
}

impl Kind {
    /// The configuration, as a reader copies it.
    fn documented(self) -> &'static str {
        match self {
            Self::Nginx => include_str!("../../proxies/nginx.conf"),
            Self::Caddy => include_str!("../../proxies/Caddyfile"),
            Self::Haproxy => include_str!("../../proxies/haproxy.cfg"),
        }
    }

    /// Returns the lines that listen, as the test replaces them: without TLS, on a port of loopback.
    fn plain_listener(self, port: u16) -> Vec<(&'static str, String)> {
        match self {
            Self::Nginx => vec![
                ("    listen 443 ssl http2;", format!("    listen 127.0.0.1:{port};")),
                ("    listen [::]:443 ssl http2;\n", String::new()),
                (
                    "    ssl_certificate /etc/letsencrypt/live/hooks.example.com/fullchain.pem;\n",
                    String::new(),
                ),
                (
                    "    ssl_certificate_key /etc/letsencrypt/live/hooks.example.com/privkey.pem;\n",
                    String::new(),
                ),
            ],
            Self::Caddy => vec![(
                "hooks.example.com {",
                format!("{{\n\tadmin off\n}}\n\nhttp://:{port} {{\n\tbind 127.0.0.1"),
            )],
            Self::Haproxy => vec![
                (
                    "bind :443 ssl crt /etc/haproxy/certs/hooks.example.com.pem alpn h2,http/1.1",
                    format!("bind 127.0.0.1:{port}"),
                ),
                ("    user haproxy\n    group haproxy\n", String::new()),
                ("maxconn 5000", "maxconn 100".to_owned()),
            ],
        }
    }

    /// The key for the time after which the proxy closes an idle connection to the server.
    fn idle_time(self) -> &'static str {
        match self {
            Self::Nginx => "keepalive_timeout 60s",
            Self::Caddy => "keepalive 60s",
            Self::Haproxy => "pool-purge-delay 60s",
        }
    }

    /// Whether systemd must hold the port during a restart of the server.
    fn needs_socket_activation(self) -> bool {
        self != Self::Haproxy
    }
}

/// Replaces each of these texts, which must be in the configuration.
fn replace_all(text: &str, replacements: &[(&str, String)]) -> String {
    replacements.iter().fold(text.to_owned(), |text, (old, new)| {
        assert!(text.contains(old), "the configuration has no {old:?}:\n{text}");
        text.replace(old, new)
    })
}

fn free_port() -> u16 {
    let free = TcpListener::bind("127.0.0.1:0").expect("a port");
    free.local_addr().expect("a local address").port()
}

/// A command of a proxy that writes only into `folder`.
fn proxy_command(kind: Kind, folder: &Path, is_test: bool) -> Command {
    let (program, run, check): (_, &[&str], &[&str]) = match kind {
        Kind::Nginx => (
            "nginx",
            &["-p", ".", "-e", "error.log", "-c", "main.conf"],
            &["-p", ".", "-e", "error.log", "-c", "main.conf", "-t"],
        ),
        Kind::Caddy => (
            "caddy",
            &["run", "--config", "proxy.conf", "--adapter", "caddyfile"],
            &["validate", "--config", "proxy.conf", "--adapter", "caddyfile"],
        ),
        Kind::Haproxy => ("haproxy", &["-f", "proxy.conf"], &["-c", "-f", "proxy.conf"]),
    };
    let mut command = Command::new(program);
    command.args(if is_test { check } else { run }).current_dir(folder).stdin(Stdio::null());
    command.env("HOME", folder).env("XDG_DATA_HOME", folder).env("XDG_CONFIG_HOME", folder);
    command
}

/// Writes a configuration. That of nginx belongs into another one, which a package of nginx has.
fn write_configuration(kind: Kind, folder: &Path, text: &str) {
    std::fs::write(folder.join("proxy.conf"), text).expect("the configuration");
    if kind == Kind::Nginx {
        let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|name| format!("{name}_temp_path {name};\n"))
            .concat();
        let main = format!(
            "daemon off;\nuser root;\npid nginx.pid;\nworker_processes 2;\nevents {{}}\n\
             http {{\naccess_log access.log;\n{temporary}include proxy.conf;\n}}\n"
        );
        std::fs::write(folder.join("main.conf"), main).expect("the main configuration");
    }
}

/// A running proxy. It is ended with the test.
struct Proxy {
    child: RunningCommand,
    port: u16,
    folder: tempfile::TempDir,
}

impl Proxy {
    /// Starts a proxy in front of the server at `upstream`. `idle_time` replaces the documented one.
    fn start(kind: Kind, upstream: u16, idle_time: Option<&str>) -> Self {
        let (folder, port) = (tempfile::tempdir().expect("a folder"), free_port());
        let mut replacements = kind.plain_listener(port);
        replacements.push(("127.0.0.1:8080", format!("127.0.0.1:{upstream}")));
        if let Some(idle_time) = idle_time {
            replacements.push((kind.idle_time(), kind.idle_time().replace("60s", idle_time)));
        }
        write_configuration(kind, folder.path(), &replace_all(kind.documented(), &replacements));
        let mut command = proxy_command(kind, folder.path(), false);
        let log = std::fs::File::create(folder.path().join("stderr.log")).expect("a file");
        let child = command.stdout(Stdio::null()).stderr(log).spawn().expect("the proxy");
        let mut proxy = Self { child: RunningCommand(child), port, folder };
        until("the proxy listens", || {
            let ended = proxy.child.0.try_wait().expect("the state");
            assert!(ended.is_none(), "{kind:?} ended: {}", proxy.log());
            TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        proxy
    }

    fn log(&self) -> String {
        let read =
            |name| std::fs::read_to_string(self.folder.path().join(name)).unwrap_or_default();
        format!("{}{}", read("stderr.log"), read("error.log"))
    }

    #[track_caller]
    fn post(&self, body: &[u8]) -> Response {
        let response = post(self.port, "/hooks/a", body);
        response.unwrap_or_else(|| panic!("no response: {}", self.log()))
    }
}

impl Drop for Proxy {
    /// Lets nginx end its worker processes.
    fn drop(&mut self) {
        let child = &mut self.child.0;
        let _ = send_signal(child.id(), Signal::TERM);
        let deadline = std::time::Instant::now() + Duration::from_secs(5);
        while child.try_wait().is_ok_and(|code| code.is_none())
            && std::time::Instant::now() < deadline
        {
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }
}

fn behind_a_proxy() -> Scenario {
    scenario().server("trusted_proxies = [\"127.0.0.1\"]").source("a", "")
}

fn the_documented_configuration_is_valid(kind: Kind) {
    let folder = tempfile::tempdir().expect("a folder");
    let key = rcgen::generate_simple_self_signed(["hooks.example.com".to_owned()])
        .expect("a certificate");
    let (chain, private) = (key.cert.pem(), key.signing_key.serialize_pem());
    std::fs::write(folder.path().join("chain.pem"), format!("{chain}{private}")).expect("a file");
    let path = folder.path().join("chain.pem").display().to_string();
    let replacements = match kind {
        // nginx binds its addresses to check them.
        Kind::Nginx => vec![
            ("listen 443 ", format!("listen 127.0.0.1:{} ", free_port())),
            ("    listen [::]:443 ssl http2;\n", String::new()),
            ("/etc/letsencrypt/live/hooks.example.com/fullchain.pem", path.clone()),
            ("/etc/letsencrypt/live/hooks.example.com/privkey.pem", path),
        ],
        Kind::Caddy => vec![],
        Kind::Haproxy => vec![("/etc/haproxy/certs/hooks.example.com.pem", path)],
    };
    write_configuration(kind, folder.path(), &replace_all(kind.documented(), &replacements));
    let output = proxy_command(kind, folder.path(), true).output().expect("the proxy");
    let text = format!("{}{}", stdout(&output), stderr(&output));
    assert!(output.status.success(), "{kind:?}: {text}");
    let is_warned = text.lines().any(|line| {
        let line = line.to_lowercase();
        (line.contains("warn") || line.contains("not formatted"))
            && !line.contains("\"user\" directive")
    });
    assert!(!is_warned, "{kind:?}: {text}");
}

fn the_address_of_the_client_arrives_and_cannot_be_forged(kind: Kind) {
    let server = behind_a_proxy().start();
    let proxy = Proxy::start(kind, server.port, None);
    let url = format!("http://127.0.0.1:{}/hooks/a", proxy.port);
    let forged = "X-Forwarded-For: 203.0.113.9";
    let output = Command::new("curl")
        .args(["-sS", "--interface", "127.0.0.5", "-H", forged, "-d", "x", &url])
        .output()
        .expect("curl");
    assert_eq!(stdout(&output), "{\"event\":1}", "{}{}", stderr(&output), proxy.log());
    assert_eq!(server.value("select remote_ip from trail"), "127.0.0.5");
}

fn the_largest_body_passes_and_a_larger_one_gets_the_413_of_the_server(kind: Kind) {
    let server = behind_a_proxy().source("b", "max_body_size = \"4 MiB\"").start();
    let proxy = Proxy::start(kind, server.port, None);
    assert_eq!(proxy.post(&vec![b'x'; 1 << 20]).status, 202);
    let largest = post(proxy.port, "/hooks/b", &vec![b'x'; 4 << 20]).expect("a response");
    assert_eq!(largest.status, 202);
    let rejected = proxy.post(&vec![b'x'; (1 << 20) + 1]);
    assert_eq!((rejected.status, rejected.body.as_str()), (413, "{\"error\":\"body too large\"}"));
    server.until("select status || reason from rejections", "413body over 1048576 bytes");
}

/// An end of a connection between a proxy and the server, as the system lists it.
struct ConnectionEnd {
    is_of_server: bool,
    has_time_wait: bool,
}

/// The ends of all connections to a port. The one that closed first stays for a minute, in the state TIME_WAIT.
fn connection_ends(port: u16) -> Vec<ConnectionEnd> {
    let table = std::fs::read_to_string("/proc/net/tcp").expect("the connections");
    let port = format!(":{port:04X}");
    let parse = |line: &str| {
        // "1: 0100007F:1F90 0100007F:C3A2 06 …"
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, local, remote, state, ..] = fields[..] else { return None };
        let is_listener = state == "0A";
        let is_match = !is_listener && (local.ends_with(&port) || remote.ends_with(&port));
        is_match.then(|| ConnectionEnd {
            is_of_server: local.ends_with(&port),
            has_time_wait: state == "06",
        })
    };
    table.lines().filter_map(parse).collect()
}

fn connections_to_the_server_are_kept(kind: Kind) {
    let server = behind_a_proxy().start();
    let proxy = Proxy::start(kind, server.port, None);
    for _ in 0..60 {
        assert_eq!(proxy.post(b"x").status, 202);
    }
    let ends = connection_ends(server.port);
    let connections = ends.iter().filter(|end| !end.is_of_server).count();
    assert!((1..=8).contains(&connections), "{connections} connections for 60 requests");
}

/// Posts around the moment at which the proxy closes its idle connection, which is before the server does.
fn no_request_is_lost_when_an_idle_connection_closes(kind: Kind) {
    let server = behind_a_proxy().server("keep_alive = \"30s\"").start();
    let proxy = Proxy::start(kind, server.port, Some("1s"));
    std::thread::scope(|scope| {
        for sender in 0..8_u64 {
            let proxy = &proxy;
            scope.spawn(move || {
                for round in 0..6_u64 {
                    assert_eq!(proxy.post(b"x").status, 202, "{}", proxy.log());
                    // From 980 to 1,027 ms: before, at and after the proxy's close.
                    std::thread::park_timeout(Duration::from_millis(980 + sender * 6 + round));
                }
            });
        }
    });
    assert_eq!(server.event_ids().len(), 48);
}

fn the_proxy_closes_an_idle_connection_before_the_server_does(kind: Kind) {
    let server = behind_a_proxy().server("keep_alive = \"30s\"").start();
    let proxy = Proxy::start(kind, server.port, Some("1s"));
    assert_eq!(proxy.post(b"x").status, 202);
    until("the idle connection is closed", || {
        connection_ends(server.port).iter().all(|end| end.has_time_wait)
    });
    let is_server_first = connection_ends(server.port).iter().any(|end| end.is_of_server);
    assert!(!is_server_first, "the server has closed the connection first");
    // So do the documented times.
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("config.toml");
    std::fs::write(&file, "[sources.a]\nverify = { scheme = \"none\" }\n").expect("a file");
    let keep_alive = config::load(&file).expect("a configuration").config.server.keep_alive;
    assert!(keep_alive > Duration::from_secs(60), "{keep_alive:?}");
    assert!(kind.documented().contains(kind.idle_time()));
}

/// A server of `scenario` to which a listener of this test is passed, as systemd passes one.
fn socket_activated(scenario: Scenario, listener: &TcpListener) -> Scenario {
    rustix::io::fcntl_setfd(listener, FdFlags::empty()).expect("an inherited descriptor");
    let pass = format!("exec 3<&{}; LISTEN_PID=$$ LISTEN_FDS=1 exec \"$@\"", listener.as_raw_fd());
    scenario.wrapped_by(&["bash", "-c", &pass, "bash"])
}

/// Sends requests while the server is stopped, and starts it when all of them wait.
fn senders_wait_while_the_server_restarts(kind: Kind) {
    const SENDERS: usize = 16;
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let mut server: Server = if kind.needs_socket_activation() {
        socket_activated(behind_a_proxy(), &listener).start()
    } else {
        behind_a_proxy().start()
    };
    // Without effect if the socket is passed.
    server.set_listen(&format!("127.0.0.1:{}", server.port));
    let proxy = Proxy::start(kind, server.port, None);
    for _ in 0..20 {
        assert_eq!(proxy.post(b"x").status, 202);
    }
    assert_eq!(server.stop(), Some(0));
    let are_sent = Barrier::new(SENDERS + 1);
    std::thread::scope(|scope| {
        let send = || {
            let mut stream = TcpStream::connect(("127.0.0.1", proxy.port)).expect("a connection");
            stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
            let head = "POST /hooks/a HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 1";
            stream.write_all(format!("{head}\r\n\r\nx").as_bytes()).expect("the request");
            are_sent.wait();
            let mut response = String::new();
            stream.read_to_string(&mut response).expect("the response");
            let response =
                parse_response(&response).unwrap_or_else(|| panic!("no response: {}", proxy.log()));
            assert_eq!(response.status, 202, "{kind:?}: {}", proxy.log());
        };
        let senders: Vec<_> = (0..SENDERS).map(|_| scope.spawn(send)).collect();
        are_sent.wait();
        server.start();
        senders.into_iter().for_each(|sender| sender.join().expect("a sender got an error"));
    });
    assert_eq!(server.event_ids().len(), 20 + SENDERS, "a webhook was lost or sent twice");
}

/// Restarts the server while senders post as fast as they can, each request on a new connection to the proxy. Without
/// socket activation, connections in the queue of the port would be reset when it closes.
fn no_sender_sees_an_error_while_the_server_restarts_under_load(kind: Kind) {
    const SENDERS: usize = 8;
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let mut server = socket_activated(behind_a_proxy(), &listener).start();
    let proxy = Proxy::start(kind, server.port, None);
    let (accepted, is_over) = (AtomicUsize::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let send = || {
            while !is_over.load(Ordering::Relaxed) {
                let status = post(proxy.port, "/hooks/a", b"x").map(|response| response.status);
                if status != Some(202) {
                    is_over.store(true, Ordering::Relaxed);
                    panic!("{kind:?}: {status:?}: {}", proxy.log());
                }
                accepted.fetch_add(1, Ordering::Relaxed);
            }
        };
        let senders: Vec<_> = (0..SENDERS).map(|_| scope.spawn(send)).collect();
        for _ in 0..3 {
            let before = accepted.load(Ordering::Relaxed);
            until("the server accepts events", || {
                accepted.load(Ordering::Relaxed) > before + 50 || is_over.load(Ordering::Relaxed)
            });
            assert_eq!(server.stop(), Some(0));
            server.start();
        }
        is_over.store(true, Ordering::Relaxed);
        senders.into_iter().for_each(|sender| sender.join().expect("a sender got an error"));
    });
    let stored = server.event_ids().len();
    assert_eq!(stored, accepted.load(Ordering::Relaxed), "a webhook was lost or sent twice");
}

/// Reads a request with a body from a connection. Returns false at its end.
fn read_request(stream: &mut BufReader<TcpStream>) -> bool {
    let mut length = 0;
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).unwrap_or(0) == 0 {
            return false;
        }
        let line = line.trim().to_ascii_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().expect("a length");
        }
        if line.is_empty() {
            let mut body = vec![0; length];
            return stream.read_exact(&mut body).is_ok();
        }
    }
}

/// An upstream that responds to the first request, and from then on closes a connection when it has read a request.
fn failing_upstream() -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("a local address").port();
    let received = Arc::<AtomicUsize>::default();
    let count = Arc::clone(&received);
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let count = Arc::clone(&count);
            std::thread::spawn(move || {
                let mut reader = BufReader::new(stream);
                while read_request(&mut reader) {
                    if count.fetch_add(1, Ordering::SeqCst) > 0 {
                        let _ = reader.get_ref().shutdown(Shutdown::Both);
                        return;
                    }
                    let response = b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n";
                    let _ = reader.get_mut().write_all(response);
                }
            });
        }
    });
    (port, received)
}

fn a_webhook_whose_response_is_lost_is_not_sent_twice(kind: Kind) {
    let (upstream, received) = failing_upstream();
    let proxy = Proxy::start(kind, upstream, None);
    assert_eq!(proxy.post(b"x").status, 202);
    // On the kept connection, and on new ones.
    for request in 2..=4 {
        // HAProxy may close the connection instead of a response: the sender then decides.
        let status = post(proxy.port, "/hooks/a", b"x").map(|response| response.status);
        assert!(matches!(status, None | Some(502)), "{status:?}");
        assert_eq!(received.load(Ordering::SeqCst), request, "{kind:?} sent a webhook twice");
    }
}

/// Makes a module with one test of each function for a proxy.
macro_rules! tests_of {
    ($module:ident $kind:ident: $($test:ident)*) => {
        mod $module {
            use super::Kind;
            $(#[test] fn $test() { super::$test(Kind::$kind); })*
        }
    };
    ($($module:ident $kind:ident)*) => {
        $(tests_of! { $module $kind:
            the_documented_configuration_is_valid
            the_address_of_the_client_arrives_and_cannot_be_forged
            the_largest_body_passes_and_a_larger_one_gets_the_413_of_the_server
            connections_to_the_server_are_kept
            no_request_is_lost_when_an_idle_connection_closes
            the_proxy_closes_an_idle_connection_before_the_server_does
            senders_wait_while_the_server_restarts
            no_sender_sees_an_error_while_the_server_restarts_under_load
            a_webhook_whose_response_is_lost_is_not_sent_twice
        })*
    };
}

tests_of! { nginx Nginx caddy Caddy haproxy Haproxy }
