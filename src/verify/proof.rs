//! The result of a successful verification.

use super::DeliveryKeyLocation;
use crate::domain::job_plan::KeyHash;

/// Proof that the signature or token of a request is valid.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proof {
    /// The sender's own key of the delivery. It is read by the parser that verified the signature,
    /// because an attacker could make a second parser see another key. If the sender puts the key
    /// into a header that it does not sign, the key is that of the header.
    pub delivery_key: Option<KeyHash>,
    /// Why the timestamp is outside the tolerance. The request is rejected unless it repeats a
    /// stored event.
    pub stale_reason: Option<String>,
}

impl Proof {
    /// Makes a proof with the key in a signed body.
    ///
    /// # Errors
    /// This sender never sends such a body.
    pub(super) fn from_body(
        key_location: DeliveryKeyLocation,
        body: &[u8],
        stale_reason: Option<String>,
    ) -> Result<Self, String> {
        Ok(Self { delivery_key: key_location.read_key(body)?, stale_reason })
    }
}
