//! What the API changes: retry, cancel, replay, pause and resume, and operations with their progress.

use serde_json::{Value, json};

use crate::support::admin::{Api, admin_scenario, assert_problem, parse};
use crate::support::server::{Server, stopped_server_with_jobs, until};

/// A server with one dead job of `h`, one that succeeded, and the API.
fn server_with_a_dead_job() -> (Server, Api) {
    let script = "grep -q fail \"$HOOKTRAIL_BODY\" 2>/dev/null || grep -q fail && exit 65; exit 0";
    let server = admin_scenario().source("b", "").handler("dead", "", script).start();
    server.post("/hooks/a", "fail");
    server.until("select count(*) from outcomes", "2");
    server.until("select count(*) from jobs where state = 4", "1");
    let api = Api::of(&server);
    (server, api)
}

fn audit(server: &Server) -> Vec<String> {
    let address = "admin from 127.0.0.1";
    server.column(&format!(
        "select action || ' ' || coalesce(target, '-') || ' ' || jobs || ' ' || coalesce(reason, '-')
         from audit_log where who = '{address}' and via = 'api' order by id"
    ))
}

#[test]
fn a_retry_by_numbers_runs_a_dead_job_again() {
    let (server, api) = server_with_a_dead_job();
    let dead = server.value("select id from jobs where state = 4");
    let jobs = json!({"jobs": [dead.parse::<i64>().expect("a number")]});
    let operation = api.act("/api/v1/jobs/retry", &jobs);
    assert_eq!(
        (&operation["state"], &operation["jobs"]),
        (&json!("done"), &json!(1)),
        "{operation}"
    );
    server.until("select count(*) from outcomes", "3");
    assert_eq!(audit(&server), [format!("retry job {dead} 1 -")]);
    let entry = &api.items("/api/v1/audit")[0];
    assert_eq!((&entry["via"], &entry["who"]), (&json!("api"), &json!("admin from 127.0.0.1")));
}

#[test]
fn a_dry_run_counts_and_changes_nothing() {
    let (server, api) = server_with_a_dead_job();
    for (path, body, count) in [
        ("jobs/retry", json!({"state": "dead", "dry_run": true}), 1),
        ("jobs/retry", json!({"event": 1.0, "dry_run": true}), 1),
        ("jobs/cancel", json!({"all": true, "dry_run": true}), 1),
        ("events/replay", json!({"source": "a", "dry_run": true}), 1),
        ("events/replay", json!({"source": "b", "dry_run": true}), 0),
        ("jobs/retry", json!({"handler": "h", "dry_run": true}), 0),
    ] {
        let operation = api.act(&format!("/api/v1/{path}"), &body);
        assert_eq!(
            (&operation["state"], &operation["dry_run"], &operation["total"]),
            (&json!("done"), &json!(true), &json!(count)),
            "{path} {body}: {operation}"
        );
    }
    assert_eq!(server.value("select count(*) from jobs"), "2");
    assert_eq!(server.value("select count(*) from audit_log"), "0");
}

#[test]
fn a_cancellation_by_selectors_dismisses_dead_jobs_with_its_reason() {
    let (server, api) = server_with_a_dead_job();
    let body = json!({"handler": "dead", "state": "dead", "since": "1h", "text": "FAIL", "reason": "not needed"});
    assert_eq!(api.act("/api/v1/jobs/cancel", &body)["jobs"], 1);
    assert_eq!(api.items("/api/v1/jobs?state=cancelled")[0]["reason"], "not needed");
    assert_eq!(audit(&server), ["cancel - 1 not needed"]);
}

#[test]
fn a_replay_makes_new_jobs_of_an_event() {
    let (server, api) = server_with_a_dead_job();
    let operation = api.act("/api/v1/events/replay", &json!({"events": [1], "handler": "h"}));
    assert_eq!(operation["jobs"], 1, "{operation}");
    server.until("select count(*) from outcomes where handler = 'h'", "2");
    assert_eq!(audit(&server), ["replay event 1 1 -"]);
    assert_eq!(api.items("/api/v1/jobs?event=1").len(), 3);
}

#[test]
fn what_does_not_exist_or_can_not_be_changed_is_named() {
    let (server, api) = server_with_a_dead_job();
    let done = server.value("select id from jobs where state = 3");
    let done: i64 = done.parse().expect("a number");
    let no_retry = format!(
        "job {done}: it has succeeded and can't be retried: a replay creates a new job from its event"
    );
    for (path, body, status, detail) in [
        ("jobs/retry", json!({"jobs": [99]}), 404, "job 99: there is no such job"),
        ("jobs/retry", json!({"jobs": [0]}), 404, "job 0: there is no such job"),
        ("jobs/retry", json!({"jobs": [done]}), 409, &*no_retry),
        (
            "jobs/cancel",
            json!({"jobs": [done]}),
            409,
            &*format!("job {done}: it has succeeded already"),
        ),
        ("jobs/retry", json!({"handler": "x"}), 404, "handler x: there is no such handler"),
        ("jobs/cancel", json!({"source": "x"}), 404, "source x: there is no such source"),
        ("events/replay", json!({"events": [99]}), 404, "event 99: there is no such event"),
    ] {
        assert_problem(&api.post(&format!("/api/v1/{path}"), &body), status, detail);
    }
    let several = parse(&api.post("/api/v1/jobs/retry", &json!({"jobs": [99, done, 98]})));
    assert_eq!(several["errors"].as_array().expect("errors").len(), 3, "{several}");
    assert_eq!((&several["status"], &several["detail"]), (&json!(404), &several["errors"][0]));
    assert_eq!(server.value("select count(*) from audit_log"), "0");
}

