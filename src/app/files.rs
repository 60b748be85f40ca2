//! Who gets which part of the files that the server may have open.
//!
//! Intake's connections come last: strangers make them, and what the server needs for its own work, for
//! its handlers and for the admin listener must not depend on how many of them there are.

use crate::config::{Config, Handler, Mode};
use crate::web::{ADMIN_CONNECTIONS_MAX, SPARE_CONNECTIONS};

/// The trail with its log, listeners, event loops, expressions, folders that are looked through.
const OWN_FILES: u64 = 128;
/// A worker's own readers of the trail, each with its log.
const FILES_OF_READER: u64 = 2;
/// Four pipes and the process itself; while it starts, the other ends of its pipes too.
const FILES_OF_PROCESS: u64 = 5;
const FILES_OF_START: u64 = 4;

/// How many connections intake may have: `max_connections`, unless the limit on open files leaves
/// less.
pub(super) fn connections_max(config: &Config, files_max: u64) -> usize {
    let left = files_max.saturating_sub(reserve(config));
    // At least something, however low the limit is.
    let left = usize::try_from(left.max(files_max / 8).max(1)).unwrap_or(usize::MAX);
    let max = config.server.max_connections;
    if left < max {
        log::warn!(
            "server.max_connections is {max}, but the limit on open files, {files_max}, leaves {left} \
             connections: raise LimitNOFILE"
        );
    }
    left.min(max)
}

/// What everything else may need.
fn reserve(config: &Config) -> u64 {
    let workers = config.workers.threads as u64;
    // Processes that stay, and connections to URLs that are kept.
    let of_handler = |handler: &Handler| match (&handler.target, handler.mode) {
        (Some(_), _) => handler.concurrency as u64,
        (None, Mode::Stream) => handler.concurrency as u64 * FILES_OF_PROCESS,
        (None, Mode::Each | Mode::Batch | Mode::Cgi) => 0,
    };
    let staying: u64 = config.handlers.iter().map(of_handler).sum();
    let connections = (ADMIN_CONNECTIONS_MAX + SPARE_CONNECTIONS) as u64;
    OWN_FILES
        + connections
        + workers * (FILES_OF_READER + FILES_OF_PROCESS + FILES_OF_START)
        + staying
}
