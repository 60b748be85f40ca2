//! Sign-in links: codes that start one session each, so that a person need not copy the token into a browser.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use ring::digest;
use subtle::ConstantTimeEq;

use crate::clock;

/// For how long a link can be used.
pub const LIFETIME: Duration = Duration::from_secs(300);

/// The most links that wait for their use. A further one replaces the oldest.
const MAX_LINKS: usize = 16;

#[derive(Debug)]
struct Link {
    digest: digest::Digest,
    created_at: Instant,
}

/// The links that were not used yet.
#[derive(Debug, Default)]
pub struct SignInLinks(Mutex<Vec<Link>>);

impl SignInLinks {
    /// Makes a code.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub fn create(&self) -> anyhow::Result<String> {
        let code = hex::encode(clock::random::<16>()?);
        let mut links = self.0.lock();
        links.retain(|link| link.created_at.elapsed() < LIFETIME);
        if links.len() >= MAX_LINKS {
            links.remove(0);
        }
        let digest = digest::digest(&digest::SHA256, code.as_bytes());
        links.push(Link { digest, created_at: Instant::now() });
        Ok(code)
    }

    /// Makes all links invalid, because the tokens have changed.
    pub fn clear(&self) {
        self.0.lock().clear();
    }

    /// Uses a code. Returns false if it is not valid, too old, or was used.
    pub fn redeem(&self, code: &str) -> bool {
        let digest = digest::digest(&digest::SHA256, code.as_bytes());
        let mut links = self.0.lock();
        links.retain(|link| link.created_at.elapsed() < LIFETIME);
        let is_same = |link: &Link| bool::from(link.digest.as_ref().ct_eq(digest.as_ref()));
        let found = links.iter().position(is_same);
        found.map(|index| links.remove(index)).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_signs_in_once() {
        let links = SignInLinks::default();
        let code = links.create().unwrap();
        assert!(!links.redeem(""));
        assert!(links.redeem(&code));
        assert!(!links.redeem(&code));
    }

    #[test]
    fn the_number_of_links_is_bounded() {
        let links = SignInLinks::default();
        let codes: Vec<String> = (0..100).map(|_| links.create().unwrap()).collect();
        assert!(!links.redeem(&codes[0]));
        assert!(links.redeem(&codes[99]));
        assert!(links.0.lock().len() < 16);
    }
}
