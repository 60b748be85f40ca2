//! Events from the messages of a stream. A message passes the checks that a request passes after its signature, and is
//! acknowledged after the commit of its event.
//!
//! Messages are prepared side by side and sent to the writer in their order. A message that the server can't accept now
//! holds up those behind it, and is left to the stream when that may deliver it again.

use std::borrow::Cow;
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use ring::digest::{SHA256, digest};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::body_memory::BodyOwner;
use super::connection_stream::MAX_HEAD_BYTES;
use super::event_builder::{EventBuilder, MessageIdentity};
use super::rate_limiter;
use super::received_request::{FullBody, ReceivedRequest};
use super::rejection::Rejection;
use super::writer_client::{PendingReply, WriterClient};
use super::{IntakeConfig, IntakeState, RejectedHead, SourceRuntime};
use crate::clock;
use crate::config::StreamConsumer;
use crate::domain::SourceId;
use crate::domain::job_plan::{KeyHash, hash_key};
use crate::jetstream::{
    Delivery, LossHistory, MAX_BATCH, NatsConnection, OriginRequest, ReadFailure, ReadLimits,
    ReaderStates, StreamReader,
};
use crate::metrics::UnavailableReason;
use crate::store::events::{DedupeKey, InsertReply, NewEvent};
use crate::verify::{Proof, SignedRequest};

/// Messages that wait to be prepared: while those of one request are, the next request is on its way.
const QUEUE: usize = 2 * MAX_BATCH;

/// Messages that are prepared at once.
const MAX_PREPARING: usize = 64;

/// Messages that wait for their commit.
const MAX_STORING: usize = 1024;

/// The maximum length of an origin key.
const MAX_KEY_BYTES: usize = 255;

/// How often a message that can't be accepted now is tried again.
const RETRY_INTERVAL: Duration = Duration::from_millis(250);

/// How long after a rejection its row is surely on the way to the writer. Maintenance sends such rows twice per second.
const REJECTION_WAIT: Duration = Duration::from_secs(2);

/// The number of errors in a row after which a new connection replaces an open one.
const MAX_FAILURES: u32 = 3;

/// How long the last acknowledgements may take.
const FLUSH_LIMIT: Duration = Duration::from_secs(1);

/// How long a source waits after an error before it connects to its stream again.
const REOPEN_INTERVAL: Duration = Duration::from_secs(1);

/// The same for a source that was reading. A message that ends the connection must cost much less than its acknowledgement wait.
const RESUME_INTERVAL: Duration = Duration::from_millis(100);

/// A source whose events are messages.
#[derive(Clone)]
pub struct MessageSource {
    pub state: Arc<IntakeState>,
    pub id: SourceId,
    pub name: String,
    pub settings: StreamConsumer,
    pub credentials: Option<Arc<[u8]>>,
    /// Where the source notes whether it can read its stream.
    pub reader_states: Arc<ReaderStates>,
}

impl MessageSource {
    /// Reads messages until `stop` is cancelled. Runs on the thread of NATS.
    pub async fn run(self, stop: CancellationToken) {
        let (sender, deliveries) = mpsc::channel(QUEUE);
        let mut connection = None;
        let reading = self.read(sender, &mut connection, &stop);
        tokio::join!(reading, self.store(deliveries, &stop));
        if let Some(connection) = connection {
            // The last acknowledgements.
            connection.flush(FLUSH_LIMIT).await;
        }
    }

