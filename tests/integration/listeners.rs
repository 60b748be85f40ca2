//! Listeners that a reload adds, removes and changes, and what their connections see of it.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;

use crate::support::client::{parse_response, post};
use crate::support::load::Load;
use crate::support::server::{DEADLINE, Server, is_long, scenario, until};

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// The keys of `[server]` with these items of `listen`.
fn listen(items: &str) -> String {
    format!("listen = [{items}]")
}

fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream
}

/// Reloads, and waits for the result as the command line reports it.
#[track_caller]
fn reload(server: &mut Server, keys: &str) {
    server.set_server(keys);
    let output = server.cli(&["reload"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_reload_opens_new_listeners_and_closes_those_that_are_gone() {
    let mut server = scenario().source("a", "").start();
    let (first, second) = (server.port, free_port());
    reload(
        &mut server,
        &listen(&format!("'127.0.0.1:{first}', '127.0.0.1:{second}', 'unix:h.sock'")),
    );
    assert_eq!(post(first, "/hooks/a", b"{}").unwrap().status, 202);
    assert_eq!(post(second, "/hooks/a", b"{}").unwrap().status, 202);
    let socket = server.path().join("h.sock");
    let mut unix = UnixStream::connect(&socket).unwrap();
    unix.write_all(b"GET /readyz HTTP/1.0\r\n\r\n").unwrap();
    let mut text = String::new();
    unix.read_to_string(&mut text).unwrap();
    assert_eq!(parse_response(&text).unwrap().status, 200);

    reload(&mut server, &listen(&format!("'127.0.0.1:{second}'")));
    until("the first port is closed", || TcpStream::connect(("127.0.0.1", first)).is_err());
    until("the file of the socket is gone", || !socket.exists());
    assert_eq!(post(second, "/hooks/a", b"{}").unwrap().status, 202);
    let listening = server.cli(&["status", "--json"]).stdout;
    let status: serde_json::Value = serde_json::from_slice(&listening).unwrap();
    assert_eq!(status["listen"], serde_json::json!([format!("http://127.0.0.1:{second}")]));
}

#[test]
fn the_admin_listener_is_added_moved_and_removed_by_a_reload() {
    let mut server = scenario().source("a", "").start();
    let (first, second) = (free_port(), free_port());
    let is_open = |port: u16| TcpStream::connect(("127.0.0.1", port)).is_ok();
    for (listen, open, closed) in [
        (format!("'127.0.0.1:{first}'"), Some(first), None),
        (format!("'127.0.0.1:{second}'"), Some(second), Some(first)),
        (String::new(), None, Some(second)),
    ] {
        let (before, rest) = server.config().split_once("\n[store]").unwrap();
        assert!(before.starts_with("[admin]"));
        *server.config() = format!("[admin]\nlisten = [{listen}]\n[store]{rest}");
        let keys = format!("listen = ['127.0.0.1:{}']", server.port);
        reload(&mut server, &keys);
        assert!(open.is_none_or(is_open));
        until("the former address is closed", || closed.is_none_or(|port| !is_open(port)));
    }
}

#[test]
fn a_kept_connection_of_a_closing_listener_gets_a_last_response() {
    let mut server = scenario().source("a", "").start();
    let (first, second) = (server.port, free_port());
    let mut kept = connect(first);
    let head = "POST /hooks/a HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n";
    kept.write_all(head.as_bytes()).unwrap();
    reload(&mut server, &listen(&format!("'127.0.0.1:{second}'")));
    // The body of a request that began before.
    kept.write_all(b"{}").unwrap();
    let mut text = String::new();
    kept.read_to_string(&mut text).unwrap();
    let response = parse_response(&text).unwrap();
    assert_eq!((response.status, response.header("connection")), (202, Some("close")));
}

#[test]
fn a_listener_moves_to_all_addresses_of_its_port_and_back() {
    let mut server = scenario().source("a", "").start();
    let port = server.port;
    let load = Load::start(port, "/hooks/a");
    load.until_accepted(20);
    for _ in 0..2 {
        reload(&mut server, &listen(&format!("'{}:{port}'", Ipv4Addr::UNSPECIFIED)));
        until("it listens on all addresses", || TcpStream::connect(("127.0.0.2", port)).is_ok());
        load.until_accepted(60);
        reload(&mut server, &listen(&format!("'{}:{port}'", Ipv4Addr::LOCALHOST)));
        until("the wider one is closed", || TcpStream::connect(("127.0.0.2", port)).is_err());
        load.until_accepted(60);
    }
    load.stop_without_failure();
    // No other program may share the port.
    assert!(TcpListener::bind(("127.0.0.1", port)).is_err());
}

/// Fifty with `HOOKTRAIL_TEST_LONG`.
#[test]
fn reloads_under_load_fail_no_request() {
    let mut server = scenario().source("a", "").start();
    let port = server.port;
    let load = Load::start(port, "/hooks/a");
    let count = if is_long() { 50 } else { 6 };
    for number in 0..count {
        let other = free_port();
        let limits =
            format!("max_connections = {}\nrequest_timeout = '{}s'", 100 + number, 5 + number % 3);
        let keys = listen(&format!("'127.0.0.1:{port}', '127.0.0.1:{other}'"));
        reload(&mut server, &format!("{keys}\n{limits}"));
        assert_eq!(post(other, "/hooks/a", b"{}").unwrap().status, 202);
        load.until_accepted(10);
    }
    load.stop_without_failure();
}

#[test]
fn an_address_comes_back_right_after_it_was_removed() {
    let mut server = scenario().source("a", "").start();
    let (first, second) = (server.port, free_port());
    let both = listen(&format!("'127.0.0.1:{first}', '127.0.0.1:{second}', 'unix:h.sock'"));
    // An idle connection keeps the closing listener open for a moment.
    let _idle = connect(first);
    for _ in 0..3 {
        reload(&mut server, &both);
        let _idle = connect(second);
        reload(&mut server, &listen(&format!("'127.0.0.1:{first}'")));
    }
    reload(&mut server, &both);
    assert_eq!(post(second, "/hooks/a", b"{}").unwrap().status, 202);
    assert!(UnixStream::connect(server.path().join("h.sock")).is_ok());
}

#[test]
fn a_reload_makes_the_file_of_a_socket_again() {
    let mut server = scenario().source("a", "").start();
    let keys = listen(&format!("'127.0.0.1:{}', 'unix:h.sock'", server.port));
    reload(&mut server, &keys);
    let socket = server.path().join("h.sock");
    std::fs::remove_file(&socket).unwrap();
    reload(&mut server, &keys);
    assert!(UnixStream::connect(&socket).is_ok());
    // The closing of the former socket does not take the file of the new one.
    reload(&mut server, &keys);
    assert!(UnixStream::connect(&socket).is_ok());
}

#[test]
fn an_address_does_not_move_to_the_admin_listener_by_a_reload() {
    let mut server = scenario().source("a", "").start();
    let (port, other) = (server.port, free_port());
    let admin = format!("[admin]\nlisten = ['127.0.0.1:{port}']\n");
    server.replace_in_config("[admin]\nlisten = []\n", &admin);
    server.set_server(&listen(&format!("'127.0.0.1:{other}'")));
    let output = server.cli(&["reload"]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        text.contains("can't move it between server.listen and admin.listen: restart"),
        "{text}"
    );
    assert_eq!(post(port, "/hooks/a", b"{}").unwrap().status, 202);
}

#[test]
fn an_address_that_is_taken_rejects_the_whole_reload() {
    let mut server = scenario().source("a", "").start();
    let port = server.port;
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    server.set_server(&listen(&format!("'127.0.0.1:{port}', 'unix:new.sock', '{address}'")));
    *server.config() += "[sources.b]\n";
    server.write_config();
    let output = server.cli(&["reload"]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    let expected = format!("can't listen on {address}: another program listens there");
    assert!(text.contains(&expected), "{text}");
    assert!(text.ends_with("not reloaded: the old configuration stays in force\n"), "{text}");
    assert_eq!(post(port, "/hooks/b", b"{}").unwrap().status, 404);
    assert!(!server.path().join("new.sock").exists());
    assert_eq!(post(port, "/hooks/a", b"{}").unwrap().status, 202);
}

#[test]
fn fewer_connections_are_allowed_after_a_reload() {
    let mut server = scenario().source("a", "").start();
    let port = server.port;
    let mut kept: Vec<TcpStream> = (0..8).map(|_| connect(port)).collect();
    let request = b"POST /hooks/a HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}";
    for stream in &mut kept {
        stream.write_all(request).unwrap();
        let mut first = [0];
        stream.read_exact(&mut first).unwrap();
    }
    reload(
        &mut server,
        &format!("{}\nmax_connections = 2", listen(&format!("'127.0.0.1:{port}'"))),
    );
    // A new connection takes the place of the idle ones.
    assert_eq!(post(port, "/hooks/a", b"{}").unwrap().status, 202);
    let is_closed = |stream: &mut TcpStream| {
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).is_ok()
    };
    let closed = kept.iter_mut().take(6).filter_map(|stream| is_closed(stream).then_some(()));
    assert_eq!(closed.count(), 6);
}

mod proxy_protocol {
    use super::*;

    const PREFIX: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

    /// A header of version 2 for a client at 203.0.113.7.
    fn header() -> Vec<u8> {
        let addresses = [203, 0, 113, 7, 127, 0, 0, 1, 0x1f, 0x90, 0, 80];
        [PREFIX, &[0x21, 0x11, 0, 12], &addresses].concat()
    }

    /// A server with a listener for the PROXY protocol, and its port.
    fn start(trusted: &str) -> (Server, u16) {
        let mut server = scenario().source("a", "").start();
        let (port, with_header) = (server.port, free_port());
        let item = format!("{{ address = '127.0.0.1:{with_header}', proxy_protocol = true }}");
        let keys = listen(&format!("'127.0.0.1:{port}', {item}"));
        reload(&mut server, &format!("{keys}\ntrusted_proxies = [{trusted}]"));
        (server, with_header)
    }

    fn exchange(port: u16, parts: &[&[u8]]) -> Option<u16> {
        let mut stream = connect(port);
        for part in parts {
            stream.write_all(part).ok()?;
        }
        let mut text = String::new();
        let _ = stream.read_to_string(&mut text);
        parse_response(&text).map(|response| response.status)
    }

    const REQUEST: &[u8] =
        b"POST /hooks/a HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}";

    #[test]
    fn the_client_of_a_trusted_proxy_is_the_address_of_the_event() {
        let (server, port) = start("'127.0.0.1'");
        assert_eq!(exchange(port, &[&header(), REQUEST]), Some(202));
        // In pieces, as a network may deliver it.
        let header = header();
        assert_eq!(
            exchange(port, &[&header[..5], &header[5..20], &header[20..], REQUEST]),
            Some(202)
        );
        // A check of the proxy's own.
        assert_eq!(exchange(port, &[PREFIX, &[0x20, 0, 0, 0], REQUEST]), Some(202));
        // Which client the proxy's own check has, no header says.
        assert_eq!(
            server.value("select group_concat(coalesce(remote_ip, '?'), ' ') from trail"),
            "203.0.113.7 203.0.113.7 ?"
        );
    }

    #[test]
    fn a_connection_without_the_header_or_from_a_stranger_stores_nothing() {
        let (server, port) = start("'127.0.0.1'");
        assert_eq!(exchange(port, &[REQUEST]), None);
        assert_eq!(exchange(port, &[b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2\r\n", REQUEST]), None);
        until("the log says why", || {
            server.log().contains("does not begin with the PROXY protocol")
        });
        let (stranger, port) = start("'192.0.2.1'");
        assert_eq!(exchange(port, &[&header(), REQUEST]), None);
        until("the log says why", || stranger.log().contains("not in server.trusted_proxies"));
        for server in [&server, &stranger] {
            assert_eq!(server.value("select count(*) from events"), "0");
            assert_eq!(server.value("select count(*) from rejections"), "0");
        }
    }
}
