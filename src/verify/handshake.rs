//! Handshakes of presets: a sender's request that checks whether the endpoint exists. Each is a row
//! of `HANDSHAKES`; the schemes' files cite the senders' pages. A handshake is answered regardless
//! of `methods` and creates no event.
//!
//! Most are answered only if the signature is valid. An unsigned one gets nothing but its
//! challenge, as short plain text, so that nobody can make this server return arbitrary content.

use std::borrow::Cow;

use ring::hmac;
use serde::Deserialize;

use super::secrets::{HmacKeys, SharedSecrets};
use super::token::query_parameter;
use super::{SenderResponse, SignedRequest, discord, form_fields, json_body, parse, sns};
use crate::config::{self, Encoding, Secrets, Source};

/// Maximum size of a challenge. A longer one is not answered.
pub const MAX_CHALLENGE_BYTES: usize = 1024;

/// No handshake is larger, so a larger body is not parsed.
const MAX_BODY_BYTES: usize = 64 << 10;

/// A recognized handshake and its response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HandshakeReply {
    /// Recorded in the view `handshakes`.
    pub detail: String,
    pub response: SenderResponse,
    /// What the operator has to do, as a log line. It quotes nothing of the request.
    pub operator_action: Option<&'static str>,
}

/// A handshake, the reason for its rejection, or `None` if the request is no handshake.
type HandshakeResult = Option<Result<HandshakeReply, String>>;

/// How one sender makes its handshake.
struct HandshakeSpec {
    scheme: &'static str,
    methods: &'static [&'static str],
    requires_signature: bool,
    detect: fn(&PresetHandshakes, &SignedRequest<'_>) -> HandshakeResult,
}

/// Maximum number of fields of an unsigned form that is a handshake.
const MAX_FORM_FIELDS: usize = 16;

const GET: &[&str] = &["GET"];
const HEAD: &[&str] = &["HEAD"];
const POST: &[&str] = &["POST"];

const HANDSHAKES: &[HandshakeSpec] = &[
    HandshakeSpec {
        scheme: "slack",
        methods: POST,
        requires_signature: true,
        detect: detect_slack,
    },
    HandshakeSpec {
        scheme: "slack",
        methods: &["GET", "POST"],
        requires_signature: false,
        detect: detect_ssl_check,
    },
    HandshakeSpec {
        scheme: "bitbucket",
        methods: POST,
        requires_signature: false,
        detect: detect_diagnostics,
    },
    HandshakeSpec { scheme: "zoom", methods: POST, requires_signature: true, detect: detect_zoom },
    HandshakeSpec {
        scheme: "discord",
        methods: POST,
        requires_signature: true,
        detect: detect_discord_ping,
    },
    HandshakeSpec {
        scheme: "sns",
        methods: POST,
        requires_signature: true,
        detect: detect_subscription,
    },
    // The request is not signed; it carries a token.
    HandshakeSpec { scheme: "meta", methods: GET, requires_signature: false, detect: detect_meta },
    HandshakeSpec {
        scheme: "microsoft-graph",
        methods: POST,
        requires_signature: false,
        detect: detect_validation_token,
    },
    HandshakeSpec {
        scheme: "dropbox",
        methods: GET,
        requires_signature: false,
        detect: detect_challenge,
    },
    HandshakeSpec {
        scheme: "mailchimp",
        methods: &["GET", "POST"],
        requires_signature: false,
        detect: detect_mailchimp,
    },
    HandshakeSpec {
        scheme: "mandrill",
        methods: &["HEAD", "POST"],
        requires_signature: false,
        detect: detect_mandrill,
    },
    HandshakeSpec {
        scheme: "trello",
        methods: HEAD,
        requires_signature: false,
        detect: accept_any,
    },
];

/// The handshakes of one source's preset.
pub struct PresetHandshakes {
    specs: Vec<&'static HandshakeSpec>,
    secrets: Vec<Vec<u8>>,
    /// The header that holds the signature.
    header: String,
    tokens: SharedSecrets,
    has_token: bool,
}

