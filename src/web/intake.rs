//! Handles a webhook request from its head to its response. The checks run in this order: path,
//! method, address, size and encoding, signature, content type, form, rate. A 2xx leaves only after
//! the commit.

use std::cell::RefCell;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use actix_web::http::header::{self, HeaderValue};
use actix_web::{HttpRequest, HttpResponse, dev};

use super::body::{RequestBody, finish_response};
use super::body_memory::BodyOwner;
use super::client_ip::{self, Peer};
use super::client_subject::ClientSubject;
use super::connection::Connection;
use super::connection_stream::MAX_HEAD_BYTES;
use super::event_builder::{DATABASE, EventBuilder, WRITER_FULL, enabled_delivery_key};
use super::handshake::PossibleHandshakes;
use super::health::{empty_response, health_response};
use super::received_request::{FullBody, ReceivedRequest, SignedSourceKey};
use super::rejection::Rejection;
use super::response::AcceptedResponse;
use super::writer_client::WriterClient;
use super::{IntakeConfig, IntakeState, RejectedHead, SourceRuntime, rate_limiter};
use crate::clock;
use crate::metrics::{IntakeDurations, IntakeResult, RejectionReason, UnavailableReason};
use crate::planner;
use crate::store::events::{DedupeKey, InsertReply, NewEvent};
use crate::verify::{Proof, SenderResponse, SignedRequest};

/// Header lines as received: lower-case name, value.
type HeaderRefs<'a> = Vec<(&'a str, &'a [u8])>;

/// What the requests of one intake thread share.
pub struct IntakeThread {
    state: Arc<IntakeState>,
    writer_client: Rc<WriterClient>,
    config: RefCell<Rc<ThreadConfig>>,
    durations: Arc<IntakeDurations>,
}

/// The configuration. Requests of a thread hold it by an `Rc`, because the reference counter of the `Arc` would
/// move between the processors with each request.
struct ThreadConfig(Arc<IntakeConfig>);

impl IntakeThread {
    /// Requires the runtime of an intake thread.
    pub fn new(state: &Arc<IntakeState>) -> Self {
        Self {
            state: Arc::clone(state),
            writer_client: WriterClient::new(state.writer.sender.clone()),
            config: RefCell::new(Rc::new(ThreadConfig(state.config.load_full()))),
            durations: state.exporter.metrics.add_intake_thread(),
        }
    }

    /// Returns the current configuration.
    fn config(&self) -> Rc<ThreadConfig> {
        let current = self.state.config.load();
        let mut known = self.config.borrow_mut();
        if !Arc::ptr_eq(&known.0, &current) {
            *known = Rc::new(ThreadConfig(Arc::clone(&current)));
        }
        Rc::clone(&known)
    }
}

/// Handles a request of the intake listener.
pub async fn handle_webhook(
    thread: &IntakeThread,
    request: &HttpRequest,
    payload: dev::Payload,
) -> HttpResponse {
    let IntakeThread { state, writer_client, .. } = thread;
    let Some(connection) = request.conn_data::<Arc<Connection>>() else {
        return empty_response(500);
    };
    let mut body = RequestBody::new(request, payload);
    let started_at = connection.begin(body.length());
    if connection.is_revoked() {
        return finish_response(empty_response(401), request, connection, &body);
    }
    if let Some(response) = health_response(state, request) {
        return finish_response(response, request, connection, &body);
    }
    let config = thread.config();
    let config = &config.0;
    let mut intake_request = IntakeRequest {
        state,
        writer_client,
        connection,
        config,
        deadline: started_at + config.server.request_timeout,
        client: None,
        ip: String::new(),
    };
    let response = intake_request.run(request, &mut body).await;
    let result = IntakeResult::of_status(response.status().as_u16());
    thread.durations.observe(result, started_at.elapsed());
    finish_response(response, request, connection, &body)
}

/// A request and the shared state that its checks need.
struct IntakeRequest<'a> {
    state: &'a IntakeState,
    writer_client: &'a Rc<WriterClient>,
    connection: &'a Connection,
    config: &'a Arc<IntakeConfig>,
    deadline: Instant,
    /// `None`: unknown.
    client: Option<IpAddr>,
    /// The client's address as text, empty if unknown.
    ip: String,
}

