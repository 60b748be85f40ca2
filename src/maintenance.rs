//! Periodic work on one thread: writes rejections and handshakes, checks the free disk space, feeds
//! systemd's watchdog, saves the anchor of the database clock, and raises alerts.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError};
use sd_notify::NotifyState;

use crate::notify;
use crate::store::alerts::AlertSignal;
use crate::store::handle::{WriteRequest, WriterHandle, WriterMessage};
use crate::store::handshakes::HandshakeRecord;
use crate::store::operation::Operation;
use crate::store::rejections::RejectionRow;
use crate::store::source_counters::SourceCounters;
use crate::store::{self, reserve};
use crate::worker::RunningJobs;

pub mod alerts;
mod clock_break;
pub mod failure_log;
pub mod retention;
pub mod settlements;

use alerts::AlertMonitor;
use failure_log::FailureLog;

/// The interval of the work. A rejection is in the database within a second.
const TICK: Duration = Duration::from_millis(400);

/// Maximum number of rejections or handshakes in one operation.
const MAX_ROWS_PER_OPERATION: usize = 250;

/// How often the anchor of the database clock is saved and expired dedupe keys are deleted.
const SAVE_INTERVAL: Duration = Duration::from_secs(600);

/// The maintenance thread's connections to the other parts.
pub struct Maintenance {
    pub alerts: AlertMonitor,
    pub source_counters: Arc<SourceCounters>,
    pub database: PathBuf,
    pub min_free_bytes: u64,
    pub disk_low: Arc<AtomicBool>,
    pub writer: WriterHandle,
    pub running: Arc<RunningJobs>,
    pub failure_log: Arc<FailureLog>,
    /// Drains the requests that intake rejected since the last call.
    pub rejections: Box<dyn Fn() -> Vec<RejectionRow> + Send>,
    /// Drains the handshakes that intake answered since the last call.
    pub handshakes: Box<dyn Fn() -> Vec<HandshakeRecord> + Send>,
    /// Loads a certificate whose files have changed, and returns what to report about one that expires.
    pub check_certificate: Box<dyn Fn() -> Option<String> + Send>,
    /// Records for `hooktrail status` what only the server knows.
    pub record_problems: Box<dyn Fn() + Send>,
}

/// Starts the maintenance thread. It ends when the sender of `stop` is dropped.
///
/// # Errors
/// The thread cannot be created.
pub fn start(mut maintenance: Maintenance, stop: Receiver<()>) -> std::io::Result<JoinHandle<()>> {
    check_disk_space(&maintenance);
    std::thread::Builder::new().name("maintenance".into()).spawn(move || {
        let mut saved_at = Instant::now();
        let (mut heartbeat, mut unsent) = (0, Vec::new());
        while stop.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
            flush_logs(&maintenance, &mut unsent);
            maintenance.failure_log.log_counts(false);
            check_disk_space(&maintenance);
            maintenance.alerts.tick(&maintenance.writer);
            if let Some(detail) = (maintenance.check_certificate)() {
                let signal = AlertSignal::CertificateExpiring(detail);
                maintenance.writer.send(Operation::AlertSignal(signal));
            }
            (maintenance.record_problems)();
            heartbeat = feed_watchdog(&maintenance, heartbeat);
            if saved_at.elapsed() >= SAVE_INTERVAL {
                saved_at = Instant::now();
                let last_seen = maintenance.source_counters.last_seen_all();
                maintenance.writer.send(Operation::SaveState(last_seen));
            }
        }
        flush_logs(&maintenance, &mut unsent);
        // Intake has ended, so the writer's channel has room soon.
        unsent.into_iter().for_each(|operation| _ = maintenance.writer.send(operation));
    })
}

