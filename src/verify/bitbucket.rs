//! `bitbucket` (support.atlassian.com, "Manage webhooks: secure webhooks"): HMAC-SHA256 over the
//! body in hex.

use serde::Deserialize;

use super::{
    HandshakeResult, HandshakeSpec, HmacPreset, Preset, PresetHandshakes, SignedRequest, accept,
    json_body,
};

/// Data Center names the delivery's key X-Request-Id.
pub(super) const PRESET: Preset =
    Preset::hmac("bitbucket", "x-hub-signature", HmacPreset::hex("sha256="))
        .with_key_header(&["x-request-uuid", "x-request-id"])
        .with_handshakes(&[HandshakeSpec::unsigned(&["POST"], detect_diagnostics)])
        .with_sample(r#"{"push":{"changes":[]},"test":"{id}"}"#);

/// The connection test of Bitbucket Data Center (confluence.atlassian.com, "Manage webhooks").
fn detect_diagnostics(_: &PresetHandshakes, request: &SignedRequest<'_>) -> HandshakeResult {
    #[derive(Deserialize)]
    struct DiagnosticsBody {
        test: bool,
    }
    let key = request.optional_header("x-event-key").ok().flatten()?;
    let is_handshake = key == b"diagnostics:ping"
        && json_body::parse(request.body).is_ok_and(|DiagnosticsBody { test }| test);
    is_handshake.then(|| accept("diagnostics:ping")).flatten()
}
