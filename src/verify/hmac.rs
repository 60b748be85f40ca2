//! An HMAC over a text that is built from parts of the request: `scheme = "hmac"`, and the presets
//! in `hmac_presets.rs`.

use ring::hmac;

use super::parse::{self, MISMATCH, TimestampTolerance};
use super::secrets::HmacKeys;
use super::{DeliveryKeyLocation, OutgoingRequest, Proof, SignedRequest, VerificationScheme, url};
use crate::config::{Algorithm, Hmac, PublicUrl, SignedPart, Verify};
use crate::planner::hash_key;

/// An HMAC scheme with its keys.
pub(super) struct HmacScheme {
    keys: HmacKeys,
    header: String,
    config: Hmac,
    tolerance: Option<TimestampTolerance>,
    url: Option<PublicUrl>,
    quirk: Quirk,
    key_location: DeliveryKeyLocation,
}

/// How a preset differs from a plain `scheme = "hmac"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Quirk {
    None,
    /// The prefix is optional, and the sender omits it.
    PrefixOptional,
    /// The sender decodes some escapes of the URL before it signs.
    DecodeUrlEscapes,
}

impl HmacScheme {
    pub fn new(config: Hmac, verify: &Verify, secrets: &[&[u8]]) -> Self {
        let algorithm = match config.algorithm {
            Algorithm::Sha1 => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
            Algorithm::Sha512 => hmac::HMAC_SHA512,
            Algorithm::Sha256 => hmac::HMAC_SHA256,
        };
        Self {
            keys: HmacKeys::new(algorithm, secrets.iter().copied()),
            header: verify.header.clone().unwrap_or_default(),
            config,
            tolerance: verify.tolerance.map(TimestampTolerance::new),
            url: verify.url.clone(),
            quirk: Quirk::None,
            key_location: DeliveryKeyLocation::None,
        }
    }

    /// Sets how the sender differs, and where its delivery key is.
    pub fn with_quirk(self, quirk: Quirk, key_location: DeliveryKeyLocation) -> Self {
        Self { quirk, key_location, ..self }
    }

    /// Returns the signed parts for this URL.
    fn parts<'t>(
        &'t self,
        request: &SignedRequest<'t>,
        (timestamp, id): (&'t [u8], &'t [u8]),
        url: &'t str,
    ) -> Vec<&'t [u8]> {
        let part = |part: &'t SignedPart| match part {
            SignedPart::Text(text) => text.as_bytes(),
            SignedPart::Body => request.body,
            SignedPart::Timestamp => timestamp,
            SignedPart::Id => id,
            SignedPart::Url => url.as_bytes(),
            SignedPart::Method => request.method.as_bytes(),
        };
        self.config.signed.iter().map(part).collect()
    }

    fn signatures(&self, request: &SignedRequest<'_>) -> Result<Vec<Vec<u8>>, String> {
        request.require_header(&self.header)?;
        let read = |value| self.signature(value);
        // A prefix with a comma cannot be distinguished from a list.
        if self.config.prefix.contains(',') {
            return parse::parse_signatures(
                request.header_values(&self.header),
                &self.header,
                read,
            );
        }
        parse::parse_signatures(parse::header_elements(request, &self.header), &self.header, read)
    }

    fn signature(&self, value: &[u8]) -> Result<Vec<u8>, String> {
        let text = match value.strip_prefix(self.config.prefix.as_bytes()) {
            Some(text) => text,
            None if self.quirk == Quirk::PrefixOptional => value,
            None => {
                return Err(format!(
                    "{} does not begin with {:?}",
                    self.header, self.config.prefix
                ));
            }
        };
        Ok(parse::decode_signature(self.config.encoding, text)?)
    }
}

impl VerificationScheme for HmacScheme {
    fn check(&self, request: &SignedRequest<'_>, now_ms: i64) -> Result<Proof, String> {
        let signatures = self.signatures(request)?;
        let header = |name: &Option<String>| match name {
            Some(name) => request.required_header(name),
            None => Ok(&b""[..]),
        };
        let timestamp = header(&self.config.timestamp_header)?;
        let id = header(&self.config.id_header)?;
        let mut urls = vec![String::new()];
        if self.config.signed.contains(&SignedPart::Url) {
            urls = vec![url::public_url(self.url.as_ref(), request)];
        }
        if self.quirk == Quirk::DecodeUrlEscapes {
            urls.push(url::decode_hubspot_escapes(&urls[0]));
        }
        let mut is_valid = false;
        for url in &urls {
            is_valid |=
                self.keys.verify_any(&self.parts(request, (timestamp, id), url), &signatures);
        }
        if !is_valid {
            return Err(MISMATCH.to_owned());
        }
        let stale_reason = match self.tolerance {
            Some(tolerance) if self.config.timestamp_header.is_some() => {
                tolerance.check_timestamp_text(timestamp, self.config.timestamp_unit, now_ms)?
            }
            _ => None,
        };
        let mut proof = Proof::from_body(self.key_location, request.body, stale_reason)?;
        if request.body.is_empty()
            && self.key_location != DeliveryKeyLocation::None
            && self.config.signed.contains(&SignedPart::Timestamp)
        {
            // Only the timestamp, and the URL where it is signed, distinguish it from the next
            // request.
            let signed = self.parts(request, (timestamp, id), &urls[0]);
            proof.delivery_key = Some(hash_key(b's', &signed));
        }
        Ok(proof)
    }

    fn check_cost(&self, request: &SignedRequest<'_>) -> usize {
        let urls = if self.quirk == Quirk::DecodeUrlEscapes { 2 } else { 1 };
        self.keys.check_cost(urls, request.body.len())
    }

    fn sign(&self, outgoing: &mut OutgoingRequest, now_ms: i64) -> Result<(), String> {
        let timestamp = parse::format_timestamp(self.config.timestamp_unit, now_ms);
        let id = outgoing.id.clone();
        let timestamp_header = self.config.timestamp_header.iter().map(|name| (name, &timestamp));
        for (name, value) in
            timestamp_header.chain(self.config.id_header.iter().map(|name| (name, &id)))
        {
            outgoing.set_header(name, value);
        }
        let mut url = outgoing.url(self.url.as_ref());
        if self.quirk == Quirk::DecodeUrlEscapes {
            url = url::decode_hubspot_escapes(&url);
        }
        let lines = outgoing.header_refs();
        let request = outgoing.as_signed_request(&lines);
        let parts = self.parts(&request, (timestamp.as_bytes(), id.as_bytes()), &url);
        let signature = self.keys.sign(&parts, outgoing.is_corrupt)?;
        let signature = parse::encode_signature(self.config.encoding, &signature);
        let prefix = match self.quirk {
            Quirk::PrefixOptional => "",
            Quirk::None | Quirk::DecodeUrlEscapes => &self.config.prefix,
        };
        let value = format!("{prefix}{signature}");
        outgoing.set_header(&self.header, value);
        Ok(())
    }
}
