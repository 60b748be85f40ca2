//! `standard`: Standard Webhooks (standardwebhooks.com, its specification, "Verifying webhook
//! authenticity") and Svix (docs.svix.com, "Verifying payloads manually"), which differ in the names
//! of their headers. `v1` is HMAC-SHA256, `v1a` Ed25519, over `{id}.{timestamp}.{body}`; any that is
//! right is enough, unknown versions are skipped.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::VerifyingKey;
use ring::hmac;

use super::discord::verify_ed25519;
use super::parse::{self, MISMATCH, SIGNATURES_MAX, Tolerance};
use super::secrets::HmacKeys;
use super::{OutgoingRequest, Proof, Scheme, SignedRequest};
use crate::config::key_material::{self, StandardKey};
use crate::config::{Encoding, TimestampUnit, Verify};
use crate::planner::hash_key;

pub(super) struct Standard {
    shared: HmacKeys,
    public: Vec<VerifyingKey>,
    tolerance: Tolerance,
}

impl Standard {
    pub fn new(verify: &Verify, secrets: &[&[u8]]) -> Self {
        let (mut shared, mut public) = (Vec::new(), Vec::new());
        // What can't be read was a fault when it was.
        for key in secrets
            .iter()
            .flat_map(|secret| key_material::parse_standard_keys(secret).unwrap_or_default())
        {
            match key {
                StandardKey::Shared(key) => shared.push(key),
                StandardKey::Public(key) => public.push(key),
            }
        }
        Self {
            shared: HmacKeys::new(hmac::HMAC_SHA256, shared.iter().map(Vec::as_slice)),
            public,
            tolerance: Tolerance::of(verify),
        }
    }
}

/// Signatures of one header that can be read.
#[derive(Default)]
struct ParsedSignatures {
    shared: Vec<Vec<u8>>,
    public: Vec<Vec<u8>>,
}

/// Reads `v1,BASE64 v1a,BASE64`; a comma will do where a blank should be, and several lines are one.
fn parse_signatures(asked: &SignedRequest<'_>, header: &str) -> Result<ParsedSignatures, String> {
    asked.require(header)?;
    let (mut found, mut known, mut total) = (ParsedSignatures::default(), false, 0);
    let mut version: &[u8] = b"";
    let words =
        parse::elements(asked, header).flat_map(|element| element.split(|&byte| byte == b' '));
    for word in words.filter(|word| !word.is_empty()) {
        if is_version(word) {
            version = word;
            continue;
        }
        total += 1;
        if total > SIGNATURES_MAX {
            break;
        }
        let list = match std::mem::take(&mut version) {
            b"v1" => &mut found.shared,
            b"v1a" => &mut found.public,
            _ => continue,
        };
        known = true;
        list.extend(parse::decode_signature(Encoding::Base64, word));
    }
    match known {
        false => Err(format!("no v1 or v1a in {header}")),
        true if found.shared.is_empty() && found.public.is_empty() => {
            Err("signature is not base64".to_owned())
        }
        true => Ok(found),
    }
}

/// `v1`, `v1a` and the like, which no signature looks like.
fn is_version(word: &[u8]) -> bool {
    let Some((b'v', rest)) = word.split_first() else { return false };
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    digits > 0 && rest.len() <= digits + 1 && rest[digits..].iter().all(u8::is_ascii_lowercase)
}

/// Digits of a time stamp in seconds, until the year 2286.
const STAMP_DIGITS: usize = 10;

/// Refuses a body that begins as a time stamp ends, `1764000000.`. Where an id has dots, what is signed could
/// be cut at others of them, and one message look like two.
fn check_end_of_stamp(body: &[u8]) -> Result<(), String> {
    let digits = body.iter().take_while(|byte| byte.is_ascii_digit()).count();
    match digits >= STAMP_DIGITS && body.get(digits) == Some(&b'.') {
        true => Err("body begins as a time stamp ends".to_owned()),
        false => Ok(()),
    }
}

impl Scheme for Standard {
    fn check(&self, asked: &SignedRequest<'_>, now_ms: i64) -> Result<Proof, String> {
        let has = |name: &str| asked.headers.iter().any(|(found, _)| *found == name);
        let [id, timestamp, signature] = match has("svix-signature") && !has("webhook-signature") {
            true => ["svix-id", "svix-timestamp", "svix-signature"],
            false => ["webhook-id", "webhook-timestamp", "webhook-signature"],
        };
        let signatures = parse_signatures(asked, signature)?;
        let (id, timestamp) = (asked.required_header(id)?, asked.required_header(timestamp)?);
        // A repeat is known by either: one that nobody signed must not stand for the other.
        let ids =
            asked.headers.iter().filter(|(name, _)| matches!(*name, "webhook-id" | "svix-id"));
        if ids.into_iter().any(|(_, other)| *other != id) {
            return Err("webhook-id and svix-id differ".to_owned());
        }
        let parts = [id, b".", timestamp, b".", asked.body];
        let mut right = self.shared.signed_any(&parts, &signatures.shared);
        if !self.public.is_empty() && !signatures.public.is_empty() {
            let text = parts.concat();
            let mut pairs = parse::pairs(&signatures.public, &self.public, &text);
            right |= pairs.any(|(signature, key)| verify_ed25519(key, &text, signature));
        }
        if !right {
            return Err(MISMATCH.to_owned());
        }
        check_end_of_stamp(asked.body)?;
        let stale = self.tolerance.stale(timestamp, TimestampUnit::Seconds, now_ms)?;
        let delivery_key = (!id.is_empty()).then(|| hash_key(b'h', &[id]));
        Ok(Proof { delivery_key, stale })
    }

    fn work(&self, asked: &SignedRequest<'_>) -> usize {
        let bytes = asked.body.len();
        let shared = self.shared.work(1, bytes);
        if self.public.is_empty() {
            return shared;
        }
        let headers = ["webhook-signature", "svix-signature"];
        let values = headers.iter().flat_map(|header| asked.lines(header));
        let signatures = values.map(|value| memchr::memmem::find_iter(value, b"v1a").count()).sum();
        shared + parse::public_key_work(signatures, self.public.len(), bytes)
    }

    fn sign(&self, draft: &mut OutgoingRequest, now_ms: i64) -> Result<(), String> {
        if self.shared.is_empty() && !self.public.is_empty() {
            return Err(super::ONLY_PUBLIC.to_owned());
        }
        let timestamp = parse::format_timestamp(TimestampUnit::Seconds, now_ms);
        let id = draft.id.clone();
        let parts = [id.as_bytes(), b".", timestamp.as_bytes(), b".", &draft.body];
        let signature = STANDARD.encode(self.shared.sign(&parts, draft.corrupt_signature)?);
        draft.set_header("webhook-id", id);
        draft.set_header("webhook-timestamp", timestamp);
        draft.set_header("webhook-signature", format!("v1,{signature}"));
        Ok(())
    }
}
