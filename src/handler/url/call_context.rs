//! The context of a worker thread's current call: its deadline and its `CancelToken`.
//!
//! ureq runs a call on the calling thread and keeps its connection for the next one. The waits
//! within a call (DNS lookup, connect, read) are far below the caller. So the context belongs to
//! the thread, not to the connection. All waits of a call use the one `poll` in this module.

use std::borrow::Cow;
use std::cell::RefCell;
use std::fmt;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::process::CancelToken;

/// The phase in which a call spends most of its time.
pub(super) const AWAITING_RESPONSE: &str = "waiting for the response";

/// Why a call failed. It passes through ureq as `Error::Other`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum CallError {
    Stopped,
    TimedOut,
    NotConnected(String),
    /// A shortage of descriptors, memory or threads in the server.
    Shortage(String),
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stopped => f.write_str("stopped"),
            Self::TimedOut => f.write_str("timeout"),
            Self::NotConnected(reason) | Self::Shortage(reason) => {
                write!(f, "not connected: {reason}")
            }
        }
    }
}

impl std::error::Error for CallError {}

impl From<CallError> for ureq::Error {
    fn from(call_error: CallError) -> Self {
        Self::Other(Box::new(call_error))
    }
}

struct CallContext {
    number: u64,
    stop: CancelToken,
    deadline: Instant,
    phase: Cow<'static, str>,
    /// The connection was used before, and nothing has been received on it during this call.
    is_stale: bool,
}

thread_local! {
    static CURRENT_CALL: RefCell<Option<CallContext>> = const { RefCell::new(None) };
}

static LAST_NUMBER: AtomicU64 = AtomicU64::new(0);

/// The thread's current call, until this is dropped.
#[derive(Debug)]
pub(super) struct CallGuard(());

impl CallGuard {
    pub fn begin(stop: &CancelToken, timeout: Duration) -> Self {
        let now = Instant::now();
        // A timeout beyond the range of the clock means no timeout.
        let deadline = now.checked_add(timeout).unwrap_or(now + Duration::from_secs(1 << 32));
        let number = LAST_NUMBER.fetch_add(1, Ordering::Relaxed) + 1;
        let phase = AWAITING_RESPONSE.into();
        let context = CallContext { number, stop: stop.clone(), deadline, phase, is_stale: false };
        CURRENT_CALL.set(Some(context));
        Self(())
    }

    /// Returns the current phase of the call.
    pub fn phase(&self) -> String {
        with_current(|context| context.phase.to_string()).unwrap_or_default()
    }

    /// Returns whether the peer closed an idle connection when it was used again. The request was
    /// most likely not read.
    pub fn was_stale(&self) -> bool {
        with_current(|context| context.is_stale).unwrap_or(false)
    }
}

impl Drop for CallGuard {
    fn drop(&mut self) {
        CURRENT_CALL.set(None);
    }
}

fn with_current<T>(use_context: impl FnOnce(&mut CallContext) -> T) -> Option<T> {
    CURRENT_CALL.with_borrow_mut(|current| current.as_mut().map(use_context))
}

/// Sets the phase of the call, which is shown after a timeout.
pub(super) fn set_phase(phase: impl Into<Cow<'static, str>>) {
    let phase = phase.into();
    with_current(|context| context.phase = phase);
}

/// Returns the unique number of the current call.
pub(super) fn call_number() -> u64 {
    with_current(|context| context.number).unwrap_or(0)
}

pub(super) fn set_stale(is_stale: bool) {
    with_current(|context| context.is_stale = is_stale);
}

/// Returns the time until the deadline.
pub(super) fn remaining_time() -> Duration {
    with_current(|context| context.deadline.saturating_duration_since(Instant::now()))
        .unwrap_or_default()
}

/// Waits until `fd` is ready, the deadline passes, or the call is cancelled.
pub(super) fn wait_for(fd: impl AsFd, flags: PollFlags) -> Result<(), CallError> {
    match wait_at_most(fd, flags, Duration::MAX)? {
        true => Ok(()),
        false => Err(CallError::TimedOut),
    }
}

/// Waits like `wait_for`, but at most `max_wait`. Then returns false.
pub(super) fn wait_at_most(
    fd: impl AsFd,
    flags: PollFlags,
    max_wait: Duration,
) -> Result<bool, CallError> {
    let wait_until = Instant::now().checked_add(max_wait);
    let Some((stop, deadline)) = with_current(|context| (context.stop.clone(), context.deadline))
    else {
        // There is no current call when ureq checks an idle connection. Such a check must not wait.
        return Err(CallError::TimedOut);
    };
    let wait_until = wait_until.map_or(deadline, |wait_until| wait_until.min(deadline));
    let mut poll_fds = [PollFd::new(&fd, flags), PollFd::new(&stop, PollFlags::IN)];
    loop {
        let remaining = wait_until.saturating_duration_since(Instant::now());
        // `poll` does not accept longer waits. The loop checks the deadline after each one.
        let time = Timespec::try_from(remaining.min(Duration::from_secs(86_400))).ok();
        match poll(&mut poll_fds, time.as_ref()) {
            Ok(_) if !poll_fds[1].revents().is_empty() => return Err(CallError::Stopped),
            Ok(_) if !poll_fds[0].revents().is_empty() => return Ok(true),
            Ok(_) if remaining.is_zero() && wait_until == deadline => {
                return Err(CallError::TimedOut);
            }
            Ok(_) if remaining.is_zero() => return Ok(false),
            Ok(_) | Err(Errno::INTR | Errno::AGAIN) => {}
            Err(e) => return Err(CallError::NotConnected(std::io::Error::from(e).to_string())),
        }
    }
}
