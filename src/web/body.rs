//! Reads the body of a request, and decides whether its connection stays open.
//!
//! After the head of `Upgrade: websocket` or `CONNECT`, actix-http takes everything up to the end
//! of the connection as the body. Here the body ends after `Content-Length` bytes: a server may
//! ignore `Upgrade` (RFC 9110, section 7.8).

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use actix_web::http::header::{CONTENT_LENGTH, TRANSFER_ENCODING, UPGRADE};
use actix_web::http::{ConnectionType, Method, StatusCode};
use actix_web::{HttpRequest, HttpResponse, dev, web::Bytes};
use futures_core::Stream;
use tokio::time::error::Elapsed;
use tokio::time::timeout_at;

use super::body_memory::{
    BodyReservation, BudgetFull, MIN_LARGE_BYTES, MIN_PROGRESS_BYTES, PROGRESS_PERIOD,
};
use super::connection::Connection;
use super::rejection::Rejection;
use crate::metrics::UnavailableReason;

/// Maximum size of a rejected body that is read and discarded, so that the response arrives.
const MAX_DRAINED_BYTES: usize = 8 << 20;

/// Why a body is incomplete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyError {
    /// The client disconnected.
    Disconnected,
    /// The rest of the body has not arrived, and there is no memory to wait for it.
    NoRoom,
}

impl From<BodyError> for Rejection {
    fn from(error: BodyError) -> Self {
        match error {
            BodyError::Disconnected => Self::Disconnected,
            BodyError::NoRoom => Self::Unavailable(UnavailableReason::BodyMemory),
        }
    }
}

/// The body of a request that is being received.
pub struct RequestBody {
    payload: dev::Payload,
    /// Bytes that are still missing, if actix-http does not know the end of the body.
    remaining: Option<usize>,
    length: Option<usize>,
    received_bytes: usize,
    is_complete: bool,
    /// actix-http has decoded what arrived together with the head.
    is_decoded: bool,
}

impl RequestBody {
    pub fn new(request: &HttpRequest, payload: dev::Payload) -> Self {
        let empty = Self {
            payload,
            remaining: None,
            length: Some(0),
            received_bytes: 0,
            is_complete: true,
            is_decoded: false,
        };
        if matches!(empty.payload, dev::Payload::None) {
            return empty;
        }
        let length = request.headers().get(CONTENT_LENGTH);
        let length = length.and_then(|length| length.to_str().ok()?.trim().parse().ok());
        let remaining = has_no_end(request).then_some(length.unwrap_or(0));
        Self { remaining, length, is_complete: false, ..empty }
    }

    /// Receives the whole body within its size and time limits. The handler has to call this, or `drain`, when it
    /// is polled for the first time.
    ///
    /// # Errors
    /// The rejection of the request.
    pub async fn receive(
        &mut self,
        max_bytes: usize,
        deadline: Instant,
        reservation: &mut BodyReservation<'_>,
    ) -> Result<Vec<u8>, Rejection> {
        let mut body = Vec::new();
        if self.is_large() {
            reservation.mark_large();
        }
        loop {
            let (bytes_before, mut wait_until) = (self.received_bytes, deadline);
            if reservation.is_large() {
                wait_until = wait_until.min(Instant::now() + PROGRESS_PERIOD);
            }
            let is_first_poll = !self.is_decoded;
            let read = self.read_chunks(max_bytes, reservation, &mut body);
            match timeout_after_first_poll(wait_until, is_first_poll, read).await {
                Ok(Ok(true)) => break,
                // The body has become large.
                Ok(Ok(false)) => {}
                Ok(Err(rejection)) => return Err(rejection),
                Err(_) if Instant::now() >= deadline => return Err(Rejection::Timeout),
                Err(_)
                    if reservation.should_make_progress()
                        && self.received_bytes - bytes_before < MIN_PROGRESS_BYTES =>
                {
                    return Err(Rejection::Timeout);
                }
                Err(_) => {}
            }
        }
        reservation.release_shares();
        Ok(body)
    }

    /// Receives the whole body, for which the caller has memory. Returns the status of the response if it is too large or
    /// too late.
    pub async fn receive_small(
        &mut self,
        max_bytes: usize,
        deadline: Instant,
    ) -> Result<Vec<u8>, StatusCode> {
        if self.length.is_some_and(|length| length > max_bytes) {
            return Err(StatusCode::PAYLOAD_TOO_LARGE);
        }
        let read = async {
            let mut body = Vec::new();
            while let Some(chunk) = self.next_chunk(|| Ok(())).await {
                body.extend_from_slice(&chunk.map_err(|_| StatusCode::BAD_REQUEST)?);
                if body.len() > max_bytes {
                    return Err(StatusCode::PAYLOAD_TOO_LARGE);
                }
            }
            Ok(body)
        };
        timeout_at(deadline.into(), read).await.unwrap_or(Err(StatusCode::REQUEST_TIMEOUT))
    }

