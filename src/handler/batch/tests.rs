//! Tests of batches: responses, exit codes and protocol errors.

use std::time::Instant;

use super::*;
use crate::handler::tests::{Harness, command_of};
use crate::test_support::{process_exists, until};

type BatchHarness = Harness<BatchRunner>;

/// A handler whose process runs this script.
fn handler_script(script: &str) -> BatchHarness {
    Harness::new(script, |_| BatchRunner::default())
}

/// A handler whose process runs `script` for each line. `$job` is the number of the job.
fn handler_per_line(script: &str) -> BatchHarness {
    handler_script(&format!("while read -r line; do of_line; {script}\ndone"))
}

impl BatchHarness {
    fn tasks(&self, count: i64) -> Vec<Task> {
        (1..=count).map(|job| self.task(job)).collect()
    }

    /// Runs jobs 1 to `count` and returns their results in the order of the jobs.
    #[track_caller]
    fn run(&self, count: i64) -> Vec<AttemptResult> {
        let tasks = self.tasks(count);
        let mut results = vec![None; tasks.len()];
        self.runner.run_all(&tasks, &self.stop, &mut |index, result| {
            assert!(results[index].replace(result).is_none(), "job {} ended twice", index + 1);
        });
        results.into_iter().map(|result| result.expect("each job ends")).collect()
    }

    /// Compares the results as text: `succeeded`, `failed: detail` and so on. Permanent failures
    /// have a `!`.
    #[track_caller]
    fn check(&self, expected: &[&str]) {
        let shown = |result: AttemptResult| match (result.outcome, result.is_permanent) {
            (Outcome::Succeeded, _) => "succeeded".to_owned(),
            (outcome, dead) => {
                format!("{}{}: {}", outcome.name(), if dead { "!" } else { "" }, result.detail)
            }
        };
        let found: Vec<String> = self.run(expected.len() as i64).into_iter().map(shown).collect();
        assert_eq!(found, expected);
    }
}

#[test]
fn the_input_is_one_line_for_each_job() {
    let harness = handler_script("cat > got; echo end >> got");
    harness.check(&["succeeded"; 3]);
    let lines: Vec<Vec<u8>> = harness.tasks(3).iter().map(job_line::encode).collect();
    assert_eq!(harness.file("got").into_bytes(), [lines.concat(), b"end\n".to_vec()].concat());
}

#[test]
fn input_larger_than_a_pipe_arrives_complete() {
    let mut harness = handler_script("wc -c > size");
    harness.body = format!("{:?}", "x".repeat(100_000)).into_bytes().into();
    harness.check(&["succeeded"; 50]);
    let size: usize = harness.tasks(50).iter().map(|task| job_line::encode(task).len()).sum();
    assert_eq!(harness.file("size").trim(), size.to_string());
}

#[test]
fn each_job_has_the_outcome_of_its_response() {
    let harness = handler_per_line(
        "case $job in 2) set failed;; 3) set dead;; 4) set deferred;; *) set succeeded;; esac
         echo \"{\\\"job\\\":$job,\\\"outcome\\\":\\\"$1\\\",\\\"detail\\\":\\\"x\\\"}\"",
    );
    let expected = ["succeeded", "failed: x", "failed!: x"];
    harness.check(&[&expected[..], &["deferred: x", "succeeded"]].concat());
}

#[test]
fn responses_may_arrive_in_any_order() {
    let harness = handler_script(
        "while read -r line; do of_line; all=\"$job $all\"; done; for job in $all; do ok; done",
    );
    harness.check(&["succeeded"; 20]);
}

#[test]
fn jobs_without_a_response_follow_the_exit_code() {
    for (exit, unanswered) in [
        ("exit 0", "succeeded"),
        ("exit 65", "failed!: exit 65: why"),
        ("exit 75", "failed: exit 75: why"),
        ("exit 7", "failed: exit 7: why"),
        ("kill -KILL $$", "failed: signal 9: why"),
    ] {
        let harness = handler_script(&format!("cat > got; job=2; ok; echo why >&2; {exit}"));
        harness.check(&[unanswered, "succeeded", unanswered]);
        // The process need not read its input.
        handler_script(&format!("echo why >&2; {exit}")).check(&[unanswered; 3]);
    }
}

#[test]
fn stderr_is_kept_with_the_jobs_that_did_not_succeed() {
    let harness =
        handler_script("echo one >&2; job=1; ok; job=2; answer failed; cat > got; exit 7");
    let stderr: Vec<Vec<u8>> = harness.run(3).into_iter().map(|result| result.stderr).collect();
    assert_eq!(stderr, [b"".to_vec(), b"one\n".to_vec(), b"one\n".to_vec()]);
}

