//! Handshakes: a sender's question whether we are there, known by its scheme (`verify/handshake.rs`)
//! or by the source's own `handshake`. It is answered whatever `methods` says, counts for
//! `rate_limit`, is recorded, and is no event.

use actix_web::HttpResponse;
use serde_json::value::RawValue;

use super::intake::IntakeRequest;
use super::received_request::Received;
use super::rejection::Rejection;
use super::{SourceRuntime, rate_limiter, response};
use crate::config::{self, Source};
use crate::expression::ExpressionSet;
use crate::store::handshakes::HandshakeRecord;
use crate::verify::{CHALLENGE_BYTES_MAX, Handshake, PresetHandshake, SenderResponse, Verifier};

/// A source's own: which requests it is asked of, and by what expression.
pub struct CustomHandshake {
    methods: Vec<String>,
    signed: bool,
    /// Its outputs in a list are asked for in the way a `dedupe` is, which alone would take empty text
    /// for none.
    questions: ExpressionSet,
}

impl CustomHandshake {
    pub fn new(source: &Source) -> Option<Self> {
        let config::HandshakeConfig::Custom(own) = &source.handshake else { return None };
        Some(Self {
            methods: own.methods.clone(),
            signed: own.is_signed,
            questions: ExpressionSet::new(Some(own.respond.first_in_list()), Vec::new()),
        })
    }

    fn comes_by(&self, method: &str) -> bool {
        self.methods.iter().any(|own| own == method)
    }
}

/// How a request of this method may turn out to be a handshake.
#[derive(Clone, Copy)]
pub(super) struct Ways<'g> {
    own: Option<&'g CustomHandshake>,
    preset: Option<&'g PresetHandshake>,
    /// One of them is asked where the signature holds.
    pub has_signed: bool,
}

impl<'g> Ways<'g> {
    pub fn of(gated: &'g SourceRuntime, method: &str) -> Self {
        let own = gated.custom_handshake.as_ref().filter(|own| own.comes_by(method));
        let preset = gated.verifier.handshake().filter(|preset| preset.accepts_method(method));
        let has_signed = own.is_some_and(|own| own.signed)
            || preset.is_some_and(|preset| preset.is_signed_by(method));
        Self { own, preset, has_signed }
    }

    pub fn is_none(self) -> bool {
        self.own.is_none() && self.preset.is_none()
    }
}

/// Whose signature is missing or wrong.
pub(super) fn unauthorized(verifier: &Verifier, reason: String) -> Rejection {
    Rejection::Signature { reason, challenge: verifier.challenge() }
}

impl IntakeRequest<'_> {
    /// Answers a request that is a handshake. `is_signed`: its signature holds.
    pub(super) async fn try_handshake(
        &self,
        ways: Ways<'_>,
        is_signed: bool,
        received: &Received<'_>,
    ) -> Result<Option<HttpResponse>, Rejection> {
        let Received { gated, asked, now_ms, .. } = *received;
        let mut found = None;
        if ways.own.is_some_and(|own| own.signed == is_signed) {
            found = self.evaluate_custom(received).await?.map(Ok);
        }
        if found.is_none() {
            // Looks at short bodies alone.
            found = ways.preset.and_then(|preset| preset.detect(&asked, is_signed));
        }
        let Some(found) = found else { return Ok(None) };
        let handshake = found.map_err(|reason| unauthorized(&gated.verifier, reason))?;
        rate_limiter::check(gated.rate.as_ref())?;
        let (source, redactor) = (&gated.source.name, &gated.redactor);
        if let Some(wanted) = &handshake.operator_action {
            log::warn!("source {source}: {wanted}");
        }
        self.gate.handshakes.record(HandshakeRecord {
            at_ms: now_ms,
            source: source.clone(),
            method: redactor.redact(asked.method).into_owned(),
            ip: self.ip.clone(),
            detail: redactor.redact(&handshake.detail).into_owned(),
        });
        Ok(Some(response::to_http_response(&handshake.answer)))
    }

    /// Text is the answer; null is none. What fails is as if it were null.
    async fn evaluate_custom(
        &self,
        received: &Received<'_>,
    ) -> Result<Option<Handshake>, Rejection> {
        let ask = |received: &Received<'_>| {
            let own = received.gated.custom_handshake.as_ref()?;
            Some(received.ask_handshake(&own.questions))
        };
        let Some(asking) = self.examine(received, ask).await? else { return Ok(None) };
        let (source, now_ms) = (&received.gated.source, received.now_ms);
        // What jaq says of a failure quotes the request: the log gets none of it.
        let reason = match asking.answers().await?.dedupe.map(|list| first(list.as_deref())) {
            Ok(Ok(None)) => return Ok(None),
            Ok(Ok(Some(text))) if text.len() <= CHALLENGE_BYTES_MAX => {
                let (detail, answer) = ("handshake.respond".to_owned(), SenderResponse::text(text));
                return Ok(Some(Handshake { detail, answer, operator_action: None }));
            }
            Ok(_) => "gives more than 1024 bytes",
            Err(_) => "fails: `hooktrail eval` shows how",
        };
        if self.gate.handshakes.may_warn(now_ms) {
            log::warn!("source {}: handshake.respond {reason}; taken as null", source.name);
        }
        Ok(None)
    }
}

/// What was cut because it is long.
struct TooLong;

/// The first of a list, as text; null and false are none.
fn first(list: Option<&str>) -> Result<Option<String>, TooLong> {
    let list: Vec<&RawValue> = serde_json::from_str(list.unwrap_or("[]")).map_err(|_| TooLong)?;
    Ok(match list.first().map(|first| first.get()) {
        None | Some("null" | "false") => None,
        Some(text) => serde_json::from_str(text).ok().or_else(|| Some(text.to_owned())),
    })
}
