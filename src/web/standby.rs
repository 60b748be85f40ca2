//! Responds while the server cannot start yet, on the same sockets: 503 to senders, and `/healthz`
//! and `/readyz`.
//!
//! The sockets are duplicates. When the standby server stops, new connections wait in their queue
//! for the server itself.

use std::sync::Arc;
use std::time::Duration;

use actix_service::fn_service;
use actix_web::dev::{Payload, ServiceRequest, ServiceResponse};
use actix_web::{App, HttpRequest, HttpResponse};

use super::body::{RequestBody, finish_response};
use super::connection::Connection;
use super::connections::TimeLimits;
use super::rejection::Rejection;
use super::server::ServerSettings;
use super::transport::TransportSettings;
use super::{BoundListener, HttpServer, STOP_LIMIT, Sockets, TlsSlot, health};
use crate::metrics::UnavailableReason;

/// Maximum number of connections. More wait in the queue of the socket.
const MAX_CONNECTIONS: usize = 1024;

/// Responds until it is stopped.
pub struct Standby(Arc<HttpServer>);

impl Standby {
    /// Starts the standby server.
    ///
    /// # Errors
    /// A socket cannot be duplicated, or a thread cannot be created.
    pub fn start(sockets: &Sockets, limits: TimeLimits, tls: Arc<TlsSlot>) -> anyhow::Result<Self> {
        let settings = ServerSettings {
            name: "standby",
            threads: 1,
            max_connections: MAX_CONNECTIONS,
            open_count: Arc::default(),
            transport: TransportSettings {
                tls: Some(tls),
                // The response is the same for all.
                is_trusted_proxy: Box::new(|_| true),
                unread_timeout: None,
            },
        };
        let make_app = move || {
            App::new().default_service(fn_service(move |request: ServiceRequest| async move {
                let (request, payload) = request.into_parts();
                let response = respond(&request, payload, limits.request_timeout).await;
                Ok(ServiceResponse::new(request, response))
            }))
        };
        let server = Arc::new(HttpServer::start(settings, move || limits, make_app)?);
        let all = sockets.intake.iter().chain(&sockets.admin).map(BoundListener::try_clone);
        server.set_listeners(all.collect::<std::io::Result<_>>()?);
        Ok(Self(server))
    }

    /// Responds to the requests in flight and closes its duplicates of the sockets.
    pub fn stop(self) {
        // The server itself has the sockets next.
        self.0.stop(STOP_LIMIT, true);
    }
}

/// Responds when the request is complete, so that the sender reads the response.
async fn respond(request: &HttpRequest, payload: Payload, timeout: Duration) -> HttpResponse {
    let Some(connection) = request.conn_data::<Arc<Connection>>() else {
        return health::empty_response(500);
    };
    let mut body = RequestBody::new(request, payload);
    let deadline = connection.begin(body.length()) + timeout;
    let response = health::starting_response(request).unwrap_or_else(|| {
        let rejection = Rejection::Unavailable(UnavailableReason::Database);
        rejection.response()
    });
    body.drain(deadline).await;
    finish_response(response, request, connection, &body)
}
