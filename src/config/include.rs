//! `include = ["conf.d/*.toml"]`: the files that a configuration goes on in.
//!
//! `*` and `?` stand for any characters and any one character of a file's name, as in a shell: not
//! for a folder's, and not for a leading dot.

use std::path::{Path, PathBuf};

use super::error::Diagnostics;
use super::parse;
use super::toml_reader::{TomlTable, TomlValue};

const INCLUDE: &str = r#"expected a list such as ["conf.d/*.toml"]"#;
const FILES_MAX: usize = 1_000;

/// The files to read beside `main`, named as people will see them, each once.
pub(super) fn expand(root: &TomlTable<'_>, main: &Path, log: &Diagnostics) -> Vec<PathBuf> {
    let Some(value) = root.get("include") else { return Vec::new() };
    let folder = main.parent().unwrap_or(Path::new(""));
    let mut files = Vec::new();
    let mut known: Vec<PathBuf> = main.canonicalize().into_iter().collect();
    for item in value.list(INCLUDE).unwrap_or_default() {
        let Some(text) = item.text(INCLUDE) else { continue };
        for file in find_files(&item, text, folder) {
            // Two patterns may find one file; `*.toml` finds config.toml itself.
            let real = file.canonicalize().unwrap_or_else(|_| file.clone());
            if known.contains(&real) {
                continue;
            }
            known.push(real);
            files.push(file);
        }
    }
    if files.len() > FILES_MAX {
        log.error(value.at, format!("{} finds over {FILES_MAX} files: expected fewer", value.key));
        files.truncate(FILES_MAX);
    }
    files
}

fn find_files(item: &TomlValue<'_>, text: &str, folder: &Path) -> Vec<PathBuf> {
    let nothing = Vec::new;
    let (sub, pattern) = text.rsplit_once('/').map_or(("", text), |(sub, name)| (sub, name));
    let sub = if sub.is_empty() && text.starts_with('/') { "/" } else { sub };
    if pattern.is_empty() || sub.contains(['*', '?']) {
        let _: Option<()> = item
            .invalid("expected a file, * and ? in its own name alone, such as \"conf.d/*.toml\"");
        return nothing();
    }
    if !pattern.contains(['*', '?']) {
        let file = folder.join(text);
        if !file.is_file() {
            let shown = parse::quote(&file.to_string_lossy());
            item.error(format!("names {shown}: no such file"));
            return nothing();
        }
        return vec![file];
    }
    let sub = folder.join(sub);
    let listed = if sub.as_os_str().is_empty() { Path::new(".") } else { &sub };
    let entries = match listed.read_dir() {
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
    names.into_iter().map(|name| sub.join(name)).filter(|file| file.is_file()).collect()
}

/// Whether a name is one that the pattern stands for.
fn matches_pattern(name: &str, pattern: &str) -> bool {
    if name.starts_with('.') && !pattern.starts_with('.') {
        return false;
    }
    let (name, pattern): (Vec<char>, Vec<char>) =
        (name.chars().collect(), pattern.chars().collect());
    let (mut n, mut p) = (0, 0);
    // Where the last `*` stood and how far it reached: on a misfit it takes one character more.
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(c) if *c == '?' || *c == name[n] => (n, p) = (n + 1, p + 1),
            _ => {
                let Some((at, reached)) = star else { return false };
                star = Some((at, reached + 1));
                (n, p) = (reached + 1, at + 1);
            }
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}
