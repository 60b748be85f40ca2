//! The command line, with and without a running server.

use std::process::Command;

use serde_json::Value;

use crate::support::server::{HOOKTRAIL, Server, cli, scenario, stderr, stdout, until};

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

/// A server with three events: the jobs of the first and the third are dead.
fn server_with_three_events() -> Server {
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
fn init_writes_a_valid_configuration_and_never_overwrites() {
    let folder = tempfile::tempdir().expect("a folder");
    let first = cli(folder.path(), &["init"]);
    assert!(first.status.success(), "{}", stderr(&first));
    let written = std::fs::read_to_string(folder.path().join("config.toml")).expect("config.toml");
    assert_eq!(written, include_str!("../../config.toml"));
    // Another program may use the ports.
    let config = written.replace("127.0.0.1:8080", "127.0.0.1:0") + "\n[admin]\nlisten = []\n";
    std::fs::write(folder.path().join("free.toml"), config).expect("a configuration");
    let checked = cli(folder.path(), &["--config", "free.toml", "check", "--strict"]);
    assert!(checked.status.success(), "{}{}", stdout(&checked), stderr(&checked));
    let second = cli(folder.path(), &["init"]);
    assert_eq!(second.status.code(), Some(1));
    assert!(stderr(&second).contains("config.toml: already exists"), "{}", stderr(&second));
}

#[test]
fn a_missing_configuration_is_exit_78_and_names_init() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = cli(folder.path(), &[]);
    assert_eq!(output.status.code(), Some(78));
    assert!(stderr(&output).contains("hooktrail init"), "{}", stderr(&output));
}

#[test]
fn check_and_serve_report_every_error_with_its_line() {
    let scenario = scenario().source("a", "methds = [\"POST\"]\naccept = \"xml\"");
    scenario.write();
    for command in ["check", "serve"] {
        let output = cli(scenario.path(), &[command]);
        assert_eq!(output.status.code(), Some(78));
        let errors = stderr(&output);
        assert!(
            errors.lines().count() == 2 && errors.contains("methods") && errors.contains(":"),
            "{errors}"
        );
    }
    assert!(!scenario.path().join("t.db").exists());
}

#[test]
fn check_prints_the_url_of_each_source_and_the_handlers_of_an_event() {
    let server = scenario().source("a", "path = \"/in\"").handler("h", "", "true").start();
    server.post("/in", "x");
    let output = server.cli(&["check", "--event", "1"]);
    let report = stdout(&output);
    assert!(report.contains("source a: http://127.0.0.1:0/in"), "{report}");
    assert!(report.contains("event 1 of a: matches h"), "{report}");
}

#[test]
fn wrong_usage_is_exit_2() {
    let folder = tempfile::tempdir().expect("a folder");
    assert_eq!(cli(folder.path(), &["nonsense"]).status.code(), Some(2));
    let server = scenario().start();
    assert_eq!(server.cli(&["retry"]).status.code(), Some(2));
}

#[test]
fn json_lists_have_the_columns_of_the_views() {
    let server = server_with_three_events();
    let jobs = server.json_lines(&["list", "--json"]);
    assert_eq!(
        keys(&jobs[0]),
        sorted("job event source handler item state attempts reason due_at")
    );
    assert_eq!(jobs.iter().map(|job| job["job"].as_i64()).collect::<Vec<_>>(), [3, 2, 1].map(Some));
    assert_eq!(server.json_lines(&["list", "--json", "--state", "dead", "--limit", "1"]).len(), 1);
    assert_eq!(server.json_lines(&["list", "--json", "--detail", "exit 7"]).len(), 2);
    let outcomes = server.json_lines(&["tail", "--json"]);
    let columns =
        "id at event source handler item attempt outcome detail duration_ms next_at job job_state";
    assert_eq!(keys(&outcomes[0]), sorted(columns));
    let events = server.json_lines(&["list", "--events", "--json"]);
    let columns = "event received_at source remote_ip bytes duplicates jobs queued running succeeded dead cancelled settled_at client origin_key";
    assert_eq!(keys(&events[0]), sorted(columns));
    assert_eq!(server.json_lines(&["list", "--handlers", "--json"])[0]["dead"], 2);
    assert_eq!(server.json_lines(&["list", "--sources", "--json"])[0]["source"], "a");
    assert_eq!(server.json_lines(&["stats", "--json"]).len(), 2);
}

