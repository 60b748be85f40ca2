//! Expands `include = ["conf.d/*.toml"]` to files.
//!
//! In a file name `*` matches any characters and `?` any one character, as in a shell: neither
//! matches in a folder's name, nor a leading dot.

use std::path::{Path, PathBuf};

use glob::{MatchOptions, Pattern};

use super::error::Diagnostics;
use super::parse;
use super::toml_reader::{TomlTable, TomlValue};

const INCLUDE_EXPECTED: &str = r#"expected a list such as ["conf.d/*.toml"]"#;
const MAX_FILES: usize = 1_000;

/// The files to read besides `main`, each once, by their names for messages.
pub(super) fn expand(root: &TomlTable<'_>, main: &Path, log: &Diagnostics) -> Vec<PathBuf> {
    let Some(value) = root.get("include") else { return Vec::new() };
    let folder = main.parent().unwrap_or(Path::new(""));
    let mut files = Vec::new();
    let mut known: Vec<PathBuf> = main.canonicalize().into_iter().collect();
    for item in value.list(INCLUDE_EXPECTED).unwrap_or_default() {
        let Some(text) = item.text(INCLUDE_EXPECTED) else { continue };
        for file in find_files(&item, text, folder) {
            // Two patterns may match one file, and `*.toml` matches config.toml itself.
            let real = file.canonicalize().unwrap_or_else(|_| file.clone());
            if known.contains(&real) {
                continue;
            }
            known.push(real);
            files.push(file);
        }
    }
    if files.len() > MAX_FILES {
        log.error(
            value.at,
            format!("{} matches more than {MAX_FILES} files: expected fewer", value.key),
        );
        files.truncate(MAX_FILES);
    }
    files
}

fn find_files(item: &TomlValue<'_>, text: &str, folder: &Path) -> Vec<PathBuf> {
    let nothing = Vec::new;
    let (subfolder, pattern) =
        text.rsplit_once('/').map_or(("", text), |(subfolder, name)| (subfolder, name));
    let subfolder = if subfolder.is_empty() && text.starts_with('/') { "/" } else { subfolder };
    if pattern.is_empty() || subfolder.contains(['*', '?']) {
        let _: Option<()> = item
            .invalid("expected a file, with * and ? only in its name, such as \"conf.d/*.toml\"");
        return nothing();
    }
    if !pattern.contains(['*', '?']) {
        let file = folder.join(text);
        if !file.is_file() {
            let quoted = parse::quote(&file.to_string_lossy());
            item.error(format!("names {quoted}: no such file"));
            return nothing();
        }
        return vec![file];
    }
    let subfolder = folder.join(subfolder);
    let folder_to_list = if subfolder.as_os_str().is_empty() { Path::new(".") } else { &subfolder };
    let entries = match folder_to_list.read_dir() {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return nothing(),
        Err(error) => {
            item.error(format!("is {}: {error}", parse::quote(text)));
            return nothing();
        }
    };
    let name =
        |entry: std::io::Result<std::fs::DirEntry>| entry.ok()?.file_name().into_string().ok();
    let mut names: Vec<String> =
        entries.filter_map(name).filter(|name| matches_pattern(name, pattern)).collect();
    names.sort();
    names.into_iter().map(|name| subfolder.join(name)).filter(|file| file.is_file()).collect()
}

/// Whether the pattern matches a name. A bracket stands for itself, and `**` is `*`.
fn matches_pattern(name: &str, pattern: &str) -> bool {
    let mut pattern = pattern.replace('[', "[[]");
    while pattern.contains("**") {
        pattern = pattern.replace("**", "*");
    }
    let options = MatchOptions { require_literal_leading_dot: true, ..MatchOptions::new() };
    Pattern::new(&pattern).is_ok_and(|pattern| pattern.matches_with(name, options))
}
