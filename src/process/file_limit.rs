//! The limit on open files (RLIMIT_NOFILE): raised for the server, given back to what it starts.
//!
//! Each connection is a file, so the server takes all that the hard limit allows. A handler keeps the
//! soft limit that the server was started with: programs size tables by it, close all numbers below
//! it, or fail in `select` on numbers above 1,023.

use std::sync::OnceLock;

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit, setrlimit};

/// The limit that the server was started with, once it has been raised.
static ORIGINAL: OnceLock<Rlimit> = OnceLock::new();

/// Raises the soft limit of this process to the hard one; how many files may be open now.
pub fn raise_file_limit() -> u64 {
    let original = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: original.maximum, maximum: original.maximum };
    // A hard limit above fs.nr_open can't be reached: then the soft one stays.
    if original.current != original.maximum && setrlimit(Resource::Nofile, raised).is_ok() {
        let _ = ORIGINAL.set(original);
    }
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Gives a process that was just started the limit back that the server was started with.
///
/// `posix_spawn` has no attribute for limits, so the program may see the raised one in its first
/// microseconds. Not for a servant: it sets limits of its own, which this could lift again.
pub(super) fn restore_file_limit(pid: Pid) {
    if let Some(original) = ORIGINAL.get() {
        // A process that has ended already needs no limit.
        let _ = prlimit(Some(pid), Resource::Nofile, *original);
    }
}
