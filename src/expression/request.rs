//! What is asked of one event at intake, all at once, and what comes back.

use std::io;
use std::sync::Arc;

use super::inline::{ExtractedEvent, InlinePlan, NotInlineable};
use super::{EventContext, Expression, Items, output};
use crate::domain::version_value::VersionValue;

/// What a handler asks, by the names that config.toml has for it.
pub(super) const EXPRESSION_KEYS: [&str; 6] =
    ["when", "split", "ordering_key", "version_by", "unique_by", "debounce_by"];

/// What one handler asks.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HandlerExpressions {
    pub when: Option<Expression>,
    pub split: Option<Expression>,
    pub ordering_key: Option<Expression>,
    pub version_by: Option<Expression>,
    pub unique_by: Option<Expression>,
    pub debounce_by: Option<Expression>,
}

impl HandlerExpressions {
    /// In the order of `KINDS`.
    pub(super) fn parts(&self) -> [Option<&Expression>; EXPRESSION_KEYS.len()] {
        let Self { when, split, ordering_key, version_by, unique_by, debounce_by } = self;
        [when, split, ordering_key, version_by, unique_by, debounce_by].map(Option::as_ref)
    }

    /// Takes one of them away, by its place in `KINDS`.
    pub(super) fn remove(&mut self, kind: usize) {
        let Self { when, split, ordering_key, version_by, unique_by, debounce_by } = self;
        *[when, split, ordering_key, version_by, unique_by, debounce_by][kind] = None;
    }

    fn has_keys(&self) -> bool {
        self.parts()[2..].iter().any(Option::is_some)
    }
}

/// What is asked of an event: made once for each source. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct ExpressionSet(Arc<ExpressionSetInner>);

#[derive(Debug, Default)]
struct ExpressionSetInner {
    dedupe: Option<Expression>,
    handlers: Vec<HandlerExpressions>,
    /// What is simple: `dedupe`, then six for each taker.
    plan: InlinePlan,
}

/// Answers that were had in place; the others are to be asked for.
#[derive(Debug)]
pub(super) struct InlineResults {
    pub dedupe: Option<Option<String>>,
    pub handlers: Vec<Option<HandlerDecision>>,
}

impl ExpressionSet {
    /// `takers`: the source's handlers, in the order in which answers are wanted.
    pub fn new(dedupe: Option<Expression>, takers: Vec<HandlerExpressions>) -> Self {
        let first = dedupe.as_ref().and_then(Expression::simple);
        let simple = takers.iter().flat_map(|taker| {
            let mut parts = taker.parts().map(|part| part.and_then(Expression::simple));
            if taker.split.is_some() {
                // They are evaluated on items.
                parts[1..].fill(None);
            }
            parts
        });
        let plan = InlinePlan::new([first].into_iter().chain(simple));
        Self(Arc::new(ExpressionSetInner { dedupe, handlers: takers, plan }))
    }

    /// Whether there is nothing to be asked.
    pub fn is_empty(&self) -> bool {
        self.0.dedupe.is_none()
            && self.0.handlers.iter().all(|taker| *taker == HandlerExpressions::default())
    }

    pub fn dedupe(&self) -> Option<&Expression> {
        self.0.dedupe.as_ref()
    }

    pub fn handlers(&self) -> &[HandlerExpressions] {
        &self.0.handlers
    }

    /// Answers in place, where everything that matters is simple and the body plain JSON, with the
    /// result that the pool would give; `None`: ask the pool.
    pub fn evaluate_inline(&self, scene: &EventContext<'_>) -> Option<EvaluationResult> {
        let InlineResults { dedupe, handlers: takers } = self.evaluate_partly(scene);
        Some(EvaluationResult {
            dedupe: Ok(dedupe?),
            handlers: takers.into_iter().collect::<Option<Vec<_>>>()?,
        })
    }

    /// The key of `dedupe`, where it can be had in place or there is none to be had; `None`: ask the
    /// pool.
    pub fn dedupe_key_inline(&self, scene: &EventContext<'_>) -> Option<Option<String>> {
        match self.0.dedupe {
            None => Some(None),
            Some(_) => self.0.plan.extract(scene).result(0).and_then(output::simple_text).ok(),
        }
    }

    /// What can be answered in place.
    pub(super) fn evaluate_partly(&self, scene: &EventContext<'_>) -> InlineResults {
        let looked = self.0.plan.extract(scene);
        let dedupe = match self.0.dedupe {
            None => Some(None),
            Some(_) => looked.result(0).and_then(output::simple_text).ok(),
        };
        let takers = self.0.handlers.iter().enumerate();
        let takers = takers
            .map(|(at, taker)| decide_inline(taker, &looked, 1 + at * EXPRESSION_KEYS.len()).ok());
        InlineResults { dedupe, handlers: takers.collect() }
    }
}

/// `first`: the number of the taker's first part in the plan.
fn decide_inline(
    taker: &HandlerExpressions,
    looked: &ExtractedEvent<'_>,
    first: usize,
) -> Result<HandlerDecision, NotInlineable> {
    if taker.when.is_some() && !looked.result(first)?.is_some_and(|value| value.is_true()) {
        return Ok(HandlerDecision::Skip);
    }
    if taker.split.is_some() {
        return Err(NotInlineable);
    }
    let mut wanted = HandlerMatch::default();
    if taker.has_keys() {
        let [_, _, order, newest, once, collapse] = taker.parts();
        let result = |part: Option<&Expression>, kind| match part {
            None => Ok(None),
            Some(_) => looked.result(first + kind),
        };
        wanted.keys = KeySet::One(RawJobKeys {
            ordering_key: output::simple_text(result(order, 2)?)?,
            version: output::simple_stamp(result(newest, 3)?)?,
            unique_key: output::simple_text(result(once, 4)?)?,
            debounce_key: output::simple_text(result(collapse, 5)?)?,
        });
    }
    Ok(HandlerDecision::Run(wanted))
}

