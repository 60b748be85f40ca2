//! All connections of one server: their number and their time limits.
//!
//! One task checks all of them when the next limit expires, so that a request needs no timer. If
//! the server is full, a new connection replaces the one that has been idle longest. If none is
//! idle, the new one waits, and the next response closes its connection.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::connection::{Connection, ConnectionState, Phase, ServerCounters};
use super::listener::ListenerState;
use crate::config::ServerConfig;

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
    /// The limits of a configuration.
    pub fn of(server: &ServerConfig) -> Self {
        Self { request_timeout: server.request_timeout, keep_alive: server.keep_alive }
    }

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

/// The connections of one server.
pub struct Connections {
    limits: Box<dyn Fn() -> TimeLimits + Send + Sync>,
    /// How many may be open.
    max: AtomicUsize,
    open: Mutex<OpenConnections>,
    /// Notified by the first connection, and by one that has no slot.
    wake: Notify,
    /// Notified when a slot is free and a new connection waits.
    freed: Notify,
    counters: Arc<ServerCounters>,
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

/// The place of an open connection. It is free when this is dropped.
pub struct Slot {
    connections: Arc<Connections>,
    pub connection: Arc<Connection>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.connections.remove(&self.connection);
    }
}

/// The connections of closing listeners that are left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Remaining {
    /// Those that had no request since their listener began to close.
    pub unused: usize,
    /// Those with a request, or accepted since.
    pub others: usize,
}

impl Connections {
    /// Makes the set of connections of a server with this number of slots. `open_count` gets the number of open
    /// ones.
    pub fn new(
        max: usize,
        limits: impl Fn() -> TimeLimits + Send + Sync + 'static,
        open_count: Arc<AtomicUsize>,
    ) -> Arc<Self> {
        Arc::new(Self {
            limits: Box::new(limits),
            max: AtomicUsize::new(max),
            open: Mutex::default(),
            wake: Notify::new(),
            freed: Notify::new(),
            counters: Arc::new(ServerCounters::new()),
            open_count,
        })
    }

    /// Changes the number of slots. If fewer than are used, the next connections to end are not replaced.
    pub fn set_max(&self, max: usize) {
        self.max.store(max, Ordering::SeqCst);
        self.freed.notify_one();
    }

    /// Waits for a slot for a connection that a listener has accepted, and closes an idle one if necessary.
    pub(super) async fn admit(self: &Arc<Self>, listener: &Arc<ListenerState>) -> Slot {
        let mut waiting = None;
        loop {
            if let Some(connection) = self.try_admit(listener) {
                if waiting.is_some() {
                    // Another one may wait, and this one took its notification.
                    self.freed.notify_one();
                }
                return Slot { connections: Arc::clone(self), connection };
            }
            if waiting.is_none() {
                self.counters.waiting.fetch_add(1, Ordering::SeqCst);
                waiting = Some(WaitingGuard(&self.counters.waiting));
                // From now on, a slot that becomes free is announced. One may have become free before.
                continue;
            }
            self.make_room(&mut self.open.lock());
            self.wake.notify_one();
            self.freed.notified().await;
        }
    }

    fn try_admit(&self, listener: &Arc<ListenerState>) -> Option<Arc<Connection>> {
        let mut open = self.open.lock();
        if open.by_address.len() >= self.max.load(Ordering::SeqCst) {
            return None;
        }
        let connection = Connection::new(Arc::clone(&self.counters), Arc::clone(listener));
        let connection = Arc::new(connection);
        if open.by_address.is_empty() {
            self.wake.notify_one();
        }
        open.by_address.insert(Arc::as_ptr(&connection).addr(), Arc::clone(&connection));
        self.open_count.store(open.by_address.len(), Ordering::Relaxed);
        Some(connection)
    }

    fn remove(&self, connection: &Arc<Connection>) {
        let mut open = self.open.lock();
        // Together: otherwise a connection that has made room is not counted any more, its slot is not free yet, and
        // `make_room` closes another one.
        connection.enter(Phase::Closing, 0, 0);
        open.by_address.remove(&Arc::as_ptr(connection).addr());
        self.open_count.store(open.by_address.len(), Ordering::Relaxed);
        drop(open);
        if self.counters.is_full() {
            self.freed.notify_one();
        }
    }

    /// Closes connections of these closing listeners that are between two requests, and returns what is left. The limits say
    /// how long a connection may wait for its first request, and for its next one.
    pub(super) fn close_unused(
        &self,
        is_selected: impl Fn(&Arc<ListenerState>) -> bool,
        (first, next): (Duration, Duration),
    ) -> Remaining {
        let now_us = self.counters.now_us();
        let age = |since_us: u64| Duration::from_micros(now_us.saturating_sub(since_us));
        let mut remaining = Remaining::default();
        for connection in self.open.lock().by_address.values() {
            let listener = connection.listener();
            let Some(closing_for) = listener.closing_for().filter(|_| is_selected(listener)) else {
                continue;
            };
            let observed = connection.state();
            let limit = match observed.phase() {
                Phase::Closing => continue,
                Phase::New => first,
                Phase::Idle => next,
                Phase::Head
                | Phase::Body
                | Phase::Handling
                | Phase::Responding
                | Phase::Writing => {
                    remaining.others += 1;
                    continue;
                }
            };
            let age = age(observed.since_us());
            if age.min(closing_for) >= limit && !observed.is_expired() {
                connection.expire(observed, false);
            }
            if age >= closing_for { remaining.unused += 1 } else { remaining.others += 1 }
        }
        remaining
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