#[test]
fn show_prints_the_request_its_jobs_and_its_attempts() {
    let server = server_with_three_events();
    let event = &server.json_lines(&["show", "1", "--json"])[0];
    assert_eq!(event["body"], "one");
    assert_eq!(event["attempts"][0]["detail"], "exit 7");
    assert_eq!(stdout(&server.cli(&["show", "3", "--body"])), "three");
    let text = stdout(&server.cli(&["show", "1"]));
    assert!(text.contains("POST /hooks/a") && text.contains("exit 7"), "{text}");
    let missing = server.cli(&["show", "9"]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(stderr(&missing).contains("event 9"), "{}", stderr(&missing));
}

#[test]
fn retry_queues_dead_jobs_and_rejects_succeeded_ones() {
    let server = server_with_three_events();
    let rejected = server.cli(&["retry", "1", "2"]);
    assert_eq!(rejected.status.code(), Some(1));
    assert!(stderr(&rejected).contains("job 2: it has succeeded"), "{}", stderr(&rejected));
    let retried = server.cli(&["retry", "--state", "dead", "--yes"]);
    assert_eq!(stdout(&retried), "retried 2 jobs\n");
    server.until("select count(*) from outcomes where attempt = 2", "2");
    assert_eq!(
        server.value("select action || ' ' || jobs || ' ' || via from audit_log"),
        "retry 2 cli"
    );
    let missing = server.cli(&["retry", "77"]);
    assert_eq!(missing.status.code(), Some(1));
}

#[test]
fn cancel_dismisses_dead_jobs_and_cancels_queued_ones() {
    let server = server_with_three_events();
    assert!(server.cli(&["pause", "h"]).status.success());
    server.post("/hooks/a", "four");
    assert_eq!(
        stdout(&server.cli(&["cancel", "--all", "--yes", "--reason", "test"])),
        "cancelled 3 jobs\n"
    );
    assert!(server.cli(&["resume", "h"]).status.success());
    assert_eq!(server.value("select group_concat(state) from jobs"), "5,3,5,5");
    assert_eq!(server.column("select distinct reason from jobs where state = 5"), ["test"]);
    assert_eq!(server.value("select count(*) from trail where settled_at is null"), "0");
}

#[test]
fn retry_works_while_the_server_is_stopped() {
    let mut server = server_with_three_events();
    assert_eq!(server.stop(), Some(0));
    assert_eq!(stdout(&server.cli(&["retry", "1"])), "retried 1 job\n");
    server.start();
    server.until("select outcome from outcomes where job = 1 and attempt = 2", "failed");
}

#[test]
fn run_runs_a_handler_in_the_foreground_and_records_nothing() {
    let server = scenario().source("a", "").handler("h", "paused = true", "cat; exit 3").start();
    server.post("/hooks/a", "the body");
    let run = server.cli(&["run", "h", "1"]);
    assert_eq!((run.status.code(), stdout(&run).as_str()), (Some(1), "the body"));
    assert!(stderr(&run).contains("failed: exit 3"), "{}", stderr(&run));
    assert_eq!(server.value("select count(*) from outcomes"), "0");
}

#[test]
fn run_and_eval_reject_options_that_do_not_apply() {
    let server = scenario()
        .source("a", "")
        .handler("items", "split = '.[]'\npaused = true", "cat")
        .handler("whole", "paused = true", "cat")
        .start();
    server.post("/hooks/a", "[7,8]");
    let item = server.cli(&["run", "items", "1", "--item", "2"]);
    assert_eq!((item.status.code(), stdout(&item).as_str()), (Some(0), "8"));
    for (args, code, expected) in [
        (&["run", "items", "1", "--item", "3"][..], 1, "item 3: handler items makes 2 items"),
        (&["run", "items", "1", "--item", "0"], 1, "item 0: "),
        (&["run", "whole", "1", "--item", "1"], 2, "--item does not apply: handler whole"),
        (&["eval", ".", "1", "--content-type", "text/plain"], 2, "--content-type does not apply"),
    ] {
        let output = server.cli(args);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(expected), "{args:?}: {}", stderr(&output));
        assert_eq!(stdout(&output), "", "{args:?}");
    }
}

#[test]
fn rejections_are_listed_and_tailed_with_the_columns_of_the_view() {
    let server = scenario().source("a", "").start();
    assert_eq!(server.post("/hooks/unknown", "x").status, 404);
    server.until("select count(*) from rejections", "1");
    for args in [["tail", "--rejected", "--json"], ["list", "--rejected", "--json"]] {
        let rejections = server.json_lines(&args);
        let columns = "id at source method path remote_ip status reason bytes count";
        assert_eq!(keys(&rejections[0]), sorted(columns), "{args:?}");
        assert_eq!(rejections[0]["status"], 404, "{args:?}");
    }
}

