//! Streams and batches in the real server: processes that stay, and what becomes of them when the
//! configuration is read again, and when the server ends.

use rustix::process::Signal;

use crate::support::server::{Scenario, Server, is_alive, scenario};

/// Answers each line, and writes down its own number.
const ANSWERS: &str = r#"echo $$ >> pids
while read -r line; do
  job=${line#*\"job\":}; job=${job%%,*}
  echo "$job" >> seen
  case $line in *hang*) : > hangs; sleep 1000;; esac
  echo "{\"job\":$job,\"outcome\":\"succeeded\",\"detail\":\"well\"}"
done"#;

fn streaming(keys: &str) -> Scenario {
    scenario().source("a", "").handler("h", &format!("mode = \"stream\"\n{keys}"), ANSWERS)
}

fn pids(server: &Server) -> Vec<String> {
    server.text_of("pids").lines().map(str::to_owned).collect()
}

fn succeeded(server: &Server, count: usize) {
    let sql = "select count(*) from outcomes where outcome = 'succeeded'";
    server.until(sql, &count.to_string());
}

#[test]
fn one_process_answers_job_after_job_and_stays_when_the_configuration_is_read_again() {
    let mut server = streaming("concurrency = 1").start();
    for n in 0..5 {
        server.post("/hooks/a", format!("{{\"n\":{n}}}"));
    }
    succeeded(&server, 5);
    server.reload_with("[sources.b]");
    server.until("select count(*) from audit_log where action = 'reload'", "1");
    server.post("/hooks/a", "{}");
    succeeded(&server, 6);
    assert_eq!(pids(&server).len(), 1, "{:?}", pids(&server));
    assert_eq!(server.value("select distinct detail from outcomes"), "well");
}

#[test]
fn other_settings_are_another_process_and_the_old_one_is_ended() {
    let mut server = streaming("concurrency = 1").start();
    server.post("/hooks/a", "{}");
    succeeded(&server, 1);
    *server.config() = server.config().replace("concurrency = 1", "timeout = \"9s\"");
    server.write_config();
    server.signal(Signal::HUP);
    server.until("select count(*) from audit_log where action = 'reload'", "1");
    server.post("/hooks/a", "{}");
    succeeded(&server, 2);
    let pids = pids(&server);
    assert_eq!(pids.len(), 2);
    crate::support::server::until("the old one has ended", || !is_alive(&pids[0]));
}

#[test]
fn a_changed_program_takes_the_place_of_the_old_one_when_the_configuration_is_read_again() {
    let server = streaming("concurrency = 1").start();
    server.post("/hooks/a", "{}");
    succeeded(&server, 1);
    server.file("h.sh", &format!("#!/bin/sh\n{}\n", ANSWERS.replace("well", "better")));
    server.signal(Signal::HUP);
    server.until("select count(*) from audit_log where action = 'reload'", "1");
    server.post("/hooks/a", "{}");
    succeeded(&server, 2);
    assert_eq!(server.list("select detail from outcomes order by id"), ["well", "better"]);
    crate::support::server::until("the old one has ended", || !is_alive(&pids(&server)[0]));
}

#[test]
fn a_stop_waits_for_processes_that_do_not_end_and_intake_goes_on_meanwhile() {
    let stubborn = format!("trap '' TERM\n{ANSWERS}\n: > end; while :; do sleep 0.1; done");
    let mut server =
        scenario().source("a", "").handler("h", "mode = \"stream\"", &stubborn).start();
    server.post("/hooks/a", "{}");
    succeeded(&server, 1);
    server.signal(Signal::TERM);
    crate::support::server::until("its input has ended", || server.path().join("end").exists());
    assert_eq!(server.post("/hooks/a", "{}").status, 202);
    assert_eq!(server.ended(), Some(0));
    assert!(pids(&server).iter().all(|pid| !is_alive(pid)));
}

#[test]
fn a_cancelled_job_ends_the_process_that_holds_it_and_all_that_it_started() {
    let script = format!("setsid sh -c 'echo $$ >> pids; exec sleep 1000' &\n{ANSWERS}");
    let server = scenario().source("a", "").handler("h", "mode = \"stream\"", &script).start();
    server.post("/hooks/a", "\"hang\"");
    crate::support::server::until("it hangs", || server.path().join("hangs").exists());
    crate::support::server::until("both run", || pids(&server).len() == 2);
    assert!(server.cli(&["cancel", "1"]).status.success());
    server.until("select outcome || ' ' || job_state from outcomes", "interrupted cancelled");
    assert!(pids(&server).iter().all(|pid| !is_alive(pid)));
}

#[test]
fn a_batch_is_ended_with_a_cancelled_job_and_the_others_run_again() {
    let script = "echo $$ >> pids; cat > got; [ -e again ] && exit 0; : > again; exec sleep 1000";
    let keys = "mode = \"batch\"\nbatch_size = 3\nbatch_wait = \"10m\"";
    let server = scenario().source("a", "").handler("h", keys, script).start();
    for _ in 0..3 {
        server.post("/hooks/a", "{}");
    }
    crate::support::server::until("it runs", || server.path().join("again").exists());
    assert!(server.cli(&["cancel", "2"]).status.success());
    server.until("select count(*) from outcomes where outcome = 'interrupted'", "3");
    let other = "job 2 of its batch was cancelled";
    let details = server.list("select detail from outcomes order by job");
    assert_eq!(details, [other, "cancelled", other]);
    server.until("select group_concat(state) from queue_depth", "queued");
    server.post("/hooks/a", "{}");
    succeeded(&server, 3);
    assert_eq!(pids(&server).len(), 2);
}

