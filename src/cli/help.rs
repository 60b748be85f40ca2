//! `help` and `man`: the help of each command, the pages of docs/ as topics, and the man pages.

use std::fs;
use std::io::Write;
use std::path::Path;

use anyhow::Context;
use clap::builder::Styles;
use clap::{Command, CommandFactory};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};

use super::{Cli, ExitError, markdown, output, usage_error};
use crate::config;
use crate::numbers;

/// The widest line of a topic. clap's limit for `--help` is the same.
pub const MAX_WIDTH: usize = 100;
/// The width if standard output is no terminal.
const DEFAULT_WIDTH: usize = 80;

/// A page of docs/ that `hooktrail help` prints.
#[derive(Debug)]
pub struct Topic {
    /// The name of the page's file, without `.md`.
    pub name: &'static str,
    pub purpose: &'static str,
    page: &'static str,
}

macro_rules! topics {
    ($($name:literal $purpose:literal)*) => {
        &[$(Topic { name: $name, purpose: $purpose, page: include_str!(concat!("../../docs/", $name, ".md")) }),*]
    };
}

/// Every page of docs/, in the order in which a new user needs them.
pub const TOPICS: &[Topic] = topics! {
    "quick-start" "Set up two senders, repair a failing handler, retry its job"
    "configuration" "Every key of config.toml with its default"
    "senders" "Connect Stripe, GitHub, Paminga and other senders"
    "handlers" "Write a handler: command, process, batch, PHP page, URL"
    "expressions" "Select, split and transform events with jq"
    "job-lifecycle" "States, retries, circuit breaker, crash and restart"
    "cli" "Command line: exit codes, selecting jobs, times, JSON fields"
    "database" "Views, columns, queries, backup"
    "api" "Read and act from programs: calls, tokens, filters, streams"
    "alerts" "Get a mail when something is wrong"
    "console" "See events and failures in a browser, retry and pause"
    "operations" "Run it as a service, behind a proxy; solve problems"
    "scaling" "Several machines with NATS JetStream; capacity"
    "glossary" "Terms"
};

/// The examples at the end of a command's `--help`: shell commands, each below a comment.
pub fn examples(lines: &[&str]) -> String {
    let commands = lines.iter().filter(|line| !line.starts_with('#')).count();
    let heading = heading(if commands == 1 { "Example:" } else { "Examples:" });
    let lines = lines.iter().map(|line| format!("\n  {line}"));
    [heading].into_iter().chain(lines).collect()
}

/// A heading in clap's style. clap removes the style where there is no terminal.
fn heading(text: &str) -> String {
    let styles = Styles::default();
    let style = styles.get_header();
    format!("{style}{text}{style:#}")
}

/// The end of `hooktrail --help`: examples, topics and man pages.
pub fn overview() -> String {
    let examples = examples(&[
        "# Write a config.toml to begin with, then start the server",
        "hooktrail init",
        "hooktrail",
        "# Print what became of the last webhooks",
        "hooktrail tail",
    ]);
    let width = TOPICS.iter().map(|topic| topic.name.len()).max().unwrap_or(0);
    let topics = TOPICS
        .iter()
        .map(|Topic { name, purpose, .. }| format!("  {name:width$}  {purpose}\n"))
        .collect::<String>();
    let [topics_heading, more_heading] = ["Topics:", "More help:"].map(heading);
    format!(
        "{examples}\n\n{topics_heading}\n{topics}\n{more_heading}\n  \
           hooktrail help COMMAND     Print the options of a command, with examples\n  \
           hooktrail help TOPIC       Print a page of the documentation\n  \
           hooktrail man --to FOLDER  Write the man pages"
    )
}

/// Prints the page of a topic, or what `--help` prints. Without a name, it lists commands and topics.
pub fn help(name: Option<&str>) -> Result<(), ExitError> {
    if let Some(topic) = TOPICS.iter().find(|topic| Some(topic.name) == name) {
        let width = output::terminal_columns().unwrap_or(DEFAULT_WIDTH).min(MAX_WIDTH);
        let page = markdown::render(topic.page, width);
        return Ok(write!(output::stdout(), "{page}")?);
    }
    let cli = Cli::command();
    let Some(name) = name.filter(|name| cli.find_subcommand(name).is_none()) else {
        let arguments = ["hooktrail"].into_iter().chain(name).chain(["--help"]);
        // clap returns the help as an error.
        let help = cli.try_get_matches_from(arguments).err();
        return Ok(help.map_or(Ok(()), |help| help.print())?);
    };
    let commands = visible_commands(&cli).map(Command::get_name);
    let names: Vec<&str> = commands.chain(TOPICS.iter().map(|topic| topic.name)).collect();
    let remedy = match config::nearest(name, &names) {
        Some(nearest) => format!("did you mean `hooktrail help {nearest}`?"),
        None => "`hooktrail help` lists them".to_owned(),
    };
    Err(usage_error(format!("help {name}: there is no such command or topic: {remedy}")))
}

fn visible_commands(cli: &Command) -> impl Iterator<Item = &Command> {
    cli.get_subcommands().filter(|command| !command.is_hide_set())
}

/// Prints the man page of the program, or writes one for each command into a folder.
pub fn man(folder: Option<&Path>) -> Result<(), ExitError> {
    let mut cli = Cli::command();
    cli.build();
    let Some(folder) = folder else {
        return Ok(render_man_page(&cli, &mut output::raw_stdout())?);
    };
    fs::create_dir_all(folder)
        .with_context(|| format!("{}: can't be created", folder.display()))?;
    let mut count = 0;
    for command in visible_commands(&cli).chain([&cli]) {
        let path = folder.join(Man::new(command.clone()).get_filename());
        let mut page = Vec::new();
        render_man_page(command, &mut page)?;
        fs::write(&path, page).with_context(|| format!("{}: can't be written", path.display()))?;
        count += 1;
    }
    let text = format!("wrote {} into {}", numbers::format_count(count, "page"), folder.display());
    Ok(writeln!(output::stdout(), "{text}")?)
}

/// Writes a man page. clap_mangen fills the lines of the examples into paragraphs, so that section is
/// written here.
fn render_man_page(command: &Command, out: &mut impl Write) -> std::io::Result<()> {
    let source = concat!("hooktrail ", env!("CARGO_PKG_VERSION"));
    let man = Man::new(command.clone()).source(source).manual("Hooktrail");
    man.render_title(out)?;
    man.render_name_section(out)?;
    man.render_synopsis_section(out)?;
    man.render_description_section(out)?;
    man.render_options_section(out)?;
    if command.has_subcommands() {
        man.render_subcommands_section(out)?;
    }
    let after_help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let mut roff = Roff::new();
    let mut lines = after_help.lines().peekable();
    while let Some(line) = lines.next() {
        match line.strip_suffix(':').filter(|line| !line.starts_with(' ')) {
            Some(heading) => {
                roff.control("SH", [heading.to_uppercase().as_str()]);
                roff.control("nf", []);
                while let Some(literal) = lines.next_if(|line| !line.is_empty()) {
                    roff.text([roman(literal.trim_start())]);
                }
                roff.control("fi", []);
            }
            None if line.is_empty() => {
                roff.control("PP", []);
            }
            None => {
                roff.text([roman(line)]);
            }
        }
    }
    roff.to_writer(out)
}
