//! Who sent a webhook: a scheme a file (those of one recipe share one), one table. Checked on the raw
//! bytes, in constant time, with every valid secret, before anything but what the scheme needs is
//! parsed. Beside each check stands how its sender signs, for `hooktrail send` and the tests.
//!
//! What is wrong is told the trail exactly, and the sender not at all; no reason holds a secret or
//! the signature that would have been right.

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

use delivery_key::KeyPlace;
pub use handshake::{CHALLENGE_BYTES_MAX, Handshake, PresetHandshake};
pub use outgoing::OutgoingRequest;
pub use parse::forwarded_pair;
pub use proof::Proof;
pub use token::param_name_matches;

/// Why a scheme of two keys can't be signed for.
const ONLY_PUBLIC: &str = "only the sender can sign: the secret here is its public key";

/// How a scheme is made ready.
type SchemeConstructor = fn(&Verify, &[&[u8]]) -> Box<dyn Scheme>;

/// Each scheme; what else is known of it stands in `config::SCHEMES`, its handshake in `handshake`.
const CONSTRUCTORS: &[(&str, SchemeConstructor)] = &[
    ("none", |_, _| Box::new(Open)),
    ("token", |verify, secrets| Box::new(token::Token::new(verify, secrets))),
    ("basic", |verify, secrets| {
        Box::new(bearer::Basic::new(verify.user.as_deref().unwrap_or(""), secrets))
    }),
    ("bearer", |_, secrets| Box::new(bearer::Bearer::new(secrets))),
    ("hmac", |verify, secrets| match &verify.hmac {
        Some(recipe) => Box::new(hmac::HmacScheme::new(recipe.clone(), verify, secrets)),
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

/// A request as its sender signed it.
#[derive(Clone, Copy)]
pub struct SignedRequest<'a> {
    pub method: &'a str,
    pub path: &'a str,
    pub query: Option<&'a str>,
    /// Lower-case name, value.
    pub headers: &'a [(&'a str, &'a [u8])],
    pub body: &'a [u8],
    /// The path's last segment, decoded, where it is the token.
    pub secret_segment: Option<&'a str>,
    /// It came through a proxy that is believed, and in which header.
    pub trusted_proxy_header: Option<ProxyHeader>,
}

impl<'a> SignedRequest<'a> {
    /// The value of a header that must be there once.
    fn required_header(&self, name: &str) -> Result<&'a [u8], String> {
        self.optional_header(name)?.ok_or_else(|| format!("no {name} header"))
    }

    /// The values of a header, a line each.
    fn lines(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        self.headers.iter().filter(move |(found, _)| *found == name).map(|(_, value)| *value)
    }

    /// Requires that a header is there, however often.
    fn require(&self, name: &str) -> Result<(), String> {
        self.lines(name).next().map(|_| ()).ok_or_else(|| format!("no {name} header"))
    }

    /// The value of a header that may be there once.
    pub(super) fn optional_header(&self, name: &str) -> Result<Option<&'a [u8]>, String> {
        let mut values = self.headers.iter().filter(|(found, _)| *found == name);
        match (values.next(), values.next()) {
            (Some((_, value)), None) => Ok(Some(value)),
            (None, _) => Ok(None),
            (Some(_), Some(_)) => Err(format!("more than one {name} header")),
        }
    }

    /// The last element of a list that may go over several lines: the nearest proxy's.
    fn last_list_item(&self, name: &str) -> Option<&'a str> {
        let (_, value) = self.headers.iter().rev().find(|(found, _)| *found == name)?;
        let last = std::str::from_utf8(value).ok()?.rsplit(',').next()?.trim();
        (!last.is_empty()).then_some(last)
    }
}

/// What a sender is told.
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

    /// Plain text, whatever it says.
    pub fn text(body: impl Into<String>) -> Self {
        Self { status: 200, content_type: Some("text/plain"), body: body.into() }
    }

    fn json(body: impl Into<String>) -> Self {
        Self { status: 200, content_type: Some("application/json"), body: body.into() }
    }
}

/// Where a request has the secret itself, which is not kept.
#[derive(Clone, Copy, Debug, Default)]
struct SecretLocation<'s> {
    header: Option<&'s str>,
    parameter: Option<&'s str>,
    segment: bool,
}

