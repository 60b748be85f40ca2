//! The console: pages that the server makes. They work without the script, which only keeps them up to date.
//!
//! Everything from outside is shown as text: `maud` escapes it, and control characters are made visible.

use actix_web::Error;
use actix_web::body::{BoxBody, EitherBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::middleware::{DefaultHeaders, Next};
use actix_web::web::{self, FormConfig, ServiceConfig};

use super::access;
use super::problem::Problem;

mod actions;
mod assets;
mod audit;
mod error_page;
mod event;
mod events;
mod failures;
mod handlers;
mod layout;
mod live;
mod operations;
mod overview;
mod parts;
mod rejections;
mod sign_in;

/// Adds the routes.
pub fn routes(config: &mut ServiceConfig) {
    config
        .route("/", web::get().to(overview::page))
        .route("/events", web::get().to(events::page))
        .route("/events/{event}", web::get().to(event::page))
        .route("/failures", web::get().to(failures::page))
        .route("/rejections", web::get().to(rejections::page))
        .route("/handlers", web::get().to(handlers::page))
        .route("/handlers/{handler}/{action}", web::post().to(actions::pause))
        .route("/audit", web::get().to(audit::page))
        .route("/operations/{operation}", web::get().to(operations::page))
        .route("/operations/{operation}/stop", web::post().to(actions::stop_operation))
        .route("/actions/{action}", web::post().to(actions::act))
        .route("/sign-in", web::get().to(sign_in::page))
        .route("/sign-in", web::post().to(sign_in::submit))
        .route(access::SIGN_OUT, web::post().to(sign_in::sign_out))
        .route("/live", web::get().to(live::stream))
        .route("/assets/style.css", web::get().to(assets::style))
        .route("/assets/script.js", web::get().to(assets::script))
        .route("/assets/icon.svg", web::get().to(assets::icon));
}

/// How forms are read.
pub fn form_config() -> FormConfig {
    FormConfig::default()
        .limit(16 << 10)
        .error_handler(|error, _| Problem::malformed("the form", &error).into())
}

/// The headers of all responses: no script or style but our own, no frame, no guess at the type.
pub fn security_headers() -> DefaultHeaders {
    DefaultHeaders::new()
        .add((
            "Content-Security-Policy",
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
             form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
        ))
        .add(("X-Content-Type-Options", "nosniff"))
        .add(("Referrer-Policy", "same-origin"))
        .add(("Cross-Origin-Opener-Policy", "same-origin"))
        .add(("Cross-Origin-Resource-Policy", "same-origin"))
        .add(("Cache-Control", "no-store"))
}

/// Shows a problem as a page, unless the request was to the API.
pub async fn problems_as_pages<B: MessageBody + 'static>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<EitherBody<B, BoxBody>>, Error> {
    let is_page = {
        let path = request.path();
        !path.starts_with("/api/") && path != "/api" && path != "/metrics" && path != "/live"
    };
    let response = next.call(request).await?;
    if !is_page || !error_page::is_problem(&response) {
        return Ok(response.map_into_left_body());
    }
    let client = error_page::client_of(&response);
    let page = match response.response().error().and_then(|error| error.as_error::<Problem>()) {
        Some(problem) => error_page::response(client.as_ref(), problem),
        None => {
            let problem = Problem::new(response.status(), "the request can't be answered");
            error_page::response(client.as_ref(), &problem)
        }
    };
    let page = ServiceResponse::new(response.request().clone(), page);
    Ok(page.map_into_right_body())
}
