//! What is evaluated in processes of the server's own always ends, and spoils nothing but itself.

use std::path::Path;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use hooktrail::expression::{
    Busy, EvaluationResult, EvaluatorPool, EventContext, Expression, ExpressionSet,
    HandlerDecision, HandlerExpressions,
};
use tempfile::TempDir;

use crate::support::server::HOOKTRAIL;

mod hostile;
mod limits;
mod server;

/// A pool with a folder of its own, known by its mark.
struct Trial {
    folder: TempDir,
    pool: EvaluatorPool,
    mark: String,
}

fn trial() -> Trial {
    let folder = tempfile::tempdir().unwrap();
    let mark = format!("test{}", folder.path().display());
    let pool = EvaluatorPool::with_program(Path::new(HOOKTRAIL), folder.path(), &mark);
    Trial { folder, pool, mark: format!("{mark}.expression") }
}

fn jq(text: &str) -> Expression {
    Expression::new(text).unwrap_or_else(|wrong| panic!("{text}: {wrong:?}"))
}

fn of_json(body: &[u8]) -> EventContext<'_> {
    EventContext { body, content_type: Some("application/json"), ..EventContext::default() }
}

/// `when` of handlers.
fn whens(all: &[&str]) -> ExpressionSet {
    let taker =
        |when: &&str| HandlerExpressions { when: Some(jq(when)), ..HandlerExpressions::default() };
    ExpressionSet::new(None, all.iter().map(taker).collect())
}

/// Ends its process at once: there is not so much memory.
const DEADLY: &str = "\"x\" * 100000000000";

/// Never ends by itself.
const ENDLESS: &str = "def f: f; f";

/// Simple for jaq, but not here.
const HARMLESS: &str = "length > 0";

impl Trial {
    fn outputs(&self, text: &str, body: &str) -> Result<Vec<String>, String> {
        let outputs = self.pool.outputs(1, &jq(text), &of_json(body.as_bytes()))?;
        Ok(outputs.into_iter().map(|it| String::from_utf8(it).unwrap()).collect())
    }

    fn ask(&self, party: u64, questions: &ExpressionSet, body: &str) -> Asked {
        let (tell, told) = sync_channel(1);
        let answer = Box::new(move |answers| {
            let _ = tell.send((answers, Instant::now()));
        });
        self.pool.evaluate_async(party, questions, &of_json(body.as_bytes()), answer);
        Asked { told, at: Instant::now() }
    }

    /// The processes that it has now.
    fn processes(&self) -> Vec<u32> {
        let environ = |pid: &u32| {
            let environ = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environ.split(|&byte| byte == 0).any(|line| {
                line.strip_prefix(b"HOOKTRAIL_RUN_ID=").is_some_and(|it| it == self.mark.as_bytes())
            })
        };
        let all = std::fs::read_dir("/proc").unwrap().flatten();
        let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter(environ).collect()
    }
}

/// A question on its way.
struct Asked {
    told: Receiver<(Result<EvaluationResult, Busy>, Instant)>,
    at: Instant,
}

impl Asked {
    fn answers(&self) -> Result<EvaluationResult, Busy> {
        self.told.recv_timeout(Duration::from_secs(60)).expect("an answer").0
    }

    /// How long it took.
    fn took(&self) -> Duration {
        self.told.recv_timeout(Duration::from_secs(60)).expect("an answer").1 - self.at
    }
}

/// `yes`, `no`, or what failed and why.
fn shown(taken: &HandlerDecision) -> String {
    match taken {
        HandlerDecision::Skip => "no".to_owned(),
        HandlerDecision::Failed { expression: which, reason } => format!("{which}: {reason}"),
        HandlerDecision::Run(_) => "yes".to_owned(),
    }
}

const TOO_MUCH: &str = "took more than 256 MiB";

