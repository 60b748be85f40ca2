//! Finds the program of a handler, and inspects a program file before anything starts it: its mode,
//! and the interpreter in the first line of a script.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{StatVfsMountFlags, statvfs};

use super::parse;

/// The PATH of handlers if the server has none.
pub const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// Linux reads so much of a file to find out how to run it (BINPRM_BUF_SIZE, execve(2)).
const HEAD_BYTES: u64 = 256;

/// Programs that are often missing, and their Debian packages.
const PACKAGES: [(&str, &str); 16] = [
    ("bash", "bash"),
    ("curl", "curl"),
    ("git", "git"),
    ("jq", "jq"),
    ("lua", "lua5.4"),
    ("msmtp", "msmtp"),
    ("node", "nodejs"),
    ("perl", "perl"),
    ("php", "php-cli"),
    ("php-cgi", "php-cgi"),
    ("python3", "python3"),
    ("rsync", "rsync"),
    ("ruby", "ruby"),
    ("sqlite3", "sqlite3"),
    ("wget", "wget"),
    ("zsh", "zsh"),
];

/// Interpreters whose first argument is a script unless it begins with `-`.
const INTERPRETERS: [&str; 12] = [
    "bash", "dash", "lua", "node", "nodejs", "perl", "php", "php-cgi", "python", "ruby", "sh",
    "zsh",
];

/// Finds a program in the folders of `path`, which are relative to `directory`. A file that is not
/// executable is found only if no executable one is there, so that the system reports the reason.
pub fn find_in_path(name: &str, path: &OsStr, directory: &Path) -> Option<PathBuf> {
    let candidates = || std::env::split_paths(path).map(|folder| directory.join(folder).join(name));
    candidates()
        .find(|file| is_executable(file))
        .or_else(|| candidates().find(|file| file.is_file()))
}

/// Decides by the mode alone, because `hooktrail check` often runs as another user than the server.
fn is_executable(file: &Path) -> bool {
    file.metadata().is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

/// Where handlers run and look for programs.
pub(super) struct SearchPath<'a> {
    /// `None` if it is a secret.
    pub path: Option<&'a OsStr>,
    /// The handler's `directory`.
    pub directory: &'a Path,
    /// The folder of config.toml.
    pub config_folder: &'a Path,
}

