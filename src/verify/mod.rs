//! Verification: how each sender proves that a webhook is its own.
//!
//! Each scheme has a file, and senders that use one HMAC are rows of `hmac_presets.rs`.
//! `CONSTRUCTORS` lists them all. A scheme checks the raw bytes, in constant time, with every valid
//! secret. Before the signature is verified it parses only what the scheme itself needs. Each
//! scheme can also sign as its sender does, for `hooktrail send` and the tests.
//!
//! The rejection records the exact reason, and the response tells the sender none of it. No reason
//! contains a secret or the signature that would have matched.

use crate::config::{self, ProxyHeader, Secrets, Source, Verify};
use crate::planner;

mod bearer;
mod delivery_key;
mod discord;
mod form_fields;
mod handshake;
mod hmac;
mod hmac_presets;
mod json_body;
mod linear;
mod mailgun;
mod mandrill;
mod microsoft_graph;
mod outgoing;
mod paminga;
mod parse;
mod proof;
mod secrets;
mod sendgrid;
mod sns;
mod standard;
mod stripe;
mod token;
mod twilio;
mod url;

use delivery_key::DeliveryKeyLocation;
pub use handshake::{HandshakeReply, MAX_CHALLENGE_BYTES, PresetHandshakes};
pub use outgoing::OutgoingRequest;
pub use parse::forwarded_pair;
pub use proof::Proof;
pub use token::param_name_matches;

/// Why `hooktrail send` cannot sign for a scheme with a key pair.
const PUBLIC_KEY_ONLY: &str = "only the sender can sign: the secret here is its public key";

/// Builds a scheme from its configuration and secrets.
type SchemeConstructor = fn(&Verify, &[&[u8]]) -> Box<dyn VerificationScheme>;

/// The constructor of each scheme. `config::SCHEMES` has its other properties, and `handshake.rs`
/// its handshake.
const CONSTRUCTORS: &[(&str, SchemeConstructor)] = &[
    ("none", |_, _| Box::new(NoVerification)),
    ("token", |verify, secrets| Box::new(token::Token::new(verify, secrets))),
    ("basic", |verify, secrets| {
        Box::new(bearer::Basic::new(verify.user.as_deref().unwrap_or(""), secrets))
    }),
    ("bearer", |_, secrets| Box::new(bearer::Bearer::new(secrets))),
    ("hmac", |verify, secrets| match &verify.hmac {
        Some(hmac) => Box::new(hmac::HmacScheme::new(hmac.clone(), verify, secrets)),
        None => Box::new(token::Token::deny_all()),
    }),
    ("paminga", hmac_presets::scheme),
    ("standard", |verify, secrets| Box::new(standard::Standard::new(verify, secrets))),
    ("github", hmac_presets::scheme),
    ("gitlab", |verify, secrets| Box::new(token::Token::new(verify, secrets))),
    ("stripe", |verify, secrets| Box::new(stripe::TimestampedSignatures::stripe(verify, secrets))),
    ("shopify", hmac_presets::scheme),
    ("slack", hmac_presets::scheme),
    ("twilio", |verify, secrets| Box::new(twilio::Twilio::new(verify, secrets))),
    ("sendgrid", |verify, secrets| Box::new(sendgrid::SendGrid::new(verify, secrets))),
    ("mailgun", |verify, secrets| Box::new(mailgun::Mailgun::new(verify, secrets))),
    ("mailchimp", |verify, secrets| Box::new(token::Token::new(verify, secrets))),
    ("mandrill", |verify, secrets| Box::new(mandrill::Mandrill::new(verify, secrets))),
    ("meta", hmac_presets::scheme),
    ("zoom", hmac_presets::scheme),
    ("discord", |verify, secrets| Box::new(discord::Discord::new(verify, secrets))),
    ("paddle", |verify, secrets| Box::new(stripe::TimestampedSignatures::paddle(verify, secrets))),
    ("square", hmac_presets::scheme),
    ("hubspot", hmac_presets::scheme),
    ("linear", hmac_presets::scheme),
    ("bitbucket", hmac_presets::scheme),
    ("dropbox", hmac_presets::scheme),
    ("trello", hmac_presets::scheme),
    ("microsoft-graph", |_, secrets| Box::new(microsoft_graph::Graph::new(secrets))),
    ("sns", |verify, secrets| Box::new(sns::Sns::new(verify, secrets))),
];

