//! Senders that sign by one HMAC over a text: a row each, with the page that says so.

use super::hmac::{HmacScheme, Quirk};
use super::linear::Linear;
use super::{KeyPlace, Scheme};
use crate::config::{Algorithm, Encoding, Hmac, TimestampUnit, Verify, parse_signed_parts};

/// How one of them signs.
struct Sender {
    name: &'static str,
    algorithm: Algorithm,
    prefix: &'static str,
    encoding: Encoding,
    signed: &'static str,
    timestamp: Option<(&'static str, TimestampUnit)>,
    oddity: Quirk,
    key_place: KeyPlace,
}

/// HMAC-SHA256 of the body in hex.
const fn hex(name: &'static str, prefix: &'static str) -> Sender {
    Sender {
        name,
        algorithm: Algorithm::Sha256,
        prefix,
        encoding: Encoding::Hex,
        signed: "{body}",
        timestamp: None,
        oddity: Quirk::None,
        key_place: KeyPlace::Nowhere,
    }
}

/// HMAC-SHA256 of the body in base64.
const fn base64(name: &'static str) -> Sender {
    Sender { encoding: Encoding::Base64, ..hex(name, "") }
}

impl Sender {
    const fn signed(self, signed: &'static str) -> Self {
        Self { signed, ..self }
    }

    const fn known_by(self, key_place: KeyPlace) -> Self {
        Self { key_place, ..self }
    }

    const fn at(self, header: &'static str, unit: TimestampUnit) -> Self {
        Self { timestamp: Some((header, unit)), ..self }
    }
}

use TimestampUnit::{Milliseconds, Seconds};

const SENDERS: &[Sender] = &[
    // Its documentation, "Webhook signatures"; a `sha256=` before it is let pass.
    Sender { oddity: Quirk::PrefixOptional, ..hex("paminga", "sha256=") }
        .known_by(KeyPlace::Paminga),
    // docs.github.com, "Validating webhook deliveries".
    hex("github", "sha256="),
    // support.atlassian.com, "Manage webhooks: secure webhooks".
    hex("bitbucket", "sha256="),
    // developers.facebook.com, "Webhooks: validating payloads".
    hex("meta", "sha256=").known_by(KeyPlace::Body),
    // dropbox.com/developers/reference/webhooks, "Notifications".
    hex("dropbox", ""),
    // linear.app/developers/webhooks, "Securing webhooks"; the time stamp is in the body.
    hex("linear", ""),
    // shopify.dev, "Verify webhook deliveries".
    base64("shopify"),
    // docs.slack.dev, "Verifying requests from Slack".
    // A slash command has no event_id, and is known by its bytes.
    hex("slack", "v0=")
        .signed("v0:{timestamp}:{body}")
        .at("x-slack-request-timestamp", Seconds)
        .known_by(KeyPlace::Field("event_id")),
    // developers.zoom.us, "Using webhooks: verify webhook events".
    hex("zoom", "v0=")
        .signed("v0:{timestamp}:{body}")
        .at("x-zm-request-timestamp", Seconds)
        .known_by(KeyPlace::Body),
    // developer.atlassian.com/cloud/trello, "Webhook signatures".
    Sender { algorithm: Algorithm::Sha1, ..base64("trello") }
        .signed("{body}{url}")
        .known_by(KeyPlace::Action),
    // developer.squareup.com, "Verify and validate an event notification".
    base64("square").signed("{url}{body}").known_by(KeyPlace::FieldBehindUrl("event_id")),
    // developers.hubspot.com, "Validating requests", version 3.
    Sender { oddity: Quirk::DecodeUrlEscapes, ..base64("hubspot") }
        .signed("{method}{url}{body}{timestamp}")
        .at("x-hubspot-request-timestamp", Milliseconds)
        .known_by(KeyPlace::Batch),
];

/// The scheme of a sender that has a row here.
pub(super) fn scheme(verify: &Verify, secrets: &[&[u8]]) -> Box<dyn Scheme> {
    let Some(sender) = SENDERS.iter().find(|sender| sender.name == verify.scheme) else {
        return Box::new(super::token::Token::deny_all());
    };
    let recipe = Hmac {
        algorithm: sender.algorithm,
        prefix: sender.prefix.to_owned(),
        encoding: sender.encoding,
        // Nothing is signed by an empty recipe: `each_row_is_a_recipe` sees that none is.
        signed: parse_signed_parts(sender.signed).unwrap_or_default(),
        timestamp_header: sender.timestamp.map(|(header, _)| header.to_owned()),
        timestamp_unit: sender.timestamp.map_or(Seconds, |(_, unit)| unit),
        id_header: None,
    };
    let recipe =
        HmacScheme::new(recipe, verify, secrets).with_quirk(sender.oddity, sender.key_place);
    match sender.name {
        "linear" => Box::new(Linear::new(recipe, verify)),
        _ => Box::new(recipe),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_row_is_a_recipe() {
        for sender in SENDERS {
            let parts = parse_signed_parts(sender.signed).unwrap();
            let timed = parts.contains(&crate::config::SignedPart::Timestamp);
            assert_eq!(timed, sender.timestamp.is_some(), "{}", sender.name);
        }
    }
}
