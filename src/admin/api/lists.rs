//! The lists of the API.

use std::collections::HashSet;
use std::sync::Arc;

use actix_web::HttpRequest;
use actix_web::web::{Data, Json};
use serde::de::DeserializeOwned;

use super::params::{self, List, ListParams};
use super::rows::{
    AuditRow, EventRow, FailureRow, HandlerRow, JobRow, Page, RejectionRow, SourceRow,
    mark_configured, objects,
};
use crate::admin::Admin;
use crate::admin::problem::Problem;
use crate::clock::{MonotonicClock, format_rfc3339};
use crate::store::queries::Selector;
use crate::store::search::pages::{self, PageRequest};
use crate::store::{self, Connection, stats};

type Result<T> = std::result::Result<Json<Page<T>>, Problem>;

/// Reads a page of a list.
///
/// # Errors
/// A parameter is not valid, or the database can't be read.
pub async fn load_page<T: DeserializeOwned + Send + 'static>(
    admin: &Arc<Admin>,
    list: &List,
    params: &ListParams,
    read: fn(&Connection, &Selector, PageRequest, MonotonicClock) -> store::Result<pages::Page>,
) -> std::result::Result<Page<T>, Problem> {
    let (selector, page) = (params.selector()?, params.page(list.name)?);
    let found = admin.read(move |conn, clock| read(conn, &selector, page, clock)).await?;
    Ok(Page {
        items: objects(&found.rows).map_err(Problem::internal)?,
        next: params.next(list.name, &found),
        searched_to: found.searched_to_ms.map(format_rfc3339),
    })
}

/// Accepted webhooks, newest first. With a condition on jobs, an event is at the place of its newest job that matches.
#[utoipa::path(get, path = "/api/v1/events", params(ListParams),
    responses((status = 200, body = Page<EventRow>), (status = 400, body = Problem)))]
pub async fn events(admin: Data<Admin>, request: HttpRequest) -> Result<EventRow> {
    load_events(&admin, &ListParams::read(&request, &params::EVENTS)?).await.map(Json)
}

/// Returns a page of events.
///
/// # Errors
/// A parameter is not valid, or the database can't be read.
pub async fn load_events(
    admin: &Arc<Admin>,
    params: &ListParams,
) -> std::result::Result<Page<EventRow>, Problem> {
    load_page(admin, &params::EVENTS, params, |conn, selector, page, _| {
        pages::page_of_events(conn, selector, page)
    })
    .await
}

/// Jobs, newest first.
#[utoipa::path(get, path = "/api/v1/jobs", params(ListParams),
    responses((status = 200, body = Page<JobRow>), (status = 400, body = Problem)))]
pub async fn jobs(admin: Data<Admin>, request: HttpRequest) -> Result<JobRow> {
    let params = ListParams::read(&request, &params::JOBS)?;
    load_page(&admin, &params::JOBS, &params, |conn, selector, page, clock| {
        pages::page_of_jobs(conn, selector, page, clock.to_wall_ms(0))
    })
    .await
    .map(Json)
}

/// Rejected requests, newest first.
#[utoipa::path(get, path = "/api/v1/rejections", params(ListParams),
    responses((status = 200, body = Page<RejectionRow>), (status = 400, body = Problem)))]
pub async fn rejections(admin: Data<Admin>, request: HttpRequest) -> Result<RejectionRow> {
    load_rejections(&admin, &ListParams::read(&request, &params::REJECTIONS)?).await.map(Json)
}

/// Returns a page of rejections.
///
/// # Errors
/// A parameter is not valid, or the database can't be read.
pub async fn load_rejections(
    admin: &Arc<Admin>,
    params: &ListParams,
) -> std::result::Result<Page<RejectionRow>, Problem> {
    load_page(admin, &params::REJECTIONS, params, |conn, selector, page, _| {
        pages::page_of_rejections(conn, selector, page)
    })
    .await
}

/// The audit log, newest first: who did what.
#[utoipa::path(get, path = "/api/v1/audit", params(ListParams),
    responses((status = 200, body = Page<AuditRow>), (status = 400, body = Problem)))]
pub async fn audit_log(admin: Data<Admin>, request: HttpRequest) -> Result<AuditRow> {
    load_audit_log(&admin, &ListParams::read(&request, &params::AUDIT_LOG)?).await.map(Json)
}

