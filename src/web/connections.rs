//! All connections of one listener: their number and their time limits.
//!
//! One task checks all of them when the next limit expires, so that a request needs no timer. If
//! the listener is full, a new connection replaces the one that has been idle longest. If none is
//! idle, the new one waits, and the next response closes its connection.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::connection::{Connection, ConnectionState, ListenerCounters, Phase};

/// Maximum time that a peer gets to read its last response while it is still sending.
pub const LINGER: Duration = Duration::from_secs(1);

/// Minimum time between two checks of all connections.
const MIN_CHECK_INTERVAL: Duration = Duration::from_millis(10);

/// Minimum idle time after which a connection is closed for another. A sender between two requests
/// would lose the one that it is about to send.
const EVICTABLE_AFTER: Duration = Duration::from_millis(100);

/// Maximum number of idle connections that one search remembers. Closing the next ones needs no
/// search.
const MAX_CANDIDATES: usize = 256;

/// Time limits that a reload may change.
#[derive(Clone, Copy, Debug)]
pub struct TimeLimits {
    pub request_timeout: Duration,
    pub keep_alive: Duration,
}

impl TimeLimits {
    /// Returns how long a connection may stay in a phase.
    fn for_phase(&self, phase: Phase) -> Option<Duration> {
        match phase {
            Phase::New | Phase::Head | Phase::Writing => Some(self.request_timeout),
            Phase::Idle => Some(self.keep_alive),
            Phase::Closing => Some(LINGER),
            // The handler limits `Body`. The server itself causes the other two.
            Phase::Body | Phase::Handling | Phase::Responding => None,
        }
    }
}

#[derive(Default)]
struct OpenConnections {
    by_address: HashMap<usize, Arc<Connection>>,
    /// Idle connections as found by the last search. The one that has been idle longest is last.
    candidates: Vec<(ConnectionState, Arc<Connection>)>,
}

/// The connections of one listener.
pub struct Connections {
    limits: Box<dyn Fn() -> TimeLimits + Send + Sync>,
    permits: Arc<Semaphore>,
    open: Mutex<OpenConnections>,
    /// Notified by the first connection, and by one that has no slot.
    wake: Notify,
    counters: Arc<ListenerCounters>,
    /// For the metrics.
    open_count: Arc<AtomicUsize>,
}

/// Counts a new connection that has no slot, until it is dropped.
struct WaitingGuard<'a>(&'a AtomicUsize);

impl Drop for WaitingGuard<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Connections {
    /// Makes the set of connections of a listener with this number of slots. `open_count` gets the number of open
    /// ones.
    pub fn new(
        max: usize,
        limits: impl Fn() -> TimeLimits + Send + Sync + 'static,
        open_count: Arc<AtomicUsize>,
    ) -> Arc<Self> {
        Arc::new(Self {
            limits: Box::new(limits),
            permits: Arc::new(Semaphore::new(max.min(Semaphore::MAX_PERMITS))),
            open: Mutex::default(),
            wake: Notify::new(),
            counters: Arc::new(ListenerCounters::new()),
            open_count,
        })
    }

    /// Whether a request is in flight: its head is complete and its response is not written.
    pub fn is_busy(&self) -> bool {
        self.counters.in_flight() > 0
    }

    /// Returns the number of a new thread of the listener.
    pub fn add_thread(&self) -> usize {
        self.counters.add_thread()
    }

