//! What is known of each scheme: one table of facts, in the contract's order. How a scheme verifies
//! and shakes hands is `web`'s (`web/verify/mod.rs` has a line a scheme too, and a test holds the two
//! against each other). The figures and delivery ids are the senders' own; docs/senders.md tells
//! them to people.

use std::time::Duration;

use super::secret::Becomes;
use super::{Dedupe, Verify};
use crate::expression::Expression;

/// A way to verify.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scheme {
    pub name: &'static str,
    /// Keys that it takes beside `scheme`.
    pub keys: &'static [&'static str],
    /// It comes with its sender's own dedupe key, handshake and answer.
    pub preset: bool,
    /// Where its signature or token stands, lower case, unless the source says otherwise.
    pub header: Option<&'static str>,
    /// How far its time stamp may be off, both ways; `None`: it has none.
    pub tolerance: Option<Duration>,
    /// What a repeat is known by, unless the source says otherwise.
    pub repeat: Repeat,
    /// What its secret has to be made of.
    pub secret: Becomes,
    /// A secret may still be missing: its sender gives it only after a handshake.
    pub secret_later: bool,
}

/// What a sender makes unique for each notification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    Nothing,
    /// The first of these that is there, lower case.
    Header(&'static [&'static str]),
    Body,
    /// An expression on the body.
    Jq(&'static str),
    /// `inbox` knows.
    Own,
}

/// What every scheme with a secret takes.
const COMMON: &[&str] = &["secret", "tolerance", "url"];
const WITH_HEADER: &[&str] = &["secret", "header", "tolerance", "url"];

const fn plain(name: &'static str, keys: &'static [&'static str]) -> Scheme {
    Scheme {
        name,
        keys,
        preset: false,
        header: None,
        tolerance: None,
        repeat: Repeat::Nothing,
        secret: Becomes::Bytes,
        secret_later: false,
    }
}

const fn preset(name: &'static str) -> Scheme {
    Scheme { preset: true, ..plain(name, COMMON) }
}

/// A preset whose signature or token stands in a header.
const fn signed(name: &'static str, header: &'static str) -> Scheme {
    Scheme { preset: true, header: Some(header), ..plain(name, WITH_HEADER) }
}

impl Scheme {
    const fn within(self, seconds: u64) -> Self {
        Self { tolerance: Some(Duration::from_secs(seconds)), ..self }
    }

    const fn knows(self, repeat: Repeat) -> Self {
        Self { repeat, ..self }
    }

    const fn secret(self, secret: Becomes) -> Self {
        Self { secret, ..self }
    }

    const fn takes(self, keys: &'static [&'static str]) -> Self {
        Self { keys, ..self }
    }
}

const MINUTE: u64 = 60;
const FIVE: u64 = 5 * MINUTE;
const HOUR: u64 = 60 * MINUTE;

const TOKEN: &[&str] = &["header", "query", "segment", "secret", "tolerance", "url"];
const HMAC: &[&str] = &[
    "algorithm",
    "header",
    "prefix",
    "encoding",
    "signed",
    "timestamp_header",
    "timestamp_unit",
    "id_header",
    "secret",
    "tolerance",
    "url",
];

