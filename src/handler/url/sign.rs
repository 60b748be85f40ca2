//! Signs requests by Standard Webhooks, so that the receiver can verify the sender and the body.
//!
//! `webhook-signature` contains one `v1,BASE64` for each secret, so that a receiver can change to a
//! new secret while the old one still works. See <https://www.standardwebhooks.com>.
//! tests/integration/sender_sdks.rs verifies the signatures with that project's own package and
//! with Svix's.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;

use crate::config;

/// Returns the three headers, or none if there is no secret.
pub(super) fn build_headers(
    secrets: &[Vec<u8>],
    id: &str,
    now_secs: i64,
    body: &[u8],
) -> Result<Vec<(&'static str, String)>, String> {
    if secrets.is_empty() {
        return Ok(Vec::new());
    }
    let mut signatures = Vec::new();
    for secret in secrets {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &config::parse_shared_standard_key(secret)?);
        let mut signed = hmac::Context::with_key(&key);
        signed.update(format!("{id}.{now_secs}.").as_bytes());
        signed.update(body);
        signatures.push(format!("v1,{}", STANDARD.encode(signed.sign())));
    }
    Ok(vec![
        ("webhook-id", id.to_owned()),
        ("webhook-timestamp", now_secs.to_string()),
        ("webhook-signature", signatures.join(" ")),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the reference libraries.
    #[test]
    fn the_standards_own_example_is_signed_as_it_says() {
        let secret = b"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".to_vec();
        let other = b"whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=".to_vec();
        let body = br#"{"test": 2432232314}"#;
        let id = "msg_p5jXN8AQM9LWM0D4loKWxJek";
        let found = build_headers(std::slice::from_ref(&secret), id, 1_614_265_330, body).unwrap();
        let signature = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
        assert_eq!(
            found,
            [
                ("webhook-id", id.to_owned()),
                ("webhook-timestamp", "1614265330".to_owned()),
                ("webhook-signature", signature.to_owned()),
            ]
        );
        let both = build_headers(&[secret, other], id, 1_614_265_330, body).unwrap();
        let (first, second) = both[2].1.split_once(' ').unwrap();
        assert_eq!((first, second.starts_with("v1,")), (signature, true));
        assert_eq!(build_headers(&[], id, 0, body), Ok(Vec::new()));
        assert!(build_headers(&[b"short".to_vec()], id, 0, body).is_err());
    }
}
