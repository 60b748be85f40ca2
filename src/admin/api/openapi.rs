//! The description of the API (OpenAPI 3.1), made of the code. docs/openapi.json is a copy of it.

use actix_web::HttpResponse;
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::path::{Operation, ParameterIn};
use utoipa::openapi::schema::{AllOfBuilder, AnyOfBuilder, ObjectBuilder, Schema, Type};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::{
    Content, OpenApi as Document, PathItem, Ref, RefOr, Response, ResponseBuilder,
};
use utoipa::{Modify, OpenApi};

use super::params::LISTS;
use super::{actions, event, follow, lists, output};
use crate::admin::problem::{PROBLEM_JSON, Problem};

#[derive(OpenApi)]
#[openapi(
    info(title = "Hooktrail", description = "Events, jobs and outcomes of a Hooktrail server.", license(name = "MIT")),
    paths(
        lists::events, event::event, event::body, actions::replay, lists::jobs, event::job, output::output, actions::retry,
        actions::cancel, follow::outcomes, lists::rejections, lists::failures, lists::handlers, actions::pause,
        actions::resume, lists::sources, lists::audit_log, actions::operations, actions::operation, actions::stop,
        actions::create_sign_in_link, serve
    ),
    components(schemas(Problem)),
    security(("token" = [])),
    modifiers(&TokenScheme, &ListParameters, &ErrorResponses, &NeededSelectors)
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

/// Removes the parameters that do not apply to a list.
struct ListParameters;

impl Modify for ListParameters {
    fn modify(&self, document: &mut Document) {
        for list in LISTS {
            let path = document.paths.paths.get_mut(list.path);
            let operation = path.and_then(|path| path.get.as_mut());
            if let Some(parameters) = operation.and_then(|operation| operation.parameters.as_mut())
            {
                parameters.retain(|parameter| match parameter {
                    RefOr::T(parameter) if parameter.parameter_in == ParameterIn::Query => {
                        list.parameters.contains(&parameter.name.as_str())
                    }
                    _ => true,
                });
                // A header can't be null.
                for parameter in parameters.iter_mut() {
                    if let RefOr::T(parameter) = parameter
                        && parameter.parameter_in == ParameterIn::Header
                        && let Some(RefOr::T(Schema::Object(object))) = &mut parameter.schema
                    {
                        object.schema_type = Type::Integer.into();
                    }
                }
            }
        }
    }
}

/// Adds the errors that every call may have, and gives all errors the media type of problems.
struct ErrorResponses;

/// Statuses of every call. The second group: calls with a body.
const COMMON_ERRORS: [(&str, &str); 4] = [
    ("401", "The request has no valid token."),
    ("403", "The token may only read, or the request comes from another site."),
    ("421", "The name in `Host` is not one of this server."),
    ("503", "The server can't respond now."),
];
const BODY_ERRORS: [(&str, &str); 2] =
    [("413", "The body is too large."), ("415", "The body is not `application/json`.")];

impl Modify for ErrorResponses {
    fn modify(&self, document: &mut Document) {
        for path in document.paths.paths.values_mut() {
            for operation in operations(path) {
                // The names of the files in which the calls are.
                operation.tags = None;
                let has_body = operation.request_body.is_some();
                let errors = COMMON_ERRORS.iter().chain(BODY_ERRORS.iter().filter(|_| has_body));
                let responses = &mut operation.responses.responses;
                for (status, description) in errors {
                    let response = ResponseBuilder::new().description(*description).build();
                    responses.insert((*status).to_owned(), RefOr::T(response));
                }
                for (status, response) in responses.iter_mut() {
                    if let RefOr::T(response) = response
                        && status.starts_with(['4', '5'])
                    {
                        describe_problem(status, response);
                    }
                }
            }
        }
    }
}

fn describe_problem(status: &str, response: &mut Response) {
    let problem = Content::new(Some(Ref::from_schema_name("Problem")));
    response.content.clear();
    response.content.insert(PROBLEM_JSON.to_owned(), RefOr::T(problem));
    if response.description.is_empty() {
        response.description = match status {
            "400" => "The request has an error.",
            "404" => "What the request names does not exist.",
            "409" => "What the request names is in a state that does not allow the request.",
            "410" => "The body was removed.",
            _ => "",
        }
        .to_owned();
    }
    let header = match status {
        "401" => ("WWW-Authenticate", Type::String),
        "503" => ("Retry-After", Type::Integer),
        _ => return,
    };
    let schema = ObjectBuilder::new().schema_type(header.1).build();
    let described = HeaderBuilder::new().schema(Some(Schema::from(schema))).build();
    response.headers.insert(header.0.to_owned(), described.into());
}

fn operations(path: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    [path.get.as_mut(), path.post.as_mut()].into_iter().flatten()
}

/// Describes that a call needs numbers or a selector. `all` counts only if it is true, and a list only if it is not
/// empty.
struct NeededSelectors;

impl Modify for NeededSelectors {
    fn modify(&self, document: &mut Document) {
        let Some(components) = document.components.as_mut() else { return };
        for name in ["RetryRequest", "CancelRequest", "ReplayRequest"] {
            let Some(schema) = components.schemas.remove(name) else { continue };
            let RefOr::T(Schema::Object(object)) = &schema else { continue };
            let mut any = AnyOfBuilder::new();
            let no_selectors = ["reason", "dry_run"];
            for field in
                object.properties.keys().filter(|field| !no_selectors.contains(&field.as_str()))
            {
                let needed = ObjectBuilder::new().required(field);
                let needed = match field.as_str() {
                    "all" => {
                        let value = ObjectBuilder::new().schema_type(Type::Boolean);
                        needed.property(field, value.enum_values(Some([true])))
                    }
                    "jobs" | "events" => {
                        let array = utoipa::openapi::ArrayBuilder::new().min_items(Some(1));
                        needed.property(field, array)
                    }
                    _ => needed,
                };
                any = any.item(needed);
            }
            let all = AllOfBuilder::new().item(schema.clone()).item(any);
            components.schemas.insert(name.to_owned(), RefOr::T(Schema::from(all.build())));
        }
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
#[utoipa::path(get, path = "/api/v1/openapi.json", responses((status = 200, body = Object, description = "An OpenAPI document.")))]
pub async fn serve() -> Result<HttpResponse, Problem> {
    let text = document().map_err(Problem::internal)?;
    Ok(HttpResponse::Ok().content_type("application/json").body(text))
}
