//! A reload by SIGHUP is atomic: it applies the complete configuration or nothing.

use crate::support::server::{scenario, until};

#[test]
fn a_reload_adds_a_handler() {
    let mut server = scenario().source("a", "").start();
    server.post("/hooks/a", "before");
    server.write_file("new.sh", "#!/bin/sh\ncat\n");
    server.reload_with("[handlers.new]\nsources = [\"a\"]\ncommand = [\"./new.sh\"]");
    server.until_reloads(1);
    server.post("/hooks/a", "after");
    server.until("select event || handler || outcome from outcomes", "2newsucceeded");
    assert_eq!(server.value("select action || ' ' || via from audit_log"), "reload signal");
}

#[test]
fn an_invalid_configuration_is_reported_and_the_old_one_stays() {
    let mut server = scenario().source("a", "").start();
    server.reload_with("[sources.b]\nmethod = [\"POST\"]");
    until("the reload is rejected", || server.log().contains("not reloaded"));
    until("the log names the key", || server.log().contains("sources.b.method"));
    assert_eq!(server.post("/hooks/a", "x").status, 202);
    assert_eq!(server.post("/hooks/b", "x").status, 404);
}

#[test]
fn the_command_reload_prints_the_errors_of_check_and_exits_with_1() {
    let mut server = scenario().source("a", "").start();
    assert_eq!(server.cli(&["reload"]).status.code(), Some(0));
    *server.config() += "[sources.b]\nmethod = [\"POST\"]\n";
    server.write_config();
    let (check, reload) = (server.cli(&["check"]), server.cli(&["reload"]));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (check_errors, errors) = (text(&check.stderr), text(&reload.stderr));
    assert_eq!(reload.status.code(), Some(1), "{errors}");
    let file = server.path().join("config.toml");
    let last = format!("{}: not reloaded: the old configuration stays in force\n", file.display());
    let folder = format!("{}/", server.path().display());
    assert_eq!(
        errors.replace(&folder, ""),
        check_errors.replace(&folder, "") + &last.replace(&folder, "")
    );
    // A key that needs a restart.
    server.replace_in_config("[sources.b]\nmethod = [\"POST\"]\n", "[workers]\nthreads = 3\n");
    let errors = text(&server.cli(&["reload"]).stderr);
    assert!(
        errors.starts_with("workers.threads has changed: a reload can't change it"),
        "{errors}"
    );
    assert_eq!(server.post("/hooks/a", "x").status, 202);
}

#[test]
fn a_configuration_that_has_vanished_stays_in_force() {
    let mut server = scenario().source("a", "").start();
    std::fs::remove_file(server.path().join("config.toml")).unwrap();
    for args in [&["reload"][..], &["--config", "config.toml", "reload"]] {
        assert_eq!(server.cli(args).status.code(), Some(1));
    }
    server.signal(rustix::process::Signal::HUP);
    until("the log says it", || server.log().contains("not reloaded"));
    assert_eq!(server.post("/hooks/a", "x").status, 202);
    server.write_config();
    assert_eq!(server.stop(), Some(0));
    let stopped = server.cli(&["reload"]);
    let errors = String::from_utf8_lossy(&stopped.stderr).into_owned();
    assert_eq!(stopped.status.code(), Some(1));
    assert!(errors.starts_with("no server runs with the database "), "{errors}");
}

#[test]
fn a_reload_rejects_keys_that_need_a_restart() {
    let mut server = scenario().source("a", "").start();
    server.reload_with("[workers]\nthreads = 3");
    until("the reload is rejected", || server.log().contains("workers.threads"));
    assert_eq!(server.post("/hooks/a", "x").status, 202);
}

#[test]
fn jobs_of_a_removed_handler_wait_until_it_is_configured() {
    let mut server = scenario().source("a", "").handler("h", "paused = true", "true").start();
    server.post("/hooks/a", "x");
    let original = server.config().clone();
    *server.config() = original.split("[handlers.h]").next().unwrap_or_default().to_owned();
    server.reload_with("");
    server.until_reloads(1);
    for command in ["check", "stats"] {
        let report = String::from_utf8_lossy(&server.cli(&[command]).stdout).into_owned();
        let line = "warning: handler h has 1 queued job and is not in config.toml: add it again, \
                    or run `hooktrail cancel --handler h`";
        assert!(report.lines().any(|found| found == line), "{command}: {report}");
    }
    let stats = server.cli(&["stats", "--json"]).stdout;
    let first: serde_json::Value =
        serde_json::Deserializer::from_slice(&stats).into_iter().next().unwrap().unwrap();
    assert_eq!(
        (&first["handler"], &first["queued"], &first["configured"]),
        (&"h".into(), &1.into(), &0.into())
    );
    *server.config() = original.replace("paused = true", "paused = false");
    server.reload_with("");
    server.until("select outcome from outcomes", "succeeded");
}
