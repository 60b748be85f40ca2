//! Plain words: phrases and words that CONTRIBUTING.md rules out stand in no text of the repository, and no
//! doc comment only repeats the name below it.

use std::fs;
use std::path::Path;

use super::repository;

/// Texts for people: documentation, configuration, comments, messages. docs/cli.md is the `--help` of
/// every command.
const TEXTS: [&str; 16] = [
    "README.md",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "Dockerfile",
    "SECURITY.md",
    "config.toml",
    "schema.sql",
    "benches",
    "docs",
    "examples",
    "handlers",
    "monitoring",
    "packaging",
    "src",
    "systemd",
];

/// Phrases and what to write instead. `a|b` stands for either word, `!a` for any other word.
const PHRASES: &[(&str, &str)] = &[
    ("whoever", "name the subject: the server, the handler, the caller"),
    ("!, whatever", "regardless of; or name the subject"),
    ("is|are|was|were to be", "is, must be, will be"),
    ("anew", "again"),
    ("thereby", "a second sentence"),
    ("of its|their own", "own, separate"),
    (
        "once|twice|times a|an second|minute|hour|day|event|job|request",
        "per second, for each event",
    ),
    ("events|jobs|requests|bytes|rows a second|minute|hour|day", "per second"),
    ("a file|line|row|job|scheme|thread|process|source a|an job|event|request|handler", "for each"),
    ("a file|line|row|job|scheme|thread|process|source each", "one … for each"),
    ("the contract|spec", "cite the page of docs/ or the RFC"),
    ("in vain", "without success"),
    ("at fault", "failed, invalid"),
    ("heard of", "known"),
    ("owes|owed", "has jobs to create"),
    ("the house", "the project"),
];

/// Words with a plain replacement, for src, docs and README.md.
const WORDS: &[(&str, &str)] = &[
    ("desk", "scheduler state"),
    ("ear", "listener"),
    ("shaken", "handshake"),
    ("owed", "job plan"),
    ("servant", "sandboxed process"),
    ("scene", "event context"),
    ("refusal", "rejection"),
    ("upkeep", "maintenance"),
    ("greet", "handshake"),
    ("ledger", "log"),
    ("tally", "counters"),
    ("anew", "again"),
    ("whoever", "the subject"),
];

/// A word, or a punctuation mark that ends a phrase, and the number of its line.
struct Token {
    text: String,
    line: usize,
}

