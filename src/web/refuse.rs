//! What a sender is told when a request is not accepted, in one map; and what the trail is told,
//! which is the exact reason.

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use actix_web::http::header::{ALLOW, RETRY_AFTER, WWW_AUTHENTICATE};

/// After a 503, and a full queue: soon enough for a sender that waits minutes, long enough for one
/// that would try at once.
const RETRY_AFTER_SECS: u64 = 5;

/// Why a request was not accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    Path,
    Method {
        allow: String,
    },
    Address,
    TooLarge {
        max: usize,
    },
    Encoding,
    Signature {
        reason: String,
        challenge: Option<&'static str>,
    },
    Type,
    Form {
        reason: String,
    },
    Late,
    /// In seconds.
    Rate {
        retry_after: u64,
    },
    QueuedMax,
    /// Not the sender's doing; no row.
    Unavailable,
    /// The connection broke off within the body; nobody reads the answer.
    Gone,
}

impl Refusal {
    /// Status, and what the sender is told.
    fn told(&self) -> (u16, &'static str) {
        match self {
            Self::Path => (404, "no source at this path"),
            Self::Method { .. } => (405, "method not allowed"),
            Self::Address => (403, "not allowed from this address"),
            Self::TooLarge { .. } => (413, "body too large"),
            Self::Encoding => (415, "content encoding not supported"),
            Self::Signature { .. } => (401, "not authenticated"),
            Self::Type => (415, "content type not accepted"),
            Self::Form { .. } => (400, "body does not parse"),
            Self::Late => (408, "request took too long"),
            Self::Rate { .. } => (429, "too many requests"),
            Self::QueuedMax => (429, "queue is full"),
            Self::Unavailable => (503, "try again later"),
            Self::Gone => (400, "request ended early"),
        }
    }

    pub fn status(&self) -> u16 {
        self.told().0
    }

    /// Whether it leaves a row.
    pub fn recorded(&self) -> bool {
        !matches!(self, Self::Unavailable | Self::Gone)
    }

    /// For the trail.
    pub fn reason(&self) -> String {
        match self {
            Self::Signature { reason, .. } | Self::Form { reason } => reason.clone(),
            Self::TooLarge { max } => format!("body over {max} bytes"),
            Self::Rate { .. } => "beyond accept_rate".to_owned(),
            Self::QueuedMax => "beyond queued_max".to_owned(),
            Self::Address => "not in allow_from".to_owned(),
            other => other.told().1.to_owned(),
        }
    }

    /// For the sender.
    pub fn response(&self) -> HttpResponse {
        let (status, text) = self.told();
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST);
        let mut response = HttpResponse::build(status);
        match self {
            Self::Method { allow } => {
                response.insert_header((ALLOW, allow.as_str()));
            }
            Self::Signature { challenge: Some(challenge), .. } => {
                response.insert_header((WWW_AUTHENTICATE, *challenge));
            }
            Self::Rate { retry_after } => {
                response.insert_header((RETRY_AFTER, *retry_after));
            }
            Self::QueuedMax | Self::Unavailable => {
                response.insert_header((RETRY_AFTER, RETRY_AFTER_SECS));
            }
            _ => {}
        }
        response.content_type("application/json").body(format!(r#"{{"error":"{text}"}}"#))
    }
}
