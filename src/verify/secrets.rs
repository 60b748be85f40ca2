//! Secrets as keys. Every key is tried even after a match, and comparisons take constant time.

use ring::hmac;
use subtle::ConstantTimeEq;

use super::OutgoingRequest;
use super::parse::MAX_CHECKED_PAIRS;
use super::proof::{Proof, Reason};

/// Secrets that are compared as they are. Their digests are compared, so that the time depends
/// neither on a secret's length nor on its first bytes.
pub(super) struct SharedSecrets {
    digests: Vec<hmac::Tag>,
    /// For signing only.
    first: Option<Vec<u8>>,
}

/// Hashes with a fixed key: only the equality of digests matters.
fn compute_digest(bytes: &[u8]) -> hmac::Tag {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, b"compare"), bytes)
}

impl SharedSecrets {
    pub fn new<'s>(secrets: impl IntoIterator<Item = &'s [u8]>) -> Self {
        let secrets: Vec<&[u8]> = secrets.into_iter().collect();
        let first = secrets.first().map(|secret| secret.to_vec());
        Self { digests: secrets.into_iter().map(compute_digest).collect(), first }
    }

    pub fn is_empty(&self) -> bool {
        self.digests.is_empty()
    }

    /// Compares with all secrets, even after a match.
    pub fn contains(&self, candidate: &[u8]) -> bool {
        let candidate = compute_digest(candidate);
        let equal = |secret: &hmac::Tag| secret.as_ref().ct_eq(candidate.as_ref());
        let none = subtle::Choice::from(0);
        self.digests.iter().map(equal).fold(none, |any, equal| any | equal).into()
    }

    /// Accepts a candidate that equals one of the secrets, and otherwise returns `mismatch` as the reason.
    /// A sender of a secret signs nothing, so its proof is empty.
    pub fn check(&self, candidate: &[u8], mismatch: &'static str) -> Result<Proof, Reason> {
        if self.contains(candidate) { Ok(Proof::default()) } else { Err(mismatch.into()) }
    }

    /// Returns the secret that a sender sends, or an invalid one if `outgoing` asks for it.
    pub fn signing_secret(&self, outgoing: &OutgoingRequest) -> Result<Vec<u8>, Reason> {
        let mut secret = self.first.clone().ok_or(NO_SECRET)?;
        if outgoing.is_corrupt {
            secret.push(b'x');
        }
        Ok(secret)
    }
}

/// The keys of an HMAC.
pub(super) struct HmacKeys(Vec<hmac::Key>);

const NO_SECRET: &str = "there is no secret to sign with";

impl HmacKeys {
    pub fn new<'s>(
        algorithm: hmac::Algorithm,
        secrets: impl IntoIterator<Item = &'s [u8]>,
    ) -> Self {
        Self(secrets.into_iter().map(|secret| hmac::Key::new(algorithm, secret)).collect())
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns the cost of verifying signatures of `texts` texts of this size, expressed as a
    /// number of bytes to hash: each key hashes each text.
    pub fn check_cost(&self, texts: usize, text_bytes: usize) -> usize {
        texts.max(1) * self.0.len().clamp(1, MAX_CHECKED_PAIRS) * text_bytes
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns whether one of the keys made one of these signatures of `parts`. Each key is tried
    /// even after a match. Each key hashes `parts` once, however many signatures there are.
    pub fn verify_any(&self, parts: &[&[u8]], signatures: &[impl AsRef<[u8]>]) -> bool {
        let mut any = subtle::Choice::from(0);
        for (at, key) in self.0.iter().take(MAX_CHECKED_PAIRS).enumerate() {
            let expected = hmac_tag(key, parts);
            // Pairs are counted signature by signature: this number of the first pairs has this
            // key.
            let pairs = (MAX_CHECKED_PAIRS - at).div_ceil(self.0.len());
            for signature in signatures.iter().take(pairs) {
                let signature = signature.as_ref();
                any |= subtle::Choice::from(u8::from(expected.as_ref().len() == signature.len()))
                    & expected.as_ref().ct_eq(signature);
            }
        }
        any.into()
    }

    /// Signs with the first key, and makes the signature invalid if `is_corrupt`.
    pub fn sign(&self, parts: &[&[u8]], is_corrupt: bool) -> Result<Vec<u8>, Reason> {
        let mut signature = hmac_tag(self.0.first().ok_or(NO_SECRET)?, parts).as_ref().to_vec();
        signature[0] ^= u8::from(is_corrupt);
        Ok(signature)
    }
}

fn hmac_tag(key: &hmac::Key, parts: &[&[u8]]) -> hmac::Tag {
    let mut context = hmac::Context::with_key(key);
    for part in parts {
        context.update(part);
    }
    context.sign()
}