impl PresetHandshakes {
    /// Returns `None` if the preset has no handshake, or with `handshake = false`. A custom
    /// `handshake` table does not turn it off.
    pub(super) fn new(source: &Source, secrets: &Secrets) -> Option<Self> {
        if source.handshake == config::HandshakeConfig::Off {
            return None;
        }
        let specs: Vec<_> =
            HANDSHAKES.iter().filter(|spec| spec.scheme == source.verify.scheme).collect();
        if specs.is_empty() {
            return None;
        }
        let tokens: Vec<&[u8]> = secrets.resolve(&source.verify.verify_token).collect();
        Some(Self {
            specs,
            secrets: secrets.resolve(&source.verify.secret).map(<[u8]>::to_vec).collect(),
            header: source.verify.header.clone().unwrap_or_default(),
            has_token: !tokens.is_empty(),
            tokens: SharedSecrets::new(tokens),
        })
    }

    /// Whether a handshake may use this method, regardless of the source's `methods`.
    pub fn accepts_method(&self, method: &str) -> bool {
        self.specs.iter().any(|spec| spec.methods.contains(&method))
    }

    /// Whether a handshake that requires a valid signature may use this method.
    pub fn has_signed_handshake(&self, method: &str) -> bool {
        self.specs.iter().any(|spec| spec.requires_signature && spec.methods.contains(&method))
    }

    /// Recognizes a handshake. `is_signature_verified` selects the handshakes that require a valid
    /// signature, otherwise the others are tried.
    pub fn detect(
        &self,
        request: &SignedRequest<'_>,
        is_signature_verified: bool,
    ) -> HandshakeResult {
        if request.body.len() > MAX_BODY_BYTES {
            return None;
        }
        let is_candidate = |spec: &&&HandshakeSpec| {
            spec.requires_signature == is_signature_verified
                && spec.methods.contains(&request.method)
        };
        self.specs.iter().filter(is_candidate).find_map(|spec| (spec.detect)(self, request))
    }
}

fn reply(detail: impl Into<String>, response: SenderResponse) -> HandshakeResult {
    Some(Ok(HandshakeReply { detail: detail.into(), response, operator_action: None }))
}

/// Returns the challenge and nothing else.
fn echo_challenge(detail: &str, challenge: &str) -> HandshakeResult {
    let has_valid_size = challenge.len() <= MAX_CHALLENGE_BYTES;
    has_valid_size.then(|| reply(detail, SenderResponse::text(challenge))).flatten()
}

/// Returns a query parameter, decoded once. A request that repeats the name is no handshake.
fn utf8_parameter(request: &SignedRequest<'_>, name: &str) -> Option<String> {
    String::from_utf8(query_parameter(request.query, name).ok()??).ok()
}

