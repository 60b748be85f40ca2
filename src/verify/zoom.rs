//! `zoom` (developers.zoom.us, "Using webhooks: verify webhook events"): HMAC-SHA256 over the
//! timestamp and the body in hex.

use std::borrow::Cow;

use ring::hmac;
use serde::Deserialize;

use super::{
    DeliveryKeyLocation, Encoding, FIVE_MINUTES, HandshakeResult, HandshakeSpec, HmacKeys,
    HmacPreset, MAX_CHALLENGE_BYTES, Preset, PresetHandshakes, SenderResponse, SignedRequest,
    TimestampUnit, json_body, parse, reply,
};

const TIMESTAMP: &str = "x-zm-request-timestamp";

pub(super) const PRESET: Preset = Preset::hmac(
    "zoom",
    "x-zm-signature",
    HmacPreset {
        signed: "v0:{timestamp}:{body}",
        timestamp: Some((TIMESTAMP, TimestampUnit::Seconds)),
        key: Some(DeliveryKeyLocation::Body),
        ..HmacPreset::hex("v0=")
    },
)
.with_tolerance(FIVE_MINUTES)
.with_handshakes(&[HandshakeSpec::signed(&["POST"], detect_url_validation)])
.with_sample(concat!(
    r#"{"event":"meeting.started","#,
    r#""payload":{"object":{"uuid":"{id}","topic":"test"}}}"#
));

/// The response has `plainToken` and its HMAC, made with the secret that signed the request.
fn detect_url_validation(
    preset: &PresetHandshakes,
    request: &SignedRequest<'_>,
) -> HandshakeResult {
    #[derive(Deserialize)]
    struct ZoomBody<'a> {
        #[serde(borrow)]
        event: Cow<'a, str>,
        #[serde(borrow)]
        payload: ZoomPayload<'a>,
    }
    #[derive(Deserialize)]
    struct ZoomPayload<'a> {
        #[serde(rename = "plainToken", borrow)]
        token: Cow<'a, str>,
    }
    let body: ZoomBody<'_> = json_body::parse(request.body).ok()?;
    let token = &*body.payload.token;
    if body.event != "endpoint.url_validation" || token.len() > MAX_CHALLENGE_BYTES {
        return None;
    }
    let signatures: Vec<Vec<u8>> = parse::header_elements(request, &preset.header)
        .take(parse::MAX_SIGNATURES)
        .filter_map(|element| {
            parse::decode_signature(Encoding::Hex, element.strip_prefix(b"v0=")?).ok()
        })
        .collect();
    let timestamp = request.required_header(TIMESTAMP).ok()?;
    let parts = [b"v0:", timestamp, b":", request.body];
    let key = |secret: &Vec<u8>| HmacKeys::new(hmac::HMAC_SHA256, [secret.as_slice()]);
    let mut keys = preset.secrets.iter().map(key);
    let key = keys.find(|key| key.verify_any(&parts, &signatures))?;
    let encrypted = hex::encode(key.sign(&[token.as_bytes()], false).ok()?);
    let response = serde_json::json!({ "plainToken": token, "encryptedToken": encrypted });
    reply("endpoint.url_validation", SenderResponse::json(response.to_string()))
}
