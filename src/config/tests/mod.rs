//! What `load` promises, in tables: a configuration and the faults, warnings or values it gives.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::{Config, LoadedConfig, load};

mod defaults;
mod errors;
mod files;
mod handler_delivery;
mod schemes;
mod secrets;
mod sections;
mod templates;
mod values;
mod warnings;

/// A folder with config.toml and whatever else a test puts there.
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

    /// The faults, a line each, the folder's own name taken out.
    fn faults(&self) -> Vec<String> {
        let Err(faults) = load(&self.file()) else { return Vec::new() };
        self.lines(faults.to_string().lines())
    }

    fn lines<'l>(&self, lines: impl Iterator<Item = &'l str>) -> Vec<String> {
        let folder = format!("{}/", self.path().display());
        lines.map(|line| line.replace(&folder, "")).collect()
    }

    fn load(&self) -> LoadedConfig {
        load(&self.file()).unwrap_or_else(|faults| panic!("{faults}"))
    }

    fn warnings(&self) -> Vec<String> {
        self.lines(self.load().warnings.iter().map(String::as_str))
    }
}

/// A handler that is right but for what is added: its lines begin at 5.
fn handler(rest: &str) -> String {
    format!("[sources.a]\n[handlers.h]\nsources = ['a']\ncommand = ['true']\n{rest}")
}

/// `faults` are all that the configuration has, without `config.toml:` before each.
#[track_caller]
fn check(config: &str, faults: &[&str]) {
    let found = Folder::new(config).faults();
    let found: Vec<&str> =
        found.iter().map(|line| line.strip_prefix("config.toml:").unwrap_or(line)).collect();
    assert_eq!(found, faults, "\n{config}");
}

fn config(text: &str) -> Config {
    Folder::new(text).load().config
}