/// The files of TEXTS, by their paths.
fn texts() -> Vec<(String, String)> {
    let (mut texts, mut paths) = (Vec::new(), TEXTS.map(|name| repository().join(name)).to_vec());
    while let Some(path) = paths.pop() {
        if path.is_dir() {
            paths.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if let Ok(text) = fs::read_to_string(&path) {
            let name = path.strip_prefix(repository()).unwrap_or(Path::new(""));
            texts.push((name.to_string_lossy().into_owned(), text));
        }
    }
    assert!(texts.len() > 200, "{} texts", texts.len());
    texts.sort();
    texts
}

fn tokens(text: &str) -> Vec<Token> {
    let is_word = |c: char| c.is_alphanumeric() || matches!(c, '_' | '\'');
    let mut tokens = Vec::new();
    for (line, content) in (1..).zip(text.lines()) {
        if content.trim().is_empty() {
            // A phrase does not go on in the next paragraph.
            tokens.push(Token { text: String::new(), line });
        }
        let mut rest = content.trim_start_matches([' ', '/', '!', '#', '-', '*', '|']);
        while let Some(first) = rest.chars().next() {
            let length = rest.find(|c: char| !is_word(c)).unwrap_or(rest.len());
            let length = length.max(first.len_utf8());
            if !first.is_whitespace() {
                tokens.push(Token { text: rest[..length].to_lowercase(), line });
            }
            rest = &rest[length..];
        }
    }
    tokens
}

/// The lines at which a phrase begins.
fn lines_with(tokens: &[Token], phrase: &str) -> Vec<usize> {
    let phrase: Vec<Vec<&str>> =
        phrase.split(' ').map(|choices| choices.split('|').collect()).collect();
    let matches = |found: &&[Token]| {
        found.iter().zip(&phrase).all(|(token, choices)| match choices[..] {
            [choice] if choice.starts_with('!') => token.text != choice[1..],
            _ => choices.contains(&token.text.as_str()),
        })
    };
    tokens.windows(phrase.len()).filter(matches).map(|found| found[0].line).collect()
}

#[track_caller]
fn check(texts: &[(String, String)], phrases: &[(&str, &str)]) {
    let mut found = Vec::new();
    for (path, text) in texts {
        let tokens = tokens(text);
        for (phrase, instead) in phrases {
            for line in lines_with(&tokens, phrase) {
                found.push(format!("{path}:{line}: \"{phrase}\": write: {instead}"));
            }
        }
    }
    assert!(found.is_empty(), "{} places\n{}", found.len(), found.join("\n"));
}

#[test]
fn no_text_has_a_phrase_that_the_style_rules_out() {
    check(&texts(), PHRASES);
}

#[test]
fn sources_and_pages_use_the_plain_word() {
    let mut texts = texts();
    texts.retain(|(path, _)| ["src/", "docs/", "README.md"].iter().any(|at| path.starts_with(at)));
    check(&texts, WORDS);
}

/// A reader finds an RFC; a section of a document outside the repository, they don't.
#[test]
fn a_section_number_names_its_document() {
    let mut found = Vec::new();
    for (path, text) in texts() {
        let lines: Vec<&str> = text.lines().collect();
        for (at, line) in lines.iter().enumerate() {
            let has_number = line
                .to_lowercase()
                .split("section ")
                .skip(1)
                .any(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
            let context = lines[at.saturating_sub(1)..=at].concat();
            if has_number && !["RFC", "http"].iter().any(|document| context.contains(document)) {
                found.push(format!("{path}:{}: {}", at + 1, line.trim()));
            }
        }
    }
    assert!(found.is_empty(), "name the RFC or the page\n{}", found.join("\n"));
}

/// The words of a name: `HandlerName` and `handler_name` have two.
fn words(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    for c in name.chars() {
        if c.is_uppercase() || !c.is_alphanumeric() {
            words.push(String::new());
        }
        if c.is_alphanumeric() {
            words.last_mut().unwrap().extend(c.to_lowercase());
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

/// The name that a line of Rust declares: an item, a field or a variant.
fn declared_name(line: &str) -> Option<&str> {
    const KEYWORDS: [&str; 12] = [
        "pub",
        "pub(super)",
        "pub(crate)",
        "const",
        "async",
        "unsafe",
        "fn",
        "struct",
        "enum",
        "trait",
        "type",
        "static",
    ];
    let name = line.split_whitespace().find(|word| !KEYWORDS.contains(word))?;
    let end = name.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(name.len());
    Some(&name[..end]).filter(|name| !name.is_empty())
}

/// Whether a doc comment has no word that its item's name has not.
fn only_repeats(comment: &str, name: &str) -> bool {
    const FILLER: [&str; 14] = [
        "a", "an", "and", "for", "in", "is", "its", "of", "one", "that", "the", "this", "to",
        "with",
    ];
    let name = words(name);
    let stem = |word: &str| word.trim_end_matches('s').to_owned();
    let comment = words(&comment.replace("'s", ""));
    let mut telling = comment.iter().filter(|word| !FILLER.contains(&word.as_str()));
    telling.all(|word| name.iter().any(|own| stem(own) == stem(word)))
}

#[test]
fn no_doc_comment_only_repeats_the_name() {
    let mut found = Vec::new();
    for (path, text) in texts().iter().filter(|(path, _)| path.ends_with(".rs")) {
        let mut comment = String::new();
        for (number, line) in (1..).zip(text.lines().map(str::trim)) {
            match line.strip_prefix("///") {
                Some(more) => comment.push_str(more),
                None if line.starts_with("#[") => {}
                None => {
                    let name = declared_name(line).unwrap_or_default();
                    if !comment.is_empty() && !comment.contains('`') && only_repeats(&comment, name)
                    {
                        found.push(format!("{path}:{number}:{comment} {line}"));
                    }
                    comment.clear();
                }
            }
        }
    }
    assert!(found.is_empty(), "say more than the name, or nothing\n{}", found.join("\n"));
}

#[test]
fn a_phrase_is_found_across_lines_and_marks() {
    let tokens = tokens("/// What is\n/// to be done. It is, to be sure, `anew`.\n");
    assert_eq!(lines_with(&tokens, "is|are to be"), [1]);
    assert_eq!(lines_with(&tokens, "anew"), [2]);
    assert!(only_repeats(" The handler's name.", "handler_name"));
    assert!(!only_repeats(" The name of the source.", "handler_name"));
    assert_eq!(declared_name("pub(super) fn handler_name(&self) -> &str {"), Some("handler_name"));
}
