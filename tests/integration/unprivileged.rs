//! A server that does not run as root, as under systemd: what its handlers can read of it, and how it still
//! finds and limits processes. Only root can change the user, so `tests/run` runs these tests as root.

use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt, chown};
use std::process::Command;

use crate::support::server::{AS_NOBODY, NOBODY, Scenario, is_alive, scenario, until};

/// Runs the server as user `nobody`.
fn as_nobody(scenario: Scenario) -> Scenario {
    chown(scenario.path(), Some(NOBODY), Some(NOBODY)).expect("the folder");
    let can_run = Command::new(AS_NOBODY[0])
        .args(&AS_NOBODY[1..])
        .args(["test", "-x", crate::support::server::HOOKTRAIL])
        .status()
        .expect("setpriv, of util-linux");
    assert!(can_run.success(), "nobody can't run {}", crate::support::server::HOOKTRAIL);
    scenario.wrapped_by(&[&AS_NOBODY[..], &["env", "SECRET_OF_THE_SERVER=x"]].concat())
}

#[test]
#[ignore = "needs root"]
fn handlers_cannot_read_the_environment_of_the_server() {
    let script =
        "! cat /proc/$PPID/environ && ! ls /proc/$PPID/fd/ && ! head -c 1 /proc/$PPID/maps";
    let scenario = as_nobody(scenario().source("a", "").handler("h", "", script));
    let server = scenario.start();
    server.post("/hooks/a", "{}");
    server.until("select outcome from outcomes", "succeeded");
    let errors = server.value("select stderr from attempts");
    assert_eq!(errors.matches("Permission denied").count(), 3, "{errors}");
    assert!(!server.value("select stdout from attempts").contains("SECRET_OF_THE_SERVER"));
}

#[test]
#[ignore = "needs root"]
fn a_handler_writes_to_the_folder_data_beside_a_configuration_that_is_read_only() {
    let scenario = scenario().source("a", "").handler("h", "", "cat > data/out; ! cat > out");
    let scenario = as_nobody(scenario);
    let writable = tempfile::tempdir().unwrap();
    chown(writable.path(), Some(NOBODY), Some(NOBODY)).unwrap();
    std::os::unix::fs::symlink(writable.path(), scenario.path().join("data")).unwrap();
    chown(scenario.path(), Some(0), Some(0)).unwrap();
    std::fs::set_permissions(scenario.path(), Permissions::from_mode(0o755)).unwrap();
    let mut server = scenario.prepare();
    server.replace_in_config("path = \"t.db\"", "path = \"data/t.db\"");
    server.start();
    server.post("/hooks/a", "x");
    let database = writable.path().join("t.db");
    let outcome = || {
        let conn = rusqlite::Connection::open(&database).unwrap();
        conn.query_row("select outcome from outcomes", [], |row| row.get(0))
            .unwrap_or_else(|_| String::new())
    };
    until("the job has succeeded", || outcome() == "succeeded");
    assert_eq!(std::fs::read_to_string(writable.path().join("out")).unwrap(), "x");
    assert!(!server.path().join("out").exists());
}

#[test]
#[ignore = "needs root"]
fn the_kernel_kills_evaluators_and_handlers_before_the_server() {
    let script = "server=$(cat /proc/$PPID/oom_score_adj)
        until [ $(cat /proc/self/oom_score_adj) -gt $server ]; do sleep 0.01; done";
    let when = "when = 'length >= 0'";
    let scenario = as_nobody(scenario().source("a", "").handler("h", when, script));
    let server = scenario.start();
    server.post("/hooks/a", "{}");
    server.until("select outcome from outcomes", "succeeded");
    let children = std::fs::read_dir(format!("/proc/{}/task", server.pid())).unwrap();
    let children = children.map(|task| {
        std::fs::read_to_string(task.unwrap().path().join("children")).unwrap_or_default()
    });
    let children = children.collect::<String>();
    let evaluator = children.split_whitespace().next().expect("an evaluator");
    let score = |pid: &str| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap();
        text.trim().parse::<i32>().unwrap()
    };
    assert!(score(evaluator) > score(&server.pid().to_string()) + 250);
}

#[test]
#[ignore = "needs root"]
fn a_server_started_with_lower_limits_evaluates_expressions() {
    let when = "when = 'length >= 0'";
    let scenario = as_nobody(scenario().source("a", "").handler("h", when, "cat"));
    // These apply before the change of user, as only root may raise them again.
    let limited = "ulimit -v 8000000; exec nice -n 15 \"$@\"";
    let server = scenario.prepend_wrapper(&["sh", "-c", limited, "sh"]).start();
    server.post("/hooks/a", "{}");
    server.until("select outcome from outcomes", "succeeded");
}

#[test]
#[ignore = "needs root"]
fn a_process_that_leaves_its_group_is_killed() {
    let script =
        "setsid sh -c 'echo $$ > pid; exec sleep 1000' & until [ -s pid ]; do sleep 0.01; done";
    let scenario = as_nobody(scenario().source("a", "").handler("h", "", script));
    let server = scenario.start();
    server.post("/hooks/a", "{}");
    server.until("select outcome from outcomes", "succeeded");
    let pid = server.read_file("pid");
    until("the orphan ends", || !is_alive(&pid));
}

#[test]
#[ignore = "needs root"]
fn at_the_process_limit_a_job_waits_and_does_not_fail() {
    let keys = "paused = true\nbreaker = { threshold = 1 }\nretry = { max_attempts = 1 }";
    let scenario = as_nobody(scenario().source("a", "").handler("h", keys, "cat"));
    let server = scenario.start();
    server.post("/hooks/a", "{}");
    let pid = format!("--pid={}", server.pid());
    let limit = |limit: &str| {
        let words = [&AS_NOBODY[1..], &["prlimit", &pid, limit]].concat();
        Command::new(AS_NOBODY[0]).args(words).status().unwrap()
    };
    assert!(limit("--nproc=1:").success());
    assert!(server.cli(&["resume", "h"]).status.success());
    until("the job waits", || server.log().contains("no more processes"));
    assert!(limit("--nproc=1000:").success());
    server.until("select attempt || outcome from outcomes", "1succeeded");
}
