//! `hmac`: a recipe of the configuration's own, for senders without a preset.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;

use super::{Asked, Scheme, signed_by};
use crate::config::{Algorithm, Encoding, Hmac, ProxyHeader, SignedPart, TimestampUnit, Verify};
use crate::web::address::forwarded_pair;

pub(super) struct Recipe {
    keys: Vec<hmac::Key>,
    header: String,
    recipe: Option<Hmac>,
    tolerance_ms: Option<i64>,
    url: Option<String>,
}

impl Recipe {
    pub fn new(verify: &Verify, secrets: &[&[u8]]) -> Self {
        let algorithm = match verify.hmac.as_ref().map(|recipe| recipe.algorithm) {
            Some(Algorithm::Sha1) => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
            Some(Algorithm::Sha512) => hmac::HMAC_SHA512,
            Some(Algorithm::Sha256) | None => hmac::HMAC_SHA256,
        };
        let tolerance =
            verify.tolerance.map(|it| i64::try_from(it.as_millis()).unwrap_or(i64::MAX));
        Self {
            keys: secrets.iter().map(|secret| hmac::Key::new(algorithm, secret)).collect(),
            header: verify.header.clone().unwrap_or_default(),
            recipe: verify.hmac.clone(),
            tolerance_ms: tolerance,
            url: verify.url.clone(),
        }
    }
}

impl Scheme for Recipe {
    fn check(&self, asked: &Asked<'_>, now_ms: i64) -> Result<(), String> {
        let recipe = self.recipe.as_ref().ok_or("the recipe is missing")?;
        let value = asked.header(&self.header)?;
        let text = value
            .strip_prefix(recipe.prefix.as_bytes())
            .ok_or_else(|| format!("{} does not begin with {:?}", self.header, recipe.prefix))?;
        let signature = match recipe.encoding {
            Encoding::Hex => hex::decode(text).map_err(|_| "signature is not hex")?,
            Encoding::Base64 => STANDARD.decode(text).map_err(|_| "signature is not base64")?,
        };
        let timestamp = match &recipe.timestamp_header {
            Some(name) => asked.header(name)?,
            None => b"",
        };
        let id = match &recipe.id_header {
            Some(name) => asked.header(name)?,
            None => b"",
        };
        let url = match recipe.signed.contains(&SignedPart::Url) {
            true => public_url(self.url.as_deref(), asked),
            false => String::new(),
        };
        let mut parts: Vec<&[u8]> = Vec::with_capacity(recipe.signed.len());
        for part in &recipe.signed {
            parts.push(match part {
                SignedPart::Text(text) => text.as_bytes(),
                SignedPart::Body => asked.body,
                SignedPart::Timestamp => timestamp,
                SignedPart::Id => id,
                SignedPart::Url => url.as_bytes(),
                SignedPart::Method => asked.method.as_bytes(),
            });
        }
        if !signed_by(&self.keys, &parts, &signature) {
            return Err("signature does not match".to_owned());
        }
        match self.tolerance_ms {
            Some(tolerance_ms) if recipe.timestamp_header.is_some() => {
                check_age(timestamp, recipe.timestamp_unit, tolerance_ms, now_ms)
            }
            _ => Ok(()),
        }
    }
}

/// Both ways: a sender's clock may be ahead too.
pub(super) fn check_age(
    timestamp: &[u8],
    unit: TimestampUnit,
    tolerance_ms: i64,
    now_ms: i64,
) -> Result<(), String> {
    let number = std::str::from_utf8(timestamp).ok().and_then(|text| text.trim().parse().ok());
    let number: i64 = number.ok_or("timestamp is not a number")?;
    let at_ms = match unit {
        TimestampUnit::Seconds => number.saturating_mul(1000),
        TimestampUnit::Milliseconds => number,
    };
    let age_ms = now_ms.saturating_sub(at_ms);
    let (off, max) = (age_ms.saturating_abs() / 1000, tolerance_ms / 1000);
    match age_ms {
        _ if age_ms.saturating_abs() <= tolerance_ms => Ok(()),
        1.. => Err(format!("timestamp is {off} s old: at most {max} s")),
        _ => Err(format!("timestamp is {off} s ahead: at most {max} s")),
    }
}

/// What the sender was told to call: `verify.url`, to which the request's query is added where it
/// has none; else as the configured header of a trusted proxy, or the request itself, says.
pub(super) fn public_url(configured: Option<&str>, asked: &Asked<'_>) -> String {
    let query = asked.query.map(|query| format!("?{query}")).unwrap_or_default();
    if let Some(url) = configured {
        return if url.contains('?') { url.to_owned() } else { format!("{url}{query}") };
    }
    // A proxy hands a stranger's header of the other kind through: it is never looked at.
    let (scheme, host) = match asked.proxied {
        None => (None, None),
        Some(ProxyHeader::XForwardedFor) => {
            (asked.last_of("x-forwarded-proto"), asked.last_of("x-forwarded-host"))
        }
        Some(ProxyHeader::Forwarded) => {
            let element = asked.last_of("forwarded").unwrap_or("");
            (forwarded_pair(element, "proto"), forwarded_pair(element, "host"))
        }
    };
    let own_host = || asked.header("host").ok().and_then(|host| std::str::from_utf8(host).ok());
    let host = host.or_else(own_host).unwrap_or("").trim();
    format!("{}://{host}{}{query}", scheme.unwrap_or("http"), asked.path)
}
