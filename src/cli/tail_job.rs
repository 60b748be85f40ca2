//! `tail JOB`: prints what a job has written, and with `-f` what its attempts write until it has ended.

use std::io::Write;
use std::ops::ControlFlow;
use std::time::Duration;

use serde_json::Value as Json;

use super::admin_client::AdminClient;
use super::output::{self, escape_line};
use super::selector_checks::unknown_job;
use super::{ExitError, user_error};
use crate::config::LoadedConfig;
use crate::domain::JobId;
use crate::domain::job::JobState;
use crate::store::queries::{self, Rows};
use crate::store::{Store, Value, event_jobs};

/// How often the state of a job is read while it waits.
const INTERVAL: Duration = Duration::from_millis(200);

/// Prints the output of a job.
pub fn tail_job(
    loaded: &LoadedConfig,
    store: &Store,
    job: i64,
    is_following: bool,
) -> Result<(), ExitError> {
    let load = || queries::load_job_state(&store.conn, job);
    let Some(mut found) = load()? else {
        return Err(user_error(unknown_job(store, job, "tail")?));
    };
    // Of the attempts that have ended, only the last one is printed.
    let mut printed = event_jobs::count_attempts(&store.conn, JobId(job))? - 1;
    let mut has_attempt = false;
    loop {
        if matches!(found, JobState::Running) {
            has_attempt = true;
            printed = print_running(loaded, job, is_following)?.unwrap_or(printed);
        } else if found.is_final() || !is_following {
            has_attempt |= print_ended(store, job, &mut printed)?;
        }
        if !is_following || found.is_final() {
            if !has_attempt {
                writeln!(output::stderr(), "job {job} has no attempt yet")?;
            }
            return Ok(());
        }
        std::thread::sleep(INTERVAL);
        found = load()?.unwrap_or(JobState::Cancelled);
    }
}

/// Prints the output of the attempt that runs now: as it comes, or what there is. Returns the number of the attempt whose
/// end was printed.
fn print_running(
    loaded: &LoadedConfig,
    job: i64,
    is_following: bool,
) -> Result<Option<i64>, ExitError> {
    let client = AdminClient::find(loaded)?;
    if !is_following {
        let output = client.call("GET", &format!("/api/v1/jobs/{job}/output"))?;
        for stream in ["stdout", "stderr"] {
            write!(output::stdout(), "{}", output[stream].as_str().unwrap_or_default())?;
        }
        return Ok(None);
    }
    let (mut failed, mut ended) = (None, None);
    client.follow(&format!("/api/v1/jobs/{job}/output?follow=1"), &mut |name, data| {
        let data: Json = serde_json::from_str(data).unwrap_or_default();
        let text = data.as_str().unwrap_or_default();
        let written = match name {
            "stdout" => write!(output::stdout(), "{text}"),
            "stderr" => write!(output::stderr(), "{text}"),
            _ => {
                ended = data["attempt"].as_i64();
                print_end(&data)
            }
        };
        match written {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        }
    })?;
    failed.map_or(Ok(ended), |error| Err(error.into()))
}

/// Says on stderr how an attempt ended.
fn print_end(end: &Json) -> std::io::Result<()> {
    let field = |name: &str| end[name].as_str().map(escape_line);
    match (field("outcome"), field("detail")) {
        (Some(outcome), Some(detail)) => writeln!(output::stderr(), "{outcome}: {detail}"),
        _ => Ok(()),
    }
}

/// Prints the stored outputs of the attempts that have ended since the last one that was printed. Returns whether there
/// is one.
fn print_ended(store: &Store, job: i64, printed: &mut i64) -> Result<bool, ExitError> {
    let before = *printed;
    loop {
        let rows = event_jobs::load_attempts(&store.conn, JobId(job), *printed, 1)?;
        let Some(row) = rows.rows.first() else { return Ok(*printed > before) };
        print_attempt(&rows, row)?;
        if let Some(Value::Integer(attempt)) = row.get(1) {
            *printed = *attempt;
        }
    }
}

fn print_attempt(rows: &Rows, row: &[Value]) -> Result<(), ExitError> {
    let value = |name: &str| {
        let index = rows.columns.iter().position(|column| column == name);
        index.and_then(|index| row.get(index))
    };
    for name in ["stdout", "stderr"] {
        if let Some(Value::Blob(bytes)) = value(name) {
            let text = String::from_utf8_lossy(bytes);
            match name {
                "stdout" => write!(output::stdout(), "{text}")?,
                _ => write!(output::stderr(), "{text}")?,
            }
        }
    }
    let text = |name: &str| match value(name) {
        Some(Value::Text(text)) => escape_line(text),
        _ => String::new(),
    };
    Ok(writeln!(output::stderr(), "{}: {}", text("outcome"), text("detail"))?)
}
