//! What the API shows: lists with their filters and pages, events, bodies, and what it says about bad input.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::support::admin::{Api, admin_scenario, assert_problem, parse, send_bytes};
use crate::support::server::{DEADLINE, Server, until};

/// Sources `a` and `b`. Handler `h` succeeds, `dead` fails for events of `b`, and `paused` waits.
fn server_with_events() -> (Server, Api) {
    let server = admin_scenario()
        .source("b", "")
        .handler("dead", "", "echo gone >&2; exit 65")
        .handler_source("dead", "b")
        .handler("paused", "paused = true", "true")
        .start();
    for number in 1..=3 {
        server.post("/hooks/a", format!("{{\"name\":\"Ada {number}\"}}"));
        server.post("/hooks/b", format!("{{\"name\":\"Bob {number}\"}}"));
    }
    server.until("select count(*) from outcomes", "6");
    server.post("/hooks/nothing", "x");
    server.until("select count(*) from rejections", "1");
    let api = Api::of(&server);
    (server, api)
}

#[test]
fn a_list_has_the_rows_that_its_filters_select() {
    let (_server, api) = server_with_events();
    let events = |query: &str| api.numbers(&format!("/api/v1/events?{query}"), "event");
    assert_eq!(events(""), [6, 5, 4, 3, 2, 1]);
    assert_eq!(events("source=b"), [6, 4, 2]);
    assert_eq!(events("handler=dead"), [6, 4, 2]);
    assert_eq!(events("state=dead"), [6, 4, 2]);
    assert_eq!(events("state=queued&source=a"), [5, 3, 1]);
    assert_eq!(events("text=ada%202"), [3]);
    assert_eq!(events("text=ada%00"), [0; 0]);
    assert_eq!(events("detail=gone&limit=2"), [6, 4]);
    assert_eq!(events("since=1h&until=2999-01-01"), [6, 5, 4, 3, 2, 1]);
    assert_eq!(events("until=2020-01-01"), [0; 0]);
    assert_eq!(events("source=unknown"), [0; 0]);

    let jobs = |query: &str| api.items(&format!("/api/v1/jobs?{query}")).len();
    assert_eq!(
        (jobs(""), jobs("handler=h"), jobs("event=1"), jobs("state=dead&text=bob%201")),
        (9, 3, 2, 1)
    );
    let outcomes = |query: &str| api.items(&format!("/api/v1/outcomes?{query}")).len();
    assert_eq!((outcomes(""), outcomes("source=a"), outcomes("state=dead")), (6, 3, 3));
    assert_eq!(
        (outcomes("event=2"), outcomes("event=2&handler=h"), outcomes("event=99")),
        (1, 0, 0)
    );

    let rejections = api.items("/api/v1/rejections");
    assert_eq!(rejections[0]["status"], json!(404), "{rejections:?}");
    assert_eq!(api.items("/api/v1/rejections?source=a").len(), 0);
    let failures = api.items("/api/v1/failures");
    assert_eq!((failures.len(), &failures[0]["dead"]), (1, &json!(3)));
    let group = failures[0]["failure"].as_i64().expect("a number");
    assert_eq!(events(&format!("failure={group}")), [6, 4, 2]);
    assert_eq!(api.items("/api/v1/failures?handler=h").len(), 0);
}

#[test]
fn handlers_and_sources_have_their_queues_and_rates() {
    let (_server, api) = server_with_events();
    let handlers = api.items("/api/v1/handlers");
    let find = |name: &str| handlers.iter().find(|row| row["handler"] == name).expect(name);
    assert_eq!(find("h")["succeeded_last_hour"], 3);
    assert_eq!(
        (&find("dead")["dead"], &find("dead")["unsuccessful_last_hour"]),
        (&json!(3), &json!(3))
    );
    assert_eq!((&find("paused")["queued"], &find("paused")["paused"]), (&json!(3), &json!(true)));
    assert_eq!(find("h")["configured"], true);
    let sources = api.items("/api/v1/sources");
    let source = sources.iter().find(|row| row["source"] == "b").expect("source b");
    assert_eq!((&source["events_last_hour"], &source["path"]), (&json!(3), &json!("/hooks/b")));
}

