//! Builds the task of a claimed job: loads the event and the item, and evaluates `transform`. For a job
//! whose expressions failed at intake, it evaluates them again.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::config::{JetStreamTarget, is_subject_token};
use crate::domain::idempotency_key::IdempotencyKey;
use crate::domain::job_plan::{JobPlan, JobSpec};
use crate::domain::{AttemptResult, Event, Outcome};
use crate::expression::{EvaluatorPool, EventContext, Expression};
use crate::handler::{self, HandlerRuntime, LookupLimit, MessageAddress, Task};
use crate::jetstream::derived_message_id;
use crate::planner::{self, JobPlanner};
use crate::process::Supervisor;
use crate::scheduler::retry;
use crate::store::ReadPool;
use crate::store::event_reads::{self, JobInput};
use crate::store::jobs::{ClaimedJob, queue};

/// The path templates of the sources, by name. `$params` is read with them. A reload replaces the map.
pub type SourcePaths = Arc<ArcSwap<HashMap<String, String>>>;

/// Everything needed to build a task from a claim.
#[derive(Clone)]
pub struct TaskBuilder {
    pub readers: ReadPool,
    pub expressions: EvaluatorPool,
    pub paths: SourcePaths,
    /// The owner of the processes that run tasks.
    pub supervisor: Arc<Supervisor>,
    /// The bound on the DNS lookups of all tasks.
    pub lookups: LookupLimit,
}

impl TaskBuilder {
    /// Returns why a prefetched job must not start. If that cannot be read, neither can its event.
    pub fn start_obstacle(&self, claimed: &ClaimedJob) -> Option<&'static str> {
        let conn = claimed.is_prefetched.then(|| self.readers.get().ok()).flatten()?;
        queue::start_obstacle(&conn, claimed.claim.job).ok().flatten()
    }

    /// Loads the events and items of claimed jobs, in their order.
    pub fn load_inputs(&self, claimed: &[ClaimedJob]) -> Vec<Result<JobInput, AttemptResult>> {
        match self.readers.get() {
            Ok(conn) => {
                let loaded = event_reads::load_inputs(&conn, claimed);
                loaded.map(|loaded| check_input(loaded.map_err(Into::into))).collect()
            }
            Err(e) => {
                let unreadable = event_unreadable(&e.into());
                claimed.iter().map(|_| Err(unreadable.clone())).collect()
            }
        }
    }

    /// Builds the task that the handler runs.
    ///
    /// # Errors
    /// The input cannot be built: returns the result of the attempt.
    pub fn build_task(
        &self,
        claimed: &ClaimedJob,
        handler: &HandlerRuntime,
        event: Event,
        item: Option<&Arc<[u8]>>,
    ) -> Result<Task, AttemptResult> {
        let input = self.build_input(claimed, handler, &event, item)?;
        let idempotency_key = idempotency_key(&event, &handler.settings.name, claimed);
        let message = match handler.settings.jetstream() {
            Some(target) => {
                let settings = (target, handler.settings.name.as_str());
                Some(self.message_address(claimed, settings, &event, item, &idempotency_key)?)
            }
            None => None,
        };
        let retry = &handler.settings.retry;
        Ok(Task {
            claim: claimed.claim,
            handler: Arc::clone(&handler.settings),
            env: Arc::clone(&handler.env),
            headers: Arc::clone(&handler.headers),
            sign: Arc::clone(&handler.sign),
            item: claimed.item,
            input,
            is_json_input: item.is_some() || handler.settings.transform.is_some(),
            max_attempts: retry::max_attempts(retry, claimed.claim.attempt, claimed.failures),
            idempotency_key,
            message,
            supervisor: Arc::clone(&self.supervisor),
            lookups: self.lookups.clone(),
            event: Arc::new(event),
        })
    }

    /// The handler's input: the output of `transform` if there is one, else the item or the body.
    fn build_input(
        &self,
        claimed: &ClaimedJob,
        handler: &HandlerRuntime,
        event: &Event,
        item: Option<&Arc<[u8]>>,
    ) -> Result<Arc<[u8]>, AttemptResult> {
        let Some(transform) = &handler.settings.transform else {
            return Ok(Arc::clone(item.unwrap_or(&event.body)));
        };
        let fairness_key = u64::try_from(claimed.source.0).unwrap_or(0);
        let transformed = self.with_context(event, item, |context| {
            self.expressions.transform(fairness_key, transform, context)
        });
        match transformed {
            Ok(output) => {
                output.map(Arc::from).map_err(|reason| expression_failed("transform", &reason))
            }
            Err(_) => Err(self.evaluators_busy()),
        }
    }

    /// Evaluates the expressions of `jetstream.subject` and `jetstream.message_id`.
    fn message_address(
        &self,
        claimed: &ClaimedJob,
        (target, handler): (&JetStreamTarget, &str),
        event: &Event,
        item: Option<&Arc<[u8]>>,
        idempotency_key: &str,
    ) -> Result<MessageAddress, AttemptResult> {
        let subject = target.subject.build(|expression| {
            let value = self.evaluate_text("subject", expression, claimed, event, item)?;
            match is_subject_token(&value) {
                true => Ok(value),
                false => Err(expression_failed(
                    "subject",
                    &format!(
                        "{value:?} is no token of a subject: expected text without blanks, ., * and >, at most 255 bytes"
                    ),
                )),
            }
        })?;
        let Some(expression) = &target.message_id else {
            return Ok(MessageAddress { subject, id: idempotency_key.to_owned() });
        };
        let value = self.evaluate_text("message_id", expression, claimed, event, item)?;
        let id = derived_message_id((&event.source, &value), handler, claimed.item, claimed.replay);
        Ok(MessageAddress { subject, id })
    }

    /// Evaluates an expression of the handler, and returns its first output as text. Null and false are errors, as is empty text.
    fn evaluate_text(
        &self,
        name: &str,
        expression: &Expression,
        claimed: &ClaimedJob,
        event: &Event,
        item: Option<&Arc<[u8]>>,
    ) -> Result<String, AttemptResult> {
        let fairness_key = u64::try_from(claimed.source.0).unwrap_or(0);
        let output = self.with_context(event, item, |context| {
            self.expressions.transform(fairness_key, expression, context)
        });
        let output = output.map_err(|_| self.evaluators_busy())?;
        let output = output.map_err(|reason| expression_failed(name, &reason))?;
        match serde_json::from_slice(&output) {
            Ok(serde_json::Value::String(text)) if text.is_empty() => {
                Err(expression_failed(name, "the text is empty"))
            }
            Ok(serde_json::Value::String(text)) => Ok(text),
            Ok(serde_json::Value::Number(_)) => Ok(String::from_utf8_lossy(&output).into_owned()),
            _ => {
                let text = String::from_utf8_lossy(&output);
                let reason = format!("{text} is neither text nor a number");
                Err(expression_failed(name, &reason))
            }
        }
    }

    /// Evaluates the handler's current expressions on the event. `None` means that the handler does not
    /// take the event.
    ///
    /// # Errors
    /// An expression still fails, or no evaluator is free: returns the result of the attempt.
    pub fn reevaluate(
        &self,
        claimed: &ClaimedJob,
        handler: &HandlerRuntime,
        event: &Event,
    ) -> Result<Option<JobSpec>, AttemptResult> {
        let planner = JobPlanner::for_handlers([(&*handler.settings, claimed.handler)].into_iter());
        let planned = match planner.expressions() {
            None => planner.unconditional_plan(),
            Some(expressions) => {
                let fairness_key = u64::try_from(claimed.source.0).unwrap_or(0);
                let evaluated = self.with_context(event, None, |context| {
                    let context = EventContext { event_id: None, ..*context };
                    self.expressions.evaluate(fairness_key, expressions, &context)
                });
                planner.plan_from(evaluated.map_err(|_| self.evaluators_busy())?)
            }
        };
        match planned.plan {
            JobPlan::Plain(handlers) if handlers.is_empty() => Ok(None),
            JobPlan::Plain(_) => Ok(Some(JobSpec::Event(Default::default()))),
            JobPlan::Unevaluated(_) => Err(self.evaluators_busy()),
            JobPlan::Evaluated(all) => match all.into_iter().next() {
                Some((_, JobSpec::Dead(reason))) => Err(AttemptResult {
                    is_permanent: true,
                    ..AttemptResult::new(Outcome::Failed, reason)
                }),
                other => Ok(other.map(|(_, spec)| spec)),
            },
        }
    }

    /// The result of an attempt for which no evaluator was free: the job waits and is tried again.
    fn evaluators_busy(&self) -> AttemptResult {
        handler::shortage_result(&self.expressions.busy_reason())
    }

    /// Calls `f` with the evaluation context of an event, or of one of its items.
    pub fn with_context<T>(
        &self,
        event: &Event,
        item: Option<&Arc<[u8]>>,
        f: impl FnOnce(&EventContext<'_>) -> T,
    ) -> T {
        let headers: Vec<(&str, &[u8])> =
            event.headers.0.iter().map(|(name, value)| (name.as_str(), &value[..])).collect();
        let paths = self.paths.load();
        let params = paths.get(&event.source).map(|path| planner::path_params(path, &event.path));
        let content_type = event.headers.get("content-type");
        f(&EventContext {
            body: item.unwrap_or(&event.body),
            content_type: match item {
                Some(_) => Some("application/json"),
                None => content_type.and_then(planner::content_type),
            },
            source: &event.source,
            headers: &headers,
            query: event.query.as_deref(),
            path: &event.path,
            params: params.as_deref().unwrap_or_default(),
            ip: &event.ip,
            client: event.client.as_deref(),
            received_at_ms: event.received_at_ms,
            event_id: Some(event.id.0),
        })
    }
}

