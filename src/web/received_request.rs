//! A request whose body has arrived: checked on its intake thread where that takes little, else on a
//! thread of the check pool. Work is counted in bytes, as that of hashing them.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;

use super::check_pool::CheckPool;
use super::rejection::Rejection;
use super::{IntakeConfig, SourceRuntime, stored_request};
use crate::config::{Dedupe, ProxyHeader, SignedPart};
use crate::domain::job_plan::KeyHash;
use crate::expression::{Busy, EvaluationResult, EvaluatorPool, EventContext, ExpressionSet};
use crate::planner;
use crate::verify::{SenderResponse, SignedRequest};

/// Work that an intake thread does itself. Checks, parsing and expressions together take less than a
/// millisecond for so many bytes.
const INLINE_BYTES_MAX: usize = 64 << 10;

/// A byte of a query costs more than one of a body: it is parsed field by field for each `$query`.
const QUERY_FACTOR: usize = 16;

/// A request, and what its checks need beside it.
#[derive(Clone, Copy)]
pub(super) struct Received<'a> {
    pub gated: &'a SourceRuntime,
    pub asked: SignedRequest<'a>,
    pub ip: &'a str,
    pub now_ms: i64,
    pub expressions: &'a EvaluatorPool,
    /// Earlier events of the source are still to be evaluated.
    pub is_deferring: bool,
    /// The same for another thread, where the work is large.
    large: Option<&'a Arc<Large>>,
}

/// A copy of a request for the check pool. It owns the body, which is not copied.
pub(super) struct Large {
    settings: Arc<IntakeConfig>,
    source: usize,
    method: String,
    path: String,
    query: Option<String>,
    headers: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
    secret_segment: Option<String>,
    proxied: Option<ProxyHeader>,
    ip: String,
    now_ms: i64,
    expressions: EvaluatorPool,
    is_deferring: bool,
}

impl Large {
    fn received<T>(&self, work: impl FnOnce(&Received<'_>) -> T) -> T {
        let lines: Vec<(&str, &[u8])> =
            self.headers.iter().map(|(name, value)| (name.as_str(), value.as_slice())).collect();
        work(&Received {
            gated: &self.settings.sources[self.source],
            asked: SignedRequest {
                method: &self.method,
                path: &self.path,
                query: self.query.as_deref(),
                headers: &lines,
                body: &self.body,
                secret_segment: self.secret_segment.as_deref(),
                trusted_proxy_header: self.proxied,
            },
            ip: &self.ip,
            now_ms: self.now_ms,
            expressions: &self.expressions,
            is_deferring: self.is_deferring,
            large: None,
        })
    }
}

/// A body, wherever it is checked.
pub(super) enum FullBody {
    Small(Vec<u8>),
    Large(Arc<Large>),
}

impl FullBody {
    /// Decides where the body is checked. `head` is the request without its body.
    pub fn new(
        body: Vec<u8>,
        head: Received<'_>,
        settings: &Arc<IntakeConfig>,
        source: usize,
    ) -> Self {
        let asked = SignedRequest { body: &body, ..head.asked };
        let query_bytes = asked.query.map_or(0, str::len);
        let work = head.gated.verifier.work(&asked) + query_bytes * QUERY_FACTOR;
        if work <= INLINE_BYTES_MAX {
            return Self::Small(body);
        }
        let header = |(name, value): &(&str, &[u8])| ((*name).to_owned(), value.to_vec());
        Self::Large(Arc::new(Large {
            settings: Arc::clone(settings),
            source,
            method: asked.method.to_owned(),
            path: asked.path.to_owned(),
            query: asked.query.map(str::to_owned),
            headers: asked.headers.iter().map(header).collect(),
            secret_segment: asked.secret_segment.map(str::to_owned),
            proxied: asked.trusted_proxy_header,
            body,
            ip: head.ip.to_owned(),
            now_ms: head.now_ms,
            expressions: head.expressions.clone(),
            is_deferring: head.is_deferring,
        }))
    }

    /// The request with its body.
    pub fn received<'a>(&'a self, head: Received<'a>) -> Received<'a> {
        let (body, large) = match self {
            Self::Small(body) => (body, None),
            Self::Large(large) => (&large.body, Some(large)),
        };
        Received { asked: SignedRequest { body, ..head.asked }, large, ..head }
    }