impl SearchPath<'_> {
    /// Why a program without a slash in its name cannot be started: `is not in PATH: …`.
    pub fn find_problem(&self, name: &str) -> Option<String> {
        match find_in_path(name, self.path?, self.directory) {
            Some(file) => self.file_problem(&file),
            None => Some(format!("is not in PATH: {}", self.remedy_for(name))),
        }
    }

    fn remedy_for(&self, name: &str) -> String {
        let is_here = |name: &str| {
            self.path.is_some_and(|path| find_in_path(name, path, self.directory).is_some())
        };
        let package = PACKAGES.iter().find(|(program, _)| *program == name);
        let names: Vec<&str> = PACKAGES.iter().map(|(program, _)| *program).collect();
        let similar = parse::nearest(name, &names).filter(|similar| is_here(similar));
        match (package, similar) {
            _ if self.config_folder.join(name).is_file() => {
                format!("write {:?} for the file beside config.toml", format!("./{name}"))
            }
            _ if name.contains(char::is_whitespace) => {
                "write the program and each of its arguments as a separate text".to_owned()
            }
            (Some((_, package)), _) => {
                format!(
                    "install it (Debian: apt install {package}), or write its path with a slash"
                )
            }
            (None, Some(similar)) => format!("did you mean {similar:?}?"),
            (None, None) => "install it, or write its path with a slash".to_owned(),
        }
    }

    /// Why a file cannot be started, as the end of a sentence about it: `is not executable: …`.
    pub fn file_problem(&self, file: &Path) -> Option<String> {
        let shown = file.display();
        match fs::metadata(file) {
            Ok(found) if found.is_dir() => {
                return Some("is a folder: expected a program".to_owned());
            }
            Ok(found) if !found.is_file() => {
                return Some("is not a file: expected a program".to_owned());
            }
            Ok(found) if found.permissions().mode() & 0o111 == 0 => {
                return Some(format!("is not executable: chmod +x {shown}"));
            }
            Ok(_) => {}
            Err(e) if e.kind() == ErrorKind::PermissionDenied => {
                return Some(
                    "this user can't reach: run the check as the server's user".to_owned(),
                );
            }
            Err(_) => return Some("does not exist: expected a program".to_owned()),
        }
        if statvfs(file).is_ok_and(|fs| fs.f_flag.contains(StatVfsMountFlags::NOEXEC)) {
            return Some("is on a file system that is mounted noexec: move it".to_owned());
        }
        // A program that this user may run and not read is left to the system.
        let mut head = Vec::new();
        File::open(file).and_then(|file| file.take(HEAD_BYTES).read_to_end(&mut head)).ok()?;
        self.head_problem(&head, file)
    }

    /// Why a file with this beginning cannot be started.
    fn head_problem(&self, head: &[u8], file: &Path) -> Option<String> {
        let shown = file.display();
        if head.starts_with(b"\xef\xbb\xbf#!") {
            return Some(format!(
                r"has a byte order mark before its #!: sed -i '1s/^\xEF\xBB\xBF//' {shown}"
            ));
        }
        let Some(rest) = head.strip_prefix(b"#!") else {
            // The system may know other formats of binaries (binfmt_misc), but no format of text.
            return (!head.contains(&0)).then(|| {
                format!("has no first line such as #!/bin/sh: {}", interpreter_remedy(file))
            });
        };
        let line = rest.split(|byte| *byte == b'\n').next().unwrap_or_default();
        if line.ends_with(b"\r") {
            return Some(format!(
                r"has lines that end in CR LF, so its interpreter is not found: sed -i 's/\r$//' {shown}"
            ));
        }
        let line = line.trim_ascii();
        let end = line.iter().position(u8::is_ascii_whitespace).unwrap_or(line.len());
        let (interpreter, argument) = line.split_at(end);
        if interpreter.is_empty() {
            return Some("has #! without an interpreter as its first line: add one".to_owned());
        }
        let interpreter = Path::new(OsStr::from_bytes(interpreter));
        if !is_executable(&self.directory.join(interpreter)) {
            let quoted = parse::quote(&interpreter.to_string_lossy());
            return Some(format!(
                "has the first line #!{}, and {quoted} is not a program here: install it, or correct \
                 the line",
                String::from_utf8_lossy(line)
            ));
        }
        let argument = str::from_utf8(argument).ok()?.trim();
        match interpreter.ends_with("env") {
            true => self.env_problem(argument),
            false => None,
        }
    }

    /// Why `#!/usr/bin/env ARGUMENT` finds no program. The system passes one argument, blanks included.
    fn env_problem(&self, argument: &str) -> Option<String> {
        let is_plain =
            |word: &&str| !word.starts_with('-') && !word.contains(['=', '"', '\'', '$']);
        let name = match argument.strip_prefix("-S") {
            Some(words) => words.split_whitespace().find(|word| !word.contains('=')),
            None if argument.contains(char::is_whitespace) && is_plain(&argument) => {
                return Some(format!(
                    "has the first line #!/usr/bin/env {argument}, and env takes one word there: \
                     expected #!/usr/bin/env -S {argument}"
                ));
            }
            None => Some(argument),
        };
        let name = name.filter(is_plain).filter(|name| !name.is_empty() && !name.contains('/'))?;
        let problem = match find_in_path(name, self.path?, self.directory) {
            Some(file) if is_executable(&file) => return None,
            Some(file) => format!("is not executable: chmod +x {}", file.display()),
            None => format!("is not in PATH: {}", self.remedy_for(name)),
        };
        Some(format!("has the first line #!/usr/bin/env {argument}, and {name:?} {problem}"))
    }
}

/// How to run a script that names no interpreter, by the end of its name.
fn interpreter_remedy(file: &Path) -> String {
    let interpreter = match file.extension().and_then(OsStr::to_str) {
        Some("py") => "python3",
        Some("js" | "mjs" | "cjs") => "node",
        Some("php") => {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            return format!(
                r#"add #!/usr/bin/env php, or write ["php-cgi", "{name}"] with mode = "cgi""#
            );
        }
        Some("pl") => "perl",
        Some("rb") => "ruby",
        _ => return "add one".to_owned(),
    };
    format!("add #!/usr/bin/env {interpreter}")
}

/// Returns the script that a command passes to its interpreter. `None` if it has no interpreter, or
/// options before its script.
pub(super) fn script_argument(command: &[String]) -> Option<&str> {
    let [program, script, ..] = command else { return None };
    let name = Path::new(program).file_name()?.to_str()?;
    // python3.11, php-cgi8.2
    let name = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
    (INTERPRETERS.contains(&name) && !script.starts_with('-')).then_some(script)
}
