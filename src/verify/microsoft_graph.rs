//! `microsoft-graph` (learn.microsoft.com/graph, "Receive change notifications through webhooks"):
//! nothing is signed. Each notification in the body repeats the `clientState` of the subscription.

use std::borrow::Cow;

use serde::Deserialize;

use super::{
    HandshakeSpec, OutgoingRequest, Preset, PresetLocation, Proof, RawObject, Reason,
    SharedSecrets, SignedRequest, VerificationScheme, echo_parameter, json_body,
};

pub(super) const PRESET: Preset =
    Preset::own("microsoft-graph", PresetLocation::Fixed, |_, settings| {
        Box::new(Graph(settings.shared_secrets()))
    })
    .without_signed_body()
    .with_handshakes(&[HandshakeSpec::unsigned(&["POST"], |_, request| {
        echo_parameter(request, "validationToken")
    })])
    .with_sample(
        r#"{"value":[{"subscriptionId":"test","changeType":"updated","resource":"{id}"}]}"#,
    );

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
            let found =
                notification.client_state.as_deref().ok_or("no clientState in a notification")?;
            self.0.check(found.as_bytes(), "clientState does not match")?;
        }
        Ok(Proof::default())
    }

    fn sign(&self, outgoing: &mut OutgoingRequest, _: i64) -> Result<(), Reason> {
        let secret = self.0.signing_secret(outgoing)?;
        let secret = String::from_utf8(secret).map_err(|_| "the secret is not UTF-8")?;
        let secret = json_body::raw_value(&secret)?;
        let body: RawObject<'_> = json_body::read(&outgoing.body, json_body::OBJECT)?;
        let value = body.get("value").map_or("[]", |value| value.get());
        let mut value: Vec<RawObject<'_>> = json_body::read(value.as_bytes(), "a list in value")?;
        for notification in &mut value {
            notification.set("clientState", &secret);
        }
        outgoing.body = json_body::with_member(&outgoing.body, "value", &value)?;
        Ok(())
    }
}
