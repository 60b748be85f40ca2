//! Reads the body of a request, and decides whether its connection stays open.
//!
//! After the head of `Upgrade: websocket` or `CONNECT`, actix-http takes everything up to the end
//! of the connection as the body. Here the body ends after `Content-Length` bytes: a server may
//! ignore `Upgrade` (RFC 9110, section 7.8).

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use actix_web::http::header::{CONTENT_LENGTH, TRANSFER_ENCODING, UPGRADE};
use actix_web::http::{ConnectionType, Method};
use actix_web::{HttpRequest, HttpResponse, dev, web::Bytes};
use futures_core::Stream;

use super::body_memory::{BudgetFull, MIN_LARGE_BYTES};
use super::connection::Connection;
use super::rejection::Rejection;

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
            BodyError::NoRoom => Self::Unavailable,
        }
    }
}

/// The body of a request that is being received.
pub struct RequestBody {
    payload: dev::Payload,
    /// Bytes that are still missing, if actix-http does not know the end of the body.
    remaining: Option<usize>,
    length: Option<usize>,
    is_complete: bool,
    /// actix-http has decoded what arrived together with the head.
    is_decoded: bool,
}

impl RequestBody {
    pub fn new(request: &HttpRequest, payload: dev::Payload) -> Self {
        if matches!(payload, dev::Payload::None) {
            return Self {
                payload,
                remaining: None,
                length: Some(0),
                is_complete: true,
                is_decoded: true,
            };
        }
        let length = request.headers().get(CONTENT_LENGTH);
        let length = length.and_then(|length| length.to_str().ok()?.trim().parse().ok());
        let remaining = has_no_end(request).then_some(length.unwrap_or(0));
        Self { payload, remaining, length, is_complete: false, is_decoded: false }
    }

    /// Returns the next chunk. The handler has to call this when it is polled for the first time. Calls `on_wait` if the chunk has not arrived yet; its error ends the
    /// body.
    pub async fn next_chunk(
        &mut self,
        mut on_wait: impl FnMut() -> Result<(), BudgetFull>,
    ) -> Option<Result<Bytes, BodyError>> {
        if self.is_complete || self.remaining == Some(0) {
            return None;
        }
        let chunk = poll_fn(|context| {
            // actix-http polls the handler, decodes what arrived together with the head, and polls the handler
            // again. A waker would only make it poll the connection once more, without any work.
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
        match (chunk.await, &mut self.remaining) {
            (None, _) => {
                self.is_complete = true;
                None
            }
            (Some(Ok(mut bytes)), Some(remaining)) => {
                bytes.truncate(*remaining);
                *remaining -= bytes.len();
                Some(Ok(bytes))
            }
            (chunk, _) => chunk,
        }
    }

    /// Whether the handler has been polled since actix-http decoded what arrived together with the head.
    pub fn is_decoded(&self) -> bool {
        self.is_decoded
    }

    /// The length in the head. `None`: the body is chunked.
    pub fn length(&self) -> Option<usize> {
        self.length
    }

    /// Whether the head announces a large body.
    pub fn is_large(&self) -> bool {
        self.length.is_some_and(|length| length >= MIN_LARGE_BYTES)
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
