//! A request from its head to its response, checked in this order: path, method, address, size and
//! encoding, signature, type, form, rate. A 2xx leaves after the commit.

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use actix_web::http::ConnectionType;
use actix_web::http::header::{self, HeaderValue};
use actix_web::{HttpRequest, HttpResponse, web};
use tokio::time::timeout_at;

use super::body::{Body, answered};
use super::body_memory::{Claim, Claimant, Full, STALLED_AFTER, STALLED_BYTES_MIN};
use super::client_ip::{self, Peer};
use super::connection::{Connection, HEAD_BYTES_MAX};
use super::content_type::{self, ContentTypeError};
use super::handshake::{self, Ways};
use super::health::{health, plain};
use super::received_request::{Evaluation, FullBody, Prepared, Received, SignedKey};
use super::rejection::Rejection;
use super::response::AcceptedResponse;
use super::writer_client::WriterClient;
use super::{
    IntakeConfig, IntakeState, SourceRuntime, rate_limiter, rejection_log, stored_request,
};
use crate::clock;
use crate::config::Source;
use crate::domain::job_plan::JobPlan;
use crate::planner::PlannedEvent;
use crate::store::events::{Aim, Dedupe, DedupeKey, InsertReply, NewEvent};
use crate::verify::{Proof, SenderResponse, SignedRequest};

/// So much of a refused body is read and thrown away, so that the answer arrives.
const DRAINED_BYTES_MAX: usize = 8 << 20;

/// Header lines as they came: lower-case name, value.
type HeaderRefs<'a> = Vec<(&'a str, &'a [u8])>;

/// The intake listener.
pub async fn handle_webhook(request: HttpRequest, payload: web::Payload) -> HttpResponse {
    let parts = (
        request.app_data::<Arc<IntakeState>>(),
        request.app_data::<Rc<WriterClient>>(),
        request.conn_data::<Arc<Connection>>(),
    );
    let (Some(gate), Some(lane), Some(connection)) = parts else { return plain(500) };
    let mut body = Body::new(&request, payload);
    let began_at = connection.begin(body.length());
    if let Some(response) = health(gate, &request) {
        return answered(response, &request, connection, &body);
    }
    let settings = gate.settings.load_full();
    let mut taking = IntakeRequest {
        gate,
        lane,
        connection,
        settings: &settings,
        deadline: began_at + settings.server.request_timeout,
        client: None,
        ip: String::new(),
        bytes: 0,
    };
    let mut response = taking.run(&request, &mut body).await;
    if gate.closing.load(Ordering::Relaxed) {
        response.head_mut().set_connection_type(ConnectionType::Close);
    }
    answered(response, &request, connection, &body)
}

/// A request that is being taken.
pub(super) struct IntakeRequest<'a> {
    pub gate: &'a IntakeState,
    lane: &'a Rc<WriterClient>,
    connection: &'a Connection,
    settings: &'a Arc<IntakeConfig>,
    deadline: Instant,
    /// `None`: unknown.
    client: Option<IpAddr>,
    /// The same as text; empty where it is unknown.
    pub ip: String,
    /// Of the body, as far as it came.
    bytes: usize,
}

