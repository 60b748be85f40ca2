//! `microsoft-graph` (learn.microsoft.com/graph, "Receive change notifications through webhooks"):
//! nothing is signed; each notification in the body has the `clientState` that was given at the
//! subscription.

use std::borrow::Cow;

use serde::Deserialize;

use super::json_body::{self, RawJsonObject};
use super::secrets::SharedSecrets;
use super::{OutgoingRequest, Proof, Scheme, SignedRequest};

pub(super) struct Graph(SharedSecrets);

#[derive(Deserialize)]
struct Body<'a> {
    #[serde(borrow)]
    value: Vec<Notification<'a>>,
}

#[derive(Deserialize)]
struct Notification<'a> {
    #[serde(rename = "clientState", borrow)]
    client_state: Option<Cow<'a, str>>,
}

impl Graph {
    pub fn new(secrets: &[&[u8]]) -> Self {
        Self(SharedSecrets::new(secrets.iter().copied()))
    }
}

impl Scheme for Graph {
    fn check(&self, asked: &SignedRequest<'_>, _: i64) -> Result<Proof, String> {
        let body: Body<'_> = json_body::read(asked.body, "notifications in value")?;
        if body.value.is_empty() {
            return Err("body has not notifications in value".to_owned());
        }
        // The first that is wrong ends it: whoever does not know the secret gets no further.
        for one in &body.value {
            let state = one.client_state.as_deref().ok_or("no clientState in a notification")?;
            if !self.0.contains(state.as_bytes()) {
                return Err("clientState does not match".to_owned());
            }
        }
        Ok(Proof::default())
    }

    fn sign(&self, draft: &mut OutgoingRequest, _: i64) -> Result<(), String> {
        let state = self.0.first_for(draft)?;
        let state = String::from_utf8(state).map_err(|_| "the secret is not UTF-8")?;
        let mut fields = RawJsonObject::read(&draft.body)?;
        let value = fields.get("value").map_or("[]", |value| value.get());
        let mut value: Vec<RawJsonObject> = json_body::read(value.as_bytes(), "a list in value")?;
        for one in &mut value {
            one.set("clientState", &state)?;
        }
        fields.set("value", &value)?;
        draft.body = fields.to_bytes()?;
        Ok(())
    }
}
