//! What a running job has written so far, and as it comes.

use std::fmt::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_web::web::{Bytes, Data, Json, Path, Query};
use actix_web::{HttpRequest, HttpResponse, Responder, rt};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use utoipa::{IntoParams, ToSchema};

use super::params::FollowFlag;
use super::rows::{AttemptRow, ServerSentEvent, objects};
use crate::admin::Admin;
use crate::admin::problem::Problem;
use crate::admin::stream::{COMMENT, HEARTBEAT, Piece, PieceStream, event_stream};
use crate::domain::JobId;
use crate::domain::job::JobState;
use crate::process::{LiveOutput, OutputStream};
use crate::store::{event_jobs, queries};

/// How often a stream looks for new output.
const INTERVAL: Duration = Duration::from_millis(100);

/// How long the outcome of an attempt that has ended may take to be in the database.
const OUTCOME_WAIT: Duration = Duration::from_secs(3);

/// How long a running job may take to have an attempt. A worker that has claimed several has none for most of them.
const START_WAIT: Duration = Duration::from_millis(300);

/// How long a client may take to read a part of the stream.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);

/// The parameters of the call.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields, default)]
pub struct OutputParams {
    /// `1`: the output as it comes, as server-sent events: `stdout` and `stderr` with a JSON text, and at the end of the
    /// attempt `end` with its number and its outcome.
    #[param(inline, value_type = FollowFlag, required = false)]
    pub follow: Option<String>,
}

/// What the last attempt of a job has written.
#[derive(Debug, Serialize, ToSchema)]
pub struct JobOutput {
    pub job: i64,
    /// The attempt; 0: none has begun.
    pub attempt: i64,
    /// True: the attempt goes on.
    pub running: bool,
    /// The end of stdout. Bytes that are not UTF-8 are replaced.
    pub stdout: String,
    pub stderr: String,
    /// How the attempt ended.
    pub outcome: Option<String>,
    pub detail: Option<String>,
}

/// Returns the end of a stream as text.
pub fn text_of(output: &LiveOutput, stream: OutputStream) -> String {
    String::from_utf8_lossy(&output.read(stream, 0).bytes).into_owned()
}

/// A job in the database.
struct StoredJob {
    state: JobState,
    /// The last attempt that has ended.
    last: Option<AttemptRow>,
}

/// Returns a job, or `None` if there is no such job.
async fn load_stored(admin: &Arc<Admin>, job: i64) -> Result<Option<StoredJob>, Problem> {
    admin
        .run(move |_, conn| {
            let Some(state) = queries::load_job_state(conn, job)? else { return Ok(None) };
            let last = objects(&event_jobs::load_last_attempt(conn, JobId(job))?)?.pop();
            Ok(Some(StoredJob { state, last }))
        })
        .await
}

fn missing_job(job: i64) -> Problem {
    Problem::not_found(format!("job {job}: there is no such job"))
}

/// Returns what the last attempt of a job has written.
async fn load(admin: &Arc<Admin>, job: i64) -> Result<JobOutput, Problem> {
    let deadline = Instant::now() + START_WAIT;
    let last = loop {
        if let Some((attempt, output)) = admin.running.output(JobId(job)) {
            return Ok(JobOutput {
                job,
                attempt: i64::from(attempt),
                running: true,
                stdout: text_of(&output, OutputStream::Stdout),
                stderr: text_of(&output, OutputStream::Stderr),
                outcome: None,
                detail: None,
            });
        }
        let stored = load_stored(admin, job).await?.ok_or_else(|| missing_job(job))?;
        // An attempt begins or ends: its output is not here, or not in the database yet.
        if stored.state != JobState::Running || Instant::now() >= deadline {
            break stored.last;
        }
        tokio::time::sleep(INTERVAL).await;
    };
    let (outcome, detail) =
        last.as_ref().map(|last| (last.outcome.clone(), last.detail.clone())).unzip();
    let attempt = last.as_ref().map_or(0, |last| last.attempt);
    let (stdout, stderr) = last.map_or((None, None), |last| (last.stdout, last.stderr));
    Ok(JobOutput {
        job,
        attempt,
        running: false,
        stdout: stdout.unwrap_or_default(),
        stderr: stderr.unwrap_or_default(),
        outcome,
        detail,
    })
}

/// The output of a job: of the attempt that runs now, or of the last one.
#[utoipa::path(get, path = "/api/v1/jobs/{job}/output",
    params(("job" = i64, Path, minimum = 1), OutputParams),
    responses((status = 200, content((JobOutput = "application/json"), (ServerSentEvent = "text/event-stream"))),
        (status = 400, body = Problem), (status = 404, body = Problem)))]
