//! From an accepted request to what it owes: the key that a repeat is known by, and the jobs that its
//! handlers want, by `dedupe`, `when`, `split` and the `…_by`.
//!
//! Decides, and does nothing itself: expressions are asked by whoever calls, in place or of a process;
//! whether a key was seen is decided in the writer's transaction.

use std::io;
use std::sync::Arc;

use percent_encoding::percent_decode_str;
use ring::digest::{Context, SHA256};

use crate::config::{self, Dedupe, Source};
use crate::domain::HandlerId;
use crate::domain::job_plan::{
    DebounceKey, ItemSource, JobKeys, JobPlan, JobSpec, KeyHash, UniqueKey,
};
use crate::expression::{
    self, EvaluationResult, Expression, ExpressionSet, HandlerDecision, HandlerExpressions,
    HandlerMatch, KeySet, RawJobKeys,
};

#[cfg(test)]
mod tests;

/// What is noted on an event is for a person.
const NOTE_CHARS_MAX: usize = 2_000;
/// A `detail`, likewise.
const DETAIL_CHARS_MAX: usize = 500;

/// What is decided about a source's events, by the configuration as it is now.
#[derive(Clone, Debug)]
pub struct JobPlanner {
    expressions: ExpressionSet,
    handlers: Vec<HandlerSpec>,
    /// All of them, where nothing is asked.
    handler_ids: Arc<[HandlerId]>,
    /// All of them, unless one has a `split`.
    handler_ids_without_split: Arc<[HandlerId]>,
    /// Of the keys of `dedupe`.
    dedupe_kind: u8,
    /// `dedupe` alone, of a request that may be no more than a repeat.
    dedupe_alone: Option<ExpressionSet>,
    /// The text of a `dedupe` that reads a signed body by a type that is not signed.
    guarded_dedupe: Option<String>,
}

/// A handler, as far as answers don't say it.
#[derive(Clone, Debug)]
struct HandlerSpec {
    handler: HandlerId,
    name: String,
    unique_window_ms: i64,
    debounce_ms: i64,
}

/// What came of an event.
#[derive(Clone, Debug)]
pub struct PlannedEvent {
    pub plan: JobPlan,
    /// Of a `dedupe` by expression.
    pub dedupe: Option<KeyHash>,
    /// What could not be evaluated and costs no job.
    pub note: Option<String>,
}

impl JobPlanner {
    /// `handlers`: those that take the source's events.
    pub fn new<'c>(
        source: &Source,
        handlers: impl Iterator<Item = (&'c config::Handler, HandlerId)>,
    ) -> Self {
        let dedupe = match &source.dedupe {
            Some(Dedupe::Jq(expression)) => Some(expression.clone()),
            _ => None,
        };
        let dedupe_alone =
            dedupe.clone().map(|dedupe| ExpressionSet::new(Some(dedupe), Vec::new()));
        let dedupe_kind = key_kind(source, b'j');
        let guarded_by = dedupe_to_guard(source).map(|dedupe| dedupe.text().to_owned());
        Self {
            dedupe_kind,
            dedupe_alone,
            guarded_dedupe: guarded_by,
            ..Self::with_expressions(dedupe, handlers)
        }
    }

    /// For jobs that come after their event.
    pub fn for_handlers<'c>(
        handlers: impl Iterator<Item = (&'c config::Handler, HandlerId)>,
    ) -> Self {
        Self::with_expressions(None, handlers)
    }

