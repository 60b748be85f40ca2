//! A connection to NATS, which connects again by itself.

use std::sync::Arc;
use std::time::Duration;

use async_nats::connection::State;
use async_nats::{Client, ConnectOptions, Event, Server};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};

use crate::config::NatsSettings;

/// How long one attempt to connect takes at most.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a request to the API of JetStream takes at most.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection, and what went wrong with it last.
#[derive(Clone, Debug)]
pub struct NatsConnection {
    pub client: Client,
    servers: String,
    status: Arc<ConnectionStatus>,
    /// As long as somebody holds it, the connection connects again.
    _in_use: Arc<()>,
}

#[derive(Debug)]
struct ConnectionStatus {
    /// How often the connection was lost. Each change of the connection wakes the receivers.
    losses: watch::Sender<u64>,
    last_error: Mutex<Option<String>>,
    /// The last message `-ERR` of the server, such as a permission that is missing, with its time.
    last_server_error: Mutex<Option<(Instant, String)>>,
}

impl ConnectionStatus {
    fn handle_event(&self, event: Event) {
        match event {
            Event::Disconnected => self.losses.send_modify(|losses| *losses += 1),
            Event::Connected => {
                *self.last_error.lock() = None;
                // The number stays. This wakes those that wait for the connection.
                self.losses.send_modify(|_| {});
            }
            Event::ServerError(error) => {
                *self.last_server_error.lock() = Some((Instant::now(), error.to_string()));
            }
            // It only has the kind of the error: `record_errors` gets the text.
            Event::ClientError(_)
            | Event::LameDuckMode
            | Event::Draining
            | Event::Closed
            | Event::SlowConsumer(_) => {}
        }
    }

    /// Remembers why the servers could not be reached.
    fn record_errors(&self, servers: &[Server]) {
        let mut reasons: Vec<&str> = Vec::new();
        let errors = servers.iter().filter_map(|server| server.last_error.as_deref());
        for reason in errors.map(plain_reason) {
            if !reasons.contains(&reason) {
                reasons.push(reason);
            }
        }
        if !reasons.is_empty() {
            *self.last_error.lock() = Some(reasons.join("; "));
        }
    }
}

impl NatsConnection {
    /// Starts to connect, and returns without waiting for it. `name` is shown by the server. Requires the runtime of the thread of NATS.
    ///
    /// # Errors
    /// The settings can't be used.
    pub async fn open(
        settings: &NatsSettings,
        credentials: Option<&[u8]>,
        name: &str,
    ) -> Result<Self, String> {
        let status = Arc::new(ConnectionStatus {
            losses: watch::Sender::new(0),
            last_error: Mutex::default(),
            last_server_error: Mutex::default(),
        });
        let (observer, errors) = (Arc::clone(&status), Arc::clone(&status));
        let in_use = Arc::new(());
        let user = Arc::downgrade(&in_use);
        let mut options = ConnectOptions::new()
            .name(name)
            .retry_on_initial_connect()
            .connection_timeout(CONNECT_TIMEOUT)
            .request_timeout(Some(REQUEST_TIMEOUT))
            .event_callback(move |event| {
                observer.handle_event(event);
                std::future::ready(())
            })
            // Called before each attempt. It chooses no server, but sees what the attempts before met.
            .reconnect_to_server_callback(move |servers, _| {
                errors.record_errors(&servers);
                let is_unused = user.strong_count() == 0;
                async move {
                    if is_unused {
                        // async-nats notices only while it is connected that nobody uses the connection any more.
                        std::future::pending::<()>().await;
                    }
                    None
                }
            });
        if settings.tls.is_some() || settings.servers.iter().any(|url| url.starts_with("tls:")) {
            // Of each server, also of those that a server names.
            options = options.require_tls(true);
        }
        if let Some(tls) = &settings.tls {
            if let Some(ca) = &tls.ca {
                options = options.add_root_certificates(ca.clone());
            }
            if let Some((certificate, key)) = &tls.identity {
                options = options.add_client_certificate(certificate.clone(), key.clone());
            }
        }
        let options = match credentials {
            Some(credentials) => authenticate(options, credentials)?,
            None => options,
        };
        let client = options.connect(&settings.servers[..]).await.map_err(|e| e.to_string())?;
        Ok(Self { client, servers: settings.servers.join(", "), status, _in_use: in_use })
    }

    /// Waits until the connection is there.
    ///
    /// # Errors
    /// Why there is none at the deadline.
    pub async fn wait_until_connected(&self, deadline: Instant) -> Result<(), String> {
        let mut changes = self.status.losses.subscribe();
        while !self.is_connected() {
            // The library changes the state and sends the event without a wait in between, on this thread.
            match timeout_at(deadline, changes.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return Err(self.describe_absence()),
            }
        }
        Ok(())
    }

    /// Whether the connection is there, as far as the library knows.
    pub fn is_connected(&self) -> bool {
        self.client.connection_state() == State::Connected
    }

    /// Sends published messages and acknowledgements that wait, for at most `limit`.
    pub async fn flush(&self, limit: Duration) {
        let _ = timeout(limit, self.client.flush()).await;
    }

    /// Returns how often the connection was lost so far.
    pub fn losses(&self) -> watch::Receiver<u64> {
        self.status.losses.subscribe()
    }

    /// Says what the server complained about since this time, if it did.
    pub fn server_error_since(&self, since: Instant) -> Option<String> {
        let error = self.status.last_server_error.lock();
        error.as_ref().filter(|(at, _)| *at >= since).map(|(_, text)| text.clone())
    }

    /// Says that there is no connection, and why.
    pub fn describe_absence(&self) -> String {
        let reason = self.status.last_error.lock().clone();
        let reason = reason.unwrap_or_else(|| "no response".to_owned());
        format!("not connected to {}: {reason}", self.servers)
    }
}

/// Says why a server could not be reached, without the words that async-nats puts around the reason.
fn plain_reason(error: &str) -> &str {
    if error.contains("authorization violation") {
        return "authorization violation: check the credentials";
    }
    error.strip_prefix("IO error: ").unwrap_or(error)
}

/// Adds the credentials: the contents of a `.creds` file, the seed of an nkey, `user:password`, or a token.
fn authenticate(options: ConnectOptions, credentials: &[u8]) -> Result<ConnectOptions, String> {
    let text = std::str::from_utf8(credentials).map_err(|_| "credentials: not UTF-8".to_owned())?;
    if text.contains("NATS USER JWT") {
        // The parser asks for the line break at the end, which is not part of a secret.
        let text = format!("{text}\n");
        return options.credentials(&text).map_err(|e| format!("credentials: {e}"));
    }
    let text = text.trim();
    if is_user_seed(text) {
        return Ok(options.nkey(text.to_owned()));
    }
    Ok(match text.split_once(':') {
        Some((user, password)) => options.user_and_password(user.to_owned(), password.to_owned()),
        None => options.token(text.to_owned()),
    })
}

/// Whether this looks like the seed of a user's nkey (<https://docs.nats.io/running-a-nats-service/nats_admin/security>).
fn is_user_seed(text: &str) -> bool {
    let is_base32 = |b: u8| b.is_ascii_uppercase() || (b'2'..=b'7').contains(&b);
    text.len() == 58 && text.starts_with("SU") && text.bytes().all(is_base32)
}
