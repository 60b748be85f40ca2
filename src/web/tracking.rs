//! Tells the stream of a connection how far a request is, for apps that are made of actix-web's own parts.
//!
//! It receives the body of a request before the handler runs, within its size and its time, so that a handler never
//! waits for a peer.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::{Payload, ServiceRequest, ServiceResponse};
use actix_web::http::{ConnectionType, StatusCode};
use actix_web::middleware::Next;
use actix_web::web::Bytes;
use actix_web::{Error, HttpMessage, HttpResponse};

use super::body::RequestBody;
use super::connection::Connection;
use super::connections::TimeLimits;

/// Receives the body, and lets the handler respond. A body that is too large or too late gets the response that `reject`
/// makes.
pub async fn track<B: MessageBody + 'static>(
    mut request: ServiceRequest,
    next: Next<B>,
    max_body_bytes: usize,
    limits: TimeLimits,
    reject: impl Fn(StatusCode) -> HttpResponse,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let Some(connection) = request.request().conn_data::<Arc<Connection>>().cloned() else {
        return Ok(next.call(request).await?.map_into_boxed_body());
    };
    let payload = request.take_payload();
    let mut body = RequestBody::new(request.request(), payload);
    let deadline = connection.begin(body.length()) + limits.request_timeout;
    let received = body.receive_small(max_body_bytes, deadline).await;
    let response = match received {
        Ok(bytes) => {
            connection.end_body();
            request.set_payload(Payload::from(Bytes::from(bytes)));
            next.call(request).await?.map_into_boxed_body()
        }
        Err(status) => request.into_response(reject(status)),
    };
    Ok(end(response, &connection, &body))
}

/// Marks the response as ready, or as one that is sent piece by piece.
fn end(
    mut response: ServiceResponse<BoxBody>,
    connection: &Arc<Connection>,
    body: &RequestBody,
) -> ServiceResponse<BoxBody> {
    let is_last = !body.is_complete();
    if is_last || response.request().head().upgrade() || connection.should_give_up_slot() {
        response.response_mut().head_mut().set_connection_type(ConnectionType::Close);
    }
    let connection = Arc::clone(connection);
    response.map_body(move |_, body| match body.try_into_bytes() {
        Ok(bytes) => {
            connection.respond(is_last);
            BoxBody::new(bytes)
        }
        Err(stream) => BoxBody::new(PiecewiseBody { stream, connection, is_last }),
    })
}

/// A body that is sent piece by piece. Until its last piece, no time limit holds.
struct PiecewiseBody {
    stream: BoxBody,
    connection: Arc<Connection>,
    is_last: bool,
}

impl MessageBody for PiecewiseBody {
    type Error = Box<dyn std::error::Error>;

    fn size(&self) -> BodySize {
        self.stream.size()
    }

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Self::Error>>> {
        let piece = ready!(Pin::new(&mut self.stream).poll_next(context));
        if piece.is_none() {
            self.connection.respond(self.is_last);
        }
        Poll::Ready(piece)
    }
}
