//! `open`: prints a link that signs in to the console, once, and opens it on a desktop.

use std::io::{IsTerminal, Write};

use clap::Args;

use super::admin_client::AdminClient;
use super::{ExitError, output, user_error};
use crate::config::LoadedConfig;
use crate::process;

/// Arguments of `open`.
#[derive(Debug, Args)]
pub struct OpenArgs {
    /// Only print the link, also on a desktop
    #[arg(long)]
    print: bool,
}

/// Prints the link. On a desktop, opens it in a browser.
pub fn open(loaded: &LoadedConfig, args: &OpenArgs) -> Result<(), ExitError> {
    let client = AdminClient::find(loaded)?;
    let Some(base) = client.url() else {
        return Err(user_error(
            "the admin listener is a unix socket, which browsers can't open: forward a port to it, for example with \
             `ssh -L 8081:/run/hooktrail/admin.sock HOST`",
        ));
    };
    let link = client.call("POST", "/api/v1/sign-in-links")?;
    let path = link["path"].as_str().unwrap_or_default();
    let minutes = link["expires_in"].as_u64().unwrap_or(0) / 60;
    let url = format!("{base}{path}");
    writeln!(output::stdout(), "{url}")?;
    writeln!(output::stderr(), "the link signs in once, within {minutes} minutes")?;
    let is_desktop = ["DISPLAY", "WAYLAND_DISPLAY"]
        .iter()
        .any(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()));
    if is_desktop && !args.print && output::raw_stdout().is_terminal() {
        process::open_in_browser(&url);
    }
    Ok(())
}
