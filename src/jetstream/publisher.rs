//! Publishes messages to a stream and waits for their acknowledgements.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::context::{Context, ContextBuilder, PublishError, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::{self, ErrorCode};
use bytes::Bytes;
use crossbeam_channel::{Sender, bounded};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};

use super::connection::NatsConnection;
use super::thread::NatsThread;
use crate::config::NatsSettings;
use crate::process::CancelToken;

/// How long a batch waits for a connection that is not there.
const CONNECTION_WAIT: Duration = Duration::from_secs(5);

/// How long acknowledgements may still come through another server after the connection was lost.
const LOSS_GRACE: Duration = Duration::from_secs(1);

/// The maximum number of messages without acknowledgement on one connection. Beyond it, a new connection replaces the old
/// one, because async-nats keeps 200 bytes for each of them as long as the connection lives.
const MAX_UNACKNOWLEDGED: usize = 10_000;

/// How much longer than the timeout of a message a batch may take.
const TIMEOUT_MARGIN: Duration = Duration::from_millis(200);

/// Acknowledgements that are passed to the worker together.
const MAX_CHUNK: usize = 64;

/// A message to publish.
#[derive(Debug)]
pub struct OutgoingMessage {
    pub subject: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// An acknowledged message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Published {
    /// The number of the message in its stream.
    pub sequence: u64,
    /// The stream has had a message with this id within its duplicate window, and keeps that one.
    pub is_duplicate: bool,
}

/// Why a message is not known to be in the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PublishFailure {
    /// A later attempt may succeed.
    Failed(String),
    /// Each attempt would fail in the same way.
    Rejected(String),
    /// No acknowledgement came in time. The text may say what the server complained about.
    TimedOut(String),
    /// The attempt was cancelled.
    Stopped,
}

/// What a publisher connects to, and its limits.
#[derive(Clone, Debug)]
pub struct PublisherSettings {
    pub nats: NatsSettings,
    pub credentials: Option<Arc<[u8]>>,
    pub stream: String,
    /// The name of the connection, which the server shows.
    pub name: String,
    /// The maximum number of messages without acknowledgement.
    pub max_in_flight: usize,
    /// How long the acknowledgement of a message may take.
    pub timeout: Duration,
}

/// Publishes the messages of one handler over one connection, which it opens with the first of them.
#[derive(Debug)]
pub struct Publisher {
    thread: NatsThread,
    shared: Arc<PublisherShared>,
}

#[derive(Debug)]
struct PublisherShared {
    settings: PublisherSettings,
    opened: Mutex<Option<OpenConnection>>,
    /// Messages that the connection got no acknowledgement for.
    unacknowledged: AtomicUsize,
}

/// A connection and its context for JetStream.
#[derive(Clone, Debug)]
struct OpenConnection {
    nats: NatsConnection,
    context: Context,
}

/// Results of messages, by their index in the batch.
type Results = Vec<(usize, Result<Published, PublishFailure>)>;

impl Publisher {
    /// Makes a publisher, which connects when it is first used.
    pub fn new(thread: NatsThread, settings: PublisherSettings) -> Self {
        let (opened, unacknowledged) = (Mutex::default(), AtomicUsize::default());
        Self { thread, shared: Arc::new(PublisherShared { settings, opened, unacknowledged }) }
    }

    /// Publishes messages in their order, all of them in flight together. `on_result` gets each index once, as soon as its
    /// result is known. Blocks.
    pub fn publish_all(
        &self,
        messages: Vec<OutgoingMessage>,
        stop: &CancelToken,
        mut on_result: impl FnMut(usize, Result<Published, PublishFailure>),
    ) {
        let count = messages.len();
        let (sender, results) = bounded::<Results>(count.max(1));
        let (shared, stop) = (Arc::clone(&self.shared), stop.clone());
        let spawned = self.thread.spawn(move || async move {
            let mut batch =
                PublishBatch { shared: &shared, is_unfinished: vec![true; count], sender };
            batch.run(messages, &stop).await;
        });
        if let Err(e) = spawned {
            let failure = PublishFailure::Failed(format!("the thread of NATS: {e}"));
            (0..count).for_each(|index| on_result(index, Err(failure.clone())));
            return;
        }
        for (index, result) in results.iter().flatten() {
            on_result(index, result);
        }
    }
}