#[test]
fn tail_follows_new_outcomes() {
    let server = scenario().source("a", "").handler("h", "", "true").start();
    let mut tail = server.start_cli(&["tail", "-f", "--json"], std::process::Stdio::piped());
    server.post("/hooks/a", "x");
    let mut line = String::new();
    let output = tail.0.stdout.take().expect("the stdout");
    std::io::BufRead::read_line(&mut std::io::BufReader::new(output), &mut line).expect("a line");
    let outcome: Value = serde_json::from_str(&line).expect("an object");
    assert_eq!(outcome["outcome"], "succeeded");
}

#[test]
fn the_example_request_in_the_log_works_in_a_shell() {
    for accept in ["any", "json", "form"] {
        let server = scenario().source("a", &format!("accept = \"{accept}\"")).start();
        until("the log has the line", || server.log().contains("to try it: "));
        let log = server.log();
        let line = log.lines().find_map(|line| line.split_once("to try it: ")).expect("the line").1;
        let response = std::process::Command::new("sh").args(["-c", line]).output().expect("sh");
        assert_eq!(stdout(&response), r#"{"event":1}"#, "{accept}");
    }
}

#[test]
fn check_and_serve_warn_of_white_space_in_a_secret_and_check_fails_without_one() {
    let verify = "verify = { scheme = \"github\", secret = { file = \"secret\" } }";
    let scenario = scenario().source("a", verify);
    scenario.write_file("secret", "hush-hush \n");
    let server = scenario.start();
    let warning = "sources.a.verify.secret: file secret begins or ends with white space";
    let warning =
        warning.replace("file secret", &format!("file {}", server.path().join("secret").display()));
    until("the log warns", || server.log().contains(&warning));
    let checked = server.cli(&["check"]);
    assert!(stdout(&checked).contains(&format!("{warning}, ")), "{}", stdout(&checked));
    assert_eq!(checked.status.code(), Some(0));
    assert!(!stdout(&checked).contains("hush") && !server.log().contains("hush"));
    std::fs::remove_file(server.path().join("secret")).expect("the file is removed");
    let checked = server.cli(&["check"]);
    assert_eq!(checked.status.code(), Some(78));
    assert!(
        stderr(&checked).contains("secret can't be read: No such file"),
        "{}",
        stderr(&checked)
    );
}

#[test]
fn invisible_characters_are_escaped_in_the_output_of_show() {
    let server = scenario().source("open", "").start();
    let header = "X-H: \u{9b}2J\u{2066}\u{200b}";
    let sent = server.request("POST", "/hooks/open", header, "b\u{202e}\u{1b}[2J".as_bytes());
    assert_eq!(sent.status, 202);
    let hidden =
        |text: &str| text.contains(['\u{202e}', '\u{200b}', '\u{9b}', '\u{2066}', '\u{1b}']);
    for args in [&["show", "1"][..], &["show", "1", "--json"]] {
        let printed = stdout(&server.cli(args));
        assert!(!hidden(&printed) && printed.contains("202e"), "{args:?}: {printed}");
    }
    // `--body` prints the exact bytes, except on a terminal.
    let body = server.cli(&["show", "1", "--body"]).stdout;
    assert_eq!(body, "b\u{202e}\u{1b}[2J".as_bytes());
    let command = format!("{} show 1 --body", HOOKTRAIL);
    let on_terminal = std::process::Command::new("script")
        .args(["-qec", &command, "/dev/null"])
        .current_dir(server.path())
        .env_remove("HOOKTRAIL_CONFIG")
        .output()
        .expect("script, of util-linux");
    let printed = stdout(&on_terminal);
    assert!(printed.contains("b\\u{202e}\\u{1b}[2J"), "{printed:?}");
}

#[test]
fn the_audit_log_has_the_user_name_that_the_environment_cannot_change() {
    let server = scenario().source("a", "").handler("h", "", "true").start();
    let pause = |verb: &str, sudo_user: Option<&str>| {
        let mut command = Command::new(HOOKTRAIL);
        command.args([verb, "h"]).current_dir(server.path()).env_remove("SUDO_USER");
        command.env("USER", "mallory").env("LOGNAME", "mallory");
        command.envs(sudo_user.map(|name| ("SUDO_USER", name)));
        assert!(command.output().expect("the command").status.success());
    };
    pause("pause", None);
    pause("resume", Some("anna"));
    let output = Command::new("id").arg("-un").output().expect("id, of coreutils");
    let user = stdout(&output).trim().to_owned();
    let who = server.column("select who from audit_log order by id");
    assert_eq!(who, [user.clone(), format!("{user} (sudo from anna)")]);
}
