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

use super::{
    DeliveryKeyLocation, Encoding, FIVE_MINUTES, HandshakeResult, HandshakeSpec, MISMATCH, Preset,
    PresetHandshakes, PresetLocation, Proof, Reason, SecretFormat, SenderResponse, SignedRequest,
    TimestampUnit, Tolerance, VerificationScheme, json_body, key_material, parse, reply,
};
use crate::domain::job_plan::KeyHash;

pub(super) const PRESET: Preset =
    Preset::own("discord", PresetLocation::Header("x-signature-ed25519"), |header, settings| {
        let parse = |secret: &&[u8]| key_material::parse_ed25519_hex(secret).ok();
        Box::new(Discord {
            keys: settings.secrets.iter().filter_map(parse).collect(),
            header: header.to_owned(),
            tolerance: settings.required_tolerance(),
        })
    })
    .with_tolerance(FIVE_MINUTES)
    .with_secret_format(SecretFormat::Ed25519Key)
    .with_signed_key()
    .with_handshakes(&[HandshakeSpec::signed(&["POST"], detect_ping)]);

const TIMESTAMP: &str = "x-signature-timestamp";

struct Discord {
    keys: Vec<VerifyingKey>,
    header: String,
    tolerance: Tolerance,
}

/// The members that distinguish pings, interactions and events.
#[derive(Deserialize)]
struct DiscordBody {
    #[serde(rename = "type")]
    kind: u32,
    /// Present in a webhook event, absent in an interaction.
    event: Option<IgnoredAny>,
}

/// Returns whether the owner of the key signed the text.
pub(super) fn verify_ed25519(key: &VerifyingKey, text: &[u8], signature: &[u8]) -> bool {
    Signature::from_slice(signature)
        .is_ok_and(|signature| key.verify_strict(text, &signature).is_ok())
}

/// A 204 with a content type, which Discord expects although there is no body.
fn no_content() -> SenderResponse {
    SenderResponse { content_type: Some("application/json"), ..SenderResponse::empty(204) }
}

/// Interactions send `{"type":1}`, events `{"type":0}`. An event of type 1 has a member `event`.
fn detect_ping(_: &PresetHandshakes, request: &SignedRequest<'_>) -> HandshakeResult {
    let body: DiscordBody = json_body::parse(request.body).ok()?;
    match (body.kind, body.event) {
        (1, None) => reply("ping of interactions", SenderResponse::json(r#"{"type":1}"#)),
        (0, None) => reply("ping of events", no_content()),
        _ => None,
    }
}

impl VerificationScheme for Discord {
    fn check(&self, request: &SignedRequest<'_>, now_ms: i64) -> Result<Proof, Reason> {
        let signatures = parse::header_signatures(request, &self.header, Encoding::Hex)?;
        let timestamp = request.required_header(TIMESTAMP)?;
        let text = [timestamp, request.body].concat();
        let mut pairs = parse::pair_signatures(&signatures, &self.keys, &text);
        if !pairs.any(|(signature, key)| verify_ed25519(key, &text, signature)) {
            return Err(MISMATCH.into());
        }
        let stale_reason =
            self.tolerance.check_timestamp_text(timestamp, TimestampUnit::Seconds, now_ms)?;
        // A webhook event has no number. Its time is part of the signed body.
        Ok(Proof {
            delivery_key: DeliveryKeyLocation::Field("id").read_key(request.body)?,
            stale_reason,
        })
    }

    fn key_in_body(&self, request: &SignedRequest<'_>) -> Option<KeyHash> {
        DeliveryKeyLocation::Field("id").read_key(request.body).ok()?
    }

    fn check_cost(&self, request: &SignedRequest<'_>) -> usize {
        let signatures = parse::header_elements(request, &self.header).count();
        parse::public_key_cost(signatures, self.keys.len(), request.body.len())
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
