//! `hooktrail status`: what it says of a server, and its exit codes.

use serde_json::Value;

use crate::support::server::{Server, scenario, stderr, stdout, until};

/// The exit code of `status --json`, and its object.
fn status(server: &Server) -> (Option<i32>, Value) {
    let output = server.cli(&["status", "--json"]);
    let text = stdout(&output);
    let object =
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}{}", stderr(&output)));
    (output.status.code(), object)
}

#[test]
fn a_running_server_is_well_and_a_stopped_one_is_not_running() {
    let mut server = scenario().source("a", "").handler("h", "", "true").start();
    let (code, running) = status(&server);
    assert_eq!(
        (code, &running["running"], &running["ready"]),
        (Some(0), &true.into(), &true.into())
    );
    assert_eq!(running["pid"], server.pid());
    assert_eq!(running["version"], env!("CARGO_PKG_VERSION"));
    assert!(
        running["config"].as_str().is_some_and(|path| path.ends_with("config.toml")),
        "{running}"
    );
    assert_eq!(running["listen"].as_array().map(Vec::len), Some(1), "{running}");
    assert_eq!(running["problems"], Value::Array(Vec::new()));
    let text = stdout(&server.cli(&["status"]));
    assert!(text.ends_with("problems    none\n"), "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 80 || line.contains('/')), "{text}");
    assert_eq!(server.stop(), Some(0));
    let (code, stopped) = status(&server);
    assert_eq!((code, &stopped["running"]), (Some(3), &false.into()));
    assert!(stdout(&server.cli(&["status"])).starts_with("server      not running\n"));
}

#[test]
fn a_killed_server_is_not_running() {
    let mut server = scenario().source("a", "").start();
    server.kill();
    assert_eq!(status(&server).0, Some(3));
}

#[test]
fn without_a_database_no_server_runs() {
    let scenario = scenario().source("a", "");
    scenario.write();
    let output = crate::support::server::cli(scenario.path(), &["status"]);
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    assert!(!scenario.path().join("t.db").exists());
}

#[test]
fn an_open_circuit_breaker_a_rejected_reload_and_a_removed_handler_are_problems() {
    let keys = "breaker = { threshold = 1, cooldown = '1h' }";
    let mut server = scenario().source("a", "").handler("h", keys, "exit 3").start();
    server.post("/hooks/a", "x");
    server.until("select change from breaker_log", "opened");
    let (code, found) = status(&server);
    assert_eq!(code, Some(1));
    assert_eq!(found["breakers"][0]["handler"], "h");
    assert_eq!((&found["queued"], &found["dead"]), (&1.into(), &0.into()));
    let problems = found["problems"].to_string();
    assert!(problems.contains("handler h: the circuit breaker is open until"), "{problems}");

    let before = server.config().clone();
    server.reload_with("[sources.b]\nmethod = ['POST']");
    until("the reload is rejected", || server.log().contains("not reloaded"));
    *server.config() = before.split("[handlers.h]").next().unwrap_or_default().to_owned();
    server.write_config();
    let problems = status(&server).1["problems"].to_string();
    assert!(problems.contains("the reload at "), "{problems}");
    assert!(problems.contains("handler h has 1 queued job"), "{problems}");
    server.reload_with("");
    until("the configuration is reloaded", || server.log().contains(": reloaded"));
    let problems = status(&server).1["problems"].to_string();
    assert!(!problems.contains("the reload at "), "{problems}");
}

#[test]
fn status_leaves_the_lock_of_the_server_alone() {
    let server = scenario().source("a", "").start();
    for _ in 0..20 {
        assert_eq!(status(&server).0, Some(0));
    }
    let second = server.cli(&["serve"]);
    assert_eq!(second.status.code(), Some(75), "{}", stderr(&second));
    assert_eq!(server.post("/hooks/a", "x").status, 202);
}
