//! `sns` (docs.aws.amazon.com/sns, "Verifying the signatures of Amazon SNS messages"): RSA PKCS#1
//! v1.5 over some fields of the body, SHA-1 in version 1, SHA-256 in version 2.
//!
//! The certificate is configured; `SigningCertURL` is never fetched, and its dates are not looked at:
//! whoever configured it trusts it. It is Amazon's, not a topic's: any topic's messages carry it.

use std::borrow::Cow;

use rustls_pki_types::{
    AlgorithmIdentifier, CertificateDer, InvalidSignature, SignatureVerificationAlgorithm, alg_id,
};
use serde::Deserialize;
use webpki::EndEntityCert;

use super::parse::{self, MISMATCH, Tolerance};
use super::{Proof, Scheme, SignedRequest, json_body};
use crate::config::key_material;
use crate::config::{Encoding, Verify};
use crate::planner::hash_key;

pub(super) struct Sns {
    certificates: Vec<CertificateDer<'static>>,
    tolerance: Tolerance,
}

/// The fields that are signed, and the signature.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Body<'a> {
    #[serde(rename = "Type", borrow)]
    pub kind: Cow<'a, str>,
    #[serde(borrow)]
    message: Cow<'a, str>,
    #[serde(borrow)]
    message_id: Cow<'a, str>,
    #[serde(borrow)]
    subject: Option<Cow<'a, str>>,
    #[serde(borrow)]
    timestamp: Cow<'a, str>,
    #[serde(borrow)]
    pub topic_arn: Cow<'a, str>,
    #[serde(borrow)]
    token: Option<Cow<'a, str>>,
    #[serde(rename = "SubscribeURL", borrow)]
    pub subscribe_url: Option<Cow<'a, str>>,
    #[serde(borrow)]
    signature: Cow<'a, str>,
    #[serde(borrow)]
    signature_version: Cow<'a, str>,
}

pub(super) const SUBSCRIPTION: &str = "SubscriptionConfirmation";

impl Body<'_> {
    /// `Key\nValue\n` of what this type's signature covers, in the order of the keys.
    fn signed(&self) -> Result<String, String> {
        let subscription = match &*self.kind {
            "Notification" => false,
            SUBSCRIPTION | "UnsubscribeConfirmation" => true,
            _ => return Err("body is of no type that sns signs".to_owned()),
        };
        if subscription && (self.subscribe_url.is_none() || self.token.is_none()) {
            return Err("body has not the fields that sns signs".to_owned());
        }
        let fields = [
            ("Message", Some(self.message.as_ref())),
            ("MessageId", Some(self.message_id.as_ref())),
            ("Subject", self.subject.as_deref().filter(|_| !subscription)),
            ("SubscribeURL", self.subscribe_url.as_deref().filter(|_| subscription)),
            ("Timestamp", Some(self.timestamp.as_ref())),
            ("Token", self.token.as_deref().filter(|_| subscription)),
            ("TopicArn", Some(self.topic_arn.as_ref())),
            ("Type", Some(self.kind.as_ref())),
        ];
        // A line break in a value but the message's could make two fields of one, under the same
        // signature: another MessageId, say, where the message had a subject.
        let others = fields.iter().filter(|(key, _)| *key != "Message");
        if others.filter_map(|(_, value)| *value).any(|value| value.contains('\n')) {
            return Err("body has a line break in a field that sns signs".to_owned());
        }
        let lines = fields.iter().filter_map(|(key, value)| Some((key, (*value)?)));
        Ok(lines.map(|(key, value)| format!("{key}\n{value}\n")).collect())
    }
}

/// Version 1's, which webpki does not have: SHA-1 is no good for certificates.
#[derive(Debug)]
struct WithSha1;

impl SignatureVerificationAlgorithm for WithSha1 {
    fn verify_signature(
        &self,
        public_key: &[u8],
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), InvalidSignature> {
        let algorithm = &ring::signature::RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY;
        ring::signature::UnparsedPublicKey::new(algorithm, public_key)
            .verify(message, signature)
            .map_err(|_| InvalidSignature)
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        alg_id::RSA_ENCRYPTION
    }

    /// Names it in webpki's errors, which nobody sees.
    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        alg_id::RSA_ENCRYPTION
    }
}

impl Sns {
    pub fn new(verify: &Verify, secrets: &[&[u8]]) -> Self {
        let read = |secret: &&[u8]| key_material::parse_certificates(secret).unwrap_or_default();
        Self {
            certificates: secrets.iter().flat_map(read).collect(),
            tolerance: Tolerance::of(verify),
        }
    }
}

impl Scheme for Sns {
    fn check(&self, asked: &SignedRequest<'_>, now_ms: i64) -> Result<Proof, String> {
        let body: Body<'_> = json_body::read(asked.body, "the fields that sns signs")?;
        let text = body.signed()?;
        let signature = parse::decode_signature(Encoding::Base64, body.signature.as_bytes())?;
        let algorithm: &dyn SignatureVerificationAlgorithm = match &*body.signature_version {
            "1" => &WithSha1,
            "2" => webpki::ring::RSA_PKCS1_2048_8192_SHA256,
            _ => return Err("signature is of an unknown version".to_owned()),
        };
        let fits = |certificate: &CertificateDer<'_>| {
            EndEntityCert::try_from(certificate).is_ok_and(|certificate| {
                certificate.verify_signature(algorithm, text.as_bytes(), &signature).is_ok()
            })
        };
        if !self.certificates.iter().fold(false, |any, one| any | fits(one)) {
            return Err(MISMATCH.to_owned());
        }
        let at: jiff::Timestamp = body.timestamp.parse().map_err(|_| "timestamp is no date")?;
        let stale = self.tolerance.stale_moment(at.as_millisecond(), now_ms);
        let delivery_key = Some(hash_key(b'j', &[body.message_id.as_bytes()]));
        Ok(Proof { delivery_key, stale })
    }

    fn work(&self, asked: &SignedRequest<'_>) -> usize {
        let bytes = asked.body.len();
        bytes + parse::public_key_work(1, self.certificates.len(), bytes)
    }

    fn sign(&self, _: &mut super::OutgoingRequest, _: i64) -> Result<(), String> {
        Err(super::ONLY_PUBLIC.to_owned())
    }
}
