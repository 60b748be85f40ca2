//! Evaluates in the calling process, without limits. Only fuzz targets call it, which bring their
//! own expressions. The server never does.

use super::compiler::with_large_stack;
use super::evaluate::Evaluator;
use super::protocol::EvaluationRequest;
use super::{EventContext, Expression, Items, input, json};

/// Returns the first output of jaq as JSON text; `None`: there is none.
///
/// # Errors
/// The reason why the expression fails.
pub fn first_output(
    expression: &Expression,
    event: &EventContext<'_>,
) -> Result<Option<Vec<u8>>, String> {
    let split = [None, Some(expression.text()), None, None, None, None];
    let request = EvaluationRequest { handlers: vec![split], max_items: Some(1), dedupe: None };
    let result = with_large_stack(|| Evaluator::default().evaluate(&request, event, &|_| ()))?;
    let outputs = result.into_outputs().unwrap_or_else(|| Ok(Items::default()))?;
    Ok((!outputs.is_empty()).then_some(outputs.memory))
}

/// Reads an event like an expression and returns the size of its values as JSON.
pub fn read_body(event: &EventContext<'_>) -> usize {
    let mut written = Vec::new();
    for value in [input::body(event), input::query(event), input::headers(event)] {
        // Writing to memory can't fail; a value without a JSON form is skipped.
        let _ = json::write(&value, &mut written);
    }
    written.len()
}
