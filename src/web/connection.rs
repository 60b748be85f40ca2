//! One connection of a peer: its phase, and the stream that actix-http reads and writes.
//!
//! actix-http limits the time of a connection's first head alone, takes heads of 128 KiB, and goes on
//! reading while a peer reads no responses. So the stream limits what actix-http is given, and knows
//! from the handler (`Connection::begin`, `respond`) and from the flush where a request is.
//!
//! actix-http decodes every request that it is given into several KiB, and closes the connection behind
//! a response while the body of a later request is incomplete. So the stream gives it one request at
//! a time, and holds at most 8 KiB of the next ones until the response is with the system.
//!
//! `connections` compares phases with their time limits and wakes the stream that is late. On a
//! request's way are some relaxed atomics and two looks at the clock; no lock, no timer.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Instant;

use actix_web::web::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::OwnedSemaphorePermit;

use super::connections::Connections;

/// Maximum size of a request's head, the request line included; beyond it 431.
pub const HEAD_BYTES_MAX: usize = 32 << 10;

const HEAD_TOO_LARGE: &[u8] = b"HTTP/1.1 431 Request Header Fields Too Large\r\n\
    content-length: 0\r\nconnection: close\r\n\r\n";
const HEAD_TOO_LATE: &[u8] = b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 33\r\n\
    connection: close\r\ncontent-type: application/json\r\n\r\n{\"error\":\"request took too long\"}";

/// Maximum number of bytes that are read at once outside a body, and so of those that are held.
const READ_BYTES_MAX: usize = 8 << 10;

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
        self == Self::Body || self.is_after_request()
    }

    /// The request is complete, its response is not with the system yet.
    fn is_after_request(self) -> bool {
        matches!(self, Self::Handling | Self::Responding | Self::Writing)
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
    /// Bytes that were read and not handed over yet: those behind the request.
    held: BytesMut,
    /// Bytes were held back once so that actix-http decodes what it has. If it needs more to complete
    /// the request, it gets the next bytes.
    has_paused: bool,
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
            held: BytesMut::new(),
            has_paused: false,
            is_write_blocked: false,
            is_read_refused: false,
            _place: place,
        }
    }

    pub(super) fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    /// A head begins, of which so many bytes were handed over.
    fn begin_head(&mut self, bytes: usize, head_end: HeadEnd) {
        let requests = self.connection.requests.load(Ordering::Relaxed);
        (self.head_bytes, self.request_bytes, self.is_decided) = (bytes, bytes, false);
        (self.head_end, self.head_of, self.has_paused) = (head_end, requests + 1, false);
        self.connection.enter(Phase::Head, self.connection.connections.now_us(), 0);
    }

    /// Number of bytes of the whole request, if its head says it.
    fn request_length(&self) -> Option<usize> {
        let requests = self.connection.requests.load(Ordering::Relaxed);
        let length = self.connection.body_length.load(Ordering::Relaxed);
        let is_known = self.head_of == requests && length != NO_LENGTH;
        self.head_end.at.filter(|_| is_known).map(|head| head.saturating_add(length))
    }

    /// Number of bytes handed over that belong to the next request, if known. They are part of its
    /// first line: bytes behind a whole request line are held.
    fn left_over(&self) -> usize {
        self.request_length().map_or(0, |length| self.request_bytes.saturating_sub(length))
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

    /// Hands over bytes that are held, or reads some. `cut` gets at most `max` bytes and returns how
    /// many of them to hand over; the others are held. Returns that number.
    fn hand_over(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
        max: usize,
        cut: impl FnOnce(&[u8]) -> usize,
    ) -> Poll<io::Result<usize>> {
        let before = buffer.filled().len();
        let count = if self.held.is_empty() {
            ready!(self.read(context, buffer, max)?);
            let bytes = &buffer.filled()[before..];
            let count = cut(bytes);
            self.held.extend_from_slice(&bytes[count..]);
            buffer.set_filled(before + count);
            count
        } else {
            let bytes = &self.held[..max.min(self.held.len()).min(buffer.remaining())];
            let count = cut(bytes);
            buffer.put_slice(&bytes[..count]);
            self.held.advance(count);
            if self.held.is_empty() {
                // Frees the memory, which `advance` keeps.
                self.held = BytesMut::new();
            }
            count
        };
        self.request_bytes += count;
        Poll::Ready(Ok(count))
    }

    /// Hands nothing over, and holds what the peer sends behind its request. Still reads while nothing
    /// is held, so that actix-http learns of the end of the input.
    fn hold(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.held.is_empty() {
            let mut bytes = [MaybeUninit::uninit(); READ_BYTES_MAX];
            let mut buffer = ReadBuf::uninit(&mut bytes);
            ready!(Pin::new(&mut self.inner).poll_read(context, &mut buffer)?);
            if buffer.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            self.held.extend_from_slice(buffer.filled());
        }
        (self.has_paused, self.is_read_refused) = (true, true);
        Poll::Pending
    }

    /// Hands over bytes of a head, at most `max`. Bytes behind the head go with it unless a request may
    /// begin among them: most requests are read in one piece.
    fn hand_over_head(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
        max: usize,
    ) -> Poll<io::Result<usize>> {
        let mut head_end = self.head_end;
        let read = self.hand_over(context, buffer, max.min(READ_BYTES_MAX), |bytes| {
            let end = head_end.look(bytes).unwrap_or(bytes.len());
            if find_request_line(&bytes[end..]).is_some() { end } else { bytes.len() }
        });
        self.head_end = head_end;
        read
    }

    /// Between requests: the first byte of the next.
    fn read_first(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
        state: State,
    ) -> Poll<io::Result<()>> {
        self.head_end = HeadEnd::default();
        match self.hand_over_head(context, buffer, HEAD_BYTES_MAX)? {
            Poll::Ready(0) => Poll::Ready(Ok(())),
            // Also on a connection that was about to close: the peer does not know that yet.
            Poll::Ready(count) => {
                self.begin_head(count, self.head_end);
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
        if self.head_end.at.is_some() && !self.has_paused && !state.is_expired() {
            return self.hold(context);
        }
        let room = HEAD_BYTES_MAX - self.head_bytes.min(HEAD_BYTES_MAX);
        if room > 0 {
            match self.hand_over_head(context, buffer, room)? {
                Poll::Ready(count) => {
                    self.head_bytes += count;
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
        let length = self.request_length();
        let left = length.map(|length| length.saturating_sub(self.request_bytes));
        let may_be_complete = left.map_or(!self.held.is_empty(), |left| left == 0);
        let has_paused = std::mem::take(&mut self.has_paused);
        if may_be_complete && !has_paused {
            return self.hold(context);
        }
        let read = match left {
            Some(left @ 1..) => self.hand_over(context, buffer, left, <[u8]>::len),
            // A chunked body.
            _ => {
                self.hand_over(context, buffer, READ_BYTES_MAX, |bytes| find_cut(bytes, has_paused))
            }
        };
        match read? {
            Poll::Ready(0) if !self.held.is_empty() => self.hold(context),
            Poll::Ready(count) => {
                self.body_bytes += count;
                Poll::Ready(Ok(()))
            }
            Poll::Pending => {
                self.body_bytes = 0;
                Poll::Pending
            }
        }
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
                0 if self.held.is_empty() => self.connection.enter(Phase::Idle, now_us, 0),
                // The next request has begun already.
                bytes => self.begin_head(bytes, HeadEnd { seen: bytes, ..HeadEnd::default() }),
            }
        }
        if self.is_read_refused && !self.connection.state().phase().is_after_request() {
            self.is_read_refused = false;
            context.waker().wake_by_ref();
        }
    }
}

/// Where a head ends: behind the first line that is empty.
#[derive(Clone, Copy, Debug, Default)]
struct HeadEnd {
    at: Option<usize>,
    /// Number of bytes looked at, and the last two of them.
    seen: usize,
    last: [u8; 2],
    /// Whether a byte was among them that belongs to the head.
    has_begun: bool,
}

impl HeadEnd {
    /// Looks at further bytes, and returns where among them the head ends.
    fn look(&mut self, bytes: &[u8]) -> Option<usize> {
        if self.at.is_some() {
            return None;
        }
        let mut begin = 0;
        if !self.has_begun {
            // Line ends before a request do not belong to it (RFC 9112, section 2.2).
            begin = bytes.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
            self.has_begun = begin < bytes.len();
        }
        // The carriage return may be missing (RFC 9112, section 2.2).
        let is_empty_line = |at: &usize| {
            let back = |count| match at.checked_sub(count) {
                Some(at) => bytes[at],
                None => self.last[2 + at - count],
            };
            back(1) == b'\n' || (back(1) == b'\r' && back(2) == b'\n')
        };
        let mut lines = memchr::memchr_iter(b'\n', &bytes[begin..]).map(|at| begin + at);
        let end = lines.find(is_empty_line).map(|at| at + 1);
        self.at = end.map(|end| self.seen + end);
        self.seen += bytes.len();
        for byte in &bytes[bytes.len().saturating_sub(2)..] {
            self.last = [self.last[1], *byte];
        }
        end
    }
}

/// Finds where the first request line begins (RFC 9112, section 3). A line of a body may look like one;
/// bytes without one hold no whole head.
fn find_request_line(bytes: &[u8]) -> Option<usize> {
    let version = b" HTTP/1.";
    let ends_line = |at: &usize| {
        let digit_and_end = &bytes[at + version.len()..];
        matches!(digit_and_end, [b'0'..=b'9', b'\n', ..] | [b'0'..=b'9', b'\r', b'\n', ..])
    };
    let at = memchr::memmem::find_iter(bytes, version).find(ends_line)?;
    Some(memchr::memrchr(b'\n', &bytes[..at]).map_or(0, |end| end + 1))
}

/// Finds how many of these bytes of a chunked body to hand over: up to where the next request may begin,
/// which is behind a line feed, and perhaps with an incomplete line. `is_in_body`: its first line
/// belongs to the body.
fn find_cut(bytes: &[u8], is_in_body: bool) -> usize {
    let line_end = |bytes| memchr::memchr(b'\n', bytes).map(|at| at + 1);
    let begin = if is_in_body { line_end(bytes).unwrap_or(bytes.len()) } else { 0 };
    let rest = &bytes[begin..];
    let last_line = || memchr::memrchr(b'\n', rest).map(|at| at + 1);
    begin + find_request_line(rest).or_else(last_line).unwrap_or(rest.len())
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
            Phase::Handling | Phase::Responding | Phase::Writing => this.hold(context),
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
    use super::{HeadEnd, find_cut, find_request_line};

    #[track_caller]
    fn check(parts: &[&str], expected: Option<usize>) {
        let mut end = HeadEnd::default();
        let mut before = 0;
        for part in parts {
            let here = end.look(part.as_bytes()).map(|at| before + at);
            assert!(here.is_none() || here == expected, "{parts:?}");
            before += part.len();
        }
        assert_eq!(end.at, expected, "{parts:?}");
    }

    #[test]
    fn the_end_of_a_head_is_found_wherever_it_is_cut() {
        for (whole, end) in [
            ("GET / HTTP/1.1\r\nHost: x\r\n\r\nGET", 27),
            ("GET / HTTP/1.1\nHost: x\n\nGET\n\n", 24),
            ("\r\n\r\nGET / HTTP/1.1\n\r\n\r\n", 21),
        ] {
            check(&[whole], Some(end));
            for cut in 1..whole.len() {
                check(&[&whole[..cut], &whole[cut..]], Some(end));
            }
            let bytes: Vec<&str> = (0..whole.len()).map(|at| &whole[at..=at]).collect();
            check(&bytes, Some(end));
        }
        check(&["GET / HTTP/1.1\r\nHost: x\r\n"], None);
    }

    #[test]
    fn a_body_of_unknown_length_is_cut_where_a_request_may_begin() {
        let cut = |text: &str, is_in_body| find_cut(text.as_bytes(), is_in_body);
        assert_eq!(cut("0\r\n\r\nGET / HTTP/1.1\r\n\r\n", false), 5);
        assert_eq!(cut("0\r\n\r\nGET / HT", false), 5);
        assert_eq!(cut("GET / HTTP/1.1\r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\n", true), 23);
        assert_eq!(cut("no line ends", false), 12);
        assert_eq!(cut("no line ends", true), 12);
        assert_eq!(cut("lines\r\n", true), 7);
    }

    #[test]
    fn a_request_line_is_a_whole_line() {
        let find = |text: &str| find_request_line(text.as_bytes());
        assert_eq!(find("GET / HTTP/1.1\r\n"), Some(0));
        assert_eq!(find("{\n}\r\nGET / HTTP/1.0\n"), Some(5));
        assert_eq!(find("{\"log\": \"GET / HTTP/1.1\"}\r\nGET / HTTP/1.1\r"), None);
    }
}
