//! `microsoft-graph` (learn.microsoft.com/graph, "Receive change notifications through webhooks"):
//! nothing is signed. Each notification in the body repeats the `clientState` of the subscription.

use std::borrow::Cow;

use serde::Deserialize;

use super::handshake::{HandshakeSpec, echo_parameter};
use super::json_body::{self, RawJsonObject};
use super::preset::{Method, Preset, PresetLocation};
use super::proof::{Proof, Reason};
use super::secrets::SharedSecrets;
use super::{OutgoingRequest, SignedRequest, VerificationScheme};

pub(super) const PRESET: Preset = Preset::new(
    "microsoft-graph",
    PresetLocation::Fixed,
    Method::Own(|_, settings| Box::new(Graph(settings.shared_secrets()))),
)
.without_signed_body()
.with_handshakes(&[HandshakeSpec::unsigned(&["POST"], |_, request| {
    echo_parameter(request, "validationToken")
})])
.with_sample(r#"{"value":[{"subscriptionId":"test","changeType":"updated","resource":"{id}"}]}"#);

struct Graph(SharedSecrets);

#[derive(Deserialize)]
struct GraphBody<'a> {
    #[serde(borrow)]
    value: Vec<Notification<'a>>,
}

#[derive(Deserialize)]
struct Notification<'a> {
    #[serde(rename = "clientState", borrow)]
    client_state: Option<Cow<'a, str>>,
}

impl VerificationScheme for Graph {
    fn check(&self, request: &SignedRequest<'_>, _: i64) -> Result<Proof, Reason> {
        let body: GraphBody<'_> = json_body::read(request.body, "notifications in value")?;
        if body.value.is_empty() {
            return Err("body lacks notifications in value".into());
        }
        // The first mismatch ends the check, so that a sender without the secret costs little.
        for notification in &body.value {
            let state =
                notification.client_state.as_deref().ok_or("no clientState in a notification")?;
            if !self.0.contains(state.as_bytes()) {
                return Err("clientState does not match".into());
            }
        }
        Ok(Proof::default())
    }

    fn sign(&self, outgoing: &mut OutgoingRequest, _: i64) -> Result<(), Reason> {
        let state = self.0.signing_secret(outgoing)?;
        let state = String::from_utf8(state).map_err(|_| "the secret is not UTF-8")?;
        let mut fields = RawJsonObject::read(&outgoing.body)?;
        let value = fields.get("value").map_or("[]", |value| value.get());
        let mut value: Vec<RawJsonObject> = json_body::read(value.as_bytes(), "a list in value")?;
        for notification in &mut value {
            notification.set("clientState", &state)?;
        }
        fields.set("value", &value)?;
        outgoing.body = fields.to_bytes()?;
        Ok(())
    }
}
