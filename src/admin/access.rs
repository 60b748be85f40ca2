//! Who may do what on the admin listener. Each request passes [`check`] before its handler.
//!
//! The checks are made in this order: the name in `Host`, against DNS rebinding; the origin, against forged
//! requests of other sites; the token or the session; the role. On a unix socket the mode of the file decides who
//! may connect, so no token is needed there.

use std::net::IpAddr;

use actix_web::body::{BoxBody, EitherBody, MessageBody};
use actix_web::cookie::Cookie;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{AUTHORIZATION, HOST, LOCATION, ORIGIN};
use actix_web::http::{Method, StatusCode};
use actix_web::middleware::Next;
use actix_web::{Error, HttpMessage, HttpRequest, HttpResponse, web};

use super::Admin;
use super::problem::Problem;
use super::tokens::{Role, Session};

/// The cookie of a session.
pub const SESSION_COOKIE: &str = "hooktrail_session";

/// The page that asks for a token.
pub const SIGN_IN: &str = "/sign-in";

/// The request that ends a session.
pub const SIGN_OUT: &str = "/sign-out";

/// Who sent a request, and how.
#[derive(Clone, Debug)]
pub struct Client {
    pub role: Role,
    /// The session of the console. `None`: the request has a token, or came over a unix socket.
    pub session: Option<Session>,
    /// The address, or `None` for a unix socket.
    pub address: Option<IpAddr>,
    /// The change since which an open page loads itself again. `None`: a person opens it.
    pub since_change: Option<u64>,
}

impl Client {
    /// Where the client is, for the audit log.
    pub fn origin(&self) -> String {
        match self.address {
            Some(address) => format!("admin from {address}"),
            None => "admin on a unix socket".to_owned(),
        }
    }
}

/// The client that a request passed the checks with.
///
/// # Errors
/// The request passed none, which is a mistake of the server.
pub fn client(request: &HttpRequest) -> Result<Client, Problem> {
    let found = request.extensions().get::<Client>().cloned();
    found.ok_or_else(|| Problem::new(StatusCode::UNAUTHORIZED, "the request has no credentials"))
}

/// The name of what a page loads: its path and its filters.
pub fn load_key(request: &HttpRequest) -> String {
    request.uri().path_and_query().map_or_else(String::new, ToString::to_string)
}

/// How a path is protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protection {
    /// No credentials are needed.
    Open,
    /// Requests without credentials are rejected.
    Api,
    /// Requests without credentials are sent to the page that asks for a token.
    Page,
}

fn protection(admin: &Admin, path: &str) -> Protection {
    match path {
        SIGN_IN => Protection::Open,
        "/metrics" if admin.config.load().admin.open_metrics => Protection::Open,
        "/metrics" => Protection::Api,
        path if path.starts_with("/assets/") => Protection::Open,
        path if path.starts_with("/api/") || path == "/api" => Protection::Api,
        _ => Protection::Page,
    }
}

/// Lets a request pass to its handler, or responds.
pub async fn check<B: MessageBody + 'static>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<EitherBody<B, BoxBody>>, Error> {
    let verdict = match request.app_data::<web::Data<Admin>>() {
        Some(admin) => judge(admin, request.request()),
        None => Err(Problem::unavailable("the listener is starting").into()),
    };
    match verdict {
        Ok(Some(client)) => {
            request.extensions_mut().insert(client);
            Ok(next.call(request).await?.map_into_left_body())
        }
        Ok(None) => Ok(next.call(request).await?.map_into_left_body()),
        Err(Rejection::Problem(problem)) => {
            // With the problem in it, so that the console can show it as a page.
            Ok(request.error_response(problem).map_into_right_body())
        }
        Err(Rejection::SignIn(target)) => {
            let response = HttpResponse::SeeOther().insert_header((LOCATION, target)).finish();
            Ok(request.into_response(response).map_into_right_body())
        }
    }
}

enum Rejection {
    Problem(Problem),
    /// The page to go to.
    SignIn(String),
}

