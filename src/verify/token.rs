//! `token`: a shared secret in a header, a query parameter or the last segment of the path. Two
//! presets do the same:
//! - `gitlab` (docs.gitlab.com, "Webhooks: validate payloads by using a secret token"): in a
//!   header.
//! - `mailchimp` (mailchimp.com/developer/marketing, "Sync audience data with webhooks": "a secret
//!   key in the
//!   URL"): in the query or the path.

use percent_encoding::percent_decode_str;

use super::secrets::SharedSecrets;
use super::{OutgoingRequest, Proof, SecretLocation, SignedRequest, VerificationScheme};
use crate::config::Verify;

pub(super) struct Token {
    secrets: SharedSecrets,
    header: Option<String>,
    parameter: Option<String>,
    has_path_token: bool,
}

impl Token {
    pub fn new(verify: &Verify, secrets: &[&[u8]]) -> Self {
        Self {
            secrets: SharedSecrets::new(secrets.iter().copied()),
            header: verify.header.clone(),
            parameter: verify.query.clone(),
            has_path_token: verify.is_path_token,
        }
    }

    /// A scheme that rejects every request.
    pub fn deny_all() -> Self {
        Self {
            secrets: SharedSecrets::new([]),
            header: None,
            parameter: None,
            has_path_token: false,
        }
    }
}

impl VerificationScheme for Token {
    fn check(&self, request: &SignedRequest<'_>, _: i64) -> Result<Proof, String> {
        let (is_valid, place) = match (&self.header, &self.parameter) {
            (Some(header), _) => {
                (self.secrets.contains(request.required_header(header)?), "header")
            }
            (_, Some(name)) => {
                let value = query_parameter(request.query, name)?
                    .ok_or_else(|| format!("no query parameter {name}"))?;
                (self.secrets.contains(&value), "query parameter")
            }
            _ => {
                let segment = request.secret_segment.ok_or("no token in the path")?;
                (self.secrets.contains(segment.as_bytes()), "path segment")
            }
        };
        if is_valid {
            Ok(Proof::default())
        } else {
            Err(format!("token in the {place} does not match"))
        }
    }

    fn sign(&self, outgoing: &mut OutgoingRequest, _: i64) -> Result<(), String> {
        let secret = self.secrets.signing_secret(outgoing)?;
        match (&self.header, &self.parameter) {
            (Some(header), _) => {
                let secret = String::from_utf8(secret).map_err(|_| "the secret is not UTF-8")?;
                outgoing.set_header(header, secret);
            }
            (_, Some(name)) => outgoing.set_query_param(name, &secret),
            _ => {
                let reserved = percent_encoding::NON_ALPHANUMERIC;
                let segment = percent_encoding::percent_encode(&secret, reserved).to_string();
                let path = outgoing.path.strip_suffix('/').unwrap_or(&outgoing.path);
                outgoing.path = format!("{path}/{segment}");
            }
        }
        Ok(())
    }

    fn secret_location(&self) -> SecretLocation<'_> {
        SecretLocation {
            header: self.header.as_deref(),
            parameter: self.parameter.as_deref(),
            is_last_segment: self.has_path_token,
        }
    }
}

/// Returns the value of a query parameter that may occur once, decoded.
pub(super) fn query_parameter(query: Option<&str>, name: &str) -> Result<Option<Vec<u8>>, String> {
    let pairs =
        query.unwrap_or("").split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let mut values = pairs.filter(|(found, _)| param_name_matches(found, name));
    match (values.next(), values.next()) {
        (Some((_, value)), None) => {
            Ok(Some(percent_decode_str(&value.replace('+', " ")).collect::<Vec<u8>>()))
        }
        (None, _) => Ok(None),
        (Some(_), Some(_)) => Err(format!("more than one query parameter {name}")),
    }
}

/// Returns whether a name in a query is this one, however it is encoded.
pub fn param_name_matches(sent: &str, name: &str) -> bool {
    sent == name || percent_decode_str(sent).decode_utf8().is_ok_and(|sent| sent == name)
}
