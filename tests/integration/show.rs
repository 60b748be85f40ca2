//! What `show` prints: an event with few jobs in full, one with many as a summary, or one of its jobs.

use crate::support::server::{Server, scenario, stderr, stdout};

/// A server with two events. Event 1 has a job for each of 24 items: every third is dead, and each fourth of
/// those has another reason. Its job 25 is queued, and its handler's circuit breaker is open. Event 2 has one
/// job of each handler.
fn event_with_many_jobs() -> Server {
    let keys = "split = '.[]'\nretry = { max_attempts = 1 }\nbreaker = { threshold = 0 }";
    let script = "n=$HOOKTRAIL_ITEM\n[ $((n % 12)) = 0 ] && exit 65\n\
                  [ $((n % 3)) = 0 ] && { echo \"contact $n is unknown\" >&2; exit 7; }\necho done";
    let open = "breaker = { threshold = 1, cooldown = '1h' }\nretry = { initial_delay = '1h' }";
    let server = scenario()
        .source("a", "")
        .handler("items", keys, script)
        .handler("open", open, "echo refused >&2; exit 1")
        .start();
    let items: Vec<String> = (1..=24).map(|number| number.to_string()).collect();
    server.post("/hooks/a", format!("[{}]", items.join(",")));
    server.until("select count(*) from outcomes", "25");
    server.post("/hooks/a", "[99]");
    server.until("select count(*) from outcomes", "26");
    server
}

/// The words of the lines that begin with these words.
fn lines_with<'a>(text: &'a str, words: &str) -> Vec<Vec<&'a str>> {
    let lines = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    lines.filter(|found| found.join(" ").starts_with(words)).collect()
}

#[test]
fn an_event_with_many_jobs_gets_a_summary_of_states_and_reasons() {
    let server = event_with_many_jobs();
    let text = stdout(&server.cli(&["show", "1"]));
    assert!(text.starts_with("event 1 of a from 127.0.0.1 at "), "{text}");
    assert!(text.contains("POST /hooks/a\n") && text.contains("\n[1,2,3"), "{text}");
    assert_eq!(lines_with(&text, "items"), [["items", "24", "0", "0", "16", "8", "0"]], "{text}");
    assert_eq!(lines_with(&text, "open"), [["open", "1", "1", "0", "0", "0", "0"]], "{text}");
    // Reasons that differ in a number are one, and an example has its own text.
    let job = |item: i64| server.value(&format!("select id from jobs where item = {item}"));
    let reasons = lines_with(&text, "dead items");
    assert_eq!(reasons[0][..5], ["dead", "items", "6", &job(3), "exit"], "{text}");
    assert!(text.contains("exit 7: contact 3 is unknown"), "{text}");
    assert_eq!(reasons[1], ["dead", "items", "2", &job(12), "exit", "65"], "{text}");
    assert!(text.contains(&format!("`hooktrail show 1 --job {}`", job(3))), "{text}");
    assert!(text.contains("`hooktrail show 1 --state dead`"), "{text}");
    assert!(text.contains("handler open: the circuit breaker is open until 20"), "{text}");
    assert!(text.lines().count() < 30, "{text}");
}

#[test]
fn several_events_are_shown_by_numbers_and_ranges_as_lists_print_them() {
    let server = event_with_many_jobs();
    let lines = |args: &[&str]| stdout(&server.cli(args)).lines().count();
    let [first, second] = ["1", "2"].map(|event| lines(&["show", event]));
    for events in [&["show", "1,2"][..], &["show", "1-2"], &["show", "1", "2"], &["show", "1-9"]] {
        assert_eq!(lines(events), first + 1 + second, "{events:?}");
    }
    assert_eq!(lines(&["show", "1,2", "--json"]), 2);
    let missing = server.cli(&["show", "2,7,8-9"]);
    assert_eq!(missing.status.code(), Some(1));
    let errors = stderr(&missing);
    assert!(errors.contains("event 7: there is no such event"), "{errors}");
    assert!(errors.contains("events 8-9: there is no such event"), "{errors}");
    let output = server.cli(&["show", "1,2", "--body"]);
    assert_eq!((output.status.code(), stdout(&output)), (Some(2), String::new()));
}

