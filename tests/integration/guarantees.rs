//! Promises that can only be seen from beside: by the order of system calls, by who waits for whom.

use std::fs;

use crate::support::server::{scenario, until};

/// Where in a trace a call stands that holds both texts, after `from`.
fn position(trace: &[&str], from: usize, texts: [&str; 2]) -> Option<usize> {
    let holds = |line: &&str| texts.iter().all(|text| line.contains(text));
    trace[from..].iter().position(holds).map(|at| from + at)
}

#[test]
fn an_answer_leaves_after_the_event_is_written_and_synced() {
    let traces = tempfile::tempdir().unwrap();
    let file = traces.path().join("trace");
    let calls = "trace=pwrite64,fsync,fdatasync,write,writev,sendto,sendmsg";
    let words = ["strace", "-D", "-f", "-qq", "-s", "1000000", "-o"];
    let words = [&words[..], &[file.to_str().unwrap(), "-e", calls]].concat();
    let server = scenario().source("a", "").under(&words).start();
    let events: Vec<i64> =
        (0..5).map(|number| server.post("/hooks/a", format!("needle-{number}.")).event()).collect();
    assert_eq!(events, [1, 2, 3, 4, 5]);
    let read =
        || fs::read(&file).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap();
    until("the answers are in the trace", || read().matches("HTTP/1.1 202").count() == 5);
    let trace = read();
    let trace: Vec<&str> = trace.lines().collect();
    let mut from = 0;
    for number in 0..5 {
        let needle = format!("needle-{number}.");
        let written = position(&trace, from, ["pwrite64(", &needle]).expect("it was written");
        let synced = position(&trace, written, ["sync", "= 0"]).expect("it was synced");
        let answered = position(&trace, from, ["HTTP/1.1 202", ""]).expect("it was answered");
        assert!(written < synced && synced < answered, "{written} {synced} {answered}");
        from = answered + 1;
    }
}

#[test]
fn handlers_that_never_end_delay_no_sender() {
    let keys = "timeout = \"1h\"\nconcurrency = 1024";
    let mut server = scenario()
        .source("a", "")
        .handler("h", keys, "exec sleep 1000")
        .with("[workers]\nshutdown_timeout = \"0s\"")
        .start();
    let answers = (0..100).map(|_| server.post("/hooks/a", "x").status);
    assert!(answers.into_iter().all(|status| status == 202));
    // All threads are taken; senders were answered all the same.
    server.until("select jobs from queue_depth where state = 'running'", "16");
    assert_eq!(server.post("/hooks/a", "x").status, 202);
    assert_eq!(server.value("select count(*) from outcomes"), "0");
    // Killed, it would leave them behind.
    assert_eq!(server.stop(), Some(0));
}
