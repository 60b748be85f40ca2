//! The calls that change something: retry, cancel, replay, pause and resume, and operations.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::http::header::LOCATION;
use actix_web::web::{Data, Json, Path};
use actix_web::{HttpRequest, HttpResponse};
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, MapAccess, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use super::params::{
    StateName, TimeText, check_no_parameters, check_number, check_order, check_text, parse_state,
    parse_time_param,
};
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

/// Which jobs, or events, an operation is about. All selectors that are given must match.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Selection {
    /// Not for a replay.
    pub jobs: Vec<i64>,
    /// Only for a replay.
    pub events: Vec<i64>,
    pub event: Option<i64>,
    /// For a replay without conditions on jobs: the handler of the new jobs.
    pub handler: Option<String>,
    pub source: Option<String>,
    pub since: Option<String>,
    pub until: Option<String>,
    pub state: Option<String>,
    pub detail: Option<String>,
    pub text: Option<String>,
    pub failure: Option<i64>,
    /// All jobs, or events.
    pub all: bool,
    /// Only for a cancellation.
    pub reason: Option<String>,
    pub is_dry_run: bool,
}

/// Reads a field that may be left out, but not be null.
fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// The number of an event, a job or a group. JSON has no integers: `7.0` is the same number as `7`.
#[derive(Debug)]
struct Number(i64);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NumberVisitor;

        impl Visitor<'_> for NumberVisitor {
            type Value = i64;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number without a fraction, up to 9223372036854775807")
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<i64, E> {
                Ok(number)
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<i64, E> {
                let invalid = |_| E::invalid_value(Unexpected::Unsigned(number), &self);
                i64::try_from(number).map_err(invalid)
            }

            fn visit_f64<E: de::Error>(self, number: f64) -> Result<i64, E> {
                // The text of a float without a fraction is that of an integer.
                let invalid = |_| E::invalid_value(Unexpected::Float(number), &self);
                format!("{number:.0}").parse().map_err(invalid).and_then(|found: i64| {
                    match number.fract() == 0.0 {
                        true => Ok(found),
                        false => Err(E::invalid_value(Unexpected::Float(number), &self)),
                    }
                })
            }
        }

        deserializer.deserialize_i64(NumberVisitor).map(Self)
    }
}

fn numbers<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<i64>, D::Error> {
    let numbers = Vec::<Number>::deserialize(deserializer)?;
    Ok(numbers.into_iter().map(|Number(number)| number).collect())
}

fn given_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
    Number::deserialize(deserializer).map(|Number(number)| Some(number))
}

/// The body of a call: a JSON object. An array of the values of its fields, which serde would take too, is an error.
#[derive(Debug)]
pub struct ObjectBody<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for ObjectBody<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ObjectVisitor<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
            type Value = T;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map))
            }
        }

        deserializer.deserialize_map(ObjectVisitor(PhantomData)).map(Self)
    }
}

