//! `sendgrid` (twilio.com/docs/sendgrid, "Event Webhook security features"): ECDSA P-256 with
//! SHA-256 over `{timestamp}{body}`, DER in base64. The configuration has the public key.

use rustls_pki_types::SubjectPublicKeyInfoDer;
use webpki::RawPublicKeyEntity;

use super::parse::{self, MAX_SIGNATURES, MISMATCH, TimestampTolerance};
use super::{DeliveryKeyLocation, Proof, SignedRequest, VerificationScheme};
use crate::config::key_material;
use crate::config::{Encoding, TimestampUnit, Verify};

const TIMESTAMP: &str = "x-twilio-email-event-webhook-timestamp";

pub(super) struct SendGrid {
    keys: Vec<SubjectPublicKeyInfoDer<'static>>,
    header: String,
    tolerance: TimestampTolerance,
}

impl SendGrid {
    pub fn new(verify: &Verify, secrets: &[&[u8]]) -> Self {
        Self {
            keys: secrets
                .iter()
                .filter_map(|secret| key_material::parse_p256(secret).ok())
                .collect(),
            header: verify.header.clone().unwrap_or_default(),
            tolerance: TimestampTolerance::from_verify(verify),
        }
    }
}

impl VerificationScheme for SendGrid {
    fn check(&self, request: &SignedRequest<'_>, now_ms: i64) -> Result<Proof, String> {
        let signatures = parse::header_signatures(request, &self.header, Encoding::Base64)?;
        let timestamp = request.required_header(TIMESTAMP)?;
        let text = [timestamp, request.body].concat();
        let is_match = |(signature, key): (&[u8], &SubjectPublicKeyInfoDer<'_>)| {
            let algorithm = webpki::ring::ECDSA_P256_SHA256;
            RawPublicKeyEntity::try_from(key)
                .is_ok_and(|key| key.verify_signature(algorithm, &text, signature).is_ok())
        };
        if !parse::pair_signatures(&signatures, &self.keys, &text).any(is_match) {
            return Err(MISMATCH.to_owned());
        }
        let stale_reason =
            self.tolerance.check_timestamp_text(timestamp, TimestampUnit::Seconds, now_ms)?;
        Proof::from_body(DeliveryKeyLocation::Body, request.body, stale_reason)
    }

    fn check_cost(&self, request: &SignedRequest<'_>) -> usize {
        let signatures = parse::header_elements(request, &self.header).take(MAX_SIGNATURES).count();
        parse::public_key_cost(signatures, self.keys.len(), request.body.len())
    }

    fn sign(&self, _: &mut super::OutgoingRequest, _: i64) -> Result<(), String> {
        Err(super::PUBLIC_KEY_ONLY.to_owned())
    }
}
