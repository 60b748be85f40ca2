//! `twilio` (twilio.com/docs/usage/webhooks/webhooks-security): base64 HMAC-SHA1 over the public
//! URL and the sorted fields of a form. For another body, `bodySHA256` in the URL is its digest.
//!
//! The URL is tried with and without its port, as Twilio's libraries do. A webhook rule with a
//! separate key signs with SHA-256 and says so in a header (github.com/twilio/twilio-node, its
//! examples).

use ring::{digest, hmac};

use super::parse::{self, MISMATCH};
use super::secrets::HmacKeys;
use super::{
    OutgoingRequest, Proof, SenderResponse, SignedRequest, VerificationScheme, form_fields, url,
};
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

    fn keys(&self, request: &SignedRequest<'_>) -> Result<&HmacKeys, String> {
        let Some(settings) = request.optional_header(SETTINGS)? else { return Ok(&self.sha1) };
        let parts = settings.split(|&byte| byte == b',').map(<[u8]>::trim_ascii);
        match parts.filter_map(|part| part.strip_prefix(b"algorithm=")).next() {
            Some(b"HMAC_SHA256") => Ok(&self.sha256),
            Some(b"HMAC_SHA1") | None => Ok(&self.sha1),
            Some(_) => Err("signature has an unknown algorithm".to_owned()),
        }
    }
}

/// Returns the fields of a form sorted, each pair of name and value once.
fn signed_fields(body: &[u8]) -> Result<Vec<u8>, String> {
    let mut fields = form_fields::parse_urlencoded(body)?;
    fields.sort_unstable();
    fields.dedup();
    Ok(form_fields::concat(&fields))
}

/// Iterates over the values of `bodySHA256` in a URL.
fn body_digests(url: &str) -> impl Iterator<Item = &str> {
    let query = url.split_once('?').map_or("", |(_, query)| query);
    query.split('&').filter_map(|pair| pair.strip_prefix("bodySHA256="))
}

/// Returns the digest in the URL of a body that is not a form, or `None` for an empty body.
fn body_digest(body: &[u8], url: &str) -> Result<Option<Vec<u8>>, String> {
    let mut digests = body_digests(url);
    match (digests.next(), digests.next()) {
        (Some(digest), None) => {
            let digest = hex::decode(digest).map_err(|_| "bodySHA256 in the URL is not hex")?;
            Ok(Some(digest))
        }
        (None, _) if body.is_empty() => Ok(None),
        (None, _) => Err("no bodySHA256 in the URL, and the body is not a form".to_owned()),
        (Some(_), Some(_)) => Err("more than one bodySHA256 in the URL".to_owned()),
    }
}

impl VerificationScheme for Twilio {
    fn check(&self, request: &SignedRequest<'_>, _: i64) -> Result<Proof, String> {
        let signatures = parse::header_signatures(request, &self.header, Encoding::Base64)?;
        let keys = self.keys(request)?;
        let public_url = url::public_url(self.url.as_ref(), request);
        // A digest in the URL applies regardless of the unsigned Content-Type. Otherwise any body
        // without fields would pass as a form.
        let is_form = form_fields::is_form(request.optional_header("content-type")?);
        let (fields, digest) = match is_form && body_digests(&public_url).next().is_none() {
            true => (signed_fields(request.body)?, None),
            false => (Vec::new(), body_digest(request.body, &public_url)?),
        };
        let mut is_valid = false;
        for url in url::with_and_without_port(&public_url) {
            is_valid |= keys.verify_any(&[url.as_bytes(), &fields], &signatures);
        }
        if !is_valid {
            return Err(MISMATCH.to_owned());
        }
        // The body is hashed last, only if the signature is valid.
        match digest {
            Some(expected)
                if expected != digest::digest(&digest::SHA256, request.body).as_ref() =>
            {
                Err("bodySHA256 in the URL does not match the body".to_owned())
            }
            _ => Ok(Proof::default()),
        }
    }

    fn check_cost(&self, request: &SignedRequest<'_>) -> usize {
        // The URL with its port and without.
        self.sha1.check_cost(2, request.body.len())
    }

    fn sign(&self, outgoing: &mut OutgoingRequest, _: i64) -> Result<(), String> {
        let is_form = form_fields::is_form(outgoing.header("content-type").map(str::as_bytes));
        if !is_form {
            let digest = digest::digest(&digest::SHA256, &outgoing.body);
            outgoing.set_query_param("bodySHA256", hex::encode(digest).as_bytes());
        }
        let url = outgoing.url(self.url.as_ref());
        let fields = match is_form {
            true => signed_fields(&outgoing.body)?,
            false => body_digest(&outgoing.body, &url).map(|_| Vec::new())?,
        };
        let signature = self.sha1.sign(&[url.as_bytes(), &fields], outgoing.is_corrupt)?;
        let signature = parse::encode_signature(Encoding::Base64, &signature);
        outgoing.set_header(&self.header, signature);
        Ok(())
    }

    fn success_response(&self, _: &[u8]) -> SenderResponse {
        SenderResponse::empty(204)
    }
}
