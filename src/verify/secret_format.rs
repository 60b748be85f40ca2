//! The formats of secrets, and the mistakes in them that are errors of the configuration.

use super::key_material;

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
            Self::StandardKey => key_material::parse_shared_standard_key(bytes).err(),
            Self::StandardVerifier => key_material::parse_standard_keys(bytes).err(),
            Self::Ed25519Key => key_material::parse_ed25519_hex(bytes).err(),
            Self::P256Key => key_material::parse_p256(bytes).err(),
            Self::Certificates => key_material::parse_certificates(bytes).err(),
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
