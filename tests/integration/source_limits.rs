//! Limits of a source: `max_queued`, `rate_limit` and `max_body_size`, and the memory for bodies.

use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustix::net::sockopt::set_socket_linger;
use rustix::process::Signal;

use crate::support::server::{Scenario, Server, scenario, until};

/// The code of an established connection in /proc/net/tcp.
const ESTABLISHED: &str = "01";

/// The inodes of the connections on which the server has read all bytes that arrived.
fn read_connections(server: &Server) -> Vec<String> {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap_or_default();
    let port = format!(":{:04X}", server.port);
    let inode = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (local, queues, inode) = (fields.get(1)?, fields.get(4)?, fields.get(9)?);
        let is_read = local.ends_with(&port) && queues.ends_with(":00000000") && *inode != "0";
        (is_read && *fields.get(3)? == ESTABLISHED).then(|| format!("socket:[{inode}]"))
    };
    table.lines().filter_map(inode).collect()
}

/// The number of these connections that the server has not closed.
fn count_open(server: &Server, inodes: &[String]) -> usize {
    let all = std::fs::read_dir(format!("/proc/{}/fd", server.pid())).into_iter().flatten();
    let name = |fd: std::io::Result<std::fs::DirEntry>| std::fs::read_link(fd.ok()?.path()).ok();
    let is_open =
        |name: &std::path::PathBuf| inodes.iter().any(|inode| name.as_os_str() == &**inode);
    all.filter_map(name).filter(is_open).count()
}

/// Waits until each intake thread has handled the requests that it had read: new connections go to the
/// threads in turn.
fn flush_intake_threads(server: &Server) {
    for _ in 0..8 {
        assert_eq!(server.request("GET", "/healthz", "", b"").status, 200);
    }
}

/// Resets connections and waits until the server has closed its ends.
fn reset_connections(server: &Server, connections: Vec<TcpStream>) {
    let inodes = read_connections(server);
    for stream in connections {
        // Without lingering, a close resets the connection.
        set_socket_linger(&stream, Some(Duration::ZERO)).expect("the option");
    }
    until("the server has closed the connections", || count_open(server, &inodes) == 0);
}

/// A source with three paused handlers, so that each event has three queued jobs.
fn three_handlers(source: &str, handler: &str) -> Scenario {
    let keys = format!("paused = true\n{handler}");
    let scenario = scenario().source("a", source);
    scenario.handler("h", &keys, "true").handler("i", &keys, "true").handler("j", &keys, "true")
}

/// Sends a request without reading the response.
fn send_request(server: &Server, path: &str, body: &str) -> TcpStream {
    let mut stream = server.connect().expect("a connection");
    let length = body.len();
    let head = format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n");
    stream.write_all((head + body).as_bytes()).expect("a request");
    stream
}

#[test]
fn a_connection_reset_before_the_commit_frees_its_queue_slot() {
    let server = scenario().source("a", "max_queued = 5").handler("h", "", "true").start();
    // The server cannot commit while another connection holds the write lock.
    let lock = server.lock_database();
    let waiting: Vec<TcpStream> = (0..10).map(|_| send_request(&server, "/hooks/a", "x")).collect();
    until("the server has read the requests", || read_connections(&server).len() == 10);
    flush_intake_threads(&server);
    reset_connections(&server, waiting);
    drop(lock);
    server.until("select count(*) from trail where settled_at is null", "0");
    until("the server can write", || server.post("/hooks/a", "x").status != 503);
    for _ in 0..10 {
        server.until("select count(*) from trail where settled_at is null", "0");
        assert_eq!(server.post("/hooks/a", "x").status, 202);
    }
}

#[test]
fn only_one_event_may_exceed_max_queued() {
    let server = three_handlers("max_queued = 5", "").start();
    let lock = server.lock_database();
    let mut waiting: Vec<TcpStream> =
        (0..12).map(|_| send_request(&server, "/hooks/a", "x")).collect();
    drop(lock);
    let mut statuses: Vec<u16> = waiting.iter_mut().map(read_status).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [[202; 2].as_slice(), &[429; 10]].concat());
    assert_eq!(server.value("select sum(queued) from trail"), "6");
}

