//! An HMAC over a text that is built from parts of the request: `scheme = "hmac"`, and the presets
//! that need no more.

use ring::hmac;

use super::delivery_key::DeliveryKeyLocation;
use super::hmac_spec::{
    Algorithm, Encoding, HmacSpec, SignedPart, TimestampUnit, parse_signed_parts,
};
use super::parse::{self, MISMATCH, Tolerance};
use super::proof::{Proof, Reason};
use super::secrets::HmacKeys;
use super::settings::SchemeSettings;
use super::url::PublicUrl;
use super::{OutgoingRequest, SignedRequest, VerificationScheme, url};
use crate::domain::job_plan::{KeyHash, hash_key};

/// An HMAC scheme with its keys.
pub(super) struct HmacScheme {
    keys: HmacKeys,
    spec: HmacSpec,
    tolerance: Option<Tolerance>,
    url: Option<PublicUrl>,
    /// `hmac` has none.
    preset: Option<HmacPreset>,
}

/// How one sender signs.
#[derive(Clone, Copy, Debug)]
pub(super) struct HmacPreset {
    pub algorithm: Algorithm,
    pub prefix: &'static str,
    pub encoding: Encoding,
    /// As in `signed` of the scheme `hmac`.
    pub signed: &'static str,
    /// The sender omits the prefix, and a prefix is accepted.
    pub is_prefix_optional: bool,
    /// The sender may have signed the URL in this form.
    pub rewrite_url: Option<fn(&str) -> String>,
    /// The header of the timestamp.
    pub timestamp: Option<(&'static str, TimestampUnit)>,
    /// Where the body has the sender's key of the delivery.
    pub key: Option<DeliveryKeyLocation>,
}

impl HmacPreset {
    /// HMAC-SHA256 of the body in hex.
    pub const fn hex(prefix: &'static str) -> Self {
        Self { encoding: Encoding::Hex, prefix, ..Self::base64("{body}") }
    }

    /// HMAC-SHA256 of these parts in base64.
    pub const fn base64(signed: &'static str) -> Self {
        Self {
            algorithm: Algorithm::Sha256,
            prefix: "",
            encoding: Encoding::Base64,
            signed,
            is_prefix_optional: false,
            rewrite_url: None,
            timestamp: None,
            key: None,
        }
    }
}

impl HmacScheme {
    pub fn new(spec: HmacSpec, settings: &SchemeSettings<'_>) -> Self {
        let algorithm = match spec.algorithm {
            Algorithm::Sha1 => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
            Algorithm::Sha512 => hmac::HMAC_SHA512,
            Algorithm::Sha256 => hmac::HMAC_SHA256,
        };
        Self {
            keys: settings.hmac_keys(algorithm),
            spec,
            tolerance: settings.tolerance,
            url: settings.url.cloned(),
            preset: None,
        }
    }

    pub fn of_preset(preset: HmacPreset, header: &str, settings: &SchemeSettings<'_>) -> Self {
        let spec = HmacSpec {
            header: header.to_owned(),
            algorithm: preset.algorithm,
            prefix: preset.prefix.to_owned(),
            encoding: preset.encoding,
            // An empty list would sign nothing. The test `each_preset_has_valid_signed_parts`
            // excludes that.
            signed: parse_signed_parts(preset.signed).unwrap_or_default(),
            timestamp_header: preset.timestamp.map(|(header, _)| header.to_owned()),
            timestamp_unit: preset.timestamp.map_or(TimestampUnit::Seconds, |(_, unit)| unit),
            id_header: None,
        };
        Self { preset: Some(preset), ..Self::new(spec, settings) }
    }

    fn is_prefix_optional(&self) -> bool {
        self.preset.is_some_and(|preset| preset.is_prefix_optional)
    }

    fn rewrite_url(&self) -> Option<fn(&str) -> String> {
        self.preset?.rewrite_url
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
        self.spec.signed.iter().map(part).collect()
    }

