//! After any end, however sudden: nothing lost, nothing run that has succeeded.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use rustix::process::Signal;

use crate::scenario::{Server, cli, err, is_alive, scenario, text, until};

#[test]
fn a_killed_server_loses_no_event_it_answered_for_and_runs_nothing_that_succeeded() {
    killed_under_load("concurrency = 8", "echo $HOOKTRAIL_JOB $HOOKTRAIL_ATTEMPT >> ran");
}

/// Takes a job's and an attempt's number out of each line.
const LINES: &str = r#"while read -r line; do
  job=${line#*\"job\":}; job=${job%%,*}; attempt=${line#*\"attempt\":}
  echo $job ${attempt%%,*} >> ran"#;

#[test]
fn the_same_holds_for_processes_that_stay() {
    let script = format!("{LINES}; echo '{{\"job\":'$job',\"outcome\":\"succeeded\"}}'\ndone");
    killed_under_load("mode = \"stream\"\nconcurrency = 8", &script);
}

#[test]
fn the_same_holds_for_batches() {
    let keys = "mode = \"batch\"\nbatch_wait = \"5ms\"\nbatch_jobs_max = 7";
    let script = format!(
        "{LINES}; [ $job = 3 ] || echo '{{\"job\":'$job',\"outcome\":\"succeeded\"}}'\ndone"
    );
    killed_under_load(keys, &script);
}

/// A server is killed again and again while it takes events; its handler writes each job and attempt
/// that it runs into `ran`.
fn killed_under_load(keys: &str, script: &str) {
    let mut server = scenario().source("a", "").handler("h", keys, script).start();
    let mut answered = HashSet::new();
    for _ in 0..6 {
        answered.extend(load(&server, 60));
        server.kill();
        server.start();
    }
    server.until("select count(*) from depth", "0");
    let kept: HashSet<i64> = server
        .rows("select id from events")
        .iter()
        .filter_map(|row| text(&row[0]).parse().ok())
        .collect();
    assert!(answered.is_subset(&kept), "lost: {:?}", answered.difference(&kept));
    assert_eq!(server.value("select count(*) from trail where succeeded <> 1"), "0");
    // The attempt that succeeded is the last one that ran.
    let succeeded: HashMap<String, i64> = server
        .rows("select job, attempt from outcomes where outcome = 'succeeded'")
        .iter()
        .map(|row| (text(&row[0]), text(&row[1]).parse().expect("a number")))
        .collect();
    for line in server.text_of("ran").lines() {
        let Some((job, attempt)) = line.split_once(' ') else { continue };
        let attempt: i64 = attempt.parse().expect("a number");
        assert!(attempt <= succeeded[job], "job {job} ran again after its success");
    }
}

/// Four senders post until `wanted` were answered; the events that were.
fn load(server: &Server, wanted: usize) -> Vec<i64> {
    let answered = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while answered.lock().expect("the list").len() < wanted {
                    if let Some(answer) = server.try_request("POST", "/hooks/a", "", b"x")
                        && answer.status == 202
                    {
                        answered.lock().expect("the list").push(answer.event());
                    }
                }
            });
        }
    });
    answered.into_inner().expect("the list")
}

#[test]
fn a_job_that_ran_when_the_server_was_killed_is_interrupted_and_runs_again() {
    let mut server = scenario()
        .source("a", "")
        .handler("h", "", "echo $$ >> pids; [ $HOOKTRAIL_ATTEMPT = 2 ] || exec sleep 1000")
        .start();
    server.post("/hooks/a", "x");
    until("it runs", || !server.text_of("pids").is_empty());
    server.kill();
    server.start();
    server.until("select attempt || outcome from outcomes order by id", "1interrupted 2succeeded");
    let first = server.text_of("pids").lines().next().unwrap_or_default().to_owned();
    assert!(!is_alive(&first), "it was not ended");
}

#[test]
fn the_fourth_crash_in_a_row_counts_as_a_failed_attempt() {
    let mut server = scenario()
        .source("a", "")
        .handler("h", "retry = { attempts_max = 1 }", "echo >> ran; exec sleep 1000")
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
                    if let Some(answer) = crate::http::post_to(port, "/hooks/a", b"x")
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
    server.until("select count(*) from depth where state = 'queued'", "1");
    assert!(server.cli(&["resume", "h"]).status.success());
    server.until("select outcome from outcomes", "succeeded");
}
