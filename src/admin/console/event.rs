//! One event: the request as it was received, its jobs, and the timeline of their attempts.

use std::fmt::Write;

use actix_web::web::{Data, Path, Query};
use actix_web::{HttpRequest, HttpResponse};
use maud::{Markup, html};
use serde::Deserialize;

use super::actions::{Button, action_button};
use super::layout::Page;
use super::parts::{
    Reason, Time, badge, bytes, colored_count, count, duration, optional_time, outside_text,
};
use crate::admin::Admin;
use crate::admin::access::{self, Client, load_key};
use crate::admin::api::event::{LoadedEvent, load};
use crate::admin::api::output::text_of;
use crate::admin::api::params::parse_state;
use crate::admin::api::rows::{AttemptRow, JobRow};
use crate::admin::problem::Problem;
use crate::config::{Config, Listen};
use crate::domain::{Event, JobId};
use crate::process::OutputStream;
use crate::store::queries::Selector;
use crate::verify::Scheme;

/// The bytes of a body that the page shows.
const SHOWN_BODY_BYTES: usize = 256 << 10;

/// With more jobs, the page has a table of them without their attempts.
const MAX_JOBS_IN_FULL: usize = 10;

/// The bytes of one output that the page shows: its end.
const SHOWN_OUTPUT_BYTES: usize = 32 << 10;

/// The parameters of the page.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct EventParams {
    /// Only the jobs in this state.
    state: Option<String>,
    /// Only this job, with its attempts.
    job: Option<i64>,
    /// `raw`: the body as it was received.
    body: Option<String>,
    /// The operation that brought the person here.
    operation: Option<u64>,
}

/// Shows an event with its jobs.
pub async fn page(
    admin: Data<Admin>,
    event: Path<i64>,
    params: Query<EventParams>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let client = access::client(&request)?;
    let chosen = params.state.as_deref().filter(|name| !name.is_empty());
    let selector = Selector {
        state: chosen.map(parse_state).transpose()?,
        jobs: params.job.into_iter().collect(),
        ..Selector::default()
    };
    let load = load(&admin, *event, selector, SHOWN_BODY_BYTES);
    let loaded = admin.share(&client, &load_key(&request), load).await?;
    let config = admin.config.load();
    let content = html! {
        @if let Some(operation) = params.operation.and_then(|id| admin.operations.find(id)) {
            (super::operations::notice(&operation))
        }
        (render_head(&client, &loaded))
        (render_jobs(&admin, &client, &loaded, &params))
        (render_request(&loaded, &config, &params))
    };
    let title = format!("Event {}", loaded.trail.event);
    Ok(Page { client: &client, title, section: "/events", content, is_live: true }.response())
}

fn render_head(client: &Client, loaded: &LoadedEvent) -> Markup {
    let trail = &loaded.trail;
    let event = trail.event;
    html! {
        div.toolbar {
            nav.pager aria-label="Events" {
                @match loaded.previous {
                    Some(id) => { a.button rel="prev" href={ "/events/" (id) } { "← Previous" } }
                    None => { span.button aria-disabled="true" { "← Previous" } }
                }
                @match loaded.next {
                    Some(id) => { a.button rel="next" href={ "/events/" (id) } { "Next →" } }
                    None => { span.button aria-disabled="true" { "Next →" } }
                }
            }
            @if loaded.head.event.removed_bytes.is_none() {
                (action_button(client, &Button {
                    action: "replay", label: "Replay", fields: &[("events", event.to_string())],
                    back: &format!("/events/{event}"), is_primary: false,
                }))
            }
        }
        dl.facts {
            div { dt { "Received" } dd { (Time(&trail.received_at)) } }
            div { dt { "Source" } dd { a href={ "/events?source=" (trail.source) } { (trail.source) } } }
            div { dt { "From" } dd { (trail.remote_ip.as_deref().unwrap_or("an unknown address")) } }
            @if let Some(client) = &trail.client {
                div { dt { "Client" } dd { (outside_text(client)) } }
            }
            @if let Some(key) = &trail.origin_key {
                div { dt { "Origin key" } dd { (outside_text(key)) } }
            }
            div { dt { "Size" } dd { (bytes(trail.bytes)) } }
            div { dt { "Duplicates" } dd { (count(trail.duplicates)) } }
            div { dt { "Settled" } dd { (optional_time(trail.settled_at.as_deref())) } }
        }
        @if let Some(note) = &loaded.head.event.expression_errors {
            p.note { strong { "Note: " } (outside_text(note)) }
        }
    }
}

