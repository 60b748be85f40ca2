//! Warnings about commands. They are not errors, as a program may be installed or a folder created
//! a moment later.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, accessat};

use super::error::{Diagnostics, Location};
use super::toml_reader::TomlTable;
use super::{Command, EnvValue, Handler, Mode, parse};

pub(super) fn warn_about_command(table: &TomlTable<'_>, command: &Command) {
    if !command.args.is_empty() {
        warn_about_program(table, command);
        warn_about_script(table, command);
        warn_about_directory(table, command);
    }
}

fn warn_about_program(table: &TomlTable<'_>, command: &Command) {
    let (Some(program), Some(value)) = (command.args.first(), table.get("command")) else {
        return;
    };
    let quoted = parse::quote(program);
    let reason = if program.contains('/') {
        let remedy = match check_executable(Path::new(program)) {
            ProgramCheck::Executable => return,
            ProgramCheck::NotExecutable => format!("is not executable: chmod +x {program}"),
            ProgramCheck::Missing => "does not exist: expected a program".to_owned(),
        };
        format!("names {quoted}, which {remedy}")
    } else if is_in_path(program, command) {
        return;
    } else {
        format!("names {quoted}, which is not in PATH: install it, or write its path with a slash")
    };
    value.warn(reason);
}

/// Warns about a missing CGI script: only the interpreter would report it, and may say little.
fn warn_about_script(table: &TomlTable<'_>, command: &Command) {
    let [_, .., script] = command.args.as_slice() else { return };
    if command.mode == Mode::Cgi
        && !command.directory.join(script).is_file()
        && let Some(value) = table.get("command")
    {
        let quoted = parse::quote(script);
        value.warn(format!("ends with {quoted}, which does not exist: expected a script"));
    }
}

enum ProgramCheck {
    Executable,
    NotExecutable,
    Missing,
}

/// Checks a program by the file's mode, as `check` often runs as another user than the server.
fn check_executable(program: &Path) -> ProgramCheck {
    match program.metadata() {
        Ok(file) if file.is_file() && file.permissions().mode() & 0o111 != 0 => {
            ProgramCheck::Executable
        }
        Ok(file) if file.is_file() => ProgramCheck::NotExecutable,
        _ => ProgramCheck::Missing,
    }
}

fn is_in_path(program: &str, command: &Command) -> bool {
    let path_variable = command.env.iter().find(|(name, _)| name == "PATH");
    let path = match path_variable {
        Some((_, EnvValue::Text(path))) => path.into(),
        // `check` does not read secrets of the environment.
        Some((_, EnvValue::Secret(_))) => return true,
        None => std::env::var_os("PATH").unwrap_or_default(),
    };
    let is_found = |folder: PathBuf| {
        matches!(check_executable(&folder.join(program)), ProgramCheck::Executable)
    };
    std::env::split_paths(&path).any(|folder| is_found(command.directory.join(folder)))
}

/// Warns about a folder that this user can't write to. A file mode does not decide that alone
/// (`ProtectSystem=`), so this asks the system, for the user who runs `check`.
fn warn_about_directory(table: &TomlTable<'_>, command: &Command) {
    let folder = &command.directory;
    let at = table.get("directory").map_or(table.at, |value| value.at);
    let quoted = parse::quote(&folder.to_string_lossy());
    let key = format!("{}.directory", table.key);
    if !folder.is_dir() {
        table.log.warn(at, format!("{key} is {quoted}: no such folder"));
    } else if accessat(CWD, folder, Access::WRITE_OK, AtFlags::EACCESS).is_err() {
        let text = format!(
            "{key} is {quoted}, where this user can't write: a command that writes there fails"
        );
        table.log.warn(at, text);
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