/// A request as the sender signed it.
#[derive(Clone, Copy)]
pub struct SignedRequest<'a> {
    pub method: &'a str,
    pub path: &'a str,
    pub query: Option<&'a str>,
    /// Lower-case name, value.
    pub headers: &'a [(&'a str, &'a [u8])],
    pub body: &'a [u8],
    /// The last segment of the path, decoded, if it is the token.
    pub secret_segment: Option<&'a str>,
    /// Which header carries the public URL, if the request came through a trusted proxy.
    pub trusted_proxy_header: Option<ProxyHeader>,
}

impl<'a> SignedRequest<'a> {
    /// Returns the value of a header that must occur exactly once.
    fn required_header(&self, name: &str) -> Result<&'a [u8], String> {
        self.optional_header(name)?.ok_or_else(|| format!("no {name} header"))
    }

    /// Iterates over the values of a header, one for each line.
    fn header_values(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        self.headers.iter().filter(move |(other, _)| *other == name).map(|(_, value)| *value)
    }

    /// Requires that a header is present, however often.
    fn require_header(&self, name: &str) -> Result<(), String> {
        self.header_values(name).next().map(|_| ()).ok_or_else(|| format!("no {name} header"))
    }

    /// Returns the value of a header that may occur once.
    pub(super) fn optional_header(&self, name: &str) -> Result<Option<&'a [u8]>, String> {
        let mut values = self.headers.iter().filter(|(other, _)| *other == name);
        match (values.next(), values.next()) {
            (Some((_, value)), None) => Ok(Some(value)),
            (None, _) => Ok(None),
            (Some(_), Some(_)) => Err(format!("more than one {name} header")),
        }
    }

    /// Returns the last element of a list that may extend over several lines. The nearest proxy
    /// adds it.
    fn last_list_item(&self, name: &str) -> Option<&'a str> {
        let (_, value) = self.headers.iter().rev().find(|(other, _)| *other == name)?;
        let last = std::str::from_utf8(value).ok()?.rsplit(',').next()?.trim();
        (!last.is_empty()).then_some(last)
    }
}

/// A scheme's own response to the sender.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SenderResponse {
    pub status: u16,
    pub content_type: Option<&'static str>,
    pub body: String,
}

impl SenderResponse {
    fn empty(status: u16) -> Self {
        Self { status, content_type: None, body: String::new() }
    }

    /// A response of plain text.
    pub fn text(body: impl Into<String>) -> Self {
        Self { status: 200, content_type: Some("text/plain"), body: body.into() }
    }

    fn json(body: impl Into<String>) -> Self {
        Self { status: 200, content_type: Some("application/json"), body: body.into() }
    }
}

/// Where a request carries the shared secret itself. The server does not store that place.
#[derive(Clone, Copy, Debug, Default)]
struct SecretLocation<'s> {
    header: Option<&'s str>,
    parameter: Option<&'s str>,
    is_last_segment: bool,
}

/// A verification scheme with its secrets.
trait VerificationScheme: Send + Sync {
    /// Verifies the request and returns its proof, or the exact reason for the rejection.
    fn check(&self, request: &SignedRequest<'_>, now_ms: i64) -> Result<Proof, String>;

    /// Returns the cost of `check`, expressed as a number of bytes to hash.
    fn check_cost(&self, request: &SignedRequest<'_>) -> usize {
        request.body.len()
    }

    /// Signs as the sender does, or returns why that is not possible.
    fn sign(&self, outgoing: &mut OutgoingRequest, now_ms: i64) -> Result<(), String>;

    fn secret_location(&self) -> SecretLocation<'_> {
        SecretLocation::default()
    }

    /// Value of `WWW-Authenticate` in a 401.
    fn www_authenticate(&self) -> Option<&'static str> {
        None
    }

    /// The response of a preset to an event, and to its duplicate.
    fn success_response(&self, _body: &[u8]) -> SenderResponse {
        SenderResponse::empty(200)
    }
}

/// `scheme = "none"`: accepts every request.
struct NoVerification;

