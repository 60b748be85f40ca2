//! The result of a verification: the proof, or the reason for the rejection.

use std::borrow::Cow;
use std::fmt;

use super::delivery_key::DeliveryKeyLocation;
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
    pub stale_reason: Option<Reason>,
}

impl Proof {
    /// Makes a proof with the key in a signed body.
    ///
    /// # Errors
    /// This sender never sends such a body.
    pub(super) fn from_body(
        key_location: DeliveryKeyLocation,
        body: &[u8],
        stale_reason: Option<Reason>,
    ) -> Result<Self, Reason> {
        Ok(Self { delivery_key: key_location.read_key(body)?, stale_reason })
    }
}

/// The exact reason for a rejection, or why a request can't be signed. It is for people: no program
/// branches on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason(Cow<'static, str>);

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<&'static str> for Reason {
    fn from(text: &'static str) -> Self {
        Self(Cow::Borrowed(text))
    }
}

impl From<String> for Reason {
    fn from(text: String) -> Self {
        Self(Cow::Owned(text))
    }
}
