//! What a scheme is built from.

use ring::hmac;

use super::parse::Tolerance;
use super::secrets::{HmacKeys, SharedSecrets};
use super::url::PublicUrl;

/// The settings of a source that all schemes share, and its secrets.
#[derive(Clone, Copy, Default)]
pub struct SchemeSettings<'a> {
    pub tolerance: Option<Tolerance>,
    /// The public URL that the sender calls.
    pub url: Option<&'a PublicUrl>,
    /// Any of them is valid.
    pub secrets: &'a [&'a [u8]],
    /// The tokens that a sender may send in its handshake. Any of them is valid.
    pub verify_tokens: &'a [&'a [u8]],
    /// `handshake = false`: the preset's handshakes are off.
    pub are_handshakes_off: bool,
}

impl SchemeSettings<'_> {
    /// The tolerance of a scheme whose requests all have a timestamp. Without one every request is
    /// stale.
    pub(super) fn required_tolerance(&self) -> Tolerance {
        self.tolerance.unwrap_or_default()
    }

    pub(super) fn hmac_keys(&self, algorithm: hmac::Algorithm) -> HmacKeys {
        HmacKeys::new(algorithm, self.secrets.iter().copied())
    }

    pub(super) fn shared_secrets(&self) -> SharedSecrets {
        SharedSecrets::new(self.secrets.iter().copied())
    }
}
