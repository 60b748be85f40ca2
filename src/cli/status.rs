//! `status`: prints whether a server runs, its configuration, and its problems.

use std::io::Write;

use clap::Args;
use serde_json::{Value as Json, json};

use super::output::{self, escape_line};
use super::{ExitError, find_server, http_client, open_store};
use crate::clock;
use crate::config::LoadedConfig;
use crate::store::retention::{self, RetentionRest};
use crate::store::stats::{self, DatabaseSummary};
use crate::store::{self, LockHolder, RunState, ServerInfo};
use crate::{numbers, problems, web};

/// Exit code if something is wrong.
const WRONG: u8 = 1;

/// Exit code if no server runs.
const NOT_RUNNING: u8 = 3;

/// Arguments of `status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// The lines that `status` prints.
struct Status {
    server: Option<LockHolder>,
    is_ready: bool,
    summary: Option<DatabaseSummary>,
    wal_bytes: u64,
    free_bytes: Option<u64>,
    /// The rest of `retention`, and its end (wall clock).
    rest: Option<(RetentionRest, i64)>,
    problems: Vec<String>,
}

/// Prints the state of the server and of its database. Exits with 0 if all is well, 1 if something is
/// wrong, 3 if no server runs.
pub fn status(loaded: &LoadedConfig, args: &StatusArgs) -> Result<(), ExitError> {
    let status = collect(loaded)?;
    let mut out = output::stdout();
    match args.json {
        true => writeln!(out, "{}", output::json_line(&to_json(loaded, &status))),
        false => print(&mut out, loaded, &status),
    }
    .and_then(|()| out.flush())?;
    match (&status.server, status.problems.is_empty()) {
        (None, _) => Err(ExitError { code: NOT_RUNNING, text: String::new() }),
        (Some(_), false) => Err(ExitError { code: WRONG, text: String::new() }),
        (Some(_), true) => Ok(()),
    }
}

fn collect(loaded: &LoadedConfig) -> Result<Status, ExitError> {
    let database = &loaded.config.store.path;
    let server = find_server(database)?;
    let mut problems = Vec::new();
    let mut is_ready = false;
    match server.as_ref().map(LockHolder::info) {
        Some(Some(info)) => is_ready = check_server(info, &mut problems),
        Some(None) => problems.push("the server is starting: senders get 503".to_owned()),
        None => {}
    }
    let mut summary = None;
    let mut rest = None;
    if database.exists() {
        match open_store(loaded) {
            Ok(store) => {
                let found = stats::load_summary(&store.conn, store.clock)?;
                let found_rest = retention::load_rest(&store.conn, store.clock.now_ms())?;
                let rules = retention::load_rules(&store.conn, |source| {
                    loaded.config.retention_of(source)
                })?;
                rest = found_rest.filter(|_| !rules.is_empty()).map(|rest| {
                    let until_ms = store.clock.to_wall_ms(rest.until_ms);
                    (rest, until_ms)
                });
                problems.extend(problems::find_in_database(
                    &store.conn,
                    store.clock,
                    &loaded.config,
                    &found,
                )?);
                summary = Some(found);
            }
            Err(error) => problems.push(error.text),
        }
    }
    let wal_bytes = store::wal_bytes(database);
    let free_bytes = problems::free_bytes(&loaded.config.store);
    problems.extend(problems::find_on_disk(&loaded.config.store));
    Ok(Status { server, is_ready, summary, wal_bytes, free_bytes, rest, problems })
}

/// Checks a running server. Returns whether it accepts events now.
fn check_server(info: &ServerInfo, problems: &mut Vec<String>) -> bool {
    if let Some(at_ms) = info.reload_rejected_at_ms {
        problems.push(format!(
            "the reload at {} was rejected: the log says why (or `hooktrail check`, if the file has an error); the configuration \
             loaded at {} stays in force",
            clock::format_local(at_ms),
            clock::format_local(info.loaded_at_ms)
        ));
    }
    problems.extend(info.problems.iter().cloned());
    let mut addresses = info.admin.iter().chain(&info.intake);
    // Of the others, only their own clients can ask.
    let Some(address) = addresses.find(|address| web::speaks_plain_http(address)) else {
        return true;
    };
    match http_client::readiness(address) {
        Ok(None) => true,
        Ok(Some(reason)) => {
            problems.push(format!("the server accepts no events now: {reason}"));
            false
        }
        Err(error) => {
            problems.push(format!("the server does not respond: {error}"));
            false
        }
    }
}

