//! The record of a server's last runs in the file `NAME.lock`, and how long the next run waits
//! because of it.
//!
//! systemd restarts a failed server after 0.1 s, without limit. A server that fails each time would
//! therefore fail ten times per second. The record is written in place without a sync: it outlives
//! the process, and after a power cut there is no reason to wait.

use std::time::Duration;

use crate::{clock, escape};

/// Number of failed runs in a row without a wait.
const FREE_FAILURES: u32 = 5;

/// The longest wait before a start.
const MAX_DELAY: Duration = Duration::from_secs(30);

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
        Self::ALL.into_iter().find(|(known, _)| *known == self).map_or("", |(_, name)| name)
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
    /// `None` until the server is ready.
    pub server: Option<ServerInfo>,
}

/// The facts that `hooktrail status` shows about a running server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerInfo {
    pub version: String,
    /// The path of config.toml.
    pub config: String,
    /// When the server became ready (wall clock).
    pub ready_at_ms: i64,
    /// When the configuration in force was loaded (wall clock).
    pub loaded_at_ms: i64,
    /// When a reload was last rejected, if that was after `loaded_at_ms` (wall clock).
    pub reload_rejected_at_ms: Option<i64>,
    pub last_reload: Option<ReloadRecord>,
    /// Problems that only the server knows: lines.
    pub problems: Vec<String>,
    /// The addresses of the listeners: `http://IP:PORT` or `unix:PATH`.
    pub intake: Vec<String>,
    pub admin: Vec<String>,
}

/// The last line. What follows is of an older record, while this one is being written.
const END: &str = "end\n";

/// How a reload has ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReloadRecord {
    /// When it began, since the machine booted.
    pub started_boot_ms: i64,
    /// Why the file was rejected: lines. Empty: it is in force.
    pub errors: Vec<String>,
}

/// The bytes that a record has for lines of any number: on a full disk, a longer file may not be written.
const MAX_LINES_BYTES: usize = 2048;

/// Formats values that are lines, as far as there are bytes `left`. The rest are only counted.
fn bounded_lines(key: &str, values: &[String], left: &mut usize) -> String {
    let mut text = String::new();
    for (index, value) in values.iter().enumerate() {
        let line = escape::escape(value);
        if line.len() > *left {
            let rest = values.len() - index;
            text.push_str(&format!("{key} and {rest} more: see the log of the server\n"));
            break;
        }
        *left -= line.len();
        text.push_str(&format!("{key} {line}\n"));
    }
    text
}

impl ReloadRecord {
    fn to_text(&self, left: &mut usize) -> String {
        bounded_lines("reload_error", &self.errors, left)
            + &format!("reload_started_boot_ms {}\n", self.started_boot_ms)
    }
}

impl ServerInfo {
    fn to_text(&self) -> String {
        let mut text = format!(
            "version {}\nconfig {}\nready_at_ms {}\nloaded_at_ms {}\n",
            self.version,
            escape::escape(&self.config),
            self.ready_at_ms,
            self.loaded_at_ms
        );
        if let Some(at_ms) = self.reload_rejected_at_ms {
            text.push_str(&format!("reload_rejected_at_ms {at_ms}\n"));
        }
        for (key, addresses) in [("intake", &self.intake), ("admin", &self.admin)] {
            for address in addresses {
                text.push_str(&format!("{key} {}\n", escape::escape(address)));
            }
        }
        let mut left = MAX_LINES_BYTES;
        if let Some(reload) = &self.last_reload {
            text.push_str(&reload.to_text(&mut left));
        }
        text.push_str(&bounded_lines("problem", &self.problems, &mut left));
        text + END
    }

    fn parse(text: &str) -> Option<Self> {
        let text = text.split_once("\nend\n").map_or(text, |(text, _)| text);
        let values = |key: &str| -> Vec<String> {
            let lines = text.lines();
            let values = lines.filter_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
            values.map(str::to_owned).collect()
        };
        let value = |key: &str| values(key).into_iter().next();
        Some(Self {
            version: value("version")?,
            config: value("config")?,
            ready_at_ms: value("ready_at_ms")?.parse().ok()?,
            loaded_at_ms: value("loaded_at_ms")?.parse().ok()?,
            reload_rejected_at_ms: value("reload_rejected_at_ms").and_then(|at| at.parse().ok()),
            last_reload: value("reload_started_boot_ms").and_then(|at| at.parse().ok()).map(
                |started_boot_ms| ReloadRecord { started_boot_ms, errors: values("reload_error") },
            ),
            problems: values("problem"),
            intake: values("intake"),
            admin: values("admin"),
        })
    }
}

impl RunRecord {
    /// Creates the record of a run that begins now, after `previous`.
    pub fn begin(previous: Option<&Self>) -> Self {
        let (now_ms, boot_id) = (clock::boot_ms(), clock::boot_id());
        let failures = previous.map_or(0, |run| run.failures_at(now_ms, &boot_id));
        let (pid, state) = (std::process::id(), RunState::Starting);
        Self { pid, state, failures, started_boot_ms: now_ms, boot_id, server: None }
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
        Duration::from_secs(1 << doublings.min(5)).min(MAX_DELAY)
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
        ) + &self.server.as_ref().map(ServerInfo::to_text).unwrap_or_default()
    }

    /// Parses the output of `to_text`. Ignores text behind it.
    pub fn parse(text: &str) -> Option<Self> {
        let value =
            |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
        let state_name = value("state")?;
        Some(Self {
            pid: pid(text)?,
            state: RunState::ALL.into_iter().find(|(_, name)| *name == state_name)?.0,
            failures: value("failures")?.parse().ok()?,
            started_boot_ms: value("started_boot_ms")?.parse().ok()?,
            boot_id: value("boot_id")?.to_owned(),
            server: ServerInfo::parse(text),
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
        RunRecord {
            pid: 7,
            state,
            failures,
            started_boot_ms: 1000,
            boot_id: "a".into(),
            server: None,
        }
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
        assert_eq!(RunRecord::parse(&record.to_text()), Some(record.clone()));
        let server = ServerInfo {
            version: "0.1.0".into(),
            config: "/etc/hooktrail/config.toml".into(),
            ready_at_ms: 5,
            loaded_at_ms: 6,
            reload_rejected_at_ms: Some(7),
            last_reload: Some(ReloadRecord {
                started_boot_ms: 8,
                errors: vec!["config.toml:1: a".into(), "config.toml:2: b\\n".into()],
            }),
            problems: vec!["source a: b".into()],
            intake: vec!["http://127.0.0.1:8080".into(), "unix:/run/a b.sock".into()],
            admin: Vec::new(),
        };
        let record = RunRecord { server: Some(server), ..record };
        assert_eq!(RunRecord::parse(&record.to_text()), Some(record));
        assert_eq!((RunRecord::parse("123\n"), pid("123\n")), (None, Some(123)));
        assert_eq!((RunRecord::parse(""), pid("")), (None, None));
    }
}
