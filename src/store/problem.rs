//! Problems that `verify` finds in a database.

/// Rows that a problem names at most.
const MAX_NAMED: usize = 5;

/// Rows that contradict a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The problem of each row.
    pub text: &'static str,
    /// How many rows there are.
    pub count: usize,
    /// The first of them: ids, or messages of SQLite.
    pub rows: Vec<String>,
}

impl Problem {
    /// Creates a problem without rows.
    pub const fn new(text: &'static str) -> Self {
        Self { text, count: 0, rows: Vec::new() }
    }

    /// Adds a row.
    pub fn add(&mut self, row: String) {
        self.count += 1;
        if self.rows.len() < MAX_NAMED {
            self.rows.push(row);
        }
    }
}