/// What the questions came to.
#[derive(Debug)]
pub struct EvaluationResult {
    /// The key, if any; else the reason why it could not be had.
    pub dedupe: Result<Option<String>, String>,
    /// In the order of the questions' takers.
    pub handlers: Vec<HandlerDecision>,
}

/// What a handler makes of an event.
#[derive(Debug)]
pub enum HandlerDecision {
    Skip,
    /// The expression `which` (`when` or `split`) failed.
    Failed {
        expression: &'static str,
        reason: String,
    },
    Run(HandlerMatch),
}

/// An event that a handler takes.
#[derive(Debug, Default)]
pub struct HandlerMatch {
    /// With `split`: its outputs, each a job.
    pub items: Option<Items>,
    pub keys: KeySet,
    /// `ordering_key: reason`: a `…_by` that failed is no key. One line for each of them.
    pub key_errors: Vec<String>,
}

/// The keys of a handler's jobs.
#[derive(Debug, Default)]
pub enum KeySet {
    /// The handler has no `…_by`.
    #[default]
    None,
    /// Without `split`.
    One(RawJobKeys),
    /// With `split`: those of each item, kept as the items are.
    Many(Items),
}

impl KeySet {
    /// The keys of the item at `at`, from 0; without `split` the job's, whatever `at` is.
    ///
    /// # Errors
    /// The file that they are in can't be read.
    pub fn get(&self, at: usize) -> io::Result<RawJobKeys> {
        match self {
            Self::None => Ok(RawJobKeys::default()),
            Self::One(keys) => Ok(keys.clone()),
            Self::Many(items) => {
                let mut bytes = Vec::new();
                items.get(at, &mut bytes)?;
                RawJobKeys::decode(&bytes).ok_or_else(|| io::ErrorKind::InvalidData.into())
            }
        }
    }
}

/// The keys of a job.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RawJobKeys {
    pub ordering_key: Option<String>,
    pub version: Option<VersionValue>,
    pub unique_key: Option<String>,
    pub debounce_key: Option<String>,
}

/// One byte says which field comes, four how long it is; what is not there is left out.
impl RawJobKeys {
    pub fn encode(&self, to: &mut Vec<u8>) {
        let (number, text) = match &self.version {
            None => (None, None),
            Some(VersionValue::Number(digits)) => (Some(digits), None),
            Some(VersionValue::Text(text)) => (None, Some(text)),
        };
        let fields = [
            self.ordering_key.as_ref(),
            number,
            text,
            self.unique_key.as_ref(),
            self.debounce_key.as_ref(),
        ];
        for (kind, value) in (0_u8..).zip(fields) {
            let Some(value) = value else { continue };
            to.push(kind);
            to.extend_from_slice(&u32::try_from(value.len()).unwrap_or(u32::MAX).to_le_bytes());
            to.extend_from_slice(value.as_bytes());
        }
    }

    pub(super) fn decode(mut bytes: &[u8]) -> Option<Self> {
        let mut keys = Self::default();
        while let Some((&kind, rest)) = bytes.split_first() {
            let (length, rest) = rest.split_first_chunk()?;
            let (value, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
            let value = String::from_utf8(value.to_vec()).ok()?;
            match kind {
                0 => keys.ordering_key = Some(value),
                1 => keys.version = Some(VersionValue::Number(value)),
                2 => keys.version = Some(VersionValue::Text(value)),
                3 => keys.unique_key = Some(value),
                4 => keys.debounce_key = Some(value),
                _ => return None,
            }
            bytes = rest;
        }
        Some(keys)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_the_same_after_they_were_kept() {
        let text = |text: &str| Some(text.to_owned());
        let all = [
            RawJobKeys::default(),
            RawJobKeys { ordering_key: text("a"), unique_key: text(""), ..RawJobKeys::default() },
            RawJobKeys {
                version: Some(VersionValue::Number("1e999".to_owned())),
                ..RawJobKeys::default()
            },
            RawJobKeys {
                version: Some(VersionValue::Text("ü".to_owned())),
                debounce_key: text("b"),
                ..RawJobKeys::default()
            },
        ];
        let (mut bytes, mut ends) = (Vec::new(), Vec::new());
        for keys in &all {
            keys.encode(&mut bytes);
            ends.push(bytes.len() as u64);
        }
        let ring = KeySet::Many(Items::new(bytes, ends));
        for (at, keys) in all.iter().enumerate() {
            assert_eq!(ring.get(at).unwrap(), *keys);
        }
        assert!(ring.get(4).is_err());
    }

    #[test]
    fn without_a_split_there_is_one_set_of_keys() {
        let keys = RawJobKeys { ordering_key: Some("a".to_owned()), ..RawJobKeys::default() };
        assert_eq!(KeySet::One(keys.clone()).get(7).unwrap(), keys);
        assert_eq!(KeySet::None.get(0).unwrap(), RawJobKeys::default());
    }
}
