//! `trello` (developer.atlassian.com/cloud/trello, "Webhook signatures"): base64 HMAC-SHA1 over the
//! body and the URL.

use super::{
    Algorithm, DeliveryKeyLocation, HandshakeSpec, HmacPreset, Preset, RawObject, Reason, accept,
    body_key, id_key, json_body, key_text,
};
use crate::domain::job_plan::KeyHash;

pub(super) const PRESET: Preset = Preset::hmac(
    "trello",
    "x-trello-webhook",
    HmacPreset {
        key: Some(DeliveryKeyLocation::Custom(read_key)),
        algorithm: Algorithm::Sha1,
        ..HmacPreset::base64("{body}{url}")
    },
)
.with_handshakes(&[HandshakeSpec::unsigned(&["HEAD"], |_, request| accept(request.method))])
.with_sample(r#"{"action":{"id":"{id}","type":"updateCard"},"webhook":{"id":"test"}}"#);

/// The key is `action.id` with `webhook.id`, because two webhooks may call one source.
fn read_key(body: &[u8]) -> Result<Option<KeyHash>, Reason> {
    let action = read_action(body);
    Ok(Some(action.map_or_else(|| body_key(body), |id| id_key(&id))))
}

/// Returns the same text as `[.action.id, .webhook.id]` in jq.
fn read_action(body: &[u8]) -> Option<String> {
    let body: RawObject<'_> = json_body::parse(body).ok()?;
    let id = |name| {
        let object: RawObject<'_> = serde_json::from_str(body.get(name)?.get()).ok()?;
        object.get("id").and_then(key_text)
    };
    serde_json::to_string(&(id("action")?, id("webhook"))).ok()
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