fn render_jobs(
    admin: &Admin,
    client: &Client,
    loaded: &LoadedEvent,
    params: &EventParams,
) -> Markup {
    let trail = &loaded.trail;
    let counts = [
        ("queued", trail.queued, "queued"),
        ("running", trail.running, "running"),
        ("succeeded", trail.succeeded, "good"),
        ("dead", trail.dead, "bad"),
        ("cancelled", trail.cancelled, "quiet"),
    ];
    let shown = i64::try_from(loaded.jobs.len()).unwrap_or(i64::MAX);
    let is_full = loaded.jobs.len() <= MAX_JOBS_IN_FULL;
    let has_filter = params.state.is_some() || params.job.is_some();
    let is_deferred = loaded.jobs.is_empty() && trail.settled_at.is_none() && !has_filter;
    html! {
        h2 { "Jobs" }
        // Jobs that do not exist yet are counted as queued.
        @if trail.jobs == 0 || is_deferred {
            p.empty {
                @if !is_deferred { "No job: no handler takes the event." }
                @else { "The event is deferred: its jobs appear when the expressions of its handlers are evaluated." }
            }
        } @else {
            ul.counts {
                @for (name, number, class) in counts {
                    @if number > 0 {
                        li { a href={ "/events/" (trail.event) "?state=" (name) } {
                            (colored_count(number, class)) " " (name)
                        } }
                    }
                }
                @if has_filter {
                    li { a href={ "/events/" (trail.event) } { "all jobs" } }
                }
            }
            @if is_full {
                @for job in &loaded.jobs { (render_job(client, job, &loaded.attempts, trail.event, running_output(admin, job).as_deref())) }
                @if loaded.jobs.is_empty() { p.empty { "No job of this event matches." } }
            } @else {
                (render_job_table(&loaded.jobs, trail.event))
            }
            @if loaded.attempts_are_cut && is_full {
                p.note { "Not all attempts are shown. " code { "hooktrail show " (trail.event) } " has all of them." }
            }
            @if !has_filter && shown < trail.jobs {
                p.note {
                    "The newest " (count(shown)) " of " (count(trail.jobs)) " jobs. Choose a state above, or list them with "
                    code { "hooktrail list --event " (trail.event) } "."
                }
            }
        }
    }
}

/// What the processes of a running job have written so far.
fn running_output(admin: &Admin, job: &JobRow) -> Option<String> {
    let (_, output) = admin.running.output(JobId(job.job))?;
    let text = [OutputStream::Stdout, OutputStream::Stderr]
        .map(|stream| text_of(&output, stream))
        .concat();
    Some(if text.is_empty() { "(nothing yet)".to_owned() } else { text })
}

fn render_job_table(jobs: &[JobRow], event: i64) -> Markup {
    html! {
        div.scroll {
            table {
                thead { tr {
                    th { "Job" } th { "Handler" } th.n { "Item" } th { "State" } th.n { "Attempts" } th { "Reason" } th { "Due" }
                } }
                tbody {
                    @for job in jobs {
                        tr id={ "job-" (job.job) } {
                            th scope="row" { a href={ "/events/" (event) "?job=" (job.job) } { (job.job) } }
                            td { (job.handler) }
                            td.n { (job.item.map_or_else(|| "–".to_owned(), |item| item.to_string())) }
                            td { (badge(&job.state)) }
                            td.n { (job.attempts) }
                            td.text { (Reason(job.reason.as_deref().unwrap_or(""))) }
                            td { (optional_time(job.due_at.as_deref())) }
                        }
                    }
                }
            }
        }
    }
}

