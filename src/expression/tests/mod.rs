//! Tests of expressions by the evaluator in this process: nothing here is hostile.

use super::compiler::with_large_stack;
use super::evaluate::Evaluator;
use super::protocol::{EvaluatorRequest, EvaluatorResponse};
use super::{EventContext, Expression};

mod builtins;
mod errors;
mod input;
mod jq_differences;
mod output;
mod queue;

/// All outputs, or the error.
fn outputs(text: &str, event: &EventContext<'_>) -> Vec<String> {
    Expression::new(text).unwrap_or_else(|error| panic!("{text}: {error:?}"));
    let request = EvaluatorRequest::Outputs { text: text.to_owned(), max: 100 };
    let response = with_large_stack(|| Evaluator::default().evaluate(&request, event, &|_| ()));
    let Ok(EvaluatorResponse::Outputs(outputs)) = response else { panic!("{text}: no outputs") };
    let packed = match outputs {
        Ok(packed) => packed,
        Err(reason) => return vec![format!("error: {reason}")],
    };
    let mut start = 0;
    let texts = packed.ends.iter().map(|end| {
        let bytes = &packed.bytes[start..*end as usize];
        start = *end as usize;
        String::from_utf8(bytes.to_vec()).unwrap()
    });
    texts.collect()
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
