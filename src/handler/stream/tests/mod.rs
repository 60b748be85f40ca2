//! Processes that stay, and every way they may misbehave.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use tempfile::TempDir;

use super::*;
use crate::config;
use crate::domain::JobId;
use crate::handler::tests::{ANSWERS, is_alive, sample, until};
use crate::process::{become_subreaper, wait_for_drained};

mod idle;
mod protocol_errors;
mod termination;

/// A handler in the mode `stream`, in a folder of its own.
struct Trial {
    folder: TempDir,
    stream: Stream,
    handler: config::Handler,
    body: Arc<[u8]>,
    stop: CancelToken,
}

/// One whose processes do this for each line, `$job` being its number; `ok` answers, `$$` in detail.
fn each(script: &str) -> Trial {
    whole(&format!("{ANSWERS}\nwhile read -r line; do of_line; {script}\ndone"))
}

/// One whose processes run this script.
fn whole(script: &str) -> Trial {
    become_subreaper().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let task = sample(|handler| {
        handler.command = ["sh", "-c", script].map(String::from).to_vec();
        handler.directory = folder.path().to_owned();
        handler.concurrency = 4;
    });
    let (stream, handler) = (Stream::new(&task.handler), (*task.handler).clone());
    Trial { folder, stream, handler, body: task.input, stop: CancelToken::new().unwrap() }
}

impl Trial {
    fn timeout_ms(mut self, ms: u64) -> Self {
        self.handler.timeout = Duration::from_millis(ms);
        self
    }

