//! The client's address: read strictly where a trusted proxy gives it, and unknown where it cannot be.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use crate::support::client::parse;
use crate::support::server::{Scenario, Server, out, scenario, until};

/// Behind a proxy on this machine: source `near` admits this machine alone, source `a` everybody.
fn behind_a_proxy(keys: &str) -> Scenario {
    scenario()
        .server(keys)
        .source("near", "allow_from = [\"127.0.0.0/8\"]")
        .source("a", "")
        .handler("own", "transform = \"$ip\"", "cat; echo; echo \"<$HOOKTRAIL_IP>\"")
}

fn status(server: &Server, headers: &str) -> u16 {
    server.request("POST", "/hooks/near", headers, b"x").status
}

#[test]
fn a_client_that_a_trusted_proxy_does_not_name_is_in_no_allow_from() {
    let server = behind_a_proxy("trusted_proxies = [\"127.0.0.1\"]").start();
    for value in ["unknown", "_hidden", "", "fe80::1%eth0", "127.0.0.1:99999", "127.0.0.1, junk"] {
        assert_eq!(status(&server, &format!("X-Forwarded-For: {value}")), 403, "{value:?}");
    }
    // The header that is not configured is a stranger's.
    assert_eq!(status(&server, "Forwarded: for=127.0.0.1"), 403);
    assert_eq!(status(&server, ""), 403);
    assert_eq!(status(&server, "X-Forwarded-For: 127.0.0.2"), 202);
    assert_eq!(status(&server, "X-Forwarded-For: ::ffff:127.0.0.2"), 202);
    server.until("select count(*) from rejections where remote_ip is null", "8");
}

#[test]
fn an_element_of_forwarded_that_is_no_address_leaves_the_client_unknown() {
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
        server.list("select cast(stdout as text) from attempts order by job"),
        ["null\n<>\n", "\"192.0.2.7\"\n<192.0.2.7>\n"]
    );
    assert_eq!(server.list("select remote_ip from trail order by event"), ["-", "192.0.2.7"]);
    let shown = out(&server.cli(&["show", "1", "--json"]));
    assert!(shown.contains(r#""remote_ip":null"#), "{shown}");
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
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        parse(&answer).map(|answer| answer.status)
    };
    until("it listens", || post("/hooks/near") == Some(403));
    assert_eq!(post("/hooks/a"), Some(202));
    assert_eq!(server.list("select remote_ip from trail"), ["-"]);
}
