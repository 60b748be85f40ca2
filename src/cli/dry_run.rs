//! `eval`, `run` and `check --event`: what expressions and handlers would make of an event. Nothing is
//! recorded.

use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;
use clap::Args;

use super::{ExitError, open_store, output, runtime_error, user_error};
use crate::config::{self, Handler, LoadedConfig};
use crate::domain::job_plan::JobSpec;
use crate::domain::{AttemptResult, Claim, Event, EventId, HandlerId, JobId, Outcome, SourceId};
use crate::expression::{
    EvaluatorPool, EventContext, Expression, HandlerDecision, HandlerMatch, RawJobKeys,
};
use crate::handler::HandlerRuntime;
use crate::planner::JobPlanner;
use crate::process::{self, CancelToken};
use crate::store::jobs::ClaimedJob;
use crate::store::{self, Store, event_reads, queries, registry};
use crate::worker::task_builder::TaskBuilder;
use crate::{app, clock};

/// So much of an input or a key is shown.
const SHOWN_CHARS_MAX: usize = 200;

/// `eval`
#[derive(Debug, Args)]
pub struct EvalArgs {
    /// jq, as in config.toml
    expression: String,
    /// A stored event by its number, or a file with a body (- for standard input); else the newest
    /// event
    of: Option<String>,
    /// Of the file: what its sender would say it is
    #[arg(long, value_name = "TYPE")]
    content_type: Option<String>,
}

/// `run`
#[derive(Debug, Args)]
pub struct RunArgs {
    handler: String,
    event: i64,
    /// With `split`: this item alone
    #[arg(long, value_name = "NUMBER")]
    item: Option<u32>,
}

impl EvalArgs {
    /// Whether it asks for a file: then there need be no configuration.
    pub fn is_of_file(&self) -> bool {
        self.of.as_ref().is_some_and(|of| of.parse::<i64>().is_err())
    }
}

/// Prints what an expression gives, an output a line.
pub fn eval(args: &EvalArgs, loaded: Option<&LoadedConfig>) -> Result<(), ExitError> {
    let expression = Expression::new(&args.expression).map_err(|wrong| {
        let text =
            format!("expression: line {}, column {}: {}", wrong.line, wrong.column, wrong.text);
        ExitError { code: 2, text }
    })?;
    let outputs = match (&args.of, loaded) {
        (Some(file), _) if args.is_of_file() => {
            let body = read_body(file)?;
            let pool = EvaluatorPool::new(&std::env::temp_dir(), &cli_run_id(""));
            let scene = EventContext {
                body: &body,
                content_type: args.content_type.as_deref(),
                received_at_ms: clock::wall_ms(),
                ..EventContext::default()
            };
            pool.outputs(0, &expression, &scene)
        }
        (of, Some(loaded)) => {
            let store = open_store(loaded)?;
            let of = of.as_ref().and_then(|of| of.parse().ok());
            let event = match of.or(queries::find_newest_event(&store.conn).map_err(runtime_error)?)
            {
                Some(event) => load_event(&store, event)?,
                None => return Err(user_error("there is no event yet")),
            };
            let maker = maker(loaded, &store)?;
            maker.with_context(&event, None, |scene| {
                maker.expressions.outputs(0, &expression, scene)
            })
        }
        (_, None) => return Err(user_error("there is no event without a configuration")),
    };
    let mut out = output::stdout();
    for output in outputs.map_err(user_error)? {
        out.write_all(&output).and_then(|()| writeln!(out)).map_err(runtime_error)?;
    }
    Ok(())
}

fn read_body(file: &str) -> Result<Vec<u8>, ExitError> {
    let mut body = Vec::new();
    let read = match file {
        "-" => std::io::stdin().lock().read_to_end(&mut body),
        file => std::fs::File::open(file).and_then(|mut file| file.read_to_end(&mut body)),
    };
    read.map_err(|e| user_error(format!("{file}: can't be read: {e}")))?;
    Ok(body)
}

/// By what processes started here are known: not the trail's own name, so that a server that starts
/// meanwhile leaves them alone.
fn cli_run_id(trail: &str) -> String {
    format!("cli.{}.{trail}", std::process::id())
}

