//! `discord` (docs.discord.com, "Interactions: security and authorization"): Ed25519 over
//! `{timestamp}{body}`. It sends wrong signatures on purpose, and turns off who lets them pass.
//!
//! `verify_strict` of ed25519-dalek, and not `ring`: both refuse a signature that can be changed into
//! another, but only the former refuses points of small order, with which one signature may fit
//! many texts.

use ed25519_dalek::{Signature, VerifyingKey};
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::parse::{self, MISMATCH, SIGNATURES_MAX, Tolerance};
use super::{KeyPlace, Proof, Scheme, SenderResponse, SignedRequest, json_body};
use crate::config::key_material;
use crate::config::{Encoding, TimestampUnit, Verify};

const TIMESTAMP: &str = "x-signature-timestamp";

pub(super) struct Discord {
    keys: Vec<VerifyingKey>,
    header: String,
    tolerance: Tolerance,
}

/// What tells its requests apart.
#[derive(Deserialize)]
pub(super) struct Body {
    #[serde(rename = "type")]
    pub kind: u32,
    /// A webhook event; interactions have none.
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
            tolerance: Tolerance::of(verify),
        }
    }
}

/// Whether the key's owner signed the text.
pub(super) fn verify_ed25519(key: &VerifyingKey, text: &[u8], signature: &[u8]) -> bool {
    Signature::from_slice(signature).is_ok_and(|it| key.verify_strict(text, &it).is_ok())
}

/// It wants to hear of a type even where there is nothing.
pub(super) fn no_content() -> SenderResponse {
    SenderResponse { content_type: Some("application/json"), ..SenderResponse::empty(204) }
}

impl Scheme for Discord {
    fn check(&self, asked: &SignedRequest<'_>, now_ms: i64) -> Result<Proof, String> {
        let signatures = parse::bare_signatures(asked, &self.header, Encoding::Hex)?;
        let timestamp = asked.required_header(TIMESTAMP)?;
        let text = [timestamp, asked.body].concat();
        let mut pairs = parse::pairs(&signatures, &self.keys, &text);
        if !pairs.any(|(signature, key)| verify_ed25519(key, &text, signature)) {
            return Err(MISMATCH.to_owned());
        }
        let stale = self.tolerance.stale(timestamp, TimestampUnit::Seconds, now_ms)?;
        // A webhook event has no number of its own, and its time within what is signed.
        Proof::of_body(KeyPlace::Field("id"), asked.body, stale)
    }

    fn work(&self, asked: &SignedRequest<'_>) -> usize {
        let signatures = parse::elements(asked, &self.header).take(SIGNATURES_MAX).count();
        parse::public_key_work(signatures, self.keys.len(), asked.body.len())
    }

    fn sign(&self, _: &mut super::OutgoingRequest, _: i64) -> Result<(), String> {
        Err(super::ONLY_PUBLIC.to_owned())
    }

    /// A webhook event wants 204, an interaction to hear that an answer will follow.
    fn success_response(&self, body: &[u8]) -> SenderResponse {
        match json_body::parse(body) {
            Ok(Body { kind: 2.., event: None }) => SenderResponse::json(r#"{"type":5}"#),
            _ => no_content(),
        }
    }
}
