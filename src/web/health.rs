//! `/healthz` and `/readyz`, on both listeners. The admin listener has no other paths yet.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use actix_web::http::StatusCode;
use actix_web::http::header::ACCEPT;
use actix_web::{HttpRequest, HttpResponse, dev};

use super::IntakeState;
use super::body::{RequestBody, finish_response};
use super::connection::Connection;
use super::rejection::Rejection;
use crate::metrics::{UnavailableReason, endpoint};

/// The path that says whether the process is alive.
const HEALTHZ: &str = "/healthz";
/// The path that says whether the server would accept a webhook now.
const READYZ: &str = "/readyz";

/// Handles a request of the admin listener.
pub fn handle_admin(
    state: &IntakeState,
    request: &HttpRequest,
    payload: dev::Payload,
) -> HttpResponse {
    let Some(connection) = request.conn_data::<Arc<Connection>>() else {
        return empty_response(500);
    };
    let body = RequestBody::new(request, payload);
    connection.begin(body.length());
    // TO BE REPLACED: the routes and the access control of the admin listener.
    let response = health_response(state, request)
        .or_else(|| metrics_response(state, request))
        .unwrap_or_else(|| Rejection::NotFound.response());
    finish_response(response, request, connection, &body)
}

/// Responds to `/metrics`.
fn metrics_response(state: &IntakeState, request: &HttpRequest) -> Option<HttpResponse> {
    if request.uri().path() != endpoint::PATH {
        return None;
    }
    if !matches!(request.method().as_str(), "GET" | "HEAD") {
        return Some(Rejection::Method { allow: "GET, HEAD".to_owned() }.response());
    }
    let accept = request.headers().get(ACCEPT).and_then(|accept| accept.to_str().ok());
    let (content_type, text) = state.exporter.respond(accept);
    Some(HttpResponse::Ok().content_type(content_type).body(text))
}

/// A response without a body.
pub(super) fn empty_response(status: u16) -> HttpResponse {
    HttpResponse::new(StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR))
}

/// Responds to `/healthz` and `/readyz`.
pub(super) fn health_response(state: &IntakeState, request: &HttpRequest) -> Option<HttpResponse> {
    build_response(request, || {
        if state.is_closing.load(Ordering::Relaxed) {
            Some("shutting down")
        } else {
            state.unavailable_reason().map(|reason| match reason {
                UnavailableReason::DiskLow => "disk low",
                _ => "the database cannot be written",
            })
        }
    })
}

/// Responds to the same paths while the server is starting.
pub(super) fn starting_response(request: &HttpRequest) -> Option<HttpResponse> {
    build_response(request, || Some("starting"))
}

fn build_response(
    request: &HttpRequest,
    unavailable_reason: impl FnOnce() -> Option<&'static str>,
) -> Option<HttpResponse> {
    let (status, text) = match request.uri().path() {
        HEALTHZ => (StatusCode::OK, r#"{"status":"alive"}"#.to_owned()),
        READYZ => match unavailable_reason() {
            None => (StatusCode::OK, r#"{"status":"ready"}"#.to_owned()),
            Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!(r#"{{"error":"{reason}"}}"#)),
        },
        _ => return None,
    };
    if !matches!(request.method().as_str(), "GET" | "HEAD") {
        return Some(Rejection::Method { allow: "GET, HEAD".to_owned() }.response());
    }
    Some(HttpResponse::build(status).content_type("application/json").body(text))
}
