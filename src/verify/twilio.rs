//! `twilio` (twilio.com/docs/usage/webhooks/webhooks-security): base64 HMAC-SHA1 over the public
//! URL and the sorted fields of a form. For another body, `bodySHA256` in the URL is its digest.
//!
//! The URL is tried with and without its port, as Twilio's libraries do. A webhook rule with a
//! separate key signs with SHA-256 and says so in a header (github.com/twilio/twilio-node, its
//! examples).

use ring::{digest, hmac};

use super::{
    Encoding, HmacKeys, MISMATCH, OutgoingRequest, Preset, PresetLocation, Proof, PublicUrl,
    Reason, SenderResponse, SignedRequest, VerificationScheme, form_fields, parse, url,
};
use crate::media_type::BodyFormat;

pub(super) const PRESET: Preset =
    Preset::own("twilio", PresetLocation::Header("x-twilio-signature"), |header, settings| {
        Box::new(Twilio {
            sha1: settings.hmac_keys(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY),
            sha256: settings.hmac_keys(hmac::HMAC_SHA256),
            header: header.to_owned(),
            url: settings.url.cloned(),
        })
    })
    .with_key_header(&["i-twilio-idempotency-token"])
    .with_sample("MessageSid=SM{id}&From=%2B15005550006&Body=test")
    .with_forms();

const SETTINGS: &str = "x-twilio-webhooks-signature-settings";

struct Twilio {
    sha1: HmacKeys,
    sha256: HmacKeys,
    header: String,
    url: Option<PublicUrl>,
}

impl Twilio {
    fn keys(&self, request: &SignedRequest<'_>) -> Result<&HmacKeys, Reason> {
        let Some(settings) = request.optional_header(SETTINGS)? else { return Ok(&self.sha1) };
        let parts = settings.split(|&byte| byte == b',').map(<[u8]>::trim_ascii);
        match parts.filter_map(|part| part.strip_prefix(b"algorithm=")).next() {
            Some(b"HMAC_SHA256") => Ok(&self.sha256),
            Some(b"HMAC_SHA1") | None => Ok(&self.sha1),
            Some(_) => Err("signature has an unknown algorithm".into()),
        }
    }
}

/// Returns the fields of a form sorted, each pair of name and value once.
fn signed_fields(body: &[u8]) -> Result<Vec<u8>, Reason> {
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
fn body_digest(body: &[u8], url: &str) -> Result<Option<Vec<u8>>, Reason> {
    let mut digests = body_digests(url);
    match (digests.next(), digests.next()) {
        (Some(digest), None) => {
            let digest = hex::decode(digest).map_err(|_| "bodySHA256 in the URL is not hex")?;
            Ok(Some(digest))
        }
        (None, _) if body.is_empty() => Ok(None),
        (None, _) => Err("no bodySHA256 in the URL, and the body is not a form".into()),
        (Some(_), Some(_)) => Err("more than one bodySHA256 in the URL".into()),
    }
}

impl VerificationScheme for Twilio {
    fn check(&self, request: &SignedRequest<'_>, _: i64) -> Result<Proof, Reason> {
        let signatures = parse::header_signatures(request, &self.header, Encoding::Base64)?;
        let keys = self.keys(request)?;
        let public_url = url::public_url(self.url.as_ref(), request);
        // A digest in the URL applies regardless of the unsigned Content-Type. Otherwise any body
        // without fields would pass as a form.
        let is_form = request.body_format()? == BodyFormat::Form;
        let (fields, digest) = match is_form && body_digests(&public_url).next().is_none() {
            true => (signed_fields(request.body)?, None),
            false => (Vec::new(), body_digest(request.body, &public_url)?),
        };
        let mut is_valid = false;
        for url in url::with_and_without_port(&public_url) {
            is_valid |= keys.verify_any(&[url.as_bytes(), &fields], &signatures);
        }
        if !is_valid {
            return Err(MISMATCH.into());
        }
        // The body is hashed last, only if the signature is valid.
        match digest {
            Some(expected)
                if expected != digest::digest(&digest::SHA256, request.body).as_ref() =>
            {
                Err("bodySHA256 in the URL does not match the body".into())
            }
            _ => Ok(Proof::default()),
        }
    }

    fn check_cost(&self, request: &SignedRequest<'_>) -> usize {
        // The URL with its port and without.
        self.sha1.check_cost(2, request.body.len())
    }

    fn sign(&self, outgoing: &mut OutgoingRequest, _: i64) -> Result<(), Reason> {
        let is_form = outgoing.body_format() == BodyFormat::Form;
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
