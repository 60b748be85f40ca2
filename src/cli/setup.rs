//! `check` and `init`: they validate and create the configuration.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;

use super::{ExitError, dry_run, open_store, output, user_error};
use crate::app;
use crate::config::{
    self, ConfigErrors, EMBEDDED, EMBEDDED_HANDLERS, Listen, LoadedConfig, Secrets, SourceInput,
    StreamConsumer,
};
use crate::jetstream::{ConnectionTest, NatsThread};
use crate::numbers::format_count;
use crate::problems;
use crate::store::{rescue, stats};

/// What `check` does besides reading the configuration.
pub struct CheckOptions {
    /// Print which handlers match this event.
    pub event: Option<i64>,
    /// Test the connections to NATS.
    pub connect: bool,
    /// Warnings are failures.
    pub is_strict: bool,
}

/// Checks the configuration. Prints warnings, the URL of each source, and what the options ask for.
pub fn check(loaded: &LoadedConfig, options: &CheckOptions) -> Result<(), ExitError> {
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
        let path = match &source.input {
            SourceInput::Path(path) => path,
            SourceInput::JetStream(StreamConsumer { stream, consumer, .. }) => {
                writeln!(out, "source {}: stream {stream}, consumer {consumer}", source.name)?;
                continue;
            }
        };
        for listener in &config.server.listen {
            let url = match &listener.address {
                Listen::Tcp(address) if listener.tls => format!("https://{address}{path}"),
                Listen::Tcp(address) => format!("http://{address}{path}"),
                Listen::Unix(file) => format!("unix:{} {path}", file.display()),
            };
            writeln!(out, "source {}: {url}", source.name)?;
        }
    }
    if options.connect {
        warnings.extend(test_connections(&mut out, loaded, &secrets)?);
    }
    if let Some(event) = options.event {
        dry_run::print_matching_handlers(&mut out, loaded, event)?;
    }
    writeln!(out, "{}: no errors", config.file.display())?;
    match warnings.len() {
        count if options.is_strict && count > 0 => {
            let warnings = format_count(count, "warning");
            Err(user_error(format!("{warnings}, and --strict allows none")))
        }
        _ => Ok(()),
    }
}

/// Tests the connections of all handlers and sources with `jetstream`. Prints its findings, and returns the warnings among
/// them.
fn test_connections(
    out: &mut impl Write,
    loaded: &LoadedConfig,
    secrets: &Secrets,
) -> Result<Vec<String>, ExitError> {
    let (sources, handlers) = (&loaded.config.sources, &loaded.config.handlers);
    let of_sources = sources.iter().filter_map(|source| {
        let consumer = source.consumer()?.clone();
        Some(("source", &source.name, ConnectionTest::Consumer(consumer)))
    });
    let of_handlers = handlers.iter().filter_map(|handler| {
        let target = handler.jetstream()?.clone();
        Some(("handler", &handler.name, ConnectionTest::Target(target)))
    });
    let (thread, mut warnings, mut errors) = (NatsThread::default(), Vec::new(), Vec::new());
    for (kind, name, test) in of_sources.chain(of_handlers) {
        let secret = test.nats().credentials.as_ref();
        let credentials = secret.and_then(|secret| secrets.get(secret)).map(Arc::from);
        match test.run(&thread, credentials) {
            Ok(found) => {
                writeln!(out, "{kind} {name}: {}", found.description)?;
                warnings.extend(found.warnings.iter().map(|text| format!("{kind} {name}: {text}")));
            }
            Err(problem) => {
                errors.push(loaded.error_at(&format!("{kind}s.{name}.jetstream"), 0, &problem));
            }
        }
    }
    print_warnings(out, &warnings)?;
    match errors.is_empty() {
        true => Ok(warnings),
        false => Err(user_error(ConfigErrors(errors).to_string())),
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
