//! The calls that change something: retry, cancel, replay, pause and resume, and operations.

use std::sync::Arc;
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::web::{Data, Json, Path};
use actix_web::{HttpRequest, HttpResponse};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::params::{parse_state, parse_time_param};
use super::rows::{OperationRow, Page};
use crate::admin::access;
use crate::admin::operations::{Action, Operation, OperationRequest, QueueFull};
use crate::admin::problem::Problem;
use crate::admin::{Admin, sign_in_link};
use crate::clock;
use crate::domain::id_set::IdRanges;
use crate::domain::job::JobState;
use crate::domain::missing_body;
use crate::store::audit::{self, AuditEntry};
use crate::store::queries::{self, Selector};
use crate::store::{self, Connection, registry, replay};

/// How long a call waits for its operation.
const WAIT: Duration = Duration::from_secs(2);

/// The most ids in one call.
const MAX_IDS: usize = 10_000;

/// The most errors in a response.
const MAX_ERRORS: usize = 20;

/// Which jobs, or events, a call is about. All selectors that are given must match.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Selection {
    /// The numbers of jobs. Not for a replay.
    #[schema(max_items = 10_000)]
    pub jobs: Vec<i64>,
    /// The numbers of events. Only for a replay.
    #[schema(max_items = 10_000)]
    pub events: Vec<i64>,
    pub event: Option<i64>,
    /// The name of a handler. For a replay: the handler of the new jobs.
    pub handler: Option<String>,
    pub source: Option<String>,
    pub since: Option<String>,
    pub until: Option<String>,
    pub state: Option<String>,
    /// Text that the last detail or the reason of a job contains.
    pub detail: Option<String>,
    /// Text that the body of the event contains.
    pub text: Option<String>,
    /// The number of a group of failures.
    pub failure: Option<i64>,
    /// All jobs, or events.
    pub all: bool,
    /// Why the jobs are cancelled.
    pub reason: Option<String>,
    /// Count them, and change nothing.
    pub dry_run: bool,
}

impl Selection {
    fn selector(&self) -> Result<Selector, Problem> {
        let time = |name: &str, text: &Option<String>| {
            text.as_ref().map(|text| parse_time_param(name, text)).transpose()
        };
        Ok(Selector {
            jobs: Vec::new(),
            event: self.event,
            handler: self.handler.clone(),
            source: self.source.clone(),
            since_ms: time("since", &self.since)?,
            until_ms: time("until", &self.until)?,
            state: self.state.as_deref().map(parse_state).transpose()?,
            detail: self.detail.clone(),
            text: self.text.clone(),
            failure: self.failure,
        })
    }

    fn has_selectors(&self) -> bool {
        let texts = [
            &self.handler,
            &self.source,
            &self.since,
            &self.until,
            &self.state,
            &self.detail,
            &self.text,
        ];
        self.all
            || self.event.is_some()
            || self.failure.is_some()
            || texts.into_iter().any(Option::is_some)
    }
}

/// Adds an operation for a client.
///
/// # Errors
/// The selection selects nothing, names what does not exist, or too many operations wait.
pub async fn begin(
    admin: &Arc<Admin>,
    request: &HttpRequest,
    action: Action,
    selection: &Selection,
    via: &'static str,
) -> Result<Arc<Operation>, Problem> {
    let client = access::client(request)?;
    let is_replay = matches!(action, Action::Replay);
    let (ids, noun) = match is_replay {
        true => (&selection.events, "events"),
        false => (&selection.jobs, "jobs"),
    };
    if is_replay && !selection.jobs.is_empty() || !is_replay && !selection.events.is_empty() {
        return Err(Problem::bad_request(format!(
            "{}: expected `{noun}` or selectors",
            action.name()
        )));
    }
    if ids.is_empty() && !selection.has_selectors() {
        return Err(Problem::bad_request(format!(
            "no {noun} are given: expected `{noun}`, a selector such as `handler` or `state`, or \"all\": true"
        )));
    }
    if ids.len() > MAX_IDS {
        return Err(Problem::bad_request(format!(
            "{noun}: has {} numbers: expected at most {MAX_IDS}",
            ids.len()
        )));
    }
    let selector = selection.selector()?;
    let (checked, names) = (ids.clone(), (selector.handler.clone(), selector.source.clone()));
    let check_action = action.clone();
    let errors =
        admin.read(move |conn, _| check_selection(conn, &check_action, &checked, &names)).await?;
    if let Some((status, detail)) = errors.first().cloned() {
        let mut problem = Problem::new(status, detail);
        if errors.len() > 1 {
            problem.errors = errors.into_iter().take(MAX_ERRORS).map(|(_, text)| text).collect();
        }
        return Err(problem);
    }
    let operation = OperationRequest {
        action,
        ids: ids.iter().map(|id| *id..=*id).collect::<IdRanges>(),
        selector,
        is_dry_run: selection.dry_run,
        who: client.origin(),
        via,
    };
    admin.operations.add(operation).map_err(|QueueFull| {
        Problem::unavailable("too many operations wait: try again when one has ended")
    })
}

