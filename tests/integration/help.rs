//! `--help`, `hooktrail help`, the man pages and the completion scripts.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use clap::CommandFactory;
use hooktrail::internals::Cli;

use crate::support::server::{HOOKTRAIL, cli, stderr, stdout};

/// The names of the commands that `--help` lists.
/// The commands that `--help` lists.
pub fn commands() -> Vec<String> {
    let cli = Cli::command();
    let visible = cli.get_subcommands().filter(|command| !command.is_hide_set());
    visible.map(|command| command.get_name().to_owned()).collect()
}

fn pages() -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
    let names = names.map(|name| name.into_string().unwrap());
    let pages = names.filter_map(|name| name.strip_suffix(".md").map(str::to_owned));
    pages.filter(|name| name != "README").collect()
}

/// Writes a program that others call by its name. It records its arguments in `calls`.
fn write_program(folder: &Path, name: &str, script: &str) {
    let path = folder.join(name);
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn the_help_of_every_command_ends_with_examples_that_the_command_line_accepts() {
    let folder = tempfile::tempdir().unwrap();
    let bin = folder.path().join("bin");
    fs::create_dir(&bin).unwrap();
    let calls = folder.path().join("calls");
    let record = format!(
        "printf '\\036%s' hooktrail >> {0}; printf '\\037%s' \"$@\" >> {0}",
        calls.display()
    );
    write_program(&bin, "hooktrail", &record);
    write_program(&bin, "sudo", "exec \"$@\"");
    for reader in ["less", "man", "fish"] {
        write_program(&bin, reader, "while read -r line; do :; done");
    }
    for name in commands() {
        let help = stdout(&cli(folder.path(), &[&name, "--help"]));
        let examples = help.split_once("\nExample").unwrap_or_else(|| panic!("{name}: {help}")).1;
        let examples = examples.split_once(":\n").unwrap().1.replace("| source", "| less");
        fs::write(&calls, "").unwrap();
        let mut bash = Command::new("/bin/bash");
        let ran = bash.args(["-ec", &examples]).env("PATH", &bin).current_dir(&folder).output();
        let ran = ran.unwrap();
        assert!(ran.status.success(), "{name}: {}", stderr(&ran));
        let recorded = fs::read_to_string(&calls).unwrap();
        let lines: Vec<&str> = recorded.split('\u{1e}').skip(1).collect();
        assert!(!lines.is_empty(), "{name}: {examples}");
        for line in &lines {
            let arguments = line.split('\u{1f}').filter(|word| !word.is_empty());
            let parsed = Cli::command().try_get_matches_from(arguments);
            let parsed = parsed.unwrap_or_else(|error| panic!("{line}: {error}"));
            let command = parsed.subcommand_name().unwrap_or("serve");
            assert_eq!(command, name, "an example of another command");
        }
    }
}

#[test]
fn help_lists_commands_and_topics_and_prints_each() {
    let folder = tempfile::tempdir().unwrap();
    let run = |args: &[&str]| stdout(&cli(folder.path(), args));
    let overview = run(&["help"]);
    for name in commands().iter().chain(&pages()) {
        assert!(overview.contains(&format!("\n  {name} ")), "{name}: {overview}");
        assert!(!run(&["help", name]).is_empty(), "{name}");
    }
    for name in commands() {
        assert_eq!(run(&["help", &name]), run(&[&name, "--help"]), "{name}");
    }
    let both: BTreeSet<String> = commands().into_iter().chain(pages()).collect();
    assert_eq!(both.len(), commands().len() + pages().len(), "a topic is named as a command");
}

#[test]
fn a_topic_fits_80_columns_and_has_the_words_of_its_page() {
    let folder = tempfile::tempdir().unwrap();
    let words = |text: &str| -> BTreeSet<String> {
        let words = text.split(|c: char| !c.is_alphanumeric());
        words.filter(|word| !word.is_empty()).map(str::to_owned).collect()
    };
    for name in pages() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("docs/{name}.md"));
        let page = fs::read_to_string(path).unwrap();
        let printed = stdout(&cli(folder.path(), &["help", &name]));
        // Code keeps its lines, with an indent of four.
        let prose = printed.lines().filter(|line| !line.starts_with("    "));
        for line in prose {
            let has_long_word = line.split_whitespace().any(|word| word.chars().count() > 60);
            assert!(line.chars().count() <= 80 || has_long_word, "{name}: {line}");
        }
        let printed = words(&printed);
        // Targets of links and languages of code blocks are left out.
        let text: String = page.split("](").fold(String::new(), |text, part| match text.as_str() {
            "" => part.to_owned(),
            _ => text + " " + part.split_once(')').unwrap_or(("", part)).1,
        });
        let text =
            text.lines().filter(|line| !line.starts_with("```") && !line.starts_with("<!--"));
        let text: String = text.map(|line| format!("{}\n", without_anchors(line))).collect();
        let lost: Vec<String> = words(&text).difference(&printed).cloned().collect();
        assert!(lost.is_empty(), "{name}: {lost:?}");
    }
}

