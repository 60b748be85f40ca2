//! `/metrics`: the values after known requests, the labels, and both formats.

use rustix::process::Signal;

use crate::support::server::{Scenario, Server, scenario, until};

mod documentation;
mod monitoring;
mod scrape;

use scrape::{Scrape, admin_port, scrape};

/// A server with a listener for scrapes, and a source whose events have a key.
fn scraped() -> Scenario {
    scenario()
        .admin("listen = [\"127.0.0.1:0\"]")
        .source("a", "dedupe = { header = \"X-Id\" }\naccept = \"json\"")
}

/// The same with a source that reads a stream, which does not exist.
fn scraped_with_stream() -> Scenario {
    let stream =
        r#"jetstream = { servers = ["nats://127.0.0.1:1"], stream = "S", consumer = "c" }"#;
    scraped().source("stream", stream)
}

/// Keys of a handler whose job is dead after one attempt.
const ONE_ATTEMPT: &str = "retry = { max_attempts = 1 }";

fn post(server: &Server, id: &str, body: &str) -> u16 {
    let headers = format!("X-Id: {id}\nContent-Type: application/json");
    server.request("POST", "/hooks/a", &headers, body.as_bytes()).status
}

#[track_caller]
fn assert_values(scrape: &Scrape, expected: &[(&str, f64)]) {
    let found: Vec<(&str, Option<f64>)> =
        expected.iter().map(|(sample, _)| (*sample, scrape.value(sample))).collect();
    let expected: Vec<(&str, Option<f64>)> =
        expected.iter().map(|(sample, value)| (*sample, Some(*value))).collect();
    assert_eq!(found, expected);
}

