//! The command line: one place declares each command, its options and its help (the man page and the
//! completions are made of it); a room of commands a file.
//!
//! Exit: 0; 1 failed; 2 wrong usage; 75 another server owns the file; 78 configuration.

use std::io::{ErrorKind, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use crate::app::ExitError;
use crate::config::{self, LoadedConfig};
use crate::expression::evaluator_main;
use crate::store::{self, Store};
use crate::{app, log, process};

mod dry_run;
mod http_client;
mod inspect;
mod jobs;
mod output;
mod replay;
mod sample_bodies;
mod selector_args;
mod send;
mod setup;

/// A webhook receiver that stores each webhook before it answers, and keeps a trail of what became
/// of it.
#[derive(Debug, Parser)]
#[command(name = "hooktrail", version, max_term_width = 100)]
pub struct Cli {
    /// The configuration; else ./config.toml, else /etc/hooktrail/config.toml
    #[arg(long, global = true, env = "HOOKTRAIL_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

/// What can be asked for; none: `serve`.
#[derive(Debug, Subcommand)]
enum Command {
    /// Take webhooks and run their handlers, until a signal ends it
    Serve,
    /// Find faults in the configuration; print each source's URL
    Check {
        /// Also say which handlers would take this event
        #[arg(long, value_name = "EVENT")]
        event: Option<i64>,
    },
    /// Write a commented config.toml and working handler scripts
    Init,
    /// The last outcomes, oldest first
    Tail(inspect::TailArgs),
    /// Jobs, newest first; or events, refusals, handlers, sources
    List(inspect::ListArgs),
    /// One event: the request, its jobs, their attempts and outputs
    Show(inspect::ShowArgs),
    /// Run dead, cancelled or waiting jobs again now, with fresh attempts and the same key
    Retry(jobs::RetryArgs),
    /// New jobs with new keys from stored events, also for a handler that did not exist then
    Replay(replay::ReplayArgs),
    /// Queued jobs never run, running ones are ended, dead ones are dismissed
    Cancel(jobs::CancelArgs),
    /// Start no more jobs of a handler, until it is resumed
    Pause { handler: String },
    /// Start jobs of a handler again
    Resume { handler: String },
    /// Depth, rates and ages of handlers and sources
    Stats {
        /// One object a line
        #[arg(long)]
        json: bool,
    },
    /// Run a handler on an event in the foreground; nothing is recorded
    Run(dry_run::RunArgs),
    /// Show what an expression gives for an event or a file
    Eval(dry_run::EvalArgs),
    /// Post a webhook to the server, signed as its source's sender would
    Send(send::SendArgs),
    /// Print completions for a shell
    Completions { shell: clap_complete::Shell },
    /// Print the man page
    #[command(hide = true)]
    Man,
}

/// Runs what the command line asks for.
pub fn main() -> ExitCode {
    // Before anything else: it reads no configuration and no environment.
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|command| command == evaluator_main::COMMAND) {
        return evaluator_main::main(arguments);
    }
    let cli = Cli::parse();
    let code = match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // A reader that has seen enough, such as `head`, is no failure.
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
    // Before a secret is read. The environment may hold some, and handlers run as the same user.
    process::forbid_inspection().map_err(runtime_error)?;
    let command = cli.command.unwrap_or(Command::Serve);
    match &command {
        Command::Init => return setup::init(cli.config.as_deref()),
        Command::Completions { shell } => {
            clap_complete::generate(
                *shell,
                &mut Cli::command(),
                "hooktrail",
                &mut output::raw_stdout(),
            );
            return Ok(());
        }
        Command::Man => {
            let page = clap_mangen::Man::new(Cli::command());
            return page.render(&mut output::raw_stdout()).map_err(runtime_error);
        }
        Command::Eval(args) if args.is_of_file() => return dry_run::eval(args, None),
        _ => {}
    }
    let file = config::find(cli.config).map_err(|text| ExitError { code: 78, text })?;
    if matches!(command, Command::Serve) {
        log::start().map_err(runtime_error)?;
        return app::serve(&file);
    }
    let loaded =
        config::load(&file).map_err(|faults| ExitError { code: 78, text: faults.to_string() })?;
    match command {
        Command::Check { event } => setup::check(&loaded, event),
        Command::Run(args) => dry_run::run(&loaded, &args),
        Command::Eval(args) => dry_run::eval(&args, Some(&loaded)),
        Command::Send(args) => send::send(&loaded, &args),
        Command::Tail(args) => inspect::tail(&open_store(&loaded)?, &args),
        Command::List(args) => inspect::list(&open_store(&loaded)?, &args),
        Command::Show(args) => inspect::show(&open_store(&loaded)?, &args),
        Command::Stats { json } => inspect::stats(&open_store(&loaded)?, &loaded, json),
        Command::Retry(args) => jobs::retry(&open_store(&loaded)?, &args),
        Command::Replay(args) => replay::replay(&loaded, &args),
        Command::Cancel(args) => jobs::cancel(&open_store(&loaded)?, &args),
        Command::Pause { handler } => jobs::pause(&open_store(&loaded)?, &handler, true),
        Command::Resume { handler } => jobs::pause(&open_store(&loaded)?, &handler, false),
        Command::Serve | Command::Init | Command::Completions { .. } | Command::Man => Ok(()),
    }
}

fn open_store(loaded: &LoadedConfig) -> Result<Store, ExitError> {
    Ok(store::open_for_cli(&loaded.config.store.path)?)
}

/// An error as a failure: exit 1.
fn runtime_error(error: impl Into<anyhow::Error>) -> ExitError {
    let error = error.into();
    let closed = error.chain().any(|cause| {
        cause.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == ErrorKind::BrokenPipe)
    });
    let text = if closed { String::new() } else { format!("{error:#}") };
    ExitError { code: u8::from(!closed), text }
}

/// Something that was asked for and can't be: exit 1.
fn user_error(text: impl Into<String>) -> ExitError {
    ExitError { code: 1, text: text.into() }
}
