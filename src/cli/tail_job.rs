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
use crate::store::{Store, Value, event_jobs, queries};

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
    let mut has_printed = false;
    loop {
        if matches!(found, JobState::Running) {
            print_running(loaded, job, is_following)?;
            has_printed = true;
        } else if !has_printed && (found.is_final() || !is_following) {
            print_last_attempt(store, job)?;
        }
        if !is_following || found.is_final() {
            return Ok(());
        }
        std::thread::sleep(INTERVAL);
        found = load()?.unwrap_or(JobState::Cancelled);
    }
}

/// Prints the output of the attempt that runs now: as it comes, or what there is.
fn print_running(loaded: &LoadedConfig, job: i64, is_following: bool) -> Result<(), ExitError> {
    let client = AdminClient::find(loaded)?;
    if !is_following {
        let output = client.call("GET", &format!("/api/v1/jobs/{job}/output"))?;
        for stream in ["stdout", "stderr"] {
            write!(output::stdout(), "{}", output[stream].as_str().unwrap_or_default())?;
        }
        return Ok(());
    }
    let mut failed = None;
    client.follow(&format!("/api/v1/jobs/{job}/output?follow=1"), &mut |name, data| {
        let data: Json = serde_json::from_str(data).unwrap_or_default();
        let text = data.as_str().unwrap_or_default();
        let written = match name {
            "stdout" => write!(output::stdout(), "{text}"),
            "stderr" => write!(output::stderr(), "{text}"),
            _ => print_end(&data),
        };
        match written {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        }
    })?;
    failed.map_or(Ok(()), |error| Err(error.into()))
}

/// Says on stderr how an attempt ended.
fn print_end(end: &Json) -> std::io::Result<()> {
    let field = |name: &str| end[name].as_str().map(escape_line);
    match (field("outcome"), field("detail")) {
        (Some(outcome), Some(detail)) => writeln!(output::stderr(), "{outcome}: {detail}"),
        _ => Ok(()),
    }
}

/// Prints the stored output of the last attempt.
fn print_last_attempt(store: &Store, job: i64) -> Result<(), ExitError> {
    let rows = event_jobs::load_last_attempt(&store.conn, JobId(job))?;
    let Some(row) = rows.rows.first() else {
        return Ok(writeln!(output::stderr(), "job {job} has no attempt yet")?);
    };
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
