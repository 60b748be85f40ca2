//! The exchange that a worker's thread is in now: until when it may take, and what stops it.
//!
//! ureq runs a call on the thread that asks for it, and keeps connections for the next one. What
//! waits within a call (a lookup, a connection, a read) is far below its caller, so that the bounds
//! are the thread's, not a connection's. Every wait of an exchange is the one `poll` here.

use std::borrow::Cow;
use std::cell::RefCell;
use std::fmt;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::process::CancelToken;

/// What most of an exchange is.
pub(super) const WAITING: &str = "waiting for an answer";

/// Why an exchange got no further. Goes through ureq as its `Error::Other`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum CallError {
    Stopped,
    TimedOut,
    NotConnected(String),
    /// The server itself lacks what a connection takes.
    NotNow(String),
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stopped => f.write_str("stopped"),
            Self::TimedOut => f.write_str("timeout"),
            Self::NotConnected(why) | Self::NotNow(why) => write!(f, "not connected: {why}"),
        }
    }
}

impl std::error::Error for CallError {}

impl From<CallError> for ureq::Error {
    fn from(fault: CallError) -> Self {
        Self::Other(Box::new(fault))
    }
}

struct CallContext {
    number: u64,
    stop: CancelToken,
    deadline: Instant,
    doing: Cow<'static, str>,
    /// It goes over a connection that was used before, and nothing was heard on it yet.
    stale: bool,
}

thread_local! {
    static NOW: RefCell<Option<CallContext>> = const { RefCell::new(None) };
}

static LAST: AtomicU64 = AtomicU64::new(0);

/// The thread's exchange, until it is dropped.
#[derive(Debug)]
pub(super) struct CallGuard(());

impl CallGuard {
    pub fn begin(stop: &CancelToken, timeout: Duration) -> Self {
        let now = Instant::now();
        // A timeout that no clock reaches is none.
        let deadline = now.checked_add(timeout).unwrap_or(now + Duration::from_secs(1 << 32));
        let number = LAST.fetch_add(1, Ordering::Relaxed) + 1;
        let doing = WAITING.into();
        let bounds = CallContext { number, stop: stop.clone(), deadline, doing, stale: false };
        NOW.set(Some(bounds));
        Self(())
    }

    /// What it was at when time was up.
    pub fn set_phase(&self) -> String {
        with_current(|bounds| bounds.doing.to_string()).unwrap_or_default()
    }

    /// The other end closed a connection just when it was used again: whatever was sent was most
    /// likely never read.
    pub fn was_stale(&self) -> bool {
        with_current(|bounds| bounds.stale).unwrap_or(false)
    }
}

impl Drop for CallGuard {
    fn drop(&mut self) {
        NOW.set(None);
    }
}

fn with_current<T>(look: impl FnOnce(&mut CallContext) -> T) -> Option<T> {
    NOW.with_borrow_mut(|now| now.as_mut().map(look))
}

/// Says what the thread is at, for people.
pub(super) fn doing(what: impl Into<Cow<'static, str>>) {
    let what = what.into();
    with_current(|bounds| bounds.doing = what);
}

/// The number of the thread's exchange: no two share one.
pub(super) fn number() -> u64 {
    with_current(|bounds| bounds.number).unwrap_or(0)
}

pub(super) fn set_stale(stale: bool) {
    with_current(|bounds| bounds.stale = stale);
}

/// Time that is left.
pub(super) fn remaining() -> Duration {
    with_current(|bounds| bounds.deadline.saturating_duration_since(Instant::now()))
        .unwrap_or_default()
}

/// Waits until something can be done with `fd`, the time is up, or it is stopped.
pub(super) fn wait_for(fd: impl AsFd, flags: PollFlags) -> Result<(), CallError> {
    match wait_at_most(fd, flags, Duration::MAX)? {
        true => Ok(()),
        false => Err(CallError::TimedOut),
    }
}

/// Like `wait_for`, but no longer than `most`: then false.
pub(super) fn wait_at_most(
    fd: impl AsFd,
    flags: PollFlags,
    most: Duration,
) -> Result<bool, CallError> {
    let until = Instant::now().checked_add(most);
    let Some((stop, deadline)) = with_current(|bounds| (bounds.stop.clone(), bounds.deadline))
    else {
        // Nobody waits outside an exchange: a probe of an idle connection asks without.
        return Err(CallError::TimedOut);
    };
    let until = until.map_or(deadline, |until| until.min(deadline));
    let mut fds = [PollFd::new(&fd, flags), PollFd::new(&stop, PollFlags::IN)];
    loop {
        let left = until.saturating_duration_since(Instant::now());
        // Longer waits than poll knows are cut; the loop looks at the clock again.
        let time = Timespec::try_from(left.min(Duration::from_secs(86_400))).ok();
        match poll(&mut fds, time.as_ref()) {
            Ok(_) if !fds[1].revents().is_empty() => return Err(CallError::Stopped),
            Ok(_) if !fds[0].revents().is_empty() => return Ok(true),
            Ok(_) if left.is_zero() && until == deadline => return Err(CallError::TimedOut),
            Ok(_) if left.is_zero() => return Ok(false),
            Ok(_) | Err(Errno::INTR | Errno::AGAIN) => {}
            Err(e) => return Err(CallError::NotConnected(std::io::Error::from(e).to_string())),
        }
    }
}
