//! Configuration errors and warnings with their locations, and the collector of both.
//!
//! Reading config.toml does not stop at the first error. It records the error here and goes on with
//! a default, and `load` returns all errors at the end. In a file with a syntax error, a missing
//! key may only be unreadable. Such errors are left out until the syntax is fixed.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

use super::SecretReference;

/// An error in the configuration, with its location.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    pub file: PathBuf,
    /// Counts from 1; `None`: the file as a whole.
    pub line: Option<usize>,
    /// `handlers.crm.timeout is "30 secs": expected a duration such as "30s"`
    pub text: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}: {}", self.file.display(), self.text),
            None => write!(f, "{}: {}", self.file.display(), self.text),
        }
    }
}

/// All errors, one on each line, in the order of files and lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}

impl std::error::Error for ConfigErrors {}

/// The location of a value that is checked against this machine after the configuration is loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KeyLocation {
    /// `server.listen`, once for each of its items.
    pub key: String,
    pub file: PathBuf,
    /// `None`: the key has its default.
    pub line: Option<usize>,
}

/// A file (in the order of reading) and a line, from 1; line 0 is the file as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Location {
    pub file: usize,
    pub line: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ConfigErrorKind {
    /// The TOML is invalid. Other errors on the same line are left out.
    Syntax,
    /// A value or key is invalid.
    Invalid,
    /// A key is missing, which says nothing in a file with a syntax error.
    Missing,
}

/// Collects errors, warnings and secrets while files are read.
#[derive(Default)]
pub(super) struct Diagnostics {
    files: RefCell<Vec<PathBuf>>,
    errors: RefCell<Vec<(Location, ConfigErrorKind, String)>>,
    warnings: RefCell<Vec<(Location, String)>>,
    secrets: RefCell<Vec<SecretReference>>,
    locations: RefCell<Vec<KeyLocation>>,
    has_syntax_errors: Cell<bool>,
}

/// The warnings that [`Diagnostics`] collected about a configuration without errors.
pub(super) struct Findings {
    pub warnings: Vec<String>,
    pub secrets: Vec<SecretReference>,
    pub locations: Vec<KeyLocation>,
}

impl Diagnostics {
    /// Adds a file that is about to be read, by its name for messages.
    pub fn add_file(&self, name: &Path) -> usize {
        let mut files = self.files.borrow_mut();
        files.push(name.to_owned());
        files.len() - 1
    }

    pub fn syntax_error(&self, at: Location, text: String) {
        self.has_syntax_errors.set(true);
        self.errors.borrow_mut().push((at, ConfigErrorKind::Syntax, text));
    }

    pub fn error(&self, at: Location, text: String) {
        self.errors.borrow_mut().push((at, ConfigErrorKind::Invalid, text));
    }

    pub fn missing_error(&self, at: Location, text: String) {
        self.errors.borrow_mut().push((at, ConfigErrorKind::Missing, text));
    }

    pub fn warn(&self, at: Location, text: String) {
        self.warnings.borrow_mut().push((at, text));
    }

    pub fn add_secret(&self, reference: SecretReference) {
        self.secrets.borrow_mut().push(reference);
    }

    /// Records where a value is, for [`KeyLocation`].
    pub fn add_location(&self, key: &str, at: Location) {
        let (file, line) = (self.file_name(at), (at.line > 0).then_some(at.line));
        self.locations.borrow_mut().push(KeyLocation { key: key.to_owned(), file, line });
    }

    pub fn file_name(&self, at: Location) -> PathBuf {
        self.files.borrow().get(at.file).cloned().unwrap_or_default()
    }

    /// `config.toml:3`, for a message that refers to another location.
    pub fn display_location(&self, at: Location) -> String {
        format!("{}:{}", self.file_name(at).display(), at.line)
    }

    fn to_config_error(&self, at: Location, text: String) -> ConfigError {
        ConfigError { file: self.file_name(at), line: (at.line > 0).then_some(at.line), text }
    }

    /// Returns the errors, or else the rest.
    pub fn finish(self) -> Result<Findings, ConfigErrors> {
        let mut errors = self.errors.take();
        errors.sort_by(|a, b| (a.0, &a.2).cmp(&(b.0, &b.2)));
        errors.dedup();
        let syntax_error_lines: BTreeSet<Location> = errors
            .iter()
            .filter(|error| error.1 == ConfigErrorKind::Syntax)
            .map(|error| error.0)
            .collect();
        errors.retain(|(at, kind, _)| match kind {
            ConfigErrorKind::Syntax => true,
            ConfigErrorKind::Invalid => !syntax_error_lines.contains(at),
            ConfigErrorKind::Missing => !self.has_syntax_errors.get(),
        });
        if !errors.is_empty() {
            let errors = errors.into_iter().map(|(at, _, text)| self.to_config_error(at, text));
            return Err(ConfigErrors(errors.collect()));
        }
        let mut warnings = self.warnings.take();
        warnings.sort();
        let warnings = warnings
            .into_iter()
            .map(|(at, text)| self.to_config_error(at, text).to_string())
            .collect();
        Ok(Findings { warnings, secrets: self.secrets.take(), locations: self.locations.take() })
    }
}
