//! Prefetched jobs: claimed before a thread is free for them. Nothing that is decided before they start is ignored.
//!
//! In each test, a handler with one job at a time calls a test server. One call waits for its response while
//! the next jobs are prefetched.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use rustix::process::Signal;

use crate::support::http_server::{StubServer, empty_response, stub_server};
use crate::support::server::{DEADLINE, Server, scenario, until};

/// Number of short jobs before a call that waits.
const SHORT_JOBS: usize = 60;

/// Jobs that are queued before the handler starts.
const JOBS: usize = 400;

/// Prefetched jobs for each thread that is busy with the handler.
const PREFETCHED: usize = 4;

/// A handler whose last call waits for its response, while its next jobs are prefetched.
struct HeldCall {
    server: Server,
    stub: StubServer,
    status: Sender<u16>,
    is_released: Arc<AtomicBool>,
    /// The number of this call.
    number: usize,
}

impl HeldCall {
    /// Lets the call end with this status, and all later ones with 200.
    fn respond(&self, status: u16) {
        self.is_released.store(true, Ordering::SeqCst);
        self.status.send(status).expect("a waiting call");
    }

    fn calls(&self) -> usize {
        self.stub.requests().len()
    }

    /// Waits until all jobs have ended after this number of calls.
    fn until_called(&self, calls: usize) {
        self.server.until("select count(*) from queue_depth", "0");
        assert_eq!(self.calls(), calls);
    }

    /// Waits until a job of another handler has run that is queued now.
    fn until_other_job_has_run(&self) {
        let event = self.server.post("/hooks/b", "{}").event_id();
        let others = format!("select count(*) from outcomes where event = {event}");
        self.server.until(&others, "1");
    }

    /// The prefetched jobs that have not started. All jobs start in the order of their numbers.
    fn prefetched(&self) -> Vec<String> {
        self.server.column(
            "select id from jobs where started_at = 0 and id > (select min(id) from jobs where state = 2) order by id",
        )
    }
}

/// Starts a server with a handler `h` with these keys and a handler `other` of source `b`, and waits until a call of
/// `h` waits and jobs are prefetched.
fn hold_call(keys: &str, more: &str) -> HeldCall {
    let (reached, is_reached): (Sender<usize>, Receiver<usize>) = channel();
    let (status, next_status) = channel();
    let is_released = Arc::<AtomicBool>::default();
    let (channels, is_free) = (Mutex::new((reached, next_status)), Arc::clone(&is_released));
    let stub = stub_server(move |number| {
        if number % SHORT_JOBS > 0 || is_free.load(Ordering::SeqCst) {
            return Some(empty_response(200, ""));
        }
        let channels = channels.lock().ok()?;
        channels.0.send(number).ok()?;
        channels.1.recv().ok().map(|status| empty_response(status, ""))
    });
    let keys = format!("concurrency = 1\nprefetch = true\npaused = true\ntimeout = \"1h\"\n{keys}");
    let server = scenario()
        .source("a", "")
        .source("b", "")
        .source("c", "")
        .raw_config(&stub.handler_table("h", &keys))
        .handler("other", "priority = 5", "true")
        .handler_source("other", "b")
        .raw_config(more)
        .start();
    (0..JOBS).for_each(|_| drop(server.post("/hooks/a", "{}")));
    assert!(server.cli(&["resume", "h"]).status.success());
    let mut held = HeldCall { server, stub, status, is_released, number: 0 };
    loop {
        held.number = is_reached.recv_timeout(DEADLINE).expect("a call");
        // The writer has made the claims of its last plan when it has confirmed two more events.
        (0..2).for_each(|_| drop(held.server.post("/hooks/c", "{}")));
        if held.prefetched().len() == PREFETCHED {
            return held;
        }
        // A busy machine: the jobs were not short.
        held.status.send(200).expect("a waiting call");
    }
}

#[test]
fn a_prefetched_job_starts_when_the_job_before_it_has_succeeded() {
    let held = hold_call("", "");
    held.respond(200);
    held.until_called(JOBS);
    assert_eq!(
        held.server.value("select count(*) from outcomes where outcome <> 'succeeded'"),
        "0"
    );
}

#[test]
fn a_prefetched_job_of_a_paused_handler_waits_until_it_is_resumed() {
    let held = hold_call("", "");
    assert!(held.server.cli(&["pause", "h"]).status.success());
    held.respond(200);
    held.server.until("select count(*) from queue_depth where state = 'running'", "0");
    held.until_other_job_has_run();
    assert_eq!(held.calls(), held.number);
    assert!(held.server.cli(&["resume", "h"]).status.success());
    held.until_called(JOBS);
}

#[test]
fn a_prefetched_job_that_is_cancelled_does_not_start() {
    let held = hold_call("", "");
    for job in held.prefetched() {
        assert!(held.server.cli(&["cancel", &job]).status.success());
    }
    held.respond(200);
    held.until_called(JOBS - PREFETCHED);
    let cancelled = "select count(*) from trail where cancelled = 1";
    assert_eq!(held.server.value(cancelled), PREFETCHED.to_string());
}

