//! Secrets as keys: all are tried, whichever fits, and compared in constant time.

use ring::hmac;
use subtle::ConstantTimeEq;

use super::OutgoingRequest;
use super::parse::PAIRS_MAX;

/// Secrets that are compared as they are: by their digests, so that neither their length nor their
/// beginning shows in the time it takes.
pub(super) struct SharedSecrets {
    digests: Vec<hmac::Tag>,
    /// To send, and not to compare.
    first: Option<Vec<u8>>,
}

/// Any key does: only equality of the digests matters.
fn digest(bytes: &[u8]) -> hmac::Tag {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, b"compare"), bytes)
}

impl SharedSecrets {
    pub fn new<'s>(secrets: impl IntoIterator<Item = &'s [u8]>) -> Self {
        let secrets: Vec<&[u8]> = secrets.into_iter().collect();
        let first = secrets.first().map(|secret| secret.to_vec());
        Self { digests: secrets.into_iter().map(digest).collect(), first }
    }

    /// Compares with all of them, whichever fits.
    pub fn contains(&self, given: &[u8]) -> bool {
        let given = digest(given);
        let equal = |secret: &hmac::Tag| secret.as_ref().ct_eq(given.as_ref());
        self.digests.iter().map(equal).fold(subtle::Choice::from(0), |any, one| any | one).into()
    }

    /// What a sender would send; wrong where the draft asks for that.
    pub fn first_for(&self, draft: &OutgoingRequest) -> Result<Vec<u8>, String> {
        let mut secret = self.first.clone().ok_or(NO_SECRET)?;
        if draft.corrupt_signature {
            secret.push(b'x');
        }
        Ok(secret)
    }
}

/// Keys of HMAC.
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

    /// The work of looking for signatures of `texts` texts of this size, as that of hashing so many bytes:
    /// each key hashes each of them.
    pub fn work(&self, texts: usize, text_bytes: usize) -> usize {
        texts.max(1) * self.0.len().clamp(1, PAIRS_MAX) * text_bytes
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether one of the keys signed `parts` with this.
    pub fn verify(&self, parts: &[&[u8]], signature: &[u8]) -> bool {
        self.signed_any(parts, &[signature])
    }

    /// Whether one of the keys signed `parts` with one of these; each is tried, whichever fits. Each key
    /// hashes `parts` once, however many signatures there are.
    pub fn signed_any(&self, parts: &[&[u8]], signatures: &[impl AsRef<[u8]>]) -> bool {
        let mut any = subtle::Choice::from(0);
        for (at, key) in self.0.iter().take(PAIRS_MAX).enumerate() {
            let right = hmac_tag(key, parts);
            // Counted signature by signature: so many of the first pairs have this key.
            let pairs = (PAIRS_MAX - at).div_ceil(self.0.len());
            for signature in signatures.iter().take(pairs) {
                let signature = signature.as_ref();
                any |= subtle::Choice::from(u8::from(right.as_ref().len() == signature.len()))
                    & right.as_ref().ct_eq(signature);
            }
        }
        any.into()
    }

    /// As a sender signs, with the first key; wrong where the draft asks for that.
    pub fn sign(&self, parts: &[&[u8]], bad: bool) -> Result<Vec<u8>, String> {
        let mut signature = hmac_tag(self.0.first().ok_or(NO_SECRET)?, parts).as_ref().to_vec();
        signature[0] ^= u8::from(bad);
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
