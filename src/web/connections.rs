//! All connections of one listener: how many there may be, and how long each may take.
//!
//! One task looks at all of them when the next is due, so that a request needs no timer of its own.
//! Beyond the limit the connection that has been idle longest is closed for a new one; where none is
//! idle, the new one waits, and the next response closes its connection.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Notify, Semaphore};
use tokio::time::timeout;

use super::connection::{Connection, Phase, State, Stream};

/// Maximum time that a peer gets to read its last response while it is still sending.
pub const LINGER: Duration = Duration::from_secs(1);

/// Bounds of the time between two looks at all connections.
const LOOK_MIN: Duration = Duration::from_millis(10);

/// Minimum time without a request after which a connection is closed for another: a sender in the
/// middle of its work would lose the request that it is about to send.
const EVICTABLE_AFTER: Duration = Duration::from_millis(100);

/// Idle connections that one search remembers: the next ones to be closed cost no search.
const CANDIDATES_MAX: usize = 256;

/// Time limits that a reload may change.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub request_timeout: Duration,
    pub keep_alive: Duration,
}

impl Limits {
    /// How long a connection may be in a phase.
    fn of(&self, phase: Phase) -> Option<Duration> {
        match phase {
            Phase::New | Phase::Head | Phase::Writing => Some(self.request_timeout),
            Phase::Idle => Some(self.keep_alive),
            Phase::Closing => Some(LINGER),
            // The handler limits the first, the server itself the others.
            Phase::Body | Phase::Handling | Phase::Responding => None,
        }
    }
}

#[derive(Default)]
struct All {
    by_address: HashMap<usize, Arc<Connection>>,
    /// Idle ones, the one that has been so longest last, as they were found.
    candidates: Vec<(State, Arc<Connection>)>,
}

/// The connections of one listener.
pub struct Connections {
    start: Instant,
    limits: Box<dyn Fn() -> Limits + Send + Sync>,
    places: Arc<Semaphore>,
    all: Mutex<All>,
    /// Woken when the first connection comes, and when one has no place.
    came: Notify,
    /// New connections without a place.
    waiting: AtomicUsize,
    /// Connections that were told to close for them, and have not yet.
    evicted: AtomicI64,
    /// Requests whose response is not with the system yet.
    in_flight: AtomicI64,
}

