//! The API under `/api/v1`. `openapi` describes it.

use actix_web::http::StatusCode;
use actix_web::http::header::{ALLOW, HeaderValue};
use actix_web::web::{self, JsonConfig, PathConfig, QueryConfig, ServiceConfig};
use actix_web::{
    FromRequest, Handler, HttpRequest, Resource, Responder, ResponseError, Route, guard,
};

use super::problem::Problem;

pub mod actions;
pub mod event;
mod follow;
pub mod lists;
mod openapi;
pub mod output;
pub mod params;
pub mod rows;

/// Adds the routes.
pub fn routes(config: &mut ServiceConfig) {
    config
        .service(get("/api/v1/events", lists::events))
        .service(post("/api/v1/events/replay", actions::replay))
        .service(get("/api/v1/events/{event}", event::event))
        .service(get("/api/v1/events/{event}/body", event::body))
        .service(get("/api/v1/jobs", lists::jobs))
        .service(post("/api/v1/jobs/retry", actions::retry))
        .service(post("/api/v1/jobs/cancel", actions::cancel))
        .service(get("/api/v1/jobs/{job}", event::job))
        .service(get("/api/v1/jobs/{job}/output", output::output))
        .service(get("/api/v1/outcomes", follow::outcomes))
        .service(get("/api/v1/rejections", lists::rejections))
        .service(get("/api/v1/failures", lists::failures))
        .service(get("/api/v1/handlers", lists::handlers))
        .service(post("/api/v1/handlers/{handler}/pause", actions::pause))
        .service(post("/api/v1/handlers/{handler}/resume", actions::resume))
        .service(get("/api/v1/sources", lists::sources))
        .service(get("/api/v1/audit", lists::audit_log))
        .service(get("/api/v1/operations", actions::operations))
        .service(get("/api/v1/operations/{operation}", actions::operation))
        .service(post("/api/v1/operations/{operation}/stop", actions::stop))
        .service(post("/api/v1/sign-in-links", actions::create_sign_in_link))
        .service(get("/api/v1/openapi.json", openapi::serve));
}

/// A path that is read. The response to HEAD is that to GET without the body.
fn get<F, Args>(path: &str, handler: F) -> Resource
where
    F: Handler<Args>,
    Args: FromRequest + 'static,
    F::Output: Responder + 'static,
{
    let is_read = guard::Any(guard::Get()).or(guard::Head());
    resource(path, web::route().guard(is_read).to(handler), "GET, HEAD")
}

/// A path that changes something.
fn post<F, Args>(path: &str, handler: F) -> Resource
where
    F: Handler<Args>,
    Args: FromRequest + 'static,
    F::Output: Responder + 'static,
{
    resource(path, web::post().to(handler), "POST")
}

fn resource(path: &str, route: Route, allow: &'static str) -> Resource {
    let reject = move |request: HttpRequest| async move {
        let detail = format!("{}: expected {allow}", request.method());
        let mut response = Problem::new(StatusCode::METHOD_NOT_ALLOWED, detail).error_response();
        response.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
        response
    };
    web::resource(path).route(route).default_service(web::to(reject))
}

/// How the body of a request is read.
pub fn json_config() -> JsonConfig {
    JsonConfig::default().limit(super::MAX_BODY_BYTES).error_handler(|error, _| {
        use actix_web::error::JsonPayloadError;
        let status = match error {
            JsonPayloadError::ContentType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            JsonPayloadError::Overflow { .. } | JsonPayloadError::OverflowKnownLength { .. } => {
                StatusCode::PAYLOAD_TOO_LARGE
            }
            _ => StatusCode::BAD_REQUEST,
        };
        let detail = match status {
            StatusCode::UNSUPPORTED_MEDIA_TYPE => {
                "expected a body with `Content-Type: application/json`".to_owned()
            }
            _ => Problem::malformed("the body", &error).detail,
        };
        Problem::new(status, detail).into()
    })
}

/// How the parameters of a query are read.
pub fn query_config() -> QueryConfig {
    QueryConfig::default().error_handler(|error, _| Problem::malformed("the query", &error).into())
}

/// How the parameters of a path are read.
pub fn path_config() -> PathConfig {
    PathConfig::default().error_handler(|_, request| {
        Problem::not_found(format!(
            "there is nothing at {}: expected a number up to 9223372036854775807",
            request.path()
        ))
        .into()
    })
}
