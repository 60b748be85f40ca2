//! Refusals in a row of one source: so many that its secret, or its sender, must have changed.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::refuse::Refusal;
use crate::domain::SourceId;

/// So many in a row are told.
const TOLD_AT: u32 = 20;

/// Shared by all intake threads.
#[derive(Debug, Default)]
pub struct Streak {
    count: AtomicU32,
    /// To be told: the last of them.
    last: Mutex<Option<String>>,
}

impl Streak {
    /// Only what may be the server's own fault counts, and not a stranger's.
    pub fn refused(&self, refusal: &Refusal) {
        let counts =
            matches!(refusal, Refusal::Signature { .. } | Refusal::Type | Refusal::Form { .. });
        if counts && self.count.fetch_add(1, Ordering::Relaxed) + 1 == TOLD_AT {
            let why = format!("{TOLD_AT} refused in a row: {}", refusal.reason());
            *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
        }
    }

    pub fn accepted(&self) {
        if self.count.load(Ordering::Relaxed) > 0 {
            self.count.store(0, Ordering::Relaxed);
        }
    }

    /// What is to be told, once.
    pub fn take(&self) -> Option<String> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// That of each source: a reload ends none.
#[derive(Debug, Default)]
pub struct Streaks(Mutex<HashMap<SourceId, Arc<Streak>>>);

impl Streaks {
    pub fn of(&self, source: SourceId) -> Arc<Streak> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(all.entry(source).or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong() -> Refusal {
        Refusal::Signature { reason: "no x header".into(), challenge: None }
    }

    #[test]
    fn twenty_in_a_row_are_told_once_and_an_accepted_one_begins_anew() {
        let streak = Streak::default();
        for _ in 0..19 {
            streak.refused(&wrong());
        }
        streak.refused(&Refusal::Address);
        assert_eq!(streak.take(), None);
        streak.accepted();
        streak.refused(&Refusal::Type);
        assert_eq!(streak.take(), None);
        for _ in 0..40 {
            streak.refused(&wrong());
        }
        assert_eq!(streak.take().as_deref(), Some("20 refused in a row: no x header"));
        assert_eq!(streak.take(), None);
    }
}
