//! `sendgrid` (twilio.com/docs/sendgrid, "Event Webhook security features"): ECDSA P-256 with
//! SHA-256 over `{timestamp}{body}`, DER in base64. The configuration has the public key.

use rustls_pki_types::SubjectPublicKeyInfoDer;
use webpki::RawPublicKeyEntity;

use super::delivery_key::DeliveryKeyLocation;
use super::hmac_spec::{Encoding, TimestampUnit};
use super::key_material;
use super::parse::{self, MAX_SIGNATURES, MISMATCH, Tolerance};
use super::preset::{FIVE_MINUTES, Method, Preset, PresetLocation};
use super::proof::{Proof, Reason};
use super::secret_format::SecretFormat;
use super::settings::SchemeSettings;
use super::{SignedRequest, VerificationScheme};

pub(super) const PRESET: Preset = Preset::new(
    "sendgrid",
    PresetLocation::Header("x-twilio-email-event-webhook-signature"),
    Method::Own(|header, settings| Box::new(SendGrid::new(header, settings))),
)
.with_tolerance(FIVE_MINUTES)
.with_secret_format(SecretFormat::P256Key)
.with_signed_key()
.with_sample(r#"[{"event":"delivered","sg_event_id":"{id}"}]"#);

const TIMESTAMP: &str = "x-twilio-email-event-webhook-timestamp";

struct SendGrid {
    keys: Vec<SubjectPublicKeyInfoDer<'static>>,
    header: String,
    tolerance: Tolerance,
}

impl SendGrid {
    fn new(header: &str, settings: &SchemeSettings<'_>) -> Self {
        let parse = |secret: &&[u8]| key_material::parse_p256(secret).ok();
        Self {
            keys: settings.secrets.iter().filter_map(parse).collect(),
            header: header.to_owned(),
            tolerance: settings.required_tolerance(),
        }
    }
}

impl VerificationScheme for SendGrid {
    fn check(&self, request: &SignedRequest<'_>, now_ms: i64) -> Result<Proof, Reason> {
        let signatures = parse::header_signatures(request, &self.header, Encoding::Base64)?;
        let timestamp = request.required_header(TIMESTAMP)?;
        let text = [timestamp, request.body].concat();
        let is_match = |(signature, key): (&[u8], &SubjectPublicKeyInfoDer<'_>)| {
            let algorithm = webpki::ring::ECDSA_P256_SHA256;
            RawPublicKeyEntity::try_from(key)
                .is_ok_and(|key| key.verify_signature(algorithm, &text, signature).is_ok())
        };
        if !parse::pair_signatures(&signatures, &self.keys, &text).any(is_match) {
            return Err(MISMATCH.into());
        }
        let stale_reason =
            self.tolerance.check_timestamp_text(timestamp, TimestampUnit::Seconds, now_ms)?;
        Proof::from_body(DeliveryKeyLocation::Body, request.body, stale_reason)
    }

    fn check_cost(&self, request: &SignedRequest<'_>) -> usize {
        let signatures = parse::header_elements(request, &self.header).take(MAX_SIGNATURES).count();
        parse::public_key_cost(signatures, self.keys.len(), request.body.len())
    }

    fn sign(&self, _: &mut super::OutgoingRequest, _: i64) -> Result<(), Reason> {
        Err(super::PUBLIC_KEY_ONLY.into())
    }
}
