//! Handshakes: a sender's question whether we are there, known by its scheme (`verify/handshake.rs`)
//! or by the source's own `handshake`. It is answered whatever `methods` says, counts for
//! `accept_rate`, is recorded, and is no event.

use actix_web::HttpResponse;

use super::intake::Taking;
use super::received::Received;
use super::refuse::Refusal;
use super::verify::{Answer, CHALLENGE_BYTES_MAX, Handshake, Preset, Verifier};
use super::{Gated, answer, rate};
use crate::config::{self, Source};
use crate::expression::Questions;
use crate::store::handshakes::Shaken;

/// A source's own: which requests it is asked of, and by what expression.
pub struct Own {
    methods: Vec<String>,
    signed: bool,
    /// Its first output as text is asked for in the way a `dedupe` is.
    questions: Questions,
}

impl Own {
    pub fn new(source: &Source) -> Option<Self> {
        let config::Handshake::Own(own) = &source.handshake else { return None };
        Some(Self {
            methods: own.methods.clone(),
            signed: own.signed,
            questions: Questions::new(Some(own.respond.clone()), Vec::new()),
        })
    }
}

/// How a request of this method may turn out to be a handshake.
#[derive(Clone, Copy)]
pub(super) enum Way<'g> {
    None,
    Preset(&'g Preset),
    Own(&'g Own),
}

impl<'g> Way<'g> {
    pub fn of(gated: &'g Gated, method: &str) -> Self {
        match (&gated.greeting, gated.verifier.handshake()) {
            (Some(own), _) if own.methods.iter().any(|own| own == method) => Self::Own(own),
            (None, Some(preset)) if preset.comes_by(method) => Self::Preset(preset),
            _ => Self::None,
        }
    }

    pub fn is_none(self) -> bool {
        matches!(self, Self::None)
    }

    /// Whether the signature has to hold before it is asked.
    pub fn is_signed(self) -> bool {
        match self {
            Self::None => false,
            Self::Preset(preset) => preset.is_signed(),
            Self::Own(own) => own.signed,
        }
    }
}

/// Whose signature is missing or wrong.
pub(super) fn wrong(verifier: &Verifier, reason: String) -> Refusal {
    Refusal::Signature { reason, challenge: verifier.challenge() }
}

impl Taking<'_> {
    /// Answers a request that is a handshake.
    pub(super) async fn greet(
        &self,
        way: Way<'_>,
        received: &Received<'_>,
    ) -> Result<Option<HttpResponse>, Refusal> {
        let Received { gated, asked, now_ms, .. } = *received;
        let found = match way {
            Way::None => None,
            // Looks at short bodies alone.
            Way::Preset(preset) => preset.ask(&asked),
            Way::Own(_) => self.ask_own(received).await?.map(Ok),
        };
        let Some(found) = found else { return Ok(None) };
        let handshake = found.map_err(|reason| wrong(&gated.verifier, reason))?;
        rate::check(gated.rate.as_ref())?;
        let (source, redactor) = (&gated.source.name, &gated.redactor);
        if let Some(wanted) = &handshake.wanted {
            log::warn!("source {source}: {wanted}");
        }
        self.gate.handshakes.note(Shaken {
            at_ms: now_ms,
            source: source.clone(),
            method: redactor.redact(asked.method).into_owned(),
            ip: self.ip.clone(),
            detail: redactor.redact(&handshake.detail).into_owned(),
        });
        Ok(Some(answer::told(&handshake.answer)))
    }

    /// Text is the answer; null is none. What fails is as if it were null.
    async fn ask_own(&self, received: &Received<'_>) -> Result<Option<Handshake>, Refusal> {
        let ask = |received: &Received<'_>| {
            let own = received.gated.greeting.as_ref()?;
            Some(received.ask_handshake(&own.questions))
        };
        let Some(asking) = self.examine(received, ask).await? else { return Ok(None) };
        let (source, now_ms) = (&received.gated.source, received.now_ms);
        // What jaq says of a failure quotes the request: the log gets none of it.
        let reason = match asking.answers().await?.dedupe {
            Ok(None) => return Ok(None),
            Ok(Some(text)) if text.len() <= CHALLENGE_BYTES_MAX => {
                let (detail, answer) = ("handshake.respond".to_owned(), Answer::text(text));
                return Ok(Some(Handshake { detail, answer, wanted: None }));
            }
            Ok(Some(_)) => "gives more than 1024 bytes",
            Err(_) => "fails: `hooktrail eval` shows how",
        };
        if self.gate.handshakes.may_warn(now_ms) {
            log::warn!("source {}: handshake.respond {reason}; taken as null", source.name);
        }
        Ok(None)
    }
}