#[test]
fn one_job_is_printed_with_its_item_its_attempts_and_outputs() {
    let server = event_with_many_jobs();
    let job = server.value("select id from jobs where item = 3");
    let text = stdout(&server.cli(&["show", "1", "--job", &job]));
    for part in [
        "state     dead",
        "reason    exit 7: contact 3 is unknown",
        &format!("item 3 (job {job}): 3"),
        &format!("job {job} attempt 1: failed at "),
        "  stderr:\n    contact 3 is unknown",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert_eq!(text.matches("attempt 1:").count(), 1, "{text}");
    let item = server.cli(&["show", "1", "--job", &job, "--body"]);
    assert_eq!(stdout(&item), "3");
    let object = &server.json_lines(&["show", "1", "--job", &job, "--json"])[0];
    assert_eq!(object["jobs"].as_array().map(Vec::len), Some(1));
    assert_eq!(object["attempts"][0]["stderr"], "contact 3 is unknown\n");
    // A job that waits for the circuit breaker says so.
    let waiting = server.value("select id from jobs where event = 1 and item is null");
    let text = stdout(&server.cli(&["show", "1", "--job", &waiting]));
    assert!(text.contains("reason    circuit breaker open until 20"), "{text}");
    assert!(text.contains("handler open: the circuit breaker is open until 20"), "{text}");
}

#[test]
fn a_job_of_another_event_is_an_error_that_names_its_event() {
    let server = event_with_many_jobs();
    for (args, expected) in [
        (
            &["show", "2", "--job", "3"][..],
            "job 3: it belongs to event 1: `hooktrail show 1 --job 3`",
        ),
        (&["show", "2", "--job", "77"], "job 77: there is no such job"),
        (
            &["show", "3"],
            "event 3: there is no such event; did you mean job 3, which is of event 1 (`hooktrail show 1 --job 3`)?",
        ),
        (&["show", "77"], "event 77: there is no such event"),
    ] {
        let output = server.cli(args);
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        assert!(stderr(&output).starts_with(expected), "{args:?}: {}", stderr(&output));
    }
}

#[test]
fn the_jobs_of_a_state_are_printed_in_full_if_they_are_few() {
    let server = event_with_many_jobs();
    let text = stdout(&server.cli(&["show", "1", "--state", "dead"]));
    assert_eq!(text.matches(" attempt 1: failed at ").count(), 8, "{text}");
    let text = stdout(&server.cli(&["show", "1", "--state", "succeeded"]));
    assert!(!text.contains("attempt 1:") && text.contains("--job JOB"), "{text}");
    assert_eq!(text.matches(" succeeded ").count(), 16, "{text}");
    let text = stdout(&server.cli(&["show", "1", "--state", "running"]));
    assert!(text.ends_with("none of its 25 jobs is running\n"), "{text}");
    let object = &server.json_lines(&["show", "1", "--state", "dead", "--json"])[0];
    for rows in ["jobs", "attempts"] {
        assert_eq!(object[rows].as_array().map(Vec::len), Some(8), "{rows}");
    }
    let object = &server.json_lines(&["show", "1", "--json"])[0];
    assert_eq!(object["jobs"].as_array().map(Vec::len), Some(25));
    assert_eq!(object["body"].as_str().map(|body| body.starts_with("[1,")), Some(true));
}

#[test]
fn a_terminal_gets_the_start_of_a_long_body_and_the_end_of_a_long_output() {
    let script = "for n in $(seq 500); do echo \"line $n\"; done";
    let server = scenario().source("a", "").handler("h", "", script).start();
    server.post("/hooks/a", "x".repeat(500_000));
    server.until("select succeeded from trail", "1");
    let shown = server.cli_on_terminal(80, &["show", "1"]);
    assert!(shown.len() < 10_000, "{} bytes", shown.len());
    assert!(shown.contains("… (4,000 of 500,000 bytes: `hooktrail show 1 --body` prints all)"));
    assert!(shown.contains("`hooktrail show 1 --job 1` prints all)\n    line 481\n"), "{shown}");
    assert!(shown.contains("    line 500\n"), "{shown}");
    assert!(server.cli_on_terminal(80, &["show", "1", "--job", "1"]).contains("    line 1\n"));
    let piped = stdout(&server.cli(&["show", "1"]));
    assert!(piped.len() > 500_000 && piped.contains("    line 1\n"), "{} bytes", piped.len());
}

#[test]
fn an_event_without_jobs_says_so() {
    let server = scenario().source("a", "").start();
    server.post("/hooks/a", "x");
    let text = stdout(&server.cli(&["show", "1"]));
    assert!(text.ends_with("no jobs: no handler wanted the event\n"), "{text}");
}

/// A server whose handler `crm` prints its idempotency key. Event 1 has two items, and event 2 has none.
fn server_with_keys() -> Server {
    let server = scenario()
        .source("a", "")
        .handler("crm", "split = '.[]'", "echo \"$HOOKTRAIL_IDEMPOTENCY_KEY\"")
        .handler("log-2", "", "echo \"$HOOKTRAIL_IDEMPOTENCY_KEY\"")
        .start();
    server.post("/hooks/a", "[1,2]");
    server.post("/hooks/a", "[]");
    server.until("select count(*) from outcomes where outcome = 'succeeded'", "4");
    server
}

/// The idempotency key of a job, as its handler printed it.
fn key_of(server: &Server, job: &str) -> String {
    server.value(&format!(
        "select trim(cast(stdout as text), char(10)) from attempts where job = {job}"
    ))
}

#[test]
fn an_idempotency_key_shows_its_job_with_and_without_a_server() {
    let mut server = server_with_keys();
    for is_running in [true, false] {
        if !is_running {
            server.stop();
        }
        for job in server.column("select job from outcomes order by job") {
            let key = key_of(&server, &job);
            let event = server.value(&format!("select event from outcomes where job = {job}"));
            let expected = stdout(&server.cli(&["show", &event, "--job", &job]));
            assert!(expected.contains(&key), "{expected}");
            assert_eq!(stdout(&server.cli(&["show", &key])), expected);
            let object = &server.json_lines(&["show", &key, "--json"])[0];
            assert_eq!(object["jobs"][0]["job"].to_string(), job);
            assert_eq!(object["jobs"].as_array().map(Vec::len), Some(1));
        }
    }
}

#[test]
fn the_job_of_a_replay_is_shown_by_its_key() {
    let server = server_with_keys();
    assert!(server.cli(&["replay", "2", "--yes"]).status.success());
    server.until("select count(*) from outcomes where outcome = 'succeeded'", "5");
    let job = server.value("select max(job) from outcomes");
    let key = key_of(&server, &job);
    assert!(key.ends_with("-log-2-0-1"), "{key}");
    assert_eq!(server.json_lines(&["show", &key, "--json"])[0]["jobs"][0]["job"].to_string(), job);
}

#[test]
fn an_unknown_key_says_what_a_key_looks_like() {
    let server = server_with_keys();
    let key = key_of(&server, "1");
    for unknown in [key.replace("-crm-", "-other-"), key.replace('A', "B"), "nonsense".to_owned()] {
        let output = server.cli(&["show", &unknown]);
        assert_eq!((output.status.code(), stdout(&output)), (Some(1), String::new()));
        let text = stderr(&output);
        assert!(text.contains(&format!("{unknown}: no job or event has this key")), "{text}");
        assert!(text.contains("such as AZrX-wAAcACAAAAAAAAAAA-crm-0-0"), "{text}");
    }
    for args in [["show", &key, "--job", "1"], ["show", &key, "--state", "dead"]] {
        assert_eq!(server.cli(&args).status.code(), Some(2), "{args:?}");
    }
    assert_eq!(server.cli(&["show", &key, "--body"]).status.code(), Some(2));
    let both = server.json_lines(&["show", "2", &key, "--json"]);
    assert_eq!((both.len(), &both[0]["event"], &both[1]["event"]), (2, &2.into(), &1.into()));
}
