//! The numbers of queued, running and dead jobs of each handler, in its row of `handlers`. Each transaction adds
//! its changes before the commit, so nothing counts jobs to show a queue depth. Unreleased jobs and deferred
//! events are not in them: the view `queue_depth` adds these.

use std::ops::{AddAssign, Sub};

use rusqlite::Connection;

use super::statements::Statements;
use crate::domain::HandlerId;
use crate::domain::job::{JobState, PublicState};

/// Numbers of jobs, or changes of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct JobCounts {
    queued: i64,
    running: i64,
    dead: i64,
}

impl JobCounts {
    /// The counts of one job in a state.
    pub fn of(state: Option<JobState>) -> Self {
        let mut counts = Self::default();
        match state.filter(|state| *state != JobState::Unreleased).map(JobState::public) {
            Some(PublicState::Queued) => counts.queued = 1,
            Some(PublicState::Running) => counts.running = 1,
            Some(PublicState::Dead) => counts.dead = 1,
            Some(PublicState::Succeeded | PublicState::Cancelled) | None => {}
        }
        counts
    }
}

impl AddAssign for JobCounts {
    fn add_assign(&mut self, other: Self) {
        self.queued += other.queued;
        self.running += other.running;
        self.dead += other.dead;
    }
}

impl Sub for JobCounts {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self {
            queued: self.queued - other.queued,
            running: self.running - other.running,
            dead: self.dead - other.dead,
        }
    }
}

/// Adds the changes of a transaction. Called before each commit.
pub(super) fn write(
    conn: &Connection,
    changes: &mut Vec<(HandlerId, JobCounts)>,
) -> rusqlite::Result<()> {
    let sql = "UPDATE handlers SET queued = queued + ?2, running = running + ?3, dead = dead + ?4 WHERE id = ?1";
    for (handler, JobCounts { queued, running, dead }) in changes.drain(..) {
        if queued != 0 || running != 0 || dead != 0 {
            conn.change(sql, (handler, queued, running, dead))?;
        }
    }
    Ok(())
}
