//! One connection of a peer: its phase, and the stream that actix-http reads and writes.
//!
//! actix-http limits the time of a connection's first head alone, takes heads of 128 KiB, and goes on
//! reading while a peer reads no responses. So the stream limits what actix-http is given, and knows
//! from the handler (`Connection::begin`, `respond`) and from the flush where a request is.
//! `connections` compares phases with their time limits and wakes the stream that is late. On a
//! request's way are some relaxed atomics and two looks at the clock; no lock, no timer.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::OwnedSemaphorePermit;

use super::connections::Connections;

/// Maximum size of a request's head, the request line included; beyond it 431.
pub const HEAD_BYTES_MAX: usize = 32 << 10;

const HEAD_TOO_LARGE: &[u8] = b"HTTP/1.1 431 Request Header Fields Too Large\r\n\
    content-length: 0\r\nconnection: close\r\n\r\n";
const HEAD_TOO_LATE: &[u8] = b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 33\r\n\
    connection: close\r\ncontent-type: application/json\r\n\r\n{\"error\":\"request took too long\"}";

const NO_LENGTH: usize = usize::MAX;

/// Where a connection is between two requests or within one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// Nothing was sent yet.
    New,
    /// Between a response and the next request.
    Idle,
    /// From a request's first byte to the end of its head.
    Head,
    /// From a request's head to the end of its body; the handler limits the time.
    Body,
    /// From a request's last byte to its response: the server's own time.
    Handling,
    /// The response goes to the system.
    Responding,
    /// The system takes no more of it before the peer reads.
    Writing,
    /// After the last response: what the peer still sends is discarded, so that it can read that
    /// response (RFC 9112, section 9.6).
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

    /// Nobody would lose anything if the connection were closed now.
    pub fn is_idle(self) -> bool {
        matches!(self, Self::New | Self::Idle)
    }

    fn is_in_flight(self) -> bool {
        matches!(self, Self::Body | Self::Handling | Self::Responding | Self::Writing)
    }
}

/// A phase, since when it lasts, and what was decided about the connection: one number, so that a
/// decision of another thread holds only for the phase that it was made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State(u64);

impl State {
    const EXPIRED: u64 = 1 << 3;
    const EVICTED: u64 = 1 << 4;
    /// The peer has not sent all of its request: no other can follow.
    const CLOSE: u64 = 1 << 5;
    const BITS: u32 = 6;

    fn new(phase: Phase, since_us: u64) -> Self {
        Self((since_us << Self::BITS) | phase as u64)
    }

    pub fn phase(self) -> Phase {
        Phase::ALL[(self.0 & 0b111) as usize]
    }

    /// In microseconds since the server's start.
    pub fn since_us(self) -> u64 {
        self.0 >> Self::BITS
    }

    pub fn is_expired(self) -> bool {
        self.0 & Self::EXPIRED != 0
    }

    fn is_evicted(self) -> bool {
        self.0 & Self::EVICTED != 0
    }

    fn should_close(self) -> bool {
        self.0 & Self::CLOSE != 0
    }
}

/// What the stream, the handler and the watch over all connections share.
pub struct Connection {
    connections: Arc<Connections>,
    state: AtomicU64,
    /// How many requests have begun.
    requests: AtomicUsize,
    /// Of the last one's body, where its head says it.
    body_length: AtomicUsize,
    /// Of the task that serves the connection.
    waker: Mutex<Option<Waker>>,
}

impl Connection {
    pub(super) fn new(connections: Arc<Connections>) -> Self {
        let state = State::new(Phase::New, connections.now_us());
        Self {
            connections,
            state: AtomicU64::new(state.0),
            requests: AtomicUsize::new(0),
            body_length: AtomicUsize::new(NO_LENGTH),
            waker: Mutex::default(),
        }
    }

    pub fn state(&self) -> State {
        State(self.state.load(Ordering::Acquire))
    }

    /// Enters a phase; takes back what was decided about the one before.
    fn enter(&self, phase: Phase, since_us: u64, flags: u64) {
        let next = State::new(phase, since_us).0 | flags;
        let before = State(self.state.swap(next, Ordering::AcqRel));
        if before.is_evicted() {
            self.connections.evicted(-1);
        }
        match (before.phase().is_in_flight(), phase.is_in_flight()) {
            (false, true) => self.connections.in_flight(1),
            (true, false) => self.connections.in_flight(-1),
            _ => {}
        }
    }