pub async fn output(
    admin: Data<Admin>,
    job: Path<i64>,
    params: Query<OutputParams>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let is_following = match params.follow.as_deref() {
        None | Some("0") => false,
        Some("1") => true,
        Some(other) => {
            return Err(Problem::bad_request(format!("follow: is {other:?}: expected 0 or 1")));
        }
    };
    let loaded = load(&admin, *job).await?;
    if !is_following {
        return Ok(Json(loaded).respond_to(&request).map_into_boxed_body());
    }
    let Ok(permit) = Arc::clone(&admin.output_streams).try_acquire_owned() else {
        return Err(Problem::unavailable("too many streams are open: close one"));
    };
    let (sender, receiver) = mpsc::channel(4);
    let (admin, job) = (admin.into_inner(), *job);
    rt::spawn(async move {
        let _permit = permit;
        let _ = send_output(&admin, job, loaded, &sender).await;
    });
    Ok(event_stream().streaming(PieceStream(receiver)))
}

/// The client does not read any more.
struct ClientGone;

async fn send(sender: &mpsc::Sender<Piece>, text: String) -> Result<(), ClientGone> {
    sender.send_timeout(Ok(Bytes::from(text)), SEND_TIMEOUT).await.map_err(|_| ClientGone)
}

fn message(name: &str, text: &str) -> String {
    format!("event: {name}\ndata: {}\n\n", serde_json::Value::from(text))
}

/// Sends the output of an attempt until it ends.
async fn send_output(
    admin: &Arc<Admin>,
    job: i64,
    loaded: JobOutput,
    sender: &mpsc::Sender<Piece>,
) -> Result<(), ClientGone> {
    let Some((attempt, output)) = admin.running.output(JobId(job)) else {
        let mut text = String::new();
        for (name, output) in [("stdout", &loaded.stdout), ("stderr", &loaded.stderr)] {
            if !output.is_empty() {
                text.push_str(&message(name, output));
            }
        }
        let _ = write!(
            text,
            "{}",
            end_message(loaded.attempt, loaded.outcome.as_deref(), loaded.detail.as_deref())
        );
        return send(sender, text).await;
    };
    let (mut sent, mut sent_at) = ([0; 2], Instant::now());
    let tokens = admin.tokens.load_full();
    send(sender, COMMENT.to_owned()).await?;
    // A stream of a token that is not valid any more ends.
    while Arc::ptr_eq(&tokens, &admin.tokens.load_full()) {
        let is_running =
            admin.running.output(JobId(job)).is_some_and(|(number, _)| number == attempt);
        let mut text = String::new();
        let streams = [("stdout", OutputStream::Stdout), ("stderr", OutputStream::Stderr)];
        for ((name, stream), sent) in streams.into_iter().zip(&mut sent) {
            let mut part = output.read(stream, *sent);
            // A character may arrive in two pieces.
            if is_running {
                part.bytes.truncate(whole_characters(&part.bytes));
            }
            if !part.bytes.is_empty() {
                text.push_str(&message(name, &String::from_utf8_lossy(&part.bytes)));
                *sent = part.end();
            }
        }
        if !is_running {
            let ended = wait_for_end(admin, job, i64::from(attempt)).await;
            let (outcome, detail) = ended.map(|ended| (ended.outcome, ended.detail)).unzip();
            text.push_str(&end_message(i64::from(attempt), outcome.as_deref(), detail.as_deref()));
            return send(sender, text).await;
        }
        if text.is_empty() && sent_at.elapsed() >= HEARTBEAT {
            text.push_str(COMMENT);
        }
        if !text.is_empty() {
            send(sender, text).await?;
            sent_at = Instant::now();
        }
        tokio::time::sleep(INTERVAL).await;
    }
    Ok(())
}

/// Waits until the outcome of an attempt is in the database. `None`: it is not for long, or its job is deleted.
async fn wait_for_end(admin: &Arc<Admin>, job: i64, attempt: i64) -> Option<AttemptRow> {
    let deadline = Instant::now() + OUTCOME_WAIT;
    loop {
        let last = load_stored(admin, job).await.ok()??.last;
        if let Some(last) = last.filter(|last| last.attempt >= attempt) {
            return (last.attempt == attempt).then_some(last);
        }
        if Instant::now() >= deadline {
            return None;
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

fn end_message(attempt: i64, outcome: Option<&str>, detail: Option<&str>) -> String {
    let end = serde_json::json!({ "attempt": attempt, "outcome": outcome, "detail": detail });
    format!("event: end\ndata: {end}\n\n")
}

/// Returns the length without an incomplete character at the end.
fn whole_characters(bytes: &[u8]) -> usize {
    match std::str::from_utf8(bytes) {
        Err(e) if e.error_len().is_none() => e.valid_up_to(),
        // Invalid bytes before are replaced; the last ones may still be incomplete.
        Err(_) => {
            let start = bytes.len().saturating_sub(3);
            match std::str::from_utf8(&bytes[start..]) {
                Err(e) if e.error_len().is_none() => start + e.valid_up_to(),
                _ => bytes.len(),
            }
        }
        Ok(_) => bytes.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::whole_characters;

    #[test]
    fn an_incomplete_character_waits_for_its_rest() {
        for (bytes, length) in [
            (&b"abc"[..], 3),
            ("aé".as_bytes(), 3),
            (&"aé".as_bytes()[..2], 1),
            (&"🙂".as_bytes()[..3], 0),
            (b"\xffa", 2),
            (b"", 0),
        ] {
            assert_eq!(whole_characters(bytes), length, "{bytes:?}");
        }
    }
}
