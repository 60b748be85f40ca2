//! A killed server: no event is lost, and no job runs after its success was recorded. The tests kill the
//! server in each state of a job, with each mode of handler.

use std::collections::HashSet;
use std::sync::Mutex;

use crate::support::http_server::{empty_response, stub_server};
use crate::support::server::{Scenario, Server, is_alive, scenario, until};

/// A handler of each mode that runs a command: its name, its keys, and the parts of its script before and
/// after the work of a job. `$job` and `$attempt` are the numbers of the job and of the attempt.
const COMMAND_MODES: [(&str, &str, &str, &str); 4] = [
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

fn for_each_command_mode(check: impl Fn(&str, &dyn Fn(&str, &str) -> Scenario)) {
    for (mode, keys, before, after) in COMMAND_MODES {
        check(mode, &|more, work| {
            let script = format!("{before}\n{work}\n{after}");
            scenario().source("a", "").handler("h", &format!("{keys}\n{more}"), &script)
        });
    }
}

#[test]
fn under_load_no_event_is_lost_and_no_command_runs_after_its_success() {
    for_each_command_mode(|mode, handler| {
        let server = run_under_kills(handler("concurrency = 8", "echo $job $attempt >> ran"));
        let ran = server.read_file("ran");
        let ran: Vec<(&str, &str)> = ran.lines().filter_map(|line| line.split_once(' ')).collect();
        let all: HashSet<&(&str, &str)> = ran.iter().collect();
        assert_eq!(all.len(), ran.len(), "{mode}: an attempt ran twice");
        let succeeded = "select job || ' ' || attempt from outcomes where outcome = 'succeeded'";
        for last in server.column(succeeded) {
            let (job, last) = last.split_once(' ').expect("two numbers");
            let last: u32 = last.parse().expect("a number");
            let attempts = ran.iter().filter(|run| run.0 == job).map(|run| run.1.parse());
            let latest: Option<u32> = attempts.map(|attempt| attempt.expect("a number")).max();
            assert_eq!(latest, Some(last), "{mode}: job {job} ran again after its success");
        }
    });
}

#[test]
fn under_load_no_event_is_lost_and_no_url_is_called_after_its_success() {
    let crm = stub_server(|_| Some(empty_response(200, "")));
    let server = run_under_kills(
        scenario().source("a", "").raw_config(&crm.handler_table("h", "concurrency = 8")),
    );
    let attempts: usize = server.value("select count(*) from outcomes").parse().expect("a number");
    let calls = crm.requests().len();
    assert!(calls <= attempts, "{calls} calls in {attempts} attempts");
}

/// Kills and restarts the server six times while it accepts events, and waits until all jobs have ended.
fn run_under_kills(scenario: Scenario) -> Server {
    let mut server = scenario.start();
    let mut accepted = HashSet::new();
    for _ in 0..6 {
        accepted.extend(post_concurrently(&server, 60));
        server.kill();
        server.start();
    }
    server.until("select count(*) from queue_depth", "0");
    let stored: HashSet<i64> = server.event_ids().into_iter().collect();
    assert!(accepted.is_subset(&stored), "lost: {:?}", accepted.difference(&stored));
    assert_eq!(server.value("select count(*) from trail where succeeded <> 1"), "0");
    let repeated = "select count(*) from outcomes a join outcomes b on a.job = b.job
        where a.outcome = 'succeeded' and b.attempt > a.attempt";
    assert_eq!(server.value(repeated), "0", "attempts after a success");
    server
}

/// Posts from four threads until `wanted` events are accepted, and returns their IDs.
fn post_concurrently(server: &Server, wanted: usize) -> Vec<i64> {
    let accepted = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while accepted.lock().expect("the list").len() < wanted {
                    if let Some(response) = server.try_request("POST", "/hooks/a", "", b"x")
                        && response.status == 202
                    {
                        accepted.lock().expect("the list").push(response.event_id());
                    }
                }
            });
        }
    });
    accepted.into_inner().expect("the list")
}

#[test]
fn a_job_that_ran_when_the_server_was_killed_is_interrupted_and_retried() {
    for_each_command_mode(|mode, handler| {
        let work = "echo $$ >> pids; [ $attempt = 2 ] || exec sleep 1000";
        let mut server = handler("timeout = \"1h\"", work).start();
        server.post("/hooks/a", "x");
        until("the job runs", || !server.read_file("pids").is_empty());
        server.kill();
        server.start();
        let outcomes = "select attempt || outcome from outcomes order by id";
        server.until(outcomes, "1interrupted 2succeeded");
        let first = server.read_file("pids").lines().next().unwrap_or_default().to_owned();
        assert!(!is_alive(&first), "{mode}: the process still runs");
    });
}

#[test]
fn a_success_that_was_not_recorded_is_an_interrupted_attempt_and_is_retried() {
    for_each_command_mode(|mode, handler| {
        let work = "echo $$ >> pids; until [ -e go ]; do sleep 0.01; done; echo $attempt >> ran";
        let mut server = handler("", work).start();
        server.post("/hooks/a", "x");
        until("the job runs", || !server.read_file("pids").is_empty());
        let lock = server.lock_database();
        server.write_file("go", "");
        until("the work is done", || !server.read_file("ran").is_empty());
        server.kill();
        drop(lock);
        server.start();
        let outcomes = "select attempt || outcome from outcomes order by id";
        server.until(outcomes, "1interrupted 2succeeded");
        assert_eq!(server.read_file("ran"), "1\n2\n", "{mode}");
    });
}

