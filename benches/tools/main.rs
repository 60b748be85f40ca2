//! The programs that `benches/compare` measures with, one subcommand each. All but `expression` print
//! one line of JSON. `cargo bench -- sync /tmp/sync 4096 1` runs one of them by itself.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "these programs print figures, and an error may end them"
)]

use std::path::PathBuf;

use clap::{CommandFactory, Parser, Subcommand};

mod answer;
mod claims;
mod expression;
mod jetstream;
mod noop;
mod seal;
mod spawn;
mod stream;
mod sync;
mod url;

/// The 700 bytes that every program sends or evaluates: a Paminga form.
const BODY: &[u8] = include_bytes!("../body.json");

/// The programs that benches/compare measures with.
#[derive(Parser)]
#[command(name = "cargo bench --")]
struct Arguments {
    #[command(subcommand)]
    program: Option<Program>,
    /// Cargo passes this to every benchmark; it has no effect.
    #[arg(long, global = true, hide = true)]
    bench: bool,
}

#[derive(Subcommand)]
enum Program {
    /// Answer the jobs of a `mode = "stream"` handler at once, on stdin and stdout
    Answer,
    /// Measure claims and outcomes in the store, with many queued jobs and with few
    Claims { folder: PathBuf, jobs: usize, seconds: f64 },
    /// Measure expressions, evaluated inline and by evaluator processes
    Expression {
        #[arg(default_value = "target/release/hooktrail")]
        hooktrail: PathBuf,
    },
    /// Publish messages to a stream of NATS, without queue and database
    Jetstream {
        server: String,
        /// Created if there is none
        stream: String,
        count: usize,
        in_flight: usize,
        /// Send headers as Hooktrail does
        #[arg(long)]
        headers: bool,
    },
    /// Serve HTTP: read each body and discard it
    Noop { address: String },
    /// Seal the rows of a database that benches/fill.sql made
    Seal { database: PathBuf },
    /// Measure how often two threads can start /bin/true and wait for its end
    Spawn { seconds: f64 },
    /// Measure a `mode = "stream"` handler without queue and database
    Stream {
        threads: i64,
        seconds: f64,
        #[arg(required = true, trailing_var_arg = true)]
        command: Vec<String>,
    },
    /// Measure one append with fdatasync
    Sync { file: PathBuf, bytes: usize, seconds: f64 },
    /// Measure the HTTP client of `url` handlers without queue and database
    Url { url: String, threads: usize, seconds: f64 },
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().program {
        // `cargo bench` without a program.
        None => Ok(Arguments::command().print_help()?),
        Some(Program::Answer) => answer::run(),
        Some(Program::Claims { folder, jobs, seconds }) => claims::run(&folder, jobs, seconds),
        Some(Program::Expression { hooktrail }) => expression::run(&hooktrail),
        Some(Program::Jetstream { server, stream, count, in_flight, headers }) => {
            jetstream::run(&server, &stream, count, in_flight, headers)
        }
        Some(Program::Noop { address }) => noop::run(&address),
        Some(Program::Seal { database }) => seal::run(&database),
        Some(Program::Spawn { seconds }) => spawn::run(seconds),
        Some(Program::Stream { threads, seconds, command }) => {
            stream::run(command, threads, seconds)
        }
        Some(Program::Sync { file, bytes, seconds }) => sync::run(&file, bytes, seconds),
        Some(Program::Url { url, threads, seconds }) => url::run(&url, threads, seconds),
    }
}
