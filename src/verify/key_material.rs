//! The formats of secrets. Parses those that are keys or certificates, with the crates that verify with them. The
//! configuration calls it, so that a malformed one is a configuration error, and so do the verifiers.
//!
//! An error names the problem and the expected format. None shows any part of a secret.

use base64::Engine;
use base64::alphabet;
use base64::engine::general_purpose::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use ed25519_dalek::VerifyingKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, SubjectPublicKeyInfoDer};
use webpki::{EndEntityCert, RawPublicKeyEntity};

/// The format of a secret, which decides what it may contain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecretFormat {
    /// Any bytes.
    Bytes,
    /// The token after `Bearer` in a header.
    BearerToken,
    /// The value of a variable in a handler's environment.
    Variable,
    /// The value of a header.
    Header,
    /// A signing key of Standard Webhooks.
    StandardKey,
    /// A signing key or a public key of Standard Webhooks.
    StandardVerifier,
    /// An Ed25519 public key in hex.
    Ed25519Key,
    /// An ECDSA P-256 public key, base64.
    P256Key,
    /// Certificates with RSA keys, PEM.
    Certificates,
    /// The credentials of a NATS user: the contents of a `.creds` file, an nkey seed, `user:password` or a token.
    NatsCredentials,
}

impl SecretFormat {
    /// Why no server could use these bytes, and the remedy.
    pub fn find_error(self, bytes: &[u8]) -> Option<String> {
        // RFC 9110 section 5.5.
        let is_control = |b: &u8| (*b < 0x20 && *b != b'\t') || *b == 0x7f;
        match self {
            Self::Variable if bytes.contains(&0) => Some("has a NUL: expected text".to_owned()),
            Self::Header if bytes.iter().any(is_control) => Some(
                "has a control character such as a line break: expected one line of text"
                    .to_owned(),
            ),
            Self::Bytes | Self::BearerToken | Self::Variable | Self::Header => None,
            Self::StandardKey => parse_shared_standard_key(bytes).err(),
            Self::StandardVerifier => parse_standard_keys(bytes).err(),
            Self::Ed25519Key => parse_ed25519_hex(bytes).err(),
            Self::P256Key => parse_p256(bytes).err(),
            Self::Certificates => parse_certificates(bytes).err(),
            Self::NatsCredentials => match std::str::from_utf8(bytes) {
                Ok(_) => None,
                Err(_) => Some(
                    "is not UTF-8: expected a .creds file, an nkey seed, user:password or a token"
                        .to_owned(),
                ),
            },
        }
    }

    /// A likely mistake in a secret, such as quotes. A secret that is right is unlikely to match.
    pub fn find_mistake(self, bytes: &[u8]) -> Option<&'static str> {
        let is_text =
            matches!(self, Self::Bytes | Self::BearerToken | Self::Variable | Self::Header);
        let text = bytes.trim_ascii();
        let quotes = [&b"\""[..], b"'", b"`"];
        let is_quoted =
            |quote: &&[u8]| text.len() > 1 && text.starts_with(quote) && text.ends_with(quote);
        let begins_with = |name: &[u8]| {
            text.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name))
        };
        match self {
            _ if !is_text => None,
            _ if bytes.starts_with(b"\xef\xbb\xbf") => {
                Some("begins with a byte order mark, which counts as part of it: save it without")
            }
            _ if text.len() < bytes.len() => Some(
                "begins or ends with white space, which counts as part of it: only one newline \
                 at the end does not",
            ),
            _ if quotes.iter().any(is_quoted) => {
                Some("is in quotes, which count as part of it: leave them out")
            }
            Self::BearerToken if begins_with(b"bearer ") => {
                Some("begins with \"Bearer\": expected what follows it in the header")
            }
            _ => None,
        }
    }
}

/// A key of Standard Webhooks.
#[derive(Clone, Debug)]
pub enum StandardKey {
    /// `whsec_`: signs `v1`.
    Shared(Vec<u8>),
    /// `whpk_`: verifies `v1a`.
    Public(VerifyingKey),
}

const STANDARD_KEY: &str = "expected whpk_ and the base64 of the public key, or whsec_ and that of \
                            24 to 64 bytes";

/// Parses one key, or several joined by `|`, each with or without `v1,` before it. Supabase shows
/// keys in this form.
pub fn parse_standard_keys(secret: &[u8]) -> Result<Vec<StandardKey>, String> {
    let keys = secret.split(|&byte| byte == b'|');
    keys.map(|key| parse_standard_key(key.strip_prefix(b"v1,").unwrap_or(key))).collect()
}

