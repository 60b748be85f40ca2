//! Plans the jobs of an accepted request: its deduplication key, and the jobs of its handlers by
//! `dedupe`, `when`, `split` and the expressions for keys.
//!
//! The planner only decides. Callers evaluate the expressions, inline or in the evaluator pool. The
//! writer looks the key up, in the transaction that stores the event.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use percent_encoding::percent_decode_str;

use crate::config::{self, Dedupe, DedupeSelector, OnDuplicate, Source};
use crate::domain::HandlerId;
use crate::domain::job_plan::{
    DebounceKey, ItemSource, JobKeys, JobPlan, JobSpec, KeyHash, LateDedupe, UniqueKey, hash_key,
    header_key,
};
use crate::expression::{
    self, EvaluationResult, Expression, ExpressionSet, HandlerDecision, HandlerExpressions,
    HandlerMatch, KeySet, RawJobKeys,
};
use crate::redact::REDACTED;

pub mod settled_jobs;
#[cfg(test)]
mod tests;

/// Maximum size of the expression errors of an event, which people read.
const MAX_EXPRESSION_ERROR_CHARS: usize = 2_000;
/// Limit of the `detail` of a job that is dead from the start.
const MAX_DETAIL_CHARS: usize = 500;

/// Plans the events of one source by the current configuration.
#[derive(Clone, Debug)]
pub struct JobPlanner {
    expressions: ExpressionSet,
    handlers: Vec<HandlerSpec>,
    /// All handlers: the plan of an event when no handler has an expression.
    handler_ids: Arc<[HandlerId]>,
    /// All handlers, or none if one of them has a `split`.
    handler_ids_without_split: Arc<[HandlerId]>,
    /// The kind of the keys of `dedupe`; see `hash_key`.
    dedupe_kind: u8,
    /// `dedupe` alone, for a request that can only be a duplicate.
    dedupe_alone: Option<ExpressionSet>,
    /// The source redacts values, so a key of `dedupe` may have one.
    is_redacting: bool,
    /// The text of `dedupe`, if it reads a signed body by its Content-Type, which is not signed.
    guarded_dedupe: Option<String>,
}

/// Plans the deferred events of one source by the current configuration.
#[derive(Clone, Debug)]
pub struct DeferredPlanner {
    /// For events whose key of `dedupe` is known.
    handlers: JobPlanner,
    /// For events whose `dedupe` is evaluated now. `None` for the built-in source.
    with_dedupe: Option<(Source, JobPlanner)>,
}

impl DeferredPlanner {
    /// `source`: `None` for the built-in source. `handlers`: the handlers that subscribe to it.
    pub fn new<'c>(
        source: Option<&Source>,
        handlers: impl Iterator<Item = (&'c config::Handler, HandlerId)> + Clone,
    ) -> Self {
        let with_dedupe =
            source.map(|source| (source.clone(), JobPlanner::new(source, handlers.clone())));
        let handlers = match source {
            Some(_) => JobPlanner::for_handlers(handlers),
            None => settled_jobs::stored_alert_planner(handlers),
        };
        Self { handlers, with_dedupe }
    }

    /// Returns the planner of an event. `is_late`: its `dedupe` is evaluated too.
    pub fn job_planner(&self, is_late: bool) -> &JobPlanner {
        match &self.with_dedupe {
            Some((_, planner)) if is_late => planner,
            _ => &self.handlers,
        }
    }

    /// Returns what the writer needs to recognise a duplicate, without the key of an expression.
    pub fn late_dedupe(&self, headers: &[(&str, &[u8])], body: &[u8]) -> LateDedupe {
        let Some((source, planner)) = &self.with_dedupe else { return LateDedupe::default() };
        LateDedupe {
            source_key: source_dedupe_key(source, headers, body),
            body_key: planner.body_key(body),
            window_ms: window_ms(source.dedupe_window),
            retry_dead: source.on_duplicate == OnDuplicate::RetryDead,
        }
    }
}