    /// The bytes, when all checks are done.
    pub fn into_bytes(self) -> Vec<u8> {
        match self {
            Self::Small(body) => body,
            Self::Large(large) => {
                Arc::try_unwrap(large).map_or_else(|large| large.body.clone(), |large| large.body)
            }
        }
    }
}

/// A response waits no longer than that for expressions.
const EVALUATION_TIMEOUT: Duration = Duration::from_millis(250);

/// A `dedupe` key that is known, or that there is none; `None`: it is not known yet.
type KnownKey = Option<Option<String>>;

/// Answers that are there, or will be.
pub(super) enum Asking {
    Answered(EvaluationResult),
    Waiting(oneshot::Receiver<Result<EvaluationResult, Busy>>, KnownKey),
    /// Earlier events of the source are still to be evaluated: so is this one.
    Deferred(Option<String>),
}

/// What the expressions of an event gave.
pub(super) enum Evaluation {
    Answers(EvaluationResult),
    /// They are evaluated after the response, but for the key of `dedupe`, which is there.
    Deferred(Option<String>),
}

impl Asking {
    /// Waits for the answers, for as long as a response may.
    ///
    /// # Errors
    /// There are none in time, or too much was asked at once.
    pub async fn answers(self) -> Result<EvaluationResult, Rejection> {
        match self.evaluation().await? {
            Evaluation::Answers(answers) => Ok(answers),
            Evaluation::Deferred(_) => Err(Rejection::Unavailable),
        }
    }

    /// Waits for the answers, for as long as a response may; then they are had later.
    ///
    /// # Errors
    /// The key of `dedupe` must be known before the event is stored, and is not.
    pub async fn evaluation(self) -> Result<Evaluation, Rejection> {
        match self {
            Self::Answered(answers) => Ok(Evaluation::Answers(answers)),
            Self::Deferred(key) => Ok(Evaluation::Deferred(key)),
            Self::Waiting(told, key) => {
                let told = timeout(EVALUATION_TIMEOUT, told).await.ok().and_then(Result::ok);
                match (told.and_then(Result::ok), key) {
                    (Some(answers), _) => Ok(Evaluation::Answers(answers)),
                    (None, Some(key)) => Ok(Evaluation::Deferred(key)),
                    (None, None) => Err(Rejection::Unavailable),
                }
            }
        }
    }
}

/// A source's own key of a request with an old time stamp.
pub(super) enum SignedKey {
    /// There is none, or it is not signed.
    None,
    Known(KeyHash),
    Asked(Asking),
}

/// What is made of an accepted request without waiting.
pub(super) struct Prepared {
    pub path: String,
    pub query: Option<String>,
    /// Kept lines.
    pub headers: Vec<u8>,
    /// Of the source's own `dedupe`, where no expression is needed for it.
    pub key: Option<KeyHash>,
    /// What a signed body is known by, whatever type it comes under.
    pub guard: Option<KeyHash>,
    /// `None`: nothing is asked of the source's events.
    pub asking: Option<Asking>,
    /// The response of a preset.
    pub answer: Option<SenderResponse>,
}

impl<'a> Received<'a> {
    /// The head of a request. Its body is added by [`FullBody::received`].
    pub fn head(
        gated: &'a SourceRuntime,
        asked: SignedRequest<'a>,
        ip: &'a str,
        now_ms: i64,
        expressions: &'a EvaluatorPool,
        is_deferring: bool,
    ) -> Self {
        Self { gated, asked, ip, now_ms, expressions, is_deferring, large: None }
    }

    /// Does some of the work where the request is checked. `max_bytes`: of all bodies that wait.
    ///
    /// # Errors
    /// Too much waits.
    pub async fn run<T: Send + 'static>(
        &self,
        pool: &CheckPool,
        max_bytes: usize,
        work: impl FnOnce(&Received<'_>) -> T + Send + 'static,
    ) -> Result<T, Rejection> {
        let Some(large) = self.large else { return Ok(work(self)) };
        let large = Arc::clone(large);
        let bytes = large.body.len();
        // The copy is dropped before the reply is sent: who gets it may take the body.
        let work = move || large.received(work);
        let reply = pool.run(self.gated.id, bytes, max_bytes, work);
        reply.await.map_err(|_| Rejection::Unavailable)
    }

    /// The content type that the body is read by.
    pub fn content_type(&self) -> Option<&'a str> {
        let (_, value) = self.asked.headers.iter().find(|(name, _)| *name == "content-type")?;
        planner::content_type(value)
    }

