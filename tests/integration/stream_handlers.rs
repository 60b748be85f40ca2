//! Handlers of `mode = "stream"`: their processes over jobs, reloads, cancellations and the end of the
//! server.

use rustix::process::Signal;

use crate::support::server::{Scenario, Server, is_alive, scenario, stderr, until};

/// Answers each job, and writes its process ID into a file.
const ANSWERING_SCRIPT: &str = r#"echo $$ >> pids
while read -r line; do
  job=${line#*\"job\":}; job=${job%%,*}
  echo "$job" >> seen
  case $line in *hang*) : > hangs; sleep 1000;; esac
  echo "{\"job\":$job,\"outcome\":\"succeeded\",\"detail\":\"well\"}"
done"#;

fn streaming(keys: &str) -> Scenario {
    scenario().source("a", "").handler("h", &format!("mode = \"stream\"\n{keys}"), ANSWERING_SCRIPT)
}

pub fn pids(server: &Server) -> Vec<String> {
    server.read_file("pids").lines().map(str::to_owned).collect()
}

pub fn wait_for_successes(server: &Server, count: usize) {
    let sql = "select count(*) from outcomes where outcome = 'succeeded'";
    server.until(sql, &count.to_string());
}

#[test]
fn a_stream_process_runs_many_jobs_and_survives_a_reload() {
    let mut server = streaming("concurrency = 1").start();
    for n in 0..5 {
        server.post("/hooks/a", format!("{{\"n\":{n}}}"));
    }
    wait_for_successes(&server, 5);
    server.reload_with("[sources.b]");
    server.until_reloads(1);
    server.post("/hooks/a", "{}");
    wait_for_successes(&server, 6);
    assert_eq!(pids(&server).len(), 1, "{:?}", pids(&server));
    assert_eq!(server.value("select distinct detail from outcomes"), "well");
}

#[test]
fn a_reload_with_other_settings_replaces_a_stream_process() {
    let mut server = streaming("concurrency = 1").start();
    server.post("/hooks/a", "{}");
    wait_for_successes(&server, 1);
    server.replace_in_config("concurrency = 1", "timeout = \"9s\"");
    server.signal(Signal::HUP);
    server.until_reloads(1);
    server.post("/hooks/a", "{}");
    wait_for_successes(&server, 2);
    let pids = pids(&server);
    assert_eq!(pids.len(), 2);
    until("the old process has ended", || !is_alive(&pids[0]));
}

#[test]
fn a_reload_after_a_changed_program_replaces_a_stream_process() {
    let server = streaming("concurrency = 1").start();
    server.post("/hooks/a", "{}");
    wait_for_successes(&server, 1);
    server.write_file(
        "h.sh",
        &format!("#!/bin/sh\n{}\n", ANSWERING_SCRIPT.replace("well", "better")),
    );
    server.signal(Signal::HUP);
    server.until_reloads(1);
    server.post("/hooks/a", "{}");
    wait_for_successes(&server, 2);
    assert_eq!(server.column("select detail from outcomes order by id"), ["well", "better"]);
    until("the old process has ended", || !is_alive(&pids(&server)[0]));
}

#[test]
fn a_stop_waits_for_stubborn_processes_while_intake_continues() {
    let stubborn =
        format!("trap '' TERM\n{ANSWERING_SCRIPT}\n: > end; while :; do sleep 0.1; done");
    let mut server =
        scenario().source("a", "").handler("h", "mode = \"stream\"", &stubborn).start();
    server.post("/hooks/a", "{}");
    wait_for_successes(&server, 1);
    server.signal(Signal::TERM);
    until("the input of the process has ended", || server.path().join("end").exists());
    assert_eq!(server.post("/hooks/a", "{}").status, 202);
    assert_eq!(server.wait_for_exit(), Some(0));
    assert!(pids(&server).iter().all(|pid| !is_alive(pid)));
}

#[test]
fn a_cancelled_job_ends_its_stream_process_and_all_children() {
    let script = format!("setsid sh -c 'echo $$ >> pids; exec sleep 1000' &\n{ANSWERING_SCRIPT}");
    let server = scenario().source("a", "").handler("h", "mode = \"stream\"", &script).start();
    server.post("/hooks/a", "\"hang\"");
    until("the handler hangs", || server.path().join("hangs").exists());
    until("both processes run", || pids(&server).len() == 2);
    assert!(server.cli(&["cancel", "1"]).status.success());
    server.until("select outcome || ' ' || job_state from outcomes", "interrupted cancelled");
    assert!(pids(&server).iter().all(|pid| !is_alive(pid)));
}

