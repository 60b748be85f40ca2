//! Tests of stream processes: valid exchanges here, errors in the submodules.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use super::*;
use crate::handler::tests::{Harness, command_of};
use crate::test_support::{process_exists, until};

mod idle;
mod protocol_errors;
mod termination;

type StreamHarness = Harness<StreamRunner>;

/// A handler whose processes run `script` for each line. `$job` is the number of the job, and `ok`
/// responds.
fn handler_per_line(script: &str) -> StreamHarness {
    handler_script(&format!("while read -r line; do of_line; {script}\ndone"))
}

/// A handler whose processes run this script.
fn handler_script(script: &str) -> StreamHarness {
    Harness::new(script, StreamRunner::new)
}

impl StreamHarness {
    fn body(mut self, bytes: &[u8]) -> Self {
        self.body = Arc::from(bytes);
        self
    }

    fn write(&self, name: &str) {
        std::fs::write(self.path().join(name), "").unwrap();
    }

    /// Runs a job.
    fn run(&self, job: i64) -> AttemptResult {
        self.runner.run(&self.task(job), &self.stop)
    }

    /// Runs a job that must succeed, and returns the id of the process that ran it.
    #[track_caller]
    fn process_of(&self, job: i64) -> String {
        let result = self.run(job);
        assert_eq!(result.outcome, Outcome::Succeeded, "{}", result.detail);
        result.detail
    }

    #[track_caller]
    fn check(&self, job: i64, outcome: Outcome, detail: &str) {
        let result = self.run(job);
        assert_eq!((result.outcome, result.detail.as_str()), (outcome, detail));
    }
}

#[test]
fn one_process_runs_consecutive_jobs() {
    let harness = handler_per_line("echo $job >> jobs; ok");
    let processes: Vec<String> = (1..=20).map(|job| harness.process_of(job)).collect();
    assert!(processes.iter().all(|pid| *pid == processes[0]), "{processes:?}");
    let jobs: Vec<String> = (1..=20).map(|job: i64| job.to_string()).collect();
    assert_eq!(harness.file("jobs").lines().collect::<Vec<_>>(), jobs);
}

#[test]
fn concurrent_jobs_run_in_separate_processes_that_are_reused() {
    let harness = handler_per_line(": > $job; until [ -e go ]; do sleep 0.01; done; ok");
    let at_once = |jobs: std::ops::Range<i64>| -> Vec<String> {
        let harness = &harness;
        std::thread::scope(|scope| {
            let runs: Vec<_> =
                jobs.clone().map(|job| scope.spawn(move || harness.process_of(job))).collect();
            until("all jobs have started", || {
                jobs.clone().all(|job| harness.path().join(job.to_string()).exists())
            });
            harness.write("go");
            let mut results: Vec<_> = runs.into_iter().map(|run| run.join().unwrap()).collect();
            results.sort();
            results
        })
    };
    let first = at_once(1..4);
    assert!(first[0] != first[1] && first[1] != first[2], "{first:?}");
    std::fs::remove_file(harness.path().join("go")).unwrap();
    assert_eq!(at_once(4..7), first);
    // The process that was used last is reused first.
    let last = harness.process_of(7);
    assert_eq!(harness.process_of(8), last);
}

