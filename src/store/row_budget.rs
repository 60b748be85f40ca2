//! What a transaction of the backlog may still write.

use std::time::Instant;

/// The rows, bytes and time that a transaction has left.
#[derive(Clone, Copy, Debug)]
pub(super) struct RowBudget {
    pub rows: usize,
    pub bytes: usize,
    pub deadline: Instant,
}

impl RowBudget {
    pub fn spend(&mut self, rows: usize, bytes: usize) {
        self.rows = self.rows.saturating_sub(rows);
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    pub fn is_spent(&self) -> bool {
        self.rows == 0 || self.bytes == 0 || Instant::now() >= self.deadline
    }
}
