//! Outcomes: a page of them, or a stream of new ones as server-sent events
//! (<https://html.spec.whatwg.org/multipage/server-sent-events.html>).

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use actix_web::http::Method;
use actix_web::web::{Bytes, Data, Json};
use actix_web::{HttpRequest, HttpResponse, Responder, rt};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;

use super::lists::load_page;
use super::params::{self, ListParams};
use super::rows::{OutcomeRow, Page, ServerSentEvent};
use crate::admin::Admin;
use crate::admin::feed::{Batch, MAX_STREAMS, integer};
use crate::admin::problem::Problem;
use crate::admin::stream::{COMMENT, HEARTBEAT, Piece, PieceStream, event_stream};
use crate::row_json::row_object;
use crate::store::Value;
use crate::store::queries::{Rows, Selector};
use crate::store::search::{self, TailView, pages};

/// Outcomes that are read at once for a client that resumes.
const CATCH_UP_ROWS: i64 = 500;

/// How long a client may take to read a part of the stream.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);

/// The size from which a part of the stream is sent. A client that reads slowly holds few parts in memory.
const PART_BYTES: usize = 32 << 10;

/// Outcomes, newest first, or new ones as they come.
///
/// With `follow=1`, the response is a stream of server-sent events, whose `id` is that of the outcome and whose `data`
/// is its row. The header `Last-Event-ID` resumes a stream after an outcome.
#[utoipa::path(get, path = "/api/v1/outcomes",
    params(ListParams, ("Last-Event-ID" = Option<i64>, Header, minimum = 0)),
    responses((status = 200, content((Page<OutcomeRow> = "application/json"), (ServerSentEvent = "text/event-stream"))),
        (status = 400, body = Problem), (status = 503, body = Problem)))]
pub async fn outcomes(admin: Data<Admin>, request: HttpRequest) -> Result<HttpResponse, Problem> {
    let params = ListParams::read(&request, &params::OUTCOMES)?;
    let (selector, _) = (params.selector()?, params.page(params::OUTCOMES.name)?);
    let resume_after = read_last_event_id(&request)?;
    if params.is_following()? {
        return follow(admin.into_inner(), selector, resume_after, &request);
    }
    let page: Page<OutcomeRow> =
        load_page(&admin, &params::OUTCOMES, &params, |conn, selector, page, _| {
            pages::page_of_outcomes(conn, selector, page)
        })
        .await?;
    Ok(Json(page).respond_to(&request).map_into_boxed_body())
}

/// Returns the id of the last outcome that the client has got.
///
/// # Errors
/// The header is no id.
fn read_last_event_id(request: &HttpRequest) -> Result<Option<i64>, Problem> {
    let Some(id) = request.headers().get("last-event-id") else { return Ok(None) };
    let id: Option<i64> = id.to_str().ok().and_then(|id| id.trim().parse().ok());
    let id = id.filter(|id| *id >= 0).ok_or_else(|| {
        Problem::bad_request("Last-Event-ID: expected the `id` of an earlier event")
    })?;
    Ok(Some(id))
}

/// Begins a stream.
fn follow(
    admin: Arc<Admin>,
    selector: Selector,
    resume_after: Option<i64>,
    request: &HttpRequest,
) -> Result<HttpResponse, Problem> {
    let mut response = event_stream();
    if request.method() == Method::HEAD {
        return Ok(response.finish());
    }
    let Some(batches) = admin.feed.subscribe() else {
        return Err(Problem::unavailable(format!("{MAX_STREAMS} streams are open: close one")));
    };
    let (sender, receiver) = mpsc::channel(1);
    let stream = OutcomeStream { admin, selector, last: 0, sender };
    rt::spawn(stream.run(resume_after, batches));
    Ok(response.streaming(PieceStream(receiver)))
}

/// A stream of one client.
struct OutcomeStream {
    admin: Arc<Admin>,
    selector: Selector,
    /// The last outcome that the client has got, or that it did not ask for.
    last: i64,
    sender: mpsc::Sender<Piece>,
}

/// Why a stream ends.
struct StreamEnd;

impl OutcomeStream {
    async fn run(mut self, resume_after: Option<i64>, mut batches: Receiver<Arc<Batch>>) {
        let _ = self.send_all(resume_after, &mut batches).await;
    }

    async fn send_all(
        &mut self,
        resume_after: Option<i64>,
        batches: &mut Receiver<Arc<Batch>>,
    ) -> Result<(), StreamEnd> {
        let newest = self
            .admin
            .read(|conn, _| search::newest_id(conn, TailView::Outcomes))
            .await
            .map_err(|_| StreamEnd)?;
        // An id that the database does not have yet is one of another database.
        self.last = resume_after.map_or(newest, |id| id.min(newest));
        // The comment tells the client that the stream is open.
        self.send("retry: 2000\n:\n\n".to_owned()).await?;
        self.catch_up(newest).await?;
        loop {
            let Ok(batch) = tokio::time::timeout(HEARTBEAT, batches.recv()).await else {
                self.send(COMMENT.to_owned()).await?;
                continue;
            };
            let batch = match batch {
                Ok(batch) => batch,
                // The next batch tells which outcomes the stream lacks.
                Err(RecvError::Lagged(_)) => continue,
                Err(RecvError::Closed) => return Err(StreamEnd),
            };
            self.catch_up(batch.after).await?;
            self.send_rows(&batch.rows).await?;
            self.last = self.last.max(batch.last);
        }
    }

    /// Sends the outcomes up to an id that the client has not got.
    async fn catch_up(&mut self, to: i64) -> Result<(), StreamEnd> {
        while self.last < to {
            let after = self.last;
            let rows = self
                .admin
                .read(move |conn, _| search::read_after(conn, after, CATCH_UP_ROWS))
                .await
                .map_err(|_| StreamEnd)?;
            let newest = rows.rows.last().map(|row| integer(&rows, row, "id"));
            self.send_rows(&rows).await?;
            self.last = newest.unwrap_or(to);
        }
        Ok(())
    }

    async fn send_rows(&mut self, rows: &Rows) -> Result<(), StreamEnd> {
        let mut text = String::new();
        for row in &rows.rows {
            let id = integer(rows, row, "id");
            if id > self.last && self.is_selected(rows, row) {
                let object = serde_json::Value::Object(row_object(&rows.columns, row));
                let _ = write!(text, "id: {id}\ndata: {object}\n\n");
            }
            if text.len() >= PART_BYTES {
                self.send(std::mem::take(&mut text)).await?;
            }
        }
        match text.is_empty() {
            true => Ok(()),
            false => self.send(text).await,
        }
    }

    fn is_selected(&self, rows: &Rows, row: &[Value]) -> bool {
        let is = |column: &str, wanted: Option<&str>| {
            let index = rows.columns.iter().position(|name| name == column);
            wanted.is_none_or(|wanted| {
                matches!(index.and_then(|index| row.get(index)), Some(Value::Text(text)) if text == wanted)
            })
        };
        let Selector { source, handler, state, event, .. } = &self.selector;
        is("source", source.as_deref())
            && is("handler", handler.as_deref())
            && is("job_state", state.map(crate::domain::job::PublicState::name))
            && event.is_none_or(|event| integer(rows, row, "event") == event)
    }

    /// Sends a part. A client that does not read it in time loses the stream.
    async fn send(&self, text: String) -> Result<(), StreamEnd> {
        let sent = tokio::time::timeout(SEND_TIMEOUT, self.sender.send(Ok(Bytes::from(text))));
        match sent.await {
            Ok(Ok(())) => Ok(()),
            _ => Err(StreamEnd),
        }
    }
}