    /// Whether all of it was received.
    pub fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// Reads to the end of the body, or until it becomes large. Returns whether it is complete.
    async fn read_chunks(
        &mut self,
        max_bytes: usize,
        reservation: &mut BodyReservation<'_>,
        body: &mut Vec<u8>,
    ) -> Result<bool, Rejection> {
        let was_large = reservation.is_large();
        while let Some(chunk) = self.next_chunk(|| reservation.charge_shares()).await {
            let chunk = chunk.map_err(Rejection::from)?;
            if self.received_bytes > max_bytes {
                return Err(Rejection::TooLarge { max: max_bytes });
            }
            reservation
                .grow(chunk.len())
                .map_err(|BudgetFull| Rejection::Unavailable(UnavailableReason::BodyMemory))?;
            body.extend_from_slice(&chunk);
            if reservation.is_large() != was_large {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Reads and discards the rest of a rejected body, so that the response arrives.
    pub async fn drain(&mut self, deadline: Instant) {
        let max_bytes = self.received_bytes + MAX_DRAINED_BYTES;
        let read = async {
            while let Some(Ok(_)) = self.next_chunk(|| Ok(())).await {
                if self.received_bytes > max_bytes {
                    return;
                }
            }
        };
        let _ = timeout_at(deadline.into(), read).await;
    }

    /// Returns the next chunk. Calls `on_wait` if it has not arrived yet; its error ends the body.
    async fn next_chunk(
        &mut self,
        mut on_wait: impl FnMut() -> Result<(), BudgetFull>,
    ) -> Option<Result<Bytes, BodyError>> {
        if self.is_complete || self.remaining == Some(0) {
            return None;
        }
        let chunk = poll_fn(|context| {
            // actix-http polls the handler, decodes what arrived together with the head, and polls the handler a
            // second time. If that woke the connection, a third poll would find nothing to do.
            let mut without_waker = Context::from_waker(Waker::noop());
            let is_decoded = std::mem::replace(&mut self.is_decoded, true);
            let context = if is_decoded { context } else { &mut without_waker };
            let chunk = Pin::new(&mut self.payload).poll_next(context);
            match chunk {
                Poll::Pending if on_wait().is_err() => Poll::Ready(Some(Err(BodyError::NoRoom))),
                chunk => {
                    chunk.map(|chunk| chunk.map(|bytes| bytes.map_err(|_| BodyError::Disconnected)))
                }
            }
        });
        let mut chunk = chunk.await;
        self.is_complete |= chunk.is_none();
        if let Some(Ok(bytes)) = &mut chunk {
            if let Some(remaining) = &mut self.remaining {
                bytes.truncate(*remaining);
                *remaining -= bytes.len();
            }
            self.received_bytes += bytes.len();
        }
        chunk
    }

    /// Bytes of the body received so far.
    pub fn received_bytes(&self) -> usize {
        self.received_bytes
    }

    /// The length in the head. `None`: the body is chunked.
    pub fn length(&self) -> Option<usize> {
        self.length
    }

    /// Whether the head announces a large body.
    fn is_large(&self) -> bool {
        self.length.is_some_and(|length| length >= MIN_LARGE_BYTES)
    }
}

/// Like `timeout_at`, but the first poll of the handler sets no timer: actix-http decodes the body after it, and
/// polls a second time.
async fn timeout_after_first_poll<T>(
    deadline: Instant,
    mut is_first_poll: bool,
    future: impl Future<Output = T>,
) -> Result<T, Elapsed> {
    let mut future = pin!(future);
    let early = poll_fn(|context| match future.as_mut().poll(context) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending if std::mem::take(&mut is_first_poll) => Poll::Pending,
        Poll::Pending => Poll::Ready(None),
    });
    match early.await {
        Some(output) => Ok(output),
        None => timeout_at(deadline.into(), future).await,
    }
}

/// Whether actix-http would read to the end of the connection.
fn has_no_end(request: &HttpRequest) -> bool {
    let headers = request.headers();
    let is_websocket = headers.get_all(UPGRADE).any(|value| {
        value.to_str().is_ok_and(|text| text.trim().eq_ignore_ascii_case("websocket"))
    });
    let is_connect = request.method() == Method::CONNECT && !headers.contains_key(CONTENT_LENGTH);
    (is_websocket || is_connect) && !headers.contains_key(TRANSFER_ENCODING)
}

/// Decides whether the connection closes after the response. It does if part of the request was not
/// read, if the sender asked for another protocol, or if new connections wait for a slot.
pub fn finish_response(
    mut response: HttpResponse,
    request: &HttpRequest,
    connection: &Connection,
    body: &RequestBody,
) -> HttpResponse {
    let is_last = !body.is_complete;
    if is_last || request.head().upgrade() || connection.should_give_up_slot() {
        response.head_mut().set_connection_type(ConnectionType::Close);
    }
    connection.respond(is_last);
    response
}
