//! A sender's question whether we are there, a row each (their pages are cited in the schemes'
//! files). It is answered whatever `methods` says, and is no event.
//!
//! Most are asked once the signature holds. Those that come unsigned are answered with nothing but
//! the challenge, as plain text and short, so that nobody can make this server say anything else.

use std::borrow::Cow;

use ring::hmac;
use serde::Deserialize;

use super::secrets::{HmacKeys, SharedSecrets};
use super::token::parameter;
use super::{SenderResponse, SignedRequest, discord, form_fields, json_body, parse, sns};
use crate::config::{self, Encoding, Secrets, Source};

/// A challenge that is longer is not answered.
pub const CHALLENGE_BYTES_MAX: usize = 1024;

/// No handshake is longer: what is, need not be looked into.
const BODY_BYTES_MAX: usize = 64 << 10;

/// A question and its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handshake {
    /// For the trail.
    pub detail: String,
    pub answer: SenderResponse,
    /// A person has to do something about it, and what: a log line, which quotes no request.
    pub operator_action: Option<&'static str>,
}

/// A handshake, why it is refused, or none at all.
type HandshakeResult = Option<Result<Handshake, String>>;

/// How one sender asks.
struct HandshakeSpec {
    scheme: &'static str,
    methods: &'static [&'static str],
    /// Asked only where the signature holds.
    signed: bool,
    ask: fn(&PresetHandshake, &SignedRequest<'_>) -> HandshakeResult,
}

/// Fields of an unsigned form that asks.
const FORM_FIELDS_MAX: usize = 16;

const GET: &[&str] = &["GET"];
const HEAD: &[&str] = &["HEAD"];
const POST: &[&str] = &["POST"];

const HANDSHAKES: &[HandshakeSpec] = &[
    HandshakeSpec { scheme: "slack", methods: POST, signed: true, ask: slack },
    HandshakeSpec { scheme: "slack", methods: &["GET", "POST"], signed: false, ask: ssl_check },
    HandshakeSpec { scheme: "bitbucket", methods: POST, signed: false, ask: diagnostics },
    HandshakeSpec { scheme: "zoom", methods: POST, signed: true, ask: zoom },
    HandshakeSpec { scheme: "discord", methods: POST, signed: true, ask: discord_ping },
    HandshakeSpec { scheme: "sns", methods: POST, signed: true, ask: subscription },
    // Brings a token of its own.
    HandshakeSpec { scheme: "meta", methods: GET, signed: false, ask: meta },
    HandshakeSpec {
        scheme: "microsoft-graph",
        methods: POST,
        signed: false,
        ask: validation_token,
    },
    HandshakeSpec { scheme: "dropbox", methods: GET, signed: false, ask: challenge },
    HandshakeSpec { scheme: "mailchimp", methods: &["GET", "POST"], signed: false, ask: mailchimp },
    HandshakeSpec { scheme: "mandrill", methods: &["HEAD", "POST"], signed: false, ask: mandrill },
    HandshakeSpec { scheme: "trello", methods: HEAD, signed: false, ask: empty_ok },
];

/// A preset's handshakes, ready to be answered.
pub struct PresetHandshake {
    rows: Vec<&'static HandshakeSpec>,
    secrets: Vec<Vec<u8>>,
    /// Where the signature stands.
    header: String,
    tokens: SharedSecrets,
    has_token: bool,
}

impl PresetHandshake {
    /// `None` where there is none, or the source wants none. One of the source's own does not turn it off.
    pub(super) fn new(source: &Source, secrets: &Secrets) -> Option<Self> {
        if source.handshake == config::HandshakeConfig::Off {
            return None;
        }
        let rows: Vec<_> =
            HANDSHAKES.iter().filter(|row| row.scheme == source.verify.scheme).collect();
        if rows.is_empty() {
            return None;
        }
        let tokens: Vec<&[u8]> = secrets.resolve(&source.verify.verify_token).collect();
        Some(Self {
            rows,
            secrets: secrets.resolve(&source.verify.secret).map(<[u8]>::to_vec).collect(),
            header: source.verify.header.clone().unwrap_or_default(),
            has_token: !tokens.is_empty(),
            tokens: SharedSecrets::new(tokens),
        })
    }

    /// Whether one may come by this method, whatever the source's `methods` say.
    pub fn accepts_method(&self, method: &str) -> bool {
        self.rows.iter().any(|row| row.methods.contains(&method))
    }

