//! Events of type `job.settled`: one for each time a job succeeds, dies or is cancelled, for the handlers that ask for
//! them.

use std::collections::{HashMap, HashSet};

use serde_json::{Value, json};

use crate::support::server::{Scenario, Server, scenario, stderr, stdout};

/// The keys of a handler that takes the events.
const WHEN: &str = "when = '.type == \"job.settled\"'";

/// A handler of the source `a` whose body says how its job ends.
const SCRIPT: &str =
    "body=$(cat); echo \"$HOOKTRAIL_IDEMPOTENCY_KEY\"; [ \"$body\" = ok ] || exit 65";

/// A server whose handler `settled` takes the events.
fn with_subscriber() -> Scenario {
    scenario()
        .source("a", "")
        .handler("work", "", SCRIPT)
        .handler("settled", WHEN, "cat")
        .handler_source("settled", "hooktrail")
}

/// The bodies of the events, oldest first.
fn settled_events(server: &Server) -> Vec<Value> {
    let events = server.column(
        "select cast(e.body as text) from events e join sources s on s.id = e.source \
         where s.name = 'hooktrail' order by e.id",
    );
    let events = events.iter().map(|body| serde_json::from_str::<Value>(body).expect("JSON"));
    events.filter(|event| event["type"] == "job.settled").collect()
}

/// The job and the state of each event.
fn settled_states(server: &Server) -> Vec<String> {
    let state =
        |event: &Value| format!("{} {}", event["job"], event["state"].as_str().unwrap_or("-"));
    settled_events(server).iter().map(state).collect()
}

/// Waits until each settled job is reported, and the reports are handled.
fn until_reported(server: &Server, events: usize) {
    server.until("select count(*) from settlements", "0");
    let sql = "select count(*) from trail where source = 'hooktrail' and succeeded = 1";
    server.until(sql, &events.to_string());
}

#[test]
fn each_final_state_is_an_event_with_the_keys_of_its_job() {
    let server = with_subscriber().start();
    server.post("/hooks/a", "ok");
    server.post("/hooks/a", "no");
    until_reported(&server, 2);
    let key = |job: i64| {
        server.value(&format!(
            "select trim(cast(stdout as text), char(10)) from attempts where job = {job}"
        ))
    };
    let by_job: HashMap<i64, Value> = settled_events(&server)
        .into_iter()
        .map(|event| (event["job"].as_i64().expect("a number"), event))
        .collect();
    for (job, state, detail) in [(1, "succeeded", "exit 0"), (2, "dead", "exit 65")] {
        let mut event = by_job[&job].clone();
        let at = event["at"].take();
        assert_eq!(at.as_str().map(str::len), Some(24), "{at}");
        let expected = json!({"type": "job.settled", "at": null, "source": "a", "handler": "work",
            "event": job, "job": job, "item": null, "attempts": 1, "detail": detail, "count": 1,
            "state": state, "idempotency_key": key(job), "key": key(job)});
        assert_eq!(event, expected);
    }
    let keys =
        server.column("select origin_key from trail where source = 'hooktrail' order by event");
    let mut expected = vec![key(1), key(2)];
    expected.sort();
    let mut keys = keys;
    keys.sort();
    assert_eq!(keys, expected);
}

#[test]
fn the_key_of_a_job_shows_the_job_and_its_outcome() {
    let server = with_subscriber().start();
    server.post("/hooks/a", "no");
    until_reported(&server, 1);
    let key = settled_events(&server)[0]["key"].as_str().expect("a key").to_owned();
    let shown = stdout(&server.cli(&["show", &key]));
    assert!(shown.starts_with("event 1 of a from 127.0.0.1 at "), "{shown}");
    assert!(shown.contains("\nevent 2 of hooktrail from an unknown address at "), "{shown}");
    assert!(shown.contains(&format!("\norigin key: {key}\n")), "{shown}");
    let outcome = "\noutcome: job 1 of handler work for event 1 of source a is dead at 20";
    assert!(shown.contains(outcome) && shown.contains("Z after 1 attempt: exit 65\n"), "{shown}");
    let objects = server.json_lines(&["show", &key, "--json"]);
    assert_eq!(objects.len(), 2);
    assert_eq!((&objects[1]["event"], &objects[1]["origin_key"]), (&json!(2), &json!(key)));
}

