//! `standard`: Standard Webhooks (standardwebhooks.com, its specification, "Verifying webhook
//! authenticity") and Svix (docs.svix.com, "Verifying payloads manually"). They differ in the names
//! of their headers. `v1` is HMAC-SHA256 and `v1a` is Ed25519, over `{id}.{timestamp}.{body}`. One
//! valid signature is enough. Unknown versions are skipped.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::VerifyingKey;
use ring::hmac;

use super::discord::verify_ed25519;
use super::{
    Encoding, FIVE_MINUTES, HmacKeys, MAX_SIGNATURES, MISMATCH, OutgoingRequest, Preset,
    PresetLocation, Proof, Reason, SchemeSettings, SecretFormat, SignedRequest, StandardKey,
    TimestampUnit, Tolerance, VerificationScheme, key_material, parse,
};
use crate::domain::job_plan::hash_key;

pub(super) const PRESET: Preset = Preset {
    signed_key_headers: &["webhook-id", "svix-id"],
    ..Preset::own("standard", PresetLocation::Fixed, |_, settings| {
        Box::new(Standard::new(settings))
    })
    .with_tolerance(FIVE_MINUTES)
    .with_secret_format(SecretFormat::StandardVerifier)
    .with_signed_key()
};

struct Standard {
    hmac_keys: HmacKeys,
    public_keys: Vec<VerifyingKey>,
    tolerance: Tolerance,
}

impl Standard {
    fn new(settings: &SchemeSettings<'_>) -> Self {
        let (mut hmac_keys, mut public_keys) = (Vec::new(), Vec::new());
        // The configuration has rejected keys that cannot be parsed.
        let parse = |secret: &&[u8]| key_material::parse_standard_keys(secret).unwrap_or_default();
        for key in settings.secrets.iter().flat_map(parse) {
            match key {
                StandardKey::Shared(key) => hmac_keys.push(key),
                StandardKey::Public(key) => public_keys.push(key),
            }
        }
        Self {
            hmac_keys: HmacKeys::new(hmac::HMAC_SHA256, hmac_keys.iter().map(Vec::as_slice)),
            public_keys,
            tolerance: settings.required_tolerance(),
        }
    }
}

/// The readable signatures of one header.
#[derive(Default)]
struct ParsedSignatures {
    shared: Vec<Vec<u8>>,
    public: Vec<Vec<u8>>,
}

/// Parses `v1,BASE64 v1a,BASE64`. A comma may stand for a blank, and several lines count as one.
fn parse_signatures(request: &SignedRequest<'_>, header: &str) -> Result<ParsedSignatures, Reason> {
    request.require_header(header)?;
    let (mut signatures, mut has_known_version, mut total) =
        (ParsedSignatures::default(), false, 0);
    let mut version: &[u8] = b"";
    let words = parse::header_elements(request, header)
        .flat_map(|element| element.split(|&byte| byte == b' '));
    for word in words.filter(|word| !word.is_empty()) {
        if is_version(word) {
            version = word;
            continue;
        }
        total += 1;
        if total > MAX_SIGNATURES {
            break;
        }
        let list = match std::mem::take(&mut version) {
            b"v1" => &mut signatures.shared,
            b"v1a" => &mut signatures.public,
            _ => continue,
        };
        has_known_version = true;
        list.extend(parse::decode_signature(Encoding::Base64, word));
    }
    match has_known_version {
        false => Err(format!("no v1 or v1a in {header}").into()),
        true if signatures.shared.is_empty() && signatures.public.is_empty() => {
            Err("signature is not base64".into())
        }
        true => Ok(signatures),
    }
}

/// Returns whether the word is a version such as `v1` or `v1a`. No signature has this form.
fn is_version(word: &[u8]) -> bool {
    let Some((b'v', rest)) = word.split_first() else { return false };
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    digits > 0 && rest.len() <= digits + 1 && rest[digits..].iter().all(u8::is_ascii_lowercase)
}