/// A new connection that has no place yet.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Connections {
    pub fn new(max: usize, limits: impl Fn() -> Limits + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self {
            start: Instant::now(),
            limits: Box::new(limits),
            places: Arc::new(Semaphore::new(max.min(Semaphore::MAX_PERMITS))),
            all: Mutex::default(),
            came: Notify::new(),
            waiting: AtomicUsize::new(0),
            evicted: AtomicI64::new(0),
            in_flight: AtomicI64::new(0),
        })
    }

    pub(super) fn now_us(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    pub(super) fn at(&self, us: u64) -> Instant {
        self.start + Duration::from_micros(us)
    }

    pub(super) fn in_flight(&self, change: i64) {
        self.in_flight.fetch_add(change, Ordering::SeqCst);
    }

    pub(super) fn evicted(&self, change: i64) {
        self.evicted.fetch_add(change, Ordering::SeqCst);
    }

    /// Whether a request is under way: its head is complete, its response not written.
    pub fn is_busy(&self) -> bool {
        self.in_flight.load(Ordering::SeqCst) > 0
    }

    /// Whether new connections wait for a place.
    pub fn is_full(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// Waits until there is room for a connection, closing one that is idle.
    ///
    /// # Errors
    /// The listener has ended.
    pub async fn admit<S: AsyncRead + AsyncWrite + Unpin>(
        self: &Arc<Self>,
        stream: S,
    ) -> std::io::Result<Stream<S>> {
        let place = match Arc::clone(&self.places).try_acquire_owned() {
            Ok(place) => place,
            Err(_) => {
                self.waiting.fetch_add(1, Ordering::SeqCst);
                let _waiting = Waiting(&self.waiting);
                self.make_room(&mut self.lock());
                self.came.notify_one();
                let place = Arc::clone(&self.places).acquire_owned().await;
                place.map_err(std::io::Error::other)?
            }
        };
        let connection = Arc::new(Connection::new(Arc::clone(self)));
        let mut all = self.lock();
        if all.by_address.is_empty() {
            self.came.notify_one();
        }
        all.by_address.insert(Arc::as_ptr(&connection).addr(), Arc::clone(&connection));
        drop(all);
        Ok(Stream::new(stream, connection, place))
    }

    pub(super) fn remove(&self, connection: &Arc<Connection>) {
        self.lock().by_address.remove(&Arc::as_ptr(connection).addr());
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, All> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes one idle connection, those idle longest first, for each new one that waits.
    fn make_room(&self, all: &mut All) {
        let mut has_searched = false;
        loop {
            let waiting = self.waiting.load(Ordering::SeqCst);
            let evicted = self.evicted.load(Ordering::SeqCst);
            if usize::try_from(evicted).unwrap_or(0) >= waiting {
                return;
            }
            match all.candidates.pop() {
                // One that was used since then stays: others are idle longer now.
                Some((state, connection)) => drop(connection.expire(state, true)),
                None if has_searched => return,
                None => {
                    has_searched = true;
                    let now_us = self.now_us();
                    let is_evictable = |state: State| {
                        let age = Duration::from_micros(now_us.saturating_sub(state.since_us()));
                        state.phase().is_idle() && !state.is_expired() && age >= EVICTABLE_AFTER
                    };
                    all.candidates = find(&all.by_address, is_evictable);
                }
            }
        }
    }

    /// Ends what takes too long; when to look again, unless there is no connection.
    fn look(&self) -> Option<Duration> {
        let limits = (self.limits)();
        let now_us = self.now_us();
        let mut all = self.lock();
        if all.by_address.is_empty() {
            all.candidates = Vec::new();
            return None;
        }
        // What begins now is due after this time at the earliest.
        let mut next = limits.request_timeout.min(LINGER);
        for connection in all.by_address.values() {
            let state = connection.state();
            let limit = limits.of(state.phase()).filter(|_| !state.is_expired());
            let Some(limit) = limit else { continue };
            let age = Duration::from_micros(now_us.saturating_sub(state.since_us()));
            match limit.checked_sub(age).filter(|rest| !rest.is_zero()) {
                Some(rest) => next = next.min(rest),
                None => drop(connection.expire(state, false)),
            }
        }
        if self.is_full() {
            self.make_room(&mut all);
            next = next.min(EVICTABLE_AFTER);
        }
        Some(next.max(LOOK_MIN))
    }

    /// Looks at all connections for as long as the listener lives.
    pub async fn watch(self: Arc<Self>) {
        loop {
            match self.look() {
                Some(pause) => {
                    if timeout(pause, self.came.notified()).await.is_ok() {
                        tokio::time::sleep(LOOK_MIN).await;
                    }
                }
                None => self.came.notified().await,
            }
        }
    }
}

/// Those that have been in their state longest, of these the longest last.
fn find(
    all: &HashMap<usize, Arc<Connection>>,
    is_wanted: impl Fn(State) -> bool,
) -> Vec<(State, Arc<Connection>)> {
    let mut found: Vec<(State, &Arc<Connection>)> = all
        .values()
        .map(|connection| (connection.state(), connection))
        .filter(|(state, _)| is_wanted(*state))
        .collect();
    let since = |(state, _): &(State, &Arc<Connection>)| state.since_us();
    if found.len() > CANDIDATES_MAX {
        found.select_nth_unstable_by_key(CANDIDATES_MAX, since);
        found.truncate(CANDIDATES_MAX);
    }
    found.sort_unstable_by_key(|entry| std::cmp::Reverse(since(entry)));
    found.into_iter().map(|(state, connection)| (state, Arc::clone(connection))).collect()
}