type SelectionError = (StatusCode, String);

/// Checks that what a call names exists, and is in a state that the action can change.
fn check_selection(
    conn: &Connection,
    action: &Action,
    ids: &[i64],
    (handler, source): &(Option<String>, Option<String>),
) -> store::Result<Vec<SelectionError>> {
    let mut errors = Vec::new();
    if let Some(name) = handler
        && registry::find_handler(conn, name)?.is_none()
    {
        errors.push((StatusCode::NOT_FOUND, format!("handler {name}: there is no such handler")));
    }
    if let Some(name) = source
        && !registry::source_exists(conn, name)?
    {
        errors.push((StatusCode::NOT_FOUND, format!("source {name}: there is no such source")));
    }
    for &id in ids {
        errors.extend(match action {
            Action::Replay => check_event(conn, id)?,
            Action::Retry => check_job(conn, id, true)?,
            Action::Cancel { .. } => check_job(conn, id, false)?,
        });
        if errors.len() >= MAX_ERRORS {
            break;
        }
    }
    // What does not exist comes before what can't be changed.
    errors.sort_by_key(|(status, _)| *status != StatusCode::NOT_FOUND);
    Ok(errors)
}

fn check_event(conn: &Connection, id: i64) -> store::Result<Option<SelectionError>> {
    Ok(match replay::has_body(conn, id)? {
        None => Some((StatusCode::NOT_FOUND, format!("event {id}: there is no such event"))),
        Some(false) => Some((StatusCode::CONFLICT, missing_body(id))),
        Some(true) => None,
    })
}

fn check_job(conn: &Connection, id: i64, is_retry: bool) -> store::Result<Option<SelectionError>> {
    let problem = match queries::load_job_state(conn, id)? {
        None => {
            let text = format!("job {id}: there is no such job");
            return Ok(Some((StatusCode::NOT_FOUND, text)));
        }
        Some(JobState::Succeeded) if is_retry => {
            "it has succeeded and can't be retried: a replay creates a new job from its event"
        }
        Some(JobState::Succeeded) => "it has succeeded already",
        Some(JobState::Running) if is_retry => "it is running",
        Some(JobState::Cancelled) if !is_retry => "it is cancelled already",
        Some(JobState::Cancelled) if queries::is_expanded(conn, id)? => {
            "it was expanded into other jobs: retry those"
        }
        Some(_) => return Ok(None),
    };
    Ok(Some((StatusCode::CONFLICT, format!("job {id}: {problem}"))))
}

/// Begins an operation, and waits for its end if it is short.
async fn call(
    admin: Data<Admin>,
    request: HttpRequest,
    action: Action,
    selection: &Selection,
) -> Result<HttpResponse, Problem> {
    let operation = begin(&admin, &request, action, selection, "api").await?;
    let status = operation.wait(WAIT).await;
    let row = OperationRow::new(&operation);
    Ok(match status.state.is_final() {
        true => HttpResponse::Ok().json(row),
        false => HttpResponse::Accepted().json(row),
    })
}

/// Retries jobs now, with fresh attempts.
#[utoipa::path(post, path = "/api/v1/jobs/retry", request_body = Selection,
    responses((status = 200, body = OperationRow, description = "The operation has ended."),
        (status = 202, body = OperationRow, description = "The operation goes on."),
        (status = 400, body = Problem), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub async fn retry(
    admin: Data<Admin>,
    selection: Json<Selection>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    call(admin, request, Action::Retry, &selection).await
}

/// Cancels queued jobs, stops running ones, dismisses dead ones.
#[utoipa::path(post, path = "/api/v1/jobs/cancel", request_body = Selection,
    responses((status = 200, body = OperationRow, description = "The operation has ended."),
        (status = 202, body = OperationRow, description = "The operation goes on."),
        (status = 400, body = Problem), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub async fn cancel(
    admin: Data<Admin>,
    selection: Json<Selection>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let reason = selection.reason.clone().unwrap_or_else(|| "cancelled".to_owned());
    call(admin, request, Action::Cancel { reason }, &selection).await
}

/// Makes new jobs of stored events.
#[utoipa::path(post, path = "/api/v1/events/replay", request_body = Selection,
    responses((status = 200, body = OperationRow, description = "The operation has ended."),
        (status = 202, body = OperationRow, description = "The operation goes on."),
        (status = 400, body = Problem), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub async fn replay(
    admin: Data<Admin>,
    selection: Json<Selection>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    call(admin, request, Action::Replay, &selection).await
}

/// The operations of this process, newest first.
#[utoipa::path(get, path = "/api/v1/operations", responses((status = 200, body = Page<OperationRow>)))]
pub async fn operations(admin: Data<Admin>) -> Json<Page<OperationRow>> {
    let items =
        admin.operations.list().iter().map(|operation| OperationRow::new(operation)).collect();
    Json(Page { items, next: None, searched_to: None })
}

fn find_operation(admin: &Admin, id: u64) -> Result<Arc<Operation>, Problem> {
    admin.operations.find(id).ok_or_else(|| {
        Problem::not_found(format!(
            "operation {id}: is unknown: the server remembers those since its start"
        ))
    })
}

/// The progress of an operation.
#[utoipa::path(get, path = "/api/v1/operations/{operation}", params(("operation" = u64, Path)),
    responses((status = 200, body = OperationRow), (status = 404, body = Problem)))]
pub async fn operation(admin: Data<Admin>, id: Path<u64>) -> Result<Json<OperationRow>, Problem> {
    Ok(Json(OperationRow::new(&*find_operation(&admin, *id)?)))
}

/// Stops an operation after its present transaction. What it has done stays.
#[utoipa::path(post, path = "/api/v1/operations/{operation}/stop", params(("operation" = u64, Path)),
    responses((status = 200, body = OperationRow), (status = 404, body = Problem)))]
