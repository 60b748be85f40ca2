//! What `list`, `tail` and `stats` print, and that no command changes many jobs without a confirmation.

use serde_json::Value;
use unicode_width::UnicodeWidthStr;

use crate::support::server::{HOOKTRAIL, Server, scenario, stderr, stdout, until};

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
fn every_table_fits_a_terminal_of_80_columns() {
    let handler = "contacts-of-the-second-region";
    let keys = "retry = { initial_delay = '1h' }\nbreaker = { threshold = 1, cooldown = '1h' }";
    let script = "printf '%s\\n' '連絡先が見つかりません、もう一度お試しください: 4711 is not a contact' >&2; exit 7";
    let server = scenario().source("a", "").handler(handler, keys, script).start();
    server.post("/hooks/a", "one");
    server.post(&format!("/hooks/{}", "unknown".repeat(30)), "two");
    server.until("select count(*) from outcomes", "1");
    server.until("select count(*) from rejections", "1");
    for args in [
        &["tail"][..],
        &["tail", "--rejected"],
        &["list"],
        &["list", "--events"],
        &["list", "--rejected"],
        &["list", "--handlers"],
        &["list", "--sources"],
        &["stats"],
        &["retry", "--all", "--dry-run"],
        &["cancel", "--all", "--dry-run"],
    ] {
        let shown = server.cli_on_terminal(80, args);
        for line in shown.lines() {
            assert!(line.width() <= 80, "{args:?}: {shown}");
        }
        assert!(shown.lines().count() > 1, "{args:?}: {shown}");
    }
    let shown = server.cli_on_terminal(80, &["tail"]);
    assert!(shown.contains(handler) && shown.ends_with("…\n"), "{shown}");
    // A pipe gets the same text whole, in the last column.
    let piped = stdout(&server.cli(&["tail"]));
    assert!(piped.ends_with(": 4711 is not a contact\n"), "{piped}");
}

#[test]
fn tables_name_the_time_zone() {
    let server = three_events();
    let command = |zone: &str, args: &[&str]| {
        let output = std::process::Command::new(HOOKTRAIL)
            .args(args)
            .current_dir(server.path())
            .env("TZ", zone)
            .output()
            .expect("the command line");
        stdout(&output)
    };
    // A zone without a name has its offset.
    for (zone, shown) in [("UTC", "UTC"), ("Nowhere/Unknown", "UTC"), ("<+03>-3", "+03")] {
        for args in [&["tail"][..], &["list", "--events"], &["stats"]] {
            let printed = command(zone, args);
            assert!(printed.contains(&format!("at ({shown})")), "{zone} {args:?}: {printed}");
        }
        let printed = command(zone, &["show", "1"]);
        assert!(printed.lines().next().expect("a line").ends_with(shown), "{zone}: {printed}");
        let at = server.value("select at from outcomes where job = 1");
        assert!(command(zone, &["tail", "--json"]).contains(&at), "{zone}");
    }
}

#[test]
fn an_empty_list_says_so_on_stderr() {
    let server = three_events();
    for (args, text) in [
        (&["list", "--state", "running"][..], "no jobs match\n"),
        (&["list", "--events", "--until", "2001-01-01"], "no events match\n"),
        (&["list", "--rejected"], "no rejections yet\n"),
        (&["tail", "--handler", "good", "--state", "dead"], "no outcomes match\n"),
        (&["tail", "--rejected"], "no rejections yet\n"),
        (&["tail", "-n", "0"], ""),
        (&["list", "--state", "running", "--json"], ""),
    ] {
        let output = server.cli(args);
        assert_eq!(output.status.code(), Some(0), "{args:?}");
        assert_eq!((stdout(&output).as_str(), stderr(&output).as_str()), ("", text), "{args:?}");
    }
}

#[test]
fn an_option_that_does_not_apply_is_an_error_that_names_those_that_do() {
    let server = three_events();
    for (args, wrong, expected) in [
        (&["list", "--handlers", "--limit", "3"][..], "--limit does not apply", "--json"),
        (&["list", "--sources", "--event", "1", "--all"], "--event and --all do not", "--json"),
        (&["list", "--rejected", "--handler", "bad"], "--handler does not", "--detail"),
        (&["list", "--events", "--state", "dead"], "--state does not", "--since"),
        (&["list", "--events", "--detail", "x"], "--detail does not", "--since"),
        (&["tail", "--rejected", "--state", "dead"], "--state does not", "--source"),
        (&["show", "1", "--body", "--state", "dead"], "--body", "--state"),
        (&["show", "1", "--job", "1", "--state", "dead"], "--job", "--state"),
        (&["replay", "--all", "--json"], "--dry-run", "--json"),
    ] {
        let output = server.cli(args);
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {text}");
        assert!(text.contains(wrong) && text.contains(expected), "{args:?}: {text}");
    }
    assert_eq!(server.json_lines(&["list", "--rejected", "--detail", "x", "--json"]).len(), 0);
    assert_eq!(server.json_lines(&["list", "--events", "--event", "2", "--json"]).len(), 1);
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
    let text = "[server]\nlisten = ['0.0.0.0:0']\n[admin]\nlisten = []\n[sources.a]\n[handlers.h]\nsources = ['a']\ncommand = ['true']\n";
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

#[test]
fn the_counts_of_the_last_hour_are_exact_after_a_crash() {
    let mut server = scenario()
        .source("a", "accept = 'json'")
        .handler("good", "", "true")
        .handler("slow", "", "echo started >> started; exec sleep 600")
        .start();
    for body in ["1", "2", "3"] {
        assert_eq!(server.post("/hooks/a", body).status, 202);
    }
    assert_ne!(server.post("/hooks/a", "no JSON").status, 202);
    server.until("select count(*) from outcomes", "3");
    server.until("select sum(jobs) from queue_depth where state = 'running'", "3");
    server.until("select sum(count) from rejections", "1");
    let counts = |server: &Server| {
        let rows = server.json_lines(&["stats", "--json"]);
        let count = |row: usize, field: &str| rows[row][field].as_i64();
        (
            [count(0, "succeeded_last_hour"), count(1, "unsuccessful_last_hour")],
            [count(2, "events_last_hour"), count(2, "rejected_last_hour")],
        )
    };
    server.kill();
    assert_eq!(counts(&server), ([Some(3), Some(0)], [Some(3), Some(1)]));
    server.start();
    server.until("select count(*) from outcomes where outcome = 'interrupted'", "3");
    assert_eq!(counts(&server), ([Some(3), Some(3)], [Some(3), Some(1)]));
}
