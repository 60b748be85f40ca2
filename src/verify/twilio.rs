//! `twilio` (twilio.com/docs/usage/webhooks/webhooks-security): base64 HMAC-SHA1 over the public URL and,
//! of a form, its sorted fields; other bodies are vouched for by `bodySHA256` in the URL. The URL is
//! tried with and without its port, as Twilio's libraries do. A webhook rule with a key of its own
//! signs by SHA-256 and says so in a header (github.com/twilio/twilio-node, its examples).

use ring::{digest, hmac};

use super::parse::{self, MISMATCH};
use super::secrets::HmacKeys;
use super::{OutgoingRequest, Proof, Scheme, SenderResponse, SignedRequest, form_fields, url};
use crate::config::{Encoding, PublicUrl, Verify};

const SETTINGS: &str = "x-twilio-webhooks-signature-settings";

pub(super) struct Twilio {
    sha1: HmacKeys,
    sha256: HmacKeys,
    header: String,
    url: Option<PublicUrl>,
}

impl Twilio {
    pub fn new(verify: &Verify, secrets: &[&[u8]]) -> Self {
        let keys = |algorithm| HmacKeys::new(algorithm, secrets.iter().copied());
        Self {
            sha1: keys(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY),
            sha256: keys(hmac::HMAC_SHA256),
            header: verify.header.clone().unwrap_or_default(),
            url: verify.url.clone(),
        }
    }

    fn keys(&self, asked: &SignedRequest<'_>) -> Result<&HmacKeys, String> {
        let Some(settings) = asked.optional_header(SETTINGS)? else { return Ok(&self.sha1) };
        let parts = settings.split(|&byte| byte == b',').map(<[u8]>::trim_ascii);
        match parts.filter_map(|part| part.strip_prefix(b"algorithm=")).next() {
            Some(b"HMAC_SHA256") => Ok(&self.sha256),
            Some(b"HMAC_SHA1") | None => Ok(&self.sha1),
            Some(_) => Err("signature is of an unknown algorithm".to_owned()),
        }
    }
}

/// The fields of a form, each name and value once, sorted.
fn signed_fields(body: &[u8]) -> Result<Vec<u8>, String> {
    let mut fields = form_fields::parse_urlencoded(body)?;
    fields.sort_unstable();
    fields.dedup();
    Ok(form_fields::concat(&fields))
}

/// The values of `bodySHA256` in a URL.
fn digests(url: &str) -> impl Iterator<Item = &str> {
    let query = url.split_once('?').map_or("", |(_, query)| query);
    query.split('&').filter_map(|pair| pair.strip_prefix("bodySHA256="))
}

/// The digest by which the URL vouches for a body that is no form; `None`: the body is empty.
fn body_digest(body: &[u8], url: &str) -> Result<Option<Vec<u8>>, String> {
    let mut sums = digests(url);
    match (sums.next(), sums.next()) {
        (Some(sum), None) => {
            let sum = hex::decode(sum).map_err(|_| "bodySHA256 in the URL is not hex")?;
            Ok(Some(sum))
        }
        (None, _) if body.is_empty() => Ok(None),
        (None, _) => Err("no bodySHA256 in the URL, and the body is no form".to_owned()),
        (Some(_), Some(_)) => Err("more than one bodySHA256 in the URL".to_owned()),
    }
}

impl Scheme for Twilio {
    fn check(&self, asked: &SignedRequest<'_>, _: i64) -> Result<Proof, String> {
        let signatures = parse::bare_signatures(asked, &self.header, Encoding::Base64)?;
        let keys = self.keys(asked)?;
        let public = url::public_url(self.url.as_ref(), asked);
        // A URL that vouches for the body does so whatever the type, which is not signed, says of it: as
        // a form without fields any body would do.
        let is_form = form_fields::is_form(asked.optional_header("content-type")?);
        let (fields, digest) = match is_form && digests(&public).next().is_none() {
            true => (signed_fields(asked.body)?, None),
            false => (Vec::new(), body_digest(asked.body, &public)?),
        };
        let mut right = false;
        for url in url::with_and_without_port(&public) {
            right |= keys.signed_any(&[url.as_bytes(), &fields], &signatures);
        }
        if !right {
            return Err(MISMATCH.to_owned());
        }
        // The body is hashed last, where the signature holds.
        match digest {
            Some(sum) if sum != digest::digest(&digest::SHA256, asked.body).as_ref() => {
                Err("bodySHA256 in the URL is not the body's".to_owned())
            }
            _ => Ok(Proof::default()),
        }
    }

    fn work(&self, asked: &SignedRequest<'_>) -> usize {
        // The URL with its port and without.
        self.sha1.work(2, asked.body.len())
    }

    fn sign(&self, draft: &mut OutgoingRequest, _: i64) -> Result<(), String> {
        let is_form = form_fields::is_form(draft.header("content-type").map(str::as_bytes));
        if !is_form {
            let sum = digest::digest(&digest::SHA256, &draft.body);
            draft.set_query_param("bodySHA256", hex::encode(sum).as_bytes());
        }
        let url = draft.url(self.url.as_ref());
        let fields = match is_form {
            true => signed_fields(&draft.body)?,
            false => body_digest(&draft.body, &url).map(|_| Vec::new())?,
        };
        let signature = self.sha1.sign(&[url.as_bytes(), &fields], draft.corrupt_signature)?;
        let signature = parse::encode_signature(Encoding::Base64, &signature);
        draft.set_header(&self.header, signature);
        Ok(())
    }

    fn success_response(&self, _: &[u8]) -> SenderResponse {
        SenderResponse::empty(204)
    }
}
