//! Tests the connections of a configuration without changing anything in the cluster.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::ContextBuilder;
use async_nats::jetstream::context::ConsumerInfoErrorKind;
use async_nats::jetstream::stream::{Config, StorageType};
use crossbeam_channel::bounded;
use tokio::time::Instant;

use super::connection::NatsConnection;
use super::consumer::{
    check_consumer, consumer_warnings, filter_warning, find_stream, stream_warnings,
};
use super::subjects::overlaps;
use super::thread::NatsThread;
use crate::config::{JetStreamTarget, NatsSettings, StreamConsumer, duration_text};

/// How long a connection may take.
const CONNECT_WAIT: Duration = Duration::from_secs(5);

/// What a handler or a source wants of its cluster.
#[derive(Clone, Debug)]
pub enum ConnectionTest {
    /// A stream that takes the messages of a handler.
    Target(JetStreamTarget),
    /// A stream and a consumer that a source can use.
    Consumer(StreamConsumer),
}

/// What a test has found.
#[derive(Clone, Debug)]
pub struct ConnectionReport {
    /// The stream and the consumer.
    pub description: String,
    pub warnings: Vec<String>,
}

impl ConnectionTest {
    /// Returns how to connect.
    pub fn nats(&self) -> &NatsSettings {
        match self {
            Self::Target(target) => &target.nats,
            Self::Consumer(consumer) => &consumer.nats,
        }
    }

    /// Connects, and describes the stream and the consumer. Blocks.
    ///
    /// # Errors
    /// The reason why the handler or the source can't use them.
    pub fn run(
        self,
        thread: &NatsThread,
        credentials: Option<Arc<[u8]>>,
    ) -> Result<ConnectionReport, String> {
        let (sender, result) = bounded(1);
        let test = move || async move {
            let _ = sender.send(self.test(credentials.as_deref()).await);
        };
        thread.spawn(test).map_err(|e| format!("the thread of NATS does not start: {e}"))?;
        result.recv().unwrap_or_else(|_| Err("the test ended without a result".to_owned()))
    }

    async fn test(&self, credentials: Option<&[u8]>) -> Result<ConnectionReport, String> {
        let connection = NatsConnection::open(self.nats(), credentials, "hooktrail check").await?;
        connection.wait_until_connected(Instant::now() + CONNECT_WAIT).await?;
        let context = ContextBuilder::new().build(connection.client.clone());
        let server = connection.client.server_info();
        match self {
            Self::Target(target) => {
                let stream = find_stream(&context, &target.stream).await?;
                let config = &stream.cached_info().config;
                let wanted = target.subject.filter();
                if !config.subjects.iter().any(|subject| overlaps(subject, &wanted)) {
                    let (stream, subjects) = (&target.stream, config.subjects.join(", "));
                    return Err(format!(
                        "stream {stream} does not take the subject {}: its subjects are {subjects}",
                        target.subject
                    ));
                }
                let own_max = usize::try_from(config.max_message_size).ok().filter(|max| *max > 0);
                let max_bytes =
                    own_max.map_or(server.max_payload, |max| max.min(server.max_payload));
                let description = format!("{}, messages up to {max_bytes} bytes", describe(config));
                let warnings = stream_warnings(&server.version, config);
                Ok(ConnectionReport { description, warnings })
            }
            Self::Consumer(settings) => {
                let stream = find_stream(&context, &settings.stream).await?;
                let found = stream.consumer_info(&settings.consumer).await;
                let config = &stream.cached_info().config;
                let described = describe(config);
                let mut warnings = stream_warnings(&server.version, config);
                warnings.extend(filter_warning(config, settings));
                let description = match found {
                    Ok(info) => {
                        check_consumer(&info, config, settings)?;
                        warnings.extend(consumer_warnings(&info));
                        let waiting = info.num_pending + info.num_ack_pending as u64;
                        format!(
                            "{described}, consumer {}: {waiting} messages wait",
                            settings.consumer
                        )
                    }
                    Err(e) if e.kind() != ConsumerInfoErrorKind::NotFound => {
                        return Err(format!("consumer {}: {e}", settings.consumer));
                    }
                    Err(_) => format!(
                        "{described}, consumer {}: there is none, the server creates it",
                        settings.consumer
                    ),
                };
                Ok(ConnectionReport { description, warnings })
            }
        }
    }
}

fn describe(config: &Config) -> String {
    let storage = match config.storage {
        StorageType::File => "on disk",
        StorageType::Memory => "in memory, so that a restart of NATS may lose messages",
    };
    let replicas = match config.num_replicas {
        0 | 1 => "one replica".to_owned(),
        count => format!("{count} replicas"),
    };
    let window = duration_text(config.duplicate_window);
    format!("stream {}: {replicas} {storage}, duplicate window {window}", config.name)
}
