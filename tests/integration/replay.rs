//! `hooktrail replay`: new jobs with new idempotency keys for stored events.

use std::collections::HashSet;
use std::process::{Command, Stdio};

use crate::support::server::{
    HOOKTRAIL, Server, cli, scenario, stderr, stdout, stopped_server_with_jobs, until,
};

/// A stopped server with a paused handler, and events with one succeeded job each.
fn stopped_server_with(events: usize) -> Server {
    stopped_server_with_jobs(events, 3)
}

#[test]
fn a_replayed_event_runs_with_a_new_idempotency_key() {
    let server =
        scenario().source("a", "").handler("h", "", "echo $HOOKTRAIL_IDEMPOTENCY_KEY; cat").start();
    server.post("/hooks/a", "the body");
    server.until("select count(*) from outcomes", "1");
    let replayed = server.cli(&["replay", "1"]);
    assert_eq!(stdout(&replayed), "replayed 1 event: 1 job\n", "{}", stderr(&replayed));
    server.until("select count(*) from outcomes", "2");
    assert_eq!(stdout(&server.cli(&["replay", "1", "1"])), "replayed 1 event: 1 job\n");
    server.until("select count(*) from outcomes", "3");
    let outputs = server.column("select stdout from attempts");
    let keys: HashSet<&str> = outputs.iter().filter_map(|output| output.lines().next()).collect();
    assert_eq!(keys.len(), 3, "{outputs:?}");
    assert!(outputs.iter().all(|output| output.ends_with("the body")), "{outputs:?}");
    assert_eq!(server.value("select jobs || ' ' || succeeded from trail"), "3 3");
    let entries =
        server.column("select action || ' ' || via || ' ' || jobs from audit_log order by id");
    assert_eq!(entries, ["replay cli 1", "replay cli 1"]);
}

#[test]
fn a_new_handler_gets_replayed_events_from_before_it_existed() {
    let mut server = scenario().source("a", "").source("b", "").handler("h", "", "true").start();
    for (path, body) in [("/hooks/a", "one"), ("/hooks/b", "two"), ("/hooks/a", "three")] {
        server.post(path, body);
    }
    server.write_file("new.sh", "#!/bin/sh\ncat\n");
    // The command line reads the new configuration before the server does.
    server.config().push_str("[handlers.new]\nsources = [\"a\"]\ncommand = [\"./new.sh\"]\n");
    server.write_config();
    let replayed = server.cli(&["replay", "--all", "--handler", "new", "--yes"]);
    assert_eq!(stdout(&replayed), "replayed 2 events: 2 jobs\n", "{}", stderr(&replayed));
    assert_eq!(stderr(&replayed), "skipped 1 event: no handler has the source\n");
    assert_eq!(server.value("select jobs from queue_depth where handler = 'new'"), "2");
    server.reload_with("");
    server.until("select count(*) from outcomes where handler = 'new'", "2");
    let bodies = "select stdout from attempts where stdout is not null order by job";
    assert_eq!(server.column(bodies), ["one", "three"]);
    server.until("select count(*) from outcomes where handler = 'h'", "2");
}

#[test]
fn a_dry_run_prints_the_plan_and_changes_nothing() {
    let server = scenario()
        .source("a", "")
        .source("b", "")
        .handler("h", "paused = true", "true")
        .raw_config("[handlers.k]\nsources = [\"a\", \"b\"]\ncommand = [\"true\"]\npaused = true")
        .start();
    for path in ["/hooks/a", "/hooks/b"] {
        server.post(path, "x");
    }
    let planned = server.cli(&["replay", "--all", "--dry-run"]);
    let lines =
        "event 1 of a: h 1 job, k 1 job\nevent 2 of b: k 1 job\nwould replay 2 events: 3 jobs\n";
    assert_eq!(stdout(&planned), lines, "{}", stderr(&planned));
    let output = stdout(&server.cli(&["replay", "2", "--dry-run", "--json"]));
    let object: serde_json::Value = serde_json::from_str(&output).expect("an object");
    let expected = serde_json::json!(
        {"event": 2, "source": "b", "handler": "k", "jobs": 1, "reason": null});
    assert_eq!(object, expected);
    assert_eq!(server.value("select count(*) from jobs"), "3");
    assert_eq!(server.value("select count(*) from audit_log"), "0");
}

#[test]
fn a_replay_evaluates_the_current_expressions() {
    let mut server = scenario().source("a", "").handler("h", "when = 'false'", "cat").start();
    // An expression that needs an evaluator process.
    for body in [r#"{"ids":[1,2]}"#, r#"{"ids":[]}"#, r#"{"id":7}"#, "{"] {
        server.post("/hooks/a", body);
    }
    server.until("select count(*) from deferred_events", "0");
    assert_eq!(server.value("select count(*) from jobs"), "0");
    let text = server.config().replace("when = 'false'", "when = 'has(\"ids\")'\nsplit = '.ids[]'");
    *server.config() = text;
    server.reload_with("");
    server.until_reloads(1);
    let plan = stdout(&server.cli(&["replay", "--all", "--dry-run"]));
    let mut lines = plan.lines();
    assert_eq!(lines.next(), Some("event 1 of a: h 2 jobs"), "{plan}");
    assert_eq!(lines.next(), Some("event 2 of a: h 0 jobs"), "{plan}");
    assert_eq!(lines.next(), Some("event 3 of a: not wanted by when"), "{plan}");
    let dead = lines.next().unwrap_or_default();
    assert!(dead.starts_with("event 4 of a: h a dead job (when: "), "{plan}");
    assert_eq!(lines.next(), Some("would replay 4 events: 3 jobs"), "{plan}");
    let replayed = server.cli(&["replay", "--all", "--yes"]);
    assert_eq!(stdout(&replayed), "replayed 4 events: 3 jobs\n", "{}", stderr(&replayed));
    server.until("select count(*) from outcomes where outcome = 'succeeded'", "2");
    let items = "select item || ' ' || cast(stdout as text) from outcomes o join attempts a
                 on a.id = o.id where o.outcome = 'succeeded' order by item";
    assert_eq!(server.column(items), ["1 1", "2 2"]);
    assert_eq!(server.value("select event from dead_jobs"), "4");
}