#[test]
fn a_response_decides_the_outcome() {
    use Outcome::{Deferred, Failed, Succeeded};
    let check = |response: &str, expected: (Outcome, bool, &str), wait: Option<u64>| {
        let harness = handler_per_line(&format!(
            "echo 'why' >&2; printf '%s\n' '{{\"job\":'$job',{response}}}'"
        ));
        let result = harness.run(7);
        assert_eq!(
            (result.outcome, result.is_permanent, result.detail.as_str()),
            expected,
            "{response}"
        );
        assert_eq!(result.retry_after, wait.map(Duration::from_secs), "{response}");
        assert_eq!((result.stdout, result.stderr), (vec![], b"why\n".to_vec()));
    };
    check(r#""outcome":"succeeded""#, (Succeeded, false, "answered: why"), None);
    check(r#""outcome":"failed""#, (Failed, false, "answered: why"), None);
    check(r#""outcome":"dead","detail":"no such""#, (Failed, true, "no such"), None);
    check(r#""outcome":"deferred""#, (Deferred, false, "answered: why"), None);
    let later = r#""outcome":"deferred","detail":"busy\n","retry_after":"10m""#;
    check(later, (Deferred, false, "busy"), Some(600));
    let later = r#""outcome":"failed","detail":"busy","retry_after":90"#;
    check(later, (Failed, false, "busy"), Some(90));
    let soon = r#""outcome":"failed","detail":"busy","retry_after":"soon""#;
    check(soon, (Failed, false, "busy: retry_after is not a duration: \"soon\""), None);
    // Unknown fields are ignored.
    let more = r#""outcome":"succeeded","detail":{"id":17},"retry_after":"1s","more":[]"#;
    check(more, (Succeeded, false, "{\"id\":17}"), None);
    let null = r#""outcome":"succeeded","detail":null,"retry_after":null"#;
    check(null, (Succeeded, false, "answered: why"), None);
}

#[test]
fn a_response_may_have_white_space_and_arrive_in_parts() {
    let response = r#"{ "outcome" : "succeeded" , "job" : %s }"#;
    let harness =
        handler_per_line(&format!("printf '\\n{response}\\r\\n\\r\\n\\n' $job; : > done"));
    for job in 1..4 {
        harness.check(job, Outcome::Succeeded, "answered");
    }
    let harness = handler_per_line(
        "printf '{\"job\":'; sleep 0.02; printf $job',\"outcome\"'; sleep 0.02
                      echo ':\"succeeded\"}'",
    );
    harness.check(1, Outcome::Succeeded, "answered");
}

#[test]
fn a_job_is_one_line_whatever_its_body_is() {
    let body = format!("{{\"a\":\r\n[1,\n{:?}]}}\n", "x".repeat(200_000));
    let harness =
        handler_per_line("printf %s \"$line\" | wc -c >> sizes; ok").body(body.as_bytes());
    harness.process_of(1);
    harness.process_of(2);
    let size = job_line::encode(&harness.task(1)).len() - 1;
    assert_eq!(harness.file("sizes"), format!("{size}\n{size}\n"));
}

#[test]
fn a_process_gets_the_handlers_environment_without_event_variables() {
    let harness =
        handler_per_line("env | grep -E '^(HOOKTRAIL|CRM)' | sort > env; pwd -P > pwd; ok");
    let mut task = harness.task(7);
    task.env = Arc::new([("CRM_KEY".to_owned(), "a secret".into())]);
    assert_eq!(harness.runner.run(&task, &harness.stop).outcome, Outcome::Succeeded);
    let env = harness.file("env");
    let lines: Vec<&str> = env.lines().collect();
    assert_eq!(lines[..2], ["CRM_KEY=a secret", "HOOKTRAIL_HANDLER=crm"]);
    let run_id = format!("HOOKTRAIL_RUN_ID={}", task.supervisor.run_id("stream."));
    assert!(lines.len() == 3 && lines[2].starts_with(&run_id), "{env}");
    assert_eq!(Path::new(harness.file("pwd").trim_end()), harness.path().canonicalize().unwrap());
}

#[test]
fn stderr_is_kept_with_the_job_that_the_process_held() {
    let mut harness = handler_per_line("echo job $job >&2; ok");
    harness.handler.max_output_bytes = 6;
    assert_eq!(harness.run(1).stderr, b"job 1\n");
    assert_eq!(harness.run(22).stderr, b"ob 22\n");
}

#[test]
fn stderr_after_a_response_is_kept_with_the_next_job_but_not_in_its_detail() {
    let harness = handler_per_line(
        "if [ $job = 2 ]; then exit 7; fi; ok; until [ -e go ]; do sleep 0.01; done
         echo late >&2; : > late",
    );
    harness.process_of(1);
    // If the process wrote earlier, the output would belong to the first job.
    std::fs::write(harness.path().join("go"), "").unwrap();
    until("it wrote its output", || harness.path().join("late").exists());
    let result = harness.run(2);
    assert_eq!((result.detail.as_str(), result.stderr), ("exit 7", b"late\n".to_vec()));
}

#[test]
fn a_heartbeat_restarts_the_timeout_and_other_control_lines_are_shown() {
    let harness = handler_per_line(
        "for i in 1 2 3 4 5 6 7 8; do sleep 0.3; echo '{\"alive\":true}' >&3; done
         echo 8 rows >&3; ok",
    );
    let result = harness.timeout_ms(1500).run(1);
    assert_eq!(result.outcome, Outcome::Succeeded, "{}", result.detail);
    assert!(result.detail.ends_with(": 8 rows"), "{}", result.detail);
}
