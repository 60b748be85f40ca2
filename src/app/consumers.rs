//! The sources that read streams: each has a task on the thread of NATS, which a reload starts, keeps or ends.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded};
use parking_lot::Mutex;
use tokio::task::spawn_local;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::config::{Config, Secrets, StreamConsumer};
use crate::domain::SourceId;
use crate::jetstream::{NatsThread, ReaderStates};
use crate::store::registry::Registry;
use crate::web::IntakeState;
use crate::web::message_intake::MessageSource;

/// How long the commits and acknowledgements of messages may take when a source ends.
const STOP_LIMIT: Duration = Duration::from_secs(2);

/// How long a source rests after an internal error.
const RESTART_PAUSE: Duration = Duration::from_secs(1);

/// The tasks that read streams.
pub(super) struct Consumers {
    nats: NatsThread,
    intake: Arc<IntakeState>,
    reader_states: Arc<ReaderStates>,
    /// By the name of the source.
    running: Mutex<HashMap<String, RunningConsumer>>,
}

struct RunningConsumer {
    source: SourceId,
    settings: StreamConsumer,
    credentials: Option<Arc<[u8]>>,
    /// Asks the task to end.
    stop: CancellationToken,
    /// Drops the task.
    abort: CancellationToken,
    /// Disconnected when the task has ended.
    ended: Receiver<()>,
}

impl RunningConsumer {
    fn wait(&self, deadline: Instant) {
        let _ = self.ended.recv_deadline(deadline);
    }
}

impl Consumers {
    pub fn new(
        nats: NatsThread,
        intake: Arc<IntakeState>,
        reader_states: Arc<ReaderStates>,
    ) -> Self {
        Self { nats, intake, reader_states, running: Mutex::default() }
    }

    /// Ends the tasks whose source is gone or reads its stream in another way, and starts those that are new.
    pub fn configure(&self, config: &Config, registry: &Registry, secrets: &Secrets) {
        let mut running = self.running.lock();
        self.reader_states.retain(|name| {
            config.sources.iter().any(|source| source.name == name && source.consumer().is_some())
        });
        let mut previous = std::mem::take(&mut *running);
        let mut added = Vec::new();
        for source in &config.sources {
            let (Some(settings), Some(&id)) =
                (source.consumer(), registry.sources.get(&source.name))
            else {
                continue;
            };
            let secret = settings.nats.credentials.as_ref();
            let credentials: Option<Arc<[u8]>> =
                secret.map(|secret| secrets.get(secret).unwrap_or_default().into());
            let is_same = |known: &RunningConsumer| {
                known.source == id
                    && known.settings == *settings
                    && known.credentials == credentials
            };
            match previous.remove(&source.name) {
                Some(known) if is_same(&known) => {
                    running.insert(source.name.clone(), known);
                }
                changed => {
                    previous.extend(changed.map(|changed| (source.name.clone(), changed)));
                    added.push((id, source.name.clone(), settings.clone(), credentials));
                }
            }
        }
        end_all(previous.into_values().collect());
        for (source, name, settings, credentials) in added {
            match self.start(source, &name, settings, credentials) {
                Ok(started) => drop(running.insert(name, started)),
                Err(e) => {
                    let reason = format!("the thread of NATS does not start: {e}");
                    log::error!("source {name}: {reason}");
                    self.reader_states.set_failing(&name, reason);
                }
            }
        }
    }

    fn start(
        &self,
        id: SourceId,
        name: &str,
        settings: StreamConsumer,
        credentials: Option<Arc<[u8]>>,
    ) -> std::io::Result<RunningConsumer> {
        let (stop, abort) = (CancellationToken::new(), CancellationToken::new());
        let (end, ended) = bounded(0);
        let source = MessageSource {
            state: Arc::clone(&self.intake),
            id,
            name: name.to_owned(),
            settings: settings.clone(),
            credentials: credentials.clone(),
            reader_states: Arc::clone(&self.reader_states),
        };
        self.reader_states.add(name);
        let (stop_token, abort_token) = (stop.clone(), abort.clone());
        self.nats.spawn(move || async move {
            tokio::select! {
                () = run(source, stop_token) => {}
                () = abort_token.cancelled() => {}
            }
            drop(end);
        })?;
        Ok(RunningConsumer { source: id, settings, credentials, stop, abort, ended })
    }

    /// Ends all tasks. What they have received is stored and acknowledged, as far as there is time.
    pub fn stop(&self) {
        end_all(std::mem::take(&mut *self.running.lock()).into_values().collect());
    }
}

/// Runs a source until it ends, and again after a panic.
async fn run(source: MessageSource, stop: CancellationToken) {
    let mut task = spawn_local(source.clone().run(stop.clone()));
    while (&mut task).await.is_err() && !stop.is_cancelled() {
        log::error!("source {}: starts again after an internal error", source.name);
        source.reader_states.set_failing(&source.name, "an internal error: see the log".to_owned());
        sleep(RESTART_PAUSE).await;
        task = spawn_local(source.clone().run(stop.clone()));
    }
}

fn end_all(consumers: Vec<RunningConsumer>) {
    consumers.iter().for_each(|consumer| consumer.stop.cancel());
    let deadline = Instant::now() + STOP_LIMIT;
    consumers.iter().for_each(|consumer| consumer.wait(deadline));
    // They hold the channel of the writer, which ends last.
    consumers.iter().for_each(|consumer| consumer.abort.cancel());
    consumers.iter().for_each(|consumer| consumer.wait(deadline + STOP_LIMIT));
}
