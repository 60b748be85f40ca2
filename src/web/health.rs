//! `/healthz` and `/readyz`, on both listeners; the admin listener answers nothing else so far.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};

use super::IntakeState;
use super::body::{Body, answered};
use super::connection::Connection;
use super::rejection::Rejection;

/// The path that says whether the process is alive.
const HEALTHZ: &str = "/healthz";
/// The path that says whether a webhook would be accepted now.
const READYZ: &str = "/readyz";

/// The admin listener.
pub async fn admin(request: HttpRequest, payload: web::Payload) -> HttpResponse {
    let parts = (request.app_data::<Arc<IntakeState>>(), request.conn_data::<Arc<Connection>>());
    let (Some(gate), Some(connection)) = parts else { return plain(500) };
    let body = Body::new(&request, payload);
    connection.begin(body.length());
    let response = health(gate, &request).unwrap_or_else(|| Rejection::NotFound.response());
    answered(response, &request, connection, &body)
}

/// An answer without a body.
pub(super) fn plain(status: u16) -> HttpResponse {
    HttpResponse::new(StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR))
}

/// `/healthz` and `/readyz`.
pub(super) fn health(gate: &IntakeState, request: &HttpRequest) -> Option<HttpResponse> {
    respond(request, || {
        if gate.closing.load(Ordering::Relaxed) {
            Some("shutting down")
        } else {
            gate.unavailable_reason()
        }
    })
}

/// The same while the server cannot start yet.
pub(super) fn starting(request: &HttpRequest) -> Option<HttpResponse> {
    respond(request, || Some("starting"))
}

fn respond(
    request: &HttpRequest,
    obstacle: impl FnOnce() -> Option<&'static str>,
) -> Option<HttpResponse> {
    let (status, text) = match request.uri().path() {
        HEALTHZ => (StatusCode::OK, r#"{"status":"alive"}"#.to_owned()),
        READYZ => match obstacle() {
            None => (StatusCode::OK, r#"{"status":"ready"}"#.to_owned()),
            Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!(r#"{{"error":"{why}"}}"#)),
        },
        _ => return None,
    };
    if !matches!(request.method().as_str(), "GET" | "HEAD") {
        return Some(Rejection::Method { allow: "GET, HEAD".to_owned() }.response());
    }
    Some(HttpResponse::build(status).content_type("application/json").body(text))
}
