//! `retry`, `cancel` and `replay` of many jobs: ids, interruptions, and what they print without a server.

use std::process::{Command, Output, Stdio};

use rustix::process::Signal;

use crate::support::server::{
    HOOKTRAIL, Server, scenario, send_signal, stderr, stdout, stopped_server_with_jobs, until,
};

/// A stopped server with a paused handler, and events with one dead job each.
fn stopped_server_with_dead_jobs(jobs: usize) -> Server {
    stopped_server_with_jobs(jobs, 4)
}

/// Runs a command, and sends it a signal when the audit log has the first jobs.
fn interrupt(server: &Server, args: &[&str]) -> Output {
    let command = Command::new(HOOKTRAIL)
        .args(args)
        .current_dir(server.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the command");
    until("the command has begun", || !server.value("select jobs from audit_log").is_empty());
    send_signal(command.id(), Signal::INT).expect("a running command");
    command.wait_with_output().expect("the output")
}

#[test]
fn an_interrupted_retry_says_what_was_done_and_goes_on_when_it_runs_again() {
    let server = stopped_server_with_dead_jobs(100_000);
    let interrupted = interrupt(&server, &["retry", "--all", "--yes"]);
    assert_eq!(interrupted.status.code(), Some(1), "{}", stderr(&interrupted));
    assert!(stderr(&interrupted).starts_with("interrupted: "), "{}", stderr(&interrupted));
    let retried: usize = server.value("select jobs from audit_log").parse().expect("a number");
    assert_eq!(server.value("select count(*) from jobs where state = 0"), retried.to_string());
    let summary = stdout(&interrupted);
    let digits: String = summary.chars().filter(char::is_ascii_digit).collect();
    assert_eq!(digits, format!("{retried}100000"), "{summary}");
    assert!(summary.ends_with(" of 100,000 jobs\n"), "{summary}");
    assert!(server.cli(&["retry", "--all", "--yes"]).status.success());
    assert_eq!(server.value("select count(*) from jobs where state = 0"), "100000");
    assert_eq!(server.value("select sum(jobs) from audit_log"), "100000");
}

#[test]
fn an_interrupted_replay_names_the_events_that_are_left() {
    let server = stopped_server_with_dead_jobs(100_000);
    let interrupted = interrupt(&server, &["replay", "--all", "--yes"]);
    assert_eq!(interrupted.status.code(), Some(1), "{}", stderr(&interrupted));
    let errors = stderr(&interrupted);
    let left = errors.split("the events ").nth(1).and_then(|rest| rest.split(' ').next());
    let left = left.expect(&errors);
    let rest = server.cli(&["replay", left, "--all", "--yes"]);
    assert!(rest.status.success(), "{}", stderr(&rest));
    let replayed = "select count(*) || ' ' || count(distinct event) from jobs where replay > 0";
    assert_eq!(server.value(replayed), "100000 100000");
}

#[test]
fn ids_are_given_as_numbers_lists_and_ranges() {
    let server = stopped_server_with_dead_jobs(12);
    for (args, output) in [
        (&["retry", "1"][..], "retried 1 job\n"),
        (&["retry", "2,3"], "retried 2 jobs\n"),
        (&["retry", "4-6", "5", "8,"], "retried 4 jobs\n"),
        (&["cancel", "4–6"], "cancelled 3 jobs\n"),
        (&["cancel", "10-1000000000000", "--event", "11"], "cancelled 1 job\n"),
        (&["replay", "1-3,12"], "replayed 4 events: 4 jobs\n"),
        (&["replay", "11-99"], "replayed 2 events: 2 jobs\n"),
    ] {
        let args = match args.contains(&"--event") {
            true => [args, &["--yes"]].concat(),
            false => args.to_vec(),
        };
        let done = server.cli(&args);
        assert_eq!(stdout(&done), output, "{args:?}: {}", stderr(&done));
    }
    assert_eq!(
        server.column("select distinct target from audit_log where jobs = 1 order by 1"),
        ["job 1", "job 11"]
    );
}

#[test]
fn a_wrong_id_is_an_error_that_says_what_is_meant() {
    let server = scenario()
        .source("a", "")
        .source("b", "")
        .handler("h", "paused = true", "true")
        .raw_config("[handlers.k]\nsources = [\"a\"]\ncommand = [\"true\"]\npaused = true")
        .start();
    server.post("/hooks/a", "x");
    for _ in 0..3 {
        server.post("/hooks/b", "x");
    }
    // Jobs 1 and 2 of event 1, events 1 to 4.
    for (args, code, error) in [
        (&["retry", "0"][..], 2, "numbers of events and jobs begin at 1"),
        (&["retry", "-5"], 2, "numbers of events and jobs begin at 1"),
        (&["cancel", "9223372036854775808"], 2, "expected a number up to 9223372036854775807"),
        (&["replay", "6-4"], 2, "6-4 is empty: expected 4-6"),
        (&["show", "0"], 2, "numbers of events and jobs begin at 1"),
        (&["show", "99999999999999999999"], 2, "expected a number up to"),
        (&["list", "--event", "-1"], 2, "numbers of events and jobs begin at 1"),
        (&["retry", "7"], 1, "job 7: there is no such job\n"),
        (&["cancel", "4"], 1, "did you mean the jobs of event 4 (`hooktrail cancel --event 4`)?"),
        (&["cancel", "7-9"], 1, "jobs 7-9: there is no such job"),
        (&["replay", "7-9"], 1, "events 7-9: there is no such event"),
        (
            &["list", "--since", "2026-11-02", "--until", "2026-11-01"],
            2,
            " is not before --until 2026-11-01 00:00:00",
        ),
    ] {
        let output = server.cli(args);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(error), "{args:?}: {}", stderr(&output));
    }
    server.allow_altered_rows();
    server.open_database().execute_batch("delete from events where id = 2").expect("a deletion");
    for args in [&["show", "2"][..], &["replay", "2"], &["list", "--event", "2"]] {
        let error = "did you mean job 2, which is of event 1 (`hooktrail show 1 --job 2`)?";
        assert!(stderr(&server.cli(args)).contains(error), "{args:?}");
    }
    assert_eq!(server.value("select count(*) from audit_log"), "0");
}

#[test]
fn a_selection_without_a_match_says_so_and_is_success() {
    let server = stopped_server_with_dead_jobs(1);
    let none = server.cli(&["retry", "--detail", "nothing like it", "--yes"]);
    assert_eq!(none.status.code(), Some(0));
    assert_eq!(stdout(&none), "retried 0 jobs\n");
    assert_eq!(stderr(&none), "no job matches that `retry` can change\n");
    assert_eq!(server.value("select count(*) from audit_log"), "0");
}

#[test]
fn commands_say_when_they_take_effect_if_no_server_runs() {
    let mut server = stopped_server_with_dead_jobs(2);
    let note = "no server runs: the jobs start when the server does\n";
    for args in [&["retry", "1"][..], &["replay", "1"], &["resume", "h"]] {
        let output = server.cli(args);
        assert_eq!((output.status.code(), stderr(&output)), (Some(0), note.to_owned()), "{args:?}");
    }
    let paused = server.cli(&["pause", "h"]);
    assert_eq!(
        stderr(&paused),
        "no server runs: the handler stays paused when the server starts\n"
    );
    assert_eq!(stderr(&server.cli(&["cancel", "2"])), "");
    server.start();
    for args in [&["retry", "2"][..], &["replay", "1"], &["pause", "h"], &["resume", "h"]] {
        assert_eq!(stderr(&server.cli(args)), "", "{args:?}");
    }
}
