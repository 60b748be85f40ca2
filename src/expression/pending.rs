//! A request under way: the expressions that still have no result, as responses arrive and
//! processes end.

use super::evaluate::STAGE_EXPRESSION;
use super::protocol::Encoder;
use super::request::{
    EvaluationResult, HandlerDecision, HandlerExpressions, HandlerMatch, InlineResults, KeySet,
    RawJobKeys,
};
use super::{EXPRESSION_KEYS, EventContext, Expression, ExpressionSet, Items};

/// The expressions of one event that still need an evaluator.
pub(super) struct PendingRequest {
    dedupe: Option<Expression>,
    /// With their places among the results.
    handlers: Vec<(usize, HandlerExpressions)>,
    known: KnownResults,
}

struct KnownResults {
    dedupe: Result<Option<String>, String>,
    handlers: Vec<Option<HandlerDecision>>,
    /// Errors of key expressions that were removed, by the handler's place.
    key_errors: Vec<(usize, String)>,
}

/// The result of a handler's expressions, with its items received.
pub(super) enum ReceivedResult {
    Skip,
    Failed { key_index: u8, reason: String },
    Run { items: Option<Items>, keys: Option<Items>, key_errors: Vec<String> },
}

impl PendingRequest {
    /// Evaluates the inline expressions; the rest is pending.
    pub fn new(expressions: &ExpressionSet, event: &EventContext<'_>) -> Self {
        let InlineResults { dedupe, handlers } = expressions.evaluate_partly(event);
        let pending = handlers.iter().zip(expressions.handlers()).enumerate();
        let pending = pending.filter(|(_, (result, _))| result.is_none());
        Self {
            handlers: pending.map(|(place, (_, handler))| (place, handler.clone())).collect(),
            known: KnownResults {
                dedupe: Ok(dedupe.clone().flatten()),
                handlers,
                key_errors: Vec::new(),
            },
            dedupe: expressions.dedupe().filter(|_| dedupe.is_none()).cloned(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.dedupe.is_none() && self.handlers.is_empty()
    }

    pub fn encode(&self, to: &mut Encoder) {
        let dedupe = self.dedupe.as_ref().map(Expression::text);
        to.expressions(dedupe, self.handlers.iter().map(|(_, handler)| handler));
    }

    /// Handles the end of a process at this stage: the expression that it was evaluating has
    /// failed.
    pub fn fail(&mut self, stage: u32, reason: &str) {
        let number = stage.checked_sub(STAGE_EXPRESSION).map(|number| number as usize);
        match number {
            Some(0) if self.dedupe.is_some() => {
                self.dedupe = None;
                self.known.dedupe = Err(reason.to_owned());
            }
            Some(number @ 1..) if (number - 1) / EXPRESSION_KEYS.len() < self.handlers.len() => {
                self.fail_expression(
                    (number - 1) / EXPRESSION_KEYS.len(),
                    (number - 1) % EXPRESSION_KEYS.len(),
                    reason,
                );
            }
            // Reading the body ended the process, which would happen again.
            _ => self.fail_all(reason),
        }
    }

    fn fail_expression(&mut self, handler: usize, index: usize, reason: &str) {
        let place = self.handlers[handler].0;
        if index < 2 {
            let failed = HandlerDecision::Failed {
                expression: EXPRESSION_KEYS[index],
                reason: reason.to_owned(),
            };
            self.known.handlers[place] = Some(failed);
            self.handlers.remove(handler);
        } else {
            self.handlers[handler].1.remove(index);
            self.known.key_errors.push((place, format!("{}: {reason}", EXPRESSION_KEYS[index])));
        }
    }

    /// Fails all pending expressions.
    pub fn fail_all(&mut self, reason: &str) {
        if self.dedupe.take().is_some() {
            self.known.dedupe = Err(reason.to_owned());
        }
        while let Some((place, handler)) = self.handlers.last() {
            let (place, parts) = (*place, handler.parts());
            match parts.iter().position(Option::is_some) {
                Some(index) => self.fail_expression(self.handlers.len() - 1, index, reason),
                None => {
                    self.known.handlers[place] =
                        Some(HandlerDecision::Run(HandlerMatch::default()));
                    self.handlers.pop();
                }
            }
        }
    }

    /// Adds the results of an evaluator; `None`: they don't fit the request.
    pub fn add_results(
        &mut self,
        dedupe: Result<Option<String>, String>,
        handlers: Vec<ReceivedResult>,
    ) -> Option<()> {
        if handlers.len() != self.handlers.len() {
            return None;
        }
        if self.dedupe.take().is_some() {
            self.known.dedupe = dedupe;
        }
        for ((place, handler), received) in
            std::mem::take(&mut self.handlers).into_iter().zip(handlers)
        {
            self.known.handlers[place] = Some(match received {
                ReceivedResult::Skip => HandlerDecision::Skip,
                ReceivedResult::Failed { key_index, reason } => HandlerDecision::Failed {
                    expression: EXPRESSION_KEYS.get(usize::from(key_index))?,
                    reason,
                },
                ReceivedResult::Run { items, keys, key_errors } => {
                    HandlerDecision::Run(HandlerMatch {
                        keys: match keys {
                            None => KeySet::None,
                            Some(keys) if handler.split.is_none() => {
                                KeySet::One(single_keys(&keys)?)
                            }
                            Some(keys) => KeySet::Many(keys),
                        },
                        items,
                        key_errors,
                    })
                }
            });
        }
        Some(())
    }

    /// All results; `None` if an expression is still pending.
    pub fn finish(self) -> Option<EvaluationResult> {
        let KnownResults { dedupe, handlers, key_errors } = self.known;
        let mut handlers = handlers.into_iter().collect::<Option<Vec<_>>>()?;
        for (place, error) in key_errors {
            if let Some(HandlerDecision::Run(handler_match)) = handlers.get_mut(place) {
                handler_match.key_errors.push(error);
            }
        }
        Some(EvaluationResult { dedupe, handlers })
    }
}

fn single_keys(keys: &Items) -> Option<RawJobKeys> {
    let mut bytes = Vec::new();
    keys.get(0, &mut bytes).ok()?;
    RawJobKeys::decode(&bytes)
}
