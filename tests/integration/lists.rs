//! What `list`, `tail` and `stats` print, and that no command changes many jobs without a confirmation.

use serde_json::Value;

use crate::support::server::{Server, scenario, stderr, stdout, until};

/// A server with three events. The handler `good` succeeds, the handler `bad` fails once.
fn three_events() -> Server {
    let server = scenario()
        .source("a", "")
        .handler("good", "", "true")
        .handler("bad", "retry = { max_attempts = 1 }", "echo no such contact >&2; exit 7")
        .start();
    for body in ["one", "two", "three"] {
        server.post("/hooks/a", body);
    }
    server.until("select count(*) from outcomes", "6");
    server
}

#[test]
fn without_a_terminal_bulk_commands_need_a_confirmation_by_option() {
    let server = three_events();
    let before = server.column("select id || ' ' || state || ' ' || attempt from jobs");
    for args in [
        &["retry", "--handler", "bad"][..],
        &["retry", "--all"],
        &["cancel", "--state", "dead"],
        &["replay", "--source", "a"],
        &["replay", "--all"],
        // Nothing is selected.
        &["retry", "--state", "cancelled"],
    ] {
        let output = server.cli(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", stderr(&output));
        assert!(stderr(&output).contains("--yes"), "{args:?}: {}", stderr(&output));
    }
    assert_eq!(server.column("select id || ' ' || state || ' ' || attempt from jobs"), before);
    assert_eq!(server.value("select count(*) from audit_log"), "0");
}

#[test]
fn a_dry_run_lists_the_jobs_and_changes_nothing() {
    let server = three_events();
    for (verb, done) in [("retry", "would retry 3 jobs"), ("cancel", "would cancel 3 jobs")] {
        let printed = stdout(&server.cli(&[verb, "--handler", "bad", "--dry-run"]));
        assert!(printed.ends_with(&format!("{done}\n")), "{printed}");
        assert_eq!(printed.matches(" bad ").count(), 3, "{printed}");
    }
    assert_eq!(stdout(&server.cli(&["retry", "2", "--dry-run"])).lines().count(), 3);
    assert_eq!(server.value("select count(*) from jobs where state = 4"), "3");
    assert_eq!(server.value("select count(*) from audit_log"), "0");
}

#[test]
fn tail_prints_the_rows_that_match_all_of_its_options() {
    let server = three_events();
    let count = |args: &[&str]| server.json_lines(&[&["tail", "--json"], args].concat()).len();
    assert_eq!(count(&["-n", "2"]), 2);
    assert_eq!(count(&["--lines", "0"]), 0);
    assert_eq!(count(&["--handler", "bad"]), 3);
    assert_eq!(count(&["--handler", "bad", "--state", "succeeded"]), 0);
    assert_eq!(count(&["--state", "dead", "--source", "a", "-n", "1"]), 1);
    server.post("/hooks/unknown", "");
    server.until("select count(*) from rejections", "1");
    assert_eq!(count(&["--rejected"]), 1);
    assert_eq!(count(&["--rejected", "--source", "a"]), 0);
    // New rows are found by their id, also if the filter left out the newest ones before.
    let printed = server.path().join("followed");
    let file = std::fs::File::create(&printed).expect("a file");
    let args = ["tail", "-f", "--json", "--handler", "good", "-n", "1"];
    let _tail = server.start_cli(&args, file.into());
    let events = || -> Vec<i64> {
        let text = std::fs::read_to_string(&printed).expect("text");
        let rows = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("a row"));
        rows.filter_map(|row| row["event"].as_i64()).collect()
    };
    let last = "select event from outcomes where handler = 'good' order by id desc limit 1";
    let last: i64 = server.value(last).parse().expect("an event");
    until("tail prints the last row", || events() == [last]);
    server.post("/hooks/a", "four");
    until("tail prints the new row alone", || events() == [last, 4]);
    let output = server.cli(&["tail", "--handler", "unknown"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("handler unknown: there is no such handler"),
        "{}",
        stderr(&output)
    );
    assert_eq!(server.cli(&["tail", "--rejected", "--state", "dead"]).status.code(), Some(2));
}

#[test]
fn a_list_that_is_cut_says_of_how_many_rows() {
    let server = three_events();
    let last_line =
        |args: &[&str]| stdout(&server.cli(args)).lines().last().unwrap_or("").to_owned();
    let printed = last_line(&["list", "--limit", "2"]);
    assert!(printed.starts_with("2 of 6 "), "{printed}");
    let printed = last_line(&["list", "--limit", "2", "--state", "dead"]);
    assert!(printed.starts_with("2 of 3 "), "{printed}");
    let printed = last_line(&["list", "--events", "--limit", "1"]);
    assert!(printed.starts_with("1 of 3 "), "{printed}");
    for whole in [&["list", "--limit", "6"][..], &["list", "--all"], &["list"]] {
        assert_eq!(stdout(&server.cli(whole)).lines().count(), 7, "{whole:?}");
    }
    assert_eq!(server.json_lines(&["list", "--limit", "2", "--json"]).len(), 2);
}

#[test]
fn an_open_circuit_breaker_is_in_the_list_the_statistics_and_the_log() {
    let keys = "concurrency = 1\nbreaker = { threshold = 1, cooldown = '1h' }";
    let server =
        scenario().source("a", "").handler("h", keys, "echo no such contact >&2; exit 3").start();
    let closed = server.json_lines(&["stats", "--json"]);
    assert_eq!(closed[0]["breaker_open_until"], Value::Null);
    server.post("/hooks/a", "one");
    server.until("select change from breaker_log", "opened");
    server.post("/hooks/a", "two");
    let jobs = server.json_lines(&["list", "--state", "queued", "--json"]);
    let reasons: Vec<&str> = jobs.iter().filter_map(|job| job["reason"].as_str()).collect();
    assert!(reasons[0].starts_with("circuit breaker open until 20"), "{reasons:?}");
    assert!(reasons[1].ends_with("; exit 3: no such contact"), "{reasons:?}");
    let opened = server.json_lines(&["stats", "--json"]);
    let open_until = opened[0]["breaker_open_until"].as_str().expect("a time");
    assert!(open_until.starts_with("20"), "{open_until}");
    until("the log names the handler", || {
        server.log().contains("handler h: the circuit breaker is open until 20")
    });
}

#[test]
fn the_list_says_why_a_queued_job_waits() {
    let server = scenario()
        .source("a", "")
        .handler("paused", "paused = true", "true")
        .handler("retried", "retry = { initial_delay = '1h' }", "echo no >&2; exit 7")
        .handler("ordered", "ordering_key = '\"k\"'\npaused = true", "true")
        .start();
    server.post("/hooks/a", "one");
    server.post("/hooks/a", "two");
    server.until("select count(*) from outcomes", "2");
    let reason = |handler: &str, index: usize| {
        let jobs = server.json_lines(&["list", "--handler", handler, "--json"]);
        jobs[index]["reason"].as_str().unwrap_or_default().to_owned()
    };
    assert_eq!(reason("paused", 0), "handler is paused");
    assert_eq!(reason("retried", 0), "exit 7: no");
    assert_eq!(
        reason("ordered", 0),
        "handler is paused; waits for an earlier job with its ordering key"
    );
}

#[test]
fn a_strict_check_fails_on_warnings() {
    let server = scenario().source("a", "").handler("h", "", "true").start();
    let lenient = server.cli(&["check"]);
    assert!(lenient.status.success(), "{}", stderr(&lenient));
    let warnings = stdout(&lenient).lines().filter(|line| line.starts_with("warning: ")).count();
    let strict = server.cli(&["check", "--strict"]);
    assert_eq!(strict.status.code(), Some(i32::from(warnings > 0)), "{}", stdout(&lenient));
    let removed = server.path().join("removed.toml");
    let text = "[server]\nlisten = ['0.0.0.0:0']\n[sources.a]\n[handlers.h]\nsources = ['a']\ncommand = ['true']\n";
    std::fs::write(&removed, text).expect("a configuration");
    let path = removed.to_str().expect("a path");
    let lenient = server.cli(&["check", "--config", path]);
    assert!(
        lenient.status.success() && stdout(&lenient).contains("warning: "),
        "{}",
        stdout(&lenient)
    );
    let strict = server.cli(&["check", "--config", path, "--strict"]);
    assert_eq!(strict.status.code(), Some(1));
    assert!(stderr(&strict).contains("--strict allows none"), "{}", stderr(&strict));
}