#[test]
fn a_crash_does_not_count_against_a_prefetched_job() {
    let mut held = hold_call("", "");
    let jobs = held.prefetched().join(", ");
    held.server.kill();
    held.respond(200);
    assert!(held.server.cli(&["pause", "h"]).status.success());
    let earlier = "update jobs set crashes = 4 where state = 2";
    held.server.open_database().execute(earlier, []).expect("the number of crashes");
    held.server.start();
    let counts = format!("select crashes || ' ' || failures from jobs where id in ({jobs})");
    assert_eq!(held.server.column(&counts), ["4 0"; PREFETCHED]);
    let details = format!("select distinct detail from outcomes where job in ({jobs})");
    let detail = "the server ended before it started, or while it ran";
    assert_eq!(held.server.value(&details), detail);
    assert!(held.server.cli(&["resume", "h"]).status.success());
    held.until_called(JOBS + 1);
}

#[test]
fn a_stop_returns_prefetched_jobs_to_the_queue() {
    let mut held = hold_call("", "");
    held.server.signal(Signal::TERM);
    until("the server stops", || held.server.log().contains("stopping"));
    held.respond(200);
    assert_eq!(held.server.wait_for_exit(), Some(0));
    assert_eq!(held.calls(), held.number);
    held.server.start();
    held.until_called(JOBS);
    let stopped = "select count(*) from outcomes where detail = 'the server was stopped'";
    assert_eq!(held.server.value(stopped), PREFETCHED.to_string());
}

#[test]
fn a_failure_that_opens_the_circuit_breaker_returns_prefetched_jobs_to_the_queue() {
    let held = hold_call("breaker = { threshold = 1, cooldown = \"1h\" }", "");
    held.respond(500);
    held.server.until("select count(*) from queue_depth where state = 'running'", "0");
    held.until_other_job_has_run();
    assert_eq!(held.calls(), held.number);
    assert_eq!(held.server.value("select change from breaker_log"), "opened");
}

#[test]
fn a_rate_limit_that_a_reload_adds_applies_to_prefetched_jobs() {
    let mut held = hold_call("", "");
    held.server.replace_in_config("concurrency = 1\n", "concurrency = 1\nrate_limit = \"1/h\"\n");
    held.server.signal(Signal::HUP);
    held.server.until_reloads(1);
    held.until_other_job_has_run();
    held.respond(200);
    let succeeded = "select count(*) from outcomes where outcome = 'succeeded' and handler = 'h'";
    held.server.until(succeeded, &(held.number + 1).to_string());
    held.until_other_job_has_run();
    assert_eq!(held.calls(), held.number + 1, "one start in an hour");
}

#[test]
fn a_job_with_a_higher_priority_goes_before_prefetched_jobs() {
    let held = hold_call("", "[workers]\nthreads = 1");
    held.server.post("/hooks/b", "{}");
    // The writer has planned again when it confirms the second event.
    held.server.post("/hooks/b", "{}");
    held.respond(200);
    held.until_called(JOBS);
    let before = "select count(*) from outcomes where handler = 'h'
        and id < (select min(id) from outcomes where handler = 'other')";
    assert_eq!(held.server.value(before), held.number.to_string());
}

#[test]
fn jobs_that_are_prefetched_keep_to_concurrency_and_to_their_order() {
    let (running, most) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
    let seen_most = Arc::clone(&most);
    let stub = stub_server(move |_| {
        most.fetch_max(1 + running.fetch_add(1, Ordering::SeqCst), Ordering::SeqCst);
        std::thread::yield_now();
        running.fetch_sub(1, Ordering::SeqCst);
        Some(empty_response(200, ""))
    });
    let keys = "concurrency = 3\nprefetch = true\npaused = true\nordering_key = '.key'";
    let server = scenario().source("a", "").raw_config(&stub.handler_table("h", keys)).start();
    for number in 0..300 {
        server.post("/hooks/a", format!(r#"{{"key":"{}","number":{number}}}"#, number % 20));
    }
    assert!(server.cli(&["resume", "h"]).status.success());
    server.until("select count(*) from queue_depth", "0");
    assert_eq!(server.value("select count(*) from outcomes"), "300");
    assert!(seen_most.load(Ordering::SeqCst) <= 3);
    let number = |body: &[u8]| -> usize {
        let body: serde_json::Value = serde_json::from_slice(body).expect("a body");
        body["number"].as_u64().expect("a number") as usize
    };
    let mut last = [None; 20];
    for request in stub.requests() {
        let number = number(&request.body);
        assert!(last[number % 20] < Some(number), "{number} after {:?}", last[number % 20]);
        last[number % 20] = Some(number);
    }
}
