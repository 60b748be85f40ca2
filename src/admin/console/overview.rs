//! The overview: what is wrong, the handlers, the sources, and the disk.

use std::collections::HashMap;
use std::sync::Arc;

use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse};
use maud::{Markup, html};

use super::layout::Page;
use super::parts::{age, badge, bars, colored_count, count, duration, line, optional_time};
use crate::admin::Admin;
use crate::admin::access::{self, load_key};
use crate::admin::api::lists::{load_handlers, load_sources};
use crate::admin::api::rows::{HandlerRow, SourceRow};
use crate::admin::problem::Problem;
use crate::clock;
use crate::numbers::format_megabytes;
use crate::problems;
use crate::store::stats::{self, DatabaseSummary, MinuteStats};
use crate::store::{self, Connection};

/// Minutes of a sparkline.
const MINUTES: usize = 60;

/// The counts of each minute of the last hour, for one name.
#[derive(Clone, Debug)]
struct Minutes {
    good: Vec<i64>,
    bad: Vec<i64>,
    duration_ms: Vec<i64>,
}

impl Default for Minutes {
    fn default() -> Self {
        let zeros = || vec![0; MINUTES];
        Self { good: zeros(), bad: zeros(), duration_ms: zeros() }
    }
}

impl Minutes {
    fn collect(
        rows: &[MinuteStats],
        counts: impl Fn(&MinuteStats) -> (i64, i64),
    ) -> HashMap<String, Self> {
        let mut by_name: HashMap<String, Self> = HashMap::new();
        for row in rows.iter().filter(|row| row.index < MINUTES) {
            let minutes = by_name.entry(row.name.clone()).or_default();
            let (good, bad) = counts(row);
            minutes.good[row.index] += good;
            minutes.bad[row.index] += bad;
            minutes.duration_ms[row.index] += row.duration_ms;
        }
        by_name
    }

    /// The mean duration of the attempts of each minute that has some.
    fn mean_durations(&self) -> Vec<Option<i64>> {
        let mean = |index: usize| {
            let attempts = self.good[index] + self.bad[index];
            (attempts > 0).then(|| self.duration_ms[index] / attempts)
        };
        (0..MINUTES).map(mean).collect()
    }

    fn mean_duration(&self) -> Option<i64> {
        let attempts: i64 = self.good.iter().chain(&self.bad).sum();
        (attempts > 0).then(|| self.duration_ms.iter().sum::<i64>() / attempts)
    }
}

/// What the page shows.
struct Loaded {
    handlers: Vec<HandlerRow>,
    sources: Vec<SourceRow>,
    summary: DatabaseSummary,
    problems: Vec<String>,
    /// The counts of the minutes: of the sources, and of the handlers.
    minutes: [Vec<MinuteStats>; 2],
}

async fn load(admin: &Arc<Admin>) -> Result<Loaded, Problem> {
    let (handlers, sources) = (load_handlers(admin).await?, load_sources(admin).await?);
    let config = admin.config.load_full();
    let read = move |admin: &Admin, conn: &Connection| {
        let summary = stats::load_summary(conn, admin.clock)?;
        let mut problems = problems::find_in_database(conn, admin.clock, &config, &summary)?;
        problems.extend(problems::find_on_disk(&config.store));
        Ok((summary, problems, stats::load_minutes(conn, admin.clock)?))
    };
    let (summary, problems, minutes) = admin.run(read).await?;
    Ok(Loaded { handlers, sources, summary, problems, minutes })
}

/// Shows the overview.
pub async fn page(admin: Data<Admin>, request: HttpRequest) -> Result<HttpResponse, Problem> {
    let client = access::client(&request)?;
    let loaded = admin.share(&client, &load_key(&request), load(&admin)).await?;
    let Loaded { handlers, sources, summary, problems, minutes } = &*loaded;
    let mut all_problems: Vec<String> = admin
        .intake
        .unavailable_reason()
        .map(|reason| format!("senders get 503: {}", reason.text()))
        .into_iter()
        .collect();
    all_problems.extend(admin.reader_states.problems());
    all_problems.extend(problems.iter().cloned());
    let handler_minutes = Minutes::collect(&minutes[1], |row| (row.succeeded, row.unsuccessful));
    let source_minutes = Minutes::collect(&minutes[0], |row| (row.events, row.rejections));
    let content = html! {
        (render_problems(&all_problems))
        (render_numbers(&admin, summary))
        h2 { "Handlers" }
        (render_handlers(handlers, &handler_minutes))
        h2 { "Sources" }
        (render_sources(sources, &source_minutes))
    };
    Ok(Page { client: &client, title: "Overview".to_owned(), section: "/", content, is_live: true }
        .response())
}

fn render_problems(problems: &[String]) -> Markup {
    html! {
        @if !problems.is_empty() {
            section.problems aria-label="Problems" {
                @for problem in problems {
                    p { strong { "Problem: " } (problem) }
                }
            }
        }
    }
}

