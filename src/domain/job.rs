//! The life of a job: its states, and every change between them.
//!
//! `store::jobs::transition` is the only code that writes a state. docs/job-lifecycle.md has the diagram
//! that users see: there, four of the states are one, `queued`.

/// The state of a job as it is stored. The numbers are those of `jobs.state` (schema.sql).
///
/// ```text
/// created as       Unreleased, Blocked, Ready, Scheduled, Dead or Cancelled
///
///                  Unreleased ── admit ──▶ Blocked, Ready, Scheduled, Dead, Cancelled
///
///                  Blocked ── release ──▶ Ready ── block ──▶ Blocked
///                  Scheduled ── promote ──▶ Ready or Blocked
///
///                  Ready ── claim ──▶ Running ── finish ──▶ Succeeded, Dead or Cancelled
///                                       │    └── finish ──▶ Ready or Scheduled (a retry follows)
///                                       ├─ outdate ──▶ Cancelled
///                                       └─ reevaluate ──▶ Ready, Blocked or Cancelled
///
/// by a newer job   Blocked, Ready, Scheduled ── supersede ──▶ Cancelled
/// by a person      every queued state, Dead ── cancel ──▶ Cancelled
///                  Scheduled, Dead, Cancelled ── retry ──▶ Ready or Blocked
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum JobState {
    /// Waits for an earlier job with the same `ordering_key`.
    Blocked = -1,
    /// May start as soon as a worker thread, `concurrency` and `rate_limit` permit it.
    Ready = 0,
    /// Waits until its due time: for a retry, or until `debounce` is over.
    Scheduled = 1,
    /// A worker runs an attempt, or will do so as soon as it has ended one of the same handler (prefetch).
    Running = 2,
    Succeeded = 3,
    /// Hooktrail gave up. A person may retry or dismiss the job.
    Dead = 4,
    Cancelled = 5,
    /// Belongs to an event with many jobs. Several transactions insert them. Views show none of them
    /// until all are inserted, and then later transactions release them in order.
    Unreleased = 6,
}

/// The state of a job as people see it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum PublicState {
    Queued,
    Running,
    Succeeded,
    Dead,
    Cancelled,
}

impl PublicState {
    pub const ALL: [Self; 5] =
        [Self::Queued, Self::Running, Self::Succeeded, Self::Dead, Self::Cancelled];

    /// Returns the name in views, options and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Dead => "dead",
            Self::Cancelled => "cancelled",
        }
    }
}

impl JobState {
    pub const ALL: [Self; 8] = [
        Self::Blocked,
        Self::Ready,
        Self::Scheduled,
        Self::Running,
        Self::Succeeded,
        Self::Dead,
        Self::Cancelled,
        Self::Unreleased,
    ];

    /// Returns the number in `jobs.state`.
    pub const fn code(self) -> i64 {
        self as i64
    }

    /// Returns the state with this number.
    pub fn from_code(code: i64) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.code() == code)
    }

    /// Returns the state as people see it.
    pub const fn public(self) -> PublicState {
        match self {
            Self::Blocked | Self::Ready | Self::Scheduled | Self::Unreleased => PublicState::Queued,
            Self::Running => PublicState::Running,
            Self::Succeeded => PublicState::Succeeded,
            Self::Dead => PublicState::Dead,
            Self::Cancelled => PublicState::Cancelled,
        }
    }

    /// Returns true while the job waits for an attempt.
    pub const fn is_queued(self) -> bool {
        matches!(self.public(), PublicState::Queued)
    }

    /// Returns true if no attempt follows unless a person retries the job.
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Dead | Self::Cancelled)
    }
}

/// A change of a job's state. `store::jobs::transition` makes each by one function; the tests compare them with
/// this table.
#[cfg(test)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Transition {
    /// An unreleased job gets the state that it would have if it was created now.
    Admit,
    /// The earlier job with its ordering key has ended.
    Release,
    /// An earlier job with its ordering key was retried.
    Block,
    /// Its due time has come.
    Promote,
    /// A worker starts an attempt.
    Claim,
    /// An attempt has ended.
    Finish,
    /// A claimed job does not start, because a newer value of `version_by` has succeeded.
    Outdate,
    /// A retried job whose expressions had failed was evaluated again.
    Reevaluate,
    /// A newer job with its debounce key was created.
    Supersede,
    /// A person cancelled it.
    Cancel,
    /// A person, or a duplicate of the event, retried it.
    Retry,
}

#[cfg(test)]
impl Transition {
    pub const ALL: [Self; 11] = [
        Self::Admit,
        Self::Release,
        Self::Block,
        Self::Promote,
        Self::Claim,
        Self::Finish,
        Self::Outdate,
        Self::Reevaluate,
        Self::Supersede,
        Self::Cancel,
        Self::Retry,
    ];

    /// Returns the states in which it is possible. In any other state it changes nothing.
    pub const fn from(self) -> &'static [JobState] {
        use JobState::{Blocked, Cancelled, Dead, Ready, Running, Scheduled, Unreleased};
        match self {
            Self::Admit => &[Unreleased],
            Self::Release => &[Blocked],
            Self::Block | Self::Claim => &[Ready],
            Self::Promote => &[Scheduled],
            Self::Finish | Self::Outdate | Self::Reevaluate => &[Running],
            Self::Supersede => &[Blocked, Ready, Scheduled],
            // A running job is stopped first: its attempt ends with `Finish`.
            Self::Cancel => &[Blocked, Ready, Scheduled, Unreleased, Dead],
            Self::Retry => &[Scheduled, Dead, Cancelled],
        }
    }

    /// Returns the states that it can lead to.
    pub const fn to(self) -> &'static [JobState] {
        use JobState::{Blocked, Cancelled, Dead, Ready, Running, Scheduled, Succeeded};
        match self {
            Self::Admit => &[Blocked, Ready, Scheduled, Dead, Cancelled],
            Self::Release => &[Ready],
            Self::Block => &[Blocked],
            Self::Promote | Self::Retry => &[Ready, Blocked],
            Self::Claim => &[Running],
            Self::Finish => &[Ready, Scheduled, Succeeded, Dead, Cancelled],
            Self::Outdate | Self::Supersede | Self::Cancel => &[Cancelled],
            Self::Reevaluate => &[Ready, Blocked, Cancelled],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_state_has_its_number_and_a_name() {
        let codes = JobState::ALL.map(JobState::code);
        assert_eq!(codes, [-1, 0, 1, 2, 3, 4, 5, 6]);
        for state in JobState::ALL {
            assert_eq!(JobState::from_code(state.code()), Some(state));
            assert!(PublicState::ALL.contains(&state.public()));
            assert!(!(state.is_final() && state.is_queued()), "{state:?}");
        }
        assert_eq!(JobState::from_code(7), None);
    }

    #[test]
    fn every_state_but_unreleased_can_be_reached_and_every_state_but_succeeded_can_be_left() {
        for state in JobState::ALL {
            let is_entered = Transition::ALL.iter().any(|change| change.to().contains(&state));
            let is_left = Transition::ALL.iter().any(|change| change.from().contains(&state));
            assert_eq!(is_entered, state != JobState::Unreleased, "{state:?}");
            assert_eq!(is_left, state != JobState::Succeeded, "{state:?}");
        }
    }
}
