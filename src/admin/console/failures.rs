//! Jobs whose last attempt failed, by handler and reason.

use actix_web::web::{Data, Query};
use actix_web::{HttpRequest, HttpResponse};
use maud::{Markup, html};

use super::actions::{Button, action_button};
use super::events::pager;
use super::layout::Page;
use super::parts::{Time, colored_count, count, outside_text};
use crate::admin::Admin;
use crate::admin::access::{self, Client, load_key};
use crate::admin::api::lists;
use crate::admin::api::params::ListParams;
use crate::admin::api::rows::FailureRow;
use crate::admin::problem::Problem;

/// Shows the groups of failures.
pub async fn page(
    admin: Data<Admin>,
    params: Query<ListParams>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let client = access::client(&request)?;
    let load = lists::load_failures(&admin, &params);
    let page = admin.share(&client, &load_key(&request), load).await?;
    let groups = &page.items;
    let is_first = params.is_first_page();
    let is_complete = is_first && page.next.is_none();
    let mut handlers: Vec<&str> = groups.iter().map(|group| group.handler.as_str()).collect();
    handlers.sort_unstable();
    handlers.dedup();
    let content = html! {
        @if let Some(handler) = params.handler.as_deref().filter(|handler| !handler.is_empty()) {
            p { "Only handler " strong { (outside_text(handler)) } ". " a href="/failures" { "Show all" } }
        }
        @if groups.is_empty() && is_complete {
            p.empty { "No job fails. Jobs whose attempts fail appear here until they succeed, are cancelled or are retried." }
        }
        @for handler in handlers {
            @let of_handler: Vec<&FailureRow> = groups.iter().filter(|group| group.handler == handler).collect();
            (render_handler(&client, handler, &of_handler, is_complete))
        }
        @if !is_complete { (pager("/failures", &params, page.next.as_deref(), None)) }
    };
    Ok(Page {
        client: &client,
        title: "Failures".to_owned(),
        section: "/failures",
        content,
        is_live: is_first,
    }
    .response())
}

/// A handler with its groups. The page may have only some of them.
fn render_handler(
    client: &Client,
    handler: &str,
    groups: &[&FailureRow],
    is_complete: bool,
) -> Markup {
    let dead: i64 = groups.iter().map(|group| group.dead).sum();
    let failing: i64 = groups.iter().map(|group| group.failing).sum();
    let fields = [("handler", handler.to_owned()), ("state", "dead".to_owned())];
    html! {
        section id={ "handler-" (handler) } aria-label={ "Handler " (handler) } {
            div.toolbar {
                h2 {
                    (handler) " "
                    @if is_complete { span.muted { (count(dead)) " dead, " (count(failing)) " will be retried" } }
                }
                @if dead > 0 || !is_complete {
                    div.buttons {
                        (action_button(client, &Button { action: "retry", label: "Retry all dead", fields: &fields, back: "/failures", is_primary: true }))
                        (action_button(client, &Button { action: "cancel", label: "Dismiss all dead", fields: &fields, back: "/failures", is_primary: false }))
                    }
                }
            }
            div.scroll {
                table.cards.failures {
                    thead { tr {
                        th { "Reason" } th.n { "Dead" } th.n { "Failing" } th { "First" } th { "Last" } th { "Example" } th { "Actions" }
                    } }
                    tbody {
                        @for group in groups { (render_group(client, group)) }
                    }
                }
            }
        }
    }
}

fn render_group(client: &Client, group: &FailureRow) -> Markup {
    let fields = [("failure", group.failure.to_string())];
    let button = |action, label| Button {
        action,
        label,
        fields: &fields,
        back: "/failures",
        is_primary: false,
    };
    html! {
        tr id={ "failure-" (group.failure) } {
            th.text scope="row" {
                a href={ "/events?failure=" (group.failure) } { (outside_text(&group.reason)) }
            }
            td.n data-label="Dead" { (colored_count(group.dead, "bad")) }
            td.n data-label="Failing" { (colored_count(group.failing, "queued")) }
            td data-label="First" { (Time(&group.first_at)) }
            td data-label="Last" { (Time(&group.last_at)) }
            td data-label="Example" {
                @match group.last_event {
                    Some(event) => { a href={ "/events/" (event) "?job=" (group.last_job) } { "event " (event) } }
                    None => { span.muted { "removed" } }
                }
            }
            td {
                div.buttons {
                    (action_button(client, &button("retry", "Retry")))
                    (action_button(client, &button("cancel", "Cancel")))
                }
            }
        }
    }
}
