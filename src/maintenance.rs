//! What has to be looked at from time to time: refusals to be written, room on the disk, systemd's
//! watchdog, the clock's anchor, what the server has to tell. One thread; it ends when its `Sender` is dropped.

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
use crate::store::reserve;
use crate::store::source_counters::SourceCounters;
use crate::worker::RunningJobs;

pub mod alerts;

use alerts::AlertMonitor;

/// Between two looks: a refusal is on the trail within a second.
const TICK: Duration = Duration::from_millis(400);

/// Maximum number of refusals or handshakes in one operation.
const NOTED_AT_ONCE: usize = 250;

/// How often the clock's anchor is kept, and old dedupe keys are forgotten.
const SAVE_INTERVAL: Duration = Duration::from_secs(600);

/// What the thread needs.
pub struct Maintenance {
    pub alerts: AlertMonitor,
    pub tally: Arc<SourceCounters>,
    pub database: PathBuf,
    pub min_free_bytes: u64,
    pub disk_low: Arc<AtomicBool>,
    pub writer: WriterHandle,
    pub running: Arc<RunningJobs>,
    /// Takes what intake refused since the last look.
    pub refusals: Box<dyn Fn() -> Vec<RejectionRow> + Send>,
    /// Takes the handshakes that intake answered since the last look.
    pub handshakes: Box<dyn Fn() -> Vec<HandshakeRecord> + Send>,
}

/// Starts the thread.
///
/// # Errors
/// The thread can't be made.
pub fn start(mut it: Maintenance, stop: Receiver<()>) -> std::io::Result<JoinHandle<()>> {
    check_disk_space(&it);
    std::thread::Builder::new().name("upkeep".into()).spawn(move || {
        let mut kept = Instant::now();
        let (mut beat, mut unsent) = (0, Vec::new());
        while stop.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
            flush_logs(&it, &mut unsent);
            check_disk_space(&it);
            it.alerts.tick(&it.writer);
            beat = watchdog(&it, beat);
            if kept.elapsed() >= SAVE_INTERVAL {
                kept = Instant::now();
                it.writer.send(Operation::SaveState(it.tally.last_seen_all()));
            }
        }
        flush_logs(&it, &mut unsent);
        // Intake has ended: there is room soon.
        unsent.into_iter().for_each(|op| _ = it.writer.send(op));
    })
}

/// Has refusals and handshakes written. What is still `unsent` goes first; meanwhile more of them are
/// counted within the bounds of their own lists.
fn flush_logs(it: &Maintenance, unsent: &mut Vec<Operation>) {
    if unsent.is_empty() {
        let refusals = (it.refusals)();
        unsent.extend(split(refusals).into_iter().rev().map(Operation::Refusals));
        let handshakes = (it.handshakes)();
        unsent.extend(split(handshakes).into_iter().rev().map(Operation::Handshakes));
    }
    send(&it.writer.to, unsent);
}

/// Between two operations the writer may commit, so that no sender waits for thousands of rows.
fn split<T>(mut rows: Vec<T>) -> Vec<Vec<T>> {
    let mut parts = Vec::new();
    while !rows.is_empty() {
        let rest = rows.split_off(rows.len().min(NOTED_AT_ONCE));
        parts.push(std::mem::replace(&mut rows, rest));
    }
    parts
}

/// Events come first: where the writer has no room, an operation stays and is sent at the next look.
fn send(writer: &Sender<WriterMessage>, unsent: &mut Vec<Operation>) {
    while let Some(op) = unsent.pop() {
        match writer.try_send(WriterMessage::Write(WriteRequest::Op(op))) {
            Ok(()) => {}
            Err(TrySendError::Full(WriterMessage::Write(WriteRequest::Op(op)))) => {
                return unsent.push(op);
            }
            Err(_) => return,
        }
    }
}

/// Below `min_free_space` senders get 503, while the queue is worked off.
fn check_disk_space(it: &Maintenance) {
    let Ok(space) = rustix::fs::statvfs(&it.database) else { return };
    let free = space.f_bavail.saturating_mul(space.f_frsize);
    let low = free < it.min_free_bytes;
    if !low {
        reserve::keep(&it.database, free - it.min_free_bytes);
    }
    if it.disk_low.swap(low, Ordering::Relaxed) != low {
        let (path, free, min) = (it.database.display(), free >> 20, it.min_free_bytes >> 20);
        if low {
            let why = format!(
                "{path}: {free} MiB free, less than store.min_free_space ({min} MiB): senders get \
                 503 until there is room"
            );
            log::error!("{why}");
            it.writer.send(Operation::Notice(AlertSignal::DiskLow(why)));
        } else {
            log::info!("{path}: {free} MiB free: senders are answered again");
        }
    }
}

/// Tells systemd that the writer is alive, if it is; gives its latest beat.
fn watchdog(it: &Maintenance, before: u64) -> u64 {
    let beat = it.writer.health.heartbeats();
    if beat != before {
        let status =
            format!("{} jobs running, trail {:?}", it.running.count(), it.writer.health.get());
        notify::send(&[NotifyState::Watchdog, NotifyState::Status(&status)]);
    }
    beat
}

#[cfg(test)]
mod tests {
    use crossbeam_channel::bounded;

    use super::*;

    #[test]
    fn what_the_writer_has_no_room_for_is_sent_later_and_not_lost() {
        let (to, from) = bounded(1);
        let mut unsent = vec![Operation::Handshakes(Vec::new()), Operation::Refusals(Vec::new())];
        send(&to, &mut unsent);
        assert_eq!((unsent.len(), from.len()), (1, 1));
        send(&to, &mut unsent);
        assert_eq!((unsent.len(), from.len()), (1, 1));
        assert!(matches!(
            from.recv(),
            Ok(WriterMessage::Write(WriteRequest::Op(Operation::Refusals(_))))
        ));
        send(&to, &mut unsent);
        assert!(unsent.is_empty());
        assert!(matches!(
            from.recv(),
            Ok(WriterMessage::Write(WriteRequest::Op(Operation::Handshakes(_))))
        ));
    }
}