    /// Makes what is stored. Of a request that is new it reads the source's own key, and starts to ask what
    /// the expressions give.
    pub fn prepare(&self, is_new: bool) -> Prepared {
        let (gated, asked) = (self.gated, &self.asked);
        let redaction = gated.redaction();
        let path = redaction.redact_path(asked.path);
        let query = asked.query.map(|query| redaction.redact_query(query));
        let lines = redaction.redact_headers(asked.headers);
        let questions = gated.planner.expressions().filter(|_| is_new);
        let asking = questions.map(|questions| {
            let (headers, params) = (stored_request::borrowed(&lines), self.params(&path));
            self.ask(questions, &self.scene(&path, query.as_deref(), &headers, &params))
        });
        let source = &gated.source;
        Prepared {
            key: is_new
                .then(|| planner::source_dedupe_key(source, asked.headers, asked.body))
                .flatten(),
            guard: is_new.then(|| gated.planner.guard_key(asked.body)).flatten(),
            answer: source.respond.is_none().then(|| gated.verifier.answer(asked.body)).flatten(),
            headers: stored_request::encode_headers(&lines),
            asking,
            path,
            query,
        }
    }

    /// The source's own key of a request with an old time stamp, where it is signed.
    pub fn signed_key(&self) -> SignedKey {
        let source = &self.gated.source;
        let Some(hmac) = &source.verify.hmac else { return SignedKey::None };
        let is_signed = |part| hmac.signed.contains(&part);
        let own = |body| {
            let key = planner::source_dedupe_key(source, self.asked.headers, body);
            key.map_or(SignedKey::None, SignedKey::Known)
        };
        match (&source.dedupe, self.gated.planner.dedupe_expression()) {
            (Some(Dedupe::Header(name)), _)
                if hmac.id_header.as_ref() == Some(name) && is_signed(SignedPart::Id) =>
            {
                own(b"")
            }
            (Some(Dedupe::Body), _) if is_signed(SignedPart::Body) => own(self.asked.body),
            (Some(Dedupe::Jq(dedupe)), Some(questions))
                if is_signed(SignedPart::Body) && dedupe.reads_body_alone() =>
            {
                let (redaction, asked) = (self.gated.redaction(), &self.asked);
                let path = redaction.redact_path(asked.path);
                let query = asked.query.map(|query| redaction.redact_query(query));
                let lines = redaction.redact_headers(asked.headers);
                let (headers, params) = (stored_request::borrowed(&lines), self.params(&path));
                let scene = self.scene(&path, query.as_deref(), &headers, &params);
                SignedKey::Asked(self.ask(questions, &scene))
            }
            _ => SignedKey::None,
        }
    }

    /// Starts to ask the source's own handshake.
    pub fn ask_handshake(&self, questions: &ExpressionSet) -> Asking {
        let (redaction, asked) = (self.gated.redaction(), &self.asked);
        let path = redaction.redact_path(asked.path);
        let query = asked.query.map(|query| redaction.redact_query(query));
        let lines = redaction.redact_headers(asked.headers);
        let (headers, params) = (stored_request::borrowed(&lines), self.params(&path));
        self.ask(questions, &self.scene(&path, query.as_deref(), &headers, &params))
    }

    fn params(&self, path: &str) -> Vec<(String, String)> {
        planner::path_params(&self.gated.source.path, path)
    }

    fn scene<'s>(
        &self,
        path: &'s str,
        query: Option<&'s str>,
        lines: &'s [(&'s str, &'s [u8])],
        params: &'s [(String, String)],
    ) -> EventContext<'s>
    where
        'a: 's,
    {
        EventContext {
            body: self.asked.body,
            content_type: self.content_type(),
            source: &self.gated.source.name,
            headers: lines,
            query,
            path,
            params,
            ip: self.ip,
            received_at_ms: self.now_ms,
            event_id: None,
        }
    }

    /// Asks in place, or a process, which no thread waits for.
    fn ask(&self, questions: &ExpressionSet, scene: &EventContext<'_>) -> Asking {
        if let Some(answers) = questions.evaluate_inline(scene) {
            return Asking::Answered(answers);
        }
        let key = questions.dedupe_key_inline(scene);
        if self.is_deferring
            && let Some(key) = key
        {
            return Asking::Deferred(key);
        }
        let (tell, told) = oneshot::channel();
        let party = u64::try_from(self.gated.id.0).unwrap_or(0);
        let answer = Box::new(move |answers| drop(tell.send(answers)));
        self.expressions.evaluate_async(party, questions, scene, answer);
        Asking::Waiting(told, key)
    }
}
