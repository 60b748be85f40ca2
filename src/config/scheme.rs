//! The table of schemes, in the order of docs/configuration.md. The module `verify` holds how each
//! scheme verifies, reads the key of a delivery and answers handshakes. A test compares the two
//! tables. The figures and delivery ids come from the senders' documentation, which docs/senders.md
//! cites.

use std::time::Duration;

use super::Tolerance;
use super::secret::SecretFormat;

/// The properties of a verification scheme.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SchemeSpec {
    pub name: &'static str,
    /// Its keys besides `scheme`.
    pub keys: &'static [&'static str],
    /// A preset has its sender's own deduplication key, handshake and response.
    pub is_preset: bool,
    /// The header of its signature or token, in lower case, unless the source sets another.
    pub header: Option<&'static str>,
    /// How far its time stamp may be off; `None`: it has no time stamp.
    pub tolerance: Option<Tolerance>,
    /// The sender's retries repeat the time stamp of the first attempt.
    pub is_stamp_repeated: bool,
    /// Where the sender puts its own key of a delivery.
    pub delivery_key: DeliveryKey,
    /// The format of its secret.
    pub secret: SecretFormat,
    /// The secret may be missing at first: the sender shows it only after a handshake.
    pub secret_optional: bool,
}

/// Where a sender puts its unique key of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeliveryKey {
    Absent,
    /// In the first of these headers that is present, in lower case. The signature covers none of
    /// them.
    Header(&'static [&'static str]),
    /// In the signed part of the request: the scheme reads it as it verifies.
    Signed,
}

/// The keys of every scheme with a secret.
const COMMON_KEYS: &[&str] = &["secret", "tolerance", "url"];
const HEADER_KEYS: &[&str] = &["secret", "header", "tolerance", "url"];

const fn basic_scheme(name: &'static str, keys: &'static [&'static str]) -> SchemeSpec {
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
    SchemeSpec { is_preset: true, ..basic_scheme(name, COMMON_KEYS) }
}

/// A preset whose signature or token is in a header.
const fn signed_preset(name: &'static str, header: &'static str) -> SchemeSpec {
    SchemeSpec { is_preset: true, header: Some(header), ..basic_scheme(name, HEADER_KEYS) }
}

impl SchemeSpec {
    /// The time stamp is that of the attempt, so that `seconds` holds in both directions.
    const fn with_tolerance(self, seconds: u64) -> Self {
        let tolerance = Duration::from_secs(seconds);
        Self { tolerance: Some(Tolerance { back: tolerance, ahead: tolerance }), ..self }
    }

    /// Retries repeat the time stamp, so `back` has to outlast the last of them.
    const fn with_repeated_stamp(self, back: u64, ahead: u64) -> Self {
        let (back, ahead) = (Duration::from_secs(back), Duration::from_secs(ahead));
        Self { tolerance: Some(Tolerance { back, ahead }), is_stamp_repeated: true, ..self }
    }

    /// The signature covers the delivery's key.
    const fn with_signed_key(self) -> Self {
        Self { delivery_key: DeliveryKey::Signed, ..self }
    }

    /// The delivery's key is in a header that is not signed.
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
const FIVE_MINUTES: u64 = 5 * MINUTE;
const HOUR: u64 = 60 * MINUTE;

const TOKEN_KEYS: &[&str] = &["header", "query", "path_token", "secret", "tolerance", "url"];
const HMAC_KEYS: &[&str] = &[
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
    basic_scheme("none", &[]),
    basic_scheme("token", TOKEN_KEYS),
    basic_scheme("basic", &["user", "secret", "tolerance", "url"]),
    basic_scheme("bearer", COMMON_KEYS).with_secret_format(SecretFormat::BearerToken),
    basic_scheme("hmac", HMAC_KEYS),
    signed_preset("paminga", "x-paminga-signature").with_signed_key(),
    preset("standard")
        .with_tolerance(FIVE_MINUTES)
        .with_secret_format(SecretFormat::StandardVerifier)
        .with_signed_key(),
    // A redelivery repeats it.
    signed_preset("github", "x-hub-signature-256").with_key_header(&["x-github-delivery"]),
    // X-Gitlab-Event-UUID is shared by events that follow from each other.
    signed_preset("gitlab", "x-gitlab-token").with_key_header(&["idempotency-key"]),
    signed_preset("stripe", "stripe-signature").with_tolerance(FIVE_MINUTES).with_signed_key(),
    signed_preset("shopify", "x-shopify-hmac-sha256").with_key_header(&["x-shopify-webhook-id"]),
    signed_preset("slack", "x-slack-signature").with_tolerance(FIVE_MINUTES).with_signed_key(),
    signed_preset("twilio", "x-twilio-signature").with_key_header(&["i-twilio-idempotency-token"]),
    signed_preset("sendgrid", "x-twilio-email-event-webhook-signature")
        .with_tolerance(FIVE_MINUTES)
        .with_secret_format(SecretFormat::P256Key)
        .with_signed_key(),
    // Mailgun retries for 8 hours (documentation.mailgun.com, "Webhooks").
    preset("mailgun").with_repeated_stamp(9 * HOUR, FIVE_MINUTES).with_signed_key(),
    preset("mailchimp").with_keys(&["query", "path_token", "secret", "tolerance", "url"]),
    SchemeSpec { secret_optional: true, ..signed_preset("mandrill", "x-mandrill-signature") }
        .with_signed_key(),
    signed_preset("meta", "x-hub-signature-256")
        .with_keys(&["verify_token", "secret", "header", "tolerance", "url"])
        .with_signed_key(),
    signed_preset("zoom", "x-zm-signature").with_tolerance(FIVE_MINUTES).with_signed_key(),
    signed_preset("discord", "x-signature-ed25519")
        .with_tolerance(FIVE_MINUTES)
        .with_secret_format(SecretFormat::Ed25519Key)
        .with_signed_key(),
    signed_preset("paddle", "paddle-signature").with_tolerance(FIVE_MINUTES).with_signed_key(),
    signed_preset("square", "x-square-hmacsha256-signature").with_signed_key(),
    signed_preset("hubspot", "x-hubspot-signature-v3")
        .with_tolerance(FIVE_MINUTES)
        .with_signed_key(),
    // Linear retries after a minute, an hour and six hours (linear.app/developers/webhooks). The
    // tolerance of one minute that the page advises would reject all of these.
    signed_preset("linear", "linear-signature")
        .with_repeated_stamp(8 * HOUR, MINUTE)
        .with_signed_key(),
    // Data Center names it X-Request-Id.
    signed_preset("bitbucket", "x-hub-signature")
        .with_key_header(&["x-request-uuid", "x-request-id"]),
    // Later changes have the same body, and each is a new event.
    signed_preset("dropbox", "x-dropbox-signature"),
    signed_preset("trello", "x-trello-webhook").with_signed_key(),
    preset("microsoft-graph"),
    // The time stamp is that of publishing. By default SNS retries for about an hour
    // (docs.aws.amazon.com/sns, "Message delivery retries").
    preset("sns")
        .with_repeated_stamp(24 * HOUR, HOUR)
        .with_secret_format(SecretFormat::Certificates)
        .with_signed_key(),
];

/// Finds the scheme of a name.
pub fn find_scheme(name: &str) -> Option<&'static SchemeSpec> {
    SCHEMES.iter().find(|scheme| scheme.name == name)
}
