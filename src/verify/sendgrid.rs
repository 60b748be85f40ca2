//! `sendgrid` (twilio.com/docs/sendgrid, "Event Webhook security features"): ECDSA P-256 with
//! SHA-256 over `{timestamp}{body}`, DER in base64. The configuration has the public key.

use super::{
    DeliveryKeyLocation, Encoding, FIVE_MINUTES, MISMATCH, Preset, PresetLocation, Proof, Reason,
    SecretFormat, SignedRequest, TimestampUnit, Tolerance, VerificationScheme, key_material, parse,
};
use crate::domain::job_plan::KeyHash;
use rustls_pki_types::SubjectPublicKeyInfoDer;
use webpki::RawPublicKeyEntity;

pub(super) const PRESET: Preset = Preset::own(
    "sendgrid",
    PresetLocation::Header("x-twilio-email-event-webhook-signature"),
    |header, settings| {
        let parse = |secret: &&[u8]| key_material::parse_p256(secret).ok();
        Box::new(SendGrid {
            keys: settings.secrets.iter().filter_map(parse).collect(),
            header: header.to_owned(),
            tolerance: settings.required_tolerance(),
        })
    },
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
        Ok(Proof { delivery_key: DeliveryKeyLocation::Body.read_key(request.body)?, stale_reason })
    }

    fn key_in_body(&self, request: &SignedRequest<'_>) -> Option<KeyHash> {
        DeliveryKeyLocation::Body.read_key(request.body).ok()?
    }

    fn check_cost(&self, request: &SignedRequest<'_>) -> usize {
        let signatures = parse::header_elements(request, &self.header).count();
        parse::public_key_cost(signatures, self.keys.len(), request.body.len())
    }
}