fn render_numbers(admin: &Admin, summary: &DatabaseSummary) -> Markup {
    let config = &admin.config.load().store;
    let now_ms = clock::wall_ms();
    let size = store::database_bytes(&config.path).unwrap_or(0);
    let oldest = summary.oldest_queued_at_ms.map(|at| age(&clock::format_rfc3339(at), now_ms));
    let numbers: [(&str, String, &str); 7] = [
        ("Queued", count(summary.queued()), "/events?state=queued"),
        ("Running", count(summary.running), "/events?state=running"),
        ("Dead", count(summary.dead), "/failures"),
        ("Oldest queued job", oldest.unwrap_or_else(|| "–".to_owned()), ""),
        ("Database", format_megabytes(size), ""),
        ("Write-ahead log", format_megabytes(store::wal_bytes(&config.path)), ""),
        (
            "Free disk space",
            problems::free_bytes(config).map_or_else(|| "–".to_owned(), format_megabytes),
            "",
        ),
    ];
    html! {
        dl.numbers {
            @for (name, value, link) in &numbers {
                div {
                    dt { (name) }
                    dd {
                        @if link.is_empty() { (value) } @else { a href=(link) { (value) } }
                    }
                }
            }
        }
    }
}

fn render_handlers(handlers: &[HandlerRow], minutes: &HashMap<String, Minutes>) -> Markup {
    let now_ms = clock::wall_ms();
    let none = Minutes::default();
    html! {
        @if handlers.is_empty() {
            p.empty { "No handlers. Add one to config.toml: " code { "[handlers.NAME]" } " with its sources and a command." }
        } @else {
            div.scroll {
                table {
                    thead { tr {
                        th { "Handler" } th { "State" } th.n { "Queued" } th.n { "Running" } th.n { "Dead" }
                        th { "Oldest" } th { "Attempts, last hour" } th { "Duration, last hour" }
                    } }
                    tbody {
                        @for row in handlers {
                            @let minutes = minutes.get(&row.handler).unwrap_or(&none);
                            tr id={ "handler-" (row.handler) } {
                                th scope="row" { a href={ "/handlers#handler-" (row.handler) } { (row.handler) } }
                                td { (handler_state(row)) }
                                td.n { (link_count(row.queued, &row.handler, "queued", "")) }
                                td.n { (link_count(row.running, &row.handler, "running", "")) }
                                td.n { (link_count(row.dead, &row.handler, "dead", "bad")) }
                                td { (row.oldest_at.as_deref().map_or_else(|| "–".to_owned(), |at| age(at, now_ms))) }
                                td {
                                    (bars(&minutes.good, &minutes.bad, &format!(
                                        "{} succeeded, {} did not, in the last hour",
                                        count(row.succeeded_last_hour), count(row.unsuccessful_last_hour))))
                                    span.beside {
                                        (count(row.succeeded_last_hour))
                                        @if row.unsuccessful_last_hour > 0 {
                                            " " span.bad { (count(row.unsuccessful_last_hour)) " failed" }
                                        }
                                    }
                                }
                                td {
                                    @match minutes.mean_duration() {
                                        Some(mean) => {
                                            (line(&minutes.mean_durations(), &format!(
                                                "mean duration of an attempt in each minute, {} over the last hour", duration(mean))))
                                            span.beside { (duration(mean)) }
                                        }
                                        None => { span.muted { "–" } }
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn link_count(number: i64, handler: &str, state: &str, class: &str) -> Markup {
    match number {
        0 => colored_count(0, class),
        number => html! {
            a class=(class) href={ "/events?handler=" (handler) "&state=" (state) } { (count(number)) }
        },
    }
}

/// Whether a handler starts jobs.
pub fn handler_state(row: &HandlerRow) -> Markup {
    html! {
        @if !row.configured {
            span.badge.dead title="Its queued jobs wait until it is in config.toml again, or is cancelled." { "not in config.toml" }
        } @else if row.paused {
            (badge("paused"))
        } @else if let Some(until) = &row.breaker_open_until {
            span.badge.dead { "breaker open" } " until " (optional_time(Some(until)))
        } @else {
            (badge("active"))
        }
    }
}

fn render_sources(sources: &[SourceRow], minutes: &HashMap<String, Minutes>) -> Markup {
    let none = Minutes::default();
    html! {
        @if sources.is_empty() {
            p.empty { "No sources. Add one to config.toml: " code { "[sources.NAME]" } "." }
        } @else {
            div.scroll {
                table {
                    thead { tr {
                        th { "Source" } th { "Path or stream" } th { "Last event" } th.n { "Rejected" } th { "Events, last hour" }
                    } }
                    tbody {
                        @for row in sources {
                            @let minutes = minutes.get(&row.source).unwrap_or(&none);
                            tr id={ "source-" (row.source) } {
                                th scope="row" { a href={ "/events?source=" (row.source) } { (row.source) } }
                                td {
                                    @match (&row.path, &row.stream) {
                                        (Some(path), _) => { code { (path) } }
                                        (None, Some(stream)) => { "stream " code { (stream) } }
                                        (None, None) => { span.muted { "not in config.toml" } }
                                    }
                                }
                                td { (optional_time(row.last_event_at.as_deref())) }
                                td.n {
                                    @if row.rejected_last_hour > 0 {
                                        a.bad href={ "/rejections?source=" (row.source) } { (count(row.rejected_last_hour)) }
                                    } @else { (colored_count(0, "")) }
                                }
                                td {
                                    (bars(&minutes.good, &minutes.bad, &format!(
                                        "{} events, {} rejected, in the last hour",
                                        count(row.events_last_hour), count(row.rejected_last_hour))))
                                    span.beside { (count(row.events_last_hour)) }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}
