//! Tests of `load`: configurations and the errors, warnings or values that they give.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::{Config, LoadedConfig, load};

mod defaults;
mod errors;
mod files;
mod handler_delivery;
mod jetstream;
mod redact;
mod schemes;
mod secrets;
mod sections;
mod templates;
mod values;
mod warnings;

/// A temporary folder with config.toml and other files of a test.
struct Folder(TempDir);

impl Folder {
    fn new(config: &str) -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        folder.write("config.toml", config)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn write(self, name: &str, text: impl AsRef<[u8]>) -> Self {
        let path = self.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
        self
    }

    fn file(&self) -> PathBuf {
        self.path().join("config.toml")
    }

    /// The errors, one on each line, without the folder's name.
    fn errors(&self) -> Vec<String> {
        let Err(errors) = load(&self.file()) else { return Vec::new() };
        self.lines(errors.to_string().lines())
    }

    fn lines<'l>(&self, lines: impl Iterator<Item = &'l str>) -> Vec<String> {
        let folder = format!("{}/", self.path().display());
        lines.map(|line| line.replace(&folder, "")).collect()
    }

    fn load(&self) -> LoadedConfig {
        load(&self.file()).unwrap_or_else(|errors| panic!("{errors}"))
    }

    fn warnings(&self) -> Vec<String> {
        self.lines(self.load().warnings.iter().map(String::as_str))
    }
}

/// Adds a source `a` and its handler at the end, unless `config` has them: a configuration without them
/// has a warning.
fn complete(config: &str) -> String {
    let source = if config.contains("[sources.") { "" } else { "[sources.a]\n" };
    let handler = "[handlers.last]\nsources = ['a']\ncommand = ['true']\n";
    let handler = if config.contains("[handlers.") { "" } else { handler };
    format!("{config}\n{source}{handler}")
}

/// A valid handler followed by `rest`, whose lines begin at 5.
fn handler(rest: &str) -> String {
    format!("[sources.a]\n[handlers.h]\nsources = ['a']\ncommand = ['true']\n{rest}")
}

/// Checks that the configuration has exactly these errors, each without `config.toml:`.
#[track_caller]
fn check(config: &str, errors: &[&str]) {
    let found = Folder::new(config).errors();
    let found: Vec<&str> =
        found.iter().map(|line| line.strip_prefix("config.toml:").unwrap_or(line)).collect();
    assert_eq!(found, errors, "\n{config}");
}

fn config(text: &str) -> Config {
    Folder::new(text).load().config
}