#[test]
fn each_source_and_handler_of_the_configuration_begins_with_zero() {
    let server = scraped().source("b", "").handler("h", "paused = true", "true").start();
    assert_values(
        &scrape(&server),
        &[
            (r#"hooktrail_events_total{source="a"}"#, 0.0),
            (r#"hooktrail_events_total{source="b"}"#, 0.0),
            (r#"hooktrail_duplicates_total{source="b"}"#, 0.0),
            (r#"hooktrail_rejections_total{source="b",reason="signature"}"#, 0.0),
            (r#"hooktrail_rejections_total{source="-",reason="not_found"}"#, 0.0),
            (r#"hooktrail_unavailable_responses_total{reason="disk_low"}"#, 0.0),
            (r#"hooktrail_last_event_timestamp_seconds{source="b"}"#, 0.0),
            (r#"hooktrail_jobs{handler="h",state="queued"}"#, 0.0),
            (r#"hooktrail_jobs{handler="h",state="dead"}"#, 0.0),
            (r#"hooktrail_oldest_job_age_seconds{handler="h"}"#, 0.0),
            (r#"hooktrail_handler_paused{handler="h"}"#, 1.0),
            (r#"hooktrail_circuit_breaker_open{handler="h"}"#, 0.0),
            (r#"hooktrail_attempts_total{handler="h",outcome="timed_out"}"#, 0.0),
            (r#"hooktrail_attempt_duration_seconds_count{handler="h"}"#, 0.0),
            (r#"hooktrail_evaluations_total{priority="intake"}"#, 0.0),
        ],
    );
}

#[test]
fn an_event_a_duplicate_and_a_rejection_are_each_counted_once() {
    let server = scraped().handler("h", "paused = true", "true").start();
    assert_eq!(post(&server, "1", "{}"), 202);
    assert_eq!(post(&server, "1", "{}"), 202);
    assert_eq!(post(&server, "2", "no JSON"), 400);
    assert_eq!(server.request("PUT", "/hooks/a", "", b"").status, 405);
    assert_eq!(server.request("POST", "/nowhere", "", b"").status, 404);
    let scrape = scrape(&server);
    assert_values(
        &scrape,
        &[
            (r#"hooktrail_events_total{source="a"}"#, 1.0),
            (r#"hooktrail_duplicates_total{source="a"}"#, 1.0),
            (r#"hooktrail_rejections_total{source="a",reason="malformed_body"}"#, 1.0),
            (r#"hooktrail_rejections_total{source="a",reason="method"}"#, 1.0),
            (r#"hooktrail_rejections_total{source="a",reason="signature"}"#, 0.0),
            (r#"hooktrail_rejections_total{source="-",reason="not_found"}"#, 1.0),
            (r#"hooktrail_intake_duration_seconds_count{result="accepted"}"#, 2.0),
            (r#"hooktrail_intake_duration_seconds_bucket{le="+Inf",result="accepted"}"#, 2.0),
            (r#"hooktrail_intake_duration_seconds_count{result="rejected"}"#, 3.0),
            (r#"hooktrail_intake_duration_seconds_count{result="unavailable"}"#, 0.0),
            (r#"hooktrail_jobs{handler="h",state="queued"}"#, 1.0),
        ],
    );
    let received_at = server.value("select unixepoch(received_at) from trail");
    let last = scrape.value(r#"hooktrail_last_event_timestamp_seconds{source="a"}"#);
    assert_eq!(last.map(|at| at.floor().to_string()), Some(received_at));
    let commits = scrape.value("hooktrail_commit_duration_seconds_count");
    assert!(commits >= Some(2.0), "{commits:?}");
    assert_eq!(scrape.value("hooktrail_commit_group_operations_count"), commits);
}

#[test]
fn an_attempt_is_counted_by_its_outcome() {
    let script = "read -r line; case $line in good) exit 0;; *) exit 1;; esac";
    let server = scenario()
        .admin("listen = [\"127.0.0.1:0\"]")
        .source("a", "")
        .handler("h", ONE_ATTEMPT, script)
        .start();
    for body in ["good\n", "bad\n", "good\n"] {
        assert_eq!(server.post("/hooks/a", body).status, 202);
    }
    server.until("select count(*) from outcomes", "3");
    assert_values(
        &scrape(&server),
        &[
            (r#"hooktrail_attempts_total{handler="h",outcome="succeeded"}"#, 2.0),
            (r#"hooktrail_attempts_total{handler="h",outcome="failed"}"#, 1.0),
            (r#"hooktrail_attempts_total{handler="h",outcome="interrupted"}"#, 0.0),
            (r#"hooktrail_attempt_duration_seconds_count{handler="h"}"#, 3.0),
            (r#"hooktrail_jobs{handler="h",state="queued"}"#, 0.0),
            (r#"hooktrail_jobs{handler="h",state="running"}"#, 0.0),
            (r#"hooktrail_jobs{handler="h",state="dead"}"#, 1.0),
        ],
    );
}

#[test]
fn a_running_job_keeps_a_worker_thread_busy() {
    let server = scraped().handler("h", "", "until test -e done; do sleep 0.01; done").start();
    assert_eq!(post(&server, "1", "{}"), 202);
    server.until("select state from queue_depth", "running");
    let during = scrape(&server);
    assert_values(
        &during,
        &[
            (r#"hooktrail_jobs{handler="h",state="running"}"#, 1.0),
            ("hooktrail_worker_threads_busy", 1.0),
        ],
    );
    let age = during.value(r#"hooktrail_oldest_job_age_seconds{handler="h"}"#);
    assert!(age > Some(0.0), "{age:?}");
    server.write_file("done", "");
    server.until("select count(*) from outcomes", "1");
    until("the thread is free", || {
        scrape(&server).value("hooktrail_worker_threads_busy") == Some(0.0)
    });
}

#[test]
fn an_open_circuit_breaker_is_exported() {
    let keys =
        "breaker = { threshold = 1, cooldown = \"10m\" }\nretry = { initial_delay = \"1ms\" }";
    let server = scraped().handler("h", keys, "exit 1").start();
    assert_eq!(post(&server, "1", "{}"), 202);
    server.until("select change from breaker_log", "opened");
    assert_values(&scrape(&server), &[(r#"hooktrail_circuit_breaker_open{handler="h"}"#, 1.0)]);
}

#[test]
fn a_503_is_counted_by_its_reason_and_scrapes_go_on_meanwhile() {
    let server = scraped().start();
    let lock = server.lock_database();
    assert_eq!(post(&server, "1", "{}"), 503);
    let during = scrape(&server);
    assert_values(
        &during,
        &[
            (r#"hooktrail_unavailable_responses_total{reason="database"}"#, 1.0),
            (r#"hooktrail_unavailable_responses_total{reason="writer_full"}"#, 0.0),
            (r#"hooktrail_intake_duration_seconds_count{result="unavailable"}"#, 1.0),
            ("hooktrail_database_writable", 0.0),
            (r#"hooktrail_events_total{source="a"}"#, 0.0),
        ],
    );
    assert!(during.value("hooktrail_failed_commits_total") >= Some(1.0));
    drop(lock);
    until("the database is written again", || {
        scrape(&server).value("hooktrail_database_writable") == Some(1.0)
    });
}

#[test]
fn an_evaluation_in_a_process_is_counted_and_a_killed_process_too() {
    let server = scenario()
        .admin("listen = [\"127.0.0.1:0\"]")
        .source(
            "a",
            "dedupe = { jq = 'if .deadly then [range(1e9)] else [.id, length] | tostring end' }",
        )
        .start();
    let before = scrape(&server);
    assert_values(&before, &[(r#"hooktrail_evaluators{priority="intake"}"#, 0.0)]);
    assert_eq!(server.post("/hooks/a", r#"{"id":1}"#).status, 202);
    assert_values(
        &scrape(&server),
        &[
            (r#"hooktrail_evaluations_total{priority="intake"}"#, 1.0),
            (r#"hooktrail_evaluators{priority="intake"}"#, 1.0),
            (r#"hooktrail_evaluators_killed_total{priority="intake"}"#, 0.0),
        ],
    );
    server.post("/hooks/a", r#"{"deadly":true}"#);
    until("the process was killed", || {
        let scrape = scrape(&server);
        let killed = ["intake", "handlers", "transform", "deferred"].map(|priority| {
            scrape.value(&format!("hooktrail_evaluators_killed_total{{priority=\"{priority}\"}}"))
        });
        killed.into_iter().flatten().sum::<f64>() >= 1.0
    });
}

#[test]
fn a_label_has_only_names_of_the_configuration_and_fixed_values() {
    let mut server = scraped()
        .source(
            "b",
            "verify = { scheme = \"token\", header = \"X-Token\", secret = { env = \"PATH\" } }",
        )
        .handler("h", ONE_ATTEMPT, "echo payload-text >&2; exit 1")
        .start();
    post(&server, "payload-text", r#"{"payload-text":1}"#);
    server.request("POST", "/payload-text?payload-text", "", b"payload-text");
    server.request("POST", "/hooks/b", "X-Token: payload-text", b"payload-text");
    server.request("PAYLOAD", "/hooks/b", "", b"");
    server.until("select count(*) from outcomes", "1");
    let first = scrape(&server);
    assert_values(&first, &[(r#"hooktrail_rejections_total{source="b",reason="signature"}"#, 1.0)]);
    assert_eq!(first.label_values("source"), ["-", "a", "b"]);
    assert_eq!(first.label_values("handler"), ["h"]);
    let lower = first.text.to_lowercase();
    assert!(!lower.contains("payload") && !lower.contains("127.0.0.1"), "{}", first.text);
    // A name that a reload removes is not exported any more.
    server.replace_in_config("[sources.b]", "[sources.c]");
    server.signal(Signal::HUP);
    server.until_reloads(1);
    let second = scrape(&server);
    assert_eq!(second.label_values("source"), ["-", "a", "c"]);
    assert_values(
        &second,
        &[
            (r#"hooktrail_events_total{source="a"}"#, 1.0),
            (r#"hooktrail_events_total{source="c"}"#, 0.0),
        ],
    );
}

#[test]
fn the_time_of_the_last_event_outlasts_a_restart() {
    let mut server = scraped().start();
    assert_eq!(post(&server, "1", "{}"), 202);
    let last = |server: &Server| {
        scrape(server).value(r#"hooktrail_last_event_timestamp_seconds{source="a"}"#)
    };
    let before = last(&server);
    assert!(before > Some(0.0), "{before:?}");
    server.stop();
    server.start();
    assert_eq!(last(&server), before);
    assert_values(&scrape(&server), &[(r#"hooktrail_events_total{source="a"}"#, 0.0)]);
}

#[test]
fn open_metrics_is_sent_to_a_client_that_accepts_it() {
    let server = scraped().start();
    let accept =
        "Accept: application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5";
    let response = scrape::get(&server, accept);
    assert_eq!(
        response.header("content-type"),
        Some("application/openmetrics-text; version=1.0.0; charset=utf-8")
    );
    assert!(response.body.ends_with("\n# EOF\n"), "{}", response.body);
    assert!(response.body.contains("# TYPE hooktrail_events counter\n"), "{}", response.body);
    let plain = scrape::get(&server, "");
    assert_eq!(plain.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    assert!(!plain.body.contains("# EOF"), "{}", plain.body);
}

#[test]
fn the_listener_of_webhooks_has_no_metrics() {
    let server = scraped().start();
    assert_eq!(server.request("GET", "/metrics", "", b"").status, 404);
    assert_ne!(admin_port(&server), server.port);
}
