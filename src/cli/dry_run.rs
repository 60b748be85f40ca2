//! `eval`, `run` and `check --event`: they evaluate expressions and run handlers for an event, and record
//! nothing.

use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use arc_swap::ArcSwap;
use clap::Args;

use super::id_list::parse_id;
use super::selector_checks::check_event;
use super::{ExitError, open_store, output, read_secrets, usage_error, user_error};
use crate::config::{Handler, LoadedConfig};
use crate::domain::job_plan::JobSpec;
use crate::domain::{
    AttemptResult, Claim, Event, EventId, HandlerId, INTERNAL_SOURCE, JobId, Outcome, SourceId,
};
use crate::expression::{
    EvaluatorPool, EventContext, Expression, HandlerDecision, HandlerMatch, RawJobKeys,
};
use crate::handler::{HandlerRuntime, LookupLimit};
use crate::jetstream::NatsThread;
use crate::numbers::format_count;
use crate::planner::{JobPlanner, settled_jobs};
use crate::process::{CancelToken, GRACE, Supervisor};
use crate::store::jobs::ClaimedJob;
use crate::store::{self, Store, event_reads, queries};
use crate::worker::task_builder::TaskBuilder;
use crate::{app, clock};

/// The longest part of an input or a key that is printed.
const MAX_PREVIEW_CHARS: usize = 200;

/// Arguments of `eval`.
#[derive(Debug, Args)]
pub struct EvalArgs {
    /// jq expression, as in config.toml
    expression: String,
    /// Number of a stored event, or a file with a body (- for standard input). Default: the newest
    /// event
    #[arg(value_name = "EVENT|FILE")]
    input: Option<String>,
    /// Content type of the file. Stored events have their own
    #[arg(long, value_name = "TYPE")]
    content_type: Option<String>,
}

/// Arguments of `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Name of the handler
    handler: String,
    /// Number of the event
    #[arg(value_parser = parse_id, allow_negative_numbers = true)]
    event: i64,
    /// Run only this item of a handler with `split`. Default: all items
    #[arg(long, value_name = "NUMBER")]
    item: Option<u32>,
}

impl EvalArgs {
    /// Whether the input is a file. Then no configuration is needed.
    pub fn is_for_file(&self) -> bool {
        self.input.as_ref().is_some_and(|input| !input.bytes().all(|b| b.is_ascii_digit()))
    }
}

/// Prints the outputs of an expression, one per line.
pub fn eval(args: &EvalArgs, loaded: Option<&LoadedConfig>) -> Result<(), ExitError> {
    let expression = compile("expression", &args.expression)?;
    let outputs = match (&args.input, loaded) {
        (Some(file), _) if args.is_for_file() => {
            let body = read_body(file)?;
            let pool = EvaluatorPool::new(&std::env::temp_dir(), &supervisor(""));
            let context = EventContext {
                body: &body,
                content_type: args.content_type.as_deref(),
                received_at_ms: clock::wall_ms(),
                ..EventContext::default()
            };
            pool.outputs(0, &expression, &context)
        }
        (_, Some(_)) if args.content_type.is_some() => {
            return Err(usage_error(
                "eval: --content-type does not apply to a stored event, which has its own: \
                 expected a file, or - for standard input",
            ));
        }
        (input, Some(loaded)) => {
            let store = open_store(loaded)?;
            let number = input.as_deref().map(parse_id).transpose();
            let number = number.map_err(|error| {
                usage_error(format!("event {}: {error}", input.as_deref().unwrap_or_default()))
            })?;
            let newest = queries::find_newest_event(&store.conn)?;
            let Some(number) = number.or(newest) else {
                return Err(user_error("the database has no events yet"));
            };
            let event = load_event(&store, number)?;
            let builder = task_builder(loaded, &store)?;
            builder.with_context(&event, None, |context| {
                builder.expressions.outputs(0, &expression, context)
            })
        }
        (_, None) => return Err(user_error("a stored event needs a configuration")),
    };
    let mut out = output::stdout();
    for output in outputs.map_err(user_error)? {
        out.write_all(&output).and_then(|()| writeln!(out))?;
    }
    Ok(())
}

/// Compiles an expression of the command line. `name` is that of the argument.
pub fn compile(name: &str, text: &str) -> Result<Expression, ExitError> {
    Expression::new(text).map_err(|error| {
        let (line, column, text) = (error.line, error.column, error.text);
        usage_error(format!("{name}: line {line}, column {column}: {text}"))
    })
}

fn read_body(file: &str) -> Result<Vec<u8>, ExitError> {
    let mut body = Vec::new();
    let read = match file {
        "-" => std::io::stdin().lock().read_to_end(&mut body),
        file => std::fs::File::open(file).and_then(|mut file| file.read_to_end(&mut body)),
    };
    read.with_context(|| format!("{file}: can't be read"))?;
    Ok(body)
}

