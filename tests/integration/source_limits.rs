//! What limits a source, in the real server: its queue and its rate.

use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustix::net::sockopt::set_socket_linger;
use rustix::process::Signal;

use crate::support::server::{Scenario, Server, scenario, until};

/// A state in /proc/net/tcp.
const ESTABLISHED: &str = "01";

/// The inodes of the connections of which the server has read all that was sent.
fn read(server: &Server) -> Vec<String> {
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

/// How many of these the server has not closed.
fn open(server: &Server, inodes: &[String]) -> usize {
    let all = std::fs::read_dir(format!("/proc/{}/fd", server.pid())).into_iter().flatten();
    let name = |fd: std::io::Result<std::fs::DirEntry>| std::fs::read_link(fd.ok()?.path()).ok();
    let is_open =
        |name: &std::path::PathBuf| inodes.iter().any(|inode| name.as_os_str() == &**inode);
    all.filter_map(name).filter(is_open).count()
}

/// Returns when each intake thread has handled what it had read before: connections go to them by
/// turns.
fn take_turns(server: &Server) {
    for _ in 0..8 {
        assert_eq!(server.request("GET", "/healthz", "", b"").status, 200);
    }
}

/// Resets connections, and waits until the server has noticed.
fn reset(server: &Server, connections: Vec<TcpStream>) {
    let inodes = read(server);
    for stream in connections {
        // So a close is a reset.
        set_socket_linger(&stream, Some(Duration::ZERO)).expect("its option");
    }
    until("it has noticed", || open(server, &inodes) == 0);
}

/// A source whose events make three jobs each, which stay queued.
fn three_handlers(source: &str, handler: &str) -> Scenario {
    let keys = format!("paused = true\n{handler}");
    let scenario = scenario().source("a", source);
    scenario.handler("h", &keys, "true").handler("i", &keys, "true").handler("j", &keys, "true")
}

/// A request whose response is not read yet.
fn send(server: &Server, path: &str, body: &str) -> TcpStream {
    let mut stream = server.connect().expect("a connection");
    let length = body.len();
    let head = format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n");
    stream.write_all((head + body).as_bytes()).expect("a request");
    stream
}

#[test]
fn a_connection_that_is_reset_before_the_commit_gives_its_place_in_the_queue_back() {
    let server = scenario().source("a", "max_queued = 5").handler("h", "", "true").start();
    // Nothing is committed while somebody else writes.
    let other = server.trail();
    other.execute_batch("BEGIN IMMEDIATE").expect("the write lock");
    let waiting: Vec<TcpStream> = (0..10).map(|_| send(&server, "/hooks/a", "x")).collect();
    until("they are read", || read(&server).len() == 10);
    take_turns(&server);
    reset(&server, waiting);
    other.execute_batch("ROLLBACK").expect("an end");
    server.until("select count(*) from trail where settled_at is null", "0");
    until("it can write again", || server.post("/hooks/a", "x").status != 503);
    for _ in 0..10 {
        server.until("select count(*) from trail where settled_at is null", "0");
        assert_eq!(server.post("/hooks/a", "x").status, 202);
    }
}

#[test]
fn one_event_may_go_beyond_the_queues_limit_and_no_second_one() {
    let server = three_handlers("max_queued = 5", "").start();
    let other = server.trail();
    other.execute_batch("BEGIN IMMEDIATE").expect("the write lock");
    let mut waiting: Vec<TcpStream> = (0..12).map(|_| send(&server, "/hooks/a", "x")).collect();
    other.execute_batch("ROLLBACK").expect("an end");
    let mut statuses: Vec<u16> = waiting.iter_mut().map(status).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [[202; 2].as_slice(), &[429; 10]].concat());
    assert_eq!(server.value("select sum(queued) from trail"), "6");
}

/// The status of a response.
fn status(stream: &mut TcpStream) -> u16 {
    use std::io::Read;
    let mut start = [0; 12];
    stream.read_exact(&mut start).expect("a response");
    String::from_utf8_lossy(&start[9..]).parse().expect("a status")
}

