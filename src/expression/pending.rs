//! A request under way: the expressions that still have no result, as results arrive and
//! processes end.

use super::evaluate::STAGE_EXPRESSION;
use super::protocol::EvaluationRequest;
use super::request::{
    EvaluationResult, HandlerDecision, HandlerExpressions, HandlerMatch, InlineResults,
};
use super::{EXPRESSION_KEYS, EventContext, Expression, ExpressionSet};

/// The expressions of one event that still need an evaluator, and the results of the others.
pub(super) struct PendingRequest {
    dedupe: Option<Expression>,
    /// With their places in `decisions`.
    handlers: Vec<(usize, HandlerExpressions)>,
    max_items: Option<u32>,
    dedupe_result: Result<Option<String>, String>,
    decisions: Vec<Option<HandlerDecision>>,
    /// Errors of key expressions that were removed, by the handler's place.
    key_errors: Vec<(usize, String)>,
}

impl PendingRequest {
    /// Evaluates the inline expressions; the rest is pending.
    pub fn new(expressions: &ExpressionSet, event: &EventContext<'_>) -> Self {
        let InlineResults { dedupe, handlers } = expressions.evaluate_partly(event);
        let pending = handlers.iter().zip(expressions.handlers()).enumerate();
        let pending = pending.filter(|(_, (result, _))| result.is_none());
        Self {
            handlers: pending.map(|(place, (_, handler))| (place, handler.clone())).collect(),
            max_items: None,
            decisions: handlers,
            key_errors: Vec::new(),
            dedupe: expressions.dedupe().filter(|_| dedupe.is_none()).cloned(),
            dedupe_result: Ok(dedupe.flatten()),
        }
    }

    /// Requests the first outputs of one expression, as the items of a handler. See
    /// [`EvaluationResult::into_outputs`].
    pub fn outputs(expression: &Expression, max: u32) -> Self {
        let split = Some(expression.clone());
        Self {
            dedupe: None,
            handlers: vec![(0, HandlerExpressions { split, ..HandlerExpressions::default() })],
            max_items: Some(max),
            dedupe_result: Ok(None),
            decisions: vec![None],
            key_errors: Vec::new(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.dedupe.is_none() && self.handlers.is_empty()
    }

    /// The number of handlers that still need an evaluator.
    pub fn handler_count(&self) -> usize {
        self.handlers.len()
    }

    pub fn encode(&self, encoded_event: &[u8]) -> Vec<u8> {
        let handlers = self.handlers.iter().map(|(_, handler)| handler.parts());
        let request = EvaluationRequest {
            dedupe: self.dedupe.as_ref().map(Expression::text),
            handlers: handlers.map(|parts| parts.map(|part| part.map(Expression::text))).collect(),
            max_items: self.max_items,
        };
        request.encode(encoded_event)
    }

    /// Handles the end of a process at this stage: the expression that it was evaluating has
    /// failed.
    pub fn fail(&mut self, stage: u32, reason: &str) {
        let number = stage.checked_sub(STAGE_EXPRESSION).map(|number| number as usize);
        match number {
            Some(0) if self.dedupe.is_some() => {
                self.dedupe = None;
                self.dedupe_result = Err(reason.to_owned());
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
            self.decisions[place] = Some(HandlerDecision::failed(index, reason.to_owned()));
            self.handlers.remove(handler);
        } else {
            self.handlers[handler].1.remove(index);
            self.key_errors.push((place, format!("{}: {reason}", EXPRESSION_KEYS[index])));
        }
    }

    /// Fails all pending expressions.
    pub fn fail_all(&mut self, reason: &str) {
        if self.dedupe.take().is_some() {
            self.dedupe_result = Err(reason.to_owned());
        }
        while let Some((place, handler)) = self.handlers.last() {
            let (place, parts) = (*place, handler.parts());
            match parts.iter().position(Option::is_some) {
                Some(index) => self.fail_expression(self.handlers.len() - 1, index, reason),
                None => {
                    self.decisions[place] = Some(HandlerDecision::Run(HandlerMatch::default()));
                    self.handlers.pop();
                }
            }
        }
    }

    /// Adds the result of an evaluator, if it fits the request.
    pub fn add_result(&mut self, result: EvaluationResult) {
        if result.handlers.len() != self.handlers.len() {
            return;
        }
        if self.dedupe.take().is_some() {
            self.dedupe_result = result.dedupe;
        }
        for ((place, _), decision) in self.handlers.drain(..).zip(result.handlers) {
            self.decisions[place] = Some(decision);
        }
    }

    /// Takes all results; `None` if an expression is still pending.
    pub fn finish(&mut self) -> Option<EvaluationResult> {
        if !self.is_empty() {
            return None;
        }
        let mut handlers = self.decisions.drain(..).collect::<Option<Vec<_>>>()?;
        for (place, error) in self.key_errors.drain(..) {
            if let Some(HandlerDecision::Run(handler_match)) = handlers.get_mut(place) {
                handler_match.key_errors.push(error);
            }
        }
        let dedupe = std::mem::replace(&mut self.dedupe_result, Ok(None));
        Some(EvaluationResult { dedupe, handlers })
    }
}