impl From<Problem> for Rejection {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

fn judge(admin: &Admin, request: &HttpRequest) -> Result<Option<Client>, Rejection> {
    let address = request.peer_addr().map(|peer| peer.ip().to_canonical());
    check_host(admin, request, address)?;
    let is_acting = !matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    check_origin(admin, request, is_acting)?;
    let protection = protection(admin, request.path());
    // Every client may end its own session.
    let is_changing = is_acting && protection != Protection::Open && request.path() != SIGN_OUT;
    let client = match find_credentials(admin, request, address) {
        Ok(client) => client,
        Err(_) if protection == Protection::Open => None,
        Err(problem) => return Err(problem.into()),
    };
    match client {
        Some(client) if is_changing && client.role == Role::Read => {
            Err(Problem::forbidden("this token may read, not act: use the token of `admin.token`")
                .into())
        }
        Some(client) => Ok(Some(client)),
        None => match protection {
            Protection::Open => Ok(None),
            Protection::Api => Err(Problem::new(
                StatusCode::UNAUTHORIZED,
                "the request needs a token: `Authorization: Bearer TOKEN`",
            )
            .into()),
            Protection::Page => Err(Rejection::SignIn(sign_in_target(request))),
        },
    }
}

/// The page that asks for a token and then goes on to the page that was asked for.
fn sign_in_target(request: &HttpRequest) -> String {
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
    if request.method() != Method::GET || target == "/" {
        return SIGN_IN.to_owned();
    }
    let encoded: String =
        percent_encoding::utf8_percent_encode(target, percent_encoding::NON_ALPHANUMERIC).collect();
    format!("{SIGN_IN}?next={encoded}")
}

/// Returns the client, or `None` if the request has no credentials.
fn find_credentials(
    admin: &Admin,
    request: &HttpRequest,
    address: Option<IpAddr>,
) -> Result<Option<Client>, Problem> {
    let since_change = request.headers().get("x-change");
    let since_change = since_change.and_then(|change| change.to_str().ok()?.parse().ok());
    let Some(_) = address else {
        return Ok(Some(Client { role: Role::Act, session: None, address, since_change }));
    };
    let tokens = admin.tokens.load();
    if let Some(header) = request.headers().get(AUTHORIZATION) {
        let token = header
            .as_bytes()
            .split_at_checked(7)
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"bearer "));
        let role = token.and_then(|(_, token)| tokens.role_of(token.trim_ascii()));
        return match role {
            Some(role) => Ok(Some(Client { role, session: None, address, since_change })),
            None => Err(Problem::new(
                StatusCode::UNAUTHORIZED,
                "the token is not valid: expected `Authorization: Bearer` and the token of the \
                 file `admin.token` or of `admin.token` in config.toml",
            )),
        };
    }
    let session = request
        .cookie(SESSION_COOKIE)
        .as_ref()
        .map(Cookie::value)
        .and_then(|cookie| tokens.session(cookie));
    Ok(session.map(|session| Client {
        role: session.role,
        session: Some(session),
        address,
        since_change,
    }))
}

/// Checks the name by which the client reached the listener. A site that points its own name to this machine would
/// otherwise read the answers in its visitor's browser.
fn check_host(
    admin: &Admin,
    request: &HttpRequest,
    address: Option<IpAddr>,
) -> Result<(), Problem> {
    if address.is_none() {
        return Ok(());
    }
    let host = request.headers().get(HOST).and_then(|host| host.to_str().ok()).unwrap_or("");
    if admin.is_own_host(host_of(host)) {
        return Ok(());
    }
    Err(Problem::new(
        StatusCode::MISDIRECTED_REQUEST,
        format!(
            "this server is not {:?}: use its address, `localhost`, or add the name to admin.hosts in \
             config.toml",
            host_of(host)
        ),
    ))
}

/// The host of `HOST:PORT`, without the brackets of an IPv6 address.
fn host_of(authority: &str) -> &str {
    if let Some(rest) = authority.strip_prefix('[') {
        return rest.split_once(']').map_or(authority, |(host, _)| host);
    }
    authority.rsplit_once(':').map_or(authority, |(host, _)| host)
}

/// Checks that no other site sent the request. Browsers name the site in `Origin`, and in `Sec-Fetch-Site`
/// (<https://www.w3.org/TR/fetch-metadata/>).
fn check_origin(admin: &Admin, request: &HttpRequest, is_acting: bool) -> Result<(), Problem> {
    let headers = request.headers();
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let is_own = |origin: &str| {
        let authority = origin.split_once("://").map_or("", |(_, authority)| authority);
        let is_host = text(HOST.as_str()).is_some_and(|host| host.eq_ignore_ascii_case(authority));
        is_host || admin.is_configured_host(host_of(authority))
    };
    let is_foreign_origin = match headers.get(ORIGIN) {
        Some(origin) => !origin.to_str().is_ok_and(is_own),
        None => false,
    };
    let is_foreign_site = is_acting
        && headers.get(ORIGIN).is_none()
        && text("sec-fetch-site").is_some_and(|site| !matches!(site, "same-origin" | "none"));
    if is_foreign_origin || is_foreign_site {
        return Err(Problem::forbidden(
            "the request comes from another site: open the console itself",
        ));
    }
    Ok(())
}

/// Checks that a form belongs to the session of the request.
///
/// # Errors
/// The form has another token, or none.
pub fn check_form(client: &Client, form_token: &str) -> Result<(), Problem> {
    use subtle::ConstantTimeEq;
    match &client.session {
        Some(session)
            if !bool::from(session.form_token.as_bytes().ct_eq(form_token.as_bytes())) =>
        {
            Err(Problem::forbidden(
                "the form is from an earlier session: go back and reload the page",
            ))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::host_of;

    #[test]
    fn the_host_stands_before_the_port() {
        for (authority, host) in [
            ("localhost:8081", "localhost"),
            ("localhost", "localhost"),
            ("127.0.0.1:1", "127.0.0.1"),
            ("[::1]:8081", "::1"),
            ("[::1]", "::1"),
            ("", ""),
            ("[", "["),
        ] {
            assert_eq!(host_of(authority), host, "{authority}");
        }
    }
}
