//! One event with its jobs and attempts, its body, and one job.

use std::sync::Arc;

use actix_web::body::SizedStream;
use actix_web::http::StatusCode;
use actix_web::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use actix_web::web::{Bytes, Data, Json, Path};
use actix_web::{HttpResponse, rt};
use tokio::sync::mpsc;

use super::rows::{AttemptRow, EventDetails, EventRow, Header, JobDetails, JobRow, objects};
use crate::admin::Admin;
use crate::admin::problem::Problem;
use crate::admin::stream::PieceStream;
use crate::domain::{EventId, JobId, missing_body};
use crate::store::event_reads::{self, EventHead};
use crate::store::queries::{self, Rows, Selector};
use crate::store::search::pages::{self, PageRequest};
use crate::store::{self, Connection, event_jobs};

/// The jobs of an event that are listed with it.
const MAX_JOBS: i64 = 100;

/// The attempts that are listed with an event or a job.
const MAX_ATTEMPTS: usize = 200;

/// The bytes of outputs that are listed with an event or a job.
const MAX_OUTPUT_BYTES: usize = 4 << 20;

/// The bytes of a body that are shown with its event.
pub const SHOWN_BODY_BYTES: usize = 1 << 20;

/// A body is sent in pieces of this size, each read for itself, so that no long read holds back the checkpoint.
const PIECE_BYTES: usize = 4 << 20;

/// An event as the API and the console show it.
pub struct LoadedEvent {
    pub head: EventHead,
    /// The start of the body; `None` if it was removed.
    pub body: Option<Vec<u8>>,
    /// The row of the view `trail`.
    pub trail: EventRow,
    pub jobs: Vec<JobRow>,
    pub attempts: Vec<AttemptRow>,
    pub attempts_are_cut: bool,
    /// The events before and after it.
    pub previous: Option<i64>,
    pub next: Option<i64>,
}

/// Loads attempts of jobs with their outputs, up to a number and a size.
struct AttemptLoader {
    rows: Rows,
    bytes: usize,
    is_cut: bool,
}

impl AttemptLoader {
    fn load(&mut self, conn: &Connection, job: i64, total: i64) -> store::Result<()> {
        let room = MAX_ATTEMPTS.saturating_sub(self.rows.rows.len());
        if room == 0 || self.bytes >= MAX_OUTPUT_BYTES {
            self.is_cut |= total > 0;
            return Ok(());
        }
        // The newest attempts tell more than the first ones.
        let room = i64::try_from(room).unwrap_or(i64::MAX);
        let after = (total - room).max(0);
        self.is_cut |= after > 0;
        let mut after = after;
        loop {
            let rows = event_jobs::load_attempts(conn, JobId(job), after, 10)?;
            let is_last = rows.rows.len() < 10;
            self.rows.columns = rows.columns;
            for row in rows.rows {
                let size = |value: &store::Value| match value {
                    store::Value::Blob(bytes) => bytes.len(),
                    _ => 0,
                };
                self.bytes += row.iter().map(size).sum::<usize>();
                if let Some(store::Value::Integer(attempt)) = row.get(1) {
                    after = *attempt;
                }
                self.rows.rows.push(row);
            }
            if is_last {
                return Ok(());
            }
            if self.bytes >= MAX_OUTPUT_BYTES {
                self.is_cut = true;
                return Ok(());
            }
        }
    }
}

/// Loads an event with its first jobs, or those of a state.
///
/// # Errors
/// The event does not exist, or the database can't be read.
pub async fn load(
    admin: &Arc<Admin>,
    event: i64,
    selector: Selector,
    body_bytes: usize,
) -> Result<LoadedEvent, Problem> {
    let loaded = admin
        .run(move |admin, conn| {
            let Some(head) = event_reads::find_event_head(conn, EventId(event))? else {
                return Ok(None);
            };
            let body = event_reads::read_body_part(conn, EventId(event), 0, body_bytes)?;
            let selector = Selector { event: Some(event), ..selector };
            let trail = objects(&queries::load_trail(conn, event)?)?.into_iter().next();
            let page = PageRequest { before: None, limit: MAX_JOBS };
            let page = pages::page_of_jobs(conn, &selector, page, admin.clock.to_wall_ms(0))?;
            let mut jobs: Vec<JobRow> = objects(&page.rows)?;
            jobs.reverse();
            let mut attempts = AttemptLoader { rows: Rows::default(), bytes: 0, is_cut: false };
            for job in &jobs {
                attempts.load(conn, job.job, job.attempts)?;
            }
            Ok(trail.map(|trail| {
                let attempts_are_cut = attempts.is_cut;
                (head, body, trail, jobs, attempts.rows, attempts_are_cut)
            }))
        })
        .await?;
    let Some((head, body, trail, jobs, attempts, attempts_are_cut)) = loaded else {
        return Err(missing_event(event));
    };
    let (previous, next) =
        admin.read(move |conn, _| queries::find_neighbours(conn, EventId(event))).await?;
    let attempts = objects(&attempts).map_err(Problem::internal)?;
    Ok(LoadedEvent { head, body, trail, jobs, attempts, attempts_are_cut, previous, next })
}

fn missing_event(event: i64) -> Problem {
    Problem::not_found(format!("event {event}: there is no such event"))
}

