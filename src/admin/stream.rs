//! The body of a response that a task sends piece by piece.

use std::pin::Pin;
use std::task::{Context, Poll};

use actix_web::web::Bytes;
use futures_core::Stream;
use tokio::sync::mpsc;

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