/// Sends rejections and handshakes to the writer. Operations that are still `unsent` go first; until
/// then the logs of intake count within their own bounds.
fn flush_logs(maintenance: &Maintenance, unsent: &mut Vec<Operation>) {
    if unsent.is_empty() {
        let rejections = (maintenance.rejections)();
        maintenance.failure_log.log_rejections(&rejections);
        unsent.extend(chunks(rejections).into_iter().rev().map(Operation::Rejections));
        let handshakes = (maintenance.handshakes)();
        unsent.extend(chunks(handshakes).into_iter().rev().map(Operation::Handshakes));
    }
    send_all(&maintenance.writer.sender, unsent);
}

/// Splits rows into operations. The writer may commit between two of them, so that no sender waits for
/// thousands of rows.
fn chunks<T>(mut rows: Vec<T>) -> Vec<Vec<T>> {
    let mut chunks = Vec::new();
    while !rows.is_empty() {
        let remaining = rows.split_off(rows.len().min(MAX_ROWS_PER_OPERATION));
        chunks.push(std::mem::replace(&mut rows, remaining));
    }
    chunks
}

/// Sends operations while the writer's channel has room. Events come first: when the channel is full, the
/// remaining operations stay in `unsent` until the next call.
fn send_all(writer: &Sender<WriterMessage>, unsent: &mut Vec<Operation>) {
    while let Some(operation) = unsent.pop() {
        match writer.try_send(WriterMessage::Write(WriteRequest::Operation(operation))) {
            Ok(()) => {}
            Err(TrySendError::Full(WriterMessage::Write(WriteRequest::Operation(operation)))) => {
                return unsent.push(operation);
            }
            Err(_) => return,
        }
    }
}

/// Compares the free disk space with `min_free_space`. Below it senders get 503, and jobs go on running.
fn check_disk_space(maintenance: &Maintenance) {
    let Ok(free) = store::free_bytes(&maintenance.database) else { return };
    let low = free < maintenance.min_free_bytes;
    if !low {
        reserve::create(&maintenance.database, free - maintenance.min_free_bytes);
    }
    if maintenance.disk_low.swap(low, Ordering::Relaxed) != low {
        let (path, free, min) =
            (maintenance.database.display(), free >> 20, maintenance.min_free_bytes >> 20);
        if low {
            let reason = format!(
                "{path}: {free} MiB free, less than store.min_free_space ({min} MiB): senders get \
                 503 until there is room"
            );
            log::error!("{reason}");
            maintenance.writer.send(Operation::AlertSignal(AlertSignal::DiskLow(reason)));
        } else {
            log::info!("{path}: {free} MiB free: events are accepted again");
        }
    }
}

/// Tells systemd that the server is alive if the writer's heartbeat has changed since `previous`. Returns
/// the latest heartbeat.
fn feed_watchdog(maintenance: &Maintenance, previous: u64) -> u64 {
    let heartbeat = maintenance.writer.health.heartbeats();
    if heartbeat != previous {
        let status = format!(
            "{} jobs running, database {:?}",
            maintenance.running.count(),
            maintenance.writer.health.get()
        );
        notify::send(&[NotifyState::Watchdog, NotifyState::Status(&status)]);
    }
    heartbeat
}

#[cfg(test)]
mod tests {
    use crossbeam_channel::bounded;

    use super::*;

    #[test]
    fn operations_that_find_the_channel_full_are_sent_later() {
        let (to, from) = bounded(1);
        let mut unsent = vec![Operation::Handshakes(Vec::new()), Operation::Rejections(Vec::new())];
        send_all(&to, &mut unsent);
        assert_eq!((unsent.len(), from.len()), (1, 1));
        send_all(&to, &mut unsent);
        assert_eq!((unsent.len(), from.len()), (1, 1));
        assert!(matches!(
            from.recv(),
            Ok(WriterMessage::Write(WriteRequest::Operation(Operation::Rejections(_))))
        ));
        send_all(&to, &mut unsent);
        assert!(unsent.is_empty());
        assert!(matches!(
            from.recv(),
            Ok(WriterMessage::Write(WriteRequest::Operation(Operation::Handshakes(_))))
        ));
    }
}
