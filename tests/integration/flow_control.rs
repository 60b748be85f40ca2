//! Flow control of handlers: circuit breaker, rate limit and debouncing.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::server::{Server, scenario, until};

const BREAKER_CHANGES: &str =
    "select group_concat(change, ' ') from (select change from breaker_log order by id)";

#[test]
fn a_circuit_breaker_opens_probes_and_closes_again() {
    let keys =
        "breaker = { threshold = 3, cooldown = \"300ms\" }\nretry = { initial_delay = \"1ms\" }";
    let script = "test -e fixed || exit 1; echo x >> done";
    let mut server = scenario().source("a", "").handler("h", keys, script).start();
    for _ in 0..6 {
        server.post("/hooks/a", "{}");
    }
    let opened = "select count(*) > 0 from breaker_log where change = 'opened'";
    server.until(opened, "1");
    server.kill();
    server.start();
    let probed = "select count(*) > 1 from breaker_log where change = 'probe'";
    server.until(probed, "1");
    server.write_file("fixed", "");
    server.until("select count(*) from trail where succeeded = 1", "6");
    let changes = server.value(BREAKER_CHANGES);
    assert!(changes.starts_with("opened probe opened probe"), "{changes}");
    assert!(changes.ends_with("probe closed"), "{changes}");
}

#[test]
fn a_rate_limit_spreads_starts_evenly() {
    let keys = "rate_limit = \"10/s\"\nconcurrency = 16";
    let server = scenario().source("a", "").handler("h", keys, "echo >> starts").start();
    let posted_at = Instant::now();
    for _ in 0..10 {
        server.post("/hooks/a", "{}");
    }
    until("all jobs have started", || server.read_file("starts").lines().count() == 10);
    let took = posted_at.elapsed();
    assert!(took >= Duration::from_millis(900), "ten starts within {took:?}");
}

/// A server with a rate limit of one start per hour, which its first job has used. The jobs of the
/// handler `other` have no limit.
fn server_with_used_rate_limit() -> Server {
    let server = scenario()
        .source("a", "")
        .handler("h", "rate_limit = \"1/h\"", "echo x >> starts")
        .handler("other", "", "true")
        .start();
    server.post("/hooks/a", "1");
    server.until("select count(*) from outcomes", "2");
    server
}

#[test]
fn a_rate_limit_holds_over_a_crash_and_a_restart() {
    let mut server = server_with_used_rate_limit();
    server.kill();
    server.start();
    server.post("/hooks/a", "2");
    server.until("select count(*) from outcomes where handler = 'other'", "2");
    assert_eq!(server.stop(), Some(0));
    server.start();
    server.post("/hooks/a", "3");
    server.until("select count(*) from outcomes where handler = 'other'", "3");
    assert_eq!(server.read_file("starts"), "x\n");
    assert_eq!(server.value("select jobs from queue_depth where handler = 'h'"), "2");
}

#[test]
fn a_rate_limit_holds_over_reloads_even_if_one_removes_it() {
    let mut server = server_with_used_rate_limit();
    let others = "select count(*) from outcomes where handler = 'other'";
    let slow = server.config().clone();
    server.signal(Signal::HUP);
    server.until_reloads(1);
    server.post("/hooks/a", "2");
    server.until(others, "2");
    // Without the rate limit for a moment. The handler is paused, so that nothing starts meanwhile.
    *server.config() = slow.replace("rate_limit = \"1/h\"", "paused = true");
    server.reload_with("");
    server.until_reloads(2);
    *server.config() = slow;
    server.reload_with("");
    server.until_reloads(3);
    server.post("/hooks/a", "3");
    server.until(others, "3");
    assert_eq!(server.read_file("starts"), "x\n");
    assert_eq!(server.value("select jobs from queue_depth where handler = 'h'"), "2");
}

#[test]
fn a_burst_of_debounced_events_runs_one_job() {
    let keys = "debounce_by = '.repo'\ndebounce = \"300ms\"";
    let server = scenario().source("a", "").handler("h", keys, "cat").start();
    for n in 0..5 {
        server.post("/hooks/a", format!(r#"{{"repo":"r","n":{n}}}"#));
    }
    server.until("select count(*) from trail where settled_at is null", "0");
    let last = server.value("select stdout from attempts");
    assert_eq!(last, r#"{"repo":"r","n":4}"#);
    let reasons = "select count(*) from jobs where reason like 'superseded by job %'";
    assert_eq!(server.value(reasons), "4");
}

#[test]
fn a_paused_handler_with_an_open_breaker_starts_nothing() {
    let keys =
        "breaker = { threshold = 1, cooldown = \"1ms\" }\nretry = { initial_delay = \"1ms\" }";
    let server = scenario()
        .source("a", "")
        .handler("h", keys, "echo >> starts; exit 1")
        .handler("other", "", "true")
        .start();
    server.post("/hooks/a", "{}");
    server.until("select count(*) > 2 from breaker_log", "1");
    assert!(server.cli(&["pause", "h"]).status.success());
    server.until("select count(*) from queue_depth where state = 'running'", "0");
    server.signal(Signal::HUP);
    server.until_reloads(1);
    let count_starts = || server.read_file("starts").lines().count();
    let before = count_starts();
    // The breaker's cooldown is over and a retry is due before these jobs of another handler end.
    for number in 2..=6 {
        server.post("/hooks/a", "{}");
        let others = "select count(*) from outcomes where handler = 'other'";
        server.until(others, &number.to_string());
    }
    assert_eq!(count_starts(), before);
    assert_eq!(server.value("select jobs from queue_depth where handler = 'h'"), "6");
    assert!(server.cli(&["resume", "h"]).status.success());
    until("the handler starts again", || count_starts() > before);
}
