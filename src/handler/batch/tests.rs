//! Batches: what is answered for, what follows the exit code, and every way to misbehave.

use std::sync::Arc;
use std::time::Instant;

use tempfile::TempDir;

use super::*;
use crate::config;
use crate::domain::JobId;
use crate::handler::tests::{ANSWERS, is_alive, sample, until};
use crate::process::become_subreaper;

/// A handler in the mode `batch`, in a folder of its own.
struct Trial {
    folder: TempDir,
    batch: Batch,
    handler: config::Handler,
    body: Arc<[u8]>,
    stop: CancelToken,
}

/// One whose process runs this script.
fn whole(script: &str) -> Trial {
    become_subreaper().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let task = sample(|handler| {
        handler.command = ["sh", "-c", &format!("{ANSWERS}\n{script}")].map(String::from).to_vec();
        handler.directory = folder.path().to_owned();
    });
    let handler = (*task.handler).clone();
    let (batch, body) = (Batch::default(), task.input);
    Trial { folder, batch, handler, body, stop: CancelToken::new().unwrap() }
}

/// One whose process does this for each line, `$job` being its number.
fn each(script: &str) -> Trial {
    whole(&format!("while read -r line; do of_line; {script}\ndone"))
}

impl Trial {
    fn timeout_ms(mut self, ms: u64) -> Self {
        self.handler.timeout = Duration::from_millis(ms);
        self
    }

    fn tasks(&self, count: i64) -> Vec<Task> {
        let task = |job| {
            let mut task = sample(|handler| *handler = self.handler.clone());
            task.claim.job = JobId(job);
            Task { input: Arc::clone(&self.body), ..task }
        };
        (1..=count).map(task).collect()
    }

    /// Gives it jobs 1 to `count`; how each ended, in the order of the jobs.
    #[track_caller]
    fn run(&self, count: i64) -> Vec<AttemptResult> {
        let tasks = self.tasks(count);
        let mut all = vec![None; tasks.len()];
        self.batch.run_all(&tasks, &self.stop, &mut |at, ended| {
            assert!(all[at].replace(ended).is_none(), "job {} ended twice", at + 1);
        });
        all.into_iter().map(|ended| ended.expect("each job ends")).collect()
    }

    /// `succeeded`, `failed: detail` and so on, dead ones with `!`.
    #[track_caller]
    fn check(&self, expected: &[&str]) {
        let shown = |ended: AttemptResult| match (ended.outcome, ended.is_permanent) {
            (Outcome::Succeeded, _) => "succeeded".to_owned(),
            (outcome, dead) => {
                format!("{}{}: {}", outcome.name(), if dead { "!" } else { "" }, ended.detail)
            }
        };
        let found: Vec<String> = self.run(expected.len() as i64).into_iter().map(shown).collect();
        assert_eq!(found, expected);
    }

    fn file(&self, name: &str) -> String {
        std::fs::read_to_string(self.folder.path().join(name)).unwrap_or_default()
    }
}

#[test]
fn all_jobs_come_as_lines_and_then_the_end_of_the_input() {
    let trial = whole("cat > got; echo end >> got");
    trial.check(&["succeeded"; 3]);
    let lines: Vec<Vec<u8>> = trial.tasks(3).iter().map(job_line::encode).collect();
    assert_eq!(trial.file("got").into_bytes(), [lines.concat(), b"end\n".to_vec()].concat());
}

#[test]
fn more_than_a_pipe_holds_comes_whole() {
    let mut trial = whole("wc -c > size");
    trial.body = format!("{:?}", "x".repeat(100_000)).into_bytes().into();
    trial.check(&["succeeded"; 50]);
    let size: usize = trial.tasks(50).iter().map(|task| job_line::encode(task).len()).sum();
    assert_eq!(trial.file("size").trim(), size.to_string());
}

#[test]
fn each_job_has_the_outcome_that_is_answered_for_it() {
    let trial = each(
        "case $job in 2) set failed;; 3) set dead;; 4) set deferred;; *) set succeeded;; esac
         echo \"{\\\"job\\\":$job,\\\"outcome\\\":\\\"$1\\\",\\\"detail\\\":\\\"x\\\"}\"",
    );
    let expected = ["succeeded", "failed: x", "failed!: x"];
    trial.check(&[&expected[..], &["deferred: x", "succeeded"]].concat());
}

#[test]
fn answers_may_come_in_any_order_and_at_the_end() {
    let trial = whole(
        "while read -r line; do of_line; all=\"$job $all\"; done; for job in $all; do ok; done",
    );
    trial.check(&["succeeded"; 20]);
}

#[test]
fn what_is_not_answered_for_follows_the_exit_code() {
    for (exit, left) in [
        ("exit 0", "succeeded"),
        ("exit 65", "failed!: exit 65: why"),
        ("exit 75", "failed: exit 75: why"),
        ("exit 7", "failed: exit 7: why"),
        ("kill -KILL $$", "failed: signal 9: why"),
    ] {
        let trial = whole(&format!("cat > got; job=2; ok; echo why >&2; {exit}"));
        trial.check(&[left, "succeeded", left]);
        // It need not read them all.
        whole(&format!("echo why >&2; {exit}")).check(&[left; 3]);
    }
}

