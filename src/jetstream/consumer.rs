//! Reads the messages of a stream through a durable pull consumer.

use std::rc::Rc;
use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, Consumer, Info, pull};
use async_nats::jetstream::message::Acker;
use async_nats::jetstream::{self, AckKind, Context, ContextBuilder};
use futures_util::StreamExt;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::connection::NatsConnection;
use super::headers;
use super::subjects::overlaps;
use crate::config::StreamConsumer;
use crate::domain::idempotency_key::IdempotencyKey;

/// Messages that one request asks for.
pub const MAX_BATCH: usize = 500;

/// Bytes that one request asks for, as far as the messages are like those of the request before.
const MAX_BATCH_BYTES: usize = 16 << 20;

/// The size of a message before the first of them is known.
const ASSUMED_BYTES: usize = 128 << 10;

/// How long a request waits for messages.
const REQUEST_EXPIRES: Duration = Duration::from_secs(10);

/// The same for the first request, so that the source soon knows that the stream answers.
const FIRST_REQUEST_EXPIRES: Duration = Duration::from_secs(1);

/// How long after its end a request has had no response. async-nats gives it up a second later.
const RESPONSE_WAIT: Duration = Duration::from_secs(4);

/// The consumer that is created if there is none: after this time without an acknowledgement, a message is delivered again.
/// A commit takes milliseconds. Any machine may get the message then, so this is also how long messages wait that a crash
/// interrupted.
const ACK_WAIT: Duration = Duration::from_secs(30);

/// A shorter acknowledgement wait has a warning.
const MIN_ACK_WAIT: Duration = Duration::from_secs(5);

/// The consumer that is created if there is none: the maximum number of messages without acknowledgement, on all machines
/// together.
const MAX_ACK_PENDING: i64 = 10_000;

/// How long an acknowledgement may wait for the connection.
const ACK_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a reader that ends goes on with messages that are on their way, and how long it waits for the next of them.
const DRAIN_LIMIT: Duration = Duration::from_secs(1);
const DRAIN_PAUSE: Duration = Duration::from_millis(50);

/// How often a reader that accepts no messages asks again.
const PAUSE: Duration = Duration::from_millis(250);

/// Why a reader ends that lost its connection.
const LOST_CONNECTION: &str = "the connection was lost: if this repeats while NATS runs, a message has invalid headers (docs/operations.md)";

/// Why a reader ends that gets no messages and no word that there are none.
const NO_RESPONSE: &str = "no response to a request for messages: the consumer has no leader now, or this user may not publish to \
                           $JS.API.CONSUMER.MSG.NEXT";

/// Why a reader ends whose messages nobody takes.
const SOURCE_ENDED: &str = "the source has ended";

/// A message that a stream delivered.
pub struct Delivery {
    pub subject: String,
    /// Names in lower case, in their order.
    pub headers: Vec<(String, Vec<u8>)>,
    pub body: Vec<u8>,
    /// Stays the same when the stream delivers the message again: `Nats-Msg-Id`, else the place of the message in its stream
    /// with its time, which differs when a stream of the same name is created again.
    pub message_id: String,
    /// A time that is part of `message_id`, in milliseconds since 1970: that in the idempotency key of the machine that published
    /// the message, or without `Nats-Msg-Id` that of the publication. `None`: the id has no time.
    pub id_time_ms: Option<u64>,
    /// The key under which people find the message: `Nats-Msg-Id`, else `STREAM:SEQUENCE`.
    pub key: String,
    /// The stream has delivered the message before.
    pub is_redelivery: bool,
    /// From then on the stream may deliver the message to another machine, so this one must not store it any more.
    pub store_before: Instant,
    ack_wait: Duration,
    acker: Acker,
    _held: Rc<()>,
}

