//! Divides the limit on open files between the server's own work and connections.
//!
//! Intake's connections get what is left. Strangers open them, and the server's own work, its handlers
//! and the admin listener must not depend on their number.

use crate::admin;
use crate::config::{Config, Handler, HandlerKind, Mode};

/// The database with its log, listeners, event loops, evaluators, the connections of maintenance, and folders being read.
const OWN_FILES: u64 = 128;
/// A worker's read connection: the database and its log.
const FILES_PER_READER: u64 = 2;
/// A kept connection to a URL: its socket, and four of its runtime: the epoll instance twice, an eventfd
/// and tokio's socket for signals.
const FILES_PER_URL_CONNECTION: u64 = 5;
/// The connection of a handler or a source to NATS: its socket, and that of the next server while it connects again.
const FILES_PER_NATS_CONNECTION: u64 = 2;
/// Four pipes and the pidfd of a process. While it starts, the other ends of its pipes too.
const FILES_PER_PROCESS: u64 = 5;
const FILES_PER_STARTING_PROCESS: u64 = 4;

/// Returns the maximum number of intake connections: `max_connections`, or what the limit on open files
/// leaves if that is less.
pub(super) fn connections_max(config: &Config, files_max: u64) -> usize {
    let left = files_max.saturating_sub(reserve(config));
    // At least an eighth, however low the limit is.
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

/// The number of files that everything but intake's connections may need.
fn reserve(config: &Config) -> u64 {
    let workers = config.workers.threads as u64;
    // Persistent processes, and kept connections to URLs.
    let files_of_handler = |handler: &Handler| match &handler.kind {
        HandlerKind::JetStream(_) => FILES_PER_NATS_CONNECTION,
        HandlerKind::Url(_) => handler.concurrency as u64 * FILES_PER_URL_CONNECTION,
        HandlerKind::Command(command) => match command.mode {
            Mode::Stream => handler.concurrency as u64 * FILES_PER_PROCESS,
            Mode::Each | Mode::Batch(_) | Mode::Cgi => 0,
        },
    };
    let persistent: u64 = config.handlers.iter().map(files_of_handler).sum();
    let consumers = config.sources.iter().filter(|source| source.consumer().is_some()).count();
    let persistent = persistent + consumers as u64 * FILES_PER_NATS_CONNECTION;
    // A socket, and the connection that it has accepted and that waits for a slot. A reload may have both old and new ones.
    let listeners = 4 * (config.server.listen.len() + config.admin.listen.len());
    OWN_FILES
        + (admin::MAX_CONNECTIONS + listeners) as u64
        + workers * (FILES_PER_READER + FILES_PER_PROCESS + FILES_PER_STARTING_PROCESS)
        + persistent
}
