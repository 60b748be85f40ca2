//! Asks the running server to reload its configuration, and reports the result.

use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};

use super::{ExitError, find_server, output, user_error};
use crate::clock;
use crate::config::{self, LoadedConfig};
use crate::store::{LockHolder, ReloadRecord};

/// How long a reload may take. The database may be busy for a while.
const TIMEOUT: Duration = Duration::from_secs(60);

/// How often the result is looked for.
const INTERVAL: Duration = Duration::from_millis(10);

/// Sends SIGHUP to the server that runs with this file, and waits for its result.
///
/// # Errors
/// The server has rejected the file, or does not run.
pub fn reload(file: &Path) -> Result<(), ExitError> {
    let file = &std::path::absolute(file)?;
    // Where the database is, also if the file has errors. The server finds and reports them.
    let loaded = config::load(file);
    let database = match &loaded {
        Ok(loaded) => Some(loaded.config.store.path.clone()),
        Err(_) => config::load_despite_errors(file).map(|config| config.store.path),
    };
    let Some(database) = database else {
        let errors = loaded.err().map(|errors| errors.to_string()).unwrap_or_default();
        return Err(user_error(format!("{errors}\nno server was asked to reload")));
    };
    let Some(server) = find_server(&database)? else {
        let text = format!(
            "no server runs with the database {}: start it with `hooktrail serve`, or restart the one whose \
             store.path has changed",
            database.display()
        );
        let errors = loaded.err().map(|errors| format!("{errors}\n"));
        return Err(user_error(errors.unwrap_or_default() + &text));
    };
    if let Some(info) = server.info()
        && !is_same_file(Path::new(&info.config), file)
    {
        return Err(user_error(format!(
            "the server runs with {}: run `hooktrail --config {} reload`",
            info.config, info.config
        )));
    }
    let record = server
        .record
        .context("this user can't read which process the server is: run this as its user")?;
    let asked_at_ms = now_after(clock::boot_ms());
    let pid = i32::try_from(record.pid)
        .ok()
        .and_then(Pid::from_raw)
        .context("the server has no process id")?;
    kill_process(pid, Signal::HUP).map_err(|e| match e {
        Errno::PERM => user_error(format!(
            "this user may not ask process {}: run this as root or as the user of the server",
            record.pid
        )),
        e => user_error(format!("process {}: {e}", record.pid)),
    })?;
    let deadline = Instant::now() + TIMEOUT;
    while Instant::now() < deadline {
        let Some(server) = find_server(&database)? else {
            return Err(user_error("the server has ended: its log says why"));
        };
        if let Some(reload) = ended_since(&server, asked_at_ms) {
            return report(file, loaded.ok().as_ref(), &reload);
        }
        std::thread::sleep(INTERVAL);
    }
    Err(user_error(format!("the server has not reported a result for {TIMEOUT:?}: see its log")))
}

/// Whether both names lead to one file. One that does not exist any more has its name alone.
fn is_same_file(one: &Path, other: &Path) -> bool {
    match (one.canonicalize(), other.canonicalize()) {
        (Ok(one), Ok(other)) => one == other,
        _ => one == other,
    }
}

/// Returns the time of the next tick of the boot clock, so that nothing earlier has the same.
fn now_after(earlier_ms: i64) -> i64 {
    loop {
        let now_ms = clock::boot_ms();
        if now_ms > earlier_ms {
            return now_ms;
        }
        std::thread::sleep(Duration::from_micros(100));
    }
}

/// The last reload, if it began after this one was asked for.
fn ended_since(server: &LockHolder, asked_at_ms: i64) -> Option<ReloadRecord> {
    let reload = server.info()?.last_reload.clone()?;
    (reload.started_boot_ms >= asked_at_ms).then_some(reload)
}

fn report(
    file: &Path,
    loaded: Option<&LoadedConfig>,
    reload: &ReloadRecord,
) -> Result<(), ExitError> {
    if reload.errors.is_empty() {
        for warning in loaded.iter().flat_map(|loaded| &loaded.warnings) {
            writeln!(output::stderr(), "warning: {warning}")?;
        }
        let mut out = output::stdout();
        writeln!(out, "{}: reloaded", file.display())?;
        return Ok(out.flush()?);
    }
    Err(user_error(format!(
        "{}\n{}: not reloaded: the old configuration stays in force",
        reload.errors.join("\n"),
        file.display()
    )))
}
