//! The progress of an operation.

use std::sync::Arc;

use actix_web::web::{Data, Path};
use actix_web::{HttpRequest, HttpResponse};
use maud::{Markup, html};

use super::layout::{Page, token_field};
use super::parts::{Time, badge, outside_text};
use crate::admin::Admin;
use crate::admin::access;
use crate::admin::operations::{Action, Operation, OperationState};
use crate::admin::problem::Problem;
use crate::admin::tokens::Role;
use crate::clock::format_rfc3339;
use crate::numbers::{format_count, group_digits};

/// What an operation has done, in one sentence.
fn summary(operation: &Operation) -> String {
    let status = operation.status();
    let jobs = status.progress.jobs;
    let counted = format_count(jobs, "job");
    let done = match (&operation.request.action, operation.request.is_dry_run) {
        (Action::Retry, false) => format!("{counted} retried"),
        (Action::Retry, true) => format!("{counted} would be retried"),
        (Action::Cancel { .. }, false) => format!("{counted} cancelled"),
        (Action::Cancel { .. }, true) => format!("{counted} would be cancelled"),
        (Action::Replay, false) => format_count(jobs, "new job"),
        (Action::Replay, true) => {
            format!("{} would be replayed", format_count(status.progress.total, "event"))
        }
    };
    match status.state {
        OperationState::Waiting => "Another operation is running; this one waits.".to_owned(),
        OperationState::Selecting => format!(
            "Selecting: read {} of {}, {} selected.",
            group_digits(status.progress.done),
            group_digits(status.progress.total),
            group_digits(jobs)
        ),
        OperationState::Running | OperationState::Stopped => {
            format!(
                "{done} ({} of {}).",
                group_digits(status.progress.done),
                group_digits(status.progress.total)
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