/// Every scheme of the contract.
pub const SCHEMES: &[Scheme] = &[
    plain("none", &[]),
    plain("token", TOKEN),
    plain("basic", &["user", "secret", "tolerance", "url"]),
    plain("bearer", COMMON),
    plain("hmac", HMAC),
    signed("paminga", "x-paminga-signature").knows(Repeat::Own),
    preset("standard")
        .within(FIVE)
        .secret(Becomes::StandardVerifier)
        .knows(Repeat::Header(&["webhook-id", "svix-id"])),
    // The same on redelivery.
    signed("github", "x-hub-signature-256").knows(Repeat::Header(&["x-github-delivery"])),
    // X-Gitlab-Event-UUID is shared by events that follow from each other.
    signed("gitlab", "x-gitlab-token").knows(Repeat::Header(&["idempotency-key"])),
    signed("stripe", "stripe-signature").within(FIVE).knows(Repeat::Jq(".id")),
    signed("shopify", "x-shopify-hmac-sha256").knows(Repeat::Header(&["x-shopify-webhook-id"])),
    signed("slack", "x-slack-signature").within(FIVE).knows(Repeat::Jq(".event_id")),
    signed("twilio", "x-twilio-signature").knows(Repeat::Header(&["i-twilio-idempotency-token"])),
    signed("sendgrid", "x-twilio-email-event-webhook-signature")
        .within(FIVE)
        .secret(Becomes::P256Key)
        .knows(Repeat::Body),
    // As a form it has the three fields of `signature` at its top.
    preset("mailgun").within(FIVE).knows(Repeat::Jq(".signature.token? // .token")),
    preset("mailchimp").takes(&["query", "segment", "secret", "tolerance", "url"]),
    Scheme { secret_later: true, ..signed("mandrill", "x-mandrill-signature") }.knows(Repeat::Body),
    signed("meta", "x-hub-signature-256")
        .takes(&["verify_token", "secret", "header", "tolerance", "url"])
        .knows(Repeat::Body),
    signed("zoom", "x-zm-signature").within(FIVE).knows(Repeat::Body),
    signed("discord", "x-signature-ed25519")
        .within(FIVE)
        .secret(Becomes::Ed25519Key)
        .knows(Repeat::Jq(".id")),
    signed("paddle", "paddle-signature").within(FIVE).knows(Repeat::Jq(".event_id")),
    signed("square", "x-square-hmacsha256-signature").knows(Repeat::Jq(".event_id")),
    signed("hubspot", "x-hubspot-signature-v3").within(FIVE).knows(Repeat::Body),
    signed("linear", "linear-signature").within(MINUTE).knows(Repeat::Header(&["linear-delivery"])),
    signed("bitbucket", "x-hub-signature").knows(Repeat::Header(&["x-request-uuid"])),
    // The bodies of later changes are the same bytes, and each is an event of its own.
    signed("dropbox", "x-dropbox-signature"),
    // Two webhooks may call one source.
    signed("trello", "x-trello-webhook")
        .knows(Repeat::Jq("if .action.id then [.action.id, .webhook.id] else null end")),
    preset("microsoft-graph"),
    preset("sns").within(HOUR).secret(Becomes::Certificates).knows(Repeat::Jq(".MessageId")),
];

/// The scheme of that name.
pub fn scheme(name: &str) -> Option<&'static Scheme> {
    SCHEMES.iter().find(|scheme| scheme.name == name)
}

/// What a source whose scheme is a preset knows repeats by, where it does not say itself.
pub(super) fn dedupe(verify: &Verify) -> Option<Dedupe> {
    match scheme(&verify.scheme)?.repeat {
        Repeat::Nothing | Repeat::Own => None,
        Repeat::Header([name]) => Some(Dedupe::Header((*name).to_owned())),
        Repeat::Header(names) => Some(Dedupe::AnyHeader(names)),
        Repeat::Body => Some(Dedupe::Body),
        Repeat::Jq(text) => Expression::new(text).ok().map(Dedupe::Jq),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A process for each of their events would cost more than all else about it.
    #[test]
    fn each_presets_expression_compiles_and_is_answered_in_place() {
        use crate::expression::{Questions, Scene};
        let key = |text: &str, body: &str| {
            let questions = Questions::new(Some(Expression::new(text).unwrap()), Vec::new());
            let content_type = Some("application/json");
            let scene = Scene { body: body.as_bytes(), content_type, ..Scene::default() };
            questions.at_once(&scene).unwrap_or_else(|| panic!("{text}")).dedupe
        };
        for (name, body, expected) in [
            ("stripe", r#"{"id":"evt_1"}"#, Some("evt_1")),
            ("slack", r#"{"event_id":"Ev1"}"#, Some("Ev1")),
            ("slack", r#"{"event_id":""}"#, None),
            ("discord", r#"{"type":1,"event":{}}"#, None),
            ("mailgun", r#"{"signature":{"token":"t"}}"#, Some("t")),
            ("mailgun", r#"{"signature":"s","token":"t"}"#, Some("t")),
            ("trello", r#"{"action":{"id":"a"},"webhook":{"id":"w"}}"#, Some(r#"["a","w"]"#)),
            ("trello", r#"{"action":{},"webhook":{"id":"w"}}"#, None),
            ("paddle", r#"{"event_id":"p"}"#, Some("p")),
            ("square", r#"{"event_id":"q"}"#, Some("q")),
            ("sns", r#"{"MessageId":"m"}"#, Some("m")),
        ] {
            let Repeat::Jq(text) = scheme(name).unwrap().repeat else { panic!("{name}") };
            assert_eq!(key(text, body), Ok(expected.map(str::to_owned)), "{name}: {body}");
        }
    }
}
