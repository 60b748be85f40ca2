//! Errors as pages and as messages within pages.

use actix_web::body::MessageBody;
use actix_web::dev::ServiceResponse;
use actix_web::http::header::CONTENT_TYPE;
use actix_web::{HttpMessage, HttpResponse, ResponseError};
use maud::{Markup, html};

use super::layout::{Page, document};
use super::parts::outside_text;
use crate::admin::access::Client;
use crate::admin::problem::{PROBLEM_JSON, Problem};

/// A problem as a message within a page.
pub fn message(problem: &Problem) -> Markup {
    html! { p.error role="alert" { (outside_text(&problem.detail)) } }
}

/// A page for a problem.
pub fn response(client: Option<&Client>, problem: &Problem) -> HttpResponse {
    let content = html! {
        (message(problem))
        p { a href="/" { "Overview" } " · " a href="/events" { "Events" } }
    };
    match client {
        Some(client) => {
            Page { client, title: problem.title.clone(), section: "", content, is_live: false }
                .response_with(problem.status_code())
        }
        None => document(
            problem.status_code(),
            &problem.title,
            &html! { main #main .sign-in { div.card { (content) } } },
        ),
    }
}

/// Whether a response is a problem of the API, which a page shows in another form.
pub fn is_problem<B: MessageBody>(response: &ServiceResponse<B>) -> bool {
    response.headers().get(CONTENT_TYPE).is_some_and(|content_type| content_type == PROBLEM_JSON)
}

/// The client of a request, if it passed the checks.
pub fn client_of<B>(response: &ServiceResponse<B>) -> Option<Client> {
    response.request().extensions().get::<Client>().cloned()
}
