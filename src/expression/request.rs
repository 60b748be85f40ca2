//! The expressions to evaluate for one event, all at once, and their results.

use std::io;
use std::sync::Arc;

use super::inline::{ExtractedEvent, InlinePlan, NotInlineable};
use super::{EXPRESSION_KEYS, EventContext, Expression, Items, output};
use crate::domain::version_value::VersionValue;

/// What one handler evaluates for an event; `None` where the key is not set.
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
    /// The expressions in the order of [`EXPRESSION_KEYS`].
    pub(super) fn parts(&self) -> [Option<&Expression>; EXPRESSION_KEYS.len()] {
        let Self { when, split, ordering_key, version_by, unique_by, debounce_by } = self;
        [when, split, ordering_key, version_by, unique_by, debounce_by].map(Option::as_ref)
    }

    /// Removes one expression, by its place in [`EXPRESSION_KEYS`].
    pub(super) fn remove(&mut self, index: usize) {
        let Self { when, split, ordering_key, version_by, unique_by, debounce_by } = self;
        *[when, split, ordering_key, version_by, unique_by, debounce_by][index] = None;
    }

    fn has_keys(&self) -> bool {
        self.parts()[2..].iter().any(Option::is_some)
    }
}

/// The expressions of one source and its handlers, built once for each source. It is cheap to
/// clone.
#[derive(Clone, Debug, Default)]
pub struct ExpressionSet(Arc<ExpressionSetInner>);

#[derive(Debug, Default)]
struct ExpressionSetInner {
    dedupe: Option<Expression>,
    handlers: Vec<HandlerExpressions>,
    /// The inline expressions: `dedupe`, then six for each handler.
    plan: InlinePlan,
}

/// The results of inline expressions; the pool has to evaluate the others.
#[derive(Debug)]
pub struct InlineResults {
    /// The key of `dedupe`. Without `dedupe` there is none.
    pub dedupe: Option<Option<String>>,
    pub handlers: Vec<Option<HandlerDecision>>,
}

impl InlineResults {
    /// Whether the expressions of all handlers have results.
    pub fn has_all_handlers(&self) -> bool {
        self.handlers.iter().all(Option::is_some)
    }

    /// All results; `None` if the pool has to evaluate some.
    pub fn complete(self) -> Option<EvaluationResult> {
        let dedupe = Ok(self.dedupe?);
        Some(EvaluationResult {
            dedupe,
            handlers: self.handlers.into_iter().collect::<Option<_>>()?,
        })
    }
}

impl ExpressionSet {
    /// `handlers`: the expressions of the source's handlers. The results have the same order.
    pub fn new(dedupe: Option<Expression>, handlers: Vec<HandlerExpressions>) -> Self {
        let first = dedupe.as_ref().and_then(Expression::inline_node);
        let inline = handlers.iter().flat_map(|handler| {
            let mut parts = handler.parts().map(|part| part.and_then(Expression::inline_node));
            if handler.split.is_some() {
                // Keys are evaluated on the items.
                parts[1..].fill(None);
            }
            parts
        });
        let plan = InlinePlan::new([first].into_iter().chain(inline));
        Self(Arc::new(ExpressionSetInner { dedupe, handlers, plan }))
    }

    /// Whether there are no expressions.
    pub fn is_empty(&self) -> bool {
        self.0.dedupe.is_none()
            && self.0.handlers.iter().all(|handler| *handler == HandlerExpressions::default())
    }

    pub fn dedupe(&self) -> Option<&Expression> {
        self.0.dedupe.as_ref()
    }

    pub fn handlers(&self) -> &[HandlerExpressions] {
        &self.0.handlers
    }

    /// Evaluates everything inline, with the result that the pool would give. `None`: the pool has
    /// to evaluate it, as an expression is not simple or the body is not plain JSON.
    pub fn evaluate_inline(&self, event: &EventContext<'_>) -> Option<EvaluationResult> {
        self.evaluate_partly(event).complete()
    }

    /// Evaluates the inline expressions.
    pub fn evaluate_partly(&self, event: &EventContext<'_>) -> InlineResults {
        let extracted = self.0.plan.extract(event);
        let dedupe = match self.0.dedupe {
            None => Some(None),
            Some(_) => extracted.result(0).and_then(output::inline_key_text).ok(),
        };
        let handlers = self.0.handlers.iter().enumerate();
        let handlers = handlers.map(|(index, handler)| {
            decide_inline(handler, &extracted, 1 + index * EXPRESSION_KEYS.len()).ok()
        });
        InlineResults { dedupe, handlers: handlers.collect() }
    }
}

