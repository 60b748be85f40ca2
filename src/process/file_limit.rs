//! The limit on open files (RLIMIT_NOFILE). The server raises its own limit and gives its child
//! processes the original one.
//!
//! Each connection is an open file, so the server raises its soft limit to the hard limit. Handlers
//! keep the original soft limit. Many programs size tables by it, close all descriptors below it,
//! or fail in `select` on descriptors above 1,023.

use std::sync::OnceLock;

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit, setrlimit};

/// The original limit of the server, set once it has been raised.
static ORIGINAL: OnceLock<Rlimit> = OnceLock::new();

/// Raises the soft limit of this process to the hard limit. Returns how many files may be open now.
pub fn raise_file_limit() -> u64 {
    let original = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: original.maximum, maximum: original.maximum };
    // A hard limit above fs.nr_open can't be reached. In this case the soft limit stays.
    if original.current != original.maximum && setrlimit(Resource::Nofile, raised).is_ok() {
        let _ = ORIGINAL.set(original);
    }
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Gives a new process the original limit of the server.
///
/// `posix_spawn` has no attribute for limits, so the program may see the raised limit in its first
/// microseconds. Don't call this for a sandboxed process. It sets its limits itself, and this call
/// could raise them again.
pub(super) fn restore_file_limit(pid: Pid) {
    if let Some(original) = ORIGINAL.get() {
        // This fails if the process has already ended.
        let _ = prlimit(Some(pid), Resource::Nofile, *original);
    }
}
