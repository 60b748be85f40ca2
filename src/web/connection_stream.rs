//! The stream that actix-http reads and writes for one connection.
//!
//! actix-http limits the time of a connection's first head only, accepts heads of 128 KiB, and goes
//! on reading while a peer reads no responses. So the stream limits what actix-http receives. It
//! learns the progress of a request from the handler (`Connection::begin`, `respond`) and from the
//! flush.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use actix_web::web::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::client_subject::ClientSubject;
use super::connection::{Connection, ConnectionState, Phase};
use super::connections::Slot;

/// Maximum size of a request's head, the request line included. Beyond it the response is 431.
pub const MAX_HEAD_BYTES: usize = 32 << 10;

const HEAD_TOO_LARGE: &[u8] = b"HTTP/1.1 431 Request Header Fields Too Large\r\n\
    content-length: 0\r\nconnection: close\r\n\r\n";
const HEAD_TOO_LATE: &[u8] = b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 33\r\n\
    connection: close\r\ncontent-type: application/json\r\n\r\n{\"error\":\"request took too long\"}";

/// Maximum number of bytes of one read outside a body, and so of the bytes that are read ahead.
const MAX_READ_BYTES: usize = 8 << 10;

/// The stream that actix-http uses.
///
/// actix-http decodes every request that it receives into several KiB. It also closes the
/// connection after a response while the body of a later request is incomplete. So the stream hands
/// over one request at a time. It reads ahead at most 8 KiB of the next ones, and keeps them until
/// the response is passed to the system.
pub struct ConnectionStream<S> {
    inner: S,
    connection: Arc<Connection>,
    subject: Option<ClientSubject>,
    /// A copy of the waker in `Connection`.
    waker: Option<Waker>,
    /// Bytes of the incomplete head handed over so far.
    head_bytes: usize,
    /// Position of the end of the head, once it has arrived.
    head_end: HeadEnd,
    /// Number of the request that the head belongs to.
    head_request_number: usize,
    /// Bytes of this request handed over so far.
    request_bytes: usize,
    /// The head exceeds its size or its time. No more bytes of it are handed over. If it is still
    /// incomplete, the request is rejected.
    is_head_over_limit: bool,
    /// Bytes of a body handed over since actix-http last processed them.
    body_bytes: usize,
    /// Bytes after the request: read and not handed over yet.
    read_ahead_bytes: BytesMut,
    /// Handing over paused once, so that actix-http decodes what it has. If it needs more bytes to
    /// complete the request, it gets the next ones.
    has_paused: bool,
    is_write_blocked: bool,
    /// A read returned `Pending` although input may be ready, and nothing else wakes the task.
    is_read_suspended: bool,
    /// Released after the socket is closed.
    _slot: Slot,
}

impl<S> ConnectionStream<S> {
    /// Makes the stream of a connection that has a slot.
    pub fn new(inner: S, slot: Slot, subject: Option<ClientSubject>) -> Self {
        Self {
            inner,
            connection: Arc::clone(&slot.connection),
            subject,
            waker: None,
            head_bytes: 0,
            head_end: HeadEnd::default(),
            head_request_number: 0,
            request_bytes: 0,
            is_head_over_limit: false,
            body_bytes: 0,
            read_ahead_bytes: BytesMut::new(),
            has_paused: false,
            is_write_blocked: false,
            is_read_suspended: false,
            _slot: slot,
        }
    }

    /// What the client's certificate says about it.
    pub(super) fn subject(&self) -> Option<&ClientSubject> {
        self.subject.as_ref()
    }

    pub(super) fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    /// Begins a head. `bytes` of it are already handed over.
    fn begin_head(&mut self, bytes: usize, head_end: HeadEnd) {
        let (requests, _) = self.connection.current_request();
        (self.head_bytes, self.request_bytes, self.is_head_over_limit) = (bytes, bytes, false);
        (self.head_end, self.head_request_number, self.has_paused) =
            (head_end, requests + 1, false);
        self.connection.enter_now(Phase::Head);
    }

    /// Returns the number of bytes of the whole request, if its head contains the length.
    fn request_length(&self) -> Option<usize> {
        let (requests, length) = self.connection.current_request();
        let length = length.filter(|_| self.head_request_number == requests)?;
        Some(self.head_end.position?.saturating_add(length))
    }

    /// Returns the number of bytes handed over that belong to the next request, if known. They are
    /// part of its first line, because nothing after a whole request line is handed over.
    fn next_request_bytes(&self) -> usize {
        self.request_length().map_or(0, |length| self.request_bytes.saturating_sub(length))
    }

    fn register_waker(&mut self, waker: &Waker) {
        if !self.waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
            self.waker = Some(waker.clone());
            self.connection.set_waker(waker);
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> ConnectionStream<S> {
    /// Reads at most `max` bytes and returns their number.
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
        // A copy of what arrived costs less than zeroing a part of the buffer, which may be uninitialized.
        let mut bytes = [MaybeUninit::uninit(); MAX_READ_BYTES];
        let mut part = ReadBuf::uninit(&mut bytes[..max.min(MAX_READ_BYTES)]);
        let read = Pin::new(&mut self.inner).poll_read(context, &mut part)?;
        buffer.put_slice(part.filled());
        read.map(|()| Ok(part.filled().len()))
    }

    /// Hands over bytes that were read ahead, or reads some. `cut` gets at most `max` bytes and
    /// returns how many of them to hand over. The others stay in `read_ahead_bytes`. Returns the
    /// number of bytes handed over.
    fn hand_over(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
        max: usize,
        cut: impl FnOnce(&[u8]) -> usize,
    ) -> Poll<io::Result<usize>> {
        let before = buffer.filled().len();
        let count = if self.read_ahead_bytes.is_empty() {
            ready!(self.read(context, buffer, max)?);
            let bytes = &buffer.filled()[before..];
            let count = cut(bytes);
            self.read_ahead_bytes.extend_from_slice(&bytes[count..]);
            buffer.set_filled(before + count);
            count
        } else {
            let bytes = &self.read_ahead_bytes
                [..max.min(self.read_ahead_bytes.len()).min(buffer.remaining())];
            let count = cut(bytes);
            buffer.put_slice(&bytes[..count]);
            self.read_ahead_bytes.advance(count);
            if self.read_ahead_bytes.is_empty() {
                // Frees the memory, which `advance` does not.
                self.read_ahead_bytes = BytesMut::new();
            }
            count
        };
        self.request_bytes += count;
        Poll::Ready(Ok(count))
    }

    /// Hands nothing over, and reads ahead what the peer sends after its request. It reads only
    /// while `read_ahead_bytes` is empty, so that actix-http learns about the end of the input.
    fn read_ahead(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.read_ahead_bytes.is_empty() {
            let mut bytes = [MaybeUninit::uninit(); MAX_READ_BYTES];
            let mut buffer = ReadBuf::uninit(&mut bytes);
            ready!(Pin::new(&mut self.inner).poll_read(context, &mut buffer)?);
            if buffer.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            self.read_ahead_bytes.extend_from_slice(buffer.filled());
        }
        (self.has_paused, self.is_read_suspended) = (true, true);
        Poll::Pending
    }

    /// Hands over bytes of a head, at most `max`. Bytes after the head go with it, unless a request
    /// may begin among them: most requests are read in one piece.
    fn hand_over_head(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
        max: usize,
    ) -> Poll<io::Result<usize>> {
        let mut head_end = self.head_end;
        let read = self.hand_over(context, buffer, max.min(MAX_READ_BYTES), |bytes| {
            let end = head_end.find_end(bytes).unwrap_or(bytes.len());
            if find_request_line(&bytes[end..]).is_some() { end } else { bytes.len() }
        });
        self.head_end = head_end;
        read
    }

    /// Between requests: reads the first bytes of the next one.
    fn read_first(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
        current: ConnectionState,
    ) -> Poll<io::Result<()>> {
        self.head_end = HeadEnd::default();
        match self.hand_over_head(context, buffer, MAX_HEAD_BYTES)? {
            Poll::Ready(0) => Poll::Ready(Ok(())),
            // Even if the connection has expired: the peer did not know that when it sent them.
            Poll::Ready(count) => {
                self.begin_head(count, self.head_end);
                Poll::Ready(Ok(()))
            }
            // Signals the end of the input to actix-http.
            Poll::Pending if current.is_expired() => Poll::Ready(Ok(())),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Reads the rest of a head, or rejects one that is too large or too late.
    fn read_head(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
        current: ConnectionState,
    ) -> Poll<io::Result<()>> {
        if self.is_head_over_limit {
            let is_too_late = self.head_bytes < MAX_HEAD_BYTES;
            let response = if is_too_late { HEAD_TOO_LATE } else { HEAD_TOO_LARGE };
            return self.reject(context, response);
        }
        if self.head_end.position.is_some() && !self.has_paused && !current.is_expired() {
            return self.read_ahead(context);
        }
        let room = MAX_HEAD_BYTES - self.head_bytes.min(MAX_HEAD_BYTES);
        if room > 0 {
            match self.hand_over_head(context, buffer, room)? {
                Poll::Ready(count) => {
                    self.head_bytes += count;
                    return Poll::Ready(Ok(()));
                }
                Poll::Pending if !current.is_expired() => return Poll::Pending,
                Poll::Pending => {}
            }
        }
        // actix-http processes the bytes that it has and reads again.
        self.is_head_over_limit = true;
        context.waker().wake_by_ref();
        Poll::Pending
    }

    /// Reads a small part of a body: actix-http keeps its buffer as large as it ever was.
    fn read_body(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.body_bytes >= MAX_HEAD_BYTES {
            self.body_bytes = 0;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let length = self.request_length();
        let remaining = length.map(|length| length.saturating_sub(self.request_bytes));
        let may_be_complete =
            remaining.map_or(!self.read_ahead_bytes.is_empty(), |remaining| remaining == 0);
        let has_paused = std::mem::take(&mut self.has_paused);
        if may_be_complete && !has_paused {
            return self.read_ahead(context);
        }
        let read = match remaining {
            Some(remaining @ 1..) => self.hand_over(context, buffer, remaining, <[u8]>::len),
            // The body is chunked.
            _ => {
                self.hand_over(context, buffer, MAX_READ_BYTES, |bytes| find_cut(bytes, has_paused))
            }
        };
        match read? {
            Poll::Ready(0) if !self.read_ahead_bytes.is_empty() => self.read_ahead(context),
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

    /// Sends a response to a malformed request and closes the connection.
    fn reject(&mut self, context: &mut Context<'_>, response: &[u8]) -> Poll<io::Result<()>> {
        // The socket buffer has room, because nothing else is in flight. If it has none, the
        // connection closes without a response.
        let _ = Pin::new(&mut self.inner).poll_write(context, response);
        self.close(context);
        self.discard(context)
    }

    /// Shuts down the sending side. From now on, input is discarded until `LINGER` has passed.
    fn close(&mut self, context: &mut Context<'_>) {
        let _ = Pin::new(&mut self.inner).poll_shutdown(context);
        self.connection.enter_now(Phase::Closing);
    }

    /// Reads and discards until the peer ends the connection or its time is over.
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

    /// Runs when the system accepts no more until the peer reads. Returns an error if that takes too long.
    fn wait_for_reader(&mut self) -> Option<io::Error> {
        self.is_write_blocked = true;
        let current = self.connection.state();
        if current.is_expired() {
            return Some(slow_peer_error());
        }
        if current.phase() == Phase::Responding {
            self.connection.begin_writing(current);
        }
        None
    }

    /// Runs when all that actix-http has written is passed to the system.
    fn end_write(&mut self, context: &mut Context<'_>) {
        self.is_write_blocked = false;
        let current = self.connection.state();
        if matches!(current.phase(), Phase::Responding | Phase::Writing) {
            match self.next_request_bytes() {
                _ if current.should_close() => self.close(context),
                0 if self.read_ahead_bytes.is_empty() => self.connection.enter_now(Phase::Idle),
                // The next request has already begun.
                bytes => self.begin_head(bytes, HeadEnd { scanned: bytes, ..HeadEnd::default() }),
            }
        }
        if self.is_read_suspended && !self.connection.state().phase().is_after_request() {
            self.is_read_suspended = false;
            context.waker().wake_by_ref();
        }
    }
}

/// Finds the end of a head: after its first empty line.
#[derive(Clone, Copy, Debug, Default)]
struct HeadEnd {
    position: Option<usize>,
    /// Number of bytes scanned, and the last two of them.
    scanned: usize,
    last: [u8; 2],
    /// Whether a byte among them belongs to the head.
    has_begun: bool,
}

impl HeadEnd {
    /// Scans further bytes and returns where among them the head ends.
    fn find_end(&mut self, bytes: &[u8]) -> Option<usize> {
        if self.position.is_some() {
            return None;
        }
        let mut start = 0;
        if !self.has_begun {
            // Line ends before a request do not belong to it (RFC 9112, section 2.2).
            start = bytes.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
            self.has_begun = start < bytes.len();
        }
        // The carriage return may be missing (RFC 9112, section 2.2).
        let is_empty_line = |at: &usize| {
            let byte_before = |count| match at.checked_sub(count) {
                Some(at) => bytes[at],
                None => self.last[2 + at - count],
            };
            byte_before(1) == b'\n' || (byte_before(1) == b'\r' && byte_before(2) == b'\n')
        };
        let mut lines = memchr::memchr_iter(b'\n', &bytes[start..]).map(|at| start + at);
        let end = lines.find(is_empty_line).map(|at| at + 1);
        self.position = end.map(|end| self.scanned + end);
        self.scanned += bytes.len();
        for byte in &bytes[bytes.len().saturating_sub(2)..] {
            self.last = [self.last[1], *byte];
        }
        end
    }
}

/// Finds the start of the first request line (RFC 9112, section 3). A line of a body may look like
/// one. Bytes without a request line contain no whole head.
fn find_request_line(bytes: &[u8]) -> Option<usize> {
    let mut start = 0;
    for end in memchr::memchr_iter(b'\n', bytes) {
        let line = &bytes[start..end];
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if let Some((b'0'..=b'9', before)) = line.split_last()
            && before.ends_with(b" HTTP/1.")
        {
            return Some(start);
        }
        start = end + 1;
    }
    None
}

/// Returns how many of these bytes of a chunked body to hand over: all before the possible start of
/// the next request. That is after a line feed, and its line may be incomplete. `is_in_body`: the
/// first line belongs to the body.
fn find_cut(bytes: &[u8], is_in_body: bool) -> usize {
    let line_end = |bytes| memchr::memchr(b'\n', bytes).map(|at| at + 1);
    let start = if is_in_body { line_end(bytes).unwrap_or(bytes.len()) } else { 0 };
    let rest = &bytes[start..];
    let last_line = || memchr::memrchr(b'\n', rest).map(|at| at + 1);
    start + find_request_line(rest).or_else(last_line).unwrap_or(rest.len())
}

fn slow_peer_error() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "the peer does not read its response")
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for ConnectionStream<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.register_waker(context.waker());
        let current = this.connection.state();
        // The server accepts no further requests from a peer that does not read its responses.
        if this.is_write_blocked {
            this.is_read_suspended = true;
            return if current.is_expired() {
                Poll::Ready(Err(slow_peer_error()))
            } else {
                Poll::Pending
            };
        }
        match current.phase() {
            Phase::New | Phase::Idle => this.read_first(context, buffer, current),
            Phase::Head => this.read_head(context, buffer, current),
            Phase::Closing => this.discard(context),
            Phase::Body => this.read_body(context, buffer),
            Phase::Handling | Phase::Responding | Phase::Writing => this.read_ahead(context),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for ConnectionStream<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.register_waker(context.waker());
        match this.connection.state().phase() {
            // This is actix-http's own response to an invalid request. actix-http would close the
            // connection at once, and the peer would lose the response because it is still sending.
            Phase::Head => return this.reject(context, bytes).map_ok(|()| bytes.len()),
            Phase::Closing => return this.discard(context).map_ok(|()| bytes.len()),
            _ => {}
        }
        let written = Pin::new(&mut this.inner).poll_write(context, bytes);
        this.is_write_blocked = false;
        if written.is_pending()
            && let Some(error) = this.wait_for_reader()
        {
            return Poll::Ready(Err(error));
        }
        written
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = Pin::new(&mut this.inner).poll_flush(context);
        match flushed {
            Poll::Ready(Ok(())) => this.end_write(context),
            // TLS accepts bytes that the system does not accept yet.
            Poll::Pending => {
                this.register_waker(context.waker());
                if let Some(error) = this.wait_for_reader() {
                    return Poll::Ready(Err(error));
                }
            }
            Poll::Ready(Err(_)) => {}
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
            let here = end.find_end(part.as_bytes()).map(|at| before + at);
            assert!(here.is_none() || here == expected, "{parts:?}");
            before += part.len();
        }
        assert_eq!(end.position, expected, "{parts:?}");
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
