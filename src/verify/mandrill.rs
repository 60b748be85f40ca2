//! `mandrill` (mailchimp.com/developer/transactional, "Authenticating webhook requests"): base64
//! HMAC-SHA1 over the URL as configured at Mandrill, then each form field, sorted by name.

use ring::hmac;

use super::{
    Encoding, HandshakeResult, HandshakeSpec, HmacKeys, MISMATCH, OutgoingRequest, Preset,
    PresetHandshakes, PresetLocation, Proof, PublicUrl, Reason, SignedRequest, VerificationScheme,
    accept, form_fields, parse, url,
};
use crate::domain::job_plan::{KeyHash, hash_key};
use crate::{json, urlencoded};

pub(super) const PRESET: Preset = Preset {
    is_secret_optional: true,
    ..Preset::own("mandrill", PresetLocation::Header("x-mandrill-signature"), |header, settings| {
        Box::new(Mandrill {
            keys: settings.hmac_keys(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY),
            header: header.to_owned(),
            url: settings.url.cloned(),
        })
    })
}
.with_signed_key()
.with_handshakes(&[HandshakeSpec::unsigned(&["HEAD", "POST"], detect_check)])
.with_sample("mandrill_events=%5B%7B%22event%22%3A%22send%22%2C%22_id%22%3A%22{id}%22%7D%5D")
.with_forms();

struct Mandrill {
    keys: HmacKeys,
    header: String,
    url: Option<PublicUrl>,
}

fn signed_fields(body: &[u8]) -> Result<Vec<u8>, Reason> {
    let mut fields = form_fields::parse_urlencoded(body)?;
    // Stable: values of the same name keep their order.
    fields.sort_by(|(left, _), (right, _)| left.cmp(right));
    Ok(form_fields::concat(&fields))
}

/// A HEAD, then a POST without events, signed with a key that the operator cannot know yet.
fn detect_check(_: &PresetHandshakes, request: &SignedRequest<'_>) -> HandshakeResult {
    let mut fields = urlencoded::fields(json::without_mark(request.body));
    let is_handshake = match (fields.next(), fields.next()) {
        _ if request.method == "HEAD" => true,
        (Some((name, value)), None) => *name == *b"mandrill_events" && *value == *b"[]",
        _ => false,
    };
    is_handshake.then(|| accept(request.method)).flatten()
}

impl VerificationScheme for Mandrill {
    fn check(&self, request: &SignedRequest<'_>, _: i64) -> Result<Proof, Reason> {
        if self.keys.is_empty() {
            return Err("no secret is configured yet: only handshakes are answered".into());
        }
        let signatures = parse::header_signatures(request, &self.header, Encoding::Base64)?;
        let url = url::public_url(self.url.as_ref(), request);
        let fields = signed_fields(request.body)?;
        let signed = [url.as_bytes(), &fields];
        if !self.keys.verify_any(&signed, &signatures) {
            return Err(MISMATCH.into());
        }
        // The key is not the bytes of the body, because the same fields can be encoded in another
        // way.
        Ok(Proof { delivery_key: Some(hash_key(b's', &signed)), stale_reason: None })
    }

    fn key_in_body(&self, request: &SignedRequest<'_>) -> Option<KeyHash> {
        let url = url::public_url(self.url.as_ref(), request);
        Some(hash_key(b's', &[url.as_bytes(), &signed_fields(request.body).ok()?]))
    }

    fn check_cost(&self, request: &SignedRequest<'_>) -> usize {
        self.keys.check_cost(1, request.body.len())
    }

    fn sign(&self, outgoing: &mut OutgoingRequest, _: i64) -> Result<(), Reason> {
        let url = outgoing.url(self.url.as_ref());
        let signature = self
            .keys
            .sign(&[url.as_bytes(), &signed_fields(&outgoing.body)?], outgoing.is_corrupt)?;
        let signature = parse::encode_signature(Encoding::Base64, &signature);
        outgoing.set_header(&self.header, signature);
        Ok(())
    }
}
