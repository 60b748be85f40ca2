//! `linear` (linear.app/developers/webhooks): an HMAC of the body like others', and a time stamp in
//! the body, `.webhookTimestamp` in milliseconds. Retries repeat it, and with it the bytes: those are
//! the delivery's key, as `Linear-Delivery` is not signed.

use serde::Deserialize;

use super::hmac::HmacScheme;
use super::json_body::{self, RawJsonObject};
use super::parse::Tolerance;
use super::{KeyPlace, OutgoingRequest, Proof, Scheme, SignedRequest};
use crate::config::Verify;

pub(super) struct Linear {
    recipe: HmacScheme,
    tolerance: Tolerance,
}

#[derive(Deserialize)]
struct Body {
    #[serde(rename = "webhookTimestamp")]
    timestamp: i64,
}

impl Linear {
    pub fn new(recipe: HmacScheme, verify: &Verify) -> Self {
        Self { recipe, tolerance: Tolerance::of(verify) }
    }
}

impl Scheme for Linear {
    fn check(&self, asked: &SignedRequest<'_>, now_ms: i64) -> Result<Proof, String> {
        self.recipe.check(asked, now_ms)?;
        let body: Body = json_body::read(asked.body, "a webhookTimestamp")?;
        let stale = self.tolerance.stale_moment(body.timestamp, now_ms);
        Proof::of_body(KeyPlace::Body, asked.body, stale)
    }

    fn work(&self, asked: &SignedRequest<'_>) -> usize {
        self.recipe.work(asked)
    }

    fn sign(&self, draft: &mut OutgoingRequest, now_ms: i64) -> Result<(), String> {
        let mut fields = RawJsonObject::read(&draft.body)?;
        fields.set("webhookTimestamp", &now_ms)?;
        draft.body = fields.to_bytes()?;
        self.recipe.sign(draft, now_ms)
    }
}