/// Returns what was loaded for a job.
///
/// # Errors
/// It cannot be read, or the event cannot be run any more: returns the result of the attempt.
fn check_input(loaded: anyhow::Result<JobInput>) -> Result<JobInput, AttemptResult> {
    let input = loaded.map_err(|e| event_unreadable(&e))?;
    match input.event.obstacle() {
        Some(reason) => Err(AttemptResult {
            is_permanent: true,
            ..AttemptResult::new(Outcome::Failed, format!("not started: {reason}"))
        }),
        None => Ok(input),
    }
}

/// The result of an attempt whose event cannot be read. A passing error is not counted against the job.
fn event_unreadable(error: &anyhow::Error) -> AttemptResult {
    let reason = format!("the event cannot be read: {error}");
    match event_reads::is_transient(error) {
        true => handler::shortage_result(&reason),
        false => AttemptResult::new(Outcome::Failed, format!("not started: {reason}")),
    }
}

/// The result of an attempt whose expression failed. The failure is permanent: the expression gives the
/// same result each time until somebody changes it.
fn expression_failed(which: &str, reason: &str) -> AttemptResult {
    AttemptResult {
        is_permanent: true,
        ..AttemptResult::new(Outcome::Failed, format!("{which}: {reason}"))
    }
}

/// Builds the idempotency key of a job.
pub fn idempotency_key(event: &Event, handler: &str, claimed: &ClaimedJob) -> String {
    let item = claimed.item.unwrap_or(0);
    IdempotencyKey { uid: event.uid, handler, item, replay: claimed.replay }.to_string()
}
