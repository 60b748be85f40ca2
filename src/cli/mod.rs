//! The command line. Every command, its options and its help are declared here and in the argument structs
//! of the submodules. `--help`, the man page, the completions and docs/cli.md are generated from them.
//!
//! Exit codes: 0 success, 1 failure, 2 wrong usage, 3 no server runs (`status`), 75 another server owns the database, 78 configuration.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};

use crate::app::ExitError;
use crate::config::{self, ConfigErrors, LoadedConfig, Secrets};
use crate::expression::evaluator_main;
use crate::store::{self, Access, LockHolder, Store};
use crate::{app, log, process};

mod admin_client;
mod audit;
mod backup;
mod completions;
mod dry_run;
mod erase;
mod event_origin;
mod help;
mod http_client;
mod id_list;
mod inspect;
mod jobs;
mod markdown;
mod open;
mod output;
mod progress;
mod prune;
mod reload;
mod replay;
mod selector_args;
mod selector_checks;
mod send;
mod setup;
mod show;
mod sql;
mod status;
mod table;
mod tail_job;
mod verify;

/// A webhook receiver: commits each event to a SQLite file before it responds, then runs handlers and
/// retries them.
#[derive(Debug, Parser)]
#[command(name = "hooktrail", version, max_term_width = help::MAX_WIDTH, disable_help_subcommand = true)]
#[command(after_help = help::overview())]
pub struct Cli {
    /// Configuration file. Default: ./config.toml, else /etc/hooktrail/config.toml
    #[arg(long, global = true, env = "HOOKTRAIL_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

/// The commands. Without one, `serve` runs.
#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server until a signal stops it (default command)
    #[command(after_help = help::examples(&[
        "# Run the server with ./config.toml",
        "hooktrail",
        "# Run it with another file, and log more",
        "HOOKTRAIL_LOG=debug hooktrail --config test.toml serve",
    ]))]
    Serve,
    /// Check the configuration and print the URL of each source
    ///
    /// Also checks the secrets, addresses, database and programs that the server needs. Changes nothing.
    ///
    /// Exit codes: 0 the server can start, 1 there are warnings and --strict is given, 78 it can't start.
    #[command(after_help = help::examples(&[
        "# Find errors before a reload or a start",
        "hooktrail check",
        "# Print which handlers match event 7",
        "hooktrail check --event 7",
        "# Also connect to NATS",
        "hooktrail check --connect",
    ]))]
    Check {
        /// Also print which handlers match this event
        #[arg(long, value_name = "EVENT", value_parser = id_list::parse_id, allow_negative_numbers = true)]
        event: Option<i64>,
        /// Also test the connections of `jetstream`: servers, credentials, streams and consumers
        #[arg(long)]
        connect: bool,
        /// Exit with 1 if there are warnings
        #[arg(long)]
        strict: bool,
    },
    /// Ask the running server to reload config.toml, and report the result
    ///
    /// A reload is atomic: if the file has an error, the old configuration stays in force.
    ///
    /// Exit codes: 0 the file is in force, 1 it was rejected, or no server runs.
    #[command(after_help = help::examples(&[
        "# Apply a change",
        "hooktrail reload",
    ]))]
    Reload,
    /// Write a commented config.toml and example handlers
    #[command(after_help = help::examples(&[
        "# Write config.toml and handlers/ into this folder",
        "hooktrail init",
        "# Write them to /etc/hooktrail",
        "hooktrail --config /etc/hooktrail/config.toml init",
    ]))]
    Init,
    /// Print whether a server runs, its configuration, and its problems
    ///
    /// Exit codes: 0 all is well, 1 something is wrong, 3 no server runs.
    #[command(after_help = help::examples(&[
        "# Print whether all is well; a script reads the exit code",
        "hooktrail status",
        "hooktrail status --json",
    ]))]
    Status(status::StatusArgs),
    /// Print the last 20 outcomes, oldest first
    #[command(after_help = help::examples(&[
        "# Print the last outcomes, then new ones as they come",
        "hooktrail tail -f",
        "# Print what job 12 writes, until it has ended",
        "hooktrail tail -f 12",
        "# Print why the last 5 requests were rejected",
        "hooktrail tail --rejected -n 5",
    ]))]
    Tail(inspect::TailArgs),
    /// List jobs, newest first, or events, rejected requests, handlers or sources
    #[command(after_help = help::examples(&[
        "# List the dead jobs of one handler",
        "hooktrail list --handler crm --state dead",
        "# List the events of the last two hours",
        "hooktrail list --events --since 2h",
    ]))]
    List(inspect::ListArgs),
    /// Print one event: its request, its jobs, their attempts and outputs
    #[command(after_help = help::examples(&[
        "# Print event 7 and what became of it",
        "hooktrail show 7",
        "# Print one of its jobs with all attempts and outputs",
        "hooktrail show 7 --job 12",
        "# Write its body to a file",
        "hooktrail show 7 --body > body.json",
        "# Find the job of an idempotency key, and its outcome on other machines",
        "hooktrail show AZrX-wAAcACAAAAAAAAAAA-crm-0-0",
    ]))]
    Show(show::ShowArgs),
    /// Run a query on the database that can only read
    ///
    /// On a terminal it prints a table, and otherwise one line of tab-separated values for each row.
    #[command(after_help = help::examples(&store::user_query::EXAMPLES))]
    Sql(sql::SqlArgs),
    /// Retry dead, cancelled or waiting jobs now, with fresh attempts and the same idempotency key
    #[command(after_help = help::examples(&[
        "# Retry two jobs",
        "hooktrail retry 12 13",
        "# Retry the dead jobs of one handler, after a question",
        "hooktrail retry --handler crm --state dead",
    ]))]
    Retry(jobs::JobArgs),
    /// Create new jobs with new idempotency keys from stored events, also for newer handlers
    #[command(after_help = help::examples(&[
        "# Run event 7 again",
        "hooktrail replay 7",
        "# Print what a new handler would get of yesterday's events",
        "hooktrail replay --handler crm --since yesterday --dry-run",
    ]))]
    Replay(replay::ReplayArgs),
    /// Cancel queued jobs, stop running ones, dismiss dead ones
    #[command(after_help = help::examples(&[
        "# Cancel one job, and record why",
        "hooktrail cancel 12 --reason \"test data\"",
        "# Cancel the queued jobs of a handler that is gone",
        "hooktrail cancel --handler old-crm --state queued",
    ]))]
    Cancel(jobs::CancelArgs),
    /// Pause a handler: its jobs wait until it is resumed
    #[command(after_help = help::examples(&[
        "# Hold the jobs of one handler, for example while its service is down",
        "hooktrail pause crm",
    ]))]
    Pause {
        /// Name of the handler
        handler: String,
    },
    /// Resume a paused handler
    #[command(after_help = help::examples(&[
        "# Let the jobs of a paused handler run",
        "hooktrail resume crm",
    ]))]
    Resume {
        /// Name of the handler
        handler: String,
    },
    /// Print queue depths, rates and ages of each handler and source
    #[command(after_help = help::examples(&[
        "# Print how much is queued, running and dead",
        "hooktrail stats",
        "# The same, again each second",
        "hooktrail stats --watch",
    ]))]
    Stats(inspect::StatsArgs),
    /// Print a link that signs in to the console of the running server, once
    ///
    /// On a desktop it also opens the link in a browser. Exit codes: 0, 1 failed, 3 no server runs.
    #[command(after_help = help::examples(&[
        "# Open the console on this machine",
        "hooktrail open",
        "# Only print the link, for example to open it through a port that ssh forwards",
        "hooktrail open --print",
    ]))]
    Open(open::OpenArgs),
    /// Remove old events and bodies now, as `retention` does in the background
    ///
    /// Without a time, it applies the rules of `retention` in config.toml. An event that is not settled stays, and so
    /// does one that `dead_jobs` protects.
    #[command(after_help = help::examples(&[
        "# Print what the rules in config.toml would remove now",
        "hooktrail prune --dry-run",
        "# Remove all events that settled before this year, after a question",
        "hooktrail prune --before 2026-01-01",
    ]))]
    Prune(prune::PruneArgs),
    /// Remove the content of events for good: bodies, headers, items, outputs, and what may quote them
    ///
    /// The events stay in the views with their source, times, sizes and outcomes. The content is also removed from free
    /// pages of the file and from the write-ahead log. Copies of the database still have it.
    #[command(after_help = help::examples(&[
        "# Erase two events, and record why",
        "hooktrail erase 12 13 --reason \"request 2026-17\"",
        "# Print which events of a person would be erased",
        "hooktrail erase --where '.email == \"ada@example.org\"' --dry-run",
    ]))]
    Erase(erase::EraseArgs),
    /// Copy the database to a file while the server runs, and check the copy
    ///
    /// The copy has the content of one moment. It gets its name when it is complete and was read back.
    #[command(after_help = help::examples(&[
        "# Back up into one file",
        "hooktrail backup /mnt/backup/hooktrail.db",
        "# Back up into a folder, and keep the newest 14 backups there",
        "hooktrail backup --to /mnt/backup --keep 14",
        "# The same each day, from a timer: an alert says so when one is missing",
        "hooktrail backup --to /mnt/backup --keep 14 --every 1d",
    ]))]
    Backup(backup::BackupArgs),
    /// Put a backup in the place of the database, while no server runs
    ///
    /// New events, jobs and outcomes get ids that are 1,000,000,000 higher, so that none is given twice.
    #[command(after_help = help::examples(&[
        "# Restore on a new machine",
        "hooktrail restore /mnt/backup/hooktrail.db",
        "# Replace a database, and keep it beside the new one",
        "hooktrail restore --force /mnt/backup/hooktrail.db",
    ]))]
    Restore(backup::RestoreArgs),
    /// Check that the database, or a backup, is undamaged and contradicts nothing that the server promises
    ///
    /// Exit codes: 0 nothing is wrong, 1 something is.
    #[command(after_help = help::examples(&[
        "# Check the database, also while the server runs",
        "hooktrail verify",
        "# Check a backup",
        "hooktrail verify /mnt/backup/hooktrail.db",
    ]))]
    Verify(verify::VerifyArgs),
    /// Run a handler for an event in the foreground and record nothing
    #[command(after_help = help::examples(&[
        "# Try a new handler with event 7",
        "hooktrail run crm 7",
    ]))]
    Run(dry_run::RunArgs),
    /// Print the outputs of a jq expression for an event or a file
    #[command(after_help = help::examples(&[
        "# Try an expression on the newest event",
        "hooktrail eval '.form_id'",
        "# Try it on a file",
        "hooktrail eval '.items[] | {id}' body.json",
    ]))]
    Eval(dry_run::EvalArgs),
    /// Post a webhook to the server, signed as its sender signs it
    #[command(after_help = help::examples(&[
        "# Post a signed sample of the sender of source paminga",
        "hooktrail send paminga",
        "# Post a body of your own",
        "hooktrail send paminga body.json",
    ]))]
    Send(send::SendArgs),
    /// Print the completion script of a shell
    #[command(after_help = help::examples(&[
        "# Complete commands, handlers and sources in this shell (for all shells: in ~/.bashrc)",
        "source <(hooktrail completions bash)",
        "# The same for zsh, and for fish",
        "source <(hooktrail completions zsh)",
        "hooktrail completions fish | source",
    ]))]
    Completions {
        /// Name of the shell
        shell: clap_complete::Shell,
    },
    /// Print the help of a command or a topic
    ///
    /// Without a name, it lists all commands and topics. A topic is a page of the documentation.
    #[command(after_help = help::examples(&[
        "# Print every option of a command",
        "hooktrail help retry",
        "# Read about config.toml",
        "hooktrail help configuration | less",
    ]))]
    Help {
        /// Name of a command or a topic
        #[arg(value_name = "COMMAND|TOPIC")]
        topic: Option<String>,
    },
    /// Print the man page, or write one for each command
    #[command(after_help = help::examples(&[
        "# Read the man page",
        "hooktrail man | man -l -",
        "# Install all man pages",
        "sudo hooktrail man --to /usr/local/share/man/man1",
    ]))]
    Man {
        /// Write the pages of the program and of each command into this folder
        #[arg(long = "to", value_name = "FOLDER")]
        folder: Option<PathBuf>,
    },
}

