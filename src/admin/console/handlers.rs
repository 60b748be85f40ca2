//! The handlers with their settings, and their pause.

use std::time::Duration;

use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse};
use maud::{Markup, html};

use super::layout::{Page, token_field};
use super::overview::handler_state;
use super::parts::{count, outside_text};
use crate::admin::Admin;
use crate::admin::access::{self, Client, load_key};
use crate::admin::api::lists::load_handlers;
use crate::admin::api::rows::HandlerRow;
use crate::admin::problem::Problem;
use crate::admin::tokens::Role;
use crate::config::{EnvValue, Handler, HandlerKind, Mode, duration_text};

/// Shows the handlers with their settings.
pub async fn page(admin: Data<Admin>, request: HttpRequest) -> Result<HttpResponse, Problem> {
    let client = access::client(&request)?;
    let handlers = admin.share(&client, &load_key(&request), load_handlers(&admin)).await?;
    let config = admin.config.load();
    let content = html! {
        @if handlers.is_empty() {
            p.empty { "No handlers. Add one to config.toml: " code { "[handlers.NAME]" } " with its sources and a command." }
        }
        @for row in handlers.iter() {
            @let handler = config.handlers.iter().find(|handler| handler.name == row.handler);
            (render_handler(&client, row, handler))
        }
    };
    Ok(Page {
        client: &client,
        title: "Handlers".to_owned(),
        section: "/handlers",
        content,
        is_live: true,
    }
    .response())
}

fn render_handler(client: &Client, row: &HandlerRow, handler: Option<&Handler>) -> Markup {
    let name = &row.handler;
    let action = if row.paused { "resume" } else { "pause" };
    html! {
        section.card id={ "handler-" (name) } aria-label={ "Handler " (name) } {
            div.toolbar {
                h2 { (name) } (handler_state(row))
                span.spacer {}
                @if client.role == Role::Act {
                    form.inline method="post" action={ "/handlers/" (name) "/" (action) } {
                        (token_field(client))
                        button type="submit" .primary[row.paused] { @if row.paused { "Resume" } @else { "Pause" } }
                    }
                }
            }
            ul.counts {
                li { a href={ "/events?handler=" (name) "&state=queued" } { (count(row.queued)) " queued" } }
                li { a href={ "/events?handler=" (name) "&state=running" } { (count(row.running)) " running" } }
                li { a href={ "/failures?handler=" (name) } { (count(row.dead)) " dead" } }
                li { (count(row.succeeded_last_hour)) " succeeded, " (count(row.unsuccessful_last_hour)) " did not, in the last hour" }
            }
            @match handler {
                Some(handler) => {
                    dl.settings {
                        @for (key, value) in settings(handler) {
                            div { dt { (key) } dd { code { (outside_text(&value)) } } }
                        }
                    }
                }
                None => {
                    p.note { "It is not in config.toml. Its queued jobs wait: add it again, or run " code { "hooktrail cancel --handler " (name) } "." }
                }
            }
        }
    }
}

/// The settings of a handler by their keys in config.toml. Secrets are named, not shown.
fn settings(handler: &Handler) -> Vec<(&'static str, String)> {
    let mut settings = vec![("sources", handler.sources.join(", "))];
    match &handler.kind {
        HandlerKind::Command(command) => {
            settings.push(("command", command.args.join(" ")));
            settings.push(("directory", command.directory.display().to_string()));
            let mode = match command.mode {
                Mode::Each => "each".to_owned(),
                Mode::Stream => "stream".to_owned(),
                Mode::Cgi => "cgi".to_owned(),
                Mode::Batch(batch) => {
                    format!("batch of {}, after {}", batch.size, duration_text(batch.wait))
                }
            };
            settings.push(("mode", mode));
            if !command.env.is_empty() {
                settings.push(("env", names(&command.env)));
            }
        }
        HandlerKind::JetStream(target) => {
            settings.push(("servers", target.nats.servers.join(", ")));
            settings.push(("stream", target.stream.clone()));
            settings.push(("subject", target.subject.to_string()));
        }
        HandlerKind::Url(target) => {
            settings.push(("url", shown_url(&target.url)));
            if !target.headers.is_empty() {
                settings.push(("headers", names(&target.headers)));
            }
        }
    }
    let expressions = [
        ("when", &handler.when),
        ("split", &handler.split),
        ("transform", &handler.transform),
        ("ordering_key", &handler.ordering_key),
        ("version_by", &handler.version_by),
        ("debounce_by", &handler.debounce_by),
    ];
    for (key, expression) in expressions {
        if let Some(expression) = expression {
            settings.push((key, expression.text().to_owned()));
        }
    }
    if let Some(unique) = &handler.unique_by {
        settings.push((
            "unique_by",
            format!("{} within {}", unique.jq.text(), duration_text(unique.window)),
        ));
    }
    if let Some(debounce) = handler.debounce {
        settings.push(("debounce", duration_text(debounce)));
    }
    settings.push(("concurrency", handler.concurrency.to_string()));
    settings.push(("timeout", duration_text(handler.timeout)));
    settings.push(("retry", retry_text(handler)));
    let breaker = match handler.breaker.threshold {
        0 => "never opens".to_owned(),
        threshold => format!(
            "opens after {threshold} failures for {}",
            duration_text(handler.breaker.cooldown)
        ),
    };
    settings.push(("breaker", breaker));
    if handler.priority != 0 {
        settings.push(("priority", handler.priority.to_string()));
    }
    settings
}

fn retry_text(handler: &Handler) -> String {
    let retry = &handler.retry;
    let text = |duration: Duration| duration_text(duration);
    format!(
        "at most {} attempts, {} × {} up to {}, for {}",
        retry.max_attempts,
        text(retry.initial_delay),
        retry.multiplier,
        text(retry.max_delay),
        text(retry.max_age)
    )
}

/// The scheme and the host of a URL. The rest may be a secret.
fn shown_url(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return "…".to_owned() };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    match rest.len() == host.len() {
        true => format!("{scheme}://{host}"),
        false => format!("{scheme}://{host}/…"),
    }
}

/// The names of variables or headers. Their values may be secret.
fn names(values: &[(String, EnvValue)]) -> String {
    values.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ")
}