impl VerificationScheme for NoVerification {
    fn check(&self, _: &SignedRequest<'_>, _: i64) -> Result<Proof, String> {
        Ok(Proof::default())
    }

    fn sign(&self, _: &mut OutgoingRequest, _: i64) -> Result<(), String> {
        Ok(())
    }
}

/// Verifies the requests of one source.
pub struct Verifier {
    scheme: Box<dyn VerificationScheme>,
    spec: Option<&'static config::SchemeSpec>,
    handshakes: Option<PresetHandshakes>,
}

impl Verifier {
    /// Makes the verifier of a source from its `verify` and secrets.
    pub fn new(source: &Source, secrets: &Secrets) -> Self {
        let verify = &source.verify;
        let values: Vec<&[u8]> = secrets.resolve(&verify.secret).collect();
        let constructor = CONSTRUCTORS.iter().find(|(name, _)| *name == verify.scheme);
        Self {
            // The configuration rejects unknown schemes. If one got here, every request would be
            // rejected.
            scheme: constructor.map_or_else(
                || Box::new(token::Token::deny_all()) as Box<dyn VerificationScheme>,
                |(_, constructor)| constructor(verify, &values),
            ),
            spec: config::find_scheme(&verify.scheme),
            handshakes: PresetHandshakes::new(source, secrets),
        }
    }

    /// Verifies a request. A timestamp outside the tolerance is reported in the proof and is not an
    /// error yet.
    ///
    /// # Errors
    /// The exact reason, for the rejection's record only.
    pub fn check(&self, request: &SignedRequest<'_>, now_ms: i64) -> Result<Proof, String> {
        let mut proof = self.scheme.check(request, now_ms)?;
        if let Some(names) = self.key_headers() {
            let key = |name: &&str| planner::header_key(b'h', request.headers, name);
            proof.delivery_key = names.iter().find_map(key);
        }
        Ok(proof)
    }

    /// The headers that hold the sender's delivery key, if the sender does not sign it.
    fn key_headers(&self) -> Option<&'static [&'static str]> {
        match self.spec?.delivery_key {
            config::DeliveryKey::Header(names) => Some(names),
            config::DeliveryKey::Absent | config::DeliveryKey::Signed => None,
        }
    }

    /// Returns the cost of `check`, expressed as a number of bytes to hash.
    pub fn check_cost(&self, request: &SignedRequest<'_>) -> usize {
        self.scheme.check_cost(request)
    }

    /// Signs as the sender does.
    ///
    /// # Errors
    /// Why the scheme cannot sign.
    pub fn sign(&self, outgoing: &mut OutgoingRequest, now_ms: i64) -> Result<(), String> {
        if let Some([name, ..]) = self.key_headers()
            && outgoing.header(name).is_none()
        {
            let id = outgoing.id.clone();
            outgoing.set_header(name, id);
        }
        self.scheme.sign(outgoing, now_ms)
    }

    /// The preset's handshakes, if the scheme has any and the source does not turn them off.
    pub fn handshakes(&self) -> Option<&PresetHandshakes> {
        self.handshakes.as_ref()
    }

    /// Value of `WWW-Authenticate` in a 401.
    pub fn www_authenticate(&self) -> Option<&'static str> {
        self.scheme.www_authenticate()
    }

    /// Whether the scheme is a preset, which brings the sender's own response.
    pub fn is_preset(&self) -> bool {
        self.spec.is_some_and(|spec| spec.is_preset)
    }

    /// The preset's own response to an event.
    pub fn success_response(&self, body: &[u8]) -> Option<SenderResponse> {
        self.is_preset().then(|| self.scheme.success_response(body))
    }

    /// The header that holds a shared secret, besides those that are always redacted.
    pub fn secret_header(&self) -> Option<&str> {
        self.scheme.secret_location().header
    }

    /// The query parameter that holds a shared secret.
    pub fn secret_parameter(&self) -> Option<&str> {
        self.scheme.secret_location().parameter
    }

    /// Whether the last segment of the path is a shared secret.
    pub fn has_secret_segment(&self) -> bool {
        self.scheme.secret_location().is_last_segment
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(super) use tests::verifier as test_verifier;