/// Runs the command that the arguments name.
pub fn main() -> ExitCode {
    // An evaluator process must not read the configuration or the environment, so this comes first.
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|command| command == evaluator_main::COMMAND) {
        return evaluator_main::main(arguments);
    }
    if let Some(code) = completions::complete() {
        return code;
    }
    let cli = Cli::parse();
    let code = match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.text.is_empty() && !log::write_failure(&failure.text) {
                let _ = writeln!(output::stderr(), "{}", failure.text);
            }
            ExitCode::from(failure.code)
        }
    };
    log::flush();
    code
}

fn run(cli: Cli) -> Result<(), ExitError> {
    // The environment may hold secrets, and handlers run as the same user. So this comes before any read.
    process::forbid_inspection()?;
    let command = cli.command.unwrap_or(Command::Serve);
    match &command {
        Command::Init => return setup::init(cli.config.as_deref()),
        Command::Completions { shell } => return completions::print_script(*shell),
        Command::Help { topic } => return help::help(topic.as_deref()),
        Command::Man { folder } => return help::man(folder.as_deref()),
        Command::Eval(args) if args.is_for_file() => return dry_run::eval(args, None),
        _ => {}
    }
    let file = config::find(cli.config).map_err(|errors| match command {
        Command::Reload => user_error(errors.to_string()),
        _ => errors.into(),
    })?;
    if matches!(command, Command::Serve) {
        log::start()?;
        return app::serve(&file);
    }
    if matches!(command, Command::Reload) {
        return reload::reload(&file);
    }
    let loaded = config::load(&file)?;
    match command {
        Command::Check { event, connect, strict } => {
            let options = setup::CheckOptions { event, connect, is_strict: strict };
            setup::check(&loaded, &options)
        }
        Command::Status(args) => status::status(&loaded, &args),
        Command::Run(args) => dry_run::run(&loaded, &args),
        Command::Eval(args) => dry_run::eval(&args, Some(&loaded)),
        Command::Send(args) => send::send(&loaded, &args),
        Command::Tail(args) => inspect::tail(&loaded, &open_store(&loaded)?, &args),
        Command::List(args) => inspect::list(&open_store(&loaded)?, &args),
        Command::Show(args) => show::show(&open_store(&loaded)?, &args),
        Command::Sql(args) => sql::sql(&loaded, &args),
        Command::Stats(args) => inspect::stats(&open_store(&loaded)?, &loaded, &args),
        Command::Open(args) => open::open(&loaded, &args),
        Command::Retry(args) => jobs::retry(&loaded, &args),
        Command::Replay(args) => replay::replay(&loaded, &args),
        Command::Cancel(args) => jobs::cancel(&loaded, &args),
        Command::Erase(args) => erase::erase(&loaded, &args),
        Command::Prune(args) => prune::prune(&loaded, &args),
        Command::Backup(args) => backup::backup(&loaded, &args),
        Command::Restore(args) => backup::restore(&loaded, &args),
        Command::Verify(args) => verify::verify(&loaded, &args),
        Command::Pause { handler } => jobs::set_paused(&loaded, &handler, true),
        Command::Resume { handler } => jobs::set_paused(&loaded, &handler, false),
        Command::Serve
        | Command::Reload
        | Command::Init
        | Command::Completions { .. }
        | Command::Help { .. }
        | Command::Man { .. } => Ok(()),
    }
}

