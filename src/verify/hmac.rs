//! An HMAC over a text put together of the request: what `scheme = "hmac"` says, and what many
//! senders do (`hmac_presets.rs` has a row for each of those).

use ring::hmac;

use super::parse::{self, MISMATCH, Tolerance};
use super::secrets::HmacKeys;
use super::{KeyPlace, OutgoingRequest, Proof, Scheme, SignedRequest, url};
use crate::config::{Algorithm, Hmac, PublicUrl, SignedPart, Verify};
use crate::planner::hash_key;

/// What a recipe says, and whose keys sign.
pub(super) struct HmacScheme {
    keys: HmacKeys,
    header: String,
    recipe: Hmac,
    tolerance: Option<Tolerance>,
    url: Option<PublicUrl>,
    oddity: Quirk,
    key_place: KeyPlace,
}

/// In what a sender differs from a plain recipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Quirk {
    None,
    /// The prefix may be missing, and the sender leaves it out.
    PrefixOptional,
    /// Some escapes of the URL are decoded before it is signed.
    DecodeUrlEscapes,
}

impl HmacScheme {
    pub fn new(recipe: Hmac, verify: &Verify, secrets: &[&[u8]]) -> Self {
        let algorithm = match recipe.algorithm {
            Algorithm::Sha1 => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
            Algorithm::Sha512 => hmac::HMAC_SHA512,
            Algorithm::Sha256 => hmac::HMAC_SHA256,
        };
        Self {
            keys: HmacKeys::new(algorithm, secrets.iter().copied()),
            header: verify.header.clone().unwrap_or_default(),
            recipe,
            tolerance: verify.tolerance.map(Tolerance::new),
            url: verify.url.clone(),
            oddity: Quirk::None,
            key_place: KeyPlace::Nowhere,
        }
    }

    pub fn with_quirk(self, oddity: Quirk, key_place: KeyPlace) -> Self {
        Self { oddity, key_place, ..self }
    }

    /// What is signed where the URL is this one.
    fn parts<'t>(
        &'t self,
        asked: &SignedRequest<'t>,
        (timestamp, id): (&'t [u8], &'t [u8]),
        url: &'t str,
    ) -> Vec<&'t [u8]> {
        let part = |part: &'t SignedPart| match part {
            SignedPart::Text(text) => text.as_bytes(),
            SignedPart::Body => asked.body,
            SignedPart::Timestamp => timestamp,
            SignedPart::Id => id,
            SignedPart::Url => url.as_bytes(),
            SignedPart::Method => asked.method.as_bytes(),
        };
        self.recipe.signed.iter().map(part).collect()
    }

    fn signatures(&self, asked: &SignedRequest<'_>) -> Result<Vec<Vec<u8>>, String> {
        asked.require(&self.header)?;
        let read = |value| self.signature(value);
        // Such a prefix can't be told from a list.
        if self.recipe.prefix.contains(',') {
            return parse::signatures(asked.lines(&self.header), &self.header, read);
        }
        parse::signatures(parse::elements(asked, &self.header), &self.header, read)
    }

    fn signature(&self, value: &[u8]) -> Result<Vec<u8>, String> {
        let text = match value.strip_prefix(self.recipe.prefix.as_bytes()) {
            Some(text) => text,
            None if self.oddity == Quirk::PrefixOptional => value,
            None => {
                return Err(format!(
                    "{} does not begin with {:?}",
                    self.header, self.recipe.prefix
                ));
            }
        };
        Ok(parse::decode_signature(self.recipe.encoding, text)?)
    }
}

impl Scheme for HmacScheme {
    fn check(&self, asked: &SignedRequest<'_>, now_ms: i64) -> Result<Proof, String> {
        let signatures = self.signatures(asked)?;
        let header = |name: &Option<String>| match name {
            Some(name) => asked.required_header(name),
            None => Ok(&b""[..]),
        };
        let timestamp = header(&self.recipe.timestamp_header)?;
        let id = header(&self.recipe.id_header)?;
        let mut urls = vec![String::new()];
        if self.recipe.signed.contains(&SignedPart::Url) {
            urls = vec![url::public_url(self.url.as_ref(), asked)];
        }
        if self.oddity == Quirk::DecodeUrlEscapes {
            urls.push(url::decode_hubspot_escapes(&urls[0]));
        }
        let mut right = false;
        for url in &urls {
            right |= self.keys.signed_any(&self.parts(asked, (timestamp, id), url), &signatures);
        }
        if !right {
            return Err(MISMATCH.to_owned());
        }
        let stale = match self.tolerance {
            Some(tolerance) if self.recipe.timestamp_header.is_some() => {
                tolerance.stale(timestamp, self.recipe.timestamp_unit, now_ms)?
            }
            _ => None,
        };
        let mut proof = Proof::of_body(self.key_place, asked.body, stale)?;
        if asked.body.is_empty()
            && self.key_place != KeyPlace::Nowhere
            && self.recipe.signed.contains(&SignedPart::Timestamp)
        {
            // All that tells it from the next: the time, and the URL where it is signed.
            let signed = self.parts(asked, (timestamp, id), &urls[0]);
            proof.delivery_key = Some(hash_key(b's', &signed));
        }
        Ok(proof)
    }

    fn work(&self, asked: &SignedRequest<'_>) -> usize {
        let urls = if self.oddity == Quirk::DecodeUrlEscapes { 2 } else { 1 };
        self.keys.work(urls, asked.body.len())
    }

    fn sign(&self, draft: &mut OutgoingRequest, now_ms: i64) -> Result<(), String> {
        let timestamp = parse::format_timestamp(self.recipe.timestamp_unit, now_ms);
        let id = draft.id.clone();
        let timed = self.recipe.timestamp_header.iter().map(|name| (name, &timestamp));
        for (name, value) in timed.chain(self.recipe.id_header.iter().map(|name| (name, &id))) {
            draft.set_header(name, value);
        }
        let mut url = draft.url(self.url.as_ref());
        if self.oddity == Quirk::DecodeUrlEscapes {
            url = url::decode_hubspot_escapes(&url);
        }
        let lines = draft.header_refs();
        let asked = draft.as_signed_request(&lines);
        let parts = self.parts(&asked, (timestamp.as_bytes(), id.as_bytes()), &url);
        let signature = self.keys.sign(&parts, draft.corrupt_signature)?;
        let signature = parse::encode_signature(self.recipe.encoding, &signature);
        let prefix = match self.oddity {
            Quirk::PrefixOptional => "",
            Quirk::None | Quirk::DecodeUrlEscapes => &self.recipe.prefix,
        };
        let value = format!("{prefix}{signature}");
        draft.set_header(&self.header, value);
        Ok(())
    }
}
