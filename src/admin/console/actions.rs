//! Buttons that change something, and what they do.
//!
//! A change of one job or event happens at once. Before a change of many, a page says how many.

use std::time::Duration;

use actix_web::http::header::LOCATION;
use actix_web::web::{Data, Form, Path};
use actix_web::{HttpRequest, HttpResponse};
use maud::{Markup, html};
use serde::Deserialize;

use super::layout::{Page, token_field};
use super::sign_in::local_path;
use crate::admin::Admin;
use crate::admin::access::{self, Client, check_form};
use crate::admin::api::actions::{Selection, begin, set_paused};
use crate::admin::operations::Action;
use crate::admin::problem::Problem;
use crate::admin::tokens::Role;
use crate::numbers::format_count;

/// How long a page waits for an operation.
const WAIT: Duration = Duration::from_secs(1);

/// A button with what it sends.
pub struct Button<'b> {
    /// `retry`, `cancel` or `replay`.
    pub action: &'b str,
    pub label: &'b str,
    pub fields: &'b [(&'b str, String)],
    /// The page to come back to.
    pub back: &'b str,
    pub is_primary: bool,
}

/// Makes the button, unless the client may only read.
pub fn action_button(client: &Client, button: &Button<'_>) -> Markup {
    html! {
        @if client.role == Role::Act {
            form.inline method="post" action={ "/actions/" (button.action) } {
                (token_field(client))
                input type="hidden" name="back" value=(button.back);
                @for (name, value) in button.fields {
                    input type="hidden" name=(name) value=(value);
                }
                button type="submit" .primary[button.is_primary] { (button.label) }
            }
        }
    }
}

/// What a button sends.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ActionForm {
    form_token: String,
    back: Option<String>,
    /// A person has seen how many jobs or events it is about.
    confirmed: Option<String>,
    jobs: Option<i64>,
    events: Option<i64>,
    failure: Option<i64>,
    handler: Option<String>,
    state: Option<String>,
}

impl ActionForm {
    fn selection(&self) -> Selection {
        let text = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        Selection {
            jobs: self.jobs.into_iter().collect(),
            events: self.events.into_iter().collect(),
            failure: self.failure,
            handler: text(&self.handler),
            state: text(&self.state),
            ..Selection::default()
        }
    }

    fn is_single(&self) -> bool {
        self.jobs.is_some() || self.events.is_some()
    }
}

/// Does what a button says.
pub async fn act(
    admin: Data<Admin>,
    action: Path<String>,
    form: Form<ActionForm>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let client = access::client(&request)?;
    check_form(&client, &form.form_token)?;
    let command = match action.as_str() {
        "retry" => Action::Retry,
        "cancel" => Action::Cancel { reason: "cancelled".to_owned() },
        "replay" => Action::Replay,
        _ => return Err(Problem::not_found(format!("there is no action {:?}", action.as_str()))),
    };
    let back = local_path(form.back.as_deref());
    if !form.is_single() && form.confirmed.is_none() {
        let selection = Selection { is_dry_run: true, ..form.selection() };
        let operation = begin(&admin, &request, command, &selection, "console").await?;
        let status = operation.wait(WAIT).await;
        let number = status.state.is_final().then_some(status.progress.total);
        if number == Some(0) {
            return Ok(nothing_to_do(&client, back));
        }
        return Ok(confirmation(&client, &action, &form, back, number));
    }
    let operation = begin(&admin, &request, command, &form.selection(), "console").await?;
    let status = operation.wait(WAIT).await;
    let target = match status.state.is_final() && form.is_single() {
        true => {
            let separator = if back.contains('?') { '&' } else { '?' };
            format!("{back}{separator}operation={}", operation.id)
        }
        false => format!("/operations/{}", operation.id),
    };
    Ok(HttpResponse::SeeOther().insert_header((LOCATION, target)).finish())
}

/// The page that says how many jobs an action is about. `None`: counting takes longer.
fn confirmation(
    client: &Client,
    action: &str,
    form: &ActionForm,
    back: &str,
    number: Option<u64>,
) -> HttpResponse {
    let number = match number {
        Some(number) => format_count(number, "job"),
        None => "all matching jobs".to_owned(),
    };
    let verb = match action {
        "retry" => "Retry",
        "cancel" => "Cancel",
        _ => "Replay",
    };
    let content = html! {
        div.card {
            p {
                @match action {
                    "cancel" => { "Queued jobs never run, running ones are stopped, dead ones are dismissed." }
                    _ => { "The jobs run again now, with fresh attempts." }
                }
            }
            div.buttons {
                form.inline method="post" action={ "/actions/" (action) } {
                    (token_field(client))
                    input type="hidden" name="confirmed" value="1";
                    @if let Some(failure) = form.failure { input type="hidden" name="failure" value=(failure); }
                    @for (name, value) in [("handler", &form.handler), ("state", &form.state)] {
                        @if let Some(value) = value { input type="hidden" name=(name) value=(value); }
                    }
                    button.primary type="submit" { (verb) " " (number) }
                }
                a.button href=(back) { "Back" }
            }
        }
    };
    Page {
        client,
        title: format!("{verb} {number}?"),
        section: "/failures",
        content,
        is_live: false,
    }
    .response()
}

/// The page that says that an action has no jobs, for example because another person was faster.
fn nothing_to_do(client: &Client, back: &str) -> HttpResponse {
    let content = html! {
        div.card {
            p { "No job matches. They may have ended or been changed since the page was loaded." }
            div.buttons { a.button href=(back) { "Back" } }
        }
    };
    let title = "Nothing to do".to_owned();
    Page { client, title, section: "/failures", content, is_live: false }.response()
}

/// The form of a handler.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct PauseForm {
    form_token: String,
}

/// Pauses or resumes a handler.
pub async fn pause(
    admin: Data<Admin>,
    path: Path<(String, String)>,
    form: Form<PauseForm>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    check_form(&access::client(&request)?, &form.form_token)?;
    let (handler, action) = path.into_inner();
    let is_paused = match action.as_str() {
        "pause" => true,
        "resume" => false,
        _ => return Err(Problem::not_found(format!("there is no action {action:?}"))),
    };
    set_paused(&admin, &request, handler.clone(), is_paused, "console").await?;
    Ok(HttpResponse::SeeOther()
        .insert_header((LOCATION, format!("/handlers#handler-{handler}")))
        .finish())
}

/// Stops an operation, and goes back to its page.
pub async fn stop_operation(
    admin: Data<Admin>,
    id: Path<u64>,
    form: Form<PauseForm>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    check_form(&access::client(&request)?, &form.form_token)?;
    if let Some(operation) = admin.operations.find(*id) {
        operation.stop();
        operation.wait(WAIT).await;
    }
    Ok(HttpResponse::SeeOther().insert_header((LOCATION, format!("/operations/{id}"))).finish())
}
