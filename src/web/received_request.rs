//! A request with its complete body. Cheap checks run on its intake thread, the others on a thread
//! of the check pool. The cost of a check is expressed as a number of bytes to hash.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;

use super::check_pool::CheckPool;
use super::rejection::Rejection;
use super::{IntakeConfig, SourceRuntime, stored_request};
use crate::config::{Dedupe, DedupeSelector, ProxyHeader};
use crate::domain::job_plan::KeyHash;
use crate::expression::{
    Busy, EvaluationResult, EvaluatorPool, EventContext, ExpressionSet, Priority,
};
use crate::metrics::UnavailableReason;
use crate::planner;
use crate::verify::{Scheme, SenderResponse, SignedPart, SignedRequest};

/// Maximum cost of a check on an intake thread. Verifying, parsing and evaluating expressions
/// together takes less than a millisecond for this number of bytes.
const MAX_INLINE_BYTES: usize = 64 << 10;

/// A byte of a query costs more than one of a body: the query is parsed field by field for each
/// `$query`.
const QUERY_FACTOR: usize = 16;

/// A request with what its checks need.
#[derive(Clone, Copy)]
pub(super) struct ReceivedRequest<'a> {
    pub runtime: &'a SourceRuntime,
    pub request: SignedRequest<'a>,
    pub ip: &'a str,
    /// The redacted subject of the client certificate.
    pub client_subject: Option<&'a Arc<str>>,
    pub now_ms: i64,
    pub expressions: &'a EvaluatorPool,
    /// The source has earlier events that are deferred.
    pub is_deferring: bool,
    /// An owned copy for another thread, if the request is large.
    large: Option<&'a Arc<LargeRequest>>,
}

/// An owned copy of a request for the check pool. The body is moved and not copied.
pub(super) struct LargeRequest {
    config: Arc<IntakeConfig>,
    source: usize,
    method: String,
    path: String,
    query: Option<String>,
    headers: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
    secret_segment: Option<String>,
    trusted_proxy_header: Option<ProxyHeader>,
    ip: String,
    client_subject: Option<Arc<str>>,
    now_ms: i64,
    expressions: EvaluatorPool,
    is_deferring: bool,
}

impl LargeRequest {
    fn with_request<T>(&self, work: impl FnOnce(&ReceivedRequest<'_>) -> T) -> T {
        let headers: Vec<(&str, &[u8])> =
            self.headers.iter().map(|(name, value)| (name.as_str(), value.as_slice())).collect();
        work(&ReceivedRequest {
            runtime: &self.config.sources[self.source],
            request: SignedRequest {
                method: &self.method,
                path: &self.path,
                query: self.query.as_deref(),
                headers: &headers,
                body: &self.body,
                secret_segment: self.secret_segment.as_deref(),
                trusted_proxy_header: self.trusted_proxy_header,
            },
            ip: &self.ip,
            client_subject: self.client_subject.as_ref(),
            now_ms: self.now_ms,
            expressions: &self.expressions,
            is_deferring: self.is_deferring,
            large: None,
        })
    }
}

/// A complete body, with a copy of its request if it is checked on another thread.
pub(super) enum FullBody {
    Small(Vec<u8>),
    Large(Arc<LargeRequest>),
}

impl FullBody {
    /// Decides where the request is checked. `head` is the request without its body.
    pub fn new(
        body: Vec<u8>,
        head: ReceivedRequest<'_>,
        config: &Arc<IntakeConfig>,
        source: usize,
    ) -> Self {
        let request = SignedRequest { body: &body, ..head.request };
        let query_bytes = request.query.map_or(0, str::len);
        let cost = head.runtime.verifier.check_cost(&request) + query_bytes * QUERY_FACTOR;
        if cost <= MAX_INLINE_BYTES {
            return Self::Small(body);
        }
        let header = |(name, value): &(&str, &[u8])| ((*name).to_owned(), value.to_vec());
        Self::Large(Arc::new(LargeRequest {
            config: Arc::clone(config),
            source,
            method: request.method.to_owned(),
            path: request.path.to_owned(),
            query: request.query.map(str::to_owned),
            headers: request.headers.iter().map(header).collect(),
            secret_segment: request.secret_segment.map(str::to_owned),
            trusted_proxy_header: request.trusted_proxy_header,
            body,
            ip: head.ip.to_owned(),
            client_subject: head.client_subject.cloned(),
            now_ms: head.now_ms,
            expressions: head.expressions.clone(),
            is_deferring: head.is_deferring,
        }))
    }

