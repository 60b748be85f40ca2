//! Sources as the house's tests read them: without comments, literals apart, tests left out.

use std::fs;
use std::path::{Path, PathBuf};

/// One file of the project.
pub struct Source {
    /// From the project's top: `src/web/mod.rs`.
    pub path: String,
    pub text: String,
    /// Its lines without comments, tests and what stands between quotes.
    pub code: Vec<String>,
    /// Line (from 1) and content of each literal outside tests.
    pub literals: Vec<(usize, String)>,
}

impl Source {
    /// `web` for `src/web/mod.rs`, `clock` for `src/clock.rs`.
    pub fn room(&self) -> &str {
        let under = self.path.strip_prefix("src/").unwrap_or(&self.path);
        under.split('/').next().unwrap_or(under).trim_end_matches(".rs")
    }

    /// `path:line: the line` for each line of code that `is_wrong`.
    pub fn lines_where(&self, is_wrong: impl Fn(&str) -> bool) -> Vec<String> {
        let lines = self.code.iter().zip(self.text.lines()).zip(1..);
        lines
            .filter(|((code, _), _)| is_wrong(code))
            .map(|((_, line), number)| format!("{}:{number}: {}", self.path, line.trim()))
            .collect()
    }
}

pub fn top() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every file under `folder` (from the top), but for what is built, kept or not ours.
pub fn files(folder: &str) -> Vec<(String, PathBuf)> {
    const NOT_OURS: [&str; 3] = [".git", "target", "data"];
    let (mut found, mut folders) = (Vec::new(), vec![top().join(folder)]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let kind = fs::symlink_metadata(&path).unwrap().file_type();
            if NOT_OURS.iter().any(|name| path.ends_with(name)) {
                continue;
            } else if kind.is_dir() {
                folders.push(path);
            } else if kind.is_file() {
                let name = path.strip_prefix(top()).unwrap();
                found.push((name.to_string_lossy().into_owned(), path));
            }
        }
    }
    found.sort();
    found
}

/// All Rust sources under `folder`.
pub fn sources(folder: &str) -> Vec<Source> {
    let rust = files(folder).into_iter().filter(|(name, _)| name.ends_with(".rs"));
    let sources: Vec<Source> =
        rust.map(|(name, path)| read(name, fs::read_to_string(path).unwrap())).collect();
    assert!(!sources.is_empty(), "{folder} has no sources");
    sources
}

fn read(path: String, text: String) -> Source {
    let (bare, literals) = taken_apart(&text);
    let mut code: Vec<String> = bare.lines().map(str::to_owned).collect();
    let tests = test_lines(&code, path.contains("/tests/") || path.ends_with("/tests.rs"));
    for (line, _) in code.iter_mut().zip(&tests).filter(|(_, test)| **test) {
        line.clear();
    }
    let literals = literals.into_iter().filter(|(line, _)| !tests[line - 1]).collect();
    Source { path, text, code, literals }
}

/// Which lines belong to `#[cfg(test)]`, by the form that rustfmt gives every item.
fn test_lines(code: &[String], all: bool) -> Vec<bool> {
    let mut tests = vec![all; code.len()];
    let mut at = 0;
    while at < code.len() {
        if code[at].trim() != "#[cfg(test)]" {
            at += 1;
            continue;
        }
        let indent = code[at].len() - code[at].trim_start().len();
        let first = at;
        at += 1;
        while at < code.len() && code[at].trim_start().starts_with("#[") {
            at += 1;
        }
        let end = format!("{}}}", " ".repeat(indent));
        let one_line = code.get(at).is_none_or(|line| line.trim_end().ends_with([';', '}']));
        while !one_line && at < code.len() && code[at].trim_end() != end {
            at += 1;
        }
        at = (at + 1).min(code.len());
        tests[first..at].fill(true);
    }
    tests
}