/// Returns a page of the audit log.
///
/// # Errors
/// A parameter is not valid, or the database can't be read.
pub async fn load_audit_log(
    admin: &Arc<Admin>,
    params: &ListParams,
) -> std::result::Result<Page<AuditRow>, Problem> {
    load_page(admin, &params::AUDIT_LOG, params, |conn, _, page, _| {
        pages::page_of_audit_log(conn, page)
    })
    .await
}

/// Jobs whose last attempt failed, grouped by handler and reason; the group with the last failure first.
#[utoipa::path(get, path = "/api/v1/failures", params(ListParams),
    responses((status = 200, body = Page<FailureRow>), (status = 400, body = Problem)))]
pub async fn failures(admin: Data<Admin>, request: HttpRequest) -> Result<FailureRow> {
    load_failures(&admin, &ListParams::read(&request, &params::FAILURES)?).await.map(Json)
}

/// Returns a page of the groups of failures.
///
/// # Errors
/// A parameter is not valid, or the database can't be read.
pub async fn load_failures(
    admin: &Arc<Admin>,
    params: &ListParams,
) -> std::result::Result<Page<FailureRow>, Problem> {
    load_page(admin, &params::FAILURES, params, |conn, selector, page, _| {
        pages::page_of_failures(conn, selector.handler.as_deref(), page)
    })
    .await
}

/// Returns a page of rows whose number is that of the configuration: all of them without a limit.
fn page_of<T>(rows: Vec<T>, list: &List, params: &ListParams) -> Result<T> {
    let page = params.page(list.name)?;
    let start = page.before.map_or(0, |position| usize::try_from(position).unwrap_or(usize::MAX));
    let limit = match params.limit {
        Some(_) => usize::try_from(page.limit).unwrap_or(usize::MAX),
        None => usize::MAX,
    };
    let end = start.saturating_add(limit);
    let next = (end < rows.len()).then(|| params.cursor_at(list.name, end as i64));
    let items = rows.into_iter().skip(start).take(limit).collect();
    Ok(Json(Page { items, next, searched_to: None }))
}

/// All handlers with their queues and the counts of the last hour.
#[utoipa::path(get, path = "/api/v1/handlers", params(ListParams),
    responses((status = 200, body = Page<HandlerRow>), (status = 400, body = Problem)))]
pub async fn handlers(admin: Data<Admin>, request: HttpRequest) -> Result<HandlerRow> {
    let params = ListParams::read(&request, &params::HANDLERS)?;
    page_of(load_handlers(&admin).await?, &params::HANDLERS, &params)
}

/// Returns all handlers.
///
/// # Errors
/// The database can't be read.
pub async fn load_handlers(admin: &Arc<Admin>) -> std::result::Result<Vec<HandlerRow>, Problem> {
    let rows = admin.read(stats::load_handler_stats).await?;
    let mut items = objects(&rows).map_err(Problem::internal)?;
    let config = admin.config.load();
    let names: HashSet<&str> =
        config.handlers.iter().map(|handler| handler.name.as_str()).collect();
    mark_configured(&mut items, &names);
    Ok(items)
}

/// All sources with the counts of the last hour.
#[utoipa::path(get, path = "/api/v1/sources", params(ListParams),
    responses((status = 200, body = Page<SourceRow>), (status = 400, body = Problem)))]
pub async fn sources(admin: Data<Admin>, request: HttpRequest) -> Result<SourceRow> {
    let params = ListParams::read(&request, &params::SOURCES)?;
    page_of(load_sources(&admin).await?, &params::SOURCES, &params)
}

/// Returns all sources.
///
/// # Errors
/// The database can't be read.
pub async fn load_sources(admin: &Arc<Admin>) -> std::result::Result<Vec<SourceRow>, Problem> {
    let rows = admin.read(stats::load_source_stats).await?;
    let mut items: Vec<SourceRow> = objects(&rows).map_err(Problem::internal)?;
    let config = admin.config.load();
    for row in &mut items {
        let source = config.sources.iter().find(|source| source.name == row.source);
        row.configured = source.is_some();
        row.path = source.and_then(|source| source.path()).map(str::to_owned);
        row.stream = source.and_then(|source| Some(source.consumer()?.stream.clone()));
    }
    Ok(items)
}
