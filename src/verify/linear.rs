//! `linear` (linear.app/developers/webhooks): an HMAC of the body, with the timestamp in the body
//! as `.webhookTimestamp` in milliseconds. A retry repeats the timestamp and all other bytes. The
//! delivery key is the bytes, because Linear does not sign `Linear-Delivery`.

use serde::Deserialize;

use super::delivery_key::DeliveryKeyLocation;
use super::hmac::{HmacPreset, HmacScheme};
use super::json_body::{self, RawJsonObject};
use super::parse::Tolerance;
use super::preset::{HOUR, MINUTE, Method, Preset, PresetLocation};
use super::proof::{Proof, Reason};
use super::{OutgoingRequest, SignedRequest, VerificationScheme};

/// Linear retries after a minute, an hour and six hours (linear.app/developers/webhooks). The
/// tolerance of one minute that the page advises would reject all of these.
pub(super) const PRESET: Preset = Preset::new(
    "linear",
    PresetLocation::Header("linear-signature"),
    Method::Own(|header, settings| {
        let hmac = HmacScheme::of_preset(HmacPreset::hex(""), header, settings);
        Box::new(Linear { hmac, tolerance: settings.required_tolerance() })
    }),
)
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
        Proof::from_body(DeliveryKeyLocation::Body, request.body, stale_reason)
    }

    fn check_cost(&self, request: &SignedRequest<'_>) -> usize {
        self.hmac.check_cost(request)
    }

    fn sign(&self, outgoing: &mut OutgoingRequest, now_ms: i64) -> Result<(), Reason> {
        let mut fields = RawJsonObject::read(&outgoing.body)?;
        fields.set("webhookTimestamp", &now_ms)?;
        outgoing.body = fields.to_bytes()?;
        self.hmac.sign(outgoing, now_ms)
    }
}
