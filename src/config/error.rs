//! Faults and warnings with their places, and the log that collects them while files are read.
//!
//! Nothing that reads config.toml stops at the first fault: it notes it here, goes on with a
//! default, and `load` gives all of them at the end. Where a file is broken TOML, what seems to be
//! missing may only be unreadable: such faults are left out until the TOML is mended.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

use super::secret::SecretReference;

/// One thing that is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    pub file: PathBuf,
    /// From 1; `None`: the file as a whole.
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

/// All that is wrong, a line each, in the order of files and lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, fault) in self.0.iter().enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            fault.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// A file (by its order of reading) and a line, from 1; 0 is the file as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Location {
    pub file: usize,
    pub line: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ConfigErrorKind {
    /// The TOML itself: nothing else on its line is worth a word.
    Syntax,
    /// Something that is there is wrong.
    Invalid,
    /// Something is not there: nothing to rely on in broken TOML.
    Missing,
}

/// Collects while files are read.
#[derive(Default)]
pub(super) struct Diagnostics {
    files: RefCell<Vec<PathBuf>>,
    errors: RefCell<Vec<(Location, ConfigErrorKind, String)>>,
    warnings: RefCell<Vec<(Location, String)>>,
    secrets: RefCell<Vec<SecretReference>>,
    has_syntax_errors: Cell<bool>,
}

impl Diagnostics {
    /// A file that is about to be read, named as people will see it.
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

    pub fn add_secret(&self, used: SecretReference) {
        self.secrets.borrow_mut().push(used);
    }

    pub fn file_name(&self, at: Location) -> PathBuf {
        self.files.borrow().get(at.file).cloned().unwrap_or_default()
    }

    /// `config.toml:3`, to point at another place from within a fault.
    pub fn display_location(&self, at: Location) -> String {
        format!("{}:{}", self.file_name(at).display(), at.line)
    }

    fn located(&self, at: Location, text: String) -> ConfigError {
        ConfigError { file: self.file_name(at), line: (at.line > 0).then_some(at.line), text }
    }

    /// The faults, or what was noted besides: warnings and secrets.
    pub fn finish(self) -> Result<(Vec<String>, Vec<SecretReference>), ConfigErrors> {
        let mut faults = self.errors.take();
        faults.sort_by(|a, b| (a.0, &a.2).cmp(&(b.0, &b.2)));
        faults.dedup();
        let torn: BTreeSet<Location> = faults
            .iter()
            .filter(|fault| fault.1 == ConfigErrorKind::Syntax)
            .map(|fault| fault.0)
            .collect();
        faults.retain(|(at, kind, _)| match kind {
            ConfigErrorKind::Syntax => true,
            ConfigErrorKind::Invalid => !torn.contains(at),
            ConfigErrorKind::Missing => !self.has_syntax_errors.get(),
        });
        if !faults.is_empty() {
            let faults = faults.into_iter().map(|(at, _, text)| self.located(at, text));
            return Err(ConfigErrors(faults.collect()));
        }
        let mut warnings = self.warnings.take();
        warnings.sort();
        let warnings =
            warnings.into_iter().map(|(at, text)| self.located(at, text).to_string()).collect();
        Ok((warnings, self.secrets.take()))
    }
}
