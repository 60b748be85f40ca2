//! Shortages of file descriptors, processes or memory. They are no error of the program that can't
//! be started. So its start waits and is retried, and a shortage that lasts does not count as an
//! attempt of the job.

use std::io;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::{CancelToken, ExitReason};

/// The first wait. Each next wait is twice as long, up to `LONGEST_WAIT`.
const FIRST_WAIT: Duration = Duration::from_millis(20);
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// How long a start is retried. Other handlers have jobs for the worker thread, so the wait is
/// short.
const MAX_TOTAL_WAIT: Duration = Duration::from_secs(10);

/// The reason why a process can't be started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartError {
    /// The problem and its remedy.
    pub reason: String,
    /// The cause is a shortage, so a later start may succeed.
    pub is_transient: bool,
}

impl StartError {
    /// Makes an error from the error of a system call.
    pub(super) fn from_errno(error: Errno, reason: String) -> Self {
        Self { reason, is_transient: is_shortage(error.raw_os_error()) }
    }

    /// Makes an error from an I/O error. It is transient if its system call reports a shortage.
    pub fn from_io(error: &io::Error, reason: String) -> Self {
        Self { reason, is_transient: error.raw_os_error().is_some_and(is_shortage) }
    }
}

/// Makes an error that is not transient.
impl From<String> for StartError {
    fn from(reason: String) -> Self {
        Self { reason, is_transient: false }
    }
}

impl From<StartError> for ExitReason {
    fn from(error: StartError) -> Self {
        let exit = if error.is_transient { Self::Shortage } else { Self::NotStarted };
        exit(error.reason)
    }
}

/// Returns whether an error of a system call means that descriptors, processes or memory are used
/// up.
pub fn is_shortage(errno: i32) -> bool {
    matches!(errno, libc::EMFILE | libc::ENFILE | libc::EAGAIN | libc::ENOMEM)
}

/// The waits between the retries of one start.
#[derive(Debug)]
pub struct ShortageBackoff {
    give_up_at: Instant,
    wait: Duration,
}

impl Default for ShortageBackoff {
    fn default() -> Self {
        Self { give_up_at: Instant::now() + MAX_TOTAL_WAIT, wait: FIRST_WAIT }
    }
}

impl ShortageBackoff {
    /// Waits before the next retry, or until `stop` is cancelled. Returns `false` if the shortage
    /// lasts too long.
    pub fn wait(&mut self, stop: &CancelToken, reason: &str) -> bool {
        self.poll(&mut [PollFd::new(stop, PollFlags::IN)], reason)
    }

    /// Waits like `wait`, but can't be cancelled. Used to create the `CancelToken` itself.
    pub fn wait_uncancellable(&mut self, reason: &str) -> bool {
        self.poll(&mut [], reason)
    }

    fn poll(&mut self, stop: &mut [PollFd<'_>], reason: &str) -> bool {
        log::warn!("jobs wait for the system: {reason}");
        let has_time = Instant::now() < self.give_up_at;
        if has_time {
            let _ = poll(stop, Timespec::try_from(self.wait).ok().as_ref());
            self.wait = (self.wait * 2).min(LONGEST_WAIT);
        }
        has_time
    }
}

/// Starts something and retries while there is a shortage.
///
/// # Errors
/// `Stopped`, `NotStarted` or `Shortage`.
pub fn start_when_possible<T>(
    stop: &CancelToken,
    mut start: impl FnMut() -> Result<T, StartError>,
) -> Result<T, ExitReason> {
    let mut shortage = ShortageBackoff::default();
    loop {
        if stop.is_cancelled() {
            return Err(ExitReason::Stopped);
        }
        match start() {
            Ok(result) => return Ok(result),
            Err(e) if !e.is_transient || !shortage.wait(stop, &e.reason) => return Err(e.into()),
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shortage_error(reason: &str) -> StartError {
        StartError::from_errno(Errno::MFILE, reason.to_owned())
    }

    #[test]
    fn a_start_is_retried_until_the_shortage_ends() {
        let (stop, mut attempts) = (CancelToken::new().unwrap(), 0);
        let result = start_when_possible(&stop, || {
            attempts += 1;
            if attempts < 4 { Err(shortage_error("no files")) } else { Ok(attempts) }
        });
        assert_eq!(result, Ok(4));
    }

    #[test]
    fn a_start_that_fails_for_another_reason_is_not_retried() {
        let stop = CancelToken::new().unwrap();
        let result = start_when_possible(&stop, || Err::<(), _>("gone".to_owned().into()));
        assert_eq!(result, Err(ExitReason::NotStarted("gone".to_owned())));
    }

    #[test]
    fn a_cancelled_token_ends_the_wait() {
        let stop = CancelToken::new().unwrap();
        let result = start_when_possible(&stop, || {
            stop.cancel();
            Err::<(), _>(shortage_error("no files"))
        });
        assert_eq!(result, Err(ExitReason::Stopped));
    }

    #[test]
    fn a_start_gives_up_after_the_longest_wait() {
        let stop = CancelToken::new().unwrap();
        let mut shortage =
            ShortageBackoff { give_up_at: Instant::now(), ..ShortageBackoff::default() };
        assert!(!shortage.wait(&stop, "no files"));
    }
}