impl Delivery {
    fn new(message: jetstream::Message, ack_wait: Duration, held: &Rc<()>) -> Result<Self, String> {
        let info = message.info().map_err(|e| format!("a message without its place: {e}"))?;
        let place = format!("{}:{}", info.stream, info.stream_sequence);
        let published_at = info.published.unix_timestamp_nanos();
        let is_redelivery = info.delivered > 1;
        let (message, acker) = message.split();
        let id = message.headers.as_ref().and_then(|all| all.get(headers::MESSAGE_ID));
        let (message_id, key, id_time_ms) =
            match id.map(|id| id.as_str()).filter(|id| !id.is_empty()) {
                Some(id) => {
                    let parsed = IdempotencyKey::parse(id);
                    (format!("id:{id}"), id.to_owned(), parsed.map(|key| key.received_at_ms()))
                }
                None => {
                    let time_ms = u64::try_from(published_at / 1_000_000).ok();
                    (format!("place:{place}:{published_at}"), place, time_ms)
                }
            };
        let mut header_lines: Vec<(String, Vec<u8>)> = Vec::new();
        for (name, values) in message.headers.iter().flat_map(|all| all.iter()) {
            let name = name.to_string().to_ascii_lowercase();
            let values = values.iter().map(|value| value.as_str().as_bytes().to_vec());
            header_lines.extend(values.map(|value| (name.clone(), value)));
        }
        header_lines.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(Self {
            subject: message.subject.to_string(),
            headers: header_lines,
            body: message.payload.to_vec(),
            message_id,
            id_time_ms,
            key,
            is_redelivery,
            store_before: Instant::now() + ack_wait * 2 / 3,
            ack_wait,
            acker,
            _held: Rc::clone(held),
        })
    }

    /// Tells the stream that the message is stored. If this is lost, the stream delivers the message again.
    pub async fn acknowledge(&self) {
        let _ = timeout(ACK_TIMEOUT, self.acker.ack()).await;
    }

    /// Waits for a commit, and keeps the stream from delivering the message again meanwhile.
    pub async fn hold_until<T>(&self, mut commit: impl Future<Output = T> + Unpin) -> T {
        loop {
            match timeout(self.ack_wait / 3, &mut commit).await {
                Ok(result) => return result,
                Err(_) => self.keep().await,
            }
        }
    }

    async fn keep(&self) {
        let _ = timeout(ACK_TIMEOUT, self.acker.ack_with(AckKind::Progress)).await;
    }

    /// Waits, and keeps the stream from delivering the message again meanwhile.
    pub async fn hold(&self, duration: Duration) {
        let end = Instant::now() + duration;
        while Instant::now() < end {
            self.keep().await;
            sleep_until(end.min(Instant::now() + self.ack_wait / 3)).await;
        }
    }

    /// Tells the stream not to deliver the message again.
    pub async fn terminate(&self) {
        let _ = timeout(ACK_TIMEOUT, self.acker.ack_with(AckKind::Term)).await;
    }
}

/// Why a reader can't go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadFailure {
    pub reason: String,
    /// A message that no client can read may have ended the connection.
    pub lost_connection: bool,
}

impl ReadFailure {
    fn lost_connection(reason: impl ToString) -> Self {
        Self { reason: reason.to_string(), lost_connection: true }
    }
}

impl From<String> for ReadFailure {
    fn from(reason: String) -> Self {
        Self { reason, lost_connection: false }
    }
}

/// How many messages a reader may take now.
#[derive(Clone, Copy, Debug)]
pub struct ReadLimits {
    /// Deliveries that may exist at once.
    pub held: usize,
    /// Messages that one request may ask for.
    pub requested: usize,
}

/// A consumer that was found or created.
#[derive(Debug)]
pub struct StreamReader {
    consumer: Consumer<pull::Config>,
    /// The time after which the stream delivers a message again.
    pub ack_wait: Duration,
    /// What may go wrong with the messages.
    pub warnings: Vec<String>,
    /// The filter of the settings, if the server removed it as one for all that the stream takes.
    removed_filter: Option<String>,
    /// Has a reference for each delivery that is not dropped.
    held: Rc<()>,
}

