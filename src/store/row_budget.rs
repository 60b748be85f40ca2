//! What a transaction of the backlog may still write.

use std::time::{Duration, Instant};

/// The rows, bytes and time that a transaction has left.
#[derive(Clone, Copy, Debug)]
pub(super) struct RowBudget {
    pub rows: usize,
    pub bytes: usize,
    pub deadline: Instant,
}

/// How long one transaction of a command may change rows.
pub(super) const MAX_COMMAND_TIME: Duration = Duration::from_millis(10);

/// Rows that one transaction of a command changes at most.
const MAX_COMMAND_ROWS: usize = 1000;

impl RowBudget {
    /// The budget of a transaction of the command line.
    pub fn of_command() -> Self {
        let deadline = Instant::now() + MAX_COMMAND_TIME;
        Self { rows: MAX_COMMAND_ROWS, bytes: usize::MAX, deadline }
    }

    pub fn spend(&mut self, rows: usize, bytes: usize) {
        self.rows = self.rows.saturating_sub(rows);
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    pub fn is_spent(&self) -> bool {
        self.rows == 0 || self.bytes == 0 || Instant::now() >= self.deadline
    }
}
