//! After any end, however sudden: nothing lost, nothing run that has succeeded.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use rustix::process::Signal;

use crate::support::server::{cli, err, scenario, text, until};

#[test]
fn the_fourth_crash_in_a_row_counts_as_a_failed_attempt() {
    let mut server = scenario()
        .source("a", "")
        .handler("h", "retry = { max_attempts = 1 }", "echo >> ran; exec sleep 1000")
        .start();
    server.post("/hooks/a", "x");
    for crash in 1..=4 {
        until("it runs", || server.text_of("ran").lines().count() == crash);
        server.kill();
        server.start();
    }
    server.until("select job_state from outcomes where attempt = 4", "dead");
    assert_eq!(server.list("select distinct outcome from outcomes"), ["interrupted"]);
}

#[test]
fn a_stop_puts_running_jobs_back_without_counting_them() {
    let mut server = scenario()
        .with("[workers]\nshutdown_timeout = \"100ms\"")
        .source("a", "")
        .handler("h", "", "[ $HOOKTRAIL_ATTEMPT = 2 ] || { echo >> ran; exec sleep 1000; }")
        .start();
    server.post("/hooks/a", "x");
    until("it runs", || !server.text_of("ran").is_empty());
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
fn a_second_signal_ends_running_jobs_at_once() {
    let mut server =
        scenario().source("a", "").handler("h", "", "echo >> ran; exec sleep 1000").start();
    server.post("/hooks/a", "x");
    until("it runs", || !server.text_of("ran").is_empty());
    server.signal(Signal::TERM);
    until("it stops", || server.log().contains("stopping"));
    // Intake goes on meanwhile.
    assert_eq!(server.post("/hooks/a", "y").status, 202);
    server.signal(Signal::INT);
    assert_eq!(server.ended(), Some(0));
    assert_eq!(server.value("select count(*) from events"), "2");
}

#[test]
fn a_restart_under_load_loses_nothing_it_answered_for() {
    let mut server = scenario().source("a", "").handler("h", "paused = true", "true").start();
    let (port, over) = (server.port, Arc::new(AtomicBool::new(false)));
    // The same port again, as a service would have.
    server.set_listen(&format!("127.0.0.1:{port}"));
    let answered = Arc::new(Mutex::new(Vec::new()));
    let senders: Vec<_> = (0..4)
        .map(|_| {
            let (over, answered) = (Arc::clone(&over), Arc::clone(&answered));
            std::thread::spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    if let Some(answer) = crate::support::client::post_to(port, "/hooks/a", b"x")
                        && answer.status == 202
                    {
                        answered.lock().expect("the list").push(answer.event());
                    }
                }
            })
        })
        .collect();
    for _ in 0..3 {
        let before = answered.lock().expect("the list").len();
        until("it takes some", || answered.lock().expect("the list").len() > before + 50);
        assert_eq!(server.stop(), Some(0));
        server.start();
    }
    over.store(true, Ordering::Relaxed);
    for sender in senders {
        sender.join().expect("a sender");
    }
    let kept: HashSet<i64> = server
        .rows("select id from events")
        .iter()
        .filter_map(|row| text(&row[0]).parse().ok())
        .collect();
    let answered = answered.lock().expect("the list");
    assert!(answered.iter().all(|event| kept.contains(event)));
}

#[test]
fn a_second_server_on_the_same_file_ends_with_75_and_says_who_holds_it() {
    let server = scenario().source("a", "").start();
    let second = cli(server.path(), &["serve"]);
    assert_eq!(second.status.code(), Some(75));
    assert!(err(&second).contains(&format!("process {}", server.pid())), "{}", err(&second));
    assert_eq!(server.post("/hooks/a", "x").status, 202);
}

#[test]
fn pauses_hold_over_a_restart() {
    let mut server = scenario().source("a", "").handler("h", "", "true").start();
    assert!(server.cli(&["pause", "h"]).status.success());
    server.post("/hooks/a", "x");
    assert_eq!(server.stop(), Some(0));
    server.start();
    server.until("select count(*) from queue_depth where state = 'queued'", "1");
    assert!(server.cli(&["resume", "h"]).status.success());
    server.until("select outcome from outcomes", "succeeded");
}
