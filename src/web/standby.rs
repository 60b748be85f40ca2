//! Responds while the server cannot start yet, on the same sockets: 503 to senders, and `/healthz`
//! and `/readyz`.
//!
//! The sockets are duplicates. When the standby server stops, new connections wait in their queue
//! for the server itself.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use actix_web::dev::ServerHandle;
use actix_web::http::KeepAlive;
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use anyhow::Context;
use futures_core::Stream;

use super::rejection::Rejection;
use super::{BoundSocket, Sockets, health};
use crate::metrics::UnavailableReason;

/// Maximum number of connections. More wait in the queue of the socket.
const MAX_CONNECTIONS: usize = 1024;

/// Maximum size of a body that is read and discarded, so that the response arrives.
const MAX_DISCARDED_BYTES: usize = 8 << 20;

/// Responds until it is stopped.
pub struct Standby {
    handle: ServerHandle,
    thread: JoinHandle<()>,
}

impl Standby {
    /// Starts the standby server.
    ///
    /// # Errors
    /// A socket cannot be duplicated, or the thread cannot be created.
    pub fn start(sockets: &Sockets, timeout: Duration) -> anyhow::Result<Self> {
        let all_sockets = sockets.intake.iter().chain(&sockets.admin);
        let sockets: Vec<BoundSocket> =
            all_sockets.map(BoundSocket::try_clone).collect::<std::io::Result<_>>()?;
        let (started, start) = mpsc::sync_channel(1);
        let run = move || {
            let server = HttpServer::new(move || {
                App::new().app_data(timeout).default_service(web::to(respond))
            })
            .workers(1)
            .max_connections(MAX_CONNECTIONS)
            .client_request_timeout(timeout)
            .keep_alive(KeepAlive::Disabled)
            .shutdown_timeout(1)
            .disable_signals();
            let server = sockets.into_iter().try_fold(server, |server, socket| match socket {
                BoundSocket::Tcp(tcp) => server.listen(tcp),
                BoundSocket::Unix(unix) => server.listen_uds(unix),
            });
            let server = match server {
                Ok(server) => server,
                Err(e) => return drop(started.send(Err(e))),
            };
            let ended = actix_web::rt::System::new().block_on(async move {
                let running = server.run();
                let _ = started.send(Ok(running.handle()));
                running.await
            });
            if let Err(e) = ended {
                log::error!("standby: {e}");
            }
        };
        let thread = std::thread::Builder::new().name("standby".into()).spawn(run)?;
        let handle = start.recv().context("the listener stopped while it was starting")??;
        Ok(Self { handle, thread })
    }

    /// Responds to the requests in flight and closes the sockets.
    pub fn stop(self) {
        drop(self.handle.stop(true));
        let _ = self.thread.join();
    }
}

async fn respond(request: HttpRequest, payload: web::Payload) -> HttpResponse {
    if let Some(response) = health::starting_response(&request) {
        return response;
    }
    let timeout = request.app_data::<Duration>().copied().unwrap_or_default();
    let _ = tokio::time::timeout(timeout, discard(payload)).await;
    Rejection::Unavailable(UnavailableReason::Database).response()
}

async fn discard(payload: web::Payload) {
    let (mut payload, mut bytes) = (payload.into_inner(), 0);
    while let Some(Ok(chunk)) = poll_fn(|context| Pin::new(&mut payload).poll_next(context)).await {
        bytes += chunk.len();
        if bytes > MAX_DISCARDED_BYTES {
            return;
        }
    }
}