    /// Closes the connection if it is still in the state that was looked at; to make room: as an
    /// eviction.
    pub(super) fn expire(&self, seen: State, is_evicted: bool) -> bool {
        let flags = State::EXPIRED | if is_evicted { State::EVICTED } else { 0 };
        let next = seen.0 | flags;
        let expired =
            self.state.compare_exchange(seen.0, next, Ordering::AcqRel, Ordering::Acquire).is_ok();
        if expired {
            if is_evicted {
                self.connections.evicted(1);
            }
            let waker = self.waker.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(waker) = &*waker {
                waker.wake_by_ref();
            }
        }
        expired
    }

    /// A request's head is complete, which may say how long its body is; when its first byte came.
    pub fn begin(&self, body_length: Option<usize>) -> Instant {
        let state = self.state();
        let since_us = match state.phase() {
            Phase::Head => state.since_us(),
            // It came behind the request before it.
            _ => self.connections.now_us(),
        };
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.body_length.store(body_length.unwrap_or(NO_LENGTH), Ordering::Relaxed);
        self.enter(Phase::Body, since_us, 0);
        self.connections.at(since_us)
    }

    /// The request's body is complete.
    pub fn end_body(&self) {
        self.enter(Phase::Handling, self.state().since_us(), 0);
    }

    /// The response is ready, in one piece. `is_last`: part of the request was not read, so the connection closes
    /// behind it.
    pub fn respond(&self, is_last: bool) {
        let flags = if is_last { State::CLOSE } else { 0 };
        self.enter(Phase::Responding, 0, flags);
    }

    /// Whether connections wait for a place: then this one is given away after its response.
    pub fn is_wanted(&self) -> bool {
        self.connections.is_full()
    }

    fn set_waker(&self, waker: &Waker) {
        *self.waker.lock().unwrap_or_else(PoisonError::into_inner) = Some(waker.clone());
    }
}

/// The stream that actix-http is given.
pub struct Stream<S> {
    inner: S,
    connection: Arc<Connection>,
    /// As the watch has it.
    waker: Option<Waker>,
    /// Bytes handed over since the first of a head that is not complete.
    head_bytes: usize,
    /// Where that head ends, once it is there, and which request it is.
    head_end: HeadEnd,
    head_of: usize,
    /// Bytes handed over since the same first one, to the end of the request.
    request_bytes: usize,
    /// All that a head may have, or had the time for, was handed over: is it complete?
    is_decided: bool,
    /// Bytes of a body handed over since actix-http last looked at them.
    body_bytes: usize,
    /// Bytes handed over behind the last byte of this request.
    ahead_bytes: usize,
    ahead_of: usize,
    is_write_blocked: bool,
    /// Reading was refused, and nothing wakes the task for it.
    is_read_refused: bool,
    /// Given back once the socket is closed.
    _place: OwnedSemaphorePermit,
}

impl<S> Drop for Stream<S> {
    fn drop(&mut self) {
        self.connection.enter(Phase::Closing, 0, 0);
        self.connection.connections.remove(&self.connection);
    }
}

impl<S> Stream<S> {
    pub(super) fn new(inner: S, connection: Arc<Connection>, place: OwnedSemaphorePermit) -> Self {
        Self {
            inner,
            connection,
            waker: None,
            head_bytes: 0,
            head_end: HeadEnd::default(),
            head_of: 0,
            request_bytes: 0,
            is_decided: false,
            body_bytes: 0,
            ahead_bytes: 0,
            ahead_of: 0,
            is_write_blocked: false,
            is_read_refused: false,
            _place: place,
        }
    }

    pub(super) fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    /// A head begins, of which so many bytes were handed over.
    fn begin_head(&mut self, bytes: usize) {
        let requests = self.connection.requests.load(Ordering::Relaxed);
        (self.head_bytes, self.request_bytes, self.is_decided) = (bytes, bytes, false);
        (self.head_end, self.head_of) = (HeadEnd::default(), requests + 1);
        self.connection.enter(Phase::Head, self.connection.connections.now_us(), 0);
    }

    /// Bytes handed over that belong to the next request, as far as it can be known.
    fn left_over(&mut self) -> usize {
        let ahead = *self.ahead();
        let length = self.connection.body_length.load(Ordering::Relaxed);
        match self.head_end.at {
            Some(head) if self.ahead_of == self.head_of && length != NO_LENGTH => {
                self.request_bytes.saturating_sub(head.saturating_add(length))
            }
            _ => ahead,
        }
    }

    /// Bytes that were handed over behind the request that is being handled.
    fn ahead(&mut self) -> &mut usize {
        let requests = self.connection.requests.load(Ordering::Relaxed);
        if std::mem::replace(&mut self.ahead_of, requests) != requests {
            self.ahead_bytes = 0;
        }
        &mut self.ahead_bytes
    }

