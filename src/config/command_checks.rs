//! What `check` warns of although it is no fault: a program that can't be started now may be
//! installed a moment later, a folder made or given away.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, accessat};

use super::error::{Diagnostics, Location};
use super::toml_reader::TomlTable;
use super::{EnvValue, Handler, Mode, parse};

pub(super) fn warn_about_command(table: &TomlTable<'_>, handler: &Handler) {
    if !handler.command.is_empty() {
        warn_about_program(table, handler);
        warn_about_script(table, handler);
        warn_about_directory(table, handler);
    }
}

fn warn_about_program(table: &TomlTable<'_>, handler: &Handler) {
    let (Some(program), Some(value)) = (handler.command.first(), table.get("command")) else {
        return;
    };
    let shown = parse::quote(program);
    let reason = if program.contains('/') {
        let remedy = match check_executable(Path::new(program)) {
            ProgramCheck::Executable => return,
            ProgramCheck::NotExecutable => format!("is not executable: chmod +x {program}"),
            ProgramCheck::Missing => "does not exist: expected a program".to_owned(),
        };
        format!("names {shown}, which {remedy}")
    } else if in_path(program, handler) {
        return;
    } else {
        format!("names {shown}, which is not in PATH: install it, or write its path with a slash")
    };
    value.warn(reason);
}

/// What a CGI program is to run is seen by nobody but that program, which may say little.
fn warn_about_script(table: &TomlTable<'_>, handler: &Handler) {
    let [_, .., script] = handler.command.as_slice() else { return };
    if handler.mode == Mode::Cgi
        && !handler.directory.join(script).is_file()
        && let Some(value) = table.get("command")
    {
        let shown = parse::quote(script);
        value.warn(format!("ends with {shown}, which does not exist: expected a script"));
    }
}

enum ProgramCheck {
    Executable,
    NotExecutable,
    Missing,
}

/// By the file's mode, since `check` is often run by another user than the server.
fn check_executable(program: &Path) -> ProgramCheck {
    match program.metadata() {
        Ok(file) if file.is_file() && file.permissions().mode() & 0o111 != 0 => {
            ProgramCheck::Executable
        }
        Ok(file) if file.is_file() => ProgramCheck::NotExecutable,
        _ => ProgramCheck::Missing,
    }
}

fn in_path(program: &str, handler: &Handler) -> bool {
    let own = handler.env.iter().find(|(name, _)| name == "PATH");
    let path = match own {
        Some((_, EnvValue::Text(path))) => path.into(),
        // Not to be read here.
        Some((_, EnvValue::Secret(_))) => return true,
        None => std::env::var_os("PATH").unwrap_or_default(),
    };
    let found = |folder: PathBuf| {
        matches!(check_executable(&folder.join(program)), ProgramCheck::Executable)
    };
    std::env::split_paths(&path).any(|folder| found(handler.directory.join(folder)))
}

/// Only who runs it can tell whether a folder may be written to: modes are not all there is to it
/// (`ProtectSystem=`), so this asks for the user that `check` runs as.
fn warn_about_directory(table: &TomlTable<'_>, handler: &Handler) {
    let folder = &handler.directory;
    let at = table.get("directory").map_or(table.at, |value| value.at);
    let shown = parse::quote(&folder.to_string_lossy());
    let key = format!("{}.directory", table.key);
    if !folder.is_dir() {
        table.log.warn(at, format!("{key} is {shown}: no such folder"));
    } else if accessat(CWD, folder, Access::WRITE_OK, AtFlags::EACCESS).is_err() {
        let text =
            format!("{key} is {shown}, where this user can't write: a command that does fails");
        table.log.warn(at, text);
    }
}

/// Handlers that together ask for more than there is take turns, which may be what is meant.
pub(super) fn warn_about_threads(
    handlers: &[Handler],
    threads: usize,
    at: Location,
    log: &Diagnostics,
) {
    let asked: usize = handlers.iter().map(|handler| handler.concurrency).sum();
    if asked > threads {
        let text = format!(
            "workers.threads is {threads}: the handlers' concurrency adds up to {asked}: no more \
             than {threads} jobs run at once"
        );
        log.warn(at, text);
    }
}