impl IntakeRequest<'_> {
    async fn run(&mut self, request: &HttpRequest, body: &mut RequestBody) -> HttpResponse {
        let headers: HeaderRefs = request
            .headers()
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_bytes()))
            .collect();
        if headers.iter().map(|(name, value)| name.len() + value.len() + 4).sum::<usize>()
            > MAX_HEAD_BYTES
        {
            self.state.exporter.metrics.count_unknown_source(RejectionReason::HeadTooLarge);
            return empty_response(431);
        }
        let path = request.uri().path();
        let route = self.config.routes.find(path);
        let source_index = route.as_ref().map(|route| route.source);
        let config = self.config;
        let runtime = source_index.map(|index| &config.sources[index]);
        self.client = self.find_client(request, &headers);
        self.ip = self.client.map(client_ip::to_text).unwrap_or_default();
        let secret_segment = route.as_ref().and_then(|route| route.secret_segment.as_deref());
        let rejection = match source_index {
            None => Rejection::NotFound,
            Some(index) => {
                match self.check_and_store(index, secret_segment, request, &headers, body).await {
                    Ok(response) => return response,
                    Err(rejection) => rejection,
                }
            }
        };
        self.count(&rejection, runtime);
        if !matches!(rejection, Rejection::Timeout | Rejection::Disconnected) {
            Box::pin(body.drain(self.deadline)).await;
        }
        if rejection.is_recorded() {
            self.record(&rejection, runtime, request, body.received_bytes());
        }
        rejection.response()
    }

    fn count(&self, rejection: &Rejection, runtime: Option<&SourceRuntime>) {
        let metrics = &self.state.exporter.metrics;
        match (rejection.metric_reason(), runtime) {
            (Ok(reason), Some(runtime)) => runtime.metrics.count_rejection(reason),
            (Ok(reason), None) => metrics.count_unknown_source(reason),
            (Err(reason), _) => metrics.count_unavailable(reason),
        }
    }

    fn record(
        &self,
        rejection: &Rejection,
        runtime: Option<&SourceRuntime>,
        request: &HttpRequest,
        bytes: usize,
    ) {
        self.state.record_rejection(
            rejection,
            (runtime, &self.config.redactor),
            &RejectedHead {
                method: request.method().as_str(),
                path: request.uri().path(),
                ip: &self.ip,
                bytes,
            },
        );
    }

    fn find_client(&self, request: &HttpRequest, headers: &HeaderRefs<'_>) -> Option<IpAddr> {
        let server = &self.config.server;
        client_ip::client_ip(peer(request), headers, &server.trusted_proxies, server.proxy_header)
    }

    async fn check_and_store(
        &mut self,
        source_index: usize,
        secret_segment: Option<&str>,
        request: &HttpRequest,
        headers: &HeaderRefs<'_>,
        payload: &mut RequestBody,
    ) -> Result<HttpResponse, Rejection> {
        let (config, state) = (self.config, self.state);
        let runtime = &config.sources[source_index];
        let source = &runtime.source;
        let method = request.method().as_str();
        let is_method_allowed = source.methods.iter().any(|allowed| allowed == method);
        let handshakes = PossibleHandshakes::for_method(runtime, method);
        let method_rejection = || Rejection::Method { allow: source.methods.join(", ") };
        if !is_method_allowed && handshakes.is_none() {
            return Err(method_rejection());
        }
        if !client_ip::is_allowed(&source.allow_from, self.client) {
            return Err(Rejection::Address);
        }
        if let Some(reason) = self.state.unavailable_reason() {
            return Err(Rejection::Unavailable(reason));
        }
        check_headers(request, source.max_body_bytes)?;
        let mut reservation = self.state.body_budget.reserve(BodyOwner {
            client: self.client,
            source: runtime.id,
            max_inflight_bytes: config.server.max_inflight_bytes,
            max_body_bytes: source.max_body_bytes,
        });
        let body = payload.receive(source.max_body_bytes, self.deadline, &mut reservation).await?;
        self.connection.end_body();
        let (uri, server) = (request.uri(), &config.server);
        let signed_request = SignedRequest {
            method,
            path: uri.path(),
            query: uri.query(),
            headers,
            body: &[],
            secret_segment,
            trusted_proxy_header: client_ip::is_trusted_proxy(
                peer(request),
                &server.trusted_proxies,
            )
            .then_some(server.proxy_header),
        };
        let now_ms = clock::wall_ms();
        let client_subject =
            request.conn_data::<ClientSubject>().map(|subject| subject.redact(&config.redactor));
        let is_deferring = state.deferrals.is_deferring(runtime.id);
        let head = ReceivedRequest::without_body(
            runtime,
            signed_request,
            (&self.ip, client_subject.as_ref()),
            now_ms,
            &state.expressions,
            is_deferring,
        );
        let body = FullBody::new(body, head, config, source_index);
        let original = body.with_body(head);
        // Futures that few requests need are boxed, so that those of the others are small.
        if !handshakes.is_none()
            && let Some(response) = Box::pin(handshakes.respond(state, &original, false)).await?
        {
            return Ok(response);
        }
        if !is_method_allowed && !handshakes.has_signed {
            return Err(method_rejection());
        }
        let check = |received: &ReceivedRequest<'_>| {
            received.runtime.verifier.check(&received.request, received.now_ms)
        };
        let result = original.run_check(&state.check_pool, check).await?;
        let mut proof = result.map_err(|reason| Rejection::signature(&runtime.verifier, reason))?;
        // Everything that is evaluated, compared and stored from here on is redacted.
        let builder = self.event_builder();
        let redaction = if source.redact.body.is_empty() {
            Ok(None)
        } else {
            let redaction =
                Box::pin(builder.redact_body(&original, head, source_index, &mut proof));
            redaction.await?
        };
        let (redacted, malformed_reason) = match redaction {
            Ok(redacted) => (redacted, None),
            Err(reason) => (None, Some(reason)),
        };
        let received = redacted.as_ref().map_or(original, |redacted| redacted.with_body(head));
        if let Some(redacted) = &redacted {
            let added = redacted.len().saturating_sub(original.request.body.len());
            reservation
                .grow(added)
                .map_err(|_| Rejection::Unavailable(UnavailableReason::BodyMemory))?;
        }
        let mut duplicate_key = None;
        if let Some(reason) = &proof.stale_reason {
            let dedupe_key = if is_method_allowed && malformed_reason.is_none() {
                Box::pin(self.signed_dedupe_key(&received, &proof)).await?
            } else {
                None
            };
            Box::pin(self.accept_stale_duplicate(runtime, dedupe_key, reason, now_ms)).await?;
            duplicate_key = dedupe_key;
        } else if handshakes.has_signed
            && let Some(response) = Box::pin(handshakes.respond(state, &original, true)).await?
        {
            return Ok(response);
        }
        if !is_method_allowed {
            return Err(method_rejection());
        }
        builder.check_content(&received).await?;
        if let Some(reason) = malformed_reason {
            return Err(Rejection::MalformedBody { reason });
        }
        let admission = rate_limiter::admit_request(runtime.rate_limiter.as_ref())?;
        let result = match builder.build_event(&received, &proof, duplicate_key, None).await {
            Ok((event, preset_response)) => {
                let body = redacted.unwrap_or(body).into_bytes();
                // If the client disconnects, the memory of the body counts until the writer has
                // written it.
                let body_memory = Some(reservation.transfer());
                match builder.send_to_writer(runtime, NewEvent { body, body_memory, ..event }) {
                    Ok(reply) => respond(runtime, preset_response, reply.await),
                    Err(rejection) => Err(rejection),
                }
            }
            Err(rejection) => Err(rejection),
        };
        if let (Err(_), Some(admission)) = (&result, admission) {
            admission.cancel();
        }
        result
    }

    fn event_builder(&self) -> EventBuilder<'_> {
        let Self { state, writer_client, config, .. } = *self;
        EventBuilder { state, writer_client, config }
    }

    /// Returns the signed key of a request with a stale timestamp: the delivery key or the source
    /// key. An unsigned key does not prove that the request repeats a stored event.
    async fn signed_dedupe_key(
        &self,
        received: &ReceivedRequest<'_>,
        proof: &Proof,
    ) -> Result<Option<DedupeKey>, Rejection> {
        let source = &received.runtime.source;
        if source.delivery_key_window().is_some() {
            return Ok(enabled_delivery_key(source, proof));
        }
        let source_key = |received: &ReceivedRequest<'_>| received.signed_source_key();
        let key = match received.run_check(&self.state.check_pool, source_key).await? {
            SignedSourceKey::None => None,
            SignedSourceKey::Known(key) => Some(key),
            SignedSourceKey::Pending(pending) => {
                // Without the key, nobody knows whether the request repeats an event: the sender has to retry.
                let text = pending.wait().await?.dedupe.ok().flatten();
                text.and_then(|text| received.runtime.planner.dedupe_key(&text))
            }
        };
        Ok(key.map(|key| DedupeKey { key, window_ms: planner::window_ms(source.dedupe_window) }))
    }

    /// Accepts a request with a stale timestamp if it repeats a stored event. Some senders retry
    /// with the timestamp of the first attempt. Such a sender would otherwise never learn that the
    /// event arrived.
    async fn accept_stale_duplicate(
        &self,
        runtime: &SourceRuntime,
        key: Option<DedupeKey>,
        reason: &str,
        now_ms: i64,
    ) -> Result<(), Rejection> {
        if let Some(key) = key {
            match self.writer_client.store(NewEvent::look_up(runtime.id, key)).await {
                InsertReply::Duplicate(_) => return Ok(()),
                InsertReply::NoRoom => return Err(WRITER_FULL),
                InsertReply::Unavailable => return Err(DATABASE),
                InsertReply::Stored(_)
                | InsertReply::Deferred(_)
                | InsertReply::NotDuplicate
                | InsertReply::QueueFull => {}
            }
        }
        if let Some(count) = runtime.rejection_streak.record_stale(now_ms) {
            log::warn!(
                "source {}: {count} requests in a row have a valid signature and a timestamp outside \
                 verify.tolerance ({reason}): is this machine's clock right?",
                runtime.source.name
            );
        }
        let reason = format!("{reason}; is this machine's clock right?");
        Err(Rejection::signature(&runtime.verifier, reason))
    }
}

