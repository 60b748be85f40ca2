//! `accept_rate`: so many requests a period, by a leaky bucket (GCRA, the `governor` crate).

use std::num::NonZeroU32;

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};

use super::refuse::Refusal;
use crate::config::Rate;

/// One source's limit.
pub struct Limit {
    limiter: DefaultDirectRateLimiter,
    clock: DefaultClock,
}

impl Limit {
    pub fn new(rate: Rate) -> Self {
        let count = NonZeroU32::new(rate.count).unwrap_or(NonZeroU32::MIN);
        let each = rate.period / count.get();
        let quota = Quota::with_period(each).unwrap_or(Quota::per_second(count));
        Self {
            limiter: RateLimiter::direct(quota.allow_burst(count)),
            clock: DefaultClock::default(),
        }
    }

    /// Counts one request.
    ///
    /// # Errors
    /// It is beyond the rate: after so many seconds the next would not be.
    pub fn check(&self) -> Result<(), u64> {
        self.limiter.check().map_err(|until| {
            let wait = until.wait_time_from(self.clock.now());
            // It may be over by now, and 0 would ask for a retry without a pause.
            (wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(1)
        })
    }
}

/// Counts one request of a source, if it has a limit: events, repeats and handshakes.
pub(super) fn check(limit: Option<&Limit>) -> Result<(), Refusal> {
    let Some(limit) = limit else { return Ok(()) };
    limit.check().map_err(|retry_after| Refusal::Rate { retry_after })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn beyond_its_rate_a_request_is_told_when_to_come_again() {
        let limit = Limit::new(Rate { count: 2, period: Duration::from_secs(3600) });
        assert_eq!((limit.check(), limit.check()), (Ok(()), Ok(())));
        let wait = limit.check().unwrap_err();
        assert!((1790..=1800).contains(&wait), "{wait}");
    }
}