#[test]
fn an_event_is_tried_on_a_stream_in_the_foreground_and_nothing_is_left() {
    let mut server = streaming("").start();
    server.post("/hooks/a", "{}");
    succeeded(&server, 1);
    assert_eq!(server.stop(), Some(0));
    let run = server.cli(&["run", "h", "1"]);
    assert_eq!(crate::support::server::err(&run), "succeeded: well\n");
    assert!(pids(&server).len() == 2 && pids(&server).iter().all(|pid| !is_alive(pid)));
}

#[test]
fn a_server_that_stops_leaves_no_process() {
    let mut server = streaming("").start();
    server.post("/hooks/a", "{}");
    succeeded(&server, 1);
    assert_eq!(server.stop(), Some(0));
    assert!(pids(&server).iter().all(|pid| !is_alive(pid)));
}

#[test]
fn a_killed_server_ends_what_it_left_and_runs_nothing_again_that_succeeded() {
    let mut server = streaming("concurrency = 1").start();
    server.post("/hooks/a", "{}");
    succeeded(&server, 1);
    server.post("/hooks/a", "\"hang\"");
    crate::support::server::until("it hangs", || server.path().join("hangs").exists());
    server.kill();
    let left = pids(&server);
    server.start();
    assert!(left.iter().all(|pid| !is_alive(pid)), "ended before anything runs again");
    server.until("select outcome from outcomes where job = 2", "interrupted");
    crate::support::server::until("it runs again", || server.text_of("seen").lines().count() == 3);
    assert_eq!(server.text_of("seen"), "1\n2\n2\n");
    let cancelled = server.cli(&["cancel", "2"]);
    assert!(cancelled.status.success());
    server.until(
        "select job_state from outcomes where job = 2 order by id desc limit 1",
        "cancelled",
    );
}

#[test]
fn a_process_that_answers_for_another_job_fails_its_own_and_is_replaced() {
    let script = r#"echo $$ >> pids
read -r line
if [ -e once ]; then echo '{"job":1,"outcome":"succeeded"}'; else : > once; echo '{"job":77,"outcome":"succeeded"}'; fi
read -r line"#;
    let keys = "mode = \"stream\"\nretry = { initial_delay = \"10ms\" }";
    let server = scenario().source("a", "").handler("h", keys, script).start();
    server.post("/hooks/a", "{}");
    succeeded(&server, 1);
    assert_eq!(server.list("select outcome from outcomes order by id"), ["failed", "succeeded"]);
    assert_eq!(pids(&server).len(), 2);
}

/// What stands between these in docs/handlers.md, after `from`.
fn told(from: &str, open: &str, close: &str) -> String {
    let page = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/handlers.md");
    let page = std::fs::read_to_string(page).expect("the page");
    let rest = page.split(from).nth(1).and_then(|rest| rest.split(open).nth(1));
    rest.and_then(|rest| rest.split(close).next()).expect("the example").to_owned()
}

/// A server with the handler that the page shows in this section, in this language.
fn shown(section: &str, language: &str, program: &str) -> Server {
    let config = told(section, "```toml\n", "```").replace("\"paminga\"", "\"a\"");
    let scenario = scenario().source("a", "").with(&config.replace("\"5s\"", "\"50ms\""));
    std::fs::create_dir(scenario.path().join("handlers")).expect("a folder");
    scenario.file(program, &told(section, &format!("```{language}\n"), "```"));
    scenario.start()
}

#[test]
fn the_stream_that_is_shown_runs_as_it_stands() {
    let server = shown("## A process that stays", "python", "handlers/contacts.py");
    server.post("/hooks/a", "{\n\"id\": 1}");
    server.post("/hooks/a", "not JSON");
    server.until("select count(*) from outcomes", "2");
    let found = server
        .list("select outcome || ' ' || job_state || ': ' || detail from outcomes o order by job");
    assert_eq!(found, ["succeeded succeeded: stored", "failed dead: not a form"]);
    let kept = rusqlite::Connection::open(server.path().join("contacts.db")).expect("contacts");
    let body: String =
        kept.query_row("select body from contacts", [], |row| row.get(0)).expect("a contact");
    assert_eq!(body, "{\"id\": 1}");
}

#[test]
fn the_batch_that_is_shown_runs_as_it_stands() {
    let server = shown("## Many jobs at once", "sh", "handlers/import.sh");
    for _ in 0..5 {
        server.post("/hooks/a", "{}");
    }
    succeeded(&server, 5);
    assert_eq!(server.text_of("jobs.ndjson").lines().count(), 5);
}

#[test]
fn nodes_way_of_reading_lines_reads_one_a_job_whatever_its_body_holds() {
    let script = r#"exec node -e '
        const lines = require("readline").createInterface({ input: process.stdin });
        lines.on("line", (line) => {
          const { job, body } = JSON.parse(line);
          const detail = body.map((text) => text.codePointAt(0).toString(16)).join(" ");
          console.log(JSON.stringify({ job, outcome: "succeeded", detail }));
        });'"#;
    let server = scenario().source("a", "").handler("h", "mode = \"stream\"", script).start();
    server.post("/hooks/a", "[\r\n\"\u{2028}\",\n\"\u{2029}\",\"\u{85}\"\r]\n");
    server.until("select outcome || ' ' || detail from outcomes", "succeeded 2028 2029 85");
}