/// `{"type":"url_verification","challenge":C}`: the response is `C`.
fn detect_slack(_: &PresetHandshakes, request: &SignedRequest<'_>) -> HandshakeResult {
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
        _ if form_fields::is_form(request.optional_header("content-type").ok()?) => request.body,
        _ => return None,
    };
    let mut checks = 0;
    for (at, (name, value)) in form_fields::iter_fields(form).enumerate() {
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

/// The connection test of Bitbucket Data Center (confluence.atlassian.com, "Manage webhooks").
fn detect_diagnostics(_: &PresetHandshakes, request: &SignedRequest<'_>) -> HandshakeResult {
    #[derive(Deserialize)]
    struct DiagnosticsBody {
        test: bool,
    }
    let key = request.optional_header("x-event-key").ok().flatten()?;
    let is_handshake = key == b"diagnostics:ping"
        && json_body::parse(request.body).is_ok_and(|DiagnosticsBody { test }| test);
    is_handshake.then(|| reply("diagnostics:ping", SenderResponse::empty(200))).flatten()
}

/// The response has `plainToken` and its HMAC, made with the secret that signed the request.
fn detect_zoom(preset: &PresetHandshakes, request: &SignedRequest<'_>) -> HandshakeResult {
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
    let timestamp = request.required_header("x-zm-request-timestamp").ok()?;
    let parts = [b"v0:", timestamp, b":", request.body];
    let key = |secret: &Vec<u8>| HmacKeys::new(hmac::HMAC_SHA256, [secret.as_slice()]);
    let mut keys = preset.secrets.iter().map(key);
    let key = keys.find(|key| key.verify_any(&parts, &signatures))?;
    let encrypted = hex::encode(key.sign(&[token.as_bytes()], false).ok()?);
    let response = serde_json::json!({ "plainToken": token, "encryptedToken": encrypted });
    reply("endpoint.url_validation", SenderResponse::json(response.to_string()))
}

/// Interactions send `{"type":1}`, events `{"type":0}`. An event of type 1 has a member `event`.
fn detect_discord_ping(_: &PresetHandshakes, request: &SignedRequest<'_>) -> HandshakeResult {
    let body: discord::DiscordBody = json_body::parse(request.body).ok()?;
    match (body.kind, body.event) {
        (1, None) => reply("ping of interactions", SenderResponse::json(r#"{"type":1}"#)),
        (0, None) => reply("ping of events", discord::no_content()),
        _ => None,
    }
}

/// The operator confirms the subscription by opening its URL: this server fetches no URL that a
/// request contains.
fn detect_subscription(_: &PresetHandshakes, request: &SignedRequest<'_>) -> HandshakeResult {
    let body: sns::SnsBody<'_> = json_body::parse(request.body).ok()?;
    let url = body.subscribe_url.filter(|_| body.kind == sns::SUBSCRIPTION)?;
    let (topic, url) = (body.topic_arn.escape_debug(), url.escape_debug());
    let detail = format!("subscription to {topic}: {url}");
    let operator_action =
        "SNS asks to confirm a subscription: open the URL in the view `handshakes`";
    let response = SenderResponse::empty(200);
    Some(Ok(HandshakeReply { detail, response, operator_action: Some(operator_action) }))
}

/// `?hub.mode=subscribe&hub.verify_token=V&hub.challenge=C`: the response is `C` if `V` is the
/// token.
fn detect_meta(preset: &PresetHandshakes, request: &SignedRequest<'_>) -> HandshakeResult {
    if utf8_parameter(request, "hub.mode")? != "subscribe" {
        return None;
    }
    if !preset.has_token {
        return Some(Err("no verify_token is configured".to_owned()));
    }
    let token = match query_parameter(request.query, "hub.verify_token") {
        Ok(Some(token)) => token,
        Ok(None) => return Some(Err("no query parameter hub.verify_token".to_owned())),
        Err(reason) => return Some(Err(reason)),
    };
    if !preset.tokens.contains(&token) {
        return Some(Err("hub.verify_token does not match".to_owned()));
    }
    echo_challenge("hub.mode=subscribe", &utf8_parameter(request, "hub.challenge")?)
}

fn detect_validation_token(_: &PresetHandshakes, request: &SignedRequest<'_>) -> HandshakeResult {
    echo_challenge("validationToken", &utf8_parameter(request, "validationToken")?)
}

fn detect_challenge(_: &PresetHandshakes, request: &SignedRequest<'_>) -> HandshakeResult {
    echo_challenge("challenge", &utf8_parameter(request, "challenge")?)
}

/// A GET. Mailchimp's older checks are an empty POST.
fn detect_mailchimp(_: &PresetHandshakes, request: &SignedRequest<'_>) -> HandshakeResult {
    let is_handshake = request.method == "GET" || request.body.is_empty();
    is_handshake.then(|| reply(request.method, SenderResponse::empty(200))).flatten()
}

/// A HEAD, then a POST without events, signed with a key that the operator cannot know yet.
fn detect_mandrill(_: &PresetHandshakes, request: &SignedRequest<'_>) -> HandshakeResult {
    let mut fields = form_fields::iter_fields(request.body);
    let is_handshake = match (fields.next(), fields.next()) {
        _ if request.method == "HEAD" => true,
        (Some((name, value)), None) => *name == *b"mandrill_events" && *value == *b"[]",
        _ => false,
    };
    is_handshake.then(|| reply(request.method, SenderResponse::empty(200))).flatten()
}

fn accept_any(_: &PresetHandshakes, request: &SignedRequest<'_>) -> HandshakeResult {
    reply(request.method, SenderResponse::empty(200))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_handshake_belongs_to_a_preset() {
        for spec in HANDSHAKES {
            assert!(
                config::find_scheme(spec.scheme).is_some_and(|scheme| scheme.is_preset),
                "{}",
                spec.scheme
            );
        }
    }
}
