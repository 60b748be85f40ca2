//! The page that asks for a token, and the end of a session.

use std::time::Instant;

use actix_web::cookie::time::Duration as CookieDuration;
use actix_web::cookie::{Cookie, SameSite};
use actix_web::http::StatusCode;
use actix_web::http::header::{HeaderName, LOCATION, RETRY_AFTER};
use actix_web::web::{Data, Form, Query};
use actix_web::{HttpRequest, HttpResponse};
use maud::html;
use serde::Deserialize;

use super::layout::{document, logo};
use crate::admin::Admin;
use crate::admin::access::{self, SESSION_COOKIE};
use crate::admin::problem::Problem;
use crate::admin::tokens::{Role, SESSION_MS};

/// The parameters of the page.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct SignInParams {
    /// The page to go on to.
    next: Option<String>,
    /// The code of a sign-in link.
    code: Option<String>,
}

/// The form of the page.
#[derive(Debug, Deserialize)]
pub struct SignInForm {
    token: String,
    #[serde(default)]
    next: Option<String>,
}

/// Returns the path to go on to: only one of this server, as a header can have it.
pub fn local_path(next: Option<&str>) -> &str {
    let is_local = |path: &&str| {
        let is_header = path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\');
        path.starts_with('/') && !path.starts_with("//") && is_header
    };
    next.filter(is_local).unwrap_or("/")
}

fn session_cookie(value: String, is_secure: bool) -> Cookie<'static> {
    Cookie::build(SESSION_COOKIE, value)
        .path("/")
        .http_only(true)
        .same_site(SameSite::Strict)
        .secure(is_secure)
        .max_age(CookieDuration::milliseconds(SESSION_MS))
        .finish()
}

/// Whether the browser reached a proxy over HTTPS, by the form's `Origin`.
fn is_https(request: &HttpRequest) -> bool {
    let origin = request.headers().get("origin").and_then(|origin| origin.to_str().ok());
    origin.is_some_and(|origin| origin.starts_with("https://"))
}

fn client_address(request: &HttpRequest) -> String {
    request.peer_addr().map_or_else(String::new, |peer| {
        crate::domain::client_network(&peer.ip().to_string()).into_owned()
    })
}

/// Asks for a token. A link with a valid code signs in at once.
pub async fn page(
    admin: Data<Admin>,
    params: Query<SignInParams>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let next = local_path(params.next.as_deref());
    let Some(code) = &params.code else {
        if access::client(&request).is_ok() {
            return Ok(HttpResponse::SeeOther().insert_header((LOCATION, next)).finish());
        }
        // A link of another site comes without the cookie. The browser sends it when this page loads itself again.
        let is_from_other_site =
            request.headers().get("sec-fetch-site").is_some_and(|site| site == "cross-site");
        return Ok(form(StatusCode::OK, next, None, is_from_other_site));
    };
    // Nobody can guess a code, so attempts are not counted: any site could use them up for its visitors.
    if !admin.links.redeem(code) {
        let text =
            "This link was used, or is older than 5 minutes. `hooktrail open` makes a new one.";
        return Ok(form(StatusCode::UNAUTHORIZED, next, Some(text), false));
    }
    let session = admin.tokens.load().start_linked_session(Role::Act).map_err(Problem::internal)?;
    match session {
        Some(session) => Ok(HttpResponse::SeeOther()
            .cookie(session_cookie(session, is_https(&request)))
            .insert_header((LOCATION, next))
            .finish()),
        None => Err(Problem::unavailable("the server has no token")),
    }
}

/// Checks the token of the form.
pub async fn submit(
    admin: Data<Admin>,
    fields: Form<SignInForm>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let next = local_path(fields.next.as_deref());
    let address = client_address(&request);
    if let Some(response) = rejected_attempt(&admin, &address, next) {
        return Ok(response);
    }
    let token = fields.token.trim();
    let session = admin.tokens.load().start_session(token.as_bytes()).map_err(Problem::internal)?;
    match session {
        Some(session) => Ok(HttpResponse::SeeOther()
            .cookie(session_cookie(session, is_https(&request)))
            .insert_header((LOCATION, next))
            .finish()),
        None => {
            admin.attempts.record_failure(&address);
            log::warn!("a sign-in to the console failed: the token is wrong ip={address}");
            Ok(form(StatusCode::UNAUTHORIZED, next, Some("This token is not valid."), false))
        }
    }
}

/// Rejects an attempt of an address that had too many.
fn rejected_attempt(admin: &Admin, address: &str, next: &str) -> Option<HttpResponse> {
    let wait = admin.attempts.wait(address, Instant::now())?;
    let seconds = wait.as_secs().max(1);
    let text = format!("Too many attempts failed. Try again in {seconds} s.");
    let mut response = form(StatusCode::TOO_MANY_REQUESTS, next, Some(&text), false);
    response.headers_mut().insert(RETRY_AFTER, seconds.into());
    Some(response)
}

/// Ends the session of this browser.
pub async fn sign_out() -> HttpResponse {
    let mut cookie = session_cookie(String::new(), false);
    cookie.make_removal();
    HttpResponse::SeeOther().cookie(cookie).insert_header((LOCATION, access::SIGN_IN)).finish()
}

fn form(status: StatusCode, next: &str, error: Option<&str>, should_reload: bool) -> HttpResponse {
    let body = html! {
        main #main .sign-in {
            div.card {
                h1 { (logo()) "Hooktrail" }
                @if let Some(error) = error {
                    p.error role="alert" { (error) }
                }
                form method="post" action=(access::SIGN_IN) {
                    input type="hidden" name="next" value=(next);
                    label for="token" { "Token" }
                    input #token type="password" name="token" required autocomplete="current-password" autofocus;
                    button.primary type="submit" { "Sign in" }
                }
                p.muted {
                    "The token is in the file " code { "admin.token" } " beside the database, or what "
                    code { "admin.token" } " in config.toml names. " code { "hooktrail open" }
                    " makes a link that signs in without it."
                }
            }
        }
    };
    let mut response = document(status, "Sign in", &body);
    if should_reload {
        response.headers_mut().insert(HeaderName::from_static("refresh"), 0.into());
    }
    response
}

#[cfg(test)]
mod tests {
    use super::local_path;

    #[test]
    fn only_a_path_of_this_server_is_followed() {
        for (next, path) in [
            (None, "/"),
            (Some("/events?state=dead"), "/events?state=dead"),
            (Some("https://example.com"), "/"),
            (Some("//example.com"), "/"),
            (Some("/\\example.com"), "/"),
            (Some("/a\r\nb"), "/"),
            (Some("/a\u{1b}"), "/"),
            (Some("/ż"), "/"),
            (Some("/%C5%BC"), "/%C5%BC"),
            (Some(""), "/"),
        ] {
            assert_eq!(local_path(next), path, "{next:?}");
        }
    }
}