impl PublisherShared {
    /// Returns the connection. The first call opens it, as does one after too many lost acknowledgements.
    async fn connection(&self) -> Result<OpenConnection, String> {
        let PublisherSettings { nats, credentials, name, max_in_flight, timeout, .. } =
            &self.settings;
        let mut opened = self.opened.lock().await;
        if self.unacknowledged.load(Ordering::Relaxed) > MAX_UNACKNOWLEDGED {
            self.unacknowledged.store(0, Ordering::Relaxed);
            *opened = None;
        }
        if let Some(opened) = &*opened {
            return Ok(opened.clone());
        }
        let nats = NatsConnection::open(nats, credentials.as_deref(), name).await?;
        let context = ContextBuilder::new()
            .timeout(*timeout)
            // An attempt that was stopped gives its places back only after `ack_timeout`.
            .max_ack_inflight(max_in_flight.saturating_mul(4))
            .ack_timeout(LOSS_GRACE)
            .build(nats.client.clone());
        Ok(opened.insert(OpenConnection { nats, context }).clone())
    }
}

/// Messages that a worker publishes together.
struct PublishBatch<'a> {
    shared: &'a PublisherShared,
    /// The messages without a result.
    is_unfinished: Vec<bool>,
    sender: Sender<Results>,
}

impl PublishBatch<'_> {
    async fn run(&mut self, messages: Vec<OutgoingMessage>, stop: &CancelToken) {
        let shared = self.shared;
        let connected = async {
            let opened = shared.connection().await?;
            let wait = CONNECTION_WAIT.min(shared.settings.timeout);
            opened.nats.wait_until_connected(Instant::now() + wait).await?;
            Ok::<_, String>(opened)
        };
        let connected = tokio::select! {
            biased;
            () = stop.cancelled() => return self.end(&PublishFailure::Stopped),
            connected = connected => connected,
        };
        let OpenConnection { nats: connection, context } = match connected {
            Ok(opened) => opened,
            Err(reason) => return self.end(&PublishFailure::Failed(reason)),
        };
        let mut losses = connection.losses();
        losses.mark_unchanged();
        let losses_before = *losses.borrow();
        let lost = async {
            // An error means that the connection is gone altogether.
            let _ = losses.wait_for(|losses| *losses > losses_before).await;
            sleep(LOSS_GRACE).await;
        };
        // Each message has its timeout. But a connection that takes no bytes delays those that follow.
        let batch_timeout = shared.settings.timeout.saturating_add(TIMEOUT_MARGIN);
        let failure = tokio::select! {
            biased;
            () = stop.cancelled() => PublishFailure::Stopped,
            () = self.publish(&connection, &context, messages) => return,
            () = sleep(batch_timeout) => PublishFailure::TimedOut("waiting for the connection".to_owned()),
            () = lost => PublishFailure::Failed(
                "the connection was lost before the stream acknowledged the message".to_owned(),
            ),
        };
        self.end(&failure);
    }

    /// Publishes the messages and reports their results as they come.
    async fn publish(
        &mut self,
        connection: &NatsConnection,
        context: &Context,
        messages: Vec<OutgoingMessage>,
    ) {
        let started_at = Instant::now();
        let stream = &self.shared.settings.stream;
        let describe = |error: &PublishError, subject: &str| {
            let complaint = connection.server_error_since(started_at);
            describe_failure(error, (stream, subject), complaint)
        };
        let acknowledgements = FuturesUnordered::new();
        for (index, message) in messages.into_iter().enumerate() {
            let OutgoingMessage { subject, headers, body } = message;
            let publish = PublishMessage::build().headers(headers).payload(body);
            match context.send_publish(subject.clone(), publish).await {
                Ok(acknowledgement) => acknowledgements.push(async move {
                    let result = acknowledgement.await;
                    (index, subject, result)
                }),
                Err(error) => {
                    if error.kind() == PublishErrorKind::Other {
                        // The task of the connection may have ended: the next batch opens another one.
                        self.shared.unacknowledged.store(MAX_UNACKNOWLEDGED + 1, Ordering::Relaxed);
                    }
                    self.report(vec![(index, Err(describe(&error, &subject)))]);
                }
            }
        }
        let mut chunks = acknowledgements.ready_chunks(MAX_CHUNK);
        while let Some(chunk) = chunks.next().await {
            let results = chunk.into_iter().map(|(index, subject, result)| match result {
                Ok(published) if published.sequence == 0 => (index, Err(not_stored_yet(stream))),
                Ok(published) => {
                    let (sequence, is_duplicate) = (published.sequence, published.duplicate);
                    (index, Ok(Published { sequence, is_duplicate }))
                }
                Err(error) => (index, Err(describe(&error, &subject))),
            });
            self.report(results.collect());
        }
    }

    fn report(&mut self, results: Results) {
        for (index, result) in &results {
            if result.is_err() {
                self.shared.unacknowledged.fetch_add(1, Ordering::Relaxed);
            }
            if let Some(is_unfinished) = self.is_unfinished.get_mut(*index) {
                *is_unfinished = false;
            }
        }
        // There is room for each message, so that this never waits. The worker is gone only if it panicked.
        let _ = self.sender.try_send(results);
    }

    /// Reports a failure for each message without a result.
    fn end(&mut self, failure: &PublishFailure) {
        let unfinished = std::mem::take(&mut self.is_unfinished).into_iter().enumerate();
        let results = unfinished.filter(|(_, is_unfinished)| *is_unfinished);
        let results: Results = results.map(|(index, _)| (index, Err(failure.clone()))).collect();
        if !results.is_empty() {
            self.report(results);
        }
    }
}

