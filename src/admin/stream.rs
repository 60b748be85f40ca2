//! The body of a response that a task sends piece by piece.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use actix_web::http::header::CACHE_CONTROL;
use actix_web::web::Bytes;
use actix_web::{HttpResponse, HttpResponseBuilder};
use futures_core::Stream;
use tokio::sync::mpsc;

/// How often a stream of events without news sends a comment, so that proxies keep it open and a client that is gone is
/// noticed.
pub const HEARTBEAT: Duration = Duration::from_secs(5);

/// An empty comment in a stream of events.
pub const COMMENT: &str = ":\n\n";

/// Begins a response with server-sent events (<https://html.spec.whatwg.org/multipage/server-sent-events.html>).
pub fn event_stream() -> HttpResponseBuilder {
    let mut response = HttpResponse::Ok();
    response
        .content_type("text/event-stream")
        .insert_header((CACHE_CONTROL, "no-store"))
        // nginx would collect the events otherwise.
        .insert_header(("X-Accel-Buffering", "no"));
    response
}

/// A piece of the body. An error closes the connection, so that the client knows that it lacks the rest.
pub type Piece = Result<Bytes, actix_web::Error>;

/// The stream of the pieces that a task sends. It ends when the task drops its sender.
#[derive(Debug)]
pub struct PieceStream(pub mpsc::Receiver<Piece>);

impl Stream for PieceStream {
    type Item = Piece;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Piece>> {
        self.0.poll_recv(context)
    }
}
