//! The body of a request as it comes from the connection, and how its connection goes on.
//!
//! actix-http takes all that follows the head of `Upgrade: websocket` and `CONNECT` for the body, to
//! the end of the connection. Here it ends where `Content-Length` says: a server may ignore `Upgrade`
//! (RFC 9110, section 7.8).

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

use actix_web::http::header::{CONTENT_LENGTH, TRANSFER_ENCODING, UPGRADE};
use actix_web::http::{ConnectionType, Method};
use actix_web::{HttpRequest, HttpResponse, dev, web};
use futures_core::Stream;

use super::body_memory::{Full, LARGE_BYTES_MIN};
use super::connection::Connection;
use super::rejection::Rejection;

/// Why a body breaks off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// The connection ended.
    Gone,
    /// It has to be waited for, and there is no room meanwhile.
    Full,
}

impl From<Broken> for Rejection {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::Gone => Self::Disconnected,
            Broken::Full => Self::Unavailable,
        }
    }
}

/// A body that is being read.
pub struct Body {
    payload: dev::Payload,
    /// What is left of it, where actix-http does not know its end.
    left: Option<usize>,
    length: Option<usize>,
    is_complete: bool,
}

impl Body {
    pub fn new(request: &HttpRequest, payload: web::Payload) -> Self {
        let payload = payload.into_inner();
        if matches!(payload, dev::Payload::None) {
            return Self { payload, left: None, length: Some(0), is_complete: true };
        }
        let length = request.headers().get(CONTENT_LENGTH);
        let length = length.and_then(|length| length.to_str().ok()?.trim().parse().ok());
        let left = has_no_end(request).then_some(length.unwrap_or(0));
        Self { payload, left, length, is_complete: false }
    }

    /// The next part; `wait` is asked when it has to be waited for.
    pub async fn next(
        &mut self,
        mut wait: impl FnMut() -> Result<(), Full>,
    ) -> Option<Result<web::Bytes, Broken>> {
        if self.is_complete || self.left == Some(0) {
            return None;
        }
        let part = poll_fn(|context| {
            let part = Pin::new(&mut self.payload).poll_next(context);
            match part {
                Poll::Pending if wait().is_err() => Poll::Ready(Some(Err(Broken::Full))),
                part => part.map(|part| part.map(|bytes| bytes.map_err(|_| Broken::Gone))),
            }
        });
        match (part.await, &mut self.left) {
            (None, _) => {
                self.is_complete = true;
                None
            }
            (Some(Ok(mut bytes)), Some(left)) => {
                bytes.truncate(*left);
                *left -= bytes.len();
                Some(Ok(bytes))
            }
            (part, _) => part,
        }
    }

    /// What its head says; nothing where it comes in chunks.
    pub fn length(&self) -> Option<usize> {
        self.length
    }

    /// Whether its head says that it will be large.
    pub fn is_large(&self) -> bool {
        self.length.is_some_and(|length| length >= LARGE_BYTES_MIN)
    }
}

/// Whether actix-http goes on to the end of the connection.
fn has_no_end(request: &HttpRequest) -> bool {
    let headers = request.headers();
    let is_websocket = headers.get_all(UPGRADE).any(|value| {
        value.to_str().is_ok_and(|text| text.trim().eq_ignore_ascii_case("websocket"))
    });
    let is_connect = request.method() == Method::CONNECT && !headers.contains_key(CONTENT_LENGTH);
    (is_websocket || is_connect) && !headers.contains_key(TRANSFER_ENCODING)
}

/// The response, and whether its connection ends behind it: where part of the request was not read,
/// where the sender asks for another protocol, and where others wait for a place.
pub fn answered(
    mut response: HttpResponse,
    request: &HttpRequest,
    connection: &Connection,
    body: &Body,
) -> HttpResponse {
    let is_last = !body.is_complete;
    if is_last || request.head().upgrade() || connection.is_wanted() {
        response.head_mut().set_connection_type(ConnectionType::Close);
    }
    connection.respond(is_last);
    response
}
