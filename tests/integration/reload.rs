//! SIGHUP: all or nothing.

use crate::support::server::{scenario, until};

#[test]
fn adding_a_handler_is_an_edit_and_a_reload() {
    let mut server = scenario().source("a", "").start();
    server.post("/hooks/a", "before");
    server.file("new.sh", "#!/bin/sh\ncat\n");
    server.reload_with("[handlers.new]\nsources = [\"a\"]\ncommand = [\"./new.sh\"]");
    until("the configuration is reloaded", || server.log().contains(": reloaded"));
    server.post("/hooks/a", "after");
    server.until("select event || handler || outcome from outcomes", "2newsucceeded");
    assert_eq!(server.value("select action || ' ' || via from audit_log"), "reload signal");
}

#[test]
fn a_faulty_configuration_is_reported_and_the_old_one_stays() {
    let mut server = scenario().source("a", "").start();
    server.reload_with("[sources.b]\nmethod = [\"POST\"]");
    until("the reload is rejected", || server.log().contains("not reloaded"));
    until("it is named", || server.log().contains("sources.b.method"));
    assert_eq!(server.post("/hooks/a", "x").status, 202);
    assert_eq!(server.post("/hooks/b", "x").status, 404);
}

#[test]
fn what_needs_a_restart_is_refused_by_name() {
    let mut server = scenario().source("a", "").start();
    server.reload_with("[workers]\nthreads = 3");
    until("the reload is rejected", || server.log().contains("workers.threads"));
    assert_eq!(server.post("/hooks/a", "x").status, 202);
}

#[test]
fn jobs_of_a_handler_that_is_gone_wait_for_it() {
    let mut server = scenario().source("a", "").handler("h", "paused = true", "true").start();
    server.post("/hooks/a", "x");
    let with = server.config().clone();
    *server.config() = with.split("[handlers.h]").next().unwrap_or_default().to_owned();
    server.reload_with("");
    until("the configuration is reloaded", || server.log().contains(": reloaded"));
    for command in ["check", "stats"] {
        let said = String::from_utf8_lossy(&server.cli(&[command]).stdout).into_owned();
        let line = "warning: handler h has 1 queued job and is not in config.toml: add it again, \
                    or run `hooktrail cancel --handler h`";
        assert!(said.lines().any(|said| said == line), "{command}: {said}");
    }
    let stats = server.cli(&["stats", "--json"]).stdout;
    let first: serde_json::Value =
        serde_json::Deserializer::from_slice(&stats).into_iter().next().unwrap().unwrap();
    assert_eq!(
        (&first["handler"], &first["queued"], &first["configured"]),
        (&"h".into(), &1.into(), &0.into())
    );
    *server.config() = with.replace("paused = true", "paused = false");
    server.reload_with("");
    server.until("select outcome from outcomes", "succeeded");
}