#[test]
fn an_expression_is_evaluated_by_a_process_of_its_own() {
    let trial = trial();
    assert_eq!(trial.processes().len(), 0);
    assert_eq!(trial.outputs(".a + 1, $source", r#"{"a":1}"#).unwrap(), ["2", "\"\""]);
    assert_eq!(trial.processes().len(), 1);
    let transformed = trial.pool.transform(1, &jq("[.a, .b | length]"), &of_json(b"{\"a\":[1]}"));
    assert_eq!(transformed, Ok(Ok(b"[1,0]".to_vec())));
    assert_eq!(trial.processes().len(), 2);
    let before = trial.processes();
    let nothing = trial.pool.transform(1, &jq("empty"), &EventContext::default());
    assert_eq!(nothing, Ok(Err("it has no output".to_owned())));
    assert_eq!(trial.processes(), before);
}

#[test]
fn what_is_simple_needs_no_process() {
    let trial = trial();
    let scene = of_json(br#"{"a":"x"}"#);
    let answers = trial.pool.evaluate(1, &whens(&[".a == \"x\"", ".b"]), &scene).unwrap();
    assert_eq!(answers.handlers.iter().map(shown).collect::<Vec<_>>(), ["yes", "no"]);
    let transformed = trial.pool.transform(1, &jq("{b: .a}"), &scene);
    assert_eq!(transformed, Ok(Ok(br#"{"b":"x"}"#.to_vec())));
    assert_eq!(trial.processes().len(), 0);
}

#[test]
fn the_end_of_the_pool_is_the_end_of_its_processes() {
    let mut trial = trial();
    trial.outputs(HARMLESS, "[1]").unwrap();
    let waiting = trial.ask(1, &whens(&[ENDLESS]), "1");
    let other = EvaluatorPool::with_program(Path::new("/nothing"), trial.folder.path(), "none");
    drop(std::mem::replace(&mut trial.pool, other));
    assert_eq!(trial.processes().len(), 0);
    assert!(matches!(waiting.answers(), Err(Busy)));
}

#[test]
fn only_the_expression_that_ends_its_process_fails() {
    let trial = trial();
    let by = |key: &str| Some(jq(key));
    let takers = vec![
        HandlerExpressions { when: by(HARMLESS), ..HandlerExpressions::default() },
        HandlerExpressions { when: by(DEADLY), ..HandlerExpressions::default() },
        HandlerExpressions {
            ordering_key: by("length"),
            unique_by: by(DEADLY),
            ..HandlerExpressions::default()
        },
        HandlerExpressions {
            split: by(".[]"),
            ordering_key: by(". + 1"),
            ..HandlerExpressions::default()
        },
        HandlerExpressions { split: by(DEADLY), ..HandlerExpressions::default() },
        HandlerExpressions { when: by("length == 0"), ..HandlerExpressions::default() },
    ];
    let questions = ExpressionSet::new(by(DEADLY), takers);
    let answers = trial.ask(1, &questions, "[1,2]").answers().unwrap();
    assert_eq!(answers.dedupe, Err(TOO_MUCH.to_owned()));
    let shown: Vec<_> = answers.handlers.iter().map(shown).collect();
    let (when, split) = (format!("when: {TOO_MUCH}"), format!("split: {TOO_MUCH}"));
    assert_eq!(shown, ["yes", &when, "yes", "yes", &split, "no"]);
    let HandlerDecision::Run(keyed) = &answers.handlers[2] else { unreachable!() };
    assert_eq!(keyed.key_errors, [format!("unique_by: {TOO_MUCH}")]);
    let keys = keyed.keys.get(0).unwrap();
    assert_eq!((keys.ordering_key.as_deref(), keys.unique_key), (Some("2"), None));
    let HandlerDecision::Run(split) = &answers.handlers[3] else { unreachable!() };
    assert_eq!(split.items.as_ref().map(|items| items.len()), Some(2));
    assert_eq!(split.keys.get(1).unwrap().ordering_key.as_deref(), Some("3"));
}

#[test]
fn events_of_the_same_group_are_not_harmed() {
    let trial = trial();
    let questions = whens(&[&format!("if . == 7 then ({DEADLY}) else length > 3 end")]);
    trial.ask(1, &questions, "1").answers().unwrap();
    let all: Vec<_> = (0..30).map(|n| trial.ask(1, &questions, &(n % 10).to_string())).collect();
    for (n, asked) in all.iter().enumerate() {
        let answers = asked.answers().unwrap();
        let expected = match n % 10 {
            7 => format!("when: {TOO_MUCH}"),
            n if n > 3 => "yes".to_owned(),
            _ => "no".to_owned(),
        };
        assert_eq!(shown(&answers.handlers[0]), expected, "event {n}");
    }
}

#[test]
fn one_party_never_holds_all_processes() {
    let trial = trial();
    let endless = whens(&[ENDLESS]);
    let hanging: Vec<_> = (0..20).map(|_| trial.ask(1, &endless, "1")).collect();
    crate::support::server::until("it is at work", || !trial.processes().is_empty());
    for _ in 0..20 {
        let answers = trial.ask(2, &whens(&[HARMLESS]), "[1]").answers().unwrap();
        assert_eq!(shown(&answers.handlers[0]), "yes");
    }
    let transformed = trial.pool.transform(1, &jq(HARMLESS), &of_json(b"[1]"));
    assert_eq!(transformed, Ok(Ok(b"true".to_vec())));
    let (mut failed, mut busy) = (0, 0);
    for asked in &hanging {
        match asked.answers() {
            Ok(answers) => {
                assert!(shown(&answers.handlers[0]).starts_with("when: took more than 2"));
                failed += 1;
            }
            Err(Busy) => busy += 1,
        }
    }
    // Whoever waits for its own kind is told to come again.
    assert!(failed >= 1 && busy >= 1, "{failed} failed, {busy} busy");
}

#[test]
fn a_process_that_somebody_kills_costs_no_event() {
    let trial = trial();
    for _ in 0..3 {
        assert_eq!(trial.outputs("length", "[1]").unwrap(), ["1"]);
        let pid = trial.processes()[0];
        let pid = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    }
    assert_eq!(trial.outputs("length", "[1]").unwrap(), ["1"]);
}

/// Kills the process that evaluates, once it has worked for a while; `false` if `is_over` before that.
fn kill_at_work(trial: &Trial, killed: &mut Vec<u32>, is_over: &dyn Fn() -> bool) -> bool {
    let ticks = |pid: u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        fields.get(11).and_then(|ticks| ticks.parse::<u32>().ok()).unwrap_or(0)
    };
    let mut found = None;
    crate::support::server::until("a process is at work", || {
        let all = trial.processes();
        found = all.into_iter().find(|pid| !killed.contains(pid) && ticks(*pid) >= 3);
        found.is_some() || is_over()
    });
    let Some(pid) = found else { return false };
    killed.push(pid);
    let pid = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).is_ok()
}

#[test]
fn an_event_whose_process_is_killed_from_outside_is_asked_again() {
    let trial = trial();
    let long = jq("if ([range(400000)] | length) > 0 then . else . end");
    let mut killed = Vec::new();
    // It may be done before it is seen at work.
    crate::support::server::until("a process was killed at work", || {
        std::thread::scope(|scope| {
            let asked = scope.spawn(|| trial.pool.transform(1, &long, &of_json(b"[7]")));
            let was_killed = kill_at_work(&trial, &mut killed, &|| asked.is_finished());
            assert_eq!(asked.join().unwrap(), Ok(Ok(b"[7]".to_vec())));
            was_killed
        })
    });
}

#[test]
fn an_event_whose_process_is_always_killed_fails_with_that_reason() {
    let trial = trial();
    let transformed = std::thread::scope(|scope| {
        let asked = scope.spawn(|| trial.pool.transform(1, &jq(ENDLESS), &of_json(b"1")));
        let mut killed = Vec::new();
        (0..6).for_each(|_| assert!(kill_at_work(&trial, &mut killed, &|| false)));
        asked.join().unwrap()
    });
    let reason = transformed.unwrap().unwrap_err();
    assert!(reason.starts_with("its process was killed 6 times, not by this server"), "{reason}");
}

#[test]
fn limits_that_an_expression_hits_are_named_apart() {
    let trial = trial();
    for (text, reason) in [
        (DEADLY, "took more than 256 MiB"),
        ("def f: 1 + f; f", "nested too deep"),
        (ENDLESS, "took more than 1 s of processor time"),
    ] {
        let transformed = trial.pool.transform(1, &jq(text), &of_json(b"1"));
        assert_eq!(transformed, Ok(Err(reason.to_owned())), "{text}");
    }
}

#[test]
fn what_keeps_processes_from_evaluating_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let pool = EvaluatorPool::with_program(Path::new("/no/such/file"), folder.path(), "none");
    let reason = pool.outputs(1, &jq(HARMLESS), &of_json(b"[1]")).unwrap_err();
    assert_eq!(
        reason,
        "no evaluator process could be started: /no/such/file: there is no such file"
    );
    let pool = EvaluatorPool::with_program(Path::new("/bin/false"), folder.path(), "none");
    let reason = pool.outputs(1, &jq(HARMLESS), &of_json(b"[1]")).unwrap_err();
    assert!(reason.starts_with("evaluator processes exit while they start: Code(1)"), "{reason}");
}