/// The text with spaces for comments and literals, and the literals with their lines.
fn taken_apart(text: &str) -> (String, Vec<(usize, String)>) {
    let chars: Vec<char> = text.chars().collect();
    let (mut bare, mut literals, mut line, mut at) = (String::new(), Vec::new(), 1, 0);
    while at < chars.len() {
        let end = match chars[at] {
            '/' if chars.get(at + 1) == Some(&'/') => end_of_line(&chars, at),
            '/' if chars.get(at + 1) == Some(&'*') => end_of_comment(&chars, at),
            '"' | 'r' | '\'' => end_of_literal(&chars, at),
            _ => at + 1,
        };
        let is_code = end == at + 1;
        if !is_code && chars[at] != '/' {
            literals.push((line, chars[at..end].iter().collect()));
        }
        for &c in &chars[at..end] {
            line += usize::from(c == '\n');
            bare.push(if is_code || c == '\n' { c } else { ' ' });
        }
        at = end;
    }
    (bare, literals)
}

fn end_of_line(chars: &[char], at: usize) -> usize {
    chars[at..].iter().position(|&c| c == '\n').map_or(chars.len(), |length| at + length)
}

fn end_of_comment(chars: &[char], at: usize) -> usize {
    let (mut end, mut depth) = (at + 2, 1);
    while end < chars.len() && depth > 0 {
        let pair = (chars[end], chars.get(end + 1).copied());
        end += match pair {
            ('/', Some('*')) => {
                depth += 1;
                2
            }
            ('*', Some('/')) => {
                depth -= 1;
                2
            }
            _ => 1,
        };
    }
    end
}

/// `at + 1` where it is none: a lifetime, or a name with an r.
fn end_of_literal(chars: &[char], at: usize) -> usize {
    let named = |at: usize| chars.get(at).is_some_and(|c| c.is_alphanumeric() || *c == '_');
    match chars[at] {
        '"' => end_of_quoted(chars, at, '"'),
        '\'' if chars.get(at + 1) == Some(&'\\') => end_of_quoted(chars, at, '\''),
        '\'' if chars.get(at + 2) == Some(&'\'') => at + 3,
        'r' => {
            let prefix = at.checked_sub(1).is_some_and(|before| matches!(chars[before], 'b' | 'c'));
            let start = at - usize::from(prefix);
            let hashes = chars[at + 1..].iter().take_while(|&&c| c == '#').count();
            let opened = chars.get(at + 1 + hashes) == Some(&'"');
            if !opened || start.checked_sub(1).is_some_and(named) {
                return at + 1;
            }
            let close: Vec<char> = [vec!['"'], vec!['#'; hashes]].concat();
            let body = at + 2 + hashes;
            let length = chars[body..].windows(close.len()).position(|found| *found == close);
            length.map_or(chars.len(), |length| body + length + close.len())
        }
        _ => at + 1,
    }
}

fn end_of_quoted(chars: &[char], at: usize, quote: char) -> usize {
    let mut end = at + 1;
    while end < chars.len() && chars[end] != quote {
        end += if chars[end] == '\\' { 2 } else { 1 };
    }
    (end + 1).min(chars.len())
}

#[test]
fn comments_literals_and_tests_are_no_code() {
    let text = r##"fn a<'a>() { let r = "x // \" y"; } // crate::b
/* c /* d */ e */ let f = ['\'', 'g', b'"'];
const H: &str = r#"i " j"#;
#[cfg(test)]
mod tests {
    const K: &str = "k";
}
fn l() {}
#[cfg(test)]
mod m;
"##;
    let source = read("src/n.rs".into(), text.into());
    let code: Vec<String> =
        source.code.iter().map(|line| line.split_whitespace().collect()).collect();
    let expected = ["fna<'a>(){letr=;}", "letf=[,,b];", "constH:&str=;", "", "", "", "", "fnl(){}"];
    assert_eq!(code[..8], expected);
    assert_eq!(code[8..], ["", ""]);
    assert!(source.literals.iter().any(|found| *found == (3, r##"r#"i " j"#"##.to_owned())));
    assert!(source.literals.iter().all(|(_, literal)| literal != "\"k\""));
}
