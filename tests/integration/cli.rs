//! The command line, beside a server and without one.

use serde_json::Value;

use crate::support::server::{Server, cli, err, out, scenario, until};

/// One object a line.
fn objects(server: &Server, args: &[&str]) -> Vec<Value> {
    let output = server.cli(args);
    assert!(output.status.success(), "{args:?}: {}", err(&output));
    out(&output).lines().map(|line| serde_json::from_str(line).expect("an object")).collect()
}

fn keys(object: &Value) -> Vec<&str> {
    let mut keys: Vec<&str> =
        object.as_object().expect("an object").keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

fn sorted(names: &str) -> Vec<&str> {
    let mut names: Vec<&str> = names.split(' ').collect();
    names.sort_unstable();
    names
}

/// Three events whose handler fails for good, but for the second.
fn three() -> Server {
    let server = scenario()
        .source("a", "")
        .handler("h", "retry = { max_attempts = 1 }", "[ $HOOKTRAIL_EVENT = 2 ] || exit 7")
        .start();
    for body in ["one", "two", "three"] {
        server.post("/hooks/a", body);
    }
    server.until("select count(*) from outcomes", "3");
    server
}

#[test]
fn init_writes_what_serves_and_never_overwrites() {
    let folder = tempfile::tempdir().expect("a folder");
    let first = cli(folder.path(), &["init"]);
    assert!(first.status.success(), "{}", err(&first));
    assert!(cli(folder.path(), &["check"]).status.success());
    let written = std::fs::read_to_string(folder.path().join("config.toml")).expect("config.toml");
    assert_eq!(written, include_str!("../../config.toml"));
    let second = cli(folder.path(), &["init"]);
    assert_eq!(second.status.code(), Some(1));
    assert!(err(&second).contains("config.toml: already exists"), "{}", err(&second));
}

#[test]
fn without_a_configuration_it_ends_with_78_and_a_word_on_init() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = cli(folder.path(), &[]);
    assert_eq!(output.status.code(), Some(78));
    assert!(err(&output).contains("hooktrail init"), "{}", err(&output));
}

#[test]
fn check_names_all_faults_with_their_lines_and_serve_does_not_start() {
    let scenario = scenario().source("a", "methds = [\"POST\"]\naccept = \"xml\"");
    scenario.write();
    for command in ["check", "serve"] {
        let output = cli(scenario.path(), &[command]);
        assert_eq!(output.status.code(), Some(78));
        let said = err(&output);
        assert!(
            said.lines().count() == 2 && said.contains("methods") && said.contains(":"),
            "{said}"
        );
    }
    assert!(!scenario.path().join("t.db").exists());
}

#[test]
fn check_prints_each_sources_url_and_who_would_take_an_event() {
    let server = scenario().source("a", "path = \"/in\"").handler("h", "", "true").start();
    server.post("/in", "x");
    let output = server.cli(&["check", "--event", "1"]);
    let said = out(&output);
    assert!(said.contains("source a: http://127.0.0.1:0/in"), "{said}");
    assert!(said.contains("event 1 of a: matches h"), "{said}");
}

#[test]
fn wrong_usage_is_2() {
    let folder = tempfile::tempdir().expect("a folder");
    assert_eq!(cli(folder.path(), &["nonsense"]).status.code(), Some(2));
    let server = scenario().start();
    assert_eq!(server.cli(&["retry"]).status.code(), Some(2));
}

#[test]
fn lists_are_named_as_the_views_columns() {
    let server = three();
    let jobs = objects(&server, &["list", "--json"]);
    assert_eq!(
        keys(&jobs[0]),
        sorted("job event source handler item state attempts reason due_at")
    );
    assert_eq!(jobs.iter().map(|job| job["job"].as_i64()).collect::<Vec<_>>(), [3, 2, 1].map(Some));
    assert_eq!(objects(&server, &["list", "--json", "--state", "dead", "--limit", "1"]).len(), 1);
    assert_eq!(objects(&server, &["list", "--json", "--detail", "exit 7"]).len(), 2);
    let outcomes = objects(&server, &["tail", "--json"]);
    let columns =
        "id at event source handler item attempt outcome detail duration_ms next_at job job_state";
    assert_eq!(keys(&outcomes[0]), sorted(columns));
    let events = objects(&server, &["list", "--events", "--json"]);
    let columns = "event received_at source remote_ip bytes duplicates jobs queued running succeeded dead cancelled settled_at";
    assert_eq!(keys(&events[0]), sorted(columns));
    assert_eq!(objects(&server, &["list", "--handlers", "--json"])[0]["dead"], 2);
    assert_eq!(objects(&server, &["list", "--sources", "--json"])[0]["source"], "a");
    assert_eq!(objects(&server, &["stats", "--json"]).len(), 2);
}

#[test]
fn rejected_requests_are_listed_and_tailed_with_the_columns_of_their_view() {
    let server = three();
    assert_eq!(server.post("/hooks/unknown", "").status, 404);
    server.until("select count(*) from rejections", "1");
    let columns = "id at source method path remote_ip status reason bytes count";
    for args in [["list", "--rejected", "--json"], ["tail", "--rejected", "--json"]] {
        let rejections = objects(&server, &args);
        assert_eq!(keys(&rejections[0]), sorted(columns), "{args:?}");
        assert_eq!(rejections[0]["status"], 404, "{args:?}");
    }
}