    fn body(mut self, bytes: &[u8]) -> Self {
        self.body = Arc::from(bytes);
        self
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// A file in its folder; nothing where there is none.
    fn file(&self, name: &str) -> String {
        std::fs::read_to_string(self.path().join(name)).unwrap_or_default()
    }

    fn write(&self, name: &str) {
        std::fs::write(self.path().join(name), "").unwrap();
    }

    fn task(&self, job: i64) -> Task {
        let mut task = sample(|handler| *handler = self.handler.clone());
        task.claim.job = JobId(job);
        Task { input: Arc::clone(&self.body), ..task }
    }

    /// Gives it a job.
    fn run(&self, job: i64) -> AttemptResult {
        self.stream.run(&self.task(job), &self.stop)
    }

    /// Gives it a job that it answers for; which process did.
    #[track_caller]
    fn process(&self, job: i64) -> String {
        let ended = self.run(job);
        assert_eq!(ended.outcome, Outcome::Succeeded, "{}", ended.detail);
        ended.detail
    }

    #[track_caller]
    fn check(&self, job: i64, outcome: Outcome, detail: &str) {
        let ended = self.run(job);
        assert_eq!((ended.outcome, ended.detail.as_str()), (outcome, detail));
    }
}

#[test]
fn a_process_is_started_once_and_holds_one_job_after_another() {
    let trial = each("echo $job >> jobs; ok");
    let processes: Vec<String> = (1..=20).map(|job| trial.process(job)).collect();
    assert!(processes.iter().all(|pid| *pid == processes[0]), "{processes:?}");
    let jobs: Vec<String> = (1..=20).map(|job: i64| job.to_string()).collect();
    assert_eq!(trial.file("jobs").lines().collect::<Vec<_>>(), jobs);
}

#[test]
fn jobs_at_once_are_held_by_a_process_each_which_all_stay() {
    let trial = each(": > $job; until [ -e go ]; do sleep 0.01; done; ok");
    let at_once = |jobs: std::ops::Range<i64>| -> Vec<String> {
        let trial = &trial;
        std::thread::scope(|scope| {
            let runs: Vec<_> =
                jobs.clone().map(|job| scope.spawn(move || trial.process(job))).collect();
            until("all are held", || {
                jobs.clone().all(|job| trial.path().join(job.to_string()).exists())
            });
            trial.write("go");
            let mut all: Vec<_> = runs.into_iter().map(|run| run.join().unwrap()).collect();
            all.sort();
            all
        })
    };
    let first = at_once(1..4);
    assert!(first[0] != first[1] && first[1] != first[2], "{first:?}");
    std::fs::remove_file(trial.path().join("go")).unwrap();
    assert_eq!(at_once(4..7), first);
    // The one that was used last comes first.
    let last = trial.process(7);
    assert_eq!(trial.process(8), last);
}

#[test]
fn an_answer_is_an_outcome() {
    use Outcome::{Deferred, Failed, Succeeded};
    let check = |said: &str, expected: (Outcome, bool, &str), wait: Option<u64>| {
        let trial = each(&format!("echo 'why' >&2; printf '%s\n' '{{\"job\":'$job',{said}}}'"));
        let ended = trial.run(7);
        assert_eq!((ended.outcome, ended.is_permanent, ended.detail.as_str()), expected, "{said}");
        assert_eq!(ended.retry_after, wait.map(Duration::from_secs), "{said}");
        assert_eq!((ended.stdout, ended.stderr), (vec![], b"why\n".to_vec()));
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
    check(soon, (Failed, false, "busy: retry_after is no wait: \"soon\""), None);
    // What is not asked for is no fault.
    let more = r#""outcome":"succeeded","detail":{"id":17},"retry_after":"1s","more":[]"#;
    check(more, (Succeeded, false, "{\"id\":17}"), None);
    let null = r#""outcome":"succeeded","detail":null,"retry_after":null"#;
    check(null, (Succeeded, false, "answered: why"), None);
}

#[test]
fn lines_may_end_and_be_spaced_as_a_handlers_language_does_it() {
    let answer = r#"{ "outcome" : "succeeded" , "job" : %s }"#;
    let trial = each(&format!("printf '\\n{answer}\\r\\n\\r\\n\\n' $job; : > done"));
    for job in 1..4 {
        trial.check(job, Outcome::Succeeded, "answered");
    }
    let trial = each(
        "printf '{\"job\":'; sleep 0.02; printf $job',\"outcome\"'; sleep 0.02
                      echo ':\"succeeded\"}'",
    );
    trial.check(1, Outcome::Succeeded, "answered");
}

#[test]
fn a_job_comes_as_one_line_whatever_its_body_is() {
    let body = format!("{{\"a\":\r\n[1,\n{:?}]}}\n", "x".repeat(200_000));
    let trial = each("printf %s \"$line\" | wc -c >> sizes; ok").body(body.as_bytes());
    trial.process(1);
    trial.process(2);
    let size = job_line::encode(&trial.task(1)).len() - 1;
    assert_eq!(trial.file("sizes"), format!("{size}\n{size}\n"));
}

#[test]
fn a_process_finds_its_handlers_environment_and_nothing_of_an_event() {
    let trial = each("env | grep -E '^(HOOKTRAIL|CRM)' | sort > env; pwd -P > pwd; ok");
    let mut task = trial.task(7);
    task.env = Arc::new([("CRM_KEY".to_owned(), "a secret".into())]);
    assert_eq!(trial.stream.run(&task, &trial.stop).outcome, Outcome::Succeeded);
    let env = trial.file("env");
    let lines: Vec<&str> = env.lines().collect();
    assert_eq!(lines[..2], ["CRM_KEY=a secret", "HOOKTRAIL_HANDLER=crm"]);
    let mark = format!("HOOKTRAIL_RUN_ID=sample{}.stream.", std::process::id());
    assert!(lines.len() == 3 && lines[2].starts_with(&mark), "{env}");
    assert_eq!(Path::new(trial.file("pwd").trim_end()), trial.path().canonicalize().unwrap());
}

#[test]
fn what_is_written_to_stderr_is_kept_with_the_attempt_that_was_held() {
    let mut trial = each("echo job $job >&2; ok");
    trial.handler.max_output_bytes = 6;
    assert_eq!(trial.run(1).stderr, b"job 1\n");
    assert_eq!(trial.run(22).stderr, b"ob 22\n");
}

#[test]
fn what_comes_on_stderr_after_the_answer_is_kept_with_the_next_but_not_shown_as_its_end() {
    let trial = each(
        "if [ $job = 2 ]; then exit 7; fi; ok; until [ -e heard ]; do sleep 0.01; done
         echo late >&2; : > late",
    );
    trial.process(1);
    // Before it was heard that the first is over, it would be the first's.
    std::fs::write(trial.path().join("heard"), "").unwrap();
    until("it was said", || trial.path().join("late").exists());
    let ended = trial.run(2);
    assert_eq!((ended.detail.as_str(), ended.stderr), ("exit 7", b"late\n".to_vec()));
}

#[test]
fn a_sign_of_life_starts_the_timeout_anew_and_other_notes_are_shown() {
    let trial = each(
        "for i in 1 2 3 4 5 6 7 8; do sleep 0.3; echo '{\"alive\":true}' >&3; done
         echo 8 rows >&3; ok",
    );
    let ended = trial.timeout_ms(1500).run(1);
    assert_eq!(ended.outcome, Outcome::Succeeded, "{}", ended.detail);
    assert!(ended.detail.ends_with(": 8 rows"), "{}", ended.detail);
}
