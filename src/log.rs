//! Log lines on stderr: with journald's priorities and no second time stamp where it reads them, with
//! a time and colour for people. What comes from outside is escaped by whoever logs it (`{:?}`).

use std::io::Write;

use log::{Level, LevelFilter};
use rustix::fs::fstat;

use crate::clock;

/// To be called once, by a command that runs for long. `HOOKTRAIL_LOG=debug` says more.
pub fn start() {
    let journal = is_journal();
    let mut builder = env_logger::Builder::new();
    builder.filter_level(LevelFilter::Info);
    // The libraries beneath tell of threads and sockets, which is nobody's concern here.
    for library in ["actix_server", "actix_http", "actix_web", "r2d2", "mio"] {
        builder.filter_module(library, LevelFilter::Warn);
    }
    builder.parse_env("HOOKTRAIL_LOG");
    builder.format(move |out, record| {
        let text = record.args().to_string();
        let level = record.level();
        for line in text.lines() {
            if journal {
                // <https://www.freedesktop.org/software/systemd/man/latest/sd-daemon.html>
                let priority = match level {
                    Level::Error => 3,
                    Level::Warn => 4,
                    Level::Info => 6,
                    Level::Debug | Level::Trace => 7,
                };
                writeln!(out, "<{priority}>{line}")?;
            } else {
                let style = out.default_level_style(level);
                let at = clock::iso(clock::wall_ms());
                writeln!(out, "{at} {style}{level:5}{style:#} {line}")?;
            }
        }
        Ok(())
    });
    // A second start in one process (tests) keeps the first.
    let _ = builder.try_init();
}

/// Whether stderr is the journal's: the variable alone is inherited by pipes too.
fn is_journal() -> bool {
    let Ok(named) = std::env::var("JOURNAL_STREAM") else { return false };
    let Ok(found) = fstat(rustix::stdio::stderr()) else { return false };
    named == format!("{}:{}", found.st_dev, found.st_ino)
}
