//! The tokens of the admin listener, and the sessions of the console, which are signed with them.
//!
//! A session is a cookie that the server does not store: it has the end of the session and a signature. So a
//! restart ends no session, and a new token ends all sessions of the old one.

use ring::{digest, hmac};
use subtle::ConstantTimeEq;

use crate::clock;

/// How long a session lasts.
pub const SESSION_MS: i64 = 7 * 24 * 3_600_000;

/// What the owner of a token may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// See everything.
    Read,
    /// See everything, and change jobs and handlers.
    Act,
}

/// A token, without its text.
#[derive(Debug)]
struct Token {
    role: Role,
    digest: digest::Digest,
    session_key: hmac::Key,
}

impl Token {
    /// Returns the value of the cookie of a new session.
    fn start_session(&self) -> anyhow::Result<String> {
        let nonce = hex::encode(clock::random::<16>()?);
        let claim = format!("{}.{nonce}", clock::wall_ms().saturating_add(SESSION_MS));
        let signature = sign(&self.session_key, "session", &claim);
        Ok(format!("{claim}.{signature}"))
    }
}

/// All valid tokens.
#[derive(Debug, Default)]
pub struct Tokens(Vec<Token>);

/// A session whose signature is valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    pub role: Role,
    /// The token that forms of this session carry, so that no other site can send them.
    pub form_token: String,
}

impl Tokens {
    /// Whether these are the same tokens with the same roles.
    pub fn is_same(&self, other: &Self) -> bool {
        let parts = |token: &Token| (token.role, token.digest);
        let is_same = |(one, two): (&Token, &Token)| {
            let ((role, digest), (other_role, other_digest)) = (parts(one), parts(two));
            role == other_role && digest.as_ref() == other_digest.as_ref()
        };
        self.0.len() == other.0.len() && self.0.iter().zip(&other.0).all(is_same)
    }

    /// Adds tokens with a role.
    pub fn with<'t>(mut self, role: Role, tokens: impl IntoIterator<Item = &'t [u8]>) -> Self {
        self.0.extend(tokens.into_iter().map(|token| Token {
            role,
            digest: digest::digest(&digest::SHA256, token),
            session_key: hmac::Key::new(hmac::HMAC_SHA256, token),
        }));
        self
    }

    fn find(&self, text: &[u8]) -> Option<&Token> {
        let given = digest::digest(&digest::SHA256, text);
        // Digests have one length, so the comparison tells nothing about a token.
        let is_same = |token: &&Token| bool::from(token.digest.as_ref().ct_eq(given.as_ref()));
        self.0.iter().filter(is_same).max_by_key(|token| token.role == Role::Act)
    }

    /// Returns the role of a token, or `None` if it is not valid.
    pub fn role_of(&self, text: &[u8]) -> Option<Role> {
        self.find(text).map(|token| token.role)
    }

    /// Starts a session, and returns the value of its cookie. `None`: the token is not valid.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub fn start_session(&self, text: &[u8]) -> anyhow::Result<Option<String>> {
        self.find(text).map(Token::start_session).transpose()
    }

    /// Starts a session without a token, for a sign-in link. `None`: no token has the role.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub fn start_linked_session(&self, role: Role) -> anyhow::Result<Option<String>> {
        let token = self.0.iter().find(|token| token.role == role);
        token.map(Token::start_session).transpose()
    }

    /// Returns the session of a cookie, unless it has ended or is not valid.
    pub fn session(&self, cookie: &str) -> Option<Session> {
        let (claim, signature) = cookie.rsplit_once('.')?;
        let (ends_at_ms, _) = claim.split_once('.')?;
        let signature = hex::decode(signature).ok()?;
        let is_signed = |token: &&Token| verify(&token.session_key, "session", claim, &signature);
        let token = self.0.iter().find(is_signed)?;
        (ends_at_ms.parse::<i64>().ok()? > clock::wall_ms()).then(|| Session {
            role: token.role,
            form_token: sign(&token.session_key, "form", claim),
        })
    }
}

/// The purpose is a part of what is signed, so that no signature serves another purpose.
fn sign(key: &hmac::Key, purpose: &str, claim: &str) -> String {
    hex::encode(hmac::sign(key, format!("hooktrail {purpose} {claim}").as_bytes()))
}

fn verify(key: &hmac::Key, purpose: &str, claim: &str, signature: &[u8]) -> bool {
    hmac::verify(key, format!("hooktrail {purpose} {claim}").as_bytes(), signature).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens() -> Tokens {
        let act: [&[u8]; 2] = [b"first", b"second"];
        Tokens::default().with(Role::Act, act).with(Role::Read, [&b"reader"[..]])
    }

    #[test]
    fn a_token_has_the_role_that_the_configuration_gives_it() {
        let tokens = tokens();
        for (text, role) in [
            ("first", Some(Role::Act)),
            ("second", Some(Role::Act)),
            ("reader", Some(Role::Read)),
            ("", None),
            ("firs", None),
            ("first ", None),
        ] {
            assert_eq!(tokens.role_of(text.as_bytes()), role, "{text:?}");
        }
    }

    #[test]
    fn a_session_holds_for_its_token_alone() {
        let tokens = tokens();
        assert_eq!(tokens.start_session(b"wrong").unwrap(), None);
        for (text, role) in [("second", Role::Act), ("reader", Role::Read)] {
            let cookie = tokens.start_session(text.as_bytes()).unwrap().unwrap();
            assert_eq!(tokens.session(&cookie).unwrap().role, role);
            let without = Tokens::default().with(Role::Act, [&b"first"[..]]);
            assert_eq!(without.session(&cookie), None, "the token is no longer valid");
            let (_, rest) = cookie.split_once('.').unwrap();
            assert_eq!(tokens.session(&format!("9999999999999.{rest}")), None, "a later end");
            assert_eq!(tokens.session(&cookie[..cookie.len() - 1]), None);
        }
        for hostile in ["", ".", "..", "1.2.3", "1.2.", "x.y.zz", "é.é.é"] {
            assert_eq!(tokens.session(hostile), None, "{hostile:?}");
        }
    }

    #[test]
    fn a_session_ends() {
        let tokens = tokens();
        let key = &tokens.0[0].session_key;
        let claim = format!("{}.{}", clock::wall_ms() - 1, "00".repeat(16));
        assert_eq!(tokens.session(&format!("{claim}.{}", sign(key, "session", &claim))), None);
        let claim = format!("{}.{}", clock::wall_ms() + 60_000, "00".repeat(16));
        assert!(tokens.session(&format!("{claim}.{}", sign(key, "session", &claim))).is_some());
        let form_token = sign(key, "form", &claim);
        assert_eq!(tokens.session(&format!("{claim}.{form_token}")), None, "of another purpose");
    }
}