/// Makes the response to an event from the writer's reply.
fn respond(
    runtime: &SourceRuntime,
    preset_response: Option<SenderResponse>,
    reply: InsertReply,
) -> Result<HttpResponse, Rejection> {
    let (event_id, is_duplicate) = match reply {
        InsertReply::Stored(id) | InsertReply::Deferred(id) => (id, false),
        InsertReply::Duplicate(id) => (id, true),
        InsertReply::QueueFull => return Err(Rejection::QueueFull),
        // The key of the repeated event expired in the meantime.
        InsertReply::NotDuplicate => {
            return Err(Rejection::Unavailable(UnavailableReason::KeyExpired));
        }
        InsertReply::NoRoom => return Err(WRITER_FULL),
        InsertReply::Unavailable => return Err(DATABASE),
    };
    runtime.rejection_streak.reset();
    Ok(AcceptedResponse::new(runtime, preset_response).response(event_id.0, is_duplicate))
}

/// Returns the other end of the connection.
fn peer(request: &HttpRequest) -> Peer {
    client_ip::peer_of(request.peer_addr())
}

/// Checks what the headers say about the body: its size and its encoding.
fn check_headers(request: &HttpRequest, max: usize) -> Result<(), Rejection> {
    let length = request.headers().get(header::CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.trim().parse::<usize>().ok());
    if length.is_some_and(|length| length > max) {
        return Err(Rejection::TooLarge { max });
    }
    let is_identity = |value: &HeaderValue| {
        value.to_str().is_ok_and(|coding| coding.trim().eq_ignore_ascii_case("identity"))
    };
    if !request.headers().get_all(header::CONTENT_ENCODING).all(is_identity) {
        return Err(Rejection::Encoding);
    }
    Ok(())
}
