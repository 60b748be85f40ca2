//! Tests of expressions by the evaluator in this process: nothing here is hostile.

use super::compiler::with_large_stack;
use super::evaluate::Evaluator;
use super::protocol::EvaluationRequest;
use super::{EvaluationResult, EventContext, Expression, Items};

mod builtins;
mod errors;
mod input;
mod jq_differences;
mod output;
mod protocol;
mod queue;

/// All outputs, or the error.
fn outputs(text: &str, event: &EventContext<'_>) -> Vec<String> {
    Expression::new(text).unwrap_or_else(|error| panic!("{text}: {error:?}"));
    let split = [None, Some(text), None, None, None, None];
    let request = EvaluationRequest { handlers: vec![split], max_items: Some(100), dedupe: None };
    match evaluate(&request, event).into_outputs().unwrap() {
        Ok(items) => texts(&items),
        Err(reason) => vec![format!("error: {reason}")],
    }
}

fn evaluate(request: &EvaluationRequest<'_>, event: &EventContext<'_>) -> EvaluationResult {
    with_large_stack(|| Evaluator::default().evaluate(request, event, &|_| ())).unwrap()
}

fn texts(items: &Items) -> Vec<String> {
    let text = |index| {
        let mut text = Vec::new();
        items.get(index, &mut text).unwrap();
        String::from_utf8(text).unwrap()
    };
    (0..items.len()).map(text).collect()
}

fn json_event<'a>(body: &'a str) -> EventContext<'a> {
    EventContext {
        body: body.as_bytes(),
        content_type: Some("application/json"),
        ..EventContext::default()
    }
}

/// `expected`: the outputs, separated by spaces.
#[track_caller]
fn check(text: &str, body: &str, expected: &str) {
    assert_eq!(outputs(text, &json_event(body)).join(" "), expected, "{text} of {body}");
}