#[test]
fn a_replay_of_selected_jobs_runs_only_their_handlers() {
    let server = scenario()
        .source("a", "")
        .handler("good", "", "true")
        .handler("bad", "retry = { max_attempts = 1 }", "echo no luck >&2; exit 65")
        .start();
    for _ in 0..2 {
        server.post("/hooks/a", "x");
    }
    server.until("select count(*) from outcomes", "4");
    for selected in [["--state", "dead"], ["--detail", "no luck"]] {
        let args = [&["replay"][..], &selected, &["--until", "2100-01-01", "--yes"]].concat();
        assert_eq!(stdout(&server.cli(&args)), "replayed 2 events: 2 jobs\n");
    }
    server.until("select count(*) from outcomes where handler = 'bad'", "6");
    assert_eq!(server.value("select count(*) from outcomes where handler = 'good'"), "2");
    let none = server.cli(&["replay", "--handler", "good", "--state", "dead", "--yes"]);
    assert_eq!(stdout(&none), "replayed 0 events: 0 jobs\n");
}

#[test]
fn a_replay_of_unknown_names_is_rejected_and_changes_nothing() {
    let server = scenario().source("a", "").source("b", "").handler("h", "", "true").start();
    for path in ["/hooks/a", "/hooks/b"] {
        server.post(path, "x");
    }
    for (args, error) in [
        (&["replay", "1", "7"][..], "event 7: there is no such event"),
        (&["replay", "1", "2"], "event 2: no handler has its source"),
        (&["replay", "2", "--handler", "h"], "event 2: handler h does not have its source"),
        (&["replay", "1", "--handler", "x"], "handler x: there is no such handler in config.toml"),
        (&["replay", "--source", "x"], "source x: there is no such source in the database"),
        (&["replay", "--event", "9"], "event 9: there is no such event"),
    ] {
        let rejected = server.cli(args);
        assert_eq!(rejected.status.code(), Some(1), "{args:?}");
        assert_eq!(stderr(&rejected).trim_end(), error, "{args:?}");
    }
    assert_eq!(server.cli(&["replay"]).status.code(), Some(2));
    assert_eq!(server.value("select count(*) from jobs"), "1");
    assert_eq!(server.value("select count(*) from audit_log"), "0");
}

#[test]
fn a_large_replay_delays_no_sender() {
    const EVENTS: usize = 20_000;
    let mut server = stopped_server_with(EVENTS);
    server.start();
    let folder = server.path().to_owned();
    let replay = std::thread::spawn(move || cli(&folder, &["replay", "--all", "--yes"]));
    let mut accepted = 0;
    while !replay.is_finished() {
        assert_eq!(server.post("/hooks/a", "meanwhile").status, 202);
        accepted += 1;
    }
    let replayed = replay.join().expect("the output");
    assert_eq!(stdout(&replayed).lines().count(), 1, "{}", stderr(&replayed));
    // The replay may also include some of the new events. Its output has the number of jobs.
    let created = server.value("select count(*) from jobs where replay = 1");
    assert!(created.parse::<usize>().expect("a number") >= EVENTS, "{created}");
    assert_eq!(server.value("select jobs from audit_log"), created);
    assert!(accepted > 1, "no event was accepted during the replay");
    let original_jobs = "select count(*) from jobs where replay is null and event > 20000";
    assert_eq!(server.value(original_jobs), accepted.to_string());
    assert!(!server.log().contains("senders get 503"), "{}", server.log());
}

#[test]
fn a_killed_replay_leaves_complete_jobs_and_a_correct_count() {
    let server = stopped_server_with(30_000);
    let mut replay = Command::new(HOOKTRAIL)
        .args(["replay", "--all", "--yes"])
        .current_dir(server.path())
        .stdin(Stdio::null())
        .spawn()
        .expect("the command line");
    let created = || server.value("select count(*) from jobs where replay = 1");
    until("the replay has begun", || created() != "0");
    replay.kill().expect("the end");
    replay.wait().expect("the end");
    let created = created();
    assert_eq!(
        server.value("select jobs || ' ' || action from audit_log"),
        format!("{created} replay")
    );
    assert_eq!(server.value("select job from counters"), server.value("select max(id) from jobs"));
    let complete =
        "select count(*) from jobs where replay = 1 and appended_to = event and state = 0";
    assert_eq!(server.value(complete), created);
}