/// The settings of a handler that its expressions don't give.
#[derive(Clone, Debug)]
struct HandlerSpec {
    handler: HandlerId,
    name: String,
    unique_window_ms: i64,
    debounce_ms: i64,
}

/// The plan of one event.
#[derive(Clone, Debug)]
pub struct PlannedEvent {
    pub plan: JobPlan,
    /// The key that the expression of `dedupe` gave.
    pub dedupe: Option<KeyHash>,
    /// Errors of optional expressions, recorded on the event.
    pub expression_errors: Option<String>,
}

impl JobPlanner {
    /// `handlers`: the handlers that subscribe to the source.
    pub fn new<'c>(
        source: &Source,
        handlers: impl Iterator<Item = (&'c config::Handler, HandlerId)>,
    ) -> Self {
        let dedupe = match &source.dedupe {
            Dedupe::Key(DedupeSelector::Jq(expression)) => Some(expression.clone()),
            _ => None,
        };
        let dedupe_alone =
            dedupe.clone().map(|dedupe| ExpressionSet::new(Some(dedupe), Vec::new()));
        let dedupe_kind = key_kind(source, b'j');
        let guarded_dedupe = dedupe_to_guard(source).map(|dedupe| dedupe.text().to_owned());
        Self {
            dedupe_kind,
            dedupe_alone,
            guarded_dedupe,
            is_redacting: !source.redact.is_empty(),
            ..Self::with_expressions(dedupe, handlers)
        }
    }

    /// Plans jobs of events that are already stored, which need no deduplication.
    pub fn for_handlers<'c>(
        handlers: impl Iterator<Item = (&'c config::Handler, HandlerId)>,
    ) -> Self {
        Self::with_expressions(None, handlers)
    }