    /// Whether one that comes by this method is asked where the signature holds.
    pub fn is_signed_by(&self, method: &str) -> bool {
        self.rows.iter().any(|row| row.signed && row.methods.contains(&method))
    }

    /// The handshake that this request is, if it is one. `is_signed`: of those that are asked where the
    /// signature holds, else of the others.
    pub fn detect(&self, asked: &SignedRequest<'_>, is_signed: bool) -> HandshakeResult {
        if asked.body.len() > BODY_BYTES_MAX {
            return None;
        }
        let fits =
            |row: &&&HandshakeSpec| row.signed == is_signed && row.methods.contains(&asked.method);
        self.rows.iter().filter(fits).find_map(|row| (row.ask)(self, asked))
    }
}

fn reply(detail: impl Into<String>, answer: SenderResponse) -> HandshakeResult {
    Some(Ok(Handshake { detail: detail.into(), answer, operator_action: None }))
}

/// The challenge as it came, and nothing else.
fn echo_challenge(detail: &str, challenge: &str) -> HandshakeResult {
    let fits = challenge.len() <= CHALLENGE_BYTES_MAX;
    fits.then(|| reply(detail, SenderResponse::text(challenge))).flatten()
}

/// A parameter that is there once, decoded once; a name that repeats is no handshake.
fn query_param(asked: &SignedRequest<'_>, name: &str) -> Option<String> {
    String::from_utf8(parameter(asked.query, name).ok()??).ok()
}

/// `{"type":"url_verification","challenge":C}`: `C`.
fn slack(_: &PresetHandshake, asked: &SignedRequest<'_>) -> HandshakeResult {
    #[derive(Deserialize)]
    struct Body<'a> {
        #[serde(rename = "type", borrow)]
        kind: Cow<'a, str>,
        #[serde(borrow)]
        challenge: Cow<'a, str>,
    }
    let body: Body<'_> = json_body::parse(asked.body).ok()?;
    (body.kind == "url_verification")
        .then(|| echo_challenge("url_verification", &body.challenge))
        .flatten()
}

/// Slack's check of a slash command's certificate (docs.slack.dev, "Implementing slash commands"): a form
/// or a query whose `ssl_check` is 1, and which is no command.
fn ssl_check(_: &PresetHandshake, asked: &SignedRequest<'_>) -> HandshakeResult {
    let form = match asked.method {
        "GET" => asked.query.unwrap_or_default().as_bytes(),
        _ if form_fields::is_form(asked.optional_header("content-type").ok()?) => asked.body,
        _ => return None,
    };
    let mut checks = 0;
    for (at, (name, value)) in form_fields::each(form).enumerate() {
        match &*name {
            b"command" | b"payload" => return None,
            b"ssl_check" if *value == *b"1" => checks += 1,
            b"ssl_check" => return None,
            _ => {}
        }
        if at >= FORM_FIELDS_MAX {
            return None;
        }
    }
    (checks == 1).then(|| reply("ssl_check", SenderResponse::empty(200))).flatten()
}

/// Bitbucket Data Center's test of a connection (confluence.atlassian.com, "Manage webhooks").
fn diagnostics(_: &PresetHandshake, asked: &SignedRequest<'_>) -> HandshakeResult {
    #[derive(Deserialize)]
    struct Body {
        test: bool,
    }
    let key = asked.optional_header("x-event-key").ok().flatten()?;
    let asks =
        key == b"diagnostics:ping" && json_body::parse(asked.body).is_ok_and(|Body { test }| test);
    asks.then(|| reply("diagnostics:ping", SenderResponse::empty(200))).flatten()
}

/// `plainToken`, with its HMAC by the secret that signed the question.
fn zoom(known: &PresetHandshake, asked: &SignedRequest<'_>) -> HandshakeResult {
    #[derive(Deserialize)]
    struct Body<'a> {
        #[serde(borrow)]
        event: Cow<'a, str>,
        #[serde(borrow)]
        payload: Payload<'a>,
    }
    #[derive(Deserialize)]
    struct Payload<'a> {
        #[serde(rename = "plainToken", borrow)]
        token: Cow<'a, str>,
    }
    let body: Body<'_> = json_body::parse(asked.body).ok()?;
    let token = &*body.payload.token;
    if body.event != "endpoint.url_validation" || token.len() > CHALLENGE_BYTES_MAX {
        return None;
    }
    let signatures: Vec<Vec<u8>> = parse::elements(asked, &known.header)
        .take(parse::SIGNATURES_MAX)
        .filter_map(|element| {
            parse::decode_signature(Encoding::Hex, element.strip_prefix(b"v0=")?).ok()
        })
        .collect();
    let timestamp = asked.required_header("x-zm-request-timestamp").ok()?;
    let parts = [b"v0:", timestamp, b":", asked.body];
    let key = |secret: &Vec<u8>| HmacKeys::new(hmac::HMAC_SHA256, [secret.as_slice()]);
    let mut keys = known.secrets.iter().map(key);
    let key = keys.find(|key| key.signed_any(&parts, &signatures))?;
    let encrypted = hex::encode(key.sign(&[token.as_bytes()], false).ok()?);
    let answer = serde_json::json!({ "plainToken": token, "encryptedToken": encrypted });
    reply("endpoint.url_validation", SenderResponse::json(answer.to_string()))
}