    fn with_expressions<'c>(
        dedupe: Option<Expression>,
        handlers: impl Iterator<Item = (&'c config::Handler, HandlerId)>,
    ) -> Self {
        let ms = |it: std::time::Duration| i64::try_from(it.as_millis()).unwrap_or(i64::MAX / 4);
        let (mut takers, mut asked) = (Vec::new(), Vec::new());
        for (it, handler) in handlers {
            takers.push(HandlerSpec {
                handler,
                name: it.name.clone(),
                unique_window_ms: it.unique_by.as_ref().map_or(0, |once| ms(once.window)),
                debounce_ms: it.debounce.map_or(0, ms),
            });
            asked.push(HandlerExpressions {
                when: it.when.clone(),
                split: it.split.clone(),
                ordering_key: it.ordering_key.clone(),
                version_by: it.version_by.clone(),
                unique_by: it.unique_by.as_ref().map(|once| once.jq.clone()),
                debounce_by: it.debounce_by.clone(),
            });
        }
        let plain: Arc<[HandlerId]> = takers.iter().map(|of| of.handler).collect();
        let has_split = asked.iter().any(|taker| taker.split.is_some());
        let unsplit = if has_split { Arc::default() } else { Arc::clone(&plain) };
        let questions = ExpressionSet::new(dedupe, asked);
        let (dedupe_kind, dedupe_alone, guarded_by) = (b'j', None, None);
        Self {
            expressions: questions,
            handlers: takers,
            handler_ids: plain,
            handler_ids_without_split: unsplit,
            dedupe_kind,
            dedupe_alone,
            guarded_dedupe: guarded_by,
        }
    }

    /// What is to be asked of each event; `None`: nothing.
    pub fn expressions(&self) -> Option<&ExpressionSet> {
        (!self.expressions.is_empty()).then_some(&self.expressions)
    }

    /// What is to be asked for the key of `dedupe` alone, where that is an expression.
    pub fn dedupe_expression(&self) -> Option<&ExpressionSet> {
        self.dedupe_alone.as_ref()
    }

    /// The key of what the source's expression gave.
    pub fn dedupe_key(&self, text: &str) -> KeyHash {
        hash_key(self.dedupe_kind, &[text.as_bytes()])
    }

    /// The key that stands beside that of `dedupe`, so that the same bytes under another type are no other
    /// event. A `dedupe` that is changed begins anew.
    pub fn guard_key(&self, body: &[u8]) -> Option<KeyHash> {
        let text = self.guarded_dedupe.as_ref()?;
        Some(hash_key(b'g', &[&text.len().to_le_bytes(), text.as_bytes(), body]))
    }

    /// What an event owes of which nothing is asked.
    pub fn unconditional_plan(&self) -> PlannedEvent {
        PlannedEvent {
            plan: JobPlan::Plain(Arc::clone(&self.handler_ids)),
            dedupe: None,
            note: None,
        }
    }

    /// An event whose handlers' expressions are evaluated later.
    pub fn deferred_plan(&self, dedupe: Option<String>) -> PlannedEvent {
        let dedupe = dedupe.map(|key| hash_key(self.dedupe_kind, &[key.as_bytes()]));
        PlannedEvent {
            plan: JobPlan::Unevaluated(Arc::clone(&self.handler_ids_without_split)),
            dedupe,
            note: None,
        }
    }

    /// What an event owes by its answers.
    pub fn plan_from(&self, answers: EvaluationResult) -> PlannedEvent {
        let mut notes = Vec::new();
        let dedupe = match answers.dedupe {
            Ok(key) => key.map(|key| hash_key(self.dedupe_kind, &[key.as_bytes()])),
            Err(reason) => {
                notes.push(format!("dedupe: {reason}"));
                None
            }
        };
        let mut all = Vec::with_capacity(self.handlers.len());
        for (of, taken) in self.handlers.iter().zip(answers.handlers) {
            match taken {
                HandlerDecision::Skip => {}
                HandlerDecision::Failed { expression: which, reason } => {
                    let why = truncate_chars(&format!("{which}: {reason}"), DETAIL_CHARS_MAX);
                    all.push((of.handler, JobSpec::Dead(why)));
                }
                HandlerDecision::Run(wanted) => {
                    notes.extend(wanted.key_errors.iter().map(|it| format!("{}: {it}", of.name)));
                    all.push((of.handler, of.job_spec(wanted)));
                }
            }
        }
        let owed = self.plan(all);
        let note = (!notes.is_empty()).then(|| truncate_chars(&notes.join("; "), NOTE_CHARS_MAX));
        PlannedEvent { plan: owed, dedupe, note }
    }