pub async fn stop(admin: Data<Admin>, id: Path<u64>) -> Result<Json<OperationRow>, Problem> {
    let operation = find_operation(&admin, *id)?;
    operation.stop();
    operation.wait(WAIT).await;
    Ok(Json(OperationRow::new(&operation)))
}

/// Whether a handler is paused.
#[derive(Debug, Serialize, ToSchema)]
pub struct PauseState {
    pub handler: String,
    pub paused: bool,
    /// False: it was so before.
    pub changed: bool,
}

/// Pauses or resumes a handler.
///
/// # Errors
/// There is no such handler, or the database can't be written.
pub async fn set_paused(
    admin: &Arc<Admin>,
    request: &HttpRequest,
    handler: String,
    paused: bool,
    via: &'static str,
) -> Result<PauseState, Problem> {
    let entry = AuditEntry {
        at_ms: clock::wall_ms(),
        who: access::client(request)?.origin(),
        via,
        action: if paused { "pause" } else { "resume" }.to_owned(),
        target: Some(handler.clone()),
        jobs: 0,
        reason: None,
    };
    let name = handler.clone();
    let changed = admin
        .run(move |admin| {
            let store = admin.write_access.open()?;
            let Some(id) = registry::find_handler(&store.conn, &name)? else { return Ok(None) };
            audit::set_paused(&store, id, paused, &entry).map(Some)
        })
        .await?;
    match changed {
        Some(changed) => Ok(PauseState { handler, paused, changed }),
        None => Err(Problem::not_found(format!("handler {handler}: there is no such handler"))),
    }
}

/// Pauses a handler: its jobs wait until it is resumed, also over restarts.
#[utoipa::path(post, path = "/api/v1/handlers/{handler}/pause", params(("handler" = String, Path)),
    responses((status = 200, body = PauseState), (status = 404, body = Problem)))]
pub async fn pause(
    admin: Data<Admin>,
    handler: Path<String>,
    request: HttpRequest,
) -> Result<Json<PauseState>, Problem> {
    set_paused(&admin, &request, handler.into_inner(), true, "api").await.map(Json)
}

/// Resumes a handler.
#[utoipa::path(post, path = "/api/v1/handlers/{handler}/resume", params(("handler" = String, Path)),
    responses((status = 200, body = PauseState), (status = 404, body = Problem)))]
pub async fn resume(
    admin: Data<Admin>,
    handler: Path<String>,
    request: HttpRequest,
) -> Result<Json<PauseState>, Problem> {
    set_paused(&admin, &request, handler.into_inner(), false, "api").await.map(Json)
}

/// A link that signs in once.
#[derive(Debug, Serialize, ToSchema)]
pub struct SignInLink {
    /// The path of the link on this listener.
    pub path: String,
    /// For how many seconds it can be used.
    pub expires_in: u64,
}

/// Makes a link that signs in a browser, once.
#[utoipa::path(post, path = "/api/v1/sign-in-links", responses((status = 200, body = SignInLink)))]
pub async fn create_sign_in_link(admin: Data<Admin>) -> Result<Json<SignInLink>, Problem> {
    let code = admin.links.create().map_err(Problem::internal)?;
    let path = format!("{}?code={code}", access::SIGN_IN);
    Ok(Json(SignInLink { path, expires_in: sign_in_link::LIFETIME.as_secs() }))
}