/// The failure of a message that the stream calls a duplicate of one without a number. A cluster answers so while it has not
/// stored the first one, which may still be lost.
fn not_stored_yet(stream: &str) -> PublishFailure {
    PublishFailure::Failed(format!(
        "stream {stream} has not stored the first copy of this message yet"
    ))
}

/// Says why a message was not published, and whether another attempt may succeed.
fn describe_failure(
    error: &PublishError,
    (stream, subject): (&str, &str),
    complaint: Option<String>,
) -> PublishFailure {
    match error.kind() {
        PublishErrorKind::TimedOut => {
            let waited = format!("waiting for the acknowledgement of stream {stream}");
            PublishFailure::TimedOut(match complaint {
                Some(complaint) => format!("{waited}, and the server said: {complaint}"),
                None => waited,
            })
        }
        PublishErrorKind::StreamNotFound => PublishFailure::Failed(format!(
            "no stream takes the subject {subject}: stream {stream} does not exist, does not have this subject, or has no \
             leader now"
        )),
        PublishErrorKind::MaxPayloadExceeded => {
            let reason = error.source().map(ToString::to_string).unwrap_or_default();
            PublishFailure::Rejected(format!(
                "the message is larger than the server's max_payload: {reason}"
            ))
        }
        PublishErrorKind::BrokenPipe => {
            PublishFailure::Failed("the connection was closed".to_owned())
        }
        _ => describe_rejection(error, (stream, subject)),
    }
}

/// Says why the stream rejected a message.
fn describe_rejection(error: &PublishError, (stream, subject): (&str, &str)) -> PublishFailure {
    let rejection = error.source().and_then(|source| source.downcast_ref::<jetstream::Error>());
    let Some(rejection) = rejection else { return PublishFailure::Failed(error.to_string()) };
    let code = rejection.error_code();
    if code == ErrorCode::STREAM_NOT_MATCH {
        return PublishFailure::Failed(format!(
            "the subject {subject} belongs to another stream than {stream}"
        ));
    }
    let text = format!("stream {stream}: {rejection}");
    if code == ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM {
        return PublishFailure::Rejected(text);
    }
    PublishFailure::Failed(text)
}
