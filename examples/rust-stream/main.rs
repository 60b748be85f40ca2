//! Keeps the latest reading of each sensor: a handler in stream mode.
//!
//! Hooktrail starts this process at the first job and writes each job as a line of JSON to its stdin. The
//! process writes a line of JSON to stdout for each job. Only these lines may go to stdout, so everything else
//! goes to stderr. Hooktrail closes stdin when it stops, or when a reload replaces the process, which then ends.

// Clippy's rules for the server's own code: it never prints. A handler responds on stdout.
#![allow(clippy::disallowed_methods, clippy::print_stderr)]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufRead, ErrorKind, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// A job as it arrives. docs/handlers.md lists the fields that this handler does not need.
#[derive(Deserialize)]
struct Job<'a> {
    job: i64,
    event: i64,
    /// Not parsed with the line, so that an invalid reading fails this job and not the process.
    /// Missing if the body is not JSON.
    #[serde(borrow)]
    body: Option<&'a RawValue>,
}

/// What a sensor posts.
#[derive(Deserialize)]
struct Reading {
    sensor: String,
    celsius: f64,
}

/// The file's entry for one sensor.
#[derive(Serialize, Deserialize)]
struct Latest {
    celsius: f64,
    event: i64,
}

/// The line that tells Hooktrail how the job ended.
#[derive(Serialize)]
struct Response {
    job: i64,
    outcome: &'static str,
    detail: String,
}

/// The latest readings in memory and in a file.
struct Store {
    path: PathBuf,
    readings: BTreeMap<String, Latest>,
}

impl Store {
    /// Reads the file that an earlier process wrote.
    fn open(path: PathBuf) -> anyhow::Result<Self> {
        let readings = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)?,
            Err(error) if error.kind() == ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(error.into()),
        };
        Ok(Self { path, readings })
    }

    /// Stores a reading, unless this event or a newer one has stored one before. So a job that is retried
    /// and a job that runs after a newer one change nothing: event numbers only grow.
    fn store(&mut self, event: i64, reading: &Reading) -> io::Result<()> {
        if self.readings.get(&reading.sensor).is_some_and(|latest| latest.event >= event) {
            return Ok(());
        }
        let latest = Latest { celsius: reading.celsius, event };
        self.readings.insert(reading.sensor.clone(), latest);
        self.save()
    }

    /// Writes another file and renames it, so that a crash leaves the old one or the new one.
    fn save(&self) -> io::Result<()> {
        let beside = self.path.with_extension("new");
        let mut file = File::create(&beside)?;
        serde_json::to_writer(&mut file, &self.readings)?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        fs::rename(&beside, &self.path)
    }
}

/// Runs one job. `Err` is for what is not the job's fault: it ends the process, and Hooktrail retries the
/// job with a new one, which reads the file again.
fn run(job: &Job, store: &mut Store) -> anyhow::Result<Response> {
    let reading: Reading = match serde_json::from_str(job.body.map_or("null", RawValue::get)) {
        Ok(reading) => reading,
        // A retry would get the same body.
        Err(error) => {
            let detail = format!("not a reading: {error}");
            return Ok(Response { job: job.job, outcome: "dead", detail });
        }
    };
    let path = store.path.display().to_string();
    store.store(job.event, &reading).with_context(|| format!("cannot write {path}"))?;
    let detail = format!("{}: {} °C", reading.sensor, reading.celsius);
    Ok(Response { job: job.job, outcome: "succeeded", detail })
}

fn run_all() -> anyhow::Result<()> {
    let path = std::env::var_os("LATEST").context("LATEST, the file's name, is not set")?;
    let path = PathBuf::from(path);
    let mut store =
        Store::open(path.clone()).with_context(|| format!("cannot read {}", path.display()))?;
    let mut stdout = io::stdout().lock();
    for line in io::stdin().lock().lines() {
        let line = line?;
        let job: Job = serde_json::from_str(&line).context("stdin has a line that is no job")?;
        let response = run(&job, &mut store)?;
        serde_json::to_writer(&mut stdout, &response)?;
        stdout.write_all(b"\n")?;
        // Hooktrail waits for this line before it sends the next one.
        stdout.flush()?;
    }
    Ok(())
}

fn main() -> ExitCode {
    match run_all() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // With its causes on one line: the last line of stderr is the job's detail.
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
