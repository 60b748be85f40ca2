//! Rejections: the response that the sender gets, in one table, and the exact reason for the
//! record.

use std::fmt::Display;

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use actix_web::http::header::{ALLOW, RETRY_AFTER, WWW_AUTHENTICATE};

use crate::metrics::{RejectionReason, UnavailableReason};
use crate::verify::Verifier;

/// `Retry-After` of a 503 and of a full queue. Most senders wait for minutes anyway. For one that
/// would retry at once, this is long enough.
const RETRY_AFTER_SECS: u64 = 5;

/// Why a request was not accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rejection {
    NotFound,
    Method {
        allow: String,
    },
    Address,
    TooLarge {
        max: usize,
    },
    /// Of a message. That of a request gets a response before it is one.
    HeadTooLarge {
        max: usize,
    },
    Encoding,
    Signature {
        reason: String,
        www_authenticate: Option<&'static str>,
    },
    UnsupportedMediaType,
    MalformedBody {
        reason: String,
    },
    Timeout,
    /// In seconds.
    Rate {
        retry_after: u64,
    },
    QueueFull,
    /// The server cannot accept any event now. Not recorded.
    Unavailable(UnavailableReason),
    /// The client disconnected before the end of the body, so it does not read the response.
    Disconnected,
}

impl Rejection {
    /// Makes the rejection of a request whose signature is missing or invalid.
    pub(super) fn signature(verifier: &Verifier, reason: impl Display) -> Self {
        Self::Signature {
            reason: reason.to_string(),
            www_authenticate: verifier.www_authenticate(),
        }
    }

    /// Returns the status and the text of the response.
    fn status_and_message(&self) -> (u16, &'static str) {
        match self {
            Self::NotFound => (404, "no source at this path"),
            Self::Method { .. } => (405, "method not allowed"),
            Self::Address => (403, "not allowed from this address"),
            Self::TooLarge { .. } => (413, "body too large"),
            Self::HeadTooLarge { .. } => (431, "headers too large"),
            Self::Encoding => (415, "content encoding not supported"),
            Self::Signature { .. } => (401, "not authenticated"),
            Self::UnsupportedMediaType => (415, "content type not accepted"),
            Self::MalformedBody { .. } => (400, "body does not parse"),
            Self::Timeout => (408, "request took too long"),
            Self::Rate { .. } => (429, "too many requests"),
            Self::QueueFull => (429, "queue is full"),
            Self::Unavailable(_) => (503, "try again later"),
            Self::Disconnected => (400, "request ended early"),
        }
    }

    /// Returns the HTTP status of the response.
    pub fn status(&self) -> u16 {
        self.status_and_message().0
    }

    /// Whether the rejection is recorded.
    pub fn is_recorded(&self) -> bool {
        !matches!(self, Self::Unavailable(_) | Self::Disconnected)
    }

    /// Returns the exact reason, for the record.
    pub fn reason(&self) -> String {
        match self {
            Self::Signature { reason, .. } | Self::MalformedBody { reason } => reason.clone(),
            Self::TooLarge { max } => format!("body over {max} bytes"),
            Self::HeadTooLarge { max } => format!("headers over {max} bytes"),
            Self::Rate { .. } => "beyond rate_limit".to_owned(),
            Self::QueueFull => "beyond max_queued".to_owned(),
            Self::Address => "not in allow_from".to_owned(),
            other => other.status_and_message().1.to_owned(),
        }
    }