/// Reads a list page by page, and calls `between` before each page. Returns the numbers in a field.
fn walk(api: &Api, path: &str, field: &str, mut between: impl FnMut()) -> Vec<i64> {
    let (mut numbers, mut cursor) = (Vec::new(), None::<String>);
    loop {
        between();
        let cursor_parameter = cursor.map(|cursor| format!("&cursor={cursor}")).unwrap_or_default();
        let page = api.json(&format!("{path}{cursor_parameter}"));
        for item in page["items"].as_array().expect("items") {
            numbers.push(item[field].as_i64().expect("a number"));
        }
        cursor = page["next"].as_str().map(str::to_owned);
        if cursor.is_none() {
            return numbers;
        }
    }
}

#[test]
fn new_events_between_two_pages_shift_nothing() {
    let (server, api) = server_with_events();
    let more = || drop(server.post("/hooks/a", "{}"));
    let found = walk(&api, "/api/v1/events?limit=2&until=2999-01-01", "event", more);
    // The first request came after one more event.
    assert_eq!(found, [7, 6, 5, 4, 3, 2, 1]);
    let more = || drop(server.post("/hooks/b", "{}"));
    assert_eq!(walk(&api, "/api/v1/events?limit=1&text=bob", "event", more), [6, 4, 2]);
    server.until("select count(*) from jobs where state < 3 and handler = 1", "0");
    let jobs = walk(&api, "/api/v1/jobs?limit=3&event=1", "job", || {});
    assert_eq!(jobs.len(), 2);
    let outcomes = walk(&api, "/api/v1/outcomes?limit=1&event=1", "event", || {});
    assert_eq!(outcomes, [1]);
    for path in
        ["outcomes?limit=4", "outcomes?limit=2&source=a", "audit?limit=2", "rejections?limit=1"]
    {
        let ids = walk(&api, &format!("/api/v1/{path}"), "id", || {});
        assert!(ids.windows(2).all(|pair| pair[0] > pair[1]), "{path}: {ids:?}");
    }
}

#[test]
fn a_cursor_holds_only_for_its_list_with_its_filters() {
    let (_server, api) = server_with_events();
    let page = api.json("/api/v1/events?limit=1&source=a");
    let cursor = page["next"].as_str().expect("a cursor");
    assert_eq!(api.numbers(&format!("/api/v1/events?source=a&cursor={cursor}"), "event"), [3, 1]);
    let detail = "cursor: is not a cursor of this list with these filters: leave it out to begin with the \
                  newest row";
    for path in [
        format!("events?cursor={cursor}"),
        format!("events?source=b&cursor={cursor}"),
        format!("jobs?source=a&cursor={cursor}"),
        format!("audit?cursor={cursor}"),
        format!("events?source=a&cursor={}", &cursor[1..]),
        format!("events?source=a&cursor={cursor}A"),
        "events?cursor=%F0%9F%99%82".to_owned(),
        "events?cursor=1".to_owned(),
    ] {
        assert_problem(&api.get(&format!("/api/v1/{path}")), 400, detail);
    }
}

