//! What is known of each scheme: one table of facts, in the order of docs/configuration.md. How a scheme verifies,
//! reads its delivery's key and shakes hands is `web`'s (`verify/mod.rs` has a line a scheme too, and a test holds the two
//! against each other). The figures and delivery ids are the senders' own; docs/senders.md tells
//! them to people.

use std::time::Duration;

use super::Tolerance;
use super::secret::SecretFormat;

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
    /// How far its time stamp may be off; `None`: it has none.
    pub tolerance: Option<Tolerance>,
    /// Its retries repeat the time stamp of the first attempt.
    pub repeats_stamp: bool,
    /// Where the sender's own key of a delivery stands.
    pub delivery_key: DeliveryKey,
    /// What its secret has to be made of.
    pub secret: SecretFormat,
    /// A secret may still be missing: its sender gives it only after a handshake.
    pub secret_optional: bool,
}

/// Where a sender puts what it makes unique for each notification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeliveryKey {
    Nowhere,
    /// In the first of these headers that is there, lower case; its signature covers none of them.
    Header(&'static [&'static str]),
    /// Within what it signs: the scheme reads it as it verifies.
    Signed,
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
        repeats_stamp: false,
        delivery_key: DeliveryKey::Nowhere,
        secret: SecretFormat::Bytes,
        secret_optional: false,
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
    /// The time stamp is that of the attempt.
    const fn tolerance(self, seconds: u64) -> Self {
        let either = Duration::from_secs(seconds);
        Self { tolerance: Some(Tolerance { back: either, ahead: either }), ..self }
    }

    /// Retries repeat the time stamp, so that `back` outlasts the last of them.
    const fn stamped_once(self, back: u64, ahead: u64) -> Self {
        let (back, ahead) = (Duration::from_secs(back), Duration::from_secs(ahead));
        Self { tolerance: Some(Tolerance { back, ahead }), repeats_stamp: true, ..self }
    }

    /// The signature covers the delivery's key.
    const fn signs_key(self) -> Self {
        Self { delivery_key: DeliveryKey::Signed, ..self }
    }

    /// The delivery's key stands in a header that nobody signs.
    const fn key_in(self, headers: &'static [&'static str]) -> Self {
        Self { delivery_key: DeliveryKey::Header(headers), ..self }
    }

    const fn secret(self, secret: SecretFormat) -> Self {
        Self { secret, ..self }
    }

    const fn with_keys(self, keys: &'static [&'static str]) -> Self {
        Self { keys, ..self }
    }
}

const MINUTE: u64 = 60;
const FIVE: u64 = 5 * MINUTE;
const HOUR: u64 = 60 * MINUTE;

const TOKEN: &[&str] = &["header", "query", "path_token", "secret", "tolerance", "url"];
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

/// Every scheme.
pub const SCHEMES: &[Scheme] = &[
    plain("none", &[]),
    plain("token", TOKEN),
    plain("basic", &["user", "secret", "tolerance", "url"]),
    plain("bearer", COMMON).secret(SecretFormat::BearerToken),
    plain("hmac", HMAC),
    signed("paminga", "x-paminga-signature").signs_key(),
    preset("standard").tolerance(FIVE).secret(SecretFormat::StandardVerifier).signs_key(),
    // The same on redelivery.
    signed("github", "x-hub-signature-256").key_in(&["x-github-delivery"]),
    // X-Gitlab-Event-UUID is shared by events that follow from each other.
    signed("gitlab", "x-gitlab-token").key_in(&["idempotency-key"]),
    signed("stripe", "stripe-signature").tolerance(FIVE).signs_key(),
    signed("shopify", "x-shopify-hmac-sha256").key_in(&["x-shopify-webhook-id"]),
    signed("slack", "x-slack-signature").tolerance(FIVE).signs_key(),
    signed("twilio", "x-twilio-signature").key_in(&["i-twilio-idempotency-token"]),
    signed("sendgrid", "x-twilio-email-event-webhook-signature")
        .tolerance(FIVE)
        .secret(SecretFormat::P256Key)
        .signs_key(),
    // It tries for 8 hours (documentation.mailgun.com, "Webhooks").
    preset("mailgun").stamped_once(9 * HOUR, FIVE).signs_key(),
    preset("mailchimp").with_keys(&["query", "path_token", "secret", "tolerance", "url"]),
    Scheme { secret_optional: true, ..signed("mandrill", "x-mandrill-signature") }.signs_key(),
    signed("meta", "x-hub-signature-256")
        .with_keys(&["verify_token", "secret", "header", "tolerance", "url"])
        .signs_key(),
    signed("zoom", "x-zm-signature").tolerance(FIVE).signs_key(),
    signed("discord", "x-signature-ed25519")
        .tolerance(FIVE)
        .secret(SecretFormat::Ed25519Key)
        .signs_key(),
    signed("paddle", "paddle-signature").tolerance(FIVE).signs_key(),
    signed("square", "x-square-hmacsha256-signature").signs_key(),
    signed("hubspot", "x-hubspot-signature-v3").tolerance(FIVE).signs_key(),
    // It tries again after a minute, an hour and six hours (linear.app/developers/webhooks), and the
    // minute of tolerance that the page advises would refuse all of these.
    signed("linear", "linear-signature").stamped_once(8 * HOUR, MINUTE).signs_key(),
    // Data Center names it X-Request-Id.
    signed("bitbucket", "x-hub-signature").key_in(&["x-request-uuid", "x-request-id"]),
    // The bodies of later changes are the same bytes, and each is an event of its own.
    signed("dropbox", "x-dropbox-signature"),
    signed("trello", "x-trello-webhook").signs_key(),
    preset("microsoft-graph"),
    // The time stamp is that of publishing; by default it tries for about an hour
    // (docs.aws.amazon.com/sns, "Message delivery retries").
    preset("sns").stamped_once(24 * HOUR, HOUR).secret(SecretFormat::Certificates).signs_key(),
];

/// The scheme of that name.
pub fn scheme(name: &str) -> Option<&'static Scheme> {
    SCHEMES.iter().find(|scheme| scheme.name == name)
}
