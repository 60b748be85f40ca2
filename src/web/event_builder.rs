//! Makes the rows of a verified request, or of a message of a stream: redacts its body, evaluates the expressions and plans
//! the jobs.

use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use tokio::time::timeout;

use super::content_type::{self, ContentTypeError};
use super::received_request::{Evaluation, FullBody, KnownKey, PreparedRequest, ReceivedRequest};
use super::rejection::Rejection;
use super::writer_client::{PendingReply, WriterClient};
use super::{IntakeConfig, IntakeState, SourceRuntime};
use crate::clock;
use crate::config::{OnDuplicate, Source};
use crate::domain::job_plan::JobPlan;
use crate::expression::DEDUPE_TIMEOUT;
use crate::metrics::UnavailableReason;
use crate::planner::{self, PlannedEvent};
use crate::store::events::{DedupeCheck, DedupeKey, InsertMode, InsertReply, NewEvent};
use crate::verify::{Proof, SenderResponse};

/// The 503 of a request that the writer has no room for.
pub(super) const WRITER_FULL: Rejection = Rejection::Unavailable(UnavailableReason::WriterFull);

/// The 503 of a request that could not be written.
pub(super) const DATABASE: Rejection = Rejection::Unavailable(UnavailableReason::Database);

/// What an event gets from its message instead of at random, so that it is the same on each machine that stores the message.
#[derive(Clone, Debug)]
pub(super) struct MessageIdentity {
    pub uid: [u8; 16],
    pub origin_key: Arc<str>,
    /// The stream has delivered the message before. That is no request to retry dead jobs.
    pub is_redelivery: bool,
}

/// Makes events on one thread.
#[derive(Clone, Copy)]
pub(super) struct EventBuilder<'a> {
    pub state: &'a IntakeState,
    pub writer_client: &'a Rc<WriterClient>,
    pub config: &'a Arc<IntakeConfig>,
}

