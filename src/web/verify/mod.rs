//! Who sent a webhook: a scheme a file, one table. Checked on the raw bytes, in constant time, with
//! every valid secret, before anything but what the scheme needs is parsed.
//!
//! What is wrong is told the trail exactly, and the sender not at all; no reason holds a secret or
//! the signature that would have been right.

use ring::hmac;
use subtle::ConstantTimeEq;

use crate::config::{ProxyHeader, Secrets, Source};

mod bearer;
mod hmac_recipe;
mod paminga;
mod token;

pub use token::is_named;

/// A request as its sender signed it.
pub struct Asked<'a> {
    pub method: &'a str,
    pub path: &'a str,
    pub query: Option<&'a str>,
    /// Lower-case name, value.
    pub headers: &'a [(&'a str, &'a [u8])],
    pub body: &'a [u8],
    /// The path's last segment, decoded, where it is the token.
    pub secret_segment: Option<&'a str>,
    /// It came through a proxy that is believed, and in which header.
    pub proxied: Option<ProxyHeader>,
}

impl<'a> Asked<'a> {
    /// The value of a header that must be there once.
    fn header(&self, name: &str) -> Result<&'a [u8], String> {
        let mut values = self.headers.iter().filter(|(found, _)| *found == name);
        match (values.next(), values.next()) {
            (Some((_, value)), None) => Ok(value),
            (None, _) => Err(format!("no {name} header")),
            (Some(_), Some(_)) => Err(format!("more than one {name} header")),
        }
    }

    /// The last element of a list that may go over several lines: the nearest proxy's.
    fn last_of(&self, name: &str) -> Option<&'a str> {
        let (_, value) = self.headers.iter().rev().find(|(found, _)| *found == name)?;
        let last = std::str::from_utf8(value).ok()?.rsplit(',').next()?.trim();
        (!last.is_empty()).then_some(last)
    }
}

/// A scheme, ready to check.
trait Scheme: Send + Sync {
    /// The exact reason where the request is not from whom it should be.
    fn check(&self, asked: &Asked<'_>, now_ms: i64) -> Result<(), String>;
}

/// Anybody is believed.
struct Open;

impl Scheme for Open {
    fn check(&self, _: &Asked<'_>, _: i64) -> Result<(), String> {
        Ok(())
    }
}

/// How one source's requests are checked.
pub struct Verifier {
    scheme: Box<dyn Scheme>,
    challenge: Option<&'static str>,
    preset: bool,
    header: Option<String>,
    parameter: Option<String>,
    segment: bool,
}

impl Verifier {
    pub fn new(source: &Source, secrets: &Secrets) -> Self {
        let verify = &source.verify;
        let secrets: Vec<&[u8]> = secrets.all(&verify.secret).collect();
        let basic = || bearer::Basic::new(verify.user.as_deref().unwrap_or(""), &secrets);
        let (scheme, challenge): (Box<dyn Scheme>, _) = match verify.scheme.as_str() {
            "none" => (Box::new(Open), None),
            "token" => (Box::new(token::Token::new(verify, &secrets)), None),
            "basic" => (Box::new(basic()), Some(r#"Basic realm="hooktrail""#)),
            "bearer" => (Box::new(bearer::Bearer::new(&secrets)), Some("Bearer")),
            "hmac" => (Box::new(hmac_recipe::Recipe::new(verify, &secrets)), None),
            "paminga" => (Box::new(paminga::Paminga::new(verify, &secrets)), None),
            // The configuration lets no other pass; nobody is let in by one.
            _ => (Box::new(token::Token::nobody()), None),
        };
        let is_token = verify.scheme == "token";
        Self {
            scheme,
            challenge,
            preset: crate::config::scheme(&verify.scheme).is_some_and(|scheme| scheme.preset),
            header: verify.header.clone().filter(|_| is_token),
            parameter: verify.query.clone().filter(|_| is_token),
            segment: verify.segment && is_token,
        }
    }

    /// # Errors
    /// The exact reason, for the trail alone.
    pub fn check(&self, asked: &Asked<'_>, now_ms: i64) -> Result<(), String> {
        self.scheme.check(asked, now_ms)
    }

    /// `WWW-Authenticate`.
    pub fn challenge(&self) -> Option<&'static str> {
        self.challenge
    }

    /// A named sender's scheme, with that sender's answer.
    pub fn is_preset(&self) -> bool {
        self.preset
    }

    /// The header that holds a shared secret, besides those that always do.
    pub fn secret_header(&self) -> Option<&str> {
        self.header.as_deref()
    }

    /// The query parameter that holds it.
    pub fn secret_parameter(&self) -> Option<&str> {
        self.parameter.as_deref()
    }

    /// Whether the path's last segment is it.
    pub fn secret_segment(&self) -> bool {
        self.segment
    }
}

/// Secrets that are compared as they are: by their digests, so that neither their length nor their
/// beginning shows in the time it takes.
struct Shared(Vec<hmac::Tag>);

/// Any key does: only equality of the digests matters.
fn digest(bytes: &[u8]) -> hmac::Tag {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, b"compare"), bytes)
}

impl Shared {
    fn new<'s>(secrets: impl IntoIterator<Item = &'s [u8]>) -> Self {
        Self(secrets.into_iter().map(digest).collect())
    }

    /// Compares with all of them, whichever fits.
    fn has(&self, given: &[u8]) -> bool {
        let given = digest(given);
        let equal = |secret: &hmac::Tag| secret.as_ref().ct_eq(given.as_ref());
        self.0.iter().map(equal).fold(subtle::Choice::from(0), |any, one| any | one).into()
    }
}

/// Whether one of the keys signed `parts`; each is tried, whichever fits.
fn signed_by(keys: &[hmac::Key], parts: &[&[u8]], signature: &[u8]) -> bool {
    let fits = |key: &hmac::Key| {
        let mut context = hmac::Context::with_key(key);
        for part in parts {
            context.update(part);
        }
        let right = context.sign();
        subtle::Choice::from(u8::from(right.as_ref().len() == signature.len()))
            & right.as_ref().ct_eq(signature)
    };
    keys.iter().map(fits).fold(subtle::Choice::from(0), |any, one| any | one).into()
}

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(super) use tests::verifier as verifier_of;
