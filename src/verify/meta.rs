//! `meta` (developers.facebook.com, "Webhooks: validating payloads"): HMAC-SHA256 over the body in
//! hex.

use super::{
    DeliveryKeyLocation, HandshakeResult, HandshakeSpec, HmacPreset, Preset, PresetHandshakes,
    SignedRequest, echo_challenge, query_parameter, utf8_parameter,
};

pub(super) const PRESET: Preset = Preset {
    has_verify_token: true,
    ..Preset::hmac(
        "meta",
        "x-hub-signature-256",
        HmacPreset { key: Some(DeliveryKeyLocation::Body), ..HmacPreset::hex("sha256=") },
    )
}
// The request is not signed; it carries a token.
.with_handshakes(&[HandshakeSpec::unsigned(&["GET"], detect_subscription)])
.with_sample(r#"{"object":"page","entry":[{"id":"{id}","changes":[]}]}"#);

/// `?hub.mode=subscribe&hub.verify_token=V&hub.challenge=C`: the response is `C` if `V` is the
/// token.
fn detect_subscription(preset: &PresetHandshakes, request: &SignedRequest<'_>) -> HandshakeResult {
    if utf8_parameter(request, "hub.mode")? != "subscribe" {
        return None;
    }
    if preset.tokens.is_empty() {
        return Some(Err("no verify_token is configured".into()));
    }
    let token = match query_parameter(request.query, "hub.verify_token") {
        Ok(Some(token)) => token,
        Ok(None) => return Some(Err("no query parameter hub.verify_token".into())),
        Err(reason) => return Some(Err(reason)),
    };
    if !preset.tokens.contains(&token) {
        return Some(Err("hub.verify_token does not match".into()));
    }
    echo_challenge("hub.mode=subscribe", &utf8_parameter(request, "hub.challenge")?)
}
