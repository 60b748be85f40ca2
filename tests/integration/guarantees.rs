//! Guarantees that no single response shows: the order of system calls, and senders that never wait for
//! handlers.

use std::fs;
use std::time::{Duration, Instant};

use crate::support::server::{scenario, until};

/// The index of the first line of a trace that contains both texts, at or after `start`.
fn find_call(trace: &[&str], start: usize, texts: [&str; 2]) -> Option<usize> {
    let holds = |line: &&str| texts.iter().all(|text| line.contains(text));
    trace[start..].iter().position(holds).map(|at| start + at)
}

#[test]
fn the_response_is_sent_after_the_event_is_written_and_synced() {
    let traces = tempfile::tempdir().unwrap();
    let file = traces.path().join("trace");
    let calls = "trace=pwrite64,fsync,fdatasync,write,writev,sendto,sendmsg";
    let words = ["strace", "-D", "-f", "-qq", "-s", "1000000", "-o"];
    let words = [&words[..], &[file.to_str().unwrap(), "-e", calls]].concat();
    let server = scenario().source("a", "").wrapped_by(&words).start();
    let events: Vec<i64> = (0..5)
        .map(|number| server.post("/hooks/a", format!("needle-{number}.")).event_id())
        .collect();
    assert_eq!(events, [1, 2, 3, 4, 5]);
    let read_trace =
        || fs::read(&file).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap();
    until("the responses are in the trace", || read_trace().matches("HTTP/1.1 202").count() == 5);
    let trace = read_trace();
    let trace: Vec<&str> = trace.lines().collect();
    let mut start = 0;
    for number in 0..5 {
        let needle = format!("needle-{number}.");
        let written = find_call(&trace, start, ["pwrite64(", &needle]).expect("a write");
        let synced = find_call(&trace, written, ["sync", "= 0"]).expect("a sync");
        let responded = find_call(&trace, start, ["HTTP/1.1 202", ""]).expect("a response");
        assert!(written < synced && synced < responded, "{written} {synced} {responded}");
        start = responded + 1;
    }
}

#[test]
fn handlers_that_never_end_delay_no_response() {
    let keys = "timeout = \"1h\"\nconcurrency = 1024";
    let mut server = scenario()
        .source("a", "")
        .handler("h", keys, "exec sleep 1000")
        .raw_config("[workers]\nshutdown_timeout = \"0s\"")
        .start();
    let post = || {
        let sent_at = Instant::now();
        assert_eq!(server.post("/hooks/a", "x").status, 202);
        let took = sent_at.elapsed();
        // GitHub, for example, waits for 10 s.
        assert!(took < Duration::from_secs(10), "the response took {took:?}");
    };
    (0..100).for_each(|_| post());
    // The handlers occupy all threads.
    server.until("select jobs from queue_depth where state = 'running'", "16");
    (0..10).for_each(|_| post());
    assert_eq!(server.value("select count(*) from outcomes"), "0");
    // A killed server would leave the handlers behind.
    assert_eq!(server.stop(), Some(0));
}
