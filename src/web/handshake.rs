//! Responds to handshakes: a sender's request that checks whether the endpoint exists. A preset
//! (`verify/handshake.rs`) or the source's own `handshake` recognizes it. A handshake is answered
//! regardless of `methods`, counts for `rate_limit`, is recorded, and creates no event.

use actix_web::HttpResponse;
use serde_json::value::RawValue;

use super::received_request::ReceivedRequest;
use super::rejection::Rejection;
use super::{IntakeState, SourceRuntime, rate_limiter, response};
use crate::config::{self, Source};
use crate::expression::ExpressionSet;
use crate::store::handshakes::HandshakeRecord;
use crate::verify::{HandshakeReply, MAX_CHALLENGE_BYTES, PresetHandshakes, SenderResponse};

/// The source's own `handshake`: its methods and its expression.
pub struct CustomHandshake {
    methods: Vec<String>,
    requires_signature: bool,
    /// The expression, evaluated in the place of a `dedupe`. Its outputs are wrapped in a list,
    /// because `dedupe` alone would take empty text for no key.
    expressions: ExpressionSet,
}

impl CustomHandshake {
    pub fn new(source: &Source) -> Option<Self> {
        let config::HandshakeConfig::Custom(own) = &source.handshake else { return None };
        Some(Self {
            methods: own.methods.clone(),
            requires_signature: own.requires_signature,
            expressions: ExpressionSet::new(Some(own.respond.first_in_list()), Vec::new()),
        })
    }

    fn accepts_method(&self, method: &str) -> bool {
        self.methods.iter().any(|allowed| allowed == method)
    }
}

/// The handshakes that a request with this method may be.
#[derive(Clone, Copy)]
pub(super) struct PossibleHandshakes<'g> {
    custom: Option<&'g CustomHandshake>,
    preset: Option<&'g PresetHandshakes>,
    /// At least one of them requires a valid signature.
    pub has_signed: bool,
}

impl<'g> PossibleHandshakes<'g> {
    /// Selects the handshakes of a source that may use this method.
    pub fn for_method(runtime: &'g SourceRuntime, method: &str) -> Self {
        let custom =
            runtime.custom_handshake.as_ref().filter(|custom| custom.accepts_method(method));
        let preset = runtime.verifier.handshakes().filter(|preset| preset.accepts_method(method));
        let has_signed = custom.is_some_and(|custom| custom.requires_signature)
            || preset.is_some_and(|preset| preset.has_signed_handshake(method));
        Self { custom, preset, has_signed }
    }

    /// Whether no request with this method is a handshake.
    pub fn is_none(self) -> bool {
        self.custom.is_none() && self.preset.is_none()
    }

    /// Responds to the request if it is a handshake. `is_signature_verified` selects the handshakes
    /// that require a valid signature, otherwise the others are tried.
    pub async fn respond(
        self,
        state: &IntakeState,
        received: &ReceivedRequest<'_>,
        is_signature_verified: bool,
    ) -> Result<Option<HttpResponse>, Rejection> {
        let ReceivedRequest { runtime, request, now_ms, .. } = *received;
        let mut handshake = None;
        if self.custom.is_some_and(|custom| custom.requires_signature == is_signature_verified) {
            handshake = evaluate_custom(state, received).await?.map(Ok);
        }
        if handshake.is_none() {
            // This parses only short bodies.
            handshake =
                self.preset.and_then(|preset| preset.detect(&request, is_signature_verified));
        }
        let Some(handshake) = handshake else { return Ok(None) };
        let handshake =
            handshake.map_err(|reason| Rejection::signature(&runtime.verifier, reason))?;
        rate_limiter::admit_request(runtime.rate_limiter.as_ref())?;
        let (source, redactor) = (&runtime.source.name, &runtime.redactor);
        if let Some(action) = &handshake.operator_action {
            log::warn!("source {source}: {action}");
        }
        state.handshake_log.record(HandshakeRecord {
            at_ms: now_ms,
            source: source.clone(),
            method: redactor.redact(request.method).into_owned(),
            ip: received.ip.to_owned(),
            detail: redactor.redact(&handshake.detail).into_owned(),
        });
        Ok(Some(response::to_http_response(&handshake.response)))
    }
}

/// Evaluates the source's own handshake. Text is the response, and null means no handshake. A
/// failed evaluation counts as null.
async fn evaluate_custom(
    state: &IntakeState,
    received: &ReceivedRequest<'_>,
) -> Result<Option<HandshakeReply>, Rejection> {
    let evaluate = |received: &ReceivedRequest<'_>| {
        let custom = received.runtime.custom_handshake.as_ref()?;
        Some(received.evaluate_handshake(&custom.expressions))
    };
    let Some(pending) = received.run_check(&state.check_pool, evaluate).await? else {
        return Ok(None);
    };
    let (source, now_ms) = (&received.runtime.source, received.now_ms);
    // An error of jaq may quote the request, so the log does not contain it.
    let reason = match pending.wait().await?.dedupe.map(|list| first_text(list.as_deref())) {
        Ok(Ok(None)) => return Ok(None),
        Ok(Ok(Some(text))) if text.len() <= MAX_CHALLENGE_BYTES => {
            let (detail, response) = ("handshake.respond".to_owned(), SenderResponse::text(text));
            return Ok(Some(HandshakeReply { detail, response, operator_action: None }));
        }
        Ok(_) => "output is over 1024 bytes",
        Err(_) => "fails: try it with `hooktrail eval`",
    };
    if state.handshake_log.should_warn(now_ms) {
        log::warn!("source {}: handshake.respond {reason}; it counts as null", source.name);
    }
    Ok(None)
}

/// The output exceeds the limit and was cut.
struct TooLong;

/// Returns the first element of a list as text. Null and false give `None`.
fn first_text(list: Option<&str>) -> Result<Option<String>, TooLong> {
    let list: Vec<&RawValue> = serde_json::from_str(list.unwrap_or("[]")).map_err(|_| TooLong)?;
    Ok(match list.first().map(|first| first.get()) {
        None | Some("null" | "false") => None,
        Some(text) => serde_json::from_str(text).ok().or_else(|| Some(text.to_owned())),
    })
}
