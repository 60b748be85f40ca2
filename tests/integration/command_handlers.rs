//! Handlers that run a command: how each kind of exit affects the job, and what the command receives.

use crate::support::server::{display_value, scenario, until};

/// Posts one event to a handler with this script, waits until its job is in `state`, and compares the
/// outcomes.
fn check(keys: &str, script: &str, state: &str, outcomes: &[&str]) {
    let server = scenario().source("a", "").handler("h", keys, script).start();
    server.post("/hooks/a", "body");
    server.until(&format!("select count(*) from trail where {state} = 1"), "1");
    let found = server.column("select outcome || ': ' || detail from outcomes order by id");
    assert_eq!(found, outcomes);
}

#[test]
fn exit_0_is_success() {
    check("", "exit 0", "succeeded", &["succeeded: exit 0"]);
}

#[test]
fn exit_65_is_dead_at_once() {
    check("", "echo bad >&2; exit 65", "dead", &["failed: exit 65: bad"]);
}

#[test]
fn any_other_exit_is_retried_until_no_attempts_are_left() {
    check(
        "retry = { initial_delay = \"1ms\", max_attempts = 3 }",
        "echo one >&2; echo last >&2; exit 7",
        "dead",
        &["failed: exit 7: last", "failed: exit 7: last", "failed: exit 7: last"],
    );
}

#[test]
fn a_job_that_fails_and_then_succeeds_has_succeeded() {
    check(
        "retry = { initial_delay = \"1ms\" }",
        "[ $HOOKTRAIL_ATTEMPT = 2 ] || exit 75",
        "succeeded",
        &["failed: exit 75", "succeeded: exit 0"],
    );
}

#[test]
fn a_signal_and_a_timeout_are_failures() {
    let once = "retry = { max_attempts = 1 }";
    check(once, "kill -9 $$", "dead", &["failed: signal 9"]);
    let keys = "retry = { max_attempts = 1 }\ntimeout = \"100ms\"";
    check(keys, "echo started >&2; exec sleep 100", "dead", &["timed_out: timeout 100ms: started"]);
}

#[test]
fn a_command_that_cannot_start_has_the_reason_as_detail() {
    let server = scenario()
        .source("a", "")
        .raw_config("[handlers.h]\nsources = [\"a\"]\ncommand = [\"no-such-program\"]\nretry = { max_attempts = 1 }")
        .start();
    server.post("/hooks/a", "body");
    server.until("select substr(detail, 1, 28) from outcomes", "not started: no-such-program");
}