    /// Returns the request with its body.
    pub fn with_body<'a>(&'a self, head: ReceivedRequest<'a>) -> ReceivedRequest<'a> {
        let (body, large) = match self {
            Self::Small(body) => (body, None),
            Self::Large(large) => (&large.body, Some(large)),
        };
        ReceivedRequest { request: SignedRequest { body, ..head.request }, large, ..head }
    }

    /// Returns the size of the body in bytes.
    pub fn len(&self) -> usize {
        match self {
            Self::Small(body) => body.len(),
            Self::Large(large) => large.body.len(),
        }
    }

    /// Returns the bytes of the body, after all checks.
    pub fn into_bytes(self) -> Vec<u8> {
        match self {
            Self::Small(body) => body,
            Self::Large(large) => {
                Arc::try_unwrap(large).map_or_else(|large| large.body.clone(), |large| large.body)
            }
        }
    }
}

/// The key of `dedupe`: `Some(None)` means no key, `None` means not known yet.
pub(super) type KnownKey = Option<Option<String>>;

/// Results of expressions that are complete or in progress.
pub(super) enum PendingEvaluation {
    Complete(EvaluationResult),
    /// Waits at most this long.
    Waiting(oneshot::Receiver<Result<EvaluationResult, Busy>>, KnownKey, Duration),
    /// The source has earlier deferred events, so this one is deferred too.
    Deferred(KnownKey),
}

/// Results of the expressions of one event.
pub(super) enum Evaluation {
    Complete(EvaluationResult),
    /// The expressions are evaluated after the response, except perhaps `dedupe`.
    Deferred(KnownKey),
}

impl PendingEvaluation {
    /// Waits for the results, which the response needs.
    ///
    /// # Errors
    /// The results are not ready in time, or the evaluators have too many requests.
    pub async fn wait(self) -> Result<EvaluationResult, Rejection> {
        match self.wait_or_defer().await {
            Evaluation::Complete(results) => Ok(results),
            Evaluation::Deferred(_) => Err(Rejection::Unavailable(UnavailableReason::Expression)),
        }
    }

    /// Waits for the results. Without them the event is deferred.
    pub async fn wait_or_defer(self) -> Evaluation {
        match self {
            Self::Complete(results) => Evaluation::Complete(results),
            Self::Deferred(key) => Evaluation::Deferred(key),
            Self::Waiting(receiver, key, max_wait) => match timeout(max_wait, receiver).await {
                Ok(Ok(Ok(results))) => Evaluation::Complete(results),
                _ => Evaluation::Deferred(key),
            },
        }
    }
}

/// The source key of a request with a stale timestamp: the key of the source's own `dedupe`.
pub(super) enum SignedSourceKey {
    /// There is no key, or it is not signed.
    None,
    Known(KeyHash),
    Pending(PendingEvaluation),
}

/// The parts of an accepted request that are prepared without waiting.
pub(super) struct PreparedRequest {
    pub path: String,
    pub query: Option<String>,
    /// The stored header lines.
    pub headers: Vec<u8>,
    /// The key of the source's own `dedupe`, if it needs no expression.
    pub source_key: Option<KeyHash>,
    /// The key of a signed body's bytes. A captured request that is sent again under another
    /// Content-Type has the same key.
    pub body_key: Option<KeyHash>,
    /// `None`: the source's events need no expression.
    pub pending: Option<PendingEvaluation>,
    /// The response that the sender expects, if its scheme is a preset.
    pub preset_response: Option<SenderResponse>,
}

impl<'a> ReceivedRequest<'a> {
    /// Makes a request without its body, which [`FullBody::with_body`] adds.
    pub fn without_body(
        runtime: &'a SourceRuntime,
        request: SignedRequest<'a>,
        (ip, client_subject): (&'a str, Option<&'a Arc<str>>),
        now_ms: i64,
        expressions: &'a EvaluatorPool,
        is_deferring: bool,
    ) -> Self {
        Self {
            runtime,
            request,
            ip,
            client_subject,
            now_ms,
            expressions,
            is_deferring,
            large: None,
        }
    }

