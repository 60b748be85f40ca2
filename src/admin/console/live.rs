//! The stream that tells open pages that something has changed. Each page then loads itself again.

use std::sync::Arc;

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
use crate::admin::stream::{COMMENT, HEARTBEAT, Piece, PieceStream, event_stream};

/// Sends the number of the last change, and then of each that the feed announces, at most once per second.
pub async fn stream(admin: Data<Admin>, request: HttpRequest) -> Result<HttpResponse, Problem> {
    access::client(&request)?;
    let Some(batches) = admin.feed.subscribe() else {
        return Err(Problem::unavailable(format!("{MAX_STREAMS} streams are open: close one")));
    };
    let last = admin.feed.last_change();
    let (sender, receiver) = mpsc::channel(2);
    rt::spawn(send_changes(batches, last, sender));
    Ok(event_stream().streaming(PieceStream(receiver)))
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
            Err(_) => COMMENT.to_owned(),
        };
        // A client that does not read loses the stream.
        if sender.send_timeout(Ok(Bytes::from(text)), HEARTBEAT).await.is_err() {
            return;
        }
    }
}
