//! `GET /api/v1/outcomes?follow=1`: outcomes as server-sent events.

use std::fs;
use std::io::Write;
use std::net::TcpStream;

use rusqlite::params;
use serde_json::json;

use crate::support::admin::{Api, OutcomeStream, admin_scenario, assert_problem};
use crate::support::server::{Server, until};

fn start() -> (Server, Api) {
    let server = admin_scenario()
        .source("b", "")
        .handler("b", "", "exit 65")
        .handler_source("b", "b")
        .start();
    let api = Api::of(&server);
    (server, api)
}

#[test]
fn a_stream_sends_new_outcomes_as_rows_of_the_view() {
    let (server, api) = start();
    server.post("/hooks/a", "{}");
    server.until("select count(*) from outcomes", "1");
    let mut stream = api.follow("", "").until_open();
    server.post("/hooks/a", "{}");
    let (id, row) = stream.next().expect("an outcome");
    assert_eq!(id, 2, "an earlier outcome is not sent");
    assert_eq!(row, api.items("/api/v1/outcomes")[0]);
    assert_eq!((&row["source"], &row["outcome"]), (&json!("a"), &json!("succeeded")));
}

#[test]
fn a_client_that_resumes_misses_nothing_and_gets_nothing_twice() {
    let (server, api) = start();
    let mut stream = api.follow("", "Last-Event-ID: 0").until_open();
    let mut ids = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..200 {
                server.post("/hooks/a", "{}");
            }
        });
        while ids.len() < 200 {
            let (id, _) = stream.next().expect("an outcome");
            ids.push(id);
            if ids.len() % 17 == 0 {
                // Comes back as a browser does.
                stream = api.follow("", &format!("Last-Event-ID: {id}")).until_open();
            }
        }
    });
    assert_eq!(ids, (1..=200).collect::<Vec<i64>>());
}

#[test]
fn a_stream_has_only_the_outcomes_that_its_filters_select() {
    let (server, api) = start();
    let follow = |query: &str| api.follow(query, "").until_open();
    let mut streams =
        [follow("&source=b"), follow("&handler=b"), follow("&state=dead"), follow("&event=2")];
    let mut all = follow("");
    server.post("/hooks/a", "{}");
    server.until("select count(*) from outcomes", "1");
    server.post("/hooks/b", "{}");
    for stream in &mut streams {
        assert_eq!(stream.next().expect("an outcome").1["event"], 2);
    }
    assert_eq!(all.next().expect("an outcome").1["event"], 1);
}

#[test]
fn a_last_event_id_that_is_no_number_is_rejected() {
    let (server, api) = start();
    for id in ["x", "-1", "1.5", "9223372036854775808"] {
        let response =
            api.request("GET", "/api/v1/outcomes?follow=1", &format!("Last-Event-ID: {id}"), b"");
        assert_problem(&response, 400, "Last-Event-ID: expected the `id` of an earlier event");
    }
    // The id of another database: new outcomes are sent all the same.
    let mut stream = api.follow("", "Last-Event-ID: 9223372036854775807").until_open();
    server.post("/hooks/a", "{}");
    assert_eq!(stream.next().expect("an outcome").0, 1);
}

#[test]
fn a_stream_ends_when_the_server_stops() {
    let (mut server, api) = start();
    let mut stream = api.follow("", "").until_open();
    assert_eq!(server.stop(), Some(0));
    assert_eq!(stream.next(), None);
}

#[test]
fn many_streams_get_each_outcome_and_one_more_is_rejected() {
    let (server, api) = start();
    let mut streams: Vec<OutcomeStream> =
        (0..256).map(|_| api.follow("", "").until_open()).collect();
    let rejected = api.get("/api/v1/outcomes?follow=1");
    assert_problem(&rejected, 503, "256 streams are open: close one");
    assert_eq!(rejected.header("retry-after"), Some("1"));
    for _ in 0..3 {
        server.post("/hooks/a", "{}");
    }
    for stream in &mut streams {
        let ids: Vec<i64> = (0..3).map(|_| stream.next().expect("an outcome").0).collect();
        assert_eq!(ids, [1, 2, 3]);
    }
    drop(streams);
    until("a place is free", || api.follow("", "").head().starts_with("HTTP/1.1 200"));
}

/// Adds attempts with long details, as the server would write them.
fn add_outcomes(server: &Server, count: i64) {
    let mut conn = server.open_database();
    let detail = "x".repeat(2000);
    let transaction = conn.transaction().expect("a transaction");
    for _ in 0..count {
        transaction
            .execute(
                "INSERT INTO attempts (job, attempt, outcome, detail, ended_at, duration_ms)
                 VALUES (1, 1, 'failed', ?1, 0, 0)",
                params![detail],
            )
            .expect("an attempt");
    }
    transaction.commit().expect("a commit");
}

fn memory_kib(server: &Server) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", server.pid())).expect("the status");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("the peak");
    line.split_whitespace().nth(1).expect("a number").parse().expect("a number")
}

fn open_sockets(server: &Server) -> usize {
    let files = fs::read_dir(format!("/proc/{}/fd", server.pid())).expect("the files").flatten();
    let targets = files.filter_map(|file| fs::read_link(file.path()).ok());
    targets.filter(|target| target.to_string_lossy().starts_with("socket:")).count()
}

#[test]
fn clients_that_never_read_lose_their_streams_and_cost_little_memory() {
    let (server, api) = start();
    server.allow_altered_rows();
    server.post("/hooks/a", "{}");
    server.until("select count(*) from outcomes", "1");
    let mut reading = api.follow("", "").until_open();
    let (sockets, memory) = (open_sockets(&server), memory_kib(&server));
    let clients: Vec<TcpStream> = (0..100)
        .map(|_| {
            let mut client = TcpStream::connect(("127.0.0.1", api.port)).expect("a connection");
            let token = &api.token;
            let request = format!(
                "GET /api/v1/outcomes?follow=1 HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n"
            );
            client.write_all(request.as_bytes()).expect("a request");
            client
        })
        .collect();
    until("all streams are open", || open_sockets(&server) >= sockets + clients.len());
    // About 50 MB for each client.
    for round in 1..=25 {
        add_outcomes(&server, 1000);
        while reading.next().expect("an outcome").0 < 1 + round * 1000 {}
    }
    let grown = memory_kib(&server) - memory;
    assert!(grown < 200 << 10, "{grown} KiB");
    until("the server has closed their connections", || open_sockets(&server) <= sockets);
    drop(clients);
}
