//! `discord` (docs.discord.com, "Interactions: security and authorization"): Ed25519 over
//! `{timestamp}{body}`. Discord sends invalid signatures on purpose and disables endpoints that
//! accept them.
//!
//! The check uses `verify_strict` of ed25519-dalek. `ring` also rejects a signature that can be
//! changed into another valid one. But only `verify_strict` rejects points of small order, for
//! which one signature may match many texts.

use ed25519_dalek::{Signature, VerifyingKey};
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::parse::{self, MAX_SIGNATURES, MISMATCH, TimestampTolerance};
use super::{
    DeliveryKeyLocation, Proof, SenderResponse, SignedRequest, VerificationScheme, json_body,
};
use crate::config::key_material;
use crate::config::{Encoding, TimestampUnit, Verify};

const TIMESTAMP: &str = "x-signature-timestamp";

pub(super) struct Discord {
    keys: Vec<VerifyingKey>,
    header: String,
    tolerance: TimestampTolerance,
}

/// The members that distinguish pings, interactions and events.
#[derive(Deserialize)]
pub(super) struct DiscordBody {
    #[serde(rename = "type")]
    pub kind: u32,
    /// Present in a webhook event, absent in an interaction.
    pub event: Option<IgnoredAny>,
}

impl Discord {
    pub fn new(verify: &Verify, secrets: &[&[u8]]) -> Self {
        Self {
            keys: secrets
                .iter()
                .filter_map(|secret| key_material::parse_ed25519_hex(secret).ok())
                .collect(),
            header: verify.header.clone().unwrap_or_default(),
            tolerance: TimestampTolerance::from_verify(verify),
        }
    }
}

/// Returns whether the owner of the key signed the text.
pub(super) fn verify_ed25519(key: &VerifyingKey, text: &[u8], signature: &[u8]) -> bool {
    Signature::from_slice(signature)
        .is_ok_and(|signature| key.verify_strict(text, &signature).is_ok())
}

/// A 204 with a content type, which Discord expects although there is no body.
pub(super) fn no_content() -> SenderResponse {
    SenderResponse { content_type: Some("application/json"), ..SenderResponse::empty(204) }
}

impl VerificationScheme for Discord {
    fn check(&self, request: &SignedRequest<'_>, now_ms: i64) -> Result<Proof, String> {
        let signatures = parse::header_signatures(request, &self.header, Encoding::Hex)?;
        let timestamp = request.required_header(TIMESTAMP)?;
        let text = [timestamp, request.body].concat();
        let mut pairs = parse::pair_signatures(&signatures, &self.keys, &text);
        if !pairs.any(|(signature, key)| verify_ed25519(key, &text, signature)) {
            return Err(MISMATCH.to_owned());
        }
        let stale_reason =
            self.tolerance.check_timestamp_text(timestamp, TimestampUnit::Seconds, now_ms)?;
        // A webhook event has no number. Its time is part of the signed body.
        Proof::from_body(DeliveryKeyLocation::Field("id"), request.body, stale_reason)
    }

    fn check_cost(&self, request: &SignedRequest<'_>) -> usize {
        let signatures = parse::header_elements(request, &self.header).take(MAX_SIGNATURES).count();
        parse::public_key_cost(signatures, self.keys.len(), request.body.len())
    }

    fn sign(&self, _: &mut super::OutgoingRequest, _: i64) -> Result<(), String> {
        Err(super::PUBLIC_KEY_ONLY.to_owned())
    }

    /// A webhook event expects 204. An interaction expects a promise of a later reply,
    /// `{"type":5}`.
    fn success_response(&self, body: &[u8]) -> SenderResponse {
        match json_body::parse(body) {
            Ok(DiscordBody { kind: 2.., event: None }) => SenderResponse::json(r#"{"type":5}"#),
            _ => no_content(),
        }
    }
}