/// An event with its request, its first jobs and their attempts.
#[utoipa::path(get, path = "/api/v1/events/{event}", params(("event" = i64, Path, minimum = 1)),
    responses((status = 200, body = EventDetails), (status = 404, body = Problem)))]
pub async fn event(admin: Data<Admin>, event: Path<i64>) -> Result<Json<EventDetails>, Problem> {
    let LoadedEvent { head, body, trail, jobs, attempts, attempts_are_cut, .. } =
        load(&admin, *event, Selector::default(), SHOWN_BODY_BYTES).await?;
    let EventHead { event, body_bytes } = head;
    let text = body.and_then(|body| {
        let is_cut = body.len() < body_bytes;
        match String::from_utf8(body) {
            Ok(text) => Some(text),
            // The cut may be within a character.
            Err(e) if is_cut && e.utf8_error().error_len().is_none() => {
                let end = e.utf8_error().valid_up_to();
                let mut bytes = e.into_bytes();
                bytes.truncate(end);
                String::from_utf8(bytes).ok()
            }
            Err(_) => None,
        }
    });
    let header = |(name, value): &(String, Vec<u8>)| Header {
        name: name.clone(),
        value: String::from_utf8_lossy(value).into_owned(),
    };
    Ok(Json(EventDetails {
        event: trail.event,
        received_at: trail.received_at,
        source: trail.source,
        remote_ip: trail.remote_ip,
        client: trail.client,
        origin_key: trail.origin_key,
        method: event.method.clone(),
        path: event.path.clone(),
        query: event.query.clone(),
        headers: event.headers.0.iter().map(header).collect(),
        bytes: trail.bytes,
        body: text,
        body_is_cut: body_bytes > SHOWN_BODY_BYTES,
        body_removed: event.removed_bytes.is_some(),
        note: event.expression_errors.clone(),
        duplicates: trail.duplicates,
        settled_at: trail.settled_at,
        job_count: trail.jobs,
        jobs,
        attempts,
        attempts_are_cut,
    }))
}

/// The bytes of the body.
#[utoipa::path(get, path = "/api/v1/events/{event}/body",
    params(("event" = i64, Path, minimum = 1)),
    responses((status = 200, body = Vec<u8>, content_type = "application/octet-stream"),
        (status = 404, body = Problem), (status = 410, body = Problem)))]
pub async fn body(admin: Data<Admin>, event: Path<i64>) -> Result<HttpResponse, Problem> {
    let id = EventId(*event);
    let admin = admin.into_inner();
    let head = admin.read(move |conn, _| event_reads::find_event_head(conn, id)).await?;
    let EventHead { event, body_bytes } = head.ok_or_else(|| missing_event(id.0))?;
    if event.removed_bytes.is_some() {
        return Err(Problem::new(StatusCode::GONE, missing_body(id.0)));
    }
    let (sender, receiver) = mpsc::channel(1);
    rt::spawn(async move {
        let mut offset = 0;
        while offset < body_bytes {
            let part = admin
                .read(move |conn, _| event_reads::read_body_part(conn, id, offset, PIECE_BYTES))
                .await;
            let piece = match part {
                Ok(Some(part)) if !part.is_empty() => {
                    offset += part.len();
                    Ok(Bytes::from(part))
                }
                Ok(_) => Err(Problem::new(StatusCode::GONE, missing_body(id.0)).into()),
                Err(problem) => Err(problem.into()),
            };
            let has_failed = piece.is_err();
            if sender.send(piece).await.is_err() || has_failed {
                return;
            }
        }
    });
    let length = u64::try_from(body_bytes).unwrap_or(0);
    // The body comes from outside: no browser may show it as a page of this server.
    Ok(HttpResponse::Ok()
        .insert_header((CONTENT_TYPE, "application/octet-stream"))
        .insert_header((X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .insert_header((CONTENT_DISPOSITION, format!("attachment; filename=\"event-{id}.body\"")))
        .body(SizedStream::new(length, PieceStream(receiver))))
}

/// A job with its newest attempts and their outputs.
#[utoipa::path(get, path = "/api/v1/jobs/{job}", params(("job" = i64, Path, minimum = 1)),
    responses((status = 200, body = JobDetails), (status = 404, body = Problem)))]
pub async fn job(admin: Data<Admin>, job: Path<i64>) -> Result<Json<JobDetails>, Problem> {
    let id = *job;
    let loaded = admin
        .run(move |admin, conn| {
            let selector = Selector { jobs: vec![id], ..Selector::default() };
            let rows = queries::list_jobs(conn, &selector, 1, admin.clock.to_wall_ms(0))?;
            let Some(row) = objects::<JobRow>(&rows)?.into_iter().next() else { return Ok(None) };
            let mut attempts = AttemptLoader { rows: Rows::default(), bytes: 0, is_cut: false };
            attempts.load(conn, id, row.attempts)?;
            Ok(Some((row, objects(&attempts.rows)?)))
        })
        .await?;
    match loaded {
        Some((job, attempt_list)) => Ok(Json(JobDetails { job, attempt_list })),
        None => Err(Problem::not_found(format!("job {id}: there is no such job"))),
    }
}
