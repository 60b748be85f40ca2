//! The list of events, with its filters in the URL.

use actix_web::http::header::LOCATION;
use actix_web::web::{Data, Query};
use actix_web::{HttpRequest, HttpResponse};
use maud::{Markup, html};

use super::error_page;
use super::layout::Page;
use super::parts::{Time, bytes, colored_count, optional_time, outside_text};
use crate::admin::Admin;
use crate::admin::access::{self, load_key};
use crate::admin::api::lists;
use crate::admin::api::params::ListParams;
use crate::admin::api::rows::{self, EventRow};
use crate::admin::problem::Problem;
use crate::domain::job::PublicState;

/// Shows a page of the list of events.
pub async fn page(
    admin: Data<Admin>,
    params: Query<ListParams>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let client = access::client(&request)?;
    if let Some(event) = params.event {
        return Ok(HttpResponse::SeeOther()
            .insert_header((LOCATION, format!("/events/{event}")))
            .finish());
    }
    let names = names(&admin);
    let load = lists::load_events(&admin, &params);
    let found = admin.share(&client, &load_key(&request), load).await;
    let is_first = params.is_first_page();
    let (content, error) = match found {
        Ok(page) => (render_page(&page, &params), None),
        Err(problem) => (html! {}, Some(problem)),
    };
    let content = html! {
        @if let Some(group) = params.failure {
            p {
                "Only events with a job in one " a href={ "/failures#failure-" (group) } { "group of failures" } ". "
                a href="/events" { "Show all" }
            }
        }
        (render_filters(&params, &names))
        @if let Some(problem) = &error { (error_page::message(problem)) }
        (content)
    };
    let page = Page {
        client: &client,
        title: "Events".to_owned(),
        section: "/events",
        content,
        is_live: is_first && error.is_none(),
    };
    Ok(page.response_with(error.map_or(actix_web::http::StatusCode::OK, |problem| {
        actix_web::ResponseError::status_code(&problem)
    })))
}

/// The names of sources and handlers to choose from.
pub struct Names {
    sources: Vec<String>,
    handlers: Vec<String>,
}

/// Returns the names that the configuration has.
pub fn names(admin: &Admin) -> Names {
    let config = admin.config.load();
    Names {
        sources: config.sources.iter().map(|source| source.name.clone()).collect(),
        handlers: config.handlers.iter().map(|handler| handler.name.clone()).collect(),
    }
}

/// A choice of names, with the present one even if it is unknown.
fn render_choice(
    id: &str,
    label: &str,
    any: &str,
    names: &[String],
    chosen: Option<&str>,
) -> Markup {
    let chosen = chosen.unwrap_or("");
    html! {
        div.field {
            label for=(id) { (label) }
            select id=(id) name=(id) {
                option value="" { (any) }
                @for name in names {
                    option value=(name) selected[name == chosen] { (name) }
                }
                @if !chosen.is_empty() && !names.iter().any(|name| name == chosen) {
                    option value=(chosen) selected { (outside_text(chosen)) }
                }
            }
        }
    }
}

fn render_filters(params: &ListParams, names: &Names) -> Markup {
    let states: Vec<String> =
        PublicState::ALL.into_iter().map(|state| state.name().to_owned()).collect();
    html! {
        form.filters method="get" action="/events" role="search" {
            @if let Some(group) = params.failure { input type="hidden" name="failure" value=(group); }
            (render_choice("source", "Source", "any source", &names.sources, params.source.as_deref()))
            (render_choice("handler", "Handler", "any handler", &names.handlers, params.handler.as_deref()))
            (render_choice("state", "Job state", "any state", &states, params.state.as_deref()))
            div.field {
                label for="since" { "Since" }
                input #since name="since" value=[params.since.as_deref()] placeholder="2h, yesterday" size="12";
            }
            div.field {
                label for="until" { "Until" }
                input #until name="until" value=[params.until.as_deref()] placeholder="2026-11-23" size="12";
            }
            div.field {
                label for="event" { "Event" }
                input #event name="event" inputmode="numeric" pattern="[0-9]+" size="7" placeholder="number";
            }
            div.field.wide {
                label for="text" { "Text in the body" }
                input #text name="text" type="search" value=[params.text.as_deref()] placeholder="an address, a name, an id";
            }
            div.buttons {
                button.primary type="submit" { "Search" }
                a.button href="/events" { "Clear" }
            }
        }
    }
}

fn render_page(page: &rows::Page<EventRow>, params: &ListParams) -> Markup {
    let has_filter = params.has_filter();
    html! {
        @if page.items.is_empty() && page.next.is_none() {
            p.empty {
                @if has_filter { "No event matches. " a href="/events" { "Show all events" } "." }
                @else { "No events yet. Send one with " code { "hooktrail send SOURCE" } ", or give a sender the URL of a source." }
            }
        } @else {
            @if !page.items.is_empty() { (render_table(&page.items)) }
            (pager("/events", params, page.next.as_deref(), page.searched_to.as_deref()))
        }
    }
}

/// The table of events.
fn render_table(events: &[EventRow]) -> Markup {
    html! {
        div.scroll {
            table.cards {
                thead { tr {
                    th { "Event" } th { "Received" } th { "Source" } th { "From" } th.n { "Size" }
                    th.n { "Queued" } th.n { "Running" } th.n { "Succeeded" } th.n { "Dead" } th.n { "Cancelled" }
                    th { "Settled" }
                } }
                tbody {
                    @for row in events {
                        tr id={ "event-" (row.event) } {
                            th scope="row" { a href={ "/events/" (row.event) } { (row.event) } }
                            td data-label="Received" { (Time(&row.received_at)) }
                            td data-label="Source" { (row.source) }
                            td data-label="From" { (row.remote_ip.as_deref().unwrap_or("–")) }
                            td.n data-label="Size" { (bytes(row.bytes)) }
                            td.n data-label="Queued" { (colored_count(row.queued, "queued")) }
                            td.n data-label="Running" { (colored_count(row.running, "running")) }
                            td.n data-label="Succeeded" { (colored_count(row.succeeded, "good")) }
                            td.n data-label="Dead" { (colored_count(row.dead, "bad")) }
                            td.n data-label="Cancelled" { (colored_count(row.cancelled, "quiet")) }
                            td data-label="Settled" { (optional_time(row.settled_at.as_deref())) }
                        }
                    }
                }
            }
        }
    }
}

/// Links to the newest and to the next older rows.
pub fn pager(
    path: &str,
    params: &ListParams,
    next: Option<&str>,
    searched_to: Option<&str>,
) -> Markup {
    let is_first = params.is_first_page();
    html! {
        @if let Some(time) = searched_to {
            p.note { "Searched back to " (Time(time)) "." }
        }
        nav.pager aria-label="Rows" {
            @if !is_first {
                a.button href=(params.href(path, None)) { "Newest" }
            }
            @if let Some(next) = next {
                a.button rel="next" href=(params.href(path, Some(next))) {
                    @if searched_to.is_some() { "Search further back" } @else { "Older" }
                }
            }
        }
    }
}