    /// Reads messages into the queue, and connects again after an error. Logs what changes.
    async fn read(
        &self,
        deliveries: mpsc::Sender<Delivery>,
        connection: &mut Option<NatsConnection>,
        stop: &CancellationToken,
    ) {
        let (name, StreamConsumer { stream, consumer, .. }) = (&self.name, &self.settings);
        let (mut last_error, mut failures, mut was_reading) = (None, 0, false);
        let (mut last_warnings, mut loss_history) = (Vec::new(), LossHistory::default());
        while !stop.is_cancelled() {
            let result = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                opened = self.open(connection) => opened,
            };
            let result = match result {
                Ok((connection, reader)) => {
                    (failures, was_reading) = (0, true);
                    if last_warnings != reader.warnings {
                        self.log_warnings(&reader.warnings);
                        last_warnings.clone_from(&reader.warnings);
                    }
                    let limits = || ReadLimits {
                        held: self.max_held(),
                        requested: loss_history.max_request(Instant::now()),
                    };
                    let has_response = Cell::new(false);
                    let on_response = || {
                        has_response.set(true);
                        self.reader_states.set_reading(name);
                        log::info!("source {name}: reads stream {stream} by consumer {consumer}");
                    };
                    let result =
                        reader.read(&connection, &deliveries, limits, on_response, stop).await;
                    if has_response.get() {
                        last_error = None;
                    }
                    if matches!(&result, Err(failure) if failure.lost_connection)
                        && loss_history.add(Instant::now(), reader.ack_wait)
                    {
                        log::warn!("source {name}: reads one message at a time for a while");
                    }
                    result
                }
                Err(reason) => Err(ReadFailure::from(reason)),
            };
            if let Err(ReadFailure { reason, .. }) = result {
                failures += 1;
                let pause = if was_reading { RESUME_INTERVAL } else { REOPEN_INTERVAL };
                let redacted = self.state.config.load().redactor.redact(&reason).into_owned();
                self.reader_states.set_failing(name, redacted);
                let is_connected = connection.as_ref().is_some_and(NatsConnection::is_connected);
                if is_connected && failures >= MAX_FAILURES {
                    // Its task may have ended by an internal error: it would not come back. A connection that connects again stays,
                    // because it has acknowledgements to send.
                    *connection = None;
                    (failures, was_reading) = (0, false);
                }
                if last_error.as_ref() != Some(&reason) {
                    log::warn!("source {name}: {reason}");
                    last_error = Some(reason);
                }
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = sleep(pause) => {}
                }
            }
        }
    }

    fn log_warnings(&self, warnings: &[String]) {
        warnings.iter().for_each(|warning| log::warn!("source {}: {warning}", self.name));
    }

    /// Connects, unless there is a connection, and opens the consumer.
    async fn open(
        &self,
        connection: &mut Option<NatsConnection>,
    ) -> Result<(NatsConnection, StreamReader), String> {
        let connection = match connection {
            Some(connection) => connection,
            None => {
                let name = format!("hooktrail source {}", self.name);
                let credentials = self.credentials.as_deref();
                let opened = NatsConnection::open(&self.settings.nats, credentials, &name).await?;
                connection.insert(opened)
            }
        };
        connection.wait_until_connected(Instant::now() + Duration::from_secs(5)).await?;
        let reader = StreamReader::open(connection, &self.settings).await?;
        Ok((connection.clone(), reader))
    }

    /// Returns how many messages may be held at once: none while they could not be stored. A source with a `rate_limit` holds
    /// no more than it may store before the stream delivers them again.
    fn max_held(&self) -> usize {
        let config = self.state.config.load();
        let Some(runtime) = self.runtime(&config) else { return 0 };
        let is_full = runtime.queue_limit.as_ref().is_some_and(|limit| limit.is_reached(0));
        if self.state.unavailable_reason().is_some() || is_full {
            return 0;
        }
        let Some(rate) = runtime.source.rate_limit else { return usize::MAX };
        let per_second = f64::from(rate.count) / rate.period.as_secs_f64();
        // A cast of a float saturates.
        ((per_second * 5.0) as usize).clamp(1, MAX_BATCH)
    }

    fn runtime<'c>(&self, config: &'c IntakeConfig) -> Option<&'c SourceRuntime> {
        config.sources.iter().find(|runtime| runtime.id == self.id)
    }

    /// Stores messages in their order, and acknowledges each after its commit.
    async fn store(&self, deliveries: mpsc::Receiver<Delivery>, stop: &CancellationToken) {
        let writer_client = WriterClient::new(self.state.writer.sender.clone());
        let next = |mut deliveries: mpsc::Receiver<Delivery>| async {
            let delivery = deliveries.recv().await?;
            Some((delivery, deliveries))
        };
        stream::unfold(deliveries, next)
            // Boxed, because the future is large and moves several times.
            .map(|delivery| Box::pin(self.prepare(delivery, &writer_client, stop)))
            .buffered(MAX_PREPARING)
            .map(|prepared| {
                // Sent here, so that the writer gets the messages in their order.
                let sent = prepared.map(|prepared| send(prepared, &writer_client));
                async {
                    match sent {
                        Some(SentMessage::Event(sent)) => sent.settle().await,
                        Some(SentMessage::Rejected(delivery)) => {
                            self.terminate(&delivery, &writer_client, stop).await;
                        }
                        None => {}
                    }
                }
            })
            .buffer_unordered(MAX_STORING)
            .for_each(|()| std::future::ready(()))
            .await;
    }

    /// Terminates a rejected message once its rejection is on disk.
    async fn terminate(
        &self,
        delivery: &Delivery,
        writer_client: &Rc<WriterClient>,
        stop: &CancellationToken,
    ) {
        tokio::select! {
            // The stream delivers it again, and it is rejected again.
            () = stop.cancelled() => return,
            () = delivery.hold(REJECTION_WAIT) => {}
        }
        // The rejection is among the writer's operations by now. A reply to a later one comes after its commit.
        let key = DedupeKey { key: message_key(delivery), window_ms: 0 };
        match writer_client.store(NewEvent::look_up(self.id, key)).await {
            InsertReply::NoRoom | InsertReply::Unavailable => {}
            _ => delivery.terminate().await,
        }
    }

    /// Makes the event of a message. `None`: the message is left to the stream.
    async fn prepare(
        &self,
        mut delivery: Delivery,
        writer_client: &Rc<WriterClient>,
        stop: &CancellationToken,
    ) -> Option<PreparedMessage> {
        let origin = OriginRequest::of(&delivery);
        loop {
            let config = self.state.config.load_full();
            let source_index = config.sources.iter().position(|runtime| runtime.id == self.id)?;
            let builder = EventBuilder { state: &self.state, writer_client, config: &config };
            let built = build_event(&builder, source_index, &origin, &mut delivery).await;
            match built {
                Ok(new_event) => {
                    return Some(PreparedMessage::Event(Box::new(MessageEvent {
                        config,
                        source_index,
                        delivery,
                        new_event,
                    })));
                }
                Err(rejection) if is_passing(&rejection) => {
                    let next_at = Instant::now() + RETRY_INTERVAL;
                    if next_at >= delivery.store_before || stop.is_cancelled() {
                        return None;
                    }
                    tokio::select! {
                        () = stop.cancelled() => return None,
                        () = sleep_until(next_at) => {}
                    }
                }
                Err(rejection) => {
                    self.record(&rejection, &config.sources[source_index], &origin, &delivery);
                    return Some(PreparedMessage::Rejected(Box::new(delivery)));
                }
            }
        }
    }

    fn record(
        &self,
        rejection: &Rejection,
        runtime: &SourceRuntime,
        origin: &OriginRequest,
        delivery: &Delivery,
    ) {
        if let Ok(reason) = rejection.metric_reason() {
            runtime.metrics.count_rejection(reason);
        }
        self.state.record_rejection(
            rejection,
            (Some(runtime), &runtime.redactor),
            &RejectedHead {
                method: &origin.method,
                path: &origin.path,
                ip: &origin.ip,
                bytes: delivery.body.len(),
            },
        );
    }
}

