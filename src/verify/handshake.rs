//! Handshakes of presets: a sender's request that checks whether the endpoint exists. The senders'
//! files recognize them. A handshake is answered regardless of `methods` and creates no event.
//!
//! Most are answered only if the signature is valid. An unsigned one gets nothing but its
//! challenge, as short plain text, so that nobody can make this server return arbitrary content.

use super::proof::Reason;
use super::secrets::SharedSecrets;
use super::settings::SchemeSettings;
use super::token::query_parameter;
use super::{SenderResponse, SignedRequest};

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
    /// The next step for the operator, as a log line. It quotes nothing of the request.
    pub operator_action: Option<&'static str>,
}

/// A handshake, the reason for its rejection, or `None` if the request is no handshake.
pub(super) type HandshakeResult = Option<Result<HandshakeReply, Reason>>;

/// Recognizes one handshake of a sender.
type Detect = fn(&PresetHandshakes, &SignedRequest<'_>) -> HandshakeResult;

/// How one sender makes its handshake.
#[derive(Clone, Copy, Debug)]
pub(super) struct HandshakeSpec {
    methods: &'static [&'static str],
    requires_signature: bool,
    detect: Detect,
}

impl HandshakeSpec {
    /// A handshake that is answered only if its signature is valid.
    pub const fn signed(methods: &'static [&'static str], detect: Detect) -> Self {
        Self { methods, requires_signature: true, detect }
    }

    pub const fn unsigned(methods: &'static [&'static str], detect: Detect) -> Self {
        Self { methods, requires_signature: false, detect }
    }
}

/// The handshakes of one source's preset.
pub struct PresetHandshakes {
    specs: &'static [HandshakeSpec],
    pub(super) secrets: Vec<Vec<u8>>,
    /// The header that holds the signature.
    pub(super) header: String,
    pub(super) tokens: SharedSecrets,
}

impl PresetHandshakes {
    /// Returns `None` if the preset has no handshake, or with `handshake = false`. A custom
    /// `handshake` table does not turn it off.
    pub(super) fn new(
        specs: &'static [HandshakeSpec],
        header: &str,
        settings: &SchemeSettings<'_>,
    ) -> Option<Self> {
        (!settings.are_handshakes_off && !specs.is_empty()).then(|| Self {
            specs,
            secrets: settings.secrets.iter().map(|secret| secret.to_vec()).collect(),
            header: header.to_owned(),
            tokens: SharedSecrets::new(settings.verify_tokens.iter().copied()),
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
        let is_candidate = |spec: &&HandshakeSpec| {
            spec.requires_signature == is_signature_verified
                && spec.methods.contains(&request.method)
        };
        self.specs.iter().filter(is_candidate).find_map(|spec| (spec.detect)(self, request))
    }
}

/// A handshake with this response.
pub(super) fn reply(detail: impl Into<String>, response: SenderResponse) -> HandshakeResult {
    Some(Ok(HandshakeReply { detail: detail.into(), response, operator_action: None }))
}

/// A handshake whose response is empty.
pub(super) fn accept(detail: &str) -> HandshakeResult {
    reply(detail, SenderResponse::empty(200))
}

/// Returns the challenge and nothing else.
pub(super) fn echo_challenge(detail: &str, challenge: &str) -> HandshakeResult {
    let has_valid_size = challenge.len() <= MAX_CHALLENGE_BYTES;
    has_valid_size.then(|| reply(detail, SenderResponse::text(challenge))).flatten()
}

/// Returns a query parameter, decoded once. A request that repeats the name is no handshake.
pub(super) fn utf8_parameter(request: &SignedRequest<'_>, name: &str) -> Option<String> {
    String::from_utf8(query_parameter(request.query, name).ok()??).ok()
}

/// Returns the challenge in this query parameter.
pub(super) fn echo_parameter(request: &SignedRequest<'_>, name: &str) -> HandshakeResult {
    echo_challenge(name, &utf8_parameter(request, name)?)
}