    /// Runs a check of this request: on this thread if it is cheap, else on a thread of the pool.
    ///
    /// # Errors
    /// The check pool is full.
    pub async fn run_check<T: Send + 'static>(
        &self,
        pool: &CheckPool,
        work: impl FnOnce(&ReceivedRequest<'_>) -> T + Send + 'static,
    ) -> Result<T, Rejection> {
        let Some(large) = self.large else { return Ok(work(self)) };
        let large = Arc::clone(large);
        let (bytes, max_bytes) = (large.body.len(), large.config.server.max_inflight_bytes);
        // The copy is dropped before the reply is sent, so that the receiver can take the body.
        let work = move || large.with_request(work);
        let reply = pool.run(self.runtime.id, bytes, max_bytes, work);
        reply.await.map_err(|_| Rejection::Unavailable(UnavailableReason::CheckPool))
    }

    /// Returns the content type by which the body is parsed.
    pub fn content_type(&self) -> Option<&'a str> {
        let (_, value) = self.request.headers.iter().find(|(name, _)| *name == "content-type")?;
        planner::content_type(value)
    }

    /// Makes the stored parts. For a new request it also reads the source key and starts the
    /// evaluation of expressions.
    pub fn prepare(&self, is_new: bool) -> PreparedRequest {
        let (runtime, request) = (self.runtime, &self.request);
        let redaction = runtime.redaction();
        let path = redaction.redact_path(request.path);
        let query = request.query.map(|query| redaction.redact_query(query));
        let headers = redaction.redact_headers(request.headers);
        let expressions = runtime.planner.expressions().filter(|_| is_new);
        let pending = expressions.map(|expressions| {
            let (header_refs, params) =
                (stored_request::borrow_headers(&headers), self.params(&path));
            self.evaluate(
                expressions,
                &self.event_context(&path, query.as_deref(), &header_refs, &params),
            )
        });
        let source = &runtime.source;
        PreparedRequest {
            source_key: is_new
                .then(|| planner::source_dedupe_key(source, request.headers, request.body))
                .flatten(),
            body_key: is_new.then(|| runtime.planner.body_key(request.body)).flatten(),
            preset_response: source
                .respond
                .is_none()
                .then(|| runtime.verifier.success_response(request.body))
                .flatten(),
            headers: stored_request::encode_headers(&headers),
            pending,
            path,
            query,
        }
    }

    /// Returns the source key of a request with a stale timestamp, if the key is signed.
    pub fn signed_source_key(&self) -> SignedSourceKey {
        let source = &self.runtime.source;
        let (Scheme::Hmac(hmac), Dedupe::Key(key)) = (&source.verify.scheme, &source.dedupe) else {
            return SignedSourceKey::None;
        };
        let is_signed = |part| hmac.signed.contains(&part);
        let source_key = |body| {
            let key = planner::source_dedupe_key(source, self.request.headers, body);
            key.map_or(SignedSourceKey::None, SignedSourceKey::Known)
        };
        match (key, self.runtime.planner.dedupe_expression()) {
            (DedupeSelector::Header(name), _)
                if hmac.id_header.as_ref() == Some(name) && is_signed(SignedPart::Id) =>
            {
                source_key(b"")
            }
            (DedupeSelector::Body, _) if is_signed(SignedPart::Body) => {
                source_key(self.request.body)
            }
            (DedupeSelector::Jq(dedupe), Some(expressions))
                if is_signed(SignedPart::Body) && dedupe.reads_body_alone() =>
            {
                SignedSourceKey::Pending(self.evaluate_alone(expressions))
            }
            _ => SignedSourceKey::None,
        }
    }