#[test]
fn a_query_with_an_error_gets_a_message_that_names_it() {
    let (_server, api) = server_with_events();
    let time = "expected a time such as 2026-11-23, \"2026-11-23 10:00\", 10:00, yesterday, 2h or \"10 minutes ago\"";
    let states = "expected queued, running, succeeded, dead or cancelled";
    let long = "x".repeat(1001);
    let cases: Vec<(String, String)> = [
        ("events?since=soon", format!("since: is \"soon\": {time}")),
        ("events?until=2026-13-01", format!("until: is \"2026-13-01\": {time}")),
        ("events?since=99999999999h", format!("since: is \"99999999999h\": {time}")),
        ("events?since=1h&until=2h", "since: is not before `until`: nothing can match both".into()),
        ("events?state=broken", format!("state: is \"broken\": {states}")),
        ("events?limit=0", "limit: is 0: expected a number from 1 to 1000".into()),
        ("events?limit=1001", "limit: is 1001: expected a number from 1 to 1000".into()),
        ("events?source=", "source: is empty: leave it out".into()),
        ("events?text", "text: is empty: leave it out".into()),
        ("events?text=%FF", "the query has %FF: expected UTF-8".into()),
        ("events?failure=0", "failure: is 0: expected a number from 1".into()),
        ("jobs?event=-1", "event: is -1: expected a number from 1".into()),
        ("rejections?text=x", "text: does not apply to rejections: expected limit, cursor, source, since, until, detail".into()),
        ("audit?source=a", "source: does not apply to audit: expected limit, cursor".into()),
        ("outcomes?follow=2", "follow: is \"2\": expected 0 or 1".into()),
        ("events?limit=x", "limit: is \"x\": expected a number from 1 to 1000".into()),
        (
            "jobs?event=9223372036854775808",
            "event: is \"9223372036854775808\": expected a number from 1 to 9223372036854775807".into(),
        ),
        (
            "jobs?failure=1.5",
            "failure: is \"1.5\": expected a number from 1 to 9223372036854775807".into(),
        ),
        ("operations?limit=1", "the query is \"limit=1\": expected none: this list has no parameters".into()),
        ("handlers?source=a", "source: does not apply to handlers: expected limit, cursor".into()),
    ]
    .map(|(path, detail)| (path.to_owned(), detail))
    .into_iter()
    .chain([(
        format!("events?text={long}"),
        "text: has 1001 characters: expected at most 1000".to_owned(),
    )])
    .collect();
    for (path, detail) in cases {
        assert_problem(&api.get(&format!("/api/v1/{path}")), 400, &detail);
    }
    // The detail of these is the parser's.
    for path in ["events?limit=1&limit=2", "events?unknown=1"] {
        let response = api.get(&format!("/api/v1/{path}"));
        let detail = parse(&response)["detail"].as_str().map(str::to_owned).expect("a detail");
        assert_problem(&response, 400, &detail);
        assert!(detail.starts_with("the query: ") && !detail.contains("deserialize"), "{detail}");
    }
}

#[test]
fn a_number_in_the_path_that_no_row_has_is_not_found() {
    let (_server, api) = server_with_events();
    for (path, detail) in [
        ("events/99", "event 99: there is no such event"),
        ("events/0", "event 0: there is no such event"),
        ("events/-1/body", "event -1: there is no such event"),
        ("jobs/9223372036854775807", "job 9223372036854775807: there is no such job"),
        ("operations/7", "operation 7: is unknown: the server remembers those since its start"),
    ] {
        assert_problem(&api.get(&format!("/api/v1/{path}")), 404, detail);
    }
    for path in ["events/9223372036854775808", "events/1e3/body", "jobs/%F0%9F%99%82", "jobs/1%2F2"]
    {
        let path = format!("/api/v1/{path}");
        let response = api.get(&path);
        let detail = parse(&response)["detail"].as_str().map(str::to_owned).expect("a detail");
        assert_problem(&response, 404, &detail);
        assert!(
            detail.ends_with("expected a number up to 9223372036854775807"),
            "{path}: {detail}"
        );
    }
    for name in ["nobody", "h%00", "%FF", "..", "h%2Fx"] {
        let response = api.post(&format!("/api/v1/handlers/{name}/pause"), &Value::Null);
        assert_eq!(response.status, 404, "{name}: {response:?}");
        assert_eq!(response.header("content-type"), Some("application/problem+json"));
    }
}

