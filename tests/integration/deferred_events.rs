//! Events that have many jobs or slow expressions: the server stores them and responds as to any other
//! event, and other events don't wait for them.

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::Signal;

use crate::support::client::{Response, parse_response};
use crate::support::server::{Server, scenario, stderr, stdout, until};

fn array(items: usize) -> String {
    let mut body = String::from("[0");
    for item in 1..items {
        let _ = write!(body, ",{item}");
    }
    body + "]"
}

#[test]
fn the_jobs_of_a_large_event_delay_no_other_sender_and_appear_at_once() {
    const ITEMS: usize = 20_000;
    let server = scenario()
        .server("max_body_size = \"4 MiB\"")
        .source("a", "")
        .source("b", "")
        .handler("h", "split = '.[]'\npaused = true", "cat")
        .start();
    assert_eq!(server.post("/hooks/a", array(ITEMS)).status, 202);
    let mut accepted_meanwhile = 0;
    let mut jobs = 0;
    until("the jobs of the event exist", || {
        assert_eq!(server.post("/hooks/b", "{}").status, 202);
        jobs = server.value("select jobs from trail where event = 1").parse().expect("a number");
        assert!(jobs == 0 || jobs == ITEMS, "{jobs} jobs are visible");
        accepted_meanwhile += usize::from(jobs == 0);
        jobs == ITEMS
    });
    assert!(accepted_meanwhile > 0, "the other source had to wait");
    let queued = "select queued from trail where event = 1";
    assert_eq!(server.value(queued), ITEMS.to_string(), "all jobs are queued at once");
    server.until("select count(*) from expansions", "0");
    let counts = "select count(*) || ' ' || count(distinct item) || ' ' || max(item) from jobs";
    assert_eq!(server.value(counts), format!("{ITEMS} {ITEMS} {ITEMS}"));
    assert_eq!(server.value("select sum(jobs) from queue_depth"), ITEMS.to_string());
    let last = "select body from items where job = (select max(id) from jobs)";
    assert_eq!(server.value(last), (ITEMS - 1).to_string());
}

#[test]
fn a_server_that_is_killed_while_it_inserts_jobs_loses_none_and_inserts_none_twice() {
    const ITEMS: usize = 700;
    let mut server = scenario()
        .source("a", "")
        .handler("h", "split = '.[]'\nordering_key = '. % 5'\npaused = true", "cat")
        .handler("plain", "paused = true", "cat")
        .start();
    let is_over = AtomicBool::new(false);
    let jobs_per_event = ITEMS + 1;
    let mut accepted = 0;
    for round in 0..8 {
        let (conn, is_over) = (server.open_database(), &is_over);
        std::thread::scope(|scope| {
            let watch = scope.spawn(move || {
                let sql =
                    format!("select count(*) from trail where jobs not in (0, {jobs_per_event})");
                let mut select = conn.prepare(&sql).expect("the query");
                let mut most = 0;
                while !is_over.load(Ordering::SeqCst) {
                    let partial: i64 = select.query_row([], |row| row.get(0)).expect("a count");
                    most = partial.max(most);
                }
                most
            });
            let before = server.value("select count(*) from trail where jobs > 0");
            for _ in 0..4 {
                let response = server.post("/hooks/a", array(ITEMS));
                accepted += usize::from(response.status == 202);
            }
            // The server is killed a little later in each round.
            let hidden = format!("select count(*) from jobs where state = 6 and {round} % 2 = 0");
            until("the server inserts jobs", || {
                let inserted: usize = server.value(&hidden).parse().expect("a count");
                let seen = server.value("select count(*) from trail where jobs > 0");
                inserted > round * 80 || seen != before
            });
            server.kill();
            is_over.store(true, Ordering::SeqCst);
            assert_eq!(
                watch.join().expect("a count"),
                0,
                "only some jobs of an event were visible"
            );
        });
        is_over.store(false, Ordering::SeqCst);
        server.start();
    }
    let complete = format!("select count(*) from trail where jobs = {jobs_per_event}");
    server.until(&complete, &accepted.to_string());
    server.until("select count(*) from expansions", "0");
    assert_eq!(server.value("select count(*) from trail"), accepted.to_string());
    let repeated = "select count(*) from (select 1 from jobs group by event, handler, item having count(*) > 1)";
    assert_eq!(server.value(repeated), "0");
    assert_eq!(
        server.value("select count(*) from items where job not in (select id from jobs)"),
        "0"
    );
    let in_order = "select count(*) from (select min(id) as first,
        lag(max(id)) over (order by event) as before from jobs group by event) where first < before";
    assert_eq!(server.value(in_order), "0", "jobs keep the order of their events");
    let ready = "select count(*) from jobs where state = 0 and ordering_key is not null";
    assert_eq!(server.value(ready), "5", "one job of each key");
}