#[test]
fn a_response_is_reported_while_the_process_still_runs() {
    let harness = handler_script("job=1; ok; until [ -e go ]; do sleep 0.01; done; job=2; ok");
    let tasks = harness.tasks(2);
    let mut result = Vec::new();
    harness.runner.run_all(&tasks, &harness.stop, &mut |index, how| {
        std::fs::write(harness.folder.path().join("go"), "").unwrap();
        result.push((index, how.outcome));
    });
    assert_eq!(result, [(0, Outcome::Succeeded), (1, Outcome::Succeeded)]);
}

#[test]
fn at_a_timeout_jobs_with_a_response_keep_their_outcome() {
    let harness = handler_script(
        "job=2; ok; echo stuck >&2; trap 'job=1; ok; exit 0' TERM
                       while :; do sleep 0.01; done",
    );
    let result = harness.timeout_ms(500).run(3);
    let outcomes: Vec<Outcome> = result.iter().map(|result| result.outcome).collect();
    assert_eq!(outcomes, [Outcome::TimedOut, Outcome::Succeeded, Outcome::TimedOut]);
    assert!(result[0].detail.starts_with("timeout 500ms: "), "{}", result[0].detail);
}

#[test]
fn a_process_that_never_reads_its_input_times_out() {
    let mut harness = handler_script("exec sleep 1000").timeout_ms(300);
    harness.body = format!("{:?}", "x".repeat(100_000)).into_bytes().into();
    harness.check(&["timed_out: timeout 300ms"; 3]);
}

#[test]
fn a_heartbeat_restarts_the_timeout() {
    let script = "for i in 1 2 3 4 5 6 7 8; do sleep 0.3; echo '{\"alive\":true}' >&3; done";
    handler_script(script).timeout_ms(1500).check(&["succeeded"; 2]);
}

#[test]
fn a_protocol_error_fails_the_jobs_without_a_response() {
    for (response, reason) in [
        ("echo COPY 3", "wrote a line that is not a response: COPY 3"),
        ("job=4; ok", "answered for job 4, which it does not hold"),
        ("job=2; ok", "answered twice for job 2"),
        ("tr '\\0' x < /dev/zero", "wrote a line of over 1 MiB"),
    ] {
        let harness =
            handler_script(&format!("echo $$ > pid; job=2; ok; {response}; exec sleep 1000"));
        let reason = format!("failed: {reason}");
        harness.check(&[&reason, "succeeded", &reason]);
        assert!(!process_exists(&harness.file("pid")), "{response}: it goes on");
    }
}

#[test]
fn the_last_response_may_lack_its_newline() {
    handler_script("cat > got; job=1; printf %s \"$(ok)\"; exit 7")
        .check(&["succeeded", "failed: exit 7"]);
    let torn = "failed: wrote a line that is not a response: {\"job\":1,";
    handler_script("cat > got; printf '{\"job\":1,'; exit 0").check(&[torn, torn]);
}

#[test]
fn a_process_that_responded_for_all_jobs_is_killed_after_its_grace() {
    let began = Instant::now();
    let mut harness =
        handler_per_line("ok; [ $job != 2 ] || { trap '' TERM; while :; do sleep 0.01; done; }");
    harness.runner.grace = Duration::from_millis(300);
    harness.check(&["succeeded"; 2]);
    assert!(began.elapsed() >= Duration::from_millis(300), "{:?}", began.elapsed());
}

#[test]
fn a_cancelled_batch_is_killed_and_jobs_without_a_response_are_interrupted() {
    let harness = handler_script(
        "job=1; ok; setsid sh -c 'echo $$ >> pids; exec sleep 1000' & echo $$ >> pids
         until [ $(wc -l < pids) = 2 ]; do sleep 0.01; done; : > up; wait",
    );
    let outcomes = std::thread::scope(|scope| {
        let run = scope.spawn(|| harness.run(2));
        until("it runs", || harness.folder.path().join("up").exists());
        harness.stop.cancel();
        run.join().unwrap().into_iter().map(|result| result.outcome).collect::<Vec<_>>()
    });
    assert_eq!(outcomes, [Outcome::Succeeded, Outcome::Interrupted]);
    assert!(!harness.file("pids").lines().any(process_exists));
    harness.check(&["interrupted: stopped"; 2]);
}

#[test]
fn a_command_that_can_not_be_started_fails_each_job() {
    let mut harness = handler_script("");
    command_of(&mut harness.handler).args = vec!["/no/such/program".into()];
    harness.check(&["failed: not started: /no/such/program: there is no such file"; 2]);
}

#[test]
fn a_batch_may_have_one_job() {
    let harness = handler_script("cat > got; exit 65");
    let result = harness.runner.run(&harness.tasks(1)[0], &harness.stop);
    assert_eq!((result.outcome, result.is_permanent), (Outcome::Failed, true));
}