#[test]
fn show_gives_the_request_and_all_that_became_of_it() {
    let server = three();
    let shown = &objects(&server, &["show", "1", "--json"])[0];
    assert_eq!(shown["body"], "one");
    assert_eq!(shown["attempts"][0]["detail"], "exit 7");
    assert_eq!(out(&server.cli(&["show", "3", "--body"])), "three");
    let text = out(&server.cli(&["show", "1"]));
    assert!(text.contains("POST /hooks/a") && text.contains("exit 7"), "{text}");
    let missing = server.cli(&["show", "9"]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(err(&missing).contains("event 9"), "{}", err(&missing));
}

#[test]
fn a_dead_job_runs_again_and_a_succeeded_one_is_refused_by_name() {
    let server = three();
    let refused = server.cli(&["retry", "1", "2"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(err(&refused).contains("job 2: it has succeeded"), "{}", err(&refused));
    let done = server.cli(&["retry", "--state", "dead", "--yes"]);
    assert_eq!(out(&done), "retried 2 jobs\n");
    server.until("select count(*) from outcomes where attempt = 2", "2");
    assert_eq!(
        server.value("select action || ' ' || jobs || ' ' || via from audit_log"),
        "retry 2 cli"
    );
    let missing = server.cli(&["retry", "77"]);
    assert_eq!(missing.status.code(), Some(1));
}

#[test]
fn dead_jobs_are_dismissed_and_queued_ones_never_run() {
    let server = three();
    assert!(server.cli(&["pause", "h"]).status.success());
    server.post("/hooks/a", "four");
    assert_eq!(
        out(&server.cli(&["cancel", "--all", "--yes", "--reason", "test"])),
        "cancelled 3 jobs\n"
    );
    assert!(server.cli(&["resume", "h"]).status.success());
    assert_eq!(server.value("select group_concat(state) from jobs"), "5,3,5,5");
    assert_eq!(server.list("select distinct reason from jobs where state = 5"), ["test"]);
    assert_eq!(server.value("select count(*) from trail where settled_at is null"), "0");
}

#[test]
fn acts_work_without_a_server_too() {
    let mut server = three();
    assert_eq!(server.stop(), Some(0));
    assert_eq!(out(&server.cli(&["retry", "1"])), "retried 1 job\n");
    server.start();
    server.until("select outcome from outcomes where job = 1 and attempt = 2", "failed");
}

#[test]
fn a_handler_runs_in_the_foreground_and_nothing_is_recorded() {
    let server = scenario().source("a", "").handler("h", "paused = true", "cat; exit 3").start();
    server.post("/hooks/a", "the body");
    let run = server.cli(&["run", "h", "1"]);
    assert_eq!((run.status.code(), out(&run).as_str()), (Some(1), "the body"));
    assert!(err(&run).contains("failed: exit 3"), "{}", err(&run));
    assert_eq!(server.value("select count(*) from outcomes"), "0");
}

#[test]
fn tail_follows_what_comes() {
    let server = scenario().source("a", "").handler("h", "", "true").start();
    let mut tail = std::process::Command::new(crate::support::server::HOOKTRAIL)
        .args(["tail", "-f", "--json"])
        .current_dir(server.path())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("tail");
    server.post("/hooks/a", "x");
    let mut line = String::new();
    let said = tail.stdout.take().expect("its stdout");
    std::io::BufRead::read_line(&mut std::io::BufReader::new(said), &mut line).expect("a line");
    let _ = tail.kill();
    let _ = tail.wait();
    let outcome: Value = serde_json::from_str(&line).expect("an object");
    assert_eq!(outcome["outcome"], "succeeded");
}

#[test]
fn completions_and_the_man_page_name_every_command() {
    let folder = tempfile::tempdir().expect("a folder");
    for args in [&["completions", "bash"][..], &["man"]] {
        let text = out(&cli(folder.path(), args));
        for command in
            ["serve", "check", "init", "tail", "list", "show", "retry", "cancel", "stats"]
        {
            assert!(text.contains(command), "{args:?}: {command}");
        }
    }
}

#[test]
fn the_line_that_is_printed_at_the_start_works_when_pasted() {
    for accept in ["any", "json", "form"] {
        let server = scenario().source("a", &format!("accept = \"{accept}\"")).start();
        until("the line is printed", || server.log().contains("to try it: "));
        let log = server.log();
        let line = log.lines().find_map(|line| line.split_once("to try it: ")).expect("the line").1;
        let response = std::process::Command::new("sh").args(["-c", line]).output().expect("sh");
        assert_eq!(out(&response), r#"{"event":1}"#, "{accept}");
    }
}

#[test]
fn check_and_the_start_warn_of_an_odd_secret_and_check_fails_where_there_is_none() {
    let verify = "verify = { scheme = \"github\", secret = { file = \"secret\" } }";
    let scenario = scenario().source("a", verify);
    scenario.file("secret", "hush-hush \n");
    let server = scenario.start();
    let warning = "sources.a.verify.secret: file secret begins or ends with white space";
    let warning =
        warning.replace("file secret", &format!("file {}", server.path().join("secret").display()));
    until("the log warns", || server.log().contains(&warning));
    let found = server.cli(&["check"]);
    assert!(out(&found).contains(&format!("{warning}, ")), "{}", out(&found));
    assert_eq!(found.status.code(), Some(0));
    assert!(!out(&found).contains("hush") && !server.log().contains("hush"));
    std::fs::remove_file(server.path().join("secret")).expect("it was there");
    let found = server.cli(&["check"]);
    assert_eq!(found.status.code(), Some(78));
    assert!(err(&found).contains("secret can't be read: No such file"), "{}", err(&found));
}