    fn signatures(&self, request: &SignedRequest<'_>) -> Result<Vec<Vec<u8>>, Reason> {
        request.require_header(&self.spec.header)?;
        let read = |value| self.signature(value);
        // A prefix with a comma cannot be distinguished from a list.
        if self.spec.prefix.contains(',') {
            return parse::parse_signatures(
                request.header_values(&self.spec.header),
                &self.spec.header,
                read,
            );
        }
        parse::parse_signatures(
            parse::header_elements(request, &self.spec.header),
            &self.spec.header,
            read,
        )
    }

    fn signature(&self, value: &[u8]) -> Result<Vec<u8>, Reason> {
        let text = match value.strip_prefix(self.spec.prefix.as_bytes()) {
            Some(text) => text,
            None if self.is_prefix_optional() => value,
            None => {
                let HmacSpec { header, prefix, .. } = &self.spec;
                return Err(format!("{header} does not begin with {prefix:?}").into());
            }
        };
        Ok(parse::decode_signature(self.spec.encoding, text)?)
    }
}

impl VerificationScheme for HmacScheme {
    fn check(&self, request: &SignedRequest<'_>, now_ms: i64) -> Result<Proof, Reason> {
        let signatures = self.signatures(request)?;
        let header = |name: &Option<String>| match name {
            Some(name) => request.required_header(name),
            None => Ok(&b""[..]),
        };
        let timestamp = header(&self.spec.timestamp_header)?;
        let id = header(&self.spec.id_header)?;
        let mut urls = vec![String::new()];
        if self.spec.signed.contains(&SignedPart::Url) {
            urls = vec![url::public_url(self.url.as_ref(), request)];
        }
        if let Some(rewrite) = self.rewrite_url() {
            urls.push(rewrite(&urls[0]));
        }
        let mut is_valid = false;
        for url in &urls {
            is_valid |=
                self.keys.verify_any(&self.parts(request, (timestamp, id), url), &signatures);
        }
        if !is_valid {
            return Err(MISMATCH.into());
        }
        let stale_reason = match self.tolerance {
            Some(tolerance) if self.spec.timestamp_header.is_some() => {
                tolerance.check_timestamp_text(timestamp, self.spec.timestamp_unit, now_ms)?
            }
            _ => None,
        };
        let Some(key) = self.preset.and_then(|preset| preset.key) else {
            return Ok(Proof { delivery_key: None, stale_reason });
        };
        let mut proof = Proof { delivery_key: key.read_key(request.body)?, stale_reason };
        if request.body.is_empty() && self.spec.signed.contains(&SignedPart::Timestamp) {
            // Only the timestamp, and the URL where it is signed, distinguish it from the next
            // request.
            let signed = self.parts(request, (timestamp, id), &urls[0]);
            proof.delivery_key = Some(hash_key(b's', &signed));
        }
        Ok(proof)
    }

    fn key_in_body(&self, request: &SignedRequest<'_>) -> Option<KeyHash> {
        self.preset?.key?.read_key(request.body).ok()?
    }

    fn check_cost(&self, request: &SignedRequest<'_>) -> usize {
        self.keys.check_cost(1 + usize::from(self.rewrite_url().is_some()), request.body.len())
    }

    fn sign(&self, outgoing: &mut OutgoingRequest, now_ms: i64) -> Result<(), Reason> {
        let timestamp = parse::format_timestamp(self.spec.timestamp_unit, now_ms);
        let id = outgoing.id.clone();
        let timestamp_header = self.spec.timestamp_header.iter().map(|name| (name, &timestamp));
        for (name, value) in
            timestamp_header.chain(self.spec.id_header.iter().map(|name| (name, &id)))
        {
            outgoing.set_header(name, value);
        }
        let mut url = outgoing.url(self.url.as_ref());
        if let Some(rewrite) = self.rewrite_url() {
            url = rewrite(&url);
        }
        let lines = outgoing.header_refs();
        let request = outgoing.as_signed_request(&lines);
        let parts = self.parts(&request, (timestamp.as_bytes(), id.as_bytes()), &url);
        let signature = self.keys.sign(&parts, outgoing.is_corrupt)?;
        let signature = parse::encode_signature(self.spec.encoding, &signature);
        let prefix = if self.is_prefix_optional() { "" } else { &self.spec.prefix };
        let value = format!("{prefix}{signature}");
        outgoing.set_header(&self.spec.header, value);
        Ok(())
    }
}