/// Parses `whsec_…` or `whpk_…`.
pub fn parse_standard_key(secret: &[u8]) -> Result<StandardKey, String> {
    if secret.starts_with(b"whsk_") {
        return Err(format!("is the sender's private key: {STANDARD_KEY}"));
    }
    let Some(text) = secret.strip_prefix(b"whpk_") else {
        return parse_shared_standard_key(secret).map(StandardKey::Shared);
    };
    let bytes = decode_base64(text, DecodePaddingMode::Indifferent)
        .ok_or_else(|| format!("is not base64: {STANDARD_KEY}"))?;
    Ok(StandardKey::Public(parse_ed25519(&bytes)?))
}

/// Decodes a Standard Webhooks secret, `whsec_` and base64 of 24 to 64 bytes whose padding may be
/// missing. No error shows an invalid one.
pub fn parse_shared_standard_key(secret: &[u8]) -> Result<Vec<u8>, String> {
    const KEY: &str = "expected whsec_ and the base64 of 24 to 64 bytes";
    let text = secret.strip_prefix(b"whsec_").unwrap_or(secret);
    let text = match text {
        [text @ .., b'=', b'='] | [text @ .., b'='] => text,
        text => text,
    };
    match decode_base64(text, DecodePaddingMode::RequireNone) {
        Some(key) if (24..=64).contains(&key.len()) => Ok(key),
        Some(key) => Err(format!("is a key of {} bytes: {KEY}", key.len())),
        None => Err(format!("is not base64: {KEY}")),
    }
}

/// The libraries of Standard Webhooks ignore excess bits of the last letter.
fn decode_base64(text: &[u8], padding: DecodePaddingMode) -> Option<Vec<u8>> {
    let lenient = GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(padding);
    GeneralPurpose::new(&alphabet::STANDARD, lenient).decode(text).ok()
}

/// Parses an Ed25519 public key in hex, as Discord shows it.
pub fn parse_ed25519_hex(secret: &[u8]) -> Result<VerifyingKey, String> {
    let bytes = hex::decode(secret);
    parse_ed25519(&bytes.map_err(|_| "is not hex: expected the public key, 64 hex digits")?)
}

/// Rejects keys of small order, for which anybody can make a signature.
fn parse_ed25519(bytes: &[u8]) -> Result<VerifyingKey, String> {
    let bytes: &[u8; 32] = bytes
        .try_into()
        .map_err(|_| format!("has {} bytes: expected a public key of 32", bytes.len()))?;
    VerifyingKey::from_bytes(bytes).ok().filter(|key| !key.is_weak()).ok_or_else(|| {
        "is not an Ed25519 public key: expected the one that the sender shows".into()
    })
}

/// Parses an ECDSA P-256 public key: base64 of its SubjectPublicKeyInfo, as SendGrid shows it.
pub fn parse_p256(secret: &[u8]) -> Result<SubjectPublicKeyInfoDer<'static>, String> {
    const KEY: &str = "expected the verification key as it is shown, base64 that begins with MFkw";
    let der = STANDARD.decode(secret).map_err(|_| format!("is not base64: {KEY}"))?;
    let key = SubjectPublicKeyInfoDer::from(der);
    let result = RawPublicKeyEntity::try_from(&key)
        .map(|entity| entity.verify_signature(webpki::ring::ECDSA_P256_SHA256, b"", b""));
    match result {
        // The key has this type, although "" is not its signature.
        Ok(Ok(()) | Err(webpki::Error::InvalidSignatureForPublicKey)) => Ok(key),
        _ => Err(format!("is not an ECDSA P-256 public key: {KEY}")),
    }
}

/// Parses one or more PEM certificates with RSA keys.
pub fn parse_certificates(secret: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    const PEM: &str = "expected a certificate with an RSA key, in PEM";
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(secret).collect();
    let certificates = certificates.map_err(|_| format!("is not PEM: {PEM}"))?;
    if certificates.is_empty() {
        return Err(format!("has no certificate: {PEM}"));
    }
    for certificate in &certificates {
        let result = EndEntityCert::try_from(certificate).map(|entity| {
            entity.verify_signature(webpki::ring::RSA_PKCS1_2048_8192_SHA256, b"", b"")
        });
        match result {
            Ok(Ok(()) | Err(webpki::Error::InvalidSignatureForPublicKey)) => {}
            _ => return Err(format!("has an invalid certificate or another kind of key: {PEM}")),
        }
    }
    Ok(certificates)
}
