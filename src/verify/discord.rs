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

use super::delivery_key::DeliveryKeyLocation;
use super::handshake::{HandshakeResult, HandshakeSpec, reply};
use super::hmac_spec::{Encoding, TimestampUnit};
use super::key_material;
use super::parse::{self, MAX_SIGNATURES, MISMATCH, Tolerance};
use super::preset::{FIVE_MINUTES, Method, Preset, PresetLocation};
use super::proof::{Proof, Reason};
use super::secret_format::SecretFormat;
use super::settings::SchemeSettings;
use super::{SenderResponse, SignedRequest, VerificationScheme, json_body};

pub(super) const PRESET: Preset = Preset::new(
    "discord",
    PresetLocation::Header("x-signature-ed25519"),
    Method::Own(|header, settings| Box::new(Discord::new(header, settings))),
)
.with_tolerance(FIVE_MINUTES)
.with_secret_format(SecretFormat::Ed25519Key)
.with_signed_key()
.with_handshakes(&[HandshakeSpec::signed(&["POST"], |_, request| detect_ping(request))]);

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

impl Discord {
    fn new(header: &str, settings: &SchemeSettings<'_>) -> Self {
        let parse = |secret: &&[u8]| key_material::parse_ed25519_hex(secret).ok();
        Self {
            keys: settings.secrets.iter().filter_map(parse).collect(),
            header: header.to_owned(),
            tolerance: settings.required_tolerance(),
        }
    }
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
fn detect_ping(request: &SignedRequest<'_>) -> HandshakeResult {
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
        Proof::from_body(DeliveryKeyLocation::Field("id"), request.body, stale_reason)
    }

    fn check_cost(&self, request: &SignedRequest<'_>) -> usize {
        let signatures = parse::header_elements(request, &self.header).take(MAX_SIGNATURES).count();
        parse::public_key_cost(signatures, self.keys.len(), request.body.len())
    }

    fn sign(&self, _: &mut super::OutgoingRequest, _: i64) -> Result<(), Reason> {
        Err(super::PUBLIC_KEY_ONLY.into())
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
