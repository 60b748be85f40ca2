//! The feed of new outcomes: one thread reads them, and each stream of a client gets its rows. So many streams cost
//! the database no more than one reader.
//!
//! All streams share the newest batches. A stream that lags behind them reads what it lacks from the database, so slow
//! clients cost no memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tokio::sync::broadcast::{Receiver, Sender, channel};

use crate::store::queries::{self, Rows};
use crate::store::search::{self, TailView};
use crate::store::{ReadPool, Value};

/// How often the thread looks for new outcomes while streams are open.
const INTERVAL: Duration = Duration::from_millis(100);

/// The least time between two changes that are announced.
const CHANGE_INTERVAL: Duration = Duration::from_secs(1);

/// The most streams.
pub const MAX_STREAMS: usize = 256;

/// The newest batches, which all streams share. Each is what one look has found.
const BUFFERED_BATCHES: usize = 16;

/// Outcomes that one look returns. More follow at once.
const MAX_BATCH: i64 = 500;

/// All outcomes after an id up to another one, oldest first.
#[derive(Debug)]
pub struct Batch {
    pub after: i64,
    pub last: i64,
    /// The number of the last change that is announced. Changes within a second have one number.
    pub change: u64,
    pub rows: Rows,
}

/// The streams of new outcomes.
#[derive(Debug)]
pub struct OutcomeFeed {
    /// `None`: the server stops.
    batches: Mutex<Option<Sender<Arc<Batch>>>>,
    changed: Condvar,
    last_change: AtomicU64,
}

impl OutcomeFeed {
    /// Starts the thread. It ends after `close`.
    ///
    /// # Errors
    /// The thread can't be started.
    pub fn start(readers: ReadPool) -> anyhow::Result<(Arc<Self>, JoinHandle<()>)> {
        let feed = Arc::new(Self {
            batches: Mutex::new(Some(channel(BUFFERED_BATCHES).0)),
            changed: Condvar::new(),
            last_change: AtomicU64::new(0),
        });
        let running = Arc::clone(&feed);
        let thread =
            std::thread::Builder::new().name("feed".into()).spawn(move || running.run(&readers))?;
        Ok((feed, thread))
    }

    /// Adds a stream, or returns `None` if there are too many. A client that reads the database after this call, and
    /// then all that a batch says it lacks, misses no outcome.
    pub fn subscribe(&self) -> Option<Receiver<Arc<Batch>>> {
        let batches = self.batches.lock();
        let sender = batches.as_ref().filter(|sender| sender.receiver_count() < MAX_STREAMS)?;
        let receiver = sender.subscribe();
        drop(batches);
        self.changed.notify_one();
        Some(receiver)
    }

    /// Returns the number of the last change that was announced.
    pub fn last_change(&self) -> u64 {
        self.last_change.load(Ordering::Acquire)
    }

    /// Ends all streams. Their clients may open new ones.
    pub fn end_streams(&self) {
        if let Some(batches) = &mut *self.batches.lock() {
            *batches = channel(BUFFERED_BATCHES).0;
        }
    }

    /// Ends the thread and all streams.
    pub fn close(&self) {
        *self.batches.lock() = None;
        self.changed.notify_one();
    }

    fn run(&self, readers: &ReadPool) {
        while self.wait_for_streams() {
            if let Err(error) = self.serve(readers) {
                log::debug!("new outcomes can't be read: {error:#}");
                std::thread::sleep(INTERVAL);
            }
        }
    }

    /// Waits until a stream is open. Returns false if the server stops.
    fn wait_for_streams(&self) -> bool {
        let mut batches = self.batches.lock();
        while batches.as_ref().is_some_and(|sender| sender.receiver_count() == 0) {
            self.changed.wait(&mut batches);
        }
        batches.is_some()
    }

    /// Reads new outcomes while streams are open.
    fn serve(&self, readers: &ReadPool) -> anyhow::Result<()> {
        let conn = readers.get()?;
        let mut version = queries::data_version(&conn)?;
        let mut last = search::newest_id(&conn, TailView::Outcomes)?;
        // Streams that began before this read learn up to where they have to read themselves.
        let change = self.last_change.fetch_add(1, Ordering::AcqRel) + 1;
        let mut is_open = self.send(Batch { after: last, last, change, rows: Rows::default() });
        let (mut announced_at, mut is_announced) = (Instant::now(), true);
        while is_open {
            std::thread::sleep(INTERVAL);
            let now = queries::data_version(&conn)?;
            let has_changed = std::mem::replace(&mut version, now) != now;
            is_announced &= !has_changed;
            if !is_announced && announced_at.elapsed() >= CHANGE_INTERVAL {
                (announced_at, is_announced) = (Instant::now(), true);
                let change = self.last_change.fetch_add(1, Ordering::AcqRel) + 1;
                is_open = self.send(Batch { after: last, last, change, rows: Rows::default() });
            }
            if !has_changed {
                is_open &= self.has_streams();
                continue;
            }
            loop {
                let rows = search::read_after(&conn, last, MAX_BATCH)?;
                let newest = rows.rows.last().map_or(last, |row| integer(&rows, row, "id"));
                let is_full = i64::try_from(rows.rows.len())? >= MAX_BATCH;
                if newest > last {
                    is_open = self.send(Batch {
                        after: last,
                        last: newest,
                        change: self.last_change(),
                        rows,
                    });
                }
                last = newest;
                if !is_full || !is_open {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Gives a batch to all streams. Returns whether streams are open.
    fn send(&self, batch: Batch) -> bool {
        let batches = self.batches.lock();
        batches.as_ref().is_some_and(|sender| sender.send(Arc::new(batch)).is_ok())
    }

    fn has_streams(&self) -> bool {
        self.batches.lock().as_ref().is_some_and(|sender| sender.receiver_count() > 0)
    }
}

/// Returns the integer in a column.
pub fn integer(rows: &Rows, row: &[Value], column: &str) -> i64 {
    let index = rows.columns.iter().position(|name| name == column);
    match index.and_then(|index| row.get(index)) {
        Some(Value::Integer(number)) => *number,
        _ => 0,
    }
}
