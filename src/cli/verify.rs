//! `verify`: checks the database or a backup.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use serde_json::json;

use super::output;
use super::progress::{Interruption, ProgressLine};
use super::{ExitError, open_store};
use crate::clock;
use crate::config::LoadedConfig;
use crate::numbers;
use crate::process;
use crate::store::seal::{self, HeadSummary, SealHead};
use crate::store::verify::{self, CHECKS, Problem};

/// Arguments of `verify`.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// A backup. Default: the database, also while a server uses it
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// Print the head of the sealed trail, to be kept elsewhere, and check nothing
    #[arg(long, conflicts_with = "against")]
    head: bool,
    /// Also check that the trail contains this output of an earlier `verify --head`; can be repeated
    #[arg(long, value_name = "HEAD")]
    against: Vec<SealHead>,
    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
}

/// Checks a database and prints the problems. Exits with 1 if there are any.
pub fn verify(loaded: &LoadedConfig, args: &VerifyArgs) -> Result<(), ExitError> {
    let path = args.file.as_ref().unwrap_or(&loaded.config.store.path).display().to_string();
    let open = || match &args.file {
        Some(file) => verify::open(file),
        None => Ok(open_store(loaded).map_err(|error| anyhow::anyhow!(error.text))?.conn),
    };
    // The first error of a database that cannot be opened is printed once.
    let first = match &args.file {
        Some(_) => open().with_context(|| path.clone())?,
        None => open_store(loaded)?.conn,
    };
    if args.head {
        return print_head(&seal::load_head(&first)?, args.json);
    }
    process::lower_priority();
    let interruption = Interruption::watch()?;
    let mut line = ProgressLine::new();
    let found = verify::run_all(first, open, &args.against, &mut |begun| {
        let name =
            begun.checked_sub(1).and_then(|last| CHECKS.get(last)).map_or("", |check| check.name);
        line.update(|| format!("check {begun} of {}: {name}", CHECKS.len()));
        interruption.control_flow()
    });
    line.clear();
    let found = found.with_context(|| path.clone())?;
    if interruption.control_flow().is_break() {
        return Err(super::user_error("interrupted: the database is not verified"));
    }
    print(&path, &found, args.json)?;
    match found.is_empty() {
        true => Ok(()),
        false => Err(ExitError { code: 1, text: String::new() }),
    }
}

/// Prints the head on one line, which is the argument of `--against`.
fn print_head(summary: &HeadSummary, as_json: bool) -> Result<(), ExitError> {
    let HeadSummary { head, sealed_at_ms, events, outcomes, rejections } = summary;
    let mut out = output::stdout();
    if as_json {
        let line = json!({
            "head": head.to_string(),
            "at": sealed_at_ms.map(clock::format_rfc3339),
            "events": events,
            "outcomes": outcomes,
            "rejections": rejections,
        });
        writeln!(out, "{}", output::json_line(&line))?;
    } else {
        writeln!(out, "{head}")?;
    }
    Ok(out.flush()?)
}

fn print(path: &str, problems: &[Problem], as_json: bool) -> Result<(), ExitError> {
    let mut out = output::stdout();
    for Problem { text, count, rows } in problems {
        if as_json {
            let line = json!({"problem": text, "count": count, "rows": rows});
            writeln!(out, "{}", output::json_line(&line))?;
        } else {
            let more = count - rows.len();
            let more = if more > 0 {
                format!(" and {} more", numbers::group_digits(more as u64))
            } else {
                String::new()
            };
            writeln!(out, "{text}: {}{more}", rows.join(", "))?;
        }
    }
    if problems.is_empty() && !as_json {
        writeln!(out, "{path}: verified, nothing is wrong")?;
    }
    Ok(out.flush()?)
}
