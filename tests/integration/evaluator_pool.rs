//! The pool of evaluator processes: each evaluation ends, and a failure affects no other evaluation.

use std::path::Path;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use hooktrail::internals::expression::{
    Busy, EvaluationResult, EvaluatorPool, EventContext, Expression, ExpressionSet,
    HandlerDecision, HandlerExpressions, Priority,
};
use hooktrail::internals::process::Supervisor;
use tempfile::TempDir;

use crate::support::server::{HOOKTRAIL, until};

mod hostile;
mod limits;
mod server;

/// A pool with its own folder. The run ID of its processes tells them from those of other tests.
struct TestPool {
    folder: TempDir,
    pool: EvaluatorPool,
    run_id: String,
}

fn test_pool() -> TestPool {
    let folder = tempfile::tempdir().unwrap();
    let supervisor = Supervisor::new(&format!("test{}", folder.path().display()));
    let pool = EvaluatorPool::with_program(Path::new(HOOKTRAIL), folder.path(), &supervisor);
    TestPool { folder, pool, run_id: supervisor.run_id("expression") }
}

fn jq(text: &str) -> Expression {
    Expression::new(text).unwrap_or_else(|error| panic!("{text}: {error:?}"))
}

fn json_context(body: &[u8]) -> EventContext<'_> {
    EventContext { body, content_type: Some("application/json"), ..EventContext::default() }
}

/// A handler for each `when` expression.
fn when_expressions(texts: &[&str]) -> ExpressionSet {
    let handler =
        |when: &&str| HandlerExpressions { when: Some(jq(when)), ..HandlerExpressions::default() };
    ExpressionSet::new(None, texts.iter().map(handler).collect())
}

/// Ends its process at once, as it needs more memory than the limit.
const DEADLY: &str = "\"x\" * 100000000000";

/// Runs until a limit ends it.
const ENDLESS: &str = "def f: f; f";

/// Cheap, but not in the subset that the server evaluates inline.
const HARMLESS: &str = "length > 0";

impl TestPool {
    fn outputs(&self, text: &str, body: &str) -> Result<Vec<String>, String> {
        let outputs = self.pool.outputs(1, &jq(text), &json_context(body.as_bytes()))?;
        Ok(outputs.into_iter().map(|output| String::from_utf8(output).unwrap()).collect())
    }

    fn start_evaluation(
        &self,
        fairness_key: u64,
        expressions: &ExpressionSet,
        body: &str,
    ) -> Evaluation {
        let (sender, receiver) = sync_channel(1);
        let on_result = Box::new(move |results| {
            let _ = sender.send((results, Instant::now()));
        });
        self.pool.evaluate_async(
            Priority::Intake,
            fairness_key,
            expressions,
            &json_context(body.as_bytes()),
            on_result,
        );
        Evaluation { receiver, started_at: Instant::now() }
    }

    /// The processes of the pool.
    fn processes(&self) -> Vec<u32> {
        let environ = |pid: &u32| {
            let environ = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environ.split(|&byte| byte == 0).any(|line| {
                line.strip_prefix(b"HOOKTRAIL_RUN_ID=")
                    .is_some_and(|run_id| run_id == self.run_id.as_bytes())
            })
        };
        let all = std::fs::read_dir("/proc").unwrap().flatten();
        let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter(environ).collect()
    }
}

/// An evaluation that has started.
struct Evaluation {
    receiver: Receiver<(Result<EvaluationResult, Busy>, Instant)>,
    started_at: Instant,
}

impl Evaluation {
    fn results(&self) -> Result<EvaluationResult, Busy> {
        self.receiver.recv_timeout(Duration::from_secs(60)).expect("results").0
    }

    /// Waits for the end and returns how long the evaluation took.
    fn duration(&self) -> Duration {
        self.receiver.recv_timeout(Duration::from_secs(60)).expect("results").1 - self.started_at
    }
}

/// Formats a decision: `yes`, `no`, or the failed expression and the reason.
fn display_decision(decision: &HandlerDecision) -> String {
    match decision {
        HandlerDecision::Skip => "no".to_owned(),
        HandlerDecision::Failed { expression, reason } => format!("{expression}: {reason}"),
        HandlerDecision::Run(_) => "yes".to_owned(),
    }
}

const TOO_MUCH: &str = "took more than 256 MiB";

