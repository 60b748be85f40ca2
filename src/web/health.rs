//! `/healthz` and `/readyz`, on both listeners.

use std::sync::atomic::Ordering;

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse};

use super::IntakeState;
use super::rejection::Rejection;
use crate::metrics::UnavailableReason;

/// The path that says whether the process is alive.
const HEALTHZ: &str = "/healthz";
/// The path that says whether the server would accept a webhook now.
const READYZ: &str = "/readyz";

/// A response without a body.
pub(super) fn empty_response(status: u16) -> HttpResponse {
    HttpResponse::new(StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR))
}

/// Responds to `/healthz` and `/readyz`.
pub fn health_response(state: &IntakeState, request: &HttpRequest) -> Option<HttpResponse> {
    build_response(request, || {
        if state.is_closing.load(Ordering::Relaxed) {
            Some("shutting down")
        } else {
            state.unavailable_reason().map(UnavailableReason::text)
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
