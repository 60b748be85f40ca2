//! `token`: a shared secret in a header, a query parameter or the last segment of the path. Two
//! presets do the same:
//! - `gitlab` (docs.gitlab.com, "Webhooks: validate payloads by using a secret token"): in a
//!   header.
//! - `mailchimp` (mailchimp.com/developer/marketing, "Sync audience data with webhooks": "a secret
//!   key in the
//!   URL"): in the query or the path.

use super::proof::{Proof, Reason};
use super::secrets::SharedSecrets;
use super::settings::SchemeSettings;
use super::{OutgoingRequest, SignedRequest, VerificationScheme};
use crate::urlencoded;

/// Where a request carries a signature or a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CredentialLocation {
    /// In lower case.
    Header(String),
    Query(String),
    /// `path_token`: the path's last segment, after the source's `path`.
    PathSegment,
}

impl CredentialLocation {
    /// The header; empty if it is elsewhere.
    pub fn header(&self) -> &str {
        match self {
            Self::Header(name) => name,
            Self::Query(_) | Self::PathSegment => "",
        }
    }
}

pub(super) struct Token {
    secrets: SharedSecrets,
    location: CredentialLocation,
}

impl Token {
    pub fn new(location: CredentialLocation, settings: &SchemeSettings<'_>) -> Self {
        Self { secrets: settings.shared_secrets(), location }
    }
}

impl VerificationScheme for Token {
    fn check(&self, request: &SignedRequest<'_>, _: i64) -> Result<Proof, Reason> {
        match &self.location {
            CredentialLocation::Header(name) => {
                let value = request.required_header(name)?;
                self.secrets.check(value, "token in the header does not match")
            }
            CredentialLocation::Query(name) => {
                let value = query_parameter(request.query, name)?
                    .ok_or_else(|| format!("no query parameter {name}"))?;
                self.secrets.check(&value, "token in the query parameter does not match")
            }
            CredentialLocation::PathSegment => {
                let segment = request.secret_segment.ok_or("no token in the path")?;
                self.secrets.check(segment.as_bytes(), "token in the path segment does not match")
            }
        }
    }

    fn sign(&self, outgoing: &mut OutgoingRequest, _: i64) -> Result<(), Reason> {
        let secret = self.secrets.signing_secret(outgoing)?;
        match &self.location {
            CredentialLocation::Header(name) => {
                let secret = String::from_utf8(secret).map_err(|_| "the secret is not UTF-8")?;
                outgoing.set_header(name, secret);
            }
            CredentialLocation::Query(name) => outgoing.set_query_param(name, &secret),
            CredentialLocation::PathSegment => {
                let reserved = percent_encoding::NON_ALPHANUMERIC;
                let segment = percent_encoding::percent_encode(&secret, reserved).to_string();
                let path = outgoing.path.strip_suffix('/').unwrap_or(&outgoing.path);
                outgoing.path = format!("{path}/{segment}");
            }
        }
        Ok(())
    }

    fn secret_location(&self) -> Option<&CredentialLocation> {
        Some(&self.location)
    }
}

/// Returns the value of a query parameter that may occur once, decoded.
pub(super) fn query_parameter(query: Option<&str>, name: &str) -> Result<Option<Vec<u8>>, Reason> {
    let pairs =
        query.unwrap_or("").split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let mut values = pairs.filter(|(found, _)| param_name_matches(found, name));
    match (values.next(), values.next()) {
        (Some((_, value)), None) => Ok(Some(urlencoded::decode(value.as_bytes()).into_owned())),
        (None, _) => Ok(None),
        (Some(_), Some(_)) => Err(format!("more than one query parameter {name}").into()),
    }
}

/// Returns whether a name in a query is this one, however it is encoded.
pub fn param_name_matches(sent: &str, name: &str) -> bool {
    sent == name || *urlencoded::decode(sent.as_bytes()) == *name.as_bytes()
}