fn render_job(
    client: &Client,
    job: &JobRow,
    attempts: &[AttemptRow],
    event: i64,
    output: Option<&str>,
) -> Markup {
    let back = format!("/events/{event}");
    let fields = [("jobs", job.job.to_string())];
    let cancel_label = match job.state.as_str() {
        "dead" => "Dismiss",
        _ => "Cancel",
    };
    let button = |action, label| Button {
        action,
        label,
        fields: &fields,
        back: &back,
        is_primary: action == "retry",
    };
    html! {
        section.job id={ "job-" (job.job) } aria-label={ "Job " (job.job) } {
            div.job-head {
                h3 {
                    (job.handler) " " span.muted { "job " (job.job) @if let Some(item) = job.item { ", item " (item) } }
                }
                (badge(&job.state))
                div.buttons {
                    @if matches!(job.state.as_str(), "dead" | "cancelled") || job.due_at.is_some() {
                        (action_button(client, &button("retry", "Retry")))
                    }
                    @if matches!(job.state.as_str(), "queued" | "running" | "dead") {
                        (action_button(client, &button("cancel", cancel_label)))
                    }
                }
            }
            @if let Some(reason) = &job.reason {
                p.reason { (Reason(reason)) }
            }
            @if let Some(due) = &job.due_at {
                p.reason { "Next attempt at " (Time(due)) "." }
            }
            ol.timeline {
                @for attempt in attempts.iter().filter(|attempt| attempt.job == job.job) {
                    (render_attempt(attempt))
                }
            }
            @if let Some(output) = output {
                div {
                    p.muted { "Attempt " (job.attempts) " is running. Its output so far:" }
                    pre.output tabindex="0" data-output=(job.job) { (outside_text(output)) }
                }
            }
        }
    }
}

fn render_attempt(attempt: &AttemptRow) -> Markup {
    html! {
        li id={ "job-" (attempt.job) "-attempt-" (attempt.attempt) } class=(attempt.outcome) {
            div.attempt {
                strong { "Attempt " (attempt.attempt) }
                (badge(&attempt.outcome))
                (Time(&attempt.at))
                span.muted { (duration(attempt.duration_ms)) }
            }
            p.detail { (outside_text(&attempt.detail)) }
            @for (name, output) in [("stdout", &attempt.stdout), ("stderr", &attempt.stderr)] {
                @if let Some(output) = output {
                    details open[name == "stderr" || output.len() < 500] {
                        summary { (name) " (" (bytes(i64::try_from(output.len()).unwrap_or(0))) ")" }
                        pre.output tabindex="0" { (outside_text(end_of(output, SHOWN_OUTPUT_BYTES))) }
                    }
                }
            }
            @if let Some(next) = &attempt.next_at {
                p.muted { "The next attempt was due at " (Time(next)) "." }
            }
        }
    }
}

fn end_of(text: &str, max_bytes: usize) -> &str {
    &text[text.ceil_char_boundary(text.len().saturating_sub(max_bytes))..]
}

fn render_request(loaded: &LoadedEvent, config: &Config, params: &EventParams) -> Markup {
    let event = &loaded.head.event;
    let target = request_target(event);
    html! {
        h2 { "Request" }
        p.request-line { code { (event.method) " " (outside_text(&target)) } }
        p { (signature_result(event, config)) }
        @if event.removed_bytes.is_some() {
            p.empty { "The headers and the body were removed by " code { "retention" } " or " code { "erase" } "." }
        } @else {
            details {
                summary { "Headers (" (event.headers.0.len()) ")" }
                div.scroll tabindex="0" role="group" aria-label="Headers" {
                    table.headers {
                        @for (name, value) in &event.headers.0 {
                            tr { th scope="row" { (name) } td.text { (outside_text(&String::from_utf8_lossy(value))) } }
                        }
                    }
                }
            }
            (render_body(loaded, params))
            details {
                summary { "Send it again with curl" }
                div.copy {
                    pre.output #curl tabindex="0" { (curl_command(event, config)) }
                    button type="button" data-copy="curl" hidden { "Copy" }
                }
                p.muted { "The signature is not part of it. " code { "hooktrail send " (event.source) " FILE" } " signs as the sender does." }
            }
        }
    }
}