fn without_anchors(line: &str) -> String {
    let parts = line.split("<a id=\"").enumerate().map(|(index, part)| match index {
        0 => part,
        _ => part.split_once("</a>").unwrap().1,
    });
    parts.collect()
}

#[test]
fn an_unknown_topic_is_exit_2_and_the_nearest_name_is_suggested() {
    let folder = tempfile::tempdir().unwrap();
    for (name, remedy) in [
        ("confguration", "did you mean `hooktrail help configuration`?"),
        ("retyr", "did you mean `hooktrail help retry`?"),
        ("xyzzy", "`hooktrail help` lists them"),
    ] {
        let output = cli(folder.path(), &["help", name]);
        let expected = format!("help {name}: there is no such command or topic: {remedy}\n");
        assert_eq!((stderr(&output), output.status.code()), (expected, Some(2)));
    }
}

#[test]
fn a_man_page_is_written_for_the_program_and_for_each_command() {
    let folder = tempfile::tempdir().unwrap();
    let output = cli(folder.path(), &["man", "--to", "share/man1"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let page = |name: &str| {
        let path = folder.path().join("share/man1").join(name);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{name}: {error}"))
    };
    for name in commands() {
        let text = page(&format!("hooktrail-{name}.1"));
        assert!(text.contains("\n.SH EXAMPLE"), "{name}: {text}");
    }
    assert_eq!(page("hooktrail.1"), stdout(&cli(folder.path(), &["man"])));
    for name in commands() {
        assert!(page("hooktrail.1").contains(&format!("hooktrail\\-{name}(1)")), "{name}");
    }
}

/// The completions that bash offers for the last word of a command line.
fn completed_by_bash(folder: &Path, words: &[&str]) -> Vec<String> {
    let script = "source <(hooktrail completions bash); COMP_WORDS=(\"$@\"); COMP_CWORD=$(($#-1)); \
                  COMP_TYPE=9; _clap_complete_hooktrail hooktrail \"${COMP_WORDS[COMP_CWORD]}\"; \
                  printf '%s\\n' \"${COMPREPLY[@]}\"";
    let bin = Path::new(HOOKTRAIL).parent().unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let mut bash = Command::new("bash");
    bash.args(["-c", script, "bash"]).args(words).env("PATH", path).current_dir(folder);
    let ran = bash.env_remove("HOOKTRAIL_CONFIG").output().unwrap();
    assert_eq!(stderr(&ran), "", "{words:?}");
    stdout(&ran).lines().map(str::to_owned).filter(|line| !line.is_empty()).collect()
}

#[test]
fn bash_completes_commands_names_of_the_configuration_states_and_topics() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let other = "[sources.c]\n[handlers.other]\nsources = ['c']\ncommand = ['true']\n";
    fs::write(path.join("other.toml"), other).unwrap();
    // A configuration with an error still has names.
    let config = "unknown = 1\n[sources.a]\n[sources.b]\n[handlers.one]\nsources = ['a']\n\
                  [handlers.two]\ncommand = ['true']\n";
    fs::write(path.join("config.toml"), config).unwrap();
    for (line, expected) in [
        ("hooktrail re", "reload retry replay resume restore"),
        ("hooktrail retry --handler ", "one two"),
        ("hooktrail pause t", "two"),
        ("hooktrail list --source ", "a b"),
        ("hooktrail send b", "b"),
        ("hooktrail cancel --state r", "running"),
        ("hooktrail help conf", "configuration"),
        ("hooktrail tail --fo", "--follow"),
        ("hooktrail send a oth", "other.toml"),
        ("hooktrail --config other.toml retry --handler ", "other"),
        ("hooktrail --config missing.toml retry --handler ", ""),
    ] {
        let words: Vec<&str> = line.split(' ').collect();
        assert_eq!(completed_by_bash(path, &words).join(" "), expected, "{line}");
    }
    let created: Vec<_> = fs::read_dir(path).unwrap().collect();
    assert_eq!(created.len(), 2, "{created:?}");
}

#[test]
fn a_completion_script_calls_the_program_from_which_it_came() {
    let folder = tempfile::tempdir().unwrap();
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = stdout(&cli(folder.path(), &["completions", shell]));
        assert!(script.contains(HOOKTRAIL), "{shell}: {script}");
    }
}
