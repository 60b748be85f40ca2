//! Expressions in jq, by the jaq crates. Loading config.toml compiles each expression once. The
//! server evaluates simple ones inline, and all others in sandboxed processes, which
//! always end.

use std::fmt;
use std::sync::Arc;

mod compiler;
mod connection;
mod evaluate;
pub mod evaluator_main;
mod evaluator_thread;
mod event_context;
mod field_numbers;
mod form;
mod inline;
mod input;
mod items;
mod json;
mod multipart;
mod output;
mod pending;
mod pool;
mod process_counters;
mod protocol;
mod queue;
mod request;
#[cfg(test)]
mod tests;
pub mod unsandboxed;

pub use event_context::EventContext;
pub use field_numbers::{FieldName, number_form_fields};
pub use items::Items;
pub use pool::EvaluatorPool;
pub use queue::{Busy, DEDUPE_TIMEOUT, EvaluatorCounts, Priority};
pub use request::{
    EvaluationResult, ExpressionSet, HandlerDecision, HandlerExpressions, HandlerMatch, KeySet,
    RawJobKeys,
};

/// The keys of a handler's expressions in config.toml.
const EXPRESSION_KEYS: [&str; 6] =
    ["when", "split", "ordering_key", "version_by", "unique_by", "debounce_by"];

/// A compiled expression. It is cheap to clone. Two are equal if their texts are.
#[derive(Clone)]
pub struct Expression(Arc<ExpressionInner>);

struct ExpressionInner {
    text: Box<str>,
    inline_node: Option<inline::InlineNode>,
    /// A plan of this expression alone, ready to be evaluated.
    inline_plan: inline::InlinePlan,
}

impl Expression {
    /// Compiles an expression.
    ///
    /// # Errors
    /// The first error in the text, with its place.
    pub fn new(text: &str) -> Result<Self, CompileError> {
        compiler::check_text(text)?;
        Self::compile(text)
    }

    fn compile(text: &str) -> Result<Self, CompileError> {
        let compile = || compiler::compile(text).map(|_| inline::parse_inlineable(text));
        let compiled = compiler::with_large_stack(compile);
        let inline_node = compiled
            .unwrap_or_else(|message| Err(CompileError { line: 1, column: 1, text: message }))?;
        let inline_plan = inline::InlinePlan::new([inline_node.as_ref()]);
        Ok(Self(Arc::new(ExpressionInner { text: text.into(), inline_node, inline_plan })))
    }

    /// `[first(…)]`: tells a missing output from empty text, where the caller expects text.
    pub fn first_in_list(&self) -> Self {
        // The line breaks end a trailing comment.
        let text = format!("[first(\n{}\n)]", self.text());
        Self::compile(&text).unwrap_or_else(|_| self.clone())
    }

    /// Returns an expression whose outputs are only true where a condition is true too. Where it is not, this
    /// expression is not evaluated.
    pub fn with_condition(&self, condition: &str) -> Self {
        // The line breaks end a trailing comment.
        let text = format!("({condition}) and (\n{}\n)", self.text());
        Self::compile(&text).unwrap_or_else(|_| self.clone())
    }

    pub fn text(&self) -> &str {
        &self.0.text
    }

    /// Whether the outputs depend on the body alone, judged by the words in the text.
    pub fn reads_body_alone(&self) -> bool {
        let is_word_char = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '$');
        let mut words = self.text().split(|c| !is_word_char(c));
        words.all(|word| word != "now" && !compiler::VARIABLES.contains(&word))
    }

    fn inline_node(&self) -> Option<&inline::InlineNode> {
        self.0.inline_node.as_ref()
    }

    /// Evaluates the expression inline and returns its first output as JSON. `None`: the pool has
    /// to evaluate it, as it is not simple or the body is not plain JSON.
    ///
    /// The inner error says why there is no output.
    pub fn evaluate_inline(&self, event: &EventContext<'_>) -> Option<Result<Vec<u8>, String>> {
        let extracted = self.0.inline_plan.extract(event);
        let Some(value) = extracted.result(0).ok()? else { return Some(Err(NO_OUTPUT.to_owned())) };
        let mut text = Vec::new();
        json::write(&value.into_val().ok()?, &mut text).ok()?;
        Some(Ok(text))
    }
}

/// The error of a `transform` without outputs.
const NO_OUTPUT: &str = "it has no output";

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

/// An error in the text of an expression. Line and column count from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompileError {
    pub line: usize,
    pub column: usize,
    pub text: String,
}