#[test]
fn a_job_that_cannot_be_released_does_not_block_later_events() {
    const ITEMS: usize = 300;
    let mut server =
        scenario().source("a", "").handler("h", "split = '.[]'\npaused = true", "cat").start();
    server.post("/hooks/a", array(ITEMS));
    server.until("select jobs from trail", &ITEMS.to_string());
    server.until("select count(*) from expansions", "0");
    assert_eq!(server.stop(), Some(0));
    // The state that a kill leaves behind, and a trigger that rejects the update of one job.
    let conn = rusqlite::Connection::open(server.path().join("t.db")).expect("the database");
    conn.execute_batch(
        "update jobs set state = 6;
            update handlers set queued = 0;
            insert into expansions (first_job, last_job, next_job, event, source, is_visible)
              select min(id), max(id), min(id), event, source, 1 from jobs;
            create trigger reject before update on jobs when old.event = 1 and old.item = 7 begin
              select raise(abort, 'no'); end;",
    )
    .expect("the change");
    drop(conn);
    server.start();
    until("the insertion fails", || server.log().contains("jobs could not be inserted"));
    assert_eq!(server.post("/hooks/a", array(ITEMS)).status, 202);
    server.until("select jobs from trail where event = 2", &ITEMS.to_string());
}

/// A server whose source `a` has an expression that runs into its time limit if the body has `slow`.
fn server_with_slow_expression() -> Server {
    let endless = "when = 'if .slow then (def f: f; f) else .n > 1 end'\npaused = true";
    let plain = "when = '.n | . > 0'\npaused = true";
    scenario()
        .source("a", "dedupe = { jq = '.id' }")
        .source("b", "")
        .handler("endless", endless, "cat")
        .handler("plain", plain, "cat")
        .start()
}

const JOBS: &str =
    "select group_concat(event || handler, ' ') from (select event, h.name as handler
    from jobs j join handlers h on h.id = j.handler order by j.id)";

