//! `stripe` (docs.stripe.com/webhooks, "Verify webhook signatures manually") and `paddle`
//! (developer.paddle.com, "Verify webhook signatures"): one header with a timestamp and any number
//! of signatures, HMAC-SHA256 in hex. One valid signature is enough. Other versions are ignored.

use ring::hmac;

use super::parse::{self, MAX_SIGNATURES, MISMATCH, TimestampTolerance};
use super::secrets::HmacKeys;
use super::{DeliveryKeyLocation, OutgoingRequest, Proof, SignedRequest, VerificationScheme};
use crate::config::{Encoding, TimestampUnit, Verify};

/// The format of the header and of the signed text.
struct HeaderFormat {
    separator: u8,
    time: &'static str,
    version: &'static str,
    /// Stands between the timestamp and the body.
    payload_separator: &'static str,
    /// The field of the body that is unique for each delivery.
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
    format: HeaderFormat,
    tolerance: TimestampTolerance,
}

impl TimestampedSignatures {
    pub fn stripe(verify: &Verify, secrets: &[&[u8]]) -> Self {
        Self::new(STRIPE, verify, secrets)
    }

    pub fn paddle(verify: &Verify, secrets: &[&[u8]]) -> Self {
        Self::new(PADDLE, verify, secrets)
    }

    fn new(format: HeaderFormat, verify: &Verify, secrets: &[&[u8]]) -> Self {
        Self {
            keys: HmacKeys::new(hmac::HMAC_SHA256, secrets.iter().copied()),
            header: verify.header.clone().unwrap_or_default(),
            format,
            tolerance: TimestampTolerance::from_verify(verify),
        }
    }
}

/// A timestamp with its signatures.
#[derive(Default)]
struct SignatureList<'a> {
    timestamp: Option<&'a [u8]>,
    signatures: Vec<Vec<u8>>,
}

impl TimestampedSignatures {
    /// Parses the header. Each further timestamp begins another list, because a sender may repeat
    /// the header and a proxy may join the lines.
    fn parse_header<'a>(
        &self,
        request: &SignedRequest<'a>,
    ) -> Result<Vec<SignatureList<'a>>, String> {
        let HeaderFormat { separator, time, version, .. } = self.format;
        request.require_header(&self.header)?;
        let (mut lists, mut list) = (Vec::new(), SignatureList::default());
        let (mut total, mut first_error) = (0, None);
        let elements = parse::header_elements(request, &self.header);
        for part in elements.flat_map(|element| element.split(move |&byte| byte == separator)) {
            let part = part.trim_ascii();
            if let Some(timestamp) = parse::named_value(part, time) {
                if list.timestamp.is_some() {
                    lists.push(std::mem::take(&mut list));
                }
                list.timestamp = Some(timestamp);
            } else if let Some(signature) = parse::named_value(part, version) {
                total += 1;
                if total > MAX_SIGNATURES {
                    break;
                }
                match parse::decode_signature(Encoding::Hex, signature) {
                    Ok(signature) => list.signatures.push(signature),
                    Err(reason) => first_error = first_error.or(Some(reason)),
                }
            }
        }
        lists.push(list);
        if lists.iter().all(|list| list.timestamp.is_none()) {
            return Err(format!("no {time} in {}", self.header));
        }
        lists.retain(|list| !list.signatures.is_empty());
        match first_error {
            _ if !lists.is_empty() => Ok(lists),
            Some(reason) => Err(reason.to_owned()),
            None => Err(format!("no {version} in {}", self.header)),
        }
    }
}

impl VerificationScheme for TimestampedSignatures {
    fn check(&self, request: &SignedRequest<'_>, now_ms: i64) -> Result<Proof, String> {
        let payload_separator = self.format.payload_separator.as_bytes();
        // Each timestamp makes another text, which each key has to hash.
        let max_texts = parse::max_pairs(request.body.len()).div_ceil(self.keys.len().max(1));
        let mut result = Err(MISMATCH.to_owned());
        for SignatureList { timestamp, signatures } in
            self.parse_header(request)?.iter().take(max_texts)
        {
            let timestamp = timestamp.unwrap_or_default();
            if self.keys.verify_any(&[timestamp, payload_separator, request.body], signatures) {
                result =
                    self.tolerance.check_timestamp_text(timestamp, TimestampUnit::Seconds, now_ms);
                if result == Ok(None) {
                    break;
                }
            }
        }
        Proof::from_body(DeliveryKeyLocation::Field(self.format.id), request.body, result?)
    }

    fn check_cost(&self, request: &SignedRequest<'_>) -> usize {
        let texts = request.header_values(&self.header).map(|value| {
            let parts = value.split(|&byte| byte == b',' || byte == self.format.separator);
            parts
                .filter(|part| parse::named_value(part.trim_ascii(), self.format.time).is_some())
                .count()
        });
        self.keys.check_cost(texts.sum::<usize>().min(MAX_SIGNATURES), request.body.len())
    }

    fn sign(&self, outgoing: &mut OutgoingRequest, now_ms: i64) -> Result<(), String> {
        let HeaderFormat { separator, time, version, payload_separator, id: _ } = self.format;
        let timestamp = parse::format_timestamp(TimestampUnit::Seconds, now_ms);
        let parts = [timestamp.as_bytes(), payload_separator.as_bytes(), &outgoing.body];
        let signature = hex::encode(self.keys.sign(&parts, outgoing.is_corrupt)?);
        let separator = char::from(separator);
        outgoing.set_header(
            &self.header,
            format!("{time}={timestamp}{separator}{version}={signature}"),
        );
        Ok(())
    }
}