#[test]
fn an_expression_is_evaluated_by_a_separate_process() {
    let test = test_pool();
    assert_eq!(test.processes().len(), 0);
    assert_eq!(test.outputs(".a + 1, $source", r#"{"a":1}"#).unwrap(), ["2", "\"\""]);
    assert_eq!(test.processes().len(), 1);
    let transformed =
        test.pool.transform(1, &jq("[.a, .b | length]"), &json_context(b"{\"a\":[1]}"));
    assert_eq!(transformed, Ok(Ok(b"[1,0]".to_vec())));
    assert_eq!(test.processes().len(), 2);
    let before = test.processes();
    let nothing = test.pool.transform(1, &jq("empty"), &EventContext::default());
    assert_eq!(nothing, Ok(Err("it has no output".to_owned())));
    assert_eq!(test.processes(), before);
}

#[test]
fn inline_expressions_need_no_process() {
    let test = test_pool();
    let context = json_context(br#"{"a":"x"}"#);
    let results =
        test.pool.evaluate(1, &when_expressions(&[".a == \"x\"", ".b"]), &context).unwrap();
    assert_eq!(results.handlers.iter().map(display_decision).collect::<Vec<_>>(), ["yes", "no"]);
    let transformed = test.pool.transform(1, &jq("{b: .a}"), &context);
    assert_eq!(transformed, Ok(Ok(br#"{"b":"x"}"#.to_vec())));
    assert_eq!(test.processes().len(), 0);
}

#[test]
fn dropping_the_pool_ends_its_processes() {
    let mut test = test_pool();
    test.outputs(HARMLESS, "[1]").unwrap();
    let waiting = test.start_evaluation(1, &when_expressions(&[ENDLESS]), "1");
    let supervisor = Supervisor::new("none");
    let other = EvaluatorPool::with_program(Path::new("/nothing"), test.folder.path(), &supervisor);
    drop(std::mem::replace(&mut test.pool, other));
    assert_eq!(test.processes().len(), 0);
    assert!(matches!(waiting.results(), Err(Busy)));
}

#[test]
fn only_the_expression_that_crashes_its_process_fails() {
    let test = test_pool();
    let jq = |text: &str| Some(jq(text));
    let handlers = vec![
        HandlerExpressions { when: jq(HARMLESS), ..HandlerExpressions::default() },
        HandlerExpressions { when: jq(DEADLY), ..HandlerExpressions::default() },
        HandlerExpressions {
            ordering_key: jq("length"),
            unique_by: jq(DEADLY),
            ..HandlerExpressions::default()
        },
        HandlerExpressions {
            split: jq(".[]"),
            ordering_key: jq(". + 1"),
            ..HandlerExpressions::default()
        },
        HandlerExpressions { split: jq(DEADLY), ..HandlerExpressions::default() },
        HandlerExpressions { when: jq("length == 0"), ..HandlerExpressions::default() },
    ];
    let expressions = ExpressionSet::new(jq(DEADLY), handlers);
    let results = test.start_evaluation(1, &expressions, "[1,2]").results().unwrap();
    assert_eq!(results.dedupe, Err(TOO_MUCH.to_owned()));
    let shown: Vec<_> = results.handlers.iter().map(display_decision).collect();
    let (when, split) = (format!("when: {TOO_MUCH}"), format!("split: {TOO_MUCH}"));
    assert_eq!(shown, ["yes", &when, "yes", "yes", &split, "no"]);
    let HandlerDecision::Run(keyed) = &results.handlers[2] else { unreachable!() };
    assert_eq!(keyed.key_errors, [format!("unique_by: {TOO_MUCH}")]);
    let keys = keyed.keys.get(0).unwrap();
    assert_eq!((keys.ordering_key.as_deref(), keys.unique_key), (Some("2"), None));
    let HandlerDecision::Run(split) = &results.handlers[3] else { unreachable!() };
    assert_eq!(split.items.as_ref().map(|items| items.len()), Some(2));
    assert_eq!(split.keys.get(1).unwrap().ordering_key.as_deref(), Some("3"));
}

#[test]
fn other_events_of_the_same_batch_are_evaluated() {
    let test = test_pool();
    let expressions =
        when_expressions(&[&format!("if . == 7 then ({DEADLY}) else length > 3 end")]);
    test.start_evaluation(1, &expressions, "1").results().unwrap();
    let all: Vec<_> =
        (0..30).map(|n| test.start_evaluation(1, &expressions, &(n % 10).to_string())).collect();
    for (n, evaluation) in all.iter().enumerate() {
        let results = evaluation.results().unwrap();
        let expected = match n % 10 {
            7 => format!("when: {TOO_MUCH}"),
            n if n > 3 => "yes".to_owned(),
            _ => "no".to_owned(),
        };
        assert_eq!(display_decision(&results.handlers[0]), expected, "event {n}");
    }
}

#[test]
fn one_fairness_key_never_occupies_all_processes() {
    let test = test_pool();
    let endless = when_expressions(&[ENDLESS]);
    // On a busy machine, the endless expressions may reach their limit first.
    until("another key is evaluated beside endless expressions", || {
        let hanging: Vec<_> = (0..20).map(|_| test.start_evaluation(1, &endless, "1")).collect();
        let other = test.start_evaluation(2, &when_expressions(&[HARMLESS]), "[1]");
        assert_eq!(display_decision(&other.results().unwrap().handlers[0]), "yes");
        let has_failed = |evaluation: &Evaluation| {
            evaluation.receiver.try_recv().is_ok_and(|(results, _)| results.is_ok())
        };
        let is_beside = !hanging.iter().any(has_failed);
        // Until none of them is left in the queue. The channel of one that has ended is closed.
        hanging.iter().for_each(|evaluation| _ = evaluation.receiver.recv());
        is_beside
    });
}

#[test]
fn an_evaluation_that_waits_for_others_of_its_key_is_busy_and_a_transform_is_not() {
    let test = test_pool();
    let endless = when_expressions(&[ENDLESS]);
    let hanging: Vec<_> = (0..20).map(|_| test.start_evaluation(1, &endless, "1")).collect();
    let transformed = test.pool.transform(1, &jq(HARMLESS), &json_context(b"[1]"));
    assert_eq!(transformed, Ok(Ok(b"true".to_vec())));
    let (mut failed, mut busy) = (0, 0);
    for evaluation in &hanging {
        match evaluation.results() {
            Ok(results) => {
                assert!(
                    display_decision(&results.handlers[0]).starts_with("when: took more than 2")
                );
                failed += 1;
            }
            Err(Busy) => busy += 1,
        }
    }
    assert!(failed >= 1 && busy >= 1, "{failed} failed, {busy} busy");
}

#[test]
fn a_process_killed_between_events_is_replaced() {
    let test = test_pool();
    for _ in 0..3 {
        assert_eq!(test.outputs("length", "[1]").unwrap(), ["1"]);
        let pid = test.processes()[0];
        let pid = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    }
    assert_eq!(test.outputs("length", "[1]").unwrap(), ["1"]);
}

/// Kills the process that evaluates once it has used processor time. Returns `false` if `has_ended` is
/// true before that.
fn kill_busy_process(test: &TestPool, killed: &mut Vec<u32>, has_ended: &dyn Fn() -> bool) -> bool {
    let ticks = |pid: u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        fields.get(11).and_then(|ticks| ticks.parse::<u32>().ok()).unwrap_or(0)
    };
    let mut found = None;
    until("a process is busy", || {
        let processes = test.processes();
        found = processes.into_iter().find(|pid| !killed.contains(pid) && ticks(*pid) >= 3);
        found.is_some() || has_ended()
    });
    let Some(pid) = found else { return false };
    killed.push(pid);
    let pid = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).is_ok()
}

#[test]
fn an_event_whose_process_is_killed_is_evaluated_again() {
    let test = test_pool();
    let long = jq("if ([range(400000)] | length) > 0 then . else . end");
    let mut killed = Vec::new();
    // The evaluation may end before the test finds its process busy.
    until("a busy process was killed", || {
        std::thread::scope(|scope| {
            let evaluation = scope.spawn(|| test.pool.transform(1, &long, &json_context(b"[7]")));
            let was_killed = kill_busy_process(&test, &mut killed, &|| evaluation.is_finished());
            assert_eq!(evaluation.join().unwrap(), Ok(Ok(b"[7]".to_vec())));
            was_killed
        })
    });
}

#[test]
fn an_event_whose_process_is_always_killed_fails_with_that_reason() {
    let test = test_pool();
    let transformed = std::thread::scope(|scope| {
        let evaluation = scope.spawn(|| test.pool.transform(1, &jq(ENDLESS), &json_context(b"1")));
        let mut killed = Vec::new();
        (0..6).for_each(|_| assert!(kill_busy_process(&test, &mut killed, &|| false)));
        evaluation.join().unwrap()
    });
    let reason = transformed.unwrap().unwrap_err();
    assert!(reason.starts_with("its process was killed 6 times, not by this server"), "{reason}");
}

#[test]
fn the_reason_names_the_limit_that_an_expression_exceeded() {
    let test = test_pool();
    let transform = |text: &str| test.pool.transform(1, &jq(text), &json_context(b"1"));
    for (text, reason) in
        [(DEADLY, "took more than 256 MiB"), ("def f: 1 + f; f", "nested too deep")]
    {
        assert_eq!(transform(text), Ok(Err(reason.to_owned())), "{text}");
    }
    // On a busy machine the limit on elapsed time may come first.
    let cpu_limit = Ok(Err("took more than 1 s of processor time".to_owned()));
    until("the limit on processor time ends the expression", || transform(ENDLESS) == cpu_limit);
}

#[test]
fn the_reason_names_why_no_process_evaluates() {
    let (folder, supervisor) = (tempfile::tempdir().unwrap(), Supervisor::new("none"));
    let pool = EvaluatorPool::with_program(Path::new("/no/such/file"), folder.path(), &supervisor);
    let reason = pool.outputs(1, &jq(HARMLESS), &json_context(b"[1]")).unwrap_err();
    assert_eq!(
        reason,
        "no evaluator process could be started: /no/such/file: there is no such file"
    );
    let pool = EvaluatorPool::with_program(Path::new("/bin/false"), folder.path(), &supervisor);
    let reason = pool.outputs(1, &jq(HARMLESS), &json_context(b"[1]")).unwrap_err();
    assert!(reason.starts_with("evaluator processes exit while they start: Code(1)"), "{reason}");
}
