//! `check` and `init`: they validate and create the configuration.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::{ExitError, dry_run, open_store, output, user_error};
use crate::app;
use crate::config::{self, ConfigErrors, EMBEDDED, EMBEDDED_HANDLERS, Listen, LoadedConfig};
use crate::numbers::format_count;
use crate::problems;
use crate::store::{rescue, stats};

/// Checks the configuration. Prints warnings, the URL of each source, and with `event` the matching handlers.
pub fn check(loaded: &LoadedConfig, event: Option<i64>, is_strict: bool) -> Result<(), ExitError> {
    let config = &loaded.config;
    let mut out = output::stdout();
    let (secrets, _) = config::read_secrets(loaded);
    let (mut errors, mut file_warnings) = config::check_secrets(loaded);
    let (of_tls, tls_warnings) = config::check_tls(loaded);
    errors.extend(of_tls);
    file_warnings.extend(tls_warnings);
    let start = app::check_start(loaded);
    errors.extend(start.errors);
    let mut warnings: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
    let secret_warnings = config::secret_warnings(loaded, &secrets);
    let others = secret_warnings.iter().chain(&file_warnings).chain(&start.warnings);
    warnings.extend(others.map(ToString::to_string));
    warnings.extend(problems::low_space_problem(&config.store));
    if !errors.is_empty() {
        print_warnings(&mut out, &warnings)?;
        errors.sort_by(|a, b| (&a.file, a.line).cmp(&(&b.file, b.line)));
        return Err(ConfigErrors(errors).into());
    }
    if !rescue::is_missing(&config.store.path) && !start.is_database_denied {
        // The server may have to migrate the database first, so that it is a warning if it can't be opened.
        let queued =
            open_store(loaded).and_then(|store| Ok(stats::queued_by_handler(&store.conn)?));
        match queued {
            Ok(queued) => warnings.extend(problems::orphaned_queue_warnings(&queued, config)),
            Err(failure) => warnings.push(failure.text),
        }
    }
    print_warnings(&mut out, &warnings)?;
    for source in &config.sources {
        for listener in &config.server.listen {
            let url = match &listener.address {
                Listen::Tcp(address) if listener.tls => format!("https://{address}{}", source.path),
                Listen::Tcp(address) => format!("http://{address}{}", source.path),
                Listen::Unix(path) => format!("unix:{} {}", path.display(), source.path),
            };
            writeln!(out, "source {}: {url}", source.name)?;
        }
    }
    if let Some(event) = event {
        dry_run::print_matching_handlers(&mut out, loaded, event)?;
    }
    writeln!(out, "{}: no errors", config.file.display())?;
    match warnings.len() {
        count if is_strict && count > 0 => {
            let warnings = format_count(count, "warning");
            Err(user_error(format!("{warnings}, and --strict allows none")))
        }
        _ => Ok(()),
    }
}

fn print_warnings(out: &mut impl Write, warnings: &[String]) -> Result<(), ExitError> {
    let mut lines = warnings.iter().map(|warning| writeln!(out, "warning: {warning}"));
    Ok(lines.try_for_each(|printed| printed)?)
}

/// Writes config.toml and its handlers. Existing files are never overwritten.
pub fn init(config: Option<&Path>) -> Result<(), ExitError> {
    let config = config.map_or_else(|| PathBuf::from("config.toml"), Path::to_owned);
    let folder = config.parent().map(Path::to_owned).unwrap_or_default();
    let mut files = vec![(config, EMBEDDED, 0o644)];
    for (path, text) in EMBEDDED_HANDLERS {
        files.push((folder.join(path), text, 0o755));
    }
    let existing: Vec<String> = files
        .iter()
        .filter(|(path, _, _)| path.symlink_metadata().is_ok())
        .map(|(path, _, _)| format!("{}: already exists and is not overwritten", path.display()))
        .collect();
    if !existing.is_empty() {
        return Err(user_error(existing.join("\n")));
    }
    for (path, text, mode) in &files {
        write_new(path, text, *mode)
            .with_context(|| format!("{}: can't be written", path.display()))?;
        writeln!(output::stdout(), "wrote {}", path.display())?;
    }
    let next = "`hooktrail check` checks the configuration, `hooktrail` starts the server";
    Ok(writeln!(output::stdout(), "{next}")?)
}

fn write_new(path: &Path, text: &str, mode: u32) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(text.as_bytes())?;
    file.set_permissions(fs::Permissions::from_mode(mode))
}
