//! A request from its head to its answer, in the order of the contract's section 4: path, method,
//! address, size and encoding, signature, type, form, rate. 2xx leaves after the commit.

use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use actix_web::http::header::{self, HeaderValue};
use actix_web::{HttpRequest, HttpResponse, dev, web};
use futures_core::Stream;
use tokio::time::timeout_at;

use super::address::{self, Peer};
use super::answer::Accepted;
use super::form::{self, Wrong};
use super::greet::{self, Way};
use super::health::{health, plain};
use super::lane::Lane;
use super::refuse::Refusal;
use super::verify::Asked;
use super::{Gate, Gated, Settings, kept, ledger, rate};
use crate::expression::{Answers, Questions, Scene};
use crate::store::events::{Accept, DedupeKey, Reply};
use crate::{clock, inbox};

/// Headers, with their names, beyond which a request is refused.
const HEADERS_BYTES_MAX: usize = 32 << 10;

/// So much of a refused body is read and thrown away, so that the answer arrives.
const DRAINED_BYTES_MAX: usize = 8 << 20;

/// A number that goes down again when this is dropped.
struct Held<'a> {
    of: &'a AtomicUsize,
    count: usize,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.of.fetch_sub(self.count, Ordering::SeqCst);
    }
}

/// Header lines as they came: lower-case name, value.
type Lines<'a> = Vec<(&'a str, &'a [u8])>;

/// The intake listener.
pub async fn take(request: HttpRequest, payload: web::Payload) -> HttpResponse {
    let parts = (request.app_data::<Arc<Gate>>(), request.app_data::<Rc<Lane>>());
    let (Some(gate), Some(lane)) = parts else { return plain(500) };
    gate.in_flight.fetch_add(1, Ordering::SeqCst);
    let _flight = Held { of: &gate.in_flight, count: 1 };
    if let Some(response) = health(gate, &request) {
        return response;
    }
    let settings = gate.settings.load_full();
    let mut taking = Taking {
        gate,
        lane,
        settings: &settings,
        deadline: Instant::now() + settings.server.request_timeout,
        client: None,
        ip: String::new(),
        bytes: 0,
        held: Held { of: &gate.bodies, count: 0 },
    };
    let mut payload = payload.into_inner();
    let mut response = taking.run(&request, &mut payload).await;
    if gate.closing.load(Ordering::Relaxed) {
        response.head_mut().set_connection_type(actix_web::http::ConnectionType::Close);
    }
    response
}

/// A request that is being taken.
pub(super) struct Taking<'a> {
    pub gate: &'a Gate,
    lane: &'a Rc<Lane>,
    settings: &'a Settings,
    deadline: Instant,
    /// `None`: unknown.
    client: Option<IpAddr>,
    /// The same as text; empty where it is unknown.
    pub ip: String,
    /// Of the body, as far as it came.
    bytes: usize,
    held: Held<'a>,
}

