//! Expressions: jq by the jaq crates. What config.toml says is compiled here once; what it gives for
//! an event is asked of processes of the server's own, which always end.

use std::fmt;
use std::sync::Arc;

mod items;
mod pool;
mod question;
mod scene;

pub use items::Items;
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
        if text.trim().is_empty() {
            return Err(Wrong { line: 1, column: 1, text: "it is empty".to_owned() });
        }
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