/// Creates the owner of the processes that this command starts. Its id differs from the database's own id,
/// so a server that starts meanwhile does not kill them as orphans.
fn supervisor(database_id: &str) -> Arc<Supervisor> {
    Supervisor::new(&format!("cli.{}.{database_id}", std::process::id()))
}

/// Makes a task builder for the configuration: it evaluates expressions and prepares the inputs of handlers.
pub fn task_builder(loaded: &LoadedConfig, store: &Store) -> Result<TaskBuilder, ExitError> {
    let readers = store::read_pool(store, 1)?;
    let supervisor = supervisor(&store.database_id);
    let folder = store.path.parent().unwrap_or(Path::new("."));
    let expressions = EvaluatorPool::new(folder, &supervisor);
    let paths = loaded.config.sources.iter();
    let paths = paths.filter_map(|source| Some((source.name.clone(), source.path()?.to_owned())));
    let paths = Arc::new(ArcSwap::from_pointee(paths.collect()));
    Ok(TaskBuilder { readers, expressions, paths, supervisor, lookups: LookupLimit::default() })
}

fn load_event(store: &Store, event: i64) -> Result<Event, ExitError> {
    if let Some(error) = check_event(store, event)? {
        return Err(user_error(error));
    }
    let event = event_reads::load_event(&store.conn, EventId(event))?;
    event.obstacle().map_or(Ok(event), |error| Err(user_error(error)))
}

/// Prints which handlers match an event, with their inputs and keys.
pub fn print_matching_handlers(
    out: &mut impl Write,
    loaded: &LoadedConfig,
    event: i64,
) -> Result<(), ExitError> {
    let store = open_store(loaded)?;
    let event = load_event(&store, event)?;
    let builder = task_builder(loaded, &store)?;
    let (mut names, mut lines) = (Vec::new(), Vec::new());
    let has_source = |handler: &&Handler| handler.sources.contains(&event.source);
    for handler in loaded.config.handlers.iter().filter(has_source) {
        let (is_match, line) = match evaluate(&builder, &event, handler)? {
            HandlerDecision::Skip => (false, "not wanted by when".to_owned()),
            HandlerDecision::Failed { expression, reason } => {
                (true, format!("{expression} fails: {reason}"))
            }
            HandlerDecision::Run(matched) => {
                (true, describe_match(&builder, &event, handler, &matched)?)
            }
        };
        if is_match {
            names.push(handler.name.as_str());
        }
        lines.push(format!("  {}: {line}", handler.name));
    }
    let names = if names.is_empty() { "no handler".to_owned() } else { names.join(", ") };
    writeln!(out, "event {} of {}: matches {names}", event.id, event.source)?;
    Ok(lines.iter().try_for_each(|line| writeln!(out, "{line}"))?)
}

fn evaluate(
    builder: &TaskBuilder,
    event: &Event,
    handler: &Handler,
) -> Result<HandlerDecision, ExitError> {
    let handlers = [(handler, HandlerId(0))].into_iter();
    let planner = match event.source.as_str() {
        INTERNAL_SOURCE => settled_jobs::stored_alert_planner(handlers),
        _ => JobPlanner::for_handlers(handlers),
    };
    let Some(expressions) = planner.expressions() else {
        return Ok(HandlerDecision::Run(HandlerMatch::default()));
    };
    let result = builder
        .with_context(event, None, |context| {
            let context = EventContext { event_id: None, ..*context };
            builder.expressions.evaluate(0, expressions, &context)
        })
        .map_err(|_| user_error(format!("{}: try again", builder.expressions.busy_reason())))?;
    let decision = result.handlers.into_iter().next();
    decision.ok_or_else(|| user_error("internal error: the expressions have no result"))
}

/// Describes the input and the keys of the job that a handler would get.
fn describe_match(
    builder: &TaskBuilder,
    event: &Event,
    handler: &Handler,
    matched: &HandlerMatch,
) -> Result<String, ExitError> {
    let mut parts = Vec::new();
    let mut item: Option<Arc<[u8]>> = None;
    if let Some(items) = &matched.items {
        parts.push(format!("{} items", items.len()));
        if !items.is_empty() {
            let mut first = Vec::new();
            items.get(0, &mut first)?;
            item = Some(Arc::from(first));
        }
    }
    let is_empty = matched.items.as_ref().is_some_and(|items| items.is_empty());
    if !is_empty {
        parts.extend(describe_keys(&matched.keys.get(0)?));
    }
    parts.extend(matched.key_errors.iter().map(|error| format!("{error} (no key)")));
    let input = match &handler.transform {
        _ if is_empty => None,
        None => item.as_ref().map(|item| Ok(item.to_vec())),
        Some(transform) => Some(builder.with_context(event, item.as_ref(), |context| {
            let busy = |_| Err(builder.expressions.busy_reason());
            builder.expressions.transform(0, transform, context).unwrap_or_else(busy)
        })),
    };
    let first = if matched.items.is_some() { "the first: " } else { "with " };
    match input {
        None if parts.is_empty() => parts.push("with the unchanged body".to_owned()),
        None => {}
        Some(Ok(input)) => {
            parts.push(format!("{first}{}", preview(&String::from_utf8_lossy(&input))));
        }
        Some(Err(reason)) => parts.push(format!("transform fails: {reason}")),
    }
    Ok(parts.join(", "))
}

