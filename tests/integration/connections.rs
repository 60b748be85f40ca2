//! Limits of connections: time, memory and number, and what remains for other clients.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::client::parse_response;
use crate::support::server::{Server, scenario, until};

const GET: &[u8] = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";
const POST: &[u8] = b"POST /hooks/a HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}";
const ALIVE: &str = r#"{"status":"alive"}"#;

/// Reads one response up to this text.
fn read_to(stream: &mut TcpStream, end: &str) -> String {
    let (mut text, mut byte) = (String::new(), [0]);
    while !text.ends_with(end) {
        assert_eq!(stream.read(&mut byte).expect("a response"), 1, "{text:?} breaks off");
        text.push(char::from(byte[0]));
    }
    text
}

/// Reads until the end of the connection.
fn read_all(stream: &mut TcpStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("the end of the connection");
    text
}

/// The statuses of the responses. One whose status has not arrived yet is left out.
fn statuses(text: &str) -> Vec<&str> {
    text.split("HTTP/1.1 ").skip(1).filter_map(|response| response.get(..3)).collect()
}

/// Waits until this much time has passed since a moment.
fn until_elapsed(since: Instant, time: Duration) {
    until("time passes", || since.elapsed() >= time);
}

/// A connection on which one request was sent and answered.
fn connect_and_get(server: &Server) -> TcpStream {
    let mut stream = server.connect().expect("a connection");
    stream.write_all(GET).expect("a request");
    read_to(&mut stream, ALIVE);
    stream
}

/// Whether the server has closed the connection.
fn is_closed(stream: &mut TcpStream) -> bool {
    stream.set_nonblocking(true).expect("the mode");
    let read = stream.read(&mut [0]);
    stream.set_nonblocking(false).expect("the mode");
    match read {
        Ok(count) => count == 0,
        Err(e) => e.kind() != ErrorKind::WouldBlock,
    }
}