/// What makes of events what handlers get, by the configuration.
pub fn maker(loaded: &LoadedConfig, store: &Store) -> Result<TaskBuilder, ExitError> {
    let readers = store::read_pool(store, 1).map_err(runtime_error)?;
    let expressions = EvaluatorPool::new(
        store.path.parent().unwrap_or(Path::new(".")),
        &cli_run_id(&store.database_id),
    );
    let paths = loaded.config.sources.iter().map(|it| (it.name.clone(), it.path.clone()));
    let paths = Arc::new(ArcSwap::from_pointee(paths.collect()));
    Ok(TaskBuilder { readers, expressions, paths, database_id: cli_run_id(&store.database_id) })
}

fn load_event(store: &Store, event: i64) -> Result<Event, ExitError> {
    if !registry::event_exists(&store.conn, event).map_err(runtime_error)? {
        return Err(user_error(format!("event {event}: there is no such event")));
    }
    event_reads::load_event(&store.conn, EventId(event)).map_err(runtime_error)
}

/// Which handlers would take an event, and with what.
pub fn print_matching_handlers(
    out: &mut impl Write,
    loaded: &LoadedConfig,
    event: i64,
) -> Result<(), ExitError> {
    let store = open_store(loaded)?;
    let event = load_event(&store, event)?;
    let maker = maker(loaded, &store)?;
    let (mut names, mut lines) = (Vec::new(), Vec::new());
    for handler in loaded.config.handlers.iter().filter(|one| one.sources.contains(&event.source)) {
        let (takes, line) = match evaluate(&maker, &event, handler)? {
            HandlerDecision::Skip => (false, "not wanted by when".to_owned()),
            HandlerDecision::Failed { expression: which, reason } => {
                (true, format!("{which} fails: {reason}"))
            }
            HandlerDecision::Run(wanted) => {
                (true, describe_match(&maker, &event, handler, &wanted)?)
            }
        };
        if takes {
            names.push(handler.name.as_str());
        }
        lines.push(format!("  {}: {line}", handler.name));
    }
    let names = if names.is_empty() { "no handler".to_owned() } else { names.join(", ") };
    writeln!(out, "event {} of {}: taken by {names}", event.id, event.source)
        .map_err(runtime_error)?;
    lines.iter().try_for_each(|line| writeln!(out, "{line}")).map_err(runtime_error)
}

fn evaluate(
    maker: &TaskBuilder,
    event: &Event,
    handler: &Handler,
) -> Result<HandlerDecision, ExitError> {
    let judge = JobPlanner::for_handlers([(handler, HandlerId(0))].into_iter());
    let Some(questions) = judge.expressions() else {
        return Ok(HandlerDecision::Run(HandlerMatch::default()));
    };
    let answers = maker
        .with_context(event, None, |scene| {
            let scene = EventContext { event_id: None, ..*scene };
            maker.expressions.evaluate(0, questions, &scene)
        })
        .map_err(|_| user_error(format!("{}: try again", maker.expressions.busy_reason())))?;
    answers.handlers.into_iter().next().ok_or_else(|| user_error("the expressions gave no answer"))
}

/// What a handler would get, and by which keys.
fn describe_match(
    maker: &TaskBuilder,
    event: &Event,
    handler: &Handler,
    wanted: &HandlerMatch,
) -> Result<String, ExitError> {
    let mut said = Vec::new();
    let mut item: Option<Arc<[u8]>> = None;
    if let Some(items) = &wanted.items {
        said.push(format!("{} items", items.len()));
        if !items.is_empty() {
            let mut first = Vec::new();
            items.get(0, &mut first).map_err(runtime_error)?;
            item = Some(Arc::from(first));
        }
    }
    let is_empty = wanted.items.as_ref().is_some_and(|items| items.is_empty());
    if !is_empty {
        said.extend(shown_keys(&wanted.keys.get(0).map_err(runtime_error)?));
    }
    said.extend(wanted.key_errors.iter().map(|fault| format!("{fault} (no key)")));
    let input = match &handler.transform {
        _ if is_empty => None,
        None => item.as_ref().map(|item| Ok(item.to_vec())),
        Some(transform) => Some(maker.with_context(event, item.as_ref(), |scene| {
            let busy = |_| Err(maker.expressions.busy_reason());
            maker.expressions.transform(0, transform, scene).unwrap_or_else(busy)
        })),
    };
    let first = if wanted.items.is_some() { "the first: " } else { "with " };
    match input {
        None if said.is_empty() => said.push("with the body as it came".to_owned()),
        None => {}
        Some(Ok(input)) => said.push(format!("{first}{}", shown(&String::from_utf8_lossy(&input)))),
        Some(Err(reason)) => said.push(format!("transform fails: {reason}")),
    }
    Ok(said.join(", "))
}

