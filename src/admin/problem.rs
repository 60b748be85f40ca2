//! Errors of the API, as problem details (RFC 9457).

use std::fmt;

use actix_web::http::StatusCode;
use actix_web::http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use actix_web::{HttpResponse, ResponseError};
use serde::Serialize;
use utoipa::ToSchema;

/// The media type of RFC 9457.
pub const PROBLEM_JSON: &str = "application/problem+json";

/// A problem (RFC 9457): why a request was not answered.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Problem {
    /// The HTTP status code.
    pub status: u16,
    /// The name of the HTTP status code.
    pub title: String,
    /// What was found, what is allowed, and what to do.
    pub detail: String,
    /// Details about each item, where the request names several.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<String>,
    /// In seconds.
    #[serde(skip)]
    pub retry_after: Option<u64>,
}

impl Problem {
    /// Makes a problem with an HTTP status code.
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self {
            status: status.as_u16(),
            title: status.canonical_reason().unwrap_or("Error").to_owned(),
            detail: detail.into(),
            errors: Vec::new(),
            retry_after: None,
        }
    }

    /// The request has an error.
    pub fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    /// A part of the request can't be read. The parser's own name for its step is left out.
    pub fn malformed(part: &str, error: &impl fmt::Display) -> Self {
        let text = error.to_string();
        let steps = ["Query deserialize error: ", "Json deserialize error: ", "Parse error: "];
        let reason = steps.iter().find_map(|step| text.strip_prefix(step)).unwrap_or(&text);
        Self::bad_request(format!("{part}: {reason}"))
    }

    /// What the request names does not exist.
    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, detail)
    }

    /// The credentials do not allow the request.
    pub fn forbidden(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, detail)
    }

    /// The server has a mistake. The log says which.
    pub fn internal(error: anyhow::Error) -> Self {
        log::error!("internal error of the admin listener: {error:#}");
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "the server has an internal error: see its log",
        )
    }

    /// The server can't answer now.
    pub fn unavailable(detail: impl Into<String>) -> Self {
        let problem = Self::new(StatusCode::SERVICE_UNAVAILABLE, detail);
        Self { retry_after: Some(1), ..problem }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

impl ResponseError for Problem {
    fn status_code(&self) -> StatusCode {
        StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    fn error_response(&self) -> HttpResponse {
        let mut response = HttpResponse::build(self.status_code());
        response.insert_header((CONTENT_TYPE, PROBLEM_JSON));
        if self.status_code() == StatusCode::UNAUTHORIZED {
            response.insert_header((WWW_AUTHENTICATE, "Bearer realm=\"hooktrail\""));
        }
        if let Some(seconds) = self.retry_after {
            response.insert_header((RETRY_AFTER, seconds));
        }
        response.body(serde_json::to_string(self).unwrap_or_default())
    }
}