impl StreamReader {
    /// Finds the consumer, or creates it.
    ///
    /// # Errors
    /// The stream does not exist, or the consumer does not fit the settings.
    pub async fn open(
        connection: &NatsConnection,
        settings: &StreamConsumer,
    ) -> Result<Self, String> {
        let context = ContextBuilder::new().build(connection.client.clone());
        let stream = find_stream(&context, &settings.stream).await?;
        let StreamConsumer { consumer: name, filter, is_ordered, .. } = settings;
        let wanted = pull::Config {
            durable_name: Some(name.clone()),
            ack_policy: AckPolicy::Explicit,
            ack_wait: ACK_WAIT,
            max_ack_pending: if *is_ordered { 1 } else { MAX_ACK_PENDING },
            filter_subject: filter.clone().unwrap_or_default(),
            ..pull::Config::default()
        };
        let consumer: Consumer<pull::Config> = stream
            .get_or_create_consumer(name, wanted)
            .await
            .map_err(|e| format!("consumer {name} of stream {}: {e}", settings.stream))?;
        let stream_config = &stream.cached_info().config;
        let info = consumer.cached_info();
        let ack_wait = check_consumer(info, stream_config, settings)?;
        let version = connection.client.server_info().version;
        let mut warnings = stream_warnings(&version, stream_config);
        warnings.extend(filter_warning(stream_config, settings));
        warnings.extend(consumer_warnings(info));
        let removed_filter = filter.clone().filter(|_| info.config.filter_subject.is_empty());
        Ok(Self { consumer, ack_wait, warnings, removed_filter, held: Rc::default() })
    }

    /// Reads messages until `stop` is cancelled, or the connection is lost. `limits` returns how many it may
    /// take now. Calls `on_response` when the stream has responded to the first request, or none can be made
    /// now.
    ///
    /// # Errors
    /// Why it can't go on.
    pub async fn read(
        &self,
        connection: &NatsConnection,
        deliveries: &mpsc::Sender<Delivery>,
        limits: impl Fn() -> ReadLimits,
        on_response: impl FnOnce(),
        stop: &CancellationToken,
    ) -> Result<(), ReadFailure> {
        let mut losses = connection.losses();
        losses.mark_unchanged();
        let losses_before = *losses.borrow();
        let mut mean_bytes = ASSUMED_BYTES;
        let config = &self.consumer.cached_info().config;
        let max_batch = usize::try_from(config.max_batch).ok().filter(|max| *max > 0);
        let max_expires = match config.max_expires {
            Duration::ZERO => REQUEST_EXPIRES,
            max => max.min(REQUEST_EXPIRES),
        };
        let mut on_response = Some(on_response);
        while !stop.is_cancelled() {
            let held = Rc::strong_count(&self.held) - 1;
            let limits = limits();
            let wanted = limits.held.saturating_sub(held).min(limits.requested);
            let wanted = wanted.min(batch_size(mean_bytes));
            if wanted == 0 {
                // It would read if there were room.
                on_response.take().into_iter().for_each(|on_response| on_response());
                tokio::select! {
                    () = stop.cancelled() => return Ok(()),
                    () = tokio::time::sleep(PAUSE) => continue,
                }
            }
            // No more than the queue has room for: a message that waited elsewhere would have a wrong `store_before`.
            let room = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                room = deliveries.reserve() => room,
            };
            if room.is_err() {
                return Err(SOURCE_ENDED.to_owned().into());
            }
            drop(room);
            let count = wanted.min(deliveries.capacity()).min(max_batch.unwrap_or(MAX_BATCH));
            let expires = match on_response {
                Some(_) => FIRST_REQUEST_EXPIRES.min(max_expires),
                None => max_expires,
            };
            let requested_at = Instant::now();
            let request = self.consumer.batch().max_messages(count).expires(expires);
            let mut batch = request.messages().await.map_err(ReadFailure::lost_connection)?;
            let (mut messages, mut bytes) = (0, 0);
            loop {
                let next = tokio::select! {
                    biased;
                    () = stop.cancelled() => break,
                    next = batch.next() => next,
                    _ = losses.wait_for(|losses| *losses > losses_before) => {
                        return Err(ReadFailure::lost_connection(LOST_CONNECTION));
                    }
                };
                match next {
                    Some(Ok(message)) => {
                        (messages, bytes) = (messages + 1, bytes + message.length);
                        self.deliver(message, deliveries).await?;
                    }
                    Some(Err(e)) => return Err(e.to_string().into()),
                    None => break,
                }
            }
            if messages == 0 && requested_at.elapsed() > expires + RESPONSE_WAIT {
                let complaint = connection.server_error_since(requested_at);
                let complaint = complaint.map(|text| format!(", and the server said: {text}"));
                return Err(format!("{NO_RESPONSE}{}", complaint.unwrap_or_default()).into());
            }
            on_response.take().into_iter().for_each(|on_response| on_response());
            mean_bytes = bytes.checked_div(messages).unwrap_or(mean_bytes);
            // Messages that are on their way would otherwise wait until the stream delivers them again.
            let until = Instant::now() + DRAIN_LIMIT;
            while Instant::now() < until
                && let Ok(Some(Ok(message))) = timeout(DRAIN_PAUSE, batch.next()).await
            {
                self.deliver(message, deliveries).await?;
            }
        }
        Ok(())
    }

    async fn deliver(
        &self,
        message: jetstream::Message,
        deliveries: &mpsc::Sender<Delivery>,
    ) -> Result<(), String> {
        if let Some(filter) = &self.removed_filter
            && !overlaps(filter, &message.subject)
        {
            let subject = &message.subject;
            return Err(format!(
                "the consumer has no filter and delivers {subject}, which the filter {filter} excludes: delete the consumer"
            ));
        }
        let delivery = Delivery::new(message, self.ack_wait, &self.held)?;
        deliveries.send(delivery).await.map_err(|_| SOURCE_ENDED.to_owned())
    }
}

