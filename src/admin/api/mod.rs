//! The API under `/api/v1`. `openapi` describes it.

use actix_web::web::{self, JsonConfig, PathConfig, QueryConfig, ServiceConfig};

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
        .route("/api/v1/events", web::get().to(lists::events))
        .route("/api/v1/events/replay", web::post().to(actions::replay))
        .route("/api/v1/events/{event}", web::get().to(event::event))
        .route("/api/v1/events/{event}/body", web::get().to(event::body))
        .route("/api/v1/jobs", web::get().to(lists::jobs))
        .route("/api/v1/jobs/retry", web::post().to(actions::retry))
        .route("/api/v1/jobs/cancel", web::post().to(actions::cancel))
        .route("/api/v1/jobs/{job}", web::get().to(event::job))
        .route("/api/v1/jobs/{job}/output", web::get().to(output::output))
        .route("/api/v1/outcomes", web::get().to(follow::outcomes))
        .route("/api/v1/rejections", web::get().to(lists::rejections))
        .route("/api/v1/failures", web::get().to(lists::failures))
        .route("/api/v1/handlers", web::get().to(lists::handlers))
        .route("/api/v1/handlers/{handler}/pause", web::post().to(actions::pause))
        .route("/api/v1/handlers/{handler}/resume", web::post().to(actions::resume))
        .route("/api/v1/sources", web::get().to(lists::sources))
        .route("/api/v1/audit", web::get().to(lists::audit_log))
        .route("/api/v1/operations", web::get().to(actions::operations))
        .route("/api/v1/operations/{operation}", web::get().to(actions::operation))
        .route("/api/v1/operations/{operation}/stop", web::post().to(actions::stop))
        .route("/api/v1/sign-in-links", web::post().to(actions::create_sign_in_link))
        .route("/api/v1/openapi.json", web::get().to(openapi::serve));
}

/// How the body of a request is read.
pub fn json_config() -> JsonConfig {
    JsonConfig::default().limit(super::MAX_BODY_BYTES).error_handler(|error, _| {
        use actix_web::error::JsonPayloadError;
        use actix_web::http::StatusCode;
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
            _ => format!("the body: {error}"),
        };
        Problem::new(status, detail).into()
    })
}

/// How the parameters of a query are read.
pub fn query_config() -> QueryConfig {
    QueryConfig::default()
        .error_handler(|error, _| Problem::bad_request(format!("the query: {error}")).into())
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
