//! Expressions: jq by the jaq crates. What config.toml says is compiled here once; what it gives for
//! an event is asked of processes of the server's own, which always end.

use std::fmt;
use std::sync::Arc;

mod builtins;
mod compiler;
mod connection;
mod evaluate;
pub mod evaluator_main;
mod evaluator_thread;
mod event_context;
mod form;
mod inline;
mod input;
mod items;
mod json;
mod multipart;
mod output;
mod pending;
mod pool;
mod protocol;
mod queue;
mod request;
#[cfg(test)]
mod tests;
pub mod unsandboxed;

pub use event_context::EventContext;
pub use items::Items;
pub use pool::{AnswerCallback, Busy, EvaluatorPool};
pub use request::{
    EvaluationResult, ExpressionSet, HandlerDecision, HandlerExpressions, HandlerMatch, KeySet,
    RawJobKeys,
};

/// An expression that was found to compile. Cheap to clone; equal where the text is.
#[derive(Clone)]
pub struct Expression(Arc<ExpressionInner>);

struct ExpressionInner {
    text: Box<str>,
    simple: Option<inline::InlineNode>,
    /// The same by itself, ready to be evaluated.
    alone: inline::InlinePlan,
}

impl Expression {
    /// # Errors
    /// Where in the text, and what is wrong there.
    pub fn new(text: &str) -> Result<Self, CompileError> {
        compiler::check_text(text)?;
        Self::compiled(text)
    }

    fn compiled(text: &str) -> Result<Self, CompileError> {
        let read = || compiler::compile(text).map(|_| inline::parse_inlineable(text));
        let read = compiler::with_large_stack(read);
        let simple =
            read.unwrap_or_else(|why| Err(CompileError { line: 1, column: 1, text: why }))?;
        let alone = inline::InlinePlan::new([simple.as_ref()]);
        Ok(Self(Arc::new(ExpressionInner { text: text.into(), simple, alone })))
    }

    /// `[first(…)]`: where text is asked for and none is not the same as empty text.
    pub fn first_in_list(&self) -> Self {
        let text = self.text();
        // What is simple gives one output at most, and stays simple. A comment ends with its line.
        let text = match self.simple() {
            Some(_) => format!("[(\n{text}\n)]"),
            None => format!("[first(\n{text}\n)]"),
        };
        Self::compiled(&text).unwrap_or_else(|_| self.clone())
    }

    pub fn text(&self) -> &str {
        &self.0.text
    }

    /// Whether the body is all that its outputs depend on, as far as its words tell.
    pub fn reads_body_alone(&self) -> bool {
        let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '$');
        let mut words = self.text().split(|c| !is_part(c));
        words.all(|word| word != "now" && !compiler::VARIABLES.contains(&word))
    }

    fn simple(&self) -> Option<&inline::InlineNode> {
        self.0.simple.as_ref()
    }

    /// Its first output as JSON, where it is simple and the body plain; `None`: ask the pool.
    ///
    /// The inner error says why there is no output.
    pub fn evaluate_inline(&self, scene: &EventContext<'_>) -> Option<Result<Vec<u8>, String>> {
        let looked = self.0.alone.extract(scene);
        let Some(value) = looked.result(0).ok()? else { return Some(Err(NOTHING.to_owned())) };
        let mut text = Vec::new();
        json::write(&value.into_val().ok()?, &mut text).ok()?;
        Some(Ok(text))
    }
}

/// A `transform` without outputs.
const NOTHING: &str = "it gives nothing";

impl PartialEq for Expression {
    fn eq(&self, other: &Self) -> bool {
        self.text() == other.text()
    }
}

impl fmt::Debug for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Expression({:?})", self.text())
    }
}

/// What is wrong with an expression, and where in its text, both from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompileError {
    pub line: usize,
    pub column: usize,
    pub text: String,
}