#[test]
fn an_event_without_jobs_is_accepted_however_full_the_queue_is() {
    // An expression that is evaluated in place: an event that is evaluated later counts as a job.
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
fn a_limit_that_a_reload_brings_holds_for_what_is_queued_already() {
    let mut server = scenario().source("a", "").handler("h", "paused = true", "true").start();
    for _ in 0..3 {
        assert_eq!(server.post("/hooks/a", "x").status, 202);
    }
    let text = server.config().replace("[sources.a]", "[sources.a]\nmax_queued = 3");
    *server.config() = text;
    server.reload_with("");
    until("the configuration is reloaded", || server.log().contains(": reloaded"));
    assert_eq!(server.post("/hooks/a", "x").status, 429);
}

#[test]
fn no_second_has_more_accepted_requests_than_the_rate() {
    let server = scenario().source("a", "rate_limit = \"20/s\"").start();
    let mut accepted: Vec<(Instant, Instant)> = Vec::new();
    until("fifty are accepted", || {
        let sent_at = Instant::now();
        if server.post("/hooks/a", "x").status == 202 {
            accepted.push((sent_at, Instant::now()));
        }
        accepted.len() == 50
    });
    for twenty_one in accepted.windows(21) {
        let apart = twenty_one[20].1 - twenty_one[0].0;
        assert!(apart >= Duration::from_secs(1), "21 accepted within {apart:?}");
    }
}

#[test]
fn a_reload_empties_no_window_and_the_new_rate_counts_what_came_before() {
    let mut server = scenario().source("a", "rate_limit = \"3/h\"").start();
    let statuses: Vec<u16> = (0..4).map(|_| server.post("/hooks/a", "x").status).collect();
    assert_eq!(statuses, [202, 202, 202, 429]);
    let reloads = "select count(*) from audit_log where action = 'reload'";
    server.signal(Signal::HUP);
    server.until(reloads, "1");
    assert_eq!(server.post("/hooks/a", "x").status, 429);
    let text = server.config().replace("3/h", "4/h");
    *server.config() = text;
    server.reload_with("");
    server.until(reloads, "2");
    assert_eq!(server.post("/hooks/a", "x").status, 202);
    let beyond = server.post("/hooks/a", "x");
    let wait: u64 = beyond.header("retry-after").and_then(|it| it.parse().ok()).unwrap_or(0);
    assert!(beyond.status == 429 && (3500..=3600).contains(&wait), "{beyond:?}");
}

#[test]
fn a_request_that_is_refused_for_another_reason_does_not_count_for_the_rate() {
    let keys = "rate_limit = \"3/h\"\nmax_queued = 1";
    let server = scenario().source("a", keys).handler("h", "paused = true", "true").start();
    assert_eq!(server.post("/hooks/a", "x").status, 202);
    for _ in 0..5 {
        let answer = server.post("/hooks/a", "x");
        assert!(answer.status == 429 && answer.body.contains("queue is full"), "{answer:?}");
    }
    assert!(server.cli(&["cancel", "--all", "--yes"]).status.success());
    until("there is room", || server.post("/hooks/a", "x").status == 202);
    assert!(server.cli(&["cancel", "--all", "--yes"]).status.success());
    until("there is room", || server.post("/hooks/a", "x").status == 202);
    assert!(server.post("/hooks/a", "x").body.contains("too many requests"));
}

#[test]
fn repeats_count_for_the_rate() {
    let keys = "rate_limit = \"2/h\"\ndedupe = { body = true }";
    let server = scenario().source("a", keys).start();
    let statuses: Vec<u16> = (0..3).map(|_| server.post("/hooks/a", "x").status).collect();
    assert_eq!(statuses, [202, 202, 429]);
    assert_eq!(server.value("select duplicates from trail"), "1");
}

#[test]
fn a_body_of_the_largest_size_is_accepted_and_a_byte_more_is_not() {
    let server = scenario().source("a", "max_body_size = 1000").start();
    for (bytes, expected) in [(1000, 202), (1001, 413)] {
        let body = "x".repeat(bytes);
        assert_eq!(server.post("/hooks/a", &body).status, expected, "{bytes}");
        let head = "POST /hooks/a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
                    Transfer-Encoding: chunked\r\n\r\n";
        let (first, rest) = body.split_at(600);
        let chunk = |part: &str| format!("{:x}\r\n{part}\r\n", part.len());
        let chunked = format!("{head}{}{}0\r\n\r\n", chunk(first), chunk(rest));
        let answer = crate::support::client::parse(&server.raw(chunked.as_bytes()));
        assert_eq!(answer.map(|answer| answer.status), Some(expected), "{bytes} in chunks");
    }
}

#[test]
fn a_body_whose_connection_is_reset_counts_until_it_is_written() {
    let keys = "max_body_size = \"4 KiB\"\nmax_inflight_size = \"16 KiB\"";
    let server = scenario().server(keys).source("a", "").start();
    let other = server.trail();
    other.execute_batch("BEGIN IMMEDIATE").expect("the write lock");
    let body = "x".repeat(4 << 10);
    let mut waiting = Vec::new();
    // One after another, so that none has to be refused while another is being received.
    for number in 1..=4 {
        waiting.push(send(&server, "/hooks/a", &body));
        until("the configuration is reloaded", || read(&server).len() == number);
        take_turns(&server);
    }
    reset(&server, waiting);
    let mut fifth = send(&server, "/hooks/a", &body);
    until("the configuration is reloaded", || read(&server).len() == 1);
    take_turns(&server);
    other.execute_batch("ROLLBACK").expect("an end");
    assert_eq!(status(&mut fifth), 503, "four were still in memory");
    until("they are written", || server.post("/hooks/a", &body).status == 202);
}

#[test]
fn what_a_person_queues_again_counts_at_once() {
    let keys = "retry = { max_attempts = 1 }\nconcurrency = 1";
    let script = "[ ! -e hold ] || exec sleep 1000; exit 1";
    let server = scenario().source("a", "max_queued = 2").handler("h", keys, script).start();
    for _ in 0..3 {
        assert_eq!(server.post("/hooks/a", "x").status, 202);
        server.until("select count(*) from trail where settled_at is null", "0");
    }
    server.file("hold", "");
    assert!(server.cli(&["retry", "--all", "--yes"]).status.success());
    // One of the three may run by now.
    assert_eq!(server.post("/hooks/a", "x").status, 429);
}
