//! The table of presets, in the order of docs/configuration.md.
//!
//! A sender whose scheme is one HMAC or a token needs its row alone. Other rows are in the sender's
//! file.

use super::{
    DeliveryKeyLocation, HandshakeSpec, HmacPreset, Method, Preset, PresetLocation, accept,
    echo_parameter,
};
use super::{
    bitbucket, discord, hubspot, linear, mailgun, mandrill, meta, microsoft_graph, paminga,
    sendgrid, slack, sns, standard, stripe, trello, twilio, zoom,
};

/// Every sender.
pub const PRESETS: &[Preset] = &[
    paminga::PRESET,
    standard::PRESET,
    // docs.github.com, "Validating webhook deliveries". A redelivery repeats X-GitHub-Delivery.
    Preset::hmac("github", "x-hub-signature-256", HmacPreset::hex("sha256="))
        .with_key_header(&["x-github-delivery"])
        .with_sample(r#"{"zen":"Keep it logically awesome.","hook_id":1,"test":"{id}"}"#),
    // docs.gitlab.com, "Webhooks: validate payloads by using a secret token". X-Gitlab-Event-UUID
    // is shared by events that follow from each other.
    Preset::new("gitlab", PresetLocation::Header("x-gitlab-token"), Method::Token)
        .with_key_header(&["idempotency-key"])
        .without_signed_body()
        .with_sample(r#"{"object_kind":"push","checkout_sha":"{id}"}"#),
    stripe::STRIPE,
    // shopify.dev, "Verify webhook deliveries".
    Preset::hmac("shopify", "x-shopify-hmac-sha256", HmacPreset::base64("{body}"))
        .with_key_header(&["x-shopify-webhook-id"])
        .with_sample(r#"{"id":1,"name":"test","note":"{id}"}"#),
    slack::PRESET,
    twilio::PRESET,
    sendgrid::PRESET,
    mailgun::PRESET,
    // mailchimp.com/developer/marketing, "Sync audience data with webhooks": "a secret key in the
    // URL". The handshake is a GET. Older checks are an empty POST.
    Preset::new("mailchimp", PresetLocation::Url, Method::Token)
        .without_signed_body()
        .with_handshakes(&[HandshakeSpec::unsigned(&["GET", "POST"], |_, request| {
            let is_handshake = request.method == "GET" || request.body.is_empty();
            is_handshake.then(|| accept(request.method)).flatten()
        })])
        .with_sample("type=subscribe&data%5Bid%5D={id}&data%5Bemail%5D=ada%40example.com")
        .with_forms(),
    mandrill::PRESET,
    meta::PRESET,
    zoom::PRESET,
    discord::PRESET,
    stripe::PADDLE,
    // developer.squareup.com, "Verify and validate an event notification".
    Preset::hmac(
        "square",
        "x-square-hmacsha256-signature",
        HmacPreset {
            key: Some(DeliveryKeyLocation::FieldBehindUrl("event_id")),
            ..HmacPreset::base64("{url}{body}")
        },
    )
    .with_sample(r#"{"event_id":"{id}","type":"customer.created","data":{}}"#),
    hubspot::PRESET,
    linear::PRESET,
    bitbucket::PRESET,
    // dropbox.com/developers/reference/webhooks, "Notifications". Later changes have the same body,
    // and each is a new event.
    Preset::hmac("dropbox", "x-dropbox-signature", HmacPreset::hex(""))
        .with_handshakes(&[HandshakeSpec::unsigned(&["GET"], |_, request| {
            echo_parameter(request, "challenge")
        })])
        .with_sample(r#"{"list_folder":{"accounts":["{id}"]}}"#),
    trello::PRESET,
    microsoft_graph::PRESET,
    sns::PRESET,
];

#[cfg(test)]
mod tests {
    use super::super::hmac_spec::{SignedPart, parse_signed_parts};
    use super::*;
    use crate::json;

    #[test]
    fn each_preset_has_valid_signed_parts() {
        for Preset { name, method, .. } in PRESETS {
            let Method::Hmac(hmac) = method else { continue };
            let parts = parse_signed_parts(hmac.signed).unwrap();
            assert_eq!(parts.contains(&SignedPart::Timestamp), hmac.timestamp.is_some(), "{name}");
        }
    }

    #[test]
    fn each_sample_body_is_json_or_a_form_and_has_an_id() {
        for Preset { name, sample_body, posts_forms, .. } in PRESETS {
            let body = sample_body.replace("{id}", "7f3c");
            assert!(body.contains("7f3c"), "{name}");
            assert!(json::validate(body.as_bytes()).is_ok() || *posts_forms, "{body}");
        }
    }
}
