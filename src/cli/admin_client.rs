//! The running server's admin listener, for commands that ask it.

use std::ops::ControlFlow;

use serde_json::Value as Json;

use super::http_client::{self, Followed, ServerResponse};
use super::{ExitError, user_error};
use crate::admin::token_file;
use crate::config::{self, Listen, LoadedConfig};
use crate::store;

/// The admin listener, with the token for it.
pub struct AdminClient {
    listen: Listen,
    token: Option<String>,
}

/// Exit code if no server runs.
const NOT_RUNNING: u8 = 3;

impl AdminClient {
    /// Finds the listener of the running server.
    ///
    /// # Errors
    /// No server runs, it has no admin listener, or this user may not read its token.
    pub fn find(loaded: &LoadedConfig) -> Result<Self, ExitError> {
        let holder = store::find_lock_holder(&loaded.config.store.path)
            .map_err(|error| user_error(error.to_string()))?;
        let Some(holder) = holder else {
            let text = "no server runs: start it with `hooktrail serve`".to_owned();
            return Err(ExitError { code: NOT_RUNNING, text });
        };
        let Some(info) = holder.info() else {
            return Err(user_error(
                "the server is starting, or this user may not read its record: try again, or run this command as the \
                 user of the server",
            ));
        };
        let addresses: Vec<Listen> = info
            .admin
            .iter()
            .filter_map(|address| http_client::parse_address(address).ok())
            .collect();
        let is_tcp = |listen: &&Listen| matches!(listen, Listen::Tcp(_));
        let unix = addresses.iter().find(|listen| !is_tcp(listen));
        match (addresses.iter().find(is_tcp), unix) {
            (Some(listen), _) => {
                Ok(Self { listen: listen.clone(), token: Some(read_token(loaded)?) })
            }
            (None, Some(listen)) => Ok(Self { listen: listen.clone(), token: None }),
            (None, None) => Err(user_error(
                "the server has no admin listener: set admin.listen in config.toml and restart it",
            )),
        }
    }

    /// The URL of the console as a browser on this machine reaches it; `None` for a unix socket.
    pub fn url(&self) -> Option<String> {
        match self.listen {
            Listen::Tcp(_) => http_client::local_endpoint(&self.listen).ok().map(|(url, _)| url),
            Listen::Unix(_) => None,
        }
    }

    /// Sends a request without a body, and returns the JSON of the response.
    ///
    /// # Errors
    /// There was no response, or it is a problem.
    pub fn call(&self, method: &str, path: &str) -> Result<Json, ExitError> {
        let response = http_client::call_admin(&self.listen, method, path, self.token.as_deref());
        let response = response.map_err(user_error)?;
        if !(200..300).contains(&response.status) {
            return Err(describe_problem(&response));
        }
        serde_json::from_slice(&response.body).map_err(|error| user_error(error.to_string()))
    }

    /// Reads server-sent events until the stream ends or `on_event` breaks.
    ///
    /// # Errors
    /// There was no response, or it is a problem.
    pub fn follow(
        &self,
        path: &str,
        on_event: &mut dyn FnMut(&str, &str) -> ControlFlow<()>,
    ) -> Result<(), ExitError> {
        let token = self.token.as_deref();
        match http_client::follow_admin(&self.listen, path, token, on_event).map_err(user_error)? {
            Followed::Ended => Ok(()),
            Followed::Other(response) => Err(describe_problem(&response)),
        }
    }
}

/// Reads the token to act, or else the one to read.
fn read_token(loaded: &LoadedConfig) -> Result<String, ExitError> {
    let admin = &loaded.config.admin;
    if admin.tokens.is_empty() {
        let path = admin.token_file(&loaded.config.store);
        return match token_file::load(&path) {
            Ok(Some(token)) => Ok(token),
            Ok(None) => Err(user_error(format!(
                "{}: there is no admin token: restart the server, which creates it",
                path.display()
            ))),
            Err(error) => {
                Err(user_error(format!("{error:#}: run this command as the user of the server")))
            }
        };
    }
    let (secrets, errors) = config::read_secrets_under(loaded, "admin");
    let token = secrets.resolve(&admin.tokens).chain(secrets.resolve(&admin.read_tokens)).next();
    match token.map(|token| String::from_utf8(token.to_vec())) {
        Some(Ok(token)) => Ok(token),
        Some(Err(_)) => Err(user_error("admin.token is not text: put a token there")),
        None => Err(user_error(
            errors
                .first()
                .map_or_else(|| "admin.token has no value".to_owned(), ToString::to_string),
        )),
    }
}

fn describe_problem(response: &ServerResponse) -> ExitError {
    let body: Json = serde_json::from_slice(&response.body).unwrap_or_default();
    let detail = body["detail"].as_str().map(str::to_owned);
    user_error(
        detail.unwrap_or_else(|| format!("the server responded with status {}", response.status)),
    )
}
