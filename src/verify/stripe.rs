//! `stripe` (docs.stripe.com/webhooks, "Verify webhook signatures manually") and `paddle`
//! (developer.paddle.com, "Verify webhook signatures"): one header with a timestamp and any number
//! of signatures, HMAC-SHA256 in hex. One valid signature is enough. Other versions are ignored.

use super::{
    Constructor, DeliveryKeyLocation, Encoding, FIVE_MINUTES, HmacKeys, MAX_SIGNATURES, MISMATCH,
    OutgoingRequest, Preset, PresetLocation, Proof, Reason, SchemeSettings, SignedRequest,
    TimestampUnit, Tolerance, VerificationScheme, parse,
};
use crate::domain::job_plan::KeyHash;
use ring::hmac;

pub(super) const STRIPE: Preset = preset("stripe", "stripe-signature", |header, settings| {
    let format = HeaderFormat {
        separator: b',',
        time: "t",
        version: "v1",
        payload_separator: ".",
        id: "id",
    };
    Box::new(TimestampedSignatures::new(format, header, settings))
})
.with_sample(
    r#"{"id":"evt_{id}","object":"event","type":"customer.created","data":{"object":{}}}"#,
);

pub(super) const PADDLE: Preset = preset("paddle", "paddle-signature", |header, settings| {
    let format = HeaderFormat {
        separator: b';',
        time: "ts",
        version: "h1",
        payload_separator: ":",
        id: "event_id",
    };
    Box::new(TimestampedSignatures::new(format, header, settings))
})
.with_sample(r#"{"event_id":"evt_{id}","event_type":"customer.created","data":{}}"#);

const fn preset(name: &'static str, header: &'static str, build: Constructor) -> Preset {
    Preset::own(name, PresetLocation::Header(header), build)
        .with_tolerance(FIVE_MINUTES)
        .with_signed_key()
}

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

struct TimestampedSignatures {
    keys: HmacKeys,
    header: String,
    format: HeaderFormat,
    tolerance: Tolerance,
}

impl TimestampedSignatures {
    fn new(format: HeaderFormat, header: &str, settings: &SchemeSettings<'_>) -> Self {
        Self {
            keys: settings.hmac_keys(hmac::HMAC_SHA256),
            header: header.to_owned(),
            format,
            tolerance: settings.required_tolerance(),
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
    ) -> Result<Vec<SignatureList<'a>>, Reason> {
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
            return Err(format!("no {time} in {}", self.header).into());
        }
        lists.retain(|list| !list.signatures.is_empty());
        match first_error {
            _ if !lists.is_empty() => Ok(lists),
            Some(reason) => Err(reason.into()),
            None => Err(format!("no {version} in {}", self.header).into()),
        }
    }
}

impl VerificationScheme for TimestampedSignatures {
    fn check(&self, request: &SignedRequest<'_>, now_ms: i64) -> Result<Proof, Reason> {
        let payload_separator = self.format.payload_separator.as_bytes();
        // Each timestamp makes another text, which each key has to hash.
        let max_texts = parse::max_pairs(request.body.len()).div_ceil(self.keys.len().max(1));
        let mut result = Err(MISMATCH.into());
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
        Ok(Proof {
            delivery_key: DeliveryKeyLocation::Field(self.format.id).read_key(request.body)?,
            stale_reason: result?,
        })
    }

    fn key_in_body(&self, request: &SignedRequest<'_>) -> Option<KeyHash> {
        DeliveryKeyLocation::Field(self.format.id).read_key(request.body).ok()?
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

    fn sign(&self, outgoing: &mut OutgoingRequest, now_ms: i64) -> Result<(), Reason> {
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