#[test]
fn a_deferred_job_waits_as_long_as_the_handler_asks_without_a_failure() {
    let server = scenario()
        .source("a", "")
        .handler("h", "", r#"echo '{"outcome":"deferred","retry_after":"1h"}' >&3; exit 1"#)
        .start();
    server.post("/hooks/a", "body");
    server.until("select outcome from outcomes", "deferred");
    let row = &server.rows(
        "select j.wait_ms, j.failures, a.next_at - a.ended_at from jobs j join attempts a on a.job = j.id",
    )[0];
    let row: Vec<String> = row.iter().map(display_value).collect();
    assert_eq!(row, ["3600000", "0", "3600000"]);
}

#[test]
fn a_heartbeat_restarts_the_timeout() {
    check(
        "timeout = \"2s\"\nretry = { max_attempts = 1 }",
        r#"for i in 1 2 3 4 5 6; do sleep 0.5; echo '{"alive":true}' >&3; done"#,
        "succeeded",
        &["succeeded: exit 0"],
    );
}

#[test]
fn the_last_part_of_a_long_output_is_stored() {
    let server = scenario()
        .source("a", "")
        .handler("h", "max_output_size = 1024", "yes | head -c 5000000; echo the end")
        .start();
    server.post("/hooks/a", vec![b'x'; 500_000]);
    server.until("select outcome from outcomes", "succeeded");
    let stored = server.value("select stdout from attempts");
    assert!(stored.len() == 1024 && stored.ends_with("the end\n"), "{}", stored.len());
}

#[test]
fn orphan_processes_are_killed_even_in_another_session() {
    let server = scenario()
        .source("a", "")
        .handler(
            "h",
            "",
            "sleep 1000 & echo $! >> pids; setsid sh -c 'echo $$ >> pids; exec sleep 1000' &
             (setsid sh -c 'setsid sh -c \"echo \\$\\$ >> pids; exec sleep 1000\" &' &)
             while [ $(wc -l < pids) -lt 3 ]; do :; done",
        )
        .start();
    server.post("/hooks/a", "body");
    server.until("select outcome from outcomes", "succeeded");
    for pid in server.read_file("pids").lines() {
        assert!(
            !std::path::Path::new(&format!("/proc/{pid}")).exists(),
            "process {pid} still exists"
        );
    }
}

#[test]
fn a_command_has_only_its_event_and_its_env_in_the_environment() {
    let server =
        scenario().source("a", "").handler("h", "env = { MINE = \"yes\" }", "env -0").start();
    server.request("POST", "/hooks/a?x=1&y=%20", "X-Tag: 1\nX-Tag: 2\nContent-Type: t/x", b"body");
    server.until("select outcome from outcomes", "succeeded");
    let printed = server.value("select stdout from attempts");
    let env: std::collections::BTreeMap<&str, &str> =
        printed.split('\0').filter_map(|line| line.split_once('=')).collect();
    for (name, value) in [
        ("HOOKTRAIL_EVENT", "1"),
        ("HOOKTRAIL_JOB", "1"),
        ("HOOKTRAIL_ATTEMPT", "1"),
        ("HOOKTRAIL_MAX_ATTEMPTS", "40"),
        ("HOOKTRAIL_SOURCE", "a"),
        ("HOOKTRAIL_HANDLER", "h"),
        ("HOOKTRAIL_METHOD", "POST"),
        ("HOOKTRAIL_PATH", "/hooks/a"),
        ("HOOKTRAIL_QUERY", "x=1&y=%20"),
        ("HOOKTRAIL_IP", "127.0.0.1"),
        ("HOOKTRAIL_CONTENT_TYPE", "t/x"),
        ("MINE", "yes"),
    ] {
        assert_eq!(env.get(name), Some(&value), "{name}");
    }
    let headers: serde_json::Value = serde_json::from_str(env["HOOKTRAIL_HEADERS"]).expect("JSON");
    assert_eq!(headers["x-tag"], "1, 2");
    let key = env["HOOKTRAIL_IDEMPOTENCY_KEY"];
    assert!(
        key.len() <= 100 && key.bytes().all(|c| c.is_ascii_alphanumeric() || b"-_".contains(&c))
    );
    // Except for the variables that sh sets.
    let known = ["PATH", "HOME", "LANG", "TZ", "MINE", "PWD", "OLDPWD", "SHLVL", "_"];
    let others: Vec<_> = env
        .keys()
        .filter(|name| !name.starts_with("HOOKTRAIL_") && !known.contains(name))
        .collect();
    assert!(others.is_empty(), "{others:?}");
}

/// Records the start and the end of a job, and waits in between for the file `go`.
const WAITING_SCRIPT: &str =
    "echo start >> order; until [ -e go ]; do sleep 0.01; done; echo end >> order";

#[test]
fn concurrency_limits_the_running_jobs_of_a_handler_below_the_worker_threads() {
    let server = scenario()
        .raw_config("[workers]\nthreads = 8")
        .source("a", "")
        .handler("h", "concurrency = 2", WAITING_SCRIPT)
        .handler("other", "", "true")
        .start();
    for _ in 0..6 {
        server.post("/hooks/a", "body");
    }
    let running = "select jobs from queue_depth where handler = 'h' and state = 'running'";
    server.until(running, "2");
    // Threads are idle: jobs of another handler run meanwhile.
    server.until("select count(*) from outcomes where handler = 'other'", "6");
    assert_eq!(server.value(running), "2");
    server.write_file("go", "");
    server.until("select count(*) from outcomes where handler = 'h'", "6");
    let order = server.read_file("order");
    let running = order.lines().scan(0, |running, line| {
        *running += if line == "start" { 1 } else { -1 };
        Some(*running)
    });
    assert_eq!(running.max(), Some(2), "{order}");
}

#[test]
fn the_highest_priority_starts_first() {
    let record = "echo $HOOKTRAIL_HANDLER >> started";
    let server = scenario()
        .raw_config("[workers]\nthreads = 1")
        .source("a", "")
        .source("b", "")
        .handler("first", "", WAITING_SCRIPT)
        .handler_source("first", "b")
        .handler("low", "", record)
        .handler("high", "priority = 5", record)
        .handler("middle", "priority = 1", record)
        .start();
    server.post("/hooks/b", "body");
    server.until("select handler from queue_depth where state = 'running'", "first");
    for _ in 0..2 {
        server.post("/hooks/a", "body");
    }
    server.write_file("go", "");
    server.until("select count(*) from outcomes", "7");
    assert_eq!(server.read_file("started"), "high\nhigh\nmiddle\nmiddle\nlow\nlow\n");
}

#[test]
fn a_retry_starts_when_it_is_due() {
    let server = scenario()
        .source("a", "")
        .handler(
            "h",
            "retry = { initial_delay = \"300ms\", jitter = 0 }",
            "[ $HOOKTRAIL_ATTEMPT -gt 1 ]",
        )
        .start();
    server.post("/hooks/a", "body");
    server.until("select count(*) from outcomes", "2");
    let row = &server.rows(
        "select (select ended_at - duration_ms from attempts where id = 2) - ended_at from attempts
         where id = 1",
    )[0];
    let waited: i64 = display_value(&row[0]).parse().expect("milliseconds");
    assert!((299..30_000).contains(&waited), "{waited}");
}

#[test]
fn no_input_of_a_sender_reaches_a_shell() {
    let server = scenario().source("a", "path = \"/h/{x}\"").handler("h", "", "true").start();
    let response =
        server.request("POST", "/h/$(touch%20pwned)", "X-A: $(touch pwned)", b"`touch pwned`");
    assert_eq!(response.status, 202);
    server.until("select outcome from outcomes", "succeeded");
    assert!(!server.path().join("pwned").exists());
}

#[test]
fn a_handler_that_ignores_sigterm_is_killed_after_the_grace_period() {
    let server = scenario()
        .source("a", "")
        .handler(
            "h",
            "timeout = \"200ms\"\nretry = { max_attempts = 1 }",
            "trap '' TERM; while :; do sleep 0.1; done",
        )
        .start();
    server.post("/hooks/a", "body");
    server.until("select outcome from outcomes", "timed_out");
    let took: i64 = server.value("select duration_ms from outcomes").parse().expect("milliseconds");
    assert!((5_000..30_000).contains(&took), "{took}");
}

#[test]
fn a_running_job_that_is_cancelled_is_stopped() {
    let server = scenario().source("a", "").handler("h", "", "exec sleep 1000").start();
    server.post("/hooks/a", "body");
    until("the job runs", || {
        server.value("select count(*) from queue_depth where state = 'running'") == "1"
    });
    let cancelled = server.cli(&["cancel", "1", "--reason", "not wanted"]);
    assert!(cancelled.status.success(), "{cancelled:?}");
    server.until(
        "select outcome || ' ' || detail || ' ' || job_state from outcomes",
        "interrupted cancelled cancelled",
    );
    assert_eq!(server.value("select reason from jobs"), "not wanted");
}

#[test]
fn the_server_raises_its_open_file_limit_but_not_that_of_commands() {
    // The server restores the limit shortly after the command starts, so the script waits for that.
    let script = "until [ \"$(ulimit -S -n)\" = 300 ]; do :; done";
    let server = scenario()
        .wrapped_by(&["prlimit", "--nofile=300:700"])
        .source("a", "")
        .handler("h", "timeout = \"30s\"\nretry = { max_attempts = 1 }", script)
        .start();
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", server.pid())).unwrap();
    let files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    assert_eq!(files.split_whitespace().nth(3), Some("700"), "{files}");
    server.post("/hooks/a", "x");
    server.until("select outcome || ' ' || detail from outcomes", "succeeded exit 0");
}

#[test]
fn the_detail_of_a_failure_is_the_error_that_an_interpreter_reports() {
    let programs = [
        ("python", "import json\njson.loads('{')", "json.decoder.JSONDecodeError: "),
        (
            "node",
            "function f() { throw new TypeError('contact 17') }\nf()",
            "TypeError: contact 17",
        ),
        ("shell", "set -x\necho contact 17 is unknown >&2\nexit 1", "contact 17 is unknown"),
        ("curl", "curl --fail --silent --show-error http://127.0.0.1:1/\n", "curl: (7) "),
    ];
    let mut scenario = scenario().source("a", "");
    for (name, program, _) in programs {
        let interpreter = match name {
            "python" => "python3",
            "node" => "node",
            _ => "sh",
        };
        scenario.write_file(&format!("{name}.txt"), program);
        let script = format!("{interpreter} {name}.txt");
        scenario = scenario.handler(name, "retry = { max_attempts = 1 }", &script);
    }
    let server = scenario.start();
    server.post("/hooks/a", "x");
    server.until("select count(*) from outcomes", "4");
    for (name, _, error) in programs {
        let detail = server.value(&format!("select detail from outcomes where handler = '{name}'"));
        let (exit, line) = detail.split_once(": ").unwrap_or_default();
        assert!(exit.starts_with("exit ") && line.starts_with(error), "{name}: {detail}");
    }
}