    /// Waits for a slot for a connection of this thread, and closes an idle one if necessary.
    ///
    /// # Errors
    /// The listener has ended.
    pub(super) async fn admit(
        &self,
        thread: usize,
    ) -> std::io::Result<(Arc<Connection>, OwnedSemaphorePermit)> {
        let permit = match Arc::clone(&self.permits).try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => {
                self.counters.waiting.fetch_add(1, Ordering::SeqCst);
                let _waiting = WaitingGuard(&self.counters.waiting);
                self.make_room(&mut self.open.lock());
                self.wake.notify_one();
                let permit = Arc::clone(&self.permits).acquire_owned().await;
                permit.map_err(std::io::Error::other)?
            }
        };
        let connection = Arc::new(Connection::new(Arc::clone(&self.counters), thread));
        let mut open = self.open.lock();
        if open.by_address.is_empty() {
            self.wake.notify_one();
        }
        open.by_address.insert(Arc::as_ptr(&connection).addr(), Arc::clone(&connection));
        self.open_count.store(open.by_address.len(), Ordering::Relaxed);
        drop(open);
        Ok((connection, permit))
    }

    pub(super) fn remove(&self, connection: &Arc<Connection>) {
        let mut open = self.open.lock();
        open.by_address.remove(&Arc::as_ptr(connection).addr());
        self.open_count.store(open.by_address.len(), Ordering::Relaxed);
    }

    /// Closes one idle connection for each new one that waits, starting with the longest idle.
    fn make_room(&self, open: &mut OpenConnections) {
        let mut has_searched = false;
        loop {
            let waiting = self.counters.waiting.load(Ordering::SeqCst);
            let evicted = self.counters.evicted.load(Ordering::SeqCst);
            if usize::try_from(evicted).unwrap_or(0) >= waiting {
                return;
            }
            match open.candidates.pop() {
                // A connection that was used since the search stays: others have been idle longer.
                Some((observed, connection)) => drop(connection.expire(observed, true)),
                None if has_searched => return,
                None => {
                    has_searched = true;
                    let now_us = self.counters.now_us();
                    let is_evictable = |state: ConnectionState| {
                        let age = Duration::from_micros(now_us.saturating_sub(state.since_us()));
                        state.phase().is_idle() && !state.is_expired() && age >= EVICTABLE_AFTER
                    };
                    open.candidates = find_longest(&open.by_address, is_evictable);
                }
            }
        }
    }

    /// Expires the connections that exceed their limit. Returns when to check again, or `None` if
    /// there is no connection.
    fn expire_overdue(&self) -> Option<Duration> {
        let limits = (self.limits)();
        let now_us = self.counters.now_us();
        let mut open = self.open.lock();
        if open.by_address.is_empty() {
            open.candidates = Vec::new();
            return None;
        }
        // A phase that begins now expires after this time at the earliest.
        let mut next = limits.request_timeout.min(LINGER);
        for connection in open.by_address.values() {
            let observed = connection.state();
            let limit = limits.for_phase(observed.phase()).filter(|_| !observed.is_expired());
            let Some(limit) = limit else { continue };
            let age = Duration::from_micros(now_us.saturating_sub(observed.since_us()));
            match limit.checked_sub(age).filter(|remaining| !remaining.is_zero()) {
                Some(remaining) => next = next.min(remaining),
                None => drop(connection.expire(observed, false)),
            }
        }
        if self.counters.is_full() {
            self.make_room(&mut open);
            next = next.min(EVICTABLE_AFTER);
        }
        Some(next.max(MIN_CHECK_INTERVAL))
    }

    /// Checks all connections for as long as the listener runs.
    pub async fn run_expiry(self: Arc<Self>) {
        loop {
            match self.expire_overdue() {
                Some(pause) => {
                    if timeout(pause, self.wake.notified()).await.is_ok() {
                        tokio::time::sleep(MIN_CHECK_INTERVAL).await;
                    }
                }
                None => self.wake.notified().await,
            }
        }
    }
}

/// Returns the selected connections that have been in their state longest, the longest last.
fn find_longest(
    open: &HashMap<usize, Arc<Connection>>,
    is_selected: impl Fn(ConnectionState) -> bool,
) -> Vec<(ConnectionState, Arc<Connection>)> {
    let mut selected: Vec<(ConnectionState, &Arc<Connection>)> = open
        .values()
        .map(|connection| (connection.state(), connection))
        .filter(|(state, _)| is_selected(*state))
        .collect();
    let since = |(state, _): &(ConnectionState, &Arc<Connection>)| state.since_us();
    if selected.len() > MAX_CANDIDATES {
        selected.select_nth_unstable_by_key(MAX_CANDIDATES, since);
        selected.truncate(MAX_CANDIDATES);
    }
    selected.sort_unstable_by_key(|entry| std::cmp::Reverse(since(entry)));
    selected.into_iter().map(|(state, connection)| (state, Arc::clone(connection))).collect()
}
