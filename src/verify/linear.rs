//! `linear` (linear.app/developers/webhooks): an HMAC of the body, with the timestamp in the body
//! as `.webhookTimestamp` in milliseconds. A retry repeats the timestamp and all other bytes. The
//! delivery key is the bytes, because Linear does not sign `Linear-Delivery`.

use serde::Deserialize;

use super::hmac::HmacScheme;
use super::json_body::{self, RawJsonObject};
use super::parse::TimestampTolerance;
use super::{DeliveryKeyLocation, OutgoingRequest, Proof, SignedRequest, VerificationScheme};
use crate::config::Verify;

pub(super) struct Linear {
    hmac: HmacScheme,
    tolerance: TimestampTolerance,
}

#[derive(Deserialize)]
struct LinearBody {
    #[serde(rename = "webhookTimestamp")]
    timestamp: i64,
}

impl Linear {
    pub fn new(hmac: HmacScheme, verify: &Verify) -> Self {
        Self { hmac, tolerance: TimestampTolerance::from_verify(verify) }
    }
}

impl VerificationScheme for Linear {
    fn check(&self, request: &SignedRequest<'_>, now_ms: i64) -> Result<Proof, String> {
        self.hmac.check(request, now_ms)?;
        let body: LinearBody = json_body::read(request.body, "a webhookTimestamp")?;
        let stale_reason = self.tolerance.check_timestamp(body.timestamp, now_ms);
        Proof::from_body(DeliveryKeyLocation::Body, request.body, stale_reason)
    }

    fn check_cost(&self, request: &SignedRequest<'_>) -> usize {
        self.hmac.check_cost(request)
    }

    fn sign(&self, outgoing: &mut OutgoingRequest, now_ms: i64) -> Result<(), String> {
        let mut fields = RawJsonObject::read(&outgoing.body)?;
        fields.set("webhookTimestamp", &now_ms)?;
        outgoing.body = fields.to_bytes()?;
        self.hmac.sign(outgoing, now_ms)
    }
}