/// Declares the body of a call: its fields, and the selectors that all calls have.
macro_rules! selection_body {
    ($(#[$attribute:meta])* $name:ident { $($(#[$field_attribute:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$attribute])*
        /// All selectors that are given must match.
        #[derive(Debug, Default, Deserialize, ToSchema)]
        #[serde(deny_unknown_fields)]
        pub struct $name {
            $($(#[$field_attribute])* pub $field: $type,)*
            /// The name of a source.
            #[serde(default, deserialize_with = "given")]
            #[schema(value_type = String, min_length = 1)]
            pub source: Option<String>,
            /// The state of a job.
            #[serde(default, deserialize_with = "given")]
            #[schema(value_type = StateName)]
            pub state: Option<String>,
            /// Jobs of events that were received at or after this time.
            #[serde(default, deserialize_with = "given")]
            #[schema(value_type = TimeText)]
            pub since: Option<String>,
            /// Jobs of events that were received before this time.
            #[serde(default, deserialize_with = "given")]
            #[schema(value_type = TimeText)]
            pub until: Option<String>,
            /// Text that the body of the event contains. The case of ASCII letters does not matter.
            #[serde(default, deserialize_with = "given")]
            #[schema(value_type = String, min_length = 1, max_length = 1000)]
            pub text: Option<String>,
            /// Text that the last detail or the reason of a job contains.
            #[serde(default, deserialize_with = "given")]
            #[schema(value_type = String, min_length = 1, max_length = 1000)]
            pub detail: Option<String>,
            /// The number of a group of failures.
            #[serde(default, deserialize_with = "given_number")]
            #[schema(value_type = i64, minimum = 1)]
            pub failure: Option<i64>,
            /// True: everything that the other selectors select. Needed if there is no other one.
            #[serde(default)]
            pub all: bool,
            /// True: count, and change nothing.
            #[serde(default)]
            pub dry_run: bool,
        }

        impl From<$name> for Selection {
            fn from(body: $name) -> Self {
                let $name { $($field,)* source, state, since, until, text, detail, failure, all, dry_run } = body;
                Self {
                    $($field,)*
                    source,
                    state,
                    since,
                    until,
                    text,
                    detail,
                    failure,
                    all,
                    is_dry_run: dry_run,
                    ..Self::default()
                }
            }
        }
    };
}

selection_body! {
    /// Which jobs to retry.
    RetryRequest {
        /// The numbers of jobs.
        #[serde(default, deserialize_with = "numbers")]
        #[schema(max_items = 10_000)]
        jobs: Vec<i64>,
        /// The number of an event: its jobs.
        #[serde(default, deserialize_with = "given_number")]
        #[schema(value_type = i64, minimum = 1)]
        event: Option<i64>,
        /// The name of a handler.
        #[serde(default, deserialize_with = "given")]
        #[schema(value_type = String, min_length = 1)]
        handler: Option<String>,
    }
}

selection_body! {
    /// Which jobs to cancel, and why.
    CancelRequest {
        /// The numbers of jobs.
        #[serde(default, deserialize_with = "numbers")]
        #[schema(max_items = 10_000)]
        jobs: Vec<i64>,
        /// The number of an event: its jobs.
        #[serde(default, deserialize_with = "given_number")]
        #[schema(value_type = i64, minimum = 1)]
        event: Option<i64>,
        /// The name of a handler.
        #[serde(default, deserialize_with = "given")]
        #[schema(value_type = String, min_length = 1)]
        handler: Option<String>,
        /// Why. Each job and the audit log show it.
        #[serde(default, deserialize_with = "given")]
        #[schema(value_type = String, min_length = 1, max_length = 1000, pattern = "^[^\\u0000]*$")]
        reason: Option<String>,
    }
}

selection_body! {
    /// Which events to replay.
    ReplayRequest {
        /// The numbers of events.
        #[serde(default, deserialize_with = "numbers")]
        #[schema(max_items = 10_000)]
        events: Vec<i64>,
        /// The name of the only handler that gets new jobs.
        #[serde(default, deserialize_with = "given")]
        #[schema(value_type = String, min_length = 1)]
        handler: Option<String>,
    }
}

impl Selection {
    fn selector(&self) -> Result<Selector, Problem> {
        let time = |name: &str, text: &Option<String>| {
            text.as_ref().map(|text| parse_time_param(name, text)).transpose()
        };
        for (name, text) in [
            ("handler", &self.handler),
            ("source", &self.source),
            ("text", &self.text),
            ("detail", &self.detail),
            ("reason", &self.reason),
        ] {
            text.as_ref().map_or(Ok(()), |text| check_text(name, text))?;
        }
        if self.reason.as_ref().is_some_and(|reason| reason.contains('\0')) {
            return Err(Problem::bad_request("reason: has a null character"));
        }
        check_number("event", self.event)?;
        check_number("failure", self.failure)?;
        let (since_ms, until_ms) = (time("since", &self.since)?, time("until", &self.until)?);
        check_order(since_ms, until_ms)?;
        Ok(Selector {
            jobs: Vec::new(),
            event: self.event,
            handler: self.handler.clone(),
            source: self.source.clone(),
            since_ms,
            until_ms,
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
        is_dry_run: selection.is_dry_run,
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
        false => HttpResponse::Accepted()
            .insert_header((LOCATION, format!("/api/v1/operations/{}", operation.id)))
            .json(row),
    })
}

/// Retries jobs now, with fresh attempts.
#[utoipa::path(post, path = "/api/v1/jobs/retry", request_body = RetryRequest,
    responses((status = 200, body = OperationRow, description = "The operation has ended."),
        (status = 202, body = OperationRow, description = "The operation goes on: `Location` shows its progress.",
            headers(("Location" = String))),
        (status = 400, body = Problem), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub async fn retry(
    admin: Data<Admin>,
    body: Json<ObjectBody<RetryRequest>>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    call(admin, request, Action::Retry, &body.into_inner().0.into()).await
}

/// Cancels queued jobs, stops running ones, dismisses dead ones.
#[utoipa::path(post, path = "/api/v1/jobs/cancel", request_body = CancelRequest,
    responses((status = 200, body = OperationRow, description = "The operation has ended."),
        (status = 202, body = OperationRow, description = "The operation goes on: `Location` shows its progress.",
            headers(("Location" = String))),
        (status = 400, body = Problem), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub async fn cancel(
    admin: Data<Admin>,
    body: Json<ObjectBody<CancelRequest>>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let selection = Selection::from(body.into_inner().0);
    let reason = selection.reason.clone().unwrap_or_else(|| "cancelled".to_owned());
    call(admin, request, Action::Cancel { reason }, &selection).await
}

/// Makes new jobs of stored events.
#[utoipa::path(post, path = "/api/v1/events/replay", request_body = ReplayRequest,
    responses((status = 200, body = OperationRow, description = "The operation has ended."),
        (status = 202, body = OperationRow, description = "The operation goes on: `Location` shows its progress.",
            headers(("Location" = String))),
        (status = 400, body = Problem), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub async fn replay(
    admin: Data<Admin>,
    body: Json<ObjectBody<ReplayRequest>>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    call(admin, request, Action::Replay, &body.into_inner().0.into()).await
}

/// The operations of this process, newest first.
#[utoipa::path(get, path = "/api/v1/operations", responses((status = 200, body = Page<OperationRow>)))]
pub async fn operations(
    admin: Data<Admin>,
    request: HttpRequest,
) -> Result<Json<Page<OperationRow>>, Problem> {
    check_no_parameters(&request)?;
    let items =
        admin.operations.list().iter().map(|operation| OperationRow::new(operation)).collect();
    Ok(Json(Page { items, next: None, searched_to: None }))
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
        .write(move |admin| {
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
