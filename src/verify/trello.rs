//! `trello` (developer.atlassian.com/cloud/trello, "Webhook signatures"): base64 HMAC-SHA1 over the
//! body and the URL.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::delivery_key::{DeliveryKeyLocation, body_key, id_key, key_text};
use super::handshake::{HandshakeSpec, accept};
use super::hmac::HmacPreset;
use super::hmac_spec::Algorithm;
use super::preset::Preset;
use super::proof::Reason;
use crate::domain::job_plan::KeyHash;
use crate::json;

pub(super) const PRESET: Preset = Preset::hmac(
    "trello",
    "x-trello-webhook",
    HmacPreset { algorithm: Algorithm::Sha1, ..HmacPreset::base64("{body}{url}") }
        .with_key(DeliveryKeyLocation::Custom(read_key)),
)
.with_handshakes(&[HandshakeSpec::unsigned(&["HEAD"], |_, request| accept(request.method))])
.with_sample(r#"{"action":{"id":"{id}","type":"updateCard"},"webhook":{"id":"test"}}"#);

/// The key is `action.id` with `webhook.id`, because two webhooks may call one source.
fn read_key(body: &[u8]) -> Result<Option<KeyHash>, Reason> {
    let action = read_action(json::without_mark(body));
    Ok(Some(action.map_or_else(|| body_key(body), |id| id_key(&id))))
}

/// Returns the same text as `[.action.id, .webhook.id]` in jq.
fn read_action(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct TrelloBody<'a> {
        #[serde(borrow)]
        action: TrelloObject<'a>,
        #[serde(borrow)]
        webhook: Option<TrelloObject<'a>>,
    }
    #[derive(Deserialize)]
    struct TrelloObject<'a> {
        #[serde(borrow)]
        id: Option<&'a RawValue>,
    }
    let body: TrelloBody<'_> = serde_json::from_slice(body).ok()?;
    let action = key_text(body.action.id?)?;
    let webhook = body.webhook.and_then(|webhook| webhook.id).and_then(key_text);
    serde_json::to_string(&(action, webhook)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::job_plan::hash_key;

    #[test]
    fn one_action_of_two_webhooks_has_two_keys() {
        let key = |body: &str| read_key(body.as_bytes()).unwrap();
        let first = key(r#"{"action":{"id":"a"},"webhook":{"id":"w"}}"#);
        assert_eq!(first, Some(hash_key(b'j', &[br#"["a","w"]"#])));
        assert_eq!(key(r#"{"webhook":{"id":"w","x":1},"action":{"id":"a"}}"#), first);
        assert_ne!(key(r#"{"action":{"id":"a"},"webhook":{"id":"v"}}"#), first);
        let without_id = r#"{"action":{},"webhook":{"id":"w"}}"#;
        assert_eq!(key(without_id), Some(hash_key(b'b', &[without_id.as_bytes()])));
    }
}
