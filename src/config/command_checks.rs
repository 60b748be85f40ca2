//! Warnings about commands. They are not errors, as a program may be installed or a folder created
//! a moment later.

use std::ffi::OsStr;
use std::path::Path;

use rustix::fs::{Access, AtFlags, CWD, accessat};

use super::error::{Diagnostics, Location};
use super::program::{self, SearchPath};
use super::toml_reader::{TomlTable, TomlValue};
use super::{CommandTarget, EnvValue, Handler, Mode, parse};

pub(super) fn warn_about_command(table: &TomlTable<'_>, command: &CommandTarget, folder: &Path) {
    if let (Some(program), Some(value)) = (command.args.first(), table.get("command")) {
        warn_about_program(&value, program, command, folder);
        warn_about_script(&value, command, &table.key);
        warn_about_directory(table, command);
    }
}

fn warn_about_program(
    value: &TomlValue<'_>,
    program: &str,
    command: &CommandTarget,
    folder: &Path,
) {
    let path_variable = command.env.iter().find(|(name, _)| name == "PATH");
    let inherited = std::env::var_os("PATH").unwrap_or_else(|| program::DEFAULT_PATH.into());
    let path = match path_variable {
        Some((_, EnvValue::Text(path))) => Some(OsStr::new(path)),
        // Loading config.toml reads no secrets.
        Some((_, EnvValue::Secret(_))) => None,
        None => Some(&*inherited),
    };
    let search = SearchPath { path, directory: &command.directory, config_folder: folder };
    let problem = match program.contains('/') {
        true => search.file_problem(Path::new(program)),
        false => search.find_problem(program),
    };
    if let Some(problem) = problem {
        value.warn(format!("names {}, which {problem}", parse::quote(program)));
    }
}

/// Warns about a missing script: only its interpreter would report it, and may say little.
fn warn_about_script(value: &TomlValue<'_>, command: &CommandTarget, key: &str) {
    let script = match (command.mode, command.args.as_slice()) {
        (Mode::Cgi, [_, .., script]) => Some(script.as_str()),
        (_, args) => program::script_argument(args),
    };
    if let Some(script) = script
        && !command.directory.join(script).is_file()
    {
        value.warn(format!(
            "names the script {}, which does not exist: its path is relative to {key}.directory",
            parse::quote(script)
        ));
    }
}

/// Warns about a missing folder, and about one that this user can't write to, unless it is the default:
/// many handlers write no files. A file mode does not decide that alone (`ProtectSystem=`), so this asks
/// the system, for the user who runs `check`.
fn warn_about_directory(table: &TomlTable<'_>, command: &CommandTarget) {
    let Some(value) = table.get("directory") else { return };
    let folder = &command.directory;
    let quoted = parse::quote(&folder.to_string_lossy());
    if !folder.is_dir() {
        value.warn(format!("is {quoted}: no such folder"));
    } else if accessat(CWD, folder, Access::WRITE_OK, AtFlags::EACCESS).is_err() {
        value.warn(format!(
            "is {quoted}, where this user can't write: a command that writes there fails"
        ));
    }
}

/// Warns about a handler that can never run as many jobs at once as its `concurrency` says. Several
/// handlers that share the threads are no warning: they take turns.
pub(super) fn warn_about_threads(
    handlers: &[Handler],
    threads: usize,
    at: Location,
    log: &Diagnostics,
) {
    for handler in handlers.iter().filter(|handler| handler.concurrency > threads) {
        let Handler { name, concurrency, .. } = handler;
        let text = format!(
            "workers.threads is {threads}, and handlers.{name}.concurrency is {concurrency}: no more \
             than {threads} jobs run at once: raise workers.threads or lower the concurrency"
        );
        log.warn(at, text);
    }
}
