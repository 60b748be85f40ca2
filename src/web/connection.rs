//! One connection of a peer: its phase, shared by its stream, the handler and `Connections`.
//!
//! `connections` compares phases with their time limits and wakes a stream that has exceeded its
//! own. Each request costs a few relaxed atomic operations and two clock reads: no lock and no
//! timer.

use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::Waker;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::listener::ListenerState;
use super::tls_slot::TlsSlot;

const NO_LENGTH: usize = usize::MAX;

/// The phase of a connection, between two requests or within one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// The peer has not sent anything yet.
    New,
    /// Between a response and the next request.
    Idle,
    /// From the first byte of a request to the end of its head.
    Head,
    /// From the head of a request to the end of its body. The handler limits the time.
    Body,
    /// From the last byte of a request to its response. The server itself takes this time.
    Handling,
    /// The response is not yet passed to the system.
    Responding,
    /// The system accepts no more of the response until the peer reads.
    Writing,
    /// After the last response. The server discards what the peer still sends, so that the peer can
    /// read that response (RFC 9112, section 9.6).
    Closing,
}

impl Phase {
    const ALL: [Self; 8] = [
        Self::New,
        Self::Idle,
        Self::Head,
        Self::Body,
        Self::Handling,
        Self::Responding,
        Self::Writing,
        Self::Closing,
    ];

    /// Whether no request is lost if the connection closes now.
    pub fn is_idle(self) -> bool {
        matches!(self, Self::New | Self::Idle)
    }

    /// Whether the request is complete and its response is not yet passed to the system.
    pub(super) fn is_after_request(self) -> bool {
        matches!(self, Self::Handling | Self::Responding | Self::Writing)
    }
}

/// A phase, its start time and the pending decision, packed into one atomic. So another thread's
/// decision applies only to the phase that it saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionState(u64);

impl ConnectionState {
    const EXPIRED: u64 = 1 << 3;
    const EVICTED: u64 = 1 << 4;
    /// The peer has not sent its whole request, so no other request can follow.
    const CLOSE: u64 = 1 << 5;
    const BITS: u32 = 6;

    fn new(phase: Phase, since_us: u64) -> Self {
        Self((since_us << Self::BITS) | phase as u64)
    }

    /// Returns the phase.
    pub fn phase(self) -> Phase {
        Phase::ALL[(self.0 & 0b111) as usize]
    }

    /// Microseconds since the server's start.
    pub fn since_us(self) -> u64 {
        self.0 >> Self::BITS
    }

    /// Whether the connection has to close.
    pub fn is_expired(self) -> bool {
        self.0 & Self::EXPIRED != 0
    }

    fn is_evicted(self) -> bool {
        self.0 & Self::EVICTED != 0
    }

    pub(super) fn should_close(self) -> bool {
        self.0 & Self::CLOSE != 0
    }
}

/// The clock and the counters that all connections of one server share.
pub(super) struct ServerCounters {
    start: Instant,
    /// Number of new connections without a slot.
    pub waiting: AtomicUsize,
    /// Number of open connections that were evicted for them.
    pub evicted: AtomicI64,
}

impl ServerCounters {
    pub fn new() -> Self {
        Self { start: Instant::now(), waiting: AtomicUsize::new(0), evicted: AtomicI64::new(0) }
    }

    /// Whether new connections wait for a slot.
    pub fn is_full(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    pub fn now_us(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX)
    }
}

/// State shared by the stream, the handler and `Connections`.
pub struct Connection {
    server: Arc<ServerCounters>,
    listener: Arc<ListenerState>,
    state: AtomicU64,
    /// Where its client's certificate was checked, and the number of the authorities by which it was.
    authorities: OnceLock<(Arc<TlsSlot>, u64)>,
    /// Number of requests that have begun.
    requests: AtomicUsize,
    /// Length of the current request's body, or `NO_LENGTH` if its head does not contain it.
    body_length: AtomicUsize,
    /// Waker of the connection's task.
    waker: Mutex<Option<Waker>>,
}

impl Connection {
    pub(super) fn new(server: Arc<ServerCounters>, listener: Arc<ListenerState>) -> Self {
        let first = ConnectionState::new(Phase::New, server.now_us());
        Self {
            server,
            listener,
            state: AtomicU64::new(first.0),
            authorities: OnceLock::new(),
            requests: AtomicUsize::new(0),
            body_length: AtomicUsize::new(NO_LENGTH),
            waker: Mutex::default(),
        }
    }

