//! What is known of each scheme: one table of facts, in the order of docs/configuration.md. How a scheme verifies,
//! reads its delivery's key and shakes hands is `web`'s (`verify/mod.rs` has a line a scheme too, and a test holds the two
//! against each other). The figures and delivery ids are the senders' own; docs/senders.md tells
//! them to people.

use std::time::Duration;

use super::Tolerance;
use super::secret::SecretFormat;

/// A way to verify.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SchemeSpec {
    pub name: &'static str,
    /// Keys that it takes beside `scheme`.
    pub keys: &'static [&'static str],
    /// It comes with its sender's own dedupe key, handshake and answer.
    pub is_preset: bool,
    /// Where its signature or token stands, lower case, unless the source says otherwise.
    pub header: Option<&'static str>,
    /// How far its time stamp may be off; `None`: it has none.
    pub tolerance: Option<Tolerance>,
    /// Its retries repeat the time stamp of the first attempt.
    pub is_stamp_repeated: bool,
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
    Absent,
    /// In the first of these headers that is there, lower case; its signature covers none of them.
    Header(&'static [&'static str]),
    /// Within what it signs: the scheme reads it as it verifies.
    Signed,
}

/// What every scheme with a secret takes.
const COMMON: &[&str] = &["secret", "tolerance", "url"];
const WITH_HEADER: &[&str] = &["secret", "header", "tolerance", "url"];

const fn plain(name: &'static str, keys: &'static [&'static str]) -> SchemeSpec {
    SchemeSpec {
        name,
        keys,
        is_preset: false,
        header: None,
        tolerance: None,
        is_stamp_repeated: false,
        delivery_key: DeliveryKey::Absent,
        secret: SecretFormat::Bytes,
        secret_optional: false,
    }
}

const fn preset(name: &'static str) -> SchemeSpec {
    SchemeSpec { is_preset: true, ..plain(name, COMMON) }
}

/// A preset whose signature or token stands in a header.
const fn signed(name: &'static str, header: &'static str) -> SchemeSpec {
    SchemeSpec { is_preset: true, header: Some(header), ..plain(name, WITH_HEADER) }
}

impl SchemeSpec {
    /// The time stamp is that of the attempt.
    const fn with_tolerance(self, seconds: u64) -> Self {
        let either = Duration::from_secs(seconds);
        Self { tolerance: Some(Tolerance { back: either, ahead: either }), ..self }
    }

    /// Retries repeat the time stamp, so that `back` outlasts the last of them.
    const fn with_repeated_stamp(self, back: u64, ahead: u64) -> Self {
        let (back, ahead) = (Duration::from_secs(back), Duration::from_secs(ahead));
        Self { tolerance: Some(Tolerance { back, ahead }), is_stamp_repeated: true, ..self }
    }

    /// The signature covers the delivery's key.
    const fn with_signed_key(self) -> Self {
        Self { delivery_key: DeliveryKey::Signed, ..self }
    }

    /// The delivery's key stands in a header that nobody signs.
    const fn with_key_header(self, headers: &'static [&'static str]) -> Self {
        Self { delivery_key: DeliveryKey::Header(headers), ..self }
    }

    const fn with_secret_format(self, secret: SecretFormat) -> Self {
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
pub const SCHEMES: &[SchemeSpec] = &[
    plain("none", &[]),
    plain("token", TOKEN),
    plain("basic", &["user", "secret", "tolerance", "url"]),
    plain("bearer", COMMON).with_secret_format(SecretFormat::BearerToken),
    plain("hmac", HMAC),
    signed("paminga", "x-paminga-signature").with_signed_key(),
    preset("standard")
        .with_tolerance(FIVE)
        .with_secret_format(SecretFormat::StandardVerifier)
        .with_signed_key(),
    // The same on redelivery.
    signed("github", "x-hub-signature-256").with_key_header(&["x-github-delivery"]),
    // X-Gitlab-Event-UUID is shared by events that follow from each other.
    signed("gitlab", "x-gitlab-token").with_key_header(&["idempotency-key"]),
    signed("stripe", "stripe-signature").with_tolerance(FIVE).with_signed_key(),
    signed("shopify", "x-shopify-hmac-sha256").with_key_header(&["x-shopify-webhook-id"]),
    signed("slack", "x-slack-signature").with_tolerance(FIVE).with_signed_key(),
    signed("twilio", "x-twilio-signature").with_key_header(&["i-twilio-idempotency-token"]),
    signed("sendgrid", "x-twilio-email-event-webhook-signature")
        .with_tolerance(FIVE)
        .with_secret_format(SecretFormat::P256Key)
        .with_signed_key(),
    // It tries for 8 hours (documentation.mailgun.com, "Webhooks").
    preset("mailgun").with_repeated_stamp(9 * HOUR, FIVE).with_signed_key(),
    preset("mailchimp").with_keys(&["query", "path_token", "secret", "tolerance", "url"]),
    SchemeSpec { secret_optional: true, ..signed("mandrill", "x-mandrill-signature") }
        .with_signed_key(),
    signed("meta", "x-hub-signature-256")
        .with_keys(&["verify_token", "secret", "header", "tolerance", "url"])
        .with_signed_key(),
    signed("zoom", "x-zm-signature").with_tolerance(FIVE).with_signed_key(),
    signed("discord", "x-signature-ed25519")
        .with_tolerance(FIVE)
        .with_secret_format(SecretFormat::Ed25519Key)
        .with_signed_key(),
    signed("paddle", "paddle-signature").with_tolerance(FIVE).with_signed_key(),
    signed("square", "x-square-hmacsha256-signature").with_signed_key(),
    signed("hubspot", "x-hubspot-signature-v3").with_tolerance(FIVE).with_signed_key(),
    // It tries again after a minute, an hour and six hours (linear.app/developers/webhooks), and the
    // minute of tolerance that the page advises would refuse all of these.
    signed("linear", "linear-signature").with_repeated_stamp(8 * HOUR, MINUTE).with_signed_key(),
    // Data Center names it X-Request-Id.
    signed("bitbucket", "x-hub-signature").with_key_header(&["x-request-uuid", "x-request-id"]),
    // The bodies of later changes are the same bytes, and each is an event of its own.
    signed("dropbox", "x-dropbox-signature"),
    signed("trello", "x-trello-webhook").with_signed_key(),
    preset("microsoft-graph"),
    // The time stamp is that of publishing; by default it tries for about an hour
    // (docs.aws.amazon.com/sns, "Message delivery retries").
    preset("sns")
        .with_repeated_stamp(24 * HOUR, HOUR)
        .with_secret_format(SecretFormat::Certificates)
        .with_signed_key(),
];

/// The scheme of that name.
pub fn find_scheme(name: &str) -> Option<&'static SchemeSpec> {
    SCHEMES.iter().find(|scheme| scheme.name == name)
}
