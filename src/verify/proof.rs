//! What a check gives where the signature holds.

use super::KeyPlace;
use crate::domain::job_plan::KeyHash;

/// A request whose signature or token holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proof {
    /// The sender's own key of the delivery, read by the reader that verified the signature: a second
    /// parser could be made to see another one. Where the sender names it in a header that it does not
    /// sign, it is that header's.
    pub delivery_key: Option<KeyHash>,
    /// Why its time stamp is outside the tolerance. Such a request may repeat a stored event, and is
    /// rejected otherwise.
    pub stale: Option<String>,
}

impl Proof {
    /// A proof with the key that stands in a signed body.
    ///
    /// # Errors
    /// The key can't be read, and this sender never sends such a request.
    pub(super) fn of_body(
        key_place: KeyPlace,
        body: &[u8],
        stale: Option<String>,
    ) -> Result<Self, String> {
        Ok(Self { delivery_key: key_place.read(body)?, stale })
    }
}