/// Whether a stream has messages of this subject alone. nats-server 2.9 removes such a filter from a consumer.
fn takes_only(stream: &jetstream::stream::Config, subject: &str) -> bool {
    matches!(&stream.subjects[..], [only] if only == subject) && !has_other_subjects(stream)
}

/// Whether messages of a stream may have other subjects than those that it takes.
fn has_other_subjects(stream: &jetstream::stream::Config) -> bool {
    stream.mirror.is_some()
        || stream.sources.as_ref().is_some_and(|sources| !sources.is_empty())
        || stream.subject_transform.is_some()
}

/// Returns how many messages of this size to ask for at once.
fn batch_size(mean_bytes: usize) -> usize {
    (MAX_BATCH_BYTES / mean_bytes.max(1)).clamp(1, MAX_BATCH)
}

/// Finds a stream.
///
/// # Errors
/// It does not exist, or the server does not say.
pub(super) async fn find_stream(
    context: &Context,
    name: &str,
) -> Result<jetstream::stream::Stream, String> {
    context.get_stream(name).await.map_err(|e| format!("stream {name}: {e}"))
}

/// The oldest nats-server that delivered all messages of a replicated stream in tests that took the majority from it
/// (docs/scaling.md).
const OLDEST_FOR_REPLICAS: [u32; 3] = [2, 12, 8];

/// Warns of a filter that matches no message of the stream.
pub(super) fn filter_warning(
    stream: &jetstream::stream::Config,
    settings: &StreamConsumer,
) -> Option<String> {
    let filter = settings.filter.as_ref()?;
    let (name, subjects) = (&stream.name, &stream.subjects);
    let is_matched = subjects.iter().any(|subject| overlaps(subject, filter));
    (!is_matched && !has_other_subjects(stream)).then(|| {
        format!("no subject of stream {name} ({}) matches the filter {filter}", subjects.join(", "))
    })
}

/// Says what may go wrong with the messages of a stream. `version`: that of the nats-server.
pub(super) fn stream_warnings(version: &str, stream: &jetstream::stream::Config) -> Vec<String> {
    let (name, replicas) = (&stream.name, stream.num_replicas);
    let is_old = parse_version(version).is_some_and(|version| version < OLDEST_FOR_REPLICAS);
    if replicas < 2 || !is_old {
        return Vec::new();
    }
    let [major, minor, patch] = OLDEST_FOR_REPLICAS;
    vec![format!(
        "stream {name} has {replicas} replicas on nats-server {version}, which may skip messages after a loss of the \
         majority: expected {major}.{minor}.{patch} or later"
    )]
}

