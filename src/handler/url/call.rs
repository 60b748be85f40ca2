//! One call of a URL: its deadline, its `CancelToken` and how far it is.

use std::borrow::Cow;
use std::cell::RefCell;
use std::future::Future;
use std::time::{Duration, Instant};

use super::call_error::CallError;
use super::dns::LookupLimit;
use crate::process::CancelToken;

/// The phase in which a call spends most of its time.
pub(super) const AWAITING_RESPONSE: &str = "waiting for the response";

/// A call, from its first DNS lookup to the end of its response.
#[derive(Debug)]
pub(super) struct Call<'a> {
    stop: &'a CancelToken,
    pub lookups: &'a LookupLimit,
    deadline: Instant,
    phase: RefCell<Cow<'static, str>>,
}

impl<'a> Call<'a> {
    pub fn new(stop: &'a CancelToken, lookups: &'a LookupLimit, timeout: Duration) -> Self {
        let now = Instant::now();
        // A timeout beyond the range of the clock means no timeout.
        let deadline = now.checked_add(timeout).unwrap_or(now + Duration::from_secs(1 << 32));
        Self { stop, lookups, deadline, phase: RefCell::new(AWAITING_RESPONSE.into()) }
    }

    /// Sets the phase of the call, which is shown after a timeout.
    pub fn set_phase(&self, phase: impl Into<Cow<'static, str>>) {
        self.phase.replace(phase.into());
    }

    pub fn phase(&self) -> String {
        self.phase.borrow().to_string()
    }

    pub fn remaining_time(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// Runs a part of the call until the deadline passes or the call is cancelled.
    pub async fn bound<T>(
        &self,
        part: impl Future<Output = Result<T, CallError>>,
    ) -> Result<T, CallError> {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(CallError::Stopped),
            result = tokio::time::timeout_at(self.deadline.into(), part) => {
                result.unwrap_or(Err(CallError::TimedOut))
            }
        }
    }
}