#[test]
fn stderr_is_kept_with_the_jobs_that_did_not_succeed() {
    let trial = whole("echo one >&2; job=1; ok; job=2; answer failed; cat > got; exit 7");
    let stderr: Vec<Vec<u8>> = trial.run(3).into_iter().map(|ended| ended.stderr).collect();
    assert_eq!(stderr, [b"".to_vec(), b"one\n".to_vec(), b"one\n".to_vec()]);
}

#[test]
fn an_answer_is_reported_while_the_process_still_runs() {
    let trial = whole("job=1; ok; until [ -e heard ]; do sleep 0.01; done; job=2; ok");
    let tasks = trial.tasks(2);
    let mut ended = Vec::new();
    trial.batch.run_all(&tasks, &trial.stop, &mut |at, how| {
        std::fs::write(trial.folder.path().join("heard"), "").unwrap();
        ended.push((at, how.outcome));
    });
    assert_eq!(ended, [(0, Outcome::Succeeded), (1, Outcome::Succeeded)]);
}

#[test]
fn at_a_timeout_answered_ones_keep_their_answer() {
    let trial = whole(
        "job=2; ok; echo stuck >&2; trap 'job=1; ok; exit 0' TERM
                       while :; do sleep 0.01; done",
    );
    let ended = trial.timeout_ms(500).run(3);
    let outcomes: Vec<Outcome> = ended.iter().map(|ended| ended.outcome).collect();
    assert_eq!(outcomes, [Outcome::TimedOut, Outcome::Succeeded, Outcome::TimedOut]);
    assert!(ended[0].detail.starts_with("timeout 500ms: "), "{}", ended[0].detail);
}

#[test]
fn a_process_that_never_reads_its_input_times_out() {
    let mut trial = whole("exec sleep 1000").timeout_ms(300);
    trial.body = format!("{:?}", "x".repeat(100_000)).into_bytes().into();
    trial.check(&["timed_out: timeout 300ms"; 3]);
}

#[test]
fn a_sign_of_life_starts_the_timeout_anew() {
    let script = "for i in 1 2 3 4 5 6 7 8; do sleep 0.3; echo '{\"alive\":true}' >&3; done";
    whole(script).timeout_ms(1500).check(&["succeeded"; 2]);
}

#[test]
fn what_no_process_may_say_fails_those_that_were_not_answered_for() {
    for (said, why) in [
        ("echo COPY 3", "answered with what is no answer: COPY 3"),
        ("job=4; ok", "answered for job 4, which it does not hold"),
        ("job=2; ok", "answered twice for job 2"),
        ("tr '\\0' x < /dev/zero", "answered with a line of over 1 MiB"),
    ] {
        let trial = whole(&format!("echo $$ > pid; job=2; ok; {said}; exec sleep 1000"));
        let why = format!("failed: {why}");
        trial.check(&[&why, "succeeded", &why]);
        assert!(!is_alive(&trial.file("pid")), "{said}: it goes on");
    }
}

#[test]
fn a_last_answer_may_lack_its_end() {
    whole("cat > got; job=1; printf %s \"$(ok)\"; exit 7").check(&["succeeded", "failed: exit 7"]);
    let torn = "failed: answered with what is no answer: {\"job\":1,";
    whole("cat > got; printf '{\"job\":1,'; exit 0").check(&[torn, torn]);
}

#[test]
fn a_process_that_has_answered_for_all_is_ended_after_its_grace() {
    let began = Instant::now();
    let mut trial = each("ok; [ $job != 2 ] || { trap '' TERM; while :; do sleep 0.01; done; }");
    trial.batch.grace = Duration::from_millis(300);
    trial.check(&["succeeded"; 2]);
    assert!(began.elapsed() >= Duration::from_millis(300), "{:?}", began.elapsed());
}

#[test]
fn a_stop_ends_all_that_was_started_and_interrupts_what_was_not_answered_for() {
    let trial = whole(
        "job=1; ok; setsid sh -c 'echo $$ >> pids; exec sleep 1000' & echo $$ >> pids
         until [ $(wc -l < pids) = 2 ]; do sleep 0.01; done; : > up; wait",
    );
    let outcomes = std::thread::scope(|scope| {
        let run = scope.spawn(|| trial.run(2));
        until("it runs", || trial.folder.path().join("up").exists());
        trial.stop.set();
        run.join().unwrap().into_iter().map(|ended| ended.outcome).collect::<Vec<_>>()
    });
    assert_eq!(outcomes, [Outcome::Succeeded, Outcome::Interrupted]);
    assert!(!trial.file("pids").lines().any(is_alive));
    trial.check(&["interrupted: stopped"; 2]);
}

#[test]
fn what_can_not_be_started_says_why_for_each() {
    let mut trial = whole("");
    trial.handler.command = vec!["/no/such/program".into()];
    trial.check(&["failed: not started: /no/such/program: there is no such file"; 2]);
}

#[test]
fn one_job_alone_is_a_batch_too() {
    let trial = whole("cat > got; exit 65");
    let ended = trial.batch.run(&trial.tasks(1)[0], &trial.stop);
    assert_eq!((ended.outcome, ended.is_permanent), (Outcome::Failed, true));
}
