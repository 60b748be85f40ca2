//! Requests that were not accepted, by source and reason.

use actix_web::web::{Data, Query};
use actix_web::{HttpRequest, HttpResponse};
use maud::{Markup, html};

use super::events::pager;
use super::layout::Page;
use super::parts::{Time, bytes, count, outside_text};
use crate::admin::Admin;
use crate::admin::access::{self, load_key};
use crate::admin::api::lists;
use crate::admin::api::params::ListParams;
use crate::admin::api::rows::{self, RejectionGroup, RejectionRow, objects};
use crate::admin::problem::Problem;
use crate::store::queries::{self, GROUPED_REJECTIONS};

/// Shows the rejections.
pub async fn page(
    admin: Data<Admin>,
    params: Query<ListParams>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let client = access::client(&request)?;
    let load = async {
        let groups = admin.read(|conn, _| queries::group_rejections(conn)).await?;
        let groups: Vec<RejectionGroup> = objects(&groups).map_err(Problem::internal)?;
        Ok((groups, lists::load_rejections(&admin, &params).await?))
    };
    let loaded = admin.share(&client, &load_key(&request), load).await?;
    let (groups, page) = &*loaded;
    let is_first = params.is_first_page();
    let content = html! {
        @if params.has_filter() {
            p { "Only rejections that match. " a href="/rejections" { "Show all" } }
        } @else if is_first {
            (render_groups(groups))
        }
        (render_rows(page, &params))
    };
    Ok(Page {
        client: &client,
        title: "Rejections".to_owned(),
        section: "/rejections",
        content,
        is_live: is_first,
    }
    .response())
}

fn render_groups(groups: &[RejectionGroup]) -> Markup {
    html! {
        @if !groups.is_empty() {
            h2 { "By source and reason" }
            div.scroll {
                table {
                    thead { tr {
                        th { "Source" } th { "Reason" } th.n { "Status" } th.n { "Requests" } th.n { "Addresses" } th { "First" } th { "Last" }
                    } }
                    tbody {
                        @for group in groups {
                            tr {
                                th scope="row" {
                                    @match &group.source {
                                        Some(source) => { a href={ "/rejections?source=" (source) } { (source) } }
                                        None => { span.muted { "no source" } }
                                    }
                                }
                                td.text { a href=(ListParams { source: group.source.clone(), detail: Some(group.reason.clone()), ..ListParams::default() }.href("/rejections", None)) { (outside_text(&group.reason)) } }
                                td.n { (group.status) }
                                td.n { (count(group.count)) }
                                td.n { (count(group.addresses)) }
                                td { (Time(&group.first_at)) }
                                td { (Time(&group.last_at)) }
                            }
                        }
                    }
                }
            }
            p.muted { "Of the newest " (count(GROUPED_REJECTIONS)) " rows." }
        }
    }
}

fn render_rows(page: &rows::Page<RejectionRow>, params: &ListParams) -> Markup {
    html! {
        @if page.items.is_empty() {
            p.empty {
                @if params.has_filter() { "No rejection matches." }
                @else { "No request was rejected." }
            }
        } @else {
            h2 { "Requests" }
            div.scroll tabindex="0" role="group" aria-label="Rejected requests" {
                table {
                    thead { tr {
                        th { "Time" } th { "Source" } th { "Request" } th { "From" } th.n { "Status" } th { "Reason" } th.n { "Size" } th.n { "Count" }
                    } }
                    tbody {
                        @for row in &page.items {
                            tr id={ "rejection-" (row.id) } {
                                td { (Time(&row.at)) }
                                th scope="row" { (row.source.as_deref().unwrap_or("–")) }
                                td.text { code { (outside_text(&row.method)) " " (outside_text(&row.path)) } }
                                td { (row.remote_ip.as_deref().unwrap_or("–")) }
                                td.n { (row.status) }
                                td.text { (outside_text(&row.reason)) }
                                td.n { (bytes(row.bytes)) }
                                td.n { (count(row.count)) }
                            }
                        }
                    }
                }
            }
            (pager("/rejections", params, page.next.as_deref(), page.searched_to.as_deref()))
        }
    }
}