#[test]
fn a_key_with_many_events_shows_the_oldest_and_says_how_many_more_there_are() {
    let server = with_subscriber().start();
    server.post("/hooks/a", "no");
    for settled in 1..=12 {
        until_reported(&server, settled);
        assert!(server.cli(&["retry", "1"]).status.success());
    }
    until_reported(&server, 13);
    let key = settled_events(&server)[0]["key"].as_str().expect("a key").to_owned();
    let shown = stdout(&server.cli(&["show", &key]));
    assert_eq!(shown.matches(" of hooktrail from an unknown address").count(), 10, "{shown}");
    let rest = "\n3 more events with this key: `hooktrail show KEY --json` prints all\n";
    assert!(shown.ends_with(rest), "{shown}");
    assert_eq!(server.json_lines(&["show", &key, "--json"]).len(), 14);
}

#[test]
fn a_handler_that_does_not_name_the_type_gets_none() {
    let mut server = scenario()
        .source("a", "")
        .handler("work", "", SCRIPT)
        .handler("all", "", "cat")
        .handler_source("all", "hooktrail")
        .handler("many", "when = '.count > 0'", "cat")
        .handler_source("many", "hooktrail")
        .start();
    for _ in 0..3 {
        server.post("/hooks/a", "no");
    }
    server.until("select count(*) from outcomes where handler = 'all'", "1");
    // Nothing is recorded either: the transaction of an outcome would have done that.
    assert_eq!(
        server
            .value("select coalesce(max(seq), 0) from sqlite_sequence where name = 'settlements'"),
        "0"
    );
    assert_eq!(settled_events(&server), [Value::Null; 0]);
    // Beside a handler that takes them, the others get none either, and none by a replay.
    let table =
        format!("[handlers.settled]\nsources = [\"hooktrail\"]\ncommand = [\"./all.sh\"]\n{WHEN}");
    server.reload_with(&table);
    server.until_reloads(1);
    server.post("/hooks/a", "ok");
    server.until("select count(*) from outcomes where handler = 'settled'", "1");
    let event = server.value("select max(event) from trail where source = 'hooktrail'");
    assert!(server.cli(&["replay", &event]).status.success());
    server.until("select count(*) from outcomes where handler = 'settled'", "2");
    let handlers =
        server.column(&format!("select distinct handler from outcomes where event = {event}"));
    assert_eq!(handlers, ["settled"]);
}

#[test]
fn a_retried_job_that_then_succeeds_is_a_second_event() {
    let script = "[ -e good ] || exit 65";
    let server = scenario()
        .source("a", "")
        .handler("work", "", script)
        .handler("settled", WHEN, "cat")
        .handler_source("settled", "hooktrail")
        .start();
    server.post("/hooks/a", "x");
    until_reported(&server, 1);
    server.write_file("good", "");
    assert!(server.cli(&["retry", "1"]).status.success());
    until_reported(&server, 2);
    assert_eq!(settled_states(&server), ["1 dead", "1 succeeded"]);
    let attempts: Vec<Value> =
        settled_events(&server).iter_mut().map(|event| event["attempts"].take()).collect();
    assert_eq!(attempts, [1, 2]);
}

#[test]
fn jobs_that_the_command_line_cancels_are_events_with_and_without_a_server() {
    let mut server = with_subscriber().handler("held", "paused = true", "true").start();
    server.post("/hooks/a", "ok");
    let held = "select j.id from jobs j join handlers h on h.id = j.handler where h.name = 'held'";
    let job = server.value(held);
    assert!(server.cli(&["cancel", &job, "--reason", "not needed"]).status.success());
    until_reported(&server, 2);
    let cancelled = &settled_events(&server)[1];
    assert_eq!(
        (&cancelled["state"], &cancelled["detail"]),
        (&json!("cancelled"), &json!("not needed"))
    );
    assert_eq!((&cancelled["handler"], &cancelled["attempts"]), (&json!("held"), &json!(0)));
    server.post("/hooks/a", "ok");
    until_reported(&server, 3);
    server.stop();
    assert!(server.cli(&["cancel", "--handler", "held", "--yes"]).status.success());
    assert_eq!(server.value("select count(*) from settlements"), "1");
    server.start();
    until_reported(&server, 4);
    assert_eq!(settled_events(&server)[3]["state"], "cancelled");
}

#[test]
fn each_job_of_a_bulk_cancellation_is_an_event() {
    let server = with_subscriber().handler("held", "paused = true\nsplit = '.[]'", "true").start();
    for _ in 0..4 {
        let items: Vec<String> = (0..500).map(|item| item.to_string()).collect();
        server.post("/hooks/a", format!("[{}]", items.join(",")));
    }
    until_reported(&server, 4);
    server.until("select jobs from queue_depth where handler = 'held'", "2000");
    let output = server.cli(&["cancel", "--handler", "held", "--yes"]);
    assert!(output.status.success(), "{}", stderr(&output));
    until_reported(&server, 2004);
    let cancelled: HashSet<i64> = settled_events(&server)
        .iter()
        .filter(|event| event["state"] == "cancelled")
        .filter_map(|event| event["job"].as_i64())
        .collect();
    assert_eq!(cancelled.len(), 2000);
}

