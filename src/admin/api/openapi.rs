//! The description of the API (OpenAPI 3.1), made of the code.

use actix_web::HttpResponse;
use utoipa::openapi::OpenApi as Document;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::{Modify, OpenApi};

use super::{actions, event, follow, lists, output};
use crate::admin::problem::Problem;

#[derive(OpenApi)]
#[openapi(
    info(title = "Hooktrail", description = "Events, jobs and outcomes of a Hooktrail server.", license(name = "MIT")),
    paths(
        lists::events, event::event, event::body, actions::replay, lists::jobs, event::job, output::output, actions::retry,
        actions::cancel, follow::outcomes, lists::rejections, lists::failures, lists::handlers, actions::pause,
        actions::resume, lists::sources, lists::audit_log, actions::operations, actions::operation, actions::stop,
        actions::create_sign_in_link
    ),
    components(schemas(Problem)),
    security(("token" = [])),
    modifiers(&TokenScheme)
)]
struct Api;

struct TokenScheme;

impl Modify for TokenScheme {
    fn modify(&self, document: &mut Document) {
        let scheme = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
        let components = document.components.get_or_insert_with(Default::default);
        components.add_security_scheme("token", scheme);
    }
}

/// Returns the description as JSON.
///
/// # Errors
/// It can't be written as JSON.
pub fn document() -> anyhow::Result<String> {
    Ok(Api::openapi().to_pretty_json()?)
}

/// The description of the API.
pub async fn serve() -> Result<HttpResponse, Problem> {
    let text = document().map_err(Problem::internal)?;
    Ok(HttpResponse::Ok().content_type("application/json").body(text))
}