#[test]
fn the_request_timeout_limits_the_second_head_of_a_connection() {
    let server = scenario().server("request_timeout = \"300ms\"").source("a", "").start();
    let mut stream = connect_and_get(&server);
    stream.write_all(b"POST /hooks/a HTTP/1.1\r\nX: ").expect("half a head");
    let late = parse_response(&read_all(&mut stream)).expect("a response");
    let response = (late.status, late.header("connection"), late.body.as_str());
    assert_eq!(response, (408, Some("close"), r#"{"error":"request took too long"}"#));
}

#[test]
fn the_request_timeout_limits_a_pipelined_head() {
    let server = scenario().server("request_timeout = \"300ms\"").source("a", "").start();
    for before in [GET, POST] {
        let sent = [before, b"POST /hooks/a HTTP/1.1\r\nX: "].concat();
        let responses = server.send_raw(&sent);
        assert_eq!(statuses(&responses)[1..], ["408"], "{responses}");
    }
}

#[test]
fn the_request_timeout_limits_unix_sockets_and_the_admin_listener() {
    let server = scenario()
        .server("request_timeout = \"300ms\"")
        .listen("unix:http.sock")
        .admin("listen = [\"unix:admin.sock\"]")
        .source("a", "")
        .start();
    for socket in ["http.sock", "admin.sock"] {
        let mut stream = UnixStream::connect(server.path().join(socket)).expect("a connection");
        let ahead = [GET, b"GET /healthz HTTP/1.1\r\nX: "].concat();
        stream.write_all(&ahead).expect("a request and half a head");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("the end of the connection");
        assert_eq!(statuses(&text), ["200", "408"], "{socket}");
    }
}

#[test]
fn the_request_timeout_starts_with_the_first_byte() {
    let server = scenario().server("request_timeout = \"2s\"").source("a", "").start();
    let mut stream = server.connect().expect("a connection");
    let connected_at = Instant::now();
    until_elapsed(connected_at, Duration::from_millis(1200));
    stream.write_all(&POST[..9]).expect("the first bytes");
    until_elapsed(connected_at, Duration::from_millis(2200));
    stream.write_all(&POST[9..]).expect("the rest");
    assert!(read_to(&mut stream, "}").starts_with("HTTP/1.1 202"));
}

#[test]
fn the_request_timeout_covers_head_and_body_together() {
    let server = scenario().server("request_timeout = \"3s\"").source("a", "").start();
    let mut stream = connect_and_get(&server);
    let began_at = Instant::now();
    stream.write_all(&POST[..9]).expect("the first bytes");
    until_elapsed(began_at, Duration::from_secs(2));
    let head_at = Instant::now();
    stream.write_all(&POST[9..POST.len() - 1]).expect("all but one");
    assert_eq!(statuses(&read_all(&mut stream)), ["408"]);
    assert!(head_at.elapsed() < Duration::from_secs(3), "the body got its own time");
}

#[test]
fn a_silent_connection_is_closed_without_a_response() {
    let server = scenario().server("request_timeout = \"200ms\"").source("a", "").start();
    let mut stream = server.connect().expect("a connection");
    assert_eq!(read_all(&mut stream), "");
}

#[test]
fn an_idle_connection_is_closed_after_keep_alive() {
    let server = scenario()
        .server("request_timeout = \"100ms\"\nkeep_alive = \"2s\"")
        .source("a", "")
        .start();
    let mut stream = connect_and_get(&server);
    let idle_at = Instant::now();
    until_elapsed(idle_at, Duration::from_millis(500));
    stream.write_all(GET).expect("an open connection");
    read_to(&mut stream, ALIVE);
    assert_eq!(read_all(&mut stream), "");
    assert!(idle_at.elapsed() >= Duration::from_secs(2));
}

#[test]
fn a_client_that_reads_no_responses_is_disconnected() {
    let server = scenario().server("request_timeout = \"300ms\"").source("a", "").start();
    let mut stream = server.connect().expect("a connection");
    stream.set_nonblocking(true).expect("the mode");
    let flood = GET.repeat(200);
    let mut sent = 0;
    until("the connection is closed", || {
        loop {
            match stream.write(&flood[sent..]) {
                Ok(count) => sent = (sent + count) % flood.len(),
                Err(e) => return e.kind() != ErrorKind::WouldBlock,
            }
        }
    });
}

#[test]
fn an_endless_body_is_not_read_forever_after_its_response() {
    let server = scenario().source("a", "").start();
    let head = "POST /nowhere HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
    let chunk = [b"10000\r\n".as_slice(), &vec![b'x'; 0x10000], b"\r\n"].concat();
    let mut stream = server.connect().expect("a connection");
    stream.write_all(head.as_bytes()).expect("a head");
    let mut reader = stream.try_clone().expect("another handle");
    let response = std::thread::spawn(move || read_to(&mut reader, "}"));
    until("the connection is closed", || stream.write_all(&chunk).is_err());
    assert!(response.join().expect("a response").starts_with("HTTP/1.1 404"));
}

#[test]
fn a_websocket_upgrade_is_ignored_and_content_length_ends_the_body() {
    let server = scenario().server("request_timeout = \"10m\"").source("a", "").start();
    let upgrade =
        "POST /hooks/a HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n";
    let with_body = format!("{upgrade}Content-Length: 4\r\n\r\nbody, and what comes behind it");
    assert_eq!(statuses(&server.send_raw(with_body.as_bytes())), ["202"]);
    assert_eq!(server.value("select cast(body as text) from events"), "body");
    let without_body = format!("{upgrade}\r\n");
    assert_eq!(statuses(&server.send_raw(without_body.as_bytes())), ["202"]);
    let connect = "CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n";
    assert_eq!(statuses(&server.send_raw(connect.as_bytes())), ["404"]);
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let server = scenario().server("request_timeout = \"300ms\"").source("a", "").start();
    let mut stream = server.connect().expect("a connection");
    let ahead = [POST, POST, GET].concat();
    stream.write_all(&ahead).expect("three requests");
    assert_eq!(statuses(&read_to(&mut stream, ALIVE)), ["202", "202", "200"]);
    for request in [POST, GET] {
        // After the response, no leftover byte may start the timeout of another request.
        until_elapsed(Instant::now(), Duration::from_millis(900));
        stream.write_all(request).expect("an open connection");
        read_to(&mut stream, "}");
    }
}

/// Reads this many responses, of which the last ends with a brace.
fn read_responses(stream: &mut TcpStream, count: usize) -> String {
    let (mut text, mut bytes) = (String::new(), [0; 4096]);
    while statuses(&text).len() < count || !text.ends_with('}') {
        let read = stream.read(&mut bytes).expect("a response");
        assert_ne!(read, 0, "{} of {count} responses", statuses(&text).len());
        text.push_str(std::str::from_utf8(&bytes[..read]).expect("text"));
    }
    text
}

#[test]
fn pipelined_requests_take_little_memory() {
    let server = scenario().source("a", "").start();
    let status_kib = |key: &str| -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", server.pid())).expect("status");
        let line = status.lines().find_map(|line| line.strip_prefix(key)).expect("the key");
        line.trim_end_matches(" kB").trim().parse().expect("a number")
    };
    let before_kib = status_kib("VmRSS:");
    let ahead = POST.repeat(600);
    let send = |_| {
        let mut stream = server.connect().expect("a connection");
        stream.write_all(&ahead).expect("all requests");
        stream
    };
    let streams: Vec<TcpStream> = (0..20).map(send).collect();
    for mut stream in streams {
        assert_eq!(statuses(&read_responses(&mut stream, 600)), ["202"; 600]);
    }
    let growth_kib = status_kib("VmHWM:") - before_kib;
    assert!(growth_kib < 60 << 10, "{growth_kib} KiB");
}

#[test]
fn pipelined_requests_keep_their_connection_open() {
    let server = scenario().source("a", "").start();
    let mut ahead = Vec::new();
    for bytes in (0..200).map(|number| number * 37) {
        let body = "x".repeat(bytes);
        let head = "POST /hooks/a HTTP/1.1\r\nHost: x\r\n";
        ahead.extend(format!("{head}Content-Length: {bytes}\r\n\r\n{body}").bytes());
        // A body whose lines look like requests.
        let body = format!("{body}\r\nGET / HTTP/1.1\r\n\r\n");
        let size = body.len();
        let head = format!("{head}Transfer-Encoding: chunked\r\n");
        ahead.extend(format!("{head}\r\n{size:x}\r\n{body}\r\n0\r\n\r\n").bytes());
        ahead.extend(GET);
    }
    ahead.extend(POST);
    let mut stream = server.connect().expect("a connection");
    let mut writer = stream.try_clone().expect("another handle");
    let sent = std::thread::spawn(move || writer.write_all(&ahead));
    let text = read_responses(&mut stream, 601);
    sent.join().expect("a thread").expect("all requests");
    let expected: Vec<&str> =
        ["202", "202", "200"].repeat(200).into_iter().chain(["202"]).collect();
    assert_eq!(statuses(&text), expected);
    assert!(!text.contains("connection: close"));
    assert_eq!(server.value("select count(*) from events"), "401");
}

#[test]
fn pipelined_requests_behind_sixteen_others_get_their_responses() {
    let server = scenario().source("a", "").start();
    for _ in 0..30 {
        let mut stream = server.connect().expect("a connection");
        // The first response takes a commit; the others are ready at once after it.
        stream.write_all(&[POST, &GET.repeat(16)].concat()).expect("17 requests");
        stream.write_all(&GET.repeat(10)).expect("ten more");
        for _ in 0..26 {
            read_to(&mut stream, ALIVE);
        }
    }
}

#[test]
fn beyond_max_connections_the_longest_idle_one_is_closed() {
    let server = scenario().server("max_connections = 3").source("a", "").start();
    // A client can have its response shortly before the server counts the connection as idle.
    let connect_and_idle = |_| {
        let stream = connect_and_get(&server);
        until_elapsed(Instant::now(), Duration::from_millis(300));
        stream
    };
    let mut idle: Vec<TcpStream> = (0..3).map(connect_and_idle).collect();
    // Now the first connection is not the longest idle one.
    idle[0].write_all(GET).expect("a request");
    read_to(&mut idle[0], ALIVE);
    let _fourth = connect_and_get(&server);
    until("the second connection is closed", || is_closed(&mut idle[1]));
    assert!(!is_closed(&mut idle[0]) && !is_closed(&mut idle[2]));
}

#[test]
fn a_stop_ends_after_idle_connections_were_closed_for_new_ones() {
    let mut server = scenario().server("max_connections = 3").source("a", "").start();
    let _idle: Vec<TcpStream> = (0..3).map(|_| connect_and_get(&server)).collect();
    until_elapsed(Instant::now(), Duration::from_millis(300));
    let _fourth = connect_and_get(&server);
    server.signal(Signal::TERM);
    assert_eq!(server.wait_for_exit(), Some(0));
}

#[test]
fn without_an_idle_connection_new_ones_wait_except_on_the_admin_listener() {
    let server = scenario()
        .server("max_connections = 1\nrequest_timeout = \"10m\"")
        .admin("listen = [\"127.0.0.1:0\"]")
        .source("a", "")
        .start();
    let mut busy = connect_and_get(&server);
    busy.write_all(&POST[..9]).expect("the first bytes");
    let mut waiting = server.connect().expect("a connection");
    waiting.write_all(POST).expect("a request");
    let log = server.log();
    let admin =
        log.split("the console is at http://").nth(1).and_then(|rest| rest.split(' ').next());
    let mut admin = TcpStream::connect(admin.expect("the address").trim()).expect("a connection");
    admin.write_all(GET).expect("a request");
    read_to(&mut admin, ALIVE);
    assert!(!is_closed(&mut waiting), "the new connection waits");
    busy.write_all(&POST[9..]).expect("the rest");
    let response = read_all(&mut busy);
    assert_eq!(statuses(&response), ["202"]);
    assert!(response.contains("connection: close"), "another connection waits: {response}");
    assert!(read_to(&mut waiting, "}").starts_with("HTTP/1.1 202"));
}

#[test]
fn connections_leave_file_descriptors_for_jobs_and_the_admin_listener() {
    let server = scenario()
        .wrapped_by(&["prlimit", "--nofile=240"])
        .server("request_timeout = \"10m\"")
        .admin("listen = [\"unix:admin.sock\"]")
        .source("a", "")
        .handler("h", "retry = { max_attempts = 1 }", "true")
        .start();
    assert!(server.log().contains("leaves 30 connections"), "{}", server.log());
    assert_eq!(server.post("/hooks/a", "x").status, 202);
    // As many connections as file descriptors, each with half a request.
    let busy = |_| {
        let mut stream = server.connect().expect("a connection");
        stream.write_all(&POST[..9]).expect("the first bytes");
        stream
    };
    let busy: Vec<TcpStream> = (0..240).map(busy).collect();
    let mut admin = UnixStream::connect(server.path().join("admin.sock")).expect("a connection");
    admin.write_all(GET).expect("a request");
    let mut text = [0; 12];
    admin.read_exact(&mut text).expect("a response");
    assert_eq!(text, *b"HTTP/1.1 200");
    assert!(server.cli(&["replay", "1"]).status.success());
    server.until("select group_concat(outcome) from outcomes", "succeeded,succeeded");
    drop(busy);
    assert_eq!(server.post("/hooks/a", "x").status, 202);
}

#[test]
fn unfinished_bodies_of_one_address_leave_memory_for_other_addresses() {
    let keys = "max_inflight_size = \"1 MiB\"\nrequest_timeout = \"10m\"\n\
                trusted_proxies = [\"127.0.0.1\"]";
    let server = scenario()
        .server(&format!("{keys}\nmax_body_size = \"256 KiB\""))
        .source("a", "")
        .source("b", "")
        .start();
    let unfinished = |ip: &str, path: &str| {
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: {ip}\r\nContent-Length: 131072\r\n\r\n"
        );
        let mut stream = server.connect().expect("a connection");
        stream.write_all(head.as_bytes()).expect("a head");
        stream.write_all(&[b'x'; 131_071]).expect("all but one");
        stream
    };
    let mut held = Vec::new();
    let post = |ip: &str, body: &[u8]| {
        server.request("POST", "/hooks/b", &format!("X-Forwarded-For: {ip}"), body).status
    };
    // One address may use five eighths of 1 MiB, which is five of these bodies. On a slow machine, the first of
    // them may be disconnected before the last arrives.
    until("the share of the address is full", || {
        held.extend((0..6).map(|_| unfinished("192.0.2.1", "/hooks/a")));
        post("192.0.2.1", &[b'x'; 131_072]) == 503
    });
    assert_eq!(post("192.0.2.2", &[b'x'; 131_072]), 202, "a large one of another address");
    assert_eq!(post("192.0.2.1", b"x"), 202, "a small one of the same");
    for mut stream in held {
        let _ = stream.write_all(b"x");
        assert!(matches!(statuses(&read_to(&mut stream, "}"))[..], ["202" | "503" | "408"]));
    }
}

