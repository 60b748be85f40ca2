//! Signatures of test requests, computed apart from the code under test.

/// Computes the HMAC-SHA256 of a message.
pub fn hmac_sha256(secret: &str, message: impl AsRef<[u8]>) -> Vec<u8> {
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret.as_bytes());
    ring::hmac::sign(&key, message.as_ref()).as_ref().to_vec()
}
