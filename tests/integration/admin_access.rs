//! Who may use the API: tokens, origins, hosts, unix sockets, and the file `admin.token`.

use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;

use serde_json::json;

use crate::support::admin::{Api, admin_scenario, admin_scenario_with, assert_problem, send_bytes};
use crate::support::client::{Response, send_request};
use crate::support::server::{DEADLINE, Server};

/// A request for each call of the API: method, path, body.
const CALLS: [(&str, &str, &str); 22] = [
    ("GET", "/api/v1/events", ""),
    ("GET", "/api/v1/events/1", ""),
    ("GET", "/api/v1/events/1/body", ""),
    ("POST", "/api/v1/events/replay", r#"{"events":[1],"dry_run":true}"#),
    ("GET", "/api/v1/jobs", ""),
    ("GET", "/api/v1/jobs/1", ""),
    ("GET", "/api/v1/jobs/1/output", ""),
    ("POST", "/api/v1/jobs/retry", r#"{"all":true,"dry_run":true}"#),
    ("POST", "/api/v1/jobs/cancel", r#"{"all":true,"dry_run":true}"#),
    ("GET", "/api/v1/outcomes", ""),
    ("GET", "/api/v1/rejections", ""),
    ("GET", "/api/v1/failures", ""),
    ("GET", "/api/v1/handlers", ""),
    ("POST", "/api/v1/handlers/h/pause", ""),
    ("POST", "/api/v1/handlers/h/resume", ""),
    ("GET", "/api/v1/sources", ""),
    ("GET", "/api/v1/audit", ""),
    ("GET", "/api/v1/operations", ""),
    ("GET", "/api/v1/operations/1", ""),
    ("POST", "/api/v1/operations/1/stop", ""),
    ("POST", "/api/v1/sign-in-links", ""),
    ("GET", "/api/v1/openapi.json", ""),
];

/// A server with one settled event.
fn server_with_an_event() -> (Server, Api) {
    let server = admin_scenario().start();
    server.post("/hooks/a", "{}");
    server.until("select succeeded from trail", "1");
    let api = Api::of(&server);
    // The first call of an operation needs one.
    api.act("/api/v1/jobs/retry", &json!({"all": true, "dry_run": true}));
    (server, api)
}

/// Sends a call with these headers instead of the token.
fn call(api: &Api, (method, path, body): (&str, &str, &str), headers: &str) -> Response {
    let headers = format!("Content-Type: application/json\n{headers}");
    send_request(api.port, method, path, &headers, body.as_bytes()).expect("a response")
}

#[test]
fn every_call_needs_a_token() {
    let (_server, api) = server_with_an_event();
    for request in CALLS {
        let without = call(&api, request, "");
        let detail = "the request needs a token: `Authorization: Bearer TOKEN`";
        assert_problem(&without, 401, detail);
        assert_eq!(without.header("www-authenticate"), Some("Bearer realm=\"hooktrail\""));
        for wrong in ["Bearer wrong", "Bearer ", "Bearer", "Basic d3Jvbmc6", "\u{e9}"] {
            let response = call(&api, request, &format!("Authorization: {wrong}"));
            let detail = "the token is not valid: expected `Authorization: Bearer` and the token of the \
                          file `admin.token` or of `admin.token` in config.toml";
            assert_problem(&response, 401, detail);
        }
        let with = call(&api, request, &format!("authorization: bearer {}", api.token));
        assert_eq!(with.status, 200, "{request:?}: {with:?}");
    }
}

#[test]
fn a_stranger_may_send_a_short_body_only() {
    let (_server, api) = server_with_an_event();
    let body = format!(r#"{{"all":true,"dry_run":true{}}}"#, " ".repeat(64 << 10));
    let request = ("POST", "/api/v1/jobs/retry", body.as_str());
    assert_eq!(call(&api, request, &format!("Authorization: Bearer {}", api.token)).status, 200);
    for strangers in ["", "Authorization: Bearer wrong"] {
        let detail = "the body is too large: expected at most 16384 bytes without a valid token";
        assert_problem(&call(&api, request, strangers), 413, detail);
    }
}

#[test]
fn a_path_that_does_not_exist_needs_a_token_too() {
    let (_server, api) = server_with_an_event();
    for path in ["/api", "/api/", "/api/v1", "/api/v1/nothing", "/api/v2/events", "/api/v1/events/"]
    {
        assert_eq!(call(&api, ("GET", path, ""), "").status, 401, "{path}");
        assert_problem(&api.get(path), 404, &format!("there is nothing at {path}"));
    }
}

#[test]
fn another_method_is_rejected_with_those_that_are_allowed() {
    let (_server, api) = server_with_an_event();
    for (method, path, _) in CALLS {
        let (other, allow) = match method {
            "GET" => ("DELETE", "GET, HEAD"),
            _ => ("GET", "POST"),
        };
        let response = api.request(other, path, "", b"");
        assert_problem(&response, 405, &format!("{other}: expected {allow}"));
        assert_eq!(response.header("allow"), Some(allow));
    }
    let head = api.request("HEAD", "/api/v1/events", "", b"");
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    assert_eq!(api.request("HEAD", "/api/v1/outcomes?follow=1", "", b"").status, 200);
}

#[test]
fn a_read_token_reads_and_does_not_act() {
    let scenario = admin_scenario_with("read_token = { file = \"read.token\" }");
    scenario.write_file("read.token", "a-token-that-only-reads\n");
    let server = scenario.start();
    server.post("/hooks/a", "{}");
    server.until("select succeeded from trail", "1");
    let api = Api::of(&server);
    api.act("/api/v1/jobs/retry", &json!({"all": true, "dry_run": true}));
    let reader = "Authorization: Bearer a-token-that-only-reads";
    for request in CALLS {
        let response = call(&api, request, reader);
        match request.0 {
            "GET" => assert_eq!(response.status, 200, "{request:?}: {response:?}"),
            _ => assert_problem(
                &response,
                403,
                "this token may read, not act: use the token of `admin.token`",
            ),
        }
    }
    assert_eq!(server.value("select count(*) from audit_log"), "0");
}

#[test]
fn a_request_of_another_site_is_rejected() {
    let (_server, api) = server_with_an_event();
    let detail = "the request comes from another site: open the console itself";
    let own = format!("Authorization: Bearer {}\n", api.token);
    for request in CALLS {
        for origin in
            ["https://example.com", "null", "http://localhost.example.com", "http://localhost:1"]
        {
            let response = call(&api, request, &format!("{own}Origin: {origin}"));
            assert_problem(&response, 403, detail);
        }
        assert_eq!(call(&api, request, &format!("{own}Origin: http://localhost")).status, 200);
        let response = call(&api, request, &format!("{own}Sec-Fetch-Site: cross-site"));
        match request.0 {
            "GET" => assert_eq!(response.status, 200),
            _ => assert_problem(&response, 403, detail),
        }
    }
}

/// Sends a GET with another name in `Host`. Empty: without the header.
fn get_from_host(api: &Api, host: &str) -> Response {
    let stream = TcpStream::connect(("127.0.0.1", api.port)).expect("a connection");
    stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    let host = if host.is_empty() { String::new() } else { format!("Host: {host}\r\n") };
    let token = &api.token;
    let request = format!(
        "GET /api/v1/events HTTP/1.1\r\n{host}Authorization: Bearer {token}\r\nConnection: close\r\n\r\n"
    );
    send_bytes(stream, request.as_bytes())
}

#[test]
fn a_foreign_host_is_rejected_before_the_token_is_checked() {
    let server = admin_scenario_with("hosts = [\"Console.example.com\"]").start();
    let api = Api::of(&server);
    for host in ["example.com", "example.com:8081", "127.0.0.1.example.com", "203.0.113.9"] {
        let name = host.split(':').next().expect("a name");
        let detail = format!(
            "this server is not {name:?}: use its address, `localhost`, or add the name to admin.hosts \
             in config.toml"
        );
        assert_problem(&get_from_host(&api, host), 421, &detail);
    }
    assert_eq!(get_from_host(&api, "").status, 400, "RFC 9112 demands the header");
    for host in ["localhost", "LOCALHOST:1", "127.0.0.1", "[::1]:8081", "console.example.com"] {
        assert_eq!(get_from_host(&api, host).status, 200, "{host}");
    }
    let stream = TcpStream::connect(("127.0.0.1", api.port)).expect("a connection");
    let health = b"GET /healthz HTTP/1.1\r\nHost: example.com\r\nConnection: close\r\n\r\n";
    assert_eq!(send_bytes(stream, health).status, 200, "health checks need no name");
}

#[test]
fn a_unix_socket_needs_no_token_and_the_audit_log_names_it() {
    let mut server = admin_scenario().prepare();
    server.replace_in_config("listen = [\"127.0.0.1:0\"]", "listen = [\"unix:admin.sock\"]");
    server.start();
    let socket = || {
        let stream = UnixStream::connect(server.path().join("admin.sock")).expect("a connection");
        stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        stream
    };
    let get = b"GET /api/v1/events HTTP/1.1\r\nHost: anything\r\nConnection: close\r\n\r\n";
    assert_eq!(send_bytes(socket(), get).status, 200);
    let pause = b"POST /api/v1/handlers/h/pause HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(send_bytes(socket(), pause).status, 200);
    let who =
        server.value("select who || ' ' || via || ' ' || action || ' ' || target from audit_log");
    assert_eq!(who, "admin on a unix socket api pause h");
    assert!(!server.path().join("admin.token").exists(), "a unix socket needs no token");
}

#[test]
fn the_server_creates_the_token_once_for_its_owner() {
    let mut server = admin_scenario().start();
    let token = Api::of(&server).token;
    let mode = fs::metadata(server.path().join("admin.token")).expect("the file").permissions();
    assert_eq!(mode.mode() & 0o777, 0o600);
    assert_eq!(token.len(), 64);
    assert_eq!(server.stop(), Some(0));
    server.start();
    let api = Api::of(&server);
    assert_eq!(api.token, token, "a restart keeps the token");
    assert_eq!(api.get("/api/v1/events").status, 200);
    assert!(!server.log().contains(&token), "the log has the token");
}

#[test]
fn a_reload_changes_the_tokens() {
    let scenario = admin_scenario_with("token = { file = \"act.token\" }");
    scenario.write_file("act.token", "the-first-token\n");
    let mut server = scenario.start();
    let mut api = Api::of(&server);
    assert!(!server.path().join("admin.token").exists(), "the configuration names a token");
    api.token = "the-first-token".to_owned();
    assert_eq!(api.get("/api/v1/events").status, 200);
    let mut stream = api.follow("", "Connection: close").until_open();
    let link =
        api.act("/api/v1/sign-in-links", &json!({}))["path"].as_str().expect("a path").to_owned();
    server.write_file("act.token", "the-second-token\n");
    server.reload_with("");
    server.until_reloads(1);
    assert_eq!(api.get("/api/v1/events").status, 401);
    api.token = "the-second-token".to_owned();
    assert_eq!(api.get("/api/v1/events").status, 200);
    assert_eq!(stream.next(), None, "the stream of the old token has ended");
    assert_eq!(send_request(api.port, "GET", &link, "", b"").expect("a response").status, 401);
    // Another reload with the same tokens ends nothing.
    let mut stream = api.follow("", "").until_open();
    server.reload_with("");
    server.until_reloads(2);
    server.post("/hooks/a", "{}");
    assert!(stream.next().is_some());
    let log = server.log();
    assert!(!log.contains("the-first-token") && !log.contains("the-second-token"), "{log}");
}
