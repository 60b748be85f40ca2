//! Why a call has no complete response.

use std::fmt;
use std::io;

use crate::process::is_shortage;

/// Why a call failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum CallError {
    Stopped,
    TimedOut,
    NotConnected(String),
    /// The connection was opened, but no complete response arrived.
    NoResponse(String),
    /// A shortage of descriptors, memory or threads in the server.
    Shortage(String),
}

impl CallError {
    /// Makes the error of a system call that looks `place` up or opens a connection to it.
    pub fn from_connect(place: impl fmt::Display, error: &io::Error) -> Self {
        let reason = format!("{place}: {error}");
        match error.raw_os_error() {
            Some(errno) if is_shortage(errno) || errno == libc::ENOBUFS => Self::Shortage(reason),
            _ => Self::NotConnected(reason),
        }
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stopped => f.write_str("stopped"),
            Self::TimedOut => f.write_str("timeout"),
            Self::NoResponse(reason) => write!(f, "no response: {reason}"),
            Self::NotConnected(reason) | Self::Shortage(reason) => {
                write!(f, "not connected: {reason}")
            }
        }
    }
}
