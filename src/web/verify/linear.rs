//! `linear` (linear.app/developers/webhooks): an HMAC of the body like others', and a time stamp in
//! the body, `.webhookTimestamp` in milliseconds, a minute either way.

use serde::Deserialize;

use super::body::{self, Fields};
use super::recipe::Recipe;
use super::{Asked, Draft, Scheme, read};
use crate::config::Verify;

pub(super) struct Linear {
    recipe: Recipe,
    tolerance_ms: i64,
}

#[derive(Deserialize)]
struct Body {
    #[serde(rename = "webhookTimestamp")]
    timestamp: i64,
}

impl Linear {
    pub fn new(recipe: Recipe, verify: &Verify) -> Self {
        Self { recipe, tolerance_ms: read::millis(verify.tolerance).unwrap_or(60_000) }
    }
}

impl Scheme for Linear {
    fn check(&self, asked: &Asked<'_>, now_ms: i64) -> Result<(), String> {
        self.recipe.check(asked, now_ms)?;
        let body: Body = body::read(asked.body, "a webhookTimestamp")?;
        read::check_moment(body.timestamp, self.tolerance_ms, now_ms)
    }

    fn sign(&self, draft: &mut Draft, now_ms: i64) -> Result<(), String> {
        let mut fields = Fields::read(&draft.body)?;
        fields.set("webhookTimestamp", &now_ms)?;
        draft.body = fields.written()?;
        self.recipe.sign(draft, now_ms)
    }
}