/// Decides inline what becomes of a handler. `first`: the number of its first expression in the
/// plan.
fn decide_inline(
    handler: &HandlerExpressions,
    extracted: &ExtractedEvent<'_>,
    first: usize,
) -> Result<HandlerDecision, NotInlineable> {
    if handler.when.is_some() && !extracted.result(first)?.is_some_and(|value| value.is_true()) {
        return Ok(HandlerDecision::Skip);
    }
    if handler.split.is_some() {
        return Err(NotInlineable);
    }
    let mut handler_match = HandlerMatch::default();
    if handler.has_keys() {
        let [_, _, ordering_key, version_by, unique_by, debounce_by] = handler.parts();
        let result = |part: Option<&Expression>, index| match part {
            None => Ok(None),
            Some(_) => extracted.result(first + index),
        };
        handler_match.keys = KeySet::One(RawJobKeys {
            ordering_key: output::inline_key_text(result(ordering_key, 2)?)?,
            version: output::inline_version_value(result(version_by, 3)?)?,
            unique_key: output::inline_key_text(result(unique_by, 4)?)?,
            debounce_key: output::inline_key_text(result(debounce_by, 5)?)?,
        });
    }
    Ok(HandlerDecision::Run(handler_match))
}

/// The results of the expressions of one event.
#[derive(Debug)]
pub struct EvaluationResult {
    /// The key, if any, or the error of its expression.
    pub dedupe: Result<Option<String>, String>,
    /// In the order of the handlers in the [`ExpressionSet`].
    pub handlers: Vec<HandlerDecision>,
}

/// The decision of a handler's expressions about an event.
#[derive(Debug)]
pub enum HandlerDecision {
    Skip,
    /// An expression (`when` or `split`) failed.
    Failed {
        expression: &'static str,
        reason: String,
    },
    Run(HandlerMatch),
}

/// The jobs of a handler whose `when` holds.
#[derive(Debug, Default)]
pub struct HandlerMatch {
    /// The outputs of `split`, one for each job.
    pub items: Option<Items>,
    pub keys: KeySet,
    /// Errors of key expressions, one line for each, such as `ordering_key: reason`. The job has no
    /// such key.
    pub key_errors: Vec<String>,
}

/// The keys of a handler's jobs.
#[derive(Debug, Default)]
pub enum KeySet {
    /// The handler has no expressions for keys.
    #[default]
    None,
    /// Without `split`.
    One(RawJobKeys),
    /// With `split`: the keys of each item, stored like the items.
    Many(Items),
}

impl KeySet {
    /// The keys of the item at `index`; without `split` the keys of the job, whatever `index` is.
    ///
    /// # Errors
    /// The file of the keys can't be read.
    pub fn get(&self, index: usize) -> io::Result<RawJobKeys> {
        match self {
            Self::None => Ok(RawJobKeys::default()),
            Self::One(keys) => Ok(keys.clone()),
            Self::Many(items) => {
                let mut bytes = Vec::new();
                items.get(index, &mut bytes)?;
                RawJobKeys::decode(&bytes).ok_or_else(|| io::ErrorKind::InvalidData.into())
            }
        }
    }
}

/// The keys of a job, as the expressions gave them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RawJobKeys {
    pub ordering_key: Option<String>,
    pub version: Option<VersionValue>,
    pub unique_key: Option<String>,
    pub debounce_key: Option<String>,
}

/// Encoding: one byte for the field, four for the length, then the text. A missing field is left
/// out.
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
        for (index, value) in (0_u8..).zip(fields) {
            let Some(value) = value else { continue };
            to.push(index);
            to.extend_from_slice(&u32::try_from(value.len()).unwrap_or(u32::MAX).to_le_bytes());
            to.extend_from_slice(value.as_bytes());
        }
    }

    pub(super) fn decode(mut bytes: &[u8]) -> Option<Self> {
        let mut keys = Self::default();
        while let Some((&index, rest)) = bytes.split_first() {
            let (length, rest) = rest.split_first_chunk()?;
            let (value, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
            let value = String::from_utf8(value.to_vec()).ok()?;
            match index {
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
    fn keys_survive_encoding() {
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
        let key_set = KeySet::Many(Items::new(bytes, ends));
        for (index, keys) in all.iter().enumerate() {
            assert_eq!(key_set.get(index).unwrap(), *keys);
        }
        assert!(key_set.get(4).is_err());
    }

    #[test]
    fn without_a_split_there_is_one_set_of_keys() {
        let keys = RawJobKeys { ordering_key: Some("a".to_owned()), ..RawJobKeys::default() };
        assert_eq!(KeySet::One(keys.clone()).get(7).unwrap(), keys);
        assert_eq!(KeySet::None.get(0).unwrap(), RawJobKeys::default());
    }
}
