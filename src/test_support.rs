//! What unit tests of several modules share. Integration tests have `tests/integration/support`.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long a test waits for a condition.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// Waits until a condition holds. `condition` names it in the message of a failure.
#[track_caller]
pub(crate) fn until(condition: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < deadline, "timed out waiting until {condition}");
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

/// Returns whether a process exists. One that has ended and was not reaped exists too.
#[track_caller]
pub(crate) fn process_exists(pid: &str) -> bool {
    assert!(pid.trim().parse::<u32>().is_ok(), "{pid:?} is not a process id");
    Path::new("/proc").join(pid.trim()).exists()
}

/// Returns whether a process runs. One that has ended and was not reaped does not.
pub(crate) fn is_running(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(['Z', 'X']))
}
