//! The bytes of a connection as hyper reads and writes them.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::connect::Stream;

/// How far a connection is used.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Usage {
    /// No request was written. A server that responds before it has read a request must not surprise hyper,
    /// so nothing is read until then.
    New,
    Used,
    /// The server no longer reads. It may have sent a response with the reason, so the rest of the request is
    /// discarded and the response is read.
    Unwritable,
}

/// A connection that counts what it receives, and hides two things from hyper: a response that is there
/// before the first request, and a server that stops reading.
pub(super) struct ExchangeStream {
    stream: Box<dyn Stream>,
    received_bytes: Arc<AtomicUsize>,
    /// Waits until the connection is no longer `New`.
    reader: Option<Waker>,
    usage: Usage,
}

impl ExchangeStream {
    pub fn new(stream: Box<dyn Stream>, received_bytes: Arc<AtomicUsize>) -> Self {
        Self { stream, received_bytes, reader: None, usage: Usage::New }
    }

    /// Writes a part of a request of `length` bytes.
    fn poll_write_with(
        &mut self,
        length: usize,
        write: impl FnOnce(Pin<&mut dyn Stream>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if self.usage == Usage::New {
            self.usage = Usage::Used;
            if let Some(reader) = self.reader.take() {
                reader.wake();
            }
        }
        if self.usage == Usage::Unwritable {
            return Poll::Ready(Ok(length));
        }
        let written = ready!(write(Pin::new(&mut *self.stream)));
        Poll::Ready(written.or_else(|_| {
            self.usage = Usage::Unwritable;
            Ok(length)
        }))
    }
}

impl AsyncRead for ExchangeStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.usage == Usage::New {
            self.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let length_before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        let length = buffer.filled().len() - length_before;
        self.received_bytes.fetch_add(length, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ExchangeStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_with(bytes.len(), |stream| stream.poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let length = slices.iter().map(|slice| slice.len()).sum();
        self.poll_write_with(length, |stream| stream.poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.usage != Usage::Unwritable
            && ready!(Pin::new(&mut self.stream).poll_flush(cx)).is_err()
        {
            self.usage = Usage::Unwritable;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