fn shown_keys(keys: &RawJobKeys) -> Vec<String> {
    use crate::domain::version_value::VersionValue;
    let newest = keys.version.as_ref().map(|stamp| match stamp {
        VersionValue::Number(digits) => digits.clone(),
        VersionValue::Text(text) => text.clone(),
    });
    let all = [
        ("ordering_key", &keys.ordering_key),
        ("version_by", &newest),
        ("unique_by", &keys.unique_key),
        ("debounce_by", &keys.debounce_key),
    ];
    let shown = |(name, key): (&str, &Option<String>)| {
        key.as_ref().map(|key| format!("{name} {}", shown(key)))
    };
    all.into_iter().filter_map(shown).collect()
}

fn shown(text: &str) -> String {
    super::output::plain(&text.chars().take(SHOWN_CHARS_MAX).collect::<String>())
}

/// Runs a handler on an event in the foreground, with `split` on each of its items.
pub fn run(loaded: &LoadedConfig, args: &RunArgs) -> Result<(), ExitError> {
    let name = &args.handler;
    let Some(handler) = loaded.config.handlers.iter().find(|handler| handler.name == *name) else {
        return Err(user_error(format!(
            "handler {name}: there is none of that name in config.toml"
        )));
    };
    let (secrets, missing) = config::read_secrets_under(loaded, &format!("handlers.{name}"));
    if !missing.is_empty() {
        let lines: Vec<String> = missing.iter().map(ToString::to_string).collect();
        return Err(ExitError { code: 78, text: lines.join("\n") });
    }
    let store = open_store(loaded)?;
    let event = load_event(&store, args.event)?;
    let (maker, ready) = (maker(loaded, &store)?, app::build_handler(handler, &secrets));
    process::become_subreaper().map_err(runtime_error)?;
    let job = queries::find_newest_job(&store.conn, event.id, name).map_err(runtime_error)?;
    let (job, attempt) = job.unwrap_or((JobId(0), 1));
    let claimed = |item| ClaimedJob {
        claim: Claim { job, attempt: attempt.max(1) },
        event: event.id,
        source: SourceId(0),
        handler: HandlerId(0),
        failures: 0,
        age_ms: 0,
        item,
        replay: 0,
        should_reevaluate: false,
        is_probe: false,
    };
    let mut all_succeeded = true;
    match maker.reevaluate(&claimed(None), &ready, &event) {
        Err(ended) => return Err(user_error(ended.detail)),
        Ok(None) => return Err(user_error(format!("event {}: not wanted by when", event.id))),
        Ok(Some(JobSpec::Items(items))) => {
            let mut body = Vec::new();
            for at in 0..items.count() {
                let number = u32::try_from(at + 1).map_err(runtime_error)?;
                if args.item.is_some_and(|wanted| wanted != number) {
                    continue;
                }
                items.read(at, &mut body).map_err(runtime_error)?;
                let item = Arc::from(body.as_slice());
                all_succeeded &=
                    run_one(&maker, &claimed(Some(number)), &ready, &event, Some(&item))?;
            }
        }
        Ok(Some(_)) => all_succeeded = run_one(&maker, &claimed(None), &ready, &event, None)?,
    }
    ready.kind.close();
    process::wait_for_drained(process::GRACE * 2);
    if all_succeeded { Ok(()) } else { Err(ExitError { code: 1, text: String::new() }) }
}

/// Whether it succeeded.
fn run_one(
    maker: &TaskBuilder,
    claimed: &ClaimedJob,
    ready: &HandlerRuntime,
    event: &Event,
    item: Option<&Arc<[u8]>>,
) -> Result<bool, ExitError> {
    let stop = CancelToken::new().map_err(runtime_error)?;
    let ended: AttemptResult = match maker.build_task(claimed, ready, event.clone(), item) {
        Ok(task) => ready.kind.run(&task, &stop),
        Err(ended) => ended,
    };
    output::stdout().write_all(&ended.stdout).map_err(runtime_error)?;
    output::stderr().write_all(&ended.stderr).map_err(runtime_error)?;
    let item = claimed.item.map(|number| format!("item {number}: ")).unwrap_or_default();
    writeln!(output::stderr(), "{item}{}: {}", ended.outcome.name(), ended.detail)
        .map_err(runtime_error)?;
    Ok(ended.outcome == Outcome::Succeeded)
}