#[test]
fn a_slow_expression_delays_no_response_and_its_source_keeps_the_order_of_its_events() {
    let server = server_with_slow_expression();
    assert_eq!(server.post("/hooks/a", r#"{"slow":1,"n":1}"#).status, 202);
    let seen = "select jobs || ' ' || queued || ' ' || coalesce(settled_at, 'open') from trail";
    assert_eq!(server.column(seen), ["2 2 open"], "the response comes before the evaluation");
    let depth = server.column("select handler || ' ' || state || ' ' || jobs from queue_depth");
    assert_eq!(depth, ["endless queued 1", "plain queued 1"]);
    for body in [r#"{"n":2,"id":7}"#, r#"{"n":2,"id":7}"#, r#"{"n":0}"#, r#"{"n":1}"#] {
        assert_eq!(server.post("/hooks/a", body).status, 202);
    }
    assert_eq!(server.post("/hooks/b", "{}").status, 202);
    server.until("select count(*) from deferred_events", "0");
    assert_eq!(server.value(JOBS), "1endless 1plain 2endless 2plain 4plain");
    let dead = server.value("select detail from dead_jobs");
    assert!(dead.starts_with("when: took more than "), "{dead}");
    assert_eq!(server.column("select jobs from trail order by event"), ["2", "2", "0", "1", "0"]);
    let settled = "select group_concat(event) from trail where settled_at is not null";
    assert_eq!(
        server.value(settled),
        "3,5",
        "an event that no handler wants has no job and is settled"
    );
    assert_eq!(server.value("select duplicates from trail where event = 2"), "1");
    // No earlier event is deferred any more.
    server.post("/hooks/a", r#"{"n":1}"#);
    server.until("select jobs from trail where event = 6", "1");
}

#[test]
fn the_next_server_evaluates_the_deferred_events_of_the_last() {
    for is_killed in [true, false] {
        let mut server = server_with_slow_expression();
        assert_eq!(server.post("/hooks/a", r#"{"slow":1,"n":1}"#).status, 202);
        server.post("/hooks/a", r#"{"n":1}"#);
        if is_killed {
            server.kill();
        } else {
            assert_eq!(server.stop(), Some(0));
        }
        // The next server evaluates with its own configuration.
        server.replace_in_config("if .slow then", "if false then");
        server.start();
        server.until("select count(*) from deferred_events", "0");
        assert_eq!(server.value(JOBS), "1plain 2plain");
    }
}

#[test]
fn cancel_fails_while_the_jobs_of_an_event_do_not_exist_yet() {
    let server = server_with_slow_expression();
    assert_eq!(server.post("/hooks/a", r#"{"slow":1,"n":1}"#).status, 202);
    let cancelled = server.cli(&["cancel", "--event", "1", "--yes"]);
    assert_eq!(cancelled.status.code(), Some(1), "{}", stdout(&cancelled));
    assert!(stderr(&cancelled).contains("event 1: it is deferred"), "{}", stderr(&cancelled));
    server.until("select count(*) from deferred_events", "0");
    assert_eq!(stdout(&server.cli(&["cancel", "--event", "1", "--yes"])), "cancelled 2 jobs\n");
}

#[test]
fn results_of_expressions_that_a_reload_replaced_are_discarded() {
    let mut server = scenario()
        .source("a", "")
        .handler("endless", "when = 'def f: f; f'\npaused = true", "cat")
        .handler("never", "when = '[.] | length > 1'\npaused = true", "cat")
        .start();
    assert_eq!(server.post("/hooks/a", "{}").status, 202);
    server.until("select count(*) from deferred_events", "1");
    let (before, after) = server.config().split_once("[handlers.endless]").expect("a handler");
    let (_, after) = after.split_once("[handlers.never]").expect("another");
    *server.config() = format!("{before}[handlers.never]{after}");
    server.write_config();
    server.signal(Signal::HUP);
    server.until_reloads(1);
    assert_eq!(
        server.value("select count(*) from deferred_events"),
        "1",
        "the event is still evaluated"
    );
    server.until("select count(*) from deferred_events", "0");
    assert_eq!(
        server.value("select count(*) from jobs"),
        "0",
        "{:?}",
        server.column("select detail from dead_jobs")
    );
}

#[test]
fn events_of_a_source_that_is_not_configured_wait_until_it_is() {
    let mut server = server_with_slow_expression();
    assert_eq!(server.post("/hooks/a", r#"{"slow":1,"n":1}"#).status, 202);
    server.kill();
    let before = server.config().clone();
    *server.config() = before.replace("[sources.a]", "[sources.c]").replace("\"a\"", "\"c\"");
    server.write_config();
    server.start();
    server.post("/hooks/c", "{}");
    server.until("select group_concat(event) from deferred_events", "1");
    *server.config() = before.replace("if .slow then", "if false then");
    server.write_config();
    server.signal(Signal::HUP);
    server.until("select count(*) from deferred_events", "0");
    server.until(JOBS, "1plain");
}

#[test]
fn a_retried_split_with_many_items_has_a_job_for_each() {
    let mut server = scenario()
        .source("a", "")
        .handler("h", "split = '.items | .[]'\npaused = true", "cat")
        .start();
    server.post("/hooks/a", format!("{{\"items\":7,\"rest\":{}}}", array(1_000)));
    server.until("select count(*) from dead_jobs", "1");
    *server.config() = server
        .config()
        .replace(".items | .[]", ".rest[]")
        .replace("paused = true", "concurrency = 4");
    server.write_file("h.sh", "#!/bin/sh\nexit 0\n");
    server.write_config();
    server.signal(Signal::HUP);
    server.until_reloads(1);
    assert!(
        server.cli(&["resume", "h"]).status.success()
            && server.cli(&["retry", "1"]).status.success()
    );
    server.until("select jobs from trail", "1001");
    assert_eq!(server.value("select reason from jobs where id = 1"), "expanded into jobs 2–1001");
    assert!(server.cli(&["cancel", "--all", "--yes"]).status.success());
    server.until("select queued + running from trail", "0");
    server.until("select count(*) from expansions", "0");
    let listed = stdout(&server.cli(&["list", "--all", "--json"]));
    assert_eq!(listed.lines().count(), 1001);
}

/// A connection that the server has accepted. Its requests need no new file descriptor.
struct AcceptedConnection(TcpStream);

impl AcceptedConnection {
    fn new(server: &Server) -> Self {
        let mut connection = Self(server.connect().expect("a connection"));
        assert_eq!(connection.post("/nothing", "").status, 404);
        connection
    }

    fn post(&mut self, path: &str, body: &str) -> Response {
        let length = body.len();
        let request =
            format!("POST {path} HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\n{body}");
        self.0.write_all(request.as_bytes()).expect("the request");
        let mut received = Vec::new();
        loop {
            let response = parse_response(&String::from_utf8_lossy(&received));
            if let Some(response) = response
                && response.header("content-length") == Some(&response.body.len().to_string())
            {
                return response;
            }
            let mut buffer = [0; 1024];
            let count = self.0.read(&mut buffer).expect("a response");
            assert!(count > 0, "{}", String::from_utf8_lossy(&received));
            received.extend_from_slice(&buffer[..count]);
        }
    }
}

#[test]
fn a_late_duplicate_is_accepted_without_an_evaluator_and_its_jobs_are_cancelled() {
    for is_killed in [true, false] {
        let mut server = scenario()
            .source("a", "dedupe = { jq = '[.id] | .[0]' }")
            .handler("dies", "retry = { max_attempts = 1 }", "test -e ok")
            .handler("items", "split = '.items | .[]'\npaused = true", "cat")
            .start();
        server.post("/hooks/a", r#"{"id":7,"items":[1,2]}"#);
        server.until("select event from dead_jobs", "1");
        server.write_file("ok", "");
        server.kill();
        server.start();
        let mut connection = AcceptedConnection::new(&server);
        server.set_limit("--nofile=3:");
        for (body, event) in [(r#"{"id":7,"items":[1,2]}"#, 2), (r#"{"id":8,"items":[1]}"#, 3)] {
            let response = connection.post("/hooks/a", body);
            assert_eq!((response.status, response.event_id()), (202, event));
        }
        assert_eq!(server.value("select count(dedupe_at) from deferred_events"), "2");
        if is_killed {
            server.kill();
            server.start();
        } else {
            server.set_limit("--nofile=1024:");
        }
        server.until("select count(*) from deferred_events", "0");
        let reasons = "select reason from jobs where event = 2";
        assert_eq!(server.column(reasons), ["duplicate of event 1", "duplicate of event 1"]);
        let retried = "select job_state from outcomes where event = 1 and attempt = 2";
        server.until(retried, "succeeded");
        server.until("select succeeded || ' ' || queued from trail where event = 3", "1 1");
        assert_eq!(server.value("select count(*) from outcomes where event = 2"), "0");
        server.post("/hooks/a", r#"{"id":8}"#);
        server.until("select count(*) from deferred_events", "0");
        assert_eq!(server.column("select duplicates from trail where event < 4"), ["1", "0", "1"]);
        // A retry of the cancelled job makes the items of the event.
        let of_items = "event = 2 and handler = (select id from handlers where name = 'items')";
        let job = server.value(&format!("select id from jobs where {of_items}"));
        assert!(server.cli(&["retry", &job]).status.success());
        assert!(server.cli(&["resume", "items"]).status.success());
        let succeeded =
            format!("select count(*) from jobs where {of_items} and state = 3 and item > 0");
        server.until(&succeeded, "2");
    }
}

/// Configures a `dedupe` that runs into its time limit if the body has `slow`.
const SLOW_DEDUPE: &str = "dedupe = { jq = 'if .slow then (def f: f; f) else .id end' }";

#[test]
fn an_event_whose_late_dedupe_fails_or_is_removed_has_its_jobs() {
    let mut server =
        scenario().source("a", SLOW_DEDUPE).handler("h", "paused = true", "cat").start();
    assert_eq!(server.post("/hooks/a", r#"{"slow":1,"id":7}"#).status, 202);
    server.until("select jobs || (select count(*) from deferred_events) from trail", "10");
    let note = server.value("select note from events");
    assert!(note.starts_with("dedupe: took more than "), "{note}");
    assert_eq!(server.value("select count(*) from dedupe"), "0");
    assert_eq!(server.post("/hooks/a", r#"{"slow":1,"id":7}"#).status, 202);
    server.replace_in_config(SLOW_DEDUPE, "");
    server.signal(Signal::HUP);
    server.until_reloads(1);
    server.until("select count(*) from deferred_events", "0");
    assert_eq!(server.column("select queued from trail"), ["1", "1"]);
}

#[test]
fn a_flood_of_slow_expressions_is_accepted_beside_another_source_and_survives_a_kill() {
    const EVENTS: usize = 40;
    let mut server = scenario()
        .source("a", "dedupe = { jq = '[.n] | .[0]' }")
        .source("b", "")
        .handler("slow", "when = '[range(10000)] | length > 0'\npaused = true", "cat")
        .handler("plain", "paused = true", "cat")
        .handler_source("plain", "b")
        .start();
    std::thread::scope(|scope| {
        for n in 0..EVENTS {
            let server = &server;
            scope.spawn(move || {
                let response = server.post("/hooks/a", format!(r#"{{"n":{n}}}"#));
                assert_eq!(response.status, 202);
            });
            scope.spawn(move || assert_eq!(server.post("/hooks/b", "{}").status, 202));
        }
    });
    server.kill();
    server.start();
    server.until("select count(*) from deferred_events", "0");
    let counts = "select s.name || ' ' || count(distinct j.event) || ' ' || count(*)
        from jobs j join sources s on s.id = j.source where state = 0 group by s.name order by 1";
    assert_eq!(
        server.column(counts),
        [format!("a {EVENTS} {EVENTS}"), format!("b {EVENTS} {EVENTS}")]
    );
    let out_of_order = "select count(*) from (select event, lag(event) over
        (partition by source order by id) as before from jobs) where before > event";
    assert_eq!(server.value(out_of_order), "0");
}