#[test]
fn run_runs_a_stream_handler_in_the_foreground_and_ends_its_process() {
    let mut server = streaming("").start();
    server.post("/hooks/a", "{}");
    wait_for_successes(&server, 1);
    assert_eq!(server.stop(), Some(0));
    let run = server.cli(&["run", "h", "1"]);
    assert_eq!(stderr(&run), "succeeded: well\n");
    assert!(pids(&server).len() == 2 && pids(&server).iter().all(|pid| !is_alive(pid)));
}

#[test]
fn a_stop_ends_stream_processes() {
    let mut server = streaming("").start();
    server.post("/hooks/a", "{}");
    wait_for_successes(&server, 1);
    assert_eq!(server.stop(), Some(0));
    assert!(pids(&server).iter().all(|pid| !is_alive(pid)));
}

#[test]
fn orphans_of_a_killed_server_end_and_succeeded_jobs_are_not_retried() {
    let mut server = streaming("concurrency = 1").start();
    server.post("/hooks/a", "{}");
    wait_for_successes(&server, 1);
    server.post("/hooks/a", "\"hang\"");
    until("the handler hangs", || server.path().join("hangs").exists());
    server.kill();
    let orphans = pids(&server);
    server.start();
    assert!(orphans.iter().all(|pid| !is_alive(pid)), "orphans end before any job runs");
    server.until("select outcome from outcomes where job = 2", "interrupted");
    until("the job is retried", || server.read_file("seen").lines().count() == 3);
    assert_eq!(server.read_file("seen"), "1\n2\n2\n");
    let cancelled = server.cli(&["cancel", "2"]);
    assert!(cancelled.status.success());
    server.until(
        "select job_state from outcomes where job = 2 order by id desc limit 1",
        "cancelled",
    );
}

#[test]
fn an_answer_for_another_job_fails_the_job_and_replaces_the_process() {
    let script = r#"echo $$ >> pids
read -r line
if [ -e once ]; then echo '{"job":1,"outcome":"succeeded"}'; else : > once; echo '{"job":77,"outcome":"succeeded"}'; fi
read -r line"#;
    let keys = "mode = \"stream\"\nretry = { initial_delay = \"10ms\" }";
    let server = scenario().source("a", "").handler("h", keys, script).start();
    server.post("/hooks/a", "{}");
    wait_for_successes(&server, 1);
    assert_eq!(server.column("select outcome from outcomes order by id"), ["failed", "succeeded"]);
    assert_eq!(pids(&server).len(), 2);
}

/// The text between two marks in docs/handlers.md, after a heading.
fn documented(heading: &str, open: &str, close: &str) -> String {
    let page = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/handlers.md");
    let page = std::fs::read_to_string(page).expect("the page");
    let rest = page.split(heading).nth(1).and_then(|rest| rest.split(open).nth(1));
    rest.and_then(|rest| rest.split(close).next()).expect("the example").to_owned()
}

/// A server with the handler that a section of docs/handlers.md shows.
pub fn documented_handler(section: &str, language: &str, program: &str) -> Server {
    let config = documented(section, "```toml\n", "```").replace("\"paminga\"", "\"a\"");
    let scenario = scenario().source("a", "").raw_config(&config.replace("\"5s\"", "\"50ms\""));
    for name in ["handlers", "data"] {
        std::fs::create_dir(scenario.path().join(name)).expect("a folder");
    }
    scenario.write_file(program, &documented(section, &format!("```{language}\n"), "```"));
    scenario.start()
}

#[test]
fn the_documented_stream_handler_works() {
    let server = documented_handler("## Mode `stream`", "python", "handlers/contacts.py");
    server.post("/hooks/a", "{\n\"id\": 1}");
    server.post("/hooks/a", "not JSON");
    server.until("select count(*) from outcomes", "2");
    let found = server.column(
        "select outcome || ' ' || job_state || ': ' || detail from outcomes o order by job",
    );
    assert_eq!(found, ["succeeded succeeded: stored", "failed dead: not a form"]);
    let contacts =
        rusqlite::Connection::open(server.path().join("data/contacts.db")).expect("contacts");
    let body: String =
        contacts.query_row("select body from contacts", [], |row| row.get(0)).expect("a contact");
    assert_eq!(body, "{\"id\": 1}");
}

#[test]
fn node_readline_reads_one_line_for_each_job() {
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