#[test]
fn an_event_has_its_request_jobs_attempts_and_output() {
    let server = admin_scenario().handler("loud", "", "echo out; echo err >&2; exit 65").start();
    server.request("POST", "/hooks/a?x=1", "Content-Type: text/plain\nX-Test: yes", b"caf\xC3\xA9");
    server.until("select count(*) from outcomes", "2");
    let api = Api::of(&server);
    let event = api.json("/api/v1/events/1");
    assert_eq!(
        (&event["method"], &event["path"], &event["query"]),
        (&json!("POST"), &json!("/hooks/a"), &json!("x=1"))
    );
    assert_eq!(
        (&event["body"], &event["bytes"], &event["body_is_cut"]),
        (&json!("caf\u{e9}"), &json!(5), &json!(false))
    );
    let headers = event["headers"].as_array().expect("headers");
    assert!(headers.contains(&json!({"name": "x-test", "value": "yes"})), "{headers:?}");
    assert_eq!(event["jobs"].as_array().expect("jobs").len(), 2);
    let attempts = event["attempts"].as_array().expect("attempts");
    let failed =
        attempts.iter().find(|attempt| attempt["outcome"] == "failed").expect("a failed attempt");
    assert_eq!((&failed["stdout"], &failed["stderr"]), (&json!("out\n"), &json!("err\n")));
    let job = api.json(&format!("/api/v1/jobs/{}", failed["job"]));
    assert_eq!((&job["handler"], &job["state"]), (&json!("loud"), &json!("dead")));
    assert_eq!(&job["attempt_list"], &json!([failed]));
}

#[test]
fn a_large_body_comes_back_byte_for_byte() {
    let server = admin_scenario().server("max_body_size = \"16 MiB\"").start();
    let body: Vec<u8> = (0..9_999_991_u32).map(|number| (number % 251) as u8).collect();
    server.request("POST", "/hooks/a", "Content-Type: application/octet-stream", &body);
    let api = Api::of(&server);
    let mut stream = TcpStream::connect(("127.0.0.1", api.port)).expect("a connection");
    stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    let token = &api.token;
    write!(stream, "GET /api/v1/events/1/body HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n")
        .expect("a request");
    let mut response = Vec::new();
    stream.read_to_end(&mut response).expect("a response");
    let end = response.windows(4).position(|bytes| bytes == b"\r\n\r\n").expect("a head");
    let head = String::from_utf8_lossy(&response[..end]).into_owned();
    for line in [
        "content-type: application/octet-stream",
        "content-length: 9999991",
        "content-disposition: attachment; filename=\"event-1.body\"",
        "x-content-type-options: nosniff",
    ] {
        assert!(head.contains(line), "{head}");
    }
    assert!(response[end + 4..] == body, "the body differs");
    let event = api.json("/api/v1/events/1");
    assert_eq!((&event["body"], &event["body_is_cut"]), (&Value::Null, &json!(true)));
}

#[test]
fn an_empty_and_a_removed_body_are_told_apart() {
    let server = admin_scenario().start();
    server.request("POST", "/hooks/a", "", b"");
    server.post("/hooks/a", "secret");
    server.until("select count(*) from outcomes", "2");
    let api = Api::of(&server);
    assert!(server.cli(&["erase", "2", "--yes"]).status.success());
    let empty = api.get("/api/v1/events/1/body");
    assert_eq!((empty.status, empty.header("content-length")), (200, Some("0")));
    let removed = api.get("/api/v1/events/2/body");
    let detail = parse(&removed)["detail"].as_str().map(str::to_owned).expect("a detail");
    assert_problem(&removed, 410, &detail);
    let event = api.json("/api/v1/events/2");
    assert_eq!((&event["body"], &event["body_removed"]), (&Value::Null, &json!(true)));
    assert_eq!(api.post("/api/v1/events/replay", &json!({"events": [2]})).status, 409);
}