fn to_json(loaded: &LoadedConfig, status: &Status) -> Json {
    let run = status.server.as_ref().and_then(|server| server.record.as_ref());
    let info = run.and_then(|run| run.server.as_ref());
    let time = |ms: i64| clock::format_rfc3339(ms);
    let summary = status.summary.as_ref();
    let breakers = summary.map(|summary| {
        let breakers = summary.open_breakers.iter();
        breakers
            .map(|(handler, until_ms)| json!({"handler": handler, "open_until": time(*until_ms)}))
            .collect::<Vec<_>>()
    });
    json!({
        "running": status.server.is_some(),
        "ready": status.is_ready,
        "pid": run.map(|run| run.pid),
        "state": run.map(|run| state_name(run.state)),
        "version": info.map(|info| &info.version),
        "started_at": info.map(|info| time(info.ready_at_ms)),
        "config": info.map_or_else(|| loaded.config.file.display().to_string(), |info| info.config.clone()),
        "config_loaded_at": info.map(|info| time(info.loaded_at_ms)),
        "listen": info.map(|info| &info.intake),
        "admin_listen": info.map(|info| &info.admin),
        "database": loaded.config.store.path.display().to_string(),
        "database_bytes": store::database_bytes(&loaded.config.store.path),
        "wal_bytes": status.wal_bytes,
        "free_bytes": status.free_bytes,
        "queued": summary.map(DatabaseSummary::queued),
        "running_jobs": summary.map(|summary| summary.running),
        "dead": summary.map(|summary| summary.dead),
        "oldest_queued_at": summary.and_then(|summary| summary.oldest_queued_at_ms).map(time),
        "paused": summary.map(|summary| &summary.paused),
        "breakers": breakers,
        "retention_rests_until": status.rest.as_ref().map(|(_, until_ms)| time(*until_ms)),
        "problems": status.problems,
    })
}

fn state_name(state: RunState) -> &'static str {
    match state {
        RunState::Starting => "starting",
        RunState::Ready => "ready",
        RunState::Failed => "failed",
        RunState::Stopped => "stopped",
    }
}

fn print(out: &mut impl Write, loaded: &LoadedConfig, status: &Status) -> std::io::Result<()> {
    let run = status.server.as_ref().and_then(|server| server.record.as_ref());
    let info = run.and_then(|run| run.server.as_ref());
    match (&status.server, run, info) {
        (None, ..) => writeln!(out, "server      not running")?,
        (Some(_), Some(run), Some(info)) => writeln!(
            out,
            "server      hooktrail {}, process {}, since {}",
            info.version,
            run.pid,
            clock::format_local(info.ready_at_ms)
        )?,
        (Some(_), Some(run), None) => {
            writeln!(out, "server      {}, process {}", state_name(run.state), run.pid)?;
        }
        (Some(_), None, _) => writeln!(out, "server      running")?,
    }
    match info {
        Some(info) => {
            let at = clock::format_local(info.loaded_at_ms);
            writeln!(out, "config      {}, loaded {at}", escape_line(&info.config))?;
            for address in &info.intake {
                writeln!(out, "listening   {}", escape_line(address))?;
            }
            for address in &info.admin {
                writeln!(out, "admin       {}", escape_line(address))?;
            }
        }
        None => writeln!(out, "config      {}", loaded.config.file.display())?,
    }
    let database = &loaded.config.store.path;
    let size = store::database_bytes(database);
    let size = size.map_or_else(|| "no database yet".to_owned(), numbers::format_megabytes);
    writeln!(
        out,
        "database    {}, {size}, log {}",
        database.display(),
        numbers::format_megabytes(status.wal_bytes)
    )?;
    if let Some(free) = status.free_bytes {
        writeln!(out, "disk        {} free", numbers::format_megabytes(free))?;
    }
    if let Some(summary) = &status.summary {
        let oldest = summary.oldest_queued_at_ms.map(clock::format_local);
        let oldest = oldest.map(|at| format!(", the oldest since {at}")).unwrap_or_default();
        let DatabaseSummary { running, dead, .. } = summary;
        let queued = summary.queued();
        writeln!(out, "jobs        {queued} queued{oldest}, {running} running, {dead} dead")?;
        if !summary.paused.is_empty() {
            writeln!(out, "paused      {}", summary.paused.join(", "))?;
        }
    }
    if let Some((rest, until_ms)) = &status.rest {
        let until = clock::format_local(*until_ms);
        writeln!(out, "retention   rests until {until}, because {}", rest.reason)?;
    }
    match status.problems.is_empty() {
        true => writeln!(out, "problems    none"),
        false => {
            status.problems.iter().try_for_each(|problem| writeln!(out, "problem     {problem}"))
        }
    }
}
