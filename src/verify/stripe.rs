//! `stripe` (docs.stripe.com/webhooks, "Verify webhook signatures manually") and `paddle`
//! (developer.paddle.com, "Verify webhook signatures"): one header with a time stamp and any number of
//! signatures, HMAC-SHA256 in hex; one that is right is enough, other versions are let pass.

use ring::hmac;

use super::parse::{self, MISMATCH, SIGNATURES_MAX, Tolerance};
use super::secrets::HmacKeys;
use super::{KeyPlace, OutgoingRequest, Proof, Scheme, SignedRequest};
use crate::config::{Encoding, TimestampUnit, Verify};

/// How the header and the signed text are put together.
struct HeaderFormat {
    separator: u8,
    time: &'static str,
    version: &'static str,
    /// Between time stamp and body.
    payload_separator: &'static str,
    /// The field of the body that is unique to a delivery.
    id: &'static str,
}

const STRIPE: HeaderFormat =
    HeaderFormat { separator: b',', time: "t", version: "v1", payload_separator: ".", id: "id" };
const PADDLE: HeaderFormat = HeaderFormat {
    separator: b';',
    time: "ts",
    version: "h1",
    payload_separator: ":",
    id: "event_id",
};

pub(super) struct TimestampedSignatures {
    keys: HmacKeys,
    header: String,
    form: HeaderFormat,
    tolerance: Tolerance,
}

impl TimestampedSignatures {
    pub fn stripe(verify: &Verify, secrets: &[&[u8]]) -> Self {
        Self::new(STRIPE, verify, secrets)
    }

    pub fn paddle(verify: &Verify, secrets: &[&[u8]]) -> Self {
        Self::new(PADDLE, verify, secrets)
    }

    fn new(form: HeaderFormat, verify: &Verify, secrets: &[&[u8]]) -> Self {
        Self {
            keys: HmacKeys::new(hmac::HMAC_SHA256, secrets.iter().copied()),
            header: verify.header.clone().unwrap_or_default(),
            form,
            tolerance: Tolerance::of(verify),
        }
    }
}

/// A time stamp with the signatures beside it.
#[derive(Default)]
struct Stamped<'a> {
    timestamp: Option<&'a [u8]>,
    signatures: Vec<Vec<u8>>,
}

impl TimestampedSignatures {
    /// Reads the header. A time stamp after the first begins another list: a sender may repeat the
    /// header, and a proxy may join the lines.
    fn stamped<'a>(&self, asked: &SignedRequest<'a>) -> Result<Vec<Stamped<'a>>, String> {
        let HeaderFormat { separator, time, version, .. } = self.form;
        asked.require(&self.header)?;
        let (mut before, mut last) = (Vec::new(), Stamped::default());
        let (mut total, mut first_error) = (0, None);
        let elements = parse::elements(asked, &self.header);
        for part in elements.flat_map(|element| element.split(move |&byte| byte == separator)) {
            let part = part.trim_ascii();
            if let Some(timestamp) = parse::value_of(part, time) {
                if last.timestamp.is_some() {
                    before.push(std::mem::take(&mut last));
                }
                last.timestamp = Some(timestamp);
            } else if let Some(signature) = parse::value_of(part, version) {
                total += 1;
                if total > SIGNATURES_MAX {
                    break;
                }
                match parse::decode_signature(Encoding::Hex, signature) {
                    Ok(signature) => last.signatures.push(signature),
                    Err(reason) => first_error = first_error.or(Some(reason)),
                }
            }
        }
        before.push(last);
        if before.iter().all(|one| one.timestamp.is_none()) {
            return Err(format!("no {time} in {}", self.header));
        }
        before.retain(|one| !one.signatures.is_empty());
        match first_error {
            _ if !before.is_empty() => Ok(before),
            Some(reason) => Err(reason.to_owned()),
            None => Err(format!("no {version} in {}", self.header)),
        }
    }
}

impl Scheme for TimestampedSignatures {
    fn check(&self, asked: &SignedRequest<'_>, now_ms: i64) -> Result<Proof, String> {
        let joint = self.form.payload_separator.as_bytes();
        // Each time stamp is a text of its own, which each key hashes.
        let max = parse::max_pairs(asked.body.len()).div_ceil(self.keys.len().max(1));
        let mut found = Err(MISMATCH.to_owned());
        for Stamped { timestamp, signatures } in self.stamped(asked)?.iter().take(max) {
            let timestamp = timestamp.unwrap_or_default();
            if self.keys.signed_any(&[timestamp, joint, asked.body], signatures) {
                found = self.tolerance.stale(timestamp, TimestampUnit::Seconds, now_ms);
                if found == Ok(None) {
                    break;
                }
            }
        }
        Proof::of_body(KeyPlace::Field(self.form.id), asked.body, found?)
    }

    fn work(&self, asked: &SignedRequest<'_>) -> usize {
        let texts = asked.lines(&self.header).map(|value| {
            let parts = value.split(|&byte| byte == b',' || byte == self.form.separator);
            parts
                .filter(|part| parse::value_of(part.trim_ascii(), self.form.time).is_some())
                .count()
        });
        self.keys.work(texts.sum::<usize>().min(SIGNATURES_MAX), asked.body.len())
    }

    fn sign(&self, draft: &mut OutgoingRequest, now_ms: i64) -> Result<(), String> {
        let HeaderFormat { separator, time, version, payload_separator: joint, id: _ } = self.form;
        let timestamp = parse::format_timestamp(TimestampUnit::Seconds, now_ms);
        let parts = [timestamp.as_bytes(), joint.as_bytes(), &draft.body];
        let signature = hex::encode(self.keys.sign(&parts, draft.corrupt_signature)?);
        let separator = char::from(separator);
        draft.set_header(
            &self.header,
            format!("{time}={timestamp}{separator}{version}={signature}"),
        );
        Ok(())
    }
}