#[test]
fn the_jobs_of_the_events_are_no_events() {
    let server = scenario()
        .source("a", "")
        .handler("work", "", SCRIPT)
        .handler("settled", WHEN, "exit 65")
        .handler_source("settled", "hooktrail")
        .start();
    server.post("/hooks/a", "ok");
    server.until("select count(*) from dead_jobs where handler = 'settled'", "1");
    // A further row would have been written in the transaction of the outcome.
    assert_eq!(server.value("select count(*) from settlements"), "0");
    assert_eq!(settled_states(&server), ["1 succeeded"]);
}

#[test]
fn the_end_of_a_subscription_ends_the_events() {
    let mut server = with_subscriber().start();
    server.post("/hooks/a", "ok");
    until_reported(&server, 1);
    server.replace_in_config(WHEN, "when = '.type == \"job.dead\"'");
    server.signal(rustix::process::Signal::HUP);
    server.until_reloads(1);
    server.post("/hooks/a", "ok");
    server.until("select count(*) from outcomes where handler = 'work'", "2");
    assert_eq!(server.value("select count(*) from settlements"), "0");
    server.replace_in_config("when = '.type == \"job.dead\"'", WHEN);
    server.signal(rustix::process::Signal::HUP);
    server.until_reloads(2);
    server.post("/hooks/a", "ok");
    until_reported(&server, 2);
    assert_eq!(settled_states(&server), ["1 succeeded", "4 succeeded"]);
}

#[test]
fn an_expression_that_is_not_simple_selects_events_too() {
    let when = "when = 'try (if .type == \"job.settled\" and (.job | tostring | test(\"^[13]$\")) then . else error end) catch false'";
    let server = scenario()
        .source("a", "")
        .handler("work", "", SCRIPT)
        .handler("settled", when, "cat")
        .handler_source("settled", "hooktrail")
        .handler("other", "when = '.no'", "true")
        .start();
    for _ in 0..4 {
        server.post("/hooks/a", "ok");
        let posted = server.value("select count(*) from trail where source = 'a'");
        server.until("select count(*) from outcomes where handler = 'work'", &posted);
    }
    server.until("select count(*) from settlements", "0");
    let jobs = server
        .column("select job from outcomes where handler = 'work' and job in (1, 3) order by job");
    let handled: Vec<String> =
        settled_events(&server).iter().map(|event| event["job"].to_string()).collect();
    assert_eq!(handled, jobs);
}

#[test]
fn a_server_that_is_killed_again_and_again_reports_each_end_of_a_job_once() {
    let mut server = scenario()
        .source("a", "")
        .handler("work", "concurrency = 8\nretry = { max_attempts = 1 }", SCRIPT)
        .handler("settled", &format!("{WHEN}\nmode = \"stream\"\nconcurrency = 4"),
            "while read -r line; do job=${line#*\\\"job\\\":}; echo '{\"job\":'${job%%,*}',\"outcome\":\"succeeded\"}'; done")
        .handler_source("settled", "hooktrail")
        .start();
    for round in 0..8 {
        for event in 0..40 {
            server.post("/hooks/a", if event % 4 == 0 { "no" } else { "ok" });
        }
        let reported = format!(
            "select count(*) >= {} from events e join sources s on s.id = e.source where s.name = 'hooktrail'",
            20 * round + 5
        );
        server.until(&reported, "1");
        server.kill();
        server.start();
    }
    server.until("select count(*) from trail where settled_at is null", "0");
    server.until("select count(*) from settlements", "0");
    server.until("select count(*) from trail where settled_at is null", "0");
    // Attempts that a kill interrupted run again, so each job ends once.
    let jobs = server
        .value("select count(*) from jobs j join sources s on s.id = j.source where s.name = 'a'");
    assert_eq!(jobs, "320");
    let mut reported: Vec<String> = settled_states(&server);
    let mut ended = server.column(
        "select j.id || iif(j.state = 3, ' succeeded', ' dead') from jobs j join sources s on s.id = j.source
         where s.name = 'a'",
    );
    reported.sort();
    ended.sort();
    assert_eq!(reported, ended);
}
