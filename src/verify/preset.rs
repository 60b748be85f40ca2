//! A preset: everything that the program knows about one sender. `presets.rs` lists all presets.

use std::time::Duration;

use super::VerificationScheme;
use super::handshake::HandshakeSpec;
use super::hmac::{HmacPreset, HmacScheme};
use super::key_material::SecretFormat;
use super::parse::Tolerance;
use super::settings::SchemeSettings;
use super::token::{CredentialLocation, Token};

/// One sender: how it verifies, and the defaults of the keys of `verify`. The figures come from its
/// documentation, which docs/senders.md cites.
#[derive(Clone, Copy, Debug)]
pub struct Preset {
    pub name: &'static str,
    pub location: PresetLocation,
    pub secret: SecretFormat,
    /// The secret may be missing at first: the sender shows it only after a handshake.
    pub is_secret_optional: bool,
    /// The source needs a `verify_token`, which the sender sends in its handshake.
    pub has_verify_token: bool,
    /// How far its time stamp may be off; `None`: it has no time stamp.
    pub tolerance: Option<Tolerance>,
    /// The sender's retries repeat the time stamp of the first attempt.
    pub is_stamp_repeated: bool,
    pub delivery_key: DeliveryKey,
    /// The headers with a signed delivery key. The scheme reads one of them.
    pub(super) signed_key_headers: &'static [&'static str],
    /// Whether the signature covers the bytes of the body.
    pub signs_body: bool,
    /// A body as the sender posts it, with `{id}` for an id.
    pub sample_body: &'static str,
    /// A body that is not JSON is a form.
    pub posts_forms: bool,
    pub(super) method: Method,
    pub(super) handshakes: &'static [HandshakeSpec],
}

/// Where a sender puts its signature or token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PresetLocation {
    /// Where no key of `verify` can change it, such as in the body.
    Fixed,
    /// In this header, in lower case, unless the source sets another.
    Header(&'static str),
    /// In the query or the path, as the source says.
    Url,
}

/// Where a sender puts its unique key of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeliveryKey {
    Absent,
    /// In the first of these headers that is present, in lower case. The signature covers none of
    /// them.
    Header(&'static [&'static str]),
    /// In the signed part of the request: the scheme reads it as it verifies.
    Signed,
}

/// How a sender verifies.
#[derive(Clone, Copy, Debug)]
pub(super) enum Method {
    /// A token at `location`.
    Token,
    /// One HMAC over a text.
    Hmac(HmacPreset),
    /// A separate scheme.
    Own(Constructor),
}

/// Builds a scheme from the header of its signature and the settings of the source.
pub(super) type Constructor = fn(&str, &SchemeSettings<'_>) -> Box<dyn VerificationScheme>;

pub(super) const MINUTE: u64 = 60;
pub(super) const FIVE_MINUTES: u64 = 5 * MINUTE;
pub(super) const HOUR: u64 = 60 * MINUTE;

impl Preset {
    /// A body for schemes and senders that need nothing special.
    pub const SAMPLE_BODY: &str = r#"{"id":"{id}","type":"test"}"#;

    pub(super) const fn new(name: &'static str, location: PresetLocation, method: Method) -> Self {
        Self {
            name,
            location,
            secret: SecretFormat::Bytes,
            is_secret_optional: false,
            has_verify_token: false,
            tolerance: None,
            is_stamp_repeated: false,
            delivery_key: DeliveryKey::Absent,
            signed_key_headers: &[],
            signs_body: true,
            sample_body: Self::SAMPLE_BODY,
            posts_forms: false,
            method,
            handshakes: &[],
        }
    }

    /// A sender with a separate scheme.
    pub(super) const fn own(
        name: &'static str,
        location: PresetLocation,
        build: Constructor,
    ) -> Self {
        Self::new(name, location, Method::Own(build))
    }

    /// A sender that signs with one HMAC, which is in this header.
    pub(super) const fn hmac(name: &'static str, header: &'static str, hmac: HmacPreset) -> Self {
        let delivery_key =
            if hmac.key.is_some() { DeliveryKey::Signed } else { DeliveryKey::Absent };
        Self { delivery_key, ..Self::new(name, PresetLocation::Header(header), Method::Hmac(hmac)) }
    }

    /// The time stamp is that of the attempt, so that `seconds` holds in both directions.
    pub(super) const fn with_tolerance(self, seconds: u64) -> Self {
        let tolerance = Duration::from_secs(seconds);
        Self { tolerance: Some(Tolerance { back: tolerance, ahead: tolerance }), ..self }
    }

    /// Retries repeat the time stamp, so `back` has to outlast the last of them.
    pub(super) const fn with_repeated_stamp(self, back: u64, ahead: u64) -> Self {
        let (back, ahead) = (Duration::from_secs(back), Duration::from_secs(ahead));
        Self { tolerance: Some(Tolerance { back, ahead }), is_stamp_repeated: true, ..self }
    }

    /// The signature covers the delivery's key.
    pub(super) const fn with_signed_key(self) -> Self {
        Self { delivery_key: DeliveryKey::Signed, ..self }
    }

    /// The delivery's key is in a header that is not signed.
    pub(super) const fn with_key_header(self, headers: &'static [&'static str]) -> Self {
        Self { delivery_key: DeliveryKey::Header(headers), ..self }
    }

    pub(super) const fn with_secret_format(self, secret: SecretFormat) -> Self {
        Self { secret, ..self }
    }

    /// The sender sends a secret, or signs a part of the body.
    pub(super) const fn without_signed_body(self) -> Self {
        Self { signs_body: false, ..self }
    }

    pub(super) const fn with_handshakes(self, handshakes: &'static [HandshakeSpec]) -> Self {
        Self { handshakes, ..self }
    }

    pub(super) const fn with_sample(self, sample_body: &'static str) -> Self {
        Self { sample_body, ..self }
    }

    pub(super) const fn with_forms(self) -> Self {
        Self { posts_forms: true, ..self }
    }

    /// The headers that may have the delivery key.
    pub fn key_headers(&self) -> &'static [&'static str] {
        match self.delivery_key {
            DeliveryKey::Absent => &[],
            DeliveryKey::Header(names) => names,
            DeliveryKey::Signed => self.signed_key_headers,
        }
    }

    pub(super) fn build(
        &self,
        location: Option<&CredentialLocation>,
        settings: &SchemeSettings<'_>,
    ) -> Box<dyn VerificationScheme> {
        let header = location.map_or("", CredentialLocation::header);
        match self.method {
            // A token in the path that is never there rejects each request.
            Method::Token => {
                let location = location.cloned().unwrap_or(CredentialLocation::PathSegment);
                Box::new(Token::new(location, settings))
            }
            Method::Hmac(preset) => Box::new(HmacScheme::of_preset(preset, header, settings)),
            Method::Own(build) => build(header, settings),
        }
    }
}

/// Presets have unique names.
impl PartialEq for Preset {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}
