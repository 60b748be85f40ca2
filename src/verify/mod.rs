//! Verification: how each sender proves that a webhook is its own.
//!
//! `Scheme` is what a source configures: a general scheme, or the preset of a sender.
//! `presets.rs` lists the senders, each with its file or its row. A scheme checks the raw bytes, in
//! constant time, with every valid secret. Before the signature is verified it parses only what the
//! scheme itself needs. Each scheme can also sign as its sender does, for `hooktrail send` and the
//! tests.
//!
//! The rejection records the exact reason, and the response tells the sender none of it. No reason
//! contains a secret or the signature that would have matched.

use crate::domain::job_plan::{KeyHash, header_key};
use crate::media_type::BodyFormat;

mod bearer;
mod bitbucket;
mod delivery_key;
mod discord;
mod form_fields;
mod handshake;
mod hmac;
mod hmac_spec;
mod hubspot;
mod json_body;
mod key_material;
mod linear;
mod mailgun;
mod mandrill;
mod meta;
mod microsoft_graph;
mod outgoing;
mod paminga;
mod parse;
mod preset;
mod presets;
mod proof;
mod scheme;
mod secrets;
mod sendgrid;
mod settings;
mod slack;
mod sns;
mod standard;
mod stripe;
mod token;
mod trello;
mod twilio;
mod url;
mod zoom;

pub use handshake::{HandshakeReply, MAX_CHALLENGE_BYTES, PresetHandshakes};
pub use hmac_spec::{Algorithm, Encoding, HmacSpec, SignedPart, TimestampUnit, parse_signed_parts};
pub use key_material::{SecretFormat, parse_shared_standard_key};
pub use outgoing::OutgoingRequest;
pub use parse::{Tolerance, forwarded_pair};
pub use preset::{DeliveryKey, Preset, PresetLocation};
pub use presets::PRESETS;
pub use proof::{Proof, Reason};
pub use scheme::Scheme;
pub use settings::SchemeSettings;
pub use token::{CredentialLocation, param_name_matches};
pub use url::{ProxyHeader, PublicUrl, next_name};

// Functions that the files of the senders share.
use delivery_key::{DeliveryKeyLocation, NOT_JSON, body_key, id_key, key_text};
use handshake::{
    HandshakeResult, HandshakeSpec, accept, echo_challenge, echo_parameter, reply, utf8_parameter,
};
use hmac::{HmacPreset, HmacScheme};
use json_body::RawObject;
use key_material::StandardKey;
use parse::{MAX_SIGNATURES, MISMATCH};
use preset::{Constructor, FIVE_MINUTES, HOUR, MINUTE, Method};
use secrets::{HmacKeys, SharedSecrets};
use token::query_parameter;