    /// Most events owe a job without keys to each: that costs the writer least.
    fn plan(&self, all: Vec<(HandlerId, JobSpec)>) -> JobPlan {
        let plain = JobKeys::default();
        if !all.iter().all(|(_, owed)| matches!(owed, JobSpec::Event(keys) if *keys == plain)) {
            return JobPlan::Judged(all);
        }
        if all.len() == self.handler_ids.len() {
            return JobPlan::Plain(Arc::clone(&self.handler_ids));
        }
        JobPlan::Plain(all.into_iter().map(|(handler, _)| handler).collect())
    }
}

impl HandlerSpec {
    fn job_spec(&self, wanted: HandlerMatch) -> JobSpec {
        let HandlerMatch { items, keys, .. } = wanted;
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
        let settle_ms = self.debounce_ms;
        JobKeys {
            order: hash(b'o', &keys.ordering_key),
            newest: keys.version.clone(),
            once: hash(b'1', &keys.unique_key).map(|key| UniqueKey { key, window_ms }),
            collapse: hash(b'c', &keys.debounce_key).map(|key| DebounceKey { key, settle_ms }),
        }
    }
}

/// The items of a handler, with what their keys are.
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

/// The key of a source's own `dedupe` where no expression is needed for it.
pub fn source_dedupe_key(
    source: &Source,
    headers: &[(&str, &[u8])],
    body: &[u8],
) -> Option<KeyHash> {
    match &source.dedupe {
        Some(Dedupe::Header(name)) => header_key(key_kind(source, b'h'), headers, name),
        Some(Dedupe::Body) => Some(hash_key(key_kind(source, b'b'), &[body])),
        Some(Dedupe::Jq(_)) | None => None,
    }
}

/// The source's `dedupe`, where a captured request could be read otherwise under another Content-Type:
/// that header is signed by no sender.
fn dedupe_to_guard(source: &Source) -> Option<&Expression> {
    let Some(Dedupe::Jq(dedupe)) = &source.dedupe else { return None };
    let is_guarded = source.accept == config::Accept::Any
        && source.verify.signs_body()
        && dedupe.reads_body_alone();
    is_guarded.then_some(dedupe)
}

/// Keys of a source's own `dedupe` are kept apart from those of its preset: a sender may put the
/// value of one into the other.
fn key_kind(source: &Source, kind: u8) -> u8 {
    if source.uses_preset_key { kind.to_ascii_uppercase() } else { kind }
}

/// The key that stands in a header.
pub fn header_key(kind: u8, headers: &[(&str, &[u8])], name: &str) -> Option<KeyHash> {
    let (_, value) = headers.iter().find(|(found, _)| *found == name)?;
    let value = value.trim_ascii();
    (!value.is_empty()).then(|| hash_key(kind, &[value]))
}

/// The content type that a body is read by, at intake and ever after.
pub fn content_type(value: &[u8]) -> Option<&str> {
    std::str::from_utf8(value).ok().filter(|text| text.is_ascii())
}

/// The named segments of a path, decoded: `/hooks/{tenant}` and what was sent.
pub fn path_params(pattern: &str, path: &str) -> Vec<(String, String)> {
    if !pattern.contains('{') {
        return Vec::new();
    }
    let named = |(pattern, sent): (&str, &str)| {
        let name = pattern.strip_prefix('{')?.strip_suffix('}')?;
        let value = percent_decode_str(sent).decode_utf8_lossy().into_owned();
        Some((name.to_owned(), value))
    };
    pattern.split('/').zip(path.split('/')).filter_map(named).collect()
}

/// A key as it is stored: the first byte keeps keys of different kinds apart.
pub fn hash_key(kind: u8, parts: &[&[u8]]) -> KeyHash {
    let mut digest = Context::new(&SHA256);
    digest.update(&[kind]);
    parts.iter().for_each(|part| digest.update(part));
    let mut cut = [0; 16];
    cut.copy_from_slice(&digest.finish().as_ref()[..16]);
    cut
}
