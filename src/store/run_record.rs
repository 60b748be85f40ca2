//! The record of a server's last runs in the file `NAME.lock`, and how long the next run waits
//! because of it.
//!
//! systemd restarts a failed server after 0.1 s, without limit. A server that fails each time would
//! therefore fail ten times per second. The record is written in place without a sync: it outlives
//! the process, and after a power cut there is no reason to wait.

use std::time::Duration;

use crate::clock;

/// Number of failed runs in a row without a wait.
const FREE_FAILURES: u32 = 5;

/// The longest wait before a start.
const DELAY_MAX: Duration = Duration::from_secs(30);

/// A run that fails by itself within this time counts as a failure.
const FAILED_EARLY_MS: i64 = 60_000;

/// A run that was ready and is killed within this time counts as a failure. A later kill is
/// intentional.
const KILLED_EARLY_MS: i64 = 1000;

/// How far a run got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunState {
    Starting,
    Ready,
    Failed,
    Stopped,
}

impl RunState {
    const ALL: [(Self, &'static str); 4] = [
        (Self::Starting, "starting"),
        (Self::Ready, "ready"),
        (Self::Failed, "failed"),
        (Self::Stopped, "stopped"),
    ];

    fn name(self) -> &'static str {
        Self::ALL.into_iter().find(|(state, _)| *state == self).map_or("", |(_, name)| name)
    }
}

/// One run of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunRecord {
    pub pid: u32,
    pub state: RunState,
    /// Number of runs in a row before this one that failed early.
    pub failures: u32,
    pub started_boot_ms: i64,
    pub boot_id: String,
}

impl RunRecord {
    /// Creates the record of a run that begins now, after `previous`.
    pub fn begin(previous: Option<&Self>) -> Self {
        let (now_ms, boot_id) = (clock::boot_ms(), clock::boot_id());
        let failures = previous.map_or(0, |run| run.failures_at(now_ms, &boot_id));
        let (pid, state) = (std::process::id(), RunState::Starting);
        Self { pid, state, failures, started_boot_ms: now_ms, boot_id }
    }

    /// Returns how many runs in a row have failed early, this one included.
    fn failures_at(&self, now_ms: i64, boot_id: &str) -> u32 {
        if self.boot_id != boot_id {
            return 0;
        }
        let early_ms = match self.state {
            RunState::Stopped => return 0,
            RunState::Ready => KILLED_EARLY_MS,
            RunState::Starting | RunState::Failed => FAILED_EARLY_MS,
        };
        if now_ms - self.started_boot_ms < early_ms { self.failures.saturating_add(1) } else { 0 }
    }

    /// Returns how long this run waits before it begins its work.
    pub fn delay(&self) -> Duration {
        let Some(doublings) = self.failures.checked_sub(FREE_FAILURES + 1) else {
            return Duration::ZERO;
        };
        Duration::from_secs(1 << doublings.min(5)).min(DELAY_MAX)
    }

    /// Formats the record for the file: the process id alone on the first line.
    pub fn to_text(&self) -> String {
        format!(
            "{}\nstate {}\nfailures {}\nstarted_boot_ms {}\nboot_id {}\n",
            self.pid,
            self.state.name(),
            self.failures,
            self.started_boot_ms,
            self.boot_id
        )
    }

    /// Parses the output of `to_text`. Ignores text behind it.
    pub fn parse(text: &str) -> Option<Self> {
        let value =
            |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
        let state = value("state")?;
        Some(Self {
            pid: pid(text)?,
            state: RunState::ALL.into_iter().find(|(_, name)| *name == state)?.0,
            failures: value("failures")?.parse().ok()?,
            started_boot_ms: value("started_boot_ms")?.parse().ok()?,
            boot_id: value("boot_id")?.to_owned(),
        })
    }
}

/// Returns the id of the process that wrote the file.
pub fn pid(text: &str) -> Option<u32> {
    text.lines().next()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(state: RunState, failures: u32) -> RunRecord {
        RunRecord { pid: 7, state, failures, started_boot_ms: 1000, boot_id: "a".into() }
    }

    #[test]
    fn only_a_run_that_fails_early_adds_to_the_failures_in_a_row() {
        use RunState::{Failed, Ready, Starting, Stopped};
        for (state, ran_ms, boot_id, expected) in [
            (Failed, 10, "a", 4),
            (Failed, 59_000, "a", 4),
            (Failed, 61_000, "a", 0),
            (Starting, 10, "a", 4),
            (Ready, 500, "a", 4),
            (Ready, 1500, "a", 0),
            (Stopped, 10, "a", 0),
            // A power cut.
            (Failed, 10, "b", 0),
            (Starting, 10, "b", 0),
        ] {
            let failures = run(state, 3).failures_at(1000 + ran_ms, boot_id);
            assert_eq!(failures, expected, "{state:?} after {ran_ms} ms, boot {boot_id}");
        }
    }

    #[test]
    fn the_wait_begins_after_five_failures_and_grows_to_half_a_minute() {
        let delays = [0, 5, 6, 7, 8, 9, 10, 11, 12, u32::MAX]
            .map(|failures| run(RunState::Starting, failures).delay().as_secs());
        assert_eq!(delays, [0, 0, 1, 2, 4, 8, 16, 30, 30, 30]);
    }

    #[test]
    fn a_record_is_parsed_as_written_and_an_older_file_yields_its_process_id() {
        let record = run(RunState::Ready, 2);
        assert_eq!(RunRecord::parse(&record.to_text()), Some(record));
        assert_eq!((RunRecord::parse("123\n"), pid("123\n")), (None, Some(123)));
        assert_eq!((RunRecord::parse(""), pid("")), (None, None));
    }
}