/// Whether the message may be accepted later. A request would get a 429 or a 503.
fn is_passing(rejection: &Rejection) -> bool {
    matches!(rejection, Rejection::Rate { .. } | Rejection::QueueFull | Rejection::Unavailable(_))
}

/// Makes the event of a message. Takes the body of `delivery` if it succeeds.
async fn build_event(
    builder: &EventBuilder<'_>,
    source_index: usize,
    origin: &OriginRequest,
    delivery: &mut Delivery,
) -> Result<NewEvent, Rejection> {
    let (state, runtime) = (builder.state, &builder.config.sources[source_index]);
    let source = &runtime.source;
    if let Some(reason) = state.unavailable_reason() {
        return Err(Rejection::Unavailable(reason));
    }
    if delivery.body.len() > source.max_body_bytes {
        return Err(Rejection::TooLarge { max: source.max_body_bytes });
    }
    let head_bytes = origin.path.len() + origin.query.as_ref().map_or(0, String::len);
    let header_bytes = origin.headers.iter().map(|(name, value)| name.len() + value.len() + 4);
    if head_bytes + header_bytes.sum::<usize>() > MAX_HEAD_BYTES {
        return Err(Rejection::HeadTooLarge { max: MAX_HEAD_BYTES });
    }
    let memory_full = |_| Rejection::Unavailable(UnavailableReason::BodyMemory);
    let mut reservation = state.body_budget.reserve(BodyOwner {
        client: None,
        source: runtime.id,
        max_inflight_bytes: builder.config.server.max_inflight_bytes,
        max_body_bytes: source.max_body_bytes,
    });
    reservation.grow(delivery.body.len()).map_err(memory_full)?;
    let headers: Vec<(&str, &[u8])> =
        origin.headers.iter().map(|(name, value)| (name.as_str(), value.as_slice())).collect();
    let request = SignedRequest {
        method: &origin.method,
        path: &origin.path,
        query: origin.query.as_deref(),
        headers: &headers,
        body: &[],
        secret_segment: None,
        trusted_proxy_header: None,
    };
    let client: Option<Arc<str>> =
        origin.client.as_deref().map(|client| runtime.redactor.redact(client).into());
    let head = ReceivedRequest::without_body(
        runtime,
        request,
        (&origin.ip, client.as_ref()),
        clock::wall_ms(),
        &state.expressions,
        state.deferrals.is_deferring(runtime.id),
    );
    let body = FullBody::new(delivery.body.clone(), head, builder.config, source_index);
    let mut proof = Proof { delivery_key: Some(message_key(delivery)), stale_reason: None };
    let redacted = match source.redact.body.is_empty() {
        true => None,
        false => {
            let original = body.with_body(head);
            let redaction = builder.redact_body(&original, head, source_index, &mut proof);
            Box::pin(redaction).await?.map_err(|reason| Rejection::MalformedBody { reason })?
        }
    };
    if let Some(redacted) = &redacted {
        let added = redacted.len().saturating_sub(delivery.body.len());
        reservation.grow(added).map_err(memory_full)?;
    }
    let body = redacted.unwrap_or(body);
    let received = body.with_body(head);
    builder.check_content(&received).await?;
    let admission = rate_limiter::admit_request(runtime.rate_limiter.as_ref())?;
    let identity = MessageIdentity {
        uid: event_uid(&source.name, delivery),
        origin_key: bounded_key(origin.key.as_deref().unwrap_or(&delivery.key)).into(),
        is_redelivery: delivery.is_redelivery,
    };
    match builder.build_event(&received, &proof, None, Some(identity)).await {
        Ok((event, _)) => {
            let (body, body_memory) = (body.into_bytes(), Some(reservation.transfer()));
            delivery.body = Vec::new();
            Ok(NewEvent { body, body_memory, ..event })
        }
        Err(rejection) => {
            if let Some(admission) = admission {
                admission.cancel();
            }
            Err(rejection)
        }
    }
}

