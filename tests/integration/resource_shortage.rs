//! Shortages of the server itself, such as file descriptors: jobs wait, and none fails.

use crate::support::http_server::{empty_response, stub_server};
use crate::support::server::{scenario, until};

const ANSWER: &str = r#"while read -r line; do
job=${line#*\"job\":}; job=${job%%,*}
echo '{"job":'$job',"outcome":"succeeded"}'; done"#;

#[test]
fn without_free_file_descriptors_jobs_wait_and_none_fails() {
    let crm = stub_server(|_| Some(empty_response(200, "")));
    let breaker = "paused = true\nbreaker = { threshold = 1 }\nretry = { max_attempts = 1 }";
    let keys = |keys: &str| format!("{breaker}\n{keys}");
    let server = scenario()
        .source("a", "")
        .raw_config("[workers]\nthreads = 1")
        .handler("each", &keys(""), "cat")
        .handler("again", &keys(""), "cat")
        .handler("stream", &keys("mode = \"stream\""), ANSWER)
        .handler("batch", &keys("mode = \"batch\"\nbatch_wait = \"1ms\""), ANSWER)
        .handler("cgi", &keys("mode = \"cgi\""), "echo 'Status: 204'; echo")
        .handler("made", &keys("transform = '[.[]] | length'"), "cat")
        .raw_config(&crm.handler_table("url", breaker))
        .start();
    server.post("/hooks/a", "[1,2]");
    // The first job lacks the descriptor that cancels a run. The worker thread creates it once and reuses it.
    let waits = [
        ("each", "the system: "),
        ("again", "again.sh"),
        ("stream", "stream.sh"),
        ("batch", "batch.sh"),
        ("cgi", "cgi.sh"),
        ("made", "expressions"),
        ("url", "127.0.0.1"),
    ];
    for (handler, place) in waits {
        server.set_limit("--nofile=3:");
        assert!(server.cli(&["resume", handler]).status.success());
        let is_warning = |line: &str| {
            line.contains(place) && line.to_lowercase().contains("too many open files")
        };
        until(place, || server.log().lines().any(is_warning));
        server.set_limit("--nofile=1024:");
        let outcome =
            format!("select attempt || outcome from outcomes where handler = '{handler}'");
        server.until(&outcome, "1succeeded");
    }
    assert_eq!(server.value("select count(*) from outcomes"), "7");
    assert_eq!(server.value("select count(*) from breaker_log"), "0");
}

#[test]
fn a_server_started_with_sigchld_ignored_gets_exit_codes() {
    let server = scenario()
        .source("a", "")
        .handler("h", "", "exit 65")
        .wrapped_by(&["sh", "-c", "trap '' CHLD; exec \"$@\"", "sh"])
        .start();
    server.post("/hooks/a", "{}");
    server.until("select detail from dead_jobs", "exit 65");
}
