//! What the system lacks for a moment: file descriptors, processes, memory. That says nothing of the
//! program which cannot be started, so its start waits, and no job pays for it.

use std::io;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::{CancelToken, ExitReason};

/// The first wait; each is twice as long as the one before.
const WAIT: Duration = Duration::from_millis(20);
const WAIT_MAX: Duration = Duration::from_secs(2);

/// For so long a start is tried again. The thread is a worker's: others have jobs for it.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why a process cannot be started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartError {
    /// With what to do about it.
    pub reason: String,
    /// The system lacks something: later it may succeed.
    pub is_passing: bool,
}

impl StartError {
    /// The error of a system call.
    pub(super) fn of_errno(error: Errno, reason: String) -> Self {
        Self { reason, is_passing: is_shortage(error.raw_os_error()) }
    }

    /// Another error with what was said of the call.
    pub fn of_io(error: &io::Error, reason: String) -> Self {
        Self { reason, is_passing: error.raw_os_error().is_some_and(is_shortage) }
    }
}

/// One that is not passing.
impl From<String> for StartError {
    fn from(reason: String) -> Self {
        Self { reason, is_passing: false }
    }
}

/// Whether the error of a system call says that file descriptors, processes or memory are lacking.
pub fn is_shortage(errno: i32) -> bool {
    matches!(errno, libc::EMFILE | libc::ENFILE | libc::EAGAIN | libc::ENOMEM)
}

/// The waits of one start.
#[derive(Debug)]
pub struct Shortage {
    until: Instant,
    wait: Duration,
}

impl Default for Shortage {
    fn default() -> Self {
        Self { until: Instant::now() + PATIENCE, wait: WAIT }
    }
}

impl Shortage {
    /// Waits until it is worth another try, or `stop` is set; `false`: it has lasted too long.
    pub fn wait(&mut self, stop: &CancelToken, reason: &str) -> bool {
        if !self.has_time(reason) {
            return false;
        }
        let wait = Timespec::try_from(self.wait).ok();
        let _ = poll(&mut [PollFd::new(stop, PollFlags::IN)], wait.as_ref());
        self.wait = (self.wait * 2).min(WAIT_MAX);
        true
    }

    /// The same for the start of a `Stop` itself, which nothing can end.
    pub fn wait_without_stop(&mut self, reason: &str) -> bool {
        let has_time = self.has_time(reason);
        if has_time {
            std::thread::sleep(self.wait);
            self.wait = (self.wait * 2).min(WAIT_MAX);
        }
        has_time
    }

    fn has_time(&self, reason: &str) -> bool {
        log::warn!("jobs wait for the system: {reason}");
        Instant::now() < self.until
    }
}

/// Starts something, and tries again while the system lacks what that takes.
///
/// # Errors
/// `Stopped`, `NotStarted` or `NotNow`.
pub fn start_when_possible<T>(
    stop: &CancelToken,
    mut start: impl FnMut() -> Result<T, StartError>,
) -> Result<T, ExitReason> {
    let mut shortage = Shortage::default();
    loop {
        if stop.is_set() {
            return Err(ExitReason::Stopped);
        }
        match start() {
            Ok(started) => return Ok(started),
            Err(e) if !e.is_passing => return Err(ExitReason::NotStarted(e.reason)),
            Err(e) if !shortage.wait(stop, &e.reason) => return Err(ExitReason::NotNow(e.reason)),
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lacking(reason: &str) -> StartError {
        StartError::of_errno(Errno::MFILE, reason.to_owned())
    }

    #[test]
    fn a_start_is_tried_again_until_the_system_has_what_it_takes() {
        let (stop, mut tries) = (CancelToken::new().unwrap(), 0);
        let started = start_when_possible(&stop, || {
            tries += 1;
            if tries < 4 { Err(lacking("no files")) } else { Ok(tries) }
        });
        assert_eq!(started, Ok(4));
    }

    #[test]
    fn a_start_that_fails_by_itself_is_not_tried_again() {
        let stop = CancelToken::new().unwrap();
        let started = start_when_possible(&stop, || Err::<(), _>("gone".to_owned().into()));
        assert_eq!(started, Err(ExitReason::NotStarted("gone".to_owned())));
    }

    #[test]
    fn a_stop_ends_the_wait() {
        let stop = CancelToken::new().unwrap();
        let started = start_when_possible(&stop, || {
            stop.set();
            Err::<(), _>(lacking("no files"))
        });
        assert_eq!(started, Err(ExitReason::Stopped));
    }

    #[test]
    fn a_shortage_that_lasts_is_given_up() {
        let stop = CancelToken::new().unwrap();
        let mut shortage = Shortage { until: Instant::now(), ..Shortage::default() };
        assert!(!shortage.wait(&stop, "no files"));
    }
}
