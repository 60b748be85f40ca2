//! `paminga`: hex HMAC-SHA256 of the raw body, in `X-Paminga-Signature` (an older page of its
//! documentation says `Signature`); a `sha256=` before it is let pass.

use ring::hmac;

use super::{Asked, Scheme, signed_by};
use crate::config::Verify;

const HEADER: &str = "x-paminga-signature";

pub(super) struct Paminga {
    keys: Vec<hmac::Key>,
    header: String,
}

impl Paminga {
    pub fn new(verify: &Verify, secrets: &[&[u8]]) -> Self {
        let key = |secret: &&[u8]| hmac::Key::new(hmac::HMAC_SHA256, secret);
        Self {
            keys: secrets.iter().map(key).collect(),
            header: verify.header.clone().unwrap_or_else(|| HEADER.to_owned()),
        }
    }
}

impl Scheme for Paminga {
    fn check(&self, asked: &Asked<'_>, _: i64) -> Result<(), String> {
        let value = asked.header(&self.header)?;
        let digits = value.strip_prefix(b"sha256=").unwrap_or(value);
        let signature = hex::decode(digits).map_err(|_| "signature is not hex")?;
        if signed_by(&self.keys, &[asked.body], &signature) {
            Ok(())
        } else {
            Err("signature does not match".to_owned())
        }
    }
}
