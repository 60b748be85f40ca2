//! What the server itself lacks for a moment, file descriptors or processes: jobs wait for it, and none
//! pays for it.

use std::process::Command;

use crate::support::http_server::{service, status};
use crate::support::server::{Server, scenario, until};

fn limit(server: &Server, limit: &str) {
    let pid = format!("--pid={}", server.pid());
    let done = Command::new("prlimit").args([&pid, limit]).status();
    assert!(done.expect("prlimit, of util-linux").success());
}

const ANSWER: &str = r#"while read -r line; do
job=${line#*\"job\":}; job=${job%%,*}
echo '{"job":'$job',"outcome":"succeeded"}'; done"#;

#[test]
fn without_a_free_file_descriptor_jobs_wait_and_none_fails() {
    let crm = service(|_| Some(status(200, "")));
    let breaker = "paused = true\nbreaker = { threshold = 1 }\nretry = { max_attempts = 1 }";
    let keys = |keys: &str| format!("{breaker}\n{keys}");
    let server = scenario()
        .source("a", "")
        .with("[workers]\nthreads = 1")
        .handler("each", &keys(""), "cat")
        .handler("again", &keys(""), "cat")
        .handler("stream", &keys("mode = \"stream\""), ANSWER)
        .handler("batch", &keys("mode = \"batch\"\nbatch_wait = \"1ms\""), ANSWER)
        .handler("cgi", &keys("mode = \"cgi\""), "echo 'Status: 204'; echo")
        .handler("made", &keys("transform = '[.[]] | length'"), "cat")
        .with(&crm.handler("url", breaker))
        .start();
    server.post("/hooks/a", "[1,2]");
    // The thread of the first lacks the descriptor by which a run is stopped, and keeps it for the others.
    let waits = [
        ("each", "the system: "),
        ("again", "again.sh"),
        ("stream", "stream.sh"),
        ("batch", "batch.sh"),
        ("cgi", "cgi.sh"),
        ("made", "expressions"),
        ("url", "127.0.0.1"),
    ];
    for (handler, what) in waits {
        limit(&server, "--nofile=3:");
        assert!(server.cli(&["resume", handler]).status.success());
        let is_it =
            |line: &str| line.contains(what) && line.to_lowercase().contains("too many open files");
        until(what, || server.log().lines().any(is_it));
        limit(&server, "--nofile=1024:");
        let outcome =
            format!("select attempt || outcome from outcomes where handler = '{handler}'");
        server.until(&outcome, "1succeeded");
    }
    assert_eq!(server.value("select count(*) from outcomes"), "7");
    assert_eq!(server.value("select count(*) from breaker_log"), "0");
}

#[test]
fn a_server_that_was_started_with_children_ignored_still_learns_how_they_end() {
    let server = scenario()
        .source("a", "")
        .handler("h", "", "exit 65")
        .under(&["sh", "-c", "trap '' CHLD; exec \"$@\"", "sh"])
        .start();
    server.post("/hooks/a", "{}");
    server.until("select detail from dead_jobs", "exit 65");
}