    fn remember(&mut self, waker: &Waker) {
        if !self.waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
            self.waker = Some(waker.clone());
            self.connection.set_waker(waker);
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Stream<S> {
    /// Reads at most `max` bytes; how many.
    fn read(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
        max: usize,
    ) -> Poll<io::Result<usize>> {
        let before = buffer.filled().len();
        if buffer.remaining() <= max {
            let read = Pin::new(&mut self.inner).poll_read(context, buffer)?;
            return read.map(|()| Ok(buffer.filled().len() - before));
        }
        // A buffer that a large body left behind.
        let mut part = ReadBuf::new(buffer.initialize_unfilled_to(max));
        let read = Pin::new(&mut self.inner).poll_read(context, &mut part)?;
        let count = part.filled().len();
        buffer.advance(count);
        read.map(|()| Ok(count))
    }

    /// Between requests: the first byte of the next.
    fn read_first(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
        state: State,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        match self.read(context, buffer, HEAD_BYTES_MAX)? {
            Poll::Ready(0) => Poll::Ready(Ok(())),
            // Also on a connection that was about to close: the peer does not know that yet.
            Poll::Ready(count) => {
                self.begin_head(count);
                self.head_end.look(&buffer.filled()[before..]);
                Poll::Ready(Ok(()))
            }
            // The end of the input, for actix-http.
            Poll::Pending if state.is_expired() => Poll::Ready(Ok(())),
            Poll::Pending => Poll::Pending,
        }
    }

    /// The rest of a head, or the response to one that is too large or too late.
    fn read_head(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
        state: State,
    ) -> Poll<io::Result<()>> {
        if self.is_decided {
            let too_late = self.head_bytes < HEAD_BYTES_MAX;
            let response = if too_late { HEAD_TOO_LATE } else { HEAD_TOO_LARGE };
            return self.reject(context, response);
        }
        let room = HEAD_BYTES_MAX - self.head_bytes.min(HEAD_BYTES_MAX);
        if room > 0 {
            let before = buffer.filled().len();
            match self.read(context, buffer, room)? {
                Poll::Ready(count) => {
                    self.head_bytes += count;
                    self.request_bytes += count;
                    self.head_end.look(&buffer.filled()[before..]);
                    return Poll::Ready(Ok(()));
                }
                Poll::Pending if !state.is_expired() => return Poll::Pending,
                Poll::Pending => {}
            }
        }
        // actix-http looks at what it was handed, and asks again.
        self.is_decided = true;
        context.waker().wake_by_ref();
        Poll::Pending
    }

    /// Part of a body, a little at once: actix-http keeps as large a buffer as it ever filled.
    fn read_body(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.body_bytes >= HEAD_BYTES_MAX {
            self.body_bytes = 0;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.inner).poll_read(context, buffer);
        self.body_bytes += buffer.filled().len() - before;
        self.request_bytes += buffer.filled().len() - before;
        if read.is_pending() {
            self.body_bytes = 0;
        }
        read
    }

    /// Writes the response to what is no request, and closes.
    fn reject(&mut self, context: &mut Context<'_>, response: &[u8]) -> Poll<io::Result<()>> {
        // A connection on which nothing is on its way has room for so little; if not, it just ends.
        let _ = Pin::new(&mut self.inner).poll_write(context, response);
        self.close(context);
        self.discard(context)
    }

    /// Sends the end; from here on what comes is discarded for a moment.
    fn close(&mut self, context: &mut Context<'_>) {
        let _ = Pin::new(&mut self.inner).poll_shutdown(context);
        self.connection.enter(Phase::Closing, self.connection.connections.now_us(), 0);
    }

    /// Reads and throws away until the peer ends, or its time is over.
    fn discard(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut bytes = [MaybeUninit::uninit(); 4096];
            let mut buffer = ReadBuf::uninit(&mut bytes);
            match Pin::new(&mut self.inner).poll_read(context, &mut buffer)? {
                Poll::Ready(()) if buffer.filled().is_empty() => return Poll::Ready(Ok(())),
                Poll::Ready(()) if self.connection.state().is_expired() => {
                    return Poll::Ready(Ok(()));
                }
                Poll::Ready(()) => {}
                Poll::Pending if self.connection.state().is_expired() => {
                    return Poll::Ready(Ok(()));
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// All that actix-http had to write is with the system.
    fn end_write(&mut self, context: &mut Context<'_>) {
        self.is_write_blocked = false;
        let state = self.connection.state();
        if matches!(state.phase(), Phase::Responding | Phase::Writing) {
            let now_us = self.connection.connections.now_us();
            match self.left_over() {
                _ if state.should_close() => self.close(context),
                0 => self.connection.enter(Phase::Idle, now_us, 0),
                // The next request has begun already.
                bytes => self.begin_head(bytes),
            }
        }
        if std::mem::take(&mut self.is_read_refused) {
            context.waker().wake_by_ref();
        }
    }
}

/// Where a head ends: only to know whether the next one has begun behind it.
#[derive(Clone, Copy, Debug, Default)]
struct HeadEnd {
    at: Option<usize>,
    /// Bytes looked at, and the last of them.
    seen: usize,
    last: [u8; 3],
}

impl HeadEnd {
    fn look(&mut self, bytes: &[u8]) {
        if self.at.is_some() {
            return;
        }
        // Line ends before a request do not belong to it (RFC 9112, section 2.2).
        let is_blank = |byte: &u8| matches!(byte, b'\r' | b'\n');
        let skipped = match self.seen {
            0 => bytes.iter().take_while(|byte| is_blank(byte)).count(),
            _ => 0,
        };
        let end = b"\r\n\r\n";
        // An end that began in the bytes before these.
        let joint = [&self.last[..], &bytes[..bytes.len().min(3)]].concat();
        let of_joint = (self.seen >= 3).then(|| memchr::memmem::find(&joint, end)).flatten();
        let of_bytes = memchr::memmem::find(&bytes[skipped..], end);
        self.at = match (of_joint, of_bytes) {
            (Some(at), _) => Some(self.seen - 3 + at + end.len()),
            (None, Some(at)) => Some(self.seen + skipped + at + end.len()),
            (None, None) => None,
        };
        self.seen += bytes.len();
        for byte in &bytes[bytes.len().saturating_sub(3)..] {
            self.last = [self.last[1], self.last[2], *byte];
        }
    }
}

fn too_slow() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "the peer does not read its response")
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Stream<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.remember(context.waker());
        let state = this.connection.state();
        // A peer that reads no responses gets no further requests in.
        if this.is_write_blocked {
            this.is_read_refused = true;
            return if state.is_expired() { Poll::Ready(Err(too_slow())) } else { Poll::Pending };
        }
        match state.phase() {
            Phase::New | Phase::Idle => this.read_first(context, buffer, state),
            Phase::Head => this.read_head(context, buffer, state),
            Phase::Closing => this.discard(context),
            Phase::Body => this.read_body(context, buffer),
            Phase::Handling | Phase::Responding | Phase::Writing => {
                let room = HEAD_BYTES_MAX - (*this.ahead()).min(HEAD_BYTES_MAX);
                if room == 0 {
                    this.is_read_refused = true;
                    return Poll::Pending;
                }
                this.read(context, buffer, room).map_ok(|count| {
                    *this.ahead() += count;
                    this.request_bytes += count;
                })
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Stream<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.remember(context.waker());
        match this.connection.state().phase() {
            // actix-http's own response, to what is no request. It would close at once, and what the
            // peer still sends would cost it the response.
            Phase::Head => return this.reject(context, bytes).map_ok(|()| bytes.len()),
            Phase::Closing => return this.discard(context).map_ok(|()| bytes.len()),
            _ => {}
        }
        let written = Pin::new(&mut this.inner).poll_write(context, bytes);
        this.is_write_blocked = written.is_pending();
        if this.is_write_blocked {
            let state = this.connection.state();
            if state.is_expired() {
                return Poll::Ready(Err(too_slow()));
            }
            if state.phase() == Phase::Responding {
                let now_us = this.connection.connections.now_us();
                this.connection.enter(Phase::Writing, now_us, state.0 & State::CLOSE);
            }
        }
        written
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = Pin::new(&mut this.inner).poll_flush(context);
        if matches!(flushed, Poll::Ready(Ok(()))) {
            this.end_write(context);
        }
        flushed
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::HeadEnd;

    #[track_caller]
    fn check(parts: &[&str], expected: Option<usize>) {
        let mut end = HeadEnd::default();
        parts.iter().for_each(|part| end.look(part.as_bytes()));
        assert_eq!(end.at, expected, "{parts:?}");
    }

    #[test]
    fn the_end_of_a_head_is_found_wherever_it_is_cut() {
        let whole = "GET / HTTP/1.1\r\nHost: x\r\n\r\nGET";
        check(&[whole], Some(27));
        for cut in 1..whole.len() {
            check(&[&whole[..cut], &whole[cut..]], Some(27));
        }
        let bytes: Vec<&str> = (0..whole.len()).map(|at| &whole[at..=at]).collect();
        check(&bytes, Some(27));
        check(&["GET / HTTP/1.1\r\nHost: x\r\n"], None);
        check(&["\r\n\r\nGET / HTTP/1.1\r\n\r\n"], Some(22));
    }
}
