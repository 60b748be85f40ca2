//! Expressions: jq by the jaq crates. What config.toml says is compiled here once; what it gives for
//! an event is asked of processes of the server's own, which always end.

use std::fmt;
use std::sync::Arc;

mod form;
mod input;
mod items;
mod json;
mod language;
mod multipart;
mod natives;
mod pool;
mod question;
mod scene;
mod simple;

pub use items::Items;
pub use json::depth;
pub use pool::{Answer, Busy, Pool};
pub use question::{Answers, Keyring, Keys, Questions, Taken, Taker, Wanted};
pub use scene::Scene;

/// An expression that was found to compile. Cheap to clone; equal where the text is.
#[derive(Clone)]
pub struct Expression(Arc<str>);

impl Expression {
    /// # Errors
    /// Where in the text, and what is wrong there.
    pub fn new(text: &str) -> Result<Self, Wrong> {
        language::check_text(text)?;
        let compiled = language::on_a_large_stack(|| language::compile(text).map(drop));
        compiled.unwrap_or_else(|why| Err(Wrong { line: 1, column: 1, text: why }))?;
        Ok(Self(Arc::from(text)))
    }

    pub fn text(&self) -> &str {
        &self.0
    }
}

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
pub struct Wrong {
    pub line: usize,
    pub column: usize,
    pub text: String,
}
