//! Opens a URL in the browser of a desktop.

use std::process::Stdio;

/// Asks the desktop to open a URL, with `xdg-open`. Does nothing if there is none.
#[expect(clippy::disallowed_types, reason = "a command of a person, which no job waits for")]
pub fn open_in_browser(url: &str) {
    let started = std::process::Command::new("xdg-open")
        .arg(url)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    if let Err(error) = started {
        log::debug!("xdg-open: {error}");
    }
}
