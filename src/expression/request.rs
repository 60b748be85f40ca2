//! The expressions to evaluate for one event, all at once, and their results.

use std::io;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::inline::{ExtractedEvent, InlinePlan, NotInlineable};
use super::{EXPRESSION_KEYS, EventContext, Expression, Items, output};
use crate::domain::version_value::VersionValue;

/// The expressions that one handler evaluates for an event; `None` where the key is not set.
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
                parts[2..].fill(None);
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
    let mut handler_match = HandlerMatch::default();
    if handler.split.is_some() {
        // Items and their keys are left to jaq.
        let None = extracted.result(first + 1)? else { return Err(NotInlineable) };
        handler_match.items = Some(Items::default());
        if handler.has_keys() {
            handler_match.keys = KeySet::Many(Items::default());
        }
    } else if handler.has_keys() {
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

/// The results of the expressions of one event, also as an evaluator process sends them.
#[derive(Debug, Serialize, Deserialize)]
pub struct EvaluationResult {
    /// The key, if any, or the error of its expression.
    pub dedupe: Result<Option<String>, String>,
    /// In the order of the handlers in the [`ExpressionSet`].
    pub handlers: Vec<HandlerDecision>,
}

impl EvaluationResult {
    /// The lists of all handlers, in the order in which an evaluator sends them.
    pub(super) fn lists_mut(&mut self) -> impl Iterator<Item = &mut Items> {
        self.handlers.iter_mut().flat_map(|decision| {
            let lists = match decision {
                HandlerDecision::Skip | HandlerDecision::Failed { .. } => [None, None],
                HandlerDecision::Run(HandlerMatch { items, keys, .. }) => {
                    let keys = if let KeySet::Many(keys) = keys { Some(keys) } else { None };
                    [items.as_mut(), keys]
                }
            };
            lists.into_iter().flatten()
        })
    }

    /// The outputs of an expression that was evaluated as the `split` of one handler, or the reason
    /// why it failed; `None`: it was evaluated in another way.
    pub(super) fn into_outputs(self) -> Option<Result<Items, String>> {
        match self.handlers.into_iter().next()? {
            HandlerDecision::Skip => None,
            HandlerDecision::Failed { reason, .. } => Some(Err(reason)),
            HandlerDecision::Run(handler_match) => handler_match.items.map(Ok),
        }
    }
}

/// The decision of a handler's expressions about an event.
#[derive(Debug, Serialize, Deserialize)]
pub enum HandlerDecision {
    Skip,
    /// An expression (`when` or `split`) failed.
    Failed {
        expression: String,
        reason: String,
    },
    Run(HandlerMatch),
}

impl HandlerDecision {
    /// `index`: the place of the expression in [`EXPRESSION_KEYS`].
    pub(super) fn failed(index: usize, reason: String) -> Self {
        Self::Failed { expression: EXPRESSION_KEYS[index].to_owned(), reason }
    }
}

/// The jobs of a handler whose `when` holds.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct HandlerMatch {
    /// The outputs of `split`, one for each job.
    pub items: Option<Items>,
    pub keys: KeySet,
    /// Errors of key expressions, one line for each, such as `ordering_key: reason`. The job has no
    /// such key.
    pub key_errors: Vec<String>,
}

/// The keys of a handler's jobs.
#[derive(Debug, Default, Serialize, Deserialize)]
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
    /// The keys of the item at `index`; without `split` the keys of the job, for any `index`.
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
                postcard::from_bytes(&bytes).map_err(io::Error::other)
            }
        }
    }
}

/// The keys of a job, as the expressions gave them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RawJobKeys {
    pub ordering_key: Option<String>,
    #[serde(serialize_with = "serialize_version", deserialize_with = "deserialize_version")]
    pub version: Option<VersionValue>,
    pub unique_key: Option<String>,
    pub debounce_key: Option<String>,
}

impl RawJobKeys {
    /// Adds the keys to a list. Writing to memory can't fail.
    pub fn add_to(&self, list: &mut Items) -> usize {
        list.memory.extend(postcard::to_allocvec(self).unwrap_or_default());
        list.finish_item()
    }
}

/// Encodes a version as a text and whether it is a number.
fn serialize_version<S: Serializer>(
    version: &Option<VersionValue>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let version = version.as_ref().map(|version| match version {
        VersionValue::Number(digits) => (true, digits),
        VersionValue::Text(text) => (false, text),
    });
    version.serialize(serializer)
}

fn deserialize_version<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<VersionValue>, D::Error> {
    let version = Option::<(bool, String)>::deserialize(deserializer)?;
    Ok(version.map(
        |(is_number, text)| {
            if is_number { VersionValue::Number(text) } else { VersionValue::Text(text) }
        },
    ))
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
        let mut list = Items::default();
        all.iter().for_each(|keys| _ = keys.add_to(&mut list));
        let key_set = KeySet::Many(list);
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
