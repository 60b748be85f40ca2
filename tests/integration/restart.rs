//! A stop by SIGTERM and the next start: running jobs, pauses, and senders during a restart.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use rustix::process::Signal;

use crate::support::client::post;
use crate::support::server::{scenario, until};

#[test]
fn a_stop_queues_running_jobs_again_without_a_failure() {
    let mut server = scenario()
        .raw_config("[workers]\nshutdown_timeout = \"100ms\"")
        .source("a", "")
        .handler("h", "", "[ $HOOKTRAIL_ATTEMPT = 2 ] || { echo >> ran; exec sleep 1000; }")
        .start();
    server.post("/hooks/a", "x");
    until("the job runs", || !server.read_file("ran").is_empty());
    assert_eq!(server.stop(), Some(0));
    assert_eq!(
        server.value("select outcome || detail from outcomes"),
        "interruptedthe server was stopped"
    );
    assert_eq!(
        server.value("select state || ' ' || failures || ' ' || crashes from jobs"),
        "0 0 0"
    );
    server.start();
    server.until("select outcome from outcomes where attempt = 2", "succeeded");
}

#[test]
fn a_second_signal_stops_running_jobs_at_once() {
    let mut server = scenario()
        .raw_config("[workers]\nshutdown_timeout = \"1h\"")
        .source("a", "")
        .handler("h", "timeout = \"1h\"", "echo >> ran; exec sleep 1000")
        .start();
    server.post("/hooks/a", "x");
    until("the job runs", || !server.read_file("ran").is_empty());
    server.signal(Signal::TERM);
    until("the server stops", || server.log().contains("stopping"));
    // Intake continues during the stop.
    assert_eq!(server.post("/hooks/a", "y").status, 202);
    server.signal(Signal::INT);
    assert_eq!(server.wait_for_exit(), Some(0));
    assert_eq!(server.value("select count(*) from events"), "2");
}

#[test]
fn a_restart_under_load_loses_no_accepted_event() {
    let mut server = scenario().source("a", "").handler("h", "paused = true", "true").start();
    let (port, is_over) = (server.port, Arc::new(AtomicBool::new(false)));
    // The server listens on the same port after each start.
    server.set_listen(&format!("127.0.0.1:{port}"));
    let accepted = Arc::new(Mutex::new(Vec::new()));
    let senders: Vec<_> = (0..4)
        .map(|_| {
            let (is_over, accepted) = (Arc::clone(&is_over), Arc::clone(&accepted));
            std::thread::spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    if let Some(response) = post(port, "/hooks/a", b"x")
                        && response.status == 202
                    {
                        accepted.lock().expect("the list").push(response.event_id());
                    }
                }
            })
        })
        .collect();
    for _ in 0..3 {
        let before = accepted.lock().expect("the list").len();
        until("the server accepts events", || {
            accepted.lock().expect("the list").len() > before + 50
        });
        assert_eq!(server.stop(), Some(0));
        server.start();
    }
    is_over.store(true, Ordering::Relaxed);
    for sender in senders {
        sender.join().expect("a sender");
    }
    let stored: HashSet<i64> = server.event_ids().into_iter().collect();
    let accepted = accepted.lock().expect("the list");
    assert!(accepted.iter().all(|event| stored.contains(event)));
}

#[test]
fn pauses_survive_a_restart() {
    let mut server =
        scenario().source("a", "").handler("h", "", "true").handler("other", "", "true").start();
    assert!(server.cli(&["pause", "h"]).status.success());
    server.post("/hooks/a", "x");
    assert_eq!(server.stop(), Some(0));
    server.start();
    server.post("/hooks/a", "x");
    server.until("select handler from outcomes", "other other");
    assert_eq!(server.value("select jobs from queue_depth where handler = 'h'"), "2");
    assert!(server.cli(&["resume", "h"]).status.success());
    server.until("select count(*) from outcomes where handler = 'h'", "2");
}