/// Why `hooktrail send` cannot sign for a scheme with a key pair.
const PUBLIC_KEY_ONLY: &str = "only the sender can sign: the secret here is its public key";

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
    /// Makes a request of a body alone.
    pub fn from_body(body: &'a [u8]) -> Self {
        Self {
            method: "POST",
            path: "/",
            query: None,
            headers: &[],
            body,
            secret_segment: None,
            trusted_proxy_header: None,
        }
    }

    /// Returns the value of a header that must occur exactly once.
    fn required_header(&self, name: &str) -> Result<&'a [u8], Reason> {
        self.optional_header(name)?.ok_or_else(|| format!("no {name} header").into())
    }

    /// Iterates over the values of a header, one for each line.
    fn header_values(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        self.headers.iter().filter(move |(other, _)| *other == name).map(|(_, value)| *value)
    }

    /// Requires that a header is present, however often.
    fn require_header(&self, name: &str) -> Result<(), Reason> {
        let value = self.header_values(name).next();
        value.map(|_| ()).ok_or_else(|| format!("no {name} header").into())
    }

    /// Returns the value of a header that may occur once.
    pub(super) fn optional_header(&self, name: &str) -> Result<Option<&'a [u8]>, Reason> {
        let mut values = self.headers.iter().filter(|(other, _)| *other == name);
        match (values.next(), values.next()) {
            (Some((_, value)), None) => Ok(Some(value)),
            (None, _) => Ok(None),
            (Some(_), Some(_)) => Err(format!("more than one {name} header").into()),
        }
    }

    /// How the body is read, by its content type.
    fn body_format(&self) -> Result<BodyFormat, Reason> {
        let content_type = self.optional_header("content-type")?.unwrap_or_default();
        Ok(BodyFormat::from_content_type(content_type))
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

/// A verification scheme with its secrets.
trait VerificationScheme: Send + Sync {
    /// Verifies the request and returns its proof, or the exact reason for the rejection.
    fn check(&self, request: &SignedRequest<'_>, now_ms: i64) -> Result<Proof, Reason>;

    /// Returns the cost of `check`, expressed as a number of bytes to hash.
    fn check_cost(&self, request: &SignedRequest<'_>) -> usize {
        request.body.len()
    }

    /// Reads the delivery key from the body, without a check. `None`: it does not depend on the body, except
    /// for an id that is random.
    fn key_in_body(&self, _: &SignedRequest<'_>) -> Option<KeyHash> {
        None
    }

    /// Signs as the sender does, or returns why that is not possible.
    fn sign(&self, _: &mut OutgoingRequest, _now_ms: i64) -> Result<(), Reason> {
        Err(PUBLIC_KEY_ONLY.into())
    }

    /// Where a request carries the shared secret itself. The server does not store that place.
    fn secret_location(&self) -> Option<&CredentialLocation> {
        None
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
    fn check(&self, _: &SignedRequest<'_>, _: i64) -> Result<Proof, Reason> {
        Ok(Proof::default())
    }

    fn sign(&self, _: &mut OutgoingRequest, _: i64) -> Result<(), Reason> {
        Ok(())
    }
}

/// Verifies the requests of one source.
pub struct Verifier {
    scheme: Box<dyn VerificationScheme>,
    preset: Option<&'static Preset>,
    handshakes: Option<PresetHandshakes>,
}

impl Verifier {
    /// Makes the verifier of a source from its scheme and settings.
    pub fn new(scheme: &Scheme, settings: &SchemeSettings<'_>) -> Self {
        let header = scheme.location().map_or("", CredentialLocation::header);
        let specs = scheme.preset().map_or(&[][..], |preset| preset.handshakes);
        Self {
            scheme: scheme.build(settings),
            preset: scheme.preset(),
            handshakes: PresetHandshakes::new(specs, header, settings),
        }
    }

    /// Verifies a request. A timestamp outside the tolerance is reported in the proof and is not an
    /// error yet.
    ///
    /// # Errors
    /// The exact reason, for the rejection's record only.
    pub fn check(&self, request: &SignedRequest<'_>, now_ms: i64) -> Result<Proof, Reason> {
        let mut proof = self.scheme.check(request, now_ms)?;
        if let Some(names) = self.key_headers() {
            let key = |name: &&str| header_key(b'h', request.headers, name);
            proof.delivery_key = names.iter().find_map(key);
        }
        Ok(proof)
    }

    /// Reads the delivery key that depends on the body, without a check. `None`: no such key.
    pub fn key_in_body(&self, request: &SignedRequest<'_>) -> Option<KeyHash> {
        self.scheme.key_in_body(request)
    }

    /// The headers that hold the sender's delivery key, if the sender does not sign it.
    fn key_headers(&self) -> Option<&'static [&'static str]> {
        match self.preset?.delivery_key {
            DeliveryKey::Header(names) => Some(names),
            DeliveryKey::Absent | DeliveryKey::Signed => None,
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
    pub fn sign(&self, outgoing: &mut OutgoingRequest, now_ms: i64) -> Result<(), Reason> {
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
        self.preset.is_some()
    }

    /// The preset's own response to an event.
    pub fn success_response(&self, body: &[u8]) -> Option<SenderResponse> {
        self.is_preset().then(|| self.scheme.success_response(body))
    }

    /// Where a request carries the shared secret itself, besides the headers that are always
    /// redacted.
    pub fn secret_location(&self) -> Option<&CredentialLocation> {
        self.scheme.secret_location()
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(super) use tests::verifier as test_verifier;
