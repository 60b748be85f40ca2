//! The stream that tells open pages that something has changed. Each page then loads itself again.

use std::sync::Arc;
use std::time::Duration;

use actix_web::http::header::CACHE_CONTROL;
use actix_web::web::{Bytes, Data};
use actix_web::{HttpRequest, HttpResponse, rt};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::admin::Admin;
use crate::admin::access;
use crate::admin::feed::{Batch, MAX_STREAMS};
use crate::admin::problem::Problem;
use crate::admin::stream::{Piece, PieceStream};

const HEARTBEAT: Duration = Duration::from_secs(5);

/// Sends the number of the last change, and then of each that the feed announces, at most once per second.
pub async fn stream(admin: Data<Admin>, request: HttpRequest) -> Result<HttpResponse, Problem> {
    access::client(&request)?;
    let Some(batches) = admin.feed.subscribe() else {
        return Err(Problem::unavailable(format!("{MAX_STREAMS} streams are open: close one")));
    };
    let last = admin.feed.last_change();
    let (sender, receiver) = mpsc::channel(2);
    rt::spawn(send_changes(batches, last, sender));
    Ok(HttpResponse::Ok()
        .content_type("text/event-stream")
        .insert_header((CACHE_CONTROL, "no-store"))
        .insert_header(("X-Accel-Buffering", "no"))
        .streaming(PieceStream(receiver)))
}

async fn send_changes(
    mut batches: Receiver<Arc<Batch>>,
    mut last: u64,
    sender: mpsc::Sender<Piece>,
) {
    let start = format!("retry: 2000\ndata: {last}\n\n");
    if sender.send(Ok(Bytes::from(start))).await.is_err() {
        return;
    }
    loop {
        let text = match timeout(HEARTBEAT, batches.recv()).await {
            Ok(Ok(batch)) if batch.change == last => continue,
            Ok(Ok(batch)) => {
                last = batch.change;
                format!("data: {last}\n\n")
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
