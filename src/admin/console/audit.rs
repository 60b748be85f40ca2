//! The audit log: who did what, and from where.

use actix_web::web::{Data, Query};
use actix_web::{HttpRequest, HttpResponse};
use maud::html;

use super::events::pager;
use super::layout::Page;
use super::parts::{Time, count, outside_text};
use crate::admin::Admin;
use crate::admin::access::{self, load_key};
use crate::admin::api::lists;
use crate::admin::api::params::ListParams;
use crate::admin::problem::Problem;

/// Shows the audit log.
pub async fn page(
    admin: Data<Admin>,
    params: Query<ListParams>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let client = access::client(&request)?;
    let is_first = params.is_first_page();
    let load = lists::load_audit_log(&admin, &params);
    let page = admin.share(&client, &load_key(&request), load).await?;
    let content = html! {
        @if page.items.is_empty() {
            p.empty { "No entry yet. Each retry, replay, cancel, pause, resume, reload, prune and erase makes one." }
        } @else {
            div.scroll tabindex="0" role="group" aria-label="Entries" {
                table {
                    thead { tr {
                        th { "Time" } th { "Who" } th { "Via" } th { "Action" } th { "Target" } th.n { "Jobs" } th { "Reason" }
                    } }
                    tbody {
                        @for row in &page.items {
                            tr id={ "entry-" (row.id) } {
                                td { (Time(&row.at)) }
                                th scope="row" { (outside_text(&row.who)) }
                                td { (row.via) }
                                td { (row.action) }
                                td { (outside_text(row.target.as_deref().unwrap_or("–"))) }
                                td.n { (count(row.jobs)) }
                                td.text { (outside_text(row.reason.as_deref().unwrap_or(""))) }
                            }
                        }
                    }
                }
            }
            (pager("/audit", &params, page.next.as_deref(), None))
        }
    };
    Ok(Page {
        client: &client,
        title: "Audit log".to_owned(),
        section: "/audit",
        content,
        is_live: is_first,
    }
    .response())
}