    /// Returns the reason by which the rejection is counted.
    ///
    /// # Errors
    /// The response is a 503, which is counted by this reason.
    pub(super) fn metric_reason(&self) -> Result<RejectionReason, UnavailableReason> {
        Ok(match self {
            Self::NotFound => RejectionReason::NotFound,
            Self::Method { .. } => RejectionReason::Method,
            Self::Address => RejectionReason::Address,
            Self::TooLarge { .. } => RejectionReason::TooLarge,
            Self::HeadTooLarge { .. } => RejectionReason::HeadTooLarge,
            Self::Encoding => RejectionReason::Encoding,
            Self::Signature { .. } => RejectionReason::Signature,
            Self::UnsupportedMediaType => RejectionReason::ContentType,
            Self::MalformedBody { .. } => RejectionReason::MalformedBody,
            Self::Timeout => RejectionReason::Timeout,
            Self::Rate { .. } => RejectionReason::RateLimit,
            Self::QueueFull => RejectionReason::QueueFull,
            Self::Unavailable(reason) => return Err(*reason),
            Self::Disconnected => RejectionReason::Disconnected,
        })
    }

    /// Returns the response to the sender.
    pub fn response(&self) -> HttpResponse {
        let (status, text) = self.status_and_message();
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST);
        let mut response = HttpResponse::build(status);
        match self {
            Self::Method { allow } => {
                response.insert_header((ALLOW, allow.as_str()));
            }
            Self::Signature { www_authenticate: Some(challenge), .. } => {
                response.insert_header((WWW_AUTHENTICATE, *challenge));
            }
            Self::Rate { retry_after } => {
                response.insert_header((RETRY_AFTER, *retry_after));
            }
            Self::QueueFull | Self::Unavailable(_) => {
                response.insert_header((RETRY_AFTER, RETRY_AFTER_SECS));
            }
            _ => {}
        }
        response.content_type("application/json").body(format!(r#"{{"error":"{text}"}}"#))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each rejection with its status, whether it is recorded, and its header.
    #[test]
    fn each_rejection_has_its_status_its_record_and_its_headers() {
        let signature = |reason: &str| Rejection::Signature {
            reason: reason.to_owned(),
            www_authenticate: Some("Bearer"),
        };
        let form = Rejection::MalformedBody { reason: "body is not JSON".to_owned() };
        let method = Rejection::Method { allow: "POST, PUT".to_owned() };
        for (rejection, status, is_recorded, header) in [
            (Rejection::NotFound, 404, true, None),
            (method, 405, true, Some((ALLOW, "POST, PUT"))),
            (Rejection::Address, 403, true, None),
            (Rejection::TooLarge { max: 5 }, 413, true, None),
            (Rejection::Encoding, 415, true, None),
            (signature("no x header"), 401, true, Some((WWW_AUTHENTICATE, "Bearer"))),
            (Rejection::UnsupportedMediaType, 415, true, None),
            (form, 400, true, None),
            (Rejection::Timeout, 408, true, None),
            (Rejection::Rate { retry_after: 7 }, 429, true, Some((RETRY_AFTER, "7"))),
            (Rejection::QueueFull, 429, true, Some((RETRY_AFTER, "5"))),
            (
                Rejection::Unavailable(UnavailableReason::Database),
                503,
                false,
                Some((RETRY_AFTER, "5")),
            ),
            (Rejection::Disconnected, 400, false, None),
        ] {
            let response = rejection.response();
            assert_eq!(response.status().as_u16(), status, "{rejection:?}");
            assert_eq!(rejection.is_recorded(), is_recorded, "{rejection:?}");
            for name in [ALLOW, WWW_AUTHENTICATE, RETRY_AFTER] {
                let expected = header
                    .as_ref()
                    .filter(|(expected, _)| *expected == name)
                    .map(|(_, value)| *value);
                let value = response.headers().get(&name).and_then(|value| value.to_str().ok());
                assert_eq!(value, expected, "{name} of {rejection:?}");
            }
        }
    }

    #[test]
    fn the_reason_is_recorded_and_not_sent() {
        let signature =
            |reason: &str| Rejection::Signature { reason: reason.into(), www_authenticate: None };
        let (missing, old) = (signature("no x header"), signature("timestamp is 412 s old"));
        assert_eq!(missing.reason(), "no x header");
        assert_eq!(missing.status_and_message(), old.status_and_message());
    }
}
