//! `mailgun` (documentation.mailgun.com, "Securing webhooks"): the body has `signature`, an object
//! of `timestamp`, `token` and `signature`, which is the hex HMAC-SHA256 over the other two. In a
//! form these are three fields. A message with attachments is a multipart form.
//!
//! The signature does not cover the body. An attacker who has seen one could send another body with
//! it. The token is the delivery key, so that such a request is a duplicate.

use std::borrow::Cow;

use ring::hmac;
use serde::{Deserialize, Serialize};

use super::{
    Encoding, FIVE_MINUTES, HOUR, HmacKeys, MISMATCH, OutgoingRequest, Preset, PresetLocation,
    Proof, Reason, SignedRequest, TimestampUnit, Tolerance, VerificationScheme, form_fields,
    json_body, parse,
};
use crate::domain::job_plan::hash_key;
use crate::media_type::BodyFormat;

/// Mailgun retries for 8 hours (documentation.mailgun.com, "Webhooks").
pub(super) const PRESET: Preset = Preset::own("mailgun", PresetLocation::Fixed, |_, settings| {
    let keys = settings.hmac_keys(hmac::HMAC_SHA256);
    Box::new(Mailgun { keys, tolerance: settings.required_tolerance() })
})
.with_repeated_stamp(9 * HOUR, FIVE_MINUTES)
.with_signed_key()
.without_signed_body()
.with_sample(r#"{"event-data":{"event":"delivered","id":"{id}"}}"#)
.with_forms();

struct Mailgun {
    keys: HmacKeys,
    tolerance: Tolerance,
}

#[derive(Deserialize)]
struct MailgunBody<'a> {
    #[serde(borrow)]
    signature: Signature<'a>,
}

#[derive(Deserialize, Serialize)]
struct Signature<'a> {
    #[serde(borrow)]
    timestamp: Cow<'a, str>,
    #[serde(borrow)]
    token: Cow<'a, str>,
    #[serde(borrow)]
    signature: Cow<'a, str>,
}

impl Mailgun {
    fn check_signature(
        &self,
        [timestamp, token, signature]: [&[u8]; 3],
        now_ms: i64,
    ) -> Result<Proof, Reason> {
        let signature = parse::decode_signature(Encoding::Hex, signature)?;
        if !self.keys.verify_any(&[timestamp, token], &[signature]) {
            return Err(MISMATCH.into());
        }
        let stale_reason =
            self.tolerance.check_timestamp_text(timestamp, TimestampUnit::Seconds, now_ms)?;
        Ok(Proof { delivery_key: Some(hash_key(b'j', &[token])), stale_reason })
    }
}

impl VerificationScheme for Mailgun {
    fn check(&self, request: &SignedRequest<'_>, now_ms: i64) -> Result<Proof, Reason> {
        let fields = match request.body_format()? {
            BodyFormat::Form => Some(form_fields::parse_urlencoded(request.body)?),
            BodyFormat::Multipart => {
                let content_type = request.optional_header("content-type")?;
                let names = ["timestamp", "token", "signature"];
                Some(form_fields::parse_multipart(content_type, request.body, &names)?)
            }
            BodyFormat::Json | BodyFormat::MaybeJson | BodyFormat::Text => None,
        };
        if let Some(fields) = fields {
            let field = |name: &str| {
                form_fields::unique_value(&fields, name)
                    .ok_or_else(|| format!("form needs exactly one field {name}"))
            };
            return self.check_signature(
                [field("timestamp")?, field("token")?, field("signature")?],
                now_ms,
            );
        }
        let body: MailgunBody<'_> = json_body::read(request.body, "mailgun's signature object")?;
        let Signature { timestamp, token, signature } = &body.signature;
        let parts = [timestamp.as_bytes(), token.as_bytes(), signature.as_bytes()];
        self.check_signature(parts, now_ms)
    }

    fn sign(&self, outgoing: &mut OutgoingRequest, now_ms: i64) -> Result<(), Reason> {
        let timestamp = parse::format_timestamp(TimestampUnit::Seconds, now_ms);
        let token = hex::encode(&outgoing.id);
        let signature =
            self.keys.sign(&[timestamp.as_bytes(), token.as_bytes()], outgoing.is_corrupt)?;
        let signature = hex::encode(signature);
        if outgoing.body_format() == BodyFormat::Form {
            let is_signature_field =
                |name: &[u8]| matches!(name, b"timestamp" | b"token" | b"signature");
            let other_fields = outgoing.body.split(|&byte| byte == b'&').filter(|pair| {
                let name = pair.split(|&byte| byte == b'=').next().unwrap_or_default();
                !pair.is_empty() && !is_signature_field(name)
            });
            let signature_fields =
                format!("timestamp={timestamp}&token={token}&signature={signature}");
            outgoing.body =
                other_fields.chain([signature_fields.as_bytes()]).collect::<Vec<_>>().join(&b'&');
            return Ok(());
        }
        let (timestamp, token, signature) = (timestamp.into(), token.into(), signature.into());
        let signature = Signature { timestamp, token, signature };
        outgoing.body = json_body::with_member(&outgoing.body, "signature", &signature)?;
        Ok(())
    }
}