#[test]
fn a_job_cancelled_while_it_ran_is_not_retried_after_a_kill() {
    for_each_command_mode(|mode, handler| {
        let mut server =
            handler("", "trap '' TERM; echo $$ >> pids; while :; do sleep 1; done").start();
        server.post("/hooks/a", "x");
        until("the job runs", || !server.read_file("pids").is_empty());
        assert!(server.cli(&["cancel", "1"]).status.success());
        server.kill();
        server.start();
        server.until("select job_state from outcomes", "cancelled");
        let pids = server.read_file("pids");
        assert_eq!(pids.lines().count(), 1, "{mode}");
        assert!(!is_alive(pids.trim()), "{mode}: the process still runs");
    });
}

#[test]
fn answered_jobs_of_a_killed_batch_stay_succeeded_and_the_others_are_retried() {
    let script = format!(
        "{LINE}\necho $job >> ran; if [ $job = 2 ] && [ $attempt = 1 ]; then sleep 1000; fi\n{ANSWER}"
    );
    let keys = "mode = \"batch\"\nbatch_size = 3\nbatch_wait = \"1h\"";
    let mut server = scenario().source("a", "").handler("h", keys, &script).start();
    for _ in 0..3 {
        server.post("/hooks/a", "x");
    }
    server.until("select job || outcome from outcomes", "1succeeded");
    until("the batch runs its second job", || server.read_file("ran").lines().count() == 2);
    server.kill();
    server.replace_in_config("\"1h\"", "\"10ms\"");
    server.start();
    server.until("select count(*) from trail where succeeded = 1", "3");
    let outcomes = "select job || outcome from outcomes where job > 1 order by attempt, job";
    assert_eq!(
        server.column(outcomes),
        ["2interrupted", "3interrupted", "2succeeded", "3succeeded"]
    );
    assert_eq!(server.read_file("ran"), "1\n2\n2\n3\n");
}

#[test]
fn jobs_of_one_ordering_key_keep_their_order_when_the_server_is_killed() {
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
    let ran = server.read_file("ran");
    for key in ["{\"k\":0}", "{\"k\":1}", "{\"k\":2}"] {
        let runs = ran.lines().filter_map(|line| line.strip_prefix(key));
        let jobs: Vec<u32> = runs.map(|job| job.trim().parse().expect("a number")).collect();
        assert!(jobs.is_sorted() && jobs.len() >= 50, "{key}: {jobs:?}");
    }
}

#[test]
fn delays_ordering_breakers_debouncing_and_pauses_survive_a_kill() {
    let failing = "[ -e fixed ] || exit 1; echo $HOOKTRAIL_JOB >> ran";
    let mut server = scenario()
        .source("a", "")
        .handler("waits", "retry = { initial_delay = \"1h\" }", failing)
        .handler("held", "ordering_key = \"1\"\nretry = { initial_delay = \"1h\" }", failing)
        .handler("broken", "breaker = { threshold = 1, cooldown = \"1h\" }", failing)
        .handler("settles", "debounce_by = \"1\"\ndebounce = \"1h\"", failing)
        .handler("paused", "paused = true", failing)
        .start();
    server.post("/hooks/a", "{}");
    server.until("select count(*) from outcomes", "3");
    server.post("/hooks/a", "{}");
    server.until("select count(*) from outcomes", "4");
    server.write_file("fixed", "");
    let depth = "select handler || ' ' || state || ' ' || jobs from queue_depth order by handler";
    let before = server.column(depth);
    server.kill();
    server.start();
    // A job that may run at once ends before any other job could have started.
    server.reload_with("[handlers.free]\nsources = [\"a\"]\ncommand = [\"true\"]");
    server.until_reloads(1);
    server.post("/hooks/a", "{}");
    server.until("select outcome from outcomes where handler = 'free'", "succeeded");
    let expected = [
        "broken queued 2",
        "held queued 2",
        "paused queued 2",
        "settles queued 1",
        "waits queued 2",
    ];
    assert_eq!(before, expected);
    let ran = server.read_file("ran");
    assert_eq!(ran, "11\n", "only the new job of the handler without a delay ran");
}

#[test]
fn the_fourth_consecutive_crash_is_a_failed_attempt() {
    let mut server = scenario()
        .source("a", "")
        .handler("h", "retry = { max_attempts = 1 }", "echo >> ran; exec sleep 1000")
        .start();
    server.post("/hooks/a", "x");
    for crash in 1..=4 {
        until("the job runs", || server.read_file("ran").lines().count() == crash);
        server.kill();
        server.start();
    }
    server.until("select job_state from outcomes where attempt = 4", "dead");
    assert_eq!(server.column("select distinct outcome from outcomes"), ["interrupted"]);
}
