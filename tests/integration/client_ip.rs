//! The client IP: read strictly from the header of a trusted proxy, and unknown if that has none.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use crate::support::client::parse_response;
use crate::support::server::{Scenario, Server, scenario, stdout, until};

/// A server behind a proxy on this machine. Source `near` allows loopback addresses, source `a` all.
fn behind_a_proxy(keys: &str) -> Scenario {
    scenario()
        .server(keys)
        .source("near", "allow_from = [\"127.0.0.0/8\"]")
        .source("a", "")
        .handler("h", "transform = \"$ip\"", "cat; echo; echo \"<$HOOKTRAIL_IP>\"")
}

fn status(server: &Server, headers: &str) -> u16 {
    server.request("POST", "/hooks/near", headers, b"x").status
}

#[test]
fn allow_from_never_matches_an_unknown_client() {
    let server = behind_a_proxy("trusted_proxies = [\"127.0.0.1\"]").start();
    for value in ["unknown", "_hidden", "", "fe80::1%eth0", "127.0.0.1:99999", "127.0.0.1, junk"] {
        assert_eq!(status(&server, &format!("X-Forwarded-For: {value}")), 403, "{value:?}");
    }
    // Anyone may send the header that `proxy_header` does not name.
    assert_eq!(status(&server, "Forwarded: for=127.0.0.1"), 403);
    assert_eq!(status(&server, ""), 403);
    assert_eq!(status(&server, "X-Forwarded-For: 127.0.0.2"), 202);
    assert_eq!(status(&server, "X-Forwarded-For: ::ffff:127.0.0.2"), 202);
    server.until("select count(*) from rejections where remote_ip is null", "8");
}

#[test]
fn an_invalid_address_in_forwarded_leaves_the_client_unknown() {
    let keys = "trusted_proxies = [\"127.0.0.1\"]\nproxy_header = \"Forwarded\"";
    let server = behind_a_proxy(keys).start();
    for value in ["for=unknown", "for=_hidden", "proto=https", "for=\"[fe80::1%1]:80\"", "for="] {
        assert_eq!(status(&server, &format!("Forwarded: {value}")), 403, "{value}");
    }
    assert_eq!(status(&server, "X-Forwarded-For: 127.0.0.2"), 403);
    assert_eq!(status(&server, "Forwarded: for=127.0.0.2;proto=https"), 202);
}

#[test]
fn an_unknown_client_is_null_in_expressions_and_empty_for_handlers() {
    let server = behind_a_proxy("trusted_proxies = [\"127.0.0.1\"]").start();
    for value in ["unknown", "192.0.2.7"] {
        let sent = server.request("POST", "/hooks/a", &format!("X-Forwarded-For: {value}"), b"x");
        assert_eq!(sent.status, 202);
    }
    server.until("select count(*) from outcomes where outcome = 'succeeded'", "2");
    assert_eq!(
        server.column("select cast(stdout as text) from attempts order by job"),
        ["null\n<>\n", "\"192.0.2.7\"\n<192.0.2.7>\n"]
    );
    assert_eq!(server.column("select remote_ip from trail order by event"), ["-", "192.0.2.7"]);
    let output = stdout(&server.cli(&["show", "1", "--json"]));
    assert!(output.contains(r#""remote_ip":null"#), "{output}");
}

#[test]
fn a_client_over_a_unix_socket_is_unknown() {
    let mut server = behind_a_proxy("# a socket beside the port").start();
    assert_eq!(server.stop(), Some(0));
    server.set_listen("unix:http.sock");
    server.spawn();
    let socket = server.path().join("http.sock");
    let post = |path: &str| {
        let mut stream = UnixStream::connect(&socket).ok()?;
        let head = "Host: x\r\nConnection: close\r\nContent-Length: 1";
        write!(stream, "POST {path} HTTP/1.1\r\n{head}\r\n\r\nx").ok()?;
        let mut response = String::new();
        stream.read_to_string(&mut response).ok()?;
        parse_response(&response).map(|response| response.status)
    };
    until("the server listens", || post("/hooks/near") == Some(403));
    assert_eq!(post("/hooks/a"), Some(202));
    assert_eq!(server.column("select remote_ip from trail"), ["-"]);
}

#[test]
fn the_client_ip_comes_from_a_trusted_proxy() {
    let server = scenario()
        .server("trusted_proxies = [\"127.0.0.0/8\"]")
        .source("a", "allow_from = [\"192.0.2.0/24\"]")
        .start();
    let from = |ip: &str| {
        server.request("POST", "/hooks/a", &format!("X-Forwarded-For: {ip}"), b"x").status
    };
    assert_eq!((from("192.0.2.7"), from("198.51.100.1")), (202, 403));
    assert_eq!(server.column("select remote_ip from trail"), ["192.0.2.7"]);
}