fn request_target(event: &Event) -> String {
    match &event.query {
        Some(query) => format!("{}?{query}", event.path),
        None => event.path.clone(),
    }
}

/// What the signature of the request was checked for.
fn signature_result(event: &Event, config: &Config) -> Markup {
    let source = config.sources.iter().find(|source| source.name == event.source);
    html! {
        @match source {
            None => { "Source " code { (event.source) } " is not in config.toml any more." }
            Some(source) if source.verify.scheme == Scheme::None => {
                span.badge.cancelled { "not signed" } " The source has no " code { "verify" } " now: anyone may send to it."
            }
            Some(source) => {
                span.badge.succeeded { "verified" } " The source now checks each request with scheme " code { (source.verify.scheme.name()) }
                ". It stores an event only after its check."
            }
        }
    }
}

fn render_body(loaded: &LoadedEvent, params: &EventParams) -> Markup {
    let event = loaded.trail.event;
    let Some(body) = &loaded.body else { return html! {} };
    let is_cut = body.len() < loaded.head.body_bytes;
    let text = std::str::from_utf8(body).ok().or_else(|| {
        // The cut may be within a character.
        let end = std::str::from_utf8(body).err()?.valid_up_to();
        (is_cut && end + 4 > body.len()).then(|| std::str::from_utf8(&body[..end]).ok())?
    });
    let pretty = text.filter(|_| !is_cut).and_then(pretty_json);
    let is_raw = params.body.as_deref() == Some("raw");
    let job = params.job.map(|job| format!("&job={job}")).unwrap_or_default();
    html! {
        div.body-head {
            h3 { "Body" }
            @if pretty.is_some() {
                @if is_raw { a href={ "/events/" (event) "?body=pretty" (job) } { "formatted" } span aria-current="true" { "raw" } }
                @else { span aria-current="true" { "formatted" } a href={ "/events/" (event) "?body=raw" (job) } { "raw" } }
            }
            a href={ "/api/v1/events/" (event) "/body" } download { "Download" }
        }
        @match (text, pretty) {
            (_, _) if body.is_empty() => { p.empty { "The body is empty." } }
            (Some(_), Some(pretty)) if !is_raw => { pre.body #body tabindex="0" { (outside_text(&pretty)) } }
            (Some(text), _) => { pre.body #body tabindex="0" { (outside_text(text)) } }
            (None, _) => { pre.body.hex #body tabindex="0" { (hex_dump(body)) } }
        }
        @if is_cut {
            p.note { "The first " (bytes(i64::try_from(body.len()).unwrap_or(0))) " of " (bytes(loaded.trail.bytes)) "." }
        }
    }
}

/// The deepest JSON that is formatted, and the most bytes of the result. An indent for each level would make a small body
/// of brackets larger than memory.
const MAX_PRETTY_DEPTH: usize = 64;
const MAX_PRETTY_BYTES: usize = 1 << 20;

/// Formats JSON without changing its numbers or the order of its keys. `None`: it is no JSON, too deep or too long.
fn pretty_json(text: &str) -> Option<String> {
    serde_json::from_str::<serde::de::IgnoredAny>(text).ok()?;
    let mut pretty = String::with_capacity(text.len() * 2);
    let (mut depth, mut is_string, mut is_escaped) = (0_usize, false, false);
    let mut chars = text.trim().chars().peekable();
    let indent = |pretty: &mut String, depth: usize| {
        pretty.push('\n');
        pretty.extend(std::iter::repeat_n("  ", depth));
    };
    while let Some(c) = chars.next() {
        if pretty.len() > MAX_PRETTY_BYTES {
            return None;
        }
        if is_string {
            pretty.push(c);
            (is_string, is_escaped) = (is_escaped || c != '"', c == '\\' && !is_escaped);
            continue;
        }
        match c {
            '"' => {
                is_string = true;
                pretty.push(c);
            }
            '{' | '[' => {
                while chars.next_if(|next| next.is_ascii_whitespace()).is_some() {}
                pretty.push(c);
                match chars.next_if(|next| matches!(next, '}' | ']')) {
                    Some(end) => pretty.push(end),
                    None => {
                        depth += 1;
                        if depth > MAX_PRETTY_DEPTH {
                            return None;
                        }
                        indent(&mut pretty, depth);
                    }
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                indent(&mut pretty, depth);
                pretty.push(c);
            }
            ',' => {
                pretty.push(c);
                indent(&mut pretty, depth);
            }
            ':' => pretty.push_str(": "),
            c if c.is_ascii_whitespace() => {}
            c => pretty.push(c),
        }
    }
    Some(pretty)
}

/// The first bytes of a body that is not text.
fn hex_dump(bytes: &[u8]) -> String {
    let mut dump = String::new();
    for (index, row) in bytes.chunks(16).take(256).enumerate() {
        let _ = write!(dump, "{:08x} ", index * 16);
        for byte in row {
            let _ = write!(dump, " {byte:02x}");
        }
        let shown =
            row.iter().map(|&byte| if byte.is_ascii_graphic() { char::from(byte) } else { '.' });
        let _ = write!(dump, "{:1$}", "", (16 - row.len()) * 3 + 2);
        dump.extend(shown);
        dump.push('\n');
    }
    dump
}

/// Headers that curl makes itself, or that belong to one connection.
const CURL_HEADERS: [&str; 8] = [
    "host",
    "content-length",
    "connection",
    "accept-encoding",
    "transfer-encoding",
    "user-agent",
    "accept",
    "expect",
];

/// The command that sends the request again. The body comes from a file, which may have any bytes.
fn curl_command(event: &Event, config: &Config) -> String {
    let base = config.server.listen.iter().find_map(|listener| match &listener.address {
        Listen::Tcp(address) if listener.tls => Some(format!("https://{address}")),
        Listen::Tcp(address) => Some(format!("http://{address}")),
        Listen::Unix(_) => None,
    });
    let base = base.unwrap_or_else(|| "http://127.0.0.1:8080".to_owned());
    let mut command = format!(
        "curl --globoff -X {} {}",
        quote(&event.method),
        quote(&format!("{base}{}", request_target(event)))
    );
    for (name, value) in &event.headers.0 {
        if CURL_HEADERS.contains(&name.as_str()) {
            continue;
        }
        let header = format!("{name}: {}", String::from_utf8_lossy(value));
        let _ = write!(command, " \\\n  -H {}", quote(&header));
    }
    let _ = write!(command, " \\\n  --data-binary @event-{}.body", event.id);
    command
}

/// Quotes a text for a shell.
fn quote(text: &str) -> String {
    format!("'{}'", outside_text(text).replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_formatted_without_changing_its_numbers_or_keys() {
        for (text, pretty) in [
            (
                r#"{"b":1e999,"a":[1.0,{}], "c" : "x\",:{" }"#,
                "{\n  \"b\": 1e999,\n  \"a\": [\n    1.0,\n    {}\n  ],\n  \"c\": \"x\\\",:{\"\n}",
            ),
            ("[ ]", "[]"),
            ("\"a\"", "\"a\""),
            (r#"["\\",1]"#, "[\n  \"\\\\\",\n  1\n]"),
        ] {
            assert_eq!(pretty_json(text).as_deref(), Some(pretty), "{text}");
        }
        let deep = ["[".repeat(12_000), "]".repeat(12_000)].concat();
        let long = format!("[{}1]", "1,".repeat(400_000));
        for text in ["", "{", "text", "{} {}", &deep, &long] {
            assert_eq!(pretty_json(text), None, "{}", &text[..text.len().min(20)]);
        }
    }

    #[test]
    fn a_shell_gets_each_argument_in_one_piece() {
        assert_eq!(quote("it's; rm -rf"), r"'it'\''s; rm -rf'");
    }

    #[test]
    fn bytes_are_shown_as_a_hex_dump() {
        assert_eq!(
            hex_dump(b"\x00A"),
            "00000000  00 41                                            .A\n"
        );
    }
}