#[test]
fn a_paused_handler_keeps_its_jobs_until_it_is_resumed() {
    let (server, api) = server_with_a_dead_job();
    let change = |action: &str| {
        parse(&api.request("POST", &format!("/api/v1/handlers/h/{action}"), "", b""))
    };
    assert_eq!(change("pause"), json!({"handler": "h", "paused": true, "changed": true}));
    assert_eq!(change("pause"), json!({"handler": "h", "paused": true, "changed": false}));
    server.post("/hooks/a", "fine");
    server.until("select count(*) from outcomes where handler = 'dead'", "2");
    let queued = api.items("/api/v1/jobs?handler=h&state=queued");
    assert_eq!(queued.len(), 1);
    assert_eq!(change("resume"), json!({"handler": "h", "paused": false, "changed": true}));
    server.until("select count(*) from outcomes where handler = 'h'", "2");
    assert_eq!(audit(&server), ["pause h 0 -", "resume h 0 -"]);
}

/// A running server with many dead jobs of a paused handler.
fn server_with_dead_jobs(jobs: usize) -> (Server, Api) {
    let mut server = stopped_server_with_jobs(jobs, 4);
    server.replace_in_config("listen = []", "listen = [\"127.0.0.1:0\"]");
    server.start();
    let api = Api::of(&server);
    (server, api)
}

#[test]
fn a_large_operation_shows_its_progress_and_stops() {
    let (server, api) = server_with_dead_jobs(50_000);
    // The lock holds the operation at its first transaction.
    let lock = server.lock_database();
    let response = api.post("/api/v1/jobs/retry", &json!({"all": true}));
    assert_eq!(response.status, 202, "{response:?}");
    let operation = parse(&response);
    let path = format!("/api/v1/operations/{}", operation["operation"]);
    assert_eq!(response.header("location"), Some(&*path));
    until("the jobs are selected", || api.json(&path)["state"] == "running");
    let stopping = api.post(&format!("{path}/stop"), &Value::Null);
    assert_eq!(stopping.status, 200);
    drop(lock);
    let stopped = api.until_ended(&operation);
    assert_eq!(stopped["state"], "stopped", "{stopped}");
    let (done, total) = (stopped["done"].as_i64(), stopped["total"].as_i64());
    assert_eq!(total, Some(50_000), "{stopped}");
    assert!(done < total, "{stopped}");
    assert_eq!(server.value("select jobs from audit_log"), stopped["jobs"].to_string());
    assert_eq!(
        server.value("select count(*) from jobs where state = 0"),
        stopped["jobs"].to_string()
    );
    let rest = api.act("/api/v1/jobs/retry", &json!({"all": true}));
    assert_eq!(api.until_ended(&rest)["state"], "done");
    assert_eq!(server.value("select count(*) from jobs where state = 0"), "50000");
    assert_eq!(api.numbers("/api/v1/operations", "operation"), [2, 1]);
}

#[test]
fn operations_wait_in_a_bounded_queue_and_can_be_stopped_there() {
    let (server, api) = server_with_dead_jobs(1000);
    let lock = server.lock_database();
    let first = api.act("/api/v1/jobs/retry", &json!({"all": true}));
    let path = format!("/api/v1/operations/{}", first["operation"]);
    until("the first operation runs", || api.json(&path)["state"] == "running");
    let (api, one) = (&api, &json!({"all": true}));
    let responses: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..20).map(|_| scope.spawn(move || api.post("/api/v1/jobs/cancel", one))).collect();
        threads.into_iter().map(|thread| thread.join().expect("a response")).collect()
    });
    let (waiting, rejected): (Vec<_>, Vec<_>) =
        responses.into_iter().partition(|response| response.status == 202);
    assert_eq!((waiting.len(), rejected.len()), (16, 4));
    let detail = "too many operations wait: try again when one has ended";
    assert_problem(&rejected[0], 503, detail);
    assert_eq!(rejected[0].header("retry-after"), Some("1"));
    std::thread::scope(|scope| {
        for response in &waiting {
            let operation = parse(response);
            assert_eq!(operation["state"], "waiting", "{operation}");
            let stop = format!("/api/v1/operations/{}/stop", operation["operation"]);
            scope.spawn(move || assert_eq!(api.post(&stop, &Value::Null).status, 200));
        }
    });
    drop(lock);
    assert_eq!(api.until_ended(&first)["state"], "done");
    for response in &waiting {
        let ended = api.until_ended(&parse(response));
        assert_eq!((&ended["state"], &ended["done"]), (&json!("stopped"), &json!(0)), "{ended}");
    }
    assert_eq!(server.value("select count(*) from jobs where state = 0"), "1000");
}

#[test]
fn pause_waits_for_a_locked_database_and_other_requests_do_not() {
    let (server, api) = server_with_dead_jobs(10);
    let lock = server.lock_database();
    let api = &api;
    std::thread::scope(|scope| {
        let pauses: Vec<_> = (0..4)
            .map(|_| scope.spawn(move || api.request("POST", "/api/v1/handlers/h/pause", "", b"")))
            .collect();
        assert_eq!(api.get("/api/v1/events").status, 200);
        drop(lock);
        for pause in pauses {
            assert_eq!(pause.join().expect("a response").status, 200);
        }
    });
}