/// A scheme, ready to check.
trait Scheme: Send + Sync {
    /// What the request proves, or the exact reason why it is not from whom it should be.
    fn check(&self, asked: &SignedRequest<'_>, now_ms: i64) -> Result<Proof, String>;

    /// How much work `check` is, as that of hashing so many bytes.
    fn work(&self, asked: &SignedRequest<'_>) -> usize {
        asked.body.len()
    }

    /// Signs as the sender would, or says why it can't.
    fn sign(&self, draft: &mut OutgoingRequest, now_ms: i64) -> Result<(), String>;

    fn secret_location(&self) -> SecretLocation<'_> {
        SecretLocation::default()
    }

    /// `WWW-Authenticate`.
    fn challenge(&self) -> Option<&'static str> {
        None
    }

    /// A preset's answer to an event, and to its repeat.
    fn success_response(&self, _body: &[u8]) -> SenderResponse {
        SenderResponse::empty(200)
    }
}

/// Anybody is believed.
struct Open;

impl Scheme for Open {
    fn check(&self, _: &SignedRequest<'_>, _: i64) -> Result<Proof, String> {
        Ok(Proof::default())
    }

    fn sign(&self, _: &mut OutgoingRequest, _: i64) -> Result<(), String> {
        Ok(())
    }
}

/// How one source's requests are checked.
pub struct Verifier {
    scheme: Box<dyn Scheme>,
    spec: Option<&'static config::SchemeSpec>,
    handshake: Option<handshake::PresetHandshake>,
}

impl Verifier {
    pub fn new(source: &Source, secrets: &Secrets) -> Self {
        let verify = &source.verify;
        let known: Vec<&[u8]> = secrets.resolve(&verify.secret).collect();
        let make = CONSTRUCTORS.iter().find(|(name, _)| *name == verify.scheme);
        Self {
            // The configuration lets no other pass; nobody is let in by one.
            scheme: make.map_or_else(
                || Box::new(token::Token::deny_all()) as Box<dyn Scheme>,
                |(_, make)| make(verify, &known),
            ),
            spec: config::find_scheme(&verify.scheme),
            handshake: handshake::PresetHandshake::new(source, secrets),
        }
    }

    /// Checks a request; one whose time stamp is outside the tolerance is not rejected yet.
    ///
    /// # Errors
    /// The exact reason, for the trail alone.
    pub fn check(&self, asked: &SignedRequest<'_>, now_ms: i64) -> Result<Proof, String> {
        let mut proof = self.scheme.check(asked, now_ms)?;
        if let Some(names) = self.key_headers() {
            let key = |name: &&str| planner::header_key(b'h', asked.headers, name);
            proof.delivery_key = names.iter().find_map(key);
        }
        Ok(proof)
    }

    /// The headers in which the sender names a delivery without signing them.
    fn key_headers(&self) -> Option<&'static [&'static str]> {
        match self.spec?.delivery_key {
            config::DeliveryKey::Header(names) => Some(names),
            config::DeliveryKey::Absent | config::DeliveryKey::Signed => None,
        }
    }

    /// How much work `check` is, as that of hashing so many bytes.
    pub fn work(&self, asked: &SignedRequest<'_>) -> usize {
        self.scheme.work(asked)
    }

    /// Signs as the sender would.
    ///
    /// # Errors
    /// Why that can't be done here.
    pub fn sign(&self, draft: &mut OutgoingRequest, now_ms: i64) -> Result<(), String> {
        if let Some([name, ..]) = self.key_headers()
            && draft.header(name).is_none()
        {
            let id = draft.id.clone();
            draft.set_header(name, id);
        }
        self.scheme.sign(draft, now_ms)
    }

    /// How this scheme's sender asks whether we are there, if it does and is to be answered.
    pub fn handshake(&self) -> Option<&handshake::PresetHandshake> {
        self.handshake.as_ref()
    }

    /// `WWW-Authenticate`.
    pub fn challenge(&self) -> Option<&'static str> {
        self.scheme.challenge()
    }

    /// A named sender's scheme, with that sender's answer.
    pub fn is_preset(&self) -> bool {
        self.spec.is_some_and(|facts| facts.is_preset)
    }

    /// A named sender's own answer to its events.
    pub fn answer(&self, body: &[u8]) -> Option<SenderResponse> {
        self.is_preset().then(|| self.scheme.success_response(body))
    }

    /// The header that holds a shared secret, besides those that always do.
    pub fn secret_header(&self) -> Option<&str> {
        self.scheme.secret_location().header
    }

    /// The query parameter that holds it.
    pub fn secret_parameter(&self) -> Option<&str> {
        self.scheme.secret_location().parameter
    }

    /// Whether the path's last segment is it.
    pub fn secret_segment(&self) -> bool {
        self.scheme.secret_location().segment
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(super) use tests::verifier as verifier_of;
