//! What a sender is told when all is well: a source's own answer, its scheme's, or the event's
//! number; and the answer to a handshake.

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use actix_web::http::header::X_CONTENT_TYPE_OPTIONS;

use super::SourceRuntime;
use crate::verify::SenderResponse;

/// An answer in the making.
pub struct AcceptedResponse<'a> {
    gated: &'a SourceRuntime,
    preset: Option<SenderResponse>,
}

impl<'a> AcceptedResponse<'a> {
    /// `preset`: the response of the source's scheme, unless the source has its own.
    pub fn new(gated: &'a SourceRuntime, preset: Option<SenderResponse>) -> Self {
        Self { gated, preset }
    }

    /// Once the event, or the first of its repeats, is on disk.
    pub fn response(&self, event: i64, duplicate: bool) -> HttpResponse {
        if let Some(answer) = &self.preset {
            return to_http_response(answer);
        }
        let respond = self.gated.source.respond.as_ref();
        let status = respond.map_or(202, |respond| respond.status);
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::ACCEPTED);
        let own_type = respond.and_then(|respond| respond.content_type.as_deref());
        let own_body = respond.and_then(|respond| respond.body.clone());
        // A preset's sender expects nothing of ours.
        let silent = self.gated.verifier.is_preset() && own_body.is_none();
        let mut response = HttpResponse::build(status);
        match own_type {
            Some(own_type) => drop(response.content_type(own_type)),
            None if !silent => drop(response.content_type("application/json")),
            None => {}
        }
        match own_body {
            _ if status == StatusCode::NO_CONTENT => response.finish(),
            Some(body) => response.body(body),
            None if silent => response.finish(),
            None if duplicate => response.body(format!(r#"{{"event":{event},"duplicate":true}}"#)),
            None => response.body(format!(r#"{{"event":{event}}}"#)),
        }
    }
}

/// An answer as it is, never guessed at: it may hold what a stranger wrote.
pub fn to_http_response(answer: &SenderResponse) -> HttpResponse {
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::OK);
    let mut response = HttpResponse::build(status);
    if let Some(content_type) = answer.content_type {
        response.content_type(content_type);
        response.insert_header((X_CONTENT_TYPE_OPTIONS, "nosniff"));
    }
    match answer.body.is_empty() {
        true => response.finish(),
        false => response.body(answer.body.clone()),
    }
}
