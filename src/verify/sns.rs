//! `sns` (docs.aws.amazon.com/sns, "Verifying the signatures of Amazon SNS messages"): RSA PKCS#1
//! v1.5 over some fields of the body, with SHA-1 in version 1 and SHA-256 in version 2.
//!
//! The configuration has the certificate. The server never fetches `SigningCertURL`, and it ignores
//! the certificate's dates, because the operator trusts it. Amazon signs the messages of all topics
//! with it.

use std::borrow::Cow;

use super::{
    Encoding, HOUR, HandshakeReply, HandshakeResult, HandshakeSpec, MISMATCH, Preset,
    PresetHandshakes, PresetLocation, Proof, Reason, SecretFormat, SenderResponse, SignedRequest,
    Tolerance, VerificationScheme, id_key, json_body, key_material, parse,
};
use rustls_pki_types::{
    AlgorithmIdentifier, CertificateDer, InvalidSignature, SignatureVerificationAlgorithm, alg_id,
};
use serde::Deserialize;
use webpki::EndEntityCert;

/// The time stamp is that of publishing. By default SNS retries for about an hour
/// (docs.aws.amazon.com/sns, "Message delivery retries").
pub(super) const PRESET: Preset = Preset::own("sns", PresetLocation::Fixed, |_, settings| {
    let parse = |secret: &&[u8]| key_material::parse_certificates(secret).unwrap_or_default();
    Box::new(Sns {
        certificates: settings.secrets.iter().flat_map(parse).collect(),
        tolerance: settings.required_tolerance(),
    })
})
.with_repeated_stamp(24 * HOUR, HOUR)
.with_secret_format(SecretFormat::Certificates)
.with_signed_key()
.with_handshakes(&[HandshakeSpec::signed(&["POST"], detect_subscription)]);

struct Sns {
    certificates: Vec<CertificateDer<'static>>,
    tolerance: Tolerance,
}

/// The signed fields and the signature.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SnsBody<'a> {
    #[serde(rename = "Type", borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    message: Cow<'a, str>,
    #[serde(borrow)]
    message_id: Cow<'a, str>,
    #[serde(borrow)]
    subject: Option<Cow<'a, str>>,
    #[serde(borrow)]
    timestamp: Cow<'a, str>,
    #[serde(borrow)]
    topic_arn: Cow<'a, str>,
    #[serde(borrow)]
    token: Option<Cow<'a, str>>,
    #[serde(rename = "SubscribeURL", borrow)]
    subscribe_url: Option<Cow<'a, str>>,
    #[serde(borrow)]
    signature: Cow<'a, str>,
    #[serde(borrow)]
    signature_version: Cow<'a, str>,
}

const SUBSCRIPTION: &str = "SubscriptionConfirmation";

impl SnsBody<'_> {
    /// Returns the signed text: `Key\nValue\n` for each field that this type signs, in the order of
    /// the keys.
    fn signed_text(&self) -> Result<String, Reason> {
        let is_subscription = match &*self.kind {
            "Notification" => false,
            SUBSCRIPTION | "UnsubscribeConfirmation" => true,
            _ => return Err("body has a type that sns does not sign".into()),
        };
        if is_subscription && (self.subscribe_url.is_none() || self.token.is_none()) {
            return Err("body lacks the fields that sns signs".into());
        }
        let fields = [
            ("Message", Some(self.message.as_ref())),
            ("MessageId", Some(self.message_id.as_ref())),
            ("Subject", self.subject.as_deref().filter(|_| !is_subscription)),
            ("SubscribeURL", self.subscribe_url.as_deref().filter(|_| is_subscription)),
            ("Timestamp", Some(self.timestamp.as_ref())),
            ("Token", self.token.as_deref().filter(|_| is_subscription)),
            ("TopicArn", Some(self.topic_arn.as_ref())),
            ("Type", Some(self.kind.as_ref())),
        ];
        // Only `Message` may contain a line break. In another value it could turn one field into
        // two under the same signature, for example a subject into another MessageId.
        let single_line = fields.iter().filter(|(key, _)| *key != "Message");
        if single_line.filter_map(|(_, value)| *value).any(|value| value.contains('\n')) {
            return Err("body has a line break in a field that sns signs".into());
        }
        let lines = fields.iter().filter_map(|(key, value)| Some((key, (*value)?)));
        Ok(lines.map(|(key, value)| format!("{key}\n{value}\n")).collect())
    }
}

/// RSA with SHA-1, for version 1. webpki lacks it, because SHA-1 is too weak for certificates.
#[derive(Debug)]
struct RsaWithSha1;

impl SignatureVerificationAlgorithm for RsaWithSha1 {
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

    /// webpki uses this only in its errors, which this scheme discards.
    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        alg_id::RSA_ENCRYPTION
    }
}

/// The operator confirms the subscription by opening its URL: this server fetches no URL that a
/// request contains.
fn detect_subscription(_: &PresetHandshakes, request: &SignedRequest<'_>) -> HandshakeResult {
    let body: SnsBody<'_> = json_body::parse(request.body).ok()?;
    let url = body.subscribe_url.filter(|_| body.kind == SUBSCRIPTION)?;
    let (topic, url) = (body.topic_arn.escape_debug(), url.escape_debug());
    let detail = format!("subscription to {topic}: {url}");
    let operator_action =
        "SNS asks to confirm a subscription: open the URL in the view `handshakes`";
    let response = SenderResponse::empty(200);
    Some(Ok(HandshakeReply { detail, response, operator_action: Some(operator_action) }))
}

impl VerificationScheme for Sns {
    fn check(&self, request: &SignedRequest<'_>, now_ms: i64) -> Result<Proof, Reason> {
        let body: SnsBody<'_> = json_body::read(request.body, "the fields that sns signs")?;
        let text = body.signed_text()?;
        let signature = parse::decode_signature(Encoding::Base64, body.signature.as_bytes())?;
        let algorithm: &dyn SignatureVerificationAlgorithm = match &*body.signature_version {
            "1" => &RsaWithSha1,
            "2" => webpki::ring::RSA_PKCS1_2048_8192_SHA256,
            _ => return Err("signature has an unknown version".into()),
        };
        let is_match = |certificate: &CertificateDer<'_>| {
            EndEntityCert::try_from(certificate).is_ok_and(|certificate| {
                certificate.verify_signature(algorithm, text.as_bytes(), &signature).is_ok()
            })
        };
        if !self.certificates.iter().fold(false, |any, certificate| any | is_match(certificate)) {
            return Err(MISMATCH.into());
        }
        let at: jiff::Timestamp = body.timestamp.parse().map_err(|_| "timestamp is not a date")?;
        let stale_reason = self.tolerance.check_timestamp(at.as_millisecond(), now_ms);
        let delivery_key = Some(id_key(&body.message_id));
        Ok(Proof { delivery_key, stale_reason })
    }

    fn check_cost(&self, request: &SignedRequest<'_>) -> usize {
        let bytes = request.body.len();
        bytes + parse::public_key_cost(1, self.certificates.len(), bytes)
    }
}
