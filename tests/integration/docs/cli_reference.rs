//! docs/cli.md: written by hand down to a marker, generated from the command line's declarations below it.

use std::fmt::Write as _;
use std::fs;

use clap::{Arg, ArgAction, Command, CommandFactory};
use hooktrail::internals::Cli;

const PAGE: &str = "docs/cli.md";
const MARKER: &str =
    "<!-- Generated below this line: `HOOKTRAIL_UPDATE_DOCS=1 cargo test cli_reference` -->\n";

#[test]
fn the_command_line_reference_is_generated_from_the_declarations() {
    let path = super::repository().join(PAGE);
    let page = fs::read_to_string(&path).unwrap();
    let (by_hand, found) = page.split_once(MARKER).expect("docs/cli.md has its marker");
    let generated = reference();
    if std::env::var_os("HOOKTRAIL_UPDATE_DOCS").is_some() {
        fs::write(&path, format!("{by_hand}{MARKER}{generated}")).unwrap();
        return;
    }
    let difference = found.lines().zip(generated.lines()).find(|(found, wanted)| found != wanted);
    assert!(
        found == generated,
        "{PAGE} is not what the declarations in src/cli give; first difference (page, declarations): \
         {difference:?}\nRegenerate it: HOOKTRAIL_UPDATE_DOCS=1 cargo test cli_reference"
    );
}

/// The command line with what clap adds to it.
pub fn command_line() -> Command {
    let mut command = Cli::command();
    command.build();
    command
}

/// The commands that `--help` lists.
fn visible_commands(command: &Command) -> impl Iterator<Item = &Command> {
    command.get_subcommands().filter(|command| !command.is_hide_set())
}

fn reference() -> String {
    let command = command_line();
    let mut page = String::from("\n## Commands\n\n| command | purpose |\n|---|---|\n");
    for command in visible_commands(&command) {
        let name = command.get_name();
        let _ = writeln!(page, "| [`{name}`](#hooktrail-{name}) | {} |", purpose(command));
    }
    page.push_str("\n## Options of every command\n\n");
    page.push_str(&table(command.get_arguments().filter(|arg| arg.get_id() != "version")));
    for command in visible_commands(&command) {
        let _ =
            write!(page, "\n## hooktrail {}\n\n{}\n\n", command.get_name(), description(command));
        let usage = command.clone().render_usage().to_string();
        let _ = writeln!(page, "```\n{}\n```", usage.trim_start_matches("Usage: "));
        let own = |arg: &&Arg| !arg.is_global_set() && arg.get_id() != "help";
        if command.get_arguments().any(|arg| own(&arg)) {
            let _ = write!(page, "\n{}", table(command.get_arguments().filter(own)));
        }
        let examples = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        let (heading, examples) = examples.split_once('\n').unwrap_or_default();
        let examples = examples.lines().map(|line| format!("{}\n", line.trim_start()));
        let _ = write!(page, "\n{heading}\n\n```sh\n{}```\n", examples.collect::<String>());
    }
    page
}

fn purpose(command: &Command) -> String {
    one_line(&command.get_about().map(ToString::to_string).unwrap_or_default())
}

/// The paragraphs of the long help.
fn description(command: &Command) -> String {
    let about = command.get_long_about().or(command.get_about());
    let about = about.map(ToString::to_string).unwrap_or_default();
    let paragraphs = about.split("\n\n").map(|paragraph| format!("{}.", one_line(paragraph)));
    paragraphs.collect::<Vec<_>>().join("\n\n")
}

/// Positional arguments first, then options, each in the order of `--help`.
fn table<'a>(arguments: impl Iterator<Item = &'a Arg>) -> String {
    let (positional, options): (Vec<&Arg>, Vec<&Arg>) =
        arguments.filter(|arg| !arg.is_hide_set()).partition(|arg| arg.is_positional());
    let mut table = String::from("| argument or option | meaning |\n|---|---|\n");
    for arg in positional.into_iter().chain(options) {
        let _ = writeln!(table, "| `{}` | {} |", form(arg), meaning(arg));
    }
    table
}

/// `-y`, `--yes`, `--limit COUNT` or `JOBS…`.
fn form(arg: &Arg) -> String {
    let names = arg.get_value_names().unwrap_or_default();
    let mut values = names.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    values = values.replace('|', "\\|");
    if arg.get_num_args().is_some_and(|count| count.max_values() > 1) {
        values.push('…');
    }
    if arg.is_positional() {
        return values;
    }
    let long = arg.get_long().map(|long| format!("--{long}"));
    let short = arg.get_short().map(|short| format!("-{short}"));
    let mut form = short.into_iter().chain(long).collect::<Vec<_>>().join("`, `");
    if matches!(arg.get_action(), ArgAction::Set | ArgAction::Append) {
        let _ = write!(form, " {values}");
    }
    form
}

fn meaning(arg: &Arg) -> String {
    let help = arg.get_long_help().or(arg.get_help()).map(ToString::to_string).unwrap_or_default();
    let mut parts = vec![one_line(&help)];
    let defaults = arg.get_default_values();
    let is_flag = !matches!(arg.get_action(), ArgAction::Set | ArgAction::Append);
    if !defaults.is_empty() && !is_flag {
        let defaults = defaults.iter().map(|value| format!("`{}`", value.to_string_lossy()));
        parts.push(format!("Default: {}", defaults.collect::<Vec<_>>().join(", ")));
    }
    let values = arg.get_possible_values();
    if !values.is_empty() && !is_flag {
        let values = values.iter().map(|value| format!("`{}`", value.get_name()));
        parts.push(format!("One of {}", values.collect::<Vec<_>>().join(", ")));
    }
    if let Some(variable) = arg.get_env() {
        parts.push(format!("Environment variable: `{}`", variable.to_string_lossy()));
    }
    parts.retain(|part| !part.is_empty());
    parts.join(". ").replace('|', "\\|")
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").trim_end_matches('.').to_owned()
}
