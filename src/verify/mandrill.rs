//! `mandrill` (mailchimp.com/developer/transactional, "Authenticating webhook requests"): base64
//! HMAC-SHA1 over the URL as it is configured there, then each field of the form, sorted by name.

use ring::hmac;

use super::parse::{self, MISMATCH};
use super::secrets::HmacKeys;
use super::{OutgoingRequest, Proof, Scheme, SignedRequest, form_fields, url};
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

fn sorted(body: &[u8]) -> Result<Vec<u8>, String> {
    let mut fields = form_fields::parse_urlencoded(body)?;
    // Values of one name stay in their order.
    fields.sort_by(|(one, _), (other, _)| one.cmp(other));
    Ok(form_fields::concat(&fields))
}

impl Scheme for Mandrill {
    fn check(&self, asked: &SignedRequest<'_>, _: i64) -> Result<Proof, String> {
        if self.keys.is_empty() {
            return Err("no secret is configured yet: only a handshake is answered".to_owned());
        }
        let signatures = parse::bare_signatures(asked, &self.header, Encoding::Base64)?;
        let url = url::public_url(self.url.as_ref(), asked);
        let fields = sorted(asked.body)?;
        let signed = [url.as_bytes(), &fields];
        if !self.keys.signed_any(&signed, &signatures) {
            return Err(MISMATCH.to_owned());
        }
        // Not the bytes of the body: the same fields may be encoded in another way.
        Ok(Proof { delivery_key: Some(hash_key(b's', &signed)), stale: None })
    }

    fn work(&self, asked: &SignedRequest<'_>) -> usize {
        self.keys.work(1, asked.body.len())
    }

    fn sign(&self, draft: &mut OutgoingRequest, _: i64) -> Result<(), String> {
        let url = draft.url(self.url.as_ref());
        let signature =
            self.keys.sign(&[url.as_bytes(), &sorted(&draft.body)?], draft.corrupt_signature)?;
        let signature = parse::encode_signature(Encoding::Base64, &signature);
        draft.set_header(&self.header, signature);
        Ok(())
    }
}
