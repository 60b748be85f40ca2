//! `verify`: checks the database or a backup.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use serde_json::json;

use super::output;
use super::progress::{Interruption, ProgressLine};
use super::{ExitError, open_store};
use crate::config::LoadedConfig;
use crate::store::verify::{self, CHECKS, Problem};

/// Arguments of `verify`.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// A backup. Default: the database, also while a server uses it
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
}

/// Checks a database and prints the problems. Exits with 1 if there are any.
pub fn verify(loaded: &LoadedConfig, args: &VerifyArgs) -> Result<(), ExitError> {
    let (conn, path) = match &args.file {
        Some(file) => {
            (verify::open(file).with_context(|| format!("{}", file.display()))?, file.clone())
        }
        None => {
            let store = open_store(loaded)?;
            (store.conn, store.path)
        }
    };
    let interruption = Interruption::watch()?;
    let mut line = ProgressLine::new();
    let mut problems = Vec::new();
    let mut is_damaged = false;
    for (index, check) in CHECKS.iter().enumerate() {
        if interruption.control_flow().is_break() || is_damaged {
            break;
        }
        line.update(|| format!("check {} of {}: {}", index + 1, CHECKS.len(), check.name));
        let found = check.run(&conn).with_context(|| format!("{}", path.display()))?;
        // The other checks would report the same damage again.
        is_damaged = index == 0 && found.is_some();
        problems.extend(found);
    }
    line.clear();
    if interruption.control_flow().is_break() {
        return Err(super::user_error("interrupted: the database is not verified"));
    }
    print(&path.display().to_string(), &problems, args.json)?;
    match problems.is_empty() {
        true => Ok(()),
        false => Err(ExitError { code: 1, text: String::new() }),
    }
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
                format!(" and {} more", output::group_digits(more as u64))
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