#[test]
fn a_stalled_large_body_is_disconnected_while_memory_is_short() {
    let keys = "max_inflight_size = \"1 MiB\"\nrequest_timeout = \"10m\"";
    let server = scenario().server(keys).source("a", "").start();
    let mut stream = server.connect().expect("a connection");
    let head = "POST /hooks/a HTTP/1.1\r\nHost: x\r\nContent-Length: 1048576\r\n\r\n";
    stream.write_all(head.as_bytes()).expect("a head");
    stream.write_all(&vec![b'x'; 600 << 10]).expect("more than half");
    assert_eq!(statuses(&read_all(&mut stream)), ["408"]);
}

#[test]
fn a_request_in_progress_at_a_stop_gets_its_response() {
    let mut server = scenario().server("request_timeout = \"10m\"").source("a", "").start();
    let mut stream = connect_and_get(&server);
    stream.write_all(&POST[..POST.len() - 1]).expect("all but one");
    let mut idle = connect_and_get(&server);
    // The server has read the head before it responded to the later connection.
    server.signal(Signal::TERM);
    until("the server stops", || server.log().contains("stopping"));
    stream.write_all(b"}").expect("the last");
    assert!(read_to(&mut stream, "}").starts_with("HTTP/1.1 202"));
    assert_eq!(read_all(&mut idle), "");
    assert_eq!(server.wait_for_exit(), Some(0));
    assert_eq!(server.value("select count(*) from events"), "1");
}

#[test]
fn an_incomplete_request_is_408_after_the_request_timeout() {
    let server = scenario().server("request_timeout = \"200ms\"").source("a", "").start();
    let mut stream = server.connect().expect("a connection");
    stream
        .write_all(b"POST /hooks/a HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc")
        .expect("half a request");
    let mut response = String::new();
    stream.read_to_string(&mut response).expect("a response and the end of the connection");
    assert_eq!(parse_response(&response).map(|response| response.status), Some(408));
}