impl IntakeRequest<'_> {
    async fn run(&mut self, request: &HttpRequest, body: &mut Body) -> HttpResponse {
        let lines: HeaderRefs = request
            .headers()
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_bytes()))
            .collect();
        if lines.iter().map(|(name, value)| name.len() + value.len() + 4).sum::<usize>()
            > HEAD_BYTES_MAX
        {
            return plain(431);
        }
        let path = request.uri().path();
        let found = self.settings.routes.find(path);
        let at = found.as_ref().map(|found| found.source);
        let settings = self.settings;
        let gated = at.map(|at| &settings.sources[at]);
        self.client = self.client(request, &lines);
        self.ip = self.client.map(|ip| ip.to_string()).unwrap_or_default();
        let secret_segment = found.as_ref().and_then(|found| found.secret_segment.as_deref());
        let refusal = match at {
            None => Rejection::NotFound,
            Some(at) => match self.process(at, secret_segment, request, &lines, body).await {
                Ok(response) => return response,
                Err(refusal) => refusal,
            },
        };
        self.drain(body, &refusal).await;
        if refusal.is_recorded() {
            self.record(&refusal, gated, request);
        }
        refusal.response()
    }

    fn record(&self, refusal: &Rejection, gated: Option<&SourceRuntime>, request: &HttpRequest) {
        let redactor = &*self.settings.redactor;
        let redaction =
            stored_request::Redaction { verifier: gated.map(|it| &it.verifier), redactor };
        let reason = refusal.reason();
        let reason = &*redactor.redact(&reason);
        if let Some(gated) = gated {
            gated.streak.refused(refusal, reason);
        }
        self.gate.ledger.record(
            &rejection_log::RejectedRequest {
                source: gated.map(|gated| gated.source.name.as_str()),
                method: &redactor.redact(request.method().as_str()),
                path: &redaction.redact_path(request.uri().path()),
                ip: &self.ip,
                bytes: self.bytes,
                status: refusal.status(),
                reason,
            },
            clock::wall_ms(),
        );
    }

    fn client(&self, request: &HttpRequest, lines: &HeaderRefs<'_>) -> Option<IpAddr> {
        let server = &self.settings.server;
        client_ip::client_ip(peer(request), lines, &server.trusted_proxies, server.proxy_header)
    }

    async fn process(
        &mut self,
        at: usize,
        secret_segment: Option<&str>,
        request: &HttpRequest,
        lines: &HeaderRefs<'_>,
        payload: &mut Body,
    ) -> Result<HttpResponse, Rejection> {
        let (settings, gate) = (self.settings, self.gate);
        let gated = &settings.sources[at];
        let source = &gated.source;
        let method = request.method().as_str();
        let allowed = source.methods.iter().any(|allowed| allowed == method);
        let ways = Ways::of(gated, method);
        let not_allowed = || Rejection::Method { allow: source.methods.join(", ") };
        if !allowed && ways.is_none() {
            return Err(not_allowed());
        }
        if !client_ip::allowed(&source.allow_from, self.client) {
            return Err(Rejection::Address);
        }
        if self.gate.unavailable_reason().is_some() {
            return Err(Rejection::Unavailable);
        }
        check_headers(request, source.max_body_bytes)?;
        let mut claim = self.gate.budget.claim(Claimant {
            client: self.client,
            source: gated.id,
            bytes_max: settings.server.max_inflight_bytes,
            max_body_bytes: source.max_body_bytes,
        });
        let body = self.body(payload, source.max_body_bytes, &mut claim).await?;
        let (uri, server) = (request.uri(), &settings.server);
        let asked = SignedRequest {
            method,
            path: uri.path(),
            query: uri.query(),
            headers: lines,
            body: &[],
            secret_segment,
            trusted_proxy_header: client_ip::is_trusted_proxy(
                peer(request),
                &server.trusted_proxies,
            )
            .then_some(server.proxy_header),
        };
        let now_ms = clock::wall_ms();
        let is_deferring = gate.deferrals.is_deferring(gated.id);
        let head = Received::head(gated, asked, &self.ip, now_ms, &gate.expressions, is_deferring);
        let body = FullBody::new(body, head, settings, at);
        let received = body.received(head);
        if let Some(response) = self.try_handshake(ways, false, &received).await? {
            return Ok(response);
        }
        if !allowed && !ways.has_signed {
            return Err(not_allowed());
        }
        let check = |it: &Received<'_>| it.gated.verifier.check(&it.asked, it.now_ms);
        let checked = self.examine(&received, check).await?;
        let proof = checked.map_err(|reason| handshake::unauthorized(&gated.verifier, reason))?;
        let mut repeats = None;
        if let Some(reason) = &proof.stale {
            let key = if allowed { self.repeat_key(&received, &proof).await? } else { None };
            self.check_repeat(gated, key, reason, now_ms).await?;
            repeats = key;
        } else if let Some(response) = self.try_handshake(ways, true, &received).await? {
            return Ok(response);
        }
        if !allowed {
            return Err(not_allowed());
        }
        let check_accept = |it: &Received<'_>| {
            content_type::check_content_type(
                it.gated.source.accept,
                it.content_type(),
                it.asked.body,
            )
        };
        self.examine(&received, check_accept).await?.map_err(|wrong| match wrong {
            ContentTypeError::Type => Rejection::UnsupportedMediaType,
            ContentTypeError::Form(reason) => Rejection::MalformedBody { reason },
        })?;
        let admission = rate_limiter::check(gated.rate.as_ref())?;
        let stored = match self.build_event(&received, &proof, repeats).await {
            Ok((accept, preset)) => {
                let body = body.into_bytes();
                // Where the connection breaks off, the body is there until the writer has it written.
                let body_memory = Some(claim.take_reservation());
                self.store(gated, NewEvent { body, body_memory, ..accept }, preset).await
            }
            Err(refusal) => Err(refusal),
        };
        if let (Err(_), Some(admission)) = (&stored, admission) {
            admission.give_back();
        }
        stored
    }

    /// Does some of the work of a request whose body is there, where that takes little, or on a thread
    /// of the check pool.
    pub(super) async fn examine<T: Send + 'static>(
        &self,
        received: &Received<'_>,
        work: impl FnOnce(&Received<'_>) -> T + Send + 'static,
    ) -> Result<T, Rejection> {
        let max_bytes = self.settings.server.max_inflight_bytes;
        received.run(&self.gate.checks, max_bytes, work).await
    }

    /// The key by which a request with an old time stamp may repeat a stored event: one that is signed.
    async fn repeat_key(
        &self,
        received: &Received<'_>,
        proof: &Proof,
    ) -> Result<Option<DedupeKey>, Rejection> {
        let source = &received.gated.source;
        if source.uses_preset_key {
            return Ok(delivery_key(source, proof));
        }
        let signed_key = |it: &Received<'_>| it.signed_key();
        let key = match self.examine(received, signed_key).await? {
            SignedKey::None => None,
            SignedKey::Known(key) => Some(key),
            SignedKey::Asked(asking) => {
                let text = match asking.evaluation().await? {
                    Evaluation::Answers(answers) => answers.dedupe.ok().flatten(),
                    Evaluation::Deferred(text) => text,
                };
                text.map(|text| received.gated.planner.dedupe_key(&text))
            }
        };
        Ok(key.map(|key| DedupeKey { key, window_ms: window_ms(source.dedupe_window) }))
    }

    /// Lets a request whose time stamp is outside the tolerance pass where it repeats a stored event:
    /// its sender tries again with the first attempt's time, and would never hear that it arrived.
    async fn check_repeat(
        &self,
        gated: &SourceRuntime,
        key: Option<DedupeKey>,
        reason: &str,
        now_ms: i64,
    ) -> Result<(), Rejection> {
        if let Some(key) = key {
            match self.lane.store(NewEvent::look_up(gated.id, key)).await {
                InsertReply::Duplicate(_) => return Ok(()),
                InsertReply::Unavailable => return Err(Rejection::Unavailable),
                InsertReply::Stored(_)
                | InsertReply::Deferred(_)
                | InsertReply::NoRepeat
                | InsertReply::QueueFull => {}
            }
        }
        if let Some(count) = gated.streak.stale(now_ms) {
            log::warn!(
                "source {}: {count} requests in a row whose signature holds and whose time stamp is \
                 outside verify.tolerance ({reason}): is this machine's clock right?",
                gated.source.name
            );
        }
        let reason = format!("{reason}; is this machine's clock right?");
        Err(handshake::unauthorized(&gated.verifier, reason))
    }

    /// The rows of an accepted request, but for its body; and a preset's response.
    async fn build_event(
        &self,
        received: &Received<'_>,
        proof: &Proof,
        repeats: Option<DedupeKey>,
    ) -> Result<(NewEvent, Option<SenderResponse>), Rejection> {
        let Received { gated, now_ms, .. } = *received;
        let is_new = repeats.is_none();
        let prepare = move |it: &Received<'_>| it.prepare(is_new);
        let Prepared { path, query, headers, key, guard, asking, answer } =
            self.examine(received, prepare).await?;
        let judged = match asking {
            // A repeat, of which nothing is asked.
            None if !is_new => {
                PlannedEvent { plan: JobPlan::Judged(Vec::new()), dedupe: None, note: None }
            }
            None => gated.planner.unconditional_plan(),
            Some(asking) => match asking.evaluation().await? {
                Evaluation::Answers(answers) => gated.planner.plan_from(answers),
                Evaluation::Deferred(key) => gated.planner.deferred_plan(key),
            },
        };
        let source = &gated.source;
        let with_window = |key| DedupeKey { key, window_ms: window_ms(source.dedupe_window) };
        let own = key.or(judged.dedupe).map(with_window);
        let mut delivery = repeats.or_else(|| delivery_key(source, proof));
        let (mut aim, mut owed) = (Aim::Store, judged.plan);
        if delivery.is_none() {
            delivery = self.guard(gated, guard.map(with_window), own.is_some()).await?;
            if delivery.is_some() && own.is_none() {
                (aim, owed) = (Aim::RecordRepeat, JobPlan::Judged(Vec::new()));
            }
        }
        if !is_new {
            aim = Aim::RecordRepeat;
        }
        let heal = source.on_duplicate == crate::config::OnDuplicate::RetryDead && is_new;
        let dedupe = Dedupe { own, delivery, retry_dead: heal, aim };
        let accept = NewEvent {
            reply_slot: 0,
            source: gated.id,
            uid: clock::random_id().map_err(|_| Rejection::Unavailable)?,
            received_at_ms: now_ms,
            method: received.asked.method.to_owned(),
            path,
            query,
            ip: self.ip.clone(),
            headers,
            body: Vec::new(),
            dedupe,
            note: judged.note,
            owed,
            queue_limit: gated.queue_limit.clone(),
            body_memory: None,
        };
        Ok((accept, answer))
    }

    /// The key of a signed body's bytes, where it counts: beside a key of `dedupe`, or where an event is
    /// stored under it. Without either, `dedupe` gave no key, and each such event is new.
    async fn guard(
        &self,
        gated: &SourceRuntime,
        guard: Option<DedupeKey>,
        has_key: bool,
    ) -> Result<Option<DedupeKey>, Rejection> {
        let Some(key) = guard.filter(|_| !has_key) else { return Ok(guard) };
        match self.lane.store(NewEvent::look_up(gated.id, key)).await {
            InsertReply::Duplicate(_) => Ok(guard),
            InsertReply::Unavailable => Err(Rejection::Unavailable),
            InsertReply::Stored(_)
            | InsertReply::Deferred(_)
            | InsertReply::NoRepeat
            | InsertReply::QueueFull => Ok(None),
        }
    }

    async fn store(
        &self,
        gated: &SourceRuntime,
        accept: NewEvent,
        preset: Option<SenderResponse>,
    ) -> Result<HttpResponse, Rejection> {
        let accepted = AcceptedResponse::new(gated, preset);
        // A queue that is full by now is not the writer's to refuse: it has others to write for.
        if let Some(limit) = &gated.queue_limit
            && accept.owed.jobs() > 0
            && limit.is_reached(0)
        {
            return Err(Rejection::QueueFull);
        }
        let (event, is_duplicate) = match self.lane.store(accept).await {
            InsertReply::Stored(event) | InsertReply::Deferred(event) => (event, false),
            InsertReply::Duplicate(event) => (event, true),
            InsertReply::QueueFull => return Err(Rejection::QueueFull),
            // What it repeated was forgotten meanwhile.
            InsertReply::Unavailable | InsertReply::NoRepeat => return Err(Rejection::Unavailable),
        };
        gated.streak.accepted();
        Ok(accepted.response(event.0, is_duplicate))
    }

    /// The whole body, within its limits and in time.
    async fn body(
        &mut self,
        payload: &mut Body,
        max: usize,
        claim: &mut Claim<'_>,
    ) -> Result<Vec<u8>, Rejection> {
        let mut body = Vec::new();
        if payload.is_large() {
            claim.set_large();
        }
        loop {
            let (bytes_before, mut until) = (self.bytes, self.deadline);
            if claim.is_large() {
                until = until.min(Instant::now() + STALLED_AFTER);
            }
            let read = self.read(payload, max, claim, &mut body);
            match timeout_at(until.into(), read).await {
                Ok(Ok(true)) => break,
                // It has become large.
                Ok(Ok(false)) => {}
                Ok(Err(refusal)) => return Err(refusal),
                Err(_) if Instant::now() >= self.deadline => return Err(Rejection::Timeout),
                Err(_) if claim.is_pressed() && self.bytes - bytes_before < STALLED_BYTES_MIN => {
                    return Err(Rejection::Timeout);
                }
                Err(_) => {}
            }
        }
        claim.leave();
        self.connection.end_body();
        Ok(body)
    }

    /// Reads to the end of the body, or until it has become large: whether it is complete.
    async fn read(
        &mut self,
        payload: &mut Body,
        max: usize,
        claim: &mut Claim<'_>,
        body: &mut Vec<u8>,
    ) -> Result<bool, Rejection> {
        let was_large = claim.is_large();
        while let Some(chunk) = payload.next(|| claim.share()).await {
            let chunk = chunk.map_err(Rejection::from)?;
            self.bytes += chunk.len();
            if self.bytes > max {
                return Err(Rejection::TooLarge { max });
            }
            claim.grow(chunk.len()).map_err(|Full| Rejection::Unavailable)?;
            body.extend_from_slice(&chunk);
            if claim.is_large() != was_large {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Reads on so that the answer arrives.
    async fn drain(&mut self, payload: &mut Body, refusal: &Rejection) {
        if matches!(refusal, Rejection::Timeout | Rejection::Disconnected) {
            return;
        }
        let read = async {
            let mut drained = 0;
            while let Some(Ok(chunk)) = payload.next(|| Ok(())).await {
                drained += chunk.len();
                self.bytes += chunk.len();
                if drained > DRAINED_BYTES_MAX {
                    return;
                }
            }
        };
        let _ = timeout_at(self.deadline.into(), read).await;
    }
}

/// The sender's own key of the delivery, where it counts.
fn delivery_key(source: &Source, proof: &Proof) -> Option<DedupeKey> {
    let key = proof.delivery_key.filter(|_| source.uses_preset_key)?;
    Some(DedupeKey { key, window_ms: window_ms(source.preset_key_window()) })
}

/// A window that no clock gets to the end of where it is longer than it can count.
fn window_ms(window: Duration) -> i64 {
    i64::try_from(window.as_millis()).unwrap_or(i64::MAX / 4).min(i64::MAX / 4)
}

/// The other end of the connection.
fn peer(request: &HttpRequest) -> Peer {
    request.peer_addr().map_or(Peer::Unix, |peer| Peer::Tcp(peer.ip()))
}

/// What the head says of the body.
fn check_headers(request: &HttpRequest, max: usize) -> Result<(), Rejection> {
    let length = request.headers().get(header::CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.trim().parse::<usize>().ok());
    if length.is_some_and(|length| length > max) {
        return Err(Rejection::TooLarge { max });
    }
    let identity = |value: &HeaderValue| {
        value.to_str().is_ok_and(|coding| coding.trim().eq_ignore_ascii_case("identity"))
    };
    if !request.headers().get_all(header::CONTENT_ENCODING).all(identity) {
        return Err(Rejection::Encoding);
    }
    Ok(())
}
