//! Every kind of handler, with its server killed in each state of a job: nothing is lost, and nothing
//! runs after its success was recorded.

use std::collections::HashSet;
use std::sync::Mutex;

use rusqlite::Connection;

use crate::support::http_server::{service, status};
use crate::support::server::{Scenario, Server, is_alive, scenario, text, until};

/// A handler of each mode that runs a command: its keys, and what of its script comes before and after
/// what a job does. The job's number and its attempt's are `$job` and `$attempt`.
const COMMANDS: [(&str, &str, &str, &str); 4] = [
    ("each", "", "job=$HOOKTRAIL_JOB attempt=$HOOKTRAIL_ATTEMPT", ""),
    ("stream", "mode = \"stream\"", LINE, ANSWER),
    ("batch", "mode = \"batch\"\nbatch_size = 7\nbatch_wait = \"5ms\"", LINE, ANSWER),
    (
        "cgi",
        "mode = \"cgi\"",
        "job=$HOOKTRAIL_JOB attempt=$HOOKTRAIL_ATTEMPT",
        "echo 'Status: 204'; echo",
    ),
];

const LINE: &str = r#"while read -r line; do
job=${line#*\"job\":}; job=${job%%,*}; attempt=${line#*\"attempt\":}; attempt=${attempt%%,*}"#;

const ANSWER: &str = r#"echo '{"job":'$job',"outcome":"succeeded"}'; done"#;

fn each_command(check: impl Fn(&str, &dyn Fn(&str, &str) -> Scenario)) {
    for (mode, keys, before, after) in COMMANDS {
        check(mode, &|more, what| {
            let script = format!("{before}\n{what}\n{after}");
            scenario().source("a", "").handler("h", &format!("{keys}\n{more}"), &script)
        });
    }
}

#[test]
fn under_load_no_event_is_lost_and_no_command_runs_after_its_success() {
    each_command(|mode, handler| {
        let server = under_load(handler("concurrency = 8", "echo $job $attempt >> ran"));
        let ran = server.text_of("ran");
        let ran: Vec<(&str, &str)> = ran.lines().filter_map(|line| line.split_once(' ')).collect();
        let all: HashSet<&(&str, &str)> = ran.iter().collect();
        assert_eq!(all.len(), ran.len(), "{mode}: an attempt ran twice");
        let succeeded = "select job || ' ' || attempt from outcomes where outcome = 'succeeded'";
        for last in server.list(succeeded) {
            let (job, last) = last.split_once(' ').expect("two numbers");
            let last: u32 = last.parse().expect("a number");
            let attempts = ran.iter().filter(|one| one.0 == job).map(|one| one.1.parse());
            let latest: Option<u32> = attempts.map(|attempt| attempt.expect("a number")).max();
            assert_eq!(latest, Some(last), "{mode}: job {job} ran again after its success");
        }
    });
}

#[test]
fn under_load_no_event_is_lost_and_no_url_is_called_after_its_success() {
    let crm = service(|_| Some(status(200, "")));
    let server = under_load(scenario().source("a", "").with(&crm.handler("h", "concurrency = 8")));
    let attempts: usize = server.value("select count(*) from outcomes").parse().expect("a number");
    let calls = crm.asked().len();
    assert!(calls <= attempts, "{calls} calls in {attempts} attempts");
}

/// A server that was killed again and again while it took events, and has done what they ask for.
fn under_load(scenario: Scenario) -> Server {
    let mut server = scenario.start();
    let mut answered = HashSet::new();
    for _ in 0..6 {
        answered.extend(load(&server, 60));
        server.kill();
        server.start();
    }
    server.until("select count(*) from queue_depth", "0");
    let kept = server.rows("select id from events");
    let kept: HashSet<i64> = kept.iter().filter_map(|row| text(&row[0]).parse().ok()).collect();
    assert!(answered.is_subset(&kept), "lost: {:?}", answered.difference(&kept));
    assert_eq!(server.value("select count(*) from trail where succeeded <> 1"), "0");
    let again = "select count(*) from outcomes a join outcomes b on a.job = b.job
        where a.outcome = 'succeeded' and b.attempt > a.attempt";
    assert_eq!(server.value(again), "0", "attempts after a success");
    server
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
    each_command(|mode, handler| {
        let what = "echo $$ >> pids; [ $attempt = 2 ] || exec sleep 1000";
        let mut server = handler("timeout = \"1h\"", what).start();
        server.post("/hooks/a", "x");
        until("it runs", || !server.text_of("pids").is_empty());
        server.kill();
        server.start();
        let outcomes = "select attempt || outcome from outcomes order by id";
        server.until(outcomes, "1interrupted 2succeeded");
        let first = server.text_of("pids").lines().next().unwrap_or_default().to_owned();
        assert!(!is_alive(&first), "{mode}: it was not ended");
    });
}

/// Keeps the server from writing.
fn hold(server: &Server) -> Connection {
    let holder = server.trail();
    holder.execute_batch("BEGIN IMMEDIATE").expect("its lock");
    holder
}

#[test]
fn a_success_that_was_not_written_is_an_interrupted_attempt_and_the_job_runs_again() {
    each_command(|mode, handler| {
        let what = "echo $$ >> pids; until [ -e go ]; do sleep 0.01; done; echo $attempt >> ran";
        let mut server = handler("", what).start();
        server.post("/hooks/a", "x");
        until("it runs", || !server.text_of("pids").is_empty());
        let holder = hold(&server);
        server.file("go", "");
        until("it is through", || !server.text_of("ran").is_empty());
        server.kill();
        drop(holder);
        server.start();
        let outcomes = "select attempt || outcome from outcomes order by id";
        server.until(outcomes, "1interrupted 2succeeded");
        assert_eq!(server.text_of("ran"), "1\n2\n", "{mode}");
    });
}

#[test]
fn a_job_that_was_cancelled_while_it_ran_does_not_run_again() {
    each_command(|mode, handler| {
        let mut server =
            handler("", "trap '' TERM; echo $$ >> pids; while :; do sleep 1; done").start();
        server.post("/hooks/a", "x");
        until("it runs", || !server.text_of("pids").is_empty());
        assert!(server.cli(&["cancel", "1"]).status.success());
        server.kill();
        server.start();
        server.until("select job_state from outcomes", "cancelled");
        let pids = server.text_of("pids");
        assert_eq!(pids.lines().count(), 1, "{mode}");
        assert!(!is_alive(pids.trim()), "{mode}: it was not ended");
    });
}

#[test]
fn what_a_batch_had_answered_stays_answered_and_the_rest_runs_again() {
    let script = format!(
        "{LINE}\necho $job >> ran; if [ $job = 2 ] && [ $attempt = 1 ]; then sleep 1000; fi\n{ANSWER}"
    );
    let keys = "mode = \"batch\"\nbatch_size = 3\nbatch_wait = \"1h\"";
    let mut server = scenario().source("a", "").handler("h", keys, &script).start();
    for _ in 0..3 {
        server.post("/hooks/a", "x");
    }
    server.until("select job || outcome from outcomes", "1succeeded");
    until("it is at the second", || server.text_of("ran").lines().count() == 2);
    server.kill();
    *server.config() = server.config().replace("\"1h\"", "\"10ms\"");
    server.write_config();
    server.start();
    server.until("select count(*) from trail where succeeded = 1", "3");
    let outcomes = "select job || outcome from outcomes where job > 1 order by attempt, job";
    assert_eq!(server.list(outcomes), ["2interrupted", "3interrupted", "2succeeded", "3succeeded"]);
    assert_eq!(server.text_of("ran"), "1\n2\n2\n3\n");
}

#[test]
fn jobs_of_one_key_keep_their_order_however_often_the_server_is_killed() {
    let keys = "ordering_key = \".k\"\nconcurrency = 8";
    let script = "printf '%s %s\\n' \"$(cat)\" $HOOKTRAIL_JOB >> ran";
    let mut server = scenario().source("a", "").handler("h", keys, script).start();
    for _ in 0..5 {
        for n in 0..30 {
            server.post("/hooks/a", format!("{{\"k\":{}}}", n % 3));
        }
        server.kill();
        server.start();
    }
    server.until("select count(*) from trail where succeeded = 1", "150");
    let ran = server.text_of("ran");
    for key in ["{\"k\":0}", "{\"k\":1}", "{\"k\":2}"] {
        let of_key = ran.lines().filter_map(|line| line.strip_prefix(key));
        let jobs: Vec<u32> = of_key.map(|job| job.trim().parse().expect("a number")).collect();
        assert!(jobs.is_sorted() && jobs.len() >= 50, "{key}: {jobs:?}");
    }
}

#[test]
fn what_waits_is_held_or_rests_does_so_after_a_kill_too() {
    let failing = "[ -e mended ] || exit 1; echo $HOOKTRAIL_JOB >> ran";
    let mut server = scenario()
        .source("a", "")
        .handler("waits", "retry = { initial_delay = \"1h\" }", failing)
        .handler("held", "ordering_key = \"1\"\nretry = { initial_delay = \"1h\" }", failing)
        .handler("rests", "breaker = { threshold = 1, cooldown = \"1h\" }", failing)
        .handler("settles", "debounce_by = \"1\"\ndebounce = \"1h\"", failing)
        .handler("paused", "paused = true", failing)
        .start();
    server.post("/hooks/a", "{}");
    server.until("select count(*) from outcomes", "3");
    server.post("/hooks/a", "{}");
    server.until("select count(*) from outcomes", "4");
    server.file("mended", "");
    let depth = "select handler || ' ' || state || ' ' || jobs from queue_depth order by handler";
    let before = server.list(depth);
    server.kill();
    server.start();
    // One that is free is done before anything else could be.
    server.reload_with("[handlers.free]\nsources = [\"a\"]\ncommand = [\"true\"]");
    server.until("select count(*) from audit_log where action = 'reload'", "1");
    server.post("/hooks/a", "{}");
    server.until("select outcome from outcomes where handler = 'free'", "succeeded");
    let expected = [
        "held queued 2",
        "paused queued 2",
        "rests queued 2",
        "settles queued 1",
        "waits queued 2",
    ];
    assert_eq!(before, expected);
    let ran = server.text_of("ran");
    assert_eq!(ran, "11\n", "the new job of the handler that waits for nothing");
}
