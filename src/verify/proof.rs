//! The result of a verification: the proof, or the reason for the rejection.

use std::borrow::Cow;

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

/// The exact reason for a rejection, or why a request can't be signed. It is for people: no program
/// branches on it.
pub type Reason = Cow<'static, str>;
