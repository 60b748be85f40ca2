//! Events from the messages of a stream. A message passes the checks that a request passes after its signature, and is
//! acknowledged after the commit of its event.
//!
//! Messages are prepared side by side and sent to the writer in their order. A message that the server can't accept now
//! holds up those behind it, and is left to the stream when that may deliver it again.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use ring::digest::{SHA256, digest};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::body_memory::BodyOwner;
use super::event_builder::{EventBuilder, MessageIdentity};
use super::rate_limiter;
use super::received_request::{FullBody, ReceivedRequest};
use super::rejection::Rejection;
use super::rejection_log::RejectedRequest;
use super::writer_client::{PendingReply, WriterClient};
use super::{IntakeConfig, IntakeState, SourceRuntime};
use crate::clock;
use crate::config::StreamConsumer;
use crate::domain::SourceId;
use crate::domain::job_plan::hash_key;
use crate::jetstream::{Delivery, MAX_BATCH, NatsConnection, OriginRequest, StreamReader};
use crate::metrics::UnavailableReason;
use crate::store::events::{InsertReply, NewEvent};
use crate::verify::{Proof, SignedRequest};

/// Messages that wait to be prepared.
const QUEUE: usize = 256;

/// Messages that are prepared at once.
const MAX_PREPARING: usize = 64;

/// Messages that wait for their commit.
const MAX_STORING: usize = 1024;

/// How often a message that can't be accepted now is tried again.
const RETRY_INTERVAL: Duration = Duration::from_millis(250);

/// How long a source waits after an error before it connects to its stream again.
const REOPEN_INTERVAL: Duration = Duration::from_secs(1);

/// A source whose events are messages.
#[derive(Clone)]
pub struct MessageSource {
    pub state: Arc<IntakeState>,
    pub id: SourceId,
    pub name: String,
    pub settings: StreamConsumer,
    pub credentials: Option<Arc<[u8]>>,
}

impl MessageSource {
    /// Reads messages until `stop` is cancelled. Runs on the thread of NATS.
    pub async fn run(self, stop: CancellationToken) {
        let (sender, deliveries) = mpsc::channel(QUEUE);
        tokio::join!(self.read(sender, &stop), self.store(deliveries, &stop));
    }

    /// Reads messages into the queue, and connects again after an error. Logs what changes.
    async fn read(&self, deliveries: mpsc::Sender<Delivery>, stop: &CancellationToken) {
        let (name, StreamConsumer { stream, consumer, .. }) = (&self.name, &self.settings);
        let mut last_error = None;
        let mut connection = None;
        while !stop.is_cancelled() {
            let result = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                opened = self.open(&mut connection) => opened,
            };
            let result = match result {
                Ok((connection, reader)) => {
                    last_error = None;
                    log::info!("source {name}: reads stream {stream} by consumer {consumer}");
                    let max_messages = || self.max_messages();
                    reader.read(&connection, &deliveries, max_messages, stop).await
                }
                Err(reason) => Err(reason),
            };
            if let Err(reason) = result {
                if last_error.as_ref() != Some(&reason) {
                    log::warn!("source {name}: {reason}");
                    last_error = Some(reason);
                }
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = sleep(REOPEN_INTERVAL) => {}
                }
            }
        }
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

    /// Returns how many messages may be asked for: none while they could not be stored. A source with a `rate_limit` asks for
    /// no more than it may store before the stream delivers them again.
    fn max_messages(&self) -> usize {
        let config = self.state.config.load();
        let Some(runtime) = self.runtime(&config) else { return 0 };
        let is_full = runtime.queue_limit.as_ref().is_some_and(|limit| limit.is_reached(0));
        if self.state.unavailable_reason().is_some() || is_full {
            return 0;
        }
        let Some(rate) = runtime.source.rate_limit else { return MAX_BATCH };
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
            .map(|delivery| self.prepare(delivery, &writer_client, stop))
            .buffered(MAX_PREPARING)
            .map(|prepared| {
                // Sent here, so that the writer gets the messages in their order.
                let sent = prepared.map(|prepared| send(prepared, &writer_client));
                async {
                    if let Some(sent) = sent {
                        sent.settle().await;
                    }
                }
            })
            .buffer_unordered(MAX_STORING)
            .for_each(|()| std::future::ready(()))
            .await;
    }

    /// Makes the event of a message. `None`: the message was rejected, or left to the stream.
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
                    return Some(PreparedMessage { config, source_index, delivery, new_event });
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
                    delivery.terminate().await;
                    return None;
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
        let reason = rejection.reason();
        let reason = &*runtime.redactor.redact(&reason);
        runtime.rejection_streak.record_rejection(rejection, reason);
        self.state.rejection_log.record(
            &RejectedRequest {
                source: Some(&runtime.source.name),
                method: &runtime.redactor.redact(&origin.method),
                path: &runtime.redaction().redact_path(&origin.path),
                ip: &origin.ip,
                bytes: delivery.body.len(),
                status: rejection.status(),
                reason,
            },
            clock::wall_ms(),
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
    let mut proof = Proof {
        delivery_key: Some(hash_key(b'm', &[delivery.message_id.as_bytes()])),
        stale_reason: None,
    };
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
        uid: event_uid(&source.name, &delivery.message_id),
        origin_key: origin.key.as_deref().unwrap_or(&delivery.key).into(),
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
fn event_uid(source: &str, message_id: &str) -> [u8; 16] {
    let hash = digest(&SHA256, format!("{source}\n{message_id}").as_bytes());
    let mut uid = [0; 16];
    uid.copy_from_slice(&hash.as_ref()[..16]);
    uid
}

/// A message whose event is ready to be stored.
struct PreparedMessage {
    config: Arc<IntakeConfig>,
    source_index: usize,
    delivery: Delivery,
    new_event: NewEvent,
}

/// A message whose event was sent to the writer, unless it was too late for that.
struct SentMessage<'w> {
    config: Arc<IntakeConfig>,
    source_index: usize,
    delivery: Delivery,
    reply: Option<PendingReply<'w>>,
}

fn send(prepared: PreparedMessage, writer_client: &Rc<WriterClient>) -> SentMessage<'_> {
    let PreparedMessage { config, source_index, delivery, new_event } = prepared;
    let is_late = Instant::now() >= delivery.store_before;
    let reply = (!is_late).then(|| writer_client.store(new_event));
    SentMessage { config, source_index, delivery, reply }
}

impl SentMessage<'_> {
    /// Waits for the commit and acknowledges the message. Without a commit, the stream delivers it again.
    async fn settle(self) {
        let Some(reply) = self.reply else { return };
        match reply.await {
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
