//! `sendgrid` (twilio.com/docs/sendgrid, "Event Webhook security features"): ECDSA P-256 with SHA-256
//! over `{timestamp}{body}`, DER in base64. The public key is configured.

use rustls_pki_types::SubjectPublicKeyInfoDer;
use webpki::RawPublicKeyEntity;

use super::parse::{self, MISMATCH, SIGNATURES_MAX, Tolerance};
use super::{KeyPlace, Proof, Scheme, SignedRequest};
use crate::config::key_material;
use crate::config::{Encoding, TimestampUnit, Verify};

const TIMESTAMP: &str = "x-twilio-email-event-webhook-timestamp";

pub(super) struct SendGrid {
    keys: Vec<SubjectPublicKeyInfoDer<'static>>,
    header: String,
    tolerance: Tolerance,
}

impl SendGrid {
    pub fn new(verify: &Verify, secrets: &[&[u8]]) -> Self {
        Self {
            keys: secrets
                .iter()
                .filter_map(|secret| key_material::parse_p256(secret).ok())
                .collect(),
            header: verify.header.clone().unwrap_or_default(),
            tolerance: Tolerance::of(verify),
        }
    }
}

impl Scheme for SendGrid {
    fn check(&self, asked: &SignedRequest<'_>, now_ms: i64) -> Result<Proof, String> {
        let signatures = parse::bare_signatures(asked, &self.header, Encoding::Base64)?;
        let timestamp = asked.required_header(TIMESTAMP)?;
        let text = [timestamp, asked.body].concat();
        let fits = |(signature, key): (&[u8], &SubjectPublicKeyInfoDer<'_>)| {
            let algorithm = webpki::ring::ECDSA_P256_SHA256;
            RawPublicKeyEntity::try_from(key)
                .is_ok_and(|key| key.verify_signature(algorithm, &text, signature).is_ok())
        };
        if !parse::pairs(&signatures, &self.keys, &text).any(fits) {
            return Err(MISMATCH.to_owned());
        }
        let stale = self.tolerance.stale(timestamp, TimestampUnit::Seconds, now_ms)?;
        Proof::of_body(KeyPlace::Body, asked.body, stale)
    }

    fn work(&self, asked: &SignedRequest<'_>) -> usize {
        let signatures = parse::elements(asked, &self.header).take(SIGNATURES_MAX).count();
        parse::public_key_work(signatures, self.keys.len(), asked.body.len())
    }

    fn sign(&self, _: &mut super::OutgoingRequest, _: i64) -> Result<(), String> {
        Err(super::ONLY_PUBLIC.to_owned())
    }
}