fn describe_keys(keys: &RawJobKeys) -> Vec<String> {
    use crate::domain::version_value::VersionValue;
    let version = keys.version.as_ref().map(|version| match version {
        VersionValue::Number(digits) => digits.clone(),
        VersionValue::Text(text) => text.clone(),
    });
    let all = [
        ("ordering_key", &keys.ordering_key),
        ("version_by", &version),
        ("unique_by", &keys.unique_key),
        ("debounce_by", &keys.debounce_key),
    ];
    let describe = |(name, key): (&str, &Option<String>)| {
        key.as_ref().map(|key| format!("{name} {}", preview(key)))
    };
    all.into_iter().filter_map(describe).collect()
}

/// Returns the start of a text as one line.
fn preview(text: &str) -> String {
    output::escape_line(&text.chars().take(MAX_PREVIEW_CHARS).collect::<String>())
}

/// Runs a handler for an event in the foreground. With `split`, it runs the handler for each item.
pub fn run(loaded: &LoadedConfig, args: &RunArgs) -> Result<(), ExitError> {
    let name = &args.handler;
    let Some(handler) = loaded.config.handlers.iter().find(|handler| handler.name == *name) else {
        return Err(user_error(format!("handler {name}: there is no such handler in config.toml")));
    };
    if args.item.is_some() && handler.split.is_none() {
        let text = format!("run: --item does not apply: handler {name} has no split");
        return Err(usage_error(text));
    }
    let secrets = read_secrets(loaded, &format!("handlers.{name}"))?;
    let store = open_store(loaded)?;
    let event = load_event(&store, args.event)?;
    let builder = task_builder(loaded, &store)?;
    let runtime = app::build_handler(handler, &secrets, &NatsThread::default());
    builder.supervisor.become_subreaper()?;
    let job = queries::find_newest_job(&store.conn, event.id, name)?;
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
        is_prefetched: false,
    };
    let mut all_succeeded = true;
    match builder.reevaluate(&claimed(None), &runtime, &event) {
        Err(result) => return Err(user_error(result.detail)),
        Ok(None) => return Err(user_error(format!("event {}: not wanted by when", event.id))),
        Ok(Some(JobSpec::Items(items))) => {
            let count = items.count();
            if let Some(number) = args.item
                && !usize::try_from(number).is_ok_and(|number| (1..=count).contains(&number))
            {
                let id = event.id;
                let items = format_count(count, "item");
                let text = format!("item {number}: handler {name} makes {items} of event {id}");
                return Err(user_error(text));
            }
            let mut body = Vec::new();
            for index in 0..count {
                let number = u32::try_from(index + 1)?;
                if args.item.is_some_and(|selected| selected != number) {
                    continue;
                }
                items.read(index, &mut body)?;
                let item = Arc::from(body.as_slice());
                all_succeeded &=
                    run_one(&builder, &claimed(Some(number)), &runtime, &event, Some(&item))?;
            }
        }
        Ok(Some(_)) => all_succeeded = run_one(&builder, &claimed(None), &runtime, &event, None)?,
    }
    runtime.runner.close();
    builder.supervisor.wait_for_runs(GRACE * 2);
    if all_succeeded { Ok(()) } else { Err(ExitError { code: 1, text: String::new() }) }
}

/// Runs one task and prints its output and outcome. Returns whether it succeeded.
fn run_one(
    builder: &TaskBuilder,
    claimed: &ClaimedJob,
    runtime: &HandlerRuntime,
    event: &Event,
    item: Option<&Arc<[u8]>>,
) -> Result<bool, ExitError> {
    let cancel = CancelToken::new()?;
    let result: AttemptResult = match builder.build_task(claimed, runtime, event.clone(), item) {
        Ok(task) => runtime.runner.run(&task, &cancel),
        Err(result) => result,
    };
    output::stdout().write_all(&result.stdout)?;
    output::stderr().write_all(&result.stderr)?;
    let item = claimed.item.map(|number| format!("item {number}: ")).unwrap_or_default();
    writeln!(output::stderr(), "{item}{}: {}", result.outcome.name(), result.detail)?;
    Ok(result.outcome == Outcome::Succeeded)
}
