//! From a claim to what its handler gets: the event, the item, what `transform` makes of it; and, for
//! a job whose expressions failed at intake, what they give now.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::domain::job_plan::{JobPlan, JobSpec};
use crate::domain::{AttemptResult, Event, Outcome};
use crate::expression::{EvaluatorPool, EventContext};
use crate::handler::{self, HandlerRuntime, Task};
use crate::planner::{self, JobPlanner};
use crate::scheduler::retry;
use crate::store::jobs::ClaimedJob;
use crate::store::{ReadPool, event_reads};

/// The paths of sources as they are configured now, by their names: what `$params` is read by.
pub type SourcePaths = Arc<ArcSwap<HashMap<String, String>>>;

/// What is needed to make a task of a claim.
#[derive(Clone)]
pub struct TaskBuilder {
    pub readers: ReadPool,
    pub expressions: EvaluatorPool,
    pub paths: SourcePaths,
    /// The first part of every mark.
    pub trail: String,
}

impl TaskBuilder {
    /// The event of a claimed job.
    ///
    /// # Errors
    /// It could not be read: how the attempt ends.
    pub fn load_event(&self, claimed: &ClaimedJob) -> Result<Event, AttemptResult> {
        let found = self.readers.get().map_err(anyhow::Error::from);
        found
            .and_then(|conn| Ok(event_reads::event(&conn, claimed.event)?))
            .map_err(|e| event_unreadable(&e))
    }

    /// The item of a claimed job, if it is one of `split`.
    ///
    /// # Errors
    /// It could not be read: how the attempt ends.
    pub fn load_item(&self, claimed: &ClaimedJob) -> Result<Option<Arc<[u8]>>, AttemptResult> {
        if claimed.item.is_none() {
            return Ok(None);
        }
        let found = self.readers.get().map_err(anyhow::Error::from);
        let found = found.and_then(|conn| Ok(event_reads::item(&conn, claimed.claim.job)?));
        found.map(Some).map_err(|e| event_unreadable(&e))
    }

    /// One job as its handler gets it.
    ///
    /// # Errors
    /// How the attempt ends where there is nothing to be run.
    pub fn build_task(
        &self,
        claimed: &ClaimedJob,
        handler: &HandlerRuntime,
        event: Event,
        item: Option<&Arc<[u8]>>,
    ) -> Result<Task, AttemptResult> {
        let input = self.build_input(claimed, handler, &event, item)?;
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
            key: idempotency_key(&event, &handler.settings.name, claimed),
            run_id: format!("{}.{}.{}", self.trail, claimed.claim.job, claimed.claim.attempt),
            event: Arc::new(event),
        })
    }

    /// The item or the event's bytes, or what `transform` makes of them.
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
        let party = u64::try_from(claimed.source.0).unwrap_or(0);
        let made = self
            .with_context(event, item, |scene| self.expressions.transform(party, transform, scene));
        match made {
            Ok(made) => {
                made.map(Arc::from).map_err(|reason| expression_failed("transform", &reason))
            }
            Err(_) => Err(self.evaluators_busy()),
        }
    }

    /// What the handler makes of the event by its expressions as they are now; `None`: nothing.
    ///
    /// # Errors
    /// They fail still, or could not be asked: how the attempt ends.
    pub fn reevaluate(
        &self,
        claimed: &ClaimedJob,
        handler: &HandlerRuntime,
        event: &Event,
    ) -> Result<Option<JobSpec>, AttemptResult> {
        let judge = JobPlanner::for_handlers([(&*handler.settings, claimed.handler)].into_iter());
        let judged = match judge.expressions() {
            None => judge.unconditional_plan(),
            Some(questions) => {
                let party = u64::try_from(claimed.source.0).unwrap_or(0);
                let asked = self.with_context(event, None, |scene| {
                    let scene = EventContext { event_id: None, ..*scene };
                    self.expressions.evaluate(party, questions, &scene)
                });
                judge.plan_from(asked.map_err(|_| self.evaluators_busy())?)
            }
        };
        match judged.plan {
            JobPlan::Plain(handlers) if handlers.is_empty() => Ok(None),
            JobPlan::Plain(_) => Ok(Some(JobSpec::Event(Default::default()))),
            JobPlan::Unevaluated(_) => Err(self.evaluators_busy()),
            JobPlan::Judged(all) => match all.into_iter().next() {
                Some((_, JobSpec::Dead(why))) => Err(AttemptResult {
                    is_permanent: true,
                    ..AttemptResult::new(Outcome::Failed, why)
                }),
                other => Ok(other.map(|(_, owed)| owed)),
            },
        }
    }

    /// Nothing was found out about the job: it waits, and is asked again.
    fn evaluators_busy(&self) -> AttemptResult {
        handler::not_now(&self.expressions.busy_reason())
    }

    /// An event, or an item of it, as expressions see it.
    pub fn with_context<T>(
        &self,
        event: &Event,
        item: Option<&Arc<[u8]>>,
        ask: impl FnOnce(&EventContext<'_>) -> T,
    ) -> T {
        let headers: Vec<(&str, &[u8])> =
            event.headers.0.iter().map(|(name, value)| (name.as_str(), &value[..])).collect();
        let paths = self.paths.load();
        let params = paths.get(&event.source).map(|path| planner::path_params(path, &event.path));
        let content_type = event.headers.get("content-type");
        ask(&EventContext {
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
            received_at_ms: event.received_at_ms,
            event_id: Some(event.id.0),
        })
    }
}

/// That the database cannot be read now is not the job's fault; that it lacks the event is.
fn event_unreadable(error: &anyhow::Error) -> AttemptResult {
    let reason = format!("the event was not read: {error}");
    match event_reads::is_passing(error) {
        true => handler::not_now(&reason),
        false => AttemptResult::new(Outcome::Failed, format!("not started: {reason}")),
    }
}

/// An expression that fails once fails always: a person has to mend it.
fn expression_failed(which: &str, reason: &str) -> AttemptResult {
    AttemptResult {
        is_permanent: true,
        ..AttemptResult::new(Outcome::Failed, format!("{which}: {reason}"))
    }
}

/// An idempotency key: the event's random id, the handler, the item, the replay; the last two are
/// always there, so that no two jobs share one. At most 100 characters.
pub fn idempotency_key(event: &Event, handler: &str, claimed: &ClaimedJob) -> String {
    let uid = URL_SAFE_NO_PAD.encode(event.uid);
    format!("{uid}-{handler}-{}-{}", claimed.item.unwrap_or(0), claimed.replay)
}