/// The id of the event that any machine makes of a message. So jobs of the same message have the same idempotency keys on
/// each machine, even if the message was stored twice because the stream had forgotten its id.
fn event_uid(source: &str, delivery: &Delivery) -> [u8; 16] {
    let hash = hash_key(b'u', &[source.as_bytes(), b"\n", delivery.message_id.as_bytes()]);
    with_time_prefix(hash, delivery.id_time_ms)
}

/// The delivery key of a message.
fn message_key(delivery: &Delivery) -> KeyHash {
    with_time_prefix(hash_key(b'm', &[delivery.message_id.as_bytes()]), delivery.id_time_ms)
}

/// Replaces the first six bytes of a hash by the time in the hashed id. A UUIDv7 has its time there too. Messages that follow each
/// other are then neighbours in an index. With hashes alone, each changes another page of it: three times the bytes of the log.
fn with_time_prefix(mut hash: KeyHash, time_ms: Option<u64>) -> KeyHash {
    if let Some(time_ms) = time_ms {
        let [_, _, time @ ..] = time_ms.to_be_bytes();
        hash[..6].copy_from_slice(&time);
    }
    hash
}

/// Returns a key of bounded length for the index: the key itself, or its hash.
fn bounded_key(key: &str) -> Cow<'_, str> {
    match key.len() {
        ..=MAX_KEY_BYTES => key.into(),
        _ => format!("sha256-{}", hex::encode(digest(&SHA256, key.as_bytes()))).into(),
    }
}

/// A message that was checked.
enum PreparedMessage {
    Event(Box<MessageEvent>),
    /// The rejection is recorded.
    Rejected(Box<Delivery>),
}

/// A message and its event, which is ready to be stored.
struct MessageEvent {
    config: Arc<IntakeConfig>,
    source_index: usize,
    delivery: Delivery,
    new_event: NewEvent,
}

/// A message after its turn in the order of the stream.
enum SentMessage<'w> {
    Event(Box<StoringMessage<'w>>),
    Rejected(Box<Delivery>),
}

/// A message whose event was sent to the writer, unless it was too late for that.
struct StoringMessage<'w> {
    config: Arc<IntakeConfig>,
    source_index: usize,
    delivery: Delivery,
    reply: Option<PendingReply<'w>>,
}

fn send(prepared: PreparedMessage, writer_client: &Rc<WriterClient>) -> SentMessage<'_> {
    let MessageEvent { config, source_index, delivery, new_event } = match prepared {
        PreparedMessage::Event(event) => *event,
        PreparedMessage::Rejected(delivery) => return SentMessage::Rejected(delivery),
    };
    let is_late = Instant::now() >= delivery.store_before;
    let reply = (!is_late).then(|| writer_client.store(new_event));
    SentMessage::Event(Box::new(StoringMessage { config, source_index, delivery, reply }))
}

impl StoringMessage<'_> {
    /// Waits for the commit and acknowledges the message. Without a commit, the stream delivers it again.
    async fn settle(self) {
        let Some(reply) = self.reply else { return };
        match self.delivery.hold_until(reply).await {
            InsertReply::Stored(_) | InsertReply::Deferred(_) | InsertReply::Duplicate(_) => {
                self.config.sources[self.source_index].rejection_streak.reset();
                self.delivery.acknowledge().await;
            }
            InsertReply::QueueFull
            | InsertReply::NotDuplicate
            | InsertReply::NoRoom
            | InsertReply::Unavailable => {}
        }
    }
}