#[test]
fn a_page_that_is_read_while_events_are_removed_has_no_error() {
    let server = admin_scenario().start();
    let conn = server.open_database();
    for _ in 0..300 {
        server.post("/hooks/a", "{}");
    }
    server.until("select count(*) from outcomes", "300");
    drop(conn);
    let api = Api::of(&server);
    let mut prune = server.start_cli(&["prune", "--before", "now", "--yes"], Stdio::null());
    let mut last = false;
    until("all events are removed", || {
        for path in [
            "events?limit=1000",
            "events?state=succeeded&limit=1000",
            "events?text=x",
            "jobs?limit=1000",
            "outcomes?limit=1000",
            "outcomes?source=a",
            "events/150",
            "jobs/150",
            "events/290/body",
            "handlers",
        ] {
            let response = api.get(&format!("/api/v1/{path}"));
            assert!([200, 404, 410].contains(&response.status), "{path}: {response:?}");
        }
        // One more round after the end.
        let ended = last;
        last = prune.0.try_wait().expect("the state").is_some();
        ended
    });
    assert_eq!(server.value("select count(*) from events"), "0");
}

/// Sends the head of a POST that announces a body, and a part of the body.
fn post_head(api: &Api, path: &str, length: u64, content_type: &str, part: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", api.port)).expect("a connection");
    stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\nContent-Type: {content_type}\r\n\
         Content-Length: {length}\r\n\r\n",
        api.token
    );
    stream.write_all(&[head.as_bytes(), part].concat()).expect("a request");
    stream
}

#[test]
fn failures_handlers_and_sources_have_pages() {
    let mut scenario = admin_scenario().source("b", "");
    for name in ["x", "y", "z"] {
        let script = format!("echo handler {name} has no luck >&2; exit 65");
        scenario = scenario.handler(name, "retry = { max_attempts = 1 }", &script);
    }
    let server = scenario.start();
    let api = Api::of(&server);
    server.post("/hooks/a", "{}");
    server.until("select dead from trail", "3");
    for (path, field, rows) in
        [("failures", "handler", 3), ("handlers", "handler", 4), ("sources", "source", 2)]
    {
        let path = format!("/api/v1/{path}");
        let all = api.items(&path);
        assert_eq!(all.len(), rows, "{path}");
        let (mut paged, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = api.json(&format!("{path}?limit=1{cursor}"));
            paged.extend(page["items"].as_array().expect("rows").clone());
            let Some(next) = page["next"].as_str() else { break };
            cursor = format!("&cursor={next}");
        }
        let names = |rows: &[Value]| rows.iter().map(|row| row[field].clone()).collect::<Vec<_>>();
        assert_eq!(names(&paged), names(&all), "{path}");
        assert_eq!(api.get(&format!("{path}?limit=0")).status, 400);
        assert_eq!(api.get(&format!("{path}?cursor=none")).status, 400);
    }
    let page = api.get("/failures?limit=1").body;
    assert!(page.contains("href=\"/failures?limit=1&amp;cursor="), "{page}");
    assert!(!page.contains("will be retried"), "the numbers would be those of one page");
}

#[test]
fn a_body_that_is_too_large_is_rejected_without_waiting_for_it() {
    let (server, api) = server_with_events();
    let memory =
        || fs::read_to_string(format!("/proc/{}/status", server.pid())).expect("the status");
    let peak = |status: &str| -> u64 {
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("the peak");
        line.split_whitespace().nth(1).expect("a number").parse().expect("a number")
    };
    let before = peak(&memory());
    for path in ["jobs/retry", "jobs/cancel", "events/replay"] {
        let mut stream =
            post_head(&api, &format!("/api/v1/{path}"), 512 << 20, "application/json", b"{");
        let mut head = [0; 12];
        stream.read_exact(&mut head).expect("a response");
        assert_eq!(&head, b"HTTP/1.1 413", "{path}");
    }
    // A client that sends all of it.
    let mut sending =
        post_head(&api, "/api/v1/handlers/h/resume", 512 << 20, "application/json", b"");
    let chunk = vec![b' '; 1 << 20];
    for _ in 0..512 {
        if sending.write_all(&chunk).is_err() {
            break;
        }
    }
    assert_eq!(api.get("/api/v1/events").status, 200, "the listener still responds");
    let after = peak(&memory());
    assert!(after - before < 64 << 10, "from {before} to {after} KiB");
}

