//! `retention` and `prune`.

use std::fs;

use crate::support::server::{Server, scenario, stopped_server_with_jobs, until};

/// A server with a source whose events have this `retention`, and a handler that succeeds.
fn server_with(retention: &str) -> Server {
    scenario().source("a", &format!("retention = {retention}")).handler("h", "", "echo out").start()
}

#[test]
fn the_server_removes_events_and_the_file_shrinks_while_it_runs() {
    let server = server_with("{ events = \"1ms\" }");
    server.post("/hooks/b", "not found");
    for _ in 0..30 {
        assert_eq!(server.post("/hooks/a", vec![b'x'; 200_000]).status, 202);
    }
    let file = server.path().join("t.db");
    server.until("select count(*) from events", "0");
    for table in ["jobs", "attempts", "retention_waiting"] {
        assert_eq!(server.value(&format!("select count(*) from {table}")), "0", "{table}");
    }
    until("the file shrinks", || fs::metadata(&file).unwrap().len() < 2_000_000);
    until("the log says so", || server.log().contains("retention removed "));
    assert_eq!(server.post("/hooks/a", "x").event_id(), 31);
    assert_eq!(server.cli_text(&["verify"]).0, Some(0));
}

#[test]
fn an_event_whose_body_is_removed_is_shown_and_refused_by_name() {
    let server = server_with("{ bodies = \"1ms\", dead_jobs = \"1ms\" }");
    server.write_file("h.sh", "#!/bin/sh\ncat >/dev/null; echo private; exit 65\n");
    server.request("POST", "/hooks/a?key=1", "X-Card: 42\r\n", b"private");
    server.until("select count(*) from events where body is null", "1");
    assert_eq!(server.column("select bytes || ' ' || dead || ' ' || jobs from trail"), ["7 1 1"]);
    let refused = "event 1: it has no body any more";
    for args in [
        &["retry", "1"][..],
        &["retry", "--all", "--yes"],
        &["replay", "1"],
        &["replay", "--source", "a", "--yes"],
        &["run", "h", "1"],
        &["eval", ".", "1"],
        &["check", "--event", "1"],
        &["show", "1", "--body"],
    ] {
        let (code, text) = server.cli_text(args);
        assert_eq!((code, text.contains(refused)), (Some(1), true), "{args:?}: {text}");
    }
    let (code, shown) = server.cli_text(&["show", "1"]);
    assert_eq!(code, Some(0));
    assert!(shown.contains("(the headers and the body of 7 bytes were removed)"), "{shown}");
    assert!(
        !shown.contains("private") && !shown.contains("42") && !shown.contains("key="),
        "{shown}"
    );
    let object = &server.json_lines(&["show", "1", "--json"])[0];
    assert_eq!((&object["bytes"], &object["body_removed"]), (&7.into(), &true.into()));
    assert!(object["body"].is_null());
    assert_eq!(server.cli_text(&["verify"]).0, Some(0));
}

