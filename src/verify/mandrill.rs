//! `mandrill` (mailchimp.com/developer/transactional, "Authenticating webhook requests"): base64
//! HMAC-SHA1 over the URL as configured at Mandrill, then each form field, sorted by name.

use ring::hmac;

use super::parse::{self, MISMATCH};
use super::secrets::HmacKeys;
use super::{OutgoingRequest, Proof, SignedRequest, VerificationScheme, form_fields, url};
use crate::config::{Encoding, PublicUrl, Verify};
use crate::planner::hash_key;

pub(super) struct Mandrill {
    keys: HmacKeys,
    header: String,
    url: Option<PublicUrl>,
}

impl Mandrill {
    pub fn new(verify: &Verify, secrets: &[&[u8]]) -> Self {
        Self {
            keys: HmacKeys::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, secrets.iter().copied()),
            header: verify.header.clone().unwrap_or_default(),
            url: verify.url.clone(),
        }
    }
}

fn signed_fields(body: &[u8]) -> Result<Vec<u8>, String> {
    let mut fields = form_fields::parse_urlencoded(body)?;
    // Stable: values of the same name keep their order.
    fields.sort_by(|(left, _), (right, _)| left.cmp(right));
    Ok(form_fields::concat(&fields))
}

impl VerificationScheme for Mandrill {
    fn check(&self, request: &SignedRequest<'_>, _: i64) -> Result<Proof, String> {
        if self.keys.is_empty() {
            return Err("no secret is configured yet: only handshakes are answered".to_owned());
        }
        let signatures = parse::header_signatures(request, &self.header, Encoding::Base64)?;
        let url = url::public_url(self.url.as_ref(), request);
        let fields = signed_fields(request.body)?;
        let signed = [url.as_bytes(), &fields];
        if !self.keys.verify_any(&signed, &signatures) {
            return Err(MISMATCH.to_owned());
        }
        // The key is not the bytes of the body, because the same fields can be encoded in another
        // way.
        Ok(Proof { delivery_key: Some(hash_key(b's', &signed)), stale_reason: None })
    }

    fn check_cost(&self, request: &SignedRequest<'_>) -> usize {
        self.keys.check_cost(1, request.body.len())
    }

    fn sign(&self, outgoing: &mut OutgoingRequest, _: i64) -> Result<(), String> {
        let url = outgoing.url(self.url.as_ref());
        let signature = self
            .keys
            .sign(&[url.as_bytes(), &signed_fields(&outgoing.body)?], outgoing.is_corrupt)?;
        let signature = parse::encode_signature(Encoding::Base64, &signature);
        outgoing.set_header(&self.header, signature);
        Ok(())
    }
}