/// Opens the database for a command that only reads it.
fn open_store(loaded: &LoadedConfig) -> Result<Store, ExitError> {
    Ok(store::open_for_cli(&loaded.config.store.path, Access::Read)?)
}

/// Opens the database for a command that writes to it, unless it is a dry run.
fn open_store_to_write(loaded: &LoadedConfig, is_dry_run: bool) -> Result<Store, ExitError> {
    let access = if is_dry_run { Access::Read } else { Access::Write };
    Ok(store::open_for_cli(&loaded.config.store.path, access)?)
}

/// Finds the server that owns a database.
fn find_server(database: &Path) -> Result<Option<LockHolder>, ExitError> {
    Ok(store::find_lock_holder(database)
        .with_context(|| format!("{}: cannot be read", database.display()))?)
}

/// Prints on standard error that no server runs, and when the command takes effect therefore.
fn print_without_server(database: &Path, effect: &str) -> Result<(), ExitError> {
    if store::find_lock_holder(database)?.is_none() {
        writeln!(output::stderr(), "no server runs: {effect}")?;
    }
    Ok(())
}

/// Reads the secrets of one part of the configuration, such as `handlers.crm`.
fn read_secrets(loaded: &LoadedConfig, part: &str) -> Result<Secrets, ExitError> {
    let (secrets, missing) = config::read_secrets_under(loaded, part);
    if missing.is_empty() { Ok(secrets) } else { Err(ConfigErrors(missing).into()) }
}

/// Makes exit code 1 of a request that cannot be carried out, such as an unknown job.
fn user_error(text: impl Into<String>) -> ExitError {
    ExitError { code: 1, text: text.into() }
}

/// Makes exit code 2 of arguments that clap accepts and the command does not.
fn usage_error(text: impl Into<String>) -> ExitError {
    ExitError { code: 2, text: text.into() }
}
