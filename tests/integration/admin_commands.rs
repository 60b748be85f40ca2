//! Commands that ask the admin listener of the running server: `open`, and `tail` of a running job. And the access to
//! the listener over a unix socket.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::Stdio;

use rustix::process::Signal;

use crate::support::client::{Response, send_request};
use crate::support::server::{Server, scenario, stderr, stdout, until};

/// A server with an admin listener, whose handler runs this script once for each event.
fn server_with(script: &str) -> Server {
    scenario()
        .admin("listen = [\"127.0.0.1:0\"]")
        .source("a", "")
        .handler("h", "retry = { max_attempts = 2, initial_delay = '10ms', jitter = 0 }", script)
        .start()
}

/// Requests a URL of the listener.
fn get(url: &str) -> Response {
    let rest = url.trim().strip_prefix("http://127.0.0.1:").expect("a URL of this machine");
    let (port, path) = rest.split_once('/').expect("a path");
    let port = port.parse().expect("a port");
    send_request(port, "GET", &format!("/{path}"), "", b"").expect("a response")
}

#[test]
fn open_prints_a_link_that_signs_in_once() {
    let server = server_with("true");
    let opened = server.cli(&["open"]);
    assert_eq!(opened.status.code(), Some(0), "{}", stderr(&opened));
    assert_eq!(stderr(&opened), "the link signs in once, within 5 minutes\n");
    let first = get(&stdout(&opened));
    assert_eq!((first.status, first.header("location")), (303, Some("/")));
    let cookie = first.header("set-cookie").expect("a session");
    for part in ["HttpOnly", "SameSite=Strict", "Path=/"] {
        assert!(cookie.contains(part), "{cookie}");
    }
    let again = get(&stdout(&opened));
    assert_eq!(again.status, 401);
    assert!(again.body.contains("This link was used"), "{}", again.body);
}

#[test]
fn open_says_what_is_missing() {
    let mut server = scenario().admin("listen = []").source("a", "").start();
    let (code, text) = server.cli_text(&["open"]);
    assert_eq!(code, Some(1));
    assert!(text.contains("the server has no admin listener: set admin.listen"), "{text}");
    server.stop();
    let (code, text) = server.cli_text(&["open"]);
    assert_eq!((code, text.contains("no server runs")), (Some(3), true), "{text}");
}

#[test]
fn tail_prints_how_a_job_ended_while_the_server_stopped() {
    let mut server = server_with("echo one; until [ -e go ]; do sleep 0.02; done; echo two");
    assert_eq!(server.post("/hooks/a", "{}").status, 202);
    server.until("select jobs from queue_depth where state = 'running'", "1");
    let mut command = server.start_cli(&["tail", "-f", "1"], Stdio::piped());
    let mut lines = BufReader::new(command.0.stdout.take().expect("the output"));
    let mut line = String::new();
    lines.read_line(&mut line).expect("a line");
    server.signal(Signal::TERM);
    until("the server stops", || server.log().contains("stopping"));
    server.write_file("go", "");
    assert_eq!(server.wait_for_exit(), Some(0));
    lines.read_to_string(&mut line).expect("the end");
    assert_eq!(line, "one\ntwo\n");
    assert!(command.0.wait().expect("the end").success());
}

#[test]
fn tail_follows_the_output_of_a_job_over_all_of_its_attempts() {
    let script = "if [ -e first ]; then echo done; exit 0; fi
        echo one; until [ -e go ]; do sleep 0.02; done; echo two >&2; touch first; exit 1";
    let server = server_with(script);
    assert_eq!(server.post("/hooks/a", "{}").status, 202);
    server.until("select jobs from queue_depth where state = 'running'", "1");
    let mut command = server.start_cli(&["tail", "-f", "1"], Stdio::piped());
    let mut lines = BufReader::new(command.0.stdout.take().expect("the output"));
    let mut line = String::new();
    lines.read_line(&mut line).expect("a line");
    assert_eq!(line, "one\n", "it comes while the job runs");
    server.write_file("go", "");
    let mut rest = String::new();
    lines.read_to_string(&mut rest).expect("the end");
    assert_eq!(rest, "done\n");
    assert!(command.0.wait().expect("the end").success());
    // Afterwards it prints what the last attempt has written.
    let ended = server.cli(&["tail", "1"]);
    assert_eq!((stdout(&ended), stderr(&ended)), ("done\n".into(), "succeeded: exit 0\n".into()));
}

#[test]
fn tail_prints_what_a_cancelled_job_writes_at_its_end_and_how_it_ended() {
    let server =
        server_with("trap 'echo bye; exit 1' TERM; echo one; while :; do sleep 0.02; done");
    assert_eq!(server.post("/hooks/a", "{}").status, 202);
    let mut command = server.start_cli(&["tail", "-f", "1"], Stdio::piped());
    let mut lines = BufReader::new(command.0.stdout.take().expect("the output"));
    let mut output = String::new();
    lines.read_line(&mut output).expect("a line");
    assert!(server.cli(&["cancel", "1"]).status.success());
    lines.read_to_string(&mut output).expect("the end");
    assert_eq!(output, "one\nbye\n");
    command.0.wait().expect("the end");
    server.until("select outcome || ': ' || detail from outcomes", "interrupted: cancelled");
}

#[test]
fn tail_of_a_running_job_prints_what_there_is_and_ends() {
    let server = server_with("echo one; until [ -e go ]; do sleep 0.02; done");
    assert_eq!(server.post("/hooks/a", "{}").status, 202);
    until("the output is there", || stdout(&server.cli(&["tail", "1"])) == "one\n");
    let (code, text) = server.cli_text(&["tail", "7"]);
    assert_eq!((code, text.as_str()), (Some(1), "job 7: there is no such job\n"));
    server.write_file("go", "");
    server.until("select outcome from outcomes", "succeeded");
}

#[test]
fn stats_watch_prints_the_numbers_again() {
    let server = server_with("true");
    let mut command = server.start_cli(&["stats", "--watch"], Stdio::piped());
    let lines = BufReader::new(command.0.stdout.take().expect("the output")).lines();
    let headers = lines.map_while(Result::ok).filter(|line| line.starts_with("handler "));
    assert_eq!(headers.take(2).count(), 2);
}

#[test]
fn a_unix_socket_needs_no_token_because_its_mode_decides() {
    let server = scenario()
        .admin("listen = [\"unix:admin.sock\"]")
        .source("a", "")
        .handler("h", "", "true")
        .start();
    let path = server.path().join("admin.sock");
    let mode = std::fs::metadata(&path).expect("the socket").permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    assert!(!server.path().join("admin.token").exists(), "no listener needs a token");
    let mut stream = UnixStream::connect(&path).expect("a connection");
    stream
        .write_all(
            b"POST /api/v1/handlers/h/pause HTTP/1.1\r\nHost: any.example\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        )
        .expect("a request");
    let mut response = String::new();
    stream.read_to_string(&mut response).expect("a response");
    assert!(response.starts_with("HTTP/1.1 200"), "{response}");
    let who = server.value("select who || ' ' || via || ' ' || action from audit_log");
    assert_eq!(who, "admin on a unix socket api pause");
    let (code, text) = server.cli_text(&["open"]);
    assert_eq!((code, text.contains("is a unix socket")), (Some(1), true), "{text}");
}
