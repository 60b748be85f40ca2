//! `linear` (linear.app/developers/webhooks): an HMAC of the body, with the timestamp in the body
//! as `.webhookTimestamp` in milliseconds. A retry repeats the timestamp and all other bytes. The
//! delivery key is the bytes, because Linear does not sign `Linear-Delivery`.

use serde::Deserialize;

use super::{
    DeliveryKeyLocation, HOUR, HmacPreset, HmacScheme, MINUTE, OutgoingRequest, Preset,
    PresetLocation, Proof, Reason, SignedRequest, Tolerance, VerificationScheme, json_body,
};
use crate::domain::job_plan::KeyHash;

/// Linear retries after a minute, an hour and six hours (linear.app/developers/webhooks). The
/// tolerance of one minute that the page advises would reject all of these.
pub(super) const PRESET: Preset =
    Preset::own("linear", PresetLocation::Header("linear-signature"), |header, settings| {
        let hmac = HmacScheme::of_preset(HmacPreset::hex(""), header, settings);
        Box::new(Linear { hmac, tolerance: settings.required_tolerance() })
    })
    .with_repeated_stamp(8 * HOUR, MINUTE)
    .with_signed_key()
    .with_sample(r#"{"action":"create","type":"Issue","data":{"id":"{id}","title":"test"}}"#);

struct Linear {
    hmac: HmacScheme,
    tolerance: Tolerance,
}

#[derive(Deserialize)]
struct LinearBody {
    #[serde(rename = "webhookTimestamp")]
    timestamp: i64,
}

impl VerificationScheme for Linear {
    fn check(&self, request: &SignedRequest<'_>, now_ms: i64) -> Result<Proof, Reason> {
        self.hmac.check(request, now_ms)?;
        let body: LinearBody = json_body::read(request.body, "a webhookTimestamp")?;
        let stale_reason = self.tolerance.check_timestamp(body.timestamp, now_ms);
        Ok(Proof { delivery_key: DeliveryKeyLocation::Body.read_key(request.body)?, stale_reason })
    }

    fn key_in_body(&self, request: &SignedRequest<'_>) -> Option<KeyHash> {
        DeliveryKeyLocation::Body.read_key(request.body).ok()?
    }

    fn check_cost(&self, request: &SignedRequest<'_>) -> usize {
        self.hmac.check_cost(request)
    }

    fn sign(&self, outgoing: &mut OutgoingRequest, now_ms: i64) -> Result<(), Reason> {
        outgoing.body = json_body::with_member(&outgoing.body, "webhookTimestamp", &now_ms)?;
        self.hmac.sign(outgoing, now_ms)
    }
}