/// Reads the status of a response.
fn read_status(stream: &mut TcpStream) -> u16 {
    use std::io::Read;
    let mut start = [0; 12];
    stream.read_exact(&mut start).expect("a response");
    String::from_utf8_lossy(&start[9..]).parse().expect("a status")
}

#[test]
fn an_event_without_jobs_is_accepted_with_a_full_queue() {
    // The expression is evaluated inline: a deferred event would count as a job.
    let server = three_handlers("max_queued = 2", "when = '.item'").start();
    for (body, expected) in [
        (r#"{"item":1}"#, 202),
        (r#"{"item":2}"#, 429),
        (r#"{"item":null}"#, 202),
        (r#"{"ping":1}"#, 202),
        (r#"{"item":3}"#, 429),
    ] {
        assert_eq!(server.post("/hooks/a", body).status, expected, "{body}");
    }
    assert_eq!(server.value("select group_concat(jobs) from trail order by event"), "3,0,0");
}

#[test]
fn a_limit_added_by_a_reload_counts_jobs_queued_before() {
    let mut server = scenario().source("a", "").handler("h", "paused = true", "true").start();
    for _ in 0..3 {
        assert_eq!(server.post("/hooks/a", "x").status, 202);
    }
    server.replace_in_config("[sources.a]", "[sources.a]\nmax_queued = 3");
    server.reload_with("");
    server.until_reloads(1);
    assert_eq!(server.post("/hooks/a", "x").status, 429);
}

#[test]
fn no_second_has_more_accepted_requests_than_the_rate_limit() {
    let server = scenario().source("a", "rate_limit = \"20/s\"").start();
    let mut accepted: Vec<(Instant, Instant)> = Vec::new();
    until("fifty requests are accepted", || {
        let sent_at = Instant::now();
        if server.post("/hooks/a", "x").status == 202 {
            accepted.push((sent_at, Instant::now()));
        }
        accepted.len() == 50
    });
    for twenty_one in accepted.windows(21) {
        let span = twenty_one[20].1 - twenty_one[0].0;
        assert!(span >= Duration::from_secs(1), "21 accepted within {span:?}");
    }
}

#[test]
fn a_changed_rate_limit_counts_requests_from_before_the_reload() {
    let mut server = scenario().source("a", "rate_limit = \"3/h\"").start();
    let statuses: Vec<u16> = (0..4).map(|_| server.post("/hooks/a", "x").status).collect();
    assert_eq!(statuses, [202, 202, 202, 429]);
    server.signal(Signal::HUP);
    server.until_reloads(1);
    assert_eq!(server.post("/hooks/a", "x").status, 429);
    server.replace_in_config("3/h", "4/h");
    server.reload_with("");
    server.until_reloads(2);
    assert_eq!(server.post("/hooks/a", "x").status, 202);
    let rejected = server.post("/hooks/a", "x");
    let wait: u64 =
        rejected.header("retry-after").and_then(|seconds| seconds.parse().ok()).unwrap_or(0);
    assert!(rejected.status == 429 && (3500..=3600).contains(&wait), "{rejected:?}");
}

#[test]
fn a_request_rejected_for_another_reason_does_not_count_for_the_rate_limit() {
    let keys = "rate_limit = \"3/h\"\nmax_queued = 1";
    let server = scenario().source("a", keys).handler("h", "paused = true", "true").start();
    assert_eq!(server.post("/hooks/a", "x").status, 202);
    for _ in 0..5 {
        let response = server.post("/hooks/a", "x");
        assert!(response.status == 429 && response.body.contains("queue is full"), "{response:?}");
    }
    assert!(server.cli(&["cancel", "--all", "--yes"]).status.success());
    until("the queue has room", || server.post("/hooks/a", "x").status == 202);
    assert!(server.cli(&["cancel", "--all", "--yes"]).status.success());
    until("the queue has room", || server.post("/hooks/a", "x").status == 202);
    assert!(server.post("/hooks/a", "x").body.contains("too many requests"));
}

#[test]
fn duplicates_count_for_the_rate_limit() {
    let keys = "rate_limit = \"2/h\"\ndedupe = { body = true }";
    let server = scenario().source("a", keys).start();
    let statuses: Vec<u16> = (0..3).map(|_| server.post("/hooks/a", "x").status).collect();
    assert_eq!(statuses, [202, 202, 429]);
    assert_eq!(server.value("select duplicates from trail"), "1");
}

#[test]
fn a_body_of_max_body_size_is_accepted_and_a_byte_more_is_413() {
    let server = scenario().source("a", "max_body_size = 1000").start();
    for (bytes, expected) in [(1000, 202), (1001, 413)] {
        let body = "x".repeat(bytes);
        assert_eq!(server.post("/hooks/a", &body).status, expected, "{bytes}");
        let head = "POST /hooks/a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
                    Transfer-Encoding: chunked\r\n\r\n";
        let (first, rest) = body.split_at(600);
        let chunk = |part: &str| format!("{:x}\r\n{part}\r\n", part.len());
        let chunked = format!("{head}{}{}0\r\n\r\n", chunk(first), chunk(rest));
        let response = crate::support::client::parse_response(&server.send_raw(chunked.as_bytes()));
        assert_eq!(response.map(|response| response.status), Some(expected), "{bytes} in chunks");
    }
}

#[test]
fn the_body_of_a_reset_connection_uses_memory_until_it_is_written() {
    let keys = "max_body_size = \"4 KiB\"\nmax_inflight_size = \"16 KiB\"";
    let server = scenario().server(keys).source("a", "").start();
    let lock = server.lock_database();
    let body = "x".repeat(4 << 10);
    let mut waiting = Vec::new();
    // One at a time, so that none is rejected while the server receives another.
    for number in 1..=4 {
        waiting.push(send_request(&server, "/hooks/a", &body));
        until("the server has read the body", || read_connections(&server).len() == number);
        flush_intake_threads(&server);
    }
    reset_connections(&server, waiting);
    let mut fifth = send_request(&server, "/hooks/a", &body);
    until("the server has read the body", || read_connections(&server).len() == 1);
    flush_intake_threads(&server);
    drop(lock);
    assert_eq!(read_status(&mut fifth), 503, "four were still in memory");
    until("the events are written", || server.post("/hooks/a", &body).status == 202);
}

#[test]
fn jobs_queued_by_retry_count_for_max_queued() {
    let keys = "retry = { max_attempts = 1 }\nconcurrency = 1";
    let script = "[ ! -e hold ] || exec sleep 1000; exit 1";
    let server = scenario().source("a", "max_queued = 2").handler("h", keys, script).start();
    for _ in 0..3 {
        assert_eq!(server.post("/hooks/a", "x").status, 202);
        server.until("select count(*) from trail where settled_at is null", "0");
    }
    server.write_file("hold", "");
    assert!(server.cli(&["retry", "--all", "--yes"]).status.success());
    // One of the three jobs may already run.
    assert_eq!(server.post("/hooks/a", "x").status, 429);
}

#[test]
fn beyond_max_queued_and_rate_limit_is_429() {
    let server = scenario()
        .source("a", "max_queued = 2")
        .source("b", "rate_limit = \"1/h\"")
        .handler("h", "paused = true", "true")
        .start();
    let statuses: Vec<u16> = (0..3).map(|_| server.post("/hooks/a", "x").status).collect();
    assert_eq!(statuses, [202, 202, 429]);
    assert_eq!(server.post("/hooks/b", "x").status, 202);
    let rejected = server.post("/hooks/b", "x");
    assert!(rejected.status == 429 && rejected.header("retry-after").is_some(), "{rejected:?}");
    // Cancelled jobs do not count for the limit.
    assert!(server.cli(&["cancel", "--all", "--yes"]).status.success());
    until("the queue has room", || server.post("/hooks/a", "x").status == 202);
}
