//! The stream that tells open pages that something has changed. Each page then loads itself again.

use std::sync::Arc;
use std::time::Duration;

use actix_web::http::header::CACHE_CONTROL;
use actix_web::web::{Bytes, Data};
use actix_web::{HttpRequest, HttpResponse, rt};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use crate::admin::Admin;
use crate::admin::access;
use crate::admin::feed::{Batch, MAX_STREAMS};
use crate::admin::problem::Problem;
use crate::admin::stream::{Piece, PieceStream};

/// The least time between two messages.
const INTERVAL: Duration = Duration::from_secs(1);

const HEARTBEAT: Duration = Duration::from_secs(15);

/// The stream: a message with the number of the newest event and outcome, at most once per second.
pub async fn stream(admin: Data<Admin>, request: HttpRequest) -> Result<HttpResponse, Problem> {
    access::client(&request)?;
    let Some(batches) = admin.feed.subscribe() else {
        return Err(Problem::unavailable(format!("{MAX_STREAMS} streams are open: close one")));
    };
    let (sender, receiver) = mpsc::channel(2);
    rt::spawn(send_changes(batches, sender));
    Ok(HttpResponse::Ok()
        .content_type("text/event-stream")
        .insert_header((CACHE_CONTROL, "no-store"))
        .insert_header(("X-Accel-Buffering", "no"))
        .streaming(PieceStream(receiver)))
}

async fn send_changes(mut batches: Receiver<Arc<Batch>>, sender: mpsc::Sender<Piece>) {
    if sender.send(Ok(Bytes::from_static(b"retry: 2000\n:\n\n"))).await.is_err() {
        return;
    }
    loop {
        let text = match timeout_at(Instant::now() + HEARTBEAT, batches.recv()).await {
            Ok(Ok(batch)) => {
                let mut newest = batch;
                // What comes within the interval is one message.
                let end = Instant::now() + INTERVAL;
                while let Ok(received) = timeout_at(end, batches.recv()).await {
                    match received {
                        Ok(batch) => newest = batch,
                        Err(RecvError::Lagged(_)) => {}
                        Err(RecvError::Closed) => break,
                    }
                }
                format!(
                    "data: {{\"event\":{},\"outcome\":{}}}\n\n",
                    newest.newest_event, newest.last
                )
            }
            // Only the newest batch counts.
            Ok(Err(RecvError::Lagged(_))) => continue,
            Ok(Err(RecvError::Closed)) => return,
            Err(_) => ":\n\n".to_owned(),
        };
        // A client that does not read loses the stream.
        if sender.send_timeout(Ok(Bytes::from(text)), HEARTBEAT).await.is_err() {
            return;
        }
    }
}