/// `{"type":1}` of interactions, `{"type":0}` of events; an event of type 1 has an `event`.
fn discord_ping(_: &PresetHandshake, asked: &SignedRequest<'_>) -> HandshakeResult {
    let body: discord::Body = json_body::parse(asked.body).ok()?;
    match (body.kind, body.event) {
        (1, None) => reply("ping of interactions", SenderResponse::json(r#"{"type":1}"#)),
        (0, None) => reply("ping of events", discord::no_content()),
        _ => None,
    }
}

/// Confirmed by a person who opens the URL: this server fetches nothing that it is sent.
fn subscription(_: &PresetHandshake, asked: &SignedRequest<'_>) -> HandshakeResult {
    let body: sns::Body<'_> = json_body::parse(asked.body).ok()?;
    let url = body.subscribe_url.filter(|_| body.kind == sns::SUBSCRIPTION)?;
    let (topic, url) = (body.topic_arn.escape_debug(), url.escape_debug());
    let detail = format!("subscription to {topic}: {url}");
    let wanted = "SNS asks to confirm a subscription: open the URL in the view `handshakes`";
    let answer = SenderResponse::empty(200);
    Some(Ok(Handshake { detail, answer, operator_action: Some(wanted) }))
}

/// `?hub.mode=subscribe&hub.verify_token=V&hub.challenge=C`: `C`, where `V` is the token.
fn meta(known: &PresetHandshake, asked: &SignedRequest<'_>) -> HandshakeResult {
    if query_param(asked, "hub.mode")? != "subscribe" {
        return None;
    }
    if !known.has_token {
        return Some(Err("no verify_token is configured".to_owned()));
    }
    let given = match parameter(asked.query, "hub.verify_token") {
        Ok(Some(given)) => given,
        Ok(None) => return Some(Err("no query parameter hub.verify_token".to_owned())),
        Err(reason) => return Some(Err(reason)),
    };
    if !known.tokens.contains(&given) {
        return Some(Err("hub.verify_token does not match".to_owned()));
    }
    echo_challenge("hub.mode=subscribe", &query_param(asked, "hub.challenge")?)
}

fn validation_token(_: &PresetHandshake, asked: &SignedRequest<'_>) -> HandshakeResult {
    echo_challenge("validationToken", &query_param(asked, "validationToken")?)
}

fn challenge(_: &PresetHandshake, asked: &SignedRequest<'_>) -> HandshakeResult {
    echo_challenge("challenge", &query_param(asked, "challenge")?)
}

/// A GET; its older checks are an empty POST.
fn mailchimp(_: &PresetHandshake, asked: &SignedRequest<'_>) -> HandshakeResult {
    let asks = asked.method == "GET" || asked.body.is_empty();
    asks.then(|| reply(asked.method, SenderResponse::empty(200))).flatten()
}

/// A HEAD, then a POST of no events, signed with a key that nobody has yet.
fn mandrill(_: &PresetHandshake, asked: &SignedRequest<'_>) -> HandshakeResult {
    let mut fields = form_fields::each(asked.body);
    let asks = match (fields.next(), fields.next()) {
        _ if asked.method == "HEAD" => true,
        (Some((name, value)), None) => *name == *b"mandrill_events" && *value == *b"[]",
        _ => false,
    };
    asks.then(|| reply(asked.method, SenderResponse::empty(200))).flatten()
}

fn empty_ok(_: &PresetHandshake, asked: &SignedRequest<'_>) -> HandshakeResult {
    reply(asked.method, SenderResponse::empty(200))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_row_is_of_a_preset() {
        for row in HANDSHAKES {
            assert!(
                config::find_scheme(row.scheme).is_some_and(|it| it.is_preset),
                "{}",
                row.scheme
            );
        }
    }
}
