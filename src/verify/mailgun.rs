//! `mailgun` (documentation.mailgun.com, "Securing webhooks"): in the body `signature`, an object of
//! `timestamp`, `token` and `signature`, hex HMAC-SHA256 over the first two; in a form these are three
//! fields (multipart, where a message has attachments). It does not cover the body: whoever has seen one may send another
//! with it, which the token, the delivery's key, makes a repeat.

use std::borrow::Cow;

use ring::hmac;
use serde::{Deserialize, Serialize};

use super::json_body::{self, RawJsonObject};
use super::parse::{self, MISMATCH, Tolerance};
use super::secrets::HmacKeys;
use super::{OutgoingRequest, Proof, Scheme, SignedRequest, form_fields};
use crate::config::{Encoding, TimestampUnit, Verify};
use crate::planner::hash_key;

pub(super) struct Mailgun {
    keys: HmacKeys,
    tolerance: Tolerance,
}

#[derive(Deserialize)]
struct Body<'a> {
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
    pub fn new(verify: &Verify, secrets: &[&[u8]]) -> Self {
        Self {
            keys: HmacKeys::new(hmac::HMAC_SHA256, secrets.iter().copied()),
            tolerance: Tolerance::of(verify),
        }
    }

    fn check_one(
        &self,
        [timestamp, token, signature]: [&[u8]; 3],
        now_ms: i64,
    ) -> Result<Proof, String> {
        let signature = parse::decode_signature(Encoding::Hex, signature)?;
        if !self.keys.verify(&[timestamp, token], &signature) {
            return Err(MISMATCH.to_owned());
        }
        let stale = self.tolerance.stale(timestamp, TimestampUnit::Seconds, now_ms)?;
        Ok(Proof { delivery_key: Some(hash_key(b'j', &[token])), stale })
    }
}

impl Scheme for Mailgun {
    fn check(&self, asked: &SignedRequest<'_>, now_ms: i64) -> Result<Proof, String> {
        let content_type = asked.optional_header("content-type")?;
        let fields = if form_fields::is_form(content_type) {
            Some(form_fields::parse_urlencoded(asked.body)?)
        } else if form_fields::is_multipart(content_type) {
            let names = ["timestamp", "token", "signature"];
            Some(form_fields::parse_multipart(content_type, asked.body, &names)?)
        } else {
            None
        };
        if let Some(fields) = fields {
            let field = |name: &str| {
                form_fields::unique_value(&fields, name)
                    .ok_or_else(|| format!("not one field {name} in the form"))
            };
            return self
                .check_one([field("timestamp")?, field("token")?, field("signature")?], now_ms);
        }
        let body: Body<'_> = json_body::read(asked.body, "a signature of mailgun's form")?;
        let Signature { timestamp, token, signature } = &body.signature;
        let parts = [timestamp.as_bytes(), token.as_bytes(), signature.as_bytes()];
        self.check_one(parts, now_ms)
    }

    fn sign(&self, draft: &mut OutgoingRequest, now_ms: i64) -> Result<(), String> {
        let timestamp = parse::format_timestamp(TimestampUnit::Seconds, now_ms);
        let token = hex::encode(&draft.id);
        let signature =
            self.keys.sign(&[timestamp.as_bytes(), token.as_bytes()], draft.corrupt_signature)?;
        let signature = hex::encode(signature);
        if form_fields::is_form(draft.header("content-type").map(str::as_bytes)) {
            let is_old = |name: &[u8]| matches!(name, b"timestamp" | b"token" | b"signature");
            let others = draft.body.split(|&byte| byte == b'&').filter(|pair| {
                let name = pair.split(|&byte| byte == b'=').next().unwrap_or_default();
                !pair.is_empty() && !is_old(name)
            });
            let own = format!("timestamp={timestamp}&token={token}&signature={signature}");
            draft.body = others.chain([own.as_bytes()]).collect::<Vec<_>>().join(&b'&');
            return Ok(());
        }
        let mut fields = RawJsonObject::read(&draft.body)?;
        let (timestamp, token, signature) = (timestamp.into(), token.into(), signature.into());
        fields.set("signature", &Signature { timestamp, token, signature })?;
        draft.body = fields.to_bytes()?;
        Ok(())
    }
}
