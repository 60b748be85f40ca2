//! The progress of an operation.

use std::sync::Arc;

use actix_web::web::{Data, Path};
use actix_web::{HttpRequest, HttpResponse};
use maud::{Markup, html};

use super::actions::token_field;
use super::layout::Page;
use super::parts::{Time, badge, count, outside_text};
use crate::admin::Admin;
use crate::admin::access;
use crate::admin::operations::{Action, Operation, OperationState};
use crate::admin::problem::Problem;
use crate::admin::tokens::Role;
use crate::clock::format_rfc3339;

fn number(number: u64) -> String {
    count(i64::try_from(number).unwrap_or(i64::MAX))
}

/// What an operation has done, in one sentence.
fn summary(operation: &Operation) -> String {
    let status = operation.status();
    let noun = |number: u64| if number == 1 { "job" } else { "jobs" };
    let jobs = status.progress.jobs;
    let done = match operation.request.action {
        Action::Replay if operation.request.is_dry_run => {
            let events = status.progress.total;
            format!(
                "{} {} would be replayed",
                number(events),
                if events == 1 { "event" } else { "events" }
            )
        }
        _ if operation.request.is_dry_run => {
            let verb = match operation.request.action {
                Action::Cancel { .. } => "cancelled",
                _ => "retried",
            };
            format!("{} {} would be {verb}", number(jobs), noun(jobs))
        }
        Action::Retry => format!("{} {} retried", number(jobs), noun(jobs)),
        Action::Cancel { .. } => format!("{} {} cancelled", number(jobs), noun(jobs)),
        Action::Replay => format!("{} new {}", number(jobs), noun(jobs)),
    };
    match status.state {
        OperationState::Waiting => "Another operation is running; this one waits.".to_owned(),
        OperationState::Selecting => format!(
            "Selecting: read {} of {}, {} selected.",
            number(status.progress.done),
            number(status.progress.total),
            number(jobs)
        ),
        OperationState::Running | OperationState::Stopped => {
            format!(
                "{done} ({} of {}).",
                number(status.progress.done),
                number(status.progress.total)
            )
        }
        OperationState::Done => format!("{done}."),
        OperationState::Failed => "It failed.".to_owned(),
    }
}

/// The result of an operation, as a message within a page.
pub fn notice(operation: &Arc<Operation>) -> Markup {
    let status = operation.status();
    html! {
        p.notice role="status" {
            strong { (verb(operation)) ": " } (summary(operation))
            @if let Some(detail) = &status.detail { " " (outside_text(detail)) "." }
        }
    }
}

fn verb(operation: &Operation) -> &'static str {
    match operation.request.action {
        Action::Retry => "Retry",
        Action::Cancel { .. } => "Cancel",
        Action::Replay => "Replay",
    }
}

/// The page of an operation.
pub async fn page(
    admin: Data<Admin>,
    id: Path<u64>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let client = access::client(&request)?;
    let operation = admin.operations.find(*id).ok_or_else(|| {
        Problem::not_found(format!(
            "operation {id} is unknown: the server remembers those since its start. The audit log has what they changed"
        ))
    })?;
    let status = operation.status();
    let is_final = status.state.is_final();
    let content = html! {
        div.card {
            p { (badge(status.state.name())) " " (summary(&operation)) }
            @if !is_final {
                progress max=(status.progress.total.max(1)) value=(status.progress.done) aria-label="Progress" {}
            }
            @if let Some(detail) = &status.detail { p.note { (outside_text(detail)) } }
            p.muted { "Begun at " (Time(&format_rfc3339(operation.created_at_ms)))
                @if let Some(at) = status.ended_at_ms { ", ended at " (Time(&format_rfc3339(at))) } "." }
            @if !is_final && client.role == Role::Act {
                form.inline method="post" action={ "/operations/" (id) "/stop" } {
                    (token_field(&client))
                    button type="submit" { "Stop" }
                }
            }
        }
        p { a href="/failures" { "Failures" } " · " a href="/audit" { "Audit log" } }
    };
    let title = format!("{} (operation {id})", verb(&operation));
    let page = Page { client: &client, title, section: "/failures", content, is_live: !is_final };
    let mut response = page.response();
    if !is_final {
        // Without the script the page loads itself again.
        response
            .headers_mut()
            .insert(actix_web::http::header::HeaderName::from_static("refresh"), 2.into());
    }
    Ok(response)
}
