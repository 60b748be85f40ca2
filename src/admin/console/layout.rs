//! The frame of all pages: navigation, messages, and the headers of the response.

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use maud::{DOCTYPE, Markup, html};

use super::assets;
use crate::admin::access::{self, Client};
use crate::admin::tokens::Role;

/// The pages in the navigation: path and name.
const PAGES: [(&str, &str); 6] = [
    ("/", "Overview"),
    ("/events", "Events"),
    ("/failures", "Failures"),
    ("/rejections", "Rejections"),
    ("/handlers", "Handlers"),
    ("/audit", "Audit log"),
];

/// A page of the console.
pub struct Page<'p> {
    pub client: &'p Client,
    /// The title, which is also the first heading.
    pub title: String,
    /// The page of the navigation that it belongs to.
    pub section: &'p str,
    pub content: Markup,
    /// Whether the script loads the page again when something has changed.
    pub is_live: bool,
}

impl Page<'_> {
    /// Makes the response.
    pub fn response(self) -> HttpResponse {
        self.response_with(StatusCode::OK)
    }

    /// Makes the response with a status code.
    pub fn response_with(self, status: StatusCode) -> HttpResponse {
        let Self { client, title, section, content, is_live } = self;
        let body = html! {
            a.skip href="#main" { "Skip to the content" }
            header.top {
                a.brand href="/" { (logo()) "Hooktrail" }
                nav aria-label="Pages" {
                    @for (path, name) in PAGES {
                        a href=(path) aria-current=[(path == section).then_some("page")] { (name) }
                    }
                }
                div.account {
                    @if client.role == Role::Read { span.role { "read only" } }
                    @if client.session.is_some() {
                        form method="post" action=(access::SIGN_OUT) {
                            (token_field(client))
                            button.quiet type="submit" { "Sign out" }
                        }
                    }
                }
            }
            main #main data-live=[is_live.then_some("1")] data-change=(client.shown_change()) {
                div.heading {
                    h1 { (title) }
                    @if is_live {
                        span #live .live hidden role="status" { "live" }
                    }
                }
                (content)
            }
        };
        document(status, &title, &body)
    }
}

/// The mark of Hooktrail: a hook with a trail of dots.
pub fn logo() -> Markup {
    html! {
        svg.logo viewBox="0 0 24 24" width="22" height="22" aria-hidden="true" {
            path d="M7 3v10a5 5 0 0 0 10 0v-2" {}
            circle cx="17" cy="7" r="1.6" {}
            circle cx="20.5" cy="4" r="1.1" {}
        }
    }
}

/// The hidden field that shows that a form belongs to the session of the client, if it has one.
pub fn token_field(client: &Client) -> Markup {
    html! {
        @if let Some(session) = &client.session {
            input type="hidden" name="form_token" value=(session.form_token);
        }
    }
}

/// Makes a response of the body of a document.
pub fn document(status: StatusCode, title: &str, body: &Markup) -> HttpResponse {
    let document = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) " · Hooktrail" }
                link rel="stylesheet" href=(assets::style_path());
                link rel="icon" href=(assets::ICON_PATH) type="image/svg+xml";
                script src=(assets::script_path()) defer {}
            }
            body { (body) }
        }
    };
    HttpResponse::build(status)
        .content_type("text/html; charset=utf-8")
        .body(document.into_string())
}
