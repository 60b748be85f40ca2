//! A job that reached a final state in a transaction, as its changes note it.

use crate::domain::JobId;
use crate::domain::job::JobState;

/// A job that reached a final state. `settlements.rs` writes its row before the commit.
#[derive(Clone, Debug)]
pub(super) struct SettledJob {
    pub job: JobId,
    pub state: JobState,
    /// The number of its attempts; `None` if this transaction does not change it.
    pub attempts: Option<u32>,
    /// Wall clock.
    pub at_ms: i64,
    pub detail: String,
}
