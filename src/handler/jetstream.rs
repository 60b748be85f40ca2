//! Publishes jobs to a stream of NATS JetStream. A job has succeeded when the stream has acknowledged its message.
//!
//! A worker gets up to `batch_size` jobs and publishes them together. While the cluster is away, jobs wait in the queue like
//! those of any handler.

use std::sync::Arc;

use async_nats::{HeaderMap, HeaderName, HeaderValue};
use bytes::Bytes;

use super::detail_text;
use super::job_line::write_headers;
use super::{HandlerRunner, Task};
use crate::clock;
use crate::config::{self, JetStreamTarget, duration_text};
use crate::domain::{AttemptResult, Outcome};
use crate::jetstream::{
    NatsThread, OutgoingMessage, PublishFailure, Published, Publisher, PublisherSettings, headers,
};
use crate::process::CancelToken;

/// The subject and the id of a job's message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessageAddress {
    pub subject: String,
    pub id: String,
}

/// Runs attempts of one handler with `jetstream`.
#[derive(Debug)]
pub struct JetStreamRunner {
    publisher: Publisher,
    stream: String,
}

impl JetStreamRunner {
    /// Builds the runner. It connects when it is first used.
    pub fn new(
        settings: &config::Handler,
        target: &JetStreamTarget,
        credentials: Option<Arc<[u8]>>,
        thread: NatsThread,
    ) -> Self {
        let publisher = PublisherSettings {
            nats: target.nats.clone(),
            credentials,
            stream: target.stream.clone(),
            name: format!("hooktrail handler {}", settings.name),
            max_in_flight: target.batch_size * settings.concurrency,
            timeout: settings.timeout,
        };
        Self { publisher: Publisher::new(thread, publisher), stream: target.stream.clone() }
    }
}

impl HandlerRunner for JetStreamRunner {
    fn run(&self, task: &Task, stop: &CancelToken) -> AttemptResult {
        let mut result = None;
        self.run_all(std::slice::from_ref(task), stop, &mut |_, ended| result = Some(ended));
        result.unwrap_or_else(|| AttemptResult::new(Outcome::Failed, "not started: no result"))
    }

    fn run_all(
        &self,
        tasks: &[Task],
        stop: &CancelToken,
        on_result: &mut dyn FnMut(usize, AttemptResult),
    ) {
        let (mut messages, mut indexes) = (Vec::with_capacity(tasks.len()), Vec::new());
        for (index, task) in tasks.iter().enumerate() {
            match build_message(task, &self.stream) {
                Ok(message) => {
                    messages.push(message);
                    indexes.push(index);
                }
                Err(reason) => on_result(index, permanent_failure(&reason)),
            }
        }
        self.publisher.publish_all(messages, stop, |message, result| {
            if let Some(&index) = indexes.get(message)
                && let Some(task) = tasks.get(index)
            {
                on_result(index, attempt_result(result, task));
            }
        });
    }
}

/// Makes the result of a message.
fn attempt_result(result: Result<Published, PublishFailure>, task: &Task) -> AttemptResult {
    match result {
        Ok(Published { sequence, is_duplicate: false }) => {
            AttemptResult::new(Outcome::Succeeded, format!("sequence {sequence}"))
        }
        Ok(Published { sequence, is_duplicate: true }) => {
            let detail = format!("sequence {sequence}: the stream had this message already");
            AttemptResult::new(Outcome::Succeeded, detail)
        }
        Err(PublishFailure::Failed(reason)) => {
            AttemptResult::new(Outcome::Failed, detail_text::join(&[&reason]))
        }
        Err(PublishFailure::Rejected(reason)) => permanent_failure(&reason),
        Err(PublishFailure::TimedOut(reason)) => {
            let timeout = format!("timeout {}", duration_text(task.handler.timeout));
            AttemptResult::new(Outcome::TimedOut, detail_text::join(&[&timeout, &reason]))
        }
        Err(PublishFailure::Stopped) => AttemptResult::new(Outcome::Interrupted, "stopped"),
    }
}

fn permanent_failure(reason: &str) -> AttemptResult {
    let detail = detail_text::join(&[reason]);
    AttemptResult { is_permanent: true, ..AttemptResult::new(Outcome::Failed, detail) }
}

/// Builds the message of a job.
///
/// # Errors
/// A value can't be a header, so that each attempt would fail.
fn build_message(task: &Task, stream: &str) -> Result<OutgoingMessage, String> {
    let address = task.message.as_ref().ok_or("there is no subject")?;
    let mut message_headers = HeaderMap::new();
    let mut insert = |name: &'static str, value: &str| {
        let parsed = value.parse::<HeaderValue>();
        let parsed = parsed.map_err(|_| format!("{name}: not one line of text"))?;
        message_headers.insert(HeaderName::from_static(name), parsed);
        Ok::<_, String>(())
    };
    let event = &task.event;
    insert(headers::MESSAGE_ID, &address.id)?;
    insert(headers::EXPECTED_STREAM, stream)?;
    let content_type = event.headers.get("content-type").unwrap_or_default();
    match std::str::from_utf8(content_type) {
        _ if task.is_json_input => insert(headers::CONTENT_TYPE, "application/json")?,
        Ok("") | Err(_) => {}
        Ok(content_type) => insert(headers::CONTENT_TYPE, content_type)?,
    }
    insert(headers::SOURCE, &event.source)?;
    insert(headers::EVENT, &event.id.to_string())?;
    insert(headers::HANDLER, &task.handler.name)?;
    if let Some(item) = task.item {
        insert(headers::ITEM, &item.to_string())?;
    }
    insert(headers::RECEIVED_AT, &clock::format_rfc3339(event.received_at_ms))?;
    for (name, value) in
        [(headers::IP, event.ip.as_str()), (headers::CLIENT, event.client.as_deref().unwrap_or(""))]
    {
        if !value.is_empty() {
            insert(name, value)?;
        }
    }
    if let Some(key) = &event.origin_key {
        insert(headers::KEY, key)?;
    }
    insert(headers::METHOD, &event.method)?;
    insert(headers::PATH, &event.path)?;
    if let Some(query) = &event.query {
        insert(headers::QUERY, query)?;
    }
    let mut request_headers = Vec::new();
    write_headers(&mut request_headers, &event.headers);
    // JSON has no line break outside text, and escapes those inside.
    insert(headers::HEADERS, &String::from_utf8_lossy(&request_headers))?;
    let body = Bytes::from_owner(Arc::clone(&task.input));
    Ok(OutgoingMessage { subject: address.subject.clone(), headers: message_headers, body })
}
