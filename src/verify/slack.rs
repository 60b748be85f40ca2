//! `slack` (docs.slack.dev, "Verifying requests from Slack"): HMAC-SHA256 over the timestamp and the
//! body in hex. A slash command has no `event_id`: its key is the bytes of its body.

use std::borrow::Cow;

use serde::Deserialize;

use super::{
    DeliveryKeyLocation, FIVE_MINUTES, HandshakeResult, HandshakeSpec, HmacPreset, Preset,
    PresetHandshakes, SenderResponse, SignedRequest, TimestampUnit, echo_challenge, json_body,
    reply,
};
use crate::media_type::BodyFormat;
use crate::{json, urlencoded};

pub(super) const PRESET: Preset = Preset::hmac(
    "slack",
    "x-slack-signature",
    HmacPreset {
        signed: "v0:{timestamp}:{body}",
        timestamp: Some(("x-slack-request-timestamp", TimestampUnit::Seconds)),
        key: Some(DeliveryKeyLocation::Field("event_id")),
        ..HmacPreset::hex("v0=")
    },
)
.with_tolerance(FIVE_MINUTES)
.with_handshakes(&[
    HandshakeSpec::signed(&["POST"], detect_url_verification),
    HandshakeSpec::unsigned(&["GET", "POST"], detect_ssl_check),
])
.with_sample(concat!(
    r#"{"type":"event_callback","event_id":"Ev{id}","#,
    r#""event":{"type":"app_mention","text":"test"}}"#
))
.with_forms();

/// Maximum number of fields of an unsigned form that is a handshake.
const MAX_FORM_FIELDS: usize = 16;

/// `{"type":"url_verification","challenge":C}`: the response is `C`.
fn detect_url_verification(_: &PresetHandshakes, request: &SignedRequest<'_>) -> HandshakeResult {
    #[derive(Deserialize)]
    struct SlackBody<'a> {
        #[serde(rename = "type", borrow)]
        kind: Cow<'a, str>,
        #[serde(borrow)]
        challenge: Cow<'a, str>,
    }
    let body: SlackBody<'_> = json_body::parse(request.body).ok()?;
    (body.kind == "url_verification")
        .then(|| echo_challenge("url_verification", &body.challenge))
        .flatten()
}

/// Slack's check of a slash command's certificate (docs.slack.dev, "Implementing slash commands"):
/// a form or a query with `ssl_check=1` that is no command.
fn detect_ssl_check(_: &PresetHandshakes, request: &SignedRequest<'_>) -> HandshakeResult {
    let form = match request.method {
        "GET" => request.query.unwrap_or_default().as_bytes(),
        _ if request.body_format().ok()? == BodyFormat::Form => request.body,
        _ => return None,
    };
    let mut checks = 0;
    for (at, (name, value)) in urlencoded::fields(json::without_mark(form)).enumerate() {
        match &*name {
            b"command" | b"payload" => return None,
            b"ssl_check" if *value == *b"1" => checks += 1,
            b"ssl_check" => return None,
            _ => {}
        }
        if at >= MAX_FORM_FIELDS {
            return None;
        }
    }
    (checks == 1).then(|| reply("ssl_check", SenderResponse::empty(200))).flatten()
}
