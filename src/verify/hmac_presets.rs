//! Presets that sign with one HMAC over a text. Each is a row that cites the sender's page.

use super::hmac::{HmacScheme, Quirk};
use super::linear::Linear;
use super::{DeliveryKeyLocation, VerificationScheme};
use crate::config::{Algorithm, Encoding, Hmac, TimestampUnit, Verify, parse_signed_parts};

/// How one sender signs.
struct HmacPreset {
    name: &'static str,
    algorithm: Algorithm,
    prefix: &'static str,
    encoding: Encoding,
    signed: &'static str,
    timestamp: Option<(&'static str, TimestampUnit)>,
    quirk: Quirk,
    key_location: DeliveryKeyLocation,
}

/// HMAC-SHA256 of the body in hex.
const fn hex(name: &'static str, prefix: &'static str) -> HmacPreset {
    HmacPreset {
        name,
        algorithm: Algorithm::Sha256,
        prefix,
        encoding: Encoding::Hex,
        signed: "{body}",
        timestamp: None,
        quirk: Quirk::None,
        key_location: DeliveryKeyLocation::None,
    }
}

/// HMAC-SHA256 of the body in base64.
const fn base64(name: &'static str) -> HmacPreset {
    HmacPreset { encoding: Encoding::Base64, ..hex(name, "") }
}

impl HmacPreset {
    const fn with_signed(self, signed: &'static str) -> Self {
        Self { signed, ..self }
    }

    const fn with_key_location(self, key_location: DeliveryKeyLocation) -> Self {
        Self { key_location, ..self }
    }

    const fn with_timestamp(self, header: &'static str, unit: TimestampUnit) -> Self {
        Self { timestamp: Some((header, unit)), ..self }
    }
}

use TimestampUnit::{Milliseconds, Seconds};

const HMAC_PRESETS: &[HmacPreset] = &[
    // Paminga's documentation, "Webhook signatures". A prefix `sha256=` is accepted.
    HmacPreset { quirk: Quirk::PrefixOptional, ..hex("paminga", "sha256=") }
        .with_key_location(DeliveryKeyLocation::Paminga),
    // docs.github.com, "Validating webhook deliveries".
    hex("github", "sha256="),
    // support.atlassian.com, "Manage webhooks: secure webhooks".
    hex("bitbucket", "sha256="),
    // developers.facebook.com, "Webhooks: validating payloads".
    hex("meta", "sha256=").with_key_location(DeliveryKeyLocation::Body),
    // dropbox.com/developers/reference/webhooks, "Notifications".
    hex("dropbox", ""),
    // linear.app/developers/webhooks, "Securing webhooks". The timestamp is in the body.
    hex("linear", ""),
    // shopify.dev, "Verify webhook deliveries".
    base64("shopify"),
    // docs.slack.dev, "Verifying requests from Slack". A slash command has no `event_id`: its key
    // is the bytes of its body.
    hex("slack", "v0=")
        .with_signed("v0:{timestamp}:{body}")
        .with_timestamp("x-slack-request-timestamp", Seconds)
        .with_key_location(DeliveryKeyLocation::Field("event_id")),
    // developers.zoom.us, "Using webhooks: verify webhook events".
    hex("zoom", "v0=")
        .with_signed("v0:{timestamp}:{body}")
        .with_timestamp("x-zm-request-timestamp", Seconds)
        .with_key_location(DeliveryKeyLocation::Body),
    // developer.atlassian.com/cloud/trello, "Webhook signatures".
    HmacPreset { algorithm: Algorithm::Sha1, ..base64("trello") }
        .with_signed("{body}{url}")
        .with_key_location(DeliveryKeyLocation::Action),
    // developer.squareup.com, "Verify and validate an event notification".
    base64("square")
        .with_signed("{url}{body}")
        .with_key_location(DeliveryKeyLocation::FieldBehindUrl("event_id")),
    // developers.hubspot.com, "Validating requests", version 3.
    HmacPreset { quirk: Quirk::DecodeUrlEscapes, ..base64("hubspot") }
        .with_signed("{method}{url}{body}{timestamp}")
        .with_timestamp("x-hubspot-request-timestamp", Milliseconds)
        .with_key_location(DeliveryKeyLocation::Batch),
];

/// Builds the scheme of a sender that has a row here.
pub(super) fn scheme(verify: &Verify, secrets: &[&[u8]]) -> Box<dyn VerificationScheme> {
    let Some(preset) = HMAC_PRESETS.iter().find(|preset| preset.name == verify.scheme) else {
        return Box::new(super::token::Token::deny_all());
    };
    let config = Hmac {
        algorithm: preset.algorithm,
        prefix: preset.prefix.to_owned(),
        encoding: preset.encoding,
        // An empty list would sign nothing. The test `each_preset_has_valid_signed_parts` excludes
        // that.
        signed: parse_signed_parts(preset.signed).unwrap_or_default(),
        timestamp_header: preset.timestamp.map(|(header, _)| header.to_owned()),
        timestamp_unit: preset.timestamp.map_or(Seconds, |(_, unit)| unit),
        id_header: None,
    };
    let hmac =
        HmacScheme::new(config, verify, secrets).with_quirk(preset.quirk, preset.key_location);
    match preset.name {
        "linear" => Box::new(Linear::new(hmac, verify)),
        _ => Box::new(hmac),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_preset_has_valid_signed_parts() {
        for preset in HMAC_PRESETS {
            let parts = parse_signed_parts(preset.signed).unwrap();
            let has_timestamp = parts.contains(&crate::config::SignedPart::Timestamp);
            assert_eq!(has_timestamp, preset.timestamp.is_some(), "{}", preset.name);
        }
    }
}
