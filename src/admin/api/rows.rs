//! The objects of the API. Their fields are the columns of the views.

use std::collections::HashSet;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value as Json;
use utoipa::ToSchema;

use super::params::StateName;
use crate::admin::operations::Operation;
use crate::clock::format_rfc3339;
use crate::row_json::row_object;
use crate::store::queries::Rows;

/// Converts rows to objects.
///
/// # Errors
/// A row lacks a column, or has another type.
pub fn objects<T: DeserializeOwned>(rows: &Rows) -> anyhow::Result<Vec<T>> {
    let object =
        |row: &Vec<_>| Ok(serde_json::from_value(Json::Object(row_object(&rows.columns, row)))?);
    rows.rows.iter().map(object).collect()
}

/// Reads a flag that the database has as 0 or 1.
fn flag<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    Ok(i64::deserialize(deserializer)? != 0)
}

/// Some rows of a list.
#[derive(Debug, Serialize, ToSchema)]
pub struct Page<T> {
    pub items: Vec<T>,
    /// The value of `cursor` for the next page; null: there are no more rows.
    pub next: Option<String>,
    /// If the time was too short to find more rows: when the oldest row that was read is from.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    pub searched_to: Option<String>,
}

/// One event of a stream, as a client of server-sent events sees it.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "it only describes a response")]
pub struct ServerSentEvent {
    /// Missing: `message`.
    pub event: Option<String>,
    pub id: Option<String>,
    /// JSON.
    pub data: String,
}

/// An accepted webhook, as in the view `trail`.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
pub struct EventRow {
    pub event: i64,
    #[schema(format = DateTime)]
    pub received_at: String,
    pub source: String,
    /// Null: the address is not known.
    pub remote_ip: Option<String>,
    /// The subject of the client certificate. Null: there was none.
    pub client: Option<String>,
    /// The key under which the machine that sent the event knows it. Null: the event arrived by HTTP.
    pub origin_key: Option<String>,
    /// The size of the body.
    pub bytes: i64,
    /// How often the sender repeated it.
    pub duplicates: i64,
    pub jobs: i64,
    pub queued: i64,
    pub running: i64,
    pub succeeded: i64,
    pub dead: i64,
    pub cancelled: i64,
    /// Null while a job is queued or running.
    #[schema(format = DateTime)]
    pub settled_at: Option<String>,
}

/// A job as `list` shows it.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
pub struct JobRow {
    pub job: i64,
    pub event: i64,
    pub source: String,
    pub handler: String,
    /// The number of the item, with `split`.
    pub item: Option<i64>,
    /// `queued`, `running`, `succeeded`, `dead` or `cancelled`.
    #[schema(value_type = StateName)]
    pub state: String,
    pub attempts: i64,
    /// Why the job is dead, cancelled or waiting.
    pub reason: Option<String>,
    /// When a job that waits is due.
    #[schema(format = DateTime)]
    pub due_at: Option<String>,
}

/// An attempt of a job, with its outputs.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
pub struct AttemptRow {
    pub job: i64,
    pub attempt: i64,
    /// `succeeded`, `failed`, `timed_out`, `interrupted` or `deferred`.
    pub outcome: String,
    /// The end of the attempt.
    #[schema(format = DateTime)]
    pub at: String,
    pub detail: String,
    pub duration_ms: i64,
    /// When the next attempt is due.
    #[schema(format = DateTime)]
    pub next_at: Option<String>,
    /// The end of what the handler wrote to stdout. Bytes that are not UTF-8 are replaced.
    pub stdout: Option<String>,
    pub stderr: Option<String>,
}

/// The end of an attempt, as in the view `outcomes`.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
pub struct OutcomeRow {
    pub id: i64,
    #[schema(format = DateTime)]
    pub at: String,
    pub event: i64,
    pub source: String,
    pub handler: String,
    pub item: Option<i64>,
    pub attempt: i64,
    pub outcome: String,
    pub detail: String,
    pub duration_ms: i64,
    #[schema(format = DateTime)]
    pub next_at: Option<String>,
    pub job: i64,
    /// The state of the job now.
    #[schema(value_type = StateName)]
    pub job_state: String,
}

/// A rejected request, as in the view `rejections`.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
pub struct RejectionRow {
    pub id: i64,
    #[schema(format = DateTime)]
    pub at: String,
    /// Null: no source has the path.
    pub source: Option<String>,
    pub method: String,
    pub path: String,
    pub remote_ip: Option<String>,
    pub status: i64,
    pub reason: String,
    pub bytes: i64,
    /// How many requests the row stands for.
    pub count: i64,
}

/// Rejections of one source with the same reason.
#[derive(Debug, Deserialize)]
pub struct RejectionGroup {
    pub source: Option<String>,
    pub status: i64,
    pub reason: String,
    pub count: i64,
    pub addresses: i64,
    pub first_at: String,
    pub last_at: String,
}

/// An entry of the audit log.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
pub struct AuditRow {
    pub id: i64,
    #[schema(format = DateTime)]
    pub at: String,
    pub who: String,
    /// `cli`, `console`, `api` or `signal`.
    pub via: String,
    pub action: String,
    pub target: Option<String>,
    /// How many jobs it changed.
    pub jobs: i64,
    pub reason: Option<String>,
}

