//! `stripe` (docs.stripe.com/webhooks, "Verify webhook signatures manually") and `paddle`
//! (developer.paddle.com, "Verify webhook signatures"): one header with a time stamp and any number of
//! signatures, HMAC-SHA256 in hex; one that is right is enough, other versions are let pass.

use ring::hmac;

use super::keys::Keys;
use super::read::{self, MISMATCH};
use super::{Asked, Draft, Scheme};
use crate::config::{Encoding, TimestampUnit, Verify};

/// How the header and the signed text are put together.
struct Form {
    separator: u8,
    time: &'static str,
    version: &'static str,
    /// Between time stamp and body.
    joint: &'static str,
}

const STRIPE: Form = Form { separator: b',', time: "t", version: "v1", joint: "." };
const PADDLE: Form = Form { separator: b';', time: "ts", version: "h1", joint: ":" };

pub(super) struct Listed {
    keys: Keys,
    header: String,
    form: Form,
    tolerance_ms: i64,
}

impl Listed {
    pub fn stripe(verify: &Verify, secrets: &[&[u8]]) -> Self {
        Self::new(STRIPE, verify, secrets)
    }

    pub fn paddle(verify: &Verify, secrets: &[&[u8]]) -> Self {
        Self::new(PADDLE, verify, secrets)
    }

    fn new(form: Form, verify: &Verify, secrets: &[&[u8]]) -> Self {
        Self {
            keys: Keys::new(hmac::HMAC_SHA256, secrets.iter().copied()),
            header: verify.header.clone().unwrap_or_default(),
            form,
            tolerance_ms: read::millis(verify.tolerance).unwrap_or(300_000),
        }
    }
}

impl Scheme for Listed {
    fn check(&self, asked: &Asked<'_>, now_ms: i64) -> Result<(), String> {
        let Form { separator, time, version, joint } = self.form;
        let value = asked.header(&self.header)?;
        let mut times = read::named(value, separator, time);
        let timestamp = match (times.next(), times.next()) {
            (Some(timestamp), None) => timestamp,
            (None, _) => return Err(format!("no {time} in {}", self.header)),
            (Some(_), Some(_)) => return Err(format!("more than one {time} in {}", self.header)),
        };
        let all = read::named(value, separator, version);
        let all: Vec<_> = all.map(|text| read::decoded(Encoding::Hex, text)).collect();
        if all.is_empty() {
            return Err(format!("no {version} in {}", self.header));
        }
        let readable: Vec<Vec<u8>> = all.iter().flatten().cloned().collect();
        if let (true, Some(Err(reason))) = (readable.is_empty(), all.first()) {
            return Err((*reason).to_owned());
        }
        if !self.keys.signed_any(&[timestamp, joint.as_bytes(), asked.body], &readable) {
            return Err(MISMATCH.to_owned());
        }
        read::check_age(timestamp, TimestampUnit::Seconds, self.tolerance_ms, now_ms)
    }

    fn sign(&self, draft: &mut Draft, now_ms: i64) -> Result<(), String> {
        let Form { separator, time, version, joint } = self.form;
        let timestamp = read::stamp(TimestampUnit::Seconds, now_ms);
        let parts = [timestamp.as_bytes(), joint.as_bytes(), &draft.body];
        let signature = hex::encode(self.keys.sign(&parts, draft.bad)?);
        let separator = char::from(separator);
        draft.put(&self.header, format!("{time}={timestamp}{separator}{version}={signature}"));
        Ok(())
    }
}