#[test]
fn a_duplicate_of_a_removed_event_is_answered_like_the_first() {
    let server = scenario()
        .source("a", "retention = { events = \"1ms\" }\ndedupe = { body = true }")
        .handler("h", "", "true")
        .start();
    assert_eq!(server.post("/hooks/a", "once").event_id(), 1);
    server.until("select count(*) from events", "0");
    let second = server.post("/hooks/a", "once");
    assert_eq!((second.status, second.body.as_str()), (202, r#"{"event":1,"duplicate":true}"#));
    assert_eq!(server.cli_text(&["verify"]).0, Some(0));
}

#[test]
fn events_that_are_not_settled_or_have_a_dead_job_stay() {
    let server = scenario()
        .source("a", "retention = { events = \"1ms\", bodies = \"1ms\" }")
        .source("b", "retention = { events = \"1ms\" }")
        .handler("h", "", "exit 65")
        .handler("held", "paused = true", "true")
        .handler_source("held", "b")
        .start();
    server.post("/hooks/a", "dies");
    server.post("/hooks/b", "waits");
    server.until("select count(*) from retention_waiting", "3");
    assert_eq!(server.column("select body from events"), ["dies", "waits"]);
    assert!(server.cli(&["cancel", "--state", "dead", "--yes"]).status.success());
    server.until("select id from events", "2");
}

#[test]
fn the_rules_rest_for_a_day_after_a_gap_in_the_trail_and_over_restarts() {
    for (change, reason) in [
        (
            "value - 3 * 86400000 where name in ('clock_wall_ms', 'clock_boot_ms')",
            "the trail has a gap of 3d",
        ),
        ("value - 366 * 86400000 where name = 'clock_wall_ms'", "the clock jumped forward by 366d"),
        ("value + 366 * 86400000 where name = 'clock_wall_ms'", "the clock jumped back by 366d"),
    ] {
        let mut server = server_with("{ events = \"forever\" }");
        server.post("/hooks/a", "x");
        server.until("select succeeded from trail", "1");
        assert_eq!(server.stop(), Some(0));
        server.open_database().execute(&format!("update meta set value = {change}"), []).unwrap();
        server.replace_in_config("forever", "1ms");
        for _ in 0..2 {
            server.start();
            until("the server says so", || server.log().contains(reason));
            until("status says so", || {
                let (code, text) = server.cli_text(&["status"]);
                code == Some(0) && text.contains(&format!("because {reason}"))
            });
            assert_eq!(server.stop(), Some(0));
        }
        assert_eq!(server.value("select count(*) from events"), "1");
        // A person decides.
        assert_eq!(server.cli_text(&["prune", "--yes"]).0, Some(0));
        assert_eq!(server.value("select count(*) from events"), "0");
    }
}

#[test]
fn a_killed_server_completes_what_it_began() {
    let mut server = server_with("{ events = \"1ms\" }");
    let mut accepted = 0;
    for _ in 0..8 {
        for _ in 0..20 {
            accepted += i64::from(server.post("/hooks/a", vec![b'x'; 9000]).status == 202);
        }
        let gone = |server: &Server| {
            accepted - server.value("select count(*) from events").parse::<i64>().unwrap()
        };
        let before = gone(&server);
        until("some events are removed", || gone(&server) > before);
        server.kill();
        assert_eq!(
            server.cli_text(&["verify"]),
            (
                Some(0),
                format!(
                    "{}: verified, nothing is wrong\n",
                    server.path().canonicalize().unwrap().join("t.db").display()
                )
            )
        );
        server.start();
    }
    server.until("select count(*) from events", "0");
}

#[test]
fn prune_removes_what_settled_before_a_time() {
    // The first events are from 2026-09-21.
    let server = stopped_server_with_jobs(500, 3);
    let conn = server.open_database();
    conn.execute_batch(
        "INSERT INTO event_blocks VALUES (0, 1, 0, 99999999);
         INSERT INTO job_blocks VALUES (0, 1, 1, 0, 99999999, 0);
         UPDATE jobs SET ended_at = ended_at + 86400000 WHERE id > 450;
         UPDATE jobs SET state = 4, reason = 'exit 1' WHERE id = 7;",
    )
    .unwrap();
    let before = ["--before", "2026-09-22T00:00:00Z"];
    let run = |more: &[&str]| server.cli_text(&[&["prune"][..], more].concat());
    let planned = run(&[&before[..], &["--dry-run"]].concat());
    let kept = "kept 51 that settled later or have not, or that a dead job protects\n";
    assert_eq!(planned, (Some(0), format!("would remove 449 events\n{kept}")));
    let (code, text) = run(&before);
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("there is no terminal to ask on, and nothing was changed"), "{text}");
    assert_eq!(server.value("select count(*) from events"), "500");

    let removed = run(&[&before[..], &["--yes", "--json"]].concat());
    let object = r#"{"bodies":0,"dry_run":false,"events":449,"jobs":449,"kept":51}"#;
    assert_eq!(removed, (Some(0), format!("{object}\n")));
    assert_eq!(server.value("select count(*) from events"), "51");
    assert_eq!(
        server.column("select action || ' ' || jobs || ' ' || reason from audit_log"),
        ["prune 449 settled before 2026-09-22T00:00:00.000Z"]
    );
    assert_eq!(run(&["--before", "2200-01-01"]).0, Some(2));
    let (code, text) = run(&["--yes"]);
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("config.toml keeps everything forever"), "{text}");
}

#[test]
fn prune_applies_the_rules_of_config_toml_beside_a_running_server() {
    let mut server = server_with("{ bodies = \"365d\" }");
    server.replace_in_config(
        "min_free_space = 1024",
        "min_free_space = 1024\nretention = { events = \"730d\" }",
    );
    assert_eq!(server.stop(), Some(0));
    server.start();
    for _ in 0..4 {
        server.post("/hooks/a", "body");
    }
    server.until("select count(*) from trail where succeeded = 1", "4");
    // Another wall clock than that of the server.
    server.allow_altered_rows();
    server
        .open_database()
        .execute_batch(
            "UPDATE events SET received_at = received_at - 400 * 86400000 * (3 - min(id, 2));
             UPDATE jobs SET ended_at = ended_at - 400 * 86400000 * (3 - event) WHERE event < 3;
             UPDATE jobs SET ended_at = ended_at - 400 * 86400000 WHERE event = 3;",
        )
        .unwrap();
    assert_eq!(server.cli_text(&["prune", "--yes"]).0, Some(0));
    server
        .until("select group_concat(id || ':' || (body is null), ' ') from events", "2:1 3:1 4:0");
}