#[test]
fn a_body_with_an_error_gets_a_message_that_names_it() {
    let (server, api) = server_with_events();
    let post = |body: &[u8]| {
        api.request("POST", "/api/v1/jobs/retry", "Content-Type: application/json", body)
    };
    for body in [
        &b""[..],
        b"{",
        b"[]",
        b"null",
        b"{\"handler\": \"\xff\"}",
        b"{\"jobs\": [9223372036854775808]}",
        b"{\"jobs\": [1.5]}",
        b"{\"jobs\": \"1\"}",
        b"{\"events\": [1]}",
        b"{\"handler\": null}",
        b"{\"unknown\": 1}",
        b"{\"all\": true, \"all\": true}",
        &b"[".repeat(100_000),
    ] {
        let response = post(body);
        let detail = parse(&response)["detail"].as_str().map(str::to_owned).expect("a detail");
        assert_problem(&response, 400, &detail);
        assert!(detail.starts_with("the body: "), "{detail}");
    }
    for (body, detail) in [
        (
            json!({}),
            "no jobs are given: expected `jobs`, a selector such as `handler` or `state`, or \"all\": true",
        ),
        (
            json!({"jobs": [], "dry_run": true}),
            "no jobs are given: expected `jobs`, a selector such as `handler` or `state`, or \"all\": true",
        ),
        (json!({"handler": ""}), "handler: is empty: leave it out"),
        (
            json!({"since": "1h", "until": "2h"}),
            "since: is not before `until`: nothing can match both",
        ),
        (
            json!({"state": "x"}),
            "state: is \"x\": expected queued, running, succeeded, dead or cancelled",
        ),
        (json!({"event": 0}), "event: is 0: expected a number from 1"),
        (json!({"jobs": vec![1; 10_001]}), "jobs: has 10001 numbers: expected at most 10000"),
    ] {
        assert_problem(&api.post("/api/v1/jobs/retry", &body), 400, detail);
    }
    let reason = json!({"jobs": [1], "reason": "x".repeat(1001)});
    let null = json!({"jobs": [1], "reason": "a\0b"});
    assert_problem(&api.post("/api/v1/jobs/cancel", &null), 400, "reason: has a null character");
    let detail = "reason: has 1001 characters: expected at most 1000";
    assert_problem(&api.post("/api/v1/jobs/cancel", &reason), 400, detail);
    let other = api.request("POST", "/api/v1/jobs/retry", "Content-Type: text/plain", b"{}");
    assert_problem(&other, 415, "expected a body with `Content-Type: application/json`");
    assert_eq!(server.value("select count(*) from audit_log"), "0");
}

#[test]
fn a_request_that_is_no_http_is_rejected() {
    let (_server, api) = server_with_events();
    for bytes in [&b"\x16\x03\x01\x02\x00\x01"[..], b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n"] {
        let stream = TcpStream::connect(("127.0.0.1", api.port)).expect("a connection");
        stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        assert_eq!(send_bytes(stream, bytes).status, 400, "{bytes:?}");
    }
    let curl = Command::new("curl")
        .args(["-s", "-o", "/dev/null", "-w", "%{http_code}", "-H"])
        .arg(format!("Authorization: Bearer {}", api.token))
        .arg(format!("http://localhost:{}/api/v1/events?text={}", api.port, "x".repeat(100_000)))
        .output()
        .expect("curl");
    let status = String::from_utf8_lossy(&curl.stdout).into_owned();
    assert!(["400", "414", "431"].contains(&&*status), "{status}");
}