/// Parses a version like `2.12.8` or `2.15.1-RC.1`.
fn parse_version(text: &str) -> Option<[u32; 3]> {
    let release = text.split(['-', '+']).next()?;
    let numbers: Result<Vec<u32>, _> = release.split('.').map(str::parse).collect();
    numbers.ok()?.try_into().ok()
}

/// Says what may go wrong with messages that the consumer delivers.
pub(super) fn consumer_warnings(info: &Info) -> Vec<String> {
    let config = &info.config;
    let at = format!("consumer {} of stream {}", info.name, info.stream_name);
    let mut warnings = Vec::new();
    if config.ack_wait < MIN_ACK_WAIT {
        warnings.push(format!(
            "{at} has an acknowledgement wait of {:?}: a message whose commit takes longer is delivered again: expected \
             {MIN_ACK_WAIT:?} or more",
            config.ack_wait
        ));
    }
    if config.max_deliver > 0 {
        warnings.push(format!(
            "{at} delivers a message at most {} times: the stream gives up a message that is not stored by then",
            config.max_deliver
        ));
    }
    warnings
}

/// Returns the time after which the consumer delivers a message again.
///
/// # Errors
/// The consumer does not fit the settings.
pub(super) fn check_consumer(
    info: &Info,
    stream_config: &jetstream::stream::Config,
    settings: &StreamConsumer,
) -> Result<Duration, String> {
    let StreamConsumer { stream, consumer, filter, is_ordered, .. } = settings;
    let config = &info.config;
    let at = format!("consumer {consumer} of stream {stream}");
    if config.deliver_subject.is_some() {
        return Err(format!("{at} pushes messages: expected a pull consumer"));
    }
    if config.ack_policy != AckPolicy::Explicit {
        return Err(format!(
            "{at} does not ask for explicit acknowledgements: expected one that does"
        ));
    }
    let (found, wanted) = (&config.filter_subject, filter.as_deref().unwrap_or_default());
    if !config.filter_subjects.is_empty() {
        let found = config.filter_subjects.join(", ");
        return Err(format!(
            "{at} has filter_subjects ({found}): expected filter_subject, or no filter"
        ));
    }
    let is_removed = found.is_empty() && takes_only(stream_config, wanted);
    if found != wanted && !is_removed {
        return Err(format!(
            "{at} has the filter {found:?}, and config.toml has {wanted:?}: expected the same"
        ));
    }
    if config.headers_only {
        return Err(format!("{at} delivers headers only: expected one that delivers messages"));
    }
    if *is_ordered && config.max_ack_pending != 1 {
        let found = config.max_ack_pending;
        return Err(format!(
            "{at} has a max_ack_pending of {found}, and config.toml has ordered = true: expected 1"
        ));
    }
    Ok(config.ack_wait)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_compared_by_its_numbers() {
        for (text, expected) in [
            ("2.9.10", Some([2, 9, 10])),
            ("2.15.1-RC.1", Some([2, 15, 1])),
            ("2.12", None),
            ("2.99999999999.0", None),
            ("", None),
        ] {
            assert_eq!(parse_version(text), expected, "{text}");
        }
        assert!([2, 9, 10] < OLDEST_FOR_REPLICAS && [2, 12, 8] >= OLDEST_FOR_REPLICAS);
    }

    #[test]
    fn a_stream_that_takes_messages_of_other_streams_has_more_than_its_subjects() {
        use jetstream::stream::{Config, Source, SubjectTransform};
        let own = Config { subjects: vec!["a.>".to_owned()], ..Config::default() };
        assert!(takes_only(&own, "a.>") && !takes_only(&own, "a.b"));
        let transform = SubjectTransform { source: ">".to_owned(), destination: "b.>".to_owned() };
        for others in [
            Config { sources: Some(vec![Source::default()]), ..own.clone() },
            Config { mirror: Some(Source::default()), ..own.clone() },
            Config { subject_transform: Some(transform), ..own.clone() },
            Config { subjects: vec!["a.>".to_owned(), "b".to_owned()], ..own.clone() },
        ] {
            assert!(!takes_only(&others, "a.>"), "{others:?}");
        }
    }
}