    /// Returns the current state.
    pub fn state(&self) -> ConnectionState {
        ConnectionState(self.state.load(Ordering::Acquire))
    }

    /// Enters a phase now.
    pub(super) fn enter_now(&self, phase: Phase) {
        self.enter(phase, self.server.now_us(), 0);
    }

    /// Enters a phase and revokes the decisions about the previous one.
    pub(super) fn enter(&self, phase: Phase, since_us: u64, flags: u64) {
        let next = ConnectionState::new(phase, since_us).0 | flags;
        let previous = ConnectionState(self.state.swap(next, Ordering::AcqRel));
        if previous.is_evicted() {
            self.server.evicted.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// Marks the connection as expired if its state is still `observed`. Returns whether it did.
    /// `is_evicted`: the connection makes room for a new one.
    pub(super) fn expire(&self, observed: ConnectionState, is_evicted: bool) -> bool {
        let flags =
            ConnectionState::EXPIRED | if is_evicted { ConnectionState::EVICTED } else { 0 };
        let next = observed.0 | flags;
        let is_expired = self
            .state
            .compare_exchange(observed.0, next, Ordering::AcqRel, Ordering::Acquire)
            .is_ok();
        if is_expired {
            if is_evicted {
                self.server.evicted.fetch_add(1, Ordering::SeqCst);
            }
            let waker = self.waker.lock();
            if let Some(waker) = &*waker {
                waker.wake_by_ref();
            }
        }
        is_expired
    }

    /// Records that the head is complete. Returns when the first byte of the request arrived.
    pub fn begin(&self, body_length: Option<usize>) -> Instant {
        let current = self.state();
        let since_us = match current.phase() {
            Phase::Head => current.since_us(),
            // The request followed directly after the one before.
            _ => self.server.now_us(),
        };
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.body_length.store(body_length.unwrap_or(NO_LENGTH), Ordering::Relaxed);
        self.enter(Phase::Body, since_us, 0);
        self.server.start + Duration::from_micros(since_us)
    }

    /// Marks the body of the request as complete.
    pub fn end_body(&self) {
        self.enter(Phase::Handling, self.state().since_us(), 0);
    }

    /// Marks the response as ready, in one piece. `is_last`: part of the request was not read, so
    /// the connection closes after the response.
    pub fn respond(&self, is_last: bool) {
        let flags = if is_last { ConnectionState::CLOSE } else { 0 };
        self.enter(Phase::Responding, 0, flags);
    }

    /// Records that the system accepts no more of the response until the peer reads.
    pub(super) fn begin_writing(&self, observed: ConnectionState) {
        let flags = observed.0 & ConnectionState::CLOSE;
        self.enter(Phase::Writing, self.server.now_us(), flags);
    }

    /// Records by which authorities the client's certificate was checked.
    pub(super) fn set_authorities(&self, slot: Arc<TlsSlot>, number: u64) {
        let _ = self.authorities.set((slot, number));
    }

    /// Whether other authorities hold by now than those that checked the client's certificate.
    pub fn is_revoked(&self) -> bool {
        self.authorities.get().is_some_and(|(slot, number)| slot.has_other_authorities(*number))
    }

    /// Whether this connection must close after its response: its listener closes, its client has to show its certificate
    /// again, or new connections wait for a slot.
    pub fn should_give_up_slot(&self) -> bool {
        self.is_revoked() || self.listener.is_closing() || self.server.is_full()
    }

    /// The listener that accepted the connection.
    pub(super) fn listener(&self) -> &Arc<ListenerState> {
        &self.listener
    }

    /// Returns the number of the current request, from 1, and the length of its body if its head
    /// contains it.
    pub(super) fn current_request(&self) -> (usize, Option<usize>) {
        let length = self.body_length.load(Ordering::Relaxed);
        (self.requests.load(Ordering::Relaxed), Some(length).filter(|length| *length != NO_LENGTH))
    }

    pub(super) fn set_waker(&self, waker: &Waker) {
        *self.waker.lock() = Some(waker.clone());
    }
}