impl<'a> EventBuilder<'a> {
    /// Checks the content type, and whether the body parses.
    ///
    /// # Errors
    /// The source does not accept the body, or the check pool is full.
    pub async fn check_content(&self, received: &ReceivedRequest<'_>) -> Result<(), Rejection> {
        let check_accept = |received: &ReceivedRequest<'_>| {
            let accept = received.runtime.source.accept;
            let body = received.request.body;
            content_type::check_content_type(accept, received.content_type(), body)
        };
        let checked = received.run_check(&self.state.check_pool, check_accept).await?;
        checked.map_err(|error| match error {
            ContentTypeError::UnsupportedType => Rejection::UnsupportedMediaType,
            ContentTypeError::MalformedBody(reason) => Rejection::MalformedBody { reason },
        })
    }

    /// Redacts the body of a verified request, and the delivery key that depends on it: nobody may find a
    /// redacted value by its hash. `None`: nothing is redacted. The inner error says why the body cannot be
    /// read.
    pub async fn redact_body(
        &self,
        original: &ReceivedRequest<'_>,
        head: ReceivedRequest<'_>,
        source_index: usize,
        proof: &mut Proof,
    ) -> Result<Result<Option<FullBody>, String>, Rejection> {
        let pool = &self.state.check_pool;
        let redact = |received: &ReceivedRequest<'_>| received.redact_body();
        let body = match original.run_check(pool, redact).await? {
            Ok(Some(body)) => FullBody::new(body, head, self.config, source_index),
            Ok(None) => return Ok(Ok(None)),
            Err(reason) => return Ok(Err(reason)),
        };
        let read_key = |received: &ReceivedRequest<'_>| {
            received.runtime.verifier.key_in_body(&received.request)
        };
        if proof.delivery_key.is_some() {
            let key = body.with_body(head).run_check(pool, read_key).await?;
            proof.delivery_key = key.or(proof.delivery_key);
        }
        Ok(Ok(Some(body)))
    }

    /// Builds the rows of an accepted request, except its body, and the response of a preset. `message`: the identity of the
    /// message, if it is one.
    pub async fn build_event(
        &self,
        received: &ReceivedRequest<'_>,
        proof: &Proof,
        duplicate_key: Option<DedupeKey>,
        message: Option<MessageIdentity>,
    ) -> Result<(NewEvent, Option<SenderResponse>), Rejection> {
        let ReceivedRequest { runtime, now_ms, .. } = *received;
        let is_new = duplicate_key.is_none();
        let prepare = move |received: &ReceivedRequest<'_>| received.prepare(is_new);
        let PreparedRequest {
            path,
            query,
            headers,
            source_key,
            body_key,
            pending,
            preset_response,
        } = received.run_check(&self.state.check_pool, prepare).await?;
        let (submitted_at, mut is_late) = (Instant::now(), false);
        let planned = match pending {
            // The request repeats an event, so no expression is evaluated.
            None if !is_new => PlannedEvent {
                plan: JobPlan::Evaluated(Vec::new()),
                dedupe: None,
                expression_errors: None,
            },
            None => runtime.planner.unconditional_plan(),
            Some(pending) => match pending.wait_or_defer().await {
                Evaluation::Complete(results) => runtime.planner.plan_from(results),
                Evaluation::Deferred(key) => {
                    let key = match key {
                        None => Box::pin(self.evaluate_dedupe(received, submitted_at)).await,
                        known => known,
                    };
                    is_late = key.is_none();
                    runtime.planner.deferred_plan(key.flatten())
                }
            },
        };
        let source = &runtime.source;
        let with_window =
            |key| DedupeKey { key, window_ms: planner::window_ms(source.dedupe_window) };
        let source_key = source_key.or(planned.dedupe).map(with_window);
        let mut delivery_key = duplicate_key.or_else(|| enabled_delivery_key(source, proof));
        let (mut insert_mode, mut job_plan) = (InsertMode::Store, planned.plan);
        if delivery_key.is_none() {
            let body_key = body_key.map(with_window);
            delivery_key = self.find_body_key(runtime, body_key, source_key.is_some()).await?;
            if delivery_key.is_some() && source_key.is_none() {
                (insert_mode, job_plan) =
                    (InsertMode::RecordDuplicate, JobPlan::Evaluated(Vec::new()));
            }
        }
        if !is_new {
            insert_mode = InsertMode::RecordDuplicate;
        }
        let retry_dead = source.on_duplicate == OnDuplicate::RetryDead
            && is_new
            && !message.as_ref().is_some_and(|message| message.is_redelivery);
        let dedupe =
            DedupeCheck { source_key, delivery_key, is_late, retry_dead, mode: insert_mode };
        let (uid, origin_key) = match message {
            Some(message) => (message.uid, Some(message.origin_key)),
            None => (with_random(clock::time_ordered_id(now_ms))?, None),
        };
        let event = NewEvent {
            source: runtime.id,
            uid,
            origin_key,
            received_at_ms: now_ms,
            method: owned_method(received.request.method),
            path,
            query,
            ip: received.ip.to_owned(),
            client: received.client_subject.cloned(),
            headers,
            dedupe,
            expression_errors: planned.expression_errors,
            plan: job_plan,
            queue_limit: runtime.queue_limit.clone(),
            ..NewEvent::default()
        };
        if insert_mode != InsertMode::Store {
            return Ok((event, preset_response));
        }
        let salt = with_random(clock::random_id())?;
        let seal = move |received: &ReceivedRequest<'_>| {
            event.with_seal(&received.runtime.source.name, salt, received.request.body)
        };
        Ok((received.run_check(&self.state.check_pool, seal).await?, preset_response))
    }

    /// Evaluates `dedupe` alone, because the handlers' expressions are too slow. Returns `None` if the key is
    /// not ready in time, or if the expression fails. The expander then evaluates it.
    async fn evaluate_dedupe(
        &self,
        received: &ReceivedRequest<'_>,
        submitted_at: Instant,
    ) -> KnownKey {
        let evaluate = |received: &ReceivedRequest<'_>| {
            let dedupe = received.runtime.planner.dedupe_expression()?;
            Some(received.evaluate_alone(dedupe))
        };
        let max_wait = DEDUPE_TIMEOUT.saturating_sub(submitted_at.elapsed());
        let evaluated = async {
            let pending = received.run_check(&self.state.check_pool, evaluate).await.ok()??;
            pending.wait().await.ok()?.dedupe.ok()
        };
        if max_wait.is_zero() { None } else { timeout(max_wait, evaluated).await.ok()? }
    }

    /// Returns the body key if it applies: beside another `dedupe` key, or if an event is stored
    /// under it. Otherwise `dedupe` gave no key, and each such event is new.
    async fn find_body_key(
        &self,
        runtime: &SourceRuntime,
        body_key: Option<DedupeKey>,
        has_source_key: bool,
    ) -> Result<Option<DedupeKey>, Rejection> {
        let Some(key) = body_key.filter(|_| !has_source_key) else { return Ok(body_key) };
        match self.writer_client.store(NewEvent::look_up(runtime.id, key)).await {
            InsertReply::Duplicate(_) => Ok(body_key),
            InsertReply::NoRoom => Err(WRITER_FULL),
            InsertReply::Unavailable => Err(DATABASE),
            InsertReply::Stored(_)
            | InsertReply::Deferred(_)
            | InsertReply::NotDuplicate
            | InsertReply::QueueFull => Ok(None),
        }
    }

    /// Sends an event to the writer, unless the queue of its source is full.
    ///
    /// # Errors
    /// The queue is full.
    pub fn send_to_writer(
        &self,
        runtime: &SourceRuntime,
        event: NewEvent,
    ) -> Result<PendingReply<'a>, Rejection> {
        // Checked here too if the queue is already full, because the writer has other requests to
        // write.
        if let Some(limit) = &runtime.queue_limit
            && event.plan.job_count() > 0
            && limit.is_reached(0)
        {
            return Err(Rejection::QueueFull);
        }
        Ok(self.writer_client.store(event))
    }
}

/// Turns the error of a system without random bytes into a response.
fn with_random(id: anyhow::Result<[u8; 16]>) -> Result<[u8; 16], Rejection> {
    id.map_err(|_| Rejection::Unavailable(UnavailableReason::Randomness))
}

/// Returns the delivery key, if the source uses it.
pub(super) fn enabled_delivery_key(source: &Source, proof: &Proof) -> Option<DedupeKey> {
    let (key, window) = proof.delivery_key.zip(source.delivery_key_window())?;
    Some(DedupeKey { key, window_ms: planner::window_ms(window) })
}

/// Returns a method that is independent of its request. That of most webhooks needs no memory.
fn owned_method(method: &str) -> Cow<'static, str> {
    match method {
        "POST" => "POST".into(),
        other => other.to_owned().into(),
    }
}