impl Taking<'_> {
    async fn run(&mut self, request: &HttpRequest, payload: &mut dev::Payload) -> HttpResponse {
        let lines: Lines = request
            .headers()
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_bytes()))
            .collect();
        if lines.iter().map(|(name, value)| name.len() + value.len() + 4).sum::<usize>()
            > HEADERS_BYTES_MAX
        {
            return plain(431);
        }
        let path = request.uri().path();
        let found = self.settings.routes.find(path);
        let gated = found.as_ref().map(|found| &self.settings.sources[found.source]);
        self.client = self.client(request, &lines);
        self.ip = self.client.map(|ip| ip.to_string()).unwrap_or_default();
        let secret_segment = found.as_ref().and_then(|found| found.secret_segment.as_deref());
        let refusal = match gated {
            None => Refusal::Path,
            Some(gated) => {
                match self.check(gated, secret_segment, request, &lines, payload).await {
                    Ok(response) => return response,
                    Err(refusal) => refusal,
                }
            }
        };
        if let Some(gated) = gated {
            gated.streak.refused(&refusal);
        }
        let drained = self.drain(payload, &refusal).await;
        if refusal.recorded() {
            self.gate.ledger.note(
                &ledger::Request {
                    source: gated.map(|gated| gated.source.name.as_str()),
                    method: request.method().as_str(),
                    path: &kept::path(gated.map(|gated| &gated.verifier), path),
                    ip: &self.ip,
                    bytes: self.bytes,
                },
                &refusal,
                clock::wall_ms(),
            );
        }
        let mut response = refusal.response();
        if !drained || matches!(refusal, Refusal::Late) {
            response.head_mut().set_connection_type(actix_web::http::ConnectionType::Close);
        }
        response
    }

    fn client(&self, request: &HttpRequest, lines: &Lines<'_>) -> Option<IpAddr> {
        let server = &self.settings.server;
        address::client(peer(request), lines, &server.trusted_proxies, server.proxy_header)
    }

    async fn check(
        &mut self,
        gated: &Gated,
        secret_segment: Option<&str>,
        request: &HttpRequest,
        lines: &Lines<'_>,
        payload: &mut dev::Payload,
    ) -> Result<HttpResponse, Refusal> {
        let source = &gated.source;
        let method = request.method().as_str();
        let allowed = source.methods.iter().any(|allowed| allowed == method);
        let way = Way::of(gated, method);
        let not_allowed = || Refusal::Method { allow: source.methods.join(", ") };
        if !allowed && way.is_none() {
            return Err(not_allowed());
        }
        if !address::allowed(&source.allow_from, self.client) {
            return Err(Refusal::Address);
        }
        if self.gate.obstacle().is_some() {
            return Err(Refusal::Unavailable);
        }
        check_size(request, source.body_bytes_max)?;
        let body = self.body(payload, source.body_bytes_max).await?;
        let (uri, server) = (request.uri(), &self.settings.server);
        let asked = Asked {
            method,
            path: uri.path(),
            query: uri.query(),
            headers: lines,
            body: &body,
            secret_segment,
            proxied: address::proxied(peer(request), &server.trusted_proxies)
                .then_some(server.proxy_header),
        };
        let now_ms = clock::wall_ms();
        if !way.is_signed() {
            if let Some(response) = self.greet(gated, way, &asked, now_ms).await? {
                return Ok(response);
            }
            if !allowed {
                return Err(not_allowed());
            }
        }
        let checked = gated.verifier.check(&asked, now_ms);
        checked.map_err(|reason| greet::wrong(&gated.verifier, reason))?;
        if way.is_signed() {
            if let Some(response) = self.greet(gated, way, &asked, now_ms).await? {
                return Ok(response);
            }
            if !allowed {
                return Err(not_allowed());
            }
        }
        let content_type = request.headers().get(header::CONTENT_TYPE);
        let content_type = content_type.and_then(|value| value.to_str().ok());
        form::check_accept(source.accept, content_type, &body).map_err(|wrong| match wrong {
            Wrong::Type => Refusal::Type,
            Wrong::Form(reason) => Refusal::Form { reason },
        })?;
        let admission = rate::check(gated.rate.as_ref())?;
        let stored = match self.accept(gated, &asked, content_type, now_ms).await {
            Ok(accept) => self.store(gated, Accept { body, ..accept }).await,
            Err(refusal) => Err(refusal),
        };
        if let (Err(_), Some(admission)) = (&stored, admission) {
            admission.give_back();
        }
        stored
    }

    /// The rows of an accepted request, but for its body.
    async fn accept(
        &self,
        gated: &Gated,
        asked: &Asked<'_>,
        content_type: Option<&str>,
        now_ms: i64,
    ) -> Result<Accept, Refusal> {
        let source = &gated.source;
        let path = kept::path(Some(&gated.verifier), asked.path);
        let query = asked.query.map(|query| kept::query(&gated.verifier, query));
        let lines = kept::lines(&gated.verifier, asked.headers);
        let judged = match gated.judge.questions() {
            None => gated.judge.plain(),
            Some(questions) => {
                let scene = Scene {
                    body: asked.body,
                    content_type,
                    source: &source.name,
                    headers: &lines,
                    query: query.as_deref(),
                    path: &path,
                    params: &inbox::params(&source.path, &path),
                    ip: &self.ip,
                    received_at_ms: now_ms,
                    event: None,
                };
                gated.judge.judged(self.ask(gated, questions, &scene).await?)
            }
        };
        let key = inbox::dedupe_key(source, asked.headers, content_type, asked.body);
        let key = key.or(judged.dedupe);
        let window_ms = i64::try_from(source.dedupe_window.as_millis()).unwrap_or(i64::MAX / 4);
        let heal = source.on_duplicate == crate::config::OnDuplicate::Heal;
        Ok(Accept {
            slot: 0,
            source: gated.id,
            uid: clock::random_name().map_err(|_| Refusal::Unavailable)?,
            received_at_ms: now_ms,
            method: asked.method.to_owned(),
            path,
            query,
            ip: self.ip.clone(),
            headers: kept::headers(&lines),
            body: Vec::new(),
            dedupe: key.map(|key| DedupeKey { key, window_ms, heal }),
            note: judged.note,
            owed: judged.owed,
            queue_limit: gated.queue_limit.clone(),
        })
    }

    /// What the expressions give: in place, or by a process, which this thread does not wait for.
    pub(super) async fn ask(
        &self,
        gated: &Gated,
        questions: &Questions,
        scene: &Scene<'_>,
    ) -> Result<Answers, Refusal> {
        if let Some(answers) = questions.at_once(scene) {
            return Ok(answers);
        }
        let (tell, told) = tokio::sync::oneshot::channel();
        let party = u64::try_from(gated.id.0).unwrap_or(0);
        let answer = Box::new(move |answers| drop(tell.send(answers)));
        self.gate.expressions.ask(party, questions, scene, answer);
        // Who asked too much at once is told so; a process that ended answers all the same.
        told.await.ok().and_then(Result::ok).ok_or(Refusal::Unavailable)
    }

    async fn store(&self, gated: &Gated, accept: Accept) -> Result<HttpResponse, Refusal> {
        let accepted = Accepted::new(gated, &accept.body);
        // A queue that is full by now is not the writer's to refuse: it has others to write for.
        if let Some(limit) = &gated.queue_limit
            && accept.owed.jobs() > 0
            && limit.is_reached(0)
        {
            return Err(Refusal::QueuedMax);
        }
        let (event, is_duplicate) = match self.lane.store(accept).await {
            Reply::Stored(event) => (event, false),
            Reply::Duplicate(event) => (event, true),
            Reply::QueueFull => return Err(Refusal::QueuedMax),
            Reply::Unavailable => return Err(Refusal::Unavailable),
        };
        gated.streak.accepted();
        Ok(accepted.response(event.0, is_duplicate))
    }

    /// The whole body, within its limits and in time.
    async fn body(&mut self, payload: &mut dev::Payload, max: usize) -> Result<Vec<u8>, Refusal> {
        let deadline = self.deadline.into();
        let all_max = self.settings.server.bodies_bytes_max;
        let read = async {
            let mut body = Vec::new();
            while let Some(chunk) = next(payload).await {
                let chunk = chunk.map_err(|_| Refusal::Gone)?;
                self.bytes += chunk.len();
                if self.bytes > max {
                    return Err(Refusal::TooLarge { max });
                }
                self.held.count += chunk.len();
                let held = self.gate.bodies.fetch_add(chunk.len(), Ordering::SeqCst);
                if held + chunk.len() > all_max {
                    return Err(Refusal::Unavailable);
                }
                body.extend_from_slice(&chunk);
            }
            Ok(body)
        };
        timeout_at(deadline, read).await.unwrap_or(Err(Refusal::Late))
    }

    /// Reads on so that the answer arrives; whether it got to the end.
    async fn drain(&mut self, payload: &mut dev::Payload, refusal: &Refusal) -> bool {
        if matches!(refusal, Refusal::Late | Refusal::Gone) {
            return false;
        }
        let deadline = self.deadline.into();
        let read = async {
            let mut drained = 0;
            while let Some(Ok(chunk)) = next(payload).await {
                drained += chunk.len();
                self.bytes += chunk.len();
                if drained > DRAINED_BYTES_MAX {
                    return false;
                }
            }
            true
        };
        timeout_at(deadline, read).await.unwrap_or(false)
    }
}

async fn next(
    payload: &mut dev::Payload,
) -> Option<Result<web::Bytes, actix_web::error::PayloadError>> {
    poll_fn(|context| Pin::new(&mut *payload).poll_next(context)).await
}

/// The other end of the connection.
fn peer(request: &HttpRequest) -> Peer {
    request.peer_addr().map_or(Peer::Unix, |peer| Peer::Tcp(peer.ip()))
}

/// What the head says of the body.
fn check_size(request: &HttpRequest, max: usize) -> Result<(), Refusal> {
    let length = request.headers().get(header::CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.trim().parse::<usize>().ok());
    if length.is_some_and(|length| length > max) {
        return Err(Refusal::TooLarge { max });
    }
    let identity = |value: &HeaderValue| {
        value.to_str().is_ok_and(|coding| coding.trim().eq_ignore_ascii_case("identity"))
    };
    if !request.headers().get_all(header::CONTENT_ENCODING).all(identity) {
        return Err(Refusal::Encoding);
    }
    Ok(())
}
