//! Responses to accepted requests and handshakes: the source's own, that of its preset, or the
//! event's id.

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use actix_web::http::header::X_CONTENT_TYPE_OPTIONS;

use super::SourceRuntime;
use crate::verify::SenderResponse;

/// Makes the response to an accepted event.
pub struct AcceptedResponse<'a> {
    runtime: &'a SourceRuntime,
    preset_response: Option<SenderResponse>,
}

impl<'a> AcceptedResponse<'a> {
    /// `preset_response` is the response of the source's preset, unless the source has its own.
    pub fn new(runtime: &'a SourceRuntime, preset_response: Option<SenderResponse>) -> Self {
        Self { runtime, preset_response }
    }

    /// Returns the response. The event, or the first of its duplicates, has to be on disk.
    pub fn response(&self, event: i64, is_duplicate: bool) -> HttpResponse {
        if let Some(response) = &self.preset_response {
            return to_http_response(response);
        }
        let respond = self.runtime.source.respond.as_ref();
        let status = respond.map_or(202, |respond| respond.status);
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::ACCEPTED);
        let content_type = respond.and_then(|respond| respond.content_type.as_deref());
        let body = respond.and_then(|respond| respond.body.clone());
        // The sender of a preset expects no content of ours.
        let is_empty = self.runtime.verifier.is_preset() && body.is_none();
        let mut response = HttpResponse::build(status);
        match content_type {
            Some(content_type) => drop(response.content_type(content_type)),
            None if !is_empty => drop(response.content_type("application/json")),
            None => {}
        }
        match body {
            _ if status == StatusCode::NO_CONTENT => response.finish(),
            Some(body) => response.body(body),
            None if is_empty => response.finish(),
            None => {
                let end = if is_duplicate { ",\"duplicate\":true}" } else { "}" };
                response.body(["{\"event\":", itoa::Buffer::new().format(event), end].concat())
            }
        }
    }
}

/// Converts a response with `nosniff`, because its body may echo text of the request.
pub fn to_http_response(sender_response: &SenderResponse) -> HttpResponse {
    let status = StatusCode::from_u16(sender_response.status).unwrap_or(StatusCode::OK);
    let mut response = HttpResponse::build(status);
    if let Some(content_type) = sender_response.content_type {
        response.content_type(content_type);
        response.insert_header((X_CONTENT_TYPE_OPTIONS, "nosniff"));
    }
    match sender_response.body.is_empty() {
        true => response.finish(),
        false => response.body(sender_response.body.clone()),
    }
}
