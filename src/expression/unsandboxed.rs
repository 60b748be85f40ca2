//! What a process does, done here, without its limits: for fuzz targets, which stand outside and
//! bring expressions of their own. Nothing in the server calls it.

use super::compiler::with_large_stack;
use super::evaluate::Evaluator;
use super::protocol::{EvaluatorRequest, EvaluatorResponse};
use super::{EventContext, Expression, input, json};

/// The first output as JSON text, by jaq; `None`: there is none.
///
/// # Errors
/// The reason why it fails.
pub fn first(expression: &Expression, scene: &EventContext<'_>) -> Result<Option<Vec<u8>>, String> {
    let request = EvaluatorRequest::Outputs { text: expression.text().to_owned(), max: 1 };
    let came = with_large_stack(|| Evaluator::default().answer(&request, scene, &|_| ()))?;
    match came {
        EvaluatorResponse::Outputs(outputs) => {
            outputs.map(|packed| (packed.len() > 0).then_some(packed.bytes))
        }
        EvaluatorResponse::Expressions { .. } => Err("it answers something else".to_owned()),
    }
}

/// Reads an event as expressions see it, and says how large what it read is when written.
pub fn read_body(scene: &EventContext<'_>) -> usize {
    let mut written = Vec::new();
    for value in [input::body(scene), input::query(scene), input::headers(scene)] {
        // Memory takes all of it.
        let _ = json::write(&value, &mut written);
    }
    written.len()
}