    fn with_expressions<'c>(
        dedupe: Option<Expression>,
        handlers: impl Iterator<Item = (&'c config::Handler, HandlerId)>,
    ) -> Self {
        let to_ms =
            |time: std::time::Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX / 4);
        let (mut specs, mut expressions) = (Vec::new(), Vec::new());
        for (settings, handler) in handlers {
            specs.push(HandlerSpec {
                handler,
                name: settings.name.clone(),
                unique_window_ms: settings
                    .unique_by
                    .as_ref()
                    .map_or(0, |unique| to_ms(unique.window)),
                debounce_ms: settings.debounce.map_or(0, to_ms),
            });
            expressions.push(HandlerExpressions {
                when: settings.when.clone(),
                split: settings.split.clone(),
                ordering_key: settings.ordering_key.clone(),
                version_by: settings.version_by.clone(),
                unique_by: settings.unique_by.as_ref().map(|unique| unique.jq.clone()),
                debounce_by: settings.debounce_by.clone(),
            });
        }
        let handler_ids: Arc<[HandlerId]> = specs.iter().map(|spec| spec.handler).collect();
        let has_split = expressions.iter().any(|handler| handler.split.is_some());
        let handler_ids_without_split =
            if has_split { Arc::default() } else { Arc::clone(&handler_ids) };
        let expressions = ExpressionSet::new(dedupe, expressions);
        let (dedupe_kind, dedupe_alone, guarded_dedupe) = (b'j', None, None);
        Self {
            expressions,
            handlers: specs,
            handler_ids,
            handler_ids_without_split,
            dedupe_kind,
            dedupe_alone,
            is_redacting: false,
            guarded_dedupe,
        }
    }

    /// The expressions to evaluate for each event; `None` if there are none.
    pub fn expressions(&self) -> Option<&ExpressionSet> {
        (!self.expressions.is_empty()).then_some(&self.expressions)
    }

    /// The expression of `dedupe` alone; `None` if `dedupe` is not an expression.
    pub fn dedupe_expression(&self) -> Option<&ExpressionSet> {
        self.dedupe_alone.as_ref()
    }

    /// Hashes the key that the expression of `dedupe` gave. `None`: it has a redacted value, so that different
    /// events have the same key.
    pub fn dedupe_key(&self, text: &str) -> Option<KeyHash> {
        let is_redacted = self.is_redacting && text.contains(REDACTED);
        (!is_redacted).then(|| hash_key(self.dedupe_kind, &[text.as_bytes()]))
    }

    /// Hashes a second key of the event, stored beside the key of `dedupe`. It makes the same bytes
    /// under another Content-Type a duplicate. A changed `dedupe` starts with new keys.
    pub fn body_key(&self, body: &[u8]) -> Option<KeyHash> {
        let text = self.guarded_dedupe.as_ref()?;
        Some(hash_key(b'g', &[&text.len().to_le_bytes(), text.as_bytes(), body]))
    }

    /// Plans an event of handlers without expressions.
    pub fn unconditional_plan(&self) -> PlannedEvent {
        PlannedEvent {
            plan: JobPlan::Plain(Arc::clone(&self.handler_ids)),
            dedupe: None,
            expression_errors: None,
        }
    }

    /// Plans an event whose handlers' expressions are evaluated after the response.
    pub fn deferred_plan(&self, dedupe: Option<String>) -> PlannedEvent {
        let mut errors = Vec::new();
        PlannedEvent {
            plan: JobPlan::Unevaluated(Arc::clone(&self.handler_ids_without_split)),
            dedupe: self.usable_dedupe_key(dedupe, &mut errors),
            expression_errors: errors.pop(),
        }
    }

    /// Plans an event by the results of its expressions.
    pub fn plan_from(&self, results: EvaluationResult) -> PlannedEvent {
        let mut errors = Vec::new();
        let dedupe = match results.dedupe {
            Ok(key) => self.usable_dedupe_key(key, &mut errors),
            Err(reason) => {
                errors.push(format!("dedupe: {reason}"));
                None
            }
        };
        let mut all = Vec::with_capacity(self.handlers.len());
        for (spec, decision) in self.handlers.iter().zip(results.handlers) {
            match decision {
                HandlerDecision::Skip => {}
                HandlerDecision::Failed { expression, reason } => {
                    let detail =
                        truncate_chars(&format!("{expression}: {reason}"), MAX_DETAIL_CHARS);
                    all.push((spec.handler, JobSpec::Dead(detail)));
                }
                HandlerDecision::Run(handler_match) => {
                    errors.extend(
                        handler_match
                            .key_errors
                            .iter()
                            .map(|error| format!("{}: {error}", spec.name)),
                    );
                    all.push((spec.handler, spec.job_spec(handler_match)));
                }
            }
        }
        let plan = self.plan(all);
        let expression_errors = (!errors.is_empty())
            .then(|| truncate_chars(&errors.join("; "), MAX_EXPRESSION_ERROR_CHARS));
        PlannedEvent { plan, dedupe, expression_errors }
    }

    /// Hashes the key of `dedupe`. If it has a redacted value, the event gets no key and a note.
    fn usable_dedupe_key(&self, key: Option<String>, errors: &mut Vec<String>) -> Option<KeyHash> {
        let text = key?;
        let key = self.dedupe_key(&text);
        if key.is_none() {
            errors.push("dedupe: no key, because it has a redacted value".to_owned());
        }
        key
    }

    /// Chooses the plan that costs the writer least: most events have one job without keys for each
    /// handler.
    fn plan(&self, all: Vec<(HandlerId, JobSpec)>) -> JobPlan {
        let no_keys = JobKeys::default();
        if !all.iter().all(|(_, spec)| matches!(spec, JobSpec::Event(keys) if *keys == no_keys)) {
            return JobPlan::Evaluated(all);
        }
        if all.len() == self.handler_ids.len() {
            return JobPlan::Plain(Arc::clone(&self.handler_ids));
        }
        JobPlan::Plain(all.into_iter().map(|(handler, _)| handler).collect())
    }
}

impl HandlerSpec {
    fn job_spec(&self, handler_match: HandlerMatch) -> JobSpec {
        let HandlerMatch { items, keys, .. } = handler_match;
        match (items, keys) {
            (Some(items), keys) => {
                JobSpec::Items(Arc::new(SplitItems { items, keys, handler: self.clone() }))
            }
            (None, KeySet::One(keys)) => JobSpec::Event(self.job_keys(&keys)),
            (None, _) => JobSpec::Event(JobKeys::default()),
        }
    }