/// A handler with its queue and the counts of the last hour.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
pub struct HandlerRow {
    pub handler: String,
    #[serde(deserialize_with = "flag")]
    pub paused: bool,
    /// The end of the cooldown of an open circuit breaker.
    #[schema(format = DateTime)]
    pub breaker_open_until: Option<String>,
    pub queued: i64,
    pub running: i64,
    pub dead: i64,
    /// When the oldest queued or running job was created.
    #[schema(format = DateTime)]
    pub oldest_at: Option<String>,
    pub succeeded_last_hour: i64,
    /// Attempts of the last hour that did not succeed.
    pub unsuccessful_last_hour: i64,
    /// False: it is not in config.toml.
    #[serde(default)]
    pub configured: bool,
}

/// A source with the counts of the last hour.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
pub struct SourceRow {
    pub source: String,
    pub events_last_hour: i64,
    pub rejected_last_hour: i64,
    #[schema(format = DateTime)]
    pub last_event_at: Option<String>,
    /// False: it is not in config.toml.
    #[serde(default)]
    pub configured: bool,
    /// The path of its webhooks. Null: it is not in config.toml, or reads a stream.
    #[serde(default)]
    pub path: Option<String>,
    /// The stream of NATS JetStream that it reads. Null: it is not in config.toml, or has a path.
    #[serde(default)]
    pub stream: Option<String>,
}

/// Jobs of one handler whose last attempt failed for the same reason.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
pub struct FailureRow {
    /// The number of the group, for the selector `failure`.
    pub failure: i64,
    pub handler: String,
    /// The detail of the failure. `#` stands for what differs between the jobs.
    pub reason: String,
    /// Jobs that will be retried.
    pub failing: i64,
    pub dead: i64,
    #[schema(format = DateTime)]
    pub first_at: String,
    #[schema(format = DateTime)]
    pub last_at: String,
    /// The job of the last failure, and its event.
    pub last_job: i64,
    pub last_event: Option<i64>,
}

/// One header of a request.
#[derive(Debug, Serialize, ToSchema)]
pub struct Header {
    pub name: String,
    /// Bytes that are not UTF-8 are replaced.
    pub value: String,
}

/// An event with its jobs and their attempts.
#[derive(Debug, Serialize, ToSchema)]
pub struct EventDetails {
    pub event: i64,
    #[schema(format = DateTime)]
    pub received_at: String,
    pub source: String,
    pub remote_ip: Option<String>,
    /// The subject of the client certificate. Null: there was none.
    pub client: Option<String>,
    /// The key under which the machine that sent the event knows it. Null: the event arrived by HTTP.
    pub origin_key: Option<String>,
    pub method: String,
    pub path: String,
    pub query: Option<String>,
    pub headers: Vec<Header>,
    /// The size of the body.
    pub bytes: i64,
    /// The body, or its start. Null if it is not UTF-8, or was removed.
    pub body: Option<String>,
    /// True: `body` is only the start.
    pub body_is_cut: bool,
    /// True: `retention` or `erase` removed the body.
    pub body_removed: bool,
    /// Errors of optional expressions.
    pub note: Option<String>,
    pub duplicates: i64,
    #[schema(format = DateTime)]
    pub settled_at: Option<String>,
    /// The first jobs of the event. `GET /api/v1/jobs?event=` lists all of them.
    pub jobs: Vec<JobRow>,
    /// How many jobs it has.
    pub job_count: i64,
    /// The attempts of `jobs`.
    pub attempts: Vec<AttemptRow>,
    /// True: not all attempts of `jobs` are listed. `GET /api/v1/jobs/JOB` lists those of a job.
    pub attempts_are_cut: bool,
}

/// A job with its attempts.
#[derive(Debug, Serialize, ToSchema)]
pub struct JobDetails {
    #[serde(flatten)]
    pub job: JobRow,
    /// The newest attempts, oldest first.
    pub attempt_list: Vec<AttemptRow>,
}

/// The progress of a retry, a cancellation or a replay.
#[derive(Debug, Serialize, ToSchema)]
pub struct OperationRow {
    pub operation: u64,
    /// `retry`, `cancel` or `replay`.
    pub action: String,
    /// `waiting`, `selecting`, `running`, `done`, `stopped` or `failed`.
    pub state: String,
    /// True: it only counts.
    pub dry_run: bool,
    /// How many of `total` jobs or events are done; while they are being selected: how many were read.
    pub done: u64,
    pub total: u64,
    /// Jobs that were selected, changed or created. 0 for a dry run of a replay, which counts events.
    pub jobs: u64,
    /// Why it failed, or what it left out.
    pub detail: Option<String>,
    #[schema(format = DateTime)]
    pub created_at: String,
    #[schema(format = DateTime)]
    pub ended_at: Option<String>,
}

impl OperationRow {
    /// Describes an operation.
    pub fn new(operation: &Operation) -> Self {
        let status = operation.status();
        Self {
            operation: operation.id,
            action: operation.request.action.name().to_owned(),
            state: status.state.name().to_owned(),
            dry_run: operation.request.is_dry_run,
            done: status.progress.done,
            total: status.progress.total,
            jobs: status.progress.jobs,
            detail: status.detail,
            created_at: format_rfc3339(operation.created_at_ms),
            ended_at: status.ended_at_ms.map(format_rfc3339),
        }
    }
}

/// Sets what the configuration says about handlers.
pub fn mark_configured(rows: &mut [HandlerRow], names: &HashSet<&str>) {
    rows.iter_mut().for_each(|row| row.configured = names.contains(row.handler.as_str()));
}