    /// Starts the evaluation of `dedupe` without the handlers' expressions, or of another expression alone.
    pub fn evaluate_alone(&self, expressions: &ExpressionSet) -> PendingEvaluation {
        let (redaction, request) = (self.runtime.redaction(), &self.request);
        let path = redaction.redact_path(request.path);
        let query = request.query.map(|query| redaction.redact_query(query));
        let headers = redaction.redact_headers(request.headers);
        let (header_refs, params) = (stored_request::borrow_headers(&headers), self.params(&path));
        self.evaluate(
            expressions,
            &self.event_context(&path, query.as_deref(), &header_refs, &params),
        )
    }

    /// Evaluates the source's own handshake on the redacted request. A body that cannot be redacted counts as
    /// empty.
    pub fn evaluate_handshake(&self, expressions: &ExpressionSet) -> PendingEvaluation {
        let redacted = self.redact_body().unwrap_or_else(|_| Some(Vec::new()));
        let body = redacted.as_deref().unwrap_or(self.request.body);
        let request = SignedRequest { body, ..self.request };
        ReceivedRequest { request, ..*self }.evaluate_alone(expressions)
    }

    /// Redacts the body by `redact.paths`. `None`: nothing is redacted.
    ///
    /// # Errors
    /// Why the body cannot be read.
    pub fn redact_body(&self) -> Result<Option<Vec<u8>>, String> {
        self.runtime.source.redact.body.redact(self.content_type(), self.request.body)
    }

    fn params(&self, path: &str) -> Vec<(String, String)> {
        let template = self.runtime.source.path();
        template.map(|template| planner::path_params(template, path)).unwrap_or_default()
    }

    fn event_context<'s>(
        &self,
        path: &'s str,
        query: Option<&'s str>,
        headers: &'s [(&'s str, &'s [u8])],
        params: &'s [(String, String)],
    ) -> EventContext<'s>
    where
        'a: 's,
    {
        EventContext {
            body: self.request.body,
            content_type: self.content_type(),
            source: &self.runtime.source.name,
            headers,
            query,
            path,
            params,
            ip: self.ip,
            client: self.client_subject.map(|subject| &**subject),
            received_at_ms: self.now_ms,
            event_id: None,
        }
    }

    /// Evaluates inline if possible. Otherwise it sends the request to an evaluator process, for
    /// which no thread waits.
    fn evaluate(
        &self,
        expressions: &ExpressionSet,
        context: &EventContext<'_>,
    ) -> PendingEvaluation {
        let inline = expressions.evaluate_partly(context);
        let (key, has_all_handlers) = (inline.dedupe.clone(), inline.has_all_handlers());
        if let Some(results) = inline.complete() {
            return PendingEvaluation::Complete(results);
        }
        if self.is_deferring && !has_all_handlers {
            return PendingEvaluation::Deferred(key);
        }
        let (sender, receiver) = oneshot::channel();
        let fairness_key = u64::try_from(self.runtime.id.0).unwrap_or(0);
        let on_result = Box::new(move |results| drop(sender.send(results)));
        // Keys do not wait behind the expressions of handlers.
        let priority = if has_all_handlers { Priority::Intake } else { Priority::Handlers };
        self.expressions.evaluate_async(priority, fairness_key, expressions, context, on_result);
        PendingEvaluation::Waiting(receiver, key, priority.max_wait())
    }
}