    fn job_keys(&self, keys: &RawJobKeys) -> JobKeys {
        let hash = |kind: u8, key: &Option<String>| {
            key.as_ref().map(|key| hash_key(kind, &[key.as_bytes()]))
        };
        let window_ms = self.unique_window_ms;
        let debounce_ms = self.debounce_ms;
        JobKeys {
            ordering: hash(b'o', &keys.ordering_key),
            version: keys.version.clone(),
            unique: hash(b'1', &keys.unique_key).map(|key| UniqueKey { key, window_ms }),
            debounce: hash(b'c', &keys.debounce_key).map(|key| DebounceKey { key, debounce_ms }),
        }
    }
}

/// The items of one handler, with their keys.
#[derive(Debug)]
struct SplitItems {
    items: expression::Items,
    keys: KeySet,
    handler: HandlerSpec,
}

impl ItemSource for SplitItems {
    fn count(&self) -> usize {
        self.items.len()
    }

    fn bytes(&self) -> u64 {
        self.items.bytes()
    }

    fn read(&self, at: usize, into: &mut Vec<u8>) -> io::Result<()> {
        self.items.get(at, into)
    }

    fn keys(&self, at: usize) -> io::Result<JobKeys> {
        match &self.keys {
            KeySet::None => Ok(JobKeys::default()),
            keys => Ok(self.handler.job_keys(&keys.get(at)?)),
        }
    }
}

fn truncate_chars(text: &str, chars: usize) -> String {
    text.chars().take(chars).collect()
}

/// Hashes the key of a source's own `dedupe` if that needs no expression.
pub fn source_dedupe_key(
    source: &Source,
    headers: &[(&str, &[u8])],
    body: &[u8],
) -> Option<KeyHash> {
    let Dedupe::Key(key) = &source.dedupe else { return None };
    match key {
        DedupeSelector::Header(name) => header_key(key_kind(source, b'h'), headers, name),
        DedupeSelector::Body => Some(hash_key(key_kind(source, b'b'), &[body])),
        DedupeSelector::Jq(_) => None,
    }
}

/// The source's `dedupe`, if somebody could resend a captured request under another Content-Type
/// and so change its key. No sender signs that header.
fn dedupe_to_guard(source: &Source) -> Option<&Expression> {
    let Dedupe::Key(DedupeSelector::Jq(dedupe)) = &source.dedupe else { return None };
    let is_guarded = source.accept == config::Accept::Any
        && source.verify.scheme.signs_body()
        && dedupe.reads_body_alone();
    is_guarded.then_some(dedupe)
}

/// The kind of the keys of a source's own `dedupe`. It differs from the kind of the preset's keys,
/// as a sender may put the value of one into the other.
fn key_kind(source: &Source, kind: u8) -> u8 {
    if source.delivery_key_window().is_some() { kind.to_ascii_uppercase() } else { kind }
}

/// Converts a window to milliseconds. A longer one is capped so that no sum of times overflows.
pub fn window_ms(window: Duration) -> i64 {
    i64::try_from(window.as_millis()).unwrap_or(i64::MAX / 4).min(i64::MAX / 4)
}

/// The content type that decides how a body is read, at intake and in every later evaluation.
pub fn content_type(value: &[u8]) -> Option<&str> {
    std::str::from_utf8(value).ok().filter(|text| text.is_ascii())
}

/// The named segments of a path, decoded: `pattern` is like `/hooks/{tenant}`.
pub fn path_params(pattern: &str, path: &str) -> Vec<(String, String)> {
    if !pattern.contains('{') {
        return Vec::new();
    }
    let decode_named = |(pattern, sent): (&str, &str)| {
        let name = pattern.strip_prefix('{')?.strip_suffix('}')?;
        let value = percent_decode_str(sent).decode_utf8_lossy().into_owned();
        Some((name.to_owned(), value))
    };
    pattern.split('/').zip(path.split('/')).filter_map(decode_named).collect()
}