/// Number of digits of a timestamp in seconds, until the year 2286.
const TIMESTAMP_DIGITS: usize = 10;

/// Rejects a body that starts like the end of a timestamp, such as `1764000000.`. If an id contains
/// dots, the signed text could be split at another dot, and a replay would look like a new message.
fn reject_timestamp_at_start(body: &[u8]) -> Result<(), Reason> {
    let digits = body.iter().take_while(|byte| byte.is_ascii_digit()).count();
    match digits >= TIMESTAMP_DIGITS && body.get(digits) == Some(&b'.') {
        true => Err("body starts like the end of a timestamp: digits and a dot".into()),
        false => Ok(()),
    }
}

impl VerificationScheme for Standard {
    fn check(&self, request: &SignedRequest<'_>, now_ms: i64) -> Result<Proof, Reason> {
        let has_header = |name: &str| request.headers.iter().any(|(other, _)| *other == name);
        let [id, timestamp, signature] =
            match has_header("svix-signature") && !has_header("webhook-signature") {
                true => ["svix-id", "svix-timestamp", "svix-signature"],
                false => ["webhook-id", "webhook-timestamp", "webhook-signature"],
            };
        let signatures = parse_signatures(request, signature)?;
        let (id, timestamp) = (request.required_header(id)?, request.required_header(timestamp)?);
        // A duplicate may be recognized by either header, so the unsigned one must not differ.
        let ids =
            request.headers.iter().filter(|(name, _)| matches!(*name, "webhook-id" | "svix-id"));
        if ids.into_iter().any(|(_, other)| *other != id) {
            return Err("webhook-id and svix-id differ".into());
        }
        let parts = [id, b".", timestamp, b".", request.body];
        let mut is_valid = self.hmac_keys.verify_any(&parts, &signatures.shared);
        if !self.public_keys.is_empty() && !signatures.public.is_empty() {
            let text = parts.concat();
            let mut pairs = parse::pair_signatures(&signatures.public, &self.public_keys, &text);
            is_valid |= pairs.any(|(signature, key)| verify_ed25519(key, &text, signature));
        }
        if !is_valid {
            return Err(MISMATCH.into());
        }
        reject_timestamp_at_start(request.body)?;
        let stale_reason =
            self.tolerance.check_timestamp_text(timestamp, TimestampUnit::Seconds, now_ms)?;
        let delivery_key = (!id.is_empty()).then(|| hash_key(b'h', &[id]));
        Ok(Proof { delivery_key, stale_reason })
    }

    fn check_cost(&self, request: &SignedRequest<'_>) -> usize {
        let bytes = request.body.len();
        let hmac_cost = self.hmac_keys.check_cost(1, bytes);
        if self.public_keys.is_empty() {
            return hmac_cost;
        }
        let headers = ["webhook-signature", "svix-signature"];
        let values = headers.iter().flat_map(|header| request.header_values(header));
        let signatures = values.map(|value| memchr::memmem::find_iter(value, b"v1a").count()).sum();
        hmac_cost + parse::public_key_cost(signatures, self.public_keys.len(), bytes)
    }

    fn sign(&self, outgoing: &mut OutgoingRequest, now_ms: i64) -> Result<(), Reason> {
        if self.hmac_keys.is_empty() && !self.public_keys.is_empty() {
            return Err(super::PUBLIC_KEY_ONLY.into());
        }
        let timestamp = parse::format_timestamp(TimestampUnit::Seconds, now_ms);
        let id = outgoing.id.clone();
        let parts = [id.as_bytes(), b".", timestamp.as_bytes(), b".", &outgoing.body];
        let signature = STANDARD.encode(self.hmac_keys.sign(&parts, outgoing.is_corrupt)?);
        outgoing.set_header("webhook-id", id);
        outgoing.set_header("webhook-timestamp", timestamp);
        outgoing.set_header("webhook-signature", format!("v1,{signature}"));
        Ok(())
    }
}
