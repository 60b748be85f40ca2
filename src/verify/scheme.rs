//! The scheme of a source: one that its configuration defines, or the preset of a sender.

use super::bearer::{Basic, Bearer};
use super::hmac::HmacScheme;
use super::hmac_spec::{HmacSpec, SignedPart};
use super::preset::Preset;
use super::presets::PRESETS;
use super::settings::SchemeSettings;
use super::token::{CredentialLocation, Token};
use super::{NoVerification, VerificationScheme};

/// How the requests of a source are verified.
#[derive(Clone, Debug, PartialEq)]
pub enum Scheme {
    /// Every request is accepted.
    None,
    Token(CredentialLocation),
    Basic {
        user: String,
    },
    Bearer,
    Hmac(HmacSpec),
    /// A sender, and where its signature or token is unless that is fixed.
    Preset(&'static Preset, Option<CredentialLocation>),
}

impl Scheme {
    /// The names of the schemes that are no preset.
    const OWN_NAMES: [&str; 5] = ["none", "token", "basic", "bearer", "hmac"];

    /// The names of all schemes, in the order of docs/configuration.md.
    pub fn names() -> impl Iterator<Item = &'static str> {
        Self::OWN_NAMES.into_iter().chain(PRESETS.iter().map(|preset| preset.name))
    }

    pub fn name(&self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Token(_) => "token",
            Self::Basic { .. } => "basic",
            Self::Bearer => "bearer",
            Self::Hmac(_) => "hmac",
            Self::Preset(preset, _) => preset.name,
        }
    }

    /// The sender, which brings its own deduplication key, handshake and response.
    pub fn preset(&self) -> Option<&'static Preset> {
        if let Self::Preset(preset, _) = self { Some(preset) } else { None }
    }

    /// Whether the signature covers the bytes of the body. Nothing signed then says how to read
    /// them.
    pub fn signs_body(&self) -> bool {
        match self {
            Self::None | Self::Token(_) | Self::Basic { .. } | Self::Bearer => false,
            Self::Hmac(hmac) => hmac.signed.contains(&SignedPart::Body),
            Self::Preset(preset, _) => preset.signs_body,
        }
    }

    /// Where the signature or token is, if a key of `verify` says so.
    pub fn location(&self) -> Option<&CredentialLocation> {
        match self {
            Self::Token(location) => Some(location),
            Self::Preset(_, location) => location.as_ref(),
            Self::None | Self::Basic { .. } | Self::Bearer | Self::Hmac(_) => None,
        }
    }

    /// Whether the path's last segment is the token, after the source's `path`.
    pub fn has_path_token(&self) -> bool {
        self.location() == Some(&CredentialLocation::PathSegment)
    }

    pub(super) fn build(&self, settings: &SchemeSettings<'_>) -> Box<dyn VerificationScheme> {
        match self {
            Self::None => Box::new(NoVerification),
            Self::Token(location) => Box::new(Token::new(location.clone(), settings)),
            Self::Basic { user } => Box::new(Basic::new(user, settings)),
            Self::Bearer => Box::new(Bearer::new(settings)),
            Self::Hmac(spec) => Box::new(HmacScheme::new(spec.clone(), settings)),
            Self::Preset(preset, location) => preset.build(location.as_ref(), settings),
        }
    }
}
