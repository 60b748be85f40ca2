//! Handlers of `mode = "batch"`: how jobs are collected, their outcomes, and cancellation.

use crate::stream_handlers::{documented_handler, pids, wait_for_successes};
use crate::support::server::{scenario, until};

#[test]
fn a_batch_collects_jobs_and_each_has_its_own_outcome() {
    let keys = "mode = \"batch\"\nbatch_size = 3\nbatch_wait = \"5m\"\nconcurrency = 1";
    let script = r#"echo start >> runs
while read -r line; do
  job=${line#*\"job\":}; job=${job%%,*}
  case $line in *bad*) echo "{\"job\":$job,\"outcome\":\"dead\",\"detail\":\"bad\"}";; esac
done"#;
    let server = scenario().source("a", "").handler("h", keys, script).start();
    for body in ["1", "\"bad\"", "3", "4"] {
        server.post("/hooks/a", body);
    }
    server.until("select count(*) from outcomes", "3");
    let states = "select group_concat(job_state, ' ') from (select * from outcomes order by job)";
    assert_eq!(server.value(states), "succeeded dead succeeded");
    assert_eq!(server.read_file("runs"), "start\n");
    assert_eq!(
        server.value("select jobs from queue_depth where state = 'queued'"),
        "1",
        "the last job waits for its batch"
    );
}

#[test]
fn a_cancelled_job_interrupts_its_batch_and_the_others_are_retried() {
    let keys = "mode = \"batch\"\nbatch_size = 2\nconcurrency = 1";
    let script = "cat > /dev/null; if [ ! -e held ]; then : > held; sleep 1000; fi";
    let server = scenario().source("a", "").handler("h", keys, script).start();
    server.post("/hooks/a", "1");
    server.post("/hooks/a", "2");
    until("the batch runs", || server.path().join("held").exists());
    assert!(server.cli(&["cancel", "1"]).status.success());
    server.until("select count(*) from trail where cancelled = 1", "1");
    server.until("select count(*) from trail where succeeded = 1", "1");
    let outcomes = server.column("select outcome || ' ' || detail from outcomes where id < 3");
    assert_eq!(outcomes, ["interrupted cancelled", "interrupted job 1 of its batch was cancelled"]);
    let failures = server.value("select failures from jobs where id = 2");
    assert_eq!(failures, "0", "the interruption is no failure");
}

#[test]
fn a_cancelled_job_ends_its_batch_process_and_the_others_are_retried() {
    let script = "echo $$ >> pids; cat > got; [ -e again ] && exit 0; : > again; exec sleep 1000";
    let keys = "mode = \"batch\"\nbatch_size = 3\nbatch_wait = \"10m\"";
    let server = scenario().source("a", "").handler("h", keys, script).start();
    for _ in 0..3 {
        server.post("/hooks/a", "{}");
    }
    until("the batch runs", || server.path().join("again").exists());
    assert!(server.cli(&["cancel", "2"]).status.success());
    server.until("select count(*) from outcomes where outcome = 'interrupted'", "3");
    let neighbor = "job 2 of its batch was cancelled";
    let details = server.column("select detail from outcomes order by job");
    assert_eq!(details, [neighbor, "cancelled", neighbor]);
    server.until("select group_concat(state) from queue_depth", "queued");
    server.post("/hooks/a", "{}");
    wait_for_successes(&server, 3);
    assert_eq!(pids(&server).len(), 2);
}

#[test]
fn the_documented_batch_handler_works() {
    let server = documented_handler("## Mode `batch`", "sh", "handlers/import.sh");
    for _ in 0..5 {
        server.post("/hooks/a", "{}");
    }
    wait_for_successes(&server, 5);
    assert_eq!(server.read_file("data/jobs.ndjson").lines().count(), 5);
}
