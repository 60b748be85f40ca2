//! `check`, `init`, `run`: what is needed before and beside a server.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::{ExitError, dry_run, open_store, output, runtime_error, user_error};
use crate::config::{
    self, Config, ConfigErrors, EMBEDDED, EMBEDDED_HANDLERS, Listen, LoadedConfig,
};
use crate::store::{Store, rescue, stats};

/// Says what is wrong, where each source listens, and what the trail knows that the file does not.
pub fn check(loaded: &LoadedConfig, event: Option<i64>) -> Result<(), ExitError> {
    let config = &loaded.config;
    let mut out = output::stdout();
    let (secrets, _) = config::read_secrets(loaded);
    let (faults, elsewhere) = config::check_secrets(loaded);
    for warning in &loaded.warnings {
        writeln!(out, "warning: {warning}").map_err(runtime_error)?;
    }
    for warning in config::secret_warnings(loaded, &secrets).iter().chain(&elsewhere) {
        writeln!(out, "warning: {warning}").map_err(runtime_error)?;
    }
    if !faults.is_empty() {
        return Err(ExitError { code: 78, text: ConfigErrors(faults).to_string() });
    }
    for source in &config.sources {
        for listen in &config.server.listen {
            let at = match listen {
                Listen::Tcp(address) => format!("http://{address}{}", source.path),
                Listen::Unix(path) => format!("unix:{} {}", path.display(), source.path),
            };
            writeln!(out, "source {}: {at}", source.name).map_err(runtime_error)?;
        }
    }
    if config.store.path.exists() {
        // Of a trail that this user may not open, or that the server has yet to bring up, the
        // configuration is none the worse.
        let lines = open_store(loaded).and_then(|store| orphaned_queue_warnings(&store, config));
        for line in lines.unwrap_or_else(|failure| vec![failure.text]) {
            writeln!(out, "warning: {line}").map_err(runtime_error)?;
        }
    }
    if let Err(refusal) = rescue::check_configured_path(&config.store.path) {
        writeln!(out, "warning: {refusal}").map_err(runtime_error)?;
    }
    if let Some(event) = event {
        dry_run::print_matching_handlers(&mut out, loaded, event)?;
    }
    writeln!(out, "{}: no faults", config.file.display()).map_err(runtime_error)
}

/// Handlers that config.toml no longer names although jobs wait for them, a line each.
pub fn orphaned_queue_warnings(store: &Store, config: &Config) -> Result<Vec<String>, ExitError> {
    let queued = stats::queued_by_handler(&store.conn).map_err(runtime_error)?;
    let gone = |name: &str| config.handlers.iter().all(|handler| handler.name != name);
    let line = |(name, jobs): (&String, &i64)| {
        format!(
            "{jobs} queued jobs of handler {name}, which is not configured: they wait until it is, \
             or `hooktrail cancel --handler {name}`"
        )
    };
    let mut lines: Vec<String> = queued.iter().filter(|entry| gone(entry.0)).map(line).collect();
    lines.sort();
    Ok(lines)
}

/// Writes config.toml and the handlers it names; never overwrites.
pub fn init(config: Option<&Path>) -> Result<(), ExitError> {
    let config = config.map_or_else(|| PathBuf::from("config.toml"), Path::to_owned);
    let folder = config.parent().map(Path::to_owned).unwrap_or_default();
    let mut files = vec![(config, EMBEDDED, 0o644)];
    for (path, text) in EMBEDDED_HANDLERS {
        files.push((folder.join(path), text, 0o755));
    }
    let there: Vec<String> = files
        .iter()
        .filter(|(path, _, _)| path.symlink_metadata().is_ok())
        .map(|(path, _, _)| format!("{}: is there already, and is not overwritten", path.display()))
        .collect();
    if !there.is_empty() {
        return Err(user_error(there.join("\n")));
    }
    for (path, text, mode) in &files {
        write_new(path, text, *mode)
            .map_err(|e| user_error(format!("{}: can't be written: {e}", path.display())))?;
        writeln!(output::stdout(), "wrote {}", path.display()).map_err(runtime_error)?;
    }
    writeln!(output::stdout(), "`hooktrail` serves it; `hooktrail check` finds faults in it")
        .map_err(runtime_error)
}

fn write_new(path: &Path, text: &str, mode: u32) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(text.as_bytes())?;
    file.set_permissions(fs::Permissions::from_mode(mode))
}
